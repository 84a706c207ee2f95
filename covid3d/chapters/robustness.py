"""What the lung window does to the AUC: one sample of windows for all scans and models, and a curve over its SD.

The window "tuned" and the windows around it (t000 …) are chosen after the evaluation to look like hospital A, as in the
paper; only the tuned row of Table 1 may use them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from covid3d.chapters import results, scored
from covid3d.chapters.results import THREE_D, TWO_D
from covid3d.cohort.folds import read_splits
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import Window, apply_window, nominal_window, sample_windows
from covid3d.network import scoring, training
from covid3d.run import campaigns, steps
from covid3d.run.files import cpu_count, parallel_map, write_csv
from covid3d.run.profile import Run
from covid3d.run.profile import Windows as WindowSettings
from covid3d.stats.auc import auc_value
from covid3d.stats.estimate import Estimate

LUNG_RANGE = (-1000, -200)
SCANS_PER_JOB = 16
TUNED = "tuned"
NAN = float("nan")


class Job(NamedTuple):
    """Scans that one model scores in some windows."""

    run: Run
    model: str
    fold: int
    split: str
    table: pd.DataFrame
    windows: pd.DataFrame


def ensure_windows(run: Run) -> Path:
    """Return the folder of windows.csv, predictions.csv and curve.csv, computing them when needed.

    B and C: all windows by the deployed fold and the 2D baseline, and by the deployed fold the uniform sample, the wider
    and narrower samples of the curve and the tuned windows. A: the first windows, each scan by the fold that never saw it.
    """
    inputs = {
        "intake": run.intake,
        "splits": run.splits,
        "selection": steps.content(results.selection_file(run).parent),
        "folds": [steps.content(run.model("task1", THREE_D, fold)) for fold in results.folds(run)],
        "slices": steps.content(run.model("task1", TWO_D, results.deployed_fold(run))),
    }

    def compute(folder: Path) -> None:
        table = accepted(run)
        tuned = tuned_windows(run, table)
        windows = plan_windows(run, tuned)
        scores = _score(run, jobs(run, table, windows))
        write_csv(folder / "windows.csv", windows)
        write_csv(folder / "predictions.csv", scores)
        write_csv(folder / "curve.csv", curve_of(scores, windows))

    return steps.ensure(run, "windows", run.path("windows"), inputs, compute)


def plan_windows(run: Run, tuned: pd.DataFrame) -> pd.DataFrame:
    """Return every window that is scored: window, level, width, sample, multiple, hospital ('' serves all).

    Samples: nominal, normal (w000 …), uniform within one SD (u000 …), curve (c0.5_000 …; multiple 1 is the normal
    sample's start) and tuned (the tuned window, and t000 …: the normal sample moved to it, so that every SD of Table 1 is
    over the same number of windows).
    """
    settings, nominal = run.profile.windows, nominal_window(run.profile.windows)
    normal = sample_windows(settings, run.seed)
    head = pd.DataFrame({"window": ["nominal"], "level": [nominal.level], "width": [nominal.width]})
    parts = [head.assign(sample="nominal", multiple=0.0), normal.assign(sample="normal", multiple=1.0)]
    uniform = sample_windows(settings, run.seed, count=settings.curve_count, law="uniform")
    parts.append(_renamed(uniform, "u").assign(sample="uniform", multiple=1.0))
    for multiple in settings.curve_multiples:
        if multiple != 1:
            wider = sample_windows(settings, run.seed, count=settings.curve_count, multiple=multiple)
            parts.append(_renamed(wider, f"c{multiple:g}_").assign(sample="curve", multiple=multiple))
    for row in tuned.to_dict("records"):
        level, width = float(row["level"]), float(row["width"])
        around = _renamed(normal, "t")
        around = around.assign(level=around["level"] + level - nominal.level)
        around = around.assign(width=(around["width"] + width - nominal.width).clip(lower=1))
        both = pd.concat([head.assign(window=TUNED, level=level, width=width), around])
        parts.append(both.assign(sample="tuned", multiple=1.0, hospital=row["hospital"]))
    return pd.concat(parts, ignore_index=True).fillna({"hospital": ""})


def _renamed(windows: pd.DataFrame, prefix: str) -> pd.DataFrame:
    return windows.assign(window=[f"{prefix}{number:03d}" for number in range(len(windows))])


def jobs(run: Run, table: pd.DataFrame, windows: pd.DataFrame) -> list[Job]:
    """Return the scoring jobs: at most SCANS_PER_JOB scans each, independent of the machine."""
    found: list[Job] = []

    def add(model: str, fold: int, split: str, scans: pd.DataFrame, chosen: pd.DataFrame) -> None:
        for start in range(0, len(scans), SCANS_PER_JOB):
            found.append(Job(run, model, fold, split, scans.iloc[start : start + SCANS_PER_JOB], chosen))

    deployed, every = results.deployed_fold(run), windows[windows["hospital"] == ""]
    external = table[table["role"] == "external"]
    basic = every[every["sample"].isin(["nominal", "normal"])]
    add(TWO_D, deployed, "external", external, basic)
    for hospital, scans in external.groupby("hospital"):
        add(THREE_D, deployed, "external", scans, pd.concat([every, windows[windows["hospital"] == hospital]]))
    splits = read_splits(run)
    internal = basic.head(1 + run.profile.windows.internal_count)
    for fold, rows in splits[splits["split"] == "validation"].groupby("fold"):
        add(THREE_D, int(str(fold)), "validation", table[table["scan_id"].isin(rows["scan_id"])], internal)
    return found


def _score(run: Run, work: Sequence[Job]) -> pd.DataFrame:
    """Return the predictions of all jobs; on the CPU one process a core, each with the profile's threads."""
    workers = max(1, cpu_count() // run.profile.training.threads_per_fold)
    small = sum(len(job.table) * len(job.windows) for job in work) * float(np.prod(run.profile.model.grid)) < 1e8
    if small or scoring.pick_device(run.device) != "cpu":
        workers = 1
    return pd.concat(list(parallel_map(score_job, work, workers=workers, description="windows")), ignore_index=True)


def score_job(job: Job) -> pd.DataFrame:
    """Return the predictions of one job, one row a scan and window."""
    run, device = job.run, scoring.use_device(job.run)
    model = training.load_fold(run, "task1", job.model, job.fold)
    grids = Store.of(run).stack(job.table["scan_id"])
    windows = [Window(*pair) for pair in job.windows[["level", "width"]].to_numpy().tolist()]
    logits = scoring.score(model, grids, windows, device=device)
    epoch = run.epochs if job.model == THREE_D else run.profile.slices.epochs
    return pd.concat(
        [
            scoring.prediction_rows("task1", job.model, job.fold, epoch, job.table, job.split, name, logits[:, column])
            for column, name in enumerate(job.windows["window"])
        ],
        ignore_index=True,
    )


def tuned_windows(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Return the window of the sample that makes each external hospital look most like A in the nominal window.

    Columns hospital, level, width, distance, nominal_distance: the distance is the Wasserstein-1 distance between windowed
    lung values (HU of LUNG_RANGE) of the first scans. Labels and scores play no part.
    """
    store, settings = Store.of(run), run.profile.windows
    first = table[table["role"].isin(["development", "external"])]
    if run.is_site or not (first["role"] == "development").any():
        return pd.DataFrame(columns=["hospital", "level", "width", "distance", "nominal_distance"])
    reference = lung_quantiles(store.stack(first.loc[first["role"] == "development", "scan_id"]))
    sample = sample_windows(settings, run.seed)
    rows = []
    for hospital, part in first[first["role"] == "external"].groupby("hospital"):
        own = lung_quantiles(store.stack(part["scan_id"]))
        rows.append({"hospital": hospital, **match_window(own, reference, sample, nominal_window(settings))})
    return pd.DataFrame(rows)


def lung_quantiles(grids: np.ndarray, count: int = 199) -> np.ndarray:
    """Return evenly spaced quantiles of the HU in the lung range, pooled over scans; float64 (count,)."""
    low, high = LUNG_RANGE
    inside = grids[(grids >= low) & (grids <= high)]
    if not len(inside):
        return np.full(count, NAN)
    return np.quantile(inside, (np.arange(count) + 0.5) / count)


def match_window(own: np.ndarray, reference: np.ndarray, sample: pd.DataFrame, nominal: Window) -> dict[str, float]:
    """Return the window (nominal or sampled) whose view of `own` is nearest to the nominal view of `reference`.

    own, reference: quantiles of HU. A window is monotone, so quantiles map to quantiles and W1 is their mean distance.
    """
    target = apply_window(reference, nominal)
    candidates = [nominal, *(Window(*pair) for pair in sample[["level", "width"]].to_numpy().tolist())]
    distances = [float(np.abs(apply_window(own, window) - target).mean()) for window in candidates]
    best = int(np.argmin(distances))
    chosen = candidates[best]
    return {"level": chosen.level, "width": chosen.width, "distance": distances[best], "nominal_distance": distances[0]}


def auc_by_window(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one AUC a model, hospital, split and window (scores of A: pooled out-of-fold); NaN with one class."""
    rows = []
    for keys, part in scores.groupby(["model", "split", "hospital", "window"], sort=False):
        both = part["label"].nunique() == 2
        value = auc_value(part["label"], part["logit"]) if both else NAN
        rows.append((*keys, value))
    return pd.DataFrame(rows, columns=["model", "split", "hospital", "window", "auc"]).astype({"auc": float})


def fold_mean_by_window(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of the fold AUCs on A in each window: window, auc (folds with both classes)."""
    inside = scores[scores["split"] == "validation"]
    by_fold = [auc_by_window(part) for _, part in inside.groupby("fold")]
    if not by_fold:
        return pd.DataFrame({"window": pd.Series(dtype=str), "auc": pd.Series(dtype=float)})
    return pd.concat(by_fold).groupby("window", sort=False)["auc"].mean().reset_index()


def window_sd(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what the window does to the AUC, one row a model and hospital (the index).

    Columns nominal, mean, sd, lowest, highest, n_windows (normal sample), uniform_sd, n_uniform. For A the mean of the fold
    AUCs over the first windows. The model "tuned" is COVID3D in the tuned window ("nominal") and the windows around it.
    """
    external = scores[scores["split"] == "external"]
    around = external[external["window"].str.startswith("t").astype(bool) & (external["model"] == THREE_D)]
    moved = around["window"].replace({TUNED: "nominal"}).str.replace("^t", "w", regex=True)
    external = pd.concat([external, around.assign(model=TUNED, window=moved)])
    inside = fold_mean_by_window(scores).assign(model=THREE_D, hospital="A")
    rows = {}
    for keys, part in pd.concat([inside, auc_by_window(external)]).groupby(["model", "hospital"], sort=False):
        values = part.set_index("window")["auc"]
        normal, uniform = (values[values.index.str.fullmatch(letter + r"\d+")].dropna() for letter in "wu")
        rows[keys] = {
            "nominal": float(values.get("nominal", NAN)),
            "mean": float(normal.mean()) if len(normal) else NAN,
            "sd": float(normal.std(ddof=1)) if len(normal) > 1 else NAN,
            "lowest": float(normal.min()) if len(normal) else NAN,
            "highest": float(normal.max()) if len(normal) else NAN,
            "n_windows": len(normal),
            "uniform_sd": float(uniform.std(ddof=1)) if len(uniform) > 1 else NAN,
            "n_uniform": len(uniform),
        }
    index = pd.MultiIndex.from_tuples(rows, names=["model", "hospital"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index)


def spread(table: pd.DataFrame, model: str, hospital: str) -> Estimate:
    """Return the standard deviation over windows of a model's AUC at a hospital, the paper's "±", from `window_sd`."""
    if (model, hospital) not in table.index:
        return Estimate.missing("scored in one window")
    row = table.loc[[(model, hospital)]].to_dict("records")[0]
    return Estimate(row["sd"], remark=f"over {row['n_windows']} windows")


def usable_scores(run: Run) -> pd.DataFrame:
    """Return every scan in every window (`results.window_scores`), without those that have no score."""
    return scored.usable(results.window_scores(run))


def internal_spread(run: Run) -> Estimate:
    """Return the standard deviation over windows of the mean fold AUC at A: the paper's "±"."""
    return spread(window_sd(usable_scores(run)), THREE_D, "A")


def window_order() -> tuple[dict[str, Any], str]:
    """Return what windowing before resampling would change and cost, as stored, and a caption that says where it was measured."""
    names = ("scans", "mean change of the logit", "largest change of the logit", "calls turned", "times the work")
    stored = campaigns.read("window_order")
    if stored is None:
        return dict.fromkeys(names, Estimate.missing("not measured")), "Windowing before resampling."
    row = stored.iloc[0]
    whole = ("scans", "calls turned")
    found = {name: int(row[name]) if name in whole else float(row[name]) for name in names}
    return (
        found,
        f"Windowing before resampling: run {row['run']}, commit {row['commit']}, {row['voxels']:,.0f} voxels a scan.",
    )


@dataclass(frozen=True)
class Windows:
    """What the window does to the AUC, read once.

    scores: every scan in every window (`results.window_scores`). planned: one row a window (`plan_windows`). curve: the AUC
    over the spread of the windows (`curve_of`). sd: the spread of each model at each hospital (`window_sd`).
    """

    settings: WindowSettings
    scores: pd.DataFrame
    planned: pd.DataFrame
    curve: pd.DataFrame
    sd: pd.DataFrame

    @classmethod
    def of(cls, run: Run) -> "Windows":
        """Read what `ensure_windows` has left."""
        folder, scores = run.path("windows"), usable_scores(run)
        planned = pd.read_csv(folder / "windows.csv", dtype={"window": str, "hospital": str}).fillna({"hospital": ""})
        curve = pd.read_csv(folder / "curve.csv", dtype={"hospital": str})
        return cls(run.profile.windows, scores, planned, curve, window_sd(scores))

    def drawn(self) -> dict[str, Any]:
        """Return how the windows of the paper's "±" were drawn: how many were scored at B and C, the SDs, and why these."""
        external = self.scores[self.scores["split"] == "external"]
        normal = external["window"].str.fullmatch(r"w\d+").astype(bool)
        return {
            "windows": int(external.loc[normal, "window"].nunique()),
            "SD of the level": Estimate(self.settings.level_sd, unit="HU"),
            "SD of the width": Estimate(self.settings.width_sd, unit="HU"),
            "why these": self.settings.reason,
        }

    def by_spread(self) -> pd.DataFrame:
        """Return COVID3D's AUC by hospital and spread of the windows, in SDs of the profile: mean, SD, lowest, windows."""
        names = {"multiple": "spread", "mean": "mean AUC", "sd": "SD", "n_windows": "windows"}
        return self.curve.drop(columns="model").rename(columns=names).set_index(["hospital", "spread"])

    def widest(self) -> dict[str, Estimate]:
        """Return the AUC at each external hospital where the windows are spread most widely: mean, and of the worst window."""
        last = self.curve.sort_values("multiple").groupby("hospital")[["mean", "lowest"]].last().to_dict()
        why, names = Estimate.missing("no scans of this hospital"), results.hospitals(self.curve)
        mean, worst = (
            {hospital: Estimate(last[name][hospital]) if hospital in last[name] else why for hospital in names}
            for name in ("mean", "lowest")
        )
        return mean | {f"worst window, {hospital}": found for hospital, found in worst.items()}

    def tuned(self) -> pd.DataFrame:
        """Return the tuned window of each hospital: level and width, HU."""
        rows = self.planned[self.planned["window"] == TUNED].set_index("hospital")[["level", "width"]]
        return rows.rename(columns={"level": "level, HU", "width": "width, HU"})


def curve_of(scores: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Return the degradation curve: model, hospital, multiple (of the SD), mean, sd, lowest AUC, n_windows.

    Multiple 0 is the nominal window; multiple 1 uses as many windows of the normal sample as the other points have.
    """
    values = auc_by_window(scores[(scores["split"] == "external") & (scores["model"] == THREE_D)])
    curve = windows[windows["sample"] == "curve"]
    count = int(curve.groupby("multiple").size().max()) if len(curve) else 0
    start = windows[windows["sample"] == "normal"].head(count)
    chosen = pd.concat([windows[windows["sample"] == "nominal"], start, curve])[["window", "multiple"]]
    table = values.merge(chosen, on="window").dropna(subset="auc")
    grouped = table.groupby(["model", "hospital", "multiple"])["auc"]
    found = grouped.agg(mean="mean", sd="std", lowest="min", n_windows="size").reset_index()
    return found.sort_values(["model", "hospital", "multiple"], ignore_index=True)
