"""The chest wall in polar form: cavity and skin as radii over height and angle, and the layers between the two.

Angles are measured round the patient's axis from the front, radians, positive to the left, +-pi at the spine. On image slabs
a profile is tabulated once a slice and angle and spread over the plane; on lists of points it is evaluated point by point.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from covid3d.phantom.shapes import Array, Points, blend, soft, waves
from covid3d.phantom.thorax import Thorax

BINS = 1536
ANGLES = ((np.arange(BINS, dtype=np.float32) + 0.5) * np.float32(2 * np.pi / BINS) - np.float32(np.pi))[None]
LAYER_MM = 10.0  # ribs and intercostal muscle
FAT_HU, SKIN_HU, CARTILAGE_HU = -102.0, 30.0, 105.0
RIBS = 12
_HEIGHTS = np.linspace(-0.3, 1.3, 641)
Profile = Callable[[Array, Array], Array]


def _curve(*knots: tuple[float, float]) -> Array:
    """Tabulate a smooth curve of the relative height through (t, value) knots."""
    t, value = np.array(knots).T
    return np.asarray(PchipInterpolator(t, value)(np.clip(_HEIGHTS, t[0], t[-1])))


WIDTH = _curve(
    (-0.1, 0.95), (0.1, 1.0), (0.3, 0.98), (0.5, 0.96), (0.62, 0.93), (0.7, 0.89), (0.77, 0.82), (0.83, 0.74), (0.88, 0.66),
    (0.93, 0.57), (1.0, 0.47), (1.1, 0.34), (1.25, 0.28),
)  # fmt: skip
FRONT = _curve(
    (-0.1, 0.88), (0.15, 0.97), (0.35, 1.0), (0.5, 0.99), (0.62, 0.93), (0.68, 0.87), (0.74, 0.77), (0.8, 0.65), (0.86, 0.54),
    (0.92, 0.46), (1.0, 0.40), (1.1, 0.36),
)  # fmt: skip
BACK = _curve(
    (-0.1, 0.95), (0.2, 1.0), (0.45, 1.0), (0.56, 0.97), (0.62, 0.94), (0.68, 0.89), (0.74, 0.82), (0.8, 0.74), (0.86, 0.65),
    (0.92, 0.55), (1.0, 0.45), (1.1, 0.40),
)  # fmt: skip
SPINE = _curve(
    (-0.1, 0.57), (0.3, 0.55), (0.5, 0.53), (0.63, 0.49), (0.75, 0.41), (0.86, 0.32), (0.97, 0.23), (1.15, 0.12)
)


def at(curve: Array, t: Array) -> Array:
    """Read a tabulated curve at relative heights."""
    return np.interp(t, _HEIGHTS, curve).astype(np.float32)


def bump(u: Array, centre: float, width: float) -> Array:
    """Return a Gaussian bell of height 1."""
    return np.exp(-(((u - centre) / width) ** 2))


def kyphosis(thorax: Thorax, t: Array) -> Array:
    """Return how far the patient's bent back moves the chest backwards at a relative height, mm."""
    return (thorax.kyphosis * (0.35 - ((t - 0.5) / 0.5) ** 2)).astype(np.float32)


def angles(p: Points) -> Array:
    """Return the angle of points round the patient's axis."""
    return np.arctan2(p.x, -p.y)


def bins(p: Points) -> Array:
    """Return the number of the tabulated angle nearest to each point of a slab's plane, (Y, X)."""
    return ((angles(p)[0] + np.pi) * (BINS / (2 * np.pi))).astype(np.intp).clip(0, BINS - 1)


def cavity_radius(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return the radius of the inner chest wall, mm."""
    t = z / thorax.height
    shift = kyphosis(thorax, t)
    front = thorax.half_depth * at(FRONT, t) - shift
    back = thorax.half_depth * at(BACK, t) + shift
    side = thorax.half_width * (at(WIDTH, t) + thorax.apex_width * np.clip(t - 0.55, 0, 0.5))
    c, s = np.cos(angle), np.sin(angle)
    depth = np.where(c > 0, front, back)
    power = (thorax.squareness - 0.22 * c).astype(np.float32)
    radius = ((np.abs(c) / depth) ** power + (np.abs(s) * (1 + 0.015 * np.sign(s)) / side) ** power) ** (-1 / power)
    radius = radius * (1 + np.float32(0.006) * ripple(thorax, t, angle, (2, 3, 4)))
    dent = 5 * bump(angle, 0, 0.35) * np.clip(1.4 - t, 0, 1) + 15 * bump(np.abs(angle), np.pi, 0.36)
    return (radius - dent * np.clip(front / 70, 0.3, 1)).astype(np.float32)


def ripple(thorax: Thorax, t: Array, angle: Array, orders: tuple[int, ...]) -> Array:
    """Return the patient's own smooth irregularity of a profile, SD about 1, no longer than the given orders round the body."""
    phases = thorax.texture[:, 3]
    terms = (np.cos(k * angle + (2.1 * t + 1) * phases[i % len(phases)]) for i, k in enumerate(orders))
    return np.asarray(sum(terms) * np.sqrt(2 / len(orders)), np.float32)


def muscle(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return the thickness of the muscles outside the ribs, mm."""
    t, a = z / thorax.height, np.abs(angle)
    upper = bump(t, 0.70, 0.16)
    pectoral = 15 * bump(a, 0.70, 0.36) * upper
    lateral = 11 * bump(a, 1.95, 0.45) * (0.2 + 0.8 * bump(t, 0.58, 0.25))
    blade = 31 * bump(a, 2.05, 0.5) * bump(t, 0.76, 0.2)
    back = 27 * bump(a, np.pi, 0.5) + 8 * bump(a, np.pi, 1.0) * np.clip((t - 0.7) / 0.2, 0, 1)
    belly = 5 * bump(a, 0.2, 0.9) * np.clip((0.3 - t) / 0.2, 0, 1)
    arm = (105 * bump(a, 1.72, 0.42) + 42 * bump(a, 2.5, 0.4)) * _shoulder(t)
    neck = 22 * np.clip((t - 0.9) / 0.2, 0, 1)
    return (thorax.muscle * (1.5 + pectoral + lateral + blade + back + belly) + arm + neck).astype(np.float32)


def _shoulder(t: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip((t - 0.90) / 0.05, -30, 30)))


def breast(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return the thickness that the breasts add to the fat, mm."""
    a, t = np.abs(angle), z / thorax.height
    return (thorax.breast * bump(a, 0.85, 0.42) * bump(t, 0.47, 0.17)).astype(np.float32)


def skin_radius(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return the radius of the skin, mm: layers added to the cavity, flattened by the table under the back."""
    t, a = z / thorax.height, np.abs(angle)
    fat = thorax.fat * (
        0.75 + 0.5 * bump(a, 1.6, 0.6) * np.clip(1.2 - t, 0, 1) - 0.25 * np.clip((t - 0.55) / 0.3, 0, 1)
    )
    fat = fat * (1 + 0.07 * ripple(thorax, t, angle, (5, 2, 3)))
    arm = 32 * bump(a, 1.68, 0.45) * _shoulder(t)
    free = cavity_radius(thorax, z, angle) + LAYER_MM + muscle(thorax, z, angle) + fat + breast(thorax, z, angle) + arm
    s2, c = np.sin(angle) ** 2 * 4 * thorax.sag, np.cos(angle)
    rest = 2 * thorax.back / (np.sqrt(c * c + s2 * thorax.back) - c + 1e-3)
    gap = np.clip(1 - np.abs(rest - free) / 14, 0, None)
    return (np.minimum(rest, free) - 3.5 * gap**2).astype(np.float32)


def cloth(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return how far the cloth over the patient lies from the skin, mm; far off at the back."""
    t = z / thorax.height
    folds = ripple(thorax, 1.5 * t, angle, (9, 14, 23, 31)) + ripple(thorax, -2 * t, angle, (5, 17))
    return (6 + 2.2 * folds + 400 * (np.abs(angle) > 1.75)).astype(np.float32)


def spread(p: Points, profile: Profile) -> Array:
    """Return a profile of height (mm) and angle at every point."""
    if p.z.ndim == 1:
        return profile(p.z, angles(p))
    return np.take(profile(p.z[:, 0], ANGLES), bins(p), axis=1)


def wall_distance(thorax: Thorax, p: Points, radius: Callable[[Thorax, Array, Array], Array]) -> Array:
    """Return the distance inside a polar surface, mm: the radial gap times the cosine of the surface's slope."""

    def tables(z: Array, angle: Array) -> tuple[Array, Array]:
        r = radius(thorax, z, angle)
        around = (radius(thorax, z, angle + np.float32(0.01)) - r) / (np.float32(0.01) * np.maximum(r, 20))
        along = (radius(thorax, z + np.float32(1), angle) - r) * np.float32(1)
        return r, 1 / np.sqrt(1 + around**2 + along**2)

    if p.z.ndim == 1:
        r, cosine = tables(p.z, angles(p))
        return ((r - np.hypot(p.x, p.y)) * cosine).astype(np.float32)
    r, cosine = tables(p.z[:, 0], ANGLES)
    where = bins(p)
    distance = np.take(r, where, axis=1)
    distance -= np.hypot(p.x, p.y)
    distance *= np.take(cosine.astype(np.float32), where, axis=1)
    return distance


def vertebra(thorax: Thorax, z: Array) -> Array:
    """Return the count of vertebrae above the twelfth thoracic one at a height (mm); whole at the centre of a body."""
    q = np.clip(0.107**2 - 4 * 0.0011 * (z / thorax.height + thorax.spine_start), 1e-4, None)
    return ((0.107 - np.sqrt(q)) / 0.0022).astype(np.float32)


def rib_turn(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return the count of ribs above the twelfth one at a height and angle: ribs fall from spine to front, cartilage climbs."""
    a = np.pi - np.abs(angle)  # 0 at the spine
    slope = np.clip(1.15 - 0.55 * np.clip(z / thorax.height, 0, 1.1), 0.5, 1.15)
    drop = 84 * np.clip(a / 2.45, 0, 1) ** 1.15
    climb = 42 * np.clip((a - 2.45) / 0.6, 0, 1) ** 1.3 * np.clip(1.1 - 1.5 * z / thorax.height, 0, 1)
    return vertebra(thorax, z + (drop - climb) * slope * thorax.rib_slope)


def ribs(thorax: Thorax, z: Array, angle: Array) -> tuple[Array, Array]:
    """Return the half thickness of bone or cartilage in the wall (mm, negative between the ribs) and the share of cartilage."""
    turn = rib_turn(thorax, z, angle)
    number = np.clip(np.round(turn), 0, RIBS - 1)  # 0: twelfth rib
    spacing = thorax.height * (0.107 - 0.0022 * number)
    high = np.abs(turn - number) * spacing * 0.86
    a = np.abs(angle)
    start = np.array([1.95, 1.30, 0.75, 0.55, 0.42] + [0.14] * 7)[number.astype(int)]
    joint = np.array([2.2, 1.5, 1.02, 0.95, 0.88, 0.80, 0.74, 0.68, 0.62, 0.57, 0.53, 0.5])[number.astype(int)]
    cartilage = np.clip((joint - a) / 0.03, 0, 1)
    half = 6.6 + 1.0 * cartilage
    bent = (high / half) ** 2
    round_off = np.sqrt(np.clip(1 - bent, 0, 1))
    thick = np.where(bent < 1, (3.4 + 1.6 * cartilage) * round_off, half - high) - 0.4 * (1 - cartilage)
    ends = np.minimum((a - start) * thorax.half_depth, (np.pi - 0.16 - a) * thorax.half_depth)
    return np.minimum(thick, ends).astype(np.float32), cartilage.astype(np.float32)


def sternum(thorax: Thorax, z: Array) -> Array:
    """Return the half width of the breastbone at a height, mm; negative where there is none."""
    t = z / thorax.height
    width = 15 + 13 * np.clip((t - 0.72) / 0.08, 0, 1) - 9 * np.clip((0.40 - t) / 0.08, 0, 1)
    seam = 7 * bump(t, 0.735, 0.006)
    return (np.minimum(width, np.minimum(t - 0.27, 0.865 - t) * thorax.height) - seam).astype(np.float32)


def add_wall(hu: Array, thorax: Thorax, p: Points, inside: Array, skin: Array, edge: float) -> None:
    """Add skin, fat, muscles, ribs, cartilage and breastbone outside the cavity, in place."""
    for view, out, deep, y, x, angle, z, look in _slices(hu, p, inside, skin, edge):
        zone = np.flatnonzero((out < 1 + edge) & (deep > -edge))
        if not len(zone):
            continue
        new, o, depth = view[zone], -out[zone], deep[zone]
        tables = look(lambda a, b: _tables(thorax, a, b), zone)
        _layers(new, thorax, o, depth, tables, edge)
        if thorax.breast > 6:
            _glands(
                new,
                thorax,
                Points(np.broadcast_to(z, view.shape)[zone], y[zone], x[zone]),
                o - tables[0],
                depth,
                tables[3],
            )
        width = sternum(thorax, z if z.ndim else z[None])
        _plate(new, o, np.broadcast_to(width, view.shape)[zone] - np.abs(x[zone]), angle[zone], thorax.marrow_hu, edge)
        view[zone] = new


def _tables(thorax: Thorax, z: Array, angle: Array) -> Array:
    """Return thickness of muscle, rib, share of cartilage, thickness of the breast and share of the armpit's fat, (5, ...)."""
    t, a = z / thorax.height, np.abs(angle)
    axilla = 0.95 * np.clip(9 * bump(a, 1.36, 0.36) * bump(t, 0.82, 0.15) - 4.5, 0, 1)
    flesh = muscle(thorax, z, angle) * (0.88 + 0.08 * ripple(thorax, t, a, (5, 8, 13)))
    return np.stack([flesh, *ribs(thorax, z, angle), breast(thorax, z, angle), axilla]).astype(np.float32)


def _glands(hu: Array, thorax: Thorax, p: Points, over: Array, depth: Array, breast: Array) -> None:
    """Mix the strands of the breasts' glands into flat arrays; `over` is the distance outside the muscles, mm."""
    where = np.flatnonzero((breast > 4) & (over > LAYER_MM + 1) & (depth > 4))
    if not len(where):
        return
    q = Points(p.z[where], p.y[where], p.x[where])
    core = np.clip((breast[where] - 4) / 14, 0, 1) * soft(np.minimum(depth[where] - 9, over[where] - LAYER_MM - 4), 6.0)
    strands = np.clip(1.4 - 2.2 * np.abs(waves(thorax.texture * np.float32(2), q)), 0, 1) + thorax.glands - 0.45
    part = hu[where]
    blend(part, np.float32(30), core * np.clip(strands, 0, 1) * np.float32(0.9))
    hu[where] = part


def _slices(hu: Array, p: Points, inside: Array, skin: Array, edge: float) -> Iterator[tuple[Any, ...]]:
    """Yield each slice (or the list of points) as flat arrays with a function that looks up profiles at chosen places."""
    if p.z.ndim == 1:
        angle = angles(p)
        yield hu, inside, skin, p.y, p.x, angle, p.z, lambda profile, zone: profile(p.z[zone], angle[zone])
        return
    where, angle = bins(p).ravel(), angles(p).ravel()
    y, x = (np.ascontiguousarray(np.broadcast_to(a, (1, *hu.shape[1:]))).ravel() for a in (p.y, p.x))
    for k in range(len(hu)):
        z = p.z[k, :, 0]

        def look(profile: Profile, zone: Array, z: Array = z) -> Array:
            return np.take(profile(z[:, None], ANGLES)[:, 0], where[zone], axis=1)

        yield hu[k].reshape(-1), inside[k].ravel(), skin[k].ravel(), y, x, angle, z, look


def _layers(hu: Array, thorax: Thorax, o: Array, depth: Array, tables: Array, edge: float) -> None:
    """Mix the layers from the skin inwards into flat arrays; `o` is the distance outside the cavity, mm."""
    thick, rib, cartilage, _, axilla = tables
    blend(hu, FAT_HU, soft(depth, edge))
    blend(hu, SKIN_HU, soft(depth, edge) * soft(1.8 - depth, edge))
    flesh = soft(np.minimum(LAYER_MM + thick - o, depth - 3.5), edge)
    deep = (thick > 11) & (thick < 45)
    planes = soft(0.7 - np.abs(o - LAYER_MM), edge) + deep * soft(0.7 - np.abs(o - LAYER_MM - 0.5 * thick), edge) * (
        (thick > 11) & (thick < 45)
    )
    flesh *= 1 - np.float32(0.55 * min(1, 1.6 / edge)) * np.minimum(planes, 1) * (thick < 60)
    flesh *= soft(o - 1.0, edge) * (1 - axilla * soft(np.minimum(o - LAYER_MM - 5, depth - thorax.fat - 9), 4.0))
    blend(hu, np.float32(thorax.muscle_hu), flesh)
    solid = rib - np.abs(o - np.float32(5.3))
    hard = soft(solid, edge)
    core = soft(solid - 1.5, edge) * (1 - cartilage)
    value = thorax.cortex_hu + cartilage * np.float32(CARTILAGE_HU - thorax.cortex_hu)
    blend(hu, value + core * (np.float32(thorax.marrow_hu * 0.8) - value), hard)


def _plate(hu: Array, o: Array, across: Array, angle: Array, marrow_hu: float, edge: float) -> None:
    """Mix the breastbone into flat arrays."""
    near = np.flatnonzero((across > -edge) & (np.abs(angle) < 1.0))
    if not len(near):
        return
    thick = np.float32(5.5) - np.abs(o[near] - np.float32(6.5))
    d = np.minimum(
        np.minimum(thick, across[near]), 4.5 - np.hypot(np.minimum(thick - 4.5, 0), np.minimum(across[near] - 4.5, 0))
    )
    part = hu[near]
    blend(part, np.float32(380), soft(d, edge))
    blend(part, np.float32(marrow_hu * 0.75), soft(d - 1.5, edge))
    hu[near] = part
