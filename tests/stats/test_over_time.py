"""Brier score and AUC by day against scikit-survival, sums by hand, and worlds with and without an effect."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from covid3d.stats import over_time

REFERENCE = Path(__file__).parent / "reference"


def followed(effect: float, count: int, seed: int) -> pd.DataFrame:
    """Return a test set in five folds of whole days, nobody censored; the score tells the stay as strongly as `effect`."""
    rng = np.random.default_rng(seed)
    days = rng.integers(1, 15, count).astype(float)
    ids = [f"P{number:03d}" for number in range(count)]
    facts = {"scan_id": ids, "patient_id": ids, "fold": np.arange(count) % 5, "remaining_days": days}
    label = pd.array(days >= 7, dtype="Int64")
    return pd.DataFrame(
        {**facts, "event": 1, "cause": 1, "label": label, "logit": effect * (days - 7) + rng.normal(size=count)}
    )


def test_brier_score_and_auc_by_day_equal_scikit_survivals():
    """Values of scikit-survival 0.28.0: tests/stats/reference/scikit_survival.py."""
    data, expected = (pd.read_csv(REFERENCE / f"{name}.csv") for name in ("over_time", "over_time_expected"))
    table = pd.DataFrame({"remaining_days": data["days"], "cause": data["event"], "logit": data["score"]})
    days = expected["day"].tolist()
    chance = np.exp(-np.array(days) * np.exp(-table["logit"].to_numpy()[:, None]) / 10)
    errors = over_time.squared_errors(table, chance, days)
    assert errors.mean(0) == pytest.approx(expected["brier"].to_numpy(), rel=1e-9)
    assert over_time.integrated(errors, days).mean() == pytest.approx(expected["integrated"].iloc[0], rel=1e-9)
    one = np.ones((1, len(table)))
    areas = [over_time.dynamic_pairs(table, day=day).value(one)[0] for day in days]
    assert areas == pytest.approx(expected["auc"].tolist(), rel=1e-9)


def test_the_dead_are_not_discharged_and_weights_are_those_of_a_sum_by_hand():
    """Day 2 censors one of the five that its discharge leaves: 4/5 stay observed; day 5 is judged."""
    days, causes = np.array([2.0, 2, 4, 4, 8, 9]), np.array([1.0, 0, 1, 2, 1, 0])
    found = over_time.seen(days, causes, 5.0)
    assert found.later.tolist() == [False, False, False, True, True, True]
    assert found.weight == pytest.approx([1, 0, 1.25, 1.25, 1.25, 1.25]), "1 / (1 - 1/5)"
    table = pd.DataFrame({"remaining_days": days, "cause": causes, "logit": [0.0, 5, 1, 0.5, 2, 3]})
    share = over_time.dynamic_pairs(table, day=5.0).value(np.ones((1, 6)))[0]
    right, pairs = 1.25 * (1 + 1 + 1) + 1.25**2 * (0 + 1 + 1), 1.25 * 3 + 1.25**2 * 3
    assert share == pytest.approx(right / pairs)


def test_where_nobody_is_censored_the_auc_after_day_6_is_that_of_seven_days_or_longer():
    table = followed(0.2, 50, 1)
    found = over_time.auc_on(table, 6, 99, np.random.default_rng(1))
    assert found.value == pytest.approx(roc_auc_score(table["label"].astype(int), table["logit"]))
    assert found.low < found.value < found.high


def test_a_telling_score_lowers_the_brier_score_and_noise_does_not():
    told, noise = (over_time.judged(followed(e, 80, 2), [6], 199, np.random.default_rng(2)) for e in (0.5, 0.0))
    assert told["minus Kaplan-Meier"].high < 0 < noise["minus Kaplan-Meier"].high
    assert told["hazard ratio per SD"].high < 1 and told["AUC, day 6"].low > 0.5
    assert {one.remark for one in told.values()} == {"nominal"}
    curve = over_time.curves(followed(0.5, 80, 2))
    assert (curve["Brier score"] <= curve["without a score"] + 0.02).all() and (curve["day"].diff().dropna() == 1).all()


def test_the_chance_of_a_patient_comes_from_other_folds():
    table = followed(0.5, 40, 3)
    first = over_time.chances(table, [3, 6])[0]
    held = table["fold"] == 0
    again = over_time.chances(table.assign(remaining_days=table["remaining_days"].where(~held, 1.0)), [3, 6])[0]
    assert (first[held] == again[held]).all() and (first[~held] != again[~held]).any()


@pytest.mark.parametrize(
    "change",
    [{"cause": 0, "event": 0}, {"remaining_days": 3.0}, {"logit": np.nan}, {"remaining_days": np.nan}, {"logit": 1.0}],
    ids=["all censored", "all stays equal", "no score", "no stay", "one score for all"],
)
def test_what_cannot_be_judged_says_why(change):
    table = followed(0.5, 40, 4).assign(**change)
    found = over_time.judged(table, [6], 99, np.random.default_rng(5))
    assert not found["hazard ratio per SD"].known and found["hazard ratio per SD"].method
    for name in ("AUC, day 6", "integrated Brier score"):
        assert found[name].known == ("logit" in change and np.isfinite(table["logit"]).all()), name
        assert found[name].known or "too few" in found[name].method or "no day" in found[name].method
    over_time.curves(table)


def test_a_cohort_of_which_one_day_can_be_judged_has_that_day():
    table = followed(0.5, 10, 6).assign(remaining_days=[2.0, 3.0] * 5, cause=1, event=1)
    assert over_time.curves(table)["day"].tolist() == [2]
    assert over_time.judged(table, [2], 49, np.random.default_rng(5))["integrated Brier score"].known


def test_a_separated_score_has_no_limits_that_mean_nothing():
    table = followed(0.5, 40, 6)
    found = over_time.judged(table.assign(logit=table["remaining_days"]), [6], 99, np.random.default_rng(6))
    assert "separated" in found["hazard ratio per SD"].method and found["integrated Brier score"].value < 0.1
