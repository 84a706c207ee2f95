"""Where a patient's lesions lie, and in what order they come.

Of several drafts of its sites a patient keeps the one whose compactness, contact with the lung's surface and blood come
nearest to values drawn alike for both classes.
"""

import numpy as np
from scipy import ndimage, special, stats

from covid3d.phantom.chest import hilum
from covid3d.phantom.lesions import (
    OUTLINE_MM,
    Places,
    Reference,
    Sites,
    field,
    in_order,
    nearest,
    rank_of,
)
from covid3d.phantom.shapes import Array
from covid3d.phantom.thorax import Thorax

ATYPICAL = 0.01  # share of each class that shows the other class's pattern
CASE_MIX = {"A": 0.02, "B": 0.06, "C": 0.08}  # share of viral cases among COVID-, by hospital
PATTERNS = ("rounded", "patchy", "branching", "lobar")
EARLY, EARLY_FOCI = 0.015, (9, 15)  # share of the lung that the early foci fill before any other site, and their number
WAIT_MM = 28.0  # how much later the last site comes than the first, relative mm
DRAFTS = 12
PROBES = (0.03, 0.12)  # burdens at which drafts are compared
LOOKS = ((-0.26, 0.27, 0.31), (0.08, 0.05, 0.15), (0.04, 0.05, 0.06))  # of `_look`: means, SDs, tolerance
UPWARD = 2.4  # how much likelier bronchovascular lesions are above and in front, log odds a SD
ASIDE_MM = (8.0, 18.0)  # how far a bronchovascular lesion lies from its vessel
UNEVEN = (0.08, 0.18, 0.26)


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
    first = nearest(early, thorax, ref.points, None)
    reach = rank_of(first, ref.aerated).distance(EARLY)
    drafts = [_draft(pattern, thorax, ref, vessels, rng) for _ in range(DRAFTS)]
    noise = field(ragged, ref.points, OUTLINE_MM)
    own, unevenness = _fitting(drafts, ref, thorax, noise, wanted, first, reach)
    return Sites(
        pattern=pattern,
        own=own,
        early=early,
        early_reach=reach,
        buds=_buds(own.lines, vessels, rng, along=pattern == "branching"),
        ragged=ragged,
        unevenness=unevenness,
        mottle=rng.uniform(0, 3, (2, 3)),
        paving=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.4 else 0.0,
        effusion_ml=min(fluid, 350.0),
        effusion_sides=sides,
    )


def _draft(pattern: str, thorax: Thorax, ref: Reference, vessels: Array, rng: np.random.Generator) -> Places:
    """Draw the places of one pattern."""
    if pattern == "branching":
        return _branching(vessels, rng)
    if pattern == "lobar":
        return _lobar(thorax, ref, rng)
    return _foci(thorax, ref, rng, covid=pattern == "rounded")


def _early(ref: Reference, rng: np.random.Generator) -> Places:
    """Draw the foci that come first, anywhere in the lungs."""
    count = int(rng.integers(*EARLY_FOCI, endpoint=True))
    cloud = np.stack([ref.points.z, ref.points.y, ref.points.x], axis=1)
    middle = cloud[rng.choice(len(cloud), count, replace=False)]
    sizes = np.exp(rng.normal(0, 0.3, (count, 1))) * np.exp(rng.normal(0, 0.15, (count, 3)))
    lines = np.concatenate([middle, middle], axis=1).astype(np.float32)
    return Places(lines, sizes.astype(np.float32), _free(count), np.zeros(count, np.float32))


def _foci(thorax: Thorax, ref: Reference, rng: np.random.Generator, *, covid: bool) -> Places:
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
    return Places(
        np.concatenate([middle - half, middle + half], axis=1).astype(np.float32),
        sizes.astype(np.float32),
        _free(count),
        _waits(count, rng),
    )


def _branching(vessels: Array, rng: np.random.Generator) -> Places:
    """Choose tubes beside the bronchovascular tree: from a few tips of one region, at times one on each side, inwards."""
    first = -1 if rng.random() < 0.5 else 1
    sides = (first,) if rng.random() < 0.85 else (-1, 1)
    reach, parent = rng.uniform(20, 60), vessels[:, 8].astype(int)
    lines, widths = [], []
    paths: list[Array] = []
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
    return Places(
        tubes.astype(np.float32), np.repeat(size[:, None], 3, axis=1).astype(np.float32), _free(len(tubes)), waits
    )


def _path(vessels: Array, parent: Array, tip: int, step_mm: float = 14.0, widest: float = 2.4) -> Array:
    """Return nodes (z, y, x, radius) from a tip towards the hilum, about `step_mm` apart, at least two."""
    nodes, here = [np.append(vessels[tip, 3:6], vessels[tip, 7])], tip
    while here >= 0 and (len(nodes) < 2 or vessels[here, 6] < widest):
        gap = np.linalg.norm(vessels[here, :3] - nodes[-1][:3])
        if gap > step_mm or parent[here] < 0:
            nodes.append(np.append(vessels[here, :3], vessels[here, 6]))
        here = int(parent[here])
    return np.array(nodes)


def _lobar(thorax: Thorax, ref: Reference, rng: np.random.Generator) -> Places:
    """Fill one lobe, at times a second one of the same side, from one or more centres towards its fissures."""
    first = int(rng.choice(5, p=[0.42, 0.22, 0.04, 0.30, 0.02]))
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
    return Places(
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
    drafts: list[Places], ref: Reference, thorax: Thorax, noise: Array, wanted: Array, first: Array, reach: float
) -> tuple[Places, float]:
    """Return the draft and the unevenness of its outline whose look comes nearest to the one wanted."""
    best, found = np.inf, (drafts[0], UNEVEN[0])
    for draft in drafts:
        plain = nearest(draft, thorax, ref.points, None)
        for uneven in UNEVEN:
            ordered = in_order(first, plain, reach) * (1 + np.float32(uneven) * noise)
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
