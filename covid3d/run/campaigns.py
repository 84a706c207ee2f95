"""Stored results of campaigns: benchmarks/results/<name>.csv, each row with the code that made it."""

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
STAMP = ("code", "commit", "versions")


def read(name: str) -> pd.DataFrame | None:
    """Return the stored result of a campaign, columns of the campaign and `STAMP`, or None while it has not been run."""
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return None
    return pd.read_csv(
        path,
        dtype=dict.fromkeys(STAMP, str),
        float_precision="round_trip",
        keep_default_na=False,  # the world "null" is a word
        na_values=[""],
    )
