"""What a predictor's groups and scores say about the stay after the index scan; tables in, tables out.

A table has one row a patient (or pair) with patient_id, remaining_days, event (1 = discharged alive), cause (0 = censored, 1 =
discharged alive, 2 = died), label (1 = high risk, NA = unknown), logit (higher = longer stay) and high (0 | 1, the group).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from covid3d.stats import survival
from covid3d.stats.auc import auc, paired_delong, spearman
from covid3d.stats.cut_offs import NOT_PERMUTED
from covid3d.stats.estimate import NAN, Estimate
from covid3d.stats.proportions import wilson

Floats = NDArray[np.float64]
FEWEST = 5
POOLED = "folds pooled"
"""Beside what compares scores of patients whom different folds held out: each fold's network has a level of its own."""
NEAR = "outcomes permuted, approximate"
"""Beside the p of a network whose own statistic is placed among those of refitted heads."""


class Pairs(NamedTuple):
    """Which pairs of rows count (N, N), and how far the score orders each of them rightly (1, 0.5 for a tie, 0)."""

    usable: Floats
    right: Floats

    def value(self, weights: Floats) -> Floats:
        """Return the statistic for each row of weights (B, N): how often each row was drawn; NaN without a usable pair."""
        total = ((weights @ self.usable) * weights).sum(1)
        gain = ((weights @ (self.usable * self.right)) * weights).sum(1)
        return np.where(total > 0, gain / np.where(total > 0, total, 1), np.nan)


def c_index_pairs(table: pd.DataFrame, score: str = "logit") -> Pairs:
    """Return the pairs of Harrell's C: the earlier one ends with the event; right when the longer stay scores higher."""
    days, event = table["remaining_days"].to_numpy(float), table["event"].to_numpy(float)
    earlier = (days[:, None] < days) | ((days[:, None] == days) & (event[:, None] > event))
    return scored(earlier & (event[:, None] == 1), table, score)


def auc_pairs(table: pd.DataFrame, score: str = "logit") -> Pairs:
    """Return the pairs of the AUC: low risk before high risk; rows without a label count in none."""
    label = table["label"].astype("Float64").to_numpy(float, na_value=np.nan)
    return scored((label[:, None] == 0) & (label == 1), table, score)


def scored(usable: NDArray[Any], table: pd.DataFrame, score: str) -> Pairs:
    """Return the pairs of which both have a score, as far as `usable` (N, N) counts them, and how far it orders them."""
    values = table[score].to_numpy(float)
    known = np.isfinite(values)
    return Pairs(usable * known[:, None] * known, _above(values))


def _above(values: Floats) -> Floats:
    """Return 1 where the column's row scores above the row's, 0.5 where equal."""
    return (values[:, None] < values) + 0.5 * (values[:, None] == values)


MEASURES = {"c_index": c_index_pairs, "auc": auc_pairs}


def resampled(table: pd.DataFrame, draws: int, rng: np.random.Generator) -> Floats:
    """Return how often each row is drawn, (draws, N), when patients are resampled with all of their rows."""
    codes, names = pd.factorize(table["patient_id"])
    counts = rng.multinomial(len(names), np.full(len(names), 1 / max(len(names), 1)), size=draws)
    return counts[:, codes].astype(float)


def bootstrap_interval(
    table: pd.DataFrame,
    measure: str | Callable[..., Pairs],
    draws: int,
    rng: np.random.Generator,
    *,
    against: str | None = None,
) -> Estimate:
    """Return c_index or auc of `logit` (minus that of the column `against`) with its percentile interval over patients.

    measure: c_index, auc, or another function of a table that gives Pairs. No limits where every resample gives the same
    value (a perfect order of few patients): a point would look certain.
    """
    known = table.dropna(subset=["remaining_days", "logit", *([against] if against else [])])
    if known.empty:
        return Estimate.missing("no patient")
    weights = np.vstack([np.ones(len(known)), resampled(known, draws, rng)])
    pairs = MEASURES[measure] if isinstance(measure, str) else measure
    values = pairs(known).value(weights)
    if against:
        values = values - pairs(known, against).value(weights)
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(drawn) < draws / 2:
        return Estimate(float(values[0]), method="a class is missing, here or in most resamples")
    if np.ptp(drawn) == 0:
        return Estimate(float(values[0]), method="patient bootstrap, no interval: every resample gives this value")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high), "patient bootstrap, percentile")


def separation(
    table: pd.DataFrame, bootstrap: int, rng: np.random.Generator, *, remark: str = "nominal"
) -> dict[str, Any]:
    """Return what a predictor's groups and scores say about the stay; the names are words for a reader.

    table: remaining_days, event, label, high (0 | 1), logit. The log-rank p is the chi-square one; the hazard ratio is one of
    discharge; C-index and AUC resample patients. p and intervals are nominal, and say so, because they take out-of-fold
    scores for independent ones; `remark` is "" for calls that no fold has made.
    """
    table = table.dropna(subset=["high", "remaining_days"])
    days, event, high = table["remaining_days"], table["event"], table["high"]
    test = survival.log_rank(days, event, high)
    known = table["label"].notna()
    return {
        "patients": len(table),
        "high risk": test.n[0],
        "low risk": test.n[1],
        "chi-square": test.chi_square,
        "log-rank p": test.nominal.noted(remark),
        "hazard ratio": survival.hazard_ratio(days, event, high).estimate.noted(remark),
        "C-index": bootstrap_interval(table, "c_index", bootstrap, rng).noted(remark),
        "AUC": bootstrap_interval(table, "auc", bootstrap, rng).noted(remark),
        "accuracy": float((high == table["label"])[known].mean()) if known.any() else NAN,
    }


def in_words(test: survival.LogRank, remark: str = "") -> str:
    """Return which of the groups high and low risk, the test's first and second, leaves later, and p; or why there is none."""
    if test.reason:
        return str(test.nominal)
    return f"{'low' if test.z > 0 else 'high'} risk leaves later; log-rank {test.nominal.noted(remark)}"


def compare(first: pd.DataFrame, second: pd.DataFrame, draws: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return the difference of two predictors on the patients that both have: rows c_index and auc; patients, difference.

    The same resampled patients serve both, so the comparison is paired. The interval is nominal for out-of-fold scores: it
    takes them for fixed, though refitting makes them depend on each other.
    """
    both = first.dropna(subset=["logit"]).merge(
        second[["scan_id", "logit"]].dropna(), on="scan_id", suffixes=("", "_other")
    )
    found = {name: bootstrap_interval(both, name, draws, rng, against="logit_other") for name in MEASURES}
    rows = [(name, len(both), interval.noted("nominal")) for name, interval in found.items()]
    return pd.DataFrame(rows, columns=["measure", "patients", "difference"]).set_index("measure")


def permuted_gain(
    table: pd.DataFrame, orders: NDArray[np.int_], first: Floats, second: Floats, own: Sequence[Floats] | None = None
) -> pd.DataFrame:
    """Return by how much one predictor does better than another when both are refitted, and p by permutation.

    table: patients with known outcomes; first, second: out-of-fold logits (P, N) refitted to the outcomes in each order, the
    observed one first (`survival.permuted_logits`). Stay, event and label are permuted jointly, and both predictors are
    fitted to the same permuted outcomes: the comparison is paired, and the dependence of out-of-fold scores is in its null
    distribution (Ojala & Garriga 2010, test 1). Two-sided: twice the smaller tail, the observed gain counted in (Phipson &
    Smyth 2010). Exact where no scan tells of the outcome; where one scan does, an approximation, for the null gains are
    those of two uninformed predictors. Missing for few patients, one class, or a predictor that was not refitted, (0, N).

    own: the logits (N,) of two networks for which refitted heads stand in: "permutation p" then places the networks' own
    gain among the heads' null gains, which is approximate; "refitted p" is that of the heads' gain. Rows c_index and auc.
    """
    columns = ["permutation p", "refitted difference", "refitted p"]
    rows: list[tuple[Estimate, float, Estimate]] = []
    for measure in MEASURES.values():
        usable = measure(table.assign(logit=0.0)).usable if len(table) >= 4 else np.zeros((0, 0))
        if not usable.sum() or table["label"].nunique() < 2 or not min(len(first), len(second)):
            none = survival.permuted(NAN, NOT_PERMUTED)
            rows.append((none, NAN, none))
            continue
        pairs = (usable[np.ix_(order, order)] for order in orders)
        gains = np.array([_gain(*three) for three in zip(pairs, first, second, strict=True)])
        refitted = survival.permuted(_two_sided(gains[0], gains[1:]))
        placed = refitted if own is None else survival.permuted(_placed(usable, own, gains[1:])).noted(NEAR)
        rows.append((placed, float(gains[0]), refitted))
    return pd.DataFrame(rows, columns=columns, index=pd.Index(MEASURES, name="measure"))


def _gain(usable: Floats, first: Floats, second: Floats) -> float:
    """Return the share of usable pairs that the first logits (N,) order rightly, minus that of the second."""
    return float((usable * (_above(first) - _above(second))).sum() / usable.sum())


def _placed(usable: Floats, own: Sequence[Floats], null: Floats) -> float:
    """Return the p of the networks' own gain among null gains; NaN where one of them has not scored everybody."""
    return _two_sided(_gain(usable, *own), null) if np.isfinite(np.asarray(own)).all() else NAN


def _two_sided(gain: float, null: Floats) -> float:
    return min(1.0, 2 * min(survival.permutation_p(sign * gain, sign * null + 1e-12) for sign in (1, -1)))


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return who of the groups high and low is still in hospital: group and the columns of survival.kaplan_meier.

    Who has died is no longer there: both ends lower the curve.
    """
    found = {name: survival.kaplan_meier(part["remaining_days"], part["cause"] > 0) for name, part in _groups(table)}
    return _by_group(found)


def incidences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cumulative incidences of the groups high and low: group and the columns of survival.aalen_johansen."""
    found = {name: survival.aalen_johansen(part["remaining_days"], part["cause"]) for name, part in _groups(table)}
    curves = _by_group({name: curve for name, curve in found.items() if curve["at_risk"].iloc[0] > 0})
    return curves.fillna(dict.fromkeys(curves.filter(regex=r"^cause_\d+$"), 0.0))


def _groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    known = table.dropna(subset=["remaining_days"])
    return [(name, known[known["high"] == value]) for name, value in (("high", 1), ("low", 0))]


def _by_group(curves: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the curves of groups as one table, those without a patient left out."""
    parts = [curve.assign(group=name) for name, curve in curves.items() if len(curve)]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"group": [], "day": []})
    return found[["group", *(name for name in found if name != "group")]]


def competing(table: pd.DataFrame) -> dict[str, Any]:
    """Return how many died, and whether the groups differ in how many leave alive, deaths competing (Gray 1988)."""
    known = table.dropna(subset=["high", "remaining_days"])
    died = int((known["cause"] == 2).sum())
    test = survival.gray(known["remaining_days"], known["cause"], known["high"])
    p = test.nominal if died else Estimate.missing("nobody died: nothing competes with discharge")
    return {"patients": len(known), "died": died, "chi-square": test.chi_square if died else NAN, "Gray's p": p}


def gray_in_words(table: pd.DataFrame) -> str:
    """Return which of the groups leaves alive more often, by Gray's test, and p; or why there is none."""
    known = table.dropna(subset=["high", "remaining_days"])
    test = survival.gray(known["remaining_days"], known["cause"], known["high"])
    more = "high" if test.z > 0 else "low"
    return str(test.nominal) if test.reason else f"more of the {more} risk leave alive; Gray's test {test.nominal}"


def frozen_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlation with the stay, and the AUC for high risk, of s, its slope and its curvature.

    table: pairs with scores `s` (the scan) and `prior` (the one before). s at the index scan; its slope since the prior scan
    (per day); the curvature over the first three scans, which is judged against the stay after the third. s is of the fold
    that held the patient out; in a slope and a curvature its level falls out, while that of s itself is `POOLED`.
    """
    table = table.assign(slope=(table["s"] - table["prior"]) / table["interval_days"].where(table["interval_days"] > 0))
    index, third = table[table["scan_index"] == 1], table[table["scan_index"] == 2]
    both = third.merge(index[["patient_id", "slope", "interval_days"]], on="patient_id", suffixes=("", "_before"))
    both["curvature"] = (
        2 * (both["slope"] - both["slope_before"]) / (both["interval_days"] + both["interval_days_before"])
    )
    measures = [
        ("s at the index scan", index, "s", POOLED),
        ("slope of s since the prior scan", index, "slope", ""),
        ("curvature of s over three scans", both, "curvature", ""),
    ]
    rows = []
    for text, part, name, remark in measures:
        part = part.dropna(subset=[name, "remaining_days"])
        found = spearman(part[name], part["remaining_days"])
        area = auc(part["label"], part[name]).noted(remark)
        rows.append((text, len(part), found.estimate.noted(remark), found.p, area))
    return pd.DataFrame(rows, columns=["measure", "patients", "Spearman", "p", "AUC"]).set_index("measure")


def against_s(table: pd.DataFrame, column: str, words: str) -> dict[str, Any]:
    """Return the AUCs for high risk of a column and of `s`, and their paired difference (DeLong): neither has learned a stay."""
    known = table.dropna(subset=["label", "s", column])
    label, s, other = (known[name].to_numpy(float) for name in ("label", "s", column))
    found, areas = paired_delong(label, other, s), {words: auc(label, other), "s": auc(label, s).noted(POOLED)}
    return {"patients": len(known), **areas, f"{words} minus s": found.estimate.noted(POOLED), "p": found.p}


def share(k: int, n: int) -> Estimate:
    """Return k of n in per cent with Wilson's interval; of fewer than FEWEST patients the count alone, for it is no share."""
    if n < FEWEST:
        return Estimate(k, method="too few for a share", remark=f"of {n}") if n else Estimate.missing("nobody")
    return wilson(k, n).of_unit("%").noted(f"{k} of {n}")


def after_a_change(table: pd.DataFrame, band: float) -> dict[str, Estimate]:
    """Return, of the patients whose s moved by more than a band between two scans, how many are of the risk that is meant.

    table: s, prior and label, 1 = high risk. band: NaN (unknown) counts as 0.
    """
    change, high = table["s"] - table["prior"], table["label"].astype(int) == 1
    band = band if np.isfinite(band) else 0.0
    sides = {"high risk after a rise": (change > band, high), "low risk after a fall": (change < -band, ~high)}
    return {
        name: share(int((moved & meant).sum()), int(moved.sum()))
        if moved.any()
        else Estimate.missing("nobody's s moved beyond the noise")
        for name, (moved, meant) in sides.items()
    }
