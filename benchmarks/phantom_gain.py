"""Does a second scan tell the network more of the stay? The followed patients of seven order forms, where a run has one.

The network is the deployed one of the run `standard`, which has seen none of these patients; for one scan and for two a head is
fitted to its features as in chapter 7, ten folds by patient. The p of the gain comes from permuted outcomes, under which
neither scan tells anything: where one scan does, it is approximate, and the interval of the gain stands beside it.

`python -m benchmarks.phantom_gain` (after `make report`; about 5 min on 2 cores) writes benchmarks/results/phantom_gain.csv.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import campaigns
from benchmarks.null_world import FOLDS, order_form
from benchmarks.phantom_evidence import days_of, seen
from benchmarks.phantom_truth import separations
from benchmarks.pretrain import render_grid
from benchmarks.seeds import run_of
from covid3d.chapters.fine_tuning import head_inputs, pairs_of
from covid3d.chapters.results import deployed_fold
from covid3d.cohort.folds import make_folds
from covid3d.ct.windows import nominal_window
from covid3d.network.scoring import features
from covid3d.network.start import COMPONENTS
from covid3d.network.training import load_fold
from covid3d.phantom.build import pattern_labels
from covid3d.run import steps
from covid3d.run.files import cpu_count, parallel_map, random_seed
from covid3d.run.profile import load_profile
from covid3d.stats.survival import permuted_logits, permuted_orders, principal_components

NAME, FORMS, PERMUTATIONS, DRAWS = "phantom_gain", range(31, 38), 999, 2000
MADE_BY = ("covid3d.chapters.fine_tuning", "covid3d.phantom.build", "covid3d.stats.risk", __file__, *campaigns.STARTS)
VARIANTS = {"one scan": "single", "two scans": "pair"}


def followed(number: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the index pairs of A's patients in one order form, and their grids, prior and index: int16 (N, 2, z, y, x)."""
    profile = load_profile("standard")
    form, courses = order_form(number)
    pairs = pairs_of(form, make_folds(form, FOLDS, number), profile.prognosis.high_risk_days)
    pairs = pairs[(pairs["scan_index"] == 1) & (pairs["test"] == 1) & pairs["label"].notna()]
    form["pattern"] = form["patient_id"].map(pattern_labels(form, "effect", number))
    rows = form.set_index("scan_id", drop=False).loc[pairs[["prior_scan_id", "scan_id"]].to_numpy().ravel()]
    work = partial(_grid, seed=number, courses=courses, days=days_of(form))
    grids = list(parallel_map(work, rows.to_dict("records"), workers=cpu_count(), description=f"order form {number}"))
    own = {name: f"{number}-" + pairs[name] for name in ("patient_id", "scan_id")}
    return pairs.assign(**own), np.stack(grids).reshape(len(pairs), 2, *grids[0].shape)


def _grid(scan: dict[str, Any], seed: int, courses: int, days: dict[str, list[int]]) -> np.ndarray:
    rng = np.random.default_rng(random_seed(seed, scan["scan_id"], "scanner"))
    patient, look = seen(scan, seed, courses, days)
    return render_grid(patient, look, str(scan["hospital"]), load_profile("standard"), rng)[0]


def foretold(pairs: pd.DataFrame, found: np.ndarray) -> pd.DataFrame:
    """Return the rows of `phantom_truth.separations` for one scan and two, and the gain.

    found: the network's features of prior and index scan, (N, 2C).
    """
    rng = np.random.default_rng(random_seed(NAME, "folds"))
    held, orders = rng.permutation(np.arange(len(pairs)) % FOLDS), permuted_orders(len(pairs), PERMUTATIONS, rng)
    pairs, logits = pairs.assign(fold=held), {}
    for words, variant in VARIANTS.items():
        values = head_inputs(variant, found if variant == "pair" else found[:, found.shape[1] // 2 :])
        inputs = [principal_components(values, held != fold, COMPONENTS) for fold in range(FOLDS)]
        logits[words] = permuted_logits(inputs, held, pairs["label"].to_numpy(float), orders)
    table = separations(pairs, logits, orders, [("two scans", "one scan")], DRAWS, NAME)
    return table.assign(predictor="network, " + table["predictor"])


def campaign() -> pd.DataFrame:
    """Simulate the patients and let the network look; return and write phantom_gain.csv."""
    run = run_of(1)
    steps.ensure_needs(run, "slices")
    model = load_fold(run, "task1", "covid3d", deployed_fold(run))
    tables, grids = zip(*(followed(number) for number in FORMS), strict=True)
    scans = np.concatenate(grids)
    flat = features(model, scans.reshape(-1, 1, *scans.shape[2:]), nominal_window(run.profile.windows))
    table = foretold(pd.concat(tables, ignore_index=True), flat.reshape(len(scans), -1).astype(float))
    return campaigns.write(NAME, table, MADE_BY)


if __name__ == "__main__":
    print(campaign().drop(columns=list(campaigns.STAMP)).to_string(index=False))
