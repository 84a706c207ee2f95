"""Figures of 04_external_tests: Figure 1, ROC curves, the window curve, and drawn example cases."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.picture import AXES, SHARPNESS, Picture, add_scale, draw_plane, limit_of, widths_of
from covid3d.figures.style import GREY, HOSPITALS, MODELS, canvas, empty, tidy

NAMES = {"covid3d": "COVID3D", "resnet_2d": "2D baseline", "covid3d_ensemble": "ensemble", "tuned": "COVID3D* (tuned)"}


def figure_1(picture: Picture, heat: np.ndarray, window: tuple[float, float]) -> Figure:
    """Draw a scan in three planes through `picture.at`, without and with a map (z, y, x) that was laid over it."""
    if not picture.hu.size:
        return empty("no lung was found")
    limit = limit_of([picture], [heat])
    figure, axes = canvas(2, 3, width=7.0, height=4.0, dpi=SHARPNESS, gridspec_kw={"width_ratios": widths_of(picture)})
    for column, which in enumerate(AXES):
        draw_plane(axes[0, column], picture, window, which)
        image = draw_plane(axes[1, column], picture, window, which, heat=heat, limit=limit)
        axes[0, column].set_title(which, fontsize=12, loc="left")
    add_scale(figure, image, axes[1, :], limit, "red: more COVID-like")
    return figure


def side_by_side(picture: Picture, maps: Mapping[str, np.ndarray], window: tuple[float, float]) -> Figure:
    """Draw one axial plane of a scan through `picture.at`, and over it each of several laid maps on a scale of its own."""
    if not picture.hu.size or not maps:
        return empty("no lung was found" if maps else "this scan has no map")
    figure, axes = canvas(1, 1 + len(maps), width=1.8 * (1 + len(maps)), height=1.9, dpi=SHARPNESS)
    draw_plane(axes[0, 0], picture, window)
    for column, (name, heat) in enumerate(maps.items(), start=1):
        draw_plane(axes[0, column], picture, window, heat=heat, limit=limit_of([picture], [heat]))
        axes[0, column].set_title(name, fontsize=10, loc="left")
    axes[0, 0].set_title("scan", fontsize=10, loc="left")
    return figure


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


def examples(cases: Sequence[tuple[str, Picture, np.ndarray]], window: tuple[float, float]) -> Figure:
    """Draw cases (name, picture, laid map) in one axial plane each, without and with the map, one colour scale for all."""
    cases = [case for case in cases if case[1].hu.size]
    if not cases:
        return empty("no case was drawn")
    limit = limit_of([picture for _, picture, _ in cases], [heat for _, _, heat in cases])
    figure, axes = canvas(2, len(cases), width=1.7 * len(cases) + 0.8, height=3.1, dpi=SHARPNESS)
    for column, (name, picture, heat) in enumerate(cases):
        draw_plane(axes[0, column], picture, window)
        image = draw_plane(axes[1, column], picture, window, heat=heat, limit=limit)
        axes[0, column].set_title(name, fontsize=10, loc="left")
    add_scale(figure, image, axes[1, :], limit, "signed map")
    return figure
