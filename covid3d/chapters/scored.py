"""Scores are looked at before anything is asked of them: who has two or none, and which of them are alike."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from covid3d.run.errors import Covid3DError, MissingResult

IDS = {"scan_id": str, "prior_scan_id": str, "patient_id": str, "hospital": str, "window": str, "split": str}
SCORED_ONCE = ("task", "model", "fold", "epoch", "scan_id", "window")
"""What tells one score of a run from another; where several methods judge a scan, their name does as well."""


def read_predictions(path: Path) -> pd.DataFrame:
    """Return a table of scores, ids as text; MissingResult where there is none.

    Raises Covid3DError, as `once`, with file and scan: a scan counted twice would make intervals too narrow.
    """
    if not path.is_file():
        what, cure = f"'{path.parent.name}/{path.name}' is not there", "Run `make run` for this run first"
        raise MissingResult(what, cure=cure)
    return once(pd.read_csv(path, dtype=IDS), "/".join(path.parts[-3:]))


def once(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a table of scores; Covid3DError for a scan that it has twice, by `SCORED_ONCE` or what of it the table has."""
    keys = [name for name in (*SCORED_ONCE, "method") if name in table]
    twice = table.loc[table.duplicated(keys), "scan_id"]
    if len(twice):
        what, cure = (
            f"scan {twice.iloc[0]} has two scores of one model",
            "Remove the file: the same command makes it again",
        )
        raise Covid3DError(what, where=where, cure=cure)
    return table


def of_folds(paths: Iterable[Path]) -> pd.DataFrame:
    """Return the scores of several folds in one table, read as `read_predictions`; a copy of another fold's is refused."""
    return once(pd.concat(map(read_predictions, paths), ignore_index=True), "predictions.csv of the folds")


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of scores (scan_id, logit) without the scans that a model gave no finite logit, for every model alike."""
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
