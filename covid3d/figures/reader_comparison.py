"""Figures of 05_reader_comparison: readers and model, with intervals."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREEN, GREY, ORANGE, canvas, empty, tidy


def shares(table: pd.DataFrame) -> Figure:
    """Draw shares with their intervals; columns rater, hospital, measure, share (an Estimate in per cent)."""
    if table.empty:
        return empty("no reader has read a scan")
    hospitals, raters = sorted(table["hospital"].unique()), list(table["rater"].unique())
    figure, axes = canvas(1, len(hospitals), width=4.4 * len(hospitals), height=3.0, sharex=True)
    for column, hospital in enumerate(hospitals):
        for shift, measure, colour in ((-0.12, "sensitivity", BLUE), (0.12, "specificity", ORANGE)):
            part = table[(table["hospital"] == hospital) & (table["measure"] == measure)]
            value, low, high = (
                np.array([(share.value, share.low, share.high) for share in part["share"]]).reshape(-1, 3).T
            )
            axes[0, column].errorbar(
                value,
                [raters.index(rater) + shift for rater in part["rater"]],
                xerr=np.clip([value - low, high - value], 0, None),
                fmt="o",
                color=colour,
                label=measure,
            )
        axes[0, column].set_yticks(range(len(raters)), raters)
        axes[0, column].invert_yaxis()
        tidy(axes[0, column], "%, with 95 % interval", "", f"hospital {hospital}")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    return figure


def roc_with_readers(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], points: pd.DataFrame) -> Figure:
    """Draw the model's ROC curve at each hospital with the readers' points.

    curves: sensitivity and specificity (T,) as shares by hospital; points: rater, hospital, sensitivity, specificity (%).
    """
    if not curves:
        return empty("no hospital has both classes")
    figure, axes = canvas(1, len(curves), width=4.2 * len(curves), height=4.0)
    for plot, (hospital, (sensitivity, specificity)) in zip(axes[0], curves.items(), strict=True):
        plot.plot(100 - 100 * specificity, 100 * sensitivity, color=BLUE, label="COVID3D")
        for (rater, part), shape in zip(points[points["hospital"] == hospital].groupby("rater"), "^v*sD", strict=False):
            place = 100 - part["specificity"], part["sensitivity"]
            plot.scatter(*place, marker=shape, s=60, color="black", label=str(rater), zorder=3)
        plot.plot([0, 100], [0, 100], ":", color=GREY, linewidth=1)
        plot.set(aspect="equal", xlim=(-2, 102), ylim=(-2, 102))
        plot.legend(frameon=False, fontsize=8, loc="lower right")
        tidy(plot, "100 - specificity, %", "sensitivity, %", f"hospital {hospital}")
    return figure


def equivalence(table: pd.DataFrame, margin_points: float) -> Figure:
    """Draw differences model - reader in points; table: index rater, hospital, measure, columns difference, 90 % from, to."""
    if table.empty:
        return empty("no paired calls")
    figure, axes = canvas(width=7.5, height=0.6 + 0.32 * len(table) + 0.6)
    plot, rows = axes[0, 0], range(len(table))
    value, low, high = table[["difference", "90 % from", "90 % to"]].to_numpy(float).T
    error = np.clip([value - low, high - value], 0, None)
    plot.axvspan(-margin_points, margin_points, color=GREEN, alpha=0.15, linewidth=0)
    plot.errorbar(value, rows, xerr=error, fmt="o", color=BLUE)
    plot.axvline(0, color=GREY, linewidth=1)
    plot.set_yticks(rows, [f"{measure} at {hospital}, COVID3D - {rater}" for rater, hospital, measure in table.index])
    plot.invert_yaxis()
    tidy(plot, "model minus reader, points (90 % interval); green: margin")
    return figure
