"""Figures of 01_data: the cohort, the scan times and what a scan looks like on the network's grid."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.picture import AXES, SHARPNESS, Picture, draw_plane, widths_of
from covid3d.figures.style import BLUE, GREY, HOSPITALS, ORANGE, canvas, empty, plane, tidy, windowed

Scan = tuple[np.ndarray, Sequence[float]]
"""HU on a grid (z, y, x) and the voxel size (z, y, x) in mm."""


def cohort(counts: pd.DataFrame) -> Figure:
    """Draw the number of patients by hospital and label; columns hospital, label, patients."""
    if counts.empty:
        return empty("there is no patient with a first scan")
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
    """Draw the scans of followed patients over time; columns patient_id, hospital, day, days_to_discharge, censored."""
    dated = table.dropna(subset=["day"])
    if dated.empty:
        return empty("no patient has a follow-up scan with a day")
    figure, axes = canvas(height=4.5)
    order = dated.groupby("patient_id")["day"].max().sort_values().index
    rows = {patient: row for row, patient in enumerate(order)}
    for hospital, part in dated.groupby("hospital"):
        height = [rows[patient] for patient in part["patient_id"]]
        colour = HOSPITALS.get(str(hospital), GREY)
        axes[0, 0].scatter(part["day"].astype(float), height, s=12, color=colour, label=f"hospital {hospital}: scans")
    last = dated.sort_values("day").groupby("patient_id").tail(1).dropna(subset=["days_to_discharge"])
    for censored, mark, name in ((False, "|", "discharge or death"), (True, ">", "still in hospital")):
        part = last[(last["censored"] == 1).fillna(False).astype(bool) == censored]
        ends = part["day"].astype(float) + part["days_to_discharge"].astype(float)
        height = [rows[patient] for patient in part["patient_id"]]
        if height:
            axes[0, 0].scatter(ends, height, marker=mark, s=30, color="black", label=name)
    axes[0, 0].legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
    tidy(axes[0, 0], "days since the first scan", "patient")
    return figure


def planes(scans: Mapping[str, Scan], level: float, width: float) -> Figure:
    """Draw the middle planes of several scans by name, each with its own voxel size; window in HU."""
    if not scans:
        return empty("no scan of this kind was accepted")
    figure, axes = canvas(len(scans), 3, width=7.5, height=2.4 * len(scans))
    for row, (name, (grid, spacing)) in enumerate(scans.items()):
        grey = windowed(grid, level, width)
        for column, which in enumerate(("axial", "coronal", "sagittal")):
            middle = grid.shape[column] // 2
            plane(axes[row, column], grey, middle, which, spacing, cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_title(f"{name}: {which}" if column == 0 else which, fontsize=9, loc="left")
    return figure


def closely(fine: Picture, coarse: Picture, window: tuple[float, float]) -> Figure:
    """Draw a scan in three planes in finer voxels, and beneath as the network sees it; window: (level, width) in HU."""
    if not fine.hu.size:
        return empty("no lung was found")
    figure, axes = canvas(2, 3, width=7.0, height=4.2, dpi=SHARPNESS, gridspec_kw={"width_ratios": widths_of(fine)})
    above = "as stored" if fine.step == coarse.step else "finer voxels"
    for row, (one, name) in enumerate(((fine, above), (coarse, "to the network"))):
        for column, which in enumerate(AXES):
            draw_plane(axes[row, column], one, window, which)
            axes[0, column].set_title(which, fontsize=12, loc="left")
        axes[row, 0].set_ylabel(name, fontsize=12)
    return figure
