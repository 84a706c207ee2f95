"""Figures of 05_reader_comparison: readers and model, with intervals; hollow marks are printed values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREEN, GREY, ORANGE, canvas, empty, tidy

COLOURS = {"sensitivity": BLUE, "specificity": ORANGE}
READER_SHAPES, MODEL_SHAPES = "^v*dP", "os"


def shares(table: pd.DataFrame) -> Figure:
    """Draw shares with their intervals and counts; one panel a hospital, the legend below.

    table: rater, hospital, measure, share (an Estimate in per cent), k, n, published (per cent, NaN where none is printed).
    """
    if table.empty:
        return empty("no reader has read a scan")
    hospitals, raters = sorted(table["hospital"].unique()), list(table["rater"].unique())
    height = 1.3 + 0.62 * len(raters)
    figure, axes = canvas(1, len(hospitals), width=1.6 + 3.8 * len(hospitals), height=height, sharex=True, sharey=True)
    for plot, hospital in zip(axes[0], hospitals, strict=True):
        for shift, (measure, colour) in zip((-0.18, 0.18), COLOURS.items(), strict=True):
            part = table[(table["hospital"] == hospital) & (table["measure"] == measure)]
            rows = [raters.index(rater) + shift for rater in part["rater"]]
            value, low, high = np.array([(s.value, s.low, s.high) for s in part["share"]]).reshape(-1, 3).T
            error = np.clip([value - low, high - value], 0, None)
            plot.errorbar(value, rows, xerr=error, fmt="o", color=colour, label=f"{measure}, this run")
            plot.plot(part["published"], rows, "D", color=colour, markerfacecolor="white", label=f"{measure}, printed")
            for row, k, n in zip(rows, part["k"], part["n"], strict=True):
                plot.text(104, row, f"{k} of {n}", va="center", fontsize=7, color=GREY)
        plot.set(yticks=range(len(raters)), yticklabels=raters, xlim=(-3, 124), xticks=range(0, 101, 25))
        tidy(plot, "%, with 95 % interval", "", f"hospital {hospital}")
    axes[0, 0].invert_yaxis()
    return _legend_below(figure, axes[0], columns=4)


def roc_with_readers(
    curves: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], points: pd.DataFrame, printed: pd.DataFrame
) -> Figure:
    """Draw the ROC curves of model and readers at each hospital with the points of this run and the printed ones.

    curves: sensitivity and specificity (T,) as shares, by hospital and rater; points and printed: rater, hospital, sensitivity,
    specificity (%). A printed point is hollow and has the shape of the rater beside whom it stands.
    """
    hospitals = sorted({hospital for hospital, _ in curves})
    if not hospitals:
        return empty("no hospital has both classes")
    figure, axes = canvas(1, len(hospitals), width=4.2 * len(hospitals), height=5.2)
    for plot, hospital in zip(axes[0], hospitals, strict=True):
        for rater in (rater for place, rater in curves if place == hospital):
            sensitivity, specificity = curves[hospital, rater]
            name, colour, width = (
                ("network, by its score", BLUE, 1.5)
                if rater.startswith("COVID3D")
                else ("readers, by confidence", GREY, 0.8)
            )
            plot.plot(100 - 100 * specificity, 100 * sensitivity, label=name, color=colour, linewidth=width)
        _draw_points(plot, points[points["hospital"] == hospital], hollow=False)
        _draw_points(plot, printed[printed["hospital"] == hospital], hollow=True)
        plot.plot([0, 100], [0, 100], ":", color=GREY, linewidth=1)
        plot.set(aspect="equal", xlim=(-2, 102), ylim=(-2, 102))
        tidy(plot, "100 - specificity, %", "sensitivity, %", f"hospital {hospital}")
    return _legend_below(figure, axes[0], columns=3)


def _draw_points(plot: Axes, points: pd.DataFrame, *, hollow: bool) -> None:
    """Draw one hospital's operating points: the model's in colour, the readers' in black, one shape a rater."""
    models = [rater.startswith("COVID3D") for rater in points["rater"]]
    for chosen, shapes, colour in (
        (points[models], MODEL_SHAPES, BLUE),
        (points[np.invert(models)], READER_SHAPES, "black"),
    ):
        places = chosen.sort_values("rater")[["rater", "specificity", "sensitivity"]].to_dict("records")
        for row, shape in zip(places, shapes, strict=False):
            name, face = (f"{row['rater']}, printed", "white") if hollow else (row["rater"], colour)
            place = 100 - row["specificity"], row["sensitivity"]
            options: dict[str, Any] = {
                "marker": shape,
                "s": 55,
                "facecolors": face,
                "edgecolors": colour,
                "zorder": 3 + hollow,
            }
            plot.scatter(*place, label=name, **options)


def _legend_below(figure: Figure, axes: np.ndarray, columns: int) -> Figure:
    """Put one legend of all panels under them, each name once."""
    known: dict[str, Any] = {}
    for plot in axes:
        for handle, name in zip(*plot.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    figure.legend(
        list(known.values()), list(known), loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
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
    tidy(plot, "network minus reader, points (90 % interval); right of 0 the network is higher; green: margin")
    return figure
