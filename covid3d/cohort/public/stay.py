"""The remaining stay of public scans (COVID-19-NY-SBU) from the collection's clinical table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.run.errors import ManifestError, nearest
from covid3d.run.tables import EXPORT, number

NEEDED = ("to_patient_id", "visit_start_datetime", "length_of_stay", "last.status")
OUTCOMES = {"discharged": "discharged", "deceased": "died"}
DATES = ("ISO8601", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y")
LONGEST_ONSET_DAYS = 365.0
FILLED = ("days_since_onset", "days_to_discharge", "outcome", "censored", "ventilated")


def read_clinical(path: str | Path) -> pd.DataFrame:
    """Return the clinical table of COVID-19-NY-SBU, one row a visit, cells as text.

    Raises ManifestError for a file that is missing, no CSV, or lacks one of the columns of `NEEDED`.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError("the clinical table does not exist", where=str(path), cure="Check the path")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", encoding_errors="replace")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ManifestError(f"not a CSV file ({error})".replace("\n", " "), where=path.name, cure=EXPORT) from None
    for name in NEEDED:
        if name not in table:
            cure = f"Give the clinical CSV of COVID-19-NY-SBU. {nearest(name, [str(column) for column in table])}"
            raise ManifestError("the column is missing", where=f"{path.name}, column '{name}'", cure=cure)
    return table.apply(lambda column: column.str.strip())


def remaining_stays(scans: pd.DataFrame, clinical: pd.DataFrame) -> pd.DataFrame:
    """Return one row a scan: the columns of `FILLED` as text, and `mismatch`, why the stay is not known ("" when it is).

    scans: scan_id, patient_id, date (YYYY-MM-DD). Remaining stay = start of the visit + length of stay - date of the scan,
    in days, for a scan inside one visit; for a patient who died it is the day of death, which competes with discharge.
    """
    visits = {str(patient): rows for patient, rows in clinical.groupby("to_patient_id")}
    return pd.DataFrame([_of_scan(scan, visits) for scan in scans.to_dict("records")], index=scans.index)


def _of_scan(scan: Mapping[Any, Any], visits: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    blank = {"scan_id": str(scan["scan_id"]), **dict.fromkeys(FILLED, ""), "mismatch": ""}
    rows = visits.get(str(scan["patient_id"]))
    if rows is None:
        return blank | {"mismatch": "the patient is not in the clinical table"}
    date = _date(scan["date"])
    found = [_in_visit(date, visit) for visit in rows.to_dict("records")]
    inside = [values for values in found if not values.get("mismatch")]
    if len(inside) > 1:
        return blank | {"mismatch": "the scan lies inside two visits"}
    return blank | (inside or found)[0]


def _in_visit(date: pd.Timestamp | None, visit: Mapping[Any, Any]) -> dict[str, str]:
    """Return what one visit tells of a scan, or only why it tells nothing."""
    start, length = _date(visit["visit_start_datetime"]), number(visit["length_of_stay"])
    outcome = OUTCOMES.get(visit["last.status"].lower())
    if date is None or start is None or length is None or length < 0:
        return {"mismatch": "a date or the length of stay cannot be read"}
    since = (date - start).days
    if since < 0:
        return {"mismatch": "scanned before the visit"}
    if since > length:
        return {"mismatch": "scanned after the visit"}
    if outcome is None:
        return {"mismatch": "the visit's end is neither discharge nor death"}
    onset = number(visit.get("days_prior_sx", ""))
    known = onset is not None and 0 <= onset <= LONGEST_ONSET_DAYS
    return {
        "days_to_discharge": f"{length - since:g}",
        "outcome": outcome,
        "censored": "0",
        "ventilated": {"yes": "1", "no": "0"}.get(visit.get("was_ventilated", "").lower(), ""),
        "days_since_onset": f"{since + onset:g}" if known and onset is not None else "",
    }


def _date(text: object) -> pd.Timestamp | None:
    """Return the day of a date in one of the forms of `DATES`, None for any other text."""
    for form in DATES:
        value = pd.to_datetime(str(text), format=form, errors="coerce")
        if not pd.isna(value):
            return value.tz_localize(None).normalize()
    return None


def summary(stays: pd.DataFrame) -> list[str]:
    """Return how many scans have a stay, and why the others have none, as lines for a terminal."""
    known = stays[stays["mismatch"] == ""]
    ends = ", ".join(f"{count} {name}" for name, count in known["outcome"].value_counts().items())
    lines = [f"remaining stay known for {len(known)} of {len(stays)} scans" + (f" ({ends})" if ends else "")]
    lines += [f"  {count} scans: {why}" for why, count in stays["mismatch"].value_counts().items() if why]
    if 2 * len(known) < len(stays):
        lines.append("  fewer than half lie inside a visit: were the dates of table and scans shifted alike?")
    return lines
