"""Decisions: what is fitted on A is fitted on A alone, and bad scores are named, counted or missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from covid3d.chapters import ceiling, decisions, scored
from covid3d.chapters.decisions import HALF, ONE_FOLD, POOLED, RAW, REFITTED, Decisions
from covid3d.stats.auc import youden_threshold
from covid3d.stats.calibration import ONE_CLASS, SEPARATED, recalibration

RNG = np.random.default_rng(3)


def inside(folds: int = 4, each: int = 12) -> pd.DataFrame:
    label = np.tile([0, 1], folds * each // 2)
    fold = np.repeat(np.arange(folds), each)
    logit = RNG.normal(1.4 * label - 0.7 + 0.3 * fold, 1)
    return pd.DataFrame({"scan_id": [f"A{n}" for n in range(len(label))], "fold": fold, "label": label, "logit": logit})


def outside() -> pd.DataFrame:
    label, hospital = np.tile([0, 1], 20), np.repeat(["B", "C"], [24, 16])
    logit = RNG.normal(1.4 * label + 3, 1)
    scans = [f"{name}{n}" for n, name in enumerate(hospital)]
    return pd.DataFrame(
        {"scan_id": scans, "hospital": hospital, "label": label, "covid3d": logit, "covid3d_ensemble": logit - 1}
    )


@pytest.fixture
def made() -> Decisions:
    ours, others = inside(), outside()
    windows = pd.concat(
        [
            others.assign(window=name, logit=others["covid3d"] + add)
            for name, add in (("nominal", 0), ("w000", -0.5), ("w001", 0.1))
        ]
    )
    scans = [*ours["scan_id"], *others["scan_id"]]
    age = [40 + n % 30 for n in range(len(scans))]
    patients = pd.DataFrame(
        {"scan_id": scans, "age": age, "sex": ["F", "M", "M", "F"] * (len(scans) // 4), "scanner": "one"}
    )
    return Decisions(ours, others, windows, patients, deployed=2)


def test_the_threshold_is_chosen_on_the_pooled_scores_of_a_and_on_nothing_else(made):
    """A threshold chosen on B or C would lie about three logits higher here."""
    assert made.threshold == youden_threshold(made.inside["label"], made.inside["logit"]) < 2
    calls = made.calls().query("rule == @POOLED and hospital == 'B'")
    assert (
        calls["call"].tolist()
        == (made.outside.query("hospital == 'B'")["covid3d"] >= made.threshold).astype(int).tolist()
    )


def test_the_recalibration_is_fitted_on_a_and_on_nothing_else(made):
    known, found = (
        recalibration(made.inside["label"], made.inside["logit"]),
        made.probabilities().query("hospital != 'A'"),
    )
    assert found[REFITTED].to_numpy() == pytest.approx(known(made.outside["covid3d"]))
    assert found[RAW].tolist() == made.outside["covid3d"].tolist()
    assert made.calibration().at[("B", RAW), "intercept"].value < -1, "the scores of B lie too high, and that is seen"


def test_a_patient_of_a_is_judged_by_what_the_other_folds_say(made):
    part = made.inside.query("fold != 0")
    held = (made.inside["fold"] == 0).to_numpy()
    found = made.probabilities().query("hospital == 'A'")[REFITTED].to_numpy()[held]
    assert found == pytest.approx(recalibration(part["label"], part["logit"])(made.inside.loc[held, "logit"]))
    calls = made.calls().query("rule == @POOLED and hospital == 'A'")["call"].to_numpy()[held]
    cut = youden_threshold(part["label"], part["logit"])
    assert calls.tolist() == (made.inside.loc[held, "logit"] >= cut).astype(int).tolist()


def test_right_calls_are_those_of_scikit_learns_confusion_matrix(made):
    part = made.outside.query("hospital == 'C'")
    (true_negative, _), (_, true_positive) = confusion_matrix(part["label"], part["covid3d"] >= 0)
    row = made.transfer().loc[(HALF, "C")]
    assert (row["sensitivity, cases"], row["specificity, cases"]) == (f"{true_positive} of 8", f"{true_negative} of 8")
    assert row["sensitivity"].value == true_positive / 8


def test_the_offset_of_the_folds_is_seen_beside_what_patients_alone_would_give(made):
    shifted = made.inside.assign(logit=made.inside["logit"] + 5 * made.inside["fold"])
    moved = Decisions(shifted, made.outside, made.windows, made.patients, 2).offsets()
    levels = shifted.groupby("fold")["logit"].mean()
    assert moved["SD between folds"].value == pytest.approx(levels.std()), (
        "classes of equal size: the mean of all scores"
    )
    assert moved["patients alone"].value == pytest.approx(made.offsets()["patients alone"].value)
    assert moved["SD between folds"].value > 10 * moved["patients alone"].value


def test_a_subgroup_has_an_auc_or_says_that_it_is_too_small(made):
    table = made.subgroups()
    whole = table.loc[("B", "scanner", "one")]
    part = made.outside.query("hospital == 'B'")
    assert whole["AUC"].value == pytest.approx(roc_auc_score(part["label"], part["covid3d"]))
    assert str(table.at[("C", "scanner", "one"), "AUC"]) == "not available (too few)"
    assert table.loc["B", ["COVID+", "COVID-"]].groupby("by").sum().eq(12).all(axis=None), "nobody is lost"
    assert table.at[("A", "scanner", "one"), "AUC"].remark == "nominal"


def test_two_groups_of_a_are_compared_and_what_the_truth_knows_of_them_stands_beside(made, monkeypatch):
    truth = made.inside.rename(columns={"logit": "oracle_grid_logit"})[["scan_id", "oracle_grid_logit"]]
    truth["burden_fraction"] = np.where(made.patients["sex"][: len(truth)] == "F", 0.1, 0.2) + RNG.normal(
        0, 0.01, len(truth)
    )
    monkeypatch.setattr(ceiling, "read_truth", lambda run: truth)
    found, area = ceiling.group_differences(None, made.grouped()).loc["sex"], made.subgroups()["AUC"]
    assert found["groups"] == "F minus M" and found["p"].remark == "nominal, of two comparisons"
    assert found["difference"].value == pytest.approx(area["A", "sex", "F"].value - area["A", "sex", "M"].value)
    assert found["perfect reader"].low == found["difference"].low and found["true burden"].value == pytest.approx(
        -10, abs=1
    )
    few = ceiling.group_differences(None, made.grouped().head(20))
    assert str(few.at["sex", "p"]) == "not available (too few)"
    monkeypatch.setattr(ceiling, "read_truth", lambda run: None)
    real = ceiling.group_differences(None, made.grouped())
    assert real.at["age", "difference"].known and "real scans" in str(real.at["age", "true burden"])


def test_without_an_age_at_a_nobody_elsewhere_is_older_or_younger(made):
    at_a = made.patients["scan_id"].str.startswith("A")
    table = replace(made, patients=made.patients.assign(age=made.patients["age"].mask(at_a))).subgroups()
    assert set(table.xs("age", level="by").index.get_level_values("group")) == {"unknown"}


def test_a_call_is_turned_where_a_window_moves_the_score_over_the_threshold(made):
    near = made.outside.assign(covid3d=np.where(made.outside["scan_id"] == "B3", made.threshold + 0.2, 9.0))
    windows = pd.concat(
        near.assign(window=name, logit=near["covid3d"] + add)
        for name, add in (("nominal", 0), ("w000", -0.5), ("w001", 0.1))
    )
    table = Decisions(made.inside, near, windows, made.patients, 2).flips()
    assert table.at["B", "ever turned"].value == 1 / 24 and table.at["B", "most"] == 0.5
    assert table.at["C", "ever turned"].value == 0 and table.at["B", "windows"] == 2


def test_one_class_at_a_leaves_no_threshold_and_every_table_says_so(made):
    one = Decisions(made.inside.assign(label=1), made.outside, made.windows, made.patients, 2)
    assert one.thresholds().at[POOLED, "threshold, logit"].method == ONE_CLASS
    found = one.transfer()["sensitivity"]
    assert {key for key, share in found.items() if share.known} == {(HALF, hospital) for hospital in "ABC"}
    assert not one.calibration().at[("B", REFITTED), "slope"].known and one.calibration().at[("B", RAW), "slope"].known
    assert one.predictive_values().empty and one.net_benefit().empty and not one.flips().at["B", "ever turned"].known
    assert "not available" in one.plot_decision_curve().axes[0].texts[0].get_text()


def test_scores_that_part_the_classes_give_a_threshold_and_no_slope(made):
    apart = made.inside.assign(logit=2.0 * made.inside["label"] - 1)
    found = Decisions(apart, made.outside, made.windows, made.patients, 2)
    assert found.threshold == 0 and found.refit.slope.method == SEPARATED
    assert found.thresholds().at[ONE_FOLD, "threshold, logit"].value == 0


def test_b_and_c_have_a_place_where_the_run_has_other_hospitals(made):
    other = Decisions(
        made.inside, made.outside.replace({"C": "H1"}), made.windows.replace({"C": "H1"}), made.patients, 2
    )
    assert str(other.transfer().at[(POOLED, "C"), "sensitivity"]) == "not available (no case)"
    assert other.transfer().at[(POOLED, "H1"), "sensitivity"].known
    assert not other.calibration().at[("C", RAW), "slope"].known and other.calibration().at[("H1", RAW), "slope"].known
    assert not other.flips().at["C", "ever turned"].known and other.flips().at["H1", "ever turned"].known


def test_pictures_have_a_panel_a_hospital(made):
    assert len(made.plot_calibration().axes) == 3 and len(made.plot_decision_curve().axes) == 2


# --- bad scores ------------------------------------------------------------------------------------------------------


def test_a_scan_without_a_finite_score_is_left_out_for_every_model_and_counted(made):
    table = pd.concat(
        [made.outside.assign(model=name, logit=made.outside["covid3d"]) for name in ("covid3d", "resnet_2d")]
    )
    table = table.reset_index(drop=True)
    table.loc[3, "logit"], table.loc[5, "logit"] = np.nan, np.inf
    kept = scored.usable(table)
    assert set(made.outside["scan_id"]) - set(kept["scan_id"]) == {"B3", "B5"} and len(kept) == 2 * (
        len(made.outside) - 2
    )
    counts = scored.counted(kept.query("model == 'covid3d'"), "logit", ["B", "B"])
    assert counts.loc["B"].tolist() == [10, 12, 2, 0] and counts.loc["C"].tolist() == [8, 8, 0, 0]


def test_scores_shared_by_both_classes_are_counted():
    table = pd.DataFrame({"hospital": "B", "label": [0, 1, 1, 0, 1], "logit": [1.0, 1.0, 1.0, 2.0, 3.0]})
    assert scored.counted(table, "logit").at["B", "tied with the other class"] == 3


def test_patients_come_with_age_sex_and_scanner(make_run, monkeypatch):
    run = make_run()
    table = pd.DataFrame({"scan_id": ["B1-0", "B2-0", "B3-0"], "age": ["61", "", ""], "sex": ["F", "", "U"]})
    monkeypatch.setattr(decisions, "accepted", lambda run: table)
    monkeypatch.setattr(decisions, "read_intake", lambda run: table.assign(manufacturer=["X", "", "X"]))
    windows = pd.DataFrame(
        {"window": ["nominal", "w000", "u000"], "model": "covid3d", "split": "external", "logit": 0.0}
    )
    found = decisions.of(run, inside(), outside(), windows, 0)
    assert found.windows["window"].tolist() == ["nominal", "w000"], "those of the paper's deviation"
    assert found.patients["age"].tolist()[0] == 61 and np.isnan(found.patients["age"].tolist()[1])
    assert found.patients[["sex", "scanner"]].to_numpy().tolist() == [
        ["F", "X"],
        ["unknown", "unknown"],
        ["unknown", "X"],
    ]
