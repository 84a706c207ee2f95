"""AUCs and differences of AUCs on tables that may lack a class or a score: then NaN, and `method` says why."""

import numpy as np
import pandas as pd
from scipy import stats

from covid3d.stats import metrics
from covid3d.stats.metrics import Interval, Tested

NAN = float("nan")
Scored = tuple[pd.Series, pd.Series, pd.Series]


def auc_or_nan(labels: pd.Series, scores: pd.Series) -> Interval:
    """Return the AUC with its recommended interval over rows that have label and score."""
    known = labels.notna() & scores.notna()
    if labels[known].nunique() < 2:
        return Interval(NAN, NAN, NAN, "not available: one class only")
    return metrics.auc_interval(labels[known].to_numpy(int), scores[known].to_numpy(float))


def paired_or_nan(labels: pd.Series, a: pd.Series, b: pd.Series) -> Tested:
    """Return the paired DeLong difference a - b of the same cases, and its p."""
    if not _both(labels, a, b):
        return _not_available("one class, or scores are missing")
    return metrics.paired_delong(labels.to_numpy(int), a.to_numpy(float), b.to_numpy(float))


def pooled_or_nan(sites: list[Scored]) -> Tested:
    """Return the inverse-variance mean over sites of the paired differences of (labels, a, b)."""
    if not sites or not all(_both(*site) for site in sites):
        return _not_available("one class, or scores are missing, at a site")
    found = [metrics.delong_difference(y.to_numpy(int), a.to_numpy(float), b.to_numpy(float)) for y, a, b in sites]
    return metrics.pool_inverse_variance([one[0] for one in found], [one[1] for one in found])


FEWEST_FOLDS = 5
"""Fewer fold AUCs give no standard error worth a normal interval."""


def external_internal_difference(inside: pd.DataFrame, labels: pd.Series, scores: pd.Series) -> Tested:
    """Return an external AUC minus the mean fold AUC of `inside` (fold, label, logit): a drop is negative.

    Independent samples: SE^2 = variance of the fold AUCs / folds + DeLong's variance outside; normal p.
    """
    values = fold_aucs(inside)
    if len(values) < FEWEST_FOLDS or not _both(labels, scores, scores):
        return _not_available(f"fewer than {FEWEST_FOLDS} folds, or one class")
    y, s = labels.to_numpy(int), scores.to_numpy(float)
    error = float(np.hypot(np.std(values, ddof=1) / np.sqrt(len(values)), metrics.delong_standard_error(y, s)))
    if error == 0:
        return _not_available("no variance")
    value = metrics.auc(y, s) - float(np.mean(values))
    half = float(stats.norm.ppf(0.975)) * error
    interval = Interval(value, value - half, value + half, "independent samples, normal")
    return Tested(interval, float(2 * stats.norm.sf(abs(value) / error)))


def fold_auc_interval(scores: pd.DataFrame) -> Interval:
    """Return the mean of the fold AUCs with Student's t interval over folds; needs columns fold, label, logit."""
    values = fold_aucs(scores)
    if len(values) < 2:
        value = float(np.mean(values)) if values else NAN
        return Interval(value, NAN, NAN, "not available: fewer than two folds with both classes")
    found = metrics.mean_interval(values)
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high), "mean of the fold AUCs, t over folds")


def fold_aucs(scores: pd.DataFrame) -> list[float]:
    """Return the AUC of each fold that has both classes; needs columns fold, label, logit."""
    parts = [part for _, part in scores.groupby("fold") if part["label"].nunique() == 2]
    return [metrics.auc(part["label"].to_numpy(int), part["logit"].to_numpy(float)) for part in parts]


def youden_or_nan(labels: pd.Series, scores: pd.Series) -> float:
    """Return Youden's threshold of validation scores, for every chapter that calls scans; NaN with one class only."""
    known = labels.notna() & scores.notna()
    if labels[known].nunique() < 2:
        return NAN
    return metrics.youden_threshold(labels[known].to_numpy(int), scores[known].to_numpy(float))


def wilson_or_nan(k: int, n: int) -> Interval:
    """Return k/n with Wilson's interval, NaN throughout for n = 0."""
    return metrics.wilson(k, n) if n else Interval(NAN, NAN, NAN, "not available: no case")


def _both(labels: pd.Series, a: pd.Series, b: pd.Series) -> bool:
    """True when both classes are there and nothing is missing."""
    return labels.nunique() == 2 and bool((labels.notna() & a.notna() & b.notna()).all())


def _not_available(why: str) -> Tested:
    return Tested(Interval(NAN, NAN, NAN, f"not available: {why}"), NAN)
