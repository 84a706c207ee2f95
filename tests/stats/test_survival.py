"""Survival functions against R's documentation, lifelines, scikit-learn and hand sums; more of R in test_against_r.py."""

import numpy as np
import pytest
from lifelines import AalenJohansenFitter
from lifelines.datasets import load_leukemia, load_lung
from lifelines.statistics import logrank_test
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit

from covid3d.stats import survival


@pytest.fixture(scope="module")
def lung():
    table = load_lung()[["time", "status", "sex"]].dropna()
    return table["time"], table["status"], table["sex"]


@pytest.fixture(scope="module")
def leukemia():
    table = load_leukemia()
    return table["t"], table["status"], table["Rx"]


def test_log_rank_of_lung_cancer_against_R(lung):
    """R: survdiff(Surv(time, status) ~ sex, lung) prints chisq = 10.3 on 1 df, p = 0.001; observed 112 and 53."""
    time, status, sex = lung
    found = survival.log_rank(time, status, sex == 2)
    assert found.chi_square == pytest.approx(10.3267, abs=1e-3)
    assert found.p == pytest.approx(0.00131, abs=1e-5)
    assert (found.n, found.events) == ((90, 138), (53, 112))
    assert found.z < 0, "women die less often, so fewer events than expected"


def test_log_rank_of_leukemia_against_the_textbook(leukemia):
    """Kleinbaum & Klein, remission times of Freireich et al.: chi-square 16.79, p < 0.0001."""
    found = survival.log_rank(*leukemia)
    assert found.chi_square == pytest.approx(16.79, abs=0.01)
    assert found.z > 0


def test_log_rank_equals_lifelines_on_tied_days():
    rng = np.random.default_rng(1)
    days, events, group = rng.integers(1, 9, 40), rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    expected = logrank_test(days[group == 1], days[group == 0], events[group == 1], events[group == 0])
    found = survival.log_rank(days, events, group)
    assert found.chi_square == pytest.approx(expected.test_statistic)
    assert found.p == pytest.approx(expected.p_value)
    rows = survival.log_rank_statistics(days, events, np.array([group == 1, group == 0, np.ones(40, bool)]))
    assert rows == pytest.approx([expected.test_statistic, expected.test_statistic, 0])


def test_kaplan_meier_of_leukemia_against_the_textbook(leukemia):
    """Collett, and Kleinbaum & Klein: 6-MP arm .857 .807 .753 .690 .627 .538 .448 at 6 7 10 13 16 22 23 weeks."""
    time, status, treatment = leukemia
    curve = survival.kaplan_meier(time[treatment == 0], status[treatment == 0]).set_index("day")
    found = curve.loc[[6, 7, 10, 13, 16, 22, 23], "still_in_hospital"]
    assert found.to_numpy() == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=5e-4)
    assert curve.loc[[6, 7, 10], "at_risk"].tolist() == [21, 17, 15]
    assert curve.iloc[0]["still_in_hospital"] == 1


def test_hazard_ratio_of_lung_cancer_against_R(lung):
    """R: coxph(Surv(time, status) ~ sex, lung) gives exp(coef) 0.5880, 95 % 0.4237 to 0.816, p 0.00149."""
    time, status, sex = lung
    found, p = survival.hazard_ratio(time, status, sex)
    assert found.value == pytest.approx(0.5880, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.4237, 0.8160), abs=1e-4)
    assert p == pytest.approx(0.00149, abs=1e-5)


def test_hazard_ratio_of_a_long_stay_is_below_one():
    days = np.array([2, 3, 4, 9, 5, 8, 9, 11, 12, 14])
    found = survival.hazard_ratio(days, np.ones(10), [0] * 5 + [1] * 5)
    assert 0 < found.estimate.value < 1


def test_clustering_widens_the_interval_of_repeated_rows():
    rng = np.random.default_rng(3)
    group = rng.integers(0, 2, 30)
    days = rng.exponential(5 + 4 * group) + 1
    alone = survival.hazard_ratio(days, np.ones(30), group).estimate
    repeated = [np.repeat(part, 3) for part in (days, np.ones(30), group, np.arange(30))]
    naive = survival.hazard_ratio(*repeated[:3]).estimate
    clustered = survival.hazard_ratio(*repeated[:3], cluster=repeated[3]).estimate
    assert np.log(naive.high / naive.low) < 0.75 * np.log(alone.high / alone.low)
    assert np.log(clustered.high / clustered.low) > 0.85 * np.log(alone.high / alone.low)


def test_clustered_ratios_of_separated_groups_are_not_available():
    """coxph warns "coefficient may be infinite" and still prints 4e-9 with p = 0 from the sandwich."""
    rng, none = np.random.default_rng(9), 0
    days, group, patient = np.arange(1, 21), np.arange(20) >= 10, np.arange(20) // 2
    assert not survival.hazard_ratio(days, np.ones(20), group, cluster=patient).estimate.known
    for _ in range(20):
        member = rng.integers(0, 2, 30)
        stays = rng.integers(1, 9, 30) + 10 * member
        found = survival.hazard_ratio(stays, np.ones(30), member, cluster=np.arange(30) // 2)
        none += int("separated" in found.estimate.method and np.isnan(found.p))
    assert none == 20


def test_separation_is_where_every_event_has_the_lowest_or_the_highest_value_at_risk():
    days, ones = [1, 2, 3, 4, 5, 6], np.ones(6)
    for group, said in (
        ([1, 1, 1, 0, 0, 0], "separated"),
        ([0, 0, 0, 1, 1, 1], "separated"),
        ([1, 1, 0, 1, 0, 0], ""),
        ([1.5, 1.2, 1.1, 0.9, 0.2, 0.1], "separated"),
        ([1.5, 1.2, 0.9, 1.1, 0.2, 0.1], ""),
    ):
        found = survival.hazard_ratio(days, ones, group).estimate
        assert said in found.method and found.known == (said == ""), group
    unseen = survival.hazard_ratio([1, 2, 3, 4], [0, 0, 1, 1], [1, 1, 0, 0]).estimate
    assert unseen.method == "no event while both groups are at risk"


def test_the_sandwich_needs_five_patients_in_each_group():
    """Of one patient against 48, with three rows each and no effect, coxph's sandwich rejects 78 % at 5 %."""
    rng, group = np.random.default_rng(10), np.arange(49) < 4
    rows = [np.repeat(part, 3) for part in (rng.exponential(6, 49), np.ones(49), group, np.arange(49))]
    few = survival.hazard_ratio(*rows[:3], cluster=rows[3])
    assert str(few.estimate).endswith("(no interval: a group of fewer than 5 patients)") and np.isnan(few.p)
    rows[2] = np.repeat(np.arange(49) < 5, 3)
    assert survival.hazard_ratio(*rows[:3], cluster=rows[3]).estimate.has_limits


def test_a_missing_value_leaves_its_row_out_of_a_clustered_ratio():
    rng = np.random.default_rng(11)
    days, group, patient = rng.integers(1, 15, 30), np.arange(30) % 2, np.repeat([f"P{n}" for n in range(15)], 2)
    whole = survival.hazard_ratio(days, np.ones(30), group, cluster=patient)
    longer = survival.hazard_ratio(
        [*days, None, 3, 4], np.ones(33), [*group, 1, None, 0], cluster=[*patient, "P0", "P1", None]
    )
    assert longer == whole


def test_the_dead_are_no_longer_in_hospital():
    """Five of ten die on day 3, five leave on day 10: one half is left between."""
    days, causes = np.array([3] * 5 + [10] * 5), np.array([2] * 5 + [1] * 5)
    curve = survival.kaplan_meier(days, causes > 0).set_index("day")["still_in_hospital"]
    assert curve.to_dict() == pytest.approx({0: 1, 3: 0.5, 10: 0})
    incidence = survival.aalen_johansen(days, causes).set_index("day")
    assert incidence["event_free"].to_dict() == {0: 1, 3: 0.5, 10: 0}
    assert incidence["cause_1"].tolist() == [0, 0, 0.5]


def test_grays_test_sees_what_the_log_rank_test_of_one_cause_cannot():
    """Both groups leave at the same rate while alive; in one of them half die early, so that fewer leave at all."""
    rng = np.random.default_rng(12)
    group = np.arange(400) % 2
    leaves, dies = rng.exponential(8, 400), np.where(group == 1, rng.exponential(8, 400), np.inf)
    days, causes = np.minimum(leaves, dies), np.where(leaves < dies, 1, 2)
    assert survival.log_rank(days, causes == 1, group).p > 0.05
    found = survival.gray(days, causes, group)
    assert found.p < 1e-4 and found.z < 0, "fewer of group 1 leave alive"


def test_grays_test_nearly_keeps_its_level_with_49_patients_whole_days_and_deaths():
    """Its level on tied days is 6.1 % (6,000 replicates, standard error 0.3 points): of 1,000 at most 83 reject."""
    rng, rejected = np.random.default_rng(13), 0
    for _ in range(1000):
        days, causes = np.ceil(rng.exponential(6, 49)), rng.choice([0, 1, 2], 49, p=[0.05, 0.75, 0.2])
        rejected += int(survival.gray(days, causes, rng.integers(0, 2, 49)).p <= 0.05)
    assert 40 <= rejected <= 83


def test_what_grays_test_cannot_judge_has_a_reason():
    assert "one group" in survival.gray([1, 2, 3], [1, 2, 1], [1, 1, 1]).reason
    assert "no event" in survival.gray([1, 2, 3], [2, 0, 2], [1, 0, 1]).reason


def test_incidences_leave_out_what_is_missing_and_have_each_day_once():
    found = survival.aalen_johansen([0, 0, 1, None, 2], [1, 0, 2, 1, np.nan])
    assert found["day"].tolist() == [0, 1] and found["at_risk"].tolist() == [3, 1]
    assert found["cause_1"].tolist() == pytest.approx([1 / 3, 1 / 3])
    for nobody in ([], [0, 0]):
        assert survival.aalen_johansen(nobody, nobody)["event_free"].tolist() == [1]


def test_aalen_johansen_by_hand():
    """Days 1, 2 (two events, one of each cause), 3 censored, 4: incidences 1/5, +4/5 x 1/4 each, +2/5 x 1."""
    table = survival.aalen_johansen([1, 2, 2, 3, 4], [1, 1, 2, 0, 1]).set_index("day")
    assert table["cause_1"].tolist() == pytest.approx([0, 0.2, 0.4, 0.8])
    assert table["cause_2"].tolist() == pytest.approx([0, 0, 0.2, 0.2])
    assert (table["event_free"] + table["cause_1"] + table["cause_2"]).to_numpy() == pytest.approx(np.ones(4))


def test_aalen_johansen_equals_lifelines_without_ties():
    rng = np.random.default_rng(4)
    days, causes = rng.permutation(50) + 1.0, rng.integers(0, 3, 50)
    expected = AalenJohansenFitter(calculate_variance=False).fit(days, causes, event_of_interest=2)
    found = survival.aalen_johansen(days, causes).set_index("day")["cause_2"]
    assert found.iloc[-1] == pytest.approx(expected.cumulative_density_.iloc[-1, 0])


def test_logistic_heads_equal_scikit_learn():
    rng = np.random.default_rng(5)
    inputs, train = rng.normal(size=(40, 6)), np.arange(40) < 30
    labels = (inputs[:, 0] + rng.normal(size=(3, 40)) > 0).astype(float)
    found = survival.logistic_heads(inputs, labels, train)
    for row, label in zip(found, labels, strict=True):
        expected = (
            LogisticRegression(class_weight="balanced", tol=1e-9)
            .fit(inputs[train], label[train])
            .decision_function(inputs)
        )
        assert row == pytest.approx(expected, abs=1e-3)
    constant = survival.logistic_heads(inputs, np.ones((1, 40)), train)
    assert (constant == 20).all()


def test_the_penalty_is_chosen_as_scikit_learn_chooses_it():
    """LogisticRegressionCV with the same folds: every fifth training row is one."""
    rng, penalties = np.random.default_rng(8), (100.0, 10.0, 1.0, 0.1)
    inputs, train = rng.normal(size=(60, 5)), np.arange(60) < 50
    strength = np.array([3.0, 1.0, 0.3, 0.0])[:, None]
    labels = (strength * inputs[:, 0] + rng.normal(size=(4, 60)) > 0).astype(float)
    found = survival.logistic_heads(inputs, labels, train, penalties)
    chosen = []
    for row, label in zip(found, labels, strict=True):
        model = LogisticRegressionCV(
            Cs=[1 / penalty for penalty in penalties],
            cv=PredefinedSplit(np.arange(50) % 5),
            scoring="neg_log_loss",
            class_weight="balanced",
            tol=1e-9,
            max_iter=1000,
        ).fit(inputs[train], label[train])
        chosen.append(float(model.C_[0]))
        assert row == pytest.approx(model.decision_function(inputs), abs=1e-3)
    assert len(set(chosen)) > 1, "a strong effect and noise ask for different penalties"


def test_scores_that_know_nothing_lie_at_chance_and_not_below():
    """Fitted to a fold's own share of the classes, pooled scores of nothing have an AUC below one half (Parker et al., 2007)."""
    rng, held = np.random.default_rng(9), np.arange(40) % 10
    plain, balanced = [], []
    for _ in range(100):
        inputs, label = rng.normal(size=(40, 2)), (rng.random(40) < 0.5).astype(float)
        found = survival.permuted_logits([inputs] * 10, held, label, np.arange(40)[None], (100.0,))[0]
        balanced.append(roc_auc_score(label, found))
        other = np.empty(40)
        for fold in range(10):
            model = LogisticRegression(C=0.01).fit(inputs[held != fold], label[held != fold])
            other[held == fold] = model.decision_function(inputs[held == fold])
        plain.append(roc_auc_score(label, other))
    assert np.mean(plain) < 0.4 < 0.45 < np.mean(balanced) < 0.55


def test_principal_components_never_see_the_held_out_rows():
    rng = np.random.default_rng(6)
    features, train = rng.normal(size=(20, 50)), np.arange(20) < 15
    changed = features.copy()
    changed[~train] += 100
    first, second = (survival.principal_components(table, train, 4)[train] for table in (features, changed))
    assert first == pytest.approx(second)
    assert first.std(0) == pytest.approx(np.ones(4))


def permuted(inputs, folds, days, events, high, *, permutations, rng):
    """Return the permutation test of heads that are refitted to every order of the outcomes."""
    orders = survival.permuted_orders(len(days), permutations, rng)
    logits = survival.permuted_logits(inputs, np.asarray(folds), np.asarray(high, float), orders)
    return survival.permuted_log_rank(logits, orders, np.asarray(days, float), np.asarray(events, float))


def test_permutation_p_is_uniform_without_effect_and_small_with_one():
    rng = np.random.default_rng(7)
    folds = np.arange(40) % 4
    found = []
    for _ in range(60):
        features = rng.normal(size=(40, 3))
        days = rng.integers(1, 15, 40)
        found.append(permuted([features] * 4, folds, days, np.ones(40), days >= 7, permutations=39, rng=rng).p)
    assert np.mean(np.array(found) <= 0.05) <= 0.15, "three standard errors above the nominal rate"
    assert 0.3 < np.mean(found) < 0.7
    days = np.arange(40) % 14 + 1
    signal = (days[:, None] + rng.normal(0, 1, (40, 3))) / 5
    strong = permuted([signal] * 4, folds, days, np.ones(40), days >= 7, permutations=99, rng=rng)
    assert strong.p == pytest.approx(0.01)


def test_the_heads_are_fitted_again_to_every_permutation_of_the_outcomes():
    """The null statistics, by lifelines, of heads that are fitted to each order of the outcomes one by one."""
    rng = np.random.default_rng(15)
    folds, days = np.arange(30) % 3, rng.integers(1, 15, 30)
    label, features = days >= 7, rng.normal(size=(30, 4)) + 0.2 * (days >= 7)[:, None]
    found = permuted([features] * 3, folds, days, np.ones(30), label, permutations=9, rng=np.random.default_rng(16))
    orders = survival.permuted_orders(30, 9, np.random.default_rng(16))
    statistics = []
    for order in orders:
        high = np.zeros(30)
        for fold in range(3):
            train = folds != fold
            head = survival.logistic_heads(features, label[order].astype(float)[None], train)[0]
            high[~train] = head[~train] >= 0
        groups = logrank_test(days[order][high == 1], days[order][high == 0])
        statistics.append(groups.test_statistic)
    assert found.statistic == pytest.approx(statistics[0], abs=1e-6)
    assert found.null == pytest.approx(np.array(statistics[1:]), abs=1e-6)
    assert len(np.unique(found.null.round(6))) > 5, "the permutations differ"


def test_permutation_p_counts_the_observed_statistic():
    assert survival.permutation_p(3.0, np.array([1.0, 3.0, 5.0, 0.0])) == pytest.approx(3 / 5)
    assert np.isnan(survival.permutation_p(np.nan, np.ones(3)))


def test_what_cannot_be_computed_is_nan_with_a_reason():
    days, events = [3, 5, 8], [1, 1, 0]
    assert "one group" in survival.log_rank(days, events, [1, 1, 1]).reason
    assert "one group" in survival.hazard_ratio(days, events, [1, 1, 1]).estimate.method
    separated = survival.hazard_ratio(np.arange(1, 21), np.ones(20), np.arange(20) >= 10).estimate
    assert not separated.known and "separated" in separated.method
    assert survival.kaplan_meier([], []).empty
    few = permuted([np.zeros((3, 2))], [0, 0, 0], days, events, [0, 0, 1], permutations=9, rng=np.random.default_rng(1))
    assert np.isnan(few.p) and few.reason


def test_a_missing_day_leaves_the_row_out():
    whole = survival.log_rank([1, 2, 3, 4], [1, 1, 1, 1], [0, 1, 0, 1])
    assert survival.log_rank([1, 2, 3, 4, None], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]) == whole


def test_the_linear_head_reproduces_the_heads_of_the_permutation():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(2, 3, (30, 50)), rng.integers(0, 2, 30).astype(float)
    weight, bias = survival.linear_head(features, labels, 8)
    everyone = np.ones(30, bool)
    expected = survival.logistic_heads(survival.principal_components(features, everyone, 8), labels[None], everyone)[0]
    assert features @ weight + bias == pytest.approx(expected, abs=1e-6)


@pytest.mark.verify
def test_null_world_log_rank_by_permutation_keeps_its_level():
    """400 replicates of ten folds on features of noise: at most 32 p-values of 0.05 or less."""
    rng, rejected = np.random.default_rng(21), 0
    folds = np.arange(49) % 10
    for _ in range(400):
        days, features = rng.integers(1, 15, 49), rng.normal(size=(49, 64))
        inputs = [survival.principal_components(features, folds != fold, 8) for fold in range(10)]
        found = permuted(inputs, folds, days, np.ones(49), days >= 7, permutations=99, rng=rng)
        rejected += int(found.p <= 0.05)
    assert rejected <= 32
