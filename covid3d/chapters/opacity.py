"""Measured opacity of the scans of a run, from their stored grids: a table that chapters ask when they need it."""

from collections.abc import Iterable

import pandas as pd

from covid3d.cohort.intake import grid_spacing, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.opacity import Opacity, opacity
from covid3d.run.errors import MissingResult
from covid3d.run.profile import Run

MEASURES = list(Opacity._fields)


def measured(run: Run, scan_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Return `MEASURES` of scans (of every accepted scan of the run by default), indexed by scan_id; about 20 ms a scan.

    Raises MissingResult for a scan that intake has not accepted.
    """
    table = read_intake(run).query("ok == 1").set_index("scan_id")
    names = list(table.index if scan_ids is None else dict.fromkeys(scan_ids))
    unknown = [name for name in names if name not in table.index]
    if unknown:
        cure = "See its row of intake.csv, and leave the scan out or deliver it again"
        raise MissingResult(
            "the scan was not accepted: its opacity is not known", where=f"scan {unknown[0]}", cure=cure
        )
    store = Store.of(run)
    grids = store.stack(names)
    rows = [opacity(grid, grid_spacing(table.loc[name], store.shape)) for name, grid in zip(names, grids, strict=True)]
    return pd.DataFrame(rows, columns=MEASURES, index=pd.Index(names, name="scan_id"))
