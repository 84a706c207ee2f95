"""What a predictor's groups and scores say about the stay after the index scan; tables in, tables out.

A table has one row a patient (or pair) with patient_id, remaining_days, event (1 = discharged alive), label (1 = high risk,
NA = unknown), logit (higher = longer stay) and high (0 | 1, the group).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from covid3d.stats import survival
from covid3d.stats.auc import auc, spearman
from covid3d.stats.estimate import NAN, Estimate
from covid3d.stats.proportions import mcnemar_exact, paired_difference, wilson

Floats = NDArray[np.float64]


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
    return Pairs((earlier & (event[:, None] == 1)).astype(float), _order(table, score))


def auc_pairs(table: pd.DataFrame, score: str = "logit") -> Pairs:
    """Return the pairs of the AUC: low risk before high risk; rows without a label count in none."""
    label = table["label"].astype("Float64").to_numpy(float, na_value=np.nan)
    return Pairs(((label[:, None] == 0) & (label == 1)).astype(float), _order(table, score))


def _order(table: pd.DataFrame, score: str) -> Floats:
    """Return 1 where the column's row scores above the row's, 0.5 where equal."""
    return _above(table[score].to_numpy(float))


def _above(values: Floats) -> Floats:
    return (values[:, None] < values) + 0.5 * (values[:, None] == values)


MEASURES = {"c_index": c_index_pairs, "auc": auc_pairs}


def resampled(table: pd.DataFrame, draws: int, rng: np.random.Generator) -> Floats:
    """Return how often each row is drawn, (draws, N), when patients are resampled with all of their rows."""
    codes, names = pd.factorize(table["patient_id"])
    counts = rng.multinomial(len(names), np.full(len(names), 1 / max(len(names), 1)), size=draws)
    return counts[:, codes].astype(float)


def bootstrap_interval(
    table: pd.DataFrame, measure: str, draws: int, rng: np.random.Generator, *, against: str | None = None
) -> Estimate:
    """Return c_index or auc of `logit` (minus that of the column `against`) with its percentile interval over patients.

    No limits where every resample gives the same value (a perfect order of few patients): a point would look certain.
    """
    known = table.dropna(subset=["remaining_days", "logit", *([against] if against else [])])
    if known.empty:
        return Estimate.missing("no patient")
    weights = np.vstack([np.ones(len(known)), resampled(known, draws, rng)])
    values = MEASURES[measure](known).value(weights)
    if against:
        values = values - MEASURES[measure](known, against).value(weights)
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(drawn) < draws / 2:
        return Estimate(float(values[0]), method="a class is missing, here or in most resamples")
    if np.ptp(drawn) == 0:
        return Estimate(float(values[0]), method="patient bootstrap, no interval: every resample gives this value")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high), "patient bootstrap, percentile")


def separation(table: pd.DataFrame, bootstrap: int, rng: np.random.Generator) -> dict[str, object]:
    """Return what a predictor's groups say about the stay: n, events, log-rank, hazard ratio of discharge, C-index, AUC.

    table: remaining_days, event, label, high (0 | 1), logit. p_nominal is the chi-square p, which takes out-of-fold groups
    for independent ones. Intervals of C-index and AUC resample patients.
    """
    table = table.dropna(subset=["high", "remaining_days"])
    days, event, high = table["remaining_days"], table["event"], table["high"]
    test, ratio = survival.log_rank(days, event, high), survival.hazard_ratio(days, event, high).estimate
    c, area = (bootstrap_interval(table, measure, bootstrap, rng) for measure in MEASURES)
    accuracy = ((high == table["label"])[table["label"].notna()]).mean()
    return {
        "n": len(table),
        "n_high": test.n[0],
        "n_low": test.n[1],
        "events_high": test.events[0],
        "events_low": test.events[1],
        "chi_square": test.chi_square,
        "p_nominal": test.p,
        "hazard_ratio": ratio.value,
        "hazard_low": ratio.low,
        "hazard_high": ratio.high,
        "c_index": c.value,
        "c_low": c.low,
        "c_high": c.high,
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "accuracy": float(accuracy) if len(table) else NAN,
        "reason": test.reason or ("" if ratio.known else ratio.method),
    }


def compare(first: pd.DataFrame, second: pd.DataFrame, draws: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return the difference of two predictors on the patients that both have: measure, difference, low, high, n.

    The same resampled patients serve both, so the comparison is paired. The interval is nominal for out-of-fold scores: it
    takes them for fixed, though refitting makes them depend on each other.
    """
    both = first.dropna(subset=["logit"]).merge(
        second[["scan_id", "logit"]].dropna(), on="scan_id", suffixes=("", "_other")
    )
    found = {name: bootstrap_interval(both, name, draws, rng, against="logit_other") for name in MEASURES}
    rows = [(name, interval.value, interval.low, interval.high, len(both)) for name, interval in found.items()]
    return pd.DataFrame(rows, columns=["measure", "difference", "low", "high", "n"])


def permuted_gain(
    table: pd.DataFrame, pair: list[Floats], single: list[Floats], permutations: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the permutation test of what two scans add to one: measure, gain_heads (pair - single), p_permutation.

    table: fold and known outcomes; pair, single: each fold's head inputs (N, K). Stay, event and label are permuted jointly,
    and the heads of both are fitted again to the same permuted outcomes: the comparison is paired, and the dependence of
    out-of-fold scores is in its null distribution (Ojala & Garriga 2010, test 1). Two-sided: twice the smaller tail, the
    observed gain counted in (Phipson & Smyth 2010). Exact where no scan tells of the outcome; where one scan does, an
    approximation, for the null gains are those of two uninformed predictors. NaN for few patients or one class.
    """
    if len(table) < 4 or table["label"].nunique() < 2:
        return pd.DataFrame({"measure": list(MEASURES), "gain_heads": NAN, "p_permutation": NAN})
    orders = survival.permuted_orders(len(table), permutations, rng)
    held, label = table["fold"].to_numpy(int), table["label"].to_numpy(float)
    logits, other = (survival.permuted_logits(inputs, held, label, orders) for inputs in (pair, single))
    rows: list[tuple[str, float, float]] = []
    for name, measure in MEASURES.items():
        usable = measure(table.assign(logit=0.0)).usable
        if not usable.sum():
            rows.append((name, NAN, NAN))
            continue
        gains = np.array(
            [
                (usable[np.ix_(order, order)] * (_above(one) - _above(two))).sum() / usable.sum()
                for order, one, two in zip(orders, logits, other, strict=True)
            ]
        )
        tails = (survival.permutation_p(sign * gains[0], sign * gains[1:] + 1e-12) for sign in (1, -1))
        rows.append((name, float(gains[0]), min(1.0, 2 * min(tails))))
    return pd.DataFrame(rows, columns=["measure", "gain_heads", "p_permutation"])


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the Kaplan-Meier curves of the groups high and low: group and the columns of survival.kaplan_meier."""
    parts = []
    for name, value in (("high", 1), ("low", 0)):
        part = table[table["high"] == value].dropna(subset=["remaining_days"])
        parts.append(survival.kaplan_meier(part["remaining_days"], part["event"]).assign(group=name))
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return found[["group", *(name for name in found if name != "group")]]


def frozen_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return measure, n, spearman, low, high, p, auc, auc_low, auc_high of pairs with scores `s` (index scan) and `prior`."""
    table = table.assign(slope=(table["s"] - table["prior"]) / table["interval_days"].where(table["interval_days"] > 0))
    index, third = table[table["scan_index"] == 1], table[table["scan_index"] == 2]
    both = third.merge(index[["patient_id", "slope", "interval_days"]], on="patient_id", suffixes=("", "_before"))
    both["curvature"] = (
        2 * (both["slope"] - both["slope_before"]) / (both["interval_days"] + both["interval_days_before"])
    )
    names = {"s": "s at the index scan", "slope": "slope of s since the prior scan"}
    measures = [(text, index, name) for name, text in names.items()] + [
        ("curvature of s over three scans", both, "curvature")
    ]
    rows = []
    for text, part, name in measures:
        part = part.dropna(subset=[name, "remaining_days"])
        found, area = spearman(part[name], part["remaining_days"]), auc(part["label"], part[name])
        rank = {"spearman": found.estimate.value, "low": found.estimate.low, "high": found.estimate.high, "p": found.p}
        rows.append(
            {"measure": text, "n": len(part), **rank, "auc": area.value, "auc_low": area.low, "auc_high": area.high}
        )
    return pd.DataFrame(rows)


def long_stays(table: pd.DataFrame, days: float) -> dict[str, float]:
    """Return the wrong groups among stays longer than `days` (k, n, share, Wilson's interval) and among the others (k, n)."""
    known = table[table["label"].notna()]
    wrong, long = (known["high"] != known["label"]).astype(bool), known["remaining_days"] > days
    share = wilson(int(wrong[long].sum()), int(long.sum()))
    found = {"long_errors": int(wrong[long].sum()), "long_n": int(long.sum()), "long_share": share.value}
    found |= {"long_low": share.low, "long_high": share.high}
    return found | {"other_errors": int(wrong[~long].sum()), "other_n": int((~long).sum())}


def reader_gain(groups: pd.DataFrame) -> pd.DataFrame:
    """Return how many more patients a reader gets right with two scans than with one.

    groups: reader_id, task (stay_single | stay_pair), scan_id, high, label. Columns reader_id, n, only_two, only_one (right
    with two or one scan alone), difference of accuracy, low, high (Tango's score interval), p (exact McNemar).
    """
    known, rows = groups[groups["label"].notna()], []
    for reader, part in known.assign(right=known["high"] == known["label"]).groupby("reader_id"):
        wide = part.pivot(index="scan_id", columns="task", values="right").reindex(columns=["stay_pair", "stay_single"])
        wide = wide.dropna().astype(bool)
        pair, single = wide["stay_pair"], wide["stay_single"]
        two, one = int((pair & ~single).sum()), int((single & ~pair).sum())
        if len(wide):
            gain = paired_difference(two, one, len(wide))
            rows.append((reader, len(wide), two, one, gain.value, gain.low, gain.high, mcnemar_exact(two, one)))
    return pd.DataFrame(rows, columns=["reader_id", "n", "only_two", "only_one", "difference", "low", "high", "p"])
