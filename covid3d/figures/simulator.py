"""Figures of 09_simulator: a picture of simulated patients, the evidence in a scan, and numbers beside real scans."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREY, ORANGE, SKY, canvas, empty, tidy


def picture(path: Path, width: float = 10.0) -> Figure:
    """Draw a stored picture, `width` inches wide and without axes; says so where the file is missing."""
    if not path.is_file():
        return empty(f"{path.name} has not been made")
    pixels = matplotlib.image.imread(path)
    figure = Figure(figsize=(width, width * pixels.shape[0] / pixels.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, cmap="gray", interpolation="lanczos")
    axes.axis("off")
    return figure


def evidence(scans: pd.DataFrame) -> Figure:
    """Draw the perfect reader's logit against the share of lung that is ill; columns label, burden_fraction, oracle_logit."""
    if scans.empty:
        return empty("no scan has a known truth")
    figure, axes = canvas(height=3.2)
    for label, colour, name in ((1, BLUE, "COVID+"), (0, ORANGE, "COVID-")):
        part = scans[scans["label"] == label]
        axes[0, 0].scatter(100 * part["burden_fraction"], part["oracle_logit"], s=10, color=colour, label=name)
    axes[0, 0].axhline(0, color=GREY, linewidth=1, linestyle=":")
    axes[0, 0].legend(frameon=False)
    tidy(axes[0, 0], "lung that is ill, %", "logit of the perfect reader")
    return figure


def realism(table: pd.DataFrame, sources: Sequence[str]) -> Figure:
    """Draw each number of real scans (dots) against the phantom's range (bar), both divided by the phantom's median.

    table: columns number, phantom_min, phantom_median, phantom_max and one column a real source.
    """
    figure, axes = canvas(height=0.22 * len(table) + 1)
    scale = table["phantom_median"].where(table["phantom_median"].abs() > 1e-6)
    rows = np.arange(len(table))
    low, high = table["phantom_min"] / scale, table["phantom_max"] / scale
    axes[0, 0].barh(rows, high - low, left=low, color=SKY, height=0.6, label="phantom, smallest to largest")
    for source, mark in zip(sources, "os^Dv", strict=False):
        axes[0, 0].scatter(table[source] / scale, rows, marker=mark, s=16, color="black", label=source, zorder=3)
    axes[0, 0].set_yticks(rows, table["number"].str.replace("_", " "), fontsize=8)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    tidy(axes[0, 0], "value / phantom's median")
    return figure
