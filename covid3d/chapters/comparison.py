"""Every registered model beside COVID3D: the same folds, the same external scans, paired differences.

Not part of `make report`; `make extended` trains what is here, fold by fold, and chapter 4 shows it where it is current.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from covid3d.chapters import external_tests, results
from covid3d.chapters.cross_validation import split_of
from covid3d.cohort.intake import accepted
from covid3d.comparators.catalogue import COMPARATORS, OTHERS, REFERENCE
from covid3d.comparators.interface import TASK, Cases, Comparator, fold_seed, train_fold
from covid3d.network import training
from covid3d.network.scoring import pick_device, prediction_rows
from covid3d.run import steps
from covid3d.run.errors import ConfigError, MissingResult, nearest
from covid3d.run.files import write_csv
from covid3d.run.profile import Profile, Run
from covid3d.stats.auc import auc, mean_fold_auc, paired_delong
from covid3d.stats.estimate import Estimate

IDS = {"scan_id": str, "patient_id": str, "hospital": str, "window": str, "split": str}


def create(name: str, profile: Profile, *, seed: int = 0) -> Comparator:
    """Return a registered model of the profile's size, its starting weights drawn from `seed` alone."""
    if name not in COMPARATORS:
        raise ConfigError(f"there is no model '{name}'", cure=nearest(name, COMPARATORS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(importlib.import_module(COMPARATORS[name]), name)(profile)


def folder_of(run: Run, name: str, fold: int) -> Path:
    """Return the folder of one fold of one compared model."""
    return run.path("comparators", name, f"fold_{fold:02d}")


def ensure_comparator(run: Run, name: str, fold: int) -> Path:
    """Return the folder of one fold of a compared model, training it when needed."""
    return _ensure_fold(run, name, fold, split_of(run, fold))


def _ensure_fold(run: Run, name: str, fold: int, split: tuple[pd.DataFrame, pd.DataFrame]) -> Path:
    inputs: Mapping[str, Any] = {
        "model": [name, fold, steps.code_fingerprint(COMPARATORS[name])],
        "split": [list(zip(side["scan_id"], map(int, side["label"]), strict=True)) for side in split],
        "intake": run.intake,
        "manifest": run.manifest,
    }
    again = f"python -m covid3d step comparator --run {run.name} --model {name} --fold {fold}"

    def compute(folder: Path) -> None:
        model = create(name, run.profile, seed=fold_seed(run, name, fold))
        train_fold(run, name, model, fold, *split, folder)

    return steps.ensure(run, "comparator", folder_of(run, name, fold), inputs, compute, again=again)


def load(run: Run, name: str, fold: int) -> Comparator:
    """Return a trained fold of a compared model; WeightsError when its file is missing or does not fit."""
    model = create(name, run.profile)
    model.load(folder_of(run, name, fold), training.expected_metadata(run, name))
    return model


def ensure_comparators(run: Run) -> pd.DataFrame:
    """Return comparators/summary/comparison.csv, training and scoring what is missing; see `compare` for its columns.

    Beside it lies predictions.csv: first scans of B and C by the deployed fold of every model.
    """
    deployed, reference = results.deployed_fold(run), results.external_scores(run)
    inputs: dict[str, Any] = {"external": steps.content(run.path("external")), "deployed": deployed}
    for fold in range(run.profile.training.folds):
        split = split_of(run, fold)
        for name in OTHERS:
            inputs[f"{name} {fold}"] = steps.content(_ensure_fold(run, name, fold, split))

    def compute(folder: Path) -> None:
        scores = _external_scores(run, deployed)
        write_csv(folder / "predictions.csv", scores)
        write_csv(folder / "comparison.csv", compare(run, pd.concat([reference, scores], ignore_index=True)))

    again, folder = f"python -m covid3d step comparators --run {run.name}", run.path("comparators", "summary")
    steps.ensure(run, "comparators", folder, inputs, compute, again=again)
    return pd.read_csv(folder / "comparison.csv")


def shown(run: Run) -> pd.DataFrame | None:
    """Return the comparison with the minutes of each model, when all of it is there and up to date, else None."""
    try:
        table = ensure_comparators(run.with_options(compute=False))
    except MissingResult:
        return None
    return table.assign(minutes=[minutes(run, name) for name in COMPARATORS])


def _external_scores(run: Run, deployed: int) -> pd.DataFrame:
    """Return the predictions of B's and C's first scans by the deployed fold of every compared model."""
    table = accepted(run)
    table = table[table["role"] == "external"].reset_index(drop=True)
    cases, device = Cases.of(run, table), pick_device(run.device)
    if device == "cpu":
        torch.set_num_threads(run.profile.training.threads_per_fold)
    parts = []
    for name in OTHERS:
        epoch = int(fold_scores(run, name)["epoch"].max())
        logits = load(run, name, deployed).score(cases, device=device)
        parts.append(prediction_rows(TASK, name, deployed, epoch, table, "external", "nominal", logits))
    return pd.concat(parts, ignore_index=True)


def fold_scores(run: Run, name: str) -> pd.DataFrame:
    """Return the out-of-fold scores of A of one model: last epoch, one row a scan."""
    if name == REFERENCE:
        return external_tests.validation_scores(run)
    folders = [folder_of(run, name, fold) for fold in range(run.profile.training.folds)]
    table = pd.concat([pd.read_csv(folder / "predictions.csv", dtype=IDS) for folder in folders], ignore_index=True)
    return table[table["epoch"] == table["epoch"].max()]


def compare(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model: model, A (mean fold AUC), and for each external hospital AUC and difference from COVID3D.

    scores: predictions of the external scans, COVID3D's among them. Each of these has `low` and `high` beside it: Student's
    t over the folds, the recommended interval of an AUC, paired DeLong on the same scans. Then parameters.
    """
    sites = {str(site): _wide(part) for site, part in scores.groupby("hospital")}
    rows = []
    for name in COMPARATORS:
        model = create(name, run.profile) if name == REFERENCE else load(run, name, 0)
        row = {"model": model.row, **_limits("A", mean_fold_auc(fold_scores(run, name)))}
        for site, table in sites.items():
            row |= _limits(site, auc(table["label"], table[name]))
            if name != REFERENCE:
                difference = paired_delong(table["label"], table[name], table[REFERENCE]).estimate
                row |= _limits(f"{site} - COVID3D", difference)
        rows.append({**row, "parameters": model.parameters})
    table = pd.DataFrame(rows)
    return table[[*(column for column in table if column != "parameters"), "parameters"]]


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """Return one row a scan with its label and a logit column for each model of the catalogue."""
    part = part[part["model"].isin(list(COMPARATORS))]
    logits = part.pivot_table(index="scan_id", columns="model", values="logit", aggfunc="last")
    return logits.join(part.drop_duplicates("scan_id").set_index("scan_id")["label"])


def _limits(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def minutes(run: Run, name: str) -> float:
    """Return the minutes that the folds of a model took, one after the other; NaN where a fold's time is not noted."""
    place = f"models__{TASK}__{name}" if name == REFERENCE else f"comparators__{name}"
    total = 0.0
    for fold in range(run.profile.training.folds):
        try:
            note = json.loads(run.path("logs", "cost", f"{place}__fold_{fold:02d}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return float("nan")
        total += note["seconds"] / 60
    return round(total, 1)
