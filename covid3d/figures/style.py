"""Colours, axes and the three-plane view that all figures share; Okabe and Ito's colour-blind-safe colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.6, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure (inches) and its axes as an array (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
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


def plane(axes: Axes, grid: np.ndarray, index: int, which: str, spacing: Sequence[float], **options: Any) -> Any:
    """Draw one plane of a (z, y, x) grid in radiological orientation: patient's right on the left, head up.

    which: axial | coronal | sagittal; spacing: (z, y, x) in mm.
    """
    z, y, x = (float(value) for value in spacing)
    if which == "axial":
        image, aspect, origin = grid[index], y / x, "upper"
    elif which == "coronal":
        image, aspect, origin = grid[:, index, :], z / x, "lower"
    else:
        image, aspect, origin = grid[:, :, index], z / y, "lower"
    axes.set(xticks=[], yticks=[])
    return axes.imshow(image, aspect=aspect, origin=origin, **options)  # type: ignore[arg-type]


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
    return plane(axes, heat, index, which, spacing, alpha=_slice(strength, index, which) * 0.75, **options)


def _slice(grid: np.ndarray, index: int, which: str) -> np.ndarray:
    return {"axial": lambda: grid[index], "coronal": lambda: grid[:, index], "sagittal": lambda: grid[:, :, index]}[
        which
    ]()


def peak_position(heat: np.ndarray) -> tuple[int, int, int]:
    """Return the mean position (z, y, x) of the largest values of a map (half a thousandth of its voxels)."""
    flat = np.argsort(heat, axis=None)[-max(1, heat.size // 1000) :]
    points = np.stack(np.unravel_index(flat, heat.shape), axis=1)
    z, y, x = points[len(points) // 2 :].mean(axis=0).round().astype(int)
    return int(z), int(y), int(x)
