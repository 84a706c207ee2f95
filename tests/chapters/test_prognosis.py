"""Prognosis: who is in the test set, what the models may see, the groups, and what small cohorts give."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from synthetic_run import scan, synthetic_run, write_reader_study, write_trajectory_scores
from torch import nn

from covid3d.chapters import prognosis
from covid3d.cohort.intake import accepted
from covid3d.network import training
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.stats import risk


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("prognosis")
    patch.setenv("COVID3D_ROOT", str(root))
    made = synthetic_run(root)
    write_reader_study(made)
    yield made
    patch.undo()


def manifest(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows).replace("", None)
    return table.astype({"scan_index": "Int64", "label": "Int64"})


def stay(patient: str, days: float, outcome: str = "discharged", censored: int = 0) -> list[dict]:
    """Return a patient with two scans, five days apart, `days` of stay left at the second."""
    facts = {"outcome": outcome, "censored": censored}
    first = scan(patient, 0, "development", 1, day=0, days_to_discharge=days + 5, **facts)
    return [first, scan(patient, 1, "followup", 1, day=5, days_to_discharge=days, **facts)]


NO_SPLITS = pd.DataFrame({"patient_id": ["A001"], "fold": [0], "split": ["validation"]})


def test_the_index_scan_is_the_second_scan_and_time_counts_from_it(run):
    table = prognosis.pairs(run).set_index("patient_id")
    assert len(table) == 7 and (table["scan_index"] == 1).all()
    row = table.loc["A004"]
    assert (row["scan_id"], row["prior_scan_id"]) == ("A004-1", "A004-0")
    assert (row["interval_days"], row["remaining_days"]) == (5, 12)
    assert table["test"].to_dict() == {**{f"A{number:03d}": 1 for number in range(6)}, "C000": 0}


def test_both_readings_of_seven_days():
    table = manifest([row for number, days in enumerate((6, 7, 8), start=1) for row in stay(f"A{number:03d}", days)])
    found = prognosis.pairs_of(table, NO_SPLITS, 7.0)
    assert found["label"].tolist() == [0, 1, 1]
    assert found["label_strict"].tolist() == [0, 0, 1]


def test_a_death_is_no_discharge_and_a_short_censored_stay_is_unknown():
    rows = [
        *stay("A001", 3, "died"),
        *stay("A002", 3, "in_hospital", 1),
        *stay("A003", 9, "in_hospital", 1),
        *stay("A004", 2),
    ]
    found = prognosis.pairs_of(manifest(rows), NO_SPLITS, 7.0).set_index("patient_id")
    assert found["cause"].to_dict() == {"A001": 2, "A002": 0, "A003": 0, "A004": 1}
    assert found["event"].tolist() == [0, 0, 0, 1]
    assert found["label"].astype(object).where(found["label"].notna(), None).tolist() == [1, None, 1, 0]


def test_a_pair_needs_both_scans():
    rows = [row for row in stay("A001", 9) if row["scan_index"] == 1] + stay("A002", 9)
    assert prognosis.pairs_of(manifest(rows), NO_SPLITS, 7.0)["patient_id"].tolist() == ["A002"]


def test_fine_tuning_starts_from_the_trunk_of_its_own_fold_and_keeps_its_batch_statistics(run):
    trunk = training.load_fold(run, "task1", "covid3d", 1).extractor.state_dict()
    model = prognosis.start_model(run, "pair", 1)
    assert all(torch.equal(value, trunk[name]) for name, value in model.extractor.state_dict().items())
    model.train()
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm3d))
    tuned = training.load_fold(run, "prognosis", "pair", 1) if prognosis.ensure_prognosis(run, "pair", 1) else None
    after = tuned.extractor.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, trunk[name])]
    assert moved and not [name for name in moved if "running" in name]


def test_held_out_patients_are_scored_by_the_fold_that_never_saw_them(run):
    splits = pd.read_csv(run.splits)
    for fold in (0, 1):
        held = set(splits.query(f"fold == {fold} and split == 'validation'")["patient_id"])
        for variant in prognosis.VARIANTS:
            rows = pd.read_csv(prognosis.ensure_prognosis(run, variant, fold) / "predictions.csv")
            assert set(rows.query("split in ['validation', 'followup']")["patient_id"]) <= held
            assert set(rows.query("split == 'external'")["patient_id"]) == {"C000"}
            assert set(rows["model"]) == {variant} and set(rows["task"]) == {"prognosis"}


def test_outcomes_of_held_out_patients_do_not_change_their_predictions(run, tmp_path, monkeypatch):
    first = pd.read_csv(prognosis.ensure_prognosis(run, "single", 0) / "predictions.csv")
    real = prognosis.all_pairs

    def flipped(one):
        table = real(one)
        table.loc[table["fold"] == 0, ["label", "remaining_days"]] = [0, 1.0]
        return table

    monkeypatch.setattr(prognosis, "all_pairs", flipped)
    prognosis._fine_tune(run, "single", 0, tmp_path)
    again = pd.read_csv(tmp_path / "predictions.csv")
    assert again["logit"].tolist() == first["logit"].tolist()


def test_groups_are_cut_at_one_half_never_at_a_median(run):
    table = prognosis.out_of_fold(run, "pair")
    assert len(table) == 6 and set(table["hospital"]) == {"A"}
    assert (table["high"] == (table["probability"] >= 0.5)).all()
    scores = pd.DataFrame({"scan_id": table["scan_id"], "logit": 3.0, "probability": 0.9})
    assert prognosis._with_groups(prognosis.pairs(run), scores)["high"].tolist() == [1.0] * 6


def test_features_are_those_of_task_1_before_fine_tuning(run):
    from covid3d.cohort.store import Store
    from covid3d.ct.windows import nominal_window
    from covid3d.network import scoring as inference

    with np.load(prognosis.ensure_prognosis(run, "single", 0) / "features.npz", allow_pickle=False) as stored:
        ids, found = stored["scan_ids"].tolist(), stored["features"]
    model = training.load_fold(run, "task1", "covid3d", 0)
    expected = inference.features(model, Store.of(run).stack(ids), nominal_window(run.profile.windows))
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_head_is_fitted_before_fine_tuning():
    model = nn.ModuleDict({"head": nn.Linear(6, 1)})
    rng = np.random.default_rng(2)
    features, labels = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2
    features[:, 0] += 3 * labels
    prognosis.fit_head(model, features, labels)
    logits = model["head"](torch.from_numpy(features)).detach().numpy()[:, 0]
    assert roc_auc_score(labels, logits) > 0.9


def test_controls_are_nested_in_the_same_folds(run):
    table = prognosis.pairs(run)
    first = prognosis.control_of(table, "age_sex").set_index("scan_id")
    changed = table.assign(label=table["label"].where(table["fold"] != 0, 1 - table["label"]))
    again = prognosis.control_of(changed, "age_sex").set_index("scan_id")
    held = first["fold"] == 0
    assert first.loc[held, "probability"].tolist() == again.loc[held, "probability"].tolist()
    assert first.loc[~held, "probability"].tolist() != again.loc[~held, "probability"].tolist()
    assert set(prognosis.control(run, "schedule")["scan_id"]) == set(first.index), "the same patients"
    with pytest.raises(ConfigError, match="schedule"):
        prognosis.control(run, "shedule")


def test_the_risk_table_has_a_row_for_every_predictor_with_both_p(run):
    table = prognosis.risk_table(run).set_index("predictor")
    assert table.index.tolist() == ["pair", "single", "schedule", "age_sex"]
    assert (table["n"] == 6).all() and (table["n_high"] + table["n_low"] == 6).all()
    assert table.loc[["pair", "single"], "p_permutation"].dropna().between(0.05, 1).all(), "19 permutations"
    assert table.loc[["schedule", "age_sex"], "p_permutation"].isna().all()


def test_readers_are_judged_on_the_same_patients(run):
    table = prognosis.reader_table(run).set_index(["reader_id", "task"])
    assert table.loc[("R1", "stay_pair"), "accuracy"] == 1
    assert (
        np.isnan(table.loc[("R2", "stay_pair"), "p_nominal"])
        and "one group" in table.loc[("R2", "stay_pair"), "reason"]
    )
    assert (table["long_n"] + table["other_n"] == 6).all()
    assert table.loc[("R2", "stay_single"), ["other_errors", "long_errors"]].tolist() == [2, 0]
    model = risk.c_index_pairs(prognosis.out_of_fold(run, "pair")).value(np.ones((1, 6)))[0]
    assert table.loc[("R1", "stay_pair"), "c_lead"] == pytest.approx(model - table.loc[("R1", "stay_pair"), "c_index"])
    gain = prognosis.reader_gain(run).set_index("reader_id")
    assert gain.loc["R1", ["only_two", "only_one"]].tolist() == [3, 0]
    assert gain.loc["R1", "p"] == pytest.approx(0.25), "binomial: 2 x 1/8"


def test_frozen_scores_come_from_the_trajectories(run):
    assert prognosis.frozen_scores(run).empty, "trajectories have not run"
    write_trajectory_scores(run, {scan_id: float(number) for number, scan_id in enumerate(accepted(run)["scan_id"])})
    assert prognosis.frozen_scores(run)["n"].tolist() == [6, 6, 6]


def test_the_rest_of_the_tables(run):
    counts = prognosis.group_counts(run)
    assert counts["high"].tolist() == [4, 3] and (counts["n"] == 6).all()
    outside = prognosis.external_cases(run)
    assert outside["patient_id"].tolist() == ["C000"] and outside["censored"].tolist() == [1]
    assert pd.isna(outside["label"].iloc[0]), "censored before seven days: nobody knows"
    every = prognosis.all_pairs_sensitivity(run)
    assert (every["pairs"] == 12).all() and (every["patients"] == 6).all()
    assert prognosis.ventilation(run)["n"].tolist() == [6, 5, 6, 5]
    assert prognosis.competing_risks(run)["cause_1"].iloc[-1] == pytest.approx(1)


def test_a_misspelt_variant_and_a_missing_fold_are_named(run):
    with pytest.raises(ConfigError, match="pair"):
        prognosis.ensure_prognosis(run, "pairs", 0)
    with pytest.raises(MissingResult):
        prognosis.ensure_prognosis(run, "pair", 7)


@pytest.mark.parametrize("followed", [0, 1, 2])
def test_a_cohort_too_small_gives_not_available_and_no_crash(root, followed):
    small = synthetic_run(root, followed=followed)
    table = prognosis.risk_table(small)
    assert table.loc[table["predictor"].isin(prognosis.VARIANTS), "p_nominal"].isna().all()
    assert (table["reason"] != "").all()
    for function in (prognosis.two_scans_against_one, prognosis.all_pairs_sensitivity, prognosis.ventilation):
        assert isinstance(function(small), pd.DataFrame)
    assert len(prognosis.external_cases(small)) == 1
    assert prognosis.reader_table(small).empty and prognosis.reader_gain(small).empty
    assert isinstance(prognosis.kaplan_meier(small, "pair"), pd.DataFrame)
    assert isinstance(prognosis.competing_risks(small), pd.DataFrame)
