"""Lung windows: what part of the Hounsfield scale a model sees, and the sample of windows around it."""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from covid3d.run.errors import ConfigError
from covid3d.run.files import random_seed
from covid3d.run.profile import Windows


class Window(NamedTuple):
    """A level and a width, HU."""

    level: float
    width: float

    @property
    def text(self) -> str:
        """Return the radiologist's notation, e.g. "-600/1500"."""
        return f"{self.level:g}/{self.width:g}"

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Return the window written as "-600/1500"; anything else is a ConfigError."""
        try:
            level, width = (float(part) for part in text.split("/"))
        except ValueError:
            width = level = float("nan")
        if not (np.isfinite(level) and width > 0):
            raise ConfigError(f"'{text}' is no window", cure="Write level/width in HU, e.g. -600/1500")
        return cls(level, width)


def nominal_window(settings: Windows) -> Window:
    """Return the profile's lung window."""
    return Window(settings.level, settings.width)


def apply_window(hu: np.ndarray, window: Window) -> np.ndarray:
    """Map HU of any shape to float32 in [-1, 1]: level - width/2 and below to -1, level + width/2 and above to 1."""
    scaled = (hu.astype(np.float32) - np.float32(window.level)) * np.float32(2 / window.width)
    return np.clip(scaled, -1, 1, out=scaled)


def sample_windows(
    settings: Windows,
    seed: int,
    *,
    count: int | None = None,
    multiple: float = 1.0,
    law: Literal["normal", "uniform"] = "normal",
) -> pd.DataFrame:
    """Return `count` windows around the nominal one: columns window ("w000" …), level, width (HU).

    The deviates depend on the seed and the law alone, so fewer windows are the first of more, and `multiple` only
    stretches them. "normal" has the profile's SDs; "uniform" lies within one SD. Widths stay at least 1 HU.
    """
    number = settings.count if count is None else count
    rng = np.random.default_rng(random_seed(seed, "windows", law))
    deviates = rng.standard_normal((number, 2)) if law == "normal" else rng.uniform(-1, 1, (number, 2))
    level = settings.level + multiple * settings.level_sd * deviates[:, 0]
    width = np.maximum(settings.width + multiple * settings.width_sd * deviates[:, 1], 1.0)
    names = [f"w{index:03d}" for index in range(number)]
    return pd.DataFrame({"window": names, "level": level, "width": width})
