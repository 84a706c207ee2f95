"""Readers and model on the same cases: counts by hand, and tests against statsmodels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import statsmodels.stats.contingency_tables
import statsmodels.stats.inter_rater

from covid3d.chapters import reader_comparison as readers
from covid3d.cohort.manifest import COLUMNS, write_manifest
from covid3d.run import profile as config
from covid3d.run.errors import ManifestError, MissingResult
from covid3d.run.files import write_csv

HEADER = "reader_id,scan_id,prior_scan_id,task,call,confidence,order,read_at"


def calls(**columns: list[int]) -> pd.DataFrame:
    """Return calls of readers R1, R2 and of the model on six cases of B: three positives, three negatives."""
    parts = [
        pd.DataFrame(
            {
                "reader": readers.YOUDEN if name == "model" else name,
                "kind": "model" if name == "model" else "reader",
                "hospital": "B",
                "scan_id": [f"S{n}" for n in range(6)],
                "label": [1, 1, 1, 0, 0, 0],
                "call": called,
            }
        )
        for name, called in columns.items()
    ]
    return pd.concat(parts, ignore_index=True)


CALLS = calls(R1=[1, 1, 0, 0, 0, 1], R2=[1, 0, 0, 0, 0, 0], model=[1, 1, 1, 1, 1, 0])


def test_operating_table_counts_by_hand() -> None:
    table = readers.operating_table(CALLS).set_index(["reader", "measure"])
    assert table.loc[("R1", "sensitivity"), ["k", "n"]].tolist() == [2, 3]
    assert table.loc[("R1", "specificity"), ["k", "n"]].tolist() == [2, 3]
    assert table.loc[("R2", "specificity"), "value"] == 1
    assert table.loc[(readers.YOUDEN, "specificity"), "k"] == 1
    assert (table["low"] <= table["value"]).all()
    assert (table["high"] >= table["value"]).all()


def test_published_table_2_has_its_twelve_cells() -> None:
    table = readers.published_table_2().set_index(["reader", "hospital", "measure"])
    assert len(table) == 12
    assert table.loc[("Rad1", "C", "specificity"), ["claim_id", "published", "published_n"]].tolist() == ["C078", 95, 9]
    assert table.loc[("COVID3D", "B", "sensitivity"), ["claim_id", "published", "published_n"]].tolist() == [
        "C083",
        83,
        20,
    ]


def test_each_cell_stands_beside_the_printed_one_with_its_attainability() -> None:
    table = readers.beside_published(readers.operating_table(CALLS)).set_index(["reader", "measure"])
    assert table.loc[("R1", "specificity"), ["published", "attainable"]].tolist() == [77, False]
    assert table.loc[("R2", "sensitivity"), ["published", "attainable"]].tolist() == [70, True]
    assert table.loc[(readers.YOUDEN, "sensitivity"), ["published", "attainable"]].tolist() == [83, False]
    assert table.loc[("R2", "sensitivity"), "percent"] == pytest.approx(100 / 3)


def test_a_hospital_the_paper_does_not_have_has_nothing_printed() -> None:
    table = readers.beside_published(readers.operating_table(CALLS.assign(hospital="D")))
    assert table[["published", "attainable"]].isna().all(axis=None)


def test_model_thresholds_come_from_validation_and_call_at_or_above() -> None:
    validation = pd.DataFrame({"label": [0, 0, 1, 1], "logit": [-2.0, 1.0, 2.0, 3.0]})
    cuts = readers.model_thresholds(validation)
    assert cuts == {readers.YOUDEN: 1.5, readers.HALF: 0.0}
    scores = pd.DataFrame({"scan_id": ["a", "b"], "hospital": "B", "label": [1, 0], "logit": [1.5, 0.0]})
    table = readers.model_calls(scores, cuts).pivot(index="scan_id", columns="reader", values="call")
    assert table.loc["a"].tolist() == [1, 1]
    assert table.loc["b", [readers.YOUDEN, readers.HALF]].tolist() == [0, 1]


def test_validation_scans_of_one_class_give_no_youden_threshold_and_no_calls() -> None:
    cuts = readers.model_thresholds(pd.DataFrame({"label": [1, 1], "logit": [-2.0, 1.0]}))
    assert np.isnan(cuts[readers.YOUDEN])
    scores = pd.DataFrame({"scan_id": ["a", "b"], "hospital": "B", "label": [1, 0], "logit": [1.5, 0.0]})
    assert set(readers.model_calls(scores, cuts)["reader"]) == {readers.HALF}


def test_read_off_is_the_highest_sensitivity_at_the_readers_specificity_by_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    label = np.repeat([1, 0], [20, 20])
    scores = pd.DataFrame({"hospital": "B", "label": label, "logit": generator.normal(label, 1)})
    table = readers.operating_table(CALLS)
    found = readers.read_offs(table, scores).set_index("reader")
    false, true, _ = sklearn.metrics.roc_curve(label, scores["logit"], drop_intermediate=False)
    assert found.loc["R1", "model_sensitivity"] == pytest.approx(true[1 - false >= 2 / 3 - 1e-9].max())
    assert found["label"].eq("descriptive").all()


def test_agreement_equals_statsmodels() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.integers(0, 2, (2, 40))
    table = pd.DataFrame({"scan_id": range(40), "label": np.repeat([1, 0], 20), "hospital": "B", "kind": "reader"})
    both = pd.concat([table.assign(reader="R1", call=a), table.assign(reader="R2", call=b)])
    found = readers.agreement_table(both).set_index("cases").loc["all"]
    counts = pd.crosstab(a, b).to_numpy()
    kappa = statsmodels.stats.inter_rater.cohens_kappa(counts)
    p = statsmodels.stats.contingency_tables.mcnemar(counts, exact=True).pvalue
    assert (found["kappa"], found["low"], found["high"]) == pytest.approx(
        (kappa.kappa, kappa.kappa_low, kappa.kappa_upp)
    )
    assert (found["p"], found["agree"]) == (pytest.approx(p), (a == b).mean())


def test_the_gap_of_one_class_is_the_gap_of_table_2() -> None:
    table = readers.agreement_table(CALLS).set_index("cases")
    assert table["gap_points"].to_dict() == pytest.approx({"all": 200 / 6, "COVID+": 100 / 3, "COVID-": 100 / 3})
    assert table.loc["all", ["only_a", "only_b", "p"]].tolist() == [2, 0, 0.5]


def test_equivalence_is_model_minus_reader_in_points_and_never_shown_with_three_cases() -> None:
    table = readers.equivalence_table(CALLS, 10).set_index(["reader", "measure"])
    assert table.loc[("R1", "sensitivity"), "difference"] == pytest.approx(100 / 3)
    assert table.loc[("R2", "specificity"), "difference"] == pytest.approx(-200 / 3)
    assert not table["equivalent"].any()
    assert (table["low_95"] < table["low"]).all()
    text = readers.equivalence_statement(table.reset_index(), 10)
    assert "shown in 0 of 4 comparisons" in text
    assert "With 3 cases it cannot be shown" in text


def test_the_statement_of_the_papers_sizes_gives_the_best_p() -> None:
    table = pd.DataFrame({"n": [20, 12, 9], "best_p": [0.068, 0.124, 0.159], "equivalent": False})
    assert "With 20, 12, 9 cases it cannot be shown" in readers.equivalence_statement(table, 10)
    assert "p = 0.07 or more" in readers.equivalence_statement(table, 10)
    assert "no paired calls" in readers.equivalence_statement(table.iloc[:0], 10)


# --- stays -----------------------------------------------------------------------------------------------------------

MANIFEST = (
    pd.DataFrame(
        [
            ("P1-0", "P1", "A", "development", 1, 0, 0, 20, "discharged", 0),
            ("P1-1", "P1", "A", "followup", 1, 1, 5, 15, "discharged", 0),
            ("P2-0", "P2", "A", "development", 1, 0, 0, 12, "discharged", 0),
            ("P2-1", "P2", "A", "followup", 1, 1, 5, 7, "discharged", 0),
            ("P3-0", "P3", "A", "development", 1, 0, 0, 9, "discharged", 0),
            ("P3-1", "P3", "A", "followup", 1, 1, 5, 4, "discharged", 0),
            ("P4-0", "P4", "C", "external", 1, 0, 0, 30, "in_hospital", 1),
            ("P4-1", "P4", "C", "followup", 1, 1, 5, 25, "in_hospital", 1),
            ("N1", "N1", "C", "external", 0, 0, 0, None, None, None),
        ],
        columns=[
            "scan_id",
            "patient_id",
            "hospital",
            "role",
            "label",
            "scan_index",
            "day",
            "days_to_discharge",
            "outcome",
            "censored",
        ],
    )
    .assign(source="scan")
    .reindex(columns=list(COLUMNS))
)


def study(*rows: str) -> str:
    return "\n".join([HEADER, *rows, ""])


STUDY = study(
    "R1,P4-0,,covid,1,0.9,1,",
    "R1,N1,,covid,0,0.6,2,",
    *(f"R1,P{n}-1,,stay_single,{call},,," for n, call in ((1, 0), (2, 1), (3, 1), (4, 1))),
    *(f"R1,P{n}-1,P{n}-0,stay_pair,{call},,," for n, call in ((1, 1), (2, 1), (3, 1), (4, 1))),
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Run:
    """A smoke run with a manifest, a reader study, a deployed fold and external scores."""
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    write_manifest(tmp_path / "form.csv", MANIFEST)
    run = config.open_run("t", profile="smoke", manifest="form.csv")
    write_manifest(run.manifest, MANIFEST)
    run.path("reader_study.csv").write_text(STUDY)
    selection = pd.DataFrame({"fold": [0, 1], "deployed": [0, 1]})
    write_csv(run.path("models", "task1", "selection", "selection.csv"), selection)
    validation = pd.DataFrame(
        {"split": "validation", "window": "nominal", "label": [0, 1] * 2, "scan_id": list("abcd")}
    )
    both = validation.assign(epoch=[1, 1, 2, 2], logit=[9.0, 8.0, -3.0, 5.0])
    train = both.assign(split="train", logit=[7.0, 6.0, 7.0, 6.0])
    write_csv(run.model("task1", "covid3d", 1) / "predictions.csv", pd.concat([train, both]))
    external = pd.DataFrame({"scan_id": ["P4-0", "N1"], "hospital": "C", "label": [1, 0], "split": "external"})
    parts = [
        external.assign(model="covid3d", window="nominal", logit=[2.0, 0.5]),
        external.assign(model="covid3d", window="w000", logit=[-9.0, 9.0]),
        external.assign(model="resnet_2d", window="nominal", logit=[-9.0, 9.0]),
    ]
    write_csv(run.path("external", "predictions.csv"), pd.concat(parts))
    return run


def test_thresholds_use_the_deployed_folds_last_epoch_validation_only(run: config.Run) -> None:
    assert readers.thresholds(run) == {readers.YOUDEN: 1.0, readers.HALF: 0.0}


def test_table_2_of_a_run_holds_readers_and_the_deployed_model_at_the_nominal_window(run: config.Run) -> None:
    table = readers.table_2(run).set_index(["reader", "measure"])
    assert table["k"].to_dict() == {
        ("R1", "sensitivity"): 1,
        ("R1", "specificity"): 1,
        (readers.YOUDEN, "sensitivity"): 1,
        (readers.YOUDEN, "specificity"): 1,
        (readers.HALF, "sensitivity"): 1,
        (readers.HALF, "specificity"): 0,
    }
    assert len(readers.read_off_table(run)) == 1
    assert len(readers.equivalence(run)) == 2
    assert readers.agreement(run).empty, "one reader agrees with nobody"


def test_a_run_without_a_reader_study_still_has_the_models_rows(run: config.Run) -> None:
    run.path("reader_study.csv").unlink()
    assert readers.table_2(run)["kind"].unique().tolist() == ["model"]
    assert readers.equivalence(run).empty


def test_a_missing_prediction_file_is_named(run: config.Run) -> None:
    run.path("external", "predictions.csv").unlink()
    with pytest.raises(MissingResult, match=r"external/predictions\.csv"):
        readers.table_2(run)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("R1,N1,,covid,2,,,", "column 'call': the value is '2'"),
        ("R1,N1,,diagnosis,1,,,", "column 'task': the value is 'diagnosis'"),
        ("R1,N1,,covid,1,90,,", "column 'confidence': the value is '90'"),
        ("R1,N9,,covid,1,,,", "column 'scan_id': scan 'N9' is not in the manifest"),
        ("R1,P1-1,,stay_pair,1,,,", "column 'prior_scan_id': task 'stay_pair' needs a prior scan"),
        ("R1,P1-1,P1-0,stay_single,1,,,", "column 'prior_scan_id': task 'stay_single' has a prior scan"),
        ("R1,P1-1,P2-0,stay_pair,1,,,", "'P2-0' is no earlier scan of the patient of 'P1-1'"),
        ("R1,P1-0,P1-1,stay_pair,1,,,", "'P1-1' is no earlier scan of the patient of 'P1-0'"),
        ("R2,N1,,covid,1,,,", "reader 'R2' has already called scan 'N1' for task 'covid' in row 2"),
    ],
)
def test_a_broken_reading_is_refused_with_its_row(run: config.Run, row: str, said: str) -> None:
    run.path("reader_study.csv").write_text(study("R2,N1,,covid,1,,,", row))
    with pytest.raises(ManifestError) as caught:
        readers.read_readers(run)
    assert str(caught.value).startswith("reader_study.csv, row 3")
    assert said in str(caught.value)


def test_a_reader_file_can_be_read_by_its_path(run: config.Run) -> None:
    table = readers.read_readers(run.path("reader_study.csv"))
    assert len(table) == 10
    assert str(table["call"].dtype) == "Int64"
