"""Chapter 9: what it shows is part of its fingerprint, a campaign that was not run says so, and truth is judged by its bars."""

from dataclasses import replace

import pandas as pd
import pytest
from conftest import furnish
from synthetic_run import synthetic_run

from covid3d.chapters import explanation, measured, simulator
from covid3d.cohort.manifest import read_manifest, write_manifest
from covid3d.report import chapter as execution
from covid3d.run import campaigns, steps
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.run.files import write_csv

STORED = steps.STEPS["09_simulator"].stored


def truth_of(scans, *, grows):
    """A truth in which the evidence grows with the burden of the lung, or shrinks."""
    sign = 2 * scans["label"].astype(int) - 1
    burden = 0.005 + 0.02 * scans.groupby("patient_id").cumcount()
    logit = sign * (20 * burden if grows else 4 - 20 * burden)
    known = {"kind": "manifest", "burden_fraction": burden, "phase": -6.0}
    return scans[["scan_id", "patient_id", "label"]].assign(**known, oracle_logit=logit, oracle_grid_logit=logit / 2)


@pytest.fixture(scope="module")
def sim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVID3D_ROOT", str(folder))
        run = synthetic_run(folder)
    scans = read_manifest(run.manifest)
    truth = truth_of(scans, grows=True)
    merged = scans.merge(truth.drop(columns=["patient_id", "label", "kind"]), on="scan_id")
    stored = {name: campaigns.read(name) for name in STORED}
    return simulator.Simulator(run, truth, merged, stored, run.root / "picture.jpg")


@pytest.mark.parametrize("name", STORED)
def test_a_changed_campaign_changes_the_chapters_fingerprint(root, make_run, monkeypatch, tmp_path, name):
    furnish(root)
    results = tmp_path / "results"
    monkeypatch.setattr(execution, "RESULTS", results)
    write_csv(results / f"{name}.csv", pd.DataFrame({"value": [1]}))
    before = execution.own_fingerprint(make_run(), "09_simulator")
    write_csv(results / f"{name}.csv", pd.DataFrame({"value": [2]}))
    assert execution.own_fingerprint(make_run(), "09_simulator") != before


def test_a_changed_picture_changes_the_chapters_fingerprint(root, make_run):
    furnish(root)
    before = execution.own_fingerprint(make_run(), "09_simulator")
    (root / steps.STEPS["09_simulator"].files[0]).write_bytes(b"another picture")
    assert execution.own_fingerprint(make_run(), "09_simulator") != before


def test_a_changed_order_form_changes_the_fingerprint_of_the_cohorts_chapter(root, make_run):
    furnish(root)
    form = root / "order.csv"
    table = read_manifest(make_run("other").order_form)
    write_manifest(form, table)
    run = make_run("own", manifest=str(form))
    before = execution.own_fingerprint(run, "01_data")
    write_manifest(form, table.assign(n_slices=7))
    assert execution.own_fingerprint(run, "01_data") != before


def test_every_declared_campaign_is_shown_in_words(sim):
    of_chapter_4 = {"phantom_boxes", "phantom_depth"}
    assert set(measured.WORDS) == set(STORED) | of_chapter_4
    for name in STORED:
        assert not sim.campaign(name).empty


def test_a_campaign_that_was_not_run_says_so_everywhere(sim):
    bare = replace(sim, stored=dict.fromkeys(STORED))
    assert [bare.campaign(name)["result"].tolist() for name in STORED] == [["not measured yet"]] * len(STORED)
    assert set(bare.trust()["verdict"]) == {"not measured yet"}
    assert not bare.realism_summary()["held"].known
    assert set(bare.campaigns()["commit"]) == {"not measured yet"}
    bare.plot_realism()


def test_an_undeclared_campaign_is_refused_with_the_nearest_name(sim):
    with pytest.raises(ConfigError, match="phantom_course"):
        sim.campaign("phantom_curse")


def test_one_row_that_misses_its_bar_is_counted(sim):
    groups = ("header", "lung", "oracle_full", "oracle_grid")
    table = pd.DataFrame([(place, group) for place in "ABC" for group in groups], columns=["hospital", "group"])
    table = table.assign(verdict="reached")
    full = len(table) - 6
    sim = replace(sim, stored={**sim.stored, "phantom_fairness": table})
    table = table.copy()
    assert sim.trust().loc["fairness", ["of", "verdict"]].tolist() == [full, "reached"]
    table.loc[0, "verdict"] = "not reached"
    found = replace(sim, stored={**sim.stored, "phantom_fairness": table}).trust()
    assert (found.loc["fairness", "holds"].value, found.loc["fairness", "verdict"]) == (full - 1, "not reached")
    assert found.loc["disease", "verdict"] == "reached"


def test_rejections_are_only_bounded_in_the_null_world(sim):
    table = sim.stored["null_world"]
    table = table.assign(rejections=table["rejections"].mask(table["world"] != "null", 400))
    assert replace(sim, stored={**sim.stored, "null_world": table}).trust().loc["null world", "verdict"] == "reached"
    shown = measured.in_words("null_world", table)
    assert shown.loc["effect", "allowed"].isna().all()


def test_evidence_that_shrinks_with_disease_misses_the_bars(sim):
    grown, shrunk = sim.evidence(), replace(sim, truth=truth_of(sim.scans, grows=False)).evidence()
    row = "rank correlation with burden, COVID+"
    assert (grown.loc[row, "found"].value, grown.loc[row, "verdict"]) == (pytest.approx(1), "reached")
    assert (shrunk.loc[row, "found"].value, shrunk.loc[row, "verdict"]) == (pytest.approx(-1), "not reached")
    assert grown.loc["rank correlation with burden, COVID-", "verdict"] == "not measured yet"  # nobody was followed


def test_measured_opacity_is_set_beside_the_true_burden(sim, monkeypatch):
    burden = sim.truth.set_index("scan_id")["burden_fraction"]
    table = pd.DataFrame({"above_700": burden, "above_500": -burden, "mean_hu": float("nan")})
    monkeypatch.setattr(simulator.opacity, "measured", lambda run: table)
    found = sim.opacity()
    assert found["within patients"].map(float).tolist()[:2] == [1.0, -1.0]
    assert found["rank correlation with burden"].map(float).tolist()[:2] == pytest.approx([1.0, -1.0])
    assert not found.loc["mean HU", "within patients"].known


def test_the_true_course_counts_days_as_the_truth_does(sim):
    course = sim.course()["in this run"]
    assert course["followed patients"] == 7
    assert course["median peak, days after the first scan"].value == 6  # phase -6 on day 0
    assert course["latest peak, days after onset"].value == 9  # the first scan is on day 3 after onset
    assert course["ill on the first scan, %"].value == 0
    assert set(sim.course()["standing"]) == {"by construction"}
    assert sim.special_cases().loc["censored patients"].tolist() == [1, "C"]
    shown = sim.scans["patient_id"] == explanation.case_patient(sim.scans)
    number, who = sim.special_cases().loc["scans of Figure 4's patient"]
    assert number == shown.sum() and who.startswith(f"{sim.scans.loc[shown, 'age'].iloc[0]:.0f} years; peak on day 6")


def test_stored_tables_are_in_words_and_count_in_whole_numbers():
    bars = measured.stored("seeds").index
    assert {"perfect reader: rank correlation with burden, COVID-", "3D above 2D hospitals pooled"} <= {*bars}
    assert not any("_" in name for name in measured.stored("null_smoke").index)
    assert str(measured.stored("phantom_course").loc["followed patients at A", "value"]) == "49"
    trained = measured.stored("phantom_difficulty").loc["as trained", "change"]
    assert {change.short() for change in trained} == {"it is the reference"}


def test_real_scans_have_no_such_chapter(root, monkeypatch):
    run = synthetic_run(root)
    monkeypatch.setattr(steps, "ensure_needs", lambda run, name: None)
    monkeypatch.setattr(simulator, "require_certificate", lambda run: None)
    with pytest.raises(MissingResult, match="no truth"):
        simulator.load(run)
