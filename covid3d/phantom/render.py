"""One scan: anatomy, lesions and scanner put together, slab by slab."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from covid3d.io import random_seed
from covid3d.phantom import anatomy, lesions, oracle, scanner
from covid3d.phantom.anatomy import Points, Thorax, soft
from covid3d.phantom.course import Appearance
from covid3d.phantom.lesions import Sites
from covid3d.phantom.scanner import Acquisition

Array = np.ndarray[Any, Any]
SLAB_VOXELS = 3_000_000


@dataclass(frozen=True)
class Patient:
    """What stays the same over a patient's scans."""

    thorax: Thorax
    sites: Sites


@dataclass(frozen=True)
class Levels:
    """Thresholds of one scan on the patient's reference grid, and what the grid says about it."""

    lesion: float
    dense: float
    effusion: float
    lobes_ml: tuple[float, ...]
    lung_ml: float
    features: Array


@dataclass
class Masks:
    """Lesions and lungs summed onto a grid by area, float32 (z, y, x) in [0, 1]."""

    lesion: Array
    lung: Array


def make_patient(seed: int, patient_id: str, sex: str, age: float, label: int) -> Patient:
    """Draw a patient's anatomy and lesion sites from (seed, patient_id); `label` chooses the pattern."""
    thorax = anatomy.draw_thorax(np.random.default_rng(random_seed(seed, patient_id, "anatomy")), sex, age)
    rng = np.random.default_rng(random_seed(seed, patient_id, "sites"))
    return Patient(thorax, lesions.draw_sites(thorax, lesions.reference(thorax), label, rng))


def find_levels(patient: Patient, look: Appearance) -> Levels:
    """Turn burden, density and effusion of a scan into thresholds of its levels."""
    ref = lesions.reference(patient.thorax)
    relative = lesions.distance(patient.sites, patient.thorax, ref.points)
    level = lesions.radius(relative, look.burden)
    dense = lesions.radius(relative, look.burden * (1 - look.ground_glass))
    inside, _ = anatomy.cavity(patient.thorax, ref.points)
    height = lesions.effusion_height(patient.thorax, ref.points, inside, patient.sites.effusion_sides)
    share = patient.sites.effusion_ml / ref.volume_ml
    effusion = -float(np.quantile(-height, share)) if share > 0 else float(lesions.FAR)
    ill = relative < level
    lobes_ml = tuple(float((ill & (ref.lobe == n)).sum()) * ref.voxel_ml for n in range(len(anatomy.LOBES)))
    return Levels(level, dense, effusion, lobes_ml, ref.volume_ml, _reference_evidence(ref, ill))


def _reference_evidence(ref: lesions.Reference, ill: Array) -> Array:
    """Return the oracle's features on the patient's reference grid."""
    step = lesions.REFERENCE_MM
    index = [np.rint((axis - axis.min()) / step).astype(int) for axis in (ref.points.z, ref.points.y, ref.points.x)]
    lung = np.zeros([int(i.max()) + 1 for i in index], np.float32)
    lesion = lung.copy()
    lung[tuple(index)] = 1
    lesion[tuple(index)] = ill
    return oracle.evidence(lesion, lung, (step, step, step))


def render(
    patient: Patient, look: Appearance, levels: Levels, acquisition: Acquisition, rng: np.random.Generator, masks: Masks
) -> Iterator[tuple[int, Array]]:
    """Yield (first slice, stored values (z, y, x)) of consecutive slabs, and add each slab to `masks`."""
    depth, rows, columns = acquisition.shape
    step = max(1, SLAB_VOXELS // (rows * columns))
    along_y, along_x = area_weights(rows, masks.lung.shape[1]), area_weights(columns, masks.lung.shape[2])
    along_z = area_weights(depth, masks.lung.shape[0])
    edge = max(1.2, 0.9 * acquisition.spacing_mm[1])
    for first in range(0, depth, step):
        last = min(depth, first + step)
        points = patient_frame(acquisition, first, last)
        hu, lesion, lung = _slab(patient, look, levels, acquisition, points, edge)
        for target, weight in ((masks.lesion, lesion), (masks.lung, lung)):
            plane = along_y @ weight @ along_x.T
            target += np.tensordot(along_z[:, first:last], plane, axes=1)
        yield first, scanner.store(scanner.expose(hu, acquisition, rng), acquisition)


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


def _slab(
    patient: Patient, look: Appearance, levels: Levels, acquisition: Acquisition, p: Points, edge: float
) -> tuple[Array, Array, Array]:
    """Return HU, lesion and lung weights of a block of slices, without noise."""
    thorax = patient.thorax
    inside, t = anatomy.cavity(thorax, p)
    skin = anatomy.body(thorax, p)
    hu = anatomy.tissue(thorax, p, inside, t, skin, edge)
    hu += soft(anatomy.table(thorax, p), edge) * (skin < -1) * (-350 - hu)
    lung = soft(anatomy.lungs(thorax, p, inside, t), edge)
    filling = anatomy.parenchyma(thorax, p, acquisition.breath_hu)
    _, gap = anatomy.lobe(thorax, p)
    filling += 90 * soft(1.0 - gap, edge) * min(1.0, 2.0 / edge)
    lesion = _add_lesions(filling, patient, look, levels, p)
    _add_vessels(filling, thorax, p, edge)
    if patient.sites.effusion_ml > 0:
        height = lesions.effusion_height(thorax, p, inside, patient.sites.effusion_sides)
        fluid = soft(height - levels.effusion, 4.0)
        filling += fluid * (12 - filling)
        lesion = lesion * (1 - fluid)
    hu += lung * (filling - hu)
    _add_airways(hu, thorax, p, edge)
    return hu, lesion * lung, lung


def _add_lesions(filling: Array, patient: Patient, look: Appearance, levels: Levels, p: Points) -> Array:
    """Add ground glass and consolidation to healthy lung in place; returns the weight of the lesions."""
    relative = lesions.distance(patient.sites, patient.thorax, p, limit=levels.lesion + 3)
    lesion = soft(levels.lesion - relative, 3.0)
    dense = soft(levels.dense - relative, 2.5) if levels.dense > 0 else np.zeros_like(lesion)
    filling += lesion * look.contrast_hu * (1 + 0.12 * anatomy.waves(patient.thorax.texture * 2.2, p))
    filling += dense * (-10 - filling)
    return lesion


def _add_vessels(filling: Array, thorax: Thorax, p: Points, edge: float) -> None:
    """Add the vessels' blood to the lung in place, one box a segment."""
    z, plane_y, plane_x = p.z[:, 0, 0], p.y[0], p.x[0]
    row_y, column_x = plane_y[:, plane_y.shape[1] // 2], plane_x[plane_x.shape[0] // 2]
    for segment in thorax.segments:
        r = float(segment[6])
        reach = r + edge
        low, high = np.minimum(segment[:3], segment[3:6]) - reach, np.maximum(segment[:3], segment[3:6]) + reach
        k = np.flatnonzero((z >= low[0]) & (z <= high[0]))
        j = np.flatnonzero((row_y >= low[1] - 8) & (row_y <= high[1] + 8))
        i = np.flatnonzero((column_x >= low[2] - 8) & (column_x <= high[2] + 8))
        if not (len(k) and len(j) and len(i)):
            continue
        box = (slice(k[0], k[-1] + 1), slice(j[0], j[-1] + 1), slice(i[0], i[-1] + 1))
        part = Points(p.z[box[0]], p.y[:, box[1], box[2]], p.x[:, box[1], box[2]])
        share = soft(r - anatomy.segment_distance(part, segment[:3], segment[3:6]), edge) * min(1.0, 2 * r / edge)
        view = filling[box]
        view += share * np.maximum(35 - view, 0)


def _add_airways(hu: Array, thorax: Thorax, p: Points, edge: float) -> None:
    """Add trachea and main bronchi with their walls, in place."""
    air = anatomy.airways(thorax, p)
    wall = soft(air + 2.0, edge)
    hu += wall * (20 - hu) * (hu < -300)
    hu += soft(air, edge) * (-985 - hu)


def area_weights(source: int, target: int) -> Array:
    """Return (target, source) weights of box averaging: each row holds the overlaps of one target cell and sums to 1."""
    edges = np.arange(target + 1) * source / target
    cells = np.arange(source)
    overlap = np.minimum(edges[1:, None], cells[None] + 1) - np.maximum(edges[:-1, None], cells[None])
    overlap = np.clip(overlap, 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
