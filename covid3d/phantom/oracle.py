"""A frozen reading rule on true masks: how COVID-like are the site, the laterality and the shape of the lesions.

The coefficients are those that `python -m benchmarks.fit_oracle` fits to simulated patients outside every cohort.
"""

from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
FEATURES = ("balance", "pleural_depth", "posterior", "height", "lateral", "surface", "amount")
CENTRE = (0.337, 1.202, 0.608, 0.429, 0.580, 2.179, -2.984)
SCALE = (0.363, 0.162, 0.160, 0.147, 0.090, 0.280, 1.049)
WEIGHTS = (0.936, -0.821, 2.821, 0.216, 1.309, 0.004, -0.109)
BIAS = -0.671
LIMIT = 3.0  # SDs: no single feature decides alone


def evidence(lesion: Array, lung: Array, spacing_mm: tuple[float, float, float]) -> Array:
    """Return the features of a scan from soft masks (z, y, x) in [0, 1], in the order of `FEATURES`.

    Positions are relative to the lungs' own extent, distances to the lungs' own depth, so that the grid hardly matters.
    """
    inside = lung > 0.5
    weight = np.where(inside, lesion, 0).astype(np.float64)
    total = float(weight.sum())
    if total < 1e-6 or not inside.any():
        return np.array([*CENTRE[:-1], -9.0])
    where = np.nonzero(inside)
    low = [int(axis.min()) for axis in where]
    high = [int(axis.max()) + 1 for axis in where]
    crop = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    w, body = weight[crop], inside[crop]
    z, y, x = (np.linspace(0, 1, n) for n in w.shape)
    lateral = np.abs(x - 0.5) * 2
    right = float(w[:, :, x < 0.5].sum())
    depth = ndimage.distance_transform_edt(np.pad(body, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    mean_depth = float((depth * w).sum() / total) / float(depth[body].mean())
    surface = sum(float(np.abs(np.diff(w, axis=axis)).sum()) / spacing_mm[axis] for axis in range(3)) * float(
        np.prod(spacing_mm)
    )
    volume = total * float(np.prod(spacing_mm))
    return np.array(
        [
            2 * min(right, total - right) / total,
            mean_depth,
            float((w.sum((0, 2)) * y).sum() / total),
            float((w.sum((1, 2)) * z).sum() / total),
            float((w.sum((0, 1)) * lateral).sum() / total),
            surface / (6 * volume ** (2 / 3)),
            float(np.log(total / float(inside.sum()) + 1e-4)),
        ]
    )


def oracle_logit(features: Array) -> float:
    """Return the frozen rule's logit of COVID+."""
    scaled = np.clip((features - np.array(CENTRE)) / np.array(SCALE), -LIMIT, LIMIT)
    return float(BIAS + scaled @ np.array(WEIGHTS))


def probability(logit: float) -> float:
    """Return the logistic function of a logit."""
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))
