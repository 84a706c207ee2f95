"""Figures of 04_external_tests: Figure 1, ROC, calibration and decision curves, the window curve, and drawn cases."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covid3d.figures.privacy import WHOLE, Box
from covid3d.figures.style import (
    BLUE,
    GREY,
    HOSPITALS,
    MODELS,
    ORANGE,
    canvas,
    empty,
    overlay,
    peak_position,
    plane,
    tidy,
    windowed,
)

NAMES = {"covid3d": "COVID3D", "resnet_2d": "2D baseline", "covid3d_ensemble": "ensemble", "tuned": "COVID3D* (tuned)"}


def figure_1(
    grid: np.ndarray,
    heat: np.ndarray,
    spacing: Sequence[float],
    level: float,
    width: float,
    lesions: np.ndarray | None = None,
    box: Box = WHOLE,
) -> Figure:
    """Draw a scan in three planes through the map's peak, without and with the signed map.

    grid: HU (z, y, x); heat: same shape; lesions: share of each voxel (z, y, x), outlined when given; box: what is
    shown of all three.
    """
    grid, heat, lesions = grid[box], heat[box], None if lesions is None else lesions[box]
    if not grid.size:
        return empty("no lung was found")
    grey, centre = windowed(grid, level, width), peak_position(heat)
    limit = float(np.abs(heat).max())
    figure, axes = canvas(2, 3, width=8.5, height=5.4)
    for column, which in enumerate(("axial", "coronal", "sagittal")):
        plane(axes[0, column], grey, centre[column], which, spacing, cmap="gray", vmin=0, vmax=1)
        image = overlay(axes[1, column], grey, heat, centre[column], which, spacing, limit)
        axes[0, column].set_title(which, fontsize=9, loc="left")
        if lesions is not None:
            _outline(axes[0, column], np.take(lesions, centre[column], axis=column))
    figure.colorbar(image, ax=axes, shrink=0.7, label="signed map (red: more COVID-like)")
    return figure


def side_by_side(
    grid: np.ndarray,
    maps: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    level: float,
    width: float,
    lesions: np.ndarray | None = None,
    box: Box = WHOLE,
) -> Figure:
    """Draw one axial plane of a scan, and over it each of several signed maps on a scale of its own.

    The plane is that of the last map's peak. grid: HU (z, y, x); maps: same shape by name; lesions: outlined in every panel.
    """
    grid, lesions = grid[box], None if lesions is None else lesions[box]
    shown = {name: values[box] for name, values in maps.items()}
    if not grid.size or not shown:
        return empty("no lung was found" if shown else "this scan has no map")
    grey, z = windowed(grid, level, width), peak_position([*shown.values()][-1])[0]
    figure, axes = canvas(1, 1 + len(shown), width=2.5 * (1 + len(shown)), height=2.9)
    plane(axes[0, 0], grey, z, "axial", spacing, cmap="gray", vmin=0, vmax=1)
    for column, (name, values) in enumerate(shown.items(), start=1):
        overlay(axes[0, column], grey, values, z, "axial", spacing, float(np.abs(values).max()))
        axes[0, column].set_title(name, fontsize=9, loc="left")
    axes[0, 0].set_title("scan", fontsize=9, loc="left")
    if lesions is not None:
        for plot in axes[0]:
            _outline(plot, lesions[z])
    return figure


def _outline(axes: Axes, lesions: np.ndarray) -> None:
    """Outline where at least half of a pixel is lesion; nothing where no pixel, or every one, is."""
    if lesions.min() < 0.5 < lesions.max():
        axes.contour(lesions, levels=[0.5], colors="#F0E442", linewidths=0.8)


def roc(points: pd.DataFrame, hospitals: Sequence[str]) -> Figure:
    """Draw ROC curves, one panel a hospital; columns model, hospital, false_positive, true_positive."""
    if points.empty:
        return empty("no hospital has both classes")
    figure, axes = canvas(1, len(hospitals), width=4.2 * len(hospitals), height=4.0)
    for column, hospital in enumerate(hospitals):
        plot = axes[0, column]
        for model, part in points[points["hospital"] == hospital].groupby("model", sort=False):
            plot.plot(
                part["false_positive"],
                part["true_positive"],
                color=MODELS.get(str(model), GREY),
                label=NAMES.get(str(model), str(model)),
            )
        plot.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1)
        plot.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        plot.legend(frameon=False, fontsize=8, loc="lower right")
        tidy(plot, "1 - specificity", "sensitivity", f"hospital {hospital}")
    return figure


def calibration(curves: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Draw what share of patients has the disease over what the scores say, one panel a hospital, one line a kind of score.

    Columns predicted, observed, low, high; bars are the limits of each share.
    """
    if not any(len(table) for kinds in curves.values() for table in kinds.values()):
        return empty("too few patients for a calibration curve")
    figure, axes = canvas(1, len(curves), width=3.6 * len(curves), height=3.6)
    for plot, (hospital, kinds) in zip(axes[0], curves.items(), strict=True):
        plot.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1)
        for (kind, table), colour in zip(kinds.items(), (ORANGE, BLUE), strict=False):
            if table.empty:
                continue
            predicted, observed, low, high = table[["predicted", "observed", "low", "high"]].to_numpy(float).T
            bars = [observed - low, high - observed]
            plot.errorbar(predicted, observed, bars, color=colour, marker="o", capsize=2, linewidth=1, label=kind)
        plot.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        tidy(plot, "probability by the score", "share with COVID-19", f"hospital {hospital}")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def decision_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw net benefit over the threshold, one panel a hospital; columns threshold, score, all, none."""
    if not curves:
        return empty("there is no recalibrated score outside A")
    figure, axes = canvas(1, len(curves), width=4.2 * len(curves), height=3.2)
    for plot, (hospital, table) in zip(axes[0], curves.items(), strict=True):
        for name, colour, label in (
            ("all", ORANGE, "treat all"),
            ("none", GREY, "treat none"),
            ("score", BLUE, "COVID3D"),
        ):
            plot.plot(table["threshold"], table[name], color=colour, label=label)
        plot.set_ylim(-0.15, max(table[["score", "all"]].max().max() * 1.1, 0.1))
        tidy(plot, "probability from which one would treat", "net benefit", f"hospital {hospital}")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def window_curve(curve: pd.DataFrame) -> Figure:
    """Draw the AUC over how far the windows are spread; columns hospital, multiple, mean, sd, lowest."""
    if curve.empty:
        return empty("no window was scored")
    figure, axes = canvas(height=3.2)
    for hospital, part in curve.groupby("hospital"):
        colour = HOSPITALS.get(str(hospital), GREY)
        axes[0, 0].errorbar(
            part["multiple"],
            part["mean"],
            part["sd"].fillna(0),
            color=colour,
            marker="o",
            capsize=3,
            label=f"hospital {hospital}",
        )
        axes[0, 0].plot(part["multiple"], part["lowest"], ":", color=colour, linewidth=1)
    axes[0, 0].axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes[0, 0].legend(frameon=False, title="mean ± SD; dotted: lowest", fontsize=8, title_fontsize=8)
    tidy(axes[0, 0], "spread of the windows, in SDs of the profile", "AUC")
    return figure


def examples(
    cases: Sequence[tuple[str, np.ndarray, np.ndarray, Sequence[float]]], level: float, width: float
) -> Figure:
    """Draw cases (name, HU grid, map, voxels in mm) as one axial plane each through the map's peak, one colour scale for all."""
    cases = [case for case in cases if case[1].size]
    if not cases:
        return empty("no case was drawn")
    limit = max(float(np.abs(heat).max()) for _, _, heat, _ in cases)
    figure, axes = canvas(1, len(cases), width=2.4 * len(cases) + 0.6, height=2.9)
    for column, (name, grid, heat, spacing) in enumerate(cases):
        z = peak_position(np.abs(heat))[0]
        image = overlay(axes[0, column], windowed(grid, level, width), heat, z, "axial", spacing, limit)
        axes[0, column].set_title(name, fontsize=9, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.7, label="signed map")
    return figure
