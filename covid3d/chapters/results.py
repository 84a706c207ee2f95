"""Facts that several chapters need: which fold is deployed, which fold held a patient out, and the scores of the folds.

Each file of a finished step is read here and nowhere else, so that no fact is read in two ways.
"""

from pathlib import Path

import pandas as pd

from covid3d.chapters.scored import of_folds, read_predictions
from covid3d.cohort.folds import read_splits
from covid3d.network.scoring import PREDICTIONS
from covid3d.run.errors import MissingResult
from covid3d.run.profile import Run

TASK, THREE_D, TWO_D, EVERY_FOLD, ENSEMBLE = "task1", "covid3d", "resnet_2d", "covid3d_fold", "covid3d_ensemble"
RANDOM_LABELS = "random_labels"
"""The task of the network that was trained on permuted labels."""


def selection_file(run: Run) -> Path:
    """Return where the choice of the deployed fold lies."""
    return run.path("models", TASK, "selection", "selection.csv")


def selection(run: Run) -> pd.DataFrame:
    """Return one row a fold: fold, auc_last, loss_last, auc_best, epoch_best, deployed (1 for exactly one fold)."""
    if not selection_file(run).is_file():
        raise MissingResult("no fold has been chosen", where=f"run '{run.name}'", cure=f"Run `make run RUN={run.name}`")
    return pd.read_csv(selection_file(run))


def deployed_fold(run: Run) -> int:
    """Return the number of the fold that is deployed to B and C: the highest validation AUC on A."""
    table = selection(run)
    return int(table.loc[table["deployed"] == 1, "fold"].iloc[0])


def folds(run: Run) -> range:
    """Return the numbers of the run's folds."""
    return range(run.profile.training.folds)


def hospitals(scores: pd.DataFrame) -> list[str]:
    """Return the paper's external hospitals B and C, which have a row in every table, and what else a table of scores has."""
    return sorted({"B", "C", *scores["hospital"]})


def held_out_by(run: Run) -> dict[str, int]:
    """Return, for each patient of A, the fold whose network never saw the patient."""
    rows = read_splits(run)
    rows = rows[(rows["task"] == TASK) & (rows["split"] == "validation")]
    return {str(patient): int(fold) for patient, fold in zip(rows["patient_id"], rows["fold"], strict=True)}


def fold_that_scores(run: Run, patients: pd.Series) -> pd.Series:
    """Return, for each patient_id, the fold whose network scores it: the one that never saw it, else the deployed one."""
    return patients.map(held_out_by(run)).fillna(deployed_fold(run)).astype(int)


def fold_scores(run: Run) -> pd.DataFrame:
    """Return the validation predictions of every fold of COVID3D at every epoch, one row a scan and epoch."""
    return of_folds(run.model(TASK, THREE_D, fold) / "predictions.csv" for fold in folds(run))


def out_of_fold(run: Run) -> pd.DataFrame:
    """Return one row a patient of A, by the last epoch of the fold that never saw the patient, in the nominal window."""
    table = fold_scores(run)
    return table[table["epoch"] == run.epochs].sort_values("scan_id").reset_index(drop=True)


def learning_curves(run: Run) -> pd.DataFrame:
    """Return every fold's history: fold, epoch, train_loss, validation_loss, validation_auc."""
    parts = [pd.read_csv(run.model(TASK, THREE_D, fold) / "history.csv").assign(fold=fold) for fold in folds(run)]
    columns = ["fold", "epoch", "train_loss", "validation_loss", "validation_auc"]
    return pd.concat(parts, ignore_index=True)[columns]


def random_labels_curve(run: Run) -> pd.DataFrame:
    """Return the history of the network that was trained on permuted labels: the columns of `learning_curves` but fold."""
    return pd.read_csv(run.model(RANDOM_LABELS, THREE_D, deployed_fold(run)) / "history.csv")


def external_scores(run: Run) -> pd.DataFrame:
    """Return the first scans of B and C in the nominal window, one row a scan and model; at a site every accepted scan."""
    return read_predictions(run.path("external", "predictions.csv"))


def window_scores(run: Run) -> pd.DataFrame:
    """Return every scan in every window, one row a scan, model and window; empty while it has not been computed."""
    path = run.path("windows", "predictions.csv")
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in PREDICTIONS})
    return read_predictions(path)


def trajectory_scores(run: Run) -> pd.DataFrame:
    """Return s of every accepted scan, follow-ups, rescans and controls too: one row a scan, in the nominal window.

    Columns scan_id, patient_id, hospital, label, kind (first | followup | rescan | control), scan_index, day, fold, logit,
    probability, window_sd (SD of the logit over sampled windows; scans of the rescan pairs only).
    """
    return read_predictions(run.path("trajectories", "scores.csv"))


def input_words(run: Run) -> str:
    """Return what the network is shown, for captions: "HU, resampled to 24x64x64, window -600/1500"."""
    window, size = run.profile.windows, "x".join(map(str, run.profile.model.grid))
    return f"HU, resampled to {size}, window {window.level:.0f}/{window.width:.0f}"
