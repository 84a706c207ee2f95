"""Prognosis: who is in the test set, what the models may see, the groups, and what small cohorts give."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from synthetic_run import scan, synthetic_run, write_reader_study
from torch import nn

from covid3d.chapters import fine_tuning, prognosis
from covid3d.cohort import manifest as manifests
from covid3d.cohort.intake import accepted
from covid3d.network import training
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.run.files import remembered, write_csv
from covid3d.stats import risk
from covid3d.stats.estimate import Estimate


def load(run, patch):
    """Return the chapter of a run of noise: fine-tuned really, with scores of chapter 6 made up and no certificate."""
    scans = accepted(run)
    kind = scans["role"].replace({"development": "first", "external": "first"})
    s = scans.assign(kind=kind, logit=np.arange(len(scans), dtype=float), window_sd=0.0)
    write_csv(run.path("trajectories", "scores.csv"), s)

    def ensure_needs(run, chapter):
        assert chapter == "07_prognosis"
        for variant in fine_tuning.VARIANTS:
            for fold in range(2):
                fine_tuning.ensure_prognosis(run, variant, fold)

    patch.setattr(prognosis.steps, "ensure_needs", ensure_needs)
    patch.setattr(prognosis, "require_certificate", lambda run: None)
    return prognosis.load(run)


@pytest.fixture(scope="module")
def stay(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("prognosis")
    patch.setenv("COVID3D_ROOT", str(root))
    made = synthetic_run(root)
    write_reader_study(made)
    yield load(made, patch)
    patch.undo()


@pytest.fixture
def run(stay):
    return stay.run


def manifest(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows).replace("", None)
    return table.astype({"scan_index": "Int64", "label": "Int64"})


def two_scans(patient: str, days: float, outcome: str = "discharged", censored: int = 0) -> list[dict]:
    """Return a patient with two scans, five days apart, `days` of stay left at the second."""
    facts = {"outcome": outcome, "censored": censored}
    first = scan(patient, 0, "development", 1, day=0, days_to_discharge=days + 5, **facts)
    return [first, scan(patient, 1, "followup", 1, day=5, days_to_discharge=days, **facts)]


NO_SPLITS = pd.DataFrame({"patient_id": ["A001"], "fold": [0], "split": ["validation"]})


def test_the_index_scan_is_the_second_scan_and_time_counts_from_it(stay):
    table = stay.index.set_index("patient_id")
    assert len(table) == 7 and (table["scan_index"] == 1).all()
    row = table.loc["A004"]
    assert (row["scan_id"], row["prior_scan_id"]) == ("A004-1", "A004-0")
    assert (row["interval_days"], row["remaining_days"]) == (5, 12)
    assert table["test"].to_dict() == {**{f"A{number:03d}": 1 for number in range(6)}, "C000": 0}


def test_both_readings_of_seven_days():
    table = manifest(
        [row for number, days in enumerate((6, 7, 8), start=1) for row in two_scans(f"A{number:03d}", days)]
    )
    found = fine_tuning.pairs_of(table, NO_SPLITS, 7.0)
    assert found["label"].tolist() == [0, 1, 1]
    assert found["label_strict"].tolist() == [0, 0, 1]


def test_a_death_is_no_discharge_and_a_short_censored_stay_is_unknown():
    rows = [
        *two_scans("A001", 3, "died"),
        *two_scans("A002", 3, "in_hospital", 1),
        *two_scans("A003", 9, "in_hospital", 1),
        *two_scans("A004", 2),
    ]
    found = fine_tuning.pairs_of(manifest(rows), NO_SPLITS, 7.0).set_index("patient_id")
    assert found["cause"].to_dict() == {"A001": 2, "A002": 0, "A003": 0, "A004": 1}
    assert found["event"].tolist() == [0, 0, 0, 1]
    assert found["label"].astype(object).where(found["label"].notna(), None).tolist() == [1, None, 1, 0]


def test_a_pair_needs_both_scans():
    rows = [row for row in two_scans("A001", 9) if row["scan_index"] == 1] + two_scans("A002", 9)
    assert fine_tuning.pairs_of(manifest(rows), NO_SPLITS, 7.0)["patient_id"].tolist() == ["A002"]


def test_fine_tuning_starts_from_the_trunk_of_its_own_fold_and_keeps_its_batch_statistics(run):
    trunk = training.load_fold(run, "task1", "covid3d", 1).extractor.state_dict()
    model = fine_tuning.start_model(run, "pair", 1)
    assert all(torch.equal(value, trunk[name]) for name, value in model.extractor.state_dict().items())
    model.train()
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm3d))
    tuned = training.load_fold(run, "prognosis", "pair", 1) if fine_tuning.ensure_prognosis(run, "pair", 1) else None
    after = tuned.extractor.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, trunk[name])]
    assert moved and not [name for name in moved if "running" in name]


def test_held_out_patients_are_scored_by_the_fold_that_never_saw_them(run):
    splits = pd.read_csv(run.splits)
    for fold in (0, 1):
        held = set(splits.query(f"fold == {fold} and split == 'validation'")["patient_id"])
        for variant in fine_tuning.VARIANTS:
            rows = pd.read_csv(fine_tuning.ensure_prognosis(run, variant, fold) / "predictions.csv")
            assert set(rows.query("split in ['validation', 'followup']")["patient_id"]) <= held
            assert set(rows.query("split == 'external'")["patient_id"]) == {"C000"}
            assert set(rows["model"]) == {variant} and set(rows["task"]) == {"prognosis"}


def test_outcomes_of_held_out_patients_do_not_change_their_predictions(run, tmp_path, monkeypatch):
    first = pd.read_csv(fine_tuning.ensure_prognosis(run, "single", 0) / "predictions.csv")
    real = fine_tuning.all_pairs

    def flipped(one):
        table = real(one)
        table.loc[table["fold"] == 0, ["label", "remaining_days"]] = [0, 1.0]
        return table

    monkeypatch.setattr(fine_tuning, "all_pairs", flipped)
    fine_tuning._fine_tune(run, "single", 0, tmp_path)
    again = pd.read_csv(tmp_path / "predictions.csv")
    assert again["logit"].tolist() == first["logit"].tolist()


def test_groups_are_cut_at_one_half_never_at_a_median(stay):
    table = stay.predictors["pair"]
    assert len(table) == 6 and set(table["hospital"]) == {"A"}
    assert (table["high"] == (table["probability"] >= 0.5)).all()
    scores = pd.DataFrame({"scan_id": table["scan_id"], "logit": 3.0, "probability": 0.9})
    assert prognosis.with_groups(stay.index, scores)["high"].tolist() == [1.0] * 6
    near = scores.assign(probability=[0.5, 0.499, 0.45, 0.4, 0.501, 0.55])
    assert prognosis.with_groups(stay.index, near)["high"].tolist() == [1, 0, 0, 0, 1, 1]


def test_features_are_those_of_task_1_before_fine_tuning(stay):
    from covid3d.cohort.store import Store
    from covid3d.ct.windows import nominal_window
    from covid3d.network import scoring as inference

    found = stay.features["single"][0]
    model = training.load_fold(stay.run, "task1", "covid3d", 0)
    grids = Store.of(stay.run).stack(found.index)
    expected = inference.features(model, grids, nominal_window(stay.run.profile.windows))
    assert found.to_numpy() == pytest.approx(expected, abs=1e-4)


def test_the_head_is_fitted_before_fine_tuning():
    model = nn.ModuleDict({"head": nn.Linear(6, 1)})
    rng = np.random.default_rng(2)
    features, labels = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2
    features[:, 0] += 3 * labels
    fine_tuning.fit_head(model, features, labels)
    logits = model["head"](torch.from_numpy(features)).detach().numpy()[:, 0]
    assert roc_auc_score(labels, logits) > 0.9


def test_controls_are_nested_in_the_same_folds(stay):
    table = stay.index
    first = prognosis.control_of(table, "age_sex").set_index("scan_id")
    changed = table.assign(label=table["label"].where(table["fold"] != 0, 1 - table["label"]))
    again = prognosis.control_of(changed, "age_sex").set_index("scan_id")
    held = first["fold"] == 0
    assert first.loc[held, "probability"].tolist() == again.loc[held, "probability"].tolist()
    assert first.loc[~held, "probability"].tolist() != again.loc[~held, "probability"].tolist()
    assert set(stay.predictors["schedule"]["scan_id"]) == set(first.index), "the same patients"
    with pytest.raises(ConfigError, match="schedule"):
        prognosis.control_of(table, "shedule")


def test_every_predictor_has_a_nominal_p_and_the_networks_one_that_says_what_it_permutes(stay):
    table = stay.separation()
    assert table.index.tolist() == ["two scans", "one scan", "schedule", "age and sex"]
    assert (table["patients"] == 6).all() and (table["high risk"] + table["low risk"] == 6).all()
    assert {p.remark for p in table["log-rank p"] if p.known} <= {"nominal"}
    permuted = stay.permuted()["permutation p"]
    assert permuted.index.tolist() == ["two scans", "one scan"]
    for p in (p for p in permuted if p.known):
        assert 0.05 <= p.value <= 1, "19 permutations"
        assert str(p).endswith("(outcomes permuted)")


def test_intervals_of_out_of_fold_scores_are_called_nominal_and_those_of_readers_are_not(stay):
    columns = ["hazard ratio", "C-index", "AUC"]
    for table in (stay.separation(), stay.ventilation(), stay.all_pairs()[["hazard ratio", "AUC"]]):
        found = table[[name for name in columns if name in table]].to_numpy().ravel()
        assert any(one.known for one in found) and {one.remark for one in found if one.known} == {"nominal"}
    called = stay.readers()
    assert {one.remark for one in called[[*columns, "log-rank p"]].to_numpy().ravel()} == {""}
    assert {one.remark for one in called["lead of COVID3D"] if one.known} == {"nominal"}


def test_a_death_competes_with_discharge_in_every_predictors_groups(stay):
    assert {str(p) for p in stay.competing()["Gray's p"]} == {
        "not available (nobody died: nothing competes with discharge)"
    }
    groups = stay.predictors["pair"].assign(high=[1.0, 0.0] * 3, cause=[2, 1] * 3, event=[0, 1] * 3)
    table = replace(stay, predictors={"pair": groups}).competing()
    assert table.loc["two scans", ["patients", "died"]].tolist() == [6, 3]
    assert table.loc["two scans", "Gray's p"].remark == "nominal"


def test_the_permutation_uses_features_that_were_fitted_without_the_held_out_patients(stay):
    table = stay._with_outcome()
    changed = {"pair": [part.copy() for part in stay.features["pair"]]}
    held = table.loc[table["fold"] == 0, "scan_id"]
    changed["pair"][0].loc[held] = 100.0
    other = table["fold"].to_numpy() != 0
    before, after = (one._heads("pair", table)[0][other] for one in (stay, replace(stay, features=changed)))
    assert before == pytest.approx(after)


def test_readers_are_judged_on_the_same_patients(stay):
    table, errors = stay.readers(), stay.reader_errors()
    assert table.loc[("R1", "two scans"), "accuracy"] == 1
    assert str(table.loc[("R2", "two scans"), "log-rank p"]) == "not available (all patients are in one group)"
    assert (errors["longer stays"] + errors["other stays"] == 6).all()
    wrong = errors.loc[("R2", "one scan"), ["wrong in other stays", "wrong in longer stays"]]
    assert wrong.tolist() == [2, 0]
    model = risk.c_index_pairs(stay.predictors["pair"]).value(np.ones((1, 6)))[0]
    row = table.loc[("R1", "two scans")]
    assert row["lead of COVID3D"].value == pytest.approx(model - row["C-index"].value)
    gain = stay.reader_gain()
    assert gain.loc["R1", ["right with two scans only", "right with one only"]].tolist() == [3, 0]
    assert gain.loc["R1", "McNemar p"] == pytest.approx(0.25), "binomial: 2 x 1/8"
    assert str(stay.ratings()["wrong in stays longer than 9 days"]).endswith(
        f"(of {errors['longer stays'].sum()} ratings)"
    )


def test_frozen_scores_are_those_of_chapter_6(stay):
    table = stay.frozen_scores()
    assert table["patients"].tolist() == [6, 6, 6]
    s = stay.s.set_index("scan_id")["logit"]
    first = stay.test["scan_id"].map(s).corr(stay.test["remaining_days"], method="spearman")
    assert table.loc["s at the index scan", "Spearman"].value == pytest.approx(first)


def test_a_change_counts_only_beyond_the_noise(stay):
    quiet = replace(stay, s=stay.s.assign(logit=0.0)).after_a_change()
    assert {found.method for found in quiet.values()} == {"nobody's s moved beyond the noise"}
    rise = replace(stay, s=stay.s.assign(logit=stay.s["scan_id"].str.contains("-1").astype(float))).after_a_change()
    share = (stay.test["label"] == 1).mean()
    assert rise["high risk after a rise"].value == pytest.approx(100 * share)
    assert rise["high risk after a rise"].unit == "%" and not rise["low risk after a fall"].known


def test_the_label_and_the_stay_are_as_defined(stay):
    found = stay.stays()
    assert found["high risk is the limit or longer"] is True and found["falls by the days between scans"] is True
    shifted = stay.pairs["remaining_days"].where(stay.pairs["scan_index"] != 2, 30.0)
    assert (
        replace(stay, pairs=stay.pairs.assign(remaining_days=shifted)).stays()["falls by the days between scans"]
        is False
    )
    turned = replace(stay, pairs=stay.pairs.assign(label=1 - stay.pairs["label"]))
    assert turned.stays()["high risk is the limit or longer"] is False


def test_who_is_followed(stay):
    found = stay.patients()
    assert found["in the test set"] == 6 and found["censored"] == 1 and found["ventilated"] == 1
    assert found["no censored stay in the test set"] is True
    table = stay.index.set_index("patient_id")["remaining_days"]
    expected = table["A003"] - table.drop("A003").mean()
    assert found["longer stay if ventilated or dead"].value == pytest.approx(expected)


def test_a_fold_that_was_not_trained_is_told(stay):
    found = {"input variants": 2, "on the same patients": True, "folds": 2, "all were trained": True}
    assert stay.fine_tuned() == found
    fewer = stay.scores.drop(stay.scores.query("model == 'pair' and split == 'validation'").index[0])
    assert not replace(stay, scores=fewer).fine_tuned()["on the same patients"]
    lost = stay.history[~((stay.history["model"] == "pair") & (stay.history["fold"] == 1))]
    assert not replace(stay, history=lost).fine_tuned()["all were trained"]


def test_the_rest_of_the_tables(stay):
    counts = stay.groups()
    assert counts["high risk"].tolist() == [4, 3] and (counts["patients"] == 6).all()
    outside = stay.outside()
    assert outside["patient"].tolist() == ["C000"] and outside["censored"].tolist() == [1]
    assert pd.isna(outside["high risk"].iloc[0]), "censored before seven days: nobody knows"
    every = stay.all_pairs()
    assert (every["pairs"] == 12).all() and (every["patients"] == 6).all()
    assert stay.ventilation()["patients"].tolist() == [6, 5, 6, 5]
    gain = stay.two_against_one()
    assert gain.index.get_level_values("against").unique().tolist() == ["one scan", "schedule", "age and sex"]


def test_the_manifest_is_validated_once_whatever_is_asked(stay, monkeypatch):
    calls, check = [], manifests._checked_cells
    monkeypatch.setattr(
        manifests, "_checked_cells", lambda path, *rules: calls.append(path.name) or check(path, *rules)
    )
    monkeypatch.setattr(manifests, "_validated", remembered(manifests._validated.__wrapped__))
    chapter = load(stay.run, monkeypatch)
    assert calls.count("manifest.csv") == 1
    calls.clear()
    assert len(list(asked(chapter))) >= 19 and calls == []


def asked(chapter):
    """Ask everything; yield the name of each question."""
    for name in vars(prognosis.Prognosis):
        if callable(getattr(chapter, name)) and not name.startswith("_") and name not in ("permutation", "gain_over"):
            found = getattr(chapter, name)()
            assert isinstance(found, (pd.DataFrame, dict, Figure)), name
            yield name


def test_a_misspelt_variant_and_a_missing_fold_are_named(run):
    with pytest.raises(ConfigError, match="pair"):
        fine_tuning.ensure_prognosis(run, "pairs", 0)
    with pytest.raises(MissingResult):
        fine_tuning.ensure_prognosis(run, "pair", 7)


@pytest.mark.parametrize("followed", [0, 1, 2])
def test_a_cohort_too_small_gives_not_available_and_no_crash(root, monkeypatch, followed):
    small = load(synthetic_run(root, followed=followed), monkeypatch)
    for p in (*small.separation().loc[["two scans", "one scan"], "log-rank p"], *small.permuted()["permutation p"]):
        assert isinstance(p, Estimate) and not p.known and p.method
    assert {"plot_figure_3", "two_against_one", "ratings"} <= set(asked(small))
    assert len(small.outside()) == 1
    assert small.readers().empty and small.reader_gain().empty
    assert str(small.ratings()["mean gain of a second scan"]) == "not available (no reader study)"
