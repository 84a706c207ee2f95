"""A number as the book prints it: a value, its 95 % limits and how they were made, or why there is none."""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from covid3d.run.errors import Covid3DError

NAN = float("nan")
NO_INTERVAL = "no interval: "


@functools.total_ordering
@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % limits; every function of `covid3d.stats` that measures something returns one.

    method: the interval's formula, or why there is no number. remark: printed after the number wherever it stands, e.g.
    "nominal". unit: printed after the value ("days", "%"); the unit "p" prints a p value. NaN limits: no interval; where
    `method` ends in "no interval: why", the reason is printed. Limits that coincide, of equal folds or of classes that do
    not overlap, are none: they would look like certainty. Estimates sort by value, missing ones last; `float(estimate)` is
    the value.

    >>> print(Estimate(0.831, 0.727, 0.935, "DeLong"))
    0.831 (95 % CI 0.727 to 0.935)
    >>> print(Estimate.missing("one class only"))
    not available (one class only)
    """

    value: float
    low: float = NAN
    high: float = NAN
    method: str = ""
    remark: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if abs(self.high - self.low) < 1e-9:
            method = f"{self.method}, {NO_INTERVAL}nothing varies".removeprefix(", ")
            for name, kept in (("low", NAN), ("high", NAN), ("method", method)):
                object.__setattr__(self, name, kept)

    @classmethod
    def missing(cls, why: str) -> "Estimate":
        """Return the estimate that cannot be made; `why` is printed in its place."""
        return cls(NAN, method=why)

    @property
    def known(self) -> bool:
        """True when there is a number."""
        return self.value is not None and math.isfinite(self.value)

    @property
    def has_limits(self) -> bool:
        """True when there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def noted(self, remark: str) -> "Estimate":
        """Return the same number with a remark that stands beside it wherever it is printed."""
        return replace(self, remark=remark)

    def by(self, method: str) -> "Estimate":
        """Return the same number with another name of its method."""
        return replace(self, method=method)

    def of_unit(self, unit: str) -> "Estimate":
        """Return the same number in this unit; shares become per cent when the unit is "%"."""
        scale = 100.0 if unit == "%" else 1.0
        return replace(self, value=self.value * scale, low=self.low * scale, high=self.high * scale, unit=unit)

    def __float__(self) -> float:
        return float(self.value)

    def __lt__(self, other: "Estimate") -> bool:
        if not isinstance(other, Estimate):
            return NotImplemented
        return (not self.known, self.value) < (not other.known, other.value)

    def __str__(self) -> str:
        if not self.known:
            return f"not available ({self.method.removeprefix('not available: ') or 'no data'})"
        return value_text(self.value, self.unit) + self._limits() + (f" ({self.remark})" if self.remark else "")

    def short(self) -> str:
        """Return the number for a cell of a table: "0.831 (0.727 to 0.935)", or why there is none."""
        if not self.known:
            return self.method or "not available"
        limits = f" ({number(self.low, self.unit)} to {number(self.high, self.unit)})" if self.has_limits else ""
        return number(self.value, self.unit) + limits + (f" ({self.remark})" if self.remark else "")

    def _limits(self) -> str:
        if not self.has_limits:
            why = self.method.partition(NO_INTERVAL)[2]
            return f" ({NO_INTERVAL}{why})" if why else ""
        return f" (95 % CI {number(self.low, self.unit)} to {number(self.high, self.unit)})"


class Tested(NamedTuple):
    """An estimate with its interval and a two-sided p."""

    estimate: Estimate
    p: float

    @classmethod
    def missing(cls, why: str) -> "Tested":
        """Return the test that cannot be made."""
        return cls(Estimate.missing(why), NAN)


def complete(*columns: ArrayLike) -> list[np.ndarray]:
    """Return columns as floats, without the rows in which one of them is missing."""
    found = [pd.Series(column).to_numpy(float, na_value=NAN) for column in columns]
    if len({len(column) for column in found}) > 1:
        sizes = " and ".join(str(len(column)) for column in found)
        raise Covid3DError(f"{sizes} values do not match", cure="Give each case one value of each")
    known = ~np.isnan(found).any(axis=0)
    return [column[known] for column in found]


def p_value(p: float, remark: str = "", *, method: str = "") -> Estimate:
    """Return a p value as an Estimate: "p = 0.012 (nominal)"."""
    return Estimate(p, method=method, remark=remark, unit="p")


def value_text(value: Any, unit: str = "") -> str:
    """Return a number with its unit: "12 days", "p = 0.012", "0.831"."""
    text = number(value, unit)
    if unit == "p":
        return f"p {text}" if text.startswith("<") else f"p = {text}"
    return f"{text} {unit}" if unit else text


def number(value: Any, unit: str = "") -> str:
    """Return a number with the digits it deserves: counts whole, p values with two, the rest with three.

    What is below 0.001 has two significant digits, so that only 0 prints as 0.000; what is below 1e-12 is 0 but for
    rounding in the computation.

    >>> number(0.83149), number(12.345), number(1234), number(0.01234, "p"), number(0.0002)
    ('0.831', '12.3', '1,234', '0.012', '0.0002')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if unit == "p":
        return "< 0.0001" if value < 1e-4 else f"{value:.2g}"
    if unit in ("day", "days") and float(value).is_integer():
        return f"{value:,.0f}"
    value = round(float(value), 12)
    size = abs(value)
    if 0 < size < 1e-3:
        return np.format_float_positional(value, 2, fractional=False, trim="-")
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 1000 else 0
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # adding 0 makes -0 a 0
