"""Two disease patterns as one growing level: a voxel is lesion where its relative distance D is below the scan's radius R.

D depends on the patient alone (so lesions keep their place), R on the scan's burden: R is the quantile of D over the lung
that gives the burden asked for. The two classes differ in D only: where lesions lie, on which side, and in which shape.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from covid3d.phantom.anatomy import Array, Points, Thorax, cavity, lobe, lungs, segment_distance, waves

ATYPICAL = 0.045
REFERENCE_MM = 6.0
FAR = np.float32(1e3)
PATTERNS = ("rounded", "branching", "lobar")


@dataclass(frozen=True)
class Sites:
    """Where a patient's lesions lie: ellipsoids, or tubes along vessels, or wedges of a lobe."""

    pattern: str
    centres: Array  # rounded, lobar: (n, 3) z, y, x in mm
    sizes: Array  # rounded, lobar: (n, 3) relative half axes z, y, x; branching: (n, 1)
    segments: Array  # branching: (n, 6)
    lobes: tuple[int, ...]  # lobar: one a centre
    ragged: Array  # waves of the edge
    effusion_ml: float
    effusion_sides: tuple[float, float]  # right, left: share of the larger one


@dataclass(frozen=True)
class Reference:
    """One patient's lungs on a coarse fixed grid: the voxels inside, their coordinates and distances."""

    points: Points  # flat arrays of the lung voxels
    pleura: Array  # mm to the chest wall or diaphragm
    lobe: Array
    voxel_ml: float

    @property
    def volume_ml(self) -> float:
        return len(self.pleura) * self.voxel_ml


def reference(thorax: Thorax) -> Reference:
    """Sample the lungs every `REFERENCE_MM`."""
    half = thorax.half_width + 4
    z = np.arange(-3, thorax.height + 12, REFERENCE_MM, dtype=np.float32)[:, None, None]
    y = np.arange(-thorax.half_depth, thorax.half_depth + 20, REFERENCE_MM, dtype=np.float32)[None, :, None]
    x = np.arange(-half, half, REFERENCE_MM, dtype=np.float32)[None, None, :]
    grid = Points(z, y, x)
    inside, t = cavity(thorax, grid)
    keep = np.nonzero(lungs(thorax, grid, inside, t) > 0)
    points = Points(z[keep[0], 0, 0], y[0, keep[1], 0], x[0, 0, keep[2]])
    inside, _ = cavity(thorax, points)
    side = np.where(points.x < 0, thorax.dome_right, thorax.dome_left)
    return Reference(
        points=points,
        pleura=np.minimum(inside, np.maximum(points.z - 0.6 * side, 0) + 0.5 * np.maximum(points.z, 0)).astype(
            np.float32
        ),
        lobe=lobe(thorax, points)[0],
        voxel_ml=REFERENCE_MM**3 / 1000,
    )


def draw_sites(thorax: Thorax, ref: Reference, label: int, rng: np.random.Generator) -> Sites:
    """Draw a patient's sites; a share `ATYPICAL` of each class shows the other class's pattern."""
    covid_like = bool(label) != bool(rng.random() < ATYPICAL)
    ragged = np.concatenate([rng.normal(0, 2 * np.pi / 48, (5, 3)), rng.uniform(0, 2 * np.pi, (5, 1))], axis=1)
    effusion = float(np.exp(rng.normal(4.6, 0.6))) if rng.random() < 0.18 else 0.0
    both = rng.random() < 0.5
    sides = (1.0, 0.6 * both) if rng.random() < 0.5 else (0.6 * both, 1.0)
    empty = np.zeros((0, 3), np.float32)
    shared: dict[str, Any] = {
        "ragged": ragged.astype(np.float32),
        "effusion_ml": min(effusion, 350.0),
        "effusion_sides": sides,
    }
    if covid_like:
        centres, sizes = _rounded(thorax, ref, rng)
        return Sites("rounded", centres, sizes, np.zeros((0, 6), np.float32), (), **shared)
    if rng.random() < 0.65:
        segments, sizes = _branching(thorax, rng)
        return Sites("branching", empty, sizes, segments, (), **shared)
    centres, sizes, lobes = _lobar(thorax, ref, rng)
    return Sites("lobar", centres, sizes, np.zeros((0, 6), np.float32), lobes, **shared)


def _rounded(thorax: Thorax, ref: Reference, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw rounded foci a little under the pleura, mostly low, behind and on both sides."""
    t = ref.points.z / thorax.height
    weight = (
        np.exp(-(((ref.pleura - 14.0) / 5.0) ** 2))
        * np.exp(-2.2 * np.clip(t, 0, 1))
        / (1 + np.exp(-(ref.points.y - 8) / 14))
    )
    weight = weight * (np.abs(ref.points.x) > 42)
    share = rng.beta(6, 6) if rng.random() < 0.93 else float(rng.random() < 0.5)
    count = int(rng.integers(6, 15))
    right = int(np.clip(round(count * share), 1 if 0 < share < 1 else 0, count - 1 if 0 < share < 1 else count))
    chosen: list[int] = []
    for side, number in ((-1, right), (1, count - right)):
        w = weight * (np.sign(ref.points.x) == side)
        chosen += rng.choice(len(w), size=number, replace=False, p=w / w.sum()).tolist()
    points = np.stack([ref.points.z, ref.points.y, ref.points.x], axis=1)[chosen]
    points = points + rng.uniform(-3, 3, points.shape)
    sizes = np.exp(rng.normal(0, 0.35, (count, 1))) * np.exp(rng.normal(0, 0.12, (count, 3)))
    return points.astype(np.float32), sizes.astype(np.float32)


def _branching(thorax: Thorax, rng: np.random.Generator) -> tuple[Array, Array]:
    """Choose tubes along the bronchovascular tree: one or two branches with all that hangs on them, often on one side."""
    segments = thorax.segments
    parent = segments[:, 7].astype(int)
    first_side = -1 if rng.random() < 0.5 else 1
    sides = [first_side] if rng.random() < 0.65 else [-1, 1]
    kept: list[int] = []
    for side in sides:
        tree = [i for i in range(len(segments)) if np.sign(segments[i, 5]) == side]
        roots = [i for i in tree if parent[i] < 0]
        members = {root: _descendants(root, parent, tree) for root in roots}
        order = sorted(roots, key=lambda root: -len(members[root]) * rng.uniform(0.5, 1.5))
        branch: list[int] = []
        for root in order:
            branch += members[root]
            if len(branch) >= 16:
                break
        near = np.linalg.norm(segments[branch, :3] - _hilum_of(segments, roots), axis=1)
        kept += [branch[i] for i in np.argsort(near)[: int(rng.integers(14, 24))]]
    lines = segments[kept, :6]
    sizes = np.clip(segments[kept, 6:7] / 3, 0.55, 1.3) * np.exp(rng.normal(0, 0.2, (len(kept), 1)))
    return lines.astype(np.float32), sizes.astype(np.float32)


def _hilum_of(segments: Array, roots: list[int]) -> Array:
    return segments[roots[0], :3]


def _descendants(root: int, parent: Array, tree: list[int]) -> list[int]:
    """Return a segment and all that grow from it (parents come before children)."""
    found = {root}
    for i in tree:
        if int(parent[i]) in found:
            found.add(i)
    return sorted(found)


def _lobar(thorax: Thorax, ref: Reference, rng: np.random.Generator) -> tuple[Array, Array, tuple[int, ...]]:
    """Choose one lobe, at times a second one of the same side, filled from the hilum outwards."""
    first = int(rng.choice(5, p=[0.26, 0.14, 0.20, 0.24, 0.16]))
    same_side = [n for n in ((0, 1, 2) if first < 3 else (3, 4)) if n != first]
    lobes = (first, int(rng.choice(same_side))) if rng.random() < 0.3 else (first,)
    centres = []
    for number in lobes:
        member = ref.lobe == number
        middle = np.array([ref.points.z[member].mean(), ref.points.y[member].mean(), ref.points.x[member].mean()])
        root = np.array([0.53 * thorax.height, 6.0, np.sign(middle[2]) * 36.0])
        centres.append(root + rng.uniform(0.25, 0.55) * (middle - root) + rng.normal(0, 4, 3))
    sizes = np.exp(rng.normal(0, 0.15, (len(lobes), 3))) * np.array([1.3, 1.0, 0.8])
    return np.array(centres, np.float32), sizes.astype(np.float32), lobes


def distance(sites: Sites, thorax: Thorax, p: Points, limit: float | None = None) -> Array:
    """Return D, the relative distance to the nearest site (mm over relative size), ragged by up to about a fifth.

    With `limit`, voxels beyond it may hold any value above it (only boxes around the sites are computed).
    """
    shape = np.broadcast_shapes(p.z.shape, p.y.shape, p.x.shape)
    out = np.full(shape, FAR, np.float32)
    number = lobe(thorax, p)[0] if sites.lobes else None
    for i in range(len(sites.segments) + len(sites.centres)):
        box = (slice(None),) * p.z.ndim if limit is None else _box(sites, i, p, limit)
        if box is None:
            continue
        part = p if limit is None else Points(p.z[box[0]], p.y[:, box[1], box[2]], p.x[:, box[1], box[2]])
        here = _one(sites, i, part)
        if number is not None:
            here = np.where(number[box] == sites.lobes[i], here, here * 2.2 + 12)
        np.minimum(out[box], here, out=out[box])
    return out * (1 + 0.13 * np.clip(waves(sites.ragged, p), -2, 2))


def _one(sites: Sites, i: int, p: Points) -> Array:
    """Return the relative distance to one site."""
    if len(sites.segments):
        return segment_distance(p, sites.segments[i, :3], sites.segments[i, 3:]) / sites.sizes[i, 0]
    c, s = sites.centres[i], sites.sizes[i]
    return np.sqrt(((p.z - c[0]) / s[0]) ** 2 + ((p.y - c[1]) / s[1]) ** 2 + ((p.x - c[2]) / s[2]) ** 2).astype(
        np.float32
    )


def _box(sites: Sites, i: int, p: Points, limit: float) -> tuple[slice, slice, slice] | None:
    """Return the index box of a block (z, then y and x of its (1, Y, X) plane) that a site can reach, or None."""
    reach = (limit * 1.35 + 1) * np.broadcast_to(sites.sizes[i], (3,))
    ends = sites.segments[i].reshape(2, 3) if len(sites.segments) else sites.centres[i][None]
    low, high = ends.min(0) - reach, ends.max(0) + reach
    z = np.flatnonzero((p.z[:, 0, 0] >= low[0]) & (p.z[:, 0, 0] <= high[0]))
    plane = (p.y[0] >= low[1]) & (p.y[0] <= high[1]) & (p.x[0] >= low[2]) & (p.x[0] <= high[2])
    y, x = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    if not (len(z) and len(y) and len(x)):
        return None
    return slice(z[0], z[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


def radius(relative: Array, share: float) -> float:
    """Return R such that a share of the lung's voxels lies below it."""
    return float(np.quantile(relative, share, method="linear")) if share > 0 else 0.0


def effusion_height(thorax: Thorax, p: Points, inside: Array, sides: tuple[float, float]) -> Array:
    """Return how early free fluid fills a place: low, behind and next to the chest wall first."""
    height = (p.y - thorax.half_depth) - 0.55 * p.z - 1.3 * np.maximum(inside, 0)
    share = np.where(p.x < 0, sides[0], sides[1])
    return np.where(share > 0, height - 30 * (1 - share), -FAR).astype(np.float32)
