"""Chapter 3's nested alternative: how long is trained, and how fast, is chosen by patients that are not scored.

The training patients of each fold are dealt into inner folds, and each of these is trained as Task 1 is. The epoch at which
to stop, and the rate, are those of the best mean inner AUC; a network of all training patients with this choice then scores
the fold's own patients (Varma & Simon, BMC Bioinformatics 2006). `make extended` computes it, `make report` does not.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.chapters import results, scored, task1
from covid3d.chapters.results import TASK, THREE_D
from covid3d.cohort.folds import make_folds
from covid3d.cohort.intake import accepted
from covid3d.network.training import Plan
from covid3d.run import steps
from covid3d.run.errors import MissingResult
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats.auc import auc_value, mean_auc, mean_interval
from covid3d.stats.estimate import Estimate

INNER, SIDES = 3, ("train", "validation")
RATES = (1.0, 2.0)
"""Multiples of the profile's learning rate that may be chosen; each with every epoch of its schedule."""
FIXED, OWN, INSIDE = "fixed before", "chosen by its own patients", "chosen inside"
NOT_RUN = "not run: make extended"


def ensure_nested(run: Run, fold: int) -> Path:
    """Return the folder of one fold: inner.csv (rate, inner, epoch, auc), and predictions.csv of the choice, with its rate."""
    trained = steps.content(run.model(TASK, THREE_D, fold))
    inputs = {"fold": [fold, trained], "splits": run.splits, "manifest": run.manifest}
    again = f"python -m covid3d step nested --run {run.name} --fold {fold}"
    folder = run.path("nested", f"fold_{fold:02d}")
    return steps.ensure(run, "nested", folder, inputs, lambda out: _nest(run, fold, out), again=again)


def _nest(run: Run, fold: int, folder: Path) -> None:
    """Choose inside the training patients, then score the fold's own; the profile's own rate has been trained already."""
    train, held_out = task1.split_of(run, fold)
    inner, place = inner_splits(run, fold, train, held_out), folder / "trained"
    curves = []
    for rate in RATES:
        for number, sides in enumerate(inner):
            task1.train_fold(run, THREE_D, fold, plan_of(run, rate), *sides, place)
            curve = pd.read_csv(place / "history.csv").rename(columns={"validation_auc": "auc"})
            curves.append(curve[["epoch", "auc"]].assign(rate=rate, inner=number))
    table = pd.concat(curves, ignore_index=True)[["rate", "inner", "epoch", "auc"]]
    rate, epoch = choose(table)
    chosen = run.model(TASK, THREE_D, fold)
    if rate != 1:
        task1.train_fold(run, THREE_D, fold, plan_of(run, rate), train, held_out, place)
        chosen = place
    scores = scored.read_predictions(chosen / "predictions.csv")
    write_csv(folder / "inner.csv", table)
    write_csv(folder / "predictions.csv", scores[scores["epoch"] == epoch].assign(rate=rate))
    shutil.rmtree(place)


def plan_of(run: Run, rate: float) -> Plan:
    """Return how Task 1 trains in this run, its highest rate multiplied."""
    plan = task1.plan_of(run, THREE_D)
    return replace(plan, learning_rate=rate * plan.learning_rate)


def inner_splits(
    run: Run, fold: int, train: pd.DataFrame, held_out: pd.DataFrame
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Return the manifest rows (training, validation) of each inner fold, dealt from a fold's training patients.

    By patient, label and follow-up, as the outer folds are. Raises LeakError where a patient stands on two sides, or one
    that the outer fold holds out is among them.
    """
    table = accepted(run)
    theirs = table[table["patient_id"].isin(train["patient_id"])]
    rows = make_folds(theirs, INNER, random_seed(run.seed, "inner folds", fold))
    columns = ["scan_id", "patient_id", "split"]
    outer = [rows[rows["fold"] == 0].assign(split="train"), held_out.assign(split="validation")]
    task1.check_split(pd.concat(outer)[columns], table)
    parts = []
    for _, part in rows.groupby("fold"):
        task1.check_split(part[columns], table)
        sides = [table[table["scan_id"].isin(part.loc[part["split"] == side, "scan_id"])] for side in SIDES]
        parts.append((sides[0], sides[1]))
    return parts


def choose(curves: pd.DataFrame) -> tuple[float, int]:
    """Return the rate and the epoch of the highest mean AUC over inner folds; of equals the lower rate, the fewer epochs.

    curves: rate, inner, epoch, auc.
    """
    mean = curves.groupby(["rate", "epoch"])["auc"].mean().round(12)  # equal means may differ in their last bit
    best: Any = mean.idxmax()
    return float(best[0]), int(best[1])


def shown(run: Run) -> pd.DataFrame | None:
    """Return the nested scores of A (scan_id, fold, label, logit, epoch, rate), when all are there and up to date, else None."""
    presented = run.with_options(compute=False)
    try:
        folders = [ensure_nested(presented, fold) for fold in results.folds(run)]
    except MissingResult:
        return None
    return scored.of_folds(folder / "predictions.csv" for folder in folders)


def beside(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Return three ways to say how long is trained, each with its mean fold AUC: choice, AUC, minus fixed, epochs, rate.

    scores: fold, label, logit of the last epoch. AUC by Student's t over folds, and so is the difference, fold by fold.
    """
    fixed, best, inside = _by_fold(scores), results.selection(run).set_index("fold"), shown(run)
    rows: list[tuple[Any, ...]] = [
        (FIXED, mean_auc(fixed.tolist()), Estimate.missing("-"), str(run.epochs), "the profile's"),
        (OWN, *_against(best["auc_best"], fixed), _range(best["epoch_best"]), "the profile's"),
    ]
    if inside is None:
        missing = Estimate.missing(NOT_RUN)
        rows.append((INSIDE, missing, missing, NOT_RUN, NOT_RUN))
    else:
        one = inside.drop_duplicates("fold")
        rates = [f"x {rate:g} ({count})" for rate, count in one["rate"].value_counts().sort_index().items()]
        rows.append((INSIDE, *_against(_by_fold(inside), fixed), _range(one["epoch"]), ", ".join(rates)))
    return pd.DataFrame(rows, columns=["choice", "AUC", "minus fixed", "epochs", "rate"]).set_index("choice")


def _by_fold(scores: pd.DataFrame) -> pd.Series:
    return scores.groupby("fold")[["label", "logit"]].apply(lambda fold: auc_value(fold["label"], fold["logit"]))


def _against(aucs: pd.Series, fixed: pd.Series) -> tuple[Estimate, Estimate]:
    return mean_auc(aucs.tolist()), mean_interval(aucs - fixed)


def _range(epochs: pd.Series) -> str:
    low, high = int(epochs.min()), int(epochs.max())
    return str(low) if low == high else f"{low} to {high}"
