"""Cox's model with one covariate: Efron's ties, a test of separation that is exact, and the sandwich by patient.

Not taken from a library: lifelines oversteps where a group has one patient, stops its Newton steps early and leaves Efron's
weights out of the sandwich; statsmodels gives no estimate in the first case and other clustered errors.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from covid3d.stats.estimate import NAN, NO_INTERVAL, Estimate, Tested

Floats = NDArray[np.float64]
SEPARATED = "the groups are separated completely: no finite estimate"
FEWEST_PATIENTS = 5
"""With fewer patients in a group the sandwich is far too narrow: of one patient it rejects 78 % of true null hypotheses."""


class Fit(NamedTuple):
    """A log hazard ratio, its model-based standard error, and how far each row moves it (dfbeta), (N,)."""

    coefficient: float
    standard_error: float
    influence: Floats


class _Steps(NamedTuple):
    """Efron's steps, one an event: weights at risk (T, N), share of the step that each tied event is (T, N)."""

    weights: Floats
    shares: Floats


def wald(time: Floats, event: Floats, value: Floats, cluster: NDArray[np.int_] | None = None) -> Tested:
    """Return the hazard ratio per unit of a covariate with Wald interval and p (Cox 1972; Efron 1977), or why there is none.

    time, event (1 = event), value: (N,), complete. cluster: the patient of each row, for the sandwich of Lin & Wei (JASA
    1989); no interval and no p where a group has fewer than FEWEST_PATIENTS.
    """
    if len(time) < 3 or event.sum() < 2 or np.ptp(value) == 0:
        return Tested.missing("too few events, or one group only")
    reason = separation(time, event, value)
    if reason:
        return Tested.missing(reason)
    found, method = fit(time, event, value), "Cox, Efron ties, Wald"
    ratio, error = float(np.exp(found.coefficient)), found.standard_error
    if cluster is not None:
        method += ", clustered by patient"
        if _fewest(cluster, value) < FEWEST_PATIENTS:
            few = f"a group of fewer than {FEWEST_PATIENTS} patients"
            return Tested(Estimate(ratio, method=f"{method}, {NO_INTERVAL}{few}"), NAN)
        by_patient = np.bincount(np.unique(cluster, return_inverse=True)[1], found.influence)
        error = float(np.sqrt((by_patient**2).sum()))
    low, high = np.exp(found.coefficient + stats.norm.ppf([0.025, 0.975]) * error).tolist()
    return Tested(Estimate(ratio, low, high, method), float(2 * stats.norm.sf(abs(found.coefficient) / error)))


def _fewest(cluster: NDArray[np.int_], value: Floats) -> int:
    """Return the number of patients in the smaller of two groups, or of all where the covariate is no group."""
    levels = np.unique(value)
    parts = [cluster[value == level] for level in levels] if len(levels) == 2 else [cluster]
    return min(len(np.unique(part)) for part in parts)


def separation(time: Floats, event: Floats, value: Floats) -> str:
    """Return why the partial likelihood has no finite maximum, or "".

    It rises for ever exactly where every event has the highest value of those at risk, or every event the lowest.
    """
    above, below = 0.0, 0.0
    for day in np.unique(time[event == 1]):
        at_risk, failing = value[time >= day], value[(time == day) & (event == 1)]
        above += float((at_risk.max() - failing).sum())
        below += float((failing - at_risk.min()).sum())
    if above == below == 0:
        return "no event while both groups are at risk"
    return SEPARATED if 0 in (above, below) else ""


def fit(time: Floats, event: Floats, value: Floats) -> Fit:
    """Return the maximum of the partial likelihood, by Newton steps that are halved where they overshoot.

    The influence is that of score residuals with Efron's weights (Therneau & Grambsch 2000, sections 3.4 and 7.1).
    """
    scale = float(np.ptp(value))
    x, steps = (value - value.mean()) / scale, _steps(time, event)
    failing = float(x[event == 1].sum())
    beta = 0.0
    likelihood, score, information = _derivatives(beta, x, steps, failing)
    for _ in range(100):
        step = score / information
        while _derivatives(beta + step, x, steps, failing)[0] < likelihood - 1e-12 and abs(step) > 1e-12:
            step /= 2
        beta += step
        likelihood, score, information = _derivatives(beta, x, steps, failing)
        if abs(step) < 1e-11:
            break
    hazard = np.exp(beta * x)
    at_risk = steps.weights * hazard
    total = at_risk.sum(1, keepdims=True)
    mean = at_risk @ x[:, None] / total
    residual = ((steps.shares - at_risk / total) * (x - mean)).sum(0)
    return Fit(beta / scale, 1 / np.sqrt(information) / scale, residual / information / scale)


def _steps(time: Floats, event: Floats) -> _Steps:
    """Return Efron's steps: at the l-th of m events of one day, all m are at risk with weight 1 - l / m."""
    weights, shares = [], []
    for day in np.unique(time[event == 1]):
        at_risk, failing = (time >= day).astype(float), ((time == day) & (event == 1)).astype(float)
        ties = int(failing.sum())
        weights += [at_risk - number / ties * failing for number in range(ties)]
        shares += [failing / ties] * ties
    return _Steps(np.array(weights), np.array(shares))


def _derivatives(beta: float, x: Floats, steps: _Steps, failing: float) -> tuple[float, float, float]:
    """Return the log partial likelihood at beta, its slope and minus its curvature; failing: sum of x over the events."""
    hazard = np.exp(beta * x)
    total, first, second = (steps.weights @ (hazard * x**power) for power in range(3))
    mean = first / total
    return (
        beta * failing - float(np.log(total).sum()),
        failing - float(mean.sum()),
        float((second / total - mean**2).sum()),
    )
