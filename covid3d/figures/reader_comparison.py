"""Figures of 05_reader_comparison: readers and model, with intervals."""

import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREEN, GREY, ORANGE, canvas, empty, tidy


def operating_points(table: pd.DataFrame) -> Figure:
    """Draw shares with their intervals; columns reader, hospital, measure, value, low, high."""
    if table.empty:
        return empty("no reader has read a scan")
    hospitals = sorted(table["hospital"].unique())
    figure, axes = canvas(1, len(hospitals), width=4.4 * len(hospitals), height=3.0, sharex=True)
    readers = list(table["reader"].unique())
    for column, hospital in enumerate(hospitals):
        for shift, (measure, colour) in zip(
            (-0.12, 0.12), (("sensitivity", BLUE), ("specificity", ORANGE)), strict=True
        ):
            part = table[(table["hospital"] == hospital) & (table["measure"] == measure)]
            height = [readers.index(reader) + shift for reader in part["reader"]]
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            axes[0, column].errorbar(
                100 * part["value"],
                height,
                xerr=[100 * side.clip(lower=0) for side in error],
                fmt="o",
                color=colour,
                label=measure,
            )
        axes[0, column].set_yticks(range(len(readers)), readers)
        axes[0, column].invert_yaxis()
        tidy(axes[0, column], "%, with 95 % interval", "", f"hospital {hospital}")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def equivalence(table: pd.DataFrame, margin_points: float) -> Figure:
    """Draw differences model - reader in points; columns comparison, difference, low, high (90 % interval)."""
    if table.empty:
        return empty("no paired calls")
    figure, axes = canvas(width=7.5, height=0.6 + 0.32 * len(table) + 0.6)
    plot = axes[0, 0]
    rows = range(len(table))
    error = [(table["difference"] - table["low"]).clip(lower=0), (table["high"] - table["difference"]).clip(lower=0)]
    plot.axvspan(-margin_points, margin_points, color=GREEN, alpha=0.15, linewidth=0)
    plot.errorbar(table["difference"], rows, xerr=error, fmt="o", color=BLUE)
    plot.axvline(0, color=GREY, linewidth=1)
    plot.set_yticks(rows, table["comparison"])
    plot.invert_yaxis()
    tidy(plot, "model minus reader, points (90 % interval); green: margin")
    return figure
