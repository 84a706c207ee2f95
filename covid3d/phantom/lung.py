"""Lobes, fissures and the healthy lung between its vessels, as functions of physical coordinates (mm, LPS)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage, sparse

from covid3d.phantom.shapes import Array, Points, blend, soft
from covid3d.phantom.thorax import Thorax

LOBES = ("rul", "rml", "rll", "lul", "lll")
FISSURE_MM, FISSURE_HU = 0.35, -100.0
OCTAVES = ((40.0, 9.0), (11.0, 8.0), (3.6, 15.0), (1.5, 26.0))  # lattice mm, SD in HU
TABLE = 48


@dataclass(frozen=True)
class Background:
    """Old or chronic changes of one patient, drawn without regard to the class.

    `emphysema` and `paraseptal` are severities in [0, 1]; `scars` has rows of relative height, angle in the axial plane
    (rad, 0 = left, pi/2 = back), tilt (rad), half length (mm), thickness (mm); `dependent` is the HU added along the back.
    """

    emphysema: float
    paraseptal: float
    scars: Array
    dependent_hu: float


def draw_background(rng: np.random.Generator, age: float) -> Background:
    """Draw a patient's background: emphysema in about 10 % (more when old), scars in 10 %, dependent density in 20 %."""
    chances = rng.random(4) / (np.clip(0.1 * (age / 60) ** 2, 0.02, 0.22), 0.04, 0.10, 0.20) < 1
    severity = rng.uniform(0.3, 1.0, 2)
    count = int(rng.integers(1, 5))
    apical = rng.random() < 0.5
    heights = rng.uniform(0.86, 0.95, count) if apical else rng.uniform(0.16, 0.34, count)
    columns = (
        heights,
        rng.uniform(0, 2 * np.pi, count),
        rng.normal(0, 0.5, count),
        rng.uniform(9, 26, count),
        rng.uniform(0.9, 2.2, count),
    )
    scars = np.stack(columns, axis=1).astype(np.float32)[: count if chances[2] else 0]
    dependent = float(rng.uniform(90, 260)) * bool(chances[3])
    emphysema = float(severity[0]) * bool(chances[0])
    return Background(
        emphysema, float(severity[1]) * bool(chances[1] | (chances[0] & (severity[1] > 0.7))), scars, dependent
    )


def lobe(thorax: Thorax, p: Points) -> tuple[Array, Array]:
    """Return the lobe's number in `LOBES` and the distance to the nearest fissure (mm)."""
    height, depth, width = thorax.height, thorax.half_depth, thorax.half_width
    shift = _individual(thorax)
    right = p.x < 0
    back = (p.y + depth) / (2 * depth)
    side = np.abs(p.x) / width
    twist = 0.07 * np.cos(np.pi * np.minimum(side, 1.1)) * (0.5 - back) + 0.012 * np.sin(9 * side + 4 * back + shift[3])
    rise = np.where(right, 0.70 + 0.02 * shift[0], 0.72 + 0.02 * shift[1])
    curve = 0.045 * np.sin(np.pi * (2 * back - 0.1))
    surface = height * (0.085 + rise * back - curve + twist)
    slope = height * (rise - 0.28 * np.cos(np.pi * (2 * back - 0.1))) / (2 * depth)
    oblique = (p.z - surface) / np.sqrt(1 + slope**2)
    bow = 0.07 * (side - 0.5) ** 2 + 0.16 * (back - 0.45) ** 2
    horizontal = p.z - height * (0.54 + 0.015 * shift[2] - 1.6 * bow + 0.005 * np.sin(7 * side + 5 * back))
    horizontal = np.where(right, horizontal, np.float32(1e4))
    below = oblique < 0
    upper, lower = np.where(right, np.int8(0), np.int8(3)), np.where(right, np.int8(2), np.int8(4))
    number = np.where(below, lower, upper + (horizontal < 0))
    gap = np.minimum(np.abs(oblique), np.where(below, np.float32(1e4), np.abs(horizontal)))
    return number.astype(np.int8), gap.astype(np.float32)


def add_fissures(filling: Array, gap: Array, edge: float) -> None:
    """Add the fissures' thin bright sheets in place; `gap` is the distance of `lobe`, a coarse voxel shows less of them."""
    share = np.float32(FISSURE_MM / edge) * np.clip(1 - gap * np.float32(1 / edge), 0, 1)
    blend(filling, np.float32(FISSURE_HU), share)


def parenchyma(
    thorax: Thorax, background: Background | None, p: Points, breath_hu: float, depth: Array, edge: float
) -> Array:
    """Return the HU of healthy lung, float32, in the shape of `depth` (mm inside the lungs, from `lungs`).

    Denser towards the back and the base, with slow and fine texture whose octaves finer than `edge` mm fade; `background`
    adds a patient's old changes. Voxels farther than `edge` outside the lungs get the mean density only.
    """
    flat = depth.ndim == 1
    within = np.flatnonzero(depth > -edge) if flat else np.flatnonzero((depth > -edge).any(axis=0))
    out = np.full(depth.shape, thorax.lung_hu + breath_hu, np.float32)
    if not len(within):
        return out
    if flat:
        q = Points(p.z[within], p.y[within], p.x[within])
    else:
        q = Points(p.z[:, :, 0], p.y.reshape(1, -1)[:, within], p.x.reshape(1, -1)[:, within])
    inner = (depth if flat else depth.reshape(len(depth), -1))[..., within]
    hu = _healthy(thorax, q, edge) + np.float32(thorax.lung_hu + breath_hu)
    if background is not None:
        _add_background(hu, background, thorax, q, inner, edge)
    np.maximum(hu, -1000, out=hu)
    out.reshape(-1 if flat else (len(out), -1))[..., within] = hu
    return out


def _healthy(thorax: Thorax, p: Points, edge: float) -> Array:
    """Return the HU of lung around its mean: gravity, a little from apex to base, and the octaves of texture."""
    hu = thorax.gravity_hu * (p.y / thorax.half_depth) - 14 * (p.z / thorax.height - 0.45)
    shift = _individual(thorax)
    for i, (spacing, sd) in enumerate(OCTAVES):
        seen = sd * (1 + (edge / spacing) ** 2) ** -0.75
        hu = hu + np.float32(seen) * lattice(p, spacing, shift[i : i + 3])
    return hu.astype(np.float32)


def _add_background(hu: Array, b: Background, thorax: Thorax, p: Points, depth: Array, edge: float) -> None:
    """Add emphysema, dependent density and scars to lung in place."""
    shift = _individual(thorax)
    t = p.z / thorax.height
    if b.emphysema or b.paraseptal:
        holes = lattice(p, 5.5, shift[1:4])
        fade = np.float32(1 / (1 + (edge / 5.5) ** 2))
        upper = b.emphysema * np.clip((t - 0.42) / 0.3, 0, 1)
        blend(hu, np.float32(-965), 0.9 * fade * soft(holes - (2.6 - 1.9 * upper), 0.8) * (upper > 0.02))
        rim = b.paraseptal * np.clip((t - 0.5) / 0.2, 0, 1) * soft(9 - depth, 4.0)
        blend(hu, np.float32(-975), fade * soft(holes - (2.2 - 2.2 * rim), 0.6) * (rim > 0.05))
    if b.dependent_hu:
        low = np.clip((p.y / thorax.half_depth - 0.35) / 0.3, 0, 1) * np.clip((0.75 - t) / 0.2, 0, 1)
        band = np.clip(1 - depth / (7 + 1.5 * lattice(p, 22.0, shift[2:5])), 0, 1)
        hu += np.float32(b.dependent_hu) * low * band
    for height, angle, tilt, half, thick in b.scars:
        _add_scar(hu, thorax, p, (float(height), float(angle), float(tilt), float(half), float(thick)), edge)


def _add_scar(
    hu: Array, thorax: Thorax, p: Points, scar: tuple[float, float, float, float, float], edge: float
) -> None:
    """Add one thin slightly bent band near the pleura in place."""
    height, angle, tilt, half, thick = scar
    r = 0.72 * np.sqrt(max(1 - max(height - 0.3, 0.0) ** 2 / 0.54, 0.05))
    u = (p.x - r * thorax.half_width * np.cos(angle)) * np.float32(np.cos(angle))
    u = u + (p.y - r * thorax.half_depth * np.sin(angle)) * np.float32(np.sin(angle))
    w = (p.y - r * thorax.half_depth * np.sin(angle)) * np.float32(np.cos(angle))
    w = w - (p.x - r * thorax.half_width * np.cos(angle)) * np.float32(np.sin(angle))
    v = p.z - height * thorax.height
    across = np.abs(np.cos(tilt) * v + np.sin(tilt) * u + 0.006 * (u * u + w * w))
    along = half - np.sqrt(u * u + (1.8 * w) ** 2 + (0.6 * v) ** 2)
    share = min(1.0, thick / edge) * soft(thick / 2 + edge / 4 - across, edge) * soft(along, 6.0)
    blend(hu, np.float32(-80), share.astype(np.float32))


def lattice(p: Points, spacing: float, phase: Array) -> Array:
    """Return smooth noise of mean 0 and SD about 1: a random table on a periodic lattice `spacing` mm wide, interpolated.

    Works on flat points (N,) and on z (Z, 1) with y and x (1, M).
    """
    table = _table()
    z, y, x = (
        (axis / np.float32(spacing) + np.float32(17 * s)) % TABLE
        for axis, s in zip((p.z, p.y, p.x), phase, strict=True)
    )
    if z.ndim == 1:
        where = np.stack([z, y, x])
        return ndimage.map_coordinates(table, where, np.float32, order=1, mode="grid-wrap", prefilter=False)
    k, far = np.floor(z[:, 0]).astype(int) % TABLE, (z - np.floor(z))[:, :, None]
    planes = table[k] * (1 - far) + table[(k + 1) % TABLE] * far
    weights = _bilinear(y[0], x[0])
    return np.stack([weights @ plane.ravel() for plane in planes.astype(np.float32)])


def _bilinear(y: Array, x: Array) -> sparse.csr_array:
    """Return the (M, TABLE**2) matrix that interpolates a periodic plane at M points."""
    j, i = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    v, u = y - j, x - i
    j0, i0, j1, i1 = (index % TABLE for index in (j, i, j + 1, i + 1))
    columns = np.stack([j0 * TABLE + i0, j0 * TABLE + i1, j1 * TABLE + i0, j1 * TABLE + i1], axis=1)
    values = np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], axis=1)
    rows = np.arange(0, 4 * len(y) + 1, 4, dtype=np.int32)
    return sparse.csr_array((values.ravel(), columns.ravel(), rows), shape=(len(y), TABLE**2))


@lru_cache(maxsize=1)
def _table() -> Array:
    """Return the lattice's random values: right-skewed (more bright dots than holes), scaled to SD 1 after interpolation."""
    values = np.random.default_rng(20240229).gamma(4.0, size=(TABLE,) * 3)
    table = (values - 4.0) / 2.0 / (2 / 3) ** 1.5
    table = table.astype(np.float32)
    table.setflags(write=False)
    return table


def _individual(thorax: Thorax) -> Array:
    """Return eight standard normal numbers that belong to this chest."""
    return (
        np.random.default_rng([round(thorax.height * 1e4), round(thorax.half_width * 1e4)])
        .normal(size=8)
        .astype(np.float32)
    )
