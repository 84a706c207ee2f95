"""Figures of 07_prognosis: Figure 3 and what lies behind it."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREY, ORANGE, canvas, empty, tidy

GROUPS = {"high": ("high risk", ORANGE), "low": ("low risk", BLUE)}


def kaplan_meier(
    panels: Mapping[str, pd.DataFrame], notes: Mapping[str, str], times: Sequence[float] = (0, 3, 6, 9, 12, 15, 20)
) -> Figure:
    """Draw Kaplan-Meier curves, one panel a predictor: the share still in hospital for high and low risk.

    panels: name -> table (group high | low, day, still_in_hospital, low, high, at_risk); notes: text in each panel.
    """
    panels = {name: table for name, table in panels.items() if len(table)}
    if not panels:
        return empty("no patient has two scans")
    figure, axes = canvas(len(panels), 1, width=6.6, height=3.6 * len(panels))
    for row, (name, table) in enumerate(panels.items()):
        plot, lines = axes[row, 0], ["days since the index scan"]
        for group, part in table.groupby("group"):
            label, colour = GROUPS[str(group)]
            plot.step(part["day"], part["still_in_hospital"], where="post", color=colour, label=label)
            plot.fill_between(
                part["day"], part["low"], part["high"], step="post", color=colour, alpha=0.12, linewidth=0
            )
            counts = "  ".join(f"{day:.0f} d: {_at_risk(part, day)}" for day in times)
            lines.append(f"{label}, still in hospital   {counts}")
        plot.text(0.98, 0.95, notes.get(name, ""), transform=plot.transAxes, ha="right", va="top", fontsize=8)
        plot.set_ylim(-0.02, 1.05)
        plot.legend(frameon=False, fontsize=8, loc="lower left")
        tidy(plot, "\n".join(lines), "still in hospital", name)
        plot.xaxis.label.set_fontsize(8)
    return figure


def _at_risk(part: pd.DataFrame, day: float) -> int:
    """Return how many patients of a group are at risk just before a day."""
    later = part[part["day"] >= day]
    return int(later["at_risk"].iloc[0]) if len(later) else 0


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


def incidence(table: pd.DataFrame, causes: Mapping[str, str]) -> Figure:
    """Draw cumulative incidences under competing events by group, a line style a cause, with their 95 % limits.

    table: group (high | low), day, and the columns of `causes` (column -> name) with "… low" and "… high"; drawn where more
    than one cause has occurred.
    """
    drawn = {column: name for column, name in causes.items() if column in table}
    if len(drawn) < 2:
        return empty("nobody died: nothing competes with discharge")
    figure, axes = canvas(height=3.2)
    for group, part in table.groupby("group"):
        label, colour = GROUPS[str(group)]
        for (column, name), line in zip(drawn.items(), ("-", "--"), strict=False):
            axes[0, 0].step(part["day"], part[column], line, where="post", color=colour, label=f"{name}, {label}")
            limits = (part[f"{column} {side}"] for side in ("low", "high"))
            axes[0, 0].fill_between(part["day"], *limits, step="post", color=colour, alpha=0.12, linewidth=0)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylim(-0.02, 1.05)
    tidy(axes[0, 0], "days since the index scan", "cumulative incidence")
    return figure
