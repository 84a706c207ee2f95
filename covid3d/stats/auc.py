"""How well scores tell labels: AUCs with intervals and differences, thresholds, log loss and rank correlation.

Labels are 1 (COVID+) or 0; scores rise with the probability of 1. Intervals are two-sided, 95 %, and each function names
the paper of its formula.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats

from covid3d.run.errors import Covid3DError
from covid3d.stats.estimate import NO_INTERVAL, Estimate, Tested, complete

Z = float(stats.norm.ppf(0.975))
FEWEST_FOLDS = 5
"""Fewer fold AUCs say too little of how they vary."""
MOST_ORDERED = 9
"""Up to so many pairs a rank correlation is tested over all orders."""

# --- one AUC ---------------------------------------------------------------------------------------------------------


def auc(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Return the AUC with Newcombe's interval, over the rows that have label and score; missing with one class only.

    Of the intervals in `benchmarks.coverage` it is the one that covers with few patients, and the only one whose limits
    never fall when the AUC rises: it depends on the AUC and the class sizes alone.
    """
    truth, values = complete(labels, scores)
    if len(np.unique(truth)) < 2:
        return Estimate.missing("one class only")
    return newcombe_interval(auc_value(truth, values), *_sizes(truth))


def auc_value(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return P(score of a 1 > score of a 0) + half the ties (Mann & Whitney 1947; Hanley & McNeil 1982).

    labels, scores: (N,). Raises Covid3DError when a class is missing or a score is not finite.
    """
    return float(_placements(labels, scores)[0].mean())


def _sizes(labels: ArrayLike) -> tuple[int, int]:
    """Return how many labels are 1 and how many 0."""
    truth = np.asarray(labels, dtype=float)
    return int((truth == 1).sum()), int((truth == 0).sum())


def _classes(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the positives and of the negatives."""
    truth, values = np.asarray(labels, dtype=float), np.asarray(scores, dtype=float)
    if truth.shape != values.shape or truth.ndim != 1:
        raise Covid3DError(f"{truth.shape} labels do not match {values.shape} scores", cure="Give one score a label")
    if not np.isfinite(values).all():
        raise Covid3DError("a score is not a finite number", cure="Leave out scans without a score")
    if not np.isin(truth, (0, 1)).all() or len(set(truth)) != 2:
        raise Covid3DError("an AUC needs cases with label 1 and cases with label 0", cure="Check the labels")
    return values[truth == 1], values[truth == 0]


def _placements(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return each positive's share of negatives below it, and each negative's share of positives above it.

    By mid-ranks, O(N log N) (Sun & Xu, IEEE Signal Process Lett 2014).
    """
    positive, negative = _classes(labels, scores)
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    of_positive = (ranks[:m] - stats.rankdata(positive)) / n
    of_negative = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    return of_positive, of_negative


def _variance(values: np.ndarray) -> float:
    """Return the variance of a mean; NaN for a single value, of which nobody knows how it varies."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.nan


def delong_standard_error(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the standard error of an AUC (DeLong, DeLong & Clarke-Pearson, Biometrics 1988); NaN for one case of a class."""
    of_positive, of_negative = _placements(labels, scores)
    return math.sqrt(_variance(of_positive) + _variance(of_negative))


def delong_interval(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Return AUC +/- z SE, cut to [0, 1] (DeLong 1988; the default interval of R's pROC).

    No limits for one case of a class, or where the scores separate the classes and the standard error is 0.
    """
    value, error = auc_value(labels, scores), delong_standard_error(labels, scores)
    if not error > 0:
        return Estimate(value, method=_no_limits("DeLong", error))
    return Estimate(value, max(0.0, value - Z * error), min(1.0, value + Z * error), "DeLong")


def _no_limits(method: str, error: float) -> str:
    """Return the name of a method that has no usable standard error."""
    return f"{method}, {NO_INTERVAL}{'one case of a class' if math.isnan(error) else 'nothing varies'}"


def logit_delong_interval(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Return logit(AUC) +/- z SE / (AUC (1 - AUC)), mapped back (Pepe 2003, section 5.2; Qin & Hotilovac 2008).

    No limits where `delong_interval` has none.
    """
    return _on_logit(auc_value(labels, scores), delong_standard_error(labels, scores), "logit DeLong")


def _on_logit(value: float, standard_error: float, method: str) -> Estimate:
    """Return an interval that is symmetric on the logit scale (delta method)."""
    if not (0 < value < 1 and standard_error > 0):
        return Estimate(value, method=_no_limits(method, standard_error))
    half = Z * standard_error / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return Estimate(value, _expit(centre - half), _expit(centre + half), method)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def newcombe_interval(value: float, positives: int, negatives: int, level: float = 0.95) -> Estimate:
    """Return the score-type interval of an AUC from its value and class sizes alone.

    It holds every AUC t with |value - t| <= z SE(t), SE being Hanley & McNeil's for exponential scores with both class
    sizes replaced by their mean in its second-order terms (Newcombe, Stat Med 2006, part 2, method 5). It is defined
    at perfect separation.
    """
    z = float(stats.norm.isf((1 - level) / 2))
    low = _newcombe_low(value, positives, negatives, z)
    high = 1 - _newcombe_low(1 - value, positives, negatives, z)
    return Estimate(value, low, high, "Newcombe 5")


def _newcombe_low(value: float, positives: int, negatives: int, z: float) -> float:
    """Return the smaller root t of (value - t)^2 = z^2 V(t); V(t) = V(1 - t) gives the other."""
    size = (positives + negatives) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) / (positives * negatives) * (1 + size * ((1 - t) / (2 - t) + t / (1 + t)))
        return (value - t) ** 2 - z**2 * spread

    return 0.0 if value == 0 else float(optimize.brentq(excess, 0.0, min(value, 1 - 1e-9)))


def hanley_mcneil_standard_error(value: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC from its value and class sizes (Hanley & McNeil, Radiology 1982)."""
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    return math.sqrt(spread / (positives * negatives))


def hanley_mcneil_interval(value: float, positives: int, negatives: int) -> Estimate:
    """Return the interval of a printed AUC, symmetric on the logit scale, with Hanley & McNeil's standard error."""
    error = hanley_mcneil_standard_error(value, positives, negatives)
    return _on_logit(value, error, "Hanley-McNeil, logit scale")


# --- differences of AUCs ---------------------------------------------------------------------------------------------


def paired_delong(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> Tested:
    """Return AUC(a) - AUC(b) of two scores of the same cases, its interval and p (DeLong et al., Biometrics 1988).

    Missing with one class only, or where a case lacks a label or a score; no interval and no p for one case of a class.
    Where the difference has no spread there is no test: p is 1, and for a difference other than 0 the interval is [-1, 1].
    """
    if not _comparable(labels, scores_a, scores_b):
        return Tested.missing("one class, or scores are missing")
    difference, error = _paired_difference(labels, scores_a, scores_b)
    if math.isnan(error):
        return Tested(Estimate(difference, method=_no_limits("paired DeLong", error)), math.nan)
    if error == 0 and abs(difference) < 1e-12:
        return Tested(Estimate(0.0, method=f"paired DeLong, {NO_INTERVAL}the ranks are equal"), 1.0)
    if error == 0:
        return Tested(Estimate(difference, -1.0, 1.0, "paired DeLong undefined: no spread"), 1.0)
    return _normal_test(difference, error, "paired DeLong")


def pooled_delong(sites: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Tested:
    """Return the inverse-variance mean over sites of the paired differences of (labels, a, b); see `paired_delong`."""
    if not sites or not all(_comparable(*site) for site in sites):
        return Tested.missing("one class, or scores are missing, at a site")
    found = [_paired_difference(*site) for site in sites]
    return pool_inverse_variance([value for value, _ in found], [error for _, error in found])


def _comparable(labels: ArrayLike, *scores: ArrayLike) -> bool:
    """True when both classes are there and nothing is missing."""
    known = complete(labels, *scores)[0]
    return len(known) == np.size(labels) and len(np.unique(known)) == 2


def _paired_difference(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> tuple[float, float]:
    """Return AUC(a) - AUC(b) of two scores of the same cases, and its standard error (DeLong et al. 1988)."""
    positive_a, negative_a = _placements(labels, scores_a)
    positive_b, negative_b = _placements(labels, scores_b)
    error = math.sqrt(_variance(positive_a - positive_b) + _variance(negative_a - negative_b))
    return float(positive_a.mean() - positive_b.mean()), 0.0 if error <= 1e-12 else error


def pool_inverse_variance(values: Sequence[float], standard_errors: Sequence[float]) -> Tested:
    """Return the fixed-effect mean of per-site estimates, weights 1 / SE^2 (Cochran 1937; DerSimonian & Laird 1986).

    Sites without spread (standard error 0 or unknown) have no weight and are left out; the method says how many remain.
    """
    used = [(v, e) for v, e in zip(values, standard_errors, strict=True) if e > 0]
    method = f"inverse variance, {len(used)} of {len(values)} sites"
    if not used:
        return Tested(Estimate(float(np.mean(values)), -1.0, 1.0, method), 1.0)
    weights = np.array([1 / e**2 for _, e in used])
    mean = float(np.average([v for v, _ in used], weights=weights))
    return _normal_test(mean, 1 / math.sqrt(weights.sum()), method)


def external_internal_difference(inside: pd.DataFrame, labels: ArrayLike, scores: ArrayLike) -> Tested:
    """Return an external AUC minus the mean fold AUC of `inside` (fold, label, logit): a drop is negative.

    Independent samples: MOVER (Zou & Donner, Stat Med 2008) from Newcombe's limits outside, which have a width even where
    the scores separate the classes, and Student's t limits over the folds. p is the level at which the interval ends at 0.
    """
    values = fold_aucs(inside)
    if len(values) < FEWEST_FOLDS or not _comparable(labels, scores):
        return Tested.missing(f"fewer than {FEWEST_FOLDS} folds, or one class")
    outside, sizes = auc_value(labels, scores), _sizes(labels)
    difference = outside - float(np.mean(values))
    if not mean_interval(values).has_limits:
        return Tested(Estimate(difference, method=f"MOVER, {NO_INTERVAL}the folds do not vary"), math.nan)

    def interval(alpha: float) -> Estimate:
        return mover(newcombe_interval(outside, *sizes, 1 - alpha), mean_interval(values, 1 - alpha))

    def gap(alpha: float) -> float:
        found = interval(alpha)
        return found.low if difference > 0 else -found.high

    least, most = 1e-10, 0.999
    p = least if gap(least) >= 0 else 1.0 if gap(most) <= 0 else float(optimize.brentq(gap, least, most))
    return Tested(interval(0.05), p)


def mover(first: Estimate, second: Estimate) -> Estimate:
    """Return first minus second of independent samples, its limits recovered from theirs (Zou & Donner, Stat Med 2008)."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, max(-1.0, low), min(1.0, high), "independent samples, MOVER")


def _normal_test(value: float, error: float, method: str) -> Tested:
    """Return an estimate with value +/- z SE (not cut) and the two-sided normal p."""
    half = Z * error
    p = float(2 * stats.norm.sf(abs(value) / error))
    return Tested(Estimate(value, value - half, value + half, method), p)


# --- folds -----------------------------------------------------------------------------------------------------------


def fold_aucs(scores: pd.DataFrame) -> list[float]:
    """Return the AUC of each fold that has both classes; needs columns fold, label, logit."""
    parts = [part for _, part in scores.groupby("fold") if part["label"].nunique() == 2]
    return [auc_value(part["label"], part["logit"]) for part in parts]


def mean_fold_auc(scores: pd.DataFrame) -> Estimate:
    """Return the mean of the fold AUCs with Student's t interval over folds; needs columns fold, label, logit."""
    return mean_auc(fold_aucs(scores))


def mean_auc(values: Sequence[float]) -> Estimate:
    """Return the mean of the AUCs of folds with Student's t interval over folds, cut to [0, 1]."""
    few = "fewer than two folds with both classes"
    if len(values) < 2:
        return Estimate(values[0], method=f"{NO_INTERVAL}{few}") if len(values) else Estimate.missing(few)
    found, method = mean_interval(values), "mean of the fold AUCs, t over folds"
    if not found.has_limits:
        return Estimate(found.value, method=f"{method}, {NO_INTERVAL}the folds do not vary")
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high), method)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the mean of what is known with Student's t interval (Biometrika 1908); no limits where nothing varies."""
    (sample,) = complete(values)
    if not len(sample):
        return Estimate.missing("no value")
    if np.ptp(sample) < 1e-12:
        why = "one value" if len(sample) == 1 else "nothing varies"
        return Estimate(float(sample.mean()), method=f"Student's t, {NO_INTERVAL}{why}")
    low, high = stats.t.interval(level, len(sample) - 1, sample.mean(), stats.sem(sample))
    return Estimate(float(sample.mean()), float(low), float(high), "Student's t")


def bootstrap_mean_auc(scores: pd.DataFrame, replicates: int, seed: int) -> Estimate:
    """Return the mean of fold AUCs with percentile limits over patients resampled within fold and class (Efron 1979).

    scores: fold, label, logit; folds of one class count in nothing. No limits where every resample has the same AUC.
    """
    rng = np.random.default_rng(seed)
    total, mean, folds = np.zeros(replicates), 0.0, 0
    for _, table in scores.groupby("fold"):
        if table["label"].nunique() < 2:
            continue
        positive, negative = (table.loc[table["label"] == label, "logit"].to_numpy() for label in (1, 0))
        wins = np.sign(positive[:, None] - negative[None, :]) / 2 + 0.5
        one = rng.multinomial(len(positive), np.full(len(positive), 1 / len(positive)), replicates)
        two = rng.multinomial(len(negative), np.full(len(negative), 1 / len(negative)), replicates)
        total += ((one @ wins) * two).sum(1) / wins.size
        mean, folds = mean + wins.mean(), folds + 1
    if not folds:
        return Estimate.missing("no fold with both classes")
    low, high = np.quantile(total / folds, [0.025, 0.975])
    return Estimate(float(mean / folds), float(low), float(high), "bootstrap of patients within folds")


# --- curve and threshold ---------------------------------------------------------------------------------------------


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds (T,), sensitivity (T,) and specificity (T,) of the rule score >= threshold.

    The thresholds are those that tell scores apart: below all, midway between neighbours, above all (as R's pROC).
    """
    positive, negative = (np.sort(values) for values in _classes(labels, scores))
    values = np.unique(np.asarray(scores, dtype=float))
    cuts = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])
    sensitivity = 1 - np.searchsorted(positive, cuts) / len(positive)
    return cuts, sensitivity, np.searchsorted(negative, cuts) / len(negative)


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950); NaN with one class only.

    Over the rows that have label and score. Ties go to the most balanced pair, then to the lower threshold (the more
    sensitive).
    """
    truth, values = complete(labels, scores)
    if len(np.unique(truth)) < 2:
        return math.nan
    cuts, sensitivity, specificity = roc(truth, values)
    gain = np.round(sensitivity + specificity, 12)
    order = np.lexsort((cuts, np.round(np.abs(sensitivity - specificity), 12), -gain))
    return float(cuts[order[0]])


# --- scores and what they foretell -----------------------------------------------------------------------------------


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return the mean binary cross-entropy of logits, in nats, without overflow."""
    truth, values = np.asarray(labels, dtype=float), np.asarray(logits, dtype=float)
    return float(np.mean(np.logaddexp(0, values) - truth * values))


def spearman(x: ArrayLike, y: ArrayLike) -> Tested:
    """Return Spearman's rank correlation with Fisher's z interval, SE^2 = (1 + r^2 / 2) / (n - 3), and p.

    Over the pairs without a missing value (Bonett & Wright, Psychometrika 2000). Up to nine pairs p is exact, over all orders
    of the ranks, ties kept; from ten on it is the t approximation, at least that of one order in all. No interval for a
    perfect order, no test for fewer than four pairs or a constant.
    """
    a, b = complete(x, y)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Tested.missing("fewer than four pairs, or a constant")
    found = stats.spearmanr(a, b)
    value, p = float(found.statistic), max(float(found.pvalue), 2 / math.factorial(len(a)))
    if len(a) <= MOST_ORDERED:
        p = _exact_spearman(a, b)
    if abs(value) > 1 - 1e-9:
        return Tested(Estimate(value, method=f"Spearman, {NO_INTERVAL}the order is perfect"), p)
    error = math.sqrt((1 + value**2 / 2) / (len(a) - 3))
    low, high = (math.tanh(math.atanh(value) + sign * Z * error) for sign in (-1, 1))
    return Tested(Estimate(value, low, high, "Spearman, Bonett-Wright"), p)


def _exact_spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return twice the smaller tail of the rank correlation over all orders of one side, at most 1 (as R's cor.test)."""
    a, b = stats.rankdata(x), stats.rankdata(y)
    orders = np.array(list(itertools.permutations(a - a.mean())))
    products, observed = orders @ b, float((a - a.mean()) @ b)
    tails = ((sign * products >= sign * observed - 1e-9).mean() for sign in (1, -1))
    return min(1.0, 2 * float(min(tails)))
