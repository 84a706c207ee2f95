"""External tests: scores, differences with their intervals, thresholds from A, and site mode."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from synthetic_run import small_profile, synthetic_run, write_truth

from covid3d.chapters import external_tests as external
from covid3d.chapters import reader_comparison as readers
from covid3d.chapters import robustness
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import scoring as inference
from covid3d.network import training
from covid3d.run import steps
from covid3d.run.errors import MissingResult, WeightsError
from covid3d.run.profile import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("external")
    patch.setenv("COVID3D_ROOT", str(root))
    made = synthetic_run(root)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def scores(run):
    return external.ensure_external(run)


def test_only_first_scans_of_the_external_hospitals_are_scored(run, scores):
    assert set(scores["scan_id"]) == set(accepted(run).query("role == 'external'")["scan_id"])
    assert set(scores["hospital"]) == {"B", "C"}
    assert set(scores["split"]) == {"external"}
    assert list(scores.columns) == list(inference.PREDICTIONS)


def test_the_deployed_row_is_the_chosen_fold_and_the_ensemble_is_the_mean_logit(run, scores):
    wide = scores.assign(name=scores["model"] + scores["fold"].astype(str)).pivot(
        index="scan_id", columns="name", values="logit"
    )
    assert wide["covid3d1"].tolist() == wide["covid3d_fold1"].tolist()
    assert wide["covid3d_ensemble-1"].to_numpy() == pytest.approx((wide["covid3d_fold0"] + wide["covid3d_fold1"]) / 2)
    model = training.load_fold(run, "task1", "covid3d", 1)
    again = inference.score(model, Store.of(run).stack(wide.index), [nominal_window(run.profile.windows)])[:, 0]
    assert wide["covid3d1"].to_numpy() == pytest.approx(again, abs=1e-5)
    assert not model.training


def test_a_second_call_reuses_the_stored_result(run, scores, capsys):
    again = external.ensure_external(run.with_options(compute=False))
    pd.testing.assert_frame_equal(again, scores)
    assert "done in" not in capsys.readouterr().out


def test_table_1_has_the_2d_row_the_3d_row_and_a_tuned_row_that_waits_for_the_windows(run, scores):
    table = external.table_1(run)
    assert table["model"].tolist()[0].startswith("2D ResNet-10t")
    assert table["model"].tolist()[1:3] == ["COVID3D", "COVID3D* (window tuned after evaluation)"]
    part = scores[(scores["model"] == "covid3d") & (scores["hospital"] == "C")]
    row = table.set_index("model").loc["COVID3D"]
    assert row["C auc"] == pytest.approx(roc_auc_score(part["label"], part["logit"]))
    assert row["C low"] < row["C auc"] <= row["C high"]
    assert (row["C n_positive"], row["C n_negative"]) == (3, 3)
    if not run.path("windows").exists():
        assert np.isnan(table.set_index("model").loc["COVID3D* (window tuned after evaluation)", "B auc"])


def test_table_1_takes_the_window_sd_and_the_tuned_row_from_the_windows(run):
    windows = robustness.ensure_windows(run)
    long = external.table_1_long(run).set_index(["model", "hospital"])
    part = windows[(windows["model"] == "covid3d") & (windows["hospital"] == "B")]
    values = [
        roc_auc_score(one["label"], one["logit"])
        for name, one in part.groupby("window")
        if name in {"w000", "w001", "w002", "w003"}
    ]
    assert long.loc[("covid3d", "B"), "window_sd"] == pytest.approx(np.std(values, ddof=1))
    assert long.loc[("covid3d", "B"), "n_windows"] == 4
    assert long.loc[("tuned", "B"), "n_windows"] == 4, "the ± of every row is over the same number of windows"
    tuned = part[part["window"] == "tuned"]
    assert long.loc[("tuned", "B"), "auc"] == pytest.approx(roc_auc_score(tuned["label"], tuned["logit"]))


def test_comparisons_give_each_site_and_the_pooled_difference(run):
    robustness.ensure_windows(run)
    table = external.comparisons(run).set_index(["comparison", "site"])
    assert {site for name, site in table.index if name == "3D - 2D"} == {"B", "C", "pooled"}
    part = external.first_scores(run).query("hospital == 'B'")
    assert table.loc[("3D - 2D", "B"), "difference"] == pytest.approx(
        roc_auc_score(part["label"], part["covid3d"]) - roc_auc_score(part["label"], part["resnet_2d"])
    )
    assert {site for name, site in table.index if name == "external - internal"} == {"B", "C"}


def test_fold_models_and_thresholds_come_from_their_own_cohorts(run):
    folds = external.fold_models(run).set_index("hospital")
    assert (folds["lowest"] <= folds["mean"]).all() and (folds["mean"] <= folds["highest"]).all()
    inside = external.validation_scores(run)
    assert set(inside["hospital"]) == {"A"}
    cut = external.thresholds(run)["deployed validation"]
    own = inside.loc[inside["fold"] == 1, "logit"]
    assert own.min() - 1 <= cut <= own.max() + 1
    assert cut == readers.thresholds(run)[readers.YOUDEN], "chapters 4 and 5 call scans by one threshold"
    points = external.operating_points(run)
    assert (points["k"] <= points["n"]).all()
    assert points.query("rule == 'zero' and hospital == 'B'")["n"].tolist() == [4, 4]


def test_a_specificity_is_read_off_the_curve():
    labels, scores = pd.Series([0, 0, 0, 0, 1, 1]), pd.Series([1.0, 2.0, 3.0, 5.0, 4.0, 6.0])
    assert external.read_off(labels, scores, 0.75) == 1.0
    assert external.read_off(labels, scores, 0.9) == 0.5
    assert np.isnan(external.read_off(pd.Series([1, 1]), pd.Series([1.0, 2.0]), 0.5))


def test_controls_show_the_network_scans_without_lungs_or_body(run, scores, monkeypatch):
    seen = []
    monkeypatch.setattr(external, "_logits", lambda run, model, grids: seen.append(grids) or grids.mean((1, 2, 3)))
    monkeypatch.setattr(external, "read_intake", accepted)
    monkeypatch.setattr(external, "grid_spacing", lambda facts, grid: (1.0, 1.0, 1.0))
    monkeypatch.setattr(external, "blanked", lambda grid, spacing, part: grid * (part == "body"))
    table = external.controls(run)
    assert table["hospital"].tolist() == ["B", "C"] * 2 and table["n"].tolist() == [len(grids) for grids in seen]
    assert table["left"].str.startswith("lungs").tolist() == [True, True, False, False]
    assert not np.any(seen[0]) and np.any(seen[2])
    assert table["auc"].tolist()[:2] == [0.5, 0.5], "what is blank cannot tell the class"
    assert table["auc"].tolist()[2:] == [1, 1], "the level of HU is the class here"


def test_roc_points_start_at_zero_and_end_at_one(run):
    for _, part in external.roc_points(run).groupby(["model", "hospital"]):
        assert part.iloc[0][["false_positive", "true_positive"]].tolist() == [0, 0]
        assert part.iloc[-1][["false_positive", "true_positive"]].tolist() == [1, 1]


def test_skill_and_learnability_need_the_truth_and_say_so_without(run):
    assert external.skill(run).empty
    assert external.learnable(run).set_index("model").loc["burden only", "method"].startswith("not available")
    write_truth(run, accepted(run))
    table = external.skill(run).set_index("hospital")
    assert table["oracle"].tolist() == [1, 1, 1]
    assert table.loc["B", "skill"] == pytest.approx(2 * (table.loc["B", "auc"] - 0.5))
    learnable = external.learnable(run).set_index("model")
    assert learnable.loc[["COVID3D", "metadata only", "burden only"], "mean_fold_auc"].between(0, 1).all()
    assert learnable.loc["metadata only", "mean_fold_auc"] == 1, "age and slice number give the label away here"


def test_missing_folds_are_named(root):
    empty = open_run("noise", profile=small_profile(root))
    with pytest.raises(MissingResult):
        external.ensure_external(empty)


@pytest.fixture
def site(run, monkeypatch):
    """The same cohort as if it were a hospital's own, with the weights of fold 0."""
    monkeypatch.setenv("COVID3D_ROOT", str(run.root))
    weights = run.model("task1", "covid3d", 0).relative_to(run.root) / "weights.safetensors"
    (run.root / "own.csv").write_text("scan_id,source\nA1,scans/a1\n")
    made = open_run("site", profile=run.config.profile, manifest="own.csv", weights=str(weights))
    for name in ("manifest.csv", "intake.csv", "volumes"):
        if not made.path(name).exists():
            made.path(name).symlink_to(run.path(name))
    return made


def test_a_site_run_with_simulated_weights_claims_nothing(site):
    assert site.is_site
    table = external.ensure_external(site)
    assert table["probability"].isna().all() and table["logit"].notna().all()
    assert external.site_notice(site) == external.SIMULATED
    rows = external.site_table(site)
    assert rows["auc"].isna().all() and (rows["method"] == external.SIMULATED).all()


def test_a_site_run_with_real_weights_hides_small_cells(site, monkeypatch):
    real = external.describe_weights(external.weights_path(site)) | {"trained_on": "public"}
    monkeypatch.setattr(external, "describe_weights", lambda path: real)
    rows = external.site_table(site).set_index("hospital")
    assert rows.loc["A", "auc"] > 0 and rows.loc["A", "n_positive"] == "8"
    assert np.isnan(rows.loc["C", "auc"]) and rows.loc["C", "n_positive"] == "< 5"
    assert "fewer than 5" in rows.loc["C", "method"]


def test_site_weights_of_another_grid_are_refused(site, monkeypatch):
    monkeypatch.setattr(external, "grid_text", lambda grid: "64,224,224")
    with pytest.raises(WeightsError, match="grid"):
        external._site_predictions(site)


def test_the_step_declares_what_it_reads():
    assert steps.STEPS["external"].module == "covid3d.chapters.external_tests"
