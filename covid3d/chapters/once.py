"""A scan that a table holds twice is refused by whoever reads it: it would count twice, or one of the two at random."""

import pandas as pd

from covid3d.chapters import scored


def once(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a table whole, scans without a score too; raises Covid3DError, as `scored.usable`, for a scan that it has twice.

    table: scan_id, and of model (or method), fold, epoch and window what it has.
    """
    named = table.rename(columns={"method": "model"})
    scored.usable(named if "logit" in named else named.assign(logit=0.0), where)
    return table
