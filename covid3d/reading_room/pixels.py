"""What a reader sees of a scan: the scan itself where the run still has it, else the grid that the networks see."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from covid3d.cohort.delivery import source_of
from covid3d.cohort.intake import grid_spacing, read_intake
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.scan import LUNG_GRID, pixel_sha256
from covid3d.cohort.store import Store
from covid3d.ct.grid import resize
from covid3d.ct.lungs import lung_mask
from covid3d.dicom.series import read_ct
from covid3d.run.errors import Covid3DError, MissingResult
from covid3d.run.profile import Run

ORIGINAL = "original resolution"
LEAST_AREA = 0.1
PIECE_BYTES = 2**22


@dataclass(frozen=True)
class Picture:
    """What is sent of one scan; nothing in it names the scan.

    shape (z, y, x); spacing_mm (z, y, x); lungs: where they begin and end, as shares of the scan from its lower end; sides:
    whether left and right are known; remark: what is seen. pieces: first slice, and slices from there as little-endian
    int16 HU, compressed (zlib).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lungs: tuple[float, float]
    sides: bool
    remark: str
    pieces: tuple[tuple[int, bytes], ...]


def picture(run: Run, scan_id: str) -> Picture:
    """Return an accepted scan for the screen: from its own files where they are there and hold what intake read, else its grid.

    Raises MissingResult for a scan that is not even in the store.
    """
    facts = read_intake(run).set_index("scan_id").loc[scan_id]
    row = read_manifest(run.manifest).set_index("scan_id").loc[scan_id]
    try:
        place = source_of(run, str(row["source"]))
        if not place.path.exists():
            raise MissingResult("the files are gone")
        volume = read_ct(place.path, place.series)
        if pixel_sha256(volume.hu) != facts["pixel_sha256"]:
            raise MissingResult("the files have changed")
        hu, spacing, remark = volume.hu, volume.spacing_mm, ORIGINAL
    except Covid3DError:
        hu = Store.of(run).get(scan_id)
        spacing = grid_spacing(facts.to_dict(), hu.shape)
        remark = f"the networks' grid of {' × '.join(map(str, hu.shape))} voxels, coarser than the scan itself"
    sides = "sides_unknown" not in str(facts["kept_with"])
    z, y, x = hu.shape
    return Picture((z, y, x), spacing, lung_ends(hu, spacing), sides, remark, tuple(_packed(hu)))


def lung_ends(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Return where the lungs begin and end, 0 … 1 from the lower end of HU (z, y, x); the whole scan where there is no lung."""
    coarse = tuple(min(own, most) for own, most in zip(hu.shape, LUNG_GRID, strict=True))
    z, y, x = (mm * own / new for mm, own, new in zip(spacing_mm, hu.shape, coarse, strict=True))
    areas = lung_mask(resize(hu, coarse), (z, y, x)).sum(axis=(1, 2))
    inside = np.flatnonzero(areas > LEAST_AREA * areas.max())
    return (float(inside[0]) / len(areas), float(inside[-1] + 1) / len(areas)) if len(inside) else (0.0, 1.0)


def _packed(hu: np.ndarray) -> Iterator[tuple[int, bytes]]:
    count = max(1, PIECE_BYTES // (2 * hu[0].size))
    for first in range(0, len(hu), count):
        yield first, zlib.compress(np.ascontiguousarray(hu[first : first + count], dtype="<i2").data, 1)
