"""One scan: anatomy, lesions and scanner put together, slab by slab."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from covid3d.phantom import chest, lesions, lung, masks, oracle, scanner, sites, trees
from covid3d.phantom.course import Appearance
from covid3d.phantom.lesions import Reference, Sites
from covid3d.phantom.lung import Background
from covid3d.phantom.scanner import Acquisition
from covid3d.phantom.shapes import Array, Points, blend, segment_distance, soft
from covid3d.phantom.thorax import Thorax
from covid3d.phantom.trees import Trees
from covid3d.run.files import random_seed

SLAB_VOXELS = 3_000_000
CORE_HU, BUD_HU, FLUID_HU, ATELECTASIS_HU, SEPTUM_HU = -10.0, -150.0, 12.0, -90.0, 200.0
PATCHY = 0.45  # how unevenly lesions consolidate, SD of the rank's logarithm
PAVING_SEEN_MM = 3.0
LUNG_MARGIN_MM = 10.0
MOTTLE = 0.16  # SD of ground glass's density, as a share of its contrast


@dataclass(frozen=True)
class Patient:
    """What stays the same over a patient's scans."""

    thorax: Thorax
    trees: Trees
    background: Background
    sites: Sites
    reference: Reference


@dataclass(frozen=True)
class Levels:
    """What turns a patient's distances into one scan's lesions, and what the reference grid says about them."""

    ranks: lesions.Ranks
    burden: float
    dense: float
    reach: float  # relative distance beyond which nothing is ill
    effusion: float
    whole_hu: float  # mean of all healthy lung
    spared_hu: float  # mean of the healthy lung that is left
    spread: float  # SD of the first over SD of the second
    lobes_ml: tuple[float, ...]
    lung_ml: float
    features: Array


@dataclass(frozen=True)
class Slab:
    """Slices as they are before the scanner: HU, and the shares of lung, lesion (with core), core and fluid, (z, y, x)."""

    hu: Array
    lung: Array
    lesion: Array
    dense: Array
    fluid: Array

    def cut(self, box: tuple[slice, slice, slice]) -> "Slab":
        """Return views of a box."""
        return Slab(self.hu[box], self.lung[box], self.lesion[box], self.dense[box], self.fluid[box])


@dataclass(frozen=True)
class Voxel:
    """How a voxel blurs: the width of edges in the plane, and the depth of a slice, mm of the patient's frame."""

    edge: float
    thickness: float


@dataclass
class Masks:
    """Lesions and lungs summed onto a grid by area, float32 (z, y, x) in [0, 1]."""

    lesion: Array
    lung: Array


def make_patient(seed: int, patient_id: str, sex: str, age: float, label: int, hospital: str = "A") -> Patient:
    """Draw a patient's anatomy and lesion sites from (seed, patient_id); `label` and the hospital's mix choose the pattern."""
    rng = np.random.default_rng(random_seed(seed, patient_id, "anatomy"))
    thorax = chest.draw_thorax(rng, sex, age)
    grown = trees.grow(thorax, rng)
    background = lung.draw_background(rng, age)
    ref = lesions.reference(thorax, background, grown.vessels)
    rng = np.random.default_rng(random_seed(seed, patient_id, "sites"))
    placed = sites.draw_sites(thorax, ref, grown.vessels, label, rng, sites.CASE_MIX[hospital])
    return Patient(thorax, grown, background, placed, ref)


def find_levels(patient: Patient, look: Appearance) -> Levels:
    """Turn burden, density and effusion of a scan into ranks and levels on the patient's reference grid."""
    ref, sites, thorax = patient.reference, patient.sites, patient.thorax
    inside, _ = chest.cavity(thorax, ref.points)
    height = lesions.effusion_height(thorax, ref.points, inside, sites.effusion_sides)
    share = sites.effusion_ml / ref.volume_ml
    effusion = -float(np.quantile(-height, share)) if share > 0 else float(lesions.FAR)
    dry = soft(effusion - lesions.BAND_MM - height, 4.0)
    relative = lesions.distance(sites, thorax, ref.points)
    ranks = lesions.rank_of(relative, ref.aerated * dry)
    ill = lesions.weight(ranks.rank(relative), look.burden) * dry
    spared = (1 - ill) * dry + 1e-6
    whole, mean = float(ref.hu.mean()), float(np.average(ref.hu, weights=spared))
    sd = float(np.sqrt(np.average((ref.hu - mean) ** 2, weights=spared)))
    lobes_ml = tuple(float(ill[ref.lobe == n].sum()) * ref.voxel_ml for n in range(len(lung.LOBES)))
    return Levels(
        ranks=ranks,
        burden=look.burden,
        dense=look.burden * (1 - look.ground_glass),
        reach=ranks.distance(min(1.0, look.burden * (1 + lesions.RIM / 2))) + 0.1,
        effusion=effusion,
        whole_hu=whole,
        spared_hu=mean,
        spread=float(ref.hu.std()) / max(sd, 1e-3),
        lobes_ml=lobes_ml,
        lung_ml=ref.volume_ml,
        features=_reference_evidence(ref, ill),
    )


def _reference_evidence(ref: Reference, ill: Array) -> Array:
    """Return the oracle's features on the patient's reference grid."""
    lesion = np.zeros(ref.inside.shape, np.float32)
    lesion[ref.inside] = ill
    step = lesions.REFERENCE_MM
    return oracle.evidence(lesion, ref.inside.astype(np.float32), (step, step, step))


def render(
    patient: Patient,
    look: Appearance,
    levels: Levels,
    acquisition: Acquisition,
    shares: Masks,
) -> Iterator[tuple[int, Array, Array]]:
    """Yield (first slice, stored values, labels as in `masks`) of consecutive slabs, and add each slab to `shares`."""
    for first, slab in slabs(patient, look, levels, acquisition):
        add_to_grid(shares, slab, first, acquisition.shape)
        hu = scanner.expose(slab.hu, acquisition, first)
        labels = masks.label_slab(slab.lung, slab.lesion - slab.dense, slab.dense, slab.fluid)
        yield first, scanner.store(hu, acquisition), labels


def slabs(patient: Patient, look: Appearance, levels: Levels, acquisition: Acquisition) -> Iterator[tuple[int, Slab]]:
    """Yield the first slice and the truth of consecutive slabs, without the scanner."""
    depth, rows, columns = acquisition.shape
    step = max(1, SLAB_VOXELS // (rows * columns))
    for first in range(0, depth, step):
        yield first, slab_of(patient, look, levels, acquisition, first, min(depth, first + step))


def add_to_grid(shares: Masks, slab: Slab, first: int, shape: tuple[int, int, int]) -> None:
    """Add a slab's lesions and lungs to a grid by area."""
    along_y, along_x = area_weights(shape[1], shares.lung.shape[1]), area_weights(shape[2], shares.lung.shape[2])
    along_z = area_weights(shape[0], shares.lung.shape[0])[:, first : first + len(slab.lung)]
    for target, part in ((shares.lesion, slab.lesion * slab.lung), (shares.lung, slab.lung)):
        target += np.tensordot(along_z, along_y @ part @ along_x.T, axes=1)


def patient_frame(acquisition: Acquisition, first: int, last: int) -> Points:
    """Return the coordinates of slices `first` to `last` in the patient's frame."""
    _, rows, columns = acquisition.shape
    z = acquisition.origin_mm[0] + acquisition.spacing_mm[0] * np.arange(first, last)
    y = acquisition.origin_mm[1] + acquisition.spacing_mm[1] * np.arange(rows) - acquisition.shift_mm[0]
    x = acquisition.origin_mm[2] + acquisition.spacing_mm[2] * np.arange(columns) - acquisition.shift_mm[1]
    c, s = np.cos(acquisition.angle), np.sin(acquisition.angle)
    turned_y = (c * y[:, None] - s * x[None, :])[None].astype(np.float32)
    turned_x = (s * y[:, None] + c * x[None, :])[None].astype(np.float32)
    return Points((z / acquisition.breath).astype(np.float32)[:, None, None], turned_y, turned_x)


def slab_of(
    patient: Patient, look: Appearance, levels: Levels, acquisition: Acquisition, first: int, last: int
) -> Slab:
    """Return slices `first` to `last` as they truly are."""
    p, thorax = patient_frame(acquisition, first, last), patient.thorax
    voxel = Voxel(max(1.2, 0.9 * acquisition.spacing_mm[1]), acquisition.spacing_mm[0] / acquisition.breath)
    inside, t = chest.cavity(thorax, p)
    skin = chest.body(thorax, p)
    hu = chest.tissue(thorax, p, inside, t, skin, voxel.edge)
    chest.add_table(hu, thorax, p, skin, voxel.edge)
    depth = chest.lungs(thorax, p, inside, t)
    share = soft(depth, voxel.edge)
    slab = Slab(hu, share, *(np.zeros_like(share) for _ in range(3)))
    box = _bounds(patient.reference, p)
    if share.any():
        part = Points(p.z, p.y[:, box[1], box[2]], p.x[:, box[1], box[2]])
        _fill(slab.cut(box), patient, look, levels, part, inside[box], depth[box], voxel, acquisition.breath_hu)
    trees.add_airways(hu, patient.trees, p, voxel.edge, voxel.thickness)
    return slab


def _bounds(ref: Reference, p: Points) -> tuple[slice, slice, slice]:
    """Return the box of a slab that holds the lungs in the plane; all slabs of a scan have the same."""
    near = np.ones(p.y.shape[1:], bool)
    for axis, known in ((p.y[0], ref.points.y), (p.x[0], ref.points.x)):
        near &= (axis > known.min() - LUNG_MARGIN_MM) & (axis < known.max() + LUNG_MARGIN_MM)
    j, i = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return slice(None), slice(int(j[0]), int(j[-1]) + 1), slice(int(i[0]), int(i[-1]) + 1)


def _fill(
    slab: Slab,
    patient: Patient,
    look: Appearance,
    levels: Levels,
    p: Points,
    inside: Array,
    depth: Array,
    voxel: Voxel,
    breath_hu: float,
) -> None:
    """Fill the lungs of a slab in place: healthy lung, fissures, lesions, vessels, fluid with atelectasis above."""
    thorax, sites, edge = patient.thorax, patient.sites, voxel.edge
    hu = lung.parenchyma(thorax, patient.background, p, 0.0, depth, edge)
    hu = (levels.whole_hu + breath_hu + (hu - levels.spared_hu) * levels.spread).astype(np.float32)
    _, gap = lung.lobe(thorax, p)
    lung.add_fissures(hu, gap, edge)
    _add_lesions(hu, slab, patient, look, levels, p, edge, levels.whole_hu + breath_hu)
    trees.add_vessels(hu, patient.trees, p, edge, voxel.thickness)
    if sites.effusion_ml > 0:
        height = lesions.effusion_height(thorax, p, inside, sites.effusion_sides) - np.float32(levels.effusion)
        band = soft(height + lesions.BAND_MM, 4.0)
        slab.fluid[...] = soft(height, 4.0)
        blend(hu, ATELECTASIS_HU, 0.8 * band)
        blend(hu, FLUID_HU, slab.fluid)
        for share in (slab.lesion, slab.dense):
            share *= 1 - band
    blend(slab.hu, hu, slab.lung)


def _add_lesions(
    hu: Array, slab: Slab, patient: Patient, look: Appearance, levels: Levels, p: Points, edge: float, base_hu: float
) -> None:
    """Blend ground glass, septa, consolidation and nodules into healthy lung in place and note their shares in the slab.

    Ground glass tends to a density of its own, not to that of its place, so that its histogram does not tell the site.
    """
    sites = patient.sites
    relative = lesions.distance(sites, patient.thorax, p, limit=levels.reach)
    where = (relative < levels.reach) & (slab.lung > 0)
    rank = levels.ranks.rank(relative[where])
    spots = lesions.pick(p, where)
    mottle = lesions.field(sites.mottle, spots, 12.0)
    share = lesions.weight(rank, levels.burden)
    dense = lesions.core(rank * np.exp(PATCHY * mottle), levels.dense) * share
    target = look.contrast_hu * (1 + MOTTLE * mottle)
    if sites.paving > 0 and edge < PAVING_SEEN_MM:
        line = soft(0.7 - lesions.septa(spots), edge) * min(1.0, 1.4 / edge)
        target += sites.paving * look.paving * SEPTUM_HU * line
    values = hu[where]
    blend(values, (base_hu + target).astype(np.float32), share)
    blend(values, CORE_HU + 25 * mottle, dense)
    hu[where], slab.lesion[where], slab.dense[where] = values, share, dense
    grown = min(1.0, levels.burden / 0.05)
    for bud in sites.buds:
        _draw_rod(hu, p, bud[:3], bud[3:6], float(bud[6]) * grown, BUD_HU, edge)


def _draw_rod(hu: Array, p: Points, start: Array, end: Array, radius: float, value: float, edge: float) -> None:
    """Raise the density along a segment to `value` in place, in its box of the slab."""
    reach = radius + edge
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    k = np.flatnonzero((p.z[:, 0, 0] >= low[0]) & (p.z[:, 0, 0] <= high[0]))
    if not len(k):
        return
    y, x = p.y[0], p.x[0]
    row_y, column_x = y[:, y.shape[1] // 2], x[x.shape[0] // 2]
    j = np.flatnonzero((row_y >= low[1] - 8) & (row_y <= high[1] + 8))
    i = np.flatnonzero((column_x >= low[2] - 8) & (column_x <= high[2] + 8))
    if not (len(j) and len(i)):
        return
    box = (slice(k[0], k[-1] + 1), slice(j[0], j[-1] + 1), slice(i[0], i[-1] + 1))
    part = Points(p.z[box[0]], p.y[:, box[1], box[2]], p.x[:, box[1], box[2]])
    share = soft(radius - segment_distance(part, start, end), edge) * min(1.0, 2 * radius / edge)
    view = hu[box]
    view += share * np.maximum(value - view, 0)


def area_weights(source: int, target: int) -> Array:
    """Return (target, source) weights of box averaging: each row holds the overlaps of one target cell and sums to 1."""
    edges = np.arange(target + 1) * source / target
    cells = np.arange(source)
    overlap = np.minimum(edges[1:, None], cells[None] + 1) - np.maximum(edges[:-1, None], cells[None])
    overlap = np.clip(overlap, 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
