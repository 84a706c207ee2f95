"""Calibration and net benefit, against scikit-learn, scipy, a published table, and formulas written out."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from covid3d.stats import calibration as cal
from covid3d.stats.estimate import Estimate

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0.3, 1.5, 60).round(1)  # rounded: ties
LABELS = (RNG.random(60) < expit(0.7 * LOGITS - 0.5)).astype(int)


def test_recalibration_is_scikit_learns_unpenalised_logistic_regression():
    found = cal.recalibration(LABELS, LOGITS)
    known = LogisticRegression(C=np.inf, tol=1e-10).fit(LOGITS[:, None], LABELS)
    assert found.intercept.value == pytest.approx(known.intercept_[0], abs=1e-5)
    assert found.slope.value == pytest.approx(known.coef_[0, 0], abs=1e-5)
    assert found.slope.low < found.slope.value < found.slope.high
    assert found(LOGITS) == pytest.approx(known.decision_function(LOGITS[:, None]), abs=1e-4)


def test_the_limits_of_the_slope_are_those_of_the_observed_information():
    """Wald: the inverse of X'WX, W = p (1 - p), written out."""
    found = cal.recalibration(LABELS, LOGITS)
    p, x = expit(found(LOGITS)), np.column_stack([np.ones(60), LOGITS])
    error = np.sqrt(np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))[1, 1])
    assert found.slope.high - found.slope.low == pytest.approx(2 * 1.959964 * error, rel=1e-4)


def test_the_intercept_makes_the_mean_probability_the_share_of_the_disease():
    """The score equation of a logistic regression with offset, solved by scipy."""
    found = cal.calibration_intercept(LABELS, LOGITS)
    assert found.value == pytest.approx(brentq(lambda a: expit(LOGITS + a).mean() - LABELS.mean(), -9, 9), abs=1e-6)
    assert cal.calibration_intercept([1, 0, 0, 0], [0.0] * 4).value == pytest.approx(np.log(1 / 3)), "the log odds"


def test_scores_recalibrated_on_their_own_patients_have_intercept_0_and_slope_1():
    again = cal.recalibration(LABELS, LOGITS)(LOGITS)
    assert cal.calibration_intercept(LABELS, again).value == pytest.approx(0, abs=1e-6)
    assert cal.recalibration(LABELS, again).slope.value == pytest.approx(1, abs=1e-6)


def test_the_brier_score_is_the_mean_squared_error_of_the_probability():
    found = cal.brier([1, 1, 0, 0], np.log([9, 1, 1, 1 / 4]))
    assert found.value == pytest.approx((0.1**2 + 0.5**2 + 0.5**2 + 0.2**2) / 4)
    assert 0 <= found.low < found.value < found.high


def test_the_curve_keeps_every_patient_in_bins_of_equal_size():
    table = cal.curve(LABELS, LOGITS)
    assert len(table) == 5 and table["patients"].sum() == 60
    assert (table["observed"] * table["patients"]).sum() == pytest.approx(LABELS.sum())
    assert (table["predicted"] * table["patients"]).sum() == pytest.approx(expit(LOGITS).sum())
    assert ((table["low"] <= table["observed"]) & (table["observed"] <= table["high"])).all()
    assert cal.curve(LABELS[:7], LOGITS[:7]).empty, "fewer than eight patients make no bin"
    tied = cal.curve([0, 1] * 20, [0.0, 0.0, 1.0, 1.0] * 10)
    assert tied["patients"].sum() == 40, "bins that ties leave empty have no row"


@pytest.mark.parametrize("size", [16, 24, 25, 28, 31, 40])
def test_each_bin_counts_the_patients_whose_share_it_shows(size):
    for seed in range(20):
        rng = np.random.default_rng([size, seed])
        labels, logits = rng.integers(0, 2, size), rng.normal(size=size).round(seed % 2 + 1)
        table = cal.curve(labels, logits)
        counts = table["observed"] * table["patients"]
        assert counts.to_numpy() == pytest.approx(counts.round()), "a share of so many patients"
        assert table["patients"].sum() == size


def test_net_benefit_is_the_formula_of_dcurves():
    """R's dcurves: true positive rate of all patients less false positive rate times the odds of the threshold."""
    table, p = cal.net_benefit(LABELS, LOGITS, [0.2, 0.5, 0.8]).set_index("threshold"), expit(LOGITS)
    for cut in (0.2, 0.8):
        true, false = (LABELS[p >= cut] == 1).sum() / 60, (LABELS[p >= cut] == 0).sum() / 60
        assert table.at[cut, "score"] == pytest.approx(true - false * cut / (1 - cut))
        assert table.at[cut, "all"] == pytest.approx(LABELS.mean() - (1 - LABELS.mean()) * cut / (1 - cut))
        gain = cal.gain_over_defaults(LABELS, LOGITS, cut)
        assert gain["treat all"].value == pytest.approx(table.at[cut, "score"] - table.at[cut, "all"])
        assert gain["treat none"].value == pytest.approx(table.at[cut, "score"])
    assert (table["none"] == 0).all()


def test_predictive_values_are_those_of_altman_and_bland():
    """Liver scans, BMJ 1994;309:102: 231 of 258 abnormal and 54 of 86 normal ones called rightly."""
    table = cal.predictive_values((231, 258), (54, 86), [258 / 344, 0.25]).set_index("prevalence").map(float).round(2)
    assert table.iloc[0].tolist() == [0.88, 0.67]
    assert table.iloc[1].tolist() == [0.45, 0.95]


def test_predictive_values_have_limits_even_without_a_mistake_and_none_where_nobody_is_called():
    found = cal.predictive_values((9, 9), (12, 12), [0.1])
    assert found.at[0, "PPV"].value == 1 and 0.1 < found.at[0, "PPV"].low < 0.5
    assert cal.predictive_values((0, 9), (12, 12), [0.1]).at[0, "PPV"].method == cal.NO_CALL
    assert cal.predictive_values((0, 0), (12, 12), [0.1]).at[0, "NPV"].method == cal.ONE_CLASS


@pytest.mark.parametrize(
    ("labels", "logits", "why"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], cal.ONE_CLASS),
        ([0, 1, 0, 1], [2.0, 2.0, 2.0, 2.0], cal.CONSTANT),
        ([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0], cal.SEPARATED),
        ([1, 1, 0, 0], [1.0, 2.0, 2.0, 4.0], cal.SEPARATED),
        ([1, 0], [np.nan, 0.3], cal.ONE_CLASS),
        ([], [], cal.ONE_CLASS),
    ],
)
def test_scores_that_no_slope_can_be_fitted_to_say_why(labels, logits, why):
    found = cal.recalibration(labels, logits)
    assert (found.slope.method, found.intercept.method) == (why, why)
    assert np.isnan(found([0.0])).all()


def test_probabilities_that_are_0_or_1_give_no_intercept():
    assert cal.calibration_intercept([0, 1] * 6, [-900.0, 900.0, 900.0, -900.0] * 3).method == cal.SATURATED


def test_a_missing_score_counts_in_nothing():
    labels, logits = np.append(LABELS, 1), np.append(LOGITS, np.nan)
    pd.testing.assert_frame_equal(cal.curve(labels, logits), cal.curve(LABELS, LOGITS))
    for made in (cal.brier, cal.calibration_intercept):
        found = made(labels, logits)
        assert isinstance(found, Estimate) and found == made(LABELS, LOGITS)
    assert cal.net_benefit(labels, logits, [0.5]).equals(cal.net_benefit(LABELS, LOGITS, [0.5]))
