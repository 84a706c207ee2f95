"""What lies inside the ribs besides the lungs: heart, vessels, gullet, spine, and what shows below the diaphragm."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from covid3d.phantom.body_wall import SPINE, at, kyphosis, vertebra
from covid3d.phantom.shapes import Array, Points, Triple, blend, soft
from covid3d.phantom.thorax import Part, Thorax

BLOOD_HU, HEART_HU, SPLEEN_HU, GUT_HU = 41.0, 45.0, 50.0, 35.0
MARGIN_MM = 30.0  # how far around a structure its distance is worked out
ROUNDING_MM = 5.0  # of the grooves between structures, filled with fat


def near(p: Points, low: Array, high: Array) -> tuple[Any, Points] | None:
    """Return the index and the points of the part of a slab or list that meets a box, None where they do not meet."""
    if p.z.ndim == 1:
        hit = (
            (p.z >= low[0]) & (p.z <= high[0]) & (p.y >= low[1]) & (p.y <= high[1]) & (p.x >= low[2]) & (p.x <= high[2])
        )
        where = np.flatnonzero(hit)
        return (where, Points(p.z[where], p.y[where], p.x[where])) if len(where) else None
    index = [_span(p.z[:, 0, 0], p.z[:, 0, 0], low[0], high[0])]
    y, x = np.broadcast_arrays(p.y[0], p.x[0])
    for rows in (True, False):
        ends = [(a[:, 0], a[:, -1]) if rows else (a[0], a[-1]) for a in (y, x)]
        spans = [
            _span(np.minimum(*e), np.maximum(*e), lo, hi) for e, lo, hi in zip(ends, low[1:], high[1:], strict=True)
        ]
        index.append(slice(max(s.start for s in spans), min(s.stop for s in spans)))
    if any(s.stop <= s.start for s in index):
        return None
    k, j, i = index
    jy, iy = (j if p.y.shape[1] > 1 else slice(None)), (i if p.y.shape[2] > 1 else slice(None))
    jx, ix = (j if p.x.shape[1] > 1 else slice(None)), (i if p.x.shape[2] > 1 else slice(None))
    return (k, j, i), Points(p.z[k], p.y[:, jy, iy], p.x[:, jx, ix])


def _span(lowest: Array, highest: Array, low: float, high: float) -> slice:
    """Return the range of rows whose values from `lowest` to `highest` meet [low, high]."""
    hit = np.flatnonzero((highest >= low) & (lowest <= high))
    return slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0)


def spine_y(thorax: Thorax, z: Array) -> Array:
    """Return y of the centre of the vertebral bodies at a height, mm."""
    t = np.asarray(z) / thorax.height
    return thorax.half_depth * at(SPINE, t) + kyphosis(thorax, t)


def spine_x(thorax: Thorax, z: Array) -> Array:
    """Return x of the centre of the vertebral bodies at a height, mm."""
    return np.asarray(thorax.scoliosis * np.sin(2.2 * np.pi * z / thorax.height + 0.6), np.float32)


def capsule(
    a: Sequence[float], b: Sequence[float], r: float | tuple[float, float], hu: float = BLOOD_HU, **more: Any
) -> Part:
    radius = r if isinstance(r, tuple) else (r, r)
    return Part(np.array(a, np.float32), np.array(b, np.float32), radius, hu, **more)


def egg(centre: Triple, half: Triple, long_axis: Triple = (1, 0, 0), hu: float = HEART_HU, **more: Any) -> Part:
    """Return an ellipsoid; `half` are its half lengths along its long axis, then roughly y and x, mm."""
    first = np.array(long_axis) / np.linalg.norm(long_axis)
    third = np.cross(first, (0.0, 1.0, 0.0) if abs(first[1]) < 0.8 else (1.0, 0.0, 0.0))
    third /= np.linalg.norm(third)
    second = np.cross(third, first)
    axes = (np.stack([first, second, third]) / np.array(half)[:, None]).astype(np.float32)
    return Part(np.array(centre, np.float32), np.array(centre, np.float32), (0.0, 0.0), hu, axes, **more)


def mediastinum(thorax: Thorax, rng: np.random.Generator) -> tuple[Part, ...]:
    """Place heart, great vessels, gullet, lymph nodes and the sleeve of the windpipe."""
    parts = [*_heart(thorax), *_nodes(thorax, rng)]
    gullet, *vessels = _courses(thorax, rng)
    for course, hu in ((gullet, 38.0), *((vessel, BLOOD_HU) for vessel in vessels)):
        nodes = np.array(course, np.float32) * (thorax.height, 1, 1, 1) + (0, 0, thorax.lean, 0)
        parts += [capsule(tuple(p[:3]), tuple(q[:3]), (p[3], q[3]), hu) for p, q in pairwise(nodes)]
    top, (z, y, x) = windpipe(thorax)
    parts.append(capsule(top, (z, y, x), 11.5, -90.0, painted=False))
    parts.append(capsule((z - 4, y - 4, x), (z - 16, y - 12, x), 13.0, -70.0, painted=False))
    h, d = thorax.height, thorax.half_depth / 88
    fat = (0.54 * h, -22 * d, x - 1), (0.71 * h, -20 * d, x + 1), (0.88 * h, -12 * d, x + 2)
    parts += [capsule(a, b, (17.0, 17.0), -95.0, painted=False) for a, b in pairwise(fat)]
    return tuple(parts)


def _courses(thorax: Thorax, rng: np.random.Generator) -> Iterator[list[tuple[float, ...]]]:
    """Yield the courses of the gullet and of vessels: rows of relative height, y, x and radius (mm)."""
    d, r = thorax.half_depth / 88, thorax.aorta
    arch, beside = 0.695 + float(rng.normal(0, 0.008)), float(rng.normal(15, 2))

    def ys(t: float) -> float:
        return float(spine_y(thorax, np.array(t * thorax.height)))

    gullet = (
        (0.06, 44, 12, 8.5),
        (0.2, 43, 8, 7.5),
        (0.4, 39, 3, 7),
        (0.62, 28, 6, 6.5),
        (0.8, 23, 5, 6.5),
        (1.1, 21, 3, 6.5),
    )
    yield [(t, ys(t) - front, x, size) for t, front, x, size in gullet]
    rising, turning = (0.61, -44 * d, -12, r + 1), (arch - 0.01, 8 * d, 22, r - 1)
    yield [(0.40, -40 * d, 4, r + 2), (0.50, -48 * d, -10, r + 1), rising]
    yield [rising, (arch - 0.012, -34 * d, r - 14, r - 0.5), (arch, -12 * d, r + 9, r - 1.5), turning]
    falling = ((0.62, 0), (0.45, 0), (0.3, 1.3), (0.15, 2.7), (0.0, 4), (-0.2, 6))
    yield [turning, *((t, ys(t) - 27 + 2 * (t < 0.2), beside - x, r - 1.5 - 0.3 * x) for t, x in falling)]
    forking = (0.57, -24 * d, 34, 11)  # pulmonary trunk, its left and its right branch
    yield [
        (0.37, -66 * d, 22, 17),
        (0.46, -62 * d, 20, 14.5),
        (0.535, -48 * d, 20, 13.5),
        forking,
        (0.55, -4 * d, 44, 8),
    ]
    yield [(0.53, -42 * d, 14, 11.5), (0.525, -26 * d, -10, 10), (0.52, -20 * d, -32, 9.5), (0.49, -8 * d, -42, 7)]
    joining = (0.77, -25 * d, -20, 7.5)  # upper caval vein and the veins that form it
    yield [(0.42, -30 * d, -27, 11), (0.62, -27 * d, -26, 9), joining]
    yield [joining, (0.745, -36 * d, 2, 6), (0.84, -26 * d, 30, 6.5), (0.95, -28 * d, 62, 6)]
    yield [joining, (0.85, -26 * d, -30, 7), (0.95, -28 * d, -62, 6)]
    yield [(arch, -29 * d, 2, 6.5), (0.80, -17 * d, -12, 6), (0.87, -7 * d, -20, 5), (1.02, -6 * d, -26, 4)]
    yield [(arch, -18 * d, 15, 4.5), (0.83, -10 * d, 15, 4), (1.1, -12 * d, 24, 3.6)]
    yield [(arch, -1 * d, 22, 5.5), (0.85, 3 * d, 23, 5), (0.99, -6 * d, 42, 4.8), (1.03, -10 * d, 80, 4.5)]
    yield [(0.9, -7 * d, -22, 4.8), (1.0, -6 * d, -42, 4.8), (1.03, -10 * d, -80, 4.5)]
    azygos = [(t, ys(t) - 20, -8, 3.6 + t) for t in (-0.1, 0.3, 0.635)]
    yield [*azygos, (0.645, -22 * d, -24, 4.8)]
    for side in (-1, 1):  # veins from the lungs to the left atrium
        for t, y in ((0.44, -24), (0.37, -10)):
            yield [(0.39, -20 * d, side * 14 + 8, 9), (t, y * d, side * 42 + 4, 5.5)]
    yield [(-0.15, 0, -24, 13), (0.20, -8 * d, -26, 13), (0.33, -24 * d, -24, 13)]


def carina(thorax: Thorax) -> Triple:
    """Return z, y, x where the windpipe divides, mm."""
    level = 0.62 * thorax.height
    return level, float(spine_y(thorax, np.array(level))) - 40, thorax.lean - 2


def windpipe(thorax: Thorax) -> tuple[Triple, Triple]:
    """Return the ends of the windpipe, above the chest and where it divides: z, y, x in mm."""
    return (1.13 * thorax.height, float(spine_y(thorax, np.array(1.1 * thorax.height))) - 33, 0.0), carina(thorax)


def _heart(thorax: Thorax) -> Iterator[Part]:
    """Yield the four chambers, the fat pads and the sleeve of the heart."""
    s, h, d = thorax.heart, thorax.height, thorax.half_depth / 88
    cz, cy, cx = 0.325 * h, -46.0 * d, 14 + thorax.lean

    def at_heart(z: float, y: float, x: float) -> Triple:
        return cz + z * s, cy + y * s, cx + x * s

    long_axis = (-0.42, -0.36, 0.83)
    yield egg(at_heart(-6, 6, 26), (46 * s, 31 * s, 33 * s), long_axis, 47.0)
    yield egg(at_heart(-10, -20, 4), (42 * s, 24 * s, 31 * s), (-0.30, -0.12, 0.94), 43.0)
    yield egg(at_heart(2, 4, -31), (37 * s, 26 * s, 22 * s), (1, 0.1, 0.05), 42.0)
    yield egg(at_heart(20, 27, -4), (24 * s, 19 * s, 33 * s), hu=42.0)
    yield capsule(at_heart(14, -16, 8), at_heart(0, 2, 4), (20 * s, 22 * s), 44.0)
    yield capsule(at_heart(18, -32, -26), at_heart(-26, -28, -29), (6.0, 5.0), -85.0)
    pad = 8 + 0.5 * thorax.fat
    yield egg(at_heart(-34, -26, 52), (24, pad, 16), hu=-95.0, painted=False)
    yield egg(at_heart(-34, -26, -28), (22, pad, 18), hu=-95.0, painted=False)


def _nodes(thorax: Thorax, rng: np.random.Generator) -> Iterator[Part]:
    """Yield a few small lymph nodes, muscles of the neck and soft tissue of the armpits."""
    h, w = thorax.height, thorax.half_width
    for _ in range(int(rng.integers(3, 7))):
        t, y, x = rng.uniform((0.56, -26, -22), (0.70, 2, 16))
        yield capsule((t * h, y, x), (t * h + 4, y, x + 3), float(rng.uniform(1.8, 3.5)), 40.0)
    for side in (-1, 1):
        for _ in range(int(rng.integers(2, 5))):
            t, y, x = rng.uniform((0.70, -30, 0.0), (0.82, 10, 8.0))
            yield capsule(
                (t * h, y, side * (w + x)), (t * h + 9, y + 3, side * (w + x + 2)), float(rng.uniform(2, 3.6)), 40.0
            )
        yield egg((1.06 * h, -18, side * 17), (22, 12, 11), hu=70.0)


def around(thorax: Thorax, p: Points, shape: tuple[int, ...]) -> Array:
    """Return the distance inside the mediastinum with its fat and the spine, mm; -MARGIN_MM far away."""
    total = np.full(shape, -MARGIN_MM, np.float32)
    for part in thorax.parts:
        found = near(p, *part.box(MARGIN_MM + part.fat))
        if found:
            index, q = found
            total[index] = _join(total[index], part.distance(q) + np.float32(part.fat), ROUNDING_MM)
    low, high = np.array([-1e4, -200.0, -90.0]), np.array([1e4, 200.0, 90.0])
    found = near(p, low, high)
    if found:
        index, q = found
        total[index] = _join(total[index], _column(thorax, q), ROUNDING_MM)
    return total


def _join(a: Array, b: Array, rounding: float) -> Array:
    """Return the union of two distances with a rounded groove, mm."""
    gap = np.clip(rounding - np.abs(a - b), 0, None)
    return np.asarray(np.maximum(a, b) + gap * gap * np.float32(0.25 / rounding))


def _column(thorax: Thorax, p: Points) -> Array:
    """Return the distance inside the spine with the muscles beside it, joined with the sheet behind the breastbone."""
    u, v = np.abs(p.x - spine_x(thorax, p.z)), p.y - spine_y(thorax, p.z)
    body = 20.5 - np.sqrt((0.95 * u) ** 2 + v * v)
    wedge = np.minimum((16.5 + 0.27 * np.clip(v, -10, 60) - u) * np.float32(0.93), v)
    t = p.z / thorax.height
    sheet = np.minimum(
        2.2 - np.abs(p.x - thorax.lean - 3), np.minimum(-18 - p.y, np.minimum(t - 0.2, 0.9 - t) * thorax.height)
    )
    return np.maximum(np.maximum(body, wedge), sheet).astype(np.float32)


def add_mediastinum(hu: Array, thorax: Thorax, p: Points, above: Callable[[Points], Array], edge: float) -> None:
    """Add heart, vessels and gullet to the cavity's fat, in place; `above` gives the distance above the diaphragm."""
    for part in thorax.parts:
        found = near(p, *part.box(edge)) if part.painted else None
        if found:
            index, q = found
            view = hu[index]
            weight = soft(part.distance(q), edge)
            if part.axes is not None and part.hu < 50:
                weight = weight * soft(above(q) - 1, 3.0)
            blend(view, np.float32(part.hu), weight)
            hu[index] = view


def add_belly(hu: Array, thorax: Thorax, p: Points, above: Array, inside: Array, edge: float) -> None:
    """Add diaphragm, liver, spleen, stomach and colon below the domes, in place."""
    below = -above
    blend(hu, np.float32(50), soft(inside, edge) * soft(np.minimum(below + 0.5, 2.8 - below), edge))
    deep = np.minimum(below - 3, inside - 3)
    liver = thorax.liver - p.x - 0.45 * (p.y + 30) - 0.35 * np.clip(20 - p.z, 0, 40)
    blend(hu, np.float32(thorax.liver_hu), soft(np.minimum(deep, liver * np.float32(0.85)), edge))
    for part in thorax.belly:
        found = near(p, *part.box(edge))
        if found:
            index, q = found
            view, d = hu[index], np.minimum(part.distance(q), deep[index])
            blend(view, np.float32(part.hu), soft(d, edge))
            if part.hu == GUT_HU:
                blend(view, np.float32(-960), soft(np.minimum(d - 2.4, thorax.gas_level - q.y), edge))
            hu[index] = view
    for side in (-1, 1):
        crus = np.minimum(
            8 - np.hypot((p.y - spine_y(thorax, p.z) + 22) * 0.6, p.x - side * 14 - 3), 0.16 * thorax.height - p.z
        )
        blend(hu, np.float32(52), soft(np.minimum(crus, below + 4), edge))


def place_belly(thorax: Thorax, rng: np.random.Generator) -> tuple[Part, ...]:
    """Place stomach, spleen, a loop of colon and the veins of the liver under the domes."""
    w, top = thorax.half_width, thorax.dome_left
    n = rng.normal(0, 4, 9)
    stomach = egg((top - 38 + n[0], -6 + n[1], 0.36 * w), (44, 40 + n[2], 34), (1, 0.2, 0.2), GUT_HU)
    spleen = egg((top - 46 + n[3], 38 + n[4], 0.70 * w), (46, 36 + n[5], 22), (1, 0.15, -0.1), SPLEEN_HU)
    colon = egg((top - 48 + n[6], -48 + n[7], 0.52 * w), (22, 20 + n[8], 24), (1, 0.2, 0), GUT_HU)
    ends = [(top - 14, -30 + n[0], -0.35 * w), (top - 18, 10 + n[2], -0.55 * w), (top - 16, -40 + n[4], -0.05 * w)]
    veins = [capsule((top - 26, 0, -22), end, (4.5, 2.0), BLOOD_HU) for end in ends]
    return stomach, spleen, colon, *veins


def add_spine(hu: Array, thorax: Thorax, p: Points, edge: float) -> None:
    """Add vertebrae, discs, canal and processes, in place."""
    centre = spine_y(thorax, p.z)
    found = near(p, np.array([-1e4, centre.min() - 26, -50.0]), np.array([1e4, centre.max() + 74, 50.0]))
    if not found:
        return
    index, q = found
    part = hu[index]
    u, v = q.x - spine_x(thorax, q.z), q.y - spine_y(thorax, q.z)
    width = np.abs(u)
    blend(part, np.float32(50), soft(np.minimum(np.minimum(16 + 0.4 * v - width, v + 2), 40 - v), 3.0))
    size = 1.08 - 0.26 * np.clip(q.z / thorax.height, 0, 1.1)
    turn = vertebra(thorax, q.z)
    off = turn - np.round(turn)
    gap = (0.5 - np.abs(off)) * np.float32(0.095 * thorax.height)  # mm to the next mid-disc level
    body = 17.5 * size + 1.2 * bump_of(gap) - np.sqrt((0.84 * u) ** 2 + (v * 1.08) ** 2)
    body = np.minimum(body, 24 * size - 2 - v * 1.7)
    blend(part, np.float32(85), soft(body - 0.5, edge))
    blend(part, np.float32(thorax.cortex_hu * 0.65), soft(np.minimum(body, gap - 2.6), edge))
    blend(part, np.float32(thorax.marrow_hu), soft(np.minimum(body - 1.2, gap - 3.2), edge))
    _arch(part, thorax, q, u, v, size, edge)
    canal = np.hypot(u, v - 23 * size)
    blend(part, np.float32(18), soft(8.5 - canal, edge))
    blend(part, np.float32(36), soft(4.8 - canal, edge))
    hu[index] = part


def bump_of(gap: Array) -> Array:
    """Return how much a vertebral body widens towards its end plates, 0 to 1."""
    return np.clip(1 - gap / 9, 0, 1) ** 2


def add_bone(hu: Array, d: Array, shell: float, cortex_hu: float, marrow_hu: float, edge: float) -> None:
    """Mix a bone with its shell into `hu` in place."""
    blend(hu, np.float32(cortex_hu), soft(d, edge))
    blend(hu, np.float32(marrow_hu), soft(d - shell, edge))


def _arch(hu: Array, thorax: Thorax, p: Points, u: Array, v: Array, size: Array, edge: float) -> None:
    """Mix pedicles, laminae, transverse and spinous processes into `hu` in place."""
    width, unit = np.abs(u), 0.095 * thorax.height
    back = v - 23 * size
    turn = vertebra(thorax, p.z + 0.75 * np.clip(back, 0, 40))
    level = (turn - np.round(turn) - 0.12) * unit  # mm above the root of the processes
    ring = np.minimum(3.2 - np.abs(np.hypot(u, back) - 11.8), 9 - np.abs(level))
    pedicle = np.minimum(np.minimum(4.0 - np.abs(width - 12), 6 - np.abs(level)), np.minimum(v - 6, 26 - v))
    t = np.clip((width - 12) / 24, 0, 1)
    transverse = 5.2 - np.sqrt((width - 12 - 24 * t) ** 2 + (back - 5 - 9 * t) ** 2 + level**2)
    long = np.clip((back - 12) / 26, 0, 1)
    spinous = np.minimum(3.0 + 1.2 * long**3 - width, np.minimum(np.minimum(back - 9, 38 - back), 5.5 - np.abs(level)))
    d = np.maximum(np.maximum(ring, pedicle), np.maximum(transverse, spinous))
    add_bone(hu, d, 1.3, thorax.cortex_hu * 0.85, thorax.marrow_hu * 1.1, edge)
