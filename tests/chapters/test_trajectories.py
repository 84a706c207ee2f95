"""s(t): who scores whom, the noise band, peaks, the pooled curve and the patient of Figure 4."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_run import synthetic_run

from covid3d.chapters import evidence, explanation, opacity, random_labels, task1, trajectories, trajectory_scores
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import scoring, training
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.stats import courses


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of noise with scores of B and C by both folds, whose own steps are computed."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("trajectories")
    patch.setenv("COVID3D_ROOT", str(root))
    patch.setattr(steps, "ensure_needs", lambda run, name: None)
    patch.setattr(trajectories, "require_certificate", lambda run: None)
    made = synthetic_run(root)
    rows = [("covid3d_fold", fold, "B004-0", "B", 0, 5.0 + fold) for fold in (0, 1)]
    rows += [("covid3d_fold", fold, "B000-0", "B", 1, 7.0 + 3 * fold) for fold in (0, 1)]
    rows += [("covid3d", 1, "B004-0", "B", 0, 99.0)]
    table = pd.DataFrame(rows, columns=["model", "fold", "scan_id", "hospital", "label", "logit"])
    write_csv(made.path("external", "predictions.csv"), table)
    trajectory_scores.ensure_trajectories(made)
    explanation.ensure_explain(made)
    patch.setattr(task1, "require_certificate", lambda run: None)
    random_labels.ensure_random_labels(made)
    evidence.ensure_evidence(made)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def s(run):
    return trajectories.load(run)


def test_a_patient_of_a_is_always_scored_by_the_fold_that_never_saw_the_patient(run, s):
    splits = pd.read_csv(run.splits)
    for row in s.scores.itertuples():
        seen = splits.query(f"patient_id == '{row.patient_id}' and split == 'train'")["fold"]
        assert row.fold not in set(seen)
    assert set(s.scores.query("hospital != 'A'")["fold"]) == {1}, "B and C by the deployed fold"
    assert s.scores.groupby("patient_id")["fold"].nunique().max() == 1, "one scale a patient"


def test_the_score_is_the_logit_of_that_model(run, s):
    row = s.scores.set_index("scan_id").loc["A002-2"]
    model = training.load_fold(run, "task1", "covid3d", int(row["fold"]))
    again = scoring.score(model, Store.of(run).stack(["A002-2"]), [nominal_window(run.profile.windows)])
    assert row["logit"] == pytest.approx(float(again[0, 0]), abs=1e-4)
    assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["logit"])))


def test_the_checks_find_what_is_wrong(s):
    assert set(s.checks().values()) == {True}
    probability = s.scores["probability"]
    assert not replace(s, scores=s.scores.assign(probability=1 - probability)).checks()["probability rises with s"]
    moved = replace(s, scores=s.scores.assign(probability=probability**2)).checks()
    assert moved["probability rises with s"] and not moved["s is the logit of the probability"]
    assert not replace(s, split_scans=s.split_scans | {"A002-2"}).checks()["no follow-up scan is in a split"]
    assert not replace(s, scores=s.scores.assign(logit=np.nan)).checks()["every scan is scored"]


def test_a_day_that_is_missing_or_not_whole_has_its_place_in_the_case(s):
    days = [0.0, float("nan"), 4.5, 9.0, 12.0][: len(s.case)]
    case = replace(s, case=s.case.assign(day=days))
    assert case.case_study()["day"].isna().sum() == 1 and case.case_study()["day"].iloc[2] == 5
    assert len(case.case_evidence()) == len(days)


def test_follow_ups_rescans_and_controls_are_kept_apart(s):
    assert s.scores["kind"].value_counts().to_dict() == {"first": 30, "followup": 13, "rescan": 3, "control": 2}
    assert set(s.course["kind"]) == {"first", "followup"}
    assert set(s.controls["patient_id"]) == {"A008"}
    assert set(s.course["patient_id"]) == {*(f"A{number:03d}" for number in range(6)), "C000"}


def test_followed_patients_are_counted_and_a_censored_stay_has_no_discharge(s):
    table = s.course.set_index("patient_id")
    assert table.loc["C000", "days_to_discharge"].isna().all()
    late = courses.late_scans(s.course)
    assert pd.isna(late["C000"]) and late["A000"] and not late["A005"]
    assert list(s.followed().values()) == [6, 1, 7, 3]
    assert replace(s, late_days=7).followed()["of A without a late scan"] == 2


def test_the_noise_band_comes_from_same_day_pairs(s):
    by_id = s.scores.set_index("scan_id")["logit"]
    differences = np.array([by_id[f"{patient}-0r"] - by_id[f"{patient}-0"] for patient in ("A000", "A001", "B000")])
    assert s.band.rescan_sd == pytest.approx(np.sqrt(np.mean(differences**2)))
    assert s.band.half_width >= stats.t.ppf(0.975, 3) * s.band.rescan_sd
    assert s.noise()["same-day pairs"] == 3


def test_a_cohort_without_rescans_has_no_band_and_calls_no_change_larger(s):
    bare = replace(s, scores=s.scores[s.scores["kind"] != "rescan"])
    assert not bare.noise()["half-width"].known
    counted = bare.shares().set_index("what")["patients"]
    assert counted["of these, fall from the peak beyond noise"] == "0 of 0"
    assert counted["of these, s within the noise band around 0"] == "0 of 0"
    assert not bare.case_study()["moved beyond noise"].any()


def test_shares_count_patients_with_wilsons_interval(s):
    table = s.shares().set_index("what")
    share = table.loc["s above 0 at the first scan", "share"]
    assert table.loc["s above 0 at the first scan", "patients"].endswith("of 7")
    assert share.low <= share.value <= share.high
    assert table.loc["last scan near discharge", "patients"] == "3 of 6"
    assert replace(s, late_days=7).shares().set_index("what").loc["last scan near discharge", "patients"] == "4 of 6"


def with_s(found, values):
    """The same courses with other scores s of the followed COVID+ patients and of the controls; a band one wide."""
    course = found.course.assign(logit=values(found.course), burden_fraction=found.course["day"] / 100)
    controls = found.controls.assign(logit=values(found.controls))
    return replace(found, course=course, controls=controls)


def test_the_bars_hold_for_s_that_follows_the_burden_and_fail_for_s_that_runs_against_it(s):
    """Burden rises from day to day: s = day / 100 has rank correlation 1 and the same highest days, -day neither."""
    table = with_s(s, lambda rows: rows["day"] / 100).bars()
    assert (
        table.loc["s follows burden", "found"].value == 1 and table.loc["highest s on days 7 to 10", "found"].value == 0
    )
    assert table["verdict"].tolist()[:3] == ["reached"] * 3
    table = with_s(s, lambda rows: 100 - rows["day"]).bars()
    assert table.loc["s follows burden", "found"].value == -1
    assert table["verdict"].tolist()[:3] == ["not reached"] * 3


def test_controls_that_surely_rise_fail_their_bar(s):
    """Four controls, each 1 to 1.3 higher on day 8 than at first, or lower."""
    rows = [(name, index, 8.0 * index) for name in "PQRS" for index in (0, 1)]
    table = pd.DataFrame(rows, columns=["patient_id", "scan_index", "day"])
    table["logit"] = table["scan_index"] * (1 + (table["patient_id"].map(ord) % 4) / 10)
    said = [
        replace(s, controls=table.assign(logit=sign * table["logit"])).bars()["verdict"].iloc[3] for sign in (1, -1)
    ]
    assert said == ["not reached", "reached"]


def test_a_last_scan_is_near_zero_when_it_lies_within_the_noise_band(s):
    """Three patients have a late scan: s is set to 0, to just below the band's width, and above it."""
    late = s.course.groupby("patient_id").tail(1).loc[lambda rows: rows["days_to_discharge"] <= 3].index
    values = s.band.half_width * np.array([0.0, -0.99, 1.01])
    moved = s.course.assign(logit=s.course["logit"].mask(s.course.index.isin(late), pd.Series(values, index=late)))
    counted = replace(s, course=moved).shares().set_index("what")["patients"]
    assert counted["of these, s within the noise band around 0"] == "2 of 3"
    high = replace(s, course=s.course.assign(logit=s.band.half_width * (s.course["patient_id"] == "A000") * 1.01))
    assert high.shares().set_index("what")["patients"]["highest s within the noise band around 0"] == "6 of 7"


def test_medians_and_spans_of_the_highest_scan_are_of_the_peaks(s):
    peaks = courses.peak_table(s.course)
    assert s.peaks()["days after onset"].value == peaks["peak_days_since_onset"].median()
    assert s.peaks()["days before discharge"].value == peaks["peak_to_discharge"].median()
    table = s.peak_days().set_index("days")
    assert table["patients"].sum() == 7 and table["share"].sum() == pytest.approx(1)
    assert table.loc["7 to 10", "patients"] == peaks["peak_day"].between(7, 10).sum()


def test_fold_offsets_and_variation(s):
    table = s.fold_offsets()
    own = s.scores.query("kind == 'first' and hospital == 'A' and fold == 0 and label == 1")["logit"].mean()
    assert table.loc[0, "mean of COVID+"] == pytest.approx(own)
    assert table["mean at B and C"].tolist() == [6, 8]
    assert s.fold_variation().loc["B", "SD"] == pytest.approx(np.sqrt(0.5)), (
        "differences of 1 and 3, their mean taken off"
    )


def test_a_scan_is_placed_among_the_negatives_of_its_own_fold(s):
    """One fold's scale lies 100 higher: neither percentile nor range may change with it."""
    moved = [
        table.assign(logit=table["logit"] + 100 * table["fold"]) for table in (s.scores, s.course, s.external, s.case)
    ]
    after = replace(s, **dict(zip(("scores", "course", "external", "case"), moved, strict=True)))
    inside = "of these, last scan like COVID-"
    before = s.shares().set_index("what").loc[inside, "patients"]
    assert after.shares().set_index("what").loc[inside, "patients"] == before
    assert after.case_study()["percentile"].tolist() == s.case_study()["percentile"].tolist()


def test_every_fold_scores_the_negatives_of_b_and_c(s):
    negatives = s.negatives()
    assert not negatives.duplicated(["fold", "scan_id"]).any()
    found = negatives.query("scan_id == 'B004-0'").set_index("fold")["logit"].to_dict()
    own = s.scores.set_index("scan_id").loc["B004-0", "logit"]
    assert found == pytest.approx({0: 5.0, 1: own}), "the deployed fold's own score stays"


def test_each_hospital_has_a_panel_and_time_runs_to_the_right(s):
    panels = s.plot_curve(s.curve()).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["hospital A, 6 patients", "hospital C, 1 patient"]
    (backwards,) = s.plot_curve(s.curve("days_to_discharge"), "days_to_discharge").axes
    assert backwards.xaxis_inverted() and not panels[0].xaxis_inverted()
    bare = s.plot_curve(s.curve(controls=True), controls=True)
    assert bare.get_suptitle() == "no population curve: too few patients or days"


def test_what_a_curve_rests_on_is_told_with_it(s):
    table = trajectories.fits({"since the first scan": s.curve(), "before discharge": s.curve("days_to_discharge")})
    assert table["patients"].tolist() == [7, 6], "the censored stay has no discharge"
    assert table["scans"].tolist() == [len(s.course), s.course["days_to_discharge"].notna().sum()]


# --- the patient of Figure 4 -----------------------------------------------------------------------------------------


def test_figure_4_shows_the_patient_whose_maps_were_made(run, s):
    """Nobody here is the paper's patient: scores, maps and caption follow one and the same second choice."""
    assert s.case["patient_id"].unique().tolist() == ["A000"]
    assert "nobody here has 24 years, 5 scans: one with 3 scans is shown" in s.case_words()
    explained = explanation.read_summary(run).query("why == 'case'")
    assert set(explained["scan_id"]) >= set(s.case["scan_id"])
    assert len(s.plot_case().axes) == 4 * 3 + 3 + 1, (
        "four rows, three of them with a scale, and s; no burden without truth"
    )


def test_the_evidence_of_the_case_stands_beside_its_true_burden(run, s):
    assert str(s.case_evidence()["true burden"].iloc[0]) == "not available (real scans have no known burden)"
    assert not s.case_follows()["s and true burden"].known
    five = pd.concat([s.case] * 2, ignore_index=True).head(5)
    five = five.assign(
        burden_fraction=[0.1, 0.3, 0.2, 0.5, 0.4],
        positive_mass=[1.0, 3, 2, 5, 4],
        together=[2.0, 3, 1, 4, 5],
        without_lesions=[5.0, 4, 3, 2, 1],
        logit=[5.0, 3, 4, 1, 2],
    )
    known = replace(s, case=five)
    assert known.case_follows()["evidence and true burden"].value == pytest.approx(1)
    assert known.case_follows()["s and true burden"].value == pytest.approx(-1)
    assert known.case_follows()["evidence of the true lesions and true burden"].value == pytest.approx(-0.8)
    assert known.case_follows()["evidence of all at once and true burden"].value == pytest.approx(0.8)
    assert str(known.case_evidence()["true burden"].iloc[1]) == "30.0 %"
    assert known.case_evidence()["evidence for"].tolist() == [1, 3, 2, 5, 4]


def test_the_case_is_the_patient_of_the_papers_age_and_scans(run, monkeypatch):
    monkeypatch.setattr(explanation, "CASE_AGE", 33)
    monkeypatch.setattr(explanation, "CASE_SCANS", 3)
    monkeypatch.setattr(explanation, "read_map", lambda run, scan: np.zeros((2, 2, 2)))
    found = trajectories.load(run)
    assert found.case["patient_id"].unique().tolist() == ["A003"]
    assert found.case_words().startswith("33 years, 3 scans; ")
    assert found.case_study()["day"].tolist() == [1, 5, 9], "the paper counts the first scan as day 1"
    assert found.case_study()["percentile"].between(0, 100).all()
    opaque = opacity.measured(run, found.case["scan_id"])["above_500"].tolist()
    assert found.case["above_500"].tolist() == pytest.approx(opaque, nan_ok=True)


def test_one_choice_of_the_case_counts_every_accepted_scan_and_no_control(run, monkeypatch):
    """A patient with many rescans and controls is not the one with most scans."""
    table = read_manifest(run.manifest)
    more = [
        table[table["scan_id"] == "A007-0"].assign(role=role, scan_id=f"A007-{role}") for role in ("rescan", "control")
    ]
    assert explanation.case_patient(pd.concat([table, *more, *more, *more])) == "A000"


def test_the_case_in_numbers(s):
    facts = s.case_facts()
    last = s.case.iloc[-1]
    assert facts["scans"] == 3
    assert facts["day of discharge"].value == 10, "9 days after the first scan"
    assert facts["day of the last scan"].value == last["day"] + 1
    assert facts["probability at the last scan, %"].value == pytest.approx(100 * last["probability"])
    *earlier, size = s.case_study()["H"]
    assert (facts["H at the last scan"], facts["highest H of an earlier scan"]) == (size, max(earlier))
    assert facts["H x max(s, 0) at the last scan"] == pytest.approx(facts["H at the last scan"] * max(last["logit"], 0))


def test_a_cohort_without_follow_up_says_so(s):
    empty = replace(s, course=s.course.head(0), case=s.case.head(0), controls=s.controls.head(0))
    assert not any(fact.known for fact in empty.case_facts().values())
    assert not empty.curve().peak.known and not empty.change().known
    assert empty.case_study().empty and empty.plot_case() and empty.plot_curve(empty.curve())
    asked = empty.severity
    assert not any(found.known for found in empty.bars()["found"])
    assert not {*empty.bars()["verdict"]} & {"reached", "not reached"}, "what is missing is not judged"
    assert not asked.highest()["share"].iloc[0].known
    assert not any(found.known for found in asked.follows()["s"])
    assert empty.followed()["together"] == 0
    assert not empty.shares()["share"].iloc[0].known
    assert "no patient has a follow-up scan" in empty.case_words()


def test_the_files_are_read_once(run, monkeypatch):
    read, real = [], pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **options: read.append(str(path)) or real(path, **options))
    found = trajectories.load(run)
    read.clear()
    for method in (
        found.checks,
        found.followed,
        found.noise,
        found.shares,
        found.peaks,
        found.case_study,
        found.case_facts,
    ):
        method()
    assert not read
