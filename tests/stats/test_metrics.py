"""Each statistic against an outside reference, which the test's name or comment gives."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import statsmodels.stats.contingency_tables
import statsmodels.stats.inter_rater
import statsmodels.stats.meta_analysis
import statsmodels.stats.proportion

from covid3d.run.errors import Covid3DError
from covid3d.stats import metrics

GENERATOR = np.random.default_rng(20)
LABELS = np.array([1] * 20 + [0] * 15)
SCORES = np.round(GENERATOR.normal(LABELS, 1.2), 1)
OTHER = np.round(0.6 * SCORES + GENERATOR.normal(0, 0.8, 35), 1)


def components(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return DeLong's structural components by their definition, a comparison of every pair."""
    positive, negative = scores[LABELS == 1], scores[LABELS == 0]
    kernel = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negative] for x in positive])
    return kernel.mean(axis=1), kernel.mean(axis=0)


def test_auc_with_ties_equals_scikit_learn() -> None:
    assert len(np.unique(SCORES)) < 35, "the scores hold ties"
    assert metrics.auc(LABELS, SCORES) == pytest.approx(sklearn.metrics.roc_auc_score(LABELS, SCORES), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "said"),
    [
        ([1, 1], [0.1, 0.2], "label 1 and cases with label 0"),
        ([1, 2], [0.1, 0.2], "label 1 and cases with label 0"),
        ([1, 0], [0.1, math.nan], "not a finite number"),
        ([1, 0], [0.1], "do not match"),
    ],
)
def test_an_auc_that_does_not_exist_is_refused(labels, scores, said: str) -> None:
    with pytest.raises(Covid3DError, match=said):
        metrics.auc(labels, scores)


def test_delong_standard_error_equals_the_definition_over_all_pairs() -> None:
    of_positive, of_negative = components(SCORES)
    wanted = math.sqrt(of_positive.var(ddof=1) / 20 + of_negative.var(ddof=1) / 15)
    assert metrics.delong_standard_error(LABELS, SCORES) == pytest.approx(wanted, abs=1e-12)


def test_delong_interval_equals_the_example_of_the_package_pauc() -> None:
    truth = [0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1]
    predicted = [0.1, 0.35, 0.24, 0.8, 0.2, 0.85, 0.13, 0.85, 0.74, 0.58, 0.71, 0.25]
    found = metrics.delong_interval(truth, predicted)
    assert [round(value, 3) for value in found[:3]] == [0.708, 0.378, 1.0]


def test_logit_delong_is_the_delta_method_on_the_logit_scale() -> None:
    value, error = metrics.auc(LABELS, SCORES), metrics.delong_standard_error(LABELS, SCORES)
    half = scipy.stats.norm.ppf(0.975) * error / (value * (1 - value))
    wanted = scipy.special.expit(scipy.special.logit(value) + np.array([-half, half]))
    assert metrics.logit_delong_interval(LABELS, SCORES)[1:3] == pytest.approx(wanted)


def test_paired_delong_equals_the_covariance_form_of_the_1988_paper() -> None:
    (p1, n1), (p2, n2) = components(SCORES), components(OTHER)
    covariance = np.cov(p1, p2) / 20 + np.cov(n1, n2) / 15
    contrast = np.array([1, -1])
    z = (p1.mean() - p2.mean()) / math.sqrt(contrast @ covariance @ contrast)
    found, p = metrics.paired_delong(LABELS, SCORES, OTHER)
    assert found.value == pytest.approx(p1.mean() - p2.mean())
    assert p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    assert (found.low > 0 or found.high < 0) == (p < 0.05)


def test_paired_delong_without_spread_claims_nothing() -> None:
    same, p = metrics.paired_delong(LABELS, SCORES, SCORES * 2)
    assert (same.value, same.low, same.high, p) == (0, 0, 0, 1)
    perfect, p = metrics.paired_delong(LABELS, LABELS, np.zeros(35))
    assert (perfect.value, perfect.low, perfect.high, p) == (0.5, -1, 1, 1)


def test_newcombe_limits_solve_the_score_equation() -> None:
    found = metrics.newcombe_interval(0.84, 12, 9)
    for limit in (found.low, found.high):
        size = (12 + 9) / 2 - 1
        spread = limit * (1 - limit) / 108 * (1 + size * ((1 - limit) / (2 - limit) + limit / (1 + limit)))
        assert (0.84 - limit) ** 2 == pytest.approx(scipy.stats.norm.ppf(0.975) ** 2 * spread, rel=1e-6)
    mirrored = metrics.newcombe_interval(0.16, 12, 9)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_recommended_interval_falls_back_by_name_at_perfect_separation() -> None:
    ordinary = metrics.auc_interval(LABELS, SCORES)
    assert ordinary == metrics.logit_delong_interval(LABELS, SCORES)
    perfect = metrics.auc_interval([1] * 12 + [0] * 9, range(21, 0, -1))
    assert perfect.method == "Newcombe 5 (perfect separation)"
    assert perfect.value == perfect.high == 1
    assert 0.7 < perfect.low < 0.95
    reversed_scores = metrics.auc_interval([1] * 12 + [0] * 9, range(21))
    assert (reversed_scores.value, reversed_scores.low) == (0, 0)
    assert reversed_scores.high == pytest.approx(1 - perfect.low)


def test_bootstrap_resamples_within_classes_as_scipy_does() -> None:
    found = metrics.bootstrap_auc(LABELS, SCORES, replicates=4000, seed=3)
    reference = scipy.stats.bootstrap(
        (SCORES[LABELS == 1], SCORES[LABELS == 0]),
        lambda x, y: (x[:, None] > y).mean() + 0.5 * (x[:, None] == y).mean(),
        n_resamples=4000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert found.value == pytest.approx(metrics.auc(LABELS, SCORES))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.015)
    assert found == metrics.bootstrap_auc(LABELS, SCORES, replicates=4000, seed=3)


def test_hanley_mcneil_standard_error_of_the_1982_paper() -> None:
    # Hanley & McNeil 1982: 58 normal and 51 abnormal CT readings, area 0.893, standard error 0.032
    assert metrics.hanley_mcneil_standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=6e-4)


def test_inverse_variance_pool_equals_statsmodels() -> None:
    values, errors = [0.13, 0.15, 0.02], [0.09, 0.12, 0.05]
    reference = statsmodels.stats.meta_analysis.combine_effects(
        np.array(values), np.square(errors), method_re="iterated"
    )
    found, p = metrics.pool_inverse_variance(values, errors)
    assert found.value == pytest.approx(reference.mean_effect_fe)
    error = reference.sd_eff_w_fe
    assert (found.low, found.high) == pytest.approx((found.value - 1.959964 * error, found.value + 1.959964 * error))
    assert p == pytest.approx(2 * scipy.stats.norm.sf(found.value / error))


def test_a_site_without_spread_is_left_out_of_the_pool_by_name() -> None:
    found, _ = metrics.pool_inverse_variance([0.5, 0.1], [0.0, 0.1])
    assert (found.value, found.method) == (pytest.approx(0.1), "inverse variance, 1 of 2 sites")
    assert metrics.pool_inverse_variance([0.5], [0.0]).p == 1


@pytest.mark.parametrize(("k", "n"), [(0, 9), (9, 9), (8, 12), (17, 20), (1, 400)])
@pytest.mark.parametrize(("function", "name"), [(metrics.wilson, "wilson"), (metrics.clopper_pearson, "beta")])
def test_intervals_of_proportions_equal_statsmodels(k: int, n: int, function, name: str) -> None:
    low, high = statsmodels.stats.proportion.proportion_confint(k, n, method=name)
    found = function(k, n)
    assert (found.value, found.low, found.high) == pytest.approx((k / n, low, high), abs=1e-10)


def test_wilson_of_newcombe_1998() -> None:
    # Newcombe, Stat Med 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662
    assert metrics.wilson(81, 263)[1:3] == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_youden_threshold_reaches_the_maximum_of_scikit_learns_curve() -> None:
    false_positive, true_positive, _ = sklearn.metrics.roc_curve(LABELS, SCORES)
    called = metrics.youden_threshold(LABELS, SCORES) <= SCORES
    assert called[LABELS == 1].mean() - called[LABELS == 0].mean() == pytest.approx(
        (true_positive - false_positive).max()
    )


def test_youden_threshold_lies_midway_and_prefers_balance() -> None:
    assert metrics.youden_threshold([0, 0, 1, 1], [0.0, 1.0, 3.0, 4.0]) == 2.0
    # J = 1/2 at 0.5 (sensitivity 1, specificity 1/2), at 2.5 (1/2, 1), and nowhere more
    assert metrics.youden_threshold([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0]) == 0.5


def test_roc_spans_both_corners() -> None:
    cuts, sensitivity, specificity = metrics.roc(LABELS, SCORES)
    assert (sensitivity[0], specificity[0], sensitivity[-1], specificity[-1]) == (1, 0, 0, 1)
    assert scipy.integrate.trapezoid(sensitivity, specificity) == pytest.approx(metrics.auc(LABELS, SCORES))
    assert np.isfinite(cuts).all()


def test_kappa_and_its_interval_equal_statsmodels() -> None:
    a, b = np.repeat([1, 1, 0, 0], [11, 4, 2, 13]), np.repeat([1, 0, 1, 0], [11, 4, 2, 13])
    reference = statsmodels.stats.inter_rater.cohens_kappa([[13, 2], [4, 11]])
    found = metrics.kappa(a, b)
    assert (found.value, found.low, found.high) == pytest.approx(
        (reference.kappa, reference.kappa_low, reference.kappa_upp), abs=1e-9
    )
    assert math.isnan(metrics.kappa([1, 1], [1, 1]).value)


@pytest.mark.parametrize(("a", "b", "value"), [([1, 1, 1, 1], [1, 1, 0, 0], 0.0), ([1, 0, 1, 0], [1, 0, 1, 0], 1.0)])
def test_kappa_without_a_standard_error_has_no_limits_that_look_certain(a, b, value) -> None:
    found = metrics.kappa(a, b)
    assert found.value == value
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(("b", "c"), [(5, 0), (0, 5), (7, 3), (4, 4), (0, 0)])
def test_mcnemar_exact_equals_statsmodels(b: int, c: int) -> None:
    reference = statsmodels.stats.contingency_tables.mcnemar([[3, b], [c, 3]], exact=True).pvalue if b + c else 1.0
    assert metrics.mcnemar_exact(b, c) == pytest.approx(reference)


def test_tango_statistic_at_zero_is_mcnemars_z() -> None:
    assert metrics.tango_z(7, 2, 30, 0.0) == pytest.approx((7 - 2) / 3)


def test_tango_nuisance_share_maximises_the_likelihood_found_by_scipy() -> None:
    b, c, n, difference = 7, 2, 30, 0.1

    def minus_log_likelihood(q: float) -> float:
        p = q + difference
        return -(b * math.log(p) + c * math.log(q) + (n - b - c) * math.log(1 - p - q))

    q = scipy.optimize.minimize_scalar(
        minus_log_likelihood, bounds=(1e-9, (1 - difference) / 2 - 1e-9), method="bounded"
    ).x
    wanted = (b - c - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference)))
    assert metrics.tango_z(b, c, n, difference) == pytest.approx(wanted, rel=1e-4)


def test_tango_interval_of_the_airway_example() -> None:
    # Fagerland, Lydersen & Laake, Stat Med 2014: Bentur's data, table (1, 1; 7, 12), 95 % CI -0.517 to -0.026
    found = metrics.paired_difference(1, 7, 21)
    assert (found.value, found.low, found.high) == pytest.approx((-0.286, -0.517, -0.026), abs=6e-4)


def test_tango_interval_of_perfect_agreement_has_a_width() -> None:
    found = metrics.paired_difference(0, 0, 20)
    z = scipy.stats.norm.ppf(0.975)
    assert found.high == pytest.approx(z**2 / (20 + z**2))  # n d / sqrt(n d (1 - d)) = z, solved by hand
    assert found.low == pytest.approx(-found.high)
    assert metrics.paired_difference(20, 0, 20)[0::2] == (1.0, 1.0)


def test_equivalence_needs_the_90_percent_interval_inside_the_margin() -> None:
    for b, c, n in [(3, 2, 20), (3, 2, 200), (0, 0, 20), (0, 0, 40), (9, 1, 300)]:
        found = metrics.tost_paired_proportions(b, c, n, 0.1)
        inside = found.interval_90.low > -0.1 and found.interval_90.high < 0.1
        assert found.equivalent == inside


@pytest.mark.parametrize(("n", "p"), [(9, 0.1587), (12, 0.1241), (20, 0.0680)])
def test_the_papers_samples_cannot_show_equivalence_within_10_points(n: int, p: float) -> None:
    # by hand for perfect agreement: z = sqrt(n d / (1 - d)) with d = 0.1; normal table for p
    found = metrics.tost_paired_proportions(0, 0, n, 0.1)
    assert found.best_p == pytest.approx(p, abs=1e-4)
    assert not found.equivalent


def test_mean_interval_equals_scipys_t() -> None:
    values = [0.9, 0.95, 0.88, 0.99]
    reference = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert metrics.mean_interval(values)[1:3] == pytest.approx((reference.low, reference.high))
    assert metrics.mean_interval([0.7])[:3] == (0.7, 0.7, 0.7)


def test_spearman_equals_scipy_with_the_interval_of_bonett_and_wright() -> None:
    x, y = np.arange(28.0), np.random.default_rng(5).normal(np.arange(28), 14)
    found, p = metrics.spearman(x, y)
    reference = scipy.stats.spearmanr(x, y)
    assert (found.value, p) == pytest.approx((reference.statistic, reference.pvalue))
    error = math.sqrt((1 + found.value**2 / 2) / 25)
    assert np.arctanh([found.low, found.high]) == pytest.approx(
        np.arctanh(found.value) + 1.959964 * error * np.array([-1, 1])
    )
    assert metrics.spearman([1, 2, 3], [1, 2, 3]).p == 1


def test_log_loss_equals_scikit_learn_and_survives_large_logits() -> None:
    assert metrics.log_loss(LABELS, SCORES) == pytest.approx(
        sklearn.metrics.log_loss(LABELS, scipy.special.expit(SCORES))
    )
    assert metrics.log_loss([1, 0], [-1000, -1000]) == pytest.approx(500)
