"""The picture that `covid3d predict` leaves beside its map: three planes, the signed map over them, and what it is."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from covid3d.figures.style import canvas, overlay, plane, windowed


def three_planes(
    hu: np.ndarray,
    heat: np.ndarray,
    spacing_mm: Sequence[float],
    centre: Sequence[int],
    window: tuple[float, float],
    lines: Sequence[str],
) -> Figure:
    """Draw a scan through `centre` (z, y, x) without and with its signed map, and `lines` below.

    hu: HU (z, y, x); heat: the signed map, same shape; spacing_mm: (z, y, x); window: (level, width) in HU.
    """
    level, width = window
    grey = windowed(hu, level, width)
    limit = float(np.abs(heat).max())
    figure, axes = canvas(2, 3, width=8.5, height=6.0)
    for column, which in enumerate(("axial", "coronal", "sagittal")):
        plane(axes[0, column], grey, int(centre[column]), which, spacing_mm, cmap="gray", vmin=0, vmax=1)
        image = overlay(axes[1, column], grey, heat, int(centre[column]), which, spacing_mm, limit)
        axes[0, column].set_title(which, fontsize=9, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.7, label="signed map (red: raises the logit, blue: lowers it)")
    text = [f"RESEARCH USE ONLY · window {level:g}/{width:g} HU · patient's right on the left", *lines]
    figure.supxlabel("\n".join(text), fontsize=8)
    return figure
