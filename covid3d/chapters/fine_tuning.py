"""The step behind chapter 7: the pairs of scans with what happened after them, and the fine-tuning of one fold.

Index scan = a patient's second scan (`scan_index` 1); time zero and the remaining stay count from it, for one scan and for
two. Fine-tuning of fold k starts from fold k's network of Task 1, so that no held-out patient has been seen by either.

Some forty patients cannot teach a million weights. So the head is a regression on few components, only the last Inception
blocks move with it, a little, and every pair of a training patient is an example: the paper's label is one of a scan, and a
later scan has its own remaining stay. Patients are judged at the index scan alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from covid3d.cohort.folds import read_splits
from covid3d.cohort.intake import accepted
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import registry, scoring, training
from covid3d.network.i3d import BLOCKS
from covid3d.network.start import COMPONENTS, fix_batch_norm, set_head
from covid3d.network.weights import save_weights
from covid3d.run import steps
from covid3d.run.errors import ConfigError, nearest
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats import survival

VARIANTS = ("single", "pair")


def all_pairs(run: Run) -> pd.DataFrame:
    """Return every follow-up scan of the run's patients with the scan before it, see `pairs_of`, and `ventilated`, as `ever`."""
    found = pairs_of(accepted(run), read_splits(run), run.profile.prognosis.high_risk_days)
    return found.assign(ventilated=found["patient_id"].map(ever(read_manifest(run.manifest), "ventilated")))


def ever(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return by patient whether a fact of a stay ever held: 1 if a row says so, 0 if every row says not, else NA (Int64).

    rows: of a manifest, those of refused scans too: what they say of the patient holds all the same.
    """
    said = rows[column].astype("Int64").astype("boolean").groupby(rows["patient_id"])
    return said.any(skipna=False).astype("Int64")


def pairs_of(table: pd.DataFrame, splits: pd.DataFrame, high_risk_days: float) -> pd.DataFrame:
    """Return one row a follow-up scan of a COVID+ patient: the scan, the one before it, and what happened after the scan.

    Columns scan_id, prior_scan_id, patient_id, hospital, scan_index, day, interval_days, remaining_days, event (1 =
    discharged alive), cause (0 censored, 1 discharged, 2 died), label (1 = high risk, NA = unknown), label_strict (> instead
    of >=), age, sex, outcome, censored, fold (Task-1 fold that holds the patient out; -1 outside A), test (1 = the test
    set). A pair with a scan that intake refused is left out.

    A death, whenever it comes, is not a discharge within the limit: high risk. A stay censored before the limit is unknown, and
    so is any without days.
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
    result = found[["scan_id", "prior_scan_id", "patient_id", "hospital", "scan_index", "outcome", "sex"]].assign(
        censored=censored.astype(int),
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


def start_model(run: Run, variant: str, fold: int) -> nn.Module:
    """Return the one-scan or two-scan model with the trunk of fold k's Task-1 model; its head is not fitted yet."""
    model = registry.build(variant, run.profile)
    trunk = training.load_fold(run, "task1", "covid3d", fold)
    model.get_submodule("extractor").load_state_dict(trunk.get_submodule("extractor").state_dict())
    fix_batch_norm(model)
    moving = tuple(
        f"extractor.{block}." for block in list(BLOCKS)[len(BLOCKS) - run.profile.prognosis.trained_blocks :]
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("head.", *moving)))
    return model


def head_inputs(variant: str, features: np.ndarray) -> np.ndarray:
    """Return what a head is fitted to: the scan's features (N, C), or the index scan's and their change (N, 2C).

    Index and change span what prior and index span, and a linear head on the one is a linear head on the other; but a
    patient's two scans are alike, so that change would come last among the components of prior and index.
    """
    if variant == "single":
        return features
    prior, index = np.split(features, 2, axis=1)
    return np.hstack([index, index - prior])


def fit_head(model: nn.Module, variant: str, features: np.ndarray, labels: np.ndarray) -> None:
    """Set the head to a ridge logistic regression on principal components of the training patients' `head_inputs`.

    Linear probing before fine-tuning (Kumar et al., ICLR 2022): a random head would first undo what the trunk has learned.
    features: (N, C) of one scan, (N, 2C) of prior and index scan, on which the head stands in the network.
    """
    weight, bias = survival.linear_head(head_inputs(variant, features.astype(float)), labels.astype(float), COMPONENTS)
    if variant == "pair":
        index, change = np.split(weight, 2)
        weight = np.concatenate([-change, index + change])
    set_head(model, weight, bias)


def ensure_prognosis(run: Run, variant: str, fold: int) -> Path:
    """Return the folder of one fold of `single` or `pair`: weights, history, predictions, features; computed when needed.

    predictions.csv: the held-out patients' index scans (split validation) and later scans (followup), and C (external).
    features.npz: scan_ids and the Task-1 features of every pair's scan, or of prior and scan, never trained on outcomes.
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
    index, known = table["scan_index"] == 1, table["label"].notna()
    train = table[known & (table["fold"] >= 0) & (table["fold"] != fold)]
    scored = table[(table["fold"] == fold) | (index & (table["fold"] == -1))].reset_index(drop=True)
    device = scoring.use_device(run)
    model = start_model(run, variant, fold)
    features = _features(run, variant, model, table, device)
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
        seen, unseen = (training.Examples.of(part, _grids(run, variant, part)) for part in (balanced(train), held))
        fit_head(model, variant, features.loc[train["scan_id"]].to_numpy(), train["label"].to_numpy(int))
        seed = random_seed(run.seed, "prognosis", variant, fold)
        checkpoint = run.path("checkpoints", f"prognosis_{variant}_{fold:02d}.safetensors")
        history = training.fit(model, seen, unseen, plan, checkpoint=checkpoint, device=device, seed=seed).history
        logits = scoring.score(model, _grids(run, variant, scored), [plan.window], device=device)[:, 0]
    split = np.where(scored["fold"] == -1, "external", np.where(scored["scan_index"] == 1, "validation", "followup"))
    rows = scoring.prediction_rows(
        "prognosis", variant, fold, settings.epochs, scored, split.tolist(), "nominal", logits
    )
    save_weights(folder / "weights.safetensors", model, training.weights_metadata(run, variant))
    write_csv(folder / "history.csv", history)
    write_csv(folder / "predictions.csv", rows)


def balanced(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those of the rarer class repeated in turn until both classes are as many.

    A later scan has less of the stay left, so that most pairs are of low risk; at the index scan about half are.
    """
    high = (table["label"] == 1).to_numpy()
    rare, common = sorted((np.flatnonzero(high), np.flatnonzero(~high)), key=len)
    return table.iloc[np.concatenate([common, np.resize(rare, len(common))])]


def read_features(run: Run, variant: str, fold: int) -> pd.DataFrame:
    """Return the Task-1 features that one fold was fine-tuned from, (N, C) or (N, 2C), indexed by the pair's scan_id."""
    with np.load(run.model("prognosis", variant, fold) / "features.npz", allow_pickle=False) as stored:
        return pd.DataFrame(stored["features"], index=stored["scan_ids"].tolist())


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
