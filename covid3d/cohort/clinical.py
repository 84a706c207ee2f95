"""Clinical rows: what does not fit together, each with a code that the flow diagram counts; and who was scanned how."""

from typing import Any

import pandas as pd

from covid3d.cohort.persons import HASHES, shared

FEWEST_PCR_TESTS = 2  # the paper, section 2
ADULT_YEARS = 18
SAME_STAY_DAYS = 1.0

CODES = {
    "two_ids": "two patient ids for one patient: equal pixels, series or DICOM PatientID",
    "two_patients": "one patient id for scans with two DICOM PatientIDs",
    "few_pcr_tests": "fewer than two RT-PCR tests",
    "before_admission": "scanned before admission",
    "after_discharge": "scanned after the discharge that another row of the patient tells of",
    "other_admission": "the day of admission or discharge is that of another stay than the first scan's",
    "negative_stay": "discharged before admission",
    "day_is_no_discharge": "censored: the day is the last one in hospital, not that of a discharge",
    "death_is_no_discharge": "died: the day is that of death, which competes with discharge",
    "two_outcomes": "two outcomes of one stay, such as death coded as discharge",
    "same_day_repeat": "a later row of one patient on one day: a repeat or another reconstruction",
    "paediatric": "younger than 18 years",
    "prone": "lay prone",
    "decubitus": "lay on the side",
    "contrast": "contrast medium was given",
    "bone_kernel": "a reconstruction for bone",
    "small_lungs": "hardly any lung was found (below 800 ml); is it a whole chest, and of the right size?",
    "half_chest": "the lungs are cut, or the field of view is small",
    "sides_unknown": "the file does not say how its axes lie in the patient; left and right may be exchanged",
    "sign_mended": "the header hides the sign of the values; they were read as signed",
}
"""What each code says of a scan that was kept."""

ACQUISITION = ("thickness_mm", "spacing_z_mm", "kernel", "kvp", "manufacturer", "transfer_syntax")


def findings(table: pd.DataFrame, intake: pd.DataFrame) -> pd.DataFrame:
    """Return scan_id, patient_id and code of everything odd about the scans, one row a finding, in the table's order.

    table: rows of a manifest (`days_since_admission` where it is known). intake: rows of intake.csv for them; only its
    accepted scans are judged.
    """
    read = intake.loc[intake["ok"] == 1]
    known = read[[name for name in ("scan_id", "kept_with", *HASHES) if name in read]]
    rows = table.merge(known, on="scan_id", how="inner")
    noted = [str(text).split() for text in rows["kept_with"].fillna("")] if "kept_with" in rows else [[]] * len(rows)
    held = {code: _holds(code, rows).to_numpy() for code in CODES}
    found = [
        (scan, patient, code)
        for index, (scan, patient) in enumerate(zip(rows["scan_id"], rows["patient_id"], strict=True))
        for code in CODES
        if held[code][index] or code in noted[index]
    ]
    return pd.DataFrame(found, columns=["scan_id", "patient_id", "code"])


def _holds(code: str, rows: pd.DataFrame) -> pd.Series:
    """Return for each row whether a code holds by the manifest and the hashes, bool."""
    rule = RULES.get(code)
    return pd.Series(False, index=rows.index) if rule is None else rule(rows).fillna(False).astype(bool)


def _two_ids(rows: pd.DataFrame) -> pd.Series:
    """Scans whose pixels, series or DICOM PatientID another patient id also has."""
    found = pd.Series(False, index=rows.index)
    for name in (name for name in HASHES if name in rows):
        found |= shared(rows, name).notna()
    return found


def _two_patients(rows: pd.DataFrame) -> pd.Series:
    if "patient_sha256" not in rows:
        return pd.Series(False, index=rows.index)
    value = rows["patient_sha256"].where(rows["patient_sha256"] != "")
    return value.groupby(rows["patient_id"]).transform("nunique") > 1


def _admission(rows: pd.DataFrame) -> pd.Series:
    """The day since admission of each scan, missing where the manifest does not tell."""
    blank = pd.Series(pd.NA, index=rows.index, dtype="Float64")
    return rows.get("days_since_admission", blank)


def _last_day(rows: pd.DataFrame) -> pd.Series:
    """The day of the end of stay, counted from the patient's first scan."""
    return rows["day"] + rows["days_to_discharge"]


def _after_discharge(rows: pd.DataFrame) -> pd.Series:
    left = _last_day(rows).where(rows["outcome"] == "discharged")
    first = left.groupby(rows["patient_id"]).transform("min")
    return (rows["day"] > first) & rows["days_to_discharge"].isna()


def _other_admission(rows: pd.DataFrame) -> pd.Series:
    """Scans whose day of admission or of the end of stay is not that of the patient's first row which tells it."""
    found = pd.Series(False, index=rows.index)
    ordered = rows.sort_values("scan_index", kind="stable")
    for day in (ordered["day"] - _admission(ordered), _last_day(ordered)):
        first = day.groupby(ordered["patient_id"]).transform("first")
        found |= ((day - first).abs() > SAME_STAY_DAYS).fillna(False).astype(bool).reindex(rows.index)
    return found


def _two_outcomes(rows: pd.DataFrame) -> pd.Series:
    known = rows["outcome"].where(rows["outcome"] != "")
    return known.groupby(rows["patient_id"]).transform("nunique") > 1


RULES = {
    "two_ids": _two_ids,
    "two_patients": _two_patients,
    "few_pcr_tests": lambda rows: rows["rt_pcr_tests"] < FEWEST_PCR_TESTS,
    "before_admission": lambda rows: _admission(rows) < 0,
    "after_discharge": _after_discharge,
    "other_admission": _other_admission,
    "negative_stay": lambda rows: _admission(rows) + rows["days_to_discharge"] < 0,
    "day_is_no_discharge": lambda rows: (rows["censored"] == 1) & rows["days_to_discharge"].notna(),
    "death_is_no_discharge": lambda rows: (rows["outcome"] == "died") & rows["days_to_discharge"].notna(),
    "two_outcomes": _two_outcomes,
    "same_day_repeat": lambda rows: rows["day"].notna() & rows.duplicated(["patient_id", "day"]),
    "paediatric": lambda rows: rows["age"] < ADULT_YEARS,
}


def acquisition_table(intake: pd.DataFrame) -> pd.DataFrame:
    """Return hospital, label, setting, value, scans: how the accepted scans of each hospital and label were made.

    Slice thickness and spacing are in mm, to one decimal; "unknown" where a header is silent.
    """
    read = intake.loc[intake["ok"] == 1]
    parts = []
    for setting in (name for name in ACQUISITION if name in read):
        value = read[setting]
        text = (
            pd.to_numeric(value).round(1).astype(str)
            if setting.endswith("_mm")
            else value.astype(str).str.removesuffix(".0")
        )
        text = text.where(value.notna() & (value.astype(str) != ""), "unknown")
        counts = read.assign(value=text).groupby(["hospital", "label", "value"]).size().reset_index(name="scans")
        counts.insert(2, "setting", setting)
        parts.append(counts)
    columns = ["hospital", "label", "setting", "value", "scans"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def kept_counts(found: pd.DataFrame) -> dict[str, Any]:
    """Return for the flow diagram how many scans and patients were kept with each code."""
    return {
        str(code): {"scans": int(part["scan_id"].nunique()), "patients": int(part["patient_id"].nunique())}
        for code, part in found.groupby("code", sort=True)
    }
