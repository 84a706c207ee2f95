"""The findings of the audit, F1 to F19, as numbers: what follows from the printed values, by code and without any scan.

`numbers` gives each an address, `audit.f4.b_needs`, by which the page names it. Findings without a number are read in the text.
"""

import functools
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from covid3d.report import printed
from covid3d.report.audit import audit_published, printed_aucs
from covid3d.report.printed import value
from covid3d.show import slug, text
from covid3d.stats.auc import Z, hanley_mcneil_standard_error
from covid3d.stats.proportions import attainable, mcnemar_exact
from covid3d.stats.survival import log_rank_statistics

SIZES = {"B": (20, 20), "C": (12, 9)}
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.9)
POWER = 0.8
Numbers = dict[str, Any]


@functools.cache
def numbers() -> Numbers:
    """Return every number of the audit by its address, e.g. `audit.f1.impossible`."""
    parts = {"f1": f1, "f2": f2, "f3": f3, "f4": f4, "f5": f5, "f6": f6, "f7": f7, "f8": f8, "f10": f10, "f11": f11}
    found = {**{name: part() for name, part in parts.items()}, "f12": f12(), "f16": f16()}
    return {slug("audit", name, what): number for name, facts in found.items() for what, number in facts.items()}


def texts() -> dict[str, str]:
    """Return the numbers of the audit as prose prints them."""
    return {address: text(number, "p" if _is_p(address) else "") for address, number in numbers().items()}


def _is_p(address: str) -> bool:
    return re.search(r"[._]p(_|$)", address) is not None


def _two_sided(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


# --- F1: shares of cases ---------------------------------------------------------------------------------------------


def f1() -> Numbers:
    """Count the cells of Table 2 that no count prints, and how likely they would all fit the other hospital by chance."""
    cells = audit_published()
    odd = cells[~cells["attainable"]]
    fitting = {n: np.mean([bool(attainable(percent, n)) for percent in range(60, 100)]) for n in (20, 12, 9)}
    chance = math.prod(fitting[int(n)] for n in odd["other_n"])
    shares = {"rarest": 100 * min(fitting.values()), "commonest": 100 * max(fitting.values())}
    return {
        "impossible": len(odd),
        "of": len(cells),
        "fit the other": int(odd["fits_other"].sum()),
        "chance p": chance,
        **shares,
    }


# --- F2, F3, F10: sampling -------------------------------------------------------------------------------------------


def f2() -> Numbers:
    """Compare each printed bound of Table 1 with the standard error that the counts imply (Hanley & McNeil 1982)."""
    table = printed_aucs().set_index("row")
    outside = table[table.index.str.endswith((" B", " C"))]
    ratio = outside["standard_error"] / outside["printed_bound"]
    limits = {
        f"{row} {side}": table.loc[row, side] for row in ("3D B", "3D C", "2D B", "2D C") for side in ("low", "high")
    }
    return {"least ratio": float(ratio.min()), "greatest ratio": float(ratio.max()), **limits}


@functools.cache
def ten_folds(auc: float = 0.92, runs: int = 4000) -> np.ndarray:
    """Return fold AUCs (runs, 10) of 8 and 8 cases with normal scores of equal spread and this true AUC."""
    rng = np.random.default_rng(1)
    gap = math.sqrt(2) * stats.norm.ppf(auc)
    positive, negative = rng.normal(gap, 1, (runs, 10, 8, 1)), rng.normal(0, 1, (runs, 10, 1, 8))
    return np.asarray((positive > negative).mean(axis=(2, 3)))


def f3() -> Numbers:
    """Tell how far ten folds of 8 and 8 cases must differ by chance alone."""
    spread = ten_folds().std(axis=1, ddof=1)
    return {"spread": float(spread.mean()), "runs": len(spread), "as small": int((spread <= 0.015).sum())}


def f10() -> Numbers:
    """Tell what the best of ten equal folds reaches, and whether the drop outside is beyond sampling error."""
    inside = hanley_mcneil_standard_error(value("C095"), 83, 83)
    drops = {h: (value("C095") - value(claim)) for h, claim in (("B", "C064"), ("C", "C066"))}
    errors = {h: hanley_mcneil_standard_error(value(c), *SIZES[h]) for h, c in (("B", "C064"), ("C", "C066"))}
    p = {f"{h} p": _two_sided(drop / math.hypot(inside, errors[h])) for h, drop in drops.items()}
    return {"best of ten": float(ten_folds().max(axis=1).mean()), **{f"{h} drop": d for h, d in drops.items()}, **p}


# --- F4: two AUCs of the same cases ----------------------------------------------------------------------------------


def gains() -> list[dict[str, Any]]:
    """Return the printed gain of 3D over 2D at B and C: hospital, flat (AUC of 2D), gain, and the errors of both AUCs."""
    rows = []
    for hospital, (flat, deep) in {"B": ("C060", "C064"), "C": ("C062", "C066")}.items():
        errors = [hanley_mcneil_standard_error(value(claim), *SIZES[hospital]) for claim in (flat, deep)]
        gain = value(deep) - value(flat)
        rows.append({"hospital": hospital, "flat": value(flat), "gain": gain, "errors": errors})
    return rows


def error_of_difference(a: float, b: float, correlation: float) -> float:
    """Return the standard error of a difference of two correlated AUCs (Hanley & McNeil, Radiology 1983)."""
    return math.sqrt(a**2 + b**2 - 2 * correlation * a * b)


def p_by_correlation(correlations: Iterable[float] = CORRELATIONS) -> pd.DataFrame:
    """Return p of the printed gain by the correlation of the two AUCs, which is not printed: B, C, and both together."""
    rows = []
    for r in correlations:
        found = [(site["gain"], error_of_difference(site["errors"][0], site["errors"][1], r)) for site in gains()]
        weights = [1 / error**2 for _, error in found]
        both = sum(w * gain for w, (gain, _) in zip(weights, found, strict=True)) / math.sqrt(sum(weights))
        each = [_two_sided(gain / error) for gain, error in found]
        rows.append({"correlation": r, "B": each[0], "C": each[1], "B and C together": _two_sided(both)})
    return pd.DataFrame(rows).set_index("correlation")


def f4() -> Numbers:
    """Tell what correlation and how many cases the printed gains would need, and whether 2D differs from chance."""
    found: Numbers = {}
    for site in gains():
        (a, b), (m, n), name = site["errors"], SIZES[site["hospital"]], site["hospital"]
        found[f"{name} gain"] = site["gain"]
        found[f"{name} needs"] = (a**2 + b**2 - (site["gain"] / Z) ** 2) / (2 * a * b)
        found[f"{name} 2D chance p"] = _two_sided((site["flat"] - 0.5) / math.sqrt((m + n + 1) / (12 * m * n)))
        found[f"independent {name} p"] = _two_sided(site["gain"] / error_of_difference(a, b, 0))

    def power(n: int) -> float:
        flat, deep = (hanley_mcneil_standard_error(value(claim), n, n) for claim in ("C060", "C064"))
        return float(stats.norm.cdf(found["B gain"] / error_of_difference(flat, deep, 0.5) - Z))

    return found | {"cases a class": next(n for n in range(5, 5000) if power(n) >= POWER)}


# --- F5: readers -----------------------------------------------------------------------------------------------------


def against_readers() -> pd.DataFrame:
    """Return printed reader minus printed COVID3D in points, with the normal interval of two independent shares."""
    cells = audit_published().to_dict("records")
    share = {(cell["reader"], cell["hospital"], cell["measure"]): cell["percent"] / 100 for cell in cells}
    rows = []
    for cell in (cell for cell in cells if cell["reader"] != "COVID3D"):
        p, q = cell["percent"] / 100, share["COVID3D", cell["hospital"], cell["measure"]]
        half = Z * math.sqrt((p * (1 - p) + q * (1 - q)) / cell["n"])
        rows.append((cell["reader"], cell["hospital"], cell["measure"], 100 * (p - q), 100 * half))
    columns = ["reader", "hospital", "measure", "difference", "half width"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


def f5() -> Numbers:
    """Tell how wide the differences to the readers are, and how the balanced accuracies lie."""
    cells, table = audit_published(), against_readers()
    balanced = cells.groupby(["reader", "hospital"])["percent"].mean().reset_index().to_dict("records")
    outside = (table["difference"].abs() > table["half width"]).sum()
    return {
        **{f"{row['reader']} {row['hospital']}": row["percent"] for row in balanced},
        "narrowest": float(table["half width"].min()),
        "widest": float(table["half width"].max()),
        "beyond": int(outside),
        "of": len(table),
        "largest gap p": mcnemar_exact(5, 0),
    }


# --- F6, F7, F8: scores and stays ------------------------------------------------------------------------------------


def f6() -> Numbers:
    """Tell how many followed patients of A are among the positives that train a fold's network."""
    followed, positives = int(value("C042")), int(value("C020"))
    return {"followed": followed, "positives": positives, "in training": 0.9 * followed, "clean": int(value("C043"))}


def fewest_patients(p: float) -> int:
    """Return the fewest patients with whom a log-rank test can reach p: the groups leave one after the other, no tie."""
    for n in range(4, 200):
        groups = np.arange(n)[None, :] < np.arange(1, n)[:, None]
        if stats.chi2.sf(log_rank_statistics(np.arange(n, dtype=float), np.ones(n), groups).max(), 1) <= p:
            return n
    return 200


def fewest_exactly(p: float) -> int:
    """Return the fewest patients with whom an exact two-sided permutation test of two groups can reach p."""
    return next(n for n in range(4, 200) if 2 / math.comb(n, n // 2) <= p)


def ratio_needed(events: float, p: float) -> float:
    """Return the hazard ratio that gives p with so many events in two equal groups (Schoenfeld, Biometrika 1981)."""
    return math.exp(2 * stats.norm.isf(p / 2) / math.sqrt(events))


def f7() -> Numbers:
    """Tell what the printed log-rank p would need, and what counting a patient more than once does."""
    p = value("C123")
    repeated = {f"rejects {rows} rows": 100 * stats.chi2.sf(stats.chi2.isf(0.05, 1) / rows, 1) for rows in (2, 3)}
    ratios = {f"ratio {events}": ratio_needed(events, p) for events in (10, 20, 30, 53)}
    return {"fewest": fewest_patients(p), "fewest exactly": fewest_exactly(p), **ratios, **repeated}


def f8() -> Numbers:
    """Tell how different the two printed p values are from each other, by the correlation of the two statistics."""
    gap = float(stats.norm.isf(value("C123") / 2) - stats.norm.isf(value("C124") / 2))
    p = {f"p at {r:g}": _two_sided(gap / math.sqrt(2 - 2 * r)) for r in (0, 0.7)}
    return {"gap": gap, "needs": 1 - (gap / Z) ** 2 / 2, **p}


# --- F11, F12, F16: words and days -----------------------------------------------------------------------------------


def f11() -> Numbers:
    """Put the gain of the tuned windows beside the case pairs and beside the spread over windows."""
    gains_of = {"B": value("C068") - value("C064"), "C": value("C070") - value("C066")}
    pairs = {f"{h} pairs": round(gain * math.prod(SIZES[h])) for h, gain in gains_of.items()}
    spreads = {"B spreads": gains_of["B"] / value("C065"), "C spreads": gains_of["C"] / value("C067")}
    grid = np.linspace(-9, 9, 20001)
    best = float(np.trapezoid(grid * 100 * stats.norm.pdf(grid) * stats.norm.cdf(grid) ** 99, grid))
    return {**pairs, **spreads, "best of 100": best}


def f12() -> Numbers:
    """Return the number of readers in the text and in the caption of Table 2."""
    return {"in the text": int(value("C055")), "in the caption": int(value("C087"))}


def f16() -> Numbers:
    """Return the days from onset to the first scan that the two printed peaks imply, and the case's days after its peak."""
    after_scan, after_onset = ([int(day) for day in printed.text(claim).split("-")] for claim in ("C109", "C110"))
    onset = {"least": after_onset[0] - after_scan[1], "most": after_onset[1] - after_scan[0]}
    return {**onset, "case": int(value("C132") - value("C134"))}
