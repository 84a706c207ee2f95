"""One hidden layer under Cox's partial likelihood: the loss against statsmodels, the baseline, what may reach a prediction."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from statsmodels.duration.hazard_regression import PHReg

from covid3d.comparators import deep_survival
from covid3d.stats import elastic_net


def patients(effect: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs (N, 4), days and causes; a stay is long where the first input is far from 0: no linear model sees it."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, 4))
    days = np.ceil(rng.gamma(4, 1.7 * np.exp(effect * (np.abs(inputs[:, 0]) - 0.8)))).clip(1, 40)
    return inputs, days, np.ones(count, int)


def test_the_loss_is_coxs_with_breslows_ties_as_in_statsmodels():
    inputs, days, _ = patients(0.5, 40, 1)
    event, weights = (np.arange(40) % 3 > 0).astype(int), np.array([0.5, -0.2, 0.1, 0.0])
    found = deep_survival.cox_loss(*(torch.from_numpy(part) for part in (inputs @ weights, days, event)))
    assert len(np.unique(days)) < 40, "ties"
    expected = PHReg(days, inputs, status=event, ties="breslow").loglike(weights)
    assert -float(found) * event.sum() == pytest.approx(expected)


def test_a_bend_is_found_that_the_linear_model_cannot_see_and_none_in_noise():
    folds, areas = np.arange(120) % 5, {}
    for effect in (1.5, 0.0):
        inputs, days, causes = patients(effect, 120, 2)
        for name, fit in (("deep", deep_survival.fit_predict), ("linear", elastic_net.fit_predict)):
            if name == "deep" or effect:
                found = elastic_net.out_of_fold([inputs] * 5, folds, days, causes, 7.0, fit)
                areas[name, effect] = roc_auc_score(days >= 7, found.score)
    assert areas["deep", 1.5] > 0.7 > areas["linear", 1.5] and 0.3 < areas["deep", 0.0] < 0.7


def test_the_chance_is_about_the_share_of_long_stays_and_the_same_each_time():
    inputs, days, causes = patients(0.5, 60, 3)
    first, again = (deep_survival.fit_predict(inputs, days, causes, np.arange(60) < 50, 7.0) for _ in range(2))
    assert first.chance.tolist() == again.chance.tolist()
    assert first.chance.mean() == pytest.approx((days >= 7).mean(), abs=0.15)
    causes[:30] = 2
    dead = deep_survival.fit_predict(inputs, days, causes, np.arange(60) < 50, 7.0)
    assert dead.chance.mean() > first.chance.mean(), "the dead are not discharged"


def test_no_outcome_of_a_held_out_patient_reaches_its_prediction_and_nobody_discharged_gives_none():
    inputs, days, causes = patients(0.5, 30, 4)
    train = np.arange(30) < 25
    first = deep_survival.fit_predict(inputs, days, causes, train, 7.0)
    other = deep_survival.fit_predict(inputs, np.where(train, days, 99), np.where(train, causes, 0), train, 7.0)
    assert first.score.tolist() == other.score.tolist()
    assert np.isnan(deep_survival.fit_predict(inputs, days, 0 * causes, train, 7.0).chance).all()
