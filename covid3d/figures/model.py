"""Figures of 02_model: the network drawn from its stages, what a cell sees, what a window shows, a first map."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from covid3d.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    canvas,
    empty,
    overlay,
    plane,
    tidy,
    windowed,
)

KINDS = {
    "convolution": BLUE,
    "max pool": GREY,
    "Inception block": ORANGE,
    "average pool": GREEN,
    "fully connected": PURPLE,
}
NO_LUNG = "no lung was found"
COLOURS = (BLUE, RED, GREEN, PURPLE)
SLANT = 0.35  # how far a slab's depth axis runs right for each unit that it runs up
NAMES = {"pool": "average pool", "head": "FC"}


def architecture(stages: pd.DataFrame, grid: Sequence[int], block: str, chains: Sequence[Sequence[tuple]]) -> Figure:
    """Draw the network as slabs (height: rows, depth: slices, width: channels) and the inside of one Inception block.

    stages: as `anatomy.stages` gives them; grid: the input (z, y, x); chains: `anatomy.branches` of the stage `block`.
    """
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": (1.55, 1)})
    _slabs(top, stages, grid)
    _inception(bottom, block, chains)
    return figure


def _slabs(axes: Axes, stages: pd.DataFrame, grid: Sequence[int]) -> None:
    """Draw every stage's output as a slab on one base line, sizes on square-root scales, and its shape below."""
    start = pd.DataFrame([{"stage": "scan", "kind": "", "channels": 1, "z": grid[0], "y": grid[1], "x": grid[2]}])
    rows = pd.concat([start, stages], ignore_index=True)
    left: float = 0.0
    groups: list[Any] = []
    for row in cast(Any, rows.itertuples()):
        shape = (row.z, row.y, row.x)
        if groups and groups[-1][0] != shape:
            left += 0.45
        width = 0.16 + 0.62 * np.sqrt(row.channels / rows["channels"].max())
        height, depth = 2.6 * np.sqrt(row.y / grid[1]), np.sqrt(row.z / grid[0])
        _slab(axes, left, width, height, depth, KINDS.get(str(row.kind), "#222222"))
        middle, roof = left + width / 2, height + SLANT * depth
        axes.text(middle + SLANT * depth, roof + 0.08, row.channels, ha="center", fontsize=7.5, color="#444444")
        axes.text(middle, -0.12, NAMES.get(str(row.stage), row.stage), rotation=90, ha="center", va="top", fontsize=8)
        if not groups or groups[-1][0] != shape:
            groups.append([shape, left, left])
        groups[-1][2] = left + width
        left += width + 0.2 + 0.6 * SLANT * depth
    for (z, y, x), first, last in groups:
        axes.plot([first, last], [-2.3, -2.3], color="black", linewidth=1)
        text = f"{z}×{y}×{x}" if last - first > 1.5 else f"{z}×\n{y}×{x}"
        axes.text((first + last) / 2, -2.4, text if y > 1 else "1", ha="center", va="top", fontsize=8)
    for number, (kind, colour) in enumerate(KINDS.items()):
        axes.add_patch(Rectangle((left * 0.48, 3.2 - 0.36 * number), 0.3, 0.24, facecolor=colour, alpha=0.85))
        axes.text(left * 0.48 + 0.45, 3.32 - 0.36 * number, kind, va="center", fontsize=8.5)
    axes.set(xlim=(-0.2, left), ylim=(-3.1, 3.6))
    axes.axis("off")


def _slab(axes: Axes, left: float, width: float, height: float, depth: float, colour: str) -> None:
    """Draw a box seen from the front left: its front, side and top in three shades of a colour."""
    shift = np.array((SLANT * depth, SLANT * depth))
    front = np.array([(left, 0), (left + width, 0), (left + width, height), (left, height)])
    side = np.array([front[1], front[1] + shift, front[2] + shift, front[2]])
    roof = np.array([front[3], front[2], front[2] + shift, front[3] + shift])
    for face, alpha in ((front, 0.85), (side, 0.55), (roof, 0.35)):
        axes.add_patch(Polygon(face, closed=True, facecolor="white", edgecolor="none"))
        axes.add_patch(Polygon(face, closed=True, facecolor=colour, edgecolor="white", linewidth=0.6, alpha=alpha))


def _inception(axes: Axes, block: str, chains: Sequence[Sequence[tuple]]) -> None:
    """Draw the branches of an Inception block from left to right, joined along the channels."""
    total = sum(chain[-1][1] for chain in chains)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0, "linewidth": 1}
    for number, chain in enumerate(chains):
        y, points = 1.5 - number, [3.6] if len(chain) == 1 else [2.3, 4.9]
        ends = [0.7, *(edge for x in points for edge in (x - 0.94, x + 0.94)), 6.5]
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            axes.annotate("", (last, y), (first, y), arrowprops=arrow)
        for x, (name, channels) in zip(points, chain, strict=True):
            _layer(axes, x, y, name, channels)
    for x, text in ((0.35, "in"), (6.85, f"join\n{total}")):
        axes.add_patch(FancyBboxPatch((x - 0.3, -1.8), 0.6, 3.6, boxstyle="round,pad=0.04", color=ORANGE, alpha=0.25))
        axes.text(x, 0, text, ha="center", va="center", fontsize=9)
    axes.set_title(f"Inside {block}: four branches see the same cells; numbers are channels", fontsize=9.5, loc="left")
    axes.set(xlim=(-0.1, 7.3), ylim=(-2.0, 2.0))
    axes.axis("off")


def _layer(axes: Axes, x: float, y: float, name: str, channels: int | None) -> None:
    """Draw one layer of a branch as a box with its name in the code and its channels."""
    colour = GREY if channels is None else BLUE
    style: dict[str, Any] = {"boxstyle": "round,pad=0.03", "edgecolor": colour, "facecolor": colour, "alpha": 0.18}
    axes.add_patch(FancyBboxPatch((x - 0.9, y - 0.3), 1.8, 0.6, **style))
    axes.text(x, y, name if channels is None else f"{name}  →  {channels}", ha="center", va="center", fontsize=8.5)


def costs(stages: pd.DataFrame) -> Figure:
    """Draw the parameters and the operations of each stage that has any, side by side with their shares."""
    rows = stages[stages["parameters"] > 0]
    figure, axes = canvas(1, 2, width=9.0, height=3.9, sharey=True)
    small = rows["gflop"].sum() < 1
    work = (1e-3, "MFLOP of one forward pass") if small else (1.0, "GFLOP of one forward pass")
    scaled = {"parameters": (1e3, "thousand parameters"), "gflop": work}
    for plot, (column, (unit, label)) in zip(axes[0], scaled.items(), strict=True):
        colours = [KINDS[kind] for kind in rows["kind"]]
        bars = plot.barh(rows["stage"], rows[column] / unit, color=colours)
        shares = 100 * rows[column] / rows[column].sum()
        plot.bar_label(bars, [f"{share:.0f} %" if share >= 0.5 else "< 1 %" for share in shares], padding=3, fontsize=8)
        plot.margins(x=0.14)
        tidy(plot, label)
    axes[0, 0].invert_yaxis()
    return figure


def receptive_fields(
    fields: pd.DataFrame, hu: np.ndarray, spacing: Sequence[float], window: tuple[float, float], names: Sequence[str]
) -> Figure:
    """Draw what the middle cell of some endpoints sees as frames over an axial and a coronal plane of a scan.

    fields: stage, z, y, x in voxels; hu: HU (z, y, x); spacing: (z, y, x) in mm; names: the endpoints drawn.
    """
    if not hu.size:
        return empty(NO_LUNG)
    figure, axes = canvas(1, 2, width=9.0, height=4.1)
    grey, colours = windowed(hu, *window), (SKY, GREEN, ORANGE, RED, PURPLE, BLUE)
    chosen = fields.set_index("stage").loc[list(names)]
    for plot, which, (vertical, horizontal) in zip(
        axes[0], ("axial", "coronal"), (("y", "x"), ("z", "x")), strict=True
    ):
        middle = dict(zip("zyx", (size / 2 - 0.5 for size in hu.shape), strict=True))
        index = hu.shape[0 if which == "axial" else 1] // 2
        plane(plot, grey, index, which, spacing, cmap="gray", vmin=0, vmax=1)
        low, high = plot.get_ylim()
        for colour, (name, field) in zip(colours, chosen.iterrows(), strict=False):
            size = (field[horizontal], field[vertical])
            corner = (middle[horizontal] - size[0] / 2, middle[vertical] - size[1] / 2)
            text = f"{name}: {field['z']} × {field['y']} × {field['x']}"
            plot.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2, label=text))
        side = 0.53 * max(hu.shape[2], *chosen["x"])
        tall = 0.53 * max(hu.shape["zyx".index(vertical)], *chosen[vertical])
        plot.set_xlim(middle["x"] - side, middle["x"] + side)
        plot.set_ylim(*(middle[vertical] + (tall if end > 1 else -tall) for end in (low, high)))
        plot.axis("off")
        plot.set_title(which, fontsize=10, loc="left")
    lines, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, texts, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def windows(
    hu: np.ndarray,
    lung: np.ndarray,
    spacing: Sequence[float],
    chosen: Mapping[str, tuple[float, float]],
) -> Figure:
    """Draw a scan's HU with each window's ramp over it, and the axial plane with most lung in each window.

    hu: HU (z, y, x); lung: bool mask, same shape; spacing: (z, y, x) in mm; chosen: name -> (level, width).
    """
    if not hu.size:
        return empty(NO_LUNG)
    figure = Figure(figsize=(9.0, 5.4), layout="constrained")
    parts = figure.add_gridspec(2, len(chosen), height_ratios=(1, 1.15))
    _ramps(figure.add_subplot(parts[0, :]), hu, lung, chosen)
    z = int(lung.sum((1, 2)).argmax())
    for column, (colour, (name, (level, width))) in enumerate(zip(COLOURS, chosen.items(), strict=False)):
        axes = figure.add_subplot(parts[1, column])
        plane(axes, windowed(hu, level, width), z, "axial", spacing, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{name}: {level:.0f}/{width:.0f}", fontsize=9.5, loc="left", color=colour)
    return figure


def _ramps(axes: Axes, hu: np.ndarray, lung: np.ndarray, chosen: Mapping[str, tuple[float, float]]) -> None:
    """Draw the histograms of all voxels and of the lungs, and what each window makes of a HU value."""
    bins = np.linspace(-1100, 600, 86)
    for values, colour, name in ((hu.ravel(), "#cfcfcf", "all voxels"), (hu[lung], SKY, "lungs")):
        if len(values):
            weights = np.full(len(values), 100 / hu.size)
            axes.hist(np.clip(values, bins[0], bins[-1]), bins.tolist(), weights=weights, color=colour, label=name)
    top = 1.15 * 100 * np.histogram(hu[hu > -950], bins)[0].max() / hu.size
    axes.set_ylim(0, max(top, 1e-3))
    tidy(axes, "HU", "% of voxels")
    right = axes.twinx()
    for colour, (name, (level, width)) in zip(COLOURS, chosen.items(), strict=False):
        x = np.array([bins[0], level - width / 2, level + width / 2, bins[-1]])
        right.plot(x, [-1, -1, 1, 1], color=colour, linewidth=2, label=name)
    right.set(xlim=(bins[0], bins[-1]), ylim=(-1.06, 1.06), ylabel="input of the network", yticks=(-1, 0, 1))
    right.spines[["top"]].set_visible(False)
    lines, texts = (one + two for one, two in zip(*(a.get_legend_handles_labels() for a in (axes, right)), strict=True))
    axes.legend(lines, texts, frameon=False, fontsize=8.5, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def maps(
    hu: np.ndarray,
    heats: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    centre: Sequence[int],
    window: tuple[float, float],
) -> Figure:
    """Draw three planes of a scan through `centre` (z, y, x), and below it each signed map on its own scale.

    hu: HU (z, y, x); heats: name -> map, same shape; spacing: (z, y, x) in mm; window: (level, width) in HU.
    """
    grey, planes = windowed(hu, *window), ("axial", "coronal", "sagittal")
    z, y, x = (size * step for size, step in zip(hu.shape, spacing, strict=True))
    shape = {"width_ratios": (x / y, x / z, y / z, 0.05)}  # planes of one height, whatever the voxels
    figure, axes = canvas(1 + len(heats), 4, width=9.0, height=2.5 * (1 + len(heats)), gridspec_kw=shape)
    for column, which in enumerate(planes):
        plane(axes[0, column], grey, int(centre[column]), which, spacing, cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(which, fontsize=10, loc="left")
    axes[0, 0].set_ylabel("scan")
    axes[0, 3].axis("off")
    for row, (name, heat) in enumerate(heats.items(), 1):
        limit = float(np.abs(heat).max())
        for column, which in enumerate(planes):
            image = overlay(axes[row, column], grey, heat, int(centre[column]), which, spacing, limit)
        axes[row, 0].set_ylabel(name)
        bar = figure.colorbar(image, cax=axes[row, 3], ticks=(-limit, 0, limit))
        bar.ax.set_yticklabels(["lowers\nthe logit", "0", "raises\nthe logit"], fontsize=8)
    return figure
