"""What groups and scores say about the stay, against lifelines and scikit-learn, and in worlds without effect."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score

from covid3d.stats import risk, stay_readers, survival


def synthetic(effect: float, count: int, rng: np.random.Generator) -> pd.DataFrame:
    days = rng.integers(1, 15, count).astype(float)
    logit = effect * (days - 7) + rng.normal(0, 1, count)
    ids = [f"P{number:03d}" for number in range(count)]
    table = pd.DataFrame({"scan_id": ids, "patient_id": ids, "remaining_days": days, "event": 1, "cause": 1})
    table["logit"] = logit
    return table.assign(label=(days >= 7).astype(int), high=(logit >= 0).astype(float))


def test_separation_has_the_signs_of_a_longer_stay():
    found = risk.separation(synthetic(0.5, 60, np.random.default_rng(3)), 199, np.random.default_rng(4))
    assert found["hazard ratio"].value < 1, "high risk leaves later"
    c, p = found["C-index"], found["log-rank p"]
    assert c.value > 0.5 and found["AUC"].value > 0.5 and p.value < 0.01
    assert c.low < c.value < c.high
    for name in ("log-rank p", "hazard ratio", "C-index", "AUC"):
        assert str(found[name]).endswith("(nominal)"), "out-of-fold scores are not independent"
    called = risk.separation(synthetic(0.5, 60, np.random.default_rng(3)), 199, np.random.default_rng(4), remark="")
    assert not any("nominal" in str(value) for value in called.values())


def test_c_index_and_auc_equal_lifelines_and_scikit_learn():
    rng = np.random.default_rng(5)
    table = synthetic(0.2, 40, rng).assign(event=rng.integers(0, 2, 40))
    table["logit"] = table["logit"].round(0)
    one = np.ones((1, 40))
    assert risk.c_index_pairs(table).value(one)[0] == pytest.approx(
        concordance_index(table["remaining_days"], table["logit"], table["event"])
    )
    nobody_left = risk.c_index_pairs(table.assign(event=0)).value(one)[0]
    assert np.isnan(nobody_left), "no usable pair"
    assert risk.auc_pairs(table).value(one)[0] == pytest.approx(roc_auc_score(table["label"], table["logit"]))


def test_groups_whose_outcomes_nobody_knows_have_no_accuracy():
    table = synthetic(0.5, 6, np.random.default_rng(17)).assign(label=pd.array([pd.NA] * 6, dtype="Int64"))
    found = risk.separation(table, 19, np.random.default_rng(18))
    assert np.isnan(found["accuracy"]) and not found["AUC"].known and found["C-index"].known


def test_a_patient_without_a_score_is_in_no_pair():
    """lifelines: the concordance of those who have a score."""
    table = synthetic(0.2, 30, np.random.default_rng(16))
    table.loc[[3, 11], "logit"] = np.nan
    known = table.dropna(subset=["logit"])
    expected = concordance_index(known["remaining_days"], known["logit"], known["event"])
    assert risk.c_index_pairs(table).value(np.ones((1, 30)))[0] == pytest.approx(expected)
    area = risk.auc_pairs(table).value(np.ones((1, 30)))[0]
    assert area == pytest.approx(roc_auc_score(known["label"], known["logit"]))


def test_a_perfect_order_of_few_patients_has_no_interval_that_looks_certain():
    table = pd.DataFrame({"patient_id": ["a", "b", "c", "d"], "remaining_days": [1.0, 2.0, 8.0, 9.0], "event": 1})
    table = table.assign(label=[0, 0, 1, 1], logit=table["remaining_days"])
    for measure in risk.MEASURES:
        found = risk.bootstrap_interval(table, measure, 99, np.random.default_rng(1))
        assert found.value == 1 and np.isnan(found.low) and np.isnan(found.high)
    mixed = risk.bootstrap_interval(table.assign(logit=[1, 3, 2, 4]), "c_index", 99, np.random.default_rng(1))
    assert mixed.low < mixed.value < mixed.high


def test_resampled_weights_are_repeated_rows():
    table = synthetic(0.3, 12, np.random.default_rng(6))
    table["patient_id"] = table["patient_id"].str.slice(0, 3)  # P00 has ten rows, P01 two
    weights = risk.resampled(table, 5, np.random.default_rng(7))
    assert (weights.reshape(5, 12)[:, :10].std(axis=1) == 0).all(), "a patient's rows go together"
    for row, value in zip(weights, risk.c_index_pairs(table).value(weights), strict=True):
        drawn = table.loc[np.repeat(np.arange(12), row.astype(int))]
        assert value == pytest.approx(concordance_index(drawn["remaining_days"], drawn["logit"], drawn["event"]))


def test_two_scans_against_one_is_paired_on_the_same_patients():
    rng = np.random.default_rng(8)
    table = synthetic(0.4, 50, rng)
    other = table.assign(logit=table["logit"] + rng.normal(0, 0.01, 50))
    close = risk.compare(table, other, 199, np.random.default_rng(9))["difference"]["c_index"]
    assert close.high - close.low < 0.02, "two near-equal predictors hardly differ"
    assert close.remark == "nominal"
    worse = risk.compare(table, table.assign(logit=rng.normal(size=50)), 199, np.random.default_rng(10))
    assert worse["difference"]["c_index"].low > 0 and (worse["patients"] == 50).all()


def test_the_gain_by_permutation_finds_a_telling_second_scan_and_is_paired():
    rng = np.random.default_rng(12)
    table = synthetic(0.0, 50, rng).dropna(subset=["label"]).reset_index(drop=True)
    table["fold"] = np.arange(len(table)) % 5
    noise = rng.normal(size=(len(table), 3))
    told = np.column_stack([noise, table["remaining_days"] / 2 + rng.normal(0, 0.3, len(table))])
    orders = survival.permuted_orders(len(table), 99, np.random.default_rng(13))
    held, label = table["fold"].to_numpy(), table["label"].to_numpy(float)
    two, one = (survival.permuted_logits([values] * 5, held, label, orders) for values in (told, noise))
    found = risk.permuted_gain(table, orders, two, one)
    assert found["permutation p"].map(float).tolist() == pytest.approx([0.02, 0.02]), "twice 1 / 100"
    same = risk.permuted_gain(table, orders, one, one)
    assert (same["refitted difference"] == 0).all() and (same["permutation p"].map(float) == 1).all()
    own = risk.permuted_gain(table, orders, two, one, [one[0], one[0]])
    assert all(p.value > 0.5 and p.remark == "outcomes permuted, approximate" for p in own["permutation p"])
    assert own["refitted p"].map(float).tolist() == found["permutation p"].map(float).tolist()
    few = risk.permuted_gain(table.head(3), orders, two, one)
    assert few["permutation p"].map(str).tolist() == [f"not available ({risk.NOT_PERMUTED})"] * 2


def test_outcomes_are_permuted_for_the_pairs_as_for_the_heads():
    """The same p from tables that are permuted one by one, and C-index and AUC of each."""
    rng = np.random.default_rng(14)
    table = synthetic(0.3, 40, rng).dropna(subset=["label"]).reset_index(drop=True)
    table["fold"] = np.arange(len(table)) % 4
    one, two = rng.normal(size=(len(table), 2)), rng.normal(size=(len(table), 3))
    two[:, 0] += table["label"].to_numpy(float)
    held, label = table["fold"].to_numpy(), table["label"].to_numpy(float)
    orders = survival.permuted_orders(len(table), 59, np.random.default_rng(15))
    refitted = [survival.permuted_logits([heads] * 4, held, label, orders) for heads in (two, one)]
    found = risk.permuted_gain(table, orders, *refitted)
    gains: dict[str, list[float]] = {name: [] for name in risk.MEASURES}
    for order in orders:
        mixed = table.assign(**{name: table[name].to_numpy()[order] for name in ("remaining_days", "event", "label")})
        both = [survival.permuted_logits([heads] * 4, held, label, order[None])[0] for heads in (two, one)]
        for name, measure in risk.MEASURES.items():
            values = [measure(mixed.assign(logit=logit)).value(np.ones((1, len(mixed))))[0] for logit in both]
            gains[name].append(values[0] - values[1])
    for name, values in gains.items():
        null = np.array(values[1:])
        tails = [(1 + (sign * null >= sign * values[0] - 1e-9).sum()) / 60 for sign in (1, -1)]
        assert found.loc[name, "refitted difference"] == pytest.approx(values[0])
        assert found.loc[name, "permutation p"].value == pytest.approx(min(1, 2 * min(tails))), name


def test_without_effect_the_paired_interval_holds_zero_most_of_the_time():
    rng = np.random.default_rng(11)
    held = []
    for _ in range(100):
        table = synthetic(0.2, 40, rng)
        other = table.assign(logit=0.2 * (table["remaining_days"] - 7) + rng.normal(0, 1, 40))
        found = risk.compare(table, other, 99, rng)["difference"]["c_index"]
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) >= 0.87


def test_curves_give_numbers_at_risk_for_both_groups():
    table = synthetic(0.5, 30, np.random.default_rng(12))
    found = risk.curves(table)
    start = found[found["day"] == 0].set_index("group")["at_risk"]
    assert start.to_dict() == {"high": int(table["high"].sum()), "low": int((1 - table["high"]).sum())}
    assert risk.curves(table.assign(high=1.0))["group"].unique().tolist() == ["high"]
    assert risk.curves(table.head(0)).empty and risk.incidences(table.head(0)).empty


def deaths() -> pd.DataFrame:
    """Return ten patients a group: in the high-risk one five die on day 3, all others leave on days 4 to 9 and 1 to 5."""
    table = pd.DataFrame({"high": np.repeat([1.0, 0.0], 10), "cause": 1})
    table["remaining_days"] = [3.0] * 5 + [4.0, 5, 6, 8, 9] + [1.0, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    table.loc[:4, "cause"] = 2
    return table.assign(event=(table["cause"] == 1).astype(int), patient_id=range(20))


def test_the_dead_lower_the_curve_of_those_still_in_hospital():
    curve = risk.curves(deaths()).query("group == 'high'").set_index("day")["still_in_hospital"]
    assert curve.loc[[3, 9]].tolist() == pytest.approx([0.5, 0])


def test_incidences_by_group_end_in_the_shares_that_left_and_died():
    last = risk.incidences(deaths()).groupby("group").last()
    assert last.loc["high", ["cause_1", "cause_2"]].tolist() == pytest.approx([0.5, 0.5])
    assert last.loc["low", ["cause_1", "cause_2"]].tolist() == pytest.approx([1, 0])


def test_grays_test_of_the_groups_is_asked_where_somebody_died():
    found = risk.competing(deaths())
    assert (found["patients"], found["died"]) == (20, 5) and found["Gray's p"].value < 0.05
    assert str(found["Gray's p"]).endswith("(nominal)")
    assert risk.gray_in_words(deaths()) == "more of the low risk leave alive; Gray's test " + str(found["Gray's p"])
    assert risk.gray_in_words(deaths().assign(high=1.0)) == "not available (all patients are in one group)"
    nobody = risk.competing(synthetic(0.5, 30, np.random.default_rng(12)))
    assert str(nobody["Gray's p"]) == "not available (nobody died: nothing competes with discharge)"


def test_a_panel_says_which_group_leaves_later():
    days, high, every = [9.0, 8, 7, 1, 2, 3], [1, 1, 1, 0, 0, 0], np.ones(6)
    first, second = (survival.log_rank(stays, every, high) for stays in (days, days[::-1]))
    assert risk.in_words(first, "nominal").startswith("high risk leaves later; log-rank p = ")
    assert risk.in_words(second).startswith("low risk leaves later")
    alone = survival.log_rank(days, every, every)
    assert risk.in_words(alone) == "not available (all patients are in one group)"


def test_one_of_one_is_no_hundred_per_cent():
    assert str(risk.share(1, 1)) == risk.share(1, 1).short() == "1 (of 1)" and not risk.share(0, 0).known
    assert str(risk.share(3, 6)).endswith("(3 of 6)") and risk.share(3, 6).value == 50


def test_a_stay_of_nine_days_is_not_longer_than_nine():
    table = pd.DataFrame({"remaining_days": [8.0, 9.0, 10.0], "high": [1.0, 1.0, 0.0], "label": [0, 0, 1], "cause": 1})
    found = stay_readers.long_stays(table, 9.0)
    assert (found["longer stays"], found["wrong in longer stays"]) == (1, 1)
    assert (found["other stays"], found["wrong in other stays"]) == (2, 2)
    censored = stay_readers.long_stays(table.assign(cause=0), 9.0)
    assert (censored["longer stays"], censored["other stays"]) == (1, 0), "eight days and still there: nobody knows"


def test_frozen_scores_follow_the_stay_when_they_should():
    rng = np.random.default_rng(13)
    rows = []
    for number, days in enumerate(rng.permutation(20) + 1.0):
        common = {"patient_id": f"P{number}", "interval_days": 4.0, "label": int(days >= 7)}
        rows.append({**common, "scan_index": 1, "remaining_days": days, "prior": 0.0, "s": 0.1 * days})
        rows.append({**common, "scan_index": 2, "remaining_days": days, "prior": 0.1 * days, "s": 0.1 * days})
    found = risk.frozen_table(pd.DataFrame(rows))
    names = ["s at the index scan", "slope of s since the prior scan", "curvature of s over three scans"]
    assert found["Spearman"][names].map(float).tolist() == pytest.approx([1, 1, -1])
    assert (found["patients"] == 20).all()
    remarks = [found.loc[name, column].remark for name in names for column in ("Spearman", "AUC")]
    assert remarks == [risk.POOLED] * 2 + [""] * 4, "a level of the folds falls out of a slope"


def test_a_measure_stands_against_s_in_pairs_on_the_patients_who_have_both():
    """R's pROC: roc.test(a, b, paired = TRUE) of case 0 of reference/auc.csv."""
    folder = Path(__file__).parent / "reference"
    data, expected = (
        pd.read_csv(folder / "auc.csv").query("case == 0"),
        pd.read_csv(folder / "auc_expected.csv").iloc[0],
    )
    table = data.rename(columns={"a": "share", "b": "s"})[["label", "share", "s"]]
    found = risk.against_s(pd.concat([table, table.head(1).assign(s=np.nan)]), "share", "opacity")
    assert found["patients"] == len(table) and found["opacity"].value == pytest.approx(expected["auc"])
    difference = found["opacity minus s"]
    assert (found["p"], difference.low, difference.high) == pytest.approx(tuple(expected[["p", "d_low", "d_high"]]))


@pytest.mark.verify
def test_null_world_two_scan_gain_is_rarely_claimed():
    """400 replicates without a difference: at most 32 intervals without zero."""
    rng, claimed = np.random.default_rng(20), {"c_index": 0, "auc": 0}
    for _ in range(400):
        table = synthetic(0.0, 49, rng)
        other = table.assign(logit=0.5 * table["logit"] + rng.normal(0, 1, 49))
        found = risk.compare(table, other, 499, rng)["difference"]
        for name in claimed:
            claimed[name] += int(not found[name].low <= 0 <= found[name].high)
    assert max(claimed.values()) <= 32, claimed
