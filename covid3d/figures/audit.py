"""The figures of the audit: what printed numbers can be; tables of `report.audit` and `report.findings` in, a Figure out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covid3d.figures.style import BLUE, GREEN, GREY, ORANGE, RED, canvas, tidy


def _name_rows(here: Axes, names: Sequence[str]) -> None:
    """Write the names of rows, the first on top."""
    here.set(yticks=range(len(names)), yticklabels=names)
    here.invert_yaxis()


def shares(cells: pd.DataFrame) -> Figure:
    """Draw each printed percentage over the shares that its n allows (F1); cells: of `audit_published`."""
    figure, axes = canvas(height=4.4)
    here = axes[0, 0]
    for row, cell in enumerate(cells.to_dict("records")):
        possible = 100 * np.arange(cell["n"] + 1) / cell["n"]
        here.plot(possible, np.full(len(possible), row), "|", color=GREY, markersize=9)
        colour, mark = (BLUE, "o") if cell["attainable"] else (RED, "X")
        here.plot(cell["percent"], row, mark, color=colour, markersize=8)
    names = [f"{cell['reader']} {cell['hospital']}, {cell['measure']}" for cell in cells.to_dict("records")]
    _name_rows(here, names)
    here.set(xlim=(55, 102))
    tidy(here, "per cent; ticks: every k of n, circle: fits, cross: no count prints so")
    return figure


def bounds(aucs: pd.DataFrame) -> Figure:
    """Draw each printed AUC with its printed bound and with its sampling interval (F2); aucs: of `printed_aucs`."""
    figure, axes = canvas(height=3.6)
    here = axes[0, 0]
    for row, found in enumerate(aucs.to_dict("records")):
        auc, bound = found["auc"], found["printed_bound"]
        here.plot([found["low"], found["high"]], [row, row], color=GREY, lw=2)
        here.plot([auc - bound, auc + bound], [row, row], color=RED, lw=6, solid_capstyle="butt")
        here.plot(auc, row, "o", color="black", markersize=4)
    names = [f"{row['row']} ({row['positives']}/{row['negatives']})" for row in aucs.to_dict("records")]
    here.axvline(0.5, color=GREY, lw=0.8, ls=":")
    _name_rows(here, names)
    here.set(xlim=(0.4, 1))
    tidy(here, "AUC; red: the printed bound, grey: 95 % sampling interval of so many cases")
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Draw p of the gain over 2D by the correlation of the two AUCs (F4); table: of `p_by_correlation`."""
    figure, axes = canvas(height=3.0)
    here = axes[0, 0]
    for column, colour in zip(table.columns, (RED, GREEN, BLUE), strict=True):
        here.plot(table.index, table[column], color=colour, label=column)
    here.axhline(0.05, color=GREY, lw=0.8, ls=":")
    here.set(yscale="log", xlim=(0, 0.95), ylim=(5e-4, 1))
    here.legend(frameon=False)
    tidy(here, "correlation of the two AUCs (not printed)", "p of the printed gain")
    return figure


def readers(table: pd.DataFrame) -> Figure:
    """Draw printed reader minus printed COVID3D with 95 % intervals (F5); table: of `against_readers`."""
    figure, axes = canvas(height=3.2)
    here = axes[0, 0]
    rows = range(len(table))
    here.errorbar(table["difference"], rows, xerr=table["half width"], fmt="o", color=BLUE, capsize=3)
    here.axvline(0, color=GREY, lw=0.8)
    _name_rows(here, [" ".join(map(str, name)) for name in table.index])
    tidy(here, "points, reader minus COVID3D as printed; bars: 95 % of two independent shares")
    return figure


def training_patients(facts: dict[str, float]) -> Figure:
    """Draw how many followed patients a network of A has been trained on (F6); facts: of `findings.f6`."""
    figure, axes = canvas(height=1.9)
    here = axes[0, 0]
    trained, followed = facts["in training"], facts["followed"]
    parts = [
        ("trained on", trained, RED),
        ("left out", followed - trained, BLUE),
        ("of C, never trained on", facts["clean"], GREEN),
    ]
    left = 0.0
    for name, width, colour in parts:
        here.barh([0], [width], left=left, color=colour, label=name)
        left += width
    here.set(yticks=[])
    here.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    tidy(here, "followed patients, for the network of one fold of ten")
    return figure


def ratios(events: np.ndarray, two_scans: np.ndarray, one_scan: np.ndarray) -> Figure:
    """Draw the hazard ratio that gives the printed p values by the number of events (F7)."""
    figure, axes = canvas(height=3.0)
    here = axes[0, 0]
    here.plot(events, two_scans, color=BLUE, label="two scans, p as printed")
    here.plot(events, one_scan, color=ORANGE, label="one scan, p as printed")
    here.set(yscale="log", yticks=[1, 2, 3, 5, 10, 20], yticklabels=["1", "2", "3", "5", "10", "20"])
    here.legend(frameon=False)
    tidy(here, "patients discharged, in two equal groups", "hazard ratio needed")
    return figure
