"""Shapes as signed distances (mm, positive inside) of physical coordinates, and how they are mixed into an image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Points:
    """Coordinates in the patient's frame, mm: on a slab z (Z, 1, 1), y and x (1, Y, X); on a list of points all (N,)."""

    z: Array
    y: Array
    x: Array


def soft(distance: Array, edge: float) -> Array:
    """Return the share of a voxel inside: 0 to 1 over `edge` mm around distance 0."""
    return np.clip(distance * np.float32(1 / edge) + np.float32(0.5), 0, 1).astype(np.float32, copy=False)


def blend(hu: Array, value: Any, weight: Array) -> None:
    """Mix a tissue into `hu` in place."""
    hu += weight * (value - hu)


def segment_distance(p: Points, start: Array, end: Array) -> Array:
    """Return the distance to the segment between two points (z, y, x), mm."""
    d = end - start
    length = max(float(d @ d), 1e-6)
    z, y, x = p.z - start[0], p.y - start[1], p.x - start[2]
    s = np.clip((z * d[0] + y * d[1] + x * d[2]) / length, 0, 1)
    return np.sqrt((z - s * d[0]) ** 2 + (y - s * d[1]) ** 2 + (x - s * d[2]) ** 2).astype(np.float32)


def waves(texture: Array, p: Points) -> Array:
    """Return a smooth random field with SD about 1: a sum of plane waves, rows kx, ky, kz in rad/mm and phase."""
    total = np.float32(0)
    for kx, ky, kz, phase in texture:
        total = total + np.cos(kx * p.x + ky * p.y + (kz * p.z + phase))
    return (total * np.sqrt(2 / len(texture))).astype(np.float32)
