"""Chapter 3: ten networks, each judged on the patients that it has not seen.

Headline scores come from the last epoch, whose number the profile fixes. The best validation epoch is a second row,
labelled "the paper's possible rule", with its optimism.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import results
from covid3d.chapters.results import TASK, THREE_D, TWO_D
from covid3d.cohort.folds import read_splits, require_certificate
from covid3d.cohort.intake import accepted, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.figures import cross_validation as draw
from covid3d.kinetics.convert import load_trunk
from covid3d.network.registry import build
from covid3d.network.scoring import pick_device
from covid3d.network.training import Examples, Plan, fit, write_fold
from covid3d.run import steps
from covid3d.run.errors import Covid3DError
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, auc_value, bootstrap_mean_auc, delong_interval, mean_auc, mean_fold_auc
from covid3d.stats.estimate import Estimate

FLAT_WITHIN = 0.02
LEAST_AUC, LEAST_SKILL = 0.60, 0.6
REACHED, NOT_REACHED, NOT_JUDGED = "reached", "not reached", "nothing to compare with"


class LeakError(Covid3DError):
    """A split of Task 1 holds a scan that must not be there."""

    code = "leak"


# --- the chapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CrossValidation:
    """What the folds left, read once; every question of the chapter is asked of these three tables.

    scores: one row a patient of A (scan_id, fold, label, logit), by the fold that never saw the patient, at the last epoch.
    history: one row a fold and epoch (fold, epoch, train_loss, validation_loss, validation_auc).
    selection: one row a fold (fold, auc_last, loss_last, auc_best, epoch_best, deployed).
    """

    run: Run
    scores: pd.DataFrame
    history: pd.DataFrame
    selection: pd.DataFrame

    def folds(self) -> pd.DataFrame:
        """Return one row a fold: patients, COVID+, AUC of the last epoch with its interval, and of the best epoch."""
        rows = [
            {
                "fold": fold,
                "patients": len(table),
                "COVID+": int(table["label"].sum()),
                "AUC": auc(table["label"], table["logit"]),
            }
            for fold, table in self.scores.groupby("fold")
        ]
        chosen = self.selection.rename(columns={"auc_best": "best epoch's AUC", "epoch_best": "best epoch"})
        chosen = chosen[["fold", "loss_last", "best epoch's AUC", "best epoch", "deployed"]]
        table = pd.DataFrame(rows).merge(chosen.rename(columns={"loss_last": "loss"}), on="fold", validate="1:1")
        return table.set_index("fold")

    def mean(self) -> Estimate:
        """Return the mean of the fold AUCs, the paper's internal number, with Student's t limits over folds."""
        return mean_fold_auc(self.scores)

    def by_fold(self) -> pd.Series:
        """Return the AUC of each fold at the last epoch."""
        return self.scores.groupby("fold")[["label", "logit"]].apply(
            lambda fold: auc_value(fold["label"], fold["logit"])
        )

    def internal(self) -> pd.DataFrame:
        """Return four readings of the internal AUC, the paper's first: reading, AUC, what it is."""
        replicates, seed = self.run.profile.statistics.bootstrap, random_seed(self.run.seed, "internal")
        pooled = delong_interval(self.scores["label"], self.scores["logit"]).noted("nominal")
        best = mean_auc(self.selection["auc_best"].tolist()).noted("the paper's possible rule")
        patients = bootstrap_mean_auc(self.scores, replicates, seed)
        rows = [
            ("mean of the folds", self.mean(), "the paper's number; t interval over folds"),
            ("mean, patients resampled", patients, "the same mean; patients resampled within folds"),
            ("pooled", pooled, "all out-of-fold scores at once; folds share training patients"),
            ("best epoch", best, "optimistic: validation chooses the epoch"),
        ]
        return pd.DataFrame(rows, columns=["reading", "AUC", "what it is"])

    def optimism(self) -> float:
        """Return how much higher the best epoch's AUC is than the last one's, mean over folds."""
        return float(self.selection["auc_best"].mean() - self.by_fold().mean())

    def training(self) -> dict[str, Any]:
        """Return how the training ended: change of the loss over its last fifth, and whether it is flat."""
        epochs = self.history.groupby("fold")["epoch"].nunique()
        logged = (epochs == self.run.profile.training.epochs).all() and self.history["validation_loss"].notna().all()
        change = flatness(self.history)
        return {
            "folds": len(self.selection),
            "validated every epoch": bool(logged),
            "change of the loss": change,
            "loss is flat": bool(abs(change) <= FLAT_WITHIN),
            "optimism of the best epoch": self.optimism(),
        }

    def deployed(self) -> dict[str, Any]:
        """Return the fold that is deployed to B and C, and whether it is the one that the paper's rule takes."""
        chosen = self.selection[self.selection["deployed"] == 1]
        best = len(chosen) == 1 and chosen["auc_last"].iloc[0] == self.selection["auc_last"].max()
        return {"fold": int(chosen["fold"].iloc[0]), "has the highest AUC": bool(best)}

    def bars(self, skill: Estimate, blind: pd.Series) -> pd.DataFrame:
        """Return the protocol's bars, fixed before any run: bar, asks, found, reached.

        blind: Estimates of the models that see no image.
        """
        lower = self.mean().low
        asks = [("above chance", f"lower limit of the mean fold AUC > {LEAST_AUC:.2f}", lower, LEAST_AUC)]
        asks += [(f"above {name}", f"lower limit > {name} alone", lower, found.value) for name, found in blind.items()]
        asks += [("skill", f"at least {LEAST_SKILL} of the way to the perfect reader", skill.value, LEAST_SKILL)]
        rows = [(name, words, found, _judged(found, bar, name == "skill")) for name, words, found, bar in asks]
        flat = self.training()
        rows.append(
            (
                "flat loss",
                f"training loss changes by at most {FLAT_WITHIN} over its last fifth",
                flat["change of the loss"],
                REACHED if flat["loss is flat"] else NOT_REACHED,
            )
        )
        judged = [row[-1] for row in rows if row[-1] != NOT_JUDGED]
        whole = "the folds give no interval" if rows[0][-1] == NOT_JUDGED else NOT_REACHED
        whole = REACHED if whole == NOT_REACHED and set(judged) == {REACHED} else whole
        rows.append(("all of them", "every bar that can be judged", float("nan"), whole))
        return pd.DataFrame(rows, columns=["bar", "asks", "found", "reached"])

    def plot_learning_curves(self) -> Figure:
        """Return loss and AUC by epoch; thin: folds, thick: their mean."""
        return draw.learning_curves(self.history)

    def plot_folds(self, ceiling: Estimate) -> Figure:
        """Return the AUC of each fold, the deployed one marked, with the mean and the perfect reader."""
        return draw.fold_aucs(self.selection, self.mean().value, ceiling.value if ceiling.known else None)


def _judged(found: float, bar: float, or_equal: bool) -> str:
    """Return whether a number is above a bar; what is missing on either side cannot be judged."""
    if not (np.isfinite(found) and np.isfinite(bar)):
        return NOT_JUDGED
    return REACHED if (found >= bar if or_equal else found > bar) else NOT_REACHED


def load(run: Run) -> CrossValidation:
    """Return the chapter's results, training the folds that are missing.

    Raises MissingResult, with the command to run, where `run.compute` is False and something is missing; ManifestError
    where the leakage certificate has not passed.
    """
    steps.ensure_needs(run, "03_cross_validation")
    require_certificate(run)
    scores = results.out_of_fold(run)[["scan_id", "patient_id", "fold", "label", "logit"]]
    return CrossValidation(run, scores, results.learning_curves(run), results.selection(run))


# --- the steps -------------------------------------------------------------------------------------------------------


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


def ensure_slices(run: Run) -> Path:
    """Return the folder of the 2D baseline, trained on the deployed fold's split (Table 1 has no 2D row for A)."""
    fold = results.deployed_fold(run)
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


# --- the numbers -----------------------------------------------------------------------------------------------------


def flatness(curves: pd.DataFrame) -> float:
    """Return the relative change of the mean training loss from the second last to the last fifth of the epochs.

    -0.1 is 10 % lower; the loss counts as flat within 2 %. With fewer than ten epochs a fifth is one epoch.
    """
    loss = curves.groupby("epoch")["train_loss"].mean().sort_index().to_numpy()
    fifth = max(len(loss) // 5, 1)
    before = loss[-2 * fifth : -fifth] if len(loss) >= 2 * fifth else loss[:1]
    return float(loss[-fifth:].mean() / before.mean() - 1)
