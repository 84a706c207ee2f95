"""The step that scores every scan of a run, follow-ups, rescans and controls too, by networks that never saw the patient."""

from pathlib import Path

import pandas as pd

from covid3d.chapters import results
from covid3d.chapters.results import TASK, THREE_D
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import Window, nominal_window, sample_windows
from covid3d.network import scoring
from covid3d.network.training import load_fold
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.run.profile import Run
from covid3d.stats import courses
from covid3d.stats.estimate import NAN

COLUMNS = ["scan_id", "patient_id", "hospital", "label", "kind", "scan_index", "day", "fold", "logit", "probability"]
COLUMNS += ["window_sd"]


def ensure_trajectories(run: Run) -> Path:
    """Return the folder of scores.csv, computing it when needed; see `results.trajectory_scores`."""
    inputs: dict[str, object] = {
        "manifest": run.manifest,
        "intake": run.intake,
        "splits": run.splits,
        "selection": steps.content(results.selection_file(run).parent),
        "folds": [steps.content(run.model(TASK, THREE_D, fold)) for fold in results.folds(run)],
    }
    if run.path("controls.csv").is_file():
        inputs["controls"] = run.path("controls.csv")

    def compute(folder: Path) -> None:
        write_csv(folder / "scores.csv", _score(run))

    return steps.ensure(run, "trajectories", run.path("trajectories"), inputs, compute)


def _score(run: Run) -> pd.DataFrame:
    table = accepted(run).reset_index(drop=True)
    table["fold"] = results.fold_that_scores(run, table["patient_id"])
    table["kind"] = table["role"].replace({"development": "first", "external": "first"})
    pairs = courses.rescan_pairs(table)
    settings, device = run.profile.windows, scoring.use_device(run)
    sample = sample_windows(settings, run.seed).head(settings.internal_count)
    windows = [nominal_window(settings), *(Window(*pair) for pair in sample[["level", "width"]].to_numpy().tolist())]
    table["logit"], table["window_sd"] = NAN, NAN
    for fold, part in table.groupby("fold"):
        model = load_fold(run, TASK, THREE_D, int(str(fold)))
        in_pair = part["scan_id"].isin(pairs["scan_id"])
        for scans, chosen in ((part[~in_pair], windows[:1]), (part[in_pair], windows)):
            if len(scans):
                logits = scoring.score(model, Store.of(run).stack(scans["scan_id"]), chosen, device=device)
                table.loc[scans.index, "logit"] = logits[:, 0]
                if len(chosen) > 1:
                    table.loc[scans.index, "window_sd"] = logits[:, 1:].std(axis=1, ddof=1)
    table["probability"] = scoring.sigmoid(table["logit"].to_numpy())
    return table[COLUMNS].sort_values("scan_id", ignore_index=True)
