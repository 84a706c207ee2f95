"""Colours, axes and the three-plane view that all figures share; Okabe and Ito's colour-blind-safe colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#6b6b6b",
)
HOSPITALS = {"A": BLUE, "B": RED, "C": GREEN}
MODELS = {"covid3d": BLUE, "resnet_2d": ORANGE, "covid3d_ensemble": PURPLE, "given": BLUE, "oracle": GREY}
SIGNED = "RdBu_r"
BAR_MM = 50.0


def canvas(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 7.0,
    height: float = 3.6,
    dpi: float | None = None,
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """Return a figure (inches; dpi: dots an inch, where it needs more than others) and its axes as an array (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def tidy(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> Axes:
    """Label an axes and take its box away."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def empty(reason: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure, axes = canvas(height=1.2)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, f"not available: {reason}", ha="center", va="center")
    return figure


def windowed(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """Return HU as grey values from 0 to 1."""
    return np.clip((np.asarray(hu, np.float32) - (level - width / 2)) / width, 0, 1)


def plane(
    axes: Axes,
    grid: np.ndarray,
    index: int,
    which: str,
    spacing: Sequence[float],
    *,
    marks: bool = True,
    **options: Any,
) -> Any:
    """Draw one plane of a (z, y, x) grid in radiological orientation: patient's right on the left, head up.

    which: axial | coronal | sagittal; spacing: (z, y, x) in mm; marks: letters for the sides (right and left, in a sagittal
    plane front and back) and a bar of 5 cm.
    """
    z, y, x = (float(value) for value in spacing)
    if which == "axial":
        image, aspect, origin = grid[index], y / x, "upper"
    elif which == "coronal":
        image, aspect, origin = grid[:, index, :], z / x, "lower"
    else:
        image, aspect, origin = grid[:, :, index], z / y, "lower"
    axes.set(xticks=[], yticks=[])
    if marks:
        _mark(axes, image.shape[:2], "AP" if which == "sagittal" else "RL", y if which == "sagittal" else x, origin)
    return axes.imshow(image, aspect=aspect, origin=origin, **options)  # type: ignore[arg-type]


def _mark(axes: Axes, shape: tuple[int, int], sides: str, step: float, origin: str) -> None:
    """Write the letters of both sides, and draw a bar of 5 cm where it takes less than half of the width."""
    edge = [withStroke(linewidth=2.5, foreground="black")]
    for x, letter, side in ((0.02, sides[0], "left"), (0.98, sides[1], "right")):
        style: dict[str, Any] = {"ha": side, "va": "top", "color": "white", "fontsize": 11, "path_effects": edge}
        axes.text(x, 0.98, letter, transform=axes.transAxes, **style)
    rows, columns = shape
    long = BAR_MM / step
    if long < columns / 2:
        y = 0.95 * rows if origin == "upper" else 0.05 * rows
        rim = [withStroke(linewidth=4.5, foreground="black")]
        bar: dict[str, Any] = {"color": "white", "linewidth": 2, "path_effects": rim, "solid_capstyle": "butt"}
        axes.plot([0.96 * columns - long, 0.96 * columns], [y, y], **bar)


def overlay(
    axes: Axes,
    grey: np.ndarray,
    heat: np.ndarray,
    index: int,
    which: str,
    spacing: Sequence[float],
    limit: float,
) -> Any:
    """Draw a plane of the scan with the signed map over it: red above 0, blue below, clear at 0."""
    plane(axes, grey, index, which, spacing, cmap="gray", vmin=0, vmax=1)
    strength = np.clip(np.abs(heat) / max(limit, 1e-12), 0, 1)
    options = {"cmap": SIGNED, "vmin": -limit or -1, "vmax": limit or 1, "interpolation": "bilinear"}
    alpha = _slice(strength, index, which) * 0.75
    return plane(axes, heat, index, which, spacing, marks=False, alpha=alpha, **options)


def _slice(grid: np.ndarray, index: int, which: str) -> np.ndarray:
    return {"axial": lambda: grid[index], "coronal": lambda: grid[:, index], "sagittal": lambda: grid[:, :, index]}[
        which
    ]()
