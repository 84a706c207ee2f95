"""AUCs, their differences, thresholds, log loss and rank correlation against an outside reference, which the test names."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import sklearn.metrics
import statsmodels.stats.meta_analysis

from covid3d.run.errors import Covid3DError
from covid3d.stats import auc
from covid3d.stats.proportions import wilson

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
    assert auc.auc_value(LABELS, SCORES) == pytest.approx(sklearn.metrics.roc_auc_score(LABELS, SCORES), abs=1e-12)


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
        auc.auc_value(labels, scores)


def test_delong_standard_error_equals_the_definition_over_all_pairs() -> None:
    of_positive, of_negative = components(SCORES)
    wanted = math.sqrt(of_positive.var(ddof=1) / 20 + of_negative.var(ddof=1) / 15)
    assert auc.delong_standard_error(LABELS, SCORES) == pytest.approx(wanted, abs=1e-12)


def test_delong_interval_equals_the_example_of_the_package_pauc() -> None:
    truth = [0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1]
    predicted = [0.1, 0.35, 0.24, 0.8, 0.2, 0.85, 0.13, 0.85, 0.74, 0.58, 0.71, 0.25]
    found = auc.delong_interval(truth, predicted)
    assert [round(value, 3) for value in (found.value, found.low, found.high)] == [0.708, 0.378, 1.0]


def test_logit_delong_is_the_delta_method_on_the_logit_scale() -> None:
    value, error = auc.auc_value(LABELS, SCORES), auc.delong_standard_error(LABELS, SCORES)
    half = scipy.stats.norm.ppf(0.975) * error / (value * (1 - value))
    wanted = scipy.special.expit(scipy.special.logit(value) + np.array([-half, half]))
    found = auc.logit_delong_interval(LABELS, SCORES)
    assert (found.low, found.high) == pytest.approx(wanted)


def test_paired_delong_equals_the_covariance_form_of_the_1988_paper() -> None:
    (p1, n1), (p2, n2) = components(SCORES), components(OTHER)
    covariance = np.cov(p1, p2) / 20 + np.cov(n1, n2) / 15
    contrast = np.array([1, -1])
    z = (p1.mean() - p2.mean()) / math.sqrt(contrast @ covariance @ contrast)
    found, p = auc.paired_delong(LABELS, SCORES, OTHER)
    assert found.value == pytest.approx(p1.mean() - p2.mean())
    assert p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    assert (found.low > 0 or found.high < 0) == (p < 0.05)


def test_paired_delong_without_spread_claims_nothing() -> None:
    same, p = auc.paired_delong(LABELS, SCORES, SCORES * 2)
    assert (same.value, p) == (0, 1) and str(same) == "0.000 (no interval: the ranks are equal)"
    perfect, p = auc.paired_delong(LABELS, LABELS, np.zeros(35))
    assert (perfect.value, perfect.low, perfect.high, p) == (0.5, -1, 1, 1)


def test_newcombe_limits_solve_the_score_equation() -> None:
    found = auc.newcombe_interval(0.84, 12, 9)
    for limit in (found.low, found.high):
        size = (12 + 9) / 2 - 1
        spread = limit * (1 - limit) / 108 * (1 + size * ((1 - limit) / (2 - limit) + limit / (1 + limit)))
        assert (0.84 - limit) ** 2 == pytest.approx(scipy.stats.norm.ppf(0.975) ** 2 * spread, rel=1e-6)
    mirrored = auc.newcombe_interval(0.16, 12, 9)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_a_better_score_never_gets_a_lower_limit() -> None:
    """12 and 9 cases parted without a mistake, then with one, two, … pairs in the wrong order, down to none in the right one."""
    labels, found = np.repeat([1, 0], [12, 9]), []
    for wrong in range(109):
        first, moved = divmod(wrong, 9)
        scores = np.concatenate([np.where(np.arange(12) < first, 0.0, 20.0), np.arange(1.0, 10)])
        scores[min(first, 11)] = 9.5 - moved if first < 12 else 0.0
        found.append(auc.auc(labels, scores))
        assert round(108 * found[-1].value) == 108 - wrong
    assert {one.method for one in found} == {"Newcombe 5"}
    assert (np.diff([one.low for one in found]) <= 0).all() and (np.diff([one.high for one in found]) <= 0).all()
    assert found[0].high == 1 and found[0].low == pytest.approx(0.806, abs=5e-4), "auRoc, 12 and 9 cases, AUC 1"
    assert (found[-1].low, found[-1].high) == pytest.approx((0, 1 - found[0].low))


def test_equal_scores_of_all_cases_have_the_interval_of_chance() -> None:
    found = auc.auc([1] * 20 + [0] * 20, [0.0] * 40)
    assert found.value == 0.5 and found.low == pytest.approx(1 - found.high) and 0.3 < found.low < 0.4


def test_one_case_of_a_class_has_no_delong_variance_and_no_p() -> None:
    """pROC gives NA; half of the variance would make a p of 0.011 from one patient."""
    labels, a, b = [1] + [0] * 9, [5, 1, 2, 3, 4, 6, 7, 8, 9, 0], [9, 1, 2, 3, 4, 6, 7, 8, 5, 0]
    found, p = auc.paired_delong(labels, a, b)
    assert found.value == pytest.approx(-4 / 9) and not found.has_limits and math.isnan(p)
    for interval in (auc.delong_interval, auc.logit_delong_interval):
        assert str(interval(labels, a)) == "0.556 (no interval: one case of a class)"
    assert auc.pooled_delong([(labels, a, b), (LABELS, SCORES, OTHER)]).estimate.method.endswith("1 of 2 sites")
    assert auc.auc(labels, a).has_limits


def test_hanley_mcneil_standard_error_of_the_1982_paper() -> None:
    # Hanley & McNeil 1982: 58 normal and 51 abnormal CT readings, area 0.893, standard error 0.032
    assert auc.hanley_mcneil_standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=6e-4)


def test_inverse_variance_pool_equals_statsmodels() -> None:
    values, errors = [0.13, 0.15, 0.02], [0.09, 0.12, 0.05]
    reference = statsmodels.stats.meta_analysis.combine_effects(
        np.array(values), np.square(errors), method_re="iterated"
    )
    found, p = auc.pool_inverse_variance(values, errors)
    assert found.value == pytest.approx(reference.mean_effect_fe)
    error = reference.sd_eff_w_fe
    assert (found.low, found.high) == pytest.approx((found.value - 1.959964 * error, found.value + 1.959964 * error))
    assert p == pytest.approx(2 * scipy.stats.norm.sf(found.value / error))


def test_a_site_without_spread_is_left_out_of_the_pool_by_name() -> None:
    found, _ = auc.pool_inverse_variance([0.5, 0.1], [0.0, 0.1])
    assert (found.value, found.method) == (pytest.approx(0.1), "inverse variance, 1 of 2 sites")
    assert auc.pool_inverse_variance([0.5], [0.0]).p == 1


def test_youden_threshold_reaches_the_maximum_of_scikit_learns_curve() -> None:
    false_positive, true_positive, _ = sklearn.metrics.roc_curve(LABELS, SCORES)
    called = auc.youden_threshold(LABELS, SCORES) <= SCORES
    assert called[LABELS == 1].mean() - called[LABELS == 0].mean() == pytest.approx(
        (true_positive - false_positive).max()
    )


def test_youden_threshold_lies_midway_and_prefers_balance() -> None:
    assert auc.youden_threshold([0, 0, 1, 1], [0.0, 1.0, 3.0, 4.0]) == 2.0
    # J = 1/2 at 0.5 (sensitivity 1, specificity 1/2), at 2.5 (1/2, 1), and nowhere more
    assert auc.youden_threshold([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0]) == 0.5


def test_roc_spans_both_corners() -> None:
    cuts, sensitivity, specificity = auc.roc(LABELS, SCORES)
    assert (sensitivity[0], specificity[0], sensitivity[-1], specificity[-1]) == (1, 0, 0, 1)
    assert scipy.integrate.trapezoid(sensitivity, specificity) == pytest.approx(auc.auc_value(LABELS, SCORES))
    assert np.isfinite(cuts).all()


def test_mean_interval_equals_scipys_t() -> None:
    values = [0.9, 0.95, 0.88, 0.99]
    reference = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    found, single = auc.mean_interval(values), auc.mean_interval([0.7])
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    narrow, reference = auc.mean_interval(values, 0.9), scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (narrow.low, narrow.high) == pytest.approx((reference.low, reference.high))
    assert single.value == 0.7 and not single.has_limits
    assert auc.mean_interval([*values, math.nan]) == found and not auc.mean_interval([math.nan]).known


def test_folds_without_a_mistake_have_no_interval_that_looks_certain() -> None:
    table = pd.DataFrame({"fold": np.repeat(range(10), 4), "label": [0, 0, 1, 1] * 10, "logit": [0.0, 1, 2, 3] * 10})
    for found in (auc.mean_fold_auc(table), auc.bootstrap_mean_auc(table, 99, seed=1), auc.mean_interval([0.7] * 3)):
        assert not found.has_limits and "no interval" in str(found)
    assert auc.mean_fold_auc(table).value == 1
    labels, scores = np.repeat([1, 0], 10), np.r_[np.arange(10.0) + 4, np.arange(10.0)]
    difference, p = auc.external_internal_difference(table, labels, scores)
    assert str(difference) == "-0.180 (no interval: the folds do not vary)" and math.isnan(p)


def test_folds_of_one_class_count_in_no_mean() -> None:
    table = pd.DataFrame({"fold": [0, 0, 0, 0, 1, 1], "label": [0, 1, 0, 1, 1, 1], "logit": [0.0, 1, 2, 3, 4, 5]})
    assert auc.bootstrap_mean_auc(table, 99, seed=1).value == 0.75
    assert not auc.bootstrap_mean_auc(table[table["fold"] == 1], 99, seed=1).known


def test_spearman_equals_scipy_with_the_interval_of_bonett_and_wright() -> None:
    x, y = np.arange(28.0), np.random.default_rng(5).normal(np.arange(28), 14)
    found, p = auc.spearman(x, y)
    reference = scipy.stats.spearmanr(x, y)
    assert (found.value, p) == pytest.approx((reference.statistic, reference.pvalue))
    error = math.sqrt((1 + found.value**2 / 2) / 25)
    assert np.arctanh([found.low, found.high]) == pytest.approx(
        np.arctanh(found.value) + 1.959964 * error * np.array([-1, 1])
    )
    few = auc.spearman([1, 2, 3], [1, 2, 3])
    assert not few.estimate.known and math.isnan(few.p)


def test_a_perfect_order_of_four_pairs_proves_nothing() -> None:
    """R: cor.test(1:4, 1:4, method = "spearman") gives p = 0.083, twice one order in 24."""
    found, p = auc.spearman([1, 2, 3, 4, math.nan], [2, 4, 6, 8, 10])
    assert found.value == 1 and not found.has_limits and p == pytest.approx(2 / 24)
    assert auc.spearman([1, 2, 3, 4], [4, 3, 2, 1]).p == pytest.approx(2 / 24)
    assert auc.spearman(range(12), range(12)).p == pytest.approx(2 / math.factorial(12)), "never 0"


def test_tied_ranks_are_tested_over_all_orders_as_scipy_counts_them() -> None:
    x, y = np.array([1, 1, 2, 3, 4, 4.0]), np.array([2, 1, 1, 3, 5, 4.0])
    reference = scipy.stats.permutation_test(
        (x,),
        lambda shuffled: scipy.stats.spearmanr(shuffled, y).statistic,
        permutation_type="pairings",
        n_resamples=np.inf,
    )
    assert auc.spearman(x, y).p == pytest.approx(reference.pvalue)


def test_log_loss_equals_scikit_learn_and_survives_large_logits() -> None:
    assert auc.log_loss(LABELS, SCORES) == pytest.approx(sklearn.metrics.log_loss(LABELS, scipy.special.expit(SCORES)))
    assert auc.log_loss([1, 0], [-1000, -1000]) == pytest.approx(500)


def test_the_pooled_difference_is_an_inverse_variance_mean_of_sites_never_one_roc():
    rng = np.random.default_rng(1)
    sites = []
    for shift, count in ((0.0, 40), (10.0, 20)):  # a site's own offset must not matter
        labels = pd.Series(np.arange(count) % 2)
        sites.append((labels, labels + rng.normal(shift, 1, count), labels + rng.normal(shift, 2, count)))
    found = auc.pooled_delong(sites)
    each = [auc.paired_delong(y.to_numpy(), a.to_numpy(), b.to_numpy()).estimate for y, a, b in sites]
    weights = [1 / ((one.high - one.low) / 2 / scipy.stats.norm.ppf(0.975)) ** 2 for one in each]
    assert found.estimate.value == pytest.approx(np.average([one.value for one in each], weights=weights))
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(abs(found.estimate.value) * np.sqrt(sum(weights))))


FOLDS = pd.DataFrame({"fold": np.repeat(range(6), 6), "label": [0, 0, 0, 1, 1, 1] * 6})
FOLDS["logit"] = [1, 2, 3, 4, 5, 6, 1, 2, 4, 3, 5, 6] * 3  # fold AUCs 1 and 8/9, three times each


def test_the_external_internal_difference_is_mover_of_scipys_t_and_newcombe() -> None:
    """Zou & Donner, Stat Med 2008: from an estimate to each limit goes the root of the two squared distances."""
    folds = np.array([1, 8 / 9] * 3)
    labels, scores = [1] * 12 + [0] * 9, [*np.arange(11) + 9.5, 3.5, *np.arange(9.0)]
    found, p = auc.external_internal_difference(FOLDS, labels, scores)
    outside, inside = auc.auc(labels, scores), scipy.stats.ttest_1samp(folds, 0).confidence_interval()
    assert found.value == pytest.approx(103 / 108 - folds.mean())
    low = np.hypot(outside.value - outside.low, inside.high - folds.mean())
    high = np.hypot(outside.high - outside.value, folds.mean() - inside.low)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((low, high))
    ends = auc.newcombe_interval(outside.value, 12, 9, 1 - p), auc.mean_interval(folds, 1 - p)
    assert auc.mover(*ends).low == pytest.approx(0, abs=1e-9), "p is the level at which the interval ends at 0"
    drop, p = auc.external_internal_difference(FOLDS, labels, np.negative(scores))
    assert drop.high < 0 and p < 0.001


def test_mover_of_two_proportions_is_newcombes_method_10() -> None:
    """Newcombe, Stat Med 1998 (part 2), table II, 56/70 and 48/80: 0.0524 to 0.3339, from Wilson's limits of both."""
    found = auc.mover(wilson(56, 70), wilson(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_hospital_parted_without_a_mistake_is_not_taken_for_certain() -> None:
    """Folds of 0.84 and 12 + 9 cases with AUC 1, whose own interval holds 0.84: the difference may be chance."""
    rng = np.random.default_rng(3)
    logits = [rng.normal(np.repeat([1.5, 0], 8)) for _ in range(10)]
    inside = pd.DataFrame({"fold": np.repeat(range(10), 16), "label": np.tile(np.repeat([1, 0], 8), 10)})
    inside["logit"] = np.concatenate(logits)
    found, p = auc.external_internal_difference(inside, np.repeat([1, 0], [12, 9]), np.arange(21, 0, -1.0))
    assert found.value == pytest.approx(0.156, abs=1e-3)
    assert found.low < 0 < found.high and p == pytest.approx(0.099, abs=5e-4)


def test_folds_that_differ_by_rounding_alone_give_no_interval() -> None:
    fold = pd.DataFrame({"label": [1, 0] * 7, "logit": np.r_[np.arange(13.0), 0.5]})
    inside = pd.concat([fold.assign(fold=number) for number in range(5)])
    values = np.array([0.7244897959183672, *[0.7244897959183673] * 4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auc, "fold_aucs", lambda _: values)
        found, p = auc.external_internal_difference(inside, [1, 1, 1, 0, 0, 0], [3.0, 2.0, 1.0, 2.5, 0.5, 0.0])
    assert not found.has_limits and "the folds do not vary" in found.method and np.isnan(p)


@pytest.mark.parametrize(("positives", "negatives"), [(20, 20), (12, 9)])
def test_null_world_external_minus_internal_keeps_its_level(positives, negatives) -> None:
    """400 replicates of ten folds and an external hospital with one and the same true AUC of .89: at most 32 rejections."""
    rng, rejected = np.random.default_rng(23), 0
    shift = math.sqrt(2) * scipy.stats.norm.ppf(0.89)
    inside = pd.DataFrame({"fold": np.repeat(range(10), 16), "label": np.tile(np.repeat([1, 0], 8), 10)})
    labels = np.repeat([1, 0], [positives, negatives])
    for _ in range(400):
        inside["logit"] = shift * inside["label"] + rng.normal(size=160)
        outside = shift * labels + rng.normal(size=positives + negatives)
        rejected += int(auc.external_internal_difference(inside, labels, outside).p < 0.05)
    assert rejected <= 32


@pytest.mark.parametrize(("positives", "negatives"), [(20, 20), (12, 9)])
def test_null_world_an_external_auc_rarely_claims_more_or_less_than_chance(positives, negatives):
    """400 permutations of the labels over fixed scores: at most 32 intervals without 0.5."""
    rng, claimed = np.random.default_rng(22), 0
    scores = pd.Series(rng.normal(size=positives + negatives))
    for _ in range(400):
        labels = pd.Series(rng.permutation(np.repeat([1, 0], [positives, negatives])))
        found = auc.auc(labels, scores)
        claimed += int(not found.low <= 0.5 <= found.high)
    assert claimed <= 32


def test_what_one_class_or_a_missing_score_leaves_out_is_not_available():
    assert str(auc.auc([1, 1], [0.1, 0.2])) == "not available (one class only)"
    assert np.isnan(auc.youden_threshold([1, 1], [0.1, 0.2]))
    for labels, scores in (([1, 1], [0.1, 0.2]), ([1, 0], [0.1, None])):
        pair, pooled = auc.paired_delong(labels, scores, [0.1, 0.2]), auc.pooled_delong([(labels, scores, scores)])
        assert not pair.estimate.known and np.isnan(pair.p) and not pooled.estimate.known
    assert not auc.pooled_delong([]).estimate.known


def test_rows_without_label_or_score_are_left_out_of_an_auc() -> None:
    labels = pd.Series([pd.NA, 1, *LABELS], dtype="Int64")
    scores = pd.Series([0.5, np.nan, *SCORES])
    assert auc.auc(labels, scores) == auc.auc(LABELS, SCORES)
    assert auc.youden_threshold(labels, scores) == auc.youden_threshold(LABELS, SCORES)
    with pytest.raises(Covid3DError, match="do not match"):
        auc.auc(LABELS, SCORES[:-1])


def test_the_mean_fold_auc_needs_two_folds_for_an_interval() -> None:
    table = pd.DataFrame({"fold": [0, 0, 1, 1], "label": [0, 1, 1, 1], "logit": [0.0, 1.0, 2.0, 3.0]})
    one = auc.mean_fold_auc(table)
    assert one.value == 1 and not one.has_limits
    assert not auc.mean_fold_auc(table[table["fold"] == 1]).known


def test_bootstrap_of_the_mean_auc_equals_resampling_by_hand():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 20)
    scores = pd.DataFrame({"fold": np.repeat([0, 1], 20), "label": labels, "logit": rng.normal(labels, 1.0)})
    found = auc.bootstrap_mean_auc(scores, 4000, seed=1)
    folds = [
        [part.loc[part["label"] == label, "logit"].to_numpy() for label in (0, 1)] for _, part in scores.groupby("fold")
    ]
    draws = [
        np.mean(
            [np.greater.outer(*(rng.choice(side, len(side)) for side in (one, zero))).mean() for zero, one in folds]
        )
        for _ in range(3000)
    ]
    assert found.value == pytest.approx(
        np.mean([sklearn.metrics.roc_auc_score(part["label"], part["logit"]) for _, part in scores.groupby("fold")])
    )
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
