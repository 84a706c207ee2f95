"""How often the intervals of an AUC hold the true value, by simulation at the paper's sample sizes."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from covid3d.stats.auc import auc, bootstrap_mean_auc, delong_interval, logit_delong_interval
from covid3d.stats.estimate import Estimate

AUCS = (0.5, 0.65, 0.78, 0.84, 0.92, 0.96)
SIZES = ((20, 20), (12, 9))
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


def coverage(
    interval: Method, *, true_auc: float, positives: int, negatives: int, replicates: int = 2000, seed: int = 0
) -> float:
    """Return the share of intervals that hold the true AUC, over samples of two normals of equal variance."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [positives, negatives])
    shift = labels * math.sqrt(2) * float(stats.norm.ppf(true_auc))
    drawn = (interval(labels, shift + generator.standard_normal(len(labels))) for _ in range(replicates))
    return sum(found.low <= true_auc <= found.high for found in drawn) / replicates


def coverage_table(replicates: int = 2000, seed: int = 0, methods: Mapping[str, Method] = METHODS) -> pd.DataFrame:
    """Return the coverage of each method: method, positives, negatives, true_auc, replicates, coverage."""
    rows = []
    for name, method in methods.items():
        for positives, negatives in SIZES:
            for true in AUCS:
                share = coverage(
                    method, true_auc=true, positives=positives, negatives=negatives, replicates=replicates, seed=seed
                )
                rows.append((name, positives, negatives, true, replicates, share))
    columns = ["method", "positives", "negatives", "true_auc", "replicates", "coverage"]
    return pd.DataFrame(rows, columns=columns)
