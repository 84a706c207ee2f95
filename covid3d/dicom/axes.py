"""The axes of an image file, judged as those of a DICOM series are."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from covid3d.dicom import refusals
from covid3d.dicom.streams import refusal

OBLIQUE_DEGREES = 15.0
SHEAR_DEGREES = 0.5
FIELD_MM = (40.0, 1000.0)
"""A newborn's chest is twice as wide; the widest bores of scanners have 85 to 90 cm, which padding may exceed a little."""
SPACING_TOLERANCE = 0.01
"""How far, as a share, two spacings of one header may differ: writers round one of them."""


def sheared_by(affine: np.ndarray) -> float:
    """Return the largest angle in degrees between an axis of an affine (i, j, k, 1) -> mm and the normal of the other two."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = []
    for axis in range(3):
        normal = np.cross(directions[:, axis - 2], directions[:, axis - 1])
        length = float(np.linalg.norm(normal))
        cosines.append(abs(float(normal @ directions[:, axis])) / length if length > 0 else 0.0)
    return float(np.degrees(np.arccos(min(*cosines, 1.0))))


def check_axes(affine: np.ndarray, path: Path) -> None:
    """Refuse an affine (i, j, k, 1) -> LPS mm without spacing, with axes not at right angles, or oblique to the body."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (spacing <= 0).any():
        raise refusal(path, "missing_geometry", "the header gives no voxel spacing, or none along one axis")
    sheared = sheared_by(affine)
    if sheared > SHEAR_DEGREES:
        what = f"the axes are not at right angles but sheared by {sheared:.1f} degrees, as a gantry tilt leaves them"
        raise refusal(path, "gantry_tilt", what)
    if np.degrees(np.arccos(np.clip(np.abs(affine[:3, :3] / spacing).max(axis=0).min(), 0, 1))) > OBLIQUE_DEGREES:
        raise refusal(path, "oblique", "the slices lie oblique to the body")


def compare_spacings(path: Path, name: str, spacing: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Refuse a header two places of which give different spacings along an axis, mm."""
    off = np.abs(other / spacing - 1)
    if not off.max() <= SPACING_TOLERANCE:
        axis = int(off.argmax())
        found = f"{name} says {spacing[axis]:.4g} mm, {other_name} {other[axis]:.4g} mm along axis {'ijk'[axis]}"
        raise refusal(path, "contradicting_geometry", f"two voxel spacings contradict each other: {found}")


def check_field(sides_mm: Iterable[float], path: Path) -> None:
    """Refuse slices whose sides, mm, no scanner and no chest has: pixel spacing in another unit, or wrong."""
    sides = list(sides_mm)
    if min(sides) < FIELD_MM[0] or max(sides) > FIELD_MM[1]:
        what = f"the field of view would be {' x '.join(f'{side:.4g}' for side in sides)} mm"
        raise refusals.refusal("impossible_size", what, path)
