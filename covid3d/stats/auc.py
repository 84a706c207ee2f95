"""How well scores tell labels: AUCs with intervals and differences, thresholds, log loss and rank correlation.

Labels are 1 (COVID+) or 0; scores rise with the probability of 1. Intervals are two-sided, 95 %, and each function names
the paper of its formula.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats

from covid3d.run.errors import Covid3DError
from covid3d.stats.estimate import Estimate, Tested

Z = float(stats.norm.ppf(0.975))
FEWEST_FOLDS = 5
"""Fewer fold AUCs give no standard error worth a normal interval."""

# --- one AUC ---------------------------------------------------------------------------------------------------------


def auc(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Return the AUC with the recommended interval, over the rows that have label and score.

    Logit DeLong, or Newcombe's method 5 where the scores separate the classes: at AUC 0 or 1 (and wherever DeLong's
    variance is 0) DeLong's interval is a point. The fallback is named in `method`; missing with one class only.
    """
    truth, values = _complete(labels, scores)
    if len(np.unique(truth)) < 2:
        return Estimate.missing("one class only")
    found = logit_delong_interval(truth, values)
    if found.low < found.high:
        return found
    fallback = newcombe_interval(found.value, int((truth == 1).sum()), int((truth == 0).sum()))
    return fallback.by("Newcombe 5 (perfect separation)")


def auc_value(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return P(score of a 1 > score of a 0) + half the ties (Mann & Whitney 1947; Hanley & McNeil 1982).

    labels, scores: (N,). Raises Covid3DError when a class is missing or a score is not finite.
    """
    return float(_placements(labels, scores)[0].mean())


def _complete(*columns: ArrayLike) -> list[np.ndarray]:
    """Return columns as floats, without the rows in which one of them is missing."""
    found = [pd.Series(column).to_numpy(float, na_value=math.nan) for column in columns]
    if len({len(column) for column in found}) > 1:
        sizes = " and ".join(str(len(column)) for column in found)
        raise Covid3DError(f"{sizes} labels and scores do not match", cure="Give one score a label")
    known = ~np.isnan(found).any(axis=0)
    return [column[known] for column in found]


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
    """Return the variance of a mean, 0 for a single value."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def delong_standard_error(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the standard error of an AUC (DeLong, DeLong & Clarke-Pearson, Biometrics 1988)."""
    of_positive, of_negative = _placements(labels, scores)
    return math.sqrt(_variance(of_positive) + _variance(of_negative))


def delong_interval(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Return AUC +/- z SE, cut to [0, 1] (DeLong 1988; the default interval of R's pROC)."""
    value, half = auc_value(labels, scores), Z * delong_standard_error(labels, scores)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), "DeLong")


def logit_delong_interval(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Return logit(AUC) +/- z SE / (AUC (1 - AUC)), mapped back (Pepe 2003, section 5.2; Qin & Hotilovac 2008).

    Without spread (AUC 0 or 1) it is the useless point: use `auc`.
    """
    return _on_logit(auc_value(labels, scores), delong_standard_error(labels, scores), "logit DeLong")


def _on_logit(value: float, standard_error: float, method: str) -> Estimate:
    """Return an interval that is symmetric on the logit scale (delta method)."""
    if not 0 < value < 1:
        return Estimate(value, value, value, method)
    half = Z * standard_error / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return Estimate(value, _expit(centre - half), _expit(centre + half), method)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def newcombe_interval(value: float, positives: int, negatives: int) -> Estimate:
    """Return the score-type interval of an AUC from its value and class sizes alone.

    It holds every AUC t with |value - t| <= z SE(t), SE being Hanley & McNeil's for exponential scores with both class
    sizes replaced by their mean in its second-order terms (Newcombe, Stat Med 2006, part 2, method 5). It is defined
    at perfect separation.
    """
    low = _newcombe_low(value, positives, negatives)
    high = 1 - _newcombe_low(1 - value, positives, negatives)
    return Estimate(value, low, high, "Newcombe 5")


def _newcombe_low(value: float, positives: int, negatives: int) -> float:
    """Return the smaller root t of (value - t)^2 = z^2 V(t); V(t) = V(1 - t) gives the other."""
    size = (positives + negatives) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) / (positives * negatives) * (1 + size * ((1 - t) / (2 - t) + t / (1 + t)))
        return (value - t) ** 2 - Z**2 * spread

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

    Missing with one class only, or where a case lacks a label or a score. Where the difference has no spread there is no
    test: p is 1, and for a difference other than 0 the interval is [-1, 1].
    """
    if not _comparable(labels, scores_a, scores_b):
        return Tested.missing("one class, or scores are missing")
    difference, error = _paired_difference(labels, scores_a, scores_b)
    if error == 0 and abs(difference) < 1e-12:
        return Tested(Estimate(0.0, 0.0, 0.0, "paired DeLong, equal ranks"), 1.0)
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
    complete = _complete(labels, *scores)[0]
    return len(complete) == np.size(labels) and len(np.unique(complete)) == 2


def _paired_difference(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> tuple[float, float]:
    """Return AUC(a) - AUC(b) of two scores of the same cases, and its standard error (DeLong et al. 1988)."""
    positive_a, negative_a = _placements(labels, scores_a)
    positive_b, negative_b = _placements(labels, scores_b)
    error = math.sqrt(_variance(positive_a - positive_b) + _variance(negative_a - negative_b))
    return float(positive_a.mean() - positive_b.mean()), error if error > 1e-12 else 0.0


def pool_inverse_variance(values: Sequence[float], standard_errors: Sequence[float]) -> Tested:
    """Return the fixed-effect mean of per-site estimates, weights 1 / SE^2 (Cochran 1937; DerSimonian & Laird 1986).

    Sites without spread (standard error 0) have no weight and are left out; the method says how many remain.
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

    Independent samples: SE^2 = variance of the fold AUCs / folds + DeLong's variance outside; normal p.
    """
    values = fold_aucs(inside)
    if len(values) < FEWEST_FOLDS or not _comparable(labels, scores):
        return Tested.missing(f"fewer than {FEWEST_FOLDS} folds, or one class")
    error = float(np.hypot(np.std(values, ddof=1) / np.sqrt(len(values)), delong_standard_error(labels, scores)))
    if error == 0:
        return Tested.missing("no variance")
    return _normal_test(auc_value(labels, scores) - float(np.mean(values)), error, "independent samples, normal")


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
        return Estimate(values[0], method=f"no interval: {few}") if len(values) else Estimate.missing(few)
    found = mean_interval(values)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high), "mean of the fold AUCs, t over folds")


def mean_interval(values: ArrayLike) -> Estimate:
    """Return a mean with Student's t interval (Student, Biometrika 1908); a point for fewer than two values."""
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    error = float(stats.sem(sample)) if len(sample) > 1 else 0.0
    if error == 0:
        return Estimate(mean, mean, mean, "Student's t")
    low, high = stats.t.interval(0.95, len(sample) - 1, mean, error)
    return Estimate(mean, float(low), float(high), "Student's t")


def bootstrap_mean_auc(scores: pd.DataFrame, replicates: int, seed: int) -> Estimate:
    """Return the mean of fold AUCs with percentile limits over patients resampled within fold and class (Efron 1979).

    scores: fold, label, logit.
    """
    rng = np.random.default_rng(seed)
    total, mean, folds = np.zeros(replicates), 0.0, 0
    for _, table in scores.groupby("fold"):
        positive, negative = (table.loc[table["label"] == label, "logit"].to_numpy() for label in (1, 0))
        wins = np.sign(positive[:, None] - negative[None, :]) / 2 + 0.5
        one = rng.multinomial(len(positive), np.full(len(positive), 1 / len(positive)), replicates)
        two = rng.multinomial(len(negative), np.full(len(negative), 1 / len(negative)), replicates)
        total += ((one @ wins) * two).sum(1) / wins.size
        mean, folds = mean + wins.mean(), folds + 1
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
    truth, values = _complete(labels, scores)
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
    """Return Spearman's rank correlation with Fisher's z interval, SE^2 = (1 + r^2 / 2) / (n - 3).

    Bonett & Wright, Psychometrika 2000. With 3 pairs or fewer, or a constant, there is no interval and no test.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Tested(Estimate.missing("fewer than four pairs, or a constant"), 1.0)
    found = stats.spearmanr(a, b)
    value, p = float(found.statistic), float(found.pvalue)
    error = math.sqrt((1 + value**2 / 2) / (len(a) - 3))
    centre = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    low, high = (math.tanh(centre + sign * Z * error) for sign in (-1, 1))
    return Tested(Estimate(value, low, high, "Spearman, Bonett-Wright"), p)
