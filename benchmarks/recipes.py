"""What the start and the third dimension are each worth: COVID3D and the 2D baseline of `standard`, from scratch and pretrained.

The cohort is another one than any run's: hospital A of the order form of seed 11, its patients followed as ever. Ten folds, each
patient judged by the fold that held him out.

`python -m benchmarks.recipes` (about 3 min to simulate, then 12 min, on 2 idle cores) writes benchmarks/results/recipes.csv.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks import campaigns
from benchmarks.null_world import order_form
from covid3d.chapters.results import TASK, THREE_D, TWO_D
from covid3d.chapters.task1 import first_model, plan_of, split_of
from covid3d.chapters.truth import read_truth
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.network.scoring import score
from covid3d.network.training import Examples, fit
from covid3d.run import steps
from covid3d.run.files import cpu_count, parallel_map, random_seed, write_csv
from covid3d.run.profile import Run, open_run, repository_root
from covid3d.stats.auc import auc_value, mean_interval
from covid3d.stats.courses import rank_within

NAME, FORM = "recipes", 11
MADE_BY = ("covid3d.chapters.task1", "covid3d.phantom.build", "covid3d.stats.courses", __file__, *campaigns.STARTS)


class Recipe(NamedTuple):
    """A model, whether its trunk is pretrained, and whether anything but its head is trained."""

    model: str
    pretrained: bool
    trained: bool


RECIPES = {
    "3D from scratch": Recipe(THREE_D, False, True),
    "3D pretrained, head alone": Recipe(THREE_D, True, False),
    "3D pretrained, fine-tuned": Recipe(THREE_D, True, True),
    "2D from scratch": Recipe(TWO_D, False, True),
    "2D pretrained, head alone": Recipe(TWO_D, True, False),
    "2D pretrained, fine-tuned": Recipe(TWO_D, True, True),
}


def run_of(profile: str = "standard") -> Run:
    """Open the run of the cohort; its order form lies beside it in runs/."""
    form, _ = order_form(FORM)
    manifest = repository_root() / "runs" / f"{NAME}.csv"
    write_csv(manifest, form[form["hospital"] == "A"])
    return open_run(NAME, profile=profile, manifest=str(manifest))


def set_up(run: Run, recipe: Recipe) -> Run:
    """Return the run with the profile of a recipe; from scratch both networks train as `training` says."""
    if recipe.pretrained:
        return run
    profile, training = run.profile, run.profile.training
    model = profile.model.model_copy(update={"pretrained": False})
    rates = {name: getattr(training, name) for name in ("epochs", "batch_size", "learning_rate")}
    slices = profile.slices.model_copy(update={"pretrained": None, **rates})
    return replace(run, profile=profile.model_copy(update={"model": model, "slices": slices}))


def train(run: Run, recipe: Recipe, fold: int) -> pd.DataFrame:
    """Return all scans of the held-out patients: scan_id, patient_id, label, scan_index, fold, logit, minutes of CPU."""
    store, table = Store.of(run), accepted(run)
    rows, held_out = split_of(run, fold)
    every = table[table["patient_id"].isin(held_out["patient_id"]) & (table["hospital"] == "A")].reset_index(drop=True)
    learnt, judged, seen = (Examples.of(part, store.stack(part["scan_id"])) for part in (rows, held_out, every))
    seed, started = random_seed(run.seed, TASK, recipe.model, fold), time.process_time()
    plan = plan_of(run, recipe.model)
    model = first_model(run, recipe.model, learnt, seed)
    if recipe.trained:
        fit(model, learnt, judged, plan, seed=seed)
    minutes = (time.process_time() - started) / 60
    known = every[["scan_id", "patient_id", "label", "scan_index"]]
    return known.assign(logit=score(model, seen.grids, [plan.window])[:, 0], fold=fold, minutes=minutes)


def measure(run: Run, recipe: Recipe, folds: Sequence[int]) -> pd.DataFrame:
    """Return one row: AUC, mean and limits over folds; correlation with the burden in COVID+ patients; CPU minutes of a fold."""
    work = partial(train, set_up(run, recipe), recipe)
    scans = pd.concat(parallel_map(work, folds, workers=cpu_count(), description=NAME), ignore_index=True)
    truth = read_truth(run)
    assert truth is not None
    scans = scans.merge(truth[["scan_id", "burden_fraction"]], on="scan_id", validate="1:1")
    first = scans[scans["scan_index"] == 0]
    auc = mean_interval([auc_value(part["label"], part["logit"]) for _, part in first.groupby("fold")])
    within = rank_within(scans[scans["label"] == 1], "logit", "burden_fraction")
    row = {"folds": len(folds), "auc": auc.value, "auc_low": auc.low, "auc_high": auc.high, "patients": within.patients}
    rho = within.estimate
    row |= {"rho": rho.value, "rho_low": rho.low, "rho_high": rho.high}
    return pd.DataFrame([row | {"minutes": float(np.mean(scans.groupby("fold")["minutes"].first()))}])


def campaign() -> pd.DataFrame:
    """Measure the recipes that are missing and return recipes.csv."""
    run = run_of()
    steps.ensure_needs(run, "fold")
    folds = range(run.profile.training.folds)
    return campaigns.extend(NAME, "recipe", RECIPES, lambda name: measure(run, RECIPES[name], folds), MADE_BY)


if __name__ == "__main__":
    print(campaign().drop(columns=list(campaigns.STAMP)).to_string())
