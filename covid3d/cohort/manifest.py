"""The data contract: one row a scan, read as text, checked row by row, refused with row, column and cure."""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from covid3d.run.errors import ManifestError
from covid3d.run.files import remembered, write_csv
from covid3d.run.tables import (
    Rule,
    check_values,
    identifier,
    matching,
    number,
    one_of,
    read_cells,
    refuse,
    typed,
    whole,
    within,
)

ROLES = ("development", "external", "followup")
CONTROL_ROLES = ("rescan", "control")
OUTCOMES = ("discharged", "died", "transferred", "in_hospital")
LONGEST_DAYS = 3650.0
AGE_LOW = 0.001


class RunPaths(Protocol):
    """What this room needs of a run: the paths of its files."""

    @property
    def manifest(self) -> Path: ...

    def path(self, *parts: str) -> Path: ...


SOURCE = r"phantom:\d+|idc:[0-9][0-9.]{1,63}|(?!phantom:|idc:).+"


def _days(low: float, expects: str) -> Rule:
    return Rule(within(low, LONGEST_DAYS), expects, "Float64")


RULES: dict[str, Rule] = {
    "scan_id": identifier(),
    "patient_id": identifier(),
    "hospital": identifier(),
    "role": one_of(*ROLES, blank=False),
    "label": whole(0, 1, "1 (COVID+) or 0 (COVID- pneumonia)", blank=False),
    "scan_index": whole(0, 999, "0 for the patient's first scan, then 1, 2, …", blank=False),
    "day": _days(0, "days since the patient's first scan, 0 or more"),
    "days_since_onset": _days(-30, "days since the first symptom"),
    "days_to_discharge": _days(0, "days from this scan to discharge, 0 or more, empty when unknown"),
    "outcome": one_of(*OUTCOMES),
    "censored": whole(0, 1, "1 when discharge was not observed, else 0"),
    "ventilated": whole(0, 1, "1 or 0"),
    "age": Rule(within(AGE_LOW, 120), "years above 0, up to 120; empty when unknown", "Float64"),
    "sex": one_of("F", "M", "U"),
    "rt_pcr_tests": whole(0, 999, "a number of tests"),
    "n_slices": whole(1, 100_000, "a number of slices"),
    "source": matching(SOURCE, "a path, path#<series number>, phantom:<seed> or idc:<SeriesInstanceUID>", blank=False),
    "licence": matching(r"(?s).*", "text"),
    "sha256": matching(r"[0-9a-fA-F]{64}", "64 hexadecimal digits, empty when unknown"),
}
COLUMNS = tuple(RULES)
OPTIONAL: dict[str, Rule] = {
    "days_since_admission": _days(-LONGEST_DAYS, "days from admission to this scan, below 0 before it"),
}
"""Columns that a hospital's manifest may have, for the clinical checks; a run's own manifest has none of them."""


def read_manifest(path: str | Path, *, delivered: bool = False, clinical: bool = False) -> pd.DataFrame:
    """Read and check a manifest.

    Returns one row a scan with the columns of `COLUMNS`: ids and other text as str ("" when blank), counts, labels and
    indices Int64, days and age Float64 (<NA> when blank). Spaces around a value and a UTF-8 byte-order
    mark are removed.
    With `delivered`, every source must be a path that exists, relative to the manifest's folder. With `clinical`, the
    columns of `OPTIONAL` are returned too.
    Raises ManifestError naming file, row (line of the file), column, value and cure.
    """
    path = Path(path)
    cells = _validated(path) if path.is_file() else _checked_cells(path, RULES, OPTIONAL)
    if delivered:
        _check_sources(cells, path)
    return typed(cells, RULES | OPTIONAL) if clinical else typed(cells[list(RULES)], RULES)


def lines_of(path: Path) -> list[int]:
    """Return on which line of the file each row of `read_manifest` starts."""
    return _validated(path).index.tolist()


@remembered
def _validated(path: Path) -> pd.DataFrame:
    """Return the cells of a manifest, every one checked."""
    cells = _checked_cells(path, RULES, OPTIONAL)
    _check_sequence(cells, path.name)
    return cells


def read_controls(run: RunPaths) -> pd.DataFrame:
    """Return controls.csv of a run (roles rescan and control, same columns as a manifest), empty when it has none.

    Raises ManifestError like `read_manifest`, and for a scan_id that the manifest also has.
    """
    path = run.path("controls.csv")
    if not path.is_file():
        return typed(pd.DataFrame(columns=list(COLUMNS), dtype=str), RULES)
    rules = RULES | {"role": one_of(*CONTROL_ROLES, blank=False)}
    cells = _checked_cells(path, rules)
    taken = set(read_manifest(run.manifest)["scan_id"]) if run.manifest.is_file() else set()
    for row, scan_id in zip(cells.index, cells["scan_id"], strict=True):
        if scan_id in taken:
            what = f"'{scan_id}' is also in {run.manifest.name}"
            refuse(path.name, row, "scan_id", what, "Give the control its own scan_id")
    return typed(cells, rules)


def write_manifest(path: str | Path, table: pd.DataFrame) -> None:
    """Write a manifest atomically: columns in the contract's order, whole numbers without a point, blanks empty."""
    unknown, missing = set(table.columns) - set(COLUMNS), set(COLUMNS) - set(table.columns)
    if unknown or missing:
        raise ManifestError(
            f"columns do not match the contract (unknown: {sorted(unknown)}, missing: {sorted(missing)})",
            where=Path(path).name,
            cure=f"Use exactly {', '.join(COLUMNS)}",
        )
    write_csv(path, table[list(COLUMNS)].map(_cell_text))


class Source(NamedTuple):
    """Where a delivered scan lies: file or folder, and the series number where the manifest names one."""

    path: Path
    series: int | None


def locate(manifest: str | Path, source: str) -> Source:
    """Return the path of a source (`path` or `path#<series number>`), relative to the manifest's folder."""
    folder = Path(manifest).parent
    name, mark, number = source.rpartition("#")
    if mark and number.isdecimal() and not _exists(folder / source):
        return Source(folder / name, int(number))
    return Source(folder / source, None)


def _checked_cells(path: Path, rules: dict[str, Rule], optional: dict[str, Rule] | None = None) -> pd.DataFrame:
    """Read a table and check each cell, then what must agree between rows of one scan or patient."""
    optional = optional or {}
    cells = read_cells(path, rules, optional)
    check_values(cells, rules | optional, path.name)
    _check_ids(cells, path.name)
    _check_patients(cells, path.name)
    _check_outcomes(cells, path.name)
    _check_ends(cells, path.name)
    return cells


# --- rows of one scan or one patient ---------------------------------------------------------------------------------


def _check_ids(cells: pd.DataFrame, file: str) -> None:
    """Refuse a repeated scan_id and ids that differ only by leading zeros or capitals."""
    for column in ("scan_id", "patient_id"):
        spelt: dict[str, tuple[str, int]] = {}
        for row, value in zip(cells.index, cells[column], strict=True):
            known, line = spelt.setdefault(value.lstrip("0").lower(), (value, row))
            if known != value:
                what = f"'{value}' differs from '{known}' (row {line}) only by leading zeros or capitals"
                refuse(file, row, column, what, "Write one id in one way: format the column as text")
            if column == "scan_id" and line != row:
                what = f"'{value}' is already used in row {line}"
                refuse(file, row, column, what, "Give every scan its own scan_id")


def _check_patients(cells: pd.DataFrame, file: str) -> None:
    """Refuse a patient with two hospitals, two labels or two sexes (unknown sex beside a known one is allowed)."""
    for column, empty in (("hospital", ()), ("label", ()), ("sex", ("", "U"))):
        known: dict[str, tuple[str, int]] = {}
        for row, patient, value in zip(cells.index, cells["patient_id"], cells[column], strict=True):
            if value in empty:
                continue
            value = str(int(float(value))) if column == "label" else value
            first, line = known.setdefault(patient, (value, row))
            if first != value:
                refuse(
                    file,
                    row,
                    column,
                    f"patient '{patient}' has '{value}' here and '{first}' in row {line}",
                    f"A patient has one {column}: correct one of the rows, or the patient_id",
                    f"two_{column}s" if column != "sex" else "two_sexes",
                )


def _check_outcomes(cells: pd.DataFrame, file: str) -> None:
    """Refuse a stay that is both observed to its end and not."""
    for row, outcome, censored in zip(cells.index, cells["outcome"], cells["censored"], strict=True):
        if number(censored) == 1 and outcome == "discharged":
            refuse(
                file,
                row,
                "censored",
                "the stay is censored, yet the outcome is 'discharged'",
                "Write censored 0 when the day of discharge is known, else another outcome",
                "censored_discharge",
            )
        if number(censored) == 0 and outcome == "in_hospital":
            what = "the patient is still in hospital, yet the stay is not censored"
            refuse(file, row, "censored", what, "Write censored 1")


def _check_ends(cells: pd.DataFrame, file: str) -> None:
    """Refuse a row whose blank outcome would count as a discharge, though another row of the patient tells of another end."""
    facts = ["patient_id", "outcome", "censored", "days_to_discharge"]
    told: dict[str, tuple[str, object]] = {}
    for row, patient, outcome, censored, _ in cells[facts].itertuples():
        if outcome not in ("", "discharged") or number(censored) == 1:
            told.setdefault(patient, (outcome or "censored", row))
    for row, patient, outcome, censored, days in cells[facts].itertuples():
        if patient in told and outcome == "" and number(censored) != 1 and days:
            end, line = told[patient]
            what = f"the cell is empty, though the stay of patient '{patient}' is '{end}' in row {line}"
            cure = "Write outcome and censored on every row of the patient: an empty outcome counts as a discharge"
            refuse(file, row, "outcome", what, cure, "blank_outcome")


def _check_sequence(cells: pd.DataFrame, file: str) -> None:
    """Refuse roles that do not fit scan_index, indices other than 0..n of a patient, and days that run backwards."""
    index = cells["scan_index"].map(float).astype(int)
    for row, role, position, day in zip(cells.index, cells["role"], index, cells["day"], strict=True):
        if (role == "followup") != (position > 0):
            refuse(
                file,
                row,
                "role",
                f"the role is '{role}' and scan_index is {position}",
                "A first scan (scan_index 0) is development or external, every later one followup",
            )
        if position == 0 and number(day):
            cure = "Count days from the patient's first scan, which has day 0"
            refuse(file, row, "day", f"the first scan has day {day}", cure)
    for patient, rows in index.groupby(cells["patient_id"], sort=False):
        ordered = rows.sort_values(kind="stable")
        _check_indices(str(patient), ordered, file)
        _check_days(str(patient), cells.loc[ordered.index, "day"], file)


def _check_indices(patient: str, ordered: pd.Series, file: str) -> None:
    """Refuse scan_index values, sorted and indexed by row, other than 0, 1, …, n."""
    previous_row = None
    for expected, (row, position) in enumerate(zip(ordered.index, ordered, strict=True)):
        if position < expected:
            what = f"patient '{patient}' already has scan_index {position} in row {previous_row}"
            refuse(file, row, "scan_index", what, "Number the patient's scans 0, 1, 2, … in order of time")
        if position > expected:
            refuse(
                file,
                row,
                "scan_index",
                f"patient '{patient}' has scan_index {position} but no {expected}",
                "Number the patient's scans 0, 1, 2, … in order of time, and list all of them",
            )
        previous_row = row


def _check_days(patient: str, days: pd.Series, file: str) -> None:
    """Refuse days, in order of scan_index and indexed by row, that run backwards."""
    latest, latest_row = 0.0, None
    for row, text in zip(days.index, days, strict=True):
        value = number(text)
        if value is None:
            continue
        if value < latest:
            refuse(
                file,
                row,
                "day",
                f"patient '{patient}' has day {text} after day {latest:g} (row {latest_row})",
                "Days must not decrease with scan_index",
            )
        latest, latest_row = value, row


def _check_sources(cells: pd.DataFrame, path: Path) -> None:
    """Refuse a source that is no existing path."""
    for row, source in zip(cells.index, cells["source"], strict=True):
        if source.startswith(("phantom:", "idc:")):
            command = "phantom build" if source.startswith("phantom:") else "public download"
            refuse(path.name, row, "source", f"'{source}' is an order, not a scan", f"Run `covid3d {command}` first")
        if not _exists(locate(path, source).path):
            refuse(path.name, row, "source", *nowhere(path, source))


def nowhere(manifest: Path, source: str) -> tuple[str, str]:
    """Return that a source does not exist, and the cure: for accents that the folder has written otherwise, for \\, else."""
    what = f"'{source}' does not exist"
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, source)
        if other != source and _exists(locate(manifest, other).path):
            cure = (
                "It does with its accents or umlauts written as other characters: copy the name from the folder itself"
            )
            return what, cure
    if "\\" in source:
        return what, "Write / in place of \\, and give a path relative to the manifest's folder, e.g. scans/case_1"
    return what, "Give a path relative to the manifest's folder, e.g. scans/case_1 or scans/case_1#3"


def _exists(path: Path) -> bool:
    """True when a path exists and may be seen."""
    try:
        return path.exists()
    except OSError:
        return False


# --- out -------------------------------------------------------------------------------------------------------------


def _cell_text(value: Any) -> str:
    """Return one value as the text of a cell."""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(float(value))
    return str(value)
