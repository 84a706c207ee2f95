"""Checks of what is printed, by the printed numbers alone: they hold on any cohort, for no scan is needed."""

import functools
from typing import Any

import pandas as pd

from covid3d.run.profile import DATA

Claim = dict[Any, Any]
Check = tuple[bool, str]


@functools.cache
def table() -> pd.DataFrame:
    """Return the printed claims, indexed by claim_id: section, kind, text, value, unit, n_basis, …; all text."""
    return pd.read_csv(DATA / "claims.csv", dtype=str, keep_default_na=False).set_index("claim_id")


def text(claim: str) -> str:
    """Return what is printed for a claim, as it is printed."""
    return str(table().loc[claim, "value"])


def value(claim: str) -> float:
    """Return the one printed number of a claim, without its "+/-" and commas."""
    return float(text(claim).strip("+/- ").replace(",", ""))


def audit_cell(percent: float, n: int, decimals: int = 0) -> dict[str, Any]:
    """Return attainable (bool), counts (the possible k), how (rounded, cut) and nearest (two percentages of n)."""
    from covid3d.stats.proportions import attainable  # every notebook imports this file, and would wait for statsmodels

    counts = attainable(percent, n, decimals)
    step = 10.0**-decimals
    gaps = [100 * k / n - percent for k in counts]
    ways = [
        ("rounded", [abs(gap) <= step / 2 + 1e-9 for gap in gaps]),
        ("cut", [-1e-9 <= gap < step - 1e-9 for gap in gaps]),
    ]
    shares = sorted((100 * k / n for k in range(n + 1)), key=lambda share: (abs(share - percent), share))[:2]
    return {
        "attainable": bool(counts),
        "counts": ", ".join(str(k) for k in counts),
        "how": " or ".join(way for way, fits in ways if any(fits)),
        "nearest": ", ".join(f"{share:.1f}" for share in shares),
    }


def pairs_that_print(auc: float, positives: int, negatives: int, decimals: int = 2) -> list[float]:
    """Return the numbers of won pairs, ties counted as half, for which the AUC prints as `auc`, rounded."""
    total, half_step = positives * negatives, 0.5 * 10.0**-decimals
    return [k / 2 for k in range(2 * total + 1) if abs(k / 2 / total - auc) <= half_step + 1e-9]


def check(claim: Claim) -> Check | None:
    """Return whether a claim's printed number can be what it is called, and why; None where nothing can be checked."""
    if claim["claim_id"] in _OTHERS:
        return _OTHERS[claim["claim_id"]]()
    if claim["unit"] == "%" and claim["n_basis"].isdigit() and claim["section"] == "Table 2":
        percent, n = int(claim["value"]), int(claim["n_basis"])
        found = audit_cell(percent, n)
        if found["attainable"]:
            return True, f"{found['counts']} of {n} prints as {percent} ({found['how']})"
        return False, f"no count of {n} prints as {percent}; the nearest shares are {found['nearest']} %"
    first, _, second = claim["n_basis"].partition("/")
    if claim["unit"] == "AUC" and claim["kind"] == "result" and first.isdigit() and not claim["value"].startswith("+"):
        auc, sizes = float(claim["value"].split()[0]), (int(first), int(second))
        won = pairs_that_print(auc, *sizes)
        says = f"{won[0]:g} to {won[-1]:g} of {sizes[0] * sizes[1]} case pairs" if won else "no number of case pairs"
        return bool(won), f"{says} print as {auc:.2f}"
    return None


def _adds_up() -> Check:
    parts = [int(value(claim)) for claim in ("C030", "C031")]
    return sum(parts) == value("C029"), f"{parts[0]} + {parts[1]} = {sum(parts)}"


def _later_scans() -> Check:
    first = sum(int(value(claim)) for claim in ("C020", "C021", "C026", "C027", "C029"))
    followed = int(value("C042") + value("C043"))
    later = int(value("C008")) - first
    return later >= followed, f"{first} first scans leave {later} later ones of {followed} followed patients"


def _slices() -> Check:
    mean = value("C009") / value("C008")
    return 40 <= mean <= 1000, f"{mean:.1f} slices a scan"


def _readers_of_the_caption() -> Check:
    printed = table()
    cells = printed[(printed["section"] == "Table 2") & (printed["kind"] == "result")]["text"]
    named = {text.split(" se")[0].split(" sp")[0] for text in cells} - {"COVID3D"}
    return len(named) == value(
        "C087"
    ), f"the table's rows name {len(named)} radiologists, its caption {value('C087'):g}"


def _roc_in_table_1() -> Check:
    printed = table()
    figures = int(((printed["section"] == "Table 1") & (printed["kind"] == "figure")).sum())
    return figures > 0, f"the text announces ROC curves in Table 1; it prints {figures} of them"


def _one_rule() -> Check:
    rules = [text(claim) for claim in ("C048", "C050")]
    return rules[0] == rules[1], f"high risk is {rules[0]} days in one place and {rules[1]} in another"


_OTHERS = {
    "C008": _later_scans,
    "C009": _slices,
    "C029": _adds_up,
    "C048": _one_rule,
    "C050": _one_rule,
    "C087": _readers_of_the_caption,
    "C094": _roc_in_table_1,
}
