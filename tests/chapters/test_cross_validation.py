"""Task 1: what may be in a split, which fold is deployed, how the folds are summed up, and that finished folds are kept."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.regression.mixed_linear_model import MixedLM

from covid3d.chapters import cross_validation as cv
from covid3d.chapters import results, task1
from covid3d.cohort.store import Store
from covid3d.network import training
from covid3d.run import steps
from covid3d.run.errors import Covid3DError, MissingResult
from covid3d.run.files import write_csv, write_text
from covid3d.run.profile import load_profile
from covid3d.stats.estimate import Estimate

SCANS = 16


def cohort() -> pd.DataFrame:
    """Eight first scans a class at A, two at B, one follow-up scan of the first patient."""
    rows = [(f"A{n:02d}-0", f"A{n:02d}", "A", "development", n % 2, 0) for n in range(SCANS)]
    rows += [(f"B{n:02d}-0", f"B{n:02d}", "B", "external", n % 2, 0) for n in range(2)]
    rows += [("A01-1", "A01", "A", "followup", 1, 1)]
    return pd.DataFrame(rows, columns=["scan_id", "patient_id", "hospital", "role", "label", "scan_index"])


def folds_of(table: pd.DataFrame, folds: int = 2) -> pd.DataFrame:
    first = table[table["role"] == "development"]
    rows = [
        ("task1", fold, scan, patient, "validation" if (number // 2) % folds == fold else "train")
        for fold in range(folds)
        for number, (scan, patient) in enumerate(zip(first["scan_id"], first["patient_id"], strict=True))
    ]
    return pd.DataFrame(rows, columns=["task", "fold", "scan_id", "patient_id", "split"])


@pytest.fixture
def run(make_run, monkeypatch):
    """A tiny run whose scans lie in the store; class 1 is brighter at the back."""
    smoke = load_profile("smoke")
    changes = {
        "model": smoke.model.model_copy(update={"grid": (8, 32, 32), "width": 1 / 16}),
        "slices": smoke.slices.model_copy(update={"size": 32, "slices_per_scan": 2}),
        "training": smoke.training.model_copy(update={"epochs": 2}),
    }
    run = replace(make_run(), profile=smoke.model_copy(update=changes))
    table = cohort()
    rng, store, hashes = np.random.default_rng(0), Store.of(run), []
    for row in table.to_dict("records"):
        grid = rng.normal(-800, 50, (8, 32, 32))
        grid[:3, 20:, :] += 400 * row["label"]
        store.put(row["scan_id"], "0" * 64, grid.astype(np.int16))
        hashes.append(hashlib.sha256(grid.tobytes()).hexdigest())
    write_csv(run.intake, table.assign(ok=1, pixel_sha256=hashes))
    write_csv(run.splits, folds_of(table))
    write_text(run.manifest, "scan_id\n")
    monkeypatch.setattr(task1, "accepted", lambda run: cohort())
    for module in (cv, task1):
        monkeypatch.setattr(module, "require_certificate", lambda run: None)
    return run


@pytest.fixture
def chapter(run, monkeypatch):
    """The chapter of the tiny run, its two folds trained."""
    ours = ("fold", "selection")
    monkeypatch.setattr(steps, "all_needs", lambda run, name: ours)
    return cv.load(run)


def test_folds_are_trained_selected_and_summed_up(chapter, run):
    assert list(chapter.selection) == ["fold", "auc_last", "loss_last", "auc_best", "epoch_best", "deployed"]
    assert chapter.selection["deployed"].sum() == 1
    assert sorted(chapter.scores["scan_id"]) == sorted(cohort().query("role == 'development'")["scan_id"])
    assert len(chapter.history) == 2 * 2
    (last,) = set(results.out_of_fold(run)["epoch"])
    assert last == run.epochs == 2
    table = chapter.folds()
    for fold, part in chapter.scores.groupby("fold"):
        found = table.loc[fold, "AUC"]
        assert found.value == pytest.approx(roc_auc_score(part["label"], part["logit"]))
        assert found.low <= found.value <= found.high
    internal = chapter.internal().set_index("reading")["AUC"]
    assert internal["mean of the folds"].value == pytest.approx(table["AUC"].map(float).mean())
    assert internal["mean, patients resampled"].value == pytest.approx(internal["mean of the folds"].value)
    assert internal["pooled"].value == pytest.approx(roc_auc_score(chapter.scores["label"], chapter.scores["logit"]))
    assert str(internal["pooled"]).endswith("(nominal)") and chapter.optimism() >= 0
    assert chapter.training()["validated every epoch"] and chapter.deployed()["has the highest AUC"]
    folder = task1.ensure_slices(run)
    assert folder == run.model("task1", "resnet_2d", chapter.deployed()["fold"])
    assert set(pd.read_csv(folder / "predictions.csv")["model"]) == {"resnet_2d"}
    assert not list(run.path("checkpoints").glob("*"))


def chapter_of(aucs: dict[int, list[tuple[int, float]]], run, loss: float = 0.0) -> cv.CrossValidation:
    """A chapter of made-up scores; `loss` is the change of the training loss in the last fifth."""
    rows = [(fold, label, logit) for fold, cases in aucs.items() for label, logit in cases]
    scores = pd.DataFrame(rows, columns=["fold", "label", "logit"])
    history = curves(*[[(0.5, 0.5)] * 10] * len(aucs))
    history.loc[history["epoch"] > 8, "train_loss"] *= 1 + loss
    return cv.CrossValidation(run, scores, history, task1.select(history))


PERFECT = {
    fold: [(1, 4.0), (1, 3.0), (1, 2.0), (1, 1.0), (0, 0.0), (0, -1.0), (0, -2.0), (0, -3.0)] for fold in range(4)
}
GOOD = PERFECT | {0: [*PERFECT[1][:3], (1, -0.5), *PERFECT[1][4:]]}  # one pair in the wrong order


def test_each_bar_is_judged_and_all_of_them_together(make_run):
    blind = pd.Series({"metadata": Estimate(0.5), "burden": Estimate(0.5)})
    run = make_run()
    table = chapter_of(GOOD, run).bars(Estimate(0.9), blind).set_index("bar")
    assert set(table["reached"]) == {cv.REACHED}
    low = f"{chapter_of(GOOD, run).mean().low:.3f} (lower limit"
    assert str(table.loc["above chance", "found"]) == f"{low})", "a limit is said to be one"
    assert str(table.loc["above burden", "found"]) == f"{low}; burden alone: 0.500)"
    late = chapter_of(GOOD, run, loss=-0.1).bars(Estimate(0.9), blind).set_index("bar")["reached"]
    assert (late["flat loss"], late["all of them"]) == (cv.NOT_REACHED, "not reached: flat loss"), "by its own name"
    low = chapter_of(GOOD, run).bars(Estimate(0.59), blind).set_index("bar")["reached"]
    assert (low["skill"], low["all of them"]) == (cv.NOT_REACHED, "not reached: skill")


def test_a_fold_of_one_class_counts_in_no_mean_and_stops_nothing(make_run):
    whole, one = chapter_of(GOOD, make_run()), chapter_of(GOOD, make_run())
    one = replace(one, scores=pd.concat([one.scores, pd.DataFrame({"fold": [9], "label": [1], "logit": [0.0]})]))
    assert np.isnan(one.by_fold()[9]) and one.spread() == whole.spread() and one.optimism() == whole.optimism()
    nobody = replace(one, scores=one.scores[one.scores["label"] == 1])
    assert nobody.by_fold().isna().all() and nobody.spread() and len(nobody.choices())


def test_a_bar_without_anything_to_compare_with_is_not_judged(make_run):
    blind = pd.Series({"metadata": Estimate(0.5), "burden": Estimate.missing("no truth")})
    bars = chapter_of(GOOD, make_run()).bars(Estimate.missing("no truth"), blind).set_index("bar")["reached"]
    assert bars["skill"] == bars["above burden"] == cv.NOT_JUDGED
    assert bars["all of them"] == cv.REACHED


def test_folds_without_a_mistake_reach_no_bar_for_nobody_knows_how_they_vary(make_run):
    chapter = chapter_of(PERFECT, make_run())
    bars = chapter.bars(Estimate(0.9), pd.Series({"metadata": Estimate(0.5)})).set_index("bar")["reached"]
    assert bars["above chance"] == bars["above metadata"] == cv.NOT_JUDGED
    assert bars["all of them"] == "the folds give no interval"
    assert str(chapter.mean()) == "1.00 (no interval: the folds do not vary)"


def test_choices_report_the_best_and_how_far_above_the_mean_it_lies(make_run):
    table = chapter_of(GOOD, make_run()).choices()
    assert table.at["best fold, last epoch", "AUC"] == 1
    assert table.at["best fold, last epoch", "above the mean"] == pytest.approx(1 - np.mean([15 / 16, 1, 1, 1]))
    chance = 1.02938 * np.std([15 / 16, 1, 1, 1], ddof=1)
    assert table.at["best fold, last epoch", "by chance"].value == pytest.approx(chance, rel=1e-4)


def test_the_expected_best_of_several_is_that_of_tippetts_table():
    """Harter, Biometrika 1961: expected largest of 2, 5 and 10 standard normal values."""
    assert [cv.best_of(count) for count in (2, 5, 10)] == pytest.approx([0.56419, 1.16296, 1.53875], abs=1e-5)


def test_what_patients_alone_give_is_taken_from_the_spread_of_the_folds(make_run):
    found = chapter_of(GOOD, make_run()).spread()
    assert found["between folds"] == pytest.approx(np.std([15 / 16, 1, 1, 1], ddof=1))
    assert (found["lowest fold"], found["highest fold"]) == (15 / 16, 1)
    left = found["between folds"] ** 2 - found["patients alone"] ** 2
    assert found["networks"].value == pytest.approx(np.sqrt(max(0, left)))


def test_variance_components_are_those_of_statsmodels_mixed_model():
    """REML of balanced groups is the analysis of variance where its estimate is positive."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, (5, 1)) + rng.normal(0, 0.5, (5, 10))
    known = MixedLM(values.ravel(), np.ones(50), np.repeat(range(5), 10)).fit(reml=True)
    between, within = cv.variance_components(values.mean(1), values.var(1, ddof=1), 10)
    assert between == pytest.approx(float(known.cov_re[0, 0]), rel=1e-3)
    assert within == pytest.approx(known.scale, rel=1e-3)


def test_seeds_are_told_apart_from_folds_where_the_campaign_has_several(make_run, monkeypatch):
    chapter = chapter_of(GOOD, make_run())
    folds, name = chapter.run.profile.training.folds, chapter.run.profile.name
    half = stats.t.ppf(0.975, folds - 1) * 0.06 / np.sqrt(folds)
    table = pd.DataFrame({"profile": name, "address": cv.MEAN_AUC, "value": [0.8, 0.9, 0.95]})
    table = table.assign(low=table["value"] - half, high=table["value"] + half)
    monkeypatch.setattr(cv.campaigns, "read", lambda name: table)
    found = chapter.seeds()
    assert found["seeds"] == 3 and found["between folds of a seed"].value == pytest.approx(0.06)
    expected = np.var([0.8, 0.9, 0.95], ddof=1) - 0.06**2 / folds
    assert found["between seeds"].value == pytest.approx(np.sqrt(expected))
    same = table.assign(value=0.9, low=0.9 - half, high=0.9 + half)
    monkeypatch.setattr(cv.campaigns, "read", lambda name: same)
    assert str(chapter.seeds()["between seeds"]) == "0.000 (no more than by chance)"
    monkeypatch.setattr(cv.campaigns, "read", lambda name: table.head(1))
    assert str(chapter.seeds()["between seeds"]) == "not available (1 seed: cannot be told apart)"
    monkeypatch.setattr(cv.campaigns, "read", lambda name: None)
    assert chapter.seeds()["seeds"] == 0


def test_a_finished_fold_is_kept_and_a_changed_label_trains_it_again(run, monkeypatch):
    folder = task1.ensure_fold(run, 0)
    before = (folder / "weights.safetensors").read_bytes()
    calls: list[int] = []
    fit = training.fit
    monkeypatch.setattr(task1, "fit", lambda *args, **kwargs: calls.append(1) or fit(*args, **kwargs))
    task1.ensure_fold(run, 0)
    assert calls == []
    swapped = cohort()
    swapped["label"] = 1 - swapped["label"]
    monkeypatch.setattr(task1, "accepted", lambda run: swapped)
    task1.ensure_fold(run, 0)
    assert calls == [1] and (folder / "weights.safetensors").read_bytes() != before


def test_a_fold_is_the_same_bytes_when_computed_twice(run):
    one = {path.name: path.read_bytes() for path in task1.ensure_fold(run, 1).iterdir()}
    for path in run.model("task1", "covid3d", 1).iterdir():
        path.unlink()
    assert {path.name: path.read_bytes() for path in task1.ensure_fold(run, 1).iterdir()} == one


def test_without_compute_a_missing_fold_names_the_command(run):
    with pytest.raises(MissingResult, match=r"covid3d step fold --run test --fold 1"):
        task1.ensure_fold(run.with_options(compute=False), 1)


@pytest.mark.parametrize(
    ("scan", "patient", "message"),
    [
        ("A01-1", "A01", "role followup, scan_index 1"),
        ("B00-0", "B00", "role external"),
        ("ghost", "A99", "not accepted"),
    ],
)
def test_a_follow_up_external_or_unknown_scan_in_a_split_raises(run, scan, patient, message):
    rows = pd.read_csv(run.splits)
    extra = pd.DataFrame([("task1", 0, scan, patient, "train")], columns=rows.columns)
    write_csv(run.splits, pd.concat([rows, extra]))
    with pytest.raises(task1.LeakError, match=message):
        task1.ensure_fold(run, 0)


def test_a_patient_on_both_sides_raises():
    table = cohort()
    split = folds_of(table).query("fold == 0").assign(patient_id="A00")
    with pytest.raises(task1.LeakError, match="patient A00: a patient is in training and in validation"):
        task1.check_split(split, table)


def curves(*folds: list[tuple[float, float]]) -> pd.DataFrame:
    rows = [
        (fold, epoch, 0.5, loss, auc)
        for fold, points in enumerate(folds)
        for epoch, (auc, loss) in enumerate(points, 1)
    ]
    return pd.DataFrame(rows, columns=["fold", "epoch", "train_loss", "validation_loss", "validation_auc"])


def test_the_highest_last_auc_is_deployed_not_the_best_epoch():
    table = task1.select(curves([(0.99, 0.1), (0.7, 0.6)], [(0.5, 0.7), (0.8, 0.6)]))
    assert table["deployed"].tolist() == [0, 1]
    assert table["auc_best"].tolist() == [0.99, 0.8] and table["epoch_best"].tolist() == [1, 2]


def test_ties_go_to_the_lowest_loss_then_to_the_first_fold():
    assert task1.select(curves([(0.8, 0.5)], [(0.8, 0.4)], [(0.8, 0.4)]))["deployed"].tolist() == [0, 1, 0]
    assert task1.select(curves([(np.nan, 0.1)], [(0.5, 0.9)]))["deployed"].tolist() == [0, 1]


def test_aucs_that_differ_by_rounding_alone_are_tied():
    same = 66 / 72
    table = task1.select(curves([(same, 0.5), (np.nextafter(same, 1), 0.5)], [(same, 0.4)]))
    assert table["deployed"].tolist() == [0, 1]
    assert table["epoch_best"].tolist() == [1, 1]


def test_flatness_compares_the_last_fifth_with_the_one_before():
    loss = [1.0, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.5, 0.45, 0.45]
    table = curves([(0.5, 0.5)] * 10).assign(train_loss=loss)
    assert cv.flatness(table) == pytest.approx(-0.1)
    assert cv.flatness(table.head(2)) == pytest.approx(-0.1)


def test_a_fold_that_is_trained_on_one_class_is_refused_by_its_number(run, monkeypatch):
    table = cohort()
    splits = folds_of(table)
    of_class_0 = set(table.loc[table["label"] == 0, "scan_id"])
    splits = splits[(splits["split"] == "validation") | splits["scan_id"].isin(of_class_0)]
    monkeypatch.setattr(task1, "read_splits", lambda run: splits)
    with pytest.raises(Covid3DError, match="splits.csv, fold 1: all 4 training scans have label 0") as error:
        task1.ensure_fold(run, 1)
    assert error.value.code == "one_class"
