"""Readers and model on the same cases: counts by hand, and tests against statsmodels and scikit-learn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import statsmodels.stats.contingency_tables
import statsmodels.stats.inter_rater
from synthetic_run import synthetic_run

from covid3d.chapters import reader_comparison as readers
from covid3d.chapters import results
from covid3d.cohort.reader_study import RULES
from covid3d.report import audit
from covid3d.run.files import write_csv
from covid3d.show import is_p

STUDY = pd.DataFrame(columns=list(RULES))
SCORES = pd.DataFrame({"scan_id": [f"S{n}" for n in range(6)], "hospital": "B", "label": [1, 1, 1, 0, 0, 0]})
SCORES["logit"] = [2.0, 2.0, 2.0, 2.0, 2.0, -1.0]


def chapter(**calls: list[int]) -> readers.ReaderComparison:
    """Return calls of readers and of the model on six cases of B: three positives, three negatives."""
    parts = [
        SCORES.drop(columns="logit").assign(
            rater=readers.YOUDEN if name == "model" else name,
            kind="model" if name == "model" else "reader",
            call=called,
            rating=np.nan,
        )
        for name, called in calls.items()
    ]
    return readers.ReaderComparison(None, STUDY, SCORES, {readers.YOUDEN: 0.5}, pd.concat(parts, ignore_index=True), 10)


SIX = chapter(R1=[1, 1, 0, 0, 0, 1], R2=[1, 0, 0, 0, 0, 0], model=[1, 1, 1, 1, 1, 0])


def test_shares_count_by_hand():
    table = SIX.shares().set_index(["rater", "measure"])
    assert table.loc[("R1", "sensitivity"), ["k", "n"]].tolist() == [2, 3]
    assert table.loc[("R1", "specificity"), ["k", "n"]].tolist() == [2, 3]
    assert table.loc[("R2", "specificity"), "share"].value == 100
    assert table.loc[(readers.YOUDEN, "specificity"), "k"] == 1
    assert all(share.low <= share.value <= share.high for share in table["share"])


def test_table_2_stands_beside_the_printed_one():
    table = SIX.table_2()
    printed = {("R1", "B"): "95 % (19 of 20)", ("R2", "B"): "70 % (14 of 20)"}
    printed[readers.YOUDEN, "B"] = "83 % \u2020 (no count of 20)"
    assert table["sensitivity, printed"].to_dict() == printed
    assert list(table)[:3] == ["sensitivity, printed", "sensitivity", "sensitivity, cases"], "printed first"
    assert table.loc[("R2", "B"), "sensitivity"].value == pytest.approx(100 / 3)
    assert table.loc[("R2", "B"), "sensitivity, cases"] == "1 of 3"
    assert table.loc[("R1", "B"), "specificity, printed"] == "77 % \u2020 (no count of 20)"


def test_a_hospital_the_paper_does_not_have_has_nothing_printed():
    elsewhere = replace(SIX, calls=SIX.calls.assign(hospital="D"))
    assert (elsewhere.table_2()[["sensitivity, printed", "specificity, printed"]] == "not printed").all(axis=None)


def test_published_table_2_has_its_twelve_cells():
    table = readers.published_table_2().set_index(["reader", "hospital", "measure"])
    assert len(table) == 12
    assert table.loc[("Rad1", "C", "specificity"), ["claim_id", "published", "published_n"]].tolist() == ["C078", 95, 9]
    assert table.loc[("COVID3D", "B", "sensitivity")].tolist() == ["C083", 83, 20]


def test_the_marked_cells_of_table_2_are_those_of_the_audit():
    table = readers.published_table_2()
    marked = [readers.MARK in readers.printed_text(row.published, row.published_n) for row in table.itertuples()]
    wanted = audit.audit_published().query("not attainable")["claim_id"].tolist()
    assert table.loc[marked, "claim_id"].tolist() == wanted and len(wanted) == 5


def test_no_p_stands_without_its_direction():
    """Every table with a p says beside it who is higher and by how many points, as the counts by hand have it."""
    tables = [SIX.agreement(), SIX.comparisons(), replace(SIX, stays=STAYS).gain(), rated().aucs()]
    for table in tables:
        assert any(is_p(column) for column in table) and len(table)
        words = table["direction"]
        assert words.str.fullmatch(r"(.+ higher by [\d.]+( points)?|neither is higher|not available)").all(), list(
            words
        )
    assert SIX.comparisons()["direction"].tolist() == [
        "COVID3D higher by 33.3 points",
        "R1 higher by 33.3 points",
        "COVID3D higher by 66.7 points",
        "R2 higher by 66.7 points",
    ]
    assert SIX.agreement().loc[("R1 and R2", "B", "all"), "direction"] == "R1 higher by 33.3 points"


PAIR, SINGLE = {"a": 1, "b": 1, "c": 0, "d": 1}, {"a": 0, "b": 0, "c": 1, "d": 1}
STAYS = pd.concat(
    pd.DataFrame({"reader_id": reader, "task": task, "scan_id": list(calls), "high": list(calls.values()), "label": 1})
    for reader in ("R1", "R2")
    for task, calls in (("stay_pair", PAIR), ("stay_single", SINGLE))
)


def test_the_gain_of_the_prior_scan_is_paired_within_each_reader():
    """Right with two scans only 2, with one only 1, of 4: McNemar's exact p by statsmodels."""
    found = replace(SIX, stays=STAYS).gain().loc["R1"]
    assert found["patients"] == 4 and found["gain"].value == pytest.approx(25) and found["gain"].unit == "points"
    assert found["McNemar p"] == statsmodels.stats.contingency_tables.mcnemar([[1, 2], [1, 0]], exact=True).pvalue
    assert found["direction"] == "two scans higher by 25 points"
    alone = STAYS[(STAYS["task"] == "stay_pair") | (STAYS["scan_id"] == "d")]
    assert replace(SIX, stays=alone).gain()["patients"].tolist() == [1, 1], "rated once: no pair"


def rated(confidence: float = 1.0) -> readers.ReaderComparison:
    """Return one reader's calls of twenty cases of B with a confidence on five points, and the model's scores of them."""
    rng = np.random.default_rng(3)
    label = np.repeat([1, 0], 10)
    scores = pd.DataFrame({"scan_id": [f"S{n}" for n in range(20)], "hospital": "B", "label": label})
    scores["logit"] = rng.normal(label, 1)
    study = pd.DataFrame({"reader_id": "R1", "scan_id": scores["scan_id"], "task": "covid"})
    study["call"], study["confidence"] = rng.integers(0, 2, 20), rng.integers(1, 6, 20) * confidence
    return replace(SIX, study=study, scores=scores, calls=readers.reader_calls(study, scores))


def test_the_auc_of_five_points_is_that_of_the_signed_confidence_by_scikit_learn():
    chapter = rated()
    signed = chapter.study["confidence"] * (2 * chapter.study["call"] - 1)
    found = chapter.aucs().loc[("R1", "B")]
    assert found["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(chapter.scores["label"], signed))
    assert found["lead"].value == pytest.approx(found["AUC of COVID3D"].value - found["AUC"].value)
    assert found[["cases", "without"]].tolist() == [20, 0]


def test_calls_without_a_confidence_are_counted_and_give_no_auc():
    found = rated(confidence=np.nan).aucs().loc[("R1", "B")]
    assert found[["cases", "without"]].tolist() == [0, 20]
    assert str(found["AUC"]) == "not available (one class only)" and found["direction"] == "not available"


def test_raters_are_compared_on_what_both_called_and_what_is_missing_is_counted():
    part = replace(SIX, calls=SIX.calls.drop(SIX.calls.query("rater == 'R1' and scan_id in ['S0', 'S5']").index))
    assert part.coverage().loc[("R1", "B")].to_dict() == {"called": 4, "not called": 2, "COVID+": 2, "COVID-": 2}
    assert part.agreement().loc[("R1 and R2", "B", "all"), "n"] == 4
    assert part.comparisons().loc[("R1", "B"), "cases"].tolist() == [2, 2]


def test_a_reader_of_one_class_has_no_specificity_and_no_curve():
    one = replace(SIX, calls=SIX.calls.query("label == 1"))
    assert str(one.table_2().loc[("R1", "B"), "sensitivity"]).startswith("66.7 %")
    assert "specificity" not in one.table_2() or not one.table_2().loc[("R1", "B"), "specificity"].known
    assert str(one.aucs().loc[("R1", "B"), "AUC"]) == "not available (one class only)"
    assert one.plot_shares() and one.plot_roc() and one.read_off().empty


def test_the_model_calls_at_or_above_its_threshold_and_not_without_one():
    scores = SCORES.head(2).assign(logit=[1.5, 0.0])
    table = readers.model_calls(scores, {readers.YOUDEN: 1.5, readers.HALF: 0.0})
    assert table.pivot(index="rater", columns="scan_id", values="call").loc[readers.YOUDEN].tolist() == [1, 0]
    assert table.loc[table["rater"] == readers.HALF, "call"].tolist() == [1, 1]
    assert set(readers.model_calls(scores, {readers.YOUDEN: np.nan, readers.HALF: 0.0})["rater"]) == {readers.HALF}


def test_readers_are_judged_on_the_scans_that_the_model_has_scored():
    """A scan that intake refused has no score: a reader's call on it would compare readers and model on different cases."""
    study = pd.DataFrame({"reader_id": "R1", "scan_id": ["S0", "S1", "refused"], "task": "covid", "call": [1, 1, 0]})
    study["confidence"] = np.nan
    assert readers.reader_calls(study, SCORES)["scan_id"].tolist() == ["S0", "S1"]
    assert readers.reader_calls(study.assign(task="stay_single"), SCORES).empty


def test_read_off_is_the_highest_sensitivity_at_the_readers_specificity_by_scikit_learn():
    label = np.repeat([1, 0], [20, 20])
    scores = pd.DataFrame({"hospital": "B", "label": label, "logit": np.random.default_rng(1).normal(label, 1)})
    found = replace(SIX, scores=scores).read_off().loc[("R1", "B")]
    false, true, _ = sklearn.metrics.roc_curve(label, scores["logit"], drop_intermediate=False)
    assert found["model's sensitivity there"] == pytest.approx(100 * true[1 - false >= 2 / 3 - 1e-9].max())
    assert found["reader's specificity"] == pytest.approx(200 / 3)


def test_agreement_equals_statsmodels():
    a, b = np.random.default_rng(2).integers(0, 2, (2, 40))
    table = pd.DataFrame({"scan_id": range(40), "label": np.repeat([1, 0], 20), "hospital": "B", "kind": "reader"})
    both = pd.concat([table.assign(rater="R1", call=a), table.assign(rater="R2", call=b)])
    found = replace(SIX, calls=both).agreement().loc[("R1 and R2", "B", "all")]
    counts = pd.crosstab(a, b).to_numpy()
    kappa = statsmodels.stats.inter_rater.cohens_kappa(counts)
    limits = found["kappa"].value, found["kappa"].low, found["kappa"].high
    assert limits == pytest.approx((kappa.kappa, kappa.kappa_low, kappa.kappa_upp))
    assert found["p"] == pytest.approx(statsmodels.stats.contingency_tables.mcnemar(counts, exact=True).pvalue)
    assert found["agree"] == (a == b).mean()


def test_the_gap_of_one_class_is_the_gap_of_table_2():
    table = SIX.agreement().sort_index().loc[("R1 and R2", "B")]
    assert table["gap"].to_dict() == pytest.approx({"all": 200 / 6, "COVID+": 100 / 3, "COVID-": 100 / 3})
    assert table.loc["all", ["only first", "only second", "p"]].tolist() == [2, 0, 0.5]


def test_equivalence_is_model_minus_reader_in_points_and_never_shown_with_three_cases():
    table = SIX.comparisons()
    assert table.loc[("R1", "B", "sensitivity"), "difference"].value == pytest.approx(100 / 3)
    assert table.loc[("R2", "B", "specificity"), "difference"].value == pytest.approx(-200 / 3)
    assert not table["equivalent"].any()
    assert all(table["90 % from"] > [difference.low for difference in table["difference"]])
    text = readers.equivalence_statement(table, 10)
    assert "shown in 0 of 4 comparisons" in text
    assert "With 3 cases it cannot be shown" in text


def test_the_smallest_p_says_against_whom_and_of_how_many():
    found = SIX.in_short()["smallest p"]
    assert (
        found
        == "p = 0.5 (against R2, sensitivity at B, COVID3D higher by 66.7 points; the smallest of 4, not corrected)"
    )


def test_the_statement_of_the_papers_sizes_gives_the_best_p():
    table = pd.DataFrame({"cases": [20, 12, 9], "best p": [0.068, 0.124, 0.159], "equivalent": False})
    table["cases needed"] = [183, 108, 25]
    assert "With 20, 12, 9 cases it cannot be shown" in readers.equivalence_statement(table, 10)
    assert "give p = 0.068 at best" in readers.equivalence_statement(table, 10), "the digits of the table"
    assert "For a power of 80 % it takes 25 to 183 cases" in readers.equivalence_statement(table, 10)
    assert "no paired calls" in readers.equivalence_statement(table.iloc[:0], 10)


# --- of a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of noise with a reader study of B and C, whose deployed fold scores as its network does."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("readers")
    patch.setenv("COVID3D_ROOT", str(root))
    patch.setattr(readers.steps, "ensure_needs", lambda run, name: None)
    patch.setattr(readers, "require_certificate", lambda run: None)
    run = synthetic_run(root)
    scans = [f"{hospital}{number:03d}-0" for hospital, count in (("B", 8), ("C", 6)) for number in range(count)]
    scores = pd.DataFrame({"scan_id": scans, "hospital": [scan[0] for scan in scans], "split": "external"})
    scores["label"] = [int(int(scan[1:4]) < {"B": 4, "C": 3}[scan[0]]) for scan in scans]
    model, window = readers.load_fold(run, "task1", "covid3d", 1), readers.nominal_window(run.profile.windows)
    logits = readers.score(model, readers.Store.of(run).stack(scans), [window])[:, 0]
    parts = [
        scores.assign(model="covid3d", window="nominal", logit=logits),
        scores.assign(model="covid3d", window="w000", logit=logits + 9),
        scores.assign(model="resnet_2d", window="nominal", logit=-logits),
    ]
    write_csv(run.path("external", "predictions.csv"), pd.concat(parts))
    calls = pd.DataFrame(columns=list(RULES), data={"reader_id": "R1", "scan_id": scans, "task": "covid", "call": 1})
    stay = {"reader_id": "R1", "scan_id": "A001-1", "task": "stay_single", "call": 1}
    write_csv(run.path("reader_study.csv"), pd.concat([calls, pd.DataFrame([stay])]).fillna(""))
    yield run
    patch.undo()


def test_the_threshold_comes_from_the_deployed_folds_validation_scans(run):
    inside = results.out_of_fold(run).query("fold == 1")
    best = readers.youden_threshold(inside["label"], inside["logit"])
    assert readers.thresholds(run) == {readers.YOUDEN: best, readers.HALF: 0.0}


def test_a_run_gives_table_2_of_readers_and_of_the_deployed_fold_in_the_nominal_window(run):
    found = readers.load(run)
    assert found.table_2().loc[("R1", "C"), ["sensitivity, cases", "specificity, cases"]].tolist() == [
        "3 of 3",
        "0 of 3",
    ]
    assert len(found.scores) == 14
    assert len(found.table_2()) == 6 and len(found.comparisons()) == 4
    assert found.readings()["every scan of B and C called"] is True
    assert found.readings()["ratings of the stay"] == 1
    assert {raters for raters, _, _ in found.agreement().index} == {"COVID3D and R1"}, "one reader agrees with no other"
    assert (found.margin_points, readers.load(run, 5).margin_points) == (10, 5)


def test_scores_of_another_window_are_found_out(run):
    found = readers.load(run)
    assert found.untuned() is True
    tuned = replace(found, scores=found.scores.assign(logit=found.scores["logit"] + 0.1))
    assert tuned.untuned() is False


def test_a_scan_without_a_score_is_no_call_of_the_network(run, monkeypatch):
    table = results.external_scores(run)
    lost = table.assign(logit=table["logit"].mask(table["scan_id"] == "B001-0"))
    monkeypatch.setattr(results, "external_scores", lambda run: lost)
    found = readers.load(run)
    assert found.table_2().at[(readers.HALF, "B"), "sensitivity, cases"].endswith("of 3") and len(found.read_off()) == 2
    monkeypatch.setattr(results, "external_scores", lambda run: lost.assign(logit=np.nan))
    assert readers.load(run).table_2().empty


def test_a_run_without_a_reader_study_still_has_the_models_rows(run):
    study = run.path("reader_study.csv").rename(run.path("away.csv"))
    try:
        found = readers.load(run)
    finally:
        study.rename(run.path("reader_study.csv"))
    assert {rater for rater, _ in found.table_2().index} == {readers.YOUDEN, readers.HALF}
    assert found.comparisons().empty and found.read_off().empty and found.aucs().empty and found.gain().empty
    assert found.readings()["whose readings"] == "nobody's: there is no reader study"
    assert {str(answer) for name, answer in found.in_short().items() if name != "widest interval"} == {
        "not available (no reader study)"
    }
    assert not found.readings()["every scan of B and C called"].known
    assert found.plot_roc() and found.plot_equivalence() and found.plot_shares()


def test_the_reading_rooms_file_takes_the_place_of_the_simulated_one_and_says_so(run):
    """Two people, a time of reading; what prose names is there without a reader called R1 in the file.

    Of five points they use four for COVID-19, and the fifth for the stay.
    """
    kept = run.path("reader_study.csv").rename(run.path("away.csv"))
    study = pd.read_csv(kept, dtype=str, keep_default_na=False).assign(read_at="2021-05-04T10:00")
    calls, stays = study.query("task == 'covid'"), study.query("task != 'covid'")
    both = [calls.assign(reader_id=name, confidence=range(1, 15)) for name in ("anna", "bo")]
    both = [part.assign(confidence=part["confidence"] % 4 + 1) for part in both]
    write_csv(run.path("reader_study.csv"), pd.concat([*both, stays.assign(reader_id="anna", confidence=5)]))
    try:
        found = readers.load(run)
    finally:
        kept.rename(run.path("reader_study.csv"))
    assert found.readings()["whose readings"] == "2 readers of the reading room"
    assert found.readings()["levels of confidence for COVID-19"] == 4
    assert set(found.aucs().index.get_level_values("rater")) == {"R1", "R2"}
    assert "R1 at B" in found.in_short()["AUC"] and found.plot_roc()
