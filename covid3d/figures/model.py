"""Figures of 02_model: one scan in several windows, and where the parameters lie."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, canvas, plane, tidy, windowed


def windows(grid: np.ndarray, spacing: Sequence[float], chosen: Sequence[tuple[float, float]]) -> Figure:
    """Draw the middle axial plane of a HU grid in several windows (level, width)."""
    figure, axes = canvas(1, len(chosen), width=2.5 * len(chosen), height=2.7)
    for column, (level, width) in enumerate(chosen):
        grey = windowed(grid, level, width)
        plane(axes[0, column], grey, grid.shape[0] // 2, "axial", spacing, cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(f"{level:.0f}/{width:.0f} HU", fontsize=9, loc="left")
    return figure


def parameters(layers: pd.DataFrame) -> Figure:
    """Draw the number of parameters of each block; columns block, parameters."""
    figure, axes = canvas(height=3.6)
    axes[0, 0].barh(layers["block"], layers["parameters"], color=BLUE)
    axes[0, 0].invert_yaxis()
    tidy(axes[0, 0], "parameters")
    return figure
