"""The ledger: 142 rows, and no verdict on simulated scans that only real ones could carry."""

from pathlib import Path

import pandas as pd
import pytest

from covid3d.commands import cli
from covid3d.report import claims
from covid3d.report import verdict as verdicts
from covid3d.run.errors import ConfigError
from covid3d.run.files import write_json
from covid3d.run.profile import Run, open_run
from covid3d.show import Show
from covid3d.stats.estimate import Estimate

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    return open_run("smoke")


def claim(**changes):
    row = {"claim_id": "C064", "kind": "result", "basis": "performance", "value": "0.78", "expected": "", "reason": ""}
    return row | changes


def entry(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "text": str(value)}


def test_there_are_142_claims_and_each_has_a_rule():
    table = claims.load_claims()
    assert len(table) == table["claim_id"].nunique() == 142
    assert set(table["basis"]) == {"software", "printed", "input", "performance", "definition", "private"}


@pytest.mark.parametrize("basis", ["software", "printed", "input", "performance", "definition", "private"])
@pytest.mark.parametrize("kind", verdicts.NEVER_JUDGED_ON_PHANTOM)
@pytest.mark.parametrize("value", [0.78, 0.1, 27, True, None])
def test_phantom_runs_judge_no_cohort_result_interpretation_or_figure(basis, kind, value):
    found = verdicts.verdict(claim(basis=basis, kind=kind, expected="27"), entry(value, 0, 1), "phantom")
    assert found not in verdicts.JUDGEMENTS or (basis, kind) == ("printed", "figure")


def test_only_what_is_printed_is_judged_by_the_print():
    """A check of printed values is never the verdict of a count, a result or a conclusion: it stands in its own column."""
    table = claims.load_claims()
    assert not set(table.loc[table["basis"] == "printed", "kind"]) & {"cohort", "result", "interpretation"}


def test_software_facts_are_judged_on_any_run():
    layers = claim(claim_id="C001", kind="method", basis="software", expected="27")
    assert verdicts.verdict(layers, entry(27), "phantom") == "agrees"
    assert verdicts.verdict(layers, entry(26), "phantom") == "disagrees"
    assert verdicts.verdict(layers | {"reason": "a smaller profile"}, entry(26), "phantom") == "differs by definition"


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.784, 0.6, 0.9, "agrees"),
        (0.70, 0.6, 0.9, "compatible"),
        (0.50, 0.4, 0.6, "disagrees"),
        (0.70, None, None, "disagrees"),
        (None, None, None, "not available"),
    ],
)
def test_real_scans_are_judged_by_value_then_interval(value, low, high, expected):
    assert verdicts.verdict(claim(), entry(value, low, high), "public") == expected


@pytest.mark.parametrize("cohort", ["phantom", "public", "site"])
@pytest.mark.parametrize("basis", ["input", "performance", "software", "definition"])
def test_a_missing_value_is_not_available_whatever_the_claim(basis, cohort):
    assert verdicts.verdict(claim(basis=basis), entry(None), cohort) == "not available"


@pytest.mark.parametrize("cohort", ["public", "site"])
def test_counts_of_another_cohort_differ_by_definition(cohort):
    scans = claim(claim_id="C008", kind="cohort", basis="input", value="397", expected="397")
    assert verdicts.verdict(scans, entry(120), cohort) == "differs by definition"
    assert verdicts.verdict(scans, entry(397), cohort) == "agrees"


def test_a_general_statement_can_be_refuted_by_real_scans():
    peak = {row["claim_id"]: row for row in claims.load_claims().to_dict("records")}["C109"]
    assert verdicts.verdict(peak, entry(8.0), "public") == "agrees"
    assert verdicts.verdict(peak, entry(3.0), "public") == "disagrees"
    assert verdicts.verdict(peak, entry(3.0), "phantom") == "simulated, not comparable"


@pytest.mark.parametrize(
    ("values", "expected"), [((0.13, 0.15), "agrees"), ((0.13, 0.4), "disagrees"), ((0.15, 0.13), "disagrees")]
)
def test_a_claim_of_two_numbers_is_judged_by_both_in_its_order(values, expected):
    gain = claim(kind="interpretation", value="0.13; 0.15")
    assert verdicts.verdict_of_all(gain, [entry(value) for value in values], "public") == expected
    assert verdicts.verdict_of_all(gain, [entry(value) for value in values], "phantom") == "simulated, not comparable"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("b > 0", "the printed side"),
        ("b < 0", "the other side"),
        ("c > 0", "the other side; the interval includes 0"),
        ("b c > 0", "the sides differ; the interval includes 0 in 1 of 2"),
        ("day in 7..10", "inside the printed range"),
        ("day in 8..10", "outside the printed range"),
        ("k/n-l/m > 0", "the other side"),
        ("b lost > 0", ""),
        ("", ""),
    ],
)
def test_a_direction_is_said_with_what_the_intervals_allow(rule, said):
    numbers = {"b": entry(0.4, 0.2, 0.6), "c": entry(-0.1, -0.3, 0.1), "day": entry(7), "lost": entry(None)}
    counts = {"k": entry(1), "n": entry(10), "l": entry(16), "m": entry(39)}
    assert verdicts.direction(rule, numbers | counts) == said


def test_words_say_a_number_and_the_range_of_many():
    numbers = {"x.r1.gap": entry(-11.1), "x.r2.gap": entry(33.3), "x.n": entry(2)}
    assert (
        claims.in_words("{x.*.gap} in {x.n}; {x.lost}; {x.25d*.b}", numbers)
        == "-11.1 to 33.3 in 2; not available; not run"
    )


def test_five_printed_shares_fit_no_count_and_say_so_beside_their_verdict(run):
    table = claims.ledger(run).set_index("claim_id")
    cells = table.loc["C075":"C086"]
    assert cells.index[cells["printed_check"] == "disagrees"].tolist() == ["C076", "C078", "C082", "C083", "C085"]
    assert cells.loc["C083", "print"] == "no count of 20 prints as 83; the nearest shares are 85.0, 80.0 %"
    assert not set(cells["verdict"]) & set(verdicts.JUDGEMENTS)


def test_curves_that_are_announced_and_not_printed_disagree_on_any_run(run):
    assert claims.ledger(run).set_index("claim_id").loc["C094", "verdict"] == "disagrees"


def test_every_finding_names_claims_that_exist():
    named = {claim for text in claims.findings()["claims"] for claim in text.split()}
    assert claims.findings().index.tolist() == [f"F{number}" for number in range(1, 20)]
    assert named <= set(claims.load_claims()["claim_id"])


@pytest.mark.parametrize("noun", ["C012", "C016", "C060", "C062", "C097", "C100", "C104", "C118", "C126", "C129"])
def test_a_number_of_the_ledger_stands_among_words(noun):
    words = claims.load_claims().set_index("claim_id").loc[noun, "words"]
    assert len([word for word in claims.SLOT.sub("", words).split() if word.isalpha()]) >= 3


@pytest.mark.parametrize(
    ("text", "number", "tolerance"),
    [
        ("84,806", 84806, 0.5),
        ("+/-0.01", 0.01, 0.005),
        ("5.3e-5", 5.3e-5, 5e-7),
        (">=2", 2, 0.5),
        ("-0.14; -0.08", -0.14, 0.005),
    ],
)
def test_printed_numbers_are_read_with_half_a_unit_of_their_last_digit(text, number, tolerance):
    assert verdicts.published_number(text) == pytest.approx((number, tolerance))


def test_words_hold_no_number():
    assert verdicts.published_number("virtually all") is None


def test_the_ledger_has_a_row_for_each_claim_even_of_an_empty_run(run):
    table = claims.ledger(run)
    assert table.shape == (142, len(claims.COLUMNS))
    judged_by_print = table["claim_id"].isin(["C087", "C094"])
    assert set(table.loc[~judged_by_print, "verdict"]) <= {verdicts.NOT_AVAILABLE, verdicts.NOT_RERUNNABLE}


def notebook_of(root, chapter, *cells):
    """Write a notebook whose only content are the given code cells."""
    found = [{"cell_type": "code", "id": f"cell-{number}", "source": [cell]} for number, cell in enumerate(cells)]
    write_json(root / "notebooks" / f"{chapter}.ipynb", {"cells": found})


def test_the_ledger_shows_the_number_that_the_map_names_and_its_cell(run, monkeypatch):
    table = claims.load_claims()
    columns = ["address", "beside", "words"]
    table.loc[table["claim_id"] == "C001", columns] = "depth.layers", "depth.pools network", "{depth.layers} in all"
    monkeypatch.setattr(claims, "load_claims", lambda: table)
    notebook_of(run.root, "02_model", "import covid3d", 'show({"layers": 27}, "depth", "Depth.")')
    show = Show(run, "02_model", {})
    show({"layers": Estimate(27, unit="layers"), "pools": 5}, "depth", "Depth.")
    show.save()
    row = claims.ledger(run).set_index("claim_id").loc["C001"]
    assert (row["verdict"], row["re_run"], row["notebook"], row["cell"]) == (
        "agrees",
        "27 layers in all",
        "02_model",
        "cell-1",
    )
    assert row["beside"] == "depth pools: 5"


def test_what_two_cells_show_under_one_name_is_refused(tmp_path):
    for chapter in ("01_data", "02_model"):
        notebook_of(tmp_path, chapter, 'show(table, "scans", "Scans.")')
    with pytest.raises(ConfigError, match="'scans' is also shown in 01_data"):
        claims.shown_in(tmp_path / "notebooks")


def test_an_address_of_two_chapters_is_an_error_that_names_both(run):
    for chapter in ("01_data", "02_model"):
        show = Show(run, chapter, {})
        show({"n": 1}, "scans", "Scans.")
        show.save()
    with pytest.raises(ConfigError, match="chapters 01 and 02"):
        claims.read_values(run)


def test_show_counts_no_agreements_on_simulated_scans(run):
    text = claims.show(run)
    assert text.startswith("simulated scans")
    assert len(text.splitlines()) == 143
    assert "agrees:" not in text


def test_diff_names_what_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    runs = []
    for name, value in (("a", 0.5), ("b", 0.75)):
        runs.append(open_run(name, profile="smoke"))
        show = Show(runs[-1], "04_external_tests", {})
        show({"AUC": value, "n": 3}, "b", "Hospital B.")
        show.save()
    monkeypatch.setattr(claims, "answers", lambda: {"b.auc": ["C064", "C092"]})
    table = claims.diff(*runs).set_index("key")
    assert table.loc["b.auc", ["chapter", "claims", "difference"]].tolist() == ["04", "C064 C092", 0.25]
    assert not table.loc["b.auc", "equal"]
    assert table.loc["b.n", "equal"]


def test_what_one_run_alone_has_is_counted_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    runs = []
    for name, values in (("a", {"AUC": 0.5, "n": 3, "x": 1}), ("b", {"AUC": 0.75, "n": 3, "y": 1, "z": 2})):
        runs.append(open_run(name, profile="smoke"))
        show = Show(runs[-1], "04_external_tests", {})
        show(values, "b", "Hospital B.")
        show.save()
    assert not cli.compare(*runs, tmp_path / "other.csv")
    said = capsys.readouterr().out
    assert said.startswith("a against b: 1 of 2 values that both have differ; 1 only in a, 2 only in b\n")
    assert "b.auc" in said and "b.x" not in said
    assert set(pd.read_csv(tmp_path / "other.csv")["key"]) == {"b.auc", "b.x", "b.y", "b.z"}


def test_every_address_of_the_map_is_made_by_a_run(smoke_run):
    """Each address is a number of the run, or the name of a table or figure that a notebook shows."""
    made = claims.read_values(smoke_run).keys() | claims.shown_in(CHECKOUT / "notebooks").keys()
    assert sorted(claims.answers().keys() - made) == []


def test_every_number_of_version_0_1_has_an_address_or_a_reason(smoke_run):
    """`tests/data/addresses.csv`: the keys of version 0.1 beside the addresses that they have now."""
    table = pd.read_csv(CHECKOUT / "tests" / "data" / "addresses.csv", dtype=str, keep_default_na=False)
    assert table["key_of_0_1"].is_unique and table.loc[table["address"] == "", "remark"].ne("").all()
    assert sorted(set(table["address"]) - {""} - claims.read_values(smoke_run).keys()) == []


def test_every_claim_meets_an_address_a_statement_or_a_reason():
    table = claims.load_claims()
    bare = table[(table["address"] == "") & (table["statement"] == "") & (table["reason"] == "")]
    assert bare["claim_id"].tolist() == []
