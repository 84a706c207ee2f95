"""The nested alternative of chapter 3: who may choose, what is kept, and its table."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import CHECKOUT
from synthetic_run import synthetic_run

from covid3d.chapters import nested, results, scored, task1
from covid3d.cohort.manifest import read_manifest, write_manifest
from covid3d.commands.pipeline import extended_targets, job_code, jobs
from covid3d.network.scoring import prediction_rows
from covid3d.run import steps
from covid3d.run.errors import MissingResult
from covid3d.run.files import write_csv


@pytest.fixture
def run(root, monkeypatch):
    """A run of noise, eight training patients a fold, that trains two epochs."""
    run = synthetic_run(root)
    intake = pd.read_csv(run.intake)
    write_csv(run.intake, intake.assign(pixel_sha256=intake["scan_id"]))
    training = run.profile.training.model_copy(update={"epochs": 2, "batch_size": 4})
    monkeypatch.setattr(task1, "require_certificate", lambda run: None)
    return replace(run, profile=run.profile.model_copy(update={"training": training}))


@pytest.fixture
def trained(run, monkeypatch):
    """What is trained, noted instead: inner patients do best with twice the rate after one epoch, the fold's own after two."""
    calls = []

    def note(run, name, fold, plan, train, validation, folder):
        calls.append((plan.learning_rate, train, validation))
        inner = len(train) + len(validation) < 16
        best = (plan.learning_rate > run.profile.training.learning_rate, 1) if inner else (False, 2)
        aucs = [0.9 if (best[0] or not inner) and epoch == best[1] else 0.6 for epoch in (1, 2)]
        write_csv(folder / "history.csv", pd.DataFrame({"epoch": [1, 2], "validation_auc": aucs}))
        logits = np.arange(len(validation), dtype=float)
        rows = [
            prediction_rows("task1", name, fold, e, validation, "validation", "nominal", logits + e) for e in (1, 2)
        ]
        write_csv(folder / "predictions.csv", pd.concat(rows))

    monkeypatch.setattr(task1, "train_fold", note)
    for fold in range(2):
        task1.ensure_fold(run, fold)
    calls.clear()
    return calls


def test_the_choice_is_made_inside_and_the_patients_of_the_fold_are_only_scored(run, trained):
    train, held_out = task1.split_of(run, 0)
    folder = nested.ensure_nested(run, 0)
    *inner, (rate, *outer) = trained
    assert [set(side["scan_id"]) for side in outer] == [set(train["scan_id"]), set(held_out["scan_id"])]
    assert rate == 2 * run.profile.training.learning_rate
    for _, some, others in inner:
        assert not set(held_out["patient_id"]) & {*some["patient_id"], *others["patient_id"]}
        assert {*some["patient_id"], *others["patient_id"]} == set(train["patient_id"])
        assert not set(some["patient_id"]) & set(others["patient_id"]) and set(others["label"]) == {0, 1}
    judged = pd.concat([others for rate_of, _, others in inner if rate_of < rate])
    assert sorted(judged["scan_id"]) == sorted(train["scan_id"]), "each training patient judges once"
    scores = scored.read_predictions(folder / "predictions.csv")
    assert set(scores["scan_id"]) == set(held_out["scan_id"])
    assert set(scores["epoch"]) == {1} and set(scores["rate"]) == {2}


def test_other_labels_of_the_held_out_patients_change_nothing_that_chooses(run):
    task1.ensure_fold(run, 0)
    before = (nested.ensure_nested(run, 0) / "inner.csv").read_bytes()
    _, held_out = task1.split_of(run, 0)
    table = read_manifest(run.manifest)
    theirs = table["patient_id"].isin(held_out["patient_id"])
    write_manifest(
        run.manifest, table.assign(label=table["label"].astype(int).where(~theirs, 1 - table["label"].astype(int)))
    )
    task1.ensure_fold(run, 0)
    after = nested.ensure_nested(run, 0)
    assert (after / "inner.csv").read_bytes() == before
    assert set(scored.read_predictions(after / "predictions.csv")["label"]) == {0, 1}


def test_a_kill_costs_one_fold_and_finished_folds_are_kept(run, trained, monkeypatch):
    nested.ensure_nested(run, 1)
    trained.clear()
    whole = task1.train_fold

    def killed(*arguments):
        if len(trained) == 4:
            raise KeyboardInterrupt
        whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(task1, "train_fold", killed)
        with pytest.raises(KeyboardInterrupt):
            nested.ensure_nested(run, 0)
    assert nested.shown(run) is None and [path.name for path in run.path("nested").iterdir()] == ["fold_01"]
    with pytest.raises(MissingResult, match="step nested --run noise --fold 0"):
        nested.ensure_nested(run.with_options(compute=False), 0)
    trained.clear()
    for fold in (0, 1):
        folder = nested.ensure_nested(run, fold)
    assert len(trained) == 7, "one fold: two rates of three inner folds, and the chosen one"
    assert sorted(path.name for path in folder.iterdir()) == ["done.json", "inner.csv", "predictions.csv"]
    assert set(nested.shown(run)["fold"]) == {0, 1}


def test_of_equal_choices_the_slower_and_the_shorter_is_taken():
    rows = [(rate, inner, epoch, 0.7) for rate in (2.0, 1.0) for inner in range(3) for epoch in (3, 2, 1)]
    table = pd.DataFrame(rows, columns=["rate", "inner", "epoch", "auc"])
    assert nested.choose(table) == (1.0, 1)
    table.loc[(table["rate"] == 2) & (table["epoch"] == 3) & (table["inner"] == 1), "auc"] = 0.8
    assert nested.choose(table) == (2.0, 3)


def fold_of(fold, logits, **more):
    return pd.DataFrame({"fold": fold, "label": [1, 1, 0, 0], "logit": logits, **more})


def test_the_table_is_that_of_an_example_by_hand(run, monkeypatch):
    """AUCs 1, 3/4, 1/2 fixed before and 3/4, 3/4, 3/4 inside: differences -1/4, 0, 1/4, and t(0.975, 2) = 4.3027 (printed)."""
    good, middling, poor = [4, 3, 2, 1], [4, 2, 3, 1], [4, 1, 3, 2]
    fixed = pd.concat([fold_of(0, good), fold_of(1, middling), fold_of(2, poor)])
    inside = pd.concat([fold_of(fold, middling, epoch=fold + 1, rate=1.0 + (fold == 2)) for fold in range(3)])
    best = pd.DataFrame({"fold": [0, 1, 2], "auc_best": [1.0, 1.0, 0.75], "epoch_best": [2, 2, 2]})
    monkeypatch.setattr(nested, "shown", lambda run: inside)
    monkeypatch.setattr(nested.results, "selection", lambda run: best)
    table = nested.beside(run, fixed)
    assert list(table.index) == [nested.FIXED, nested.OWN, nested.INSIDE]
    assert [one.value for one in table["AUC"]] == pytest.approx([0.75, 11 / 12, 0.75])
    found, half = table.at[nested.INSIDE, "minus fixed"], 4.3027 * 0.25 / np.sqrt(3)
    assert [found.value, found.low, found.high] == pytest.approx([0, -half, half], abs=1e-4)
    assert table.at[nested.OWN, "minus fixed"].value == pytest.approx(1 / 6)
    assert table["epochs"].tolist() == ["2", "2", "1 to 3"]
    assert table.at[nested.INSIDE, "rate"] == "x 1 (2), x 2 (1)"


def test_where_it_was_not_run_the_table_says_what_runs_it(run):
    selection = pd.DataFrame({"fold": [0, 1], "auc_best": [0.6, 0.7], "epoch_best": 1})
    write_csv(results.selection_file(run), selection)
    table = nested.beside(run, pd.concat([fold_of(0, [4, 3, 2, 1]), fold_of(1, [4, 2, 3, 1])]))
    assert "make extended" in str(table.at[nested.INSIDE, "AUC"]) and table.at[nested.FIXED, "AUC"].value == 0.875


def test_make_extended_asks_for_it_a_report_does_not_and_chapter_3_shows_it(run, trained):
    for name in ("notebooks", "book"):
        shutil.copytree(CHECKOUT / name, run.root / name)
    graph = jobs(run)
    asked = [target.removeprefix("done/jobs/").removesuffix(".done") for target in extended_targets(run)]
    assert asked == ["nested_00", "nested_01", "comparators"] and set(asked) <= graph.keys()
    assert not {need for job in graph.values() for need in job.needs} & set(asked)
    before = [job_code(run, name, {}) for name in ("03_cross_validation", "04_external_tests")]
    steps.call(run, "nested", fold=0)
    after = [job_code(run, name, {}) for name in ("03_cross_validation", "04_external_tests")]
    assert after[0] != before[0] and after[1] == before[1]
