"""What a figure shows, in words: the text alternative for readers who do not see it."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def has_pixels(figure: Figure) -> bool:
    """True for a figure that holds images of scans or maps, whose grey values a page must leave alone."""
    return any(axes.images for axes in figure.axes)


def seen(figure: Figure) -> str:
    """Return what is seen: for each panel its title, what is drawn, its axes with their ranges, and its legend."""
    panels = [text for text in map(_panel, figure.axes) if text]
    if len(panels) < 2:
        return "".join(panels)
    return f"{len(panels)} panels. " + " ".join(f"({number}) {text}" for number, text in enumerate(panels, start=1))


def _panel(axes: Axes) -> str:
    if not axes.axison and not axes.images:
        return "; ".join(text.get_text() for text in axes.texts)
    title = next(filter(None, (axes.get_title(loc) for loc in ("left", "center", "right"))), "")
    drawn = _picture(axes) if axes.images else [_count(number, name) for name, number in _kinds(axes) if number]
    parts = [title, ", ".join(drawn), _axis(axes, "x"), _axis(axes, "y"), _legend(axes)]
    text = "; ".join(_one_line(part) for part in parts if part)
    return f"{text}." if text else ""


def _picture(axes: Axes) -> list[str]:
    """Return what a picture shows: the image, a map laid over it, the sides that letters name, outlines, and a cross."""
    sides = [text.get_text() for text in axes.texts]
    return [
        "picture with a map in colours" if len(axes.images) > 1 else "picture",
        *([f"{sides[0]} on the left and {sides[1]} on the right"] if len(sides) == 2 else []),
        *(["outlines"] if axes.collections else []),
        *(["a cross"] if any(line.get_marker() == "+" for line in axes.lines) else []),
    ]


def _kinds(axes: Axes) -> list[tuple[str, int]]:
    bars = sum(len(container) for container in axes.containers if type(container).__name__ == "BarContainer")
    return [
        ("line", sum(np.size(line.get_xdata()) > 1 for line in axes.lines)),
        ("bar", bars),
        ("cloud of points", sum(type(item).__name__ == "PathCollection" for item in axes.collections)),
    ]


def _count(number: int, name: str) -> str:
    plural = name.replace("cloud", "clouds") if " " in name else f"{name}s"
    return f"{number} {name if number == 1 else plural}"


def _axis(axes: Axes, which: str) -> str:
    """Return an axis as "x: specificity, 0 to 1", or with the words at its ticks; nothing for pictures without ticks."""
    axis: Any = getattr(axes, f"{which}axis")
    label, ticks = axis.get_label_text(), [tick.get_text() for tick in axis.get_ticklabels()]
    words = [tick for tick in ticks if any(letter.isalpha() for letter in tick)]
    low, high = getattr(axes, f"get_{which}lim")()
    if words:
        values = ", ".join(words[:12])
    elif len(axis.get_ticklocs()) and not axes.images:
        values = f"{low:.3g} to {high:.3g}"
    else:
        values = ""
    return f"{which}: {', '.join(filter(None, (label, values)))}" if label or values else ""


def _legend(axes: Axes) -> str:
    labels = dict.fromkeys(label for label in axes.get_legend_handles_labels()[1] if not label.startswith("_"))
    return f"shown: {', '.join(labels)}" if labels else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
