"""Windows: one sample for all scans and models, the curve over its SD, and the tuned window."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance
from sklearn.metrics import roc_auc_score
from synthetic_run import synthetic_run

from covid3d.chapters import results, robustness
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import Window, apply_window, sample_windows
from covid3d.network import scoring as inference
from covid3d.network import training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("robustness")
    patch.setenv("COVID3D_ROOT", str(root))
    made = synthetic_run(root)
    robustness.ensure_windows(made)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def scores(run):
    robustness.ensure_windows(run.with_options(compute=False))
    return results.window_scores(run)


def test_all_scans_and_models_share_the_windows_of_the_seed(run, scores):
    expected = sample_windows(run.profile.windows, run.seed)
    stored = pd.read_csv(run.path("windows", "windows.csv")).query("sample == 'normal'")
    assert stored["level"].to_numpy() == pytest.approx(expected["level"].to_numpy())
    external = scores[(scores["split"] == "external") & scores["window"].str.fullmatch(r"w\d+")]
    counts = external.groupby(["model", "scan_id"])["window"].nunique()
    assert set(counts) == {run.profile.windows.count}
    assert set(external["model"]) == {"covid3d", "resnet_2d"}
    assert not scores.duplicated(["model", "fold", "scan_id", "window"]).any()


def test_each_scan_of_a_is_scored_by_the_fold_that_never_saw_it_in_the_first_windows(run, scores):
    inside = scores[scores["split"] == "validation"]
    held = pd.read_csv(run.splits).query("split == 'validation'").set_index("scan_id")["fold"]
    assert (inside["fold"] == inside["scan_id"].map(held)).all()
    assert set(inside["window"]) == {"nominal", "w000", "w001"}
    assert set(inside["hospital"]) == {"A"}


def test_a_score_is_the_model_seen_through_that_window(run, scores):
    row = scores.query("model == 'covid3d' and window == 'w002' and hospital == 'C'").iloc[0]
    window = pd.read_csv(run.path("windows", "windows.csv")).set_index("window").loc["w002"]
    model = training.load_fold(run, "task1", "covid3d", int(row["fold"]))
    grid = Store.of(run).stack([row["scan_id"]])
    assert row["logit"] == pytest.approx(
        inference.score(model, grid, [Window(window["level"], window["width"])])[0, 0], abs=1e-4
    )


def test_jobs_do_not_depend_on_the_machine(run, monkeypatch):
    table = accepted(run)
    windows = robustness.plan_windows(run, robustness.tuned_windows(run, table))
    first = [(job.model, job.fold, job.table["scan_id"].tolist()) for job in robustness.jobs(run, table, windows)]
    monkeypatch.setattr(robustness, "cpu_count", lambda: 64)
    assert first == [
        (job.model, job.fold, job.table["scan_id"].tolist()) for job in robustness.jobs(run, table, windows)
    ]
    assert max(len(scans) for _, _, scans in first) <= robustness.SCANS_PER_JOB


def test_window_sd_by_hand(run, scores):
    table = robustness.window_sd(scores)
    aucs = robustness.auc_by_window(scores.query("model == 'resnet_2d' and hospital == 'B'")).set_index("window")["auc"]
    normal = [aucs[f"w{number:03d}"] for number in range(4)]
    row = table.loc[("resnet_2d", "B")]
    assert robustness.spread(table, "resnet_2d", "B").value == row["sd"]
    assert row["sd"] == pytest.approx(np.std(normal, ddof=1))
    assert (row["nominal"], row["n_windows"]) == (aucs["nominal"], 4)
    assert table.loc[("covid3d", "B"), "n_uniform"] == run.profile.windows.curve_count
    assert table.loc[("covid3d", "A"), "n_windows"] == run.profile.windows.internal_count


def test_the_spread_at_a_is_one_of_the_mean_fold_auc_never_of_pooled_scores():
    """Each fold has its own offset, which parts pooled scores but no fold's; the AUCs by scikit-learn."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {"fold": np.repeat(range(4), 12), "label": [0, 1] * 24, "split": "validation", "hospital": "A"}
    )
    scores = pd.concat(
        [
            table.assign(model="covid3d", window=window, logit=table["label"] + rng.normal(size=48) + 9 * table["fold"])
            for window in ("nominal", "w000", "w001", "w002")
        ]
    )
    found = robustness.fold_mean_by_window(scores).set_index("window")["auc"]
    for window, part in scores.groupby("window"):
        folds = [roc_auc_score(fold["label"], fold["logit"]) for _, fold in part.groupby("fold")]
        assert found[window] == pytest.approx(np.mean(folds))
        assert found[window] > roc_auc_score(part["label"], part["logit"]) + 0.1
    row = robustness.window_sd(scores).loc[("covid3d", "A")]
    assert (
        row["sd"] == pytest.approx(found[["w000", "w001", "w002"]].std(ddof=1)) and row["nominal"] == found["nominal"]
    )


def test_the_tuned_row_has_as_many_windows_as_the_other_rows_of_table_1(run, scores):
    own = scores.query("hospital == 'B' and model == 'covid3d'")
    around = own[own["window"].str.fullmatch(r"t\d+")]
    assert around["window"].nunique() == run.profile.windows.count
    table = robustness.window_sd(scores)
    assert table.loc[("tuned", "B"), "n_windows"] == table.loc[("covid3d", "B"), "n_windows"]
    aucs = robustness.auc_by_window(around).set_index("window")["auc"]
    assert table.loc[("tuned", "B"), "sd"] == pytest.approx(aucs.std(ddof=1))
    assert not robustness.spread(table, "covid3d_ensemble", "B").known


def test_the_curve_starts_at_the_nominal_window_and_reuses_the_sample_at_one(run, scores):
    curve = robustness.Windows.of(run).curve.query("hospital == 'B'").set_index("multiple")
    assert curve.index.tolist() == [0, 0.5, 1, 2, 4]
    aucs = robustness.auc_by_window(scores.query("model == 'covid3d' and hospital == 'B'")).set_index("window")["auc"]
    assert curve.loc[0, "mean"] == aucs["nominal"]
    assert curve.loc[1, "mean"] == pytest.approx((aucs["w000"] + aucs["w001"]) / 2)
    assert curve.loc[4, "lowest"] == min(aucs["c4_000"], aucs["c4_001"])
    assert robustness.Windows.of(run).widest()["B"].value == curve.loc[4, "mean"]


def test_the_tuned_window_undoes_a_shift_of_the_scanner(run):
    rng = np.random.default_rng(1)
    reference = robustness.lung_quantiles(rng.normal(-650, 80, (4, 8, 16, 16)).astype(np.int16))
    drifted = reference + 60
    sample = pd.DataFrame({"level": [-700.0, -540.0, -600.0], "width": [1500.0, 1500.0, 1400.0]})
    found = robustness.match_window(drifted, reference, sample, Window(-600, 1500))
    assert (found["level"], found["width"]) == (-540, 1500)
    assert found["distance"] < 1e-6 < found["nominal_distance"]
    same = robustness.match_window(reference, reference, sample, Window(-600, 1500))
    assert (same["level"], same["width"]) == (-600, 1500), "without drift the nominal window stays"


def test_the_distance_between_windowed_views_is_wassersteins(run):
    rng = np.random.default_rng(2)
    a, b = (np.sort(rng.normal(mean, 90, 199)) for mean in (-700, -640))
    found = robustness.match_window(a, b, pd.DataFrame({"level": [], "width": []}), Window(-600, 1500))
    views = [apply_window(values, Window(-600, 1500)) for values in (a, b)]
    assert found["distance"] == pytest.approx(wasserstein_distance(*views), rel=1e-5)


def test_tuning_reads_neither_labels_nor_scores(run):
    table = accepted(run)
    expected = robustness.tuned_windows(run, table)
    swapped = table.assign(label=1 - table["label"])
    pd.testing.assert_frame_equal(robustness.tuned_windows(run, swapped), expected)
    assert set(robustness.Windows.of(run).tuned().index) == {"B", "C"}


def test_the_windows_that_are_counted_are_those_that_were_scored(run):
    windows = robustness.Windows.of(run)
    assert windows.drawn()["windows"] == 4
    fewer = replace(windows, scores=windows.scores.query("window != 'w003'"))
    assert fewer.drawn()["windows"] == 3


def test_uniform_windows_lie_within_one_sd(run):
    settings = run.profile.windows
    windows = pd.read_csv(run.path("windows", "windows.csv")).query("sample == 'uniform'")
    assert (windows["level"] - settings.level).abs().max() <= settings.level_sd
    assert (windows["width"] - settings.width).abs().max() <= settings.width_sd


def test_one_class_gives_nan_not_a_crash(scores):
    part = scores[scores["label"] == 1]
    assert robustness.auc_by_window(part)["auc"].isna().all()


def test_the_order_of_windowing_is_the_stored_measurement_or_said_not_to_be_measured(monkeypatch):
    found, caption = robustness.window_order()
    assert found["scans"] == 16 and 0 < found["mean change of the logit"] < found["largest change of the logit"]
    assert "commit" in caption
    monkeypatch.setattr(robustness.campaigns, "read", lambda name: None)
    assert str(robustness.window_order()[0]["times the work"]) == "not available (not measured)"
