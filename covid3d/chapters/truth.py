"""Known truth of simulated scans, for judging results; training and scoring must never import this room."""

from pathlib import Path

import numpy as np
import pandas as pd

from covid3d.run.profile import Run


def read_truth(run: Run) -> pd.DataFrame | None:
    """Return truth.csv of a simulated cohort, one row a scan, or None for real scans."""
    path = run.path("truth", "truth.csv")
    return pd.read_csv(path, dtype={"scan_id": str, "patient_id": str}) if path.is_file() else None


def lesion_mask(run: Run, scan_id: str) -> np.ndarray | None:
    """Return the share of each grid voxel that is lesion, float32 (z, y, x) in [0, 1], or None for real scans."""
    return _grid(run, scan_id, "lesion")


def lung_mask(run: Run, scan_id: str) -> np.ndarray | None:
    """Return the share of each grid voxel that is lung (lesions included), float32 (z, y, x), or None for real scans."""
    return _grid(run, scan_id, "lung")


def _grid(run: Run, scan_id: str, name: str) -> np.ndarray | None:
    path: Path = run.path("truth", "masks", f"{scan_id}.npz")
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as masks:
        return masks[name].astype(np.float32) / 255
