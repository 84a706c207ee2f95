"""Time to discharge: Kaplan-Meier, log-rank, hazard of discharge, competing deaths and out-of-fold permutation.

Days are counted from the index scan. The event of log-rank and hazard ratio is "discharged alive", so that a ratio below 1
means a longer stay; "still in hospital" is who has neither left nor died. What cannot be computed is missing with its
reason, never an error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, norm
from statsmodels.duration.survfunc import CumIncidenceRight

from covid3d.stats import cox
from covid3d.stats.estimate import NAN, Estimate, Tested, complete, p_value

Floats = NDArray[np.float64]
INNER_FOLDS = 5


class LogRank(NamedTuple):
    """Log-rank comparison of two groups; `z` > 0 when the first group has more events than expected."""

    z: float
    chi_square: float
    p: float
    n: tuple[int, int]
    events: tuple[int, int]
    reason: str = ""

    @property
    def nominal(self) -> Estimate:
        """The chi-square p, marked nominal: it takes the groups for independent ones; or why there is none."""
        return Estimate.missing(self.reason) if self.reason else p_value(self.p, "nominal", method="log-rank")


class Permutation(NamedTuple):
    """Observed statistic, its permutation p (one is added to both counts, so never zero) and the null statistics."""

    statistic: float
    p: float
    null: Floats
    reason: str = ""


def log_rank(days: ArrayLike, events: ArrayLike, group: ArrayLike) -> LogRank:
    """Return the log-rank test of group 1 against group 0 (Mantel 1966; hypergeometric variance for ties).

    days (N,) to event or last contact, events (N,) 1 = event, group (N,) 0 or 1. The p is the chi-square one on 1 df.
    """
    time, event, member = complete(days, events, group)
    inside = member == 1
    sizes = (int(inside.sum()), int((~inside).sum()))
    counts = (int(event[inside].sum()), int(event[~inside].sum()))
    if not len(time):
        return LogRank(NAN, NAN, NAN, sizes, counts, "nobody has a prediction and a known stay")
    if min(sizes) == 0:
        return LogRank(NAN, NAN, NAN, sizes, counts, "all patients are in one group")
    difference, variance = _log_rank_parts(time, event, inside[None, :])
    if variance[0] <= 0:
        return LogRank(NAN, NAN, NAN, sizes, counts, "no event while both groups are at risk")
    z = float(difference[0] / np.sqrt(variance[0]))
    return LogRank(z, z * z, float(chi2.sf(z * z, 1)), sizes, counts)


def _log_rank_parts(time: Floats, event: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return observed minus expected events, and its variance, for each row of groups (P, N)."""
    times = np.unique(time[event == 1])
    at_risk = (time[None, :] >= times[:, None]).astype(float)  # (T, N)
    failing = ((time[None, :] == times[:, None]) & (event == 1)[None, :]).astype(float)
    n, d = at_risk.sum(1), failing.sum(1)  # (T,)
    members = inside.astype(float)
    n1, d1 = members @ at_risk.T, members @ failing.T  # (P, T)
    share = n1 / n
    variance = d * share * (1 - share) * np.where(n > 1, (n - d) / np.maximum(n - 1, 1), 0)
    return (d1 - d * share).sum(1), variance.sum(1)


def log_rank_statistics(days: Floats, events: Floats, groups: NDArray[np.bool_]) -> Floats:
    """Return the log-rank chi-square of each row of groups (P, N); 0 where it cannot be computed."""
    difference, variance = _log_rank_parts(np.asarray(days, float), np.asarray(events, float), groups)
    return np.where(variance > 0, difference**2 / np.where(variance > 0, variance, 1), 0.0)


def kaplan_meier(days: ArrayLike, events: ArrayLike) -> pd.DataFrame:
    """Return the Kaplan-Meier curve: day, still_in_hospital, low, high (95 %, log-log), at_risk, events, censored.

    events: 1 = has left, alive or dead; only a stay whose end is not known is 0. One row at day 0 and one for each distinct
    day; no limits where the curve is 1 or 0, as in R's survfit. Empty input gives an empty table.
    """
    columns = ["day", "still_in_hospital", "low", "high", "at_risk", "events", "censored"]
    time, event, _ = complete(days, events, np.zeros(np.size(days)))
    if not len(time):
        return pd.DataFrame(columns=columns, dtype=float)
    fitter = KaplanMeierFitter().fit(time, event)
    curve = fitter.survival_function_.iloc[:, 0]
    limits = fitter.confidence_interval_survival_function_
    counts, inside = fitter.event_table, (curve > 0) & (curve < 1)
    return pd.DataFrame(
        {
            "day": curve.index.to_numpy(float),
            "still_in_hospital": curve.to_numpy(float),
            "low": limits.iloc[:, 0].where(inside).to_numpy(float),
            "high": limits.iloc[:, 1].where(inside).to_numpy(float),
            "at_risk": counts["at_risk"].to_numpy(int),
            "events": counts["observed"].to_numpy(int),
            "censored": counts["censored"].to_numpy(int),
        }
    )[columns]


def hazard_ratio(days: ArrayLike, events: ArrayLike, covariate: ArrayLike, cluster: ArrayLike | None = None) -> Tested:
    """Return the Cox hazard ratio per unit of one covariate (`cox.wald`), over the rows in which nothing is missing.

    Other ends than the event count as censored: it is the ratio of cause-specific hazards. `cluster` (N,) names each row's
    patient and gives a sandwich interval.
    """
    if cluster is None:
        time, event, value = complete(days, events, covariate)
        return cox.wald(time, event, value)
    codes = pd.Series(pd.factorize(np.asarray(cluster))[0]).replace(-1, NAN)
    time, event, value, patient = complete(days, events, covariate, codes)
    return cox.wald(time, event, value, patient.astype(int))


def aalen_johansen(days: ArrayLike, causes: ArrayLike) -> pd.DataFrame:
    """Return cumulative incidences under competing events (Aalen & Johansen 1978), ties kept as ties.

    causes (N,): 0 censored, 1 discharged alive, 2 died (and so on). One row at day 0 and one a day with an event; columns
    day, at_risk, event_free, and for each cause that occurs cause_1, "cause_1 low" and "cause_1 high" (95 %, log-log, Choudhury,
    Stat Med 2002): none where nothing has happened yet or nobody is left.
    """
    time, cause, _ = complete(days, causes, np.zeros(np.size(days)))
    rows = pd.DataFrame({"day": np.union1d([0.0], time[cause > 0])})
    rows["at_risk"] = [int((time >= day).sum()) for day in rows["day"]]
    rows["event_free"] = 1.0
    if not (cause > 0).any():
        return rows
    with np.errstate(divide="ignore", invalid="ignore"):  # nobody is left
        found = CumIncidenceRight(time, cause.astype(int))
    at = np.searchsorted(found.times, rows["day"], side="right")
    for number, (values, errors) in enumerate(zip(found.cinc, found.cinc_se, strict=True), start=1):
        if (cause == number).any():
            share, error = np.concatenate([[0.0], values])[at], np.concatenate([[0.0], errors])[at]
            rows["event_free"] -= share
            rows[f"cause_{number}"] = share
            rows[f"cause_{number} low"], rows[f"cause_{number} high"] = _log_log(share, error)
    return rows.assign(event_free=rows["event_free"].clip(lower=0))


def _log_log(share: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Return 95 % limits of shares that are symmetric for log(-log(share)); NaN without a standard error."""
    inside = np.where((share > 0) & (share < 1) & (error > 0), share, NAN)
    half = norm.ppf(0.975) * error / (inside * np.log(inside))  # negative
    return inside ** np.exp(-half), inside ** np.exp(half)


def gray(days: ArrayLike, causes: ArrayLike, group: ArrayLike, cause: int = 1) -> LogRank:
    """Return Gray's test that group 1 and group 0 have the same cumulative incidence of a cause (Ann Stat 1988, rho = 0).

    days (N,), causes (N,) 0 censored, 1, 2, …, group (N,) 0 or 1. Those who ended otherwise stay at risk, so that what is
    compared is the share that leaves alive, not the rate among those still there (the log-rank test).
    """
    time, ended, member = complete(days, causes, group)
    inside, of_cause = member == 1, ended == cause
    sizes = int(inside.sum()), int((~inside).sum())
    counts = int((inside & of_cause).sum()), int((~inside & of_cause).sum())
    if min(sizes) == 0:
        return LogRank(NAN, NAN, NAN, sizes, counts, "all patients are in one group")
    score, variance = _gray_parts(time, ended, np.stack([inside, ~inside]), cause) if sum(counts) else (0.0, 0.0)
    if not variance > 0:
        return LogRank(NAN, NAN, NAN, sizes, counts, "no event while both groups are at risk")
    z = float(score / np.sqrt(variance))
    return LogRank(z, z * z, float(chi2.sf(z * z, 1)), sizes, counts)


def _gray_parts(time: Floats, ended: Floats, inside: NDArray[np.bool_], cause: int) -> tuple[float, float]:
    """Return Gray's score of the first of two groups (2, N), and its variance.

    Under the null hypothesis the pooled incidence is that of both groups; an event counts by what it tells at once and by
    how it moves the expected numbers of all later days.
    """
    groups, days = inside.astype(float), np.unique(time[ended > 0])
    here, mine = time == days[:, None], ended == cause
    at_risk = groups @ (time >= days[:, None]).T.astype(float)
    events, others = groups @ (here & mine).T.astype(float), groups @ (here & (ended > 0) & ~mine).T.astype(float)
    some, size = at_risk > 0, np.maximum(at_risk, 1)
    free = np.cumprod(1 - (events + others) / size, axis=1)
    free_before = _before(free, 1.0)
    incidence_before = _before(np.cumsum(free_before * events / size, axis=1), 0.0)
    possible = np.where(some, at_risk / np.where(some, free_before, 1), 0)  # were there no other end
    every, total = possible.sum(0), events.sum(0)
    weight = possible * (1 - incidence_before)
    score = float((events[0] - total * weight[0] / weight.sum(0)).sum())
    pooled = np.cumsum(total / every)
    at_once = possible[0] * (np.array([[1.0], [0.0]]) - possible / every)
    drift = np.cumsum(at_once * total / (every * (1 - _before(pooled, 0.0))), axis=1)
    later, left = drift[:, -1:] - drift, np.where(free > 0, (1 - pooled) / np.where(free > 0, free, 1), 0)
    moved = at_once + np.where(free > 0, 1 - left, 1) * later
    ties = 1 - (total - 1).clip(0) / np.where(total > 1, every * free_before - 1, 1)
    other_ties = 1 - (others - 1).clip(0) / np.where(others > 1, size - 1, 1)
    spread = (
        moved**2 * ties * free_before * total / (every * size)
        + (left * later * free_before / size) ** 2 * other_ties * others
    )
    return score, float(spread[some].sum())


def _before(values: Floats, start: float) -> Floats:
    """Return each row's values just before its steps: shifted by one, beginning with `start`."""
    return np.concatenate([np.full((*values.shape[:-1], 1), start), values[..., :-1]], axis=-1)


def principal_components(features: Floats, train: NDArray[np.bool_], components: int) -> Floats:
    """Return standardized principal components (N, K) of features (N, C), fitted on the training rows alone."""
    centre, axes = _projection(features[train], components)
    return (features - centre) @ axes


def _projection(train: Floats, components: int) -> tuple[Floats, Floats]:
    """Return centre (C,) and axes (C, K) that turn features into principal components of unit variance in training."""
    centre, spread = train.mean(0), train.std(0)
    scale = np.where(spread > 1e-12, spread, np.inf)
    _, size, axes = np.linalg.svd((train - centre) / scale, full_matrices=False)
    keep = [k for k in range(min(components, len(size))) if size[k] > 1e-8 * size[0] > 0]
    return centre, axes[keep].T / scale[:, None] * np.sqrt(len(train)) / size[keep]


def linear_head(features: Floats, labels: Floats, components: int) -> tuple[Floats, float]:
    """Return weights (C,) and bias of the logistic head on principal components: logit = features @ weights + bias."""
    centre, axes = _projection(features, components)
    weights = _newton((features - centre) @ axes, labels[None], 1.0)[0]
    direction = axes @ weights[1:]
    return direction, float(weights[0] - centre @ direction)


def logistic_heads(
    inputs: Floats, labels: Floats, train: NDArray[np.bool_], penalties: Sequence[float] = (1.0,)
) -> Floats:
    """Return logits (P, N) of P ridge logistic regressions that share inputs (N, K) and differ in labels (P, N).

    Fitted by Newton steps on the training rows; the intercept is not penalised; a penalty is 1 / C of scikit-learn. The
    classes weigh alike (`class_weight="balanced"`): fitted to a fold's own share of long stays, pooled scores that know
    nothing fall below chance (Parker et al., BMC Bioinformatics 2007). Of several penalties each regression takes the one
    with the lowest log loss in a cross-validation of the training rows alone. One class gives a constant logit of +-20.
    """
    known, wanted = inputs[train], labels[:, train]
    logits = np.empty(labels.shape)
    chosen = _lowest_loss(known, wanted, penalties)
    for number, penalty in enumerate(penalties):
        rows = chosen == number
        if rows.any():
            logits[rows] = _logits(known, wanted[rows], inputs, penalty)
    return logits


def _lowest_loss(inputs: Floats, labels: Floats, penalties: Sequence[float]) -> NDArray[np.int_]:
    """Return which penalty (P,) has the lowest log loss over `INNER_FOLDS` folds of the rows, as LogisticRegressionCV."""
    if len(penalties) == 1:
        return np.zeros(len(labels), int)
    fold, losses = inner_folds(len(inputs)), np.zeros((len(penalties), len(labels)))
    for number in np.unique(fold):
        held = fold == number
        for row, penalty in enumerate(penalties):
            found = _logits(inputs[~held], labels[:, ~held], inputs[held], penalty)
            losses[row] += np.logaddexp(0, np.where(labels[:, held] > 0.5, -found, found)).mean(1)
    return losses.argmin(0)


def inner_folds(rows: int, folds: int = INNER_FOLDS) -> NDArray[np.int_]:
    """Return the fold (N,) of each training row in the choices made inside the training patients: every fifth row is one."""
    return np.arange(rows) % folds


def _logits(inputs: Floats, labels: Floats, scored: Floats, penalty: float) -> Floats:
    """Return logits (P, M) of scored rows (M, K) by regressions on inputs (N, K) and labels (P, N)."""
    weights = _newton(inputs, labels, penalty)
    logits = weights @ np.column_stack([np.ones(len(scored)), scored]).T
    single = np.ptp(labels, axis=1) == 0
    logits[single] = np.where(labels[single][:, :1] > 0.5, 20.0, -20.0)
    return logits


def _newton(inputs: Floats, labels: Floats, penalty: float) -> Floats:
    """Return intercept and weights (P, 1 + K) of ridge logistic regressions, classes balanced, of labels (P, N)."""
    x = np.column_stack([np.ones(len(inputs)), inputs])
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)  # (N, (1 + K)²)
    ridge = penalty * np.diag([1e-9] + [1.0] * inputs.shape[1])
    high = labels.mean(1, keepdims=True)
    share = np.where(labels > 0.5, 0.5 / np.maximum(high, 1e-9), 0.5 / np.maximum(1 - high, 1e-9))
    weights = np.zeros((len(labels), x.shape[1]))
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(weights @ x.T, -30, 30)))  # (P, N)
        gradient = (share * (chance - labels)) @ x + weights @ ridge
        hessian = ((share * chance * (1 - chance)) @ products).reshape(-1, *ridge.shape) + ridge
        change = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        weights -= np.clip(change, -5, 5)
        if np.abs(change).max() < 1e-9:
            break
    return weights


def permuted_log_rank(logits: Floats, orders: NDArray[np.int_], days: Floats, events: Floats) -> Permutation:
    """Return the permutation p of the log-rank statistic of cross-validated groups.

    logits: refitted to the outcomes in each of the orders (P, N), `permuted_logits`. Days, events and labels are permuted
    jointly over patients, so the dependence between out-of-fold predictions is in the null distribution.
    """
    if not len(logits):
        return Permutation(NAN, NAN, np.array([]), "too few patients, or one risk class only")
    groups = logits >= 0
    statistics = np.array(
        [
            log_rank_statistics(days[order], events[order], row[None])[0]
            for order, row in zip(orders, groups, strict=True)
        ]
    )
    if groups[0].all() or not groups[0].any():
        return Permutation(NAN, NAN, statistics[1:], "all patients are in one group")
    return Permutation(float(statistics[0]), permutation_p(float(statistics[0]), statistics[1:]), statistics[1:])


def permuted_orders(patients: int, permutations: int, rng: np.random.Generator) -> NDArray[np.int_]:
    """Return the observed order of the patients and permutations of it, (1 + permutations, N)."""
    return np.vstack([np.arange(patients), *(rng.permutation(patients) for _ in range(permutations))])


def permuted_logits(
    inputs: Sequence[Floats],
    held: NDArray[np.int_],
    label: Floats,
    orders: NDArray[np.int_],
    penalties: Sequence[float] = (1.0,),
) -> Floats:
    """Return the out-of-fold logits (P, N) of heads refitted for every order of the labels; -1 where no fold can be fitted.

    inputs: for each fold its (N, K) head inputs; held (N,): the fold that holds each patient out. None, (0, N), of fewer
    than four patients or of one class.
    """
    if len(label) < 4 or np.ptp(label) == 0:
        return np.empty((0, len(label)))
    logits = np.full(orders.shape, -1.0)
    for fold, values in enumerate(inputs):
        test = held == fold
        if test.any() and not test.all():
            logits[:, test] = logistic_heads(values, label[orders], ~test, penalties)[:, test]
    return logits


def permuted(p: float, reason: str = "too few patients") -> Estimate:
    """Return a permutation p, which says what was permuted; or why there is none."""
    return p_value(p, "outcomes permuted") if np.isfinite(p) else Estimate.missing(reason)


def permutation_p(statistic: float, null: Floats) -> float:
    """Return the share of null statistics at least as large, the observed one counted in (Phipson & Smyth 2010)."""
    if not np.isfinite(statistic) or not len(null):
        return NAN
    return float((1 + np.sum(null >= statistic * (1 - 1e-12))) / (1 + len(null)))
