"""Task 2: does one scan, or two, tell who leaves hospital within a week?

Index scan = a patient's second scan (`scan_index` 1); time zero and the remaining stay count from it, for one scan and for
two. High risk = remaining stay >= 7 days. Groups come from out-of-fold probabilities at 0.5; the patient is the unit.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import registry, scoring, training
from covid3d.network.tabular import baseline, fit_predict
from covid3d.network.weights import save_weights
from covid3d.run import steps
from covid3d.run.errors import ConfigError, nearest
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats import risk, survival

IDS = {"scan_id": str, "prior_scan_id": str, "patient_id": str, "hospital": str, "reader_id": str}
VARIANTS = ("single", "pair")
CONTROLS = ("schedule", "age_sex")
COMPONENTS = 8
LONG_STAY = 9.0
NAN = float("nan")


def pairs(run: Run) -> pd.DataFrame:
    """Return one row a follow-up patient: the index scan, the prior scan, and what happened after the index scan.

    Columns scan_id, prior_scan_id, patient_id, hospital, scan_index, day, interval_days, remaining_days, event (1 =
    discharged alive), cause (0 censored, 1 discharged, 2 died), label (1 = high risk, NA = unknown), label_strict (> instead
    of >=), age, sex, ventilated, fold (Task-1 fold that holds the patient out; -1 outside A), test (1 = the test set).
    """
    table = all_pairs(run)
    return table[table["scan_index"] == 1].reset_index(drop=True)


def all_pairs(run: Run) -> pd.DataFrame:
    """Return every follow-up scan with the scan before it, columns as `pairs`."""
    return pairs_of(accepted(run), pd.read_csv(run.splits, dtype=IDS), run.profile.prognosis.high_risk_days)


def pairs_of(table: pd.DataFrame, splits: pd.DataFrame, high_risk_days: float) -> pd.DataFrame:
    """Return the pairs of a manifest; see `pairs`. A pair with a scan that intake refused is left out.

    A death, whenever it comes, is not a discharge within the limit: high risk. A stay censored before the limit is unknown.
    """
    scans = table[table["role"].isin(["development", "external", "followup"]) & (table["label"] == 1)]
    prior = scans[["patient_id", "scan_index", "scan_id", "day"]].assign(scan_index=scans["scan_index"] + 1)
    prior = prior.rename(columns={"scan_id": "prior_scan_id", "day": "prior_day"})
    found = scans[scans["scan_index"] >= 1].merge(prior, on=["patient_id", "scan_index"]).reset_index(drop=True)
    number = {
        name: pd.to_numeric(found[name]).astype(float) for name in ("day", "prior_day", "days_to_discharge", "age")
    }
    censored = pd.to_numeric(found["censored"]).fillna(0).astype(int) == 1
    outcome = found["outcome"].fillna("").astype(str)
    known_time = number["days_to_discharge"].notna()
    died = (outcome == "died") & ~censored
    event = outcome.isin(["discharged", ""]) & ~censored & known_time
    days = number["days_to_discharge"]
    held = splits[splits["split"] == "validation"].drop_duplicates("patient_id").set_index("patient_id")["fold"]
    result = found[
        ["scan_id", "prior_scan_id", "patient_id", "hospital", "scan_index", "outcome", "sex", "ventilated"]
    ].assign(
        day=number["day"],
        interval_days=number["day"] - number["prior_day"],
        remaining_days=days,
        event=event.astype(int),
        cause=np.where(event, 1, np.where(died & known_time, 2, 0)),
        age=number["age"],
        fold=found["patient_id"].map(held).fillna(-1).astype(int),
    )
    for name, above in (("label", days >= high_risk_days), ("label_strict", days > high_risk_days)):
        unknown = ~known_time | (~event & ~died & ~above)
        result[name] = (above | died).astype("Int64").mask(unknown)
    result["test"] = ((result["fold"] >= 0) & known_time).astype(int)
    return result.sort_values(["patient_id", "scan_index"], ignore_index=True)


# --- fine-tuning -----------------------------------------------------------------------------------------------------


class FixedBatchNorm(nn.BatchNorm3d):
    """BatchNorm that keeps the statistics of Task 1 while some forty patients in small batches fine-tune the rest."""

    def train(self, mode: bool = True) -> "FixedBatchNorm":
        """Stay in evaluation mode whatever is asked for."""
        super().train(False)
        return self


def start_model(run: Run, variant: str, fold: int) -> nn.Module:
    """Return the one-scan or two-scan model with the trunk of fold k's Task-1 model; its head is not fitted yet."""
    model = registry.build(variant, run.profile)
    trunk = training.load_fold(run, "task1", "covid3d", fold)
    model.get_submodule("extractor").load_state_dict(trunk.get_submodule("extractor").state_dict())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.__class__ = FixedBatchNorm
    return model


def fit_head(model: nn.Module, features: np.ndarray, labels: np.ndarray) -> None:
    """Set the head to a ridge logistic regression on principal components of the training patients' features (N, C).

    Linear probing before fine-tuning (Kumar et al., ICLR 2022): a random head would first undo what the trunk has learned.
    """
    weight, bias = survival.linear_head(features.astype(float), labels.astype(float), COMPONENTS)
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight)[None])
        head.bias.fill_(bias)


def ensure_prognosis(run: Run, variant: str, fold: int) -> Path:
    """Return the folder of one fold of `single` or `pair`: weights, history, predictions, features; computed when needed.

    predictions.csv: the held-out patients' index scans (split validation) and later scans (followup), and C (external).
    features.npz: scan_ids and the Task-1 features of the index scan, or of prior and index scan, never trained on outcomes.
    Raises ConfigError for another variant.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"there is no prognosis variant '{variant}'", cure=nearest(variant, VARIANTS))
    start = steps.content(run.model("task1", "covid3d", fold))
    cohort = {"manifest": run.manifest, "intake": run.intake, "splits": run.splits}
    inputs = {**cohort, "start": start, "variant": variant, "fold": fold}
    again = f"python -m covid3d step prognosis --run {run.name} --fold {fold} --variant {variant}"
    folder = run.model("prognosis", variant, fold)
    return steps.ensure(run, "prognosis", folder, inputs, lambda out: _fine_tune(run, variant, fold, out), again=again)


def _fine_tune(run: Run, variant: str, fold: int, folder: Path) -> None:
    table, settings = all_pairs(run), run.profile.prognosis
    index = table["scan_index"] == 1
    known = table["label"].notna()
    train = table[index & known & (table["fold"] >= 0) & (table["fold"] != fold)]
    scored = table[(table["fold"] == fold) | (index & (table["fold"] == -1))].reset_index(drop=True)
    device = scoring.pick_device(run.device)
    if device == "cpu":
        torch.set_num_threads(run.profile.training.threads_per_fold)
    model = start_model(run, variant, fold)
    features = _features(run, variant, model, table[index], device)
    np.savez(folder / "features.npz", scan_ids=features.index.to_numpy(str), features=features.to_numpy())
    logits, history = np.full(len(scored), np.nan, np.float32), pd.DataFrame({"epoch": [], "train_loss": []})
    if train["label"].nunique() == 2:
        plan = training.Plan.of(
            run.profile.training,
            nominal_window(run.profile.windows),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        )
        held = table[index & known & (table["fold"] == fold)]
        examples, unseen = (training.Examples.of(part, _grids(run, variant, part)) for part in (train, held))
        fit_head(model, features.loc[train["scan_id"]].to_numpy(), train["label"].to_numpy(int))
        seed = random_seed(run.seed, "prognosis", variant, fold)
        checkpoint = run.path("checkpoints", f"prognosis_{variant}_{fold:02d}.safetensors")
        history = training.fit(model, examples, unseen, plan, checkpoint=checkpoint, device=device, seed=seed).history
        logits = scoring.score(model, _grids(run, variant, scored), [plan.window], device=device)[:, 0]
    split = np.where(scored["fold"] == -1, "external", np.where(scored["scan_index"] == 1, "validation", "followup"))
    rows = scoring.prediction_rows(
        "prognosis", variant, fold, settings.epochs, scored, split.tolist(), "nominal", logits
    )
    save_weights(folder / "weights.safetensors", model, training.weights_metadata(run, variant))
    write_csv(folder / "history.csv", history)
    write_csv(folder / "predictions.csv", rows)


def _grids(run: Run, variant: str, table: pd.DataFrame) -> np.ndarray:
    """Return the HU grids of pairs, int16 (N, S, z, y, x): the index scan, or prior then index scan."""
    columns = ["scan_id"] if variant == "single" else ["prior_scan_id", "scan_id"]
    store = Store.of(run)
    return np.stack([store.stack(table[column]) for column in columns], axis=1)


def _features(run: Run, variant: str, model: nn.Module, table: pd.DataFrame, device: str) -> pd.DataFrame:
    """Return the pooled features of the not yet fine-tuned model, float32 (N, C or 2C), indexed by scan_id."""
    if table.empty:
        return pd.DataFrame(np.empty((0, 1), np.float32), index=pd.Index([], name="scan_id"))
    window = nominal_window(run.profile.windows)
    found = scoring.features(model, _grids(run, variant, table), window, device=device)
    return pd.DataFrame(found, index=table["scan_id"])


# --- out of fold -----------------------------------------------------------------------------------------------------


def predictions(run: Run, variant: str) -> pd.DataFrame:
    """Return the predictions of all folds of a variant; missing folds are computed, or MissingResult."""
    folds = range(run.profile.training.folds)
    parts = [pd.read_csv(ensure_prognosis(run, variant, fold) / "predictions.csv", dtype=IDS) for fold in folds]
    return pd.concat(parts, ignore_index=True)


def out_of_fold(run: Run, variant: str) -> pd.DataFrame:
    """Return the test set (A's patients) with the out-of-fold logit, probability and group of each: columns of `pairs`."""
    scores = predictions(run, variant)
    return _with_groups(pairs(run), scores[scores["split"] == "validation"])


def _with_groups(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    joined = table[table["test"] == 1].merge(scores[["scan_id", "logit", "probability"]], on="scan_id")
    return joined.assign(high=(joined["probability"] >= 0.5).astype(float).where(joined["probability"].notna()))


def control(run: Run, name: str) -> pd.DataFrame:
    """Return the test set with out-of-fold predictions of a table-only control: schedule (day, interval) or age_sex."""
    if name not in CONTROLS:
        raise ConfigError(f"there is no control '{name}'", cure=nearest(name, CONTROLS))
    return control_of(pairs(run), name)


def control_of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return out-of-fold predictions of a logistic regression on the control's columns, fitted in the same folds."""
    columns = {"schedule": ["day", "interval_days"], "age_sex": ["age", "sex"]}[name]
    table = table[table["test"] == 1]
    table = table.assign(sex=table["sex"].fillna("U").replace("", "U").astype(object))
    parts = []
    for fold, held in table.groupby("fold"):
        train = table[(table["fold"] != fold) & table["label"].notna()]
        usable = train["label"].nunique() == 2 and train[columns].notna().any().all()
        chance = fit_predict(baseline(name), train[columns], train["label"], held[columns]) if usable else NAN
        parts.append(held[["scan_id"]].assign(probability=chance))
    scores = pd.concat([table.head(0)[["scan_id"]].assign(probability=0.0), *parts])
    share = scores["probability"].to_numpy(float).clip(1e-9, 1 - 1e-9)
    return _with_groups(table, scores.assign(logit=np.log(share / (1 - share))))


def predictor(run: Run, name: str) -> pd.DataFrame:
    """Return the test set with the groups of a predictor: pair, single, schedule, age_sex."""
    return out_of_fold(run, name) if name in VARIANTS else control(run, name)


# --- tables ----------------------------------------------------------------------------------------------------------


def risk_table(run: Run) -> pd.DataFrame:
    """Return one row a predictor (pair, single, schedule, age_sex) with `risk.separation` and the permutation p.

    p_permutation belongs to logistic heads on frozen Task-1 features (chi_square_heads), refitted for every permutation of
    the outcomes; p_in_null places the network's own chi-square in that null distribution (approximate).
    """
    rows = []
    for name in (*VARIANTS[::-1], *CONTROLS):
        rng = np.random.default_rng(random_seed(run.seed, "prognosis", name, "bootstrap"))
        row = {"predictor": name, **risk.separation(predictor(run, name), run.profile.statistics.bootstrap, rng)}
        if name in VARIANTS:
            found = permutation(run, name)
            heads = {"chi_square_heads": found.statistic, "p_permutation": found.p}
            row |= {**heads, "p_in_null": survival.permutation_p(float(str(row["chi_square"])), found.null)}
        rows.append(row)
    return pd.DataFrame(rows)


def permutation(run: Run, variant: str) -> survival.Permutation:
    """Return the permutation test of the out-of-fold log-rank: outcomes permuted, heads refitted on cached features."""
    table = _with_outcome(run)
    inputs = [_head_inputs(run, variant, table, fold) for fold in range(run.profile.training.folds)]
    columns = (table[name] for name in ("fold", "remaining_days", "event", "label"))
    return survival.permute_outcomes(
        inputs,
        *columns,
        permutations=run.profile.prognosis.permutations,
        rng=np.random.default_rng(random_seed(run.seed, "prognosis", "permutation")),
    )


def _with_outcome(run: Run) -> pd.DataFrame:
    return pairs(run).query("test == 1").dropna(subset=["label", "remaining_days"]).reset_index(drop=True)


def gain_permutation(run: Run) -> pd.DataFrame:
    """Return `risk.permuted_gain` of two scans over one: heads of both refitted under the same permuted outcomes."""
    table, folds = _with_outcome(run), range(run.profile.training.folds)
    inputs = {name: [_head_inputs(run, name, table, fold) for fold in folds] for name in VARIANTS}
    rng = np.random.default_rng(random_seed(run.seed, "prognosis", "permutation"))
    return risk.permuted_gain(table, inputs["pair"], inputs["single"], run.profile.prognosis.permutations, rng)


def _head_inputs(run: Run, variant: str, table: pd.DataFrame, fold: int) -> np.ndarray:
    """Return the head inputs (N, K) of one fold: principal components of its features, fitted without the held-out patients."""
    with np.load(ensure_prognosis(run, variant, fold) / "features.npz", allow_pickle=False) as stored:
        place = {scan: row for row, scan in enumerate(stored["scan_ids"].tolist())}
        features = stored["features"][[place[scan] for scan in table["scan_id"]]].astype(float)
    train = (table["fold"] != fold).to_numpy()
    return survival.principal_components(features, train, COMPONENTS) if train.any() else features[:, :1]


def two_scans_against_one(run: Run) -> pd.DataFrame:
    """Return differences of the two-scan model to one scan and to the controls on the same patients, paired.

    Columns comparison, measure, difference, low, high (bootstrap, nominal), n; of one scan `gain_permutation`'s as well.
    """
    pair, parts = out_of_fold(run, "pair"), []
    for other in ("single", *CONTROLS):
        rng = np.random.default_rng(random_seed(run.seed, "prognosis", "pair", other))
        found = risk.compare(pair, predictor(run, other), run.profile.statistics.bootstrap, rng)
        found = found.merge(gain_permutation(run), on="measure") if other == "single" else found
        parts.append(found.assign(comparison=f"pair - {other}"))
    first = ["comparison", "measure", "difference", "low", "high", "n", "gain_heads", "p_permutation"]
    return pd.concat(parts, ignore_index=True)[first]


def kaplan_meier(run: Run, name: str) -> pd.DataFrame:
    """Return the Kaplan-Meier curves of a predictor's two groups: group (high, low) and the columns of survival.kaplan_meier."""
    return risk.curves(predictor(run, name))


def group_counts(run: Run) -> pd.DataFrame:
    """Return who is in the test set under both readings of "7 days": rule, n, high, low, unknown, events, censored, deaths."""
    table = pairs(run)
    table, rows = table[table["test"] == 1], []
    limit = run.profile.prognosis.high_risk_days
    for rule, name in ((f"stay >= {limit:g} days", "label"), (f"stay > {limit:g} days", "label_strict")):
        label = table[name]
        counts = {"high": int((label == 1).sum()), "low": int((label == 0).sum()), "unknown": int(label.isna().sum())}
        ends = {
            f"{what}": int((table["cause"] == cause).sum())
            for cause, what in ((1, "events"), (0, "censored"), (2, "deaths"))
        }
        rows.append(
            {"rule": rule, "n": len(table), **counts, **ends, "median_stay": float(table["remaining_days"].median())}
        )
    return pd.DataFrame(rows)


def external_cases(run: Run) -> pd.DataFrame:
    """Return the follow-up patients outside A, one row each, scored by all folds: mean, lowest and highest probability.

    A stay that is censored before the limit has no label and is in no test set.
    """
    rows = []
    for patient in pairs(run).query("fold == -1").to_dict("records"):
        row = {str(name): patient[name] for name in ("patient_id", "hospital", "remaining_days", "label")}
        row["censored"] = int(patient["cause"] == 0)
        for variant in VARIANTS:
            found = predictions(run, variant)
            values = found.loc[(found["split"] == "external") & (found["scan_id"] == patient["scan_id"]), "probability"]
            row |= {
                f"{variant}_mean": values.mean(),
                f"{variant}_lowest": values.min(),
                f"{variant}_highest": values.max(),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def all_pairs_sensitivity(run: Run) -> pd.DataFrame:
    """Return every pair of the test patients, not the index scan alone, with intervals that cluster by patient.

    Columns predictor, pairs, patients, hazard_ratio (discharge), low, high, auc, auc_low, auc_high.
    """
    table, rows = all_pairs(run), []
    for variant in VARIANTS[::-1]:
        scores = predictions(run, variant)
        scores = scores[scores["split"].isin(["validation", "followup"])]
        joined = _with_groups(table, scores).dropna(subset=["high", "remaining_days"])
        days, event, high = joined["remaining_days"], joined["event"], joined["high"]
        ratio = survival.hazard_ratio(days, event, high, cluster=joined["patient_id"]).estimate
        rng = np.random.default_rng(random_seed(run.seed, "prognosis", variant, "all pairs"))
        area = risk.bootstrap_interval(joined, "auc", run.profile.statistics.bootstrap, rng)
        limits = (ratio.value, ratio.low, ratio.high, area.value, area.low, area.high)
        rows.append((variant, len(joined), joined["patient_id"].nunique(), *limits))
    columns = ["predictor", "pairs", "patients", "hazard_ratio", "low", "high", "auc", "auc_low", "auc_high"]
    return pd.DataFrame(rows, columns=columns)


def ventilation(run: Run) -> pd.DataFrame:
    """Return `risk.separation` of the two models with and without ever-ventilated patients (a post-baseline selection)."""
    rows = []
    for variant in VARIANTS[::-1]:
        table = out_of_fold(run, variant)
        ever = pd.to_numeric(table["ventilated"]).fillna(0).astype(int) == 1
        for who, part in (("all patients", table), ("never ventilated", table[~ever])):
            rng = np.random.default_rng(random_seed(run.seed, "prognosis", variant, who))
            found = risk.separation(part, run.profile.statistics.bootstrap, rng)
            rows.append({"predictor": variant, "patients": who, "ventilated": int(ever.sum()), **found})
    return pd.DataFrame(rows)


def competing_risks(run: Run) -> pd.DataFrame:
    """Return Aalen-Johansen cumulative incidences of discharge (cause_1) and death (cause_2) after the index scan."""
    table = pairs(run).query("test == 1")
    return survival.aalen_johansen(table["remaining_days"], table["cause"])


# --- readers, and scores that never saw an outcome -------------------------------------------------------------------


def reader_groups(run: Run) -> pd.DataFrame:
    """Return the readers' calls on the test set: reader_id, task (stay_single | stay_pair), columns of `pairs`, high, logit.

    Read from reader_study.csv; empty without one. `logit` is the call, so that tied calls count half in a C-index.
    """
    path, table = run.path("reader_study.csv"), pairs(run).query("test == 1")
    if not path.is_file():
        return table.head(0).assign(reader_id="", task="", high=NAN, logit=NAN)
    calls = pd.read_csv(path, dtype=IDS)
    calls = calls[calls["task"].isin(["stay_single", "stay_pair"])][["reader_id", "task", "scan_id", "call"]]
    return calls.merge(table, on="scan_id").assign(
        high=lambda t: t["call"].astype(float), logit=lambda t: t["call"].astype(float)
    )


def reader_table(run: Run) -> pd.DataFrame:
    """Return `risk.separation`, `risk.long_stays` and the model's lead for each reader and task.

    Further columns: reader_id, task, c_lead, c_lead_low, c_lead_high (C-index of the model that sees as many scans minus
    the reader's, paired bootstrap).
    """
    rows, draws = [], run.profile.statistics.bootstrap
    for (reader, task), part in reader_groups(run).groupby(["reader_id", "task"]):
        rng = np.random.default_rng(random_seed(run.seed, "prognosis", reader, task))
        row = {
            "reader_id": reader,
            "task": task,
            **risk.separation(part, draws, rng),
            **risk.long_stays(part, LONG_STAY),
        }
        lead = risk.compare(out_of_fold(run, "pair" if task == "stay_pair" else "single"), part, draws, rng).iloc[0]
        rows.append(row | {"c_lead": lead["difference"], "c_lead_low": lead["low"], "c_lead_high": lead["high"]})
    return pd.DataFrame(rows)


def reader_gain(run: Run) -> pd.DataFrame:
    """Return what the second scan changed for each reader, `risk.reader_gain`."""
    return risk.reader_gain(reader_groups(run))


def frozen_scores(run: Run) -> pd.DataFrame:
    """Return how s of Task 1, never trained on a stay, goes with it: measure, n, spearman, low, high, p, auc, auc_low, auc_high.

    Measures: s at the index scan, its slope since the prior scan (per day), and the curvature over the first three scans,
    which is judged against the stay after the third. Reads trajectories/scores.csv; censored stays are left out.
    """
    path = run.path("trajectories", "scores.csv")
    if not path.is_file():
        return pd.DataFrame(columns=["measure", "n", "spearman", "low", "high", "p", "auc", "auc_low", "auc_high"])
    scores = pd.read_csv(path, dtype=IDS).set_index("scan_id")["logit"]
    table = all_pairs(run).query("fold >= 0 and cause == 1")
    return risk.frozen_table(table.assign(s=table["scan_id"].map(scores), prior=table["prior_scan_id"].map(scores)))
