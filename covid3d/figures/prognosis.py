"""Figures of 07_prognosis: Figure 3 and what lies behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREEN, GREY, ORANGE, SKY, canvas, empty, tidy

GROUPS = {"high": ("high risk", ORANGE), "low": ("low risk", BLUE)}


def kaplan_meier(panels: Mapping[str, pd.DataFrame], notes: Mapping[str, str]) -> Figure:
    """Draw Kaplan-Meier curves, one panel a predictor: the share still in hospital, and under the axis the numbers at risk.

    panels: name -> table (group high | low, day, still_in_hospital, low, high, at_risk); notes: text in each panel.
    """
    panels = {name: table for name, table in panels.items() if len(table)}
    if not panels:
        return empty("no patient has two scans")
    figure, axes = canvas(len(panels), 1, width=6.6, height=3.9 * len(panels))
    ticks = days_shown(max(float(table["day"].max()) for table in panels.values()))
    for row, (name, table) in enumerate(panels.items()):
        plot = axes[row, 0]
        for group, part in table.groupby("group"):
            label, colour = GROUPS[str(group)]
            plot.step(part["day"], part["still_in_hospital"], where="post", color=colour, label=label)
            _band(plot, part, ("low", "high"), colour)
        plot.text(0.98, 0.95, notes.get(name, ""), transform=plot.transAxes, ha="right", va="top", fontsize=8)
        plot.set_ylim(-0.02, 1.05)
        plot.set_xticks(ticks)
        plot.legend(frameon=False, fontsize=8, loc="lower left")
        tidy(plot, "days since the index scan", "still in hospital", name)
        _numbers_at_risk(plot, table, ticks)
    return figure


def days_shown(last: float) -> list[int]:
    """Return whole days for the ticks of an axis from 0 to the last day: at most nine."""
    return list(range(0, int(last) + 1, max(1, -(-int(last) // 8))))


def _numbers_at_risk(plot: Axes, table: pd.DataFrame, days: Sequence[int]) -> None:
    """Write under the axis how many of each group are at risk just before each day."""
    below: dict[str, Any] = {"fontsize": 8, "va": "top"}
    for line, (group, part) in enumerate(table.groupby("group")):
        label, colour = GROUPS[str(group)]
        y = -0.24 - 0.08 * line
        plot.text(-0.02, y, label, ha="right", color=colour, transform=plot.transAxes, **below)
        for day in days:
            count, axis = str(_at_risk(part, day)), plot.get_xaxis_transform()
            plot.text(day, y, count, ha="center", color=colour, transform=axis, **below)


def _band(plot: Axes, part: pd.DataFrame, limits: Sequence[str], colour: str) -> None:
    """Shade the limits; a curve that ends where nobody is left has none there, and its last step those of its beginning."""
    low, high = (part[name].ffill() for name in limits)
    plot.fill_between(part["day"], low, high, step="post", color=colour, alpha=0.12, linewidth=0)


def _at_risk(part: pd.DataFrame, day: float) -> int:
    """Return how many patients of a group are at risk just before a day."""
    later = part[part["day"] >= day]
    return int(later["at_risk"].iloc[0]) if len(later) else 0


def over_time(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw AUC (left) and Brier score (right) by day, a line a predictor; grey: chance, and the curve without a score.

    curves: name -> table (day, AUC, Brier score, without a score).
    """
    curves = {name: table for name, table in curves.items() if len(table)}
    if not curves:
        return empty("too few patients")
    figure, axes = canvas(1, 2, width=7.0, height=3.2)
    area, brier = axes[0]
    area.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    for (name, table), colour in zip(curves.items(), (BLUE, SKY, GREEN, ORANGE), strict=False):
        area.plot(table["day"], table["AUC"], ".-", color=colour, label=name)
        brier.plot(table["day"], table["Brier score"], ".-", color=colour)
    table = next(iter(curves.values()))
    brier.plot(table["day"], table["without a score"], "--", color=GREY, label="without a score (Kaplan-Meier)")
    ticks = days_shown(float(table["day"].max()))
    for plot, words in ((area, "AUC"), (brier, "Brier score")):
        plot.set_xticks(ticks)
        plot.legend(frameon=False, fontsize=7)
        tidy(plot, "end of day after the index scan", words)
    area.set_ylim(0, 1.03)
    brier.set_ylim(bottom=0)
    return figure


def side_by_side(areas: pd.Series) -> Figure:
    """Draw Estimates of the AUC with their intervals, one row a predictor (index), and a line at chance."""
    known = [(str(name), area) for name, area in areas.items() if area.known]
    if not known:
        return empty("no predictor has an AUC")
    figure, axes = canvas(width=6.6, height=1.0 + 0.35 * len(known))
    plot, rows = axes[0, 0], range(len(known))[::-1]
    plot.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    for row, (_, area) in zip(rows, known, strict=True):
        if area.has_limits:
            plot.plot([area.low, area.high], [row, row], color=BLUE, linewidth=1.5)
        plot.plot(area.value, row, "o", color=BLUE, markersize=5)
    plot.set_yticks(list(rows), [name for name, _ in known])
    plot.set_xlim(0, 1)
    tidy(plot, "AUC for high risk; dashed: chance")
    return figure


def incidence(table: pd.DataFrame, causes: Mapping[str, str], curves: pd.DataFrame, note: str = "") -> Figure:
    """Draw cumulative incidences under competing events by group, a line style a cause, with their 95 % limits.

    table: group (high | low), day, and the columns of `causes` (column -> name) with "… low" and "… high". curves: as
    `kaplan_meier` takes them, for the numbers at risk under the axis. note: text in the panel.
    """
    figure, axes = canvas(height=3.9)
    plot, drawn = axes[0, 0], {column: name for column, name in causes.items() if column in table}
    ticks = days_shown(float(table["day"].max()))
    for group, part in table.groupby("group"):
        label, colour = GROUPS[str(group)]
        for (column, name), line in zip(drawn.items(), ("-", "--"), strict=False):
            plot.step(part["day"], part[column], line, where="post", color=colour, label=f"{name}, {label}")
            _band(plot, part, (f"{column} low", f"{column} high"), colour)
    plot.text(0.98, 0.95, note, transform=plot.transAxes, ha="right", va="top", fontsize=8)
    plot.legend(frameon=False, fontsize=8, loc="upper left")
    plot.set_ylim(-0.02, 1.05)
    plot.set_xticks(ticks)
    tidy(plot, "days since the index scan", "cumulative incidence")
    _numbers_at_risk(plot, curves, ticks)
    return figure
