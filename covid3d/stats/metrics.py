"""Estimates and their intervals: each function names the paper of its formula.

Labels are 1 (COVID+) or 0; scores rise with the probability of 1. Intervals are two-sided, 95 % unless told.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from covid3d.run.errors import Covid3DError


class Interval(NamedTuple):
    """An estimate, its confidence limits and the name of the method."""

    value: float
    low: float
    high: float
    method: str


class Tested(NamedTuple):
    """An estimate with its interval and a two-sided p."""

    estimate: Interval
    p: float


# --- area under the ROC curve ----------------------------------------------------------------------------------------


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return P(score of a 1 > score of a 0) + half the ties (Mann & Whitney 1947; Hanley & McNeil 1982).

    labels, scores: (N,). Raises Covid3DError when a class is missing or a score is not finite.
    """
    return float(_placements(labels, scores)[0].mean())


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


def delong_interval(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Interval:
    """Return AUC +/- z SE, cut to [0, 1] (DeLong 1988; the default interval of R's pROC)."""
    value = auc(labels, scores)
    half = _z(level) * delong_standard_error(labels, scores)
    return Interval(value, max(0.0, value - half), min(1.0, value + half), "DeLong")


def logit_delong_interval(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Interval:
    """Return logit(AUC) +/- z SE / (AUC (1 - AUC)), mapped back (Pepe 2003, section 5.2; Qin & Hotilovac 2008).

    Without spread (AUC 0 or 1) it is the useless point: use `auc_interval`.
    """
    return _on_logit(auc(labels, scores), delong_standard_error(labels, scores), level, "logit DeLong")


def _on_logit(value: float, standard_error: float, level: float, method: str) -> Interval:
    """Return an interval that is symmetric on the logit scale (delta method)."""
    if not 0 < value < 1:
        return Interval(value, value, value, method)
    half = _z(level) * standard_error / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return Interval(value, _expit(centre - half), _expit(centre + half), method)


def newcombe_interval(value: float, positives: int, negatives: int, level: float = 0.95) -> Interval:
    """Return the score-type interval of an AUC from its value and class sizes alone.

    It holds every AUC t with |value - t| <= z SE(t), SE being Hanley & McNeil's for exponential scores with both class
    sizes replaced by their mean in its second-order terms (Newcombe, Stat Med 2006, part 2, method 5). It is defined
    at perfect separation.
    """
    low = _newcombe_low(value, positives, negatives, _z(level))
    high = 1 - _newcombe_low(1 - value, positives, negatives, _z(level))
    return Interval(value, low, high, "Newcombe 5")


def _newcombe_low(value: float, positives: int, negatives: int, z: float) -> float:
    """Return the smaller root t of (value - t)^2 = z^2 V(t); V(t) = V(1 - t) gives the other."""
    size = (positives + negatives) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) / (positives * negatives) * (1 + size * ((1 - t) / (2 - t) + t / (1 + t)))
        return (value - t) ** 2 - z**2 * spread

    return 0.0 if value == 0 else float(optimize.brentq(excess, 0.0, min(value, 1 - 1e-9)))


def auc_interval(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Interval:
    """Return the recommended interval: logit DeLong, or Newcombe's method 5 where the scores separate the classes.

    At AUC 0 or 1 (and wherever DeLong's variance is 0) DeLong's interval is a point; the fallback is named in `method`.
    """
    interval = logit_delong_interval(labels, scores, level)
    if interval.low < interval.high:
        return interval
    positive, negative = _classes(labels, scores)
    fallback = newcombe_interval(interval.value, len(positive), len(negative), level)
    return fallback._replace(method="Newcombe 5 (perfect separation)")


def bootstrap_auc(
    labels: ArrayLike, scores: ArrayLike, *, replicates: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the percentile interval of an AUC over stratified resamples of cases (Efron & Tibshirani 1993, ch. 13)."""
    positive, negative = _classes(labels, scores)
    wins = (positive[:, None] > negative).astype(float) + 0.5 * (positive[:, None] == negative)
    generator = np.random.default_rng(seed)
    m, n = wins.shape
    weights_1 = generator.multinomial(m, np.full(m, 1 / m), size=replicates)
    weights_0 = generator.multinomial(n, np.full(n, 1 / n), size=replicates)
    values = ((weights_1 @ wins) * weights_0).sum(axis=1) / (m * n)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(wins.mean()), float(low), float(high), "bootstrap")


def delong_difference(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> tuple[float, float]:
    """Return AUC(a) - AUC(b) of two scores of the same cases, and its standard error (DeLong et al. 1988)."""
    positive_a, negative_a = _placements(labels, scores_a)
    positive_b, negative_b = _placements(labels, scores_b)
    error = math.sqrt(_variance(positive_a - positive_b) + _variance(negative_a - negative_b))
    return float(positive_a.mean() - positive_b.mean()), error if error > 1e-12 else 0.0


def paired_delong(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, level: float = 0.95) -> Tested:
    """Return AUC(a) - AUC(b) of two scores of the same cases, its interval and p (DeLong et al., Biometrics 1988).

    Where the difference has no spread there is no test: p is 1, and for a difference other than 0 the interval is
    [-1, 1].
    """
    difference, error = delong_difference(labels, scores_a, scores_b)
    if error == 0 and abs(difference) < 1e-12:
        return Tested(Interval(0.0, 0.0, 0.0, "paired DeLong, equal ranks"), 1.0)
    if error == 0:
        return Tested(Interval(difference, -1.0, 1.0, "paired DeLong undefined: no spread"), 1.0)
    return _normal_test(difference, error, level, "paired DeLong")


def hanley_mcneil_standard_error(value: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC from its value and class sizes (Hanley & McNeil, Radiology 1982)."""
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    return math.sqrt(spread / (positives * negatives))


def hanley_mcneil_interval(value: float, positives: int, negatives: int, level: float = 0.95) -> Interval:
    """Return the interval of a printed AUC, symmetric on the logit scale, with Hanley & McNeil's standard error."""
    error = hanley_mcneil_standard_error(value, positives, negatives)
    return _on_logit(value, error, level, "Hanley-McNeil, logit scale")


def pool_inverse_variance(values: Sequence[float], standard_errors: Sequence[float], level: float = 0.95) -> Tested:
    """Return the fixed-effect mean of per-site estimates, weights 1 / SE^2 (Cochran 1937; DerSimonian & Laird 1986).

    Sites without spread (standard error 0) have no weight and are left out; the method says how many remain.
    """
    used = [(v, e) for v, e in zip(values, standard_errors, strict=True) if e > 0]
    method = f"inverse variance, {len(used)} of {len(values)} sites"
    if not used:
        return Tested(Interval(float(np.mean(values)), -1.0, 1.0, method), 1.0)
    weights = np.array([1 / e**2 for _, e in used])
    mean = float(np.average([v for v, _ in used], weights=weights))
    return _normal_test(mean, 1 / math.sqrt(weights.sum()), level, method)


# --- proportions, thresholds, agreement ------------------------------------------------------------------------------


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return k/n with the score interval (Wilson, JASA 1927); for n = 0 it is [0, 1] with value NaN."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, "Wilson")
    share, z = successes / n, _z(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low = 0.0 if successes == 0 else centre - half
    return Interval(share, low, 1.0 if successes == n else centre + half, "Wilson")


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return k/n with the exact interval from beta quantiles (Clopper & Pearson, Biometrika 1934)."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - tail, successes + 1, n - successes))
    return Interval(successes / n, low, high, "Clopper-Pearson")


def attainable(percent: float, n: int, decimals: int = 0) -> list[int]:
    """Return every k for which k/n, rounded or cut to `decimals`, prints as `percent` (after Brown & Heathers' GRIM, 2017)."""
    step = 10.0**-decimals
    exact = [(k, 100 * k / n) for k in range(n + 1)]
    return [
        k for k, value in exact if abs(value - percent) <= step / 2 + 1e-9 or -1e-9 <= value - percent < step - 1e-9
    ]


def thresholds(scores: ArrayLike) -> np.ndarray:
    """Return the thresholds that tell scores apart: below all, midway between neighbours, above all (as R's pROC)."""
    values = np.unique(np.asarray(scores, dtype=float))
    return np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds (T,), sensitivity (T,) and specificity (T,) of the rule score >= threshold."""
    positive, negative = (np.sort(values) for values in _classes(labels, scores))
    cuts = thresholds(scores)
    sensitivity = 1 - np.searchsorted(positive, cuts) / len(positive)
    return cuts, sensitivity, np.searchsorted(negative, cuts) / len(negative)


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950).

    Ties go to the most balanced pair, then to the lower threshold (the more sensitive).
    """
    cuts, sensitivity, specificity = roc(labels, scores)
    gain = np.round(sensitivity + specificity, 12)
    order = np.lexsort((cuts, np.round(np.abs(sensitivity - specificity), 12), -gain))
    return float(cuts[order[0]])


def kappa(calls_a: ArrayLike, calls_b: ArrayLike, level: float = 0.95) -> Interval:
    """Return Cohen's kappa of two raters' calls (Cohen 1960; large-sample SE of Fleiss, Cohen & Everitt 1969).

    NaN where both raters give one and the same call to every case: agreement by chance is then certain. No limits where
    the standard error is 0 (perfect agreement, or a rater who gives one call only): a point would look like certainty.
    """
    a, b = np.asarray(calls_a, dtype=int), np.asarray(calls_b, dtype=int)
    table = np.zeros((2, 2))
    np.add.at(table, (a, b), 1 / len(a))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    observed, chance = float(np.trace(table)), float(rows @ columns)
    if chance > 1 - 1e-12:
        return Interval(math.nan, math.nan, math.nan, "kappa undefined: one category")
    value = (observed - chance) / (1 - chance)
    agree = sum(table[i, i] * ((1 - chance) - (rows[i] + columns[i]) * (1 - observed)) ** 2 for i in (0, 1))
    differ = sum(table[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1)) * (1 - observed) ** 2
    spread = agree + differ - (observed * chance - 2 * chance + observed) ** 2
    if spread < 1e-12:
        return Interval(value, math.nan, math.nan, "Cohen's kappa, no interval: its standard error is 0")
    half = _z(level) * math.sqrt(spread / len(a)) / (1 - chance) ** 2
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), "Cohen's kappa")


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p of discordant pairs: binomial with one half (McNemar 1947; Mosteller 1952)."""
    return min(1.0, 2 * float(stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


# --- difference of two paired proportions ----------------------------------------------------------------------------


def tango_z(only_a: int, only_b: int, n: int, difference: float) -> float:
    """Return the score statistic of H0: p(a) - p(b) = difference, |difference| < 1 (Tango, Stat Med 1998).

    only_a, only_b: pairs positive in a alone, in b alone, of n. At difference 0 it is McNemar's z.
    """
    a = 2 * n
    b = -only_a - only_b + (2 * n - only_a + only_b) * difference
    c = -only_b * difference * (1 - difference)
    share_b = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    spread = n * (2 * share_b + difference * (1 - difference))
    gap = only_a - only_b - n * difference
    return gap / math.sqrt(spread) if spread > 1e-12 else math.copysign(math.inf, gap) if abs(gap) > 1e-9 else 0.0


def paired_difference(only_a: int, only_b: int, n: int, level: float = 0.95) -> Interval:
    """Return p(a) - p(b) of paired calls with the score interval (Tango 1998), which needs no discordant pair."""
    z, value, edge = _z(level), (only_a - only_b) / n, 1 - 1e-9

    def root(target: float, low: float, high: float) -> float:
        return float(optimize.brentq(lambda t: tango_z(only_a, only_b, n, t) - target, low, high))

    low = -1.0 if value <= -edge else root(z, -edge, value)
    return Interval(value, low, 1.0 if value >= edge else root(-z, value, edge), "Tango score")


class Equivalence(NamedTuple):
    """Two one-sided tests of a difference within +/- margin."""

    difference: Interval
    interval_90: Interval
    p: float
    equivalent: bool
    best_p: float


def tost_paired_proportions(only_a: int, only_b: int, n: int, margin: float, alpha: float = 0.05) -> Equivalence:
    """Return the test of |p(a) - p(b)| < margin by two one-sided score tests (Schuirmann 1987; Tango 1998).

    margin: a proportion, e.g. 0.1. best_p is the p of perfect agreement: above alpha, this n cannot show equivalence.
    """
    p = _tost_p(only_a, only_b, n, margin)
    difference = paired_difference(only_a, only_b, n)
    return Equivalence(
        difference, paired_difference(only_a, only_b, n, 1 - 2 * alpha), p, p < alpha, _tost_p(0, 0, n, margin)
    )


def _tost_p(only_a: int, only_b: int, n: int, margin: float) -> float:
    above, below = tango_z(only_a, only_b, n, -margin), tango_z(only_a, only_b, n, margin)
    return float(max(stats.norm.sf(above), stats.norm.cdf(below)))


# --- the rest --------------------------------------------------------------------------------------------------------


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return a mean with Student's t interval (Student, Biometrika 1908); a point for fewer than two values."""
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample)) if len(sample) > 1 else 0.0
    half = float(stats.t.ppf((1 + level) / 2, len(sample) - 1)) * error if error else 0.0
    return Interval(mean, mean - half, mean + half, "Student's t")


def spearman(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Tested:
    """Return Spearman's rank correlation with Fisher's z interval, SE^2 = (1 + r^2 / 2) / (n - 3).

    Bonett & Wright, Psychometrika 2000. With 3 pairs or fewer, or a constant, there is no interval and no test.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Tested(Interval(math.nan, -1.0, 1.0, "Spearman undefined"), 1.0)
    found = stats.spearmanr(a, b)
    value, p = float(found.statistic), float(found.pvalue)
    error = math.sqrt((1 + value**2 / 2) / (len(a) - 3))
    centre = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    low, high = (math.tanh(centre + sign * _z(level) * error) for sign in (-1, 1))
    return Tested(Interval(value, low, high, "Spearman, Bonett-Wright"), p)


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return the mean binary cross-entropy of logits, in nats, without overflow."""
    truth, values = np.asarray(labels, dtype=float), np.asarray(logits, dtype=float)
    return float(np.mean(np.logaddexp(0, values) - truth * values))


def _z(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


def _normal_test(value: float, error: float, level: float, method: str) -> Tested:
    """Return an estimate with value +/- z SE (not cut) and the two-sided normal p."""
    half = _z(level) * error
    interval = Interval(value, value - half, value + half, method)
    return Tested(interval, float(2 * stats.norm.sf(abs(value) / error)))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))
