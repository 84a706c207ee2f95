"""Lesions of both classes as ranks of one distance, so that amount and brightness cannot tell the class.

A patient's sites give every place of the lung a relative distance D. A scan does not use D itself but its rank q: the share of
aerated lung, effusion and vessels left out, that lies nearer to a site. Weight, rim and consolidated core are functions of q
and the scan's burden alone; the two classes differ in which places come first (`sites`).

Evidence grows with disease: a few foci, placed alike in both classes, come first; the sites of the class's own pattern come
in one after the other behind them. What clears goes the same way back, so that the last rest is unspecific again, as early
and absorbing disease is on CT (Pan et al., Radiology 2020; Wang et al., Radiology 2020).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from covid3d.phantom.chest import cavity, lungs, pleura
from covid3d.phantom.lung import Background, lattice, lobe, parenchyma
from covid3d.phantom.shapes import Array, Points, soft
from covid3d.phantom.thorax import Thorax

REFERENCE_MM = 6.0
FAR = np.float32(1e3)
SLOWER = 3.1  # how much slower the early foci grow from then on
RIM = 0.36  # width of a lesion's edge, as a share of its rank
OUTLINE_MM = 22.0
BAND_MM = 9.0  # atelectasis above free fluid


class Places(NamedTuple):
    """Where lesions lie: foci (lines of no length), tubes along vessels, or fillings of a lobe."""

    lines: Array  # (n, 6): start and end z, y, x in mm
    sizes: Array  # (n, 3): relative half axes z, y, x
    lobes: Array  # (n,): the lobe that bounds a site, -1 for none
    waits: Array  # (n,): how much later a site comes than the first, relative mm


@dataclass(frozen=True)
class Sites:
    """Where a patient's lesions lie, and in what order they come."""

    pattern: str
    own: Places  # those of the pattern
    early: Places  # foci that come first, alike in both classes
    early_reach: float  # relative distance at which they fill `EARLY` of the lung
    buds: Array  # (m, 7): start and end z, y, x and radius of nodules and twigs, mm
    ragged: Array  # (2, 3): where the outline's noise lies
    unevenness: float  # of the outline, a share of the distance
    mottle: Array  # (2, 3): where the density's noise lies
    paving: float  # how much septal network overlies ground glass, 0 to 1
    effusion_ml: float
    effusion_sides: tuple[float, float]  # right, left: share of the larger one


@dataclass(frozen=True)
class Reference:
    """One patient's lungs on a coarse grid: `inside` (Z, Y, X), everything else on the list of voxels inside."""

    grid: Points
    inside: Array
    points: Points
    depth: Array  # mm to any surface of the lung
    pleura: Array  # mm to the chest wall or diaphragm
    lobe: Array
    aerated: Array  # share of the voxel that is no vessel
    hu: Array  # healthy lung at breath 0
    voxel_ml: float = REFERENCE_MM**3 / 1000

    @property
    def volume_ml(self) -> float:
        return len(self.pleura) * self.voxel_ml


def reference(thorax: Thorax, background: Background, vessels: Array) -> Reference:
    """Sample the lungs every `REFERENCE_MM`; `vessels` as in `trees`."""
    half = thorax.half_width + 20
    z = np.arange(-3, thorax.height + 12, REFERENCE_MM, dtype=np.float32)[:, None, None]
    y = np.arange(-thorax.half_depth - 20, thorax.half_depth + 40, REFERENCE_MM, dtype=np.float32)[None, :, None]
    x = np.arange(-half, half, REFERENCE_MM, dtype=np.float32)[None, None, :]
    grid = Points(z, *(np.broadcast_to(axis, (1, y.size, x.size)) for axis in (y, x)))
    within, t = cavity(thorax, grid)
    depth = lungs(thorax, grid, within, t)
    inside = depth > 0
    points = pick(grid, inside)
    return Reference(
        grid=grid,
        inside=inside,
        points=points,
        depth=depth[inside],
        pleura=pleura(thorax, points, within[inside]),
        lobe=lobe(thorax, points)[0],
        aerated=1 - _vessel_share(grid, inside.shape, vessels)[inside],
        hu=parenchyma(thorax, background, points, 0.0, depth[inside], REFERENCE_MM),
    )


def _vessel_share(grid: Points, shape: tuple[int, ...], vessels: Array) -> Array:
    """Return the share of each voxel that is blood, from points strewn along the vessels."""
    start, end = vessels[:, :3], vessels[:, 3:6]
    length = np.linalg.norm(end - start, axis=1)
    count = np.maximum(np.ceil(length / 3).astype(int), 1)
    owner = np.repeat(np.arange(len(vessels)), count)
    along = ((np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[owner])[:, None]
    place = start[owner] * (1 - along) + end[owner] * along
    area = np.pi * (0.5 * (vessels[:, 6] + vessels[:, 7])) ** 2
    origin = np.array([grid.z[0, 0, 0], grid.y[0, 0, 0], grid.x[0, 0, 0]])
    index = np.clip(np.rint((place - origin) / REFERENCE_MM).astype(int), 0, np.array(shape) - 1)
    share = np.zeros(shape, np.float32)
    np.add.at(share, tuple(index.T), (area * length / count)[owner] / REFERENCE_MM**3)
    return np.clip(ndimage.uniform_filter(share, 2), 0, 0.8)


# --- where -------------------------------------------------------------------------------------------------------------


def field(phases: Array, p: Points, coarse_mm: float) -> Array:
    """Return a patient's own smooth noise, mean 0 and SD about 1, in two octaves, at flat lists of points."""
    octaves = (coarse_mm, 0.45 * coarse_mm)
    parts = [lattice(p, spacing, phase) for spacing, phase in zip(octaves, phases, strict=True)]
    return np.clip(0.8 * parts[0] + 0.6 * parts[1], -2.5, 2.5)


def distance(sites: Sites, thorax: Thorax, p: Points, limit: float | None = None) -> Array:
    """Return D, the relative distance to the nearest site (mm over relative size), float32.

    With `limit` (on slabs), voxels beyond it may hold any value above it: only boxes around the sites are computed.
    """
    own, early = (nearest(places, thorax, p, limit) for places in (sites.own, sites.early))
    out = in_order(early, own, sites.early_reach)
    if limit is None:
        return np.asarray(out * _outline(sites, p), np.float32)
    near = out < 1.7 * limit
    out[near] *= _outline(sites, pick(p, near))
    return out


def pick(p: Points, where: Array) -> Points:
    """Return the points of a slab where a bool (Z, Y, X) is true, as flat lists."""
    k, j, i = np.nonzero(where)
    return Points(p.z[k, 0, 0], p.y[0, j, i], p.x[0, j, i])


def _outline(sites: Sites, p: Points) -> Array:
    """Return the factor that makes outlines patchy."""
    return np.asarray(1 + sites.unevenness * field(sites.ragged, p, OUTLINE_MM), np.float32)


def in_order(early: Array, relative: Array, reach: float) -> Array:
    """Return the distance in which the early foci come first, up to `reach`, and then grow `SLOWER` times slower."""
    slower = np.where(early < reach, early, reach + SLOWER * (early - reach))
    return np.minimum(slower, relative + np.float32(reach))


def nearest(places: Places, thorax: Thorax, p: Points, limit: float | None) -> Array:
    """Return the smooth relative distance to the nearest of some sites."""
    out = np.full(np.broadcast_shapes(p.z.shape, p.y.shape, p.x.shape), FAR, np.float32)
    number = lobe(thorax, p)[0] if (places.lobes >= 0).any() else None
    for line, size, bound, wait in zip(*places, strict=True):
        box = (slice(None),) * p.z.ndim if limit is None else _box(line, size, p, limit)
        if box is None:
            continue
        part = p if limit is None else Points(p.z[box[0]], p.y[:, box[1], box[2]], p.x[:, box[1], box[2]])
        here = _one(line, size, part)
        if number is not None:
            here = np.where(number[box] == bound, here, here * 2.2 + 12)
        here += wait
        np.minimum(out[box], here, out=out[box])
    return out


def _one(line: Array, size: Array, p: Points) -> Array:
    """Return the relative distance to one site."""
    d = (line[3:] - line[:3]) / size
    z, y, x = (p.z - line[0]) / size[0], (p.y - line[1]) / size[1], (p.x - line[2]) / size[2]
    length = float(d @ d)
    if length > 1e-6:
        s = np.clip((z * d[0] + y * d[1] + x * d[2]) / np.float32(length), 0, 1)
        z, y, x = z - s * d[0], y - s * d[1], x - s * d[2]
    return np.asarray(np.sqrt(z * z + y * y + x * x), np.float32)


def _box(line: Array, size: Array, p: Points, limit: float) -> tuple[slice, slice, slice] | None:
    """Return the index box of a slab that a site can reach, or None."""
    reach = (limit * 1.6 + 1) * size
    low, high = np.minimum(line[:3], line[3:]) - reach, np.maximum(line[:3], line[3:]) + reach
    z = np.flatnonzero((p.z[:, 0, 0] >= low[0]) & (p.z[:, 0, 0] <= high[0]))
    plane = (p.y[0] >= low[1]) & (p.y[0] <= high[1]) & (p.x[0] >= low[2]) & (p.x[0] <= high[2])
    y, x = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    if not (len(z) and len(y) and len(x)):
        return None
    return slice(z[0], z[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


# --- how much ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """The rank q of a distance: the share of aerated lung nearer to a site, between knots."""

    distances: Array
    shares: Array

    def rank(self, relative: Array) -> Array:
        """Return q of relative distances."""
        return np.interp(relative, self.distances, self.shares).astype(np.float32)

    def distance(self, share: float) -> float:
        """Return the relative distance whose rank is `share`."""
        return float(np.interp(share, self.shares, self.distances))


def rank_of(relative: Array, weight: Array, knots: int = 256) -> Ranks:
    """Return the ranks of D over lung voxels with weights."""
    order = np.argsort(relative, kind="stable")
    total = np.cumsum(weight[order], dtype=np.float64)
    share = np.concatenate([[0.0], (total - 0.5 * weight[order]) / total[-1]])
    ascending = np.concatenate([[0.0], relative[order]])
    at = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, knots)])
    return Ranks(np.interp(at, share, ascending).astype(np.float32), at.astype(np.float32))


def weight(rank: Array, burden: float) -> Array:
    """Return how much of a place is lesion: its sum over the lung is `burden` whatever the pattern."""
    return soft(np.float32(1) - rank / np.float32(max(burden, 1e-6)), RIM)


def core(rank: Array, dense: float) -> Array:
    """Return how much of a place is consolidated."""
    return weight(rank, dense) if dense > 1e-5 else np.zeros_like(rank)


# --- fluid and texture ---------------------------------------------------------------------------------------------------


def effusion_height(thorax: Thorax, p: Points, inside: Array, sides: tuple[float, float]) -> Array:
    """Return how early free fluid fills a place, mm: low, behind and next to the chest wall first."""
    height = (p.y - thorax.half_depth) - 0.55 * p.z - 1.3 * np.maximum(inside, 0)
    share = np.where(p.x < 0, sides[0], sides[1])
    return np.where(share > 0, height - 30 * (1 - share), -FAR).astype(np.float32)


def septa(p: Points, cell_mm: float = 10.0) -> Array:
    """Return the distance (mm) to the walls of polygonal cells, the secondary lobules, at flat lists of points."""
    place = np.stack([p.z, p.y, p.x], axis=1) / np.float32(cell_mm)
    base = np.floor(place).astype(np.int32)
    first = np.full(len(place), 9, np.float32)
    second = first.copy()
    for step in np.ndindex(3, 3, 3):
        cell = base + (np.array(step, np.int32) - 1)
        gap = np.zeros(len(place), np.float32)
        for axis in range(3):
            gap += (cell[:, axis] + _jitter(cell, axis) - place[:, axis]) ** 2
        np.minimum(second, np.maximum(first, gap), out=second)
        np.minimum(first, gap, out=first)
    return (np.sqrt(second) - np.sqrt(first)) * np.float32(0.5 * cell_mm)


def _jitter(cell: Array, axis: int) -> Array:
    """Return a fixed pseudo-random number in [0.1, 0.9] for each cell and axis."""
    mixed = (cell.astype(np.uint32) * np.array([73856093, 19349663, 83492791], np.uint32)).sum(1, dtype=np.uint32)
    mixed = (mixed ^ np.uint32(0x9E3779B9 * (axis + 1) & 0xFFFFFFFF)) * np.uint32(2654435761)
    return (0.1 + 0.8 * ((mixed >> np.uint32(8)) & np.uint32(0xFFFF)) / np.float32(65535)).astype(np.float32)
