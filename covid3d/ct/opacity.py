"""How much of the lung is opaque: from hounsfield units and a lung mask alone, no network and no truth.

Paper:    Huang et al., "Serial quantitative chest CT assessment of COVID-19", Radiology: Cardiothoracic Imaging 2020
Differs:  a threshold in place of a segmentation network, so that vessels and the lung's border count as well. They are a
          patient's own and nearly constant: what changes between two scans of a patient is disease.
"""

from typing import NamedTuple

import numpy as np

from covid3d.ct.lungs import whole_lung

HAZY_HU, DENSE_HU = -700, -500


class Opacity(NamedTuple):
    """Shares of the lung's voxels above -700 HU (ground glass and denser) and above -500 HU, and the mean HU."""

    above_700: float
    above_500: float
    mean_hu: float


def opacity(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> Opacity:
    """Return the opacity of the lungs of a scan or of its grid, HU (z, y, x); NaN where no lung is found.

    >>> body = np.full((8, 40, 40), 40)
    >>> body[1:7, 5:35, 5:35] = -850
    >>> body[1:7, 5:14, 10:20] = -650
    >>> body[:, 0] = body[:, -1] = body[:, :, 0] = body[:, :, -1] = -1000
    >>> [round(value, 2) for value in opacity(body, (10.0, 6.0, 6.0))]
    [0.1, 0.0, -830.0]
    """
    inside = hu[whole_lung(hu, spacing_mm)].astype(float)
    if not len(inside):
        return Opacity(np.nan, np.nan, np.nan)
    return Opacity(float((inside > HAZY_HU).mean()), float((inside > DENSE_HU).mean()), float(inside.mean()))
