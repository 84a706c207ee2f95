"""What the chapters of a run left, merged: values.json, tables/, figures/, predictions.csv, claims.csv, cost and passport."""

import contextlib
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.chapters.scored import SCORED_ONCE, read_predictions
from covid3d.report.changes import keep_last
from covid3d.report.claims import ledger, read_values
from covid3d.run.errors import Covid3DError
from covid3d.run.files import atomic_folder, read_json, sha256_file, write_csv, write_json
from covid3d.run.profile import DATA, OUTSIDE, Run
from covid3d.run.steps import chapters_of

PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "torch",
    "timm",
    "pydicom",
    "nibabel",
    "lifelines",
    "papermill",
)
BUDGET = {  # minutes of the profile `standard` on the reference machine
    "cohort and intake": 4.0,
    "folds of Task 1": 5.0,
    "2D baseline": 2.0,
    "prognosis": 3.0,
    "windows and maps": 6.0,
    "notebooks": 3.0,
    "book": 1.5,
}


def collect(run: Run) -> Path:
    """Merge the chapters into values.json, tables/, figures/, predictions.csv and claims.csv.

    Also writes dictionary.csv, which says what their columns are, cost.json and passport.json, and keeps the values that it
    replaces as values.previous.json. Raises Covid3DError when two
    chapters use one key or one name. Returns the path of values.json.
    """
    missing = [name for name in chapters_of(run) if not (run.chapter(name[:2]) / "values.json").is_file()]
    if missing:
        print(f"collect: without {', '.join(missing)}: not executed yet (`covid3d step {missing[0]} --run {run.name}`)")
    values = read_values(run)
    keep_last(run, values)
    for group in ("tables", "figures"):
        _merge_files(run, group)
    write_csv(run.path("predictions.csv"), _predictions(run))
    write_csv(run.path("claims.csv"), ledger(run))
    shutil.copyfile(DATA / "dictionary.csv", run.path("dictionary.csv"))
    write_json(run.path("cost.json"), cost(run))
    write_json(run.path("passport.json"), passport(run))
    write_json(run.path("values.json"), values)
    return run.path("values.json")


def _merge_files(run: Run, group: str) -> None:
    """Copy all chapters' tables or figures into one folder of the run."""
    owner: dict[str, str] = {}
    with atomic_folder(run.path(group)) as folder:
        for path in run.chapter_files(f"{group}/*"):
            if path.name in owner:
                chapters = f"{owner[path.name]} and {path.parent.parent.name}"
                raise Covid3DError(
                    f"chapters {chapters} both write {group}/{path.name}", cure="Rename one of them in its notebook"
                )
            owner[path.name] = path.parent.parent.name
            shutil.copyfile(path, folder / path.name)


def _predictions(run: Run) -> pd.DataFrame:
    """Return all predictions of a run in one table, each scored scan once."""
    paths = [
        path for name in ("models", "external", "windows") for path in sorted(run.path(name).rglob("predictions.csv"))
    ]
    tables = [read_predictions(path).astype({"fold": str}) for path in paths]
    known = [table for table in tables if len(table)]
    return each_once(pd.concat(known, ignore_index=True)) if known else pd.DataFrame({"task": []})


def each_once(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each task, model, fold, epoch, scan and window; steps share scores of the nominal window.

    Raises Covid3DError when two steps gave one of them different logits, or one of them none.
    """
    logits = predictions.groupby(list(SCORED_ONCE))["logit"]
    spread = (logits.max() - logits.min()).mask(logits.count().between(1, logits.size() - 1), float("inf"))
    if (spread > 1e-4).any():
        what = ", ".join(map(str, spread.sort_values().index.tolist()[-1]))
        raise Covid3DError(
            f"two steps scored one scan differently: {what}",
            where="predictions.csv",
            cure="Delete the run's folders `external` and `windows`; the same command computes them again",
        )
    return predictions.drop_duplicates(list(SCORED_ONCE), ignore_index=True)


def cost(run: Run) -> dict[str, Any]:
    """Return the time of every step, and of groups of steps beside the budget of the profile `standard`.

    `wall_minutes` counts the time in which at least one step of a group ran, so parallel jobs do not add up; that of the run
    leaves out what `make extended` adds.
    """
    steps = [read_json(path) for path in sorted(run.path("logs", "cost").glob("*.json"))]
    groups = []
    for name, minutes in BUDGET.items():
        measured = wall_minutes([step for step in steps if step.get("budget") == name])
        budget = minutes if run.profile.name == "standard" else None
        groups.append({"group": name, "wall_minutes": measured, "budget_minutes": budget})
    return {
        "profile": run.profile.name,
        "profile_minutes": run.profile.minutes,
        "wall_minutes": wall_minutes([step for step in steps if step.get("budget")]),
        "groups": groups,
        "steps": [{"step": step["step"], "seconds": step["seconds"]} for step in steps],
    }


def wall_minutes(steps: list[dict[str, Any]]) -> float:
    """Return the minutes in which at least one of these steps ran."""
    total = latest = 0.0
    for step in sorted(steps, key=lambda step: step["ended"] - step["seconds"]):
        begun = max(step["ended"] - step["seconds"], latest)
        total += max(step["ended"] - begun, 0.0)
        latest = max(latest, step["ended"])
    return round(total / 60, 2)


def passport(run: Run) -> dict[str, Any]:
    """Return what a run was made with: versions, kind of processor and device, commit, options; no host and no path."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() and run.device != "cpu" else "cpu"
    versions = {}
    for name in ("covid3d", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    options = run.config.model_dump() | {"manifest": Path(run.config.manifest).name if run.config.manifest else None}
    options["weights"] = Path(run.config.weights.removeprefix(OUTSIDE)).name if run.config.weights else None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "device": device,
        "versions": versions,
        "commit": _commit(run.root),
        "run": run.name,
        "options": options,
        "cohort": run.cohort,
        "manifest_sha256": sha256_file(run.manifest) if run.manifest.is_file() else None,
    }


def _commit(root: Path) -> str:
    """Return the checkout's commit, or "unknown"."""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
