"""Scores are looked at before anything is asked of them: a scan is scored once, and a score is a number."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from covid3d.run.errors import Covid3DError

SAME = ("model", "fold", "epoch", "window", "scan_id")


def usable(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a table of scores without the scans that a model gave no finite logit, for every model alike.

    table: scan_id, logit, and of `SAME` what it has. Raises Covid3DError, which names file and scan, for a scan that has two
    scores: counted twice it would make intervals too narrow.
    """
    keys = [name for name in SAME if name in table]
    twice = table.loc[table.duplicated(keys), "scan_id"]
    if len(twice):
        cure = "Remove one of the rows, or the file, and run the step again"
        raise Covid3DError(f"scan {twice.iloc[0]} has two scores of one model", where=where, cure=cure)
    without = table.loc[~np.isfinite(table["logit"].to_numpy(float, na_value=np.nan)), "scan_id"]
    return table[~table["scan_id"].isin(without)].reset_index(drop=True)


def counted(table: pd.DataFrame, column: str, left_out: Sequence[str] = ()) -> pd.DataFrame:
    """Return what there is to judge, one row a hospital: patients of each class, scans without a score, and ties.

    table: scan_id, hospital, label and the logit `column`. left_out: hospital of each scan that `usable` took out. Ties: scans
    that share their score with a scan of the other class, which an AUC counts as half.
    """
    rows = {}
    for hospital, part in table.groupby("hospital"):
        shared = part.groupby(column)["label"].transform("nunique") > 1
        rows[hospital] = {
            "COVID+": int((part["label"] == 1).sum()),
            "COVID-": int((part["label"] == 0).sum()),
            "without a score": list(left_out).count(str(hospital)),
            "tied with the other class": int(shared.sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("hospital")
