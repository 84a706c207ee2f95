"""Task 1 as steps of a run: train the folds on hospital A and the 2D baseline, and choose the fold that is deployed.

Apart from the chapter that shows them: another question of the chapter trains nothing again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from covid3d.chapters import results
from covid3d.chapters.results import TASK, THREE_D, TWO_D
from covid3d.cohort.folds import read_splits, require_certificate
from covid3d.cohort.intake import accepted, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.kinetics.convert import load_trunk
from covid3d.network.registry import build, slices_start
from covid3d.network.scoring import use_device
from covid3d.network.start import fit_head_first
from covid3d.network.training import Examples, Plan, fit, write_fold
from covid3d.run import steps
from covid3d.run.errors import Covid3DError
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run


class LeakError(Covid3DError):
    """A split of Task 1 holds a scan that must not be there."""

    code = "leak"


def ensure_fold(run: Run, fold: int) -> Path:
    """Return the folder of one trained fold of COVID3D, training it when needed."""
    train, validation = split_of(run, fold)
    folder = run.model(TASK, THREE_D, fold)
    plan = plan_of(run, THREE_D)
    command = f"python -m covid3d step fold --run {run.name} --fold {fold}"
    inputs = {**_inputs(run, fold, train, validation), "starts_from": run.pretrained or "random values"}
    return steps.ensure(
        run,
        "fold",
        folder,
        inputs,
        lambda out: train_fold(run, THREE_D, fold, plan, train, validation, out),
        again=command,
    )


def ensure_slices(run: Run) -> Path:
    """Return the folder of the 2D baseline, trained on the deployed fold's split (Table 1 has no 2D row for A)."""
    fold = results.deployed_fold(run)
    train, validation = split_of(run, fold)
    folder = run.model(TASK, TWO_D, fold)
    inputs = {**_inputs(run, fold, train, validation), "starts_from": slices_start(run.profile) or "random values"}
    plan = plan_of(run, TWO_D)
    return steps.ensure(
        run, "slices", folder, inputs, lambda out: train_fold(run, TWO_D, fold, plan, train, validation, out)
    )


def ensure_selection(run: Run) -> Path:
    """Return the folder of selection.csv, which marks the fold that is deployed."""
    folder = results.selection_file(run).parent
    inputs = {"folds": [steps.content(run.model(TASK, THREE_D, fold)) for fold in results.folds(run)]}

    def compute(out: Path) -> None:
        write_csv(out / "selection.csv", select(results.learning_curves(run)))

    return steps.ensure(run, "selection", folder, inputs, compute)


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
    splits = read_splits(run)
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
    pixels = read_intake(run).set_index("scan_id")["pixel_sha256"]
    parts = {}
    for side, table in (("train", train), ("validation", validation)):
        rows = zip(table["scan_id"], table["label"], strict=True)
        parts[side] = [(scan, int(label), str(pixels[scan])) for scan, label in rows]
    return {"fold": fold, **parts}


def plan_of(run: Run, name: str) -> Plan:
    """Return how the profile trains COVID3D or the 2D baseline, each from what it starts from."""
    if name == TWO_D:
        changes = run.profile.slices.model_dump(include={"epochs", "batch_size", "learning_rate"})
    else:
        changes = run.from_trunk.model_dump() if run.from_trunk else {}
    return Plan.of(run.profile.training, nominal_window(run.profile.windows), **changes)


def first_model(run: Run, name: str, train: Examples, seed: int) -> nn.Module:
    """Return COVID3D or the 2D baseline as training finds it: drawn from the seed, or pretrained with its head fitted."""
    model = build(name, run.profile, seed=seed)
    if name == THREE_D and run.pretrained:
        load_trunk(model, run.pretrained)
    if run.from_trunk if name == THREE_D else run.profile.slices.head_first:
        fit_head_first(model, train.grids, train.labels, nominal_window(run.profile.windows), use_device(run))
    return model


def train_fold(
    run: Run,
    name: str,
    fold: int,
    plan: Plan,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    folder: Path,
    task: str = TASK,
) -> None:
    """Train one fold and write its folder; a checkpoint outside the folder survives a kill. Every task has the same seed."""
    store = Store.of(run)
    examples, held_out = (Examples.of(table, store.stack(table["scan_id"])) for table in (train, validation))
    seed = random_seed(run.seed, TASK, name, fold)
    model = first_model(run, name, examples, seed)
    checkpoint = run.path("checkpoints", f"{task}__{name}__fold_{fold:02d}.safetensors")
    device = use_device(run)
    result = fit(model, examples, held_out, plan, checkpoint=checkpoint, device=device, seed=seed)
    write_fold(folder, run, task, name, fold, model, result, held_out)
