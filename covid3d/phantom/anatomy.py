"""A thorax as functions of physical coordinates (mm, LPS: z towards the head, y towards the back, x towards the left).

z = 0 is the lowest point of the lungs at full breath. Every function takes broadcastable float32 arrays and returns distances
in mm (positive inside) or weights in [0, 1]; voxel size enters only as the width of an edge.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LOBES = ("rul", "rml", "rll", "lul", "lll")


@dataclass(frozen=True)
class Points:
    """Coordinates of a block of voxels in the patient's frame: z (Z, 1, 1), y and x (1, Y, X), mm."""

    z: Array
    y: Array
    x: Array


@dataclass(frozen=True)
class Thorax:
    """Sizes of one patient's chest, in mm and HU."""

    height: float
    half_width: float
    half_depth: float
    fat: float
    heart: float
    dome_right: float
    dome_left: float
    lean: float
    lung_hu: float
    gravity_hu: float
    rib_phase: float
    texture: Array  # (waves, 4): kx, ky, kz in rad/mm and phase
    segments: Array  # vessels, (n, 8): start zyx, end zyx, radius, generation

    def level(self, t: float) -> float:
        """Return z of a relative height t (0 base, 1 apex)."""
        return t * self.height


def draw_thorax(rng: np.random.Generator, sex: str, age: float) -> Thorax:
    """Draw a patient's chest; sex and age shift its size."""
    male = sex == "M"
    size = rng.normal(1.0, 0.04)
    waves = rng.normal(0, 1, (6, 3)) * np.array([2 * np.pi / 60] * 3)
    thorax = Thorax(
        height=float((262 if male else 240) * size + rng.normal(0, 8)),
        half_width=float((128 if male else 117) * size + rng.normal(0, 3)),
        half_depth=float((88 if male else 80) * size + rng.normal(0, 4)),
        fat=float(np.clip(rng.normal(14 if male else 18, 5), 5, 32)),
        heart=float(np.clip(rng.normal(1.0 + 0.002 * (age - 50), 0.07), 0.8, 1.25)),
        dome_right=float(rng.normal(66, 6)),
        dome_left=float(rng.normal(54, 6)),
        lean=float(rng.normal(0, 4)),
        lung_hu=float(rng.normal(-868, 20)),
        gravity_hu=float(np.clip(rng.normal(45, 12), 15, 80)),
        rib_phase=float(rng.uniform(0, 1)),
        texture=np.concatenate([waves, rng.uniform(0, 2 * np.pi, (6, 1))], axis=1).astype(np.float32),
        segments=np.zeros((0, 8), np.float32),
    )
    return replace(thorax, segments=grow_vessels(thorax, rng))


def cavity(thorax: Thorax, p: Points) -> tuple[Array, Array]:
    """Return the distance inside the chest wall (mm) and the relative height t."""
    t = p.z / thorax.height
    taper = np.sqrt(np.clip(1 - (np.maximum(t - 0.30, 0) / 0.735) ** 2.3, 0.0025, 1)) * (
        1 - 0.05 * np.clip(0.3 - t, 0, 1)
    )
    a = thorax.half_width * taper
    b = thorax.half_depth * np.sqrt(taper)
    y = p.y - 14 * t
    return ((1 - _norm(p.x / a, y / b, 2.3)) * np.minimum(a, b)).astype(np.float32), t


def body(thorax: Thorax, p: Points) -> Array:
    """Return the depth under the skin (mm)."""
    t = p.z / thorax.height
    shoulder = 1 / (1 + np.exp(-np.clip((t - 0.86) / 0.05, -30, 30)))
    a = thorax.half_width + 24 + thorax.fat + 34 * shoulder
    b = thorax.half_depth + 20 + thorax.fat
    return ((1 - _norm(p.x / a, (p.y - 5) / b, 2.4)) * b).astype(np.float32)


def spine_centre(thorax: Thorax, t: Array) -> Array:
    """Return y of the vertebral bodies' centre at relative height t."""
    return thorax.half_depth - 13 - 6 * np.cos(np.pi * (t - 0.5)) + 12 * t


def lungs(thorax: Thorax, p: Points, inside: Array, t: Array) -> Array:
    """Return the distance inside the lungs (mm): the cavity less diaphragm, mediastinum, heart and spine."""
    side = np.where(p.x < 0, thorax.dome_right, thorax.dome_left)
    xc = np.where(p.x < 0, -0.50, 0.50) * thorax.half_width
    dome = side * (1 - ((p.x - xc) / (0.66 * thorax.half_width)) ** 2 - ((p.y + 12) / (1.12 * thorax.half_depth)) ** 2)
    above = (p.z - np.maximum(dome, 0)) * 0.8
    spine = np.sqrt(p.x**2 + (p.y - spine_centre(thorax, t)) ** 2) - 27
    front = 1 / (1 + np.exp(-np.clip((p.y + 0.42 * thorax.half_depth) / 9, -30, 30)))
    half = 7 + front * (15 + 9 * np.exp(-(((t - 0.55) / 0.16) ** 2)) - 5 * np.exp(-(((p.y - 42) / 18) ** 2)))
    centre = 4 + thorax.lean
    distance = np.minimum(inside - 2, above)
    distance = np.minimum(distance, np.abs(p.x - centre) - half)
    distance = np.minimum(distance, spine)
    return np.minimum(distance, -heart(thorax, p)).astype(np.float32)


def heart(thorax: Thorax, p: Points) -> Array:
    """Return the distance inside the heart (mm)."""
    s = thorax.heart
    u = (p.x - 24 - thorax.lean) / (60 * s)
    v = (p.y + 0.36 * thorax.half_depth) / (46 * s)
    w = (p.z - 0.30 * thorax.height - 0.18 * (24 - p.x)) / (58 * s)
    return (1 - np.sqrt(u * u + v * v + w * w)) * 48 * s


def lobe(thorax: Thorax, p: Points) -> tuple[Array, Array]:
    """Return the lobe's number in `LOBES` and the distance to the nearest fissure (mm)."""
    oblique = p.z - (
        0.64 * thorax.height * (p.y + thorax.half_depth) / (1.9 * thorax.half_depth) + 0.03 * thorax.height
    )
    oblique = oblique * 0.75 + 3 * np.sin(p.x / 25)
    horizontal = p.z - 0.50 * thorax.height + 0.08 * p.y
    right = p.x < 0
    number = np.where(right, np.where(oblique < 0, 2, np.where(horizontal > 0, 0, 1)), np.where(oblique < 0, 4, 3))
    gap = np.where(right & (oblique > 0), np.minimum(np.abs(oblique), np.abs(horizontal)), np.abs(oblique))
    return number.astype(np.int8), gap.astype(np.float32)


def hilum(thorax: Thorax, side: int) -> Array:
    """Return z, y, x of the right (side -1) or left (+1) hilum."""
    return np.array([0.53 * thorax.height + 6 * (side > 0), 6.0, side * 32.0 + 4], np.float32)


def grow_vessels(thorax: Thorax, rng: np.random.Generator, targets: int = 105) -> Array:
    """Grow one tree of vessels in each lung by joining random points to the nearest grown point, the hilum first.

    Returns (n, 8): start z y x, end z y x, radius (mm), index of the parent segment (-1 at the hilum).
    """
    segments: list[Array] = []
    for side in (-1, 1):
        points = _points_in_lung(thorax, rng, side, targets)
        root = hilum(thorax, side)
        points = points[np.argsort(np.linalg.norm(points - root, axis=1))]
        nodes, parents, path = [root], [-1], [0.0]
        for point in points:
            gaps = np.linalg.norm(np.array(nodes) - point, axis=1)
            nearest = int(np.argmin(gaps + 0.35 * np.array(path)))
            nodes.append(point)
            parents.append(nearest)
            path.append(path[nearest] + float(gaps[nearest]))
        load = np.ones(len(nodes))
        for i in range(len(nodes) - 1, 0, -1):
            load[parents[i]] += load[i]
        offset = len(segments)
        for i in range(1, len(nodes)):
            radius = min(6.5, 0.85 * load[i] ** 0.45)
            parent = parents[i] - 1 + offset if parents[i] > 0 else -1
            segments.append(np.array([*nodes[parents[i]], *nodes[i], radius, parent], np.float32))
    return np.array(segments, np.float32)


def _points_in_lung(thorax: Thorax, rng: np.random.Generator, side: int, count: int) -> Array:
    """Draw points inside one lung, at least 7 mm from its surface, (count, 3)."""
    n = count * 14
    z = rng.uniform(0, thorax.height, n).astype(np.float32)
    y = rng.uniform(-1, 1, n).astype(np.float32) * thorax.half_depth
    x = side * rng.uniform(0.05, 1, n).astype(np.float32) * thorax.half_width
    points = Points(z, y, x)
    inside, t = cavity(thorax, points)
    kept = np.flatnonzero(lungs(thorax, points, inside, t) > 7)[:count]
    return np.stack([z, y, x], axis=1)[kept]


def tissue(thorax: Thorax, p: Points, inside: Array, t: Array, depth: Array, edge: float) -> Array:
    """Return the HU of everything but lungs, vessels and lesions, float32, with edges `edge` mm wide."""
    hu = np.full(np.broadcast_shapes(p.z.shape, p.x.shape), -1000, np.float32)
    _blend(hu, -100.0, soft(depth, edge))
    wall = np.minimum(depth - thorax.fat, inside + 24 + 0 * depth)
    _blend(hu, 48.0, soft(wall, edge))
    _skeleton(hu, thorax, p, inside, t, edge)
    within = soft(inside, edge)
    _blend(hu, -85.0, within * (t > 0.02))
    _organs(hu, thorax, p, t, within, edge)
    _spine(hu, thorax, p, t, edge)
    return hu


def _skeleton(hu: Array, thorax: Thorax, p: Points, inside: Array, t: Array, edge: float) -> None:
    """Add ribs, sternum and shoulder blades."""
    turn = (p.z + 0.55 * p.y + 0.0009 * p.y**2) / 27 + thorax.rib_phase
    ring = 6 - np.abs(inside + 7)
    band = 7.5 - np.abs(turn - np.round(turn)) * 27
    rib = soft(np.minimum(ring, band), edge) * (t < 1.0) * (np.abs(p.x) > 18)
    _blend(hu, 330.0, rib)
    sternum = np.minimum(5 - np.abs(p.y + thorax.half_depth * 0.98 + 2 - 14 * t), 17 - np.abs(p.x))
    _blend(hu, 230.0, soft(sternum, edge) * ((t > 0.30) & (t < 0.93)))
    blade = np.minimum(3.5 - np.abs(inside + 20 + 0 * p.x), 26 - np.abs(np.abs(p.x) - 0.72 * thorax.half_width))
    _blend(hu, 300.0, soft(blade, edge) * ((p.y > 35) & (t > 0.50) & (t < 1.02)))


def _organs(hu: Array, thorax: Thorax, p: Points, t: Array, within: Array, edge: float) -> None:
    """Add diaphragm and abdomen, heart, aorta, caval vein, oesophagus."""
    lean = thorax.lean
    side = np.where(p.x < 0, thorax.dome_right, thorax.dome_left)
    xc = np.where(p.x < 0, -0.50, 0.50) * thorax.half_width
    dome = side * (1 - ((p.x - xc) / (0.66 * thorax.half_width)) ** 2 - ((p.y + 12) / (1.12 * thorax.half_depth)) ** 2)
    belly = soft(np.maximum(dome, 0) - p.z, edge) * within
    _blend(hu, -95.0, belly)
    liver = soft(np.minimum(dome - 4 - p.z, 38 - p.x - 0.3 * p.y), edge) * within
    _blend(hu, 58.0, liver)
    spleen = soft(20 - _ball(p, (4, 34, 0.62 * thorax.half_width), (1.2, 1.0, 0.8)) * 1.0 + 14, edge) * belly
    _blend(hu, 50.0, spleen)
    stomach = _ball(p, (12, -12, 0.42 * thorax.half_width), (1.0, 1.1, 1.1))
    _blend(hu, 40.0, soft(34 - stomach, edge) * belly)
    _blend(hu, -940.0, soft(np.minimum(30 - stomach, -14 - p.y), edge) * belly)
    _blend(hu, 42.0, soft(heart(thorax, p), edge) * within * (1 - belly))
    ys = spine_centre(thorax, t)
    _blend(hu, 46.0, soft(11.5 - np.hypot(p.x - 19, p.y - ys + 20), edge) * (t < 0.72))
    _blend(hu, 46.0, soft(15 - np.hypot(p.x + 12 - lean, p.y + 22), edge) * ((t > 0.45) & (t < 0.72)))
    arch = np.minimum(11 - np.abs(p.z - thorax.level(0.72)), 12 - np.abs(p.x - 4 - (p.y + 20) * 0.28))
    _blend(hu, 46.0, soft(np.minimum(arch, 44 - np.abs(p.y - 8)), edge))
    _blend(hu, 44.0, soft(13 - _segment(p, (0.55, 0, -24), (0.57, -16, 22), thorax), edge))
    _blend(hu, 42.0, soft(9.5 - np.hypot(p.x + 26, p.y + 10), edge) * ((t > 0.42) & (t < 0.9)))
    for x, y in ((-14, -14), (2, -16), (20, -4), (-24, -4)):
        _blend(hu, 45.0, soft(6.5 - np.hypot(p.x - x, p.y - y), edge) * (t > 0.74))
    _blend(hu, 40.0, soft(6 - np.hypot(p.x - 6, p.y - ys + 27), edge))


def _spine(hu: Array, thorax: Thorax, p: Points, t: Array, edge: float) -> None:
    """Add vertebrae, discs, canal and processes."""
    ys = spine_centre(thorax, t)
    radius = np.hypot(p.x * 0.88, p.y - ys)
    turn = p.z / 25 + thorax.rib_phase
    disc = np.abs(turn - np.round(turn)) * 25 < 3.0
    _blend(hu, 50.0, soft(26 - np.hypot(p.x * 0.7, p.y - ys - 20), edge))
    _blend(hu, np.where(disc, 85.0, 190.0).astype(np.float32), soft(17.5 - radius, edge))
    _blend(hu, 420.0, soft(1.6 - np.abs(radius - 16.5), edge) * ~disc)
    arch = np.hypot(p.x, p.y - ys - 24)
    _blend(hu, 380.0, soft(3.2 - np.abs(arch - 11.5), edge) * ~disc)
    process = np.minimum(3.5 - np.abs(p.x), 16 - np.abs(p.y - ys - 50 + 10))
    _blend(hu, 330.0, soft(process, edge) * ~disc)
    wings = np.minimum(4 - np.abs(p.y - ys - 22 - 0.25 * np.abs(p.x)), 34 - np.abs(p.x))
    _blend(hu, 330.0, soft(np.minimum(wings, arch - 11), edge) * ~disc)
    _blend(hu, 25.0, soft(9 - arch, edge))


def airways(thorax: Thorax, p: Points) -> Array:
    """Return the distance inside the air of trachea and main bronchi (mm)."""
    trachea = np.where(p.z > thorax.level(0.60), 8.5 - np.hypot(p.x - 1, (p.y - 9) * 1.05), -50)
    right = 6.2 - _segment(p, (0.62, 9, 0), (0.535, 8, -34), thorax)
    left = 5.6 - _segment(p, (0.62, 9, 2), (0.53, 8, 40), thorax)
    return np.maximum(trachea, np.maximum(right, left)).astype(np.float32)


def table(thorax: Thorax, p: Points) -> Array:
    """Return the distance inside the shell of the table (mm), a curved plate under the back."""
    top = thorax.half_depth + 20 + thorax.fat + 7 - 0.0009 * p.x**2
    return np.minimum(3.0 - np.abs(p.y - top - 3), 200 - np.abs(p.x))


def parenchyma(thorax: Thorax, p: Points, breath_hu: float) -> Array:
    """Return the HU of healthy lung: darker in front, denser in the back, with a slow texture."""
    hu = thorax.lung_hu + breath_hu + thorax.gravity_hu * (p.y / thorax.half_depth) - 12 * (p.z / thorax.height - 0.5)
    return (hu + 7 * waves(thorax.texture, p)).astype(np.float32)


def waves(texture: Array, p: Points) -> Array:
    """Return a smooth random field with SD about 1 from a sum of plane waves."""
    total = np.float32(0)
    for kx, ky, kz, phase in texture:
        total = total + np.cos(kx * p.x + ky * p.y + (kz * p.z + phase))
    return (total * np.sqrt(2 / len(texture))).astype(np.float32)


def soft(distance: Array, edge: float) -> Array:
    """Return the share of a voxel inside: 0 to 1 over `edge` mm around distance 0."""
    return np.clip(distance * np.float32(1 / edge) + np.float32(0.5), 0, 1).astype(np.float32, copy=False)


def _blend(hu: Array, value: Any, weight: Array) -> None:
    """Mix a tissue into `hu` in place."""
    hu += weight * (value - hu)


def _norm(u: Array, v: Array, power: float) -> Array:
    return (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)


def _ball(p: Points, centre: tuple[float, float, float], scale: tuple[float, float, float]) -> Array:
    """Return the scaled distance to a centre (z, y, x)."""
    return np.sqrt(
        ((p.z - centre[0]) / scale[0]) ** 2 + ((p.y - centre[1]) / scale[1]) ** 2 + ((p.x - centre[2]) / scale[2]) ** 2
    )


def _segment(p: Points, start: tuple[float, float, float], end: tuple[float, float, float], thorax: Thorax) -> Array:
    """Return the distance to a segment whose z is given as a relative height."""
    a = np.array([thorax.level(start[0]), *start[1:]], np.float32)
    b = np.array([thorax.level(end[0]), *end[1:]], np.float32)
    return segment_distance(p, a, b)


def segment_distance(p: Points, start: Array, end: Array) -> Array:
    """Return the distance to the segment between two points (z, y, x), mm."""
    d = end - start
    length = max(float(d @ d), 1e-6)
    z, y, x = p.z - start[0], p.y - start[1], p.x - start[2]
    s = np.clip((z * d[0] + y * d[1] + x * d[2]) / length, 0, 1)
    return np.sqrt((z - s * d[0]) ** 2 + (y - s * d[1]) ** 2 + (x - s * d[2]) ** 2).astype(np.float32)
