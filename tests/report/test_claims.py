"""The ledger: 142 rows, and no verdict on simulated scans that only real ones could carry."""

from pathlib import Path

import pytest

from covid3d.report import claims
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
@pytest.mark.parametrize("kind", claims.NEVER_JUDGED_ON_PHANTOM)
@pytest.mark.parametrize("value", [0.78, 0.1, 27, True, None])
def test_phantom_runs_judge_no_cohort_result_interpretation_or_figure(basis, kind, value):
    found = claims.verdict(claim(basis=basis, kind=kind, expected="27"), entry(value, 0, 1), "phantom")
    assert found not in claims.JUDGEMENTS


def test_software_facts_are_judged_on_any_run():
    layers = claim(claim_id="C001", kind="method", basis="software", expected="27")
    assert claims.verdict(layers, entry(27), "phantom") == "agrees"
    assert claims.verdict(layers, entry(26), "phantom") == "disagrees"
    assert claims.verdict(layers | {"reason": "a smaller profile"}, entry(26), "phantom") == "differs by definition"


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
    assert claims.verdict(claim(), entry(value, low, high), "public") == expected


@pytest.mark.parametrize("cohort", ["phantom", "public", "site"])
@pytest.mark.parametrize("basis", ["input", "performance", "software", "definition"])
def test_a_missing_value_is_not_available_whatever_the_claim(basis, cohort):
    assert claims.verdict(claim(basis=basis), entry(None), cohort) == "not available"


@pytest.mark.parametrize("cohort", ["public", "site"])
def test_counts_of_another_cohort_differ_by_definition(cohort):
    scans = claim(claim_id="C008", kind="cohort", basis="input", value="397", expected="397")
    assert claims.verdict(scans, entry(120), cohort) == "differs by definition"
    assert claims.verdict(scans, entry(397), cohort) == "agrees"


def test_a_general_statement_can_be_refuted_by_real_scans():
    peak = {row["claim_id"]: row for row in claims.load_claims().to_dict("records")}["C109"]
    assert claims.verdict(peak, entry(8.0), "public") == "agrees"
    assert claims.verdict(peak, entry(3.0), "public") == "disagrees"
    assert claims.verdict(peak, entry(3.0), "phantom") == "by construction"


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
    assert claims.published_number(text) == pytest.approx((number, tolerance))


def test_words_hold_no_number():
    assert claims.published_number("virtually all") is None


def test_the_ledger_has_a_row_for_each_claim_even_of_an_empty_run(run):
    table = claims.ledger(run)
    assert table.shape == (142, len(claims.COLUMNS))
    assert set(table["verdict"]) <= {claims.NOT_AVAILABLE, claims.NOT_RERUNNABLE}


def notebook_of(root, chapter, *cells):
    """Write a notebook whose only content are the given code cells."""
    found = [{"cell_type": "code", "id": f"cell-{number}", "source": [cell]} for number, cell in enumerate(cells)]
    write_json(root / "notebooks" / f"{chapter}.ipynb", {"cells": found})


def test_the_ledger_shows_the_number_that_the_map_names_and_its_cell(run, monkeypatch):
    table = claims.load_claims()
    table.loc[table["claim_id"] == "C001", ["address", "beside"]] = "depth.layers", "depth.pools network"
    monkeypatch.setattr(claims, "load_claims", lambda: table)
    notebook_of(run.root, "02_model", "import covid3d", 'show({"layers": 27}, "depth", "Depth.")')
    show = Show(run, "02_model", {})
    show({"layers": Estimate(27, unit="layers"), "pools": 5}, "depth", "Depth.")
    show.save()
    row = claims.ledger(run).set_index("claim_id").loc["C001"]
    assert (row["verdict"], row["re_run"], row["notebook"], row["cell"]) == (
        "agrees",
        "27 layers",
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
    table = claims.diff(*runs).set_index("key")
    assert table.loc["b.auc", "difference"] == 0.25
    assert not table.loc["b.auc", "equal"]
    assert table.loc["b.n", "equal"]


def test_every_address_of_the_map_is_made_by_a_run(smoke_run):
    """Each address is a number of the run, or the name of a table or figure that a notebook shows."""
    made = claims.read_values(smoke_run).keys() | claims.shown_in(CHECKOUT / "notebooks").keys()
    assert sorted(claims.answers().keys() - made) == []


def test_every_claim_meets_an_address_a_statement_or_a_reason():
    table = claims.load_claims()
    bare = table[(table["address"] == "") & (table["statement"] == "") & (table["reason"] == "")]
    assert bare["claim_id"].tolist() == []
