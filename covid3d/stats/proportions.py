"""Shares of cases and agreement of calls; each function names the paper of its formula. Intervals are 95 % unless told."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from sklearn.metrics import confusion_matrix
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

from covid3d.run.errors import Covid3DError
from covid3d.stats.estimate import NO_INTERVAL, Estimate, complete

NO_CASE = "no case"


def wilson(successes: int, n: int) -> Estimate:
    """Return k/n with the score interval (Wilson, JASA 1927); missing for n = 0."""
    return _share(successes, n, "wilson", "Wilson")


def clopper_pearson(successes: int, n: int) -> Estimate:
    """Return k/n with the exact interval from beta quantiles (Clopper & Pearson, Biometrika 1934); missing for n = 0."""
    return _share(successes, n, "beta", "Clopper-Pearson")


def _share(successes: int, n: int, way: str, method: str) -> Estimate:
    """Return k/n with an interval of statsmodels, whose limits miss 0 and 1 by rounding; Covid3DError for k above n."""
    if n == 0:
        return Estimate.missing(NO_CASE)
    if not 0 <= successes <= n:
        raise Covid3DError(f"{successes} of {n} is no share", cure="Count the cases again")
    low, high = proportion_confint(successes, n, method=way)
    low, high = 0.0 if successes == 0 else float(low), 1.0 if successes == n else float(high)
    return Estimate(successes / n, low, high, method)


def attainable(percent: float, n: int, decimals: int = 0) -> list[int]:
    """Return every k for which k/n, rounded or cut to `decimals`, prints as `percent` (after Brown & Heathers' GRIM, 2017)."""
    step = 10.0**-decimals
    exact = [(k, 100 * k / n) for k in range(n + 1)]
    return [
        k for k, value in exact if abs(value - percent) <= step / 2 + 1e-9 or -1e-9 <= value - percent < step - 1e-9
    ]


# --- agreement of two raters -----------------------------------------------------------------------------------------


def kappa(calls_a: ArrayLike, calls_b: ArrayLike) -> Estimate:
    """Return Cohen's kappa of two raters' calls (Cohen 1960; large-sample SE of Fleiss, Cohen & Everitt 1969).

    Over the cases that both have called, 0 or 1; Covid3DError for another call. Missing without a case, or where both give
    one and the same call to every case: agreement by chance is then certain. No limits where the standard error is 0
    (agreement or disagreement on every case, or a rater who gives one call only): a point would look like certainty.
    """
    a, b = complete(calls_a, calls_b)
    if not np.isin([a, b], (0, 1)).all():
        raise Covid3DError("a call is neither 0 nor 1", cure="Call every case 0 or 1, or leave it out")
    if not len(a):
        return Estimate.missing(NO_CASE)
    table = confusion_matrix(a.astype(int), b.astype(int), labels=[0, 1])
    no_limits = f"Cohen's kappa, {NO_INTERVAL}its standard error is 0"
    if 0 in (*table.sum(axis=0), *table.sum(axis=1)):  # a rater gives one call only, and agrees as often as by chance
        same = np.trace(table) == table.sum()
        return Estimate.missing("kappa undefined: one category") if same else Estimate(0.0, method=no_limits)
    found = cohens_kappa(table)
    value = float(found.kappa)
    if abs(value) > 1 - 1e-9:
        return Estimate(value, method=no_limits)
    low, high = max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp))
    return Estimate(value, low, high, "Cohen's kappa")


def direction(difference: float, first: str, second: str, unit: str = "points") -> str:
    """Return which of two is higher and by how much, the words that stand beside a p: "R1 higher by 5 points"."""
    if math.isnan(difference):
        return "not available"
    if abs(difference) < 1e-9:
        return "neither is higher"
    return f"{first if difference > 0 else second} higher by {abs(difference):.3g} {unit}".rstrip()


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p of discordant pairs: binomial with one half (McNemar 1947; Mosteller 1952)."""
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


# --- difference of two paired proportions ----------------------------------------------------------------------------


def tango_z(only_a: int, only_b: int, n: int, difference: float) -> float:
    """Return the score statistic of H0: p(a) - p(b) = difference, |difference| < 1 (Tango, Stat Med 1998).

    only_a, only_b: pairs positive in a alone, in b alone, of n. At difference 0 it is McNemar's z.
    """
    spread = n * _null_variance(only_a / n, only_b / n, difference)
    gap = only_a - only_b - n * difference
    return gap / math.sqrt(spread) if spread > 1e-12 else math.copysign(math.inf, gap) if abs(gap) > 1e-9 else 0.0


def _null_variance(share_a: float, share_b: float, difference: float) -> float:
    """Return the variance of one pair's difference under H0: p(a) - p(b) = difference, at its likeliest shares (Tango 1998)."""
    b = -share_a - share_b + (2 - share_a + share_b) * difference
    c = -share_b * difference * (1 - difference)
    return (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 2 + difference * (1 - difference)


def paired_difference(only_a: int, only_b: int, n: int, level: float = 0.95) -> Estimate:
    """Return p(a) - p(b) of paired calls with the score interval (Tango 1998), which needs no discordant pair.

    Missing for n = 0.
    """
    if n == 0:
        return Estimate.missing(NO_CASE)
    z, value, edge = float(stats.norm.ppf((1 + level) / 2)), (only_a - only_b) / n, 1 - 1e-9

    def root(target: float, low: float, high: float) -> float:
        return float(optimize.brentq(lambda t: tango_z(only_a, only_b, n, t) - target, low, high))

    low = -1.0 if value <= -edge else root(z, -edge, value)
    return Estimate(value, low, 1.0 if value >= edge else root(-z, value, edge), "Tango score")


class Equivalence(NamedTuple):
    """Two one-sided tests of a difference within +/- margin."""

    difference: Estimate
    interval_90: Estimate
    p: float
    equivalent: bool
    best_p: float


def tost_paired_proportions(only_a: int, only_b: int, n: int, margin: float, alpha: float = 0.05) -> Equivalence:
    """Return the test of |p(a) - p(b)| < margin by two one-sided score tests (Schuirmann 1987; Tango 1998).

    margin: a proportion, e.g. 0.1. best_p is the p of perfect agreement: above alpha, this n cannot show equivalence. Both
    are NaN for n = 0.
    """
    if n == 0:
        return Equivalence(Estimate.missing(NO_CASE), Estimate.missing(NO_CASE), math.nan, False, math.nan)
    p = _tost_p(only_a, only_b, n, margin)
    difference = paired_difference(only_a, only_b, n)
    return Equivalence(
        difference, paired_difference(only_a, only_b, n, 1 - 2 * alpha), p, p < alpha, _tost_p(0, 0, n, margin)
    )


def _tost_p(only_a: int, only_b: int, n: int, margin: float) -> float:
    above, below = tango_z(only_a, only_b, n, -margin), tango_z(only_a, only_b, n, margin)
    return float(max(stats.norm.sf(above), stats.norm.cdf(below)))


def cases_for_equivalence(disagree: float, margin: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return how many cases `tost_paired_proportions` needs for this power when the two do not differ at all.

    disagree: the share of cases on which only one of the two is right. n = (z(1 - alpha) s0 + z((1 + power) / 2) s1)^2 /
    margin^2, with the variances of one pair's difference at the margin, s0^2 (of the score test), and without a difference,
    s1^2 = disagree (Nam, Biometrics 1997; both sides: Liu, Hsueh, Hsieh & Chen, Stat Med 2002).
    """
    null = math.sqrt(_null_variance(disagree / 2, disagree / 2, margin))
    return math.ceil(normal_sample_size_one_tail(margin, (1 + power) / 2, alpha, null, math.sqrt(disagree)))
