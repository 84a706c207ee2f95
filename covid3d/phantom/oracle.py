"""A frozen reading rule on true masks: how COVID-like are the site, the laterality and the shape of the lesions.

The coefficients are those that `python -m benchmarks.fit_oracle` fits to simulated patients outside every cohort.
"""

from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
FEATURES = ("balance", "pleural_depth", "posterior", "height", "lateral", "surface", "amount")
AMOUNTS = (-4.6, -3.2, -2.2, -1.2)  # log share of the lung that is ill, at which centre and scale are known
CENTRE = np.zeros((4, 6))
SCALE = np.ones((4, 6))
WEIGHTS = np.ones(6)
BIAS = 0.0
HALF, STEEP = -3.2, 3.0  # amount at which half of the evidence counts, and how fast it comes to count
LIMIT = 3.0  # SDs: no single feature decides alone


def evidence(lesion: Array, lung: Array, spacing_mm: tuple[float, float, float]) -> Array:
    """Return the features of a scan from soft masks (z, y, x) in [0, 1], in the order of `FEATURES`.

    Positions are relative to the lungs' own extent, distances to the lungs' own depth, so that the grid hardly matters.
    """
    inside = lung > 0.5
    weight = np.where(inside, lesion, 0).astype(np.float64)
    total = float(weight.sum())
    if total < 1e-6 or not inside.any():
        return np.array([*CENTRE[0], -9.0])
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
    """Return the frozen rule's logit of COVID+.

    A feature counts by its distance from what is usual for that amount of disease, and all of them by how much there is:
    few lesions say nothing of the class.
    """
    amount = features[-1]
    centre, scale = usual(amount, CENTRE), usual(amount, SCALE)
    scaled = np.clip((features[:-1] - centre) / scale, -LIMIT, LIMIT)
    return float(trust(amount, HALF, STEEP) * (BIAS + scaled @ WEIGHTS))


def usual(amount: Array | float, table: Array) -> Array:
    """Return a table's rows (AMOUNTS, features) interpolated at one or more amounts."""
    return np.stack([np.interp(amount, AMOUNTS, column) for column in np.asarray(table).T], axis=-1)


def trust(amount: Array | float, half: float, steep: float) -> Array:
    """Return how far, 0 to 1, the places of this much disease are to be believed."""
    return np.asarray(1 / (1 + np.exp(-steep * (np.asarray(amount) - half))))


def probability(logit: float) -> float:
    """Return the logistic function of a logit."""
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))
