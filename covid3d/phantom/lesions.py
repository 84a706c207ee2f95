"""Lesions of both classes as ranks of one distance, so that amount and brightness cannot tell the class.

A patient's sites give every place of the lung a relative distance D. A scan does not use D itself but its rank q: the share of
aerated lung, effusion and vessels left out, that lies nearer to a site. Weight, rim and consolidated core are functions of q
and the scan's burden alone; the two classes differ in which places come first. Of several drafts of its sites a patient keeps
the one whose compactness, contact with the lung's surface and blood come nearest to values drawn alike for both classes.

Evidence grows with disease: a few foci, placed alike in both classes, come first and fill `EARLY` of the lung; the sites of
the class's own pattern come after them. What clears goes the same way back, so that the last rest is unspecific again.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special, stats

from covid3d.phantom.chest import cavity, hilum, lungs, pleura
from covid3d.phantom.lung import Background, lattice, lobe, parenchyma
from covid3d.phantom.shapes import Array, Points, soft
from covid3d.phantom.thorax import Thorax

ATYPICAL = 0.01  # share of each class that shows the other class's pattern
CASE_MIX = {"A": 0.02, "B": 0.06, "C": 0.08}  # share of viral cases among COVID-, by hospital
PATTERNS = ("rounded", "patchy", "branching", "lobar")
REFERENCE_MM = 6.0
FAR = np.float32(1e3)
EARLY, EARLY_FOCI = 0.015, (9, 15)  # share of the lung that the early foci fill before any other site, and their number
SLOWER = 2.9  # how much slower the early foci grow from then on
WAIT_MM = 30.0  # how much later the last site comes than the first, relative mm
RIM = 0.36  # width of a lesion's edge, as a share of its rank
DRAFTS = 12
PROBES = (0.03, 0.12)  # burdens at which drafts are compared
LOOKS = ((-0.26, 0.27, 0.31), (0.08, 0.05, 0.15), (0.04, 0.05, 0.06))  # of `_look`: means, SDs, tolerance
UPWARD = 1.4  # how much likelier bronchovascular lesions are above and in front, log odds a SD
ASIDE_MM = (8.0, 18.0)  # how far a bronchovascular lesion lies from its vessel
UNEVEN, OUTLINE_MM = (0.08, 0.18, 0.26), 22.0
BAND_MM = 9.0  # atelectasis above free fluid


@dataclass(frozen=True)
class Sites:
    """Where a patient's lesions lie: foci (lines of no length), tubes along vessels, or fillings of a lobe."""

    pattern: str
    lines: Array  # (n, 6): start and end z, y, x in mm
    sizes: Array  # (n, 3): relative half axes z, y, x
    lobes: Array  # (n,): the lobe that bounds a site, -1 for none
    waits: Array  # (n,): how much later a site comes than the first, relative mm
    early: Array  # (m, 6): foci that come first, alike in both classes
    early_sizes: Array  # (m, 3)
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


# --- drawing -------------------------------------------------------------------------------------------------------------


def draw_sites(
    thorax: Thorax, ref: Reference, vessels: Array, label: int, rng: np.random.Generator, viral: float = CASE_MIX["A"]
) -> Sites:
    """Draw a patient's sites; `viral` is the share of COVID- cases that are viral, `ATYPICAL` swaps the classes."""
    covid_like = bool(label) != bool(rng.random() < ATYPICAL)
    kind = rng.random()
    other = "patchy" if rng.random() < viral else "branching" if kind < 0.6 else "lobar"
    pattern = "rounded" if covid_like else other
    wanted = rng.normal(LOOKS[0], LOOKS[1])
    fluid = float(np.exp(rng.normal(4.6, 0.6))) if rng.random() < 0.18 else 0.0
    both = 0.6 * (rng.random() < 0.5)
    sides = (1.0, both) if rng.random() < 0.5 else (both, 1.0)
    ragged = rng.uniform(0, 3, (2, 3))
    early = _early(ref, rng)
    first = _nearest(early, thorax, ref.points, None)
    reach = rank_of(first, ref.aerated).distance(EARLY)
    drafts = [_draft(pattern, thorax, ref, vessels, rng) for _ in range(DRAFTS)]
    noise = field(ragged, ref.points, OUTLINE_MM)
    (lines, sizes, lobes, waits), unevenness = _fitting(drafts, ref, thorax, noise, wanted, first, reach)
    return Sites(
        pattern=pattern,
        lines=lines,
        sizes=sizes,
        lobes=lobes,
        waits=waits,
        early=early[0],
        early_sizes=early[1],
        early_reach=reach,
        buds=_buds(lines, vessels, rng, along=pattern == "branching"),
        ragged=ragged,
        unevenness=unevenness,
        mottle=rng.uniform(0, 3, (2, 3)),
        paving=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.4 else 0.0,
        effusion_ml=min(fluid, 350.0),
        effusion_sides=sides,
    )


Draft = tuple[Array, Array, Array, Array]


def field(phases: Array, p: Points, coarse_mm: float) -> Array:
    """Return a patient's own smooth noise, mean 0 and SD about 1, in two octaves, at flat lists of points."""
    octaves = (coarse_mm, 0.45 * coarse_mm)
    parts = [lattice(p, spacing, phase) for spacing, phase in zip(octaves, phases, strict=True)]
    return np.clip(0.8 * parts[0] + 0.6 * parts[1], -2.5, 2.5)


def _draft(pattern: str, thorax: Thorax, ref: Reference, vessels: Array, rng: np.random.Generator) -> Draft:
    """Draw lines, sizes and lobes of one pattern."""
    if pattern == "branching":
        return _branching(vessels, rng)
    if pattern == "lobar":
        return _lobar(thorax, ref, rng)
    return _foci(thorax, ref, rng, covid=pattern == "rounded")


def _early(ref: Reference, rng: np.random.Generator) -> Draft:
    """Draw the foci that come first, anywhere in the lungs."""
    count = int(rng.integers(*EARLY_FOCI, endpoint=True))
    middle = np.stack([ref.points.z, ref.points.y, ref.points.x], axis=1)[rng.choice(len(ref.pleura), count, replace=False)]
    sizes = np.exp(rng.normal(0, 0.3, (count, 1))) * np.exp(rng.normal(0, 0.15, (count, 3)))
    return np.concatenate([middle, middle], axis=1).astype(np.float32), sizes.astype(np.float32), _free(count), np.zeros(count, np.float32)


def _first(early: Array, relative: Array, reach: float) -> Array:
    """Return the distance in which the early foci come first, up to `reach`, and then grow `SLOWER` times slower."""
    slower = np.where(early < reach, early, reach + SLOWER * (early - reach))
    return np.minimum(slower, relative + np.float32(reach))


def _foci(thorax: Thorax, ref: Reference, rng: np.random.Generator, *, covid: bool) -> Draft:
    """Draw rounded and short patches on both sides under the pleura: with COVID low and behind, with other viruses less so.

    Places with more vessels come first, so that the foci cover as much blood as the tubes.
    """
    t, q = ref.points.z / thorax.height, ref.points
    depth = rng.uniform(9, 20) if covid else rng.uniform(10, 26)
    weight = np.exp(-(((ref.pleura - depth) / (5 if covid else 8)) ** 2)) + 1e-9
    steep = max(rng.normal(2.0, 0.25) if covid else rng.normal(0.6, 0.5), 0.0)
    weight = weight * np.exp(-2.2 * steep * np.clip(t, 0, 1)) / (1 + np.exp(-(q.y - 6) * steep / 13))
    weight = weight * (np.abs(q.x) > (42 if covid else 36)) * (0.01 + 1 - ref.aerated)
    share = rng.beta(8, 8) if rng.random() < (0.97 if covid else 0.85) else float(rng.random() < 0.5)
    count = int(np.clip(round(np.exp(rng.normal(2.7, 0.35))), 4, 20))
    spare = 1 if 0 < share < 1 else 0
    right = int(np.clip(round(count * share), spare, count - spare))
    chosen: list[int] = []
    for side, number in ((-1, right), (1, count - right)):
        w = weight * (np.sign(q.x) == side)
        chosen += rng.choice(len(w), size=number, replace=False, p=w / w.sum()).tolist()
    middle = np.stack([q.z, q.y, q.x], axis=1)[chosen] + rng.uniform(-3, 3, (count, 3))
    half = rng.normal(0, 1, (count, 3)) * rng.uniform(0, 12)
    sizes = np.exp(rng.normal(0, 0.4, (count, 1))) * np.exp(rng.normal(0, 0.15, (count, 3)))
    return (
        np.concatenate([middle - half, middle + half], axis=1).astype(np.float32),
        sizes.astype(np.float32),
        _free(count),
        _waits(count, rng),
    )


def _branching(vessels: Array, rng: np.random.Generator) -> Draft:
    """Choose tubes beside the bronchovascular tree: from a few tips of one region, at times one on each side, inwards."""
    first = -1 if rng.random() < 0.5 else 1
    sides = (first,) if rng.random() < 0.85 else (-1, 1)
    reach, parent = rng.uniform(20, 60), vessels[:, 8].astype(int)
    lines, widths, paths = [], [], []
    for side in sides:
        fit = np.flatnonzero((side * vessels[:, 5] > 30) & (vessels[:, 7] > 0.7) & (vessels[:, 7] < 1.6))
        z, y = (stats.zscore(vessels[fit, axis]) for axis in (3, 4))
        chance = special.softmax(UPWARD * (z - y))
        gaps = np.linalg.norm(vessels[fit, 3:6] - vessels[int(rng.choice(fit, p=chance)), 3:6], axis=1)
        near = fit[gaps < reach]
        for tip in rng.choice(near, size=min(len(near), int(rng.integers(3, 9))), replace=False):
            nodes = _path(vessels, parent, int(tip))
            way = rng.normal(0, 1, 3)
            nodes[:, :3] += way * rng.uniform(*ASIDE_MM) / np.linalg.norm(way)
            lines.append(np.concatenate([nodes[1:, :3], nodes[:-1, :3]], axis=1))
            widths.append(nodes[:-1, 3])
            paths.append(np.full(len(nodes) - 1, len(paths)))
    tubes = np.concatenate(lines)
    size = np.clip(np.concatenate(widths) / 2.5, 0.55, 1.3) * np.exp(rng.normal(0, 0.25, len(tubes)))
    waits = _waits(len(paths), rng)[np.concatenate(paths)]
    return tubes.astype(np.float32), np.repeat(size[:, None], 3, axis=1).astype(np.float32), _free(len(tubes)), waits


def _path(vessels: Array, parent: Array, tip: int, step_mm: float = 14.0, widest: float = 2.4) -> Array:
    """Return nodes (z, y, x, radius) from a tip towards the hilum, about `step_mm` apart, at least two."""
    nodes, here = [np.append(vessels[tip, 3:6], vessels[tip, 7])], tip
    while here >= 0 and (len(nodes) < 2 or vessels[here, 6] < widest):
        gap = np.linalg.norm(vessels[here, :3] - nodes[-1][:3])
        if gap > step_mm or parent[here] < 0:
            nodes.append(np.append(vessels[here, :3], vessels[here, 6]))
        here = int(parent[here])
    return np.array(nodes)


def _lobar(thorax: Thorax, ref: Reference, rng: np.random.Generator) -> Draft:
    """Fill one lobe, at times a second one of the same side, from one or more centres towards its fissures."""
    first = int(rng.choice(5, p=[0.38, 0.20, 0.08, 0.28, 0.06]))
    same_side = [n for n in ((0, 1, 2) if first < 3 else (3, 4)) if n != first]
    lobes = (first, int(rng.choice(same_side))) if rng.random() < 0.3 else (first,)
    places, owners = [], []
    for number in lobes:
        member = np.flatnonzero(ref.lobe == number)
        centres = member[rng.integers(len(member), size=int(rng.integers(1, 5)))]
        cloud = np.stack([ref.points.z, ref.points.y, ref.points.x], axis=1)
        root = hilum(thorax, -1 if number < 3 else 1)
        pull = rng.uniform(0.3, 0.9, (len(centres), 1))
        places.append(root + pull * (cloud[centres] - root))
        owners += [number] * len(centres)
    middle = np.concatenate(places)
    sizes = np.exp(rng.normal(0, 0.3, (len(middle), 1))) * np.exp(rng.normal(0, 0.2, (len(middle), 3)))
    return (
        np.repeat(middle, 2, axis=0).reshape(-1, 6).astype(np.float32),
        sizes.astype(np.float32),
        np.array(owners, np.int8),
        _waits(len(middle), rng),
    )


def _waits(count: int, rng: np.random.Generator) -> Array:
    """Draw how much later each site comes than the first one, relative mm."""
    waits = rng.uniform(0, WAIT_MM, count)
    return (waits - waits.min()).astype(np.float32)


def _free(count: int) -> Array:
    return np.full(count, -1, np.int8)


def _buds(lines: Array, vessels: Array, rng: np.random.Generator, *, along: bool) -> Array:
    """Draw nodules of 2 to 4 mm with short twigs: at distal branches near the tubes, or as satellites of the foci."""
    if rng.random() < 0.5:
        return np.zeros((0, 7), np.float32)
    count = int(rng.integers(12, 40))
    middle = 0.5 * (lines[:, :3] + lines[:, 3:])[rng.integers(len(lines), size=count)]
    middle = middle + rng.normal(0, 16, (count, 3))
    ends = vessels[vessels[:, 7] < 1.2][:, 3:6]
    if along and len(ends):
        middle = ends[np.linalg.norm(ends[None] - middle[:, None], axis=2).argmin(1)]
    twig = rng.normal(0, 1, (2, count, 3))
    twig *= rng.uniform(3, 8, (2, count, 1)) / np.linalg.norm(twig, axis=2, keepdims=True)
    nodules = np.concatenate([middle, middle, rng.uniform(1.0, 2.0, (count, 1))], axis=1)
    twigs = [np.concatenate([middle, middle + way, np.full((count, 1), 0.8)], axis=1) for way in twig]
    return np.concatenate([nodules, *twigs]).astype(np.float32)


def _fitting(
    drafts: list[Draft], ref: Reference, thorax: Thorax, noise: Array, wanted: Array, first: Array, reach: float
) -> tuple[Draft, float]:
    """Return the draft and the unevenness of its outline whose look comes nearest to the one wanted."""
    best, found = np.inf, (drafts[0], UNEVEN[0])
    for draft in drafts:
        plain = _nearest(draft, thorax, ref.points, None)
        for uneven in UNEVEN:
            ordered = _first(first, plain, reach) * (1 + np.float32(uneven) * noise)
            gap = float((((_look(ref, ordered) - wanted) / LOOKS[2]) ** 2).sum())
            if gap < best:
                best, found = gap, (draft, uneven)
    return found


def _look(ref: Reference, relative: Array) -> Array:
    """Return log fringe, contact with the lung's surface and log share of blood, means over `PROBES`.

    Fringe: voxels that a grid of about 15 x 9 x 9 mm shows as partly ill, for each that is ill. Blood: the share of vessels
    in ill voxels over that in the lung, for vessels in ground glass give other densities than vessels in healthy lung.
    """
    blood = 1 - ref.aerated
    order = np.argpartition(relative, [round(burden * len(relative)) for burden in PROBES])
    shown = np.zeros(ref.inside.shape, np.float32)
    found = []
    for burden in PROBES:
        ill = order[: max(1, round(burden * len(order)))]
        flat = np.zeros(len(order), np.float32)
        flat[ill] = 1
        shown[ref.inside] = flat
        around = ndimage.uniform_filter(shown, (3, 2, 2))[ref.inside]
        fringe = ((around > 0.04) & (around < 0.5)).sum() / len(ill)
        vessels = np.log(blood[ill].mean() / blood.mean() + 0.05)
        found.append((np.log(fringe), (ref.depth[ill] < 9).mean(), vessels))
    return np.array(found).mean(0)


# --- where -------------------------------------------------------------------------------------------------------------


def distance(sites: Sites, thorax: Thorax, p: Points, limit: float | None = None) -> Array:
    """Return D, the relative distance to the nearest site (mm over relative size), float32.

    With `limit` (on slabs), voxels beyond it may hold any value above it: only boxes around the sites are computed.
    """
    out = _nearest((sites.lines, sites.sizes, sites.lobes, sites.waits), thorax, p, limit)
    first = _nearest((sites.early, sites.early_sizes, _free(len(sites.early)), np.zeros(len(sites.early), np.float32)), thorax, p, limit)
    out = _first(first, out, sites.early_reach)
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


def _nearest(draft: Draft, thorax: Thorax, p: Points, limit: float | None) -> Array:
    """Return the smooth relative distance to the nearest of some sites."""
    lines, sizes, lobes, waits = draft
    out = np.full(np.broadcast_shapes(p.z.shape, p.y.shape, p.x.shape), FAR, np.float32)
    number = lobe(thorax, p)[0] if (lobes >= 0).any() else None
    for line, size, bound, wait in zip(lines, sizes, lobes, waits, strict=True):
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
