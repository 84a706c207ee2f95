"""The step that scores the first scans of B and C by every network, in the nominal window."""

from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from covid3d.chapters import results
from covid3d.chapters.results import ENSEMBLE, EVERY_FOLD, TASK, THREE_D, TWO_D
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import scoring, training
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.run.profile import Run


def ensure_external(run: Run) -> Path:
    """Return the folder of predictions.csv, computing it when needed: first scans of B and C in the nominal window.

    Models: covid3d (the deployed fold), covid3d_fold (each fold), covid3d_ensemble (mean logit, fold -1), resnet_2d.
    """
    inputs: dict[str, object] = {
        "intake": run.intake,
        "selection": steps.content(results.selection_file(run).parent),
        "folds": [steps.content(run.model(TASK, THREE_D, fold)) for fold in results.folds(run)],
        "slices": steps.content(run.model(TASK, TWO_D, results.deployed_fold(run))),
    }

    def compute(folder: Path) -> None:
        write_csv(folder / "predictions.csv", _predictions(run))

    return steps.ensure(run, "external", run.path("external"), inputs, compute)


def _predictions(run: Run) -> pd.DataFrame:
    table = accepted(run)
    table = table[table["role"] == "external"]
    grids = Store.of(run).stack(table["scan_id"])
    deployed = results.deployed_fold(run)
    parts, epochs = [], run.epochs

    def rows(model: str, fold: int, epoch: int, logits: np.ndarray) -> None:
        parts.append(scoring.prediction_rows(TASK, model, fold, epoch, table, "external", "nominal", logits))

    by_fold = [logits_of(run, training.load_fold(run, TASK, THREE_D, fold), grids) for fold in results.folds(run)]
    rows(THREE_D, deployed, epochs, by_fold[deployed])
    for fold in results.folds(run):
        rows(EVERY_FOLD, fold, epochs, by_fold[fold])
    rows(ENSEMBLE, -1, epochs, np.mean(by_fold, axis=0))
    baseline = training.load_fold(run, TASK, TWO_D, deployed)
    rows(TWO_D, deployed, run.profile.slices.epochs, logits_of(run, baseline, grids))
    return pd.concat(parts, ignore_index=True)


def logits_of(run: Run, model: nn.Module, grids: np.ndarray) -> np.ndarray:
    """Return the logits (N,) of scans in the nominal window."""
    device = scoring.use_device(run)
    window = nominal_window(run.profile.windows)
    return scoring.score(model, grids, [window], device=device)[:, 0] if len(grids) else np.empty(0, np.float32)
