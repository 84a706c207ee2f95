"""Do predicted probabilities come true, and is deciding by them worth it? Labels are 1 (COVID+) or 0, logits rise with 1.

Rows without label or logit count in nothing. What needs both classes is missing with one, and a slope is missing where the
scores part the classes without a mistake: maximum likelihood then has no finite answer (Albert & Anderson, Biometrika 1984).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from covid3d.stats.auc import mean_interval
from covid3d.stats.estimate import Estimate, complete
from covid3d.stats.proportions import wilson

ONE_CLASS, SEPARATED, CONSTANT = "one class only", "the scores separate the classes", "all scores are equal"
NO_CALL, SATURATED = "nobody is called so", "the scores are too extreme for a fit"
WIDEST = 1000.0
"""An interval of an intercept that is wider, in logits, comes from probabilities that are 0 or 1 to the last digit."""
LEAST_IN_BIN = 8
EACH_OF_TWO = 1 - 0.95**0.5
"""The error of each of two independent intervals that hold both truths in 95 of 100 samples."""


class Recalibration(NamedTuple):
    """The logistic recalibration intercept + slope x logit of a logit."""

    intercept: Estimate
    slope: Estimate

    def __call__(self, logits: ArrayLike) -> np.ndarray:
        """Return recalibrated logits; NaN where there is no recalibration."""
        return self.intercept.value + self.slope.value * np.asarray(logits, dtype=float)


def recalibration(labels: ArrayLike, logits: ArrayLike) -> Recalibration:
    """Return the logistic regression of the label on the logit, Wald limits (Cox, Biometrika 1958; Platt 1999).

    Its slope is the calibration slope: below 1 the scores are too extreme.
    """
    truth, values = complete(labels, logits)
    why = _no_slope(truth, values)
    if why:
        return Recalibration(Estimate.missing(why), Estimate.missing(why))
    found = _logistic(truth, sm.add_constant(values), None)
    if not found.converged:
        return Recalibration(Estimate.missing(SATURATED), Estimate.missing(SATURATED))
    return Recalibration(*(Estimate(*row, method="logistic regression, Wald") for row in _limits(found)))


def calibration_intercept(labels: ArrayLike, logits: ArrayLike) -> Estimate:
    """Return calibration in the large: the intercept of a logistic regression with the logit as offset, Wald limits.

    Above 0 the disease is more frequent than the scores say (Steyerberg, Clinical Prediction Models 2019, section 15.3).
    """
    truth, values = complete(labels, logits)
    if len(np.unique(truth)) < 2:
        return Estimate.missing(ONE_CLASS)
    found = _logistic(truth, np.ones_like(truth), values)
    value, low, high = _limits(found)[0]
    if not (found.converged and high - low < WIDEST):
        return Estimate.missing(SATURATED)
    return Estimate(value, low, high, "logistic regression with offset, Wald")


def _logistic(truth: np.ndarray, columns: np.ndarray, offset: np.ndarray | None) -> Any:
    """Return statsmodels' fit of a logistic regression; logits so large that they overflow are not worth a warning."""
    with np.errstate(over="ignore"):
        return sm.GLM(truth, columns, family=sm.families.Binomial(), offset=offset).fit(tol=1e-12)


def _limits(found: Any) -> list[tuple[float, float, float]]:
    """Return value, low and high of each coefficient of a fitted model."""
    return [
        (float(value), float(low), float(high))
        for value, (low, high) in zip(found.params, found.conf_int(), strict=True)
    ]


def _no_slope(truth: np.ndarray, values: np.ndarray) -> str:
    """Return why a logistic regression on one score has no finite answer; nothing where it has."""
    if len(np.unique(truth)) < 2:
        return ONE_CLASS
    if np.ptp(values) == 0:
        return CONSTANT
    positive, negative = values[truth == 1], values[truth == 0]
    apart = positive.min() >= negative.max() or negative.min() >= positive.max()
    return SEPARATED if apart else ""


def brier(labels: ArrayLike, logits: ArrayLike) -> Estimate:
    """Return the mean squared error of the probabilities (Brier 1950), Student's t limits over the patients."""
    truth, values = complete(labels, logits)
    if not len(truth):
        return Estimate.missing("no patient")
    spread = mean_interval((expit(values) - truth) ** 2)
    value = float(brier_score_loss(truth, expit(values), pos_label=1))
    return Estimate(value, max(0.0, spread.low), spread.high, "Brier score, t over patients")


def curve(labels: ArrayLike, logits: ArrayLike) -> pd.DataFrame:
    """Return the calibration curve in bins of equal size: predicted, observed, low, high (Wilson), patients.

    At most five bins of at least eight patients; no row where there are not even so many.
    """
    truth, values = complete(labels, logits)
    bins, columns = min(5, len(truth) // LEAST_IN_BIN), ["predicted", "observed", "low", "high", "patients"]
    if not bins:
        return pd.DataFrame(columns=columns)
    chances = expit(values)
    observed, predicted = calibration_curve(truth, chances, n_bins=bins, strategy="quantile", pos_label=1)
    edges = np.percentile(chances, 100 * np.linspace(0, 1, bins + 1))  # those of calibration_curve, to the last bit
    sizes = np.bincount(np.searchsorted(edges[1:-1], chances), minlength=bins)
    sizes = sizes[sizes > 0]
    shares = [wilson(round(share * size), size) for share, size in zip(observed, sizes, strict=True)]
    limits = [(share.low, share.high) for share in shares]
    return pd.DataFrame(np.column_stack([predicted, observed, limits, sizes]), columns=columns)


def net_benefit(labels: ArrayLike, logits: ArrayLike, thresholds: ArrayLike) -> pd.DataFrame:
    """Return the net benefit of treating from a probability on: threshold, score, all, none (Vickers & Elkin 2006).

    True positives a patient, less false positives a patient times the odds of the threshold (between 0 and 1).
    """
    truth, values = complete(labels, logits)
    cuts = np.asarray(thresholds, dtype=float)
    gains = [_gains(truth, threshold) for threshold in cuts]
    scored = [gain[values >= logit(cut)].sum() / max(len(truth), 1) for gain, cut in zip(gains, cuts, strict=True)]
    everyone = [gain.sum() / max(len(truth), 1) for gain in gains]
    return pd.DataFrame({"threshold": cuts, "score": scored, "all": everyone, "none": 0.0})


def gain_over_defaults(labels: ArrayLike, logits: ArrayLike, threshold: float) -> dict[str, Estimate]:
    """Return the net benefit of the score less that of treating all, and none: paired means, t limits over patients."""
    truth, values = complete(labels, logits)
    gain, treated = _gains(truth, threshold), values >= logit(threshold)
    return {"treat all": mean_interval(gain * treated - gain), "treat none": mean_interval(gain * treated)}


def _gains(truth: np.ndarray, threshold: float) -> np.ndarray:
    """Return what treating each patient is worth, in treated patients with the disease."""
    return np.where(truth == 1, 1.0, -threshold / (1 - threshold))


def predictive_values(
    positives: tuple[int, int], negatives: tuple[int, int], prevalences: Sequence[float]
) -> pd.DataFrame:
    """Return PPV and NPV over the prevalence by Bayes' theorem: prevalence, PPV, NPV.

    positives, negatives: right calls of the diseased, of the healthy, and how many there were. Limits: those of the Wilson
    intervals of sensitivity and specificity that hold both in 95 of 100 samples; both values rise with each of the two.
    """
    if not (positives[1] and negatives[1]):
        why = Estimate.missing(ONE_CLASS)
        return pd.DataFrame(
            {"prevalence": prevalences, "PPV": [why] * len(prevalences), "NPV": [why] * len(prevalences)}
        )
    pairs = list(zip(_three(*positives), _three(*negatives), strict=True))
    rows = []
    for share in prevalences:
        ppv = [_bayes(sensitivity * share, (1 - specificity) * (1 - share)) for sensitivity, specificity in pairs]
        npv = [_bayes(specificity * (1 - share), (1 - sensitivity) * share) for sensitivity, specificity in pairs]
        rows.append((share, _known(*ppv), _known(*npv)))
    return pd.DataFrame(rows, columns=["prevalence", "PPV", "NPV"])


def _known(value: float, low: float, high: float) -> Estimate:
    """Return a predictive value as an Estimate; missing where nobody is called so."""
    return Estimate(value, low, high, "Bayes, Wilson limits of both") if value == value else Estimate.missing(NO_CALL)


def _three(right: int, of: int) -> tuple[float, float, float]:
    """Return a share with the limits that it and another one have together."""
    low, high = proportion_confint(right, of, alpha=EACH_OF_TWO, method="wilson")
    return right / of, float(low), float(high)


def _bayes(right: float, wrong: float) -> float:
    """Return the share that is right; NaN where there is no such call."""
    return right / (right + wrong) if right + wrong > 0 else float("nan")
