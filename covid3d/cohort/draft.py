"""A first manifest from a tree of DICOM: pseudonyms for ids, the key file apart; labels stay to be filled in."""

import os
import re
import secrets
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom import Dataset, dcmread

from covid3d.cohort.delivery import POOLED_AGE, pseudonym
from covid3d.cohort.manifest import COLUMNS
from covid3d.dicom.headers import Slice, read_slices
from covid3d.dicom.series import CURES, FEWEST_SLICES, group_by_number, why_aside
from covid3d.run.errors import SeriesError
from covid3d.run.files import atomic_path, write_private


def draft_manifest(folder: str | Path, out: str | Path, key_path: str | Path) -> pd.DataFrame:
    """Write a manifest's first draft to `out` and return it: every CT series of at least 16 slices under `folder`.

    Patients and scans get pseudonyms; the key with the originals goes to `key_path`, mode 0600. Days count from the
    patient's first scan; no date is kept. `label`, `role` and the stay are for you to fill in. Sources are relative to
    `out`. Raises SeriesError when there is no CT series.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise SeriesError("there is no such folder", where=folder.name, cure=CURES["no_such_path"], code="no_such_path")
    key = secrets.token_hex(32)
    found = [entry for place in _leaves(folder) for entry in _series_of(place)]
    if not found:
        what = f"there is no CT series of {FEWEST_SLICES} slices or more here"
        raise SeriesError(what, where=folder.name, cure=CURES["no_ct_volume"], code="no_ct_volume")
    table = pd.DataFrame([_facts(*entry) for entry in found])
    table = table.sort_values(["patient", "date", "source"]).reset_index(drop=True)
    table["scan_index"] = table.groupby("patient").cumcount()
    table["day"] = (table["date"] - table.groupby("patient")["date"].transform("min")).dt.days.astype("Int64")
    originals: dict[str, Any] = {"key": key, "scans": {}}
    rows = []
    for row in table.to_dict("records"):
        patient = pseudonym(key, "patient", row["patient"])
        scan = pseudonym(key, "scan", f"{row['patient']}|{row['source']}")
        originals["scans"][scan] = {"patient_id": row["patient"], "path": row["source"], "date": str(row["date"])[:10]}
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {name: row[name] for name in ("scan_index", "day", "age", "sex", "n_slices")}
            | {"scan_id": scan, "patient_id": patient, "hospital": "A", "source": _relative(row["source"], out)}
            | {"role": "external" if row["scan_index"] == 0 else "followup"}
        )
    write_private(Path(key_path), originals)
    draft = pd.DataFrame(rows, columns=list(COLUMNS))
    with atomic_path(out) as temporary:
        draft.to_csv(temporary, index=False, lineterminator="\n")
    return draft


def _leaves(folder: Path) -> list[Path]:
    """Return the folders that hold files themselves, in order."""
    return sorted({path.parent for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")})


def _series_of(place: Path) -> list[tuple[Path, int | None, list[Slice]]]:
    """Return (folder, number or None, slices) of each CT series that lies in a folder itself."""
    try:
        slices = [entry for entry in read_slices(place) if entry.path.parent == place]
    except SeriesError:
        return []
    ct = {number: group for number, group in group_by_number(slices).items() if not why_aside(group)}
    several = len(group_by_number(slices)) > 1
    return [(place, number if several else None, group) for number, group in ct.items()]


def _facts(place: Path, number: int | None, slices: list[Slice]) -> dict[str, Any]:
    """Return what a draft needs of one series."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dcmread(slices[0].path, stop_before_pixels=True, force=True)
        return {
            "patient": str(header.get("PatientID") or place.parent.name),
            "date": pd.to_datetime(str(header.get("StudyDate") or ""), format="%Y%m%d", errors="coerce"),
            "age": _age(header),
            "sex": str(header.get("PatientSex") or "U") if header.get("PatientSex") in ("F", "M") else "U",
            "n_slices": len(slices),
            "source": str(place.resolve()) + ("" if number is None else f"#{number}"),
        }


def _age(header: Dataset) -> str:
    """Return the age in years of a header such as '045Y', pooled at 90, or a blank."""
    match = re.fullmatch(r"(\d{3})Y", str(header.get("PatientAge") or ""))
    years = int(match[1]) if match else 0
    return str(min(years, int(POOLED_AGE))) if 0 < years <= 120 else ""


def _relative(source: str, out: Path) -> str:
    """Return a source relative to the manifest's folder."""
    return Path(os.path.relpath(source, out.parent.resolve())).as_posix()
