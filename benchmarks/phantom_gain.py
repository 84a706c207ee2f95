"""Does a second scan tell the network more of the stay? The followed patients of seven order forms, where a run has one.

The network is the deployed one of the run `standard`, which has seen none of these patients; for one scan and for two a head is
fitted to its features as in chapter 7, ten folds by patient. The p of the gain comes from permuted outcomes, under which
neither scan tells anything: where one scan does, it is approximate, and the interval of the gain stands beside it.

And how often would so few patients as a run has reach the bars of chapter 7? As many are drawn from these, again and again;
folds, heads, bootstrap and permutations see them alone.

`python -m benchmarks.phantom_gain` (after `make report`; about 10 min on 2 cores) writes benchmarks/results/phantom_gain.csv and
phantom_power.csv.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import campaigns
from benchmarks.fairness import grid_spacing
from benchmarks.null_world import FOLDS, order_form
from benchmarks.phantom_evidence import days_of, seen
from benchmarks.phantom_truth import separations
from benchmarks.pretrain import acquired, render_grid
from benchmarks.seeds import run_of
from covid3d.chapters import predictors
from covid3d.chapters.fine_tuning import head_inputs, pairs_of
from covid3d.chapters.measured import REACHED
from covid3d.chapters.predictors import BARRED, NAMES
from covid3d.chapters.results import deployed_fold
from covid3d.cohort.folds import make_folds
from covid3d.ct.opacity import Opacity, opacity
from covid3d.ct.windows import nominal_window
from covid3d.network.scoring import features
from covid3d.network.start import COMPONENTS
from covid3d.network.training import load_fold
from covid3d.phantom.build import pattern_labels
from covid3d.run import steps
from covid3d.run.files import cpu_count, parallel_map, random_seed
from covid3d.run.profile import load_profile
from covid3d.stats import risk
from covid3d.stats.proportions import wilson
from covid3d.stats.survival import permuted, permuted_log_rank, permuted_logits, permuted_orders, principal_components

NAME, FORMS, PERMUTATIONS, DRAWS = "phantom_gain", range(31, 38), 999, 2000
POWER, PATIENTS, SAMPLES, FEWER = "phantom_power", 49, 200, 99
"""The few patients are as many as the embedded cohort's hospital A can judge, and as the paper has."""
MADE_BY = ("covid3d.chapters.predictors", "covid3d.phantom.build", "covid3d.stats.risk", __file__, *campaigns.STARTS)
VARIANTS = {"one scan": "single", "two scans": "pair"}


def followed(number: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the index pairs of A's patients in one order form, with opacity, and their grids: int16 (N, 2, z, y, x).

    The grids are those of the prior and of the index scan.
    """
    profile = load_profile("standard")
    form, courses = order_form(number)
    pairs = pairs_of(form, make_folds(form, FOLDS, number), profile.prognosis.high_risk_days)
    pairs = pairs[(pairs["scan_index"] == 1) & (pairs["test"] == 1) & pairs["label"].notna()]
    form["pattern"] = form["patient_id"].map(pattern_labels(form, "effect", number))
    rows = form.set_index("scan_id", drop=False).loc[pairs[["prior_scan_id", "scan_id"]].to_numpy().ravel()]
    work = partial(_grid, seed=number, courses=courses, days=days_of(form))
    found = parallel_map(work, rows.to_dict("records"), workers=cpu_count(), description=f"order form {number}")
    grids, measured = zip(*found, strict=True)
    pairs = predictors.with_opacity(pairs, pd.DataFrame(list(measured), index=rows.index))
    own = {name: f"{number}-" + pairs[name] for name in ("patient_id", "scan_id")}
    return pairs.assign(**own), np.stack(grids).reshape(len(pairs), 2, *grids[0].shape)


def _grid(scan: dict[str, Any], seed: int, courses: int, days: dict[str, list[int]]) -> tuple[np.ndarray, Opacity]:
    rng = np.random.default_rng(random_seed(seed, scan["scan_id"], "scanner"))
    patient, look = seen(scan, seed, courses, days)
    profile = load_profile("standard")
    acquisition = acquired(patient, str(scan["hospital"]), profile, rng)
    grid = render_grid(patient, look, acquisition, profile)[0]
    return grid, opacity(grid, grid_spacing(acquisition, grid.shape))


def components(variant: str, found: np.ndarray, held: np.ndarray) -> list[np.ndarray]:
    """Return, by fold, the principal components of a variant's features, without the fold's patients.

    found: the network's features of prior and index scan, (N, 2C); held: fold of each patient, (N,).
    """
    values = head_inputs(variant, found if variant == "pair" else found[:, found.shape[1] // 2 :])
    return [principal_components(values, held != fold, COMPONENTS) for fold in range(FOLDS)]


def foretold(pairs: pd.DataFrame, found: np.ndarray) -> pd.DataFrame:
    """Return the rows of `phantom_truth.separations` for one scan and two, and the gain.

    found: the network's features of prior and index scan, (N, 2C).
    """
    rng = np.random.default_rng(random_seed(NAME, "folds"))
    held, orders = rng.permutation(np.arange(len(pairs)) % FOLDS), permuted_orders(len(pairs), PERMUTATIONS, rng)
    pairs, logits = pairs.assign(fold=held), {}
    for words, variant in VARIANTS.items():
        inputs = components(variant, found, held)
        logits[words] = permuted_logits(inputs, held, pairs["label"].to_numpy(float), orders)
    table = separations(pairs, logits, orders, [("two scans", "one scan")], DRAWS, NAME)
    return table.assign(predictor="network, " + table["predictor"])


def bars_of(pairs: pd.DataFrame, found: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Return the bars of chapter 7 for patients with the network's features of both scans, all fitted to them alone."""
    held, orders = rng.permutation(np.arange(len(pairs)) % FOLDS), permuted_orders(len(pairs), FEWER, rng)
    pairs, label, rows, tables = pairs.assign(fold=held), pairs["label"].to_numpy(float), {}, {}
    days, event = (pairs[name].to_numpy(float) for name in ("remaining_days", "event"))
    for name in BARRED:
        if name in VARIANTS.values():
            inputs = predictors.Inputs(components(name, found, held))
        else:
            inputs = predictors.inputs_of_columns(pairs, name, FOLDS)
        tried = orders if name == "opacity_pair" else orders[:1]
        logits = permuted_logits(inputs.folds, held, label, tried, inputs.penalties)
        tables[name] = pairs.assign(logit=logits[0], high=(logits[0] >= 0).astype(float))
        row = risk.separation(tables[name], FEWER, rng)
        rows[NAMES[name]] = row | {"permutation p": permuted(permuted_log_rank(logits, tried, days, event).p)}
    return predictors.bars(pd.DataFrame.from_dict(rows, orient="index"), tables)


def power(pairs: pd.DataFrame, found: np.ndarray, samples: int = SAMPLES) -> pd.DataFrame:
    """Return one row a bar: bar, asks, patients, draws, and the share of the draws that reach it with Wilson's limits."""
    work = partial(_drawn, pairs=pairs, found=found)
    tables = list(parallel_map(work, range(samples), workers=cpu_count(), description="draws of few patients"))
    rows = []
    for bar, part in pd.concat(tables).groupby(level=0, sort=False):
        share = wilson(int((part["verdict"] == REACHED).sum()), len(part))
        rows.append((bar, part["asks"].iloc[0], PATIENTS, len(part), share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=["bar", "asks", "patients", "draws", "value", "low", "high"])


def _drawn(number: int, pairs: pd.DataFrame, found: np.ndarray) -> pd.DataFrame:
    rng = np.random.default_rng(random_seed(POWER, number))
    few = rng.permutation(len(pairs))[:PATIENTS]
    return bars_of(pairs.iloc[few].reset_index(drop=True), found[few], rng)


def campaign() -> pd.DataFrame:
    """Simulate the patients and let the network look; return and write phantom_gain.csv, and write phantom_power.csv."""
    run = run_of(1)
    steps.ensure_needs(run, "slices")
    model = load_fold(run, "task1", "covid3d", deployed_fold(run))
    tables, grids = zip(*(followed(number) for number in FORMS), strict=True)
    scans, pairs = np.concatenate(grids), pd.concat(tables, ignore_index=True)
    flat = features(model, scans.reshape(-1, 1, *scans.shape[2:]), nominal_window(run.profile.windows))
    found = flat.reshape(len(scans), -1).astype(float)
    campaigns.write(POWER, power(pairs, found), MADE_BY)
    return campaigns.write(NAME, foretold(pairs, found), MADE_BY)


if __name__ == "__main__":
    print(campaign().drop(columns=list(campaigns.STAMP)).to_string(index=False))
