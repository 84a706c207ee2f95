"""Cox's model with an elastic net: the baseline against hand sums and lifelines, the limit, and what may reach a prediction."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from sklearn.metrics import roc_auc_score

from covid3d.stats import elastic_net


def patients(effect: float, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs (N, 4), days and causes; the first input lengthens the stay."""
    inputs = rng.normal(size=(count, 4))
    days = np.ceil(rng.gamma(4, 1.7 * np.exp(effect * inputs[:, 0]))).clip(1, 40)
    return inputs, days, np.ones(count, int)


def test_the_chance_is_that_of_the_limit_or_longer_as_lifelines_gives_it():
    """lifelines' survival function is P(T > t): the chance of 7 days or longer is its value after day 6."""
    inputs, days, causes = patients(0.5, 60, np.random.default_rng(1))
    found = elastic_net._fit(inputs, days, causes, inputs[:5], 7.0, 0.1)
    table = pd.DataFrame(inputs).assign(time=days, event=1)
    model = CoxPHFitter(penalizer=0.1, l1_ratio=0.5).fit(table, "time", "event")
    assert found.chance == pytest.approx(model.predict_survival_function(pd.DataFrame(inputs[:5]), [6]).to_numpy()[0])
    assert found.chance.mean() == pytest.approx((days >= 7).mean(), abs=0.15)
    assert found.score == pytest.approx(-model.predict_log_partial_hazard(pd.DataFrame(inputs[:5])).to_numpy())


def test_a_death_is_never_a_discharge():
    """All coefficients at zero, the chance is Kaplan and Meier's with the dead at risk to the end."""
    rng = np.random.default_rng(2)
    inputs, days, causes = patients(0.0, 80, rng)
    causes[:20] = 2
    found = elastic_net._fit(inputs, days, causes, inputs[:1], 7.0, 50.0).chance[0]
    fitter = KaplanMeierFitter().fit(np.where(causes == 2, days.max(), days), causes == 1)
    assert found == pytest.approx(fitter.predict(6), abs=0.02)
    assert found > KaplanMeierFitter().fit(days, causes == 1).predict(6)


def test_a_planted_effect_is_found_and_none_in_noise():
    rng, folds = np.random.default_rng(3), np.arange(60) % 5
    areas = []
    for effect in (0.8, 0.0):
        inputs, days, causes = patients(effect, 60, rng)
        found = elastic_net.out_of_fold([inputs] * 5, folds, days, causes, 7.0)
        areas.append(roc_auc_score(days >= 7, found.score))
    assert areas[0] > 0.8 and 0.3 < areas[1] < 0.7


def test_scores_without_an_effect_are_equal_whatever_a_folds_baseline():
    """A net that keeps nothing orders nobody, though the chances differ between folds."""
    inputs, days, causes = patients(0.0, 50, np.random.default_rng(6))
    folds = np.argsort(np.argsort(days, kind="stable")) // 10
    found = [
        elastic_net._fit(inputs[folds != k], days[folds != k], causes[folds != k], inputs, 7.0, 50.0) for k in (0, 4)
    ]
    assert found[0].chance[0] - found[1].chance[0] > 0.1
    assert np.abs([one.score for one in found]).max() < 1e-2


def test_no_outcome_of_a_held_out_patient_reaches_its_prediction():
    inputs, days, causes = patients(0.8, 40, np.random.default_rng(4))
    folds = np.arange(40) % 4
    first = elastic_net.out_of_fold([inputs] * 4, folds, days, causes, 7.0)
    changed_days, changed = np.where(folds == 0, 31 - days.clip(1, 30), days), np.where(folds == 0, 2, causes)
    again = elastic_net.out_of_fold([inputs] * 4, folds, changed_days, changed, 7.0)
    for before, after in zip(first, again, strict=True):
        assert before[folds == 0].tolist() == after[folds == 0].tolist()
        assert (before[folds != 0] != after[folds != 0]).all()


def test_nobody_discharged_or_nothing_to_fit_gives_no_prediction():
    inputs, days, causes = patients(0.5, 20, np.random.default_rng(5))
    folds = np.arange(20) % 4
    assert np.isnan(elastic_net.out_of_fold([inputs] * 4, folds, days, 0 * causes, 7.0)).all(), "all censored"
    assert np.isnan(elastic_net.out_of_fold([inputs[:, :0]] * 4, folds, days, causes, 7.0)).all()
    assert np.isnan(elastic_net.out_of_fold([inputs] * 4, 0 * folds, days, causes, 7.0)).all(), "one fold has all"


def test_fewer_patients_than_inner_folds_still_have_scores():
    rng = np.random.default_rng(4)
    inputs, days = rng.normal(size=(4, 2)), np.array([3.0, 9.0, 5.0, 12.0])
    train = np.array([True, True, True, False])
    found = elastic_net.fit_predict(inputs, days, np.ones(4, int), train, 7.0)
    assert np.isfinite(found.chance).all() and found.chance.shape == (4,)
