"""Prognosis: who is in the test set, what the models may see, the groups, and what small cohorts give."""

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score
from synthetic_run import scan, synthetic_run, write_reader_study, write_trajectory_scores
from torch import nn

from covid3d.chapters import prognosis
from covid3d.cohort.intake import accepted
from covid3d.network import training
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.stats import risk, survival


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


def test_the_linear_head_reproduces_the_heads_of_the_permutation():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(2, 3, (30, 50)), rng.integers(0, 2, 30).astype(float)
    weight, bias = survival.linear_head(features, labels, 8)
    everyone = np.ones(30, bool)
    expected = survival.logistic_heads(survival.principal_components(features, everyone, 8), labels[None], everyone)[0]
    assert features @ weight + bias == pytest.approx(expected, abs=1e-6)


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


def synthetic(effect: float, count: int, rng: np.random.Generator) -> pd.DataFrame:
    days = rng.integers(1, 15, count).astype(float)
    logit = effect * (days - 7) + rng.normal(0, 1, count)
    ids = [f"P{number:03d}" for number in range(count)]
    table = pd.DataFrame({"scan_id": ids, "patient_id": ids, "remaining_days": days, "event": 1, "logit": logit})
    return table.assign(label=(days >= 7).astype(int), high=(logit >= 0).astype(float))


def test_separation_has_the_signs_of_a_longer_stay():
    found = risk.separation(synthetic(0.5, 60, np.random.default_rng(3)), 199, np.random.default_rng(4))
    assert found["hazard_ratio"] < 1, "high risk leaves later"
    assert found["c_index"] > 0.5 and found["auc"] > 0.5 and found["p_nominal"] < 0.01
    assert found["c_low"] < found["c_index"] < found["c_high"]


def test_c_index_and_auc_equal_lifelines_and_scikit_learn():
    rng = np.random.default_rng(5)
    table = synthetic(0.2, 40, rng).assign(event=rng.integers(0, 2, 40))
    table["logit"] = table["logit"].round(0)
    one = np.ones((1, 40))
    assert risk.c_index_pairs(table).value(one)[0] == pytest.approx(
        concordance_index(table["remaining_days"], table["logit"], table["event"])
    )
    assert risk.auc_pairs(table).value(one)[0] == pytest.approx(roc_auc_score(table["label"], table["logit"]))


def test_a_perfect_order_of_few_patients_has_no_interval_that_looks_certain():
    table = pd.DataFrame({"patient_id": ["a", "b", "c", "d"], "remaining_days": [1.0, 2.0, 8.0, 9.0], "event": 1})
    table = table.assign(label=[0, 0, 1, 1], logit=table["remaining_days"])
    for measure in risk.MEASURES:
        found = risk.bootstrap_interval(table, measure, 99, np.random.default_rng(1))
        assert found.value == 1 and np.isnan(found.low) and np.isnan(found.high)
    mixed = risk.bootstrap_interval(table.assign(logit=[1, 3, 2, 4]), "c_index", 99, np.random.default_rng(1))
    assert mixed.low < mixed.value < mixed.high


def test_resampled_weights_are_repeated_rows():
    table = synthetic(0.3, 12, np.random.default_rng(6))
    table["patient_id"] = table["patient_id"].str.slice(0, 3)  # P00 has ten rows, P01 two
    weights = risk.resampled(table, 5, np.random.default_rng(7))
    assert (weights.reshape(5, 12)[:, :10].std(axis=1) == 0).all(), "a patient's rows go together"
    for row, value in zip(weights, risk.c_index_pairs(table).value(weights), strict=True):
        drawn = table.loc[np.repeat(np.arange(12), row.astype(int))]
        assert value == pytest.approx(concordance_index(drawn["remaining_days"], drawn["logit"], drawn["event"]))


def test_two_scans_against_one_is_paired_on_the_same_patients():
    rng = np.random.default_rng(8)
    table = synthetic(0.4, 50, rng)
    other = table.assign(logit=table["logit"] + rng.normal(0, 0.01, 50))
    close = risk.compare(table, other, 199, np.random.default_rng(9)).set_index("measure")
    assert close.loc["c_index", "high"] - close.loc["c_index", "low"] < 0.02, "two near-equal predictors hardly differ"
    worse = risk.compare(table, table.assign(logit=rng.normal(size=50)), 199, np.random.default_rng(10)).set_index(
        "measure"
    )
    assert worse.loc["c_index", "low"] > 0 and (worse["n"] == 50).all()


def test_the_gain_by_permutation_finds_a_telling_second_scan_and_is_paired():
    rng = np.random.default_rng(12)
    table = synthetic(0.0, 50, rng).dropna(subset=["label"]).reset_index(drop=True)
    table["fold"] = np.arange(len(table)) % 5
    noise = rng.normal(size=(len(table), 3))
    told = np.column_stack([noise, table["remaining_days"] / 2 + rng.normal(0, 0.3, len(table))])
    found = risk.permuted_gain(table, [told] * 5, [noise] * 5, 99, np.random.default_rng(13))
    assert found["p_permutation"].tolist() == pytest.approx([0.02, 0.02]), "twice 1 / 100"
    same = risk.permuted_gain(table, [noise] * 5, [noise] * 5, 99, np.random.default_rng(13))
    assert (same["gain_heads"] == 0).all() and (same["p_permutation"] == 1).all()


def test_outcomes_are_permuted_for_the_pairs_as_for_the_heads():
    """The same p from tables that are permuted one by one, and C-index and AUC of each."""
    rng = np.random.default_rng(14)
    table = synthetic(0.3, 40, rng).dropna(subset=["label"]).reset_index(drop=True)
    table["fold"] = np.arange(len(table)) % 4
    one, two = rng.normal(size=(len(table), 2)), rng.normal(size=(len(table), 3))
    two[:, 0] += table["label"].to_numpy(float)
    found = risk.permuted_gain(table, [two] * 4, [one] * 4, 59, np.random.default_rng(15)).set_index("measure")
    held, label = table["fold"].to_numpy(), table["label"].to_numpy(float)
    orders = survival.permuted_orders(len(table), 59, np.random.default_rng(15))
    gains: dict[str, list[float]] = {name: [] for name in risk.MEASURES}
    for order in orders:
        mixed = table.assign(**{name: table[name].to_numpy()[order] for name in ("remaining_days", "event", "label")})
        both = [survival.permuted_logits([heads] * 4, held, label, order[None])[0] for heads in (two, one)]
        for name, measure in risk.MEASURES.items():
            values = [measure(mixed.assign(logit=logit)).value(np.ones((1, len(mixed))))[0] for logit in both]
            gains[name].append(values[0] - values[1])
    for name, values in gains.items():
        null = np.array(values[1:])
        tails = [(1 + (sign * null >= sign * values[0] - 1e-9).sum()) / 60 for sign in (1, -1)]
        assert found.loc[name, "gain_heads"] == pytest.approx(values[0])
        assert found.loc[name, "p_permutation"] == pytest.approx(min(1, 2 * min(tails))), name


def test_without_effect_the_paired_interval_holds_zero_most_of_the_time():
    rng = np.random.default_rng(11)
    held = []
    for _ in range(100):
        table = synthetic(0.2, 40, rng)
        other = table.assign(logit=0.2 * (table["remaining_days"] - 7) + rng.normal(0, 1, 40))
        row = risk.compare(table, other, 99, rng).set_index("measure").loc["c_index"]
        held.append(row["low"] <= 0 <= row["high"])
    assert np.mean(held) >= 0.87


def test_curves_give_numbers_at_risk_for_both_groups():
    table = synthetic(0.5, 30, np.random.default_rng(12))
    found = risk.curves(table)
    start = found[found["day"] == 0].set_index("group")["at_risk"]
    assert start.to_dict() == {"high": int(table["high"].sum()), "low": int((1 - table["high"]).sum())}
    assert risk.curves(table.assign(high=1.0))["group"].unique().tolist() == ["high"]
    assert risk.curves(table.head(0)).empty


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


def test_frozen_scores_follow_the_stay_when_they_should():
    rng = np.random.default_rng(13)
    rows = []
    for number, days in enumerate(rng.permutation(20) + 1.0):
        common = {"patient_id": f"P{number}", "interval_days": 4.0, "label": int(days >= 7)}
        rows.append({**common, "scan_index": 1, "remaining_days": days, "prior": 0.0, "s": 0.1 * days})
        rows.append({**common, "scan_index": 2, "remaining_days": days, "prior": 0.1 * days, "s": 0.1 * days})
    found = risk.frozen_table(pd.DataFrame(rows)).set_index("measure")
    assert found.loc["s at the index scan", "spearman"] == pytest.approx(1)
    assert found.loc["slope of s since the prior scan", "spearman"] == pytest.approx(1)
    assert found.loc["curvature of s over three scans", "spearman"] == pytest.approx(-1)
    assert (found["n"] == 20).all()


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


@pytest.mark.verify
def test_null_world_two_scan_gain_is_rarely_claimed():
    """400 replicates without a difference: at most 32 intervals without zero."""
    rng, claimed = np.random.default_rng(20), {"c_index": 0, "auc": 0}
    for _ in range(400):
        table = synthetic(0.0, 49, rng)
        other = table.assign(logit=0.5 * table["logit"] + rng.normal(0, 1, 49))
        found = risk.compare(table, other, 499, rng).set_index("measure")
        for name in claimed:
            claimed[name] += int(not found.loc[name, "low"] <= 0 <= found.loc[name, "high"])
    assert max(claimed.values()) <= 32, claimed


@pytest.mark.verify
def test_null_world_log_rank_by_permutation_keeps_its_level():
    """400 replicates of ten folds on features of noise: at most 32 p-values of 0.05 or less."""
    rng, rejected = np.random.default_rng(21), 0
    folds = np.arange(49) % 10
    for _ in range(400):
        days, features = rng.integers(1, 15, 49), rng.normal(size=(49, 64))
        inputs = [survival.principal_components(features, folds != fold, 8) for fold in range(10)]
        found = survival.permute_outcomes(inputs, folds, days, np.ones(49), days >= 7, permutations=99, rng=rng)
        rejected += int(found.p <= 0.05)
    assert rejected <= 32
