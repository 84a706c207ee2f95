"""Cox's model with an elastic net (Simon et al., J Stat Softw 2011), fitted by lifelines, its strength chosen inside.

Days count to "discharged alive". A death is no discharge on any day: such a patient stays at risk until the last day of all,
as in the model of Fine & Gray (1999), so that what is predicted is the chance of still being in hospital, or dead.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from numpy.typing import NDArray

from covid3d.stats.estimate import NAN
from covid3d.stats.survival import inner_folds

Floats = NDArray[np.float64]
PENALTIES = (0.3, 0.1, 0.03)
L1_RATIO = 0.5
INNER_FOLDS = 3


class Scores(NamedTuple):
    """chance (N,) of a stay of the limit or longer; score (N,): minus the log hazard of discharge beside the training mean's.

    The chance decides the group. Patients of different folds are ordered by the score, which leaves each fold's own baseline
    out: with it, pooled chances that know nothing fall below one half (Parker et al., BMC Bioinformatics 2007).
    """

    chance: Floats
    score: Floats


def fit_predict(
    inputs: Floats, days: Floats, causes: NDArray[np.int_], train: NDArray[np.bool_], limit: float
) -> Scores:
    """Return the scores (N,) of a model of the training rows alone; NaN where fewer than two were discharged.

    inputs (N, K), unit variance in training; causes (N,): 0 censored, 1 discharged alive, 2 died. The penalty with the lowest
    log loss at the limit in a cross-validation of the training rows is taken.
    """
    x, time, cause = inputs[train], days[train], causes[train]
    known = (time >= limit) | (cause > 0)
    longer, fold = (time >= limit) | (cause == 2), inner_folds(len(x), INNER_FOLDS)
    losses = []
    for penalty in PENALTIES:
        found = np.full(len(x), NAN)
        for number in np.unique(fold):  # with fewer rows than folds some hold nobody out
            held = fold == number
            found[held] = _fit(x[~held], time[~held], cause[~held], x[held], limit, penalty).chance
        share = np.where(longer, found, 1 - found)[known]
        losses.append(-np.log(share.clip(1e-6)).mean())
    best = PENALTIES[int(np.argmin(losses))] if np.isfinite(losses).all() else PENALTIES[0]
    return _fit(x, time, cause, inputs, limit, best)


def out_of_fold(
    inputs: Sequence[Floats],
    folds: NDArray[np.int_],
    days: Floats,
    causes: NDArray[np.int_],
    limit: float,
    fit: Callable[..., Scores] = fit_predict,
) -> Scores:
    """Return the scores (N,) of all patients, each by the model of the fold that holds the patient out.

    inputs: for each fold its (N, K) inputs, made without the held-out patients. fit: `fit_predict`, or one like it.
    """
    chance, score = np.full((2, len(days)), NAN)
    for fold, values in enumerate(inputs):
        held = folds == fold
        if held.any() and not held.all():
            found = fit(values, days, causes, ~held, limit)
            chance[held], score[held] = found.chance[held], found.score[held]
    return Scores(chance, score)


def _fit(
    inputs: Floats, days: Floats, causes: NDArray[np.int_], scored: Floats, limit: float, penalty: float
) -> Scores:
    """Return the scores of rows (M, K) by a model of inputs (N, K); NaN where no model can be fitted."""
    event, none = causes == 1, np.full(len(scored), NAN)
    if event.sum() < 2 or not inputs.shape[1]:
        return Scores(none, none)
    time = np.where(causes == 2, days.max(), days)
    table = pd.DataFrame(inputs).assign(time=time, event=event)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitter = CoxPHFitter(penalizer=penalty, l1_ratio=L1_RATIO).fit(table, "time", "event")
    except (ConvergenceError, np.linalg.LinAlgError):
        return Scores(none, none)
    log_hazard = fitter.predict_log_partial_hazard(pd.DataFrame(scored)).to_numpy(float)
    before = fitter.baseline_cumulative_hazard_.iloc[:, 0].loc[lambda steps: steps.index < limit]
    baseline = float(before.iloc[-1]) if len(before) else 0.0
    return Scores(np.exp(-baseline * np.exp(log_hazard)), -log_hazard)
