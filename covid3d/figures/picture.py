"""A scan as pictures show it: what is cut out, the point its planes meet in, and how a map is laid over it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy import ndimage

from covid3d.figures.style import overlay, plane, windowed

AXES = ("axial", "coronal", "sagittal")
OUTLINE, CROSS = "#F0E442", "#00E5FF"
SHARPNESS = 200
"""Dots an inch of figures that show CT, so that they stay sharp on dense screens."""
SCALED_TO = 0.995
"""Colours end at this quantile of a map's size within the lungs."""


class Picture(NamedTuple):
    """A scan cut to what is shown.

    hu: HU (z, y, x); spacing: mm (z, y, x); lung, ill: bool, like hu, with ill the true lesions or, without truth, what is
    opaque in the lung; lesions: share of each voxel that is lesion, None without truth; at: the voxel that planes go through;
    where: what lies there, in words; first, step: where voxel 0 lies on the network's grid, and how far it is to the next.
    """

    hu: np.ndarray
    spacing: tuple[float, float, float]
    lung: np.ndarray
    ill: np.ndarray
    lesions: np.ndarray | None
    at: tuple[int, int, int]
    where: str
    first: tuple[float, float, float]
    step: tuple[float, float, float]

    def lay(self, values: np.ndarray) -> np.ndarray:
        """Return a map of the network's grid (z, y, x) interpolated linearly to the voxels that are shown, float32."""
        return ndimage.affine_transform(
            np.asarray(values, np.float32), self.step, self.first, self.hu.shape, order=1, mode="nearest"
        )

    def says(self, heat: np.ndarray) -> str:
        """Return what a caption says of the point where planes meet, and of the map's peak; heat: a map that was laid."""
        peak = peak_of(heat)
        way = np.linalg.norm((np.array(peak) - self.at) * self.spacing)
        side = "in" if self.lung[peak] else "outside"
        return (
            f"The planes meet in {self.where} ({self.hu[self.at]:.0f} HU, map {heat[self.at]:+.2g} logit a voxel); "
            f"the cross is the map's peak ({heat[peak]:+.2g}), {way:.0f} mm from where they meet and {side} the lungs"
        )


def middle_of(mask: np.ndarray, spacing: Sequence[float]) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) of the largest connected part of a mask that lies deepest inside it; spacing in mm."""
    labels, _ = ndimage.label(mask)
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    box = ndimage.find_objects(labels)[largest - 1]
    depth = ndimage.distance_transform_edt(np.pad(labels[box] == largest, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    inside = np.unravel_index(int(depth.argmax()), depth.shape)
    z, y, x = (int(side.start + at) for side, at in zip(box, inside, strict=True))
    return z, y, x


def peak_of(heat: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) where a map is highest."""
    z, y, x = (int(at) for at in np.unravel_index(int(np.argmax(heat)), heat.shape))
    return z, y, x


def limit_of(pictures: Sequence[Picture], heats: Sequence[np.ndarray]) -> float:
    """Return where the colours of laid maps end: a quantile of their size in the lungs, or everywhere where there are none."""
    parts = [
        np.abs(heat[one.lung] if one.lung.any() else heat.ravel()) for one, heat in zip(pictures, heats, strict=True)
    ]
    return float(np.quantile(np.concatenate(parts), SCALED_TO))


def widths_of(picture: Picture) -> tuple[float, float, float]:
    """Return widths of the three planes that give them one height."""
    z, y, x = (size * step for size, step in zip(picture.hu.shape, picture.spacing, strict=True))
    return x / y, x / z, y / z


def levels(pictures: Sequence[Picture]) -> list[int]:
    """Return one axial slice a scan at one height of the lungs: where the scan with most disease has most of it."""
    ill = [picture.ill.sum((1, 2)) for picture in pictures]
    worst = int(np.argmax([counts.sum() / max(one.lung.sum(), 1) for counts, one in zip(ill, pictures, strict=True)]))
    spans = [_span(one.lung) for one in pictures]
    low, high = spans[worst]
    share = (int(ill[worst].argmax()) - low) / max(high - low, 1)
    return [round(low + share * (high - low)) for low, high in spans]


def _span(lung: np.ndarray) -> tuple[int, int]:
    rows = np.flatnonzero(lung.any(axis=(1, 2)))
    return (int(rows[0]), int(rows[-1])) if len(rows) else (0, len(lung) - 1)


def draw_plane(
    axes: Axes,
    picture: Picture,
    window: tuple[float, float],
    which: str = "axial",
    index: int | None = None,
    heat: np.ndarray | None = None,
    limit: float = 0.0,
) -> Any:
    """Draw one plane with the outline of the lesions, and over it a laid map with a cross at its peak; return the image.

    window: (level, width) in HU; index: the slice, by default that of `picture.at`. The cross stands where the peak lies in
    the plane's two directions, whole at an edge as well; it is thin when the peak is of another slice, and a map that is nowhere
    above 0 has none.
    """
    axis = AXES.index(which)
    index = picture.at[axis] if index is None else index
    grey = windowed(picture.hu, *window)
    if heat is None:
        image = plane(axes, grey, index, which, picture.spacing, cmap="gray", vmin=0, vmax=1)
    else:
        image = overlay(axes, grey, heat, index, which, picture.spacing, limit)
        peak = peak_of(heat)
        down, right = (at for other, at in enumerate(peak) if other != axis)
        if heat[peak] > 0:
            thick = 2.0 if peak[axis] == index else 0.8
            axes.plot(right, down, "+", color=CROSS, markersize=10, markeredgewidth=thick, clip_on=False)
    if picture.lesions is not None:
        lesions = np.take(picture.lesions, index, axis=axis)
        if lesions.min() < 0.5 < lesions.max():
            axes.contour(lesions, levels=[0.5], colors=OUTLINE, linewidths=0.8)
    return image


def add_scale(figure: Any, image: Any, axes: Any, limit: float, label: str = "") -> None:
    """Draw the colour scale of a map beside axes, from -limit to limit."""
    ticks = [-limit, 0.0, limit] if limit > 0 else [0.0]
    bar = figure.colorbar(image, ax=axes, shrink=0.85, label=label, ticks=ticks, extend="both")
    bar.ax.set_yticklabels([f"{value:.1g}" for value in ticks])
