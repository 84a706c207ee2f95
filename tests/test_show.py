"""What a notebook shows it keeps: addresses of words, texts, files, and equal content gives equal bytes."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from covid3d.figures.words import has_pixels, seen
from covid3d.run.errors import ConfigError
from covid3d.show import Show, cells, entry_of, render, slug, table_html, three_columns
from covid3d.stats.estimate import Estimate, p_value, value_text


@pytest.fixture
def show(make_run):
    return Show(make_run(), "03_cross_validation", {"folds.0.auc": ["C095", "C037"], "curve": ["C001"]})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (84806, "slices", "84,806 slices"),
        (0.78125, "", "0.781"),
        (83.333, "%", "83.3 %"),
        (5.3e-5, "p", "p < 0.0001"),
        (0.0033, "p", "p = 0.0033"),
        (12.0, "days", "12 days"),
        (True, "", "yes"),
    ],
)
def test_a_number_is_printed_with_its_unit(value, unit, text):
    assert value_text(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0002, "0.0002"),
        (-7.5e-05, "-0.000075"),
        (0.00017655, "0.00018"),
        (0.0009996, "0.001"),
        (0.00123, "0.001"),
        (0, "0"),
        (-0.0, "0.000"),
        (-2.8e-17, "0.000"),
        (0.9999999999999999, "1.00"),
        (0.9996, "1.000"),
    ],
)
def test_only_what_is_zero_but_for_rounding_errors_prints_as_zero(value, text):
    assert value_text(value) == text
    assert value_text(value * 100, "%").startswith("0.000") == (abs(value) < 1e-12 and isinstance(value, float))


def test_small_limits_are_not_printed_as_zero():
    assert str(Estimate(-7.5e-05, -0.00024, 9.007e-05)) == "-0.000075 (95 % CI -0.00024 to 0.00009)"
    assert "0.001 (0.00018–0.006)" in table_html(pd.DataFrame({"n": [1], "share": [Estimate(0.001, 0.000177, 0.0056)]}))


def test_an_estimate_prints_its_limits_its_remark_or_why_there_is_none():
    assert str(Estimate(0.78, 0.6, 0.89)) == "0.780 (95 % CI 0.600 to 0.890)"
    assert str(Estimate(0.194, 0.194, 0.194)) == "0.194 (no interval: nothing varies)"
    assert str(Estimate(0.5, remark="nominal")) == "0.500 (nominal)"
    assert str(p_value(0.012, "nominal")) == "p = 0.012 (nominal)"
    assert str(Estimate.missing("one class only")) == "not available (one class only)"
    assert Estimate(0.78, 0.6, 0.89).short() == "0.780 (0.600 to 0.890)"


def test_estimates_sort_by_value_and_missing_ones_come_last():
    values = pd.Series([Estimate(0.9), Estimate.missing("why"), Estimate(0.5)])
    assert [estimate.value for estimate in sorted(values)][:2] == [0.5, 0.9]


def test_shares_become_per_cent_with_their_limits():
    found = Estimate(0.5, 0.25, 0.75).of_unit("%")
    assert (found.value, found.low, found.high) == (50, 25, 75)


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (("table_1", "COVID3D", "hospital B"), "table_1.covid3d.hospital_b"),
        (("mass", "COVID+", "AUC"), "mass.covid_plus.auc"),
        (("mass", "COVID-"), "mass.covid_minus"),
        (("gain", "two scans - one scan", "p"), "gain.two_scans_one_scan.p"),
    ],
)
def test_an_address_is_made_of_the_words_that_the_reader_sees(words, address):
    assert slug(*words) == address


def test_every_number_of_a_table_has_an_address(show):
    table = pd.DataFrame({"fold": [0, 1], "AUC": [Estimate(0.8, 0.7, 0.9), Estimate(0.6)], "n": [8, 9]})
    show(table, "folds", "Folds.")
    assert set(show.values) == {"folds.0.auc", "folds.0.n", "folds.1.auc", "folds.1.n"}
    assert show.text("folds.0.auc") == "0.800 (95 % CI 0.700 to 0.900)"
    assert show.values["folds.0.auc"]["low"] == 0.7
    assert show.values["folds.1.n"] == entry_of(9) | {"row": "1", "cohort": "phantom"}


def test_a_named_index_names_the_rows_also_with_two_levels(show):
    table = pd.DataFrame({"model": ["3D", "3D"], "site": ["B", "C"], "AUC": [0.8, 0.7]}).set_index(["model", "site"])
    show(table, "table_1", "Table 1.")
    assert show.values["table_1.3d.c.auc"]["value"] == 0.7


def test_named_numbers_need_no_word_for_their_only_column(show):
    show({"perfect reader": Estimate(0.95), "log-rank p": 0.012}, "ceiling", "The ceiling.")
    show(pd.Series({"metadata": Estimate(0.5)}), "blind", "Blind models.")
    assert show.text("ceiling.log_rank_p") == "p = 0.012"
    assert set(show.values) == {"ceiling.perfect_reader", "ceiling.log_rank_p", "blind.metadata"}


def test_two_numbers_of_one_address_are_refused(show):
    table = pd.DataFrame({"model": ["3D", "3D"], "site": ["B", "C"], "AUC": [0.8, 0.7]})
    with pytest.raises(ConfigError, match="two numbers have the address 'table_1.3d.site'"):
        show(table, "table_1", "Table 1.")


def test_rows_without_a_heading_and_doubled_names_are_refused_not_lost(show):
    with pytest.raises(ConfigError, match="words but no heading"):
        show(pd.DataFrame({"AUC": [0.5]}, index=["3D"]), "table", "A table.")
    with pytest.raises(ConfigError, match="two numbers have one name"):
        show(pd.Series([1, 2], index=["a", "a"]), "numbers", "Numbers.")


def test_a_name_that_is_no_address_is_refused(show):
    with pytest.raises(ConfigError, match="Use 'table_1'"):
        show({"a": 1}, "Table 1", "A table.")


def test_a_cell_that_is_run_again_replaces_what_it_showed(show):
    for value in (1, 2):
        show({"scans": value}, "counts", "Counts.")
    assert show.values["counts.scans"]["value"] == 2


def test_missing_numbers_become_null_and_give_their_reason(show):
    show({"AUC": Estimate.missing("one class only"), "p": math.nan}, "b", "B.")
    show.save()
    stored = json.loads((show.run.chapter("03") / "values.json").read_text())
    assert stored["b.auc"]["value"] is None
    assert stored["b.auc"]["text"] == "not available (one class only)"
    assert stored["b.p"]["text"] == "not available"


def test_numpy_scalars_are_stored_as_plain_numbers(show):
    show({"scans": np.int64(397), "share": np.float32(0.5)}, "counts", "Counts.")
    assert type(show.values["counts.scans"]["value"]) is int
    assert type(show.values["counts.share"]["value"]) is float


def test_captions_print_the_claims_that_they_answer(show):
    show(pd.DataFrame({"fold": [0], "AUC": [0.5]}), "folds", "Folds.")
    assert show.tables["folds"][1] == "Folds. Answers C037, C095."


def test_files_of_a_chapter_are_the_same_at_every_execution(make_run):
    run, contents = make_run(), []
    for _ in range(2):
        show = Show(run, "03_cross_validation", {})
        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0], label="line")
        show(pd.DataFrame({"fold": [0], "auc": [0.123456789012345]}), "folds", "Folds.")
        show(figure, "curve", "A curve.")
        show.save()
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


def test_saving_replaces_the_whole_chapter(make_run):
    run = make_run()
    first = Show(run, "01_data", {})
    first({"a": 1}, "old", "Old.")
    first.save()
    Show(run, "01_data", {}).save()
    assert not (run.chapter("01") / "tables" / "old.csv").exists()


def test_a_file_gets_three_columns_for_an_estimate():
    table = pd.DataFrame({"model": ["a", "b"], "AUC": [Estimate(0.8, 0.7, 0.9), Estimate.missing("why")], "n": [3, 4]})
    written = three_columns(table)
    assert list(written.columns) == ["model", "AUC", "AUC low", "AUC high", "n"]
    assert written["AUC high"].tolist()[0] == 0.9 and math.isnan(written["AUC"][1])


def test_text_cannot_break_out_of_its_cell():
    page = table_html(pd.DataFrame({"note": ["<script>alert(1)</script>"]}))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_counts_with_a_missing_cell_stay_whole_and_p_values_are_printed_as_such():
    page = table_html(pd.DataFrame({"n": [397.0, math.nan], "p": [0.00001, 0.5], "share": [0.25, 1.0]}))
    assert "<td data-label='p'>&lt; 0.0001</td><td data-label='share'>0.250</td>" in page
    assert "<th scope='row'>397</th>" in page and "<th scope='row'></th><td data-label='p'>0.5</td>" in page


def test_an_estimate_takes_one_cell_and_limits_below_zero_take_no_dash():
    table = pd.DataFrame(
        {"model_name": ["3D"], "AUC at B": [Estimate(0.882, 0.737, 0.953)], "gain": [Estimate(0.0, -1.0, 1.0)]}
    )
    page = table_html(table, "AUCs.", "aucs")
    assert "<td data-label='AUC at B'>0.882 (0.737–0.953)</td>" in page
    assert "0.000 (-1.00 to 1.00)" in page
    assert "<th scope='col'>model name</th>" in page and "id='table-aucs'" in page


def test_an_empty_table_says_none():
    assert "<td colspan='2'>none</td>" in table_html(pd.DataFrame({"scan": [], "why": []}))


def test_a_text_alternative_says_what_is_seen():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [1, 0], label="network")
    axes.set(xlabel="day", ylabel="logit", title="Hospital B", xlim=(0, 1), ylim=(0, 1))
    assert seen(figure) == "Hospital B; 1 line; x: day, 0 to 1; y: logit, 0 to 1; shown: network."
    assert not has_pixels(figure)
    axes.imshow([[0, 1]])
    assert has_pixels(figure) and "; picture;" in seen(figure)


def test_cells_of_a_table_name_p_columns():
    table = pd.DataFrame({"a": ["x-y"], "b": ["Z"], "p": [0.1]})
    assert cells(table, "t", 2, alone=False) == [("t.x_y.z.p", "x-y, Z", 0.1, "p")]
