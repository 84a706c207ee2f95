"""Ten patient-level folds on hospital A: train them, choose the one that is deployed, and sum up.

Headline scores come from the last epoch, whose number the profile fixes. The best validation epoch is a second row,
labelled "the paper's possible rule", with its optimism.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from covid3d.cohort.folds import ensure_splits, require_certificate
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.kinetics.convert import load_trunk
from covid3d.network.registry import build
from covid3d.network.scoring import pick_device
from covid3d.network.training import Examples, Plan, fit, write_fold
from covid3d.run import steps
from covid3d.run.errors import Covid3DError, MissingResult
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, bootstrap_mean_auc, delong_interval
from covid3d.stats.estimate import Estimate

TASK, THREE_D, TWO_D = "task1", "covid3d", "resnet_2d"
IDS = {"scan_id": str, "patient_id": str, "hospital": str, "window": str, "split": str}
FLAT_WITHIN = 0.02


class LeakError(Covid3DError):
    """A split of Task 1 holds a scan that must not be there."""

    code = "leak"


def ensure_fold(run: Run, fold: int) -> Path:
    """Return the folder of one trained fold of COVID3D, training it when needed."""
    train, validation = split_of(run, fold)
    folder = run.model(TASK, THREE_D, fold)
    plan = Plan.of(run.profile.training, nominal_window(run.profile.windows))
    command = f"python -m covid3d step fold --run {run.name} --fold {fold}"
    inputs = {**_inputs(run, fold, train, validation), "starts_from": run.pretrained or "random values"}
    return steps.ensure(
        run, "fold", folder, inputs, lambda out: _train(run, THREE_D, fold, plan, train, validation, out), again=command
    )


def ensure_folds(run: Run) -> list[Path]:
    """Return the folders of all folds, training those that are missing one after the other."""
    return [ensure_fold(run, fold) for fold in range(run.profile.training.folds)]


def ensure_slices(run: Run) -> Path:
    """Return the folder of the 2D baseline, trained on the deployed fold's split (Table 1 has no 2D row for A)."""
    fold = deployed_fold(run)
    train, validation = split_of(run, fold)
    settings = run.profile.slices
    plan = Plan.of(
        run.profile.training,
        nominal_window(run.profile.windows),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    folder = run.model(TASK, TWO_D, fold)
    inputs = _inputs(run, fold, train, validation)
    return steps.ensure(
        run, "slices", folder, inputs, lambda out: _train(run, TWO_D, fold, plan, train, validation, out)
    )


def ensure_selection(run: Run) -> pd.DataFrame:
    """Return selection.csv: fold, auc_last, loss_last, auc_best, epoch_best, deployed (1 for exactly one fold)."""
    folders = ensure_folds(run)
    folder = run.path("models", TASK, "selection")
    inputs = {"folds": [steps.content(one) for one in folders]}

    def compute(out: Path) -> None:
        write_csv(out / "selection.csv", select(learning_curves(run)))

    steps.ensure(run, "selection", folder, inputs, compute)
    return pd.read_csv(folder / "selection.csv")


def is_trained(run: Run) -> bool:
    """True when every fold and the selection are there and up to date."""
    try:
        ensure_selection(run.with_options(compute=False))
    except MissingResult:
        return False
    return True


def select(curves: pd.DataFrame) -> pd.DataFrame:
    """Mark the fold that is deployed: highest AUC of the last epoch; ties: lowest validation loss, then fold number.

    curves: fold, epoch, validation_auc, validation_loss, one row an epoch.
    """
    rows = []
    for fold, curve in curves.sort_values(["fold", "epoch"]).groupby("fold"):
        epochs, loss, auc = (curve[name].to_numpy() for name in ("epoch", "validation_loss", "validation_auc"))
        auc = auc.round(12)  # equal shares of pairs may differ in their last bit
        best = int(np.argmax(np.nan_to_num(auc, nan=-1.0)))  # the first of equal epochs
        rows.append((fold, auc[-1], loss[-1], auc[best], int(epochs[best])))
    table = pd.DataFrame(rows, columns=["fold", "auc_last", "loss_last", "auc_best", "epoch_best"])
    order = table.sort_values(["auc_last", "loss_last", "fold"], ascending=[False, True, True])
    return table.assign(deployed=(table["fold"] == order["fold"].iloc[0]).astype(int))


def deployed_fold(run: Run) -> int:
    """Return the number of the fold that is deployed to B and C."""
    table = ensure_selection(run)
    return int(table.loc[table["deployed"] == 1, "fold"].iloc[0])


def check_split(split: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Raise LeakError when a Task-1 split holds a follow-up or external scan, or a patient on both sides.

    split: scan_id, patient_id, split; manifest: scan_id, role, scan_index.
    """
    cure = "Delete splits.csv and let it be drawn again; Task 1 is trained on first scans of hospital A only"
    known = split.merge(manifest[["scan_id", "role", "scan_index"]], on="scan_id", how="left")
    wrong = known[(known["role"] != "development") | (known["scan_index"] != 0)].to_dict("records")
    if wrong:
        row = wrong[0]
        found = f"a scan of role {row['role']}, scan_index {row['scan_index']}"
        kind = "a scan that was not accepted" if pd.isna(row["role"]) else found
        raise LeakError(f"a Task-1 split holds {kind}", where=f"splits.csv, scan {row['scan_id']}", cure=cure)
    sides = known.groupby("patient_id")["split"].nunique()
    if (sides > 1).any():
        where = f"splits.csv, patient {sides.idxmax()}"
        raise LeakError("a patient is in training and in validation", where=where, cure=cure)


def split_of(run: Run, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the manifest rows of a fold's training and validation scans, checked for leaks."""
    splits = ensure_splits(run)
    require_certificate(run)
    table = accepted(run)
    rows = splits[(splits["task"] == TASK) & (splits["fold"] == fold)]
    check_split(rows, table)
    train, validation = (
        table[table["scan_id"].isin(rows.loc[rows["split"] == side, "scan_id"])] for side in ("train", "validation")
    )
    if train.empty or validation.empty:
        where = f"splits.csv, fold {fold}"
        raise Covid3DError("a side of the split has no scans", where=where, cure="Use fewer folds, or more scans")
    if train["label"].nunique() < 2:
        what = f"all {len(train)} training scans have label {train['label'].iloc[0]}: there is nothing to tell apart"
        cure = "Put scans of both labels into its training side, or delete splits.csv to have the folds drawn again"
        raise Covid3DError(what, where=f"splits.csv, fold {fold}", cure=cure, code="one_class")
    return train, validation


def _inputs(run: Run, fold: int, train: pd.DataFrame, validation: pd.DataFrame) -> Mapping[str, Any]:
    """Return what the fingerprint of a fold depends on: its scans, their labels and the content of their pixels."""
    pixels = pd.read_csv(run.intake, dtype=IDS).set_index("scan_id")["pixel_sha256"]
    parts = {}
    for side, table in (("train", train), ("validation", validation)):
        rows = zip(table["scan_id"], table["label"], strict=True)
        parts[side] = [(scan, int(label), str(pixels[scan])) for scan, label in rows]
    return {"fold": fold, **parts}


def _train(
    run: Run, name: str, fold: int, plan: Plan, train: pd.DataFrame, validation: pd.DataFrame, folder: Path
) -> None:
    """Train one fold and write its folder; a checkpoint outside the folder survives a kill."""
    store = Store.of(run)
    examples, held_out = (Examples.of(table, store.stack(table["scan_id"])) for table in (train, validation))
    seed = random_seed(run.seed, TASK, name, fold)
    model = build(name, run.profile, seed=seed)
    if name == THREE_D and run.pretrained:
        load_trunk(model, run.pretrained)
    checkpoint = run.path("checkpoints", f"{TASK}__{name}__fold_{fold:02d}.safetensors")
    device = pick_device(run.device)
    result = fit(model, examples, held_out, plan, checkpoint=checkpoint, device=device, seed=seed)
    write_fold(folder, run, TASK, name, fold, model, result, held_out)


def learning_curves(run: Run) -> pd.DataFrame:
    """Return every fold's history: fold, epoch, train_loss, validation_loss, validation_auc."""
    parts = []
    for fold in range(run.profile.training.folds):
        history = pd.read_csv(run.model(TASK, THREE_D, fold) / "history.csv")
        parts.append(history.assign(fold=fold))
    table = pd.concat(parts, ignore_index=True)
    return table[["fold", "epoch", "train_loss", "validation_loss", "validation_auc"]]


def predictions(run: Run) -> pd.DataFrame:
    """Return the validation predictions of every fold and epoch."""
    files = [run.model(TASK, THREE_D, fold) / "predictions.csv" for fold in range(run.profile.training.folds)]
    return pd.concat([pd.read_csv(file, dtype=IDS) for file in files], ignore_index=True)


def out_of_fold(run: Run) -> pd.DataFrame:
    """Return one prediction a patient of A, by the last epoch of the fold that never saw the patient."""
    table = predictions(run)
    return table[table["epoch"] == run.profile.training.epochs].sort_values("scan_id").reset_index(drop=True)


def fold_table(run: Run) -> pd.DataFrame:
    """Return one row a fold: n, positives, auc with its limits and method, loss, auc_best, epoch_best, optimism."""
    rows = []
    for fold, table in out_of_fold(run).groupby("fold"):
        interval = auc(table["label"], table["logit"])
        known = {"fold": fold, "n": len(table), "positives": int(table["label"].sum()), "auc": interval.value}
        rows.append({**known, "auc_low": interval.low, "auc_high": interval.high, "method": interval.method})
    chosen = select(learning_curves(run)).rename(columns={"loss_last": "loss"}).drop(columns="auc_last")
    table = pd.DataFrame(rows).merge(chosen, on="fold", validate="1:1")
    return table.assign(optimism=table["auc_best"] - table["auc"])


def internal_summary(run: Run) -> dict[str, Any]:
    """Return the internal result of Task 1.

    mean_auc, mean_auc_bootstrap: mean of the fold AUCs with 95 % limits from Student's t over folds, and from
    resampling patients within folds; pooled_auc: out-of-fold AUC with DeLong's interval, nominal since out-of-fold
    predictions are dependent; best_epoch_auc and optimism: "the paper's possible rule"; flatness: see `flatness`.
    """
    table, scores, settings = fold_table(run), out_of_fold(run), run.profile.statistics
    pooled = delong_interval(scores["label"], scores["logit"])
    change = flatness(learning_curves(run))
    return {
        "folds": len(table),
        "epochs": run.profile.training.epochs,
        "patients": len(scores),
        "mean_auc": mean_interval(table["auc"].to_numpy()),
        "mean_auc_bootstrap": bootstrap_mean_auc(scores, settings.bootstrap, random_seed(run.seed, "internal")),
        "pooled_auc": pooled.by("DeLong, nominal: out-of-fold predictions are dependent"),
        "best_epoch_auc": mean_interval(table["auc_best"].to_numpy()),
        "best_epoch_label": "the paper's possible rule",
        "optimism": float(table["optimism"].mean()),
        "flatness": change,
        "is_flat": bool(abs(change) <= FLAT_WITHIN),
        "deployed_fold": int(table.loc[table["deployed"] == 1, "fold"].iloc[0]),
    }


def mean_interval(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Return the mean of fold values with Student's t limits over the folds (Student 1908), cut to [0, 1]."""
    values = np.asarray(values, float)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0), f"Student's t over {len(values)} folds")


def flatness(curves: pd.DataFrame) -> float:
    """Return the relative change of the mean training loss from the second last to the last fifth of the epochs.

    -0.1 is 10 % lower; the loss counts as flat within 2 %. With fewer than ten epochs a fifth is one epoch.
    """
    loss = curves.groupby("epoch")["train_loss"].mean().sort_index().to_numpy()
    fifth = max(len(loss) // 5, 1)
    before = loss[-2 * fifth : -fifth] if len(loss) >= 2 * fifth else loss[:1]
    return float(loss[-fifth:].mean() / before.mean() - 1)
