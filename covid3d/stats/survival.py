"""Time to discharge: Kaplan-Meier, log-rank, hazard of discharge, competing deaths and out-of-fold permutation.

Days are counted from the index scan; the event is "discharged alive", so the Kaplan-Meier ordinate reads "still in
hospital" and a hazard ratio below 1 means a longer stay. What cannot be computed is missing with its reason, never an error.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from covid3d.stats.estimate import NAN, Estimate, Tested, p_value

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
    time, event, member = _columns(days, events, group)
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

    One row at day 0 and one for each distinct day; empty input gives an empty table.
    """
    columns = ["day", "still_in_hospital", "low", "high", "at_risk", "events", "censored"]
    time, event, _ = _columns(days, events, np.zeros(np.size(days)))
    if not len(time):
        return pd.DataFrame(columns=columns, dtype=float)
    fitter = KaplanMeierFitter().fit(time, event)
    curve = fitter.survival_function_.iloc[:, 0]
    limits = fitter.confidence_interval_survival_function_
    counts = fitter.event_table
    return pd.DataFrame(
        {
            "day": curve.index.to_numpy(float),
            "still_in_hospital": curve.to_numpy(float),
            "low": limits.iloc[:, 0].to_numpy(float),
            "high": limits.iloc[:, 1].to_numpy(float),
            "at_risk": counts["at_risk"].to_numpy(int),
            "events": counts["observed"].to_numpy(int),
            "censored": counts["censored"].to_numpy(int),
        }
    )[columns]


def hazard_ratio(days: ArrayLike, events: ArrayLike, covariate: ArrayLike, cluster: ArrayLike | None = None) -> Tested:
    """Return the Cox hazard ratio per unit of one covariate (Efron ties) with its Wald interval and p.

    `cluster` (N,) gives a sandwich interval.
    """
    time, event, value = _columns(days, events, covariate)
    method = "Cox, Efron ties, Wald" + (", clustered by patient" if cluster is not None else "")
    if len(time) < 3 or event.sum() < 2 or np.ptp(value) == 0:
        return Tested.missing("too few events, or one group only")
    table = pd.DataFrame({"time": time, "event": event, "value": value})
    if cluster is not None:
        table["cluster"] = pd.factorize(np.asarray(cluster))[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            fitter = CoxPHFitter().fit(table, "time", "event", cluster_col="cluster" if cluster is not None else None)
    except (ConvergenceError, ConvergenceWarning, np.linalg.LinAlgError):
        return Tested.missing("the groups are separated completely: no finite estimate")
    row = fitter.summary.iloc[0]
    if not row["se(coef)"] < 10:
        return Tested.missing("the groups are separated completely: no finite estimate")
    limits = (float(row["exp(coef) lower 95%"]), float(row["exp(coef) upper 95%"]))
    return Tested(Estimate(float(row["exp(coef)"]), *limits, method), float(row["p"]))


def aalen_johansen(days: ArrayLike, causes: ArrayLike) -> pd.DataFrame:
    """Return cumulative incidences under competing events (Aalen & Johansen 1978), ties kept as ties.

    causes (N,): 0 censored, 1 discharged alive, 2 died (and so on). Columns day, at_risk, event_free, cause_1, cause_2 …
    """
    time, cause = np.asarray(days, float), np.asarray(causes, int)
    kinds = sorted(set(cause[cause > 0].tolist()))
    incidence = dict.fromkeys(kinds, 0.0)
    event_free = 1.0
    rows: list[dict[str, float]] = [
        {"day": 0.0, "at_risk": len(time), "event_free": 1.0} | {f"cause_{k}": 0.0 for k in kinds}
    ]
    for day in np.unique(time[cause > 0]):
        n = int((time >= day).sum())
        failing = {kind: int(((time == day) & (cause == kind)).sum()) for kind in kinds}
        for kind in kinds:
            incidence[kind] += event_free * failing[kind] / n
        event_free *= 1 - sum(failing.values()) / n
        rows.append(
            {"day": float(day), "at_risk": n, "event_free": event_free} | {f"cause_{k}": incidence[k] for k in kinds}
        )
    return pd.DataFrame(rows)


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


def permute_outcomes(
    inputs: Sequence[Floats],
    folds: ArrayLike,
    days: ArrayLike,
    events: ArrayLike,
    high_risk: ArrayLike,
    *,
    permutations: int,
    rng: np.random.Generator,
    penalties: Sequence[float] = (1.0,),
) -> Permutation:
    """Return the permutation p of the log-rank statistic of cross-validated groups.

    inputs: for each fold its (N, K) head inputs; folds (N,) the number of the fold that holds each patient out. In each
    replicate (days, event, high risk) are permuted jointly over patients and the heads of all folds are fitted again, so
    the dependence between out-of-fold predictions is in the null distribution.
    """
    time, event, label = _columns(days, events, high_risk)
    held = np.asarray(folds, int)
    if len(time) < 4 or np.ptp(label) == 0:
        return Permutation(NAN, NAN, np.array([]), "too few patients, or one risk class only")
    orders = permuted_orders(len(time), permutations, rng)
    return permuted_log_rank(permuted_logits(inputs, held, label, orders, penalties), orders, time, event)


def permuted_log_rank(logits: Floats, orders: NDArray[np.int_], days: Floats, events: Floats) -> Permutation:
    """Return the permutation p of the log-rank statistic from logits (P, N) refitted to outcomes in each order (P, N)."""
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
    """Return the out-of-fold logits (P, N) of heads refitted for every order of the labels; -1 where no fold can be fitted."""
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


def _columns(days: ArrayLike, events: ArrayLike, value: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return three float columns without the rows in which one of them is missing."""
    columns = [
        pd.to_numeric(pd.Series(part), errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        for part in (days, events, value)
    ]
    known = np.all([np.isfinite(column) for column in columns], axis=0)
    return columns[0][known], columns[1][known], columns[2][known]
