"""How well the stay is foretold day by day: Brier score and AUC over time, censored stays weighted away.

Asked of each day is who has not been discharged alive by its end: is still in hospital, or has died, on that day or before
(Blanche et al., Stat Med 2013, second definition). Without a death this is the textbook's survival. A stay that is censored
by then says nothing; those that are known count for it, by the inverse of the chance to be still observed (Graf et al.,
Stat Med 1999). A table has the columns of `risk`, and fold.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter
from numpy.typing import NDArray

from covid3d.stats import risk, survival
from covid3d.stats.estimate import Estimate

Floats = NDArray[np.float64]
FEWEST = 5
"""A day is judged when so many have left by then, and so many are known to be still there or dead."""
FEWEST_EVENTS = 10
"""Cox's model wants as many events a covariate (Peduzzi et al., J Clin Epidemiol 1995)."""
PENALTY = 0.01
TOO_FEW = f"no day by which {FEWEST} have left and {FEWEST} have not"


class Seen(NamedTuple):
    """Who had not been discharged alive (N,), and the weight of each patient (N,): 0 = censored by then."""

    later: NDArray[np.bool_]
    weight: Floats


def seen(days: Floats, causes: Floats, day: float) -> Seen:
    """Return what is known of each stay at the end of a day; days, causes (0 censored, 1 discharged, 2 died): (N,).

    The chance to be still observed is Kaplan and Meier's for the censoring, of all patients; who ended on the day of a
    censoring ended before it. An end counts by that chance just before it.
    """
    times = np.unique(days)
    lost = ((days == times[:, None]) & (causes == 0)).sum(1)
    at_risk = (days > times[:, None]).sum(1) + lost
    observed = np.concatenate([[1.0], np.cumprod(1 - lost / np.maximum(at_risk, 1))])
    there, ended = days > day, (days <= day) & (causes > 0)
    weight = np.zeros(len(days))
    weight[there] = 1 / observed[np.searchsorted(times, day, side="right")] if there.any() else 0
    weight[ended] = 1 / observed[np.searchsorted(times, days[ended], side="left")]
    return Seen(there | (causes == 2), weight)


def judged_days(table: pd.DataFrame) -> list[int]:
    """Return the whole days by the end of which FEWEST patients had left and FEWEST are known not to have."""
    days, causes = _stays(table)
    found = []
    for day in range(int(days.max(initial=0))):
        later, weight = seen(days, causes, day)
        counts = ((weight > 0) & ~later).sum(), ((weight > 0) & later).sum()
        found += [day] if min(counts) >= FEWEST else []
    return found


def dynamic_pairs(table: pd.DataFrame, score: str = "logit", *, day: float) -> risk.Pairs:
    """Return the pairs of the cumulative/dynamic AUC at the end of a day (Uno et al., JASA 2007; Hung & Chiang 2010).

    Who has left by then against who has not, right when the latter scores higher; a pair counts as its two weights.
    """
    later, weight = seen(*_stays(table), day)
    return risk.scored((weight * ~later)[:, None] * (weight * later), table, score)


def auc_on(table: pd.DataFrame, day: float, draws: int, rng: np.random.Generator) -> Estimate:
    """Return the AUC at the end of a day with its interval over resampled patients; missing on a day that is not judged."""
    if day not in judged_days(known(table)):
        return Estimate.missing("too few have left, or have not")
    return risk.bootstrap_interval(table, partial(dynamic_pairs, day=day), draws, rng)


def chances(table: pd.DataFrame, days: Sequence[int]) -> tuple[Floats, Floats]:
    """Return each patient's chance (N, D) not to be discharged by each day, by Cox's model on the score, and without a score.

    Both are fitted to the patients of the other folds, with their own out-of-fold scores; the second is Kaplan and Meier's
    curve. The dead are at risk to the last day of all, for they are discharged on none (Fine & Gray 1999). The score has
    unit variance and a penalty of 0.01, which only keeps a complete separation finite. NaN where nobody else was discharged.
    """
    stays, causes = _stays(table)
    time, event = np.where(causes == 2, stays.max(initial=0), stays), causes == 1
    score, fold = table["logit"].to_numpy(float), table["fold"].to_numpy()
    cox, alone = np.full((2, len(table), len(days)), np.nan)
    for held in (fold == number for number in np.unique(fold)):
        if event[~held].sum() < 2:
            continue
        others = KaplanMeierFitter().fit(time[~held], event[~held])
        alone[held] = cox[held] = others.survival_function_at_times(list(days)).to_numpy()
        if np.ptp(score[~held]) > 0:
            centre, scale = score[~held].mean(), score[~held].std()
            rows = pd.DataFrame({"score": (score - centre) / scale, "time": time, "event": event})
            fitter = CoxPHFitter(penalizer=PENALTY).fit(rows[~held], "time", "event")
            base = fitter.baseline_cumulative_hazard_.iloc[:, 0]  # lifelines would draw lines between its steps
            steps = np.append(0.0, base)[np.searchsorted(base.index, days, side="right")]
            cox[held] = np.exp(-np.outer(fitter.predict_partial_hazard(rows.loc[held, ["score"]]), steps))
    return cox, alone


def squared_errors(table: pd.DataFrame, chance: Floats, days: Sequence[int]) -> Floats:
    """Return each patient's weighted squared error (N, D); the mean over patients is the Brier score of each day."""
    stays, causes = _stays(table)
    found = [seen(stays, causes, day) for day in days]
    return np.stack([one.weight * (one.later - p) ** 2 for one, p in zip(found, chance.T, strict=True)], axis=1)


def integrated(values: Floats, days: Sequence[int]) -> Floats:
    """Return the mean over time (N,) of values on days (N, D), by trapezes; of one day its value."""
    return np.asarray(np.trapezoid(values, days, axis=1) / (days[-1] - days[0])) if len(days) > 1 else values[:, 0]


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return AUC, Brier score and the one of Kaplan and Meier's curve on each judged day, one row a day."""
    table = known(table)
    days = judged_days(table)
    if not days:
        return pd.DataFrame(columns=["day", "AUC", "Brier score", "without a score"], dtype=float)
    errors = (squared_errors(table, chance, days).mean(0) for chance in chances(table, days))
    one = np.ones((1, len(table)))
    areas = [dynamic_pairs(table, day=day).value(one)[0] for day in days]
    return pd.DataFrame(
        dict(zip(("day", "AUC", "Brier score", "without a score"), (days, areas, *errors), strict=True))
    )


def judged(table: pd.DataFrame, wanted: Sequence[int], draws: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return a predictor's AUC at the end of the wanted days, Cox's hazard ratio for its score, and its Brier score.

    Intervals resample patients, the weights kept, and are nominal. The integrated Brier score runs over `judged_days`; minus
    that without a score it is below 0 where the score helps.
    """
    table = known(table)
    days, score = judged_days(table), table["logit"].to_numpy(float)
    found: dict[str, Any] = {f"AUC, day {day}": auc_on(table, day, draws, rng).noted("nominal") for day in wanted}
    found["hazard ratio per SD"] = _hazard_ratio(table, score)
    names = ("integrated Brier score", "minus Kaplan-Meier")
    if not days:
        return found | {name: Estimate.missing(TOO_FEW) for name in names}
    cox, alone = (integrated(squared_errors(table, chance, days), days) for chance in chances(table, days))
    weights = risk.resampled(table, draws, rng)
    return found | {name: _mean(values, weights) for name, values in zip(names, (cox, cox - alone), strict=True)}


def _hazard_ratio(table: pd.DataFrame, score: Floats) -> Estimate:
    """Return Cox's hazard ratio of discharge per standard deviation of a score; missing for fewer than FEWEST_EVENTS."""
    if table["event"].sum() < FEWEST_EVENTS or np.ptp(score) == 0 or np.ptp(table["remaining_days"]) == 0:
        return Estimate.missing(f"fewer than {FEWEST_EVENTS} discharges, or one score or one stay for all")
    return survival.hazard_ratio(table["remaining_days"], table["event"], score / score.std()).estimate.noted("nominal")


def _mean(values: Floats, weights: Floats) -> Estimate:
    """Return the mean of one value a patient with its percentile interval over resampled patients."""
    if not np.isfinite(values).all():
        return Estimate.missing("nobody of the other folds was discharged")
    low, high = np.quantile(weights @ values / weights.sum(1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), "patient bootstrap, percentile", "nominal")


def known(table: pd.DataFrame) -> pd.DataFrame:
    """Return the patients with a score and a stay, censored ones included."""
    return table.dropna(subset=["logit", "remaining_days"]).reset_index(drop=True)


def _stays(table: pd.DataFrame) -> tuple[Floats, Floats]:
    return table["remaining_days"].to_numpy(float), table["cause"].to_numpy(float)
