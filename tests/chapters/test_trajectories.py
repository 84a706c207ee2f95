"""s(t): who scores whom, the noise band, peaks, the pooled curve and the patient of Figure 4."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_run import synthetic_run

from covid3d.chapters import trajectories
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import scoring as inference
from covid3d.network import training
from covid3d.run.files import write_csv
from covid3d.stats import courses


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("trajectories")
    patch.setenv("COVID3D_ROOT", str(root))
    made = synthetic_run(root)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def scores(run):
    return trajectories.ensure_trajectories(run)


def test_a_patient_of_a_is_always_scored_by_the_fold_that_never_saw_the_patient(run, scores):
    splits = pd.read_csv(run.splits)
    for row in scores.itertuples():
        seen = splits.query(f"patient_id == '{row.patient_id}' and split == 'train'")["fold"]
        assert row.fold not in set(seen)
    assert set(scores.query("hospital != 'A'")["fold"]) == {1}, "B and C by the deployed fold"
    assert scores.groupby("patient_id")["fold"].nunique().max() == 1, "one scale a patient"


def test_the_score_is_the_logit_of_that_model(run, scores):
    row = scores.set_index("scan_id").loc["A002-2"]
    model = training.load_fold(run, "task1", "covid3d", int(row["fold"]))
    again = inference.score(model, Store.of(run).stack(["A002-2"]), [nominal_window(run.profile.windows)])
    assert row["logit"] == pytest.approx(float(again[0, 0]), abs=1e-4)
    assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["logit"])))


def test_follow_ups_rescans_and_controls_are_kept_apart(run, scores):
    assert scores["kind"].value_counts().to_dict() == {"first": 30, "followup": 13, "rescan": 3, "control": 2}
    assert set(trajectories.course(run)["kind"]) == {"first", "followup"}
    assert set(trajectories.course(run, controls=True)["patient_id"]) == {"A008"}
    assert set(trajectories.course(run)["patient_id"]) == {*(f"A{number:03d}" for number in range(6)), "C000"}


def test_a_censored_stay_has_no_discharge(run):
    table = trajectories.course(run).set_index("patient_id")
    assert table.loc["C000", "days_to_discharge"].isna().all()
    late = courses.late_scans(table.reset_index())
    assert pd.isna(late["C000"]) and late["A000"] and not late["A005"]


def test_the_noise_band_comes_from_same_day_pairs(run, scores):
    band = trajectories.noise_band(run)
    assert band.pairs == 3
    by_id = scores.set_index("scan_id")["logit"]
    differences = np.array([by_id[f"{patient}-0r"] - by_id[f"{patient}-0"] for patient in ("A000", "A001", "B000")])
    assert band.rescan_sd == pytest.approx(np.sqrt(np.mean(differences**2)))
    assert band.half_width >= stats.t.ppf(0.975, 3) * band.rescan_sd


def test_shares_count_patients_with_wilsons_interval(run, scores):
    table = trajectories.shares(run).set_index("quantity")
    row = table.loc["s > 0 at the first scan"]
    assert row["n"] == 7 and row["low"] <= row["value"] <= row["high"]
    assert table.loc["last scan within 3 days of discharge", ["k", "n"]].tolist() == [3, 6]
    assert trajectories.shares(run, 7).set_index("quantity").loc["last scan within 7 days of discharge", "k"] == 4
    assert trajectories.shares(run, hospital="C").set_index("quantity").loc["s > 0 at the first scan", "n"] == 1


def test_the_case_study_is_the_patient_of_24_years_with_five_scans(run, monkeypatch):
    fallback = trajectories.case_study(run)
    assert len(fallback) == 3 and "no patient of 24 years" in fallback["note"].iloc[0]
    monkeypatch.setattr(trajectories, "CASE_AGE", 33)
    monkeypatch.setattr(trajectories, "CASE_SCANS", 3)
    found = trajectories.case_study(run)
    assert set(found["patient_id"]) == {"A003"}
    assert found["paper_day"].tolist() == [1, 5, 9], "the paper counts the first scan as day 1"
    assert found["percentile"].between(0, 100).all()


def test_fold_offsets_and_variation(run, scores):
    table = trajectories.fold_offsets(run).set_index("fold")
    own = scores.query("kind == 'first' and hospital == 'A' and fold == 0 and label == 1")["logit"].mean()
    assert table.loc[0, "mean_positive"] == pytest.approx(own)
    assert table["mean_external"].isna().all() and trajectories.fold_variation(run).empty, "external has not run"


def test_a_scan_is_placed_among_the_negatives_of_its_own_fold_model(run, scores, monkeypatch):
    """One fold's scale lies 100 higher: neither percentile nor range may change with it."""
    before, case = trajectories.shares(run), trajectories.case_study(run)
    moved = scores.assign(logit=scores["logit"] + 100 * scores["fold"])
    monkeypatch.setattr(trajectories, "ensure_trajectories", lambda run: moved)
    after = trajectories.shares(run).set_index("quantity")
    inside = "late last scan inside the COVID- distribution"
    assert after.loc[inside, "k"] == before.set_index("quantity").loc[inside, "k"]
    assert trajectories.case_study(run)["percentile"].tolist() == case["percentile"].tolist()


def test_every_fold_scores_the_negatives_of_b_and_c(run, scores):
    negatives = trajectories.negative_scores(run)
    assert not negatives.duplicated(["fold", "scan_id"]).any()
    assert set(negatives.loc[negatives["scan_id"].str[0] != "A", "fold"]) == {1}
    path = run.path("external", "predictions.csv")
    rows = [("covid3d_fold", fold, "B004-0", 0, 5.0 + fold) for fold in (0, 1)]
    write_csv(path, pd.DataFrame(rows, columns=["model", "fold", "scan_id", "label", "logit"]))
    try:
        found = trajectories.negative_scores(run).query("scan_id == 'B004-0'").set_index("fold")["logit"]
    finally:
        path.unlink()
    own = scores.set_index("scan_id").loc["B004-0", "logit"]
    assert found.to_dict() == pytest.approx({0: 5.0, 1: own}), "the deployed fold's own score stays"
