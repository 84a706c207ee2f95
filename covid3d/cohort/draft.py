"""A first manifest from a tree of DICOM: pseudonyms for ids, the key file apart; labels stay to be filled in."""

import os
import re
import secrets
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom import Dataset, dcmread

from covid3d.cohort.delivery import POOLED_AGE, pseudonym
from covid3d.cohort.manifest import COLUMNS, LONGEST_DAYS, RULES, Source, locate
from covid3d.dicom.headers import Slice, read_file, read_slices
from covid3d.dicom.images import IMAGE_SUFFIXES
from covid3d.dicom.quiet import quiet
from covid3d.dicom.refusals import CURES, FEWEST_SLICES
from covid3d.dicom.series import check_series, group_by_number, why_aside
from covid3d.dicom.walk import ARCHIVE, IMAGE, LINK, Doubt, candidates, doubts
from covid3d.run.errors import SeriesError, StorageError, printable
from covid3d.run.files import progress, write_csv, write_private

MOST_SCANS = 1000
NO_VOLUME = ("not CT", "a localizer", "secondary capture", "not axial")
UNWRITABLE = (
    "a table cannot hold this name (line break, space at an end, bytes that are no UTF-8). Rename the folder,"
    " or, where it is one above, write the manifest beside the scans"
)
FACTS = ["patient", "date", "age", "sex", "n_slices", "path", "name", "source"]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """A manifest's draft, and why other places are not in it: `left` may hold scans, `aside` (e.g. localizers) does not."""

    table: pd.DataFrame
    left: dict[str, str]
    aside: dict[str, str]
    unnamed: int = 0

    def lines(self) -> list[str]:
        """Return one line a place that is not in the table."""
        kinds = (("left out", self.left), ("set aside", self.aside))
        lines = [
            printable(f"{kind}: {place}: {why}") for kind, places in kinds for place, why in sorted(places.items())
        ]
        unnamed = (
            f"{self.unnamed} scans name no patient: the first folder on their way stands for one; correct patient_id"
        )
        return [*lines, *([unnamed] if self.unnamed else [])]


def draft_manifest(folder: str | Path, out: str | Path, key_path: str | Path) -> Draft:
    """Write a manifest's first draft to `out` and return it: every CT series of at least 16 slices under `folder`.

    A series is one wherever its files lie; one that could not be read back, as far as headers tell, is left out. Patients
    and scans get pseudonyms; the key with the originals goes to `key_path`, mode 0600. Days count from the patient's
    first scan; no date is kept. `label`, `role` and the stay are for you to fill in. Sources are relative to `out`.
    Raises SeriesError when no CT series is left, StorageError where a key lies already: none is ever written over.
    """
    if folder == "" or not Path(folder).is_dir():
        raise SeriesError("there is no such folder", where=str(folder), cure=CURES["no_such_path"], code="no_such_path")
    folder, out, key_path = Path(folder), Path(out), Path(key_path)
    if key_path.exists():
        raise StorageError("there is a key already", where=key_path.name, cure="Move it away, or name another file")
    tree = _Tree(folder.resolve(), out)
    tree.search()
    table = tree.in_time()
    if table.empty:
        what = f"there is no CT series of {FEWEST_SLICES} slices or more here that can be listed"
        more = "; ".join(Draft(table, tree.left, tree.aside).lines()[:3])
        what += f" ({more})" if more else ""
        raise SeriesError(what, where=folder.name, cure=CURES["no_ct_volume"], code="no_ct_volume")
    key = secrets.token_hex(32)
    originals: dict[str, Any] = {"key": key, "manifest": str(out.resolve()), "scans": {}}
    rows = []
    for row in table.to_dict("records"):
        patient = pseudonym(key, "patient", row["patient"])
        scan = pseudonym(key, "scan", f"{row['patient']}|{row['path']}")
        originals["scans"][scan] = {"patient_id": row["patient"], "path": row["path"], "date": str(row["date"])[:10]}
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {name: row[name] for name in ("scan_index", "age", "sex", "n_slices", "source")}
            | {"day": "" if pd.isna(row["day"]) else int(row["day"])}
            | {"scan_id": scan, "patient_id": patient, "hospital": "A"}
            | {"role": "external" if row["scan_index"] == 0 else "followup"}
        )
    draft = pd.DataFrame(rows, columns=list(COLUMNS))
    write_private(key_path, originals)
    try:
        write_csv(out, draft)
    except BaseException:
        key_path.unlink()  # it opens nothing
        raise
    return Draft(draft, tree.left, tree.aside, tree.unnamed)


@dataclass
class _Tree:
    """What lies under a folder: rows of scans, and why other places are none."""

    root: Path
    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    unnamed: int = 0

    def search(self) -> None:
        """Read every header twice: first for the folders of each series, then each such place as it will be read back."""
        series, faults = self._folders()
        places = {key: Path(os.path.commonpath(folders)) for key, folders in series.items()}
        for place in sorted(set(places.values())):
            self._read(place, places)
        for folder, (first, *more) in faults.items():
            self.left[self._name(folder)] = f"{first} ({len(more)} more files with a fault)" if more else first

    def _folders(self) -> tuple[dict[Key, set[Path]], dict[Path, list[str]]]:
        """Return the folders that hold slices of each series, and the faults of each folder's files."""
        series: dict[Key, set[Path]] = defaultdict(set)
        faults: dict[Path, list[str]] = defaultdict(list)
        files, others = candidates(self.root)
        dicom: list[Path] = []
        for file in progress(files, "reading headers"):
            try:
                entries = read_file(file)
            except SeriesError as error:
                faults[file.parent].append(str(error))
                entries = []
            (others if entries is None else dicom).append(file)
            for entry in entries or []:
                if isinstance(entry, Slice):
                    series[_key(entry)].add(file.parent)
        strays: dict[Path, list[Doubt]] = defaultdict(list)
        for doubt in doubts(others, dicom):
            if doubt.meant:
                faults[doubt.path.parent].append(str(doubt.error))
            elif doubt.fault in (ARCHIVE, LINK):
                self.left[self._name(doubt.path)] = f"{doubt.fault.what}. {doubt.error.cure}"
            elif doubt.fault != IMAGE:  # these are named below
                strays[doubt.path.parent].append(doubt)
        for folder, found in strays.items():
            few = len(found) < FEWEST_SLICES
            why = f"{len(found)} files without DICOM, the first {found[0].path.name}: {found[0].fault.what}"
            (self.aside if few else self.left)[self._name(folder)] = why
        for file in others:
            if file.name.lower().endswith(IMAGE_SUFFIXES) and not file.name.startswith("."):
                self.left[self._name(file)] = "no DICOM. List it by hand if it is a scan"
        return series, faults

    def _read(self, place: Path, places: dict[Key, Path]) -> None:
        """Sort the series that have their files in one place."""
        try:
            groups = group_by_number(read_slices(place))
        except SeriesError as error:
            self.left[self._name(place)] = str(error)
            return
        for number, group in groups.items():
            if any(places.get(_key(entry)) == place for entry in group):  # else it is met in a folder below
                self._sort(place, number if len(groups) > 1 else None, group)

    def _sort(self, place: Path, number: int | None, group: list[Slice]) -> None:
        """Take one series for a scan, or note why not."""
        name, why = self._name(place, number), why_aside(group)
        source = _source(place, number, self.out)
        if why in NO_VOLUME:
            self.aside[name] = f"{len(group)} images, {why}"
        elif why:
            self.left[name] = f"{len(group)} slices, {why}"
        elif len({_key(entry) for entry in group}) > 1:
            self.left[name] = (
                "slices of several patients or folders cannot be told apart: they share one series UID, or none"
            )
        elif source is None:
            self.left[name] = UNWRITABLE
        else:
            try:
                check_series(group, place)
                path = str(place) if number is None else f"{place}#{number}"
                self.rows.append(self._facts(place, group) | {"name": name, "path": path, "source": source})
            except SeriesError as error:
                self.left[name] = str(error)

    def _name(self, place: Path, number: int | None = None) -> str:
        """Return how a place is shown: relative to the folder that was given, with the number of a series."""
        name = self.root.name if place == self.root else place.relative_to(self.root).as_posix()
        return name if number is None else f"{name}#{number}"

    def _facts(self, place: Path, slices: list[Slice]) -> dict[str, Any]:
        """Return what a draft needs of one series; where no patient is named, the first folder on its way stands for one."""
        with quiet():
            header = dcmread(slices[0].path, stop_before_pixels=True, force=True)
            patient = str(header.get("PatientID") or "").strip()
            way = (self.root.name, *place.relative_to(self.root).parts)
            self.unnamed += not patient
            return {
                "patient": patient or way[:2][-1],
                "date": pd.to_datetime(str(header.get("StudyDate") or ""), format="%Y%m%d", errors="coerce"),
                "age": _age(header),
                "sex": str(header.get("PatientSex")) if header.get("PatientSex") in ("F", "M") else "U",
                "n_slices": len(slices),
            }

    def in_time(self) -> pd.DataFrame:
        """Return the rows in the order of each patient's scans, with `scan_index` and `day`, as a manifest may hold them."""
        table = pd.DataFrame(self.rows, columns=FACTS).astype({"date": "datetime64[ns]"})
        table = table.sort_values(["patient", "date", "source"])
        first = table.groupby("patient")["date"].transform("min")
        table["day"] = (table["date"] - first).dt.days.astype("Int64")
        sexes = table["sex"].replace("U", None).groupby(table["patient"]).transform("nunique")
        table = self._without(table, sexes > 1, "scans of one PatientID state two sexes: give each patient an ID")
        late = table["day"].fillna(0) > LONGEST_DAYS
        table = self._without(table, late, f"more than {LONGEST_DAYS:g} days after the patient's first scan")
        table["scan_index"] = table.groupby("patient").cumcount()
        return self._without(
            table, table["scan_index"] >= MOST_SCANS, f"one PatientID has more than {MOST_SCANS} scans"
        )

    def _without(self, table: pd.DataFrame, unfit: pd.Series, why: str) -> pd.DataFrame:
        """Return a table without the rows that are unfit, and note why they are left out."""
        self.left |= dict.fromkeys(table.loc[unfit, "name"], why)
        return table[~unfit].copy()


def _key(entry: Slice) -> Key:
    """Return what tells a series from all others: patient and UID; where the UID was blanked, its folder and geometry."""
    patient = str(entry.get("PatientID") or "").strip()
    return (patient, entry.series) if entry.series else (patient, entry.group, str(entry.path.parent))


def _source(place: Path, number: int | None, out: Path) -> str | None:
    """Return the text from which a manifest beside `out` finds a series again, or None where a table cannot hold it."""
    relative = Path(os.path.relpath(place, out.parent.resolve())).as_posix()
    text = relative if number is None else f"{relative}#{number}"
    plain = not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)
    found = plain and text == text.strip() and RULES["source"].accepts(text)
    return text if found and locate(out, text) == Source(out.parent / relative, number) else None


def _age(header: Dataset) -> str:
    """Return the age in years of a header such as '045Y', pooled at 90, or a blank."""
    match = re.fullmatch(r"(\d{3})Y", str(header.get("PatientAge") or ""))
    years = int(match[1]) if match else 0
    return str(min(years, int(POOLED_AGE))) if 0 < years <= 120 else ""
