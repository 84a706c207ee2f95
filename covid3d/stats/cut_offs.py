"""The log-rank test at the best of all cut-offs of a score, and its p when the search is paid for."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from covid3d.stats import survival
from covid3d.stats.estimate import NAN, Estimate, p_value

Floats = NDArray[np.float64]
LEAST = 0.1
NOT_PERMUTED = "too few patients, one risk class only, or a patient without a score"


class BestCut(NamedTuple):
    """The largest chi-square over several cut-offs; `z` < 0 where those above that cut-off, bool (N,), leave later."""

    chi_square: float
    z: float
    cuts: int
    above: NDArray[np.bool_]

    @property
    def later(self) -> str:
        """Which scores leave later."""
        return ("low scores" if self.z > 0 else "high scores") if self.cuts else "not known"

    @property
    def uncorrected(self) -> Estimate:
        """The chi-square p, as if the cut-off had been the only one."""
        return p_value(float(chi2.sf(self.chi_square, 1)), "nominal") if self.cuts else Estimate.missing("no cut-off")


def best_cut(scores: Floats, days: Floats, events: Floats) -> BestCut:
    """Return the largest log-rank test over all cut-offs of the scores (N,).

    A cut-off leaves LEAST of the patients or more on either side (Lausen & Schumacher, Biometrics 1992).
    """
    groups, nothing = _groups(scores), BestCut(NAN, NAN, 0, np.zeros(len(scores), bool))
    if not len(groups) or not np.isfinite(scores).all():
        return nothing
    above = groups[survival.log_rank_statistics(days, events, groups).argmax()]
    best = survival.log_rank(days, events, above)
    return nothing if best.reason else BestCut(best.chi_square, best.z, len(groups), above)


def permuted(
    scores: Floats, orders: NDArray[np.int_], days: Floats, events: Floats, own: Floats
) -> survival.Permutation:
    """Return the largest chi-square of the scores `own` (N,), and its p: the maximum is sought anew in every permutation.

    scores: refitted to the outcomes in each of the orders (P, N), `survival.permuted_logits`. The p is that of having looked
    at every cut-off (Miller & Siegmund, Biometrics 1982), without their approximation.
    """
    if not len(scores) or not np.isfinite(own).all():
        return survival.Permutation(NAN, NAN, np.array([]), NOT_PERMUTED)
    null = np.array(
        [_largest(row, days[order], events[order]) for order, row in zip(orders[1:], scores[1:], strict=True)]
    )
    if not len(_groups(own)):
        return survival.Permutation(NAN, NAN, null, "no cut-off leaves a tenth on either side")
    observed = _largest(own, days, events)
    return survival.Permutation(observed, survival.permutation_p(observed, null), null)


def _largest(scores: Floats, days: Floats, events: Floats) -> float:
    return float(survival.log_rank_statistics(days, events, _groups(scores)).max(initial=0))


def _groups(scores: Floats) -> NDArray[np.bool_]:
    """Return the groups (C, N) of those at or above each cut-off."""
    groups = scores >= np.unique(scores)[:, None]
    size = groups.sum(1)
    return groups[(size >= LEAST * len(scores)) & (size <= (1 - LEAST) * len(scores))]
