"""What a run leaves for others: each score once, every column explained, and numbers that can be recomputed elsewhere."""

import json
import shutil
import subprocess

import pandas as pd
import pytest
from conftest import NO_R
from sklearn.metrics import roc_auc_score

from covid3d.report import collect
from covid3d.report.claims import COLUMNS
from covid3d.report.collect import SCORED_ONCE, each_once
from covid3d.run.errors import Covid3DError
from covid3d.run.files import write_csv
from covid3d.run.profile import DATA


def scored(*logits):
    """Return predictions of one scan in one window, as several steps would leave them."""
    row = {"task": "task1", "model": "covid3d", "fold": "0", "epoch": 3, "scan_id": "B001-0", "window": "nominal"}
    return pd.DataFrame([{**row, "label": 1, "logit": logit} for logit in logits])


def test_a_scan_that_two_steps_scored_stands_once():
    table = pd.concat([scored(0.5, 0.5), scored(0.5).assign(window="w000")], ignore_index=True)
    assert each_once(table)["window"].tolist() == ["nominal", "w000"]


def test_two_scores_of_one_scan_that_differ_are_refused_by_name():
    with pytest.raises(Covid3DError, match="task1, covid3d, 0, 3, B001-0, nominal"):
        each_once(scored(0.5, 0.7))


def test_a_scan_that_one_step_has_scored_and_the_other_has_not_is_refused():
    with pytest.raises(Covid3DError, match="task1, covid3d, 0, 3, B001-0, nominal"):
        each_once(scored(0.5, float("nan")))
    assert len(each_once(scored(float("nan"), float("nan")))) == 1


def test_a_scan_that_stands_twice_in_one_file_is_refused_though_its_scores_are_equal(make_run):
    run = make_run()
    write_csv(run.path("external", "predictions.csv"), scored(0.5, 0.5))
    with pytest.raises(Covid3DError, match=r"/external/predictions\.csv: scan B001-0 has two scores"):
        collect._predictions(run)


def test_a_hospital_of_digits_keeps_its_name(make_run):
    run = make_run()
    row = scored(0.5, 0.5).head(1).assign(hospital="007")
    write_csv(run.path("external", "predictions.csv"), row)
    assert collect._predictions(run)["hospital"].tolist() == ["007"]


def test_the_predictions_of_a_run_hold_each_score_once(smoke_run):
    table = pd.read_csv(smoke_run.path("predictions.csv"))
    assert not table.duplicated(list(SCORED_ONCE)).any()


def test_the_dictionary_names_every_column_of_what_a_run_leaves(smoke_run):
    dictionary = pd.read_csv(smoke_run.path("dictionary.csv")).groupby("file")["column"].agg(list)
    assert dictionary["predictions.csv"] == pd.read_csv(smoke_run.path("predictions.csv"), nrows=1).columns.tolist()
    assert dictionary["claims.csv"] == list(COLUMNS)
    entries = json.loads(smoke_run.path("values.json").read_text(encoding="utf-8")).values()
    assert set(dictionary["values.json"]) == {"address"}.union(*entries)


CLASSES = {  # of the dictionary, in pandas and in R
    "text": (pd.api.types.is_string_dtype, "character"),
    "number": (pd.api.types.is_float_dtype, "numeric"),
    "whole number": (pd.api.types.is_integer_dtype, "integer"),
    "0 or 1": (pd.api.types.is_integer_dtype, "integer"),
}


def test_pandas_opens_the_predictions_with_the_columns_and_classes_of_the_dictionary(smoke_run):
    table, kinds = opened(smoke_run)
    assert table.columns.tolist() == list(kinds)
    assert {name: kind for name, kind in kinds.items() if not CLASSES[kind][0](table[name])} == {}
    assert table["label"].isin([0, 1]).all()


def test_r_opens_the_predictions_with_the_rows_columns_and_classes_of_pandas(smoke_run):
    if shutil.which("Rscript") is None:
        pytest.skip(NO_R)
    code = 'p <- read.csv(commandArgs(TRUE)[1]); cat(nrow(p), sum(is.na(p)), paste(names(p), sapply(p, class)), sep = "\n")'
    file = str(smoke_run.path("predictions.csv"))
    found = subprocess.run(["Rscript", "-e", code, file], capture_output=True, text=True, check=True)
    table, kinds = opened(smoke_run)
    columns = [f"{name} {CLASSES[kind][1]}" for name, kind in kinds.items()]
    assert found.stdout.splitlines() == [str(len(table)), str(table.isna().sum().sum()), *columns]


def opened(run):
    """Return the predictions as pandas opens them by itself, and what the dictionary says of each column."""
    dictionary = pd.read_csv(run.path("dictionary.csv")).query("file == 'predictions.csv'")
    return pd.read_csv(run.path("predictions.csv")), dict(zip(dictionary["column"], dictionary["type"], strict=True))


def test_the_dictionary_says_something_of_each_column():
    assert pd.read_csv(DATA / "dictionary.csv").notna().all(axis=None)


def external_auc(run):
    """Return the AUC of COVID3D at B as the book prints it."""
    return json.loads(run.path("values.json").read_text(encoding="utf-8"))["table_1.covid3d.auc_at_b"]["value"]


def test_an_auc_of_the_book_is_recomputed_from_the_predictions(smoke_run):
    """By scikit-learn, from the file alone."""
    table = pd.read_csv(smoke_run.path("predictions.csv"))
    at_b = table.query("task == 'task1' and model == 'covid3d' and hospital == 'B' and window == 'nominal'")
    assert roc_auc_score(at_b["label"], at_b["logit"]) == pytest.approx(external_auc(smoke_run), abs=1e-9)


def test_an_auc_of_the_book_is_recomputed_in_r(smoke_run):
    """By R's wilcox.test, from the file alone."""
    if shutil.which("Rscript") is None:
        pytest.skip(NO_R)
    code = (
        'p <- subset(read.csv(commandArgs(TRUE)[1]), task == "task1" & model == "covid3d");'
        'p <- subset(p, hospital == "B" & window == "nominal");'
        "w <- wilcox.test(p$logit[p$label == 1], p$logit[p$label == 0], exact = FALSE)$statistic;"
        "cat(w / (sum(p$label == 1) * sum(p$label == 0)))"
    )
    found = subprocess.run(
        ["Rscript", "-e", code, str(smoke_run.path("predictions.csv"))], capture_output=True, text=True, check=True
    )
    assert float(found.stdout) == pytest.approx(external_auc(smoke_run), abs=1e-6)
