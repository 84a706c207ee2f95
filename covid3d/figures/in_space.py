"""A scan seen from outside: masks as solids and as glass, by first hit and shading, in parallel projection.

Numpy alone: VTK's wheel has half a gigabyte and draws nothing without libraries of X11 or EGL, which a bare server lacks.
"""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage

from covid3d.figures.picture import AXES, OUTLINE, SHARPNESS, Picture
from covid3d.figures.style import canvas, empty, plane

VIEWS = {
    "coronal": ("from the front", (0.45, -0.75, -0.45)),
    "sagittal": ("from the left", (0.45, -0.45, 0.75)),
    "axial": ("from below", (-0.75, -0.45, -0.45)),
}
"""By the plane whose picture has the same sides: where one looks from, and the way (z, y, x) to the light, above left of it."""
HOT, HALF = "#FF3B30", 0.5
"""Colour of the part of a map that is drawn, and the share of its peak that it is above."""
SMOOTH_MM = 2.5
"""Of the steps of masks, which would be seen as terraces."""
GLASS, DARKEST = 0.5, 0.25
"""How opaque glass is, and how bright what lies in the shade."""


def of_peak(heat: np.ndarray) -> np.ndarray:
    """Return a laid map as shares of its peak; 0 where it is below 0, and everywhere when it is nowhere above 0."""
    return np.maximum(heat, 0) / max(float(heat.max()), 1e-12)


def seen(solid: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, np.ndarray]:
    """Return how bright a solid's surface is, from 0 to 1, as the picture of each of `VIEWS`; NaN where a ray meets nothing.

    solid: what is above `HALF` (z, y, x); spacing: mm. A ray stops in the first voxel that is above it, once all is made
    smooth; how much that place faces the light follows from the slope there.
    """
    sigma = [SMOOTH_MM / step for step in spacing]
    solid = np.asarray(solid, np.float32)
    hit = ndimage.gaussian_filter(solid, sigma) > HALF
    slopes = [ndimage.gaussian_filter(solid, sigma, order=np.eye(3, dtype=int)[axis]) for axis in range(3)]
    found = {}
    for which, (_, light) in VIEWS.items():
        axis = AXES.index(which)
        near = hit.shape[axis] - 1 - np.flip(hit, axis).argmax(axis) if light[axis] > 0 else hit.argmax(axis)
        at = np.expand_dims(near, axis)
        outward = [-np.take_along_axis(s, at, axis) / step for s, step in zip(slopes, spacing, strict=True)]
        facing = np.tensordot(light, outward, 1) / (np.linalg.norm(outward, axis=0) + 1e-12)
        bright = np.clip(facing, 0, 1).squeeze(axis)
        found[which] = np.where(hit.any(axis), bright, np.nan)
    return found


def in_space(picture: Picture, heat: np.ndarray) -> Figure:
    """Draw a scan from three sides on one scale: grey glass lungs, true lesions, and a map's hottest part.

    heat: a laid map (z, y, x). Lesions are solid; where the map is above half of its peak, red glass lies before all else.
    """
    if not picture.hu.size:
        return empty("no lung was found")
    lesions = np.zeros(picture.hu.shape) if picture.lesions is None else picture.lesions
    layers = [(lesions, OUTLINE, 1.0), (picture.lung, "white", GLASS), (of_peak(heat), HOT, GLASS)]
    parts = [(seen(mask, picture.spacing), np.array(to_rgb(colour)), opaque) for mask, colour, opaque in layers]
    z, y, x = (size * step for size, step in zip(picture.hu.shape, picture.spacing, strict=True))
    sizes: dict[str, Any] = {
        "width": 7.0,
        "height": 6.85 * z / (2 * x + y) + 0.3,
        "gridspec_kw": {"width_ratios": (x, y, x)},
    }
    figure, axes = canvas(1, 3, dpi=SHARPNESS, **sizes)
    for plot, (which, (name, _)) in zip(axes[0], VIEWS.items(), strict=True):
        axis = AXES.index(which)
        image = np.zeros((*np.delete(picture.hu.shape, axis), 3))
        for bright, colour, opaque in parts:
            alpha = opaque * np.isfinite(bright[which])[..., None]
            lit = DARKEST + (1 - DARKEST) * np.nan_to_num(bright[which])[..., None]
            image = image * (1 - alpha) + alpha * lit * colour
        plane(plot, np.expand_dims(image, axis), 0, which, picture.spacing, interpolation="bilinear")
        plot.set_title(name, fontsize=12, loc="left")
        plot.set_anchor("N")
    return figure
