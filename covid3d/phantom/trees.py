"""Airways, arteries and veins: grown by halving clouds of points, drawn into slabs by the share of each voxel they fill."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from covid3d.phantom import chest, organs
from covid3d.phantom.lung import lobe
from covid3d.phantom.shapes import Array, Points, soft
from covid3d.phantom.thorax import Thorax

BLOOD_HU, WALL_HU, AIR_HU = np.float32(40), np.float32(10), np.float32(-985)
TIP_MM, MURRAY, LARGEST_MM = 0.46, 0.345, 6.5
LUMEN_SHARE, SMALLEST_LUMEN_MM = 0.78, 0.85
SPACING_MM = 8.0
ROUNDS = 26


@dataclass(frozen=True)
class Trees:
    """Segments, float32 (n, 9): start z y x, end z y x, radius at start and end (mm), index of the parent or -1.

    `vessels` holds arteries, then veins; `airways` the trachea and all branches with their lumen's radii.
    """

    vessels: Array
    airways: Array


@dataclass
class _Nodes:
    """A tree's nodes in order of growth: position z y x, parent node, radius, and the way to the side."""

    place: Array
    parent: Array
    radius: Array
    aside: Array


def wall_mm(radius: Array) -> Array:
    """Return the thickness of an airway's wall for a lumen's radius, mm."""
    return np.asarray(0.28 + 0.12 * radius)


def grow(thorax: Thorax, rng: np.random.Generator) -> Trees:
    """Grow a patient's trees: arteries beside the airways of each lobe, veins between them."""
    points, lobes = _targets(thorax, rng)
    regions = _regions(thorax, points, lobes)
    venous = rng.random(len(points)) < 0.5
    trunk, starts = _bronchi(thorax)
    tree = _fill(trunk, points[~venous], regions[~venous], starts, rng)
    airways = _pipes(tree, LUMEN_SHARE * tree.radius, SMALLEST_LUMEN_MM)
    arteries = _pipes(_beside(thorax, tree, len(trunk.place)), None, 0.0)
    roots, starts = _venous_roots(thorax)
    veins = _pipes(_fill(roots, points[venous], regions[venous], starts, rng), None, 0.0)
    veins[:, 8] += np.where(veins[:, 8] >= 0, len(arteries), 0)
    vessels = np.concatenate([arteries, veins])
    vessels[:, 6:8] *= np.float32(np.clip(rng.normal(1.10, 0.12), 0.9, 1.5))  # the patient's calibre
    return Trees(vessels, airways)


def _targets(thorax: Thorax, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the branches' tips, jittered grid points inside the lungs and off the fissures, and their lobes."""
    spans = ((0.0, thorax.height), (-1.1 * thorax.half_depth, 1.2 * thorax.half_depth))
    axes = [np.arange(a, b, SPACING_MM) for a, b in (*spans, (-thorax.half_width, thorax.half_width))]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = (grid + rng.uniform(0, SPACING_MM, grid.shape)).astype(np.float32)
    p = Points(*grid.T)
    inside, t = chest.cavity(thorax, p)
    number, gap = lobe(thorax, p)
    depth = chest.lungs(thorax, p, inside, t)
    share = np.clip(12 / np.maximum(depth, 1), 0.3, 1)
    kept = (depth > rng.uniform(2, 8, len(grid))) & (gap > 4) & (rng.random(len(grid)) < share)
    return grid[kept], number[kept]


def _regions(thorax: Thorax, points: Array, lobes: Array) -> Array:
    """Return which of eight regions points lie in: rul, rml, lower right's tip and base, lul's top and lingula, likewise lll."""
    z = points[:, 0]
    tip = z > np.where(points[:, 2] < 0, *(chest.hilum(thorax, side)[0] - 18 for side in (-1, 1)))
    lingula = z < chest.hilum(thorax, 1)[0] - 4
    return np.asarray(np.array([0, 1, 3, 4, 7])[lobes] - ((lobes == 2) | (lobes == 4)) * tip + (lobes == 3) * lingula)


def _bronchi(thorax: Thorax) -> tuple[_Nodes, tuple[int, ...]]:
    """Return trachea, main and lobar bronchi, and the nodes that feed each region."""
    carina = np.array(organs.carina(thorax))
    right, left = (np.asarray(chest.hilum(thorax, side), float) for side in (-1, 1))
    top = np.array([1.13 * thorax.height, organs.spine_y(thorax, np.array(1.1 * thorax.height)) - 33, 0.0])
    h = thorax.height / 255
    fork = carina + 0.62 * (right - carina)
    lower, end = np.add(right, (-10 * h, 4.0, 0.0)), np.add(left, (0.0, 2.0, -4.0))
    rows = (
        (top, -1, 1.0),
        (carina + 0.4 * (top - carina), 0, 1.0),
        (carina, 1, 0.98),
        (fork, 2, 0.78),
        (lower, 3, 0.62),
        (end, 2, 0.68),
        (np.add(fork, (6 * h, 2.0, -15.0)), 3, 0.48),
        (np.add(lower, (-8 * h, -14.0, -8.0)), 4, 0.36),
        (np.add(lower, (-8 * h, 5.0, -1.0)), 4, 0.56),
        (np.add(lower, (-34 * h, 10.0, -9.0)), 8, 0.42),
        (np.add(end, (7 * h, -5.0, 12.0)), 5, 0.44),
        (np.add(end, (-5 * h, -13.0, 12.0)), 5, 0.38),
        (np.add(end, (-14 * h, 8.0, 5.0)), 5, 0.52),
        (np.add(end, (-40 * h, 13.0, 10.0)), 12, 0.40),
    )
    return _trunk(rows, _tracheal_radius(thorax) / LUMEN_SHARE, carina[2]), (6, 7, 8, 9, 10, 11, 12, 13)


def _trunk(rows: Sequence[tuple[Array, int, float]], size: float, middle: float) -> _Nodes:
    """Return nodes from rows of place, parent and radius in units of `size`."""
    places = np.array([row[0] for row in rows])
    aside = np.tile(np.array([0.3, -1.0, 0.0]), (len(rows), 1))
    aside[:, 2] = np.sign(np.round(places[:, 2] - middle))
    return _Nodes(places, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]) * size, _unit(aside))


def _tracheal_radius(thorax: Thorax) -> float:
    """Return the trachea's radius (mm): about 9 in men, 7.5 in women, by the size of the chest."""
    return float(np.clip(8.2 + 0.055 * (thorax.half_width - 122), 6.5, 10.5))


def _venous_roots(thorax: Thorax) -> tuple[_Nodes, tuple[int, ...]]:
    """Return the pulmonary veins from the left atrium's corners, and the nodes that feed each region."""
    atrium = np.array([0.325 * thorax.height + 22, -0.16 * thorax.half_depth, thorax.lean + 10])
    rows: list[tuple[Array, int, float]] = []
    for side in (-1, 1):
        hilum, first = np.asarray(chest.hilum(thorax, side), float), len(rows)
        corner = np.add(atrium, (0.0, 0.0, 20.0 * side))
        rows += [
            (corner, -1, 7.0),
            (np.add(hilum, (-4.0, -16.0, 4.0 * side)), first, 5.2),
            (np.add(corner, (-6.0, 12.0, 26.0 * side)), first, 5.4),
        ]
    return _trunk(rows, 1.0, atrium[2]), (1, 1, 2, 2, 4, 4, 5, 5)


def _fill(trunk: _Nodes, points: Array, regions: Array, starts: tuple[int, ...], rng: np.random.Generator) -> _Nodes:
    """Grow one branch a round towards the middle of each group of points, then halve the group, until single points."""
    place, parent, radius, aside = [trunk.place], [trunk.parent], [trunk.radius], [trunk.aside]
    total, group = len(trunk.place), regions.astype(int)
    anchor, way, limit = np.array(starts), trunk.place[list(starts)], trunk.radius[list(starts)]
    side, before = trunk.aside[list(starts)], np.zeros((len(starts), 3))
    for _ in range(ROUNDS):
        if not len(points):
            break
        count, centre = _centres(points, group)
        single = count < 1.5
        ahead = centre - way
        share = np.where(single, 1.0, rng.uniform(0.42, 0.68, len(count)))
        length = np.linalg.norm(ahead, axis=1, keepdims=True)
        ahead = _unit(_unit(ahead) + np.where(single, 0.0, 0.45)[:, None] * before)
        node = np.where(single[:, None], centre, way + ahead * length * share[:, None])
        limit = np.minimum(TIP_MM * count**MURRAY * rng.uniform(0.8, 1.15, len(count)), limit)
        side = _unit(_across(side, ahead) + rng.normal(0, 0.15, side.shape))
        for rows, new in ((place, node), (parent, anchor), (radius, limit), (aside, side)):
            rows.append(new)
        high = _halves(points, group, centre, ahead, rng.uniform(-0.45, 0.45, len(count)))
        kept = ~single[group]
        points, code = points[kept], (2 * group + high)[kept]
        split, group = np.unique(code, return_inverse=True)
        old = split // 2
        anchor, way, limit, side, before = total + old, node[old], limit[old], side[old], ahead[old]
        total += len(count)
    return _Nodes(np.concatenate(place), np.concatenate(parent), np.concatenate(radius), np.concatenate(aside))


def _centres(points: Array, group: Array) -> tuple[Array, Array]:
    """Return each group's count and mean point."""
    count = np.bincount(group).astype(float)
    total = np.stack([np.bincount(group, points[:, i]) for i in range(3)], axis=1)
    return count, total / np.maximum(count, 1)[:, None]


def _halves(points: Array, group: Array, centre: Array, ahead: Array, shift: Array) -> Array:
    """Tell which points lie on the far side of their group's plane, set across the longest axis beside the branch."""
    off = points - centre[group]
    along = np.einsum("ni,ni->n", off, ahead[group])
    off = off - 0.6 * along[:, None] * ahead[group]
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    spread = np.zeros((len(centre), 3, 3))
    for i, j in pairs:
        spread[:, i, j] = spread[:, j, i] = np.bincount(group, off[:, i] * off[:, j], len(centre))
    _, axes = np.linalg.eigh(spread)
    sd = np.sqrt(np.trace(spread, axis1=1, axis2=2) / np.maximum(np.bincount(group), 1))
    return np.einsum("ni,ni->n", off, axes[group, :, 2]) > (shift * sd)[group]


def _across(vectors: Array, ahead: Array) -> Array:
    """Return the part of vectors at right angles to unit directions."""
    return np.asarray(vectors - np.einsum("ni,ni->n", vectors, ahead)[:, None] * ahead)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))


def _beside(thorax: Thorax, tree: _Nodes, trunk: int) -> _Nodes:
    """Return the arteries that run beside a bronchial tree; their own trunk starts at each hilum."""
    lumen = LUMEN_SHARE * tree.radius
    radius = np.minimum(tree.radius, LARGEST_MM)
    gap = np.where(lumen > SMALLEST_LUMEN_MM, lumen + wall_mm(lumen) + radius, radius)
    place = tree.place + tree.aside * gap[:, None]
    parent = tree.parent.copy()
    for node in range(trunk):
        place[node] = (
            chest.hilum(thorax, -1 if tree.place[node, 2] < tree.place[2, 2] else 1) if node < 6 else place[node]
        )
        parent[node] = -1 if node < 6 else parent[node]
    return _Nodes(place, parent, radius, tree.aside)


def _pipes(tree: _Nodes, lumen: Array | None, smallest: float) -> Array:
    """Return a tree's branches of at least the radius `smallest` as smooth chains of segments (n, 9)."""
    radius = tree.radius if lumen is None else lumen
    widest = np.zeros(len(radius))
    branch = np.flatnonzero(tree.parent >= 0)
    branch = branch[radius[branch] >= smallest]
    np.maximum.at(widest, tree.parent[branch], radius[branch])
    a, b = tree.place[tree.parent[branch]], tree.place[branch]
    length = np.linalg.norm(b - a, axis=1)
    own = (b - a) / np.maximum(length, 1e-6)[:, None]
    into = np.zeros_like(tree.place)
    into[branch] = own
    main = radius[branch] >= widest[tree.parent[branch]] - 1e-9
    after = into.copy()
    after[tree.parent[branch[main]]] = own[main]
    tangent = _unit(1.2 * into + after)
    leave = np.where(main[:, None], 1.0, 0.45) * tangent[tree.parent[branch]]
    leave = _unit(leave + np.where(main[:, None], 0.0, 0.8) * own) * 0.8 * length[:, None]
    arrive = _unit(tangent[branch] + 0.3 * own) * 0.8 * length[:, None]
    start_r = radius[branch]
    end_r = np.where(widest[branch] > 0, 0.4 * start_r + 0.6 * np.minimum(widest[branch], start_r), 0.8 * start_r)
    pieces = np.clip(np.ceil(length / 5.0), 1, 4).astype(int)
    first = np.cumsum(pieces) - pieces
    owner = np.repeat(np.arange(len(branch)), pieces)
    step = np.arange(len(owner)) - first[owner]
    out = np.empty((len(owner), 9), np.float32)
    for column, k in ((0, step), (3, step + 1)):
        s = (k / pieces[owner])[:, None]
        out[:, column : column + 3] = (
            (1 + 2 * s) * (1 - s) ** 2 * a[owner]
            + s * (1 - s) ** 2 * leave[owner]
            + s * s * (3 - 2 * s) * b[owner]
            - s * s * (1 - s) * arrive[owner]
        )
        out[:, 6 + column // 3] = start_r[owner] + s[:, 0] * (end_r - start_r)[owner]
    last = np.full(len(radius), -1)
    last[branch] = first + pieces - 1
    out[:, 8] = np.where(step > 0, np.arange(len(owner)) - 1, last[tree.parent[branch]][owner])
    return out


def add_vessels(filling: Array, trees: Trees, p: Points, edge: float, thickness: float | None = None) -> None:
    """Fill voxels of a slab with blood by the vessels' share, in place; a slice is `thickness` mm deep (default `edge`)."""
    share = _shares(p, trees.vessels, edge, thickness or edge)
    filling += share * np.maximum(BLOOD_HU - filling, 0)


def add_airways(hu: Array, trees: Trees, p: Points, edge: float, thickness: float | None = None) -> None:
    """Put the airways' walls and air into a slab, in place, over whatever surrounds them."""
    outer = trees.airways.copy()
    outer[:, 6:8] += wall_mm(outer[:, 6:8])
    lumen = _shares(p, trees.airways, edge, thickness or edge)
    wall = np.maximum(_shares(p, outer, edge, thickness or edge), lumen)
    hu += wall * (WALL_HU - hu) + lumen * (AIR_HU - WALL_HU)


@dataclass(frozen=True)
class _Slab:
    """A slab's voxels: z of the slices, the plane's origin (y, x), its inverse steps (2, 2), sizes in mm."""

    z: Array
    origin: Array
    inverse: Array
    shape: tuple[int, int, int]
    pixel: float
    thickness: float

    def row_column(self, y: Array, x: Array) -> tuple[Array, Array]:
        """Return fractional rows and columns of points."""
        v, u = y - self.origin[0], x - self.origin[1]
        return self.inverse[0, 0] * v + self.inverse[0, 1] * u, self.inverse[1, 0] * v + self.inverse[1, 1] * u


def _slab(p: Points, thickness: float) -> _Slab:
    """Read a slab's geometry off its coordinates; y and x may be (1, Y, X) turned planes or (1, Y, 1) and (1, 1, X)."""
    shape = np.broadcast_shapes(p.z.shape, p.y.shape, p.x.shape)
    y, x = (np.broadcast_to(axis, (1, *shape[1:]))[0].astype(float) for axis in (p.y, p.x))
    steps = np.array([[y[-1, 0] - y[0, 0], y[0, -1] - y[0, 0]], [x[-1, 0] - x[0, 0], x[0, -1] - x[0, 0]]])
    steps /= (shape[1] - 1, shape[2] - 1)
    origin = np.array([y[0, 0], x[0, 0]])
    pixel = float(np.sqrt(abs(np.linalg.det(steps))))
    return _Slab(p.z[:, 0, 0].astype(float), origin, np.linalg.inv(steps), shape, pixel, thickness)  # type: ignore[arg-type]


def _shares(p: Points, segments: Array, edge: float, thickness: float) -> Array:
    """Return the share of each voxel that lies inside the segments, float32 (Z, Y, X)."""
    slab = _slab(p, thickness)
    reach = np.maximum(segments[:, 6], segments[:, 7]) + edge + thickness
    low, high = np.minimum(segments[:, 0], segments[:, 3]) - reach, np.maximum(segments[:, 0], segments[:, 3]) + reach
    near = segments[(high >= slab.z.min()) & (low <= slab.z.max())]
    thick = near[:, 6] > 1.7 * slab.pixel
    share = _splat(slab, near[~thick])
    for segment in near[thick]:
        _draw(share, slab, p, segment, edge)
    return np.minimum(share, 1, out=share)


def _draw(share: Array, slab: _Slab, p: Points, segment: Array, edge: float) -> None:
    """Raise the share to that of one tapering tube, inside its box, in place."""
    a, b, r0, r1 = segment[:3], segment[3:6], float(segment[6]), float(segment[7])
    reach = max(r0, r1) + edge
    rows, columns = slab.row_column(segment[[1, 4]], segment[[2, 5]])
    box = [np.flatnonzero((slab.z >= min(a[0], b[0]) - reach) & (slab.z <= max(a[0], b[0]) + reach))]
    for ends, size in ((rows, slab.shape[1]), (columns, slab.shape[2])):
        margin = 1.5 * reach / slab.pixel
        box.append(np.arange(max(0, int(ends.min() - margin)), min(size, int(ends.max() + margin) + 2)))
    if not all(len(k) for k in box):
        return
    k, j, i = (slice(int(q[0]), int(q[-1]) + 1) for q in box)
    y, x = (
        axis[:, j if axis.shape[1] > 1 else slice(None), i if axis.shape[2] > 1 else slice(None)] for axis in (p.y, p.x)
    )
    d = b - a
    z, y, x = p.z[k] - a[0], y - a[1], x - a[2]
    s = np.clip((z * d[0] + (y * d[1] + x * d[2])) / max(float(d @ d), 1e-6), 0, 1)
    gap = np.sqrt((z - s * d[0]) ** 2 + (y - s * d[1]) ** 2 + (x - s * d[2]) ** 2)
    view = share[k, j, i]
    np.maximum(view, soft(r0 + s * (r1 - r0) - gap, edge), out=view)


def _splat(slab: _Slab, segments: Array) -> Array:
    """Return the voxel shares of thin segments: points along each carry its volume, spread over the eight voxels around."""
    depth, rows, columns = slab.shape
    points, volume = _cloud(slab, segments)
    weight = volume / (slab.pixel**2 * slab.thickness)
    row, column = slab.row_column(points[:, 1], points[:, 2])
    gap = abs(slab.z[-1] - slab.z[0]) / max(1, depth - 1)
    sign = 1.0 if slab.z[-1] >= slab.z[0] else -1.0
    first = (
        np.floor(sign * (points[:, 0] - slab.z[0]) / max(gap, 1e-6) - slab.thickness / max(gap, 1e-6)).astype(int) + 1
    )
    many = int(2 * slab.thickness / gap) + 1 if gap else 1
    first = first if gap else np.zeros(len(points), int)
    j0, i0 = np.floor(row).astype(int), np.floor(column).astype(int)
    where, shares = [], []
    for k in range(many):
        z = first + k
        along = np.clip(1 - np.abs(slab.z[np.clip(z, 0, depth - 1)] - points[:, 0]) / slab.thickness, 0, 1) * weight
        inside = (z >= 0) & (z < depth) & (along > 0)
        for j, i in ((j0, i0), (j0, i0 + 1), (j0 + 1, i0), (j0 + 1, i0 + 1)):
            ok = np.flatnonzero(inside & (j >= 0) & (j < rows) & (i >= 0) & (i < columns))
            shares.append(along[ok] * (1 - np.abs(row[ok] - j[ok])) * (1 - np.abs(column[ok] - i[ok])))
            where.append((z[ok] * rows + j[ok]) * columns + i[ok])
    total = np.bincount(np.concatenate(where), np.concatenate(shares), depth * rows * columns)
    return total.reshape(slab.shape).astype(np.float32)


def _cloud(slab: _Slab, segments: Array) -> tuple[Array, Array]:
    """Return points (n, 3) that fill thin tubes and the volume of each (mm3)."""
    a, b = segments[:, :3].astype(float), segments[:, 3:6].astype(float)
    length = np.linalg.norm(b - a, axis=1)
    pieces = np.maximum(1, np.ceil(length / (0.7 * min(slab.pixel, slab.thickness)))).astype(int)
    owner = np.repeat(np.arange(len(a)), pieces)
    s = (np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces) + 0.5) / pieces[owner]
    centre = a[owner] + s[:, None] * (b - a)[owner]
    radius = segments[owner, 6] + s * (segments[owner, 7] - segments[owner, 6])
    volume = np.pi * radius**2 * (length / pieces)[owner]
    ahead = _unit(b - a)
    one = _unit(np.cross(ahead, np.eye(3)[np.argmin(np.abs(ahead), axis=1)]))[owner]
    two = np.cross(ahead[owner], one)
    rings = np.digitize(radius / slab.pixel, (0.4, 1.0))
    points, volumes = [], []
    for level, disc in enumerate(_DISCS):
        own = rings == level
        offset = disc[:, :1, None] * one[own] + disc[:, 1:, None] * two[own]
        points.append((centre[own] + offset * radius[own][:, None]).reshape(-1, 3))
        volumes.append(np.tile(volume[own] / len(disc), len(disc)))
    return np.concatenate(points), np.concatenate(volumes)


def _disc(*rings: tuple[int, float]) -> Array:
    """Return points of a unit disc on rings (count, radius), (n, 2)."""
    angles = [(r * np.cos(t), r * np.sin(t)) for n, r in rings for t in 2 * np.pi * (np.arange(n) + 0.25) / n]
    return np.array(angles)


_DISCS = (_disc((1, 0.0)), _disc((1, 0.0), (6, 0.764)), _disc((1, 0.0), (6, 0.46), (12, 0.84)))
