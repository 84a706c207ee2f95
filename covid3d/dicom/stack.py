"""Slices -> their order, affine and spacing; each fault of the stack has a code.

Image orientation and position are the authority. Positions are compared with the best even grid along the slices'
normal: none may lie further from it than a tenth of the spacing, or 0.1 mm where that is more (never a quarter of it).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covid3d.dicom.axes import OBLIQUE_DEGREES, check_field
from covid3d.dicom.headers import Slice
from covid3d.dicom.one_scan import check_one_scan
from covid3d.dicom.refusals import CURES, FEWEST_SLICES, refusal
from covid3d.run.errors import SeriesError

GRID_TOLERANCE = 0.1
ROUNDING_MM = 0.1
WIDEST_TOLERANCE = 0.25
SAME_PLACE_MM = 0.01
TILT_DEGREES = 0.5
FOLDERS_NAMED = 3


class Fault(NamedTuple):
    """What is wrong with a stack: a code, and one clause."""

    code: str
    what: str


class Grid(NamedTuple):
    """The even grid that fits positions best: offset of its start from the first one, spacing and deviation, mm."""

    start: float
    spacing: float
    deviation: float

    @property
    def holds(self) -> bool:
        """True where all positions lie on the grid but for rounding."""
        tolerance = max(GRID_TOLERANCE * self.spacing, ROUNDING_MM)
        return self.deviation <= min(tolerance, WIDEST_TOLERANCE * self.spacing)


def even_grid(along: np.ndarray, places: np.ndarray) -> Grid:
    """Return the even grid (least squares) for ascending positions along a line, mm, at whole-numbered places."""
    spacing = (along[-1] - along[0]) / (places[-1] - places[0])
    rest = along - along[0] - spacing * places
    centred = places - places.mean()
    slope = float(centred @ rest / (centred @ centred))
    rest = rest - slope * places
    middle = float(rest.max() + rest.min()) / 2
    return Grid(middle, float(spacing + slope), float(rest.max() - middle))


def geometry(slices: Sequence[Slice], path: Path) -> tuple[list[Slice], np.ndarray, float]:
    """Return the slices in order along their normal, the affine (i, j, k, 1) -> LPS mm, and the slice spacing in mm.

    All faults of the stack are named in one message; its code is the first one's.
    """
    orientations = np.array([entry.orientation for entry in slices])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise refusal("mixed_orientation", "slices differ in direction", path)
    row, column = orientations[0][:3], orientations[0][3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise refusal("missing_geometry", "the direction of the slices is no pair of right angles", path)
    normal = np.cross(row, column)
    positions = np.array([entry.position for entry in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    ordered = [slices[index] for index in order]
    check_one_scan(ordered, path)
    faults = _faults(ordered, positions[order], normal, along[order])
    if faults:
        (code, _), *more = faults
        cure = CURES[code] + "".join(f"; {CURES[other][0].lower()}{CURES[other][1:]}" for other, _ in more)
        what = "; ".join(text for _, text in faults)
        raise SeriesError(what, where=path.name + _folders(ordered, path), cure=cure, code=code)
    grid = even_grid(along[order], np.arange(len(slices)))
    first = ordered[0]
    assert first.pixel_spacing is not None
    check_field([first.rows * first.pixel_spacing[0], first.columns * first.pixel_spacing[1]], path)
    affine = np.eye(4)
    affine[:3, 0] = row * first.pixel_spacing[1]
    affine[:3, 1] = column * first.pixel_spacing[0]
    affine[:3, 2] = normal * grid.spacing
    affine[:3, 3] = positions[order[0]] + normal * grid.start
    cosines = np.abs(np.stack([row, column, normal])).max(axis=1)
    if np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))) > OBLIQUE_DEGREES:
        raise refusal("oblique", "the slices lie oblique to the body", path)
    return ordered, affine, grid.spacing


def _faults(slices: Sequence[Slice], positions: np.ndarray, normal: np.ndarray, along: np.ndarray) -> list[Fault]:
    """Return every fault of a stack: positions (N, 3) in order, and their places (N) along the normal, mm."""
    faults = []
    apart = np.append(True, np.diff(along) >= SAME_PLACE_MM)
    copies = int((~apart).sum())
    if copies:
        faults.append(Fault("duplicate_position", f"{copies} slices lie where another one is"))
    tilt = _tilt(positions, normal)
    if tilt > TILT_DEGREES:
        faults.append(Fault("gantry_tilt", f"the gantry was tilted by {tilt:.1f} degrees"))
    sideways = _sideways(positions)
    if sideways > max(slices[0].pixel_spacing or (1.0,)):
        faults.append(Fault("shifted_slices", f"slices lie up to {sideways:.1f} mm aside of the others"))
    faults += _spacing_faults(along[apart], copies)
    if len(slices) < FEWEST_SLICES:
        what = f"the series has {len(slices)} slices, at least {FEWEST_SLICES} are needed"
        faults.append(Fault("too_few_slices", what))
    return faults


def _folders(slices: Sequence[Slice], path: Path) -> str:
    """Return the folders below `path` in which slices lie, "" where it is one: two may be copies."""
    root = path if path.is_dir() else path.parent
    names = sorted({os.path.relpath(entry.path.parent, root) for entry in slices})
    more = f" and {len(names) - FOLDERS_NAMED} more" if len(names) > FOLDERS_NAMED else ""
    return f" (in the folders {', '.join(names[:FOLDERS_NAMED])}{more})" if len(names) > 1 else ""


def _spacing_faults(along: np.ndarray, copies: int) -> list[Fault]:
    """Return what is wrong with the spacing of different places along the normal, in order, mm."""
    if len(along) < 2 or even_grid(along, np.arange(len(along))).holds:
        return []
    steps = np.diff(along)
    places = np.append(0, np.cumsum(np.maximum(np.rint(steps / np.median(steps)), 1)))
    missing = int(places[-1]) + 1 - len(along)
    if missing and not copies and even_grid(along, places).holds:
        return [Fault("missing_slice", f"{missing} of {len(along) + missing} slices are missing")]
    return [Fault("variable_spacing", f"the slice spacing varies from {steps.min():.2f} to {steps.max():.2f} mm")]


def _sideways(positions: np.ndarray) -> float:
    """Return how far, in mm, a slice's corner lies from the straight line through those of the first and the last."""
    way = positions[-1] - positions[0]
    length = float(np.linalg.norm(way))
    if length < SAME_PLACE_MM:
        return 0.0
    offsets = positions - positions[0]
    return float(np.linalg.norm(offsets - np.outer(offsets @ way, way) / length**2, axis=1).max())


def _tilt(positions: np.ndarray, normal: np.ndarray) -> float:
    """Return the angle in degrees between the table's way and the slices' normal."""
    way = positions[-1] - positions[0]
    length = float(np.linalg.norm(way))
    return float(np.degrees(np.arccos(np.clip(abs(way @ normal) / length, 0, 1)))) if length > SAME_PLACE_MM else 0.0
