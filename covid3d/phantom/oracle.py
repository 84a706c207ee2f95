"""A frozen reading rule on true masks: how COVID-like are the site, the laterality and the shape of the lesions.

The coefficients are those that `python -m benchmarks.fit_oracle` fits to simulated patients outside every cohort.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
FEATURES = ("balance", "pleural_depth", "posterior", "height", "lateral", "surface", "amount")
AMOUNTS = np.log([0.01, 0.025, 0.06, 0.12, 0.3])  # of the lung that is ill, at which the next three are known
CENTRE = np.array(
    [
        [0.675, 1.068, 0.546, 0.503, 0.531, 2.498],
        [0.649, 1.108, 0.542, 0.485, 0.552, 2.653],
        [0.654, 1.13, 0.559, 0.469, 0.559, 2.719],
        [0.607, 1.144, 0.577, 0.461, 0.557, 2.616],
        [0.642, 1.12, 0.573, 0.471, 0.554, 2.49],
    ]
)
SCALE = np.array(
    [
        [0.206, 0.214, 0.105, 0.086, 0.08, 0.182],
        [0.244, 0.167, 0.082, 0.077, 0.077, 0.19],
        [0.228, 0.13, 0.083, 0.078, 0.069, 0.178],
        [0.233, 0.107, 0.088, 0.095, 0.063, 0.194],
        [0.21, 0.066, 0.08, 0.093, 0.045, 0.211],
    ]
)
TRUST = np.array([0.0, 0.785, 3.503, 6.221, 6.447])
WEIGHTS = np.array([-0.064, -0.02, 0.366, -0.313, 0.147, 0.171])
BIAS = -0.073
LIMIT = 3.0  # SDs: no single feature decides alone


class Rule(NamedTuple):
    """What is usual (centre, scale) and how far it is believed (trust) at each of AMOUNTS; weights of features, and bias."""

    centre: Array
    scale: Array
    trust: Array
    weights: Array
    bias: float


FROZEN = Rule(CENTRE, SCALE, TRUST, WEIGHTS, BIAS)


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
    """Return the frozen rule's logit of COVID+ from the features of one scan."""
    return float(logits(features))


def logits(features: Array, rule: Rule = FROZEN) -> Array:
    """Return a rule's logits of COVID+ from features (…, F).

    A feature counts by its distance from what is usual for that amount of disease, and all of them by how much there is:
    few lesions say nothing of the class.
    """
    found = scaled(features, rule.centre, rule.scale)
    return np.asarray(usual(features[..., -1], rule.trust) * (rule.bias + found @ rule.weights))


def scaled(features: Array, centre: Array, scale: Array) -> Array:
    """Return features but the amount (…, F - 1) in SDs from what is usual for the amount, at most LIMIT."""
    amount = features[..., -1]
    return np.clip((features[..., :-1] - usual(amount, centre)) / usual(amount, scale), -LIMIT, LIMIT)


def usual(amount: Array | float, table: Array) -> Array:
    """Return a table's rows, one for each of AMOUNTS, interpolated at one or more log amounts."""
    columns = np.reshape(table, (len(AMOUNTS), -1)).T
    found = np.stack([np.interp(amount, AMOUNTS, column) for column in columns], axis=-1)
    return found.reshape((*np.shape(amount), *np.shape(table)[1:]))


def probability(logit: float) -> float:
    """Return the logistic function of a logit."""
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))
