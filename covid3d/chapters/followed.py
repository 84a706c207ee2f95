"""Who was followed: the pairs of scans that chapters ask about, with what all rows of a patient together say of the stay."""

import pandas as pd

from covid3d.chapters import fine_tuning
from covid3d.cohort.manifest import read_manifest
from covid3d.run.errors import ManifestError
from covid3d.run.profile import Run


def pairs(run: Run) -> pd.DataFrame:
    """Return `fine_tuning.all_pairs`, with `ventilated` as `ever` has it; raises ManifestError like `check_ends`."""
    rows = read_manifest(run.manifest)
    check_ends(rows, run.manifest.name)
    found = fine_tuning.all_pairs(run)
    return found.assign(ventilated=found["patient_id"].map(ever(rows, "ventilated")))


def ever(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return by patient whether a fact of a stay ever held: 1 if a row says so, 0 if every row says not, else NA (Int64).

    rows: of a manifest, those of refused scans too: what they say of the patient holds all the same.
    """
    said = rows[column].astype("Int64").astype("boolean").groupby(rows["patient_id"])
    return said.any(skipna=False).astype("Int64")


def check_ends(rows: pd.DataFrame, file: str) -> None:
    """Refuse a row whose blank end would count as a discharge, though another row of the patient tells of another end.

    rows: of a manifest. Raises ManifestError, which names the scan and the patient.
    """
    other = rows["outcome"].isin(["died", "transferred", "in_hospital"]) | (rows["censored"] == 1).fillna(False)
    blank = (rows["outcome"] == "") & ~other & rows["days_to_discharge"].notna()
    told = rows[other].drop_duplicates("patient_id").set_index("patient_id")
    silent = rows[blank & rows["patient_id"].isin(told.index)]
    if len(silent):
        scan, patient = silent.iloc[0][["scan_id", "patient_id"]]
        row = told.loc[patient]
        end = f"'{row['outcome']}'" if row["outcome"] else "censored"
        what = f"scan {scan} of patient {patient} has no outcome, though the stay is {end} at scan {row['scan_id']}"
        cure = "Write outcome and censored on every row of the patient: an empty outcome counts as a discharge"
        raise ManifestError(what, where=f"{file}, column 'outcome'", cure=cure)
