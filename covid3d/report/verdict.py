"""How one claim is judged: a verdict that says no more than the scans allow, and the direction of what was found."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[Any, Any]
Entry = Mapping[str, Any]
BY_CONSTRUCTION = "by construction"
NOT_COMPARABLE = "simulated, not comparable"
BY_DEFINITION = "differs by definition"
NOT_RERUNNABLE = "not re-runnable"
NOT_AVAILABLE = "not available"
JUDGEMENTS = ("agrees", "compatible", "disagrees")
NEVER_JUDGED_ON_PHANTOM = ("cohort", "result", "interpretation", "figure")
WORST_FIRST = (NOT_AVAILABLE, "disagrees", BY_DEFINITION, "compatible", "agrees")


def verdict_of_all(claim: Row, entries: Sequence[Entry | None], cohort: str) -> str:
    """Return the verdict of a claim of one or more numbers: the worst of them; "0.13; 0.15" is judged in its order."""
    printed = claim["value"].split(";")
    values = printed if len(printed) == len(entries) else [claim["value"]] * len(entries)
    found = [verdict({**claim, "value": v}, entry, cohort) for v, entry in zip(values, entries, strict=True)]
    return next((name for name in WORST_FIRST if name in found), found[0])


def verdict(claim: Row, entry: Entry | None, cohort: str) -> str:
    """Judge one number by its claim's basis; on simulated scans nothing about patients, readers or performance is judged."""
    basis = claim["basis"]
    if basis == "private":
        return NOT_RERUNNABLE
    if entry is None or entry["value"] is None:
        return NOT_AVAILABLE
    if basis == "definition":
        return BY_DEFINITION
    if basis in ("software", "printed"):
        never = NEVER_JUDGED_ON_PHANTOM[:3] if basis == "printed" else NEVER_JUDGED_ON_PHANTOM
        if claim["kind"] in never and cohort == "phantom":
            return NOT_COMPARABLE
        if _meets(entry["value"], claim["expected"]):
            return "agrees"
        return BY_DEFINITION if claim["reason"] else "disagrees"
    if cohort == "phantom":
        return BY_CONSTRUCTION if basis == "input" else NOT_COMPARABLE
    found = _judge_number(claim, entry)
    is_count = basis == "input" and claim["kind"] != "interpretation"
    return BY_DEFINITION if found == "disagrees" and is_count else found  # another cohort has other counts


def _judge_number(claim: Row, entry: Entry) -> str:
    """Judge a number from real scans: equal as printed, inside the interval, or neither."""
    if claim["expected"]:
        return "agrees" if _meets(entry["value"], claim["expected"]) else "disagrees"
    printed = published_number(claim["value"])
    value = entry["value"]
    if printed is None or isinstance(value, (str, bool)):
        return BY_DEFINITION
    number, tolerance = printed
    if abs(value - number) <= tolerance:
        return "agrees"
    if entry["low"] is not None and entry["high"] is not None and entry["low"] <= number <= entry["high"]:
        return "compatible"
    return "disagrees"


def published_number(text: str) -> tuple[float, float] | None:
    """Return a printed number and half a unit of its last digit, e.g. "+/-0.01" -> (0.01, 0.005); None without one."""
    found = re.search(r"(?<!/)-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)
    if found is None:
        return None
    plain = found.group().replace(",", "")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(plain), 0.5 * 10.0 ** (int(exponent or 0) - decimals)


def _meets(value: Any, expected: str) -> bool:
    """True when a value is the expected one: true, a text, a number, or a range such as 12..13."""
    if value is None:
        return False
    if isinstance(value, bool) or expected == "true":
        return value is True and expected in ("true", "")
    if ".." in expected:
        low, high = expected.split("..")
        return float(low) <= float(value) <= float(high)
    try:
        return math.isclose(float(value), float(expected), rel_tol=1e-9)
    except ValueError:
        return str(value) == expected


def direction(rule: str, values: Mapping[str, Entry]) -> str:
    """Say on which side of a bound the numbers of `rule` lie: "a.b c.d > 0" names addresses, > or <, and the bound.

    The paper's side is "the printed side", else "the other side", or "the sides differ". An interval that includes the bound is
    said: the side is then not established. A part may be a difference of shares, "k/n-l/m", without an interval. A rule
    "a.b in 7..10" says inside or outside. Blank where a number is missing.
    """
    found = re.fullmatch(r"(.+?) ([<>]|in) (\S+)", rule)
    if found is None:
        return ""
    numbers = [_entry_of(part, values) for part in found[1].split()]
    if any(not isinstance(number.get("value"), (int, float)) for number in numbers):
        return ""
    if found[2] == "in":
        inside = [_meets(number["value"], found[3]) for number in numbers]
        return "inside the printed range" if all(inside) else "outside the printed range"
    bound, sign = float(found[3]), 1 if found[2] == ">" else -1
    sides = {(sign * (number["value"] - bound) > 0) for number in numbers}
    said = "the sides differ" if len(sides) > 1 else "the printed side" if True in sides else "the other side"
    known = [number for number in numbers if number.get("low") is not None and number.get("high") is not None]
    open_ended = sum(number["low"] <= bound <= number["high"] for number in known)
    of = "" if len(numbers) == 1 else f" in {open_ended} of {len(numbers)}"
    return f"{said}; the interval includes {bound:g}{of}" if open_ended else said


def _entry_of(part: str, values: Mapping[str, Entry]) -> Entry:
    """Return the entry at an address, or the difference of two shares of counts "k/n-l/m"; without a value if one is missing."""
    if "/" not in part:
        return values.get(part, {})
    shares = []
    for share in part.split("-"):
        k, n = (values.get(address, {}).get("value") for address in share.split("/"))
        shares.append(k / n if k is not None and n else math.nan)
    found = shares[0] - sum(shares[1:])
    return {"value": found if math.isfinite(found) else None}
