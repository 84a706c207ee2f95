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

from covid3d.chapters import fine_tuning, opacity, predictors, prognosis
from covid3d.cohort import manifest as manifests
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.opacity import Opacity
from covid3d.network import training
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.run.files import remembered, write_csv
from covid3d.stats import cut_offs, risk, stays, survival
from covid3d.stats.estimate import Estimate


def whole(hu, spacing):
    """Return the opacity of a grid of noise, in which there is no lung: that of all of it."""
    return Opacity(float((hu > -700).mean()), float((hu > -500).mean()), float(hu.mean()))


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
    patch.setattr(opacity, "opacity", whole)
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
    assert {name.split(".")[0] for name in moved} == {"Mixed_5c"}


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
    scores = pd.DataFrame({"scan_id": table["scan_id"], "logit": 3.0})
    assert predictors.with_groups(stay.index, scores)["high"].tolist() == [1.0] * 6
    near = scores.assign(logit=[0.0, -0.01, -0.2, -0.4, 0.01, 0.2])
    assert predictors.with_groups(stay.index, near)["high"].tolist() == [1, 0, 0, 0, 1, 1]


def test_features_are_those_of_task_1_before_fine_tuning(stay):
    from covid3d.ct.windows import nominal_window
    from covid3d.network import scoring as inference

    found = stay.features["single"][0]
    model = training.load_fold(stay.run, "task1", "covid3d", 0)
    grids = Store.of(stay.run).stack(found.index)
    expected = inference.features(model, grids, nominal_window(stay.run.profile.windows))
    assert found.to_numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("variant", fine_tuning.VARIANTS)
def test_the_head_is_fitted_before_fine_tuning(variant):
    """What the network's head gives on prior and index is what the regression gives on index and change."""
    width = 6 if variant == "single" else 12
    model = nn.ModuleDict({"head": nn.Linear(width, 1)})
    rng = np.random.default_rng(2)
    features, labels = rng.normal(size=(40, width)).astype(np.float32), np.arange(40) % 2
    features[:, 0] += 3 * labels
    fine_tuning.fit_head(model, variant, features, labels)
    logits = model["head"](torch.from_numpy(features)).detach().numpy()[:, 0]
    assert roc_auc_score(labels, logits) > 0.9
    inputs = fine_tuning.head_inputs(variant, features.astype(float))
    weight, bias = survival.linear_head(inputs, labels.astype(float), fine_tuning.COMPONENTS)
    assert logits == pytest.approx(inputs @ weight + bias, abs=1e-4)


def test_change_has_components_of_its_own():
    """Two scans of a patient are alike: among components of prior and index a small change would come last."""
    rng = np.random.default_rng(3)
    patient, change = rng.normal(size=(300, 20)), rng.normal(size=(300, 1))
    pair = np.hstack([patient, patient + 0.2 * change])
    everyone = np.ones(300, bool)
    found = [
        survival.principal_components(values, everyone, 8) for values in (pair, fine_tuning.head_inputs("pair", pair))
    ]
    told = [np.linalg.lstsq(values, change[:, 0] - change.mean(), rcond=None)[0] for values in found]
    shares = [np.corrcoef(values @ weight, change[:, 0])[0, 1] ** 2 for values, weight in zip(found, told, strict=True)]
    assert shares[0] < 0.3 and shares[1] > 0.9


@pytest.mark.parametrize(("blocks", "moved"), [(0, set()), (1, {"Mixed_5c"}), (2, {"Mixed_5b", "Mixed_5c"})])
def test_only_the_head_and_the_last_blocks_train(run, blocks, moved):
    settings = run.profile.prognosis.model_copy(update={"trained_blocks": blocks})
    model = fine_tuning.start_model(
        replace(run, profile=run.profile.model_copy(update={"prognosis": settings})), "pair", 0
    )
    training_now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in training_now if name.startswith("extractor.")} == moved
    assert {name for name in training_now if not name.startswith("extractor.")} == {"head.weight", "head.bias"}


def test_later_scans_of_training_patients_are_examples_too_and_both_classes_as_many(run, tmp_path, monkeypatch):
    seen = {}
    real = training.Examples.of.__func__

    def of(cls, table, grids):
        return seen.setdefault(len(seen), real(cls, table, grids))

    monkeypatch.setattr(training.Examples, "of", classmethod(of))
    fine_tuning._fine_tune(run, "single", 0, tmp_path)
    train, held = seen[0], seen[1]
    table = fine_tuning.all_pairs(run).query("fold == 1").dropna(subset=["label"])
    assert set(train.scan_ids) == set(table["scan_id"]) and any(name.endswith("-2") for name in train.scan_ids)
    assert (train.labels == 1).sum() == (train.labels == 0).sum()
    assert all(name.endswith("-1") for name in held.scan_ids), "patients are judged at the index scan"


def test_an_interrupted_fine_tuning_goes_on_to_the_same_weights(run, tmp_path, monkeypatch):
    """Parameters that do not train have no state in the checkpoint."""
    longer = run.profile.prognosis.model_copy(update={"epochs": 2})
    run = replace(run, profile=run.profile.model_copy(update={"prognosis": longer}))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    fine_tuning._fine_tune(run, "pair", 0, whole)
    real = training._train_epoch

    def killed(*args):
        if args[-1] == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fine_tuning._fine_tune(run, "pair", 0, parts)
    monkeypatch.setattr(training, "_train_epoch", real)
    fine_tuning._fine_tune(run, "pair", 0, parts)
    assert (whole / "weights.safetensors").read_bytes() == (parts / "weights.safetensors").read_bytes()


def test_no_outcome_of_a_held_out_patient_reaches_any_prediction(stay):
    """Every predictor's logit stays the same to the bit when the outcomes of its own fold are changed."""
    limit = stay.run.profile.prognosis.high_risk_days
    held = stay.pairs["fold"] == 0
    changed = stay.pairs.assign(
        label=stay.pairs["label"].where(~held, 1 - stay.pairs["label"]),
        remaining_days=stay.pairs["remaining_days"].where(~held, 1.0),
        cause=stay.pairs["cause"].where(~held, 2),
    )
    first, again = (predictors.all_of(pairs, stay.scores, stay.features, limit) for pairs in (stay.pairs, changed))
    for name in predictors.NAMES:
        before, after = (found[name].set_index("scan_id") for found in (first, again))
        mine = before["fold"] == 0
        assert before.loc[mine, "logit"].tolist() == after.loc[mine, "logit"].tolist(), name
        assert before.loc[mine, "logit"].notna().all(), name
    other = first["schedule"]["fold"] == 1
    assert (first["schedule"]["logit"] != again["schedule"]["logit"])[other].all(), "the other fold is fitted anew"


def test_a_misspelt_predictor_is_named(stay):
    with pytest.raises(ConfigError, match="schedule"):
        predictors.inputs_of_columns(stay.index, "shedule", 2)


def test_every_predictor_has_a_nominal_p_and_the_networks_one_that_says_what_it_permutes(stay):
    table = stay.separation()
    assert table.index.tolist() == ["two scans", "one scan", "schedule", "age and sex"]
    assert (table["patients"] == 6).all() and (table["high risk"] + table["low risk"] == 6).all()
    assert {p.remark for p in table["log-rank p"] if p.known} <= {"nominal"}
    permuted = stay.permuted()
    assert permuted.index.tolist() == ["two scans", "one scan"]
    for name, words in (("permutation p", "(outcomes permuted, approximate)"), ("heads' p", "(outcomes permuted)")):
        for p in (p for p in permuted[name] if p.known):
            assert 0.05 <= p.value <= 1, "19 permutations"
            assert str(p).endswith(words)


def test_the_permutation_p_of_a_network_is_that_of_its_own_groups(stay):
    """Groups that separate the stays completely have the smallest p that 19 permutations allow, whatever the heads find."""
    days = stay.predictors["pair"]["remaining_days"]
    told = stay.predictors["pair"].assign(logit=days - days.median(), high=(days > days.median()).astype(float))
    chapter = replace(stay, predictors={**stay.predictors, "pair": told})
    own, found = chapter._log_rank("pair"), chapter.permutation("pair")
    row = chapter.permuted().loc["two scans"]
    assert row["permutation p"].value == (1 + (found.null >= own.chi_square).sum()) / 20 and own.z < 0
    assert chapter.side_by_side().loc["two scans", "permutation p"] == row["permutation p"]
    assert str(row["permutation p"]) in chapter._note("pair") and "high risk leaves later" in chapter._note("pair")
    gain = chapter.gain_over("single")
    assert gain.loc["auc", "permutation p"].remark == "outcomes permuted, approximate"


def test_intervals_of_out_of_fold_scores_are_called_nominal_and_those_of_readers_are_not(stay):
    columns = ["hazard ratio", "C-index", "AUC"]
    for table in (stay.separation(), stay.ventilation(), stay.all_pairs()[["hazard ratio", "AUC"]]):
        found = table[[name for name in columns if name in table]].to_numpy().ravel()
        assert any(one.known for one in found) and {one.remark for one in found if one.known} == {"nominal"}
    called = stay.readers()
    assert {one.remark for one in called[[*columns, "log-rank p"]].to_numpy().ravel()} == {""}
    assert {one.remark for one in called["lead of COVID3D"] if one.known} == {"nominal"}


def test_a_death_competes_with_discharge_in_every_predictors_groups(stay):
    assert stay.competing() == {"deaths": prognosis.NOBODY_DIED}
    assert stay.plot_incidence() is None
    groups = stay.predictors["pair"].assign(high=[1.0, 0.0] * 3, cause=[2, 1] * 3, event=[0, 1] * 3)
    causes = stay.pairs["scan_id"].map(groups.set_index("scan_id")["cause"]).fillna(stay.pairs["cause"])
    chapter = replace(stay, pairs=stay.pairs.assign(cause=causes), predictors={"pair": groups})
    table = chapter.competing()
    assert isinstance(chapter.plot_incidence(), Figure)
    assert table.loc["two scans", ["patients", "died"]].tolist() == [6, 3]
    assert table.loc["two scans", "Gray's p"].remark == "nominal"


def test_predictors_stand_side_by_side_on_the_same_patients(stay):
    table = stay.side_by_side()
    assert table.index.tolist() == list(predictors.NAMES.values()) and (table["patients"] == 6).all()
    assert (table["high risk"] + table["low risk"] == 6).all()
    assert str(table.loc["Cox on features of two scans", "permutation p"]) == "not available (refitting takes too long)"
    gain = stay.second_scan()
    assert gain.index.get_level_values("predictor").unique().tolist() == ["COVID3D", "opacity", "Cox", "DeepSurv"]
    area = table["AUC"].map(float)
    assert gain.loc[("opacity", "AUC"), "difference"].value == pytest.approx(
        area["opacity of two scans"] - area["opacity of one scan"]
    )
    assert gain.loc[("opacity", "AUC"), "refitted difference"] == pytest.approx(
        gain.loc[("opacity", "AUC"), "difference"].value
    )
    assert not gain.loc[("Cox", "AUC"), "permutation p"].known


def test_every_predictor_is_ranked_once_and_the_left_out_are_counted(stay):
    named = [name for names in stay.ranking().values() for name in names.split(", ") if name != "none"]
    assert sorted(named) == sorted(stay.verdicts())
    told = {"a": "does worse than", "b": "does better than", "c": "is not told apart from", "d": "does worse than"}
    assert predictors.ranking(told) == {"better": "a, d", "worse": "b", "not told apart": "c"}
    assert stay.left_out()["patients"].tolist() == [2, 0, 0, 0, 1, 0]
    days = stay.pairs["remaining_days"].where(stay.pairs["patient_id"] != "A000").replace(6.0, 7.0)
    lost = {"pair": stay.predictors["pair"].assign(logit=np.nan)}
    worse = replace(stay, pairs=stay.pairs.assign(remaining_days=days), predictors=lost)
    assert worse.left_out()["patients"].tolist() == [2, 1, 0, 6, 1, 2]


def test_the_landmark_keeps_those_who_are_still_there(stay):
    days = stay.test["remaining_days"]
    found = stay.landmarks()
    assert found.loc["two scans", "patients"].tolist() == [(days > day).sum() for day in prognosis.LANDMARKS]
    whole = stay.separation().loc["two scans", "C-index"]
    assert found.loc[("two scans", 0), "C-index"] == whole, "one number has one interval, wherever it stands"
    assert stay.ventilation().loc[("two scans", "all patients"), "C-index"] == whole


def test_the_best_of_all_cut_offs_pays_for_having_been_sought(stay):
    found = stay.best_cut()
    assert found.index.tolist() == [name for name in predictors.NAMES.values() if " on features " not in name]
    for row in found.to_dict("records"):
        assert max(row["uncorrected p"].value, row["least p"].value) <= row["permutation p"].value


def test_verdicts_follow_the_interval_of_the_difference(stay):
    assert set(stay.verdicts()) == set(list(predictors.NAMES.values())[1:])
    words = [predictors.in_words(Estimate(value, value - 0.1, value + 0.1)) for value in (0.2, -0.2, 0.05)]
    assert words == ["does better than", "does worse than", "is not told apart from"]
    assert predictors.in_words(Estimate.missing("no patient")) == "cannot be compared with"


def test_opacity_is_that_of_the_stored_grids_and_its_change_that_since_the_prior_scan(stay):
    table = opacity.measured(stay.run)
    assert len(table) == len(accepted(stay.run)) and table.index.is_unique
    assert tuple(table.loc["A003-1"]) == whole(Store.of(stay.run).get("A003-1"), None)
    known = table.copy()
    known[:] = np.arange(table.size).reshape(table.shape)
    found = predictors.with_opacity(stay.index.drop(columns=[*opacity.MEASURES, *predictors.CHANGES]), known)
    row = found.iloc[0]
    assert row["mean_hu"] == known.loc[row["scan_id"], "mean_hu"]
    assert row["change_mean_hu"] == row["mean_hu"] - known.loc[row["prior_scan_id"], "mean_hu"]


def test_a_scan_that_was_not_accepted_is_named(stay):
    with pytest.raises(MissingResult, match="A777-0"):
        opacity.measured(stay.run, ["A000-0", "A777-0"])


def followed(effect: float, count: int, seed: int) -> pd.DataFrame:
    """Return test patients in ten folds; a stay is told by the change of opacity alone, as strongly as `effect`."""
    rng = np.random.default_rng(seed)
    days = rng.integers(1, 15, count).astype(float)
    level, change = rng.normal(size=(2, count, len(opacity.MEASURES)))
    change[:, 0] += effect * (days - 7) / 4
    values = dict(zip([*opacity.MEASURES, *predictors.CHANGES], np.hstack([level, change]).T, strict=True))
    ids = [f"P{number:03d}" for number in range(count)]
    facts = {"scan_id": ids, "patient_id": ids, "fold": np.arange(count) % 10, "test": 1, "remaining_days": days}
    label = pd.array(days >= 7, dtype="Int64")
    return pd.DataFrame({**facts, "event": 1, "cause": 1, "label": label, "scan_index": 1, **values})


def area(table: pd.DataFrame, name: str) -> float:
    found = predictors.logistic_scores(table, predictors.inputs_of_columns(table, name, 10))
    return roc_auc_score(found["label"].astype(int), found["logit"])


def test_a_planted_change_is_found_by_two_scans_and_not_by_one_and_none_in_noise(stay):
    told, noise = followed(1.5, 60, 1), [followed(0.0, 60, seed) for seed in range(10)]
    assert area(told, "opacity_pair") > 0.8 > 0.65 > area(told, "opacity_single")
    assert 0.4 < np.mean([area(table, "opacity_pair") for table in noise]) < 0.6
    scores = {name: predictors.logistic_scores(told, predictors.inputs_of_columns(told, name, 10)) for name in OPACITY}
    wide = stay.run.profile.model_copy(update={"training": stay.run.profile.training.model_copy(update={"folds": 10})})
    chapter = replace(stay, run=replace(stay.run, profile=wide), pairs=told, predictors=scores)
    assert chapter.permutation("opacity_pair").p == pytest.approx(0.05), "19 permutations"
    gain = chapter.gain_over("opacity_single", "opacity_pair")
    assert gain.loc["auc", "difference"].low > 0 and gain.loc["auc", "permutation p"].value == pytest.approx(0.1)


OPACITY = ("opacity_pair", "opacity_single")


def test_a_lung_that_is_not_found_counts_as_the_median_of_the_others():
    table = followed(1.5, 60, 2)
    lost = table.assign(**{name: table[name].where(table["scan_id"] != "P003") for name in opacity.MEASURES})
    found = predictors.inputs_of_columns(lost, "opacity_single", 10).folds[0][3]
    train = table[(table["fold"] != 0) & (table["scan_id"] != "P003")][opacity.MEASURES]
    expected = predictors.inputs_of_columns(
        table.assign(**{name: table[name].where(table["scan_id"] != "P003", train[name].median()) for name in train}),
        "opacity_single",
        10,
    )
    assert found == pytest.approx(expected.folds[0][3])
    nothing = table.assign(**dict.fromkeys(opacity.MEASURES, np.nan))
    assert (
        predictors.logistic_scores(nothing, predictors.inputs_of_columns(nothing, "opacity_single", 10))["logit"]
        .isna()
        .all()
    )


@pytest.mark.parametrize("change", [{"label": 1}, {"label": pd.NA, "event": 0, "cause": 0}])
def test_one_class_only_and_all_censored_say_why_there_is_no_group(change):
    table = followed(1.0, 30, 3).assign(**change)
    table["label"] = table["label"].astype("Int64")
    found = predictors.logistic_scores(table, predictors.inputs_of_columns(table, "opacity_pair", 10))
    row = risk.separation(found, 99, np.random.default_rng(1))
    assert str(row["log-rank p"]) == "not available (nobody has a prediction and a known stay)"
    assert str(row["AUC"]) == "not available (no patient)" and not row["hazard ratio"].known


def test_the_permutation_uses_features_that_were_fitted_without_the_held_out_patients(stay):
    table = stay._with_outcome()
    changed = {"pair": [part.copy() for part in stay.features["pair"]]}
    held = table.loc[table["fold"] == 0, "scan_id"]
    changed["pair"][0].loc[held] = 100.0
    other = table["fold"].to_numpy() != 0
    before, after = (one._inputs("pair", table).folds[0][other] for one in (stay, replace(stay, features=changed)))
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


def test_opacity_and_s_are_compared_on_the_same_patients(stay):
    found = stay.opacity_against_s()
    assert found["patients"] == 6
    assert found["opacity minus s"].value == pytest.approx(found["opacity"].value - found["s"].value)


def test_figure_3_shows_the_first_reader_there_is_and_calls_simulated_only_who_is(stay, monkeypatch):
    shown = []
    monkeypatch.setattr(prognosis.draw, "kaplan_meier", lambda panels, notes: shown.append(list(panels)[1]))
    stay.plot_figure_3()
    real = stay.calls[stay.calls["reader_id"] == "R2"].assign(read_at="2021-05-04T10:00")
    replace(stay, calls=real).plot_figure_3()
    assert shown == ["reader R1 (simulated), two scans", "reader R2, two scans"]


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
    expected = table["A003"] - table.drop(["A003", "C000"]).mean()  # of C000 it is not known
    assert found["longer stay if ventilated or dead"].value == pytest.approx(expected)


def test_who_is_not_known_to_have_been_ventilated_is_not_counted_as_never(stay):
    rows = stay.pairs.assign(ventilated=stay.pairs["ventilated"].where(stay.pairs["patient_id"] != "A001"))
    found = replace(stay, pairs=rows).patients()
    assert found["ventilated"] == 1 and found["not known whether ventilated"] == 2, "A001 and C000"
    nothing = replace(stay, pairs=stay.pairs.assign(ventilated=pd.array([pd.NA] * len(stay.pairs), "Int64")))
    assert not nothing.patients()["ventilated"].known
    assert nothing.ventilation()["ventilated"].startswith("nobody of whom it is known")


def test_a_fold_that_was_not_trained_is_told(stay):
    found = {"input variants": 2, "on the same patients": True, "folds": 2, "all were trained": True}
    assert stay.fine_tuned() == found
    fewer = stay.scores.drop(stay.scores.query("model == 'pair' and split == 'validation'").index[0])
    assert not replace(stay, scores=fewer).fine_tuned()["on the same patients"]
    lost = stay.history[~((stay.history["model"] == "pair") & (stay.history["fold"] == 1))]
    assert not replace(stay, history=lost).fine_tuned()["all were trained"]


def test_a_scan_without_a_score_is_counted(stay, monkeypatch):
    real = predictors.scored.read_predictions

    def read(change):
        monkeypatch.setattr(predictors.scored, "read_predictions", lambda path: change(real(path)))
        monkeypatch.setattr(prognosis.results, "trajectory_scores", lambda run: stay.s)
        return load(stay.run, monkeypatch)

    found = read(lambda table: table.query("model == 'single' or scan_id != 'A000-1'"))
    assert found.left_out().at["without a score of some predictor", "patients"] == 1
    assert found.separation()["patients"].tolist() == [5, 6, 6, 6] and len(found.predictors["pair"]) == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_predictor_that_has_not_scored_everybody_is_in_no_group_there_and_has_no_permutation_p(stay, bad):
    scores = stay.scores.copy()
    scores.loc[(scores["model"] == "pair") & (scores["scan_id"] == "A000-1"), "logit"] = bad
    table = predictors.network_scores(stay.pairs, scores)["pair"]
    assert len(table) == 6 and table["high"].notna().sum() == table["probability"].notna().sum() == 5
    found = replace(stay, scores=scores, predictors={**stay.predictors, "pair": table, "opacity_pair": table})
    for name in ("two scans", "opacity of two scans"):
        side = found.side_by_side().loc[name]
        assert side["patients"] == 5 and side["permutation p"].method == cut_offs.NOT_PERMUTED
        assert not found.best_cut().at[name, "least p"].known
    one = predictors.bars(found.side_by_side(), found.predictors).loc["network, one scan"]
    assert one["verdict"] == "of other patients than two scans"
    gains = found.second_scan()["permutation p"]
    assert {gains[("COVID3D", "AUC")].method, gains[("opacity", "C-index")].method} == {cut_offs.NOT_PERMUTED}


def test_who_has_no_pair_since_a_scan_was_refused_is_counted(stay):
    scans = accepted(stay.run)
    before = stays.unpaired(scans, stay.pairs)
    refused = scans[scans["scan_id"] != "A000-1"]
    pairs = fine_tuning.pairs_of(refused, pd.read_csv(stay.run.splits), 7.0)
    assert stays.unpaired(refused, pairs) == before + 1
    later = replace(stay, pairs=stay.pairs[stay.pairs["scan_id"] != "A000-1"])
    assert later.pairs.query("patient_id == 'A000'")["test"].any() and (later.all_pairs()["patients"] == 5).all()


def test_a_transfer_is_censored_in_every_table_and_an_unknown_stay_in_none():
    rows = [*two_scans("A001", 9, "transferred"), *two_scans("A002", 9), *two_scans("A003", 5, "in_hospital", 1)]
    rows += [{**row, "days_to_discharge": "", "outcome": ""} for row in two_scans("A004", 9)]
    table = fine_tuning.pairs_of(manifest(rows), NO_SPLITS, 7.0).assign(ventilated=0)
    assert stays.who(table, table)["censored"] == 2
    scores = pd.DataFrame({"model": [], "scan_id": [], "probability": []})
    assert stays.outside(table, scores, {})["censored"].tolist() == [1, 0, 1, 0]


def test_without_days_of_the_scans_nobody_knows_whether_the_stay_falls_by_them(stay):
    found = replace(stay, pairs=stay.pairs.assign(interval_days=np.nan)).stays()["falls by the days between scans"]
    assert not found.known


def test_the_rest_of_the_tables(stay):
    counts = stay.groups()
    assert counts["high risk"].tolist() == [4, 3] and (counts["patients"] == 6).all()
    outside = stay.outside()
    assert outside["patient"].tolist() == ["C000"] and outside["censored"].tolist() == [1]
    assert pd.isna(outside["high risk"].iloc[0]), "censored before seven days: nobody knows"
    every = stay.all_pairs()
    assert (every["pairs"] == 12).all() and (every["patients"] == 6).all()
    assert stay.ventilation()["patients"].tolist() == [6, 5, 6, 5]
    assert list(replace(stay, pairs=stay.pairs.assign(ventilated=0)).ventilation()) == ["ventilated"], "a sentence"
    gain = stay.two_against_one()
    assert gain.index.get_level_values("against").unique().tolist() == list(predictors.NAMES.values())[1:]


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
            nobody_died = name == "plot_incidence" and found is None
            assert nobody_died or isinstance(found, (pd.DataFrame, dict, Figure)), name
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
    assert str(small.ratings()["mean gain of a second scan"]) == "not available (no reader's call of a known stay)"


def test_the_bars_of_the_protocol_are_judged_by_the_numbers_beside_them():
    low, high = Estimate(0.6, 0.45, 0.8), Estimate(0.72, 0.6, 0.9)
    side = pd.DataFrame(
        {"AUC": low, "permutation p": Estimate(0.02), "C-index": Estimate(0.4)}, index=[*predictors.NAMES.values()]
    )
    scores = {
        name: pd.DataFrame({"scan_id": ["a", "b", "c"], "high": 1.0, "remaining_days": 5})
        for name in ("pair", "single")
    }
    side.at["two scans", "AUC"] = side.at["opacity of two scans", "AUC"] = high
    table = predictors.bars(side, scores)
    held = ["reached", "reached", "reached", "not reached", "reached"]
    assert table["verdict"].tolist() == held
    side.at["opacity of two scans", "AUC"] = Estimate.missing("one class")
    side.at["one scan", "AUC"] = Estimate(0.8, 0.7, 0.9)
    assert predictors.bars(side, scores)["verdict"].tolist() == [
        "reached",
        "not reached",
        "one class",
        "not reached",
        "reached",
    ]
    for lost, name in enumerate(scores):  # as many patients, but others: each network misses another one
        scores[name].loc[lost, "high"] = np.nan
    found = predictors.bars(side, scores).loc["network, one scan"]
    assert found["verdict"] == "of other patients than two scans" and not found["found"].known
