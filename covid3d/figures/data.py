"""Figures of 01_data: the cohort, the scan times and what a scan looks like after each step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, ORANGE, SKY, canvas, empty, plane, tidy, windowed


def cohort(counts: pd.DataFrame) -> Figure:
    """Draw the number of patients by hospital and label; columns hospital, label, patients."""
    if counts.empty:
        return empty("cells this small are not shown")
    figure, axes = canvas(height=2.6)
    table = counts.pivot_table(index="hospital", columns="label", values="patients", fill_value=0)
    left = np.zeros(len(table))
    for label, colour, name in ((1, BLUE, "COVID+"), (0, ORANGE, "COVID- pneumonia")):
        values = table[label].to_numpy(float) if label in table else np.zeros(len(table))
        bars = axes[0, 0].barh(table.index.astype(str), values, left=left, color=colour, label=name)
        axes[0, 0].bar_label(
            bars, labels=[f"{value:.0f}" if value else "" for value in values], label_type="center", color="white"
        )
        left += values
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(frameon=False, loc="lower right")
    tidy(axes[0, 0], "patients with a first scan", "hospital")
    return figure


def scan_times(table: pd.DataFrame) -> Figure:
    """Draw the scans of followed patients over time; columns patient_id, hospital, day, days_to_discharge."""
    if table.empty:
        return empty("no patient has a follow-up scan")
    figure, axes = canvas(height=4.5)
    order = table.groupby("patient_id")["day"].max().sort_values().index
    rows = {patient: row for row, patient in enumerate(order)}
    for hospital, colour in (("A", BLUE), ("C", ORANGE)):
        part = table[table["hospital"] == hospital]
        height = [rows[patient] for patient in part["patient_id"]]
        axes[0, 0].scatter(part["day"].astype(float), height, s=12, color=colour, label=f"hospital {hospital}: scans")
    last = table.sort_values("day").groupby("patient_id").tail(1)
    leaves = last["day"].astype(float) + last["days_to_discharge"].astype(float)
    axes[0, 0].scatter(
        leaves, [rows[patient] for patient in last["patient_id"]], marker="|", s=30, color="black", label="discharge"
    )
    axes[0, 0].legend(frameon=False)
    tidy(axes[0, 0], "days since the first scan", "patient")
    return figure


def planes(grids: Mapping[str, np.ndarray], spacing: Sequence[float], level: float, width: float) -> Figure:
    """Draw the middle planes of several HU grids (z, y, x); spacing (z, y, x) in mm, window in HU."""
    if not grids:
        return empty("no lung was found")
    figure, axes = canvas(len(grids), 3, width=7.5, height=2.4 * len(grids))
    for row, (name, grid) in enumerate(grids.items()):
        grey = windowed(grid, level, width)
        for column, which in enumerate(("axial", "coronal", "sagittal")):
            middle = grid.shape[column] // 2
            plane(axes[row, column], grey, middle, which, spacing, cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_title(f"{name}: {which}" if column == 0 else which, fontsize=9, loc="left")
    return figure


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
