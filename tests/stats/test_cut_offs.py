"""The best of all cut-offs against lifelines, and in worlds without an effect."""

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from scipy.special import logit

from covid3d.stats import cut_offs, stays, survival


def test_the_best_cut_off_is_the_largest_log_rank_of_lifelines_over_all_that_leave_a_tenth():
    rng = np.random.default_rng(31)
    days, events, score = rng.integers(1, 12, 40).astype(float), rng.integers(0, 2, 40), rng.normal(size=40).round(1)
    found = cut_offs.best_cut(score, days, events)
    groups = [score >= cut for cut in np.unique(score) if 0.1 <= (score >= cut).mean() <= 0.9]
    each = [logrank_test(days[g], days[~g], events[g], events[~g]).test_statistic for g in groups]
    assert (found.chi_square, found.cuts) == (pytest.approx(max(each)), len(each))
    assert cut_offs.best_cut(days, days, np.ones(40)).z < 0, "high scores leave later"
    assert not cut_offs.best_cut(np.zeros(40), days, events).uncorrected.known
    sides = stays.at_cut(found, score, days, events)
    high = score >= logit(sides["best cut-off"]) - 1e-9
    assert (sides["at or above"], sides["below"]) == (high.sum(), (~high).sum())
    assert found.chi_square == pytest.approx(
        logrank_test(days[high], days[~high], events[high], events[~high]).test_statistic
    )
    assert sides["stay above"].value == KaplanMeierFitter().fit(days[high], events[high]).median_survival_time_
    nothing = stays.at_cut(cut_offs.best_cut(np.zeros(40), days, events), np.zeros(40), days, events)
    assert not nothing["stay below"].known and nothing["at or above"] == 0


def test_the_p_of_the_best_cut_off_keeps_its_level_where_the_uncorrected_one_does_not():
    """60 worlds without an effect, scores that no outcome reaches: about 3 may reject; the uncorrected p rejects a third."""
    rng, rejected = np.random.default_rng(32), np.zeros(2)
    for _ in range(60):
        days, events, score = rng.integers(1, 15, 40).astype(float), np.ones(40), rng.normal(size=40)
        orders = survival.permuted_orders(40, 99, rng)
        found = cut_offs.permuted(np.tile(score, (100, 1)), orders, days, events, score)
        rejected += found.p <= 0.05, cut_offs.best_cut(score, days, events).uncorrected.value <= 0.05
    assert rejected[0] <= 8 < 12 <= rejected[1]


def test_where_nobody_was_discharged_no_cut_off_is_the_best():
    days, score = np.arange(1.0, 21), np.arange(20.0)
    for events, stay in ((np.zeros(20), days), (np.ones(20), np.full(20, 3.0))):
        cut = cut_offs.best_cut(score, stay, events)
        assert cut.later == "not known" and not cut.uncorrected.known


def test_scores_that_are_missing_or_all_equal_have_no_best_cut_off():
    days, events = np.arange(1.0, 21), np.ones(20)
    for scores in (np.where(np.arange(20) < 5, np.nan, days), np.zeros(20)):
        cut = cut_offs.best_cut(scores, days, events)
        assert np.isnan(cut.chi_square) and cut.later == "not known" and not cut.uncorrected.known
