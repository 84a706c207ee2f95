"""Can occlusion by boxes tell a network that reads the disease? The perfect reader searched in the same boxes as the network.

Chapter 4 asks that in COVID- scans the evidence for COVID-19 lies in lesions no more than in the rest of the lung. Here the
perfect reader, who sees nothing but the true lesions, is asked the same: what does its logit lose without the lesions in a
box? And both are asked where the evidence against COVID-19 lies.

`python -m benchmarks.phantom_boxes [seed …]` (after `make extended`; about 20 s a seed) writes
benchmarks/results/phantom_boxes.csv, of the external scans that each run has searched by boxes.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import campaigns
from benchmarks.seeds import SEEDS, run_of
from covid3d.chapters import evidence, explanation
from covid3d.chapters.truth import lesion_mask, lung_mask
from covid3d.cohort.intake import grid_spacing, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.lungs import whole_lung
from covid3d.network import occlusion
from covid3d.phantom import oracle
from covid3d.run import steps
from covid3d.run.files import random_seed
from covid3d.run.profile import Run

NAME, DRAWS = "phantom_boxes", 2000
MADE_BY = ("covid3d.chapters.evidence", "covid3d.phantom.oracle", __file__, *campaigns.STARTS)
READERS = ("network", "perfect reader")
SIDES = {"for COVID-19": 1, "against COVID-19": -1}


def read_perfectly(
    lesion: np.ndarray, lung: np.ndarray, searched: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return what the perfect reader's logit loses without the lesions in each of the boxes of the searched lung, a voxel.

    lesion, lung: shares in [0, 1]; searched: bool; all (z, y, x). As `occlusion.by_boxes` returns the network's.
    """
    parts = occlusion.boxes(searched)
    whole = oracle.oracle_logit(oracle.evidence(lesion, lung, spacing_mm))
    falls = np.zeros(len(parts))
    for number, part in enumerate(parts):
        if lesion.flat[part].any():
            left = lesion.copy()
            left.flat[part] = 0
            falls[number] = whole - oracle.oracle_logit(oracle.evidence(left, lung, spacing_mm))
    return occlusion.spread(falls, parts, lesion.shape)


def masses(run: Run) -> Iterator[dict[str, Any]]:
    """Yield a row for each external scan that was searched by boxes, reader and side: the columns of `explanation.mass`."""
    table = evidence.read_summary(run)
    table = table[(table["method"] == evidence.BOXES) & (table["role"] == "external")]
    store, facts = Store.of(run), read_intake(run).set_index("scan_id")
    for scan, label in zip(table["scan_id"], table["label"], strict=True):
        spacing = grid_spacing(facts.loc[scan], run.profile.model.grid)
        lesion, lung = lesion_mask(run, scan), lung_mask(run, scan)
        if lesion is None or lung is None or not lesion.any():
            continue
        searched = whole_lung(np.asarray(store.get(scan)), spacing)
        maps = evidence.read_maps(run, scan)["boxes"], read_perfectly(lesion, lung, searched, spacing)
        for reader, values in zip(READERS, maps, strict=True):
            for side, sign in SIDES.items():
                known = explanation.mass(sign * values, lesion, lung)
                yield {"reader": reader, "class": evidence.CLASSES[label], "evidence": side, **known}


def measure(seed: int) -> pd.DataFrame:
    """Return one row a reader, class and side: scans, and the lesions' share of that evidence over their share of the lung."""
    run = run_of(seed)
    steps.ensure_needs(run, "04_external_tests")
    table, rows = pd.DataFrame(masses(run)), []
    for names, part in table.groupby(["reader", "class", "evidence"]):
        pairs = part.loc[part["lesion_share"].notna(), list(explanation.SHARES)].to_numpy(float)
        found = explanation.ratio_of_means(pairs, DRAWS, np.random.default_rng(random_seed(NAME, seed, *names)))
        rows.append((*names, len(pairs), found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["reader", "class", "evidence", "scans", "value", "low", "high"])


if __name__ == "__main__":
    seeds = tuple(int(seed) for seed in sys.argv[1:]) or SEEDS
    print(campaigns.extend(NAME, "seed", seeds, measure, MADE_BY).drop(columns=list(campaigns.STAMP)).to_string())
