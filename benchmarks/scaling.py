"""Would more epochs or more patients reach the bars that `benchmarks.seeds` misses: a flat loss, a map on the lesions?

`python -m benchmarks.scaling` simulates four times the patients of hospital A and trains the network of `standard` on two
folds: on a quarter of the training side, as `standard` does, for longer, on all of it, and on the lungs alone. The same held-out
patients judge all of them. It writes results/scaling.csv.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks import campaigns
from covid3d.chapters.cross_validation import flatness
from covid3d.chapters.explanation import cell_map, lesion_share_ratio, mass, spread
from covid3d.chapters.results import TASK, THREE_D
from covid3d.chapters.task1 import split_of
from covid3d.chapters.truth import lesion_mask, lung_mask, read_truth
from covid3d.comparators.interface import Cases
from covid3d.comparators.volumes import lungs_alone
from covid3d.ct.windows import nominal_window
from covid3d.network.registry import build
from covid3d.network.training import Examples, Plan, fit
from covid3d.run import steps
from covid3d.run.files import cpu_count, parallel_map, random_seed, write_csv
from covid3d.run.profile import Run, open_run, repository_root
from covid3d.stats.auc import auc_value

NAME = "scaling"
MADE_BY = ("covid3d.chapters.task1", "covid3d.chapters.explanation", "covid3d.phantom.build", __file__)
TIMES, SEED = 4, 80_001
FOLDS = (0, 1)


class Setting(NamedTuple):
    """What the network sees, how many times the patients of `standard`, and how many times its epochs."""

    sees: str
    patients: int
    epochs: int


SETTINGS = {
    "as standard": Setting("whole", 1, 1),
    "3 times the epochs": Setting("whole", 1, 3),
    "4 times the patients": Setting("whole", 4, 1),
    "lungs alone": Setting("lungs", 1, 1),
    "lungs alone, 4 times the patients": Setting("lungs", 4, 1),
}


def order_form(times: int) -> pd.DataFrame:
    """Return A's first scans as the embedded order form has them, `times` over, each time of other patients."""
    form = pd.read_csv(repository_root() / "data_manifest.csv", dtype=str, keep_default_na=False)
    first = form[(form["hospital"] == "A") & (form["scan_index"] == "0")]
    parts = [first.assign(source=f"phantom:{SEED + number}") for number in range(times)]
    for number, part in enumerate(parts):
        for column in ("scan_id", "patient_id"):
            part[column] = f"N{number}" + part[column]
    return pd.concat(parts, ignore_index=True)


def run_of(times: int = TIMES, profile: str = "standard") -> Run:
    """Open the run of the enlarged cohort; its order form lies beside it in runs/."""
    manifest = repository_root() / "runs" / f"{NAME}.csv"
    write_csv(manifest, order_form(times))
    return open_run(NAME, profile=profile, manifest=str(manifest))


def train(run: Run, setting: Setting, times: int, fold: int) -> dict[str, pd.DataFrame]:
    """Train one fold in one setting; return scores and maps of its held-out patients, and the history."""
    profile, window = run.profile, nominal_window(run.profile.windows)
    rows, held_out = split_of(run, fold)
    order = np.random.default_rng(random_seed(run.seed, NAME, fold)).permutation(len(rows))
    rows = rows.iloc[np.sort(order[: len(rows) * setting.patients // times])]
    examples, others = (_examples(run, part, setting.sees) for part in (rows, held_out))
    plan = Plan.of(profile.training, window, epochs=profile.training.epochs * setting.epochs)
    seed = random_seed(run.seed, TASK, THREE_D, fold)
    model = build(THREE_D, profile, seed=seed)
    place = run.path("checkpoints", f"{NAME}-{'-'.join(map(str, setting))}-{fold}.safetensors")
    result = fit(model, examples, others, plan, checkpoint=place, seed=seed)
    torch.set_num_threads(plan.threads)
    layers = [name for name in model.extractor if "Mixed" in name]  # type: ignore[union-attr, operator]
    found = []
    for number in np.flatnonzero(others.labels):
        masks = [read(run, others.scan_ids[number]) for read in (lesion_mask, lung_mask)]
        for layer in layers:
            cells = cell_map(model, others.grids[number, 0], window, layer, profile.explain.method).cells
            values = spread(cells, model.extractor, layer, profile.model.grid)  # type: ignore[arg-type]
            found.append({"layer": layer, **mass(values, *masks)})
    return {
        "scores": others.table.assign(logit=result.logits, fold=fold),
        "history": result.history.assign(fold=fold, patients=len(examples)),
        "maps": pd.DataFrame(found).assign(label=1, role="development"),
    }


def _examples(run: Run, rows: pd.DataFrame, sees: str) -> Examples:
    cases = Cases.of(run, rows)
    return Examples.of(cases.facts, lungs_alone(cases) if sees == "lungs" else cases.grids)


def measure(run: Run, setting: Setting, times: int = TIMES) -> pd.DataFrame:
    """Return one row: mean fold AUC beside the grid oracle's, change of the loss, the map at the profile's layer and its best."""
    work = partial(train, run, setting, times)
    parts = list(parallel_map(work, FOLDS, workers=cpu_count(), description=NAME))
    scores, history, maps = (pd.concat([part[name] for part in parts]) for name in ("scores", "history", "maps"))
    truth = read_truth(run)
    assert truth is not None
    known = scores.merge(truth[["scan_id", "oracle_grid_logit"]], on="scan_id", validate="1:1")
    explain, replicates = run.profile.explain, run.profile.statistics.bootstrap
    ratios = {name: lesion_share_ratio(part, 1, replicates, run.seed) for name, part in maps.groupby("layer")}
    best = max(ratios, key=lambda layer: ratios[layer].value)
    row: dict[str, Any] = {
        "sees": setting.sees,
        "patients": int(history["patients"].min()),
        "epochs": int(history["epoch"].max()),
        "held_out": len(known),
        "auc": float(np.mean([auc_value(part["label"], part["logit"]) for _, part in known.groupby("fold")])),
        "oracle": auc_value(known["label"], known["oracle_grid_logit"]),
        "last_loss": history.loc[history["epoch"] == history["epoch"].max(), "train_loss"].mean(),
        "flatness": flatness(history.drop(columns="patients")),
        "lung_share": maps.loc[maps["layer"] == explain.layer, "lung_share"].mean(),
        "best_layer": best,
        "best_ratio": ratios[best].value,
    }
    shown = ratios[explain.layer]
    return pd.DataFrame([row | {"map_ratio": shown.value, "map_low": shown.low, "map_high": shown.high}])


def campaign() -> pd.DataFrame:
    """Measure the settings that are missing and return scaling.csv."""
    run = run_of()
    steps.ensure_needs(run, "fold")
    return campaigns.extend(NAME, "setting", SETTINGS, lambda name: measure(run, SETTINGS[name]), MADE_BY)


if __name__ == "__main__":
    print(campaign().drop(columns=list(campaigns.STAMP)).T.to_string())
