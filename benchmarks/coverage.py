"""How often the intervals of an AUC hold the true value, at the paper's numbers of patients.

`python -m benchmarks.coverage` draws 10,000 samples of two normals of equal variance a cell (2,000 for the bootstrap) and writes
results/coverage.csv, which chapter 4 shows.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import campaigns
from covid3d.stats.auc import auc, bootstrap_mean_auc, delong_interval, logit_delong_interval
from covid3d.stats.estimate import Estimate

AUCS = (0.5, 0.65, 0.78, 0.84, 0.92, 0.96)
SIZES = ((20, 20), (12, 9))
MADE_BY = ("covid3d.stats.auc", __file__)
Method = Callable[[np.ndarray, np.ndarray], Estimate]


def bootstrap(labels: np.ndarray, scores: np.ndarray) -> Estimate:
    """Return the percentile interval of 500 resamples, few enough to be simulated often."""
    return bootstrap_mean_auc(pd.DataFrame({"fold": 0, "label": labels, "logit": scores}), 500, seed=0)


METHODS: dict[str, Method] = {
    "recommended": auc,
    "logit DeLong": logit_delong_interval,
    "DeLong": delong_interval,
    "bootstrap": bootstrap,
}
REPLICATES = {"recommended": 10_000, "logit DeLong": 10_000, "DeLong": 10_000, "bootstrap": 2000}


def held(
    interval: Method, *, true_auc: float, positives: int, negatives: int, replicates: int = 2000, seed: int = 0
) -> int:
    """Return how many intervals hold the true AUC, over samples of two normals of equal variance."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [positives, negatives])
    shift = labels * math.sqrt(2) * float(stats.norm.ppf(true_auc))
    drawn = (interval(labels, shift + generator.standard_normal(len(labels))) for _ in range(replicates))
    return sum(found.low <= true_auc <= found.high for found in drawn)


def cells(name: str, replicates: int, seed: int = 0) -> pd.DataFrame:
    """Return how often a method holds: method, true_auc, positives, negatives, replicates, held; one row a cell."""
    rows = []
    for positives, negatives in SIZES:
        for true in AUCS:
            cell = {"true_auc": true, "positives": positives, "negatives": negatives}
            count = held(METHODS[name], **cell, replicates=replicates, seed=seed)
            rows.append({"method": name, **cell, "replicates": replicates, "held": count})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    table = campaigns.extend("coverage", "method", METHODS, lambda name: cells(name, REPLICATES[name]), MADE_BY)
    print(table.to_string())
