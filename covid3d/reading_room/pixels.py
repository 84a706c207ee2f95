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
SLAB_BYTES = 2**21


@dataclass(frozen=True)
class Picture:
    """Pixels of one scan: hu int16 (z, y, x), spacing_mm (z, y, x), a remark on what is seen; nothing that names it.

    sides: whether left and right are known. lungs: where they begin and end, as shares of the scan from its lower end.
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    remark: str
    sides: bool

    @property
    def lungs(self) -> tuple[float, float]:
        """Return the lower and the upper end of the lungs, 0 … 1; the whole scan where no lung is found."""
        coarse = tuple(min(own, most) for own, most in zip(self.hu.shape, LUNG_GRID, strict=True))
        spacing = [mm * own / new for mm, own, new in zip(self.spacing_mm, self.hu.shape, coarse, strict=True)]
        areas = lung_mask(resize(self.hu, coarse), (spacing[0], spacing[1], spacing[2])).sum(axis=(1, 2))
        inside = np.flatnonzero(areas > LEAST_AREA * areas.max())
        return (inside[0] / len(areas), (inside[-1] + 1) / len(areas)) if len(inside) else (0.0, 1.0)

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Yield first slice and number of slices of the pieces in which the scan is sent."""
        count = max(1, SLAB_BYTES // (2 * self.hu[0].size))
        for first in range(0, len(self.hu), count):
            yield first, min(count, len(self.hu) - first)

    def packed(self, first: int, count: int) -> bytes:
        """Return slices as little-endian int16, compressed (zlib)."""
        return zlib.compress(np.ascontiguousarray(self.hu[first : first + count], dtype="<i2").data, 1)


def picture(run: Run, scan_id: str) -> Picture:
    """Return the pixels of an accepted scan: of its own files where they are there and hold what intake read, else the grid."""
    rows = read_intake(run).set_index("scan_id")
    facts, row = rows.loc[scan_id], read_manifest(run.manifest).set_index("scan_id").loc[scan_id]
    sides = "sides_unknown" not in str(facts.get("kept_with", ""))
    try:
        place = source_of(run, str(row["source"]))
        if not place.path.exists():
            raise MissingResult("the files are gone")
        volume = read_ct(place.path, place.series)
        if pixel_sha256(volume.hu) != facts["pixel_sha256"]:
            raise MissingResult("the files have changed")
        return Picture(volume.hu, volume.spacing_mm, ORIGINAL, sides)
    except Covid3DError:
        grid = Store.of(run).get(scan_id)
        remark = (
            f"the networks' grid of {' × '.join(map(str, grid.shape))} voxels, coarser than the scan, which is gone"
        )
        return Picture(grid, grid_spacing(facts.to_dict(), grid.shape), remark, sides)
