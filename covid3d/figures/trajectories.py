"""Figures of 06_trajectories: Figure 2 and Figure 4."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import (
    BLUE,
    GREY,
    HOSPITALS,
    ORANGE,
    canvas,
    empty,
    overlay,
    peak_position,
    plane,
    tidy,
    windowed,
)


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
            plot.axhspan(
                -half_width, half_width, color=ORANGE, alpha=0.15, linewidth=0, label="no change from 0 (95 %)"
            )
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
    grids: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    scores: Sequence[float],
    days: Sequence[float],
    spacing: Sequence[float],
    level: float,
    width: float,
    lungs: Sequence[np.ndarray] | None = None,
    evidence: Sequence[np.ndarray] | None = None,
) -> Figure:
    """Draw the case study, one column a scan: the scan, its unscaled signed map, the map times max(s, 0), and its evidence.

    All maps of a row share one colour scale and one axial slice: the peak of the highest scan's map, inside the lungs when
    masks (z, y, x) are given. Evidence has the slice of its own peak.
    """
    if not grids:
        return empty("no patient has a follow-up scan")
    if not grids[0].size:
        return empty("no lung was found")
    scaled = [heat * max(score, 0.0) for heat, score in zip(maps, scores, strict=True)]
    top = int(np.argmax(scores))
    inside = lungs[top] if lungs is not None and lungs[top].any() else np.ones(maps[top].shape, bool)
    z = peak_position(np.where(inside, maps[top], -np.inf))[0]
    rows = {"map H": maps, "H · max(s, 0)": scaled} | ({"evidence": evidence} if evidence else {})
    figure, axes = canvas(1 + len(rows), len(grids), width=1.9 * len(grids) + 1.0, height=2.0 + 2.0 * len(rows))
    for row, series in enumerate(rows.values(), start=1):
        limit = max(float(np.abs(heat).max()) for heat in series)
        at = peak_position(series[top])[0] if series is evidence else z
        for column, heat in enumerate(series):
            grey = windowed(grids[column], level, width)
            image = overlay(axes[row, column], grey, heat, at, "axial", spacing, limit)
        figure.colorbar(image, ax=axes[row, :], shrink=0.8)
    for column, grid in enumerate(grids):
        plane(axes[0, column], windowed(grid, level, width), z, "axial", spacing, cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(f"day {days[column]:.0f}\ns = {scores[column]:.2f}", fontsize=9)
    for row, name in enumerate(("scan", *rows)):
        axes[row, 0].set_ylabel(name)
    return figure
