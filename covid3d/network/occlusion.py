"""Occlusion by healthy lung: what a scan's logit loses when a piece of its lung is replaced by its own healthy lung.

Paper:   Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, arXiv:1311.2901
Differs: a piece is not greyed out but replaced by the median of the scan's own aerated lung, and never becomes brighter;
         blanking far outside what a network has seen says nothing of what it looks at

Aerated lung lies between -950 and -700 HU, what is brighter is opaque (Colombi et al., Radiology 2020;296:E86). No truth
is asked: the lung is a mask of the grid itself, so that real and simulated scans go the same way.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import nn

from covid3d.ct.opacity import HAZY_HU
from covid3d.ct.windows import Window
from covid3d.network.scoring import for_evaluation, score_twin

AERATED_HU = (-950, HAZY_HU)
SMALLEST_SHARE = 24
"""A piece has at least this part of the volume of a box: 8 voxels of a box of 3x8x8."""
BATCH = 16


class Evidence(NamedTuple):
    """What the lung of one scan adds to its logit.

    values: float32 (z, y, x), logit a voxel, above 0 where the logit falls without the piece. logit: of the scan as it is.
    falls: the fall for each piece. together: the fall without all of them at once. healthy_hu: what the pieces were
    replaced by. lung: the mask that was searched.
    """

    values: np.ndarray
    logit: float
    falls: np.ndarray
    together: float
    healthy_hu: float
    lung: np.ndarray

    @property
    def words(self) -> str:
        """What was found, in a line: the sums of the falls and rises of the logit, and what all parts hold together."""
        if not len(self.falls):
            return "none: no part of the lung is opaque" if self.lung.any() else "none: no lung was found"
        gain, loss = float(self.falls[self.falls > 0].sum()), float(self.falls[self.falls < 0].sum())
        each = f"{gain:+.2f} and {loss:+.2f} in {len(self.falls)} parts of the lung"
        return f"{each}, {self.together:+.2f} in all of them at once; healthy is {self.healthy_hu:.0f} HU"


def by_boxes(model: nn.Module, grid: np.ndarray, lung: np.ndarray, window: Window, device: str = "cpu") -> Evidence:
    """Return the evidence of overlapping boxes wherever there is lung (`boxes`).

    grid: int16 HU (z, y, x); lung: the mask that is searched, of `covid3d.ct.lungs.whole_lung`.
    """
    return _evidence(model, grid, lung, boxes(lung), window, device)


def by_pieces(model: nn.Module, grid: np.ndarray, lung: np.ndarray, window: Window, device: str = "cpu") -> Evidence:
    """Return the evidence of the opaque pieces of the lung (`pieces`); grid and lung as for `by_boxes`."""
    return _evidence(model, grid, lung, pieces(grid, lung), window, device)


def opaque(grid: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """Return the voxels of the lung that are denser than aerated lung: disease, vessels, and the lung's border."""
    return lung & (grid > AERATED_HU[1])


def healthy_lung(grid: np.ndarray, lung: np.ndarray) -> float:
    """Return the median HU of the scan's aerated voxels that touch nothing opaque.

    Where there are none the aerated ones are taken, and without these the darkest twentieth of the lung. NaN without a
    lung.
    """
    if not lung.any():
        return float("nan")
    aerated = lung & (grid >= AERATED_HU[0]) & (grid <= AERATED_HU[1])
    away = aerated & ~ndimage.binary_dilation(opaque(grid, lung), np.ones((3, 3, 3), bool))
    if away.any() or aerated.any():
        return float(np.median(grid[away if away.any() else aerated]))
    return float(np.quantile(grid[lung], 0.05))


def box_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return an eighth of a grid on each axis, in voxels (z, y, x): 3x8x8 of 24x64x64."""
    z, y, x = (max(1, size // 8) for size in shape)
    return z, y, x


def boxes(lung: np.ndarray) -> list[np.ndarray]:
    """Return the lung's voxels in boxes at half steps, as flat indices; boxes of which less than half is lung are left out.

    lung: bool (z, y, x).
    """
    size = box_shape(lung.shape)
    numbers = np.arange(lung.size).reshape(lung.shape)
    starts = [range(0, all_ - one + 1, -(-one // 2)) for all_, one in zip(lung.shape, size, strict=True)]
    found = []
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                box = tuple(slice(first, first + one) for first, one in zip((z, y, x), size, strict=True))
                if 2 * lung[box].sum() >= lung[box].size:
                    found.append(numbers[box][lung[box]])
    return found


def pieces(grid: np.ndarray, lung: np.ndarray) -> list[np.ndarray]:
    """Return the connected opaque pieces of the lung as flat indices, none wider than a box, the smallest left out.

    What is connected over more than a box is cut along a fixed lattice of boxes.
    """
    size = box_shape(grid.shape)
    labels, count = ndimage.label(opaque(grid, lung))
    z, y, x = (np.arange(all_) // one for all_, one in zip(grid.shape, size, strict=True))
    tile = (z[:, None, None] * (y[-1] + 1) + y[:, None]) * (x[-1] + 1) + x
    name = np.where(labels > 0, tile * (count + 1) + labels, 0).ravel()
    order = np.argsort(name, kind="stable")
    ends = np.flatnonzero(np.diff(name[order])) + 1
    least = max(1, size[0] * size[1] * size[2] // SMALLEST_SHARE)
    return [part for part in np.split(order, ends) if labels.flat[part[0]] > 0 and len(part) >= least]


def without(grid: np.ndarray, part: np.ndarray, hu: np.ndarray | float) -> np.ndarray:
    """Return a copy of a grid whose voxels `part` (flat indices, or a mask) are `hu`, or darker where they were darker."""
    out = np.array(grid)
    if part.dtype == bool:
        part = np.flatnonzero(part)
    put = np.broadcast_to(hu, grid.shape).ravel()[part]
    out.flat[part] = np.minimum(out.flat[part], np.rint(put).astype(grid.dtype))
    return out


def falls(
    model: nn.Module,
    grid: np.ndarray,
    parts: Sequence[np.ndarray],
    hu: float,
    window: Window,
    *,
    batch_size: int = BATCH,
    device: str = "cpu",
) -> tuple[np.ndarray, float]:
    """Return how far the logit falls when each part is replaced by `hu`, float32 (P,), and the logit of the whole scan."""
    twin = for_evaluation(model, device)
    logits = [
        score_twin(twin, np.stack(changed), [window], batch_size=batch_size, device=device)[:, 0]
        for changed in _batches(grid, parts, hu, batch_size)
    ]
    together = np.concatenate(logits)
    return together[0] - together[1:], float(together[0])


def spread(values: np.ndarray, parts: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Return a map, float32 (z, y, x): each part's value divided by its volume, and the mean where parts overlap."""
    total, count = np.zeros(int(np.prod(shape))), np.zeros(int(np.prod(shape)), np.int32)
    for value, part in zip(values, parts, strict=True):
        total[part] += value / len(part)
        count[part] += 1
    return (total / np.maximum(count, 1)).reshape(tuple(shape)).astype(np.float32)


def _evidence(
    model: nn.Module, grid: np.ndarray, lung: np.ndarray, parts: Sequence[np.ndarray], window: Window, device: str
) -> Evidence:
    hu = healthy_lung(grid, lung)
    all_at_once = [np.unique(np.concatenate(parts))] if parts else []
    found, logit = falls(model, grid, [*parts, *all_at_once], hu, window, device=device)
    lost, together = found[: len(parts)], float(found[len(parts) :].sum())
    return Evidence(spread(lost, parts, grid.shape), logit, lost, together, hu, lung)


def _batches(grid: np.ndarray, parts: Sequence[np.ndarray], hu: float, size: int) -> Iterator[list[np.ndarray]]:
    """Yield the scan as it is, then without each part, `size` grids at a time."""
    for first in range(0, len(parts) + 1, size):
        numbers = range(first, min(first + size, len(parts) + 1))
        yield [without(grid, parts[number - 1], hu) if number else np.array(grid) for number in numbers]
