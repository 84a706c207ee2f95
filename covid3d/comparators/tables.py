"""Models without a network: what acquisition and patient tell, and what the histogram of a scan tells."""

import numpy as np
import pandas as pd

from covid3d.comparators.interface import Cases, Table
from covid3d.comparators.volumes import lung_masks
from covid3d.ct.volume import HU_MIN
from covid3d.network.tabular import METADATA
from covid3d.run.profile import Profile

EDGES_HU = np.linspace(HU_MIN, 512, 17)


def metadata(profile: Profile) -> Table:
    """Return the model that sees no image: age, sex, slices, spacing, tube voltage, kernel, manufacturer."""
    return Table("metadata alone", facts_of, profile.model.grid)


def histogram(profile: Profile) -> Table:
    """Return the model that sees how often each HU occurs, in the whole grid and in the lungs, but not where."""
    return Table("histogram alone", histograms, profile.model.grid)


def facts_of(cases: Cases) -> pd.DataFrame:
    """Return the columns of METADATA that are known for these scans."""
    return cases.facts[[name for group in METADATA for name in group if name in cases.facts]]


def histograms(cases: Cases) -> pd.DataFrame:
    """Return the share of voxels between neighbouring EDGES_HU, in the whole grid and in the lung mask (0 without one)."""
    rows = []
    for grid, mask in zip(cases.grids, lung_masks(cases), strict=True):
        rows.append(np.concatenate([_shares(grid), _shares(grid[mask])]))
    names = [f"{part} from {edge:.0f} HU" for part in ("whole", "lung") for edge in EDGES_HU[:-1]]
    return pd.DataFrame(rows, columns=names, index=cases.facts.index)


def _shares(hu: np.ndarray) -> np.ndarray:
    return np.histogram(hu, EDGES_HU)[0] / max(hu.size, 1)
