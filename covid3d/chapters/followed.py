"""Who was followed: the pairs of scans that chapters ask about, with what all rows of a patient together say of the stay."""

import pandas as pd

from covid3d.chapters import fine_tuning
from covid3d.cohort.manifest import read_manifest
from covid3d.run.profile import Run


def pairs(run: Run) -> pd.DataFrame:
    """Return `fine_tuning.all_pairs`, with `ventilated` as `ever` has it."""
    found, rows = fine_tuning.all_pairs(run), read_manifest(run.manifest)
    return found.assign(ventilated=found["patient_id"].map(ever(rows, "ventilated")))


def ever(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return by patient whether a fact of a stay ever held: 1 if a row says so, 0 if every row says not, else NA (Int64).

    rows: of a manifest, those of refused scans too: what they say of the patient holds all the same.
    """
    said = rows[column].astype("Int64").astype("boolean").groupby(rows["patient_id"])
    return said.any(skipna=False).astype("Int64")
