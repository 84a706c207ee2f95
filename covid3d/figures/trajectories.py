"""Figures of 06_trajectories: Figure 2 and Figure 4."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covid3d.figures.picture import SHARPNESS, Picture, add_scale, draw_plane, levels, limit_of
from covid3d.figures.style import BLUE, GREY, HOSPITALS, ORANGE, RED, canvas, empty, tidy


def course(
    table: pd.DataFrame,
    curve: pd.DataFrame,
    half_width: float,
    time: str = "day",
    label: str = "days since the first scan",
    why: str = "",
) -> Figure:
    """Draw s(t) of every followed patient, a panel a hospital, with the population curve (95 %) and the noise band around 0.

    table: patient_id, hospital, logit and the time column; curve: day, s, low, high, the same in each panel; why: why there
    is none, which the figure says. Days before discharge run backwards, so that time passes to the right.
    """
    table = table.dropna(subset=[time])
    if table.empty:
        return empty("no patient has a follow-up scan")
    parts = list(table.sort_values(time).groupby("hospital"))
    figure, axes = canvas(1, len(parts), width=8.0 if len(parts) > 1 else 6.5, height=4.2, sharex=True, sharey=True)
    for plot, (hospital, part) in zip(axes[0], parts, strict=True):
        if np.isfinite(half_width):
            plot.axhspan(-half_width, half_width, color=ORANGE, alpha=0.15, linewidth=0, label="not told from 0 (95 %)")
        plot.axhline(0, color=GREY, linewidth=1)
        style = {
            "color": HOSPITALS.get(str(hospital), GREY),
            "alpha": 0.45,
            "linewidth": 0.9,
            "marker": ".",
            "markersize": 4,
        }
        for _, one in part.groupby("patient_id"):
            plot.plot(one[time].astype(float), one["logit"], **style)
        if len(curve):
            plot.plot(curve["day"], curve["s"], color="black", linewidth=2.2, label="population curve")
            band = {"color": "black", "alpha": 0.15, "linewidth": 0, "label": "its 95 % band"}
            plot.fill_between(curve["day"].astype(float), curve["low"], curve["high"], **band)
        patients = part["patient_id"].nunique()
        tidy(plot, label, "s(t), logit", f"hospital {hospital}, {patients} patient{'s' * (patients != 1)}")
    if not len(curve) and why:
        figure.suptitle(f"no population curve: {why}", fontsize=9)
    if time == "days_to_discharge":
        axes[0, 0].invert_xaxis()
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    return figure


def peaks(days: pd.DataFrame) -> Figure:
    """Draw how many patients have their highest scan on each span of days; columns days, patients."""
    if days.empty:
        return empty("no patient has a follow-up scan")
    figure, axes = canvas(height=2.8)
    axes[0, 0].bar(days["days"].astype(str), days["patients"], color=BLUE)
    axes[0, 0].yaxis.get_major_locator().set_params(integer=True)
    tidy(axes[0, 0], "days since the first scan", "patients whose highest s is there")
    return figure


def figure_4(
    pictures: Sequence[Picture],
    maps: Mapping[str, Sequence[np.ndarray]],
    course: pd.DataFrame,
    noise: float,
    window: tuple[float, float],
) -> Figure:
    """Draw the case study, one column a scan: the scan, a row for each kind of map, and beneath the course in numbers.

    maps: name -> laid maps, one a scan, each row on one colour scale; all scans at one height of the lungs (`levels`). course:
    day, logit and burden_fraction (NaN where it is not known), one row a scan; noise: half of the width of the band that s
    can move in without a cause; window: (level, width) in HU.
    """
    if not pictures:
        return empty("no patient has a follow-up scan")
    if not all(picture.hu.size for picture in pictures):
        return empty("no lung was found")
    count, planes, tall = len(pictures), levels(pictures), 1.1 * (1 + len(maps))
    figure = Figure(figsize=(1.25 * count + 0.9, tall + 2.3), layout="constrained", dpi=SHARPNESS)
    parts: Any = figure.subfigures(2, 1, height_ratios=(tall, 2.3))
    above, below = parts
    axes = above.subplots(1 + len(maps), count, squeeze=False)
    for column, (picture, z) in enumerate(zip(pictures, planes, strict=True)):
        draw_plane(axes[0, column], picture, window, index=z)
        axes[0, column].set_title(f"day {course['day'].iloc[column]:.0f}", fontsize=12)
    axes[0, 0].set_ylabel("scan", fontsize=10)
    for row, (name, heats) in enumerate(maps.items(), start=1):
        limit = limit_of(pictures, heats)
        for column, (picture, heat) in enumerate(zip(pictures, heats, strict=True)):
            image = draw_plane(axes[row, column], picture, window, index=planes[column], heat=heat, limit=limit)
        axes[row, 0].set_ylabel(name, fontsize=10)
        add_scale(above, image, axes[row, :], limit)
    _numbers(below.subplots(), course, noise)
    return figure


def _numbers(plot: Axes, course: pd.DataFrame, noise: float) -> None:
    """Draw s over the days, the band that it can leave its first value by without a cause, and the true burden beside it."""
    days, s = course["day"].astype(float), course["logit"].astype(float)
    plot.plot(days, s, "s-", color=BLUE, label="s")
    if np.isfinite(noise):
        first, words = float(s.iloc[0]), "not told from the first scan (95 %)"
        plot.axhspan(first - noise, first + noise, color=BLUE, alpha=0.12, linewidth=0, label=words)
    tidy(plot, "day, counted as the paper does", "s, logit")
    lines, names = plot.get_legend_handles_labels()
    if course["burden_fraction"].notna().any():
        other = plot.twinx()
        other.plot(days, 100 * course["burden_fraction"].astype(float), "o-", color=RED, label="true burden")
        other.set(ylabel="% of the lung", ylim=(0, None))
        other.spines[["top"]].set_visible(False)
        more = other.get_legend_handles_labels()
        lines, names = lines + more[0], names + more[1]
    plot.legend(lines, names, frameon=False, fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
