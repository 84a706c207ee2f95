"""Two groups of different patients: the difference of their AUCs, and of their means."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from covid3d.stats.auc import auc_value, delong_standard_error
from covid3d.stats.estimate import NO_INTERVAL, Estimate, Tested, complete

FEWEST = 10
"""A class of a group with fewer patients says too little."""


def unpaired_delong(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> Tested:
    """Return the AUC of (labels, scores) minus that of other cases, its interval and p.

    DeLong's variances, Student's t with Welch's degrees of freedom: R's pROC, `roc.test(paired = FALSE)`. No interval and no p
    for one case of a class, or where one of the two AUCs has no spread.
    """
    if not (_both_classes(*first) and _both_classes(*second)):
        return Tested.missing("one class, or scores are missing")
    difference = auc_value(*first) - auc_value(*second)
    parts = np.array([delong_standard_error(*group) ** 2 for group in (first, second)])
    sizes = np.array([np.size(labels) for labels, _ in (first, second)])
    if not (parts > 0).all():
        return Tested(
            Estimate(difference, method=f"unpaired DeLong, {NO_INTERVAL}one of the two has no spread"), math.nan
        )
    error = math.sqrt(parts.sum())
    law = stats.t(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum())
    half, p = float(law.ppf(0.975)) * error, float(2 * law.sf(abs(difference) / error))
    return Tested(Estimate(difference, difference - half, difference + half, "unpaired DeLong"), p)


def _both_classes(labels: ArrayLike, scores: ArrayLike) -> bool:
    known = complete(labels, scores)[0]
    return len(known) == np.size(labels) and len(np.unique(known)) == 2


def welch(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Return the mean of `first` minus that of `second`, with Welch's interval (Biometrika 1947)."""
    groups = complete(first)[0], complete(second)[0]
    if min(map(len, groups)) < 2:
        return Estimate.missing("fewer than two values in a group")
    low, high = stats.ttest_ind(*groups, equal_var=False).confidence_interval()
    return Estimate(float(groups[0].mean() - groups[1].mean()), float(low), float(high), "Welch's t")
