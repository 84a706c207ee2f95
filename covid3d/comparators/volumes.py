"""COVID3D itself, and COVID3D that sees the lungs alone."""

import numpy as np

from covid3d.comparators.interface import Cases, Network
from covid3d.ct.lungs import lung_mask
from covid3d.ct.volume import HU_MIN
from covid3d.network import registry
from covid3d.run.errors import Covid3DError
from covid3d.run.profile import Profile


def covid3d(profile: Profile) -> Network:
    """Return the paper's network, which sees the whole grid."""
    return Network.of(profile, "COVID3D", registry.MODELS["covid3d"](profile), f"extractor.{profile.explain.layer}")


def covid3d_lungs(profile: Profile) -> Network:
    """Return the same network, started in the same way; everything outside the lungs is air to it."""
    net = registry.MODELS["covid3d"](profile)
    return Network.of(profile, "COVID3D, lungs alone", net, f"extractor.{profile.explain.layer}", lungs_alone)


def lungs_alone(cases: Cases) -> np.ndarray:
    """Return the grids, int16 HU (N, z, y, x), with HU_MIN outside the lungs; a scan without a mask stays whole."""
    masks = lung_masks(cases)
    masks[~masks.any((1, 2, 3))] = True
    return np.where(masks, cases.grids, np.int16(HU_MIN))


def lung_masks(cases: Cases) -> np.ndarray:
    """Return the lungs of each scan on its grid, bool (N, z, y, x); see `ct.lungs` for what the mask misses.

    Raises Covid3DError when a voxel size is not known.
    """
    blank = ~np.isfinite(cases.spacing_mm).all(1)
    if blank.any():
        where = f"scan {cases.facts['scan_id'].iloc[int(blank.argmax())]}"
        raise Covid3DError("the voxel size is not known", where=where, cure="See the spacing columns of intake.csv")
    return np.stack([lung_mask(grid, tuple(mm)) for grid, mm in zip(cases.grids, cases.spacing_mm, strict=True)])
