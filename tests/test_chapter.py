"""What a chapter leaves behind: texts, files, and that equal content gives equal bytes."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from covid3d.chapter import (
    Chapter,
    banner,
    claims_of,
    format_value,
    initialisation,
    read_values,
    render,
    table_html,
)
from covid3d.run.errors import ConfigError
from covid3d.run.profile import KINETICS, Run, open_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    return open_run("smoke")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (84806, "slices", "84,806 slices"),
        (0.78125, "AUC", "0.781"),
        (83.333, "%", "83.3 %"),
        (5.3e-5, "p", "p < 0.0001"),
        (0.0033, "p", "p = 0.0033"),
        (True, "", "yes"),
        (math.nan, "AUC", "not available (no data)"),
    ],
)
def test_a_value_is_printed_with_its_unit(value, unit, text):
    assert format_value(value, unit=unit) == text


def test_an_interval_is_printed_after_the_value():
    assert format_value(0.78, 0.6, 0.89, "AUC") == "0.780 (95 % CI 0.600 to 0.890)"
    assert format_value(0.194, 0.194, 0.194 + 3e-16, "AUC") == "0.194 (no interval: nothing varies)"
    assert format_value(7.0, 7.0, 7.0, "days") == "7 days (95 % CI 7 to 7)"  # a median of whole days may be sure


def test_a_missing_value_becomes_null_and_gives_its_reason(run):
    chapter = Chapter(run, "04_external_tests")
    chapter.value("auc_covid3d_b", float("nan"), unit="AUC", text="one class only")
    chapter.close()
    entry = json.loads((run.chapter("04") / "values.json").read_text())["auc_covid3d_b"]
    assert entry["value"] is None
    assert entry["text"] == "not available (one class only)"


def test_numpy_scalars_are_stored_as_plain_numbers(run):
    chapter = Chapter(run, "01_data")
    chapter.value("n_scans", np.int64(397), low=np.float32(1.5))
    assert type(chapter.values["n_scans"]["value"]) is int
    assert type(chapter.values["n_scans"]["low"]) is float


def test_a_value_knows_its_claims_and_its_cohort(run):
    chapter = Chapter(run, "04_external_tests")
    chapter.value("auc_covid3d_b", 0.7, claims=["C140"])
    assert chapter.values["auc_covid3d_b"]["claims"] == ["C064", "C092", "C140"]
    assert chapter.values["auc_covid3d_b"]["cohort"] == run.cohort == "phantom"
    assert claims_of("no such key") == ()


def test_an_unknown_cohort_is_refused(run):
    with pytest.raises(ConfigError, match="unknown cohort"):
        Chapter(run, "01_data").value("n", 1, cohort="patients")


def test_a_table_fills_the_pattern_of_its_keys(run):
    chapter = Chapter(run, "05_reader_comparison")
    table = pd.DataFrame({"who": ["R1", "R2"], "site": ["B", "B"], "share": [0.5, None], "method": ["x", "no case"]})
    chapter.record(table, "sensitivity_{who}_{site}", "share", unit="%", scale=100)
    assert chapter.values["sensitivity_r1_b"]["text"] == "50.0 %"
    assert chapter.values["sensitivity_r2_b"]["text"] == "not available (no case)"


def test_a_label_says_how_a_number_is_meant_wherever_it_is_printed(run):
    chapter = Chapter(run, "07_prognosis")
    chapter.value("logrank_single_p", 0.012, unit="p", label="nominal")
    chapter.value("logrank_age_sex_p", None, unit="p", label="nominal", text="one group")
    table = pd.DataFrame({"predictor": ["pair"], "p": [0.5]})
    chapter.record(table, "logrank_{predictor}_p", "p", unit="p", label="nominal", claims=["C126"])
    texts = {key: entry["text"] for key, entry in chapter.values.items()}
    assert texts["logrank_single_p"] == "p = 0.012 (nominal)"
    assert texts["logrank_age_sex_p"] == "not available (one group)"
    assert texts["logrank_pair_p"] == "p = 0.5 (nominal)"
    assert "C126" in chapter.values["logrank_pair_p"]["claims"]


def test_files_of_a_chapter_are_the_same_at_every_execution(run):
    contents = []
    for _ in range(2):
        chapter = Chapter(run, "03_cross_validation")
        chapter.value("auc_internal_mean", 0.9, low=0.8, high=0.95, unit="AUC")
        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0], label="line")
        chapter.table("folds", pd.DataFrame({"fold": [0], "auc": [0.123456789012345]}), "Folds.")
        chapter.figure("curve", figure, "A curve.")
        chapter.close()
        files = sorted(path for path in run.chapter("03").rglob("*") if path.is_file())
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"values.json", "captions.json", "folds.csv", "curve.png", "curve.svg"}
    assert b"0.123456789012345" in contents[0]["folds.csv"]


def test_a_figure_holds_no_date():
    figure = Figure()
    figure.subplots().plot([0, 1])
    assert b"<dc:date>" not in render(figure, "svg")
    assert b"Software" not in render(figure, "png")


def test_closing_replaces_the_whole_chapter(run):
    first = Chapter(run, "01_data")
    first.table("old", pd.DataFrame({"a": [1]}), "Old.")
    first.close()
    Chapter(run, "01_data").close()
    assert not (run.chapter("01") / "tables" / "old.csv").exists()


def test_a_key_of_two_chapters_is_an_error_that_names_both(run):
    for name in ("01_data", "02_model"):
        chapter = Chapter(run, name)
        chapter.value("n_scans", 1)
        chapter.close()
    with pytest.raises(ConfigError, match="01 and 02"):
        read_values(run)


def test_table_text_cannot_break_out_of_its_cell():
    page = table_html(pd.DataFrame({"note": ["<script>alert(1)</script>"]}))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_phantom_run_says_first_that_it_is_simulated(run):
    assert banner(run).startswith("Simulated scans:")


def test_counts_that_a_missing_cell_made_floats_are_printed_whole_and_shares_are_not():
    table = pd.DataFrame({"age": [24.0, None], "auc": [1.0, 0.0]})
    cells = re.findall(r"<td>(.*?)</td>", table_html(table))
    assert cells == ["24", "1.00", "", "0.000"]
    small = pd.DataFrame({"p": [1e-6, 0.012], "difference": [-0.0001, -0.2]})
    assert re.findall(r"<td>(.*?)</td>", table_html(small)) == ["&lt; 0.0001", "0.000", "0.012", "-0.200"]
    assert (format_value(4.0, unit="day"), format_value(4.5, unit="days")) == ("4 day", "4.50 days")


def test_a_run_says_what_its_network_starts_from(run, tmp_path, monkeypatch):
    assert initialisation(run) == "COVID3D starts from scratch: no pretrained weights exist at this width."
    paper = open_run("paper")
    assert initialisation(paper) == "COVID3D starts from scratch: the Kinetics-600 weights are not at hand."
    (tmp_path / KINETICS).parent.mkdir(parents=True)
    (tmp_path / KINETICS).touch()
    assert initialisation(paper) == "COVID3D starts from Kinetics-600."
    assert "width" in initialisation(run)
    shown: list[str] = []
    monkeypatch.setattr("covid3d.chapter._display_html", shown.append)
    Chapter(paper, "03_cross_validation").show_banner()
    Chapter(paper, "01_data").show_banner()
    assert "starts from Kinetics-600" in shown[0]
    assert "starts from" not in shown[1]
