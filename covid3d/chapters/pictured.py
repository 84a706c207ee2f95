"""How the scans of a run are shown: simulated ones as their finer twins, real ones as they are read or stored."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from covid3d.chapters.truth import lesion_mask as true_lesions
from covid3d.chapters.truth import lung_mask as true_lung
from covid3d.cohort.delivery import source_of
from covid3d.cohort.intake import grid_spacing
from covid3d.cohort.store import Store
from covid3d.ct.lungs import lung_mask
from covid3d.ct.windows import nominal_window
from covid3d.dicom.series import read_ct
from covid3d.figures import data as draw
from covid3d.figures.picture import Picture, middle_of
from covid3d.figures.privacy import shown_box
from covid3d.network.occlusion import opaque
from covid3d.run.profile import Run

TWINS, EXAMPLES = "twins", "examples"
"""Steps that make scans again in finer voxels: for the chapters that look at what the network sees, and for chapter 1."""
MARGIN_MM = 25.0
"""What is shown around the lungs; of a site's patient nothing."""
LEAST_SHARE = 0.5


def picture(run: Run, scan_id: str, facts: Mapping[Any, Any], source: str = "", folder: str = TWINS) -> Picture:
    """Return a scan as it is shown; facts: its row of intake.csv.

    A simulated scan is shown as its twin (made by the step `folder`) where there is one: the same patient on the same day, by the
    same simulator, in smaller voxels. The twin's first slice lies where the scan's does, and both have one field of view.
    source: that of the manifest, where a real scan is to be read again and shown as it is, which takes seconds.
    """
    grid = run.profile.model.grid
    coarse = grid_spacing(facts, grid)
    twin = run.path(folder, f"{scan_id}.npz")
    place = source_of(run, source) if source and not run.is_phantom else None
    if twin.is_file():
        with np.load(twin, allow_pickle=False) as file:
            hu, spacing = file["hu"], tuple(file["spacing_mm"].tolist())
            lesions, lung = (file[name].astype(np.float32) / 255 for name in ("lesion", "lung"))
        ends = (float(facts["spacing_z_mm"]), spacing[1], spacing[2])
    elif place and place.path.exists():
        volume = read_ct(place.path, place.series)
        hu, spacing, ends, lesions, lung = volume.hu, volume.spacing_mm, volume.spacing_mm, None, None
    else:
        hu, spacing, ends = np.asarray(Store.of(run).get(scan_id)), coarse, coarse
        lesions, lung = true_lesions(run, scan_id), true_lung(run, scan_id)
    found = lung_mask(hu, spacing) if lung is None else lung >= LEAST_SHARE
    ill = opaque(hu, found) if lesions is None else lesions >= LEAST_SHARE
    first = tuple(end / 2 / big - 0.5 for end, big in zip(ends, coarse, strict=True))
    step = tuple(small / big for small, big in zip(spacing, coarse, strict=True))
    whole = Picture(hu, spacing, found, ill, lesions, (0, 0, 0), "", first, step)
    return _cut(whole, shown_box(run.cohort, found) if run.cohort == "site" else around(found, spacing))


def on_grid(run: Run, scan_id: str, facts: Mapping[Any, Any], shown: Picture) -> Picture:
    """Return what the network sees of what is shown: the same box on its grid, and the voxel where the same planes meet."""
    grid = run.profile.model.grid
    edges = [f - s / 2 + 0.5 for f, s in zip(shown.first, shown.step, strict=True)]
    start = [max(0, round(edge)) for edge in edges]
    ends = [round(edge + s * n) for edge, s, n in zip(edges, shown.step, shown.hu.shape, strict=True)]
    box = tuple(slice(low, min(high, size)) for low, high, size in zip(start, ends, grid, strict=True))
    lesions = true_lesions(run, scan_id)
    own = [f + s * at - low for f, s, at, low in zip(shown.first, shown.step, shown.at, start, strict=True)]
    at = tuple(min(max(round(place), 0), side.stop - side.start - 1) for place, side in zip(own, box, strict=True))
    hu, ill = np.asarray(Store.of(run).get(scan_id))[box], None if lesions is None else lesions[box]
    none = np.zeros(hu.shape, bool)
    spacing, first = grid_spacing(facts, grid), tuple(map(float, start))
    return Picture(hu, spacing, none, none, ill, at, shown.where, first, (1.0, 1.0, 1.0))  # type: ignore[arg-type]


def around(lung: np.ndarray, spacing: tuple[float, ...], margin_mm: float = MARGIN_MM) -> tuple[slice, ...]:
    """Return the box (z, y, x) of the lungs with a margin; the whole scan where there is no lung."""
    if not lung.any():
        return (slice(None),) * 3
    (box,) = ndimage.find_objects(lung.astype(np.uint8))
    more = [round(margin_mm / step) for step in spacing]
    return tuple(slice(max(0, side.start - by), side.stop + by) for side, by in zip(box, more, strict=True))


def _cut(whole: Picture, box: tuple[slice, ...]) -> Picture:
    """Return the part of a picture in a box, with the point that its planes go through."""
    hu, lung, ill = (one[box] for one in (whole.hu, whole.lung, whole.ill))
    lesions = None if whole.lesions is None else whole.lesions[box]
    known = "the largest true lesion" if lesions is not None else "the largest opaque part that was found in the lungs"
    at, where = tuple(size // 2 for size in hu.shape), "the middle of what is shown"
    for mask, name in ((lung, "the larger lung"), (ill, known)):
        if mask.any():
            at, where = middle_of(mask, whole.spacing), f"the middle of {name}"
    first = tuple(
        begin + step * (side.start or 0) for begin, step, side in zip(whole.first, whole.step, box, strict=True)
    )
    return whole._replace(hu=hu, lung=lung, ill=ill, lesions=lesions, at=at, where=where, first=first)  # type: ignore[arg-type]


def look_closely(run: Run, facts: Mapping[Any, Any]) -> tuple[Figure, str]:
    """Return one scan in fine voxels and as the network sees it, and a caption that says which is which.

    facts: the scan's row of intake.csv with the manifest's source; empty where there is no scan.
    """
    if not facts:
        return draw.empty("no scan of this kind was accepted"), "A scan in fine voxels, and as the network sees it."
    fine = picture(run, facts["scan_id"], facts, facts["source"], EXAMPLES)
    coarse = on_grid(run, facts["scan_id"], facts, fine)
    what = "the same simulated patient" if run.is_phantom else "the scan as it was read"
    caption = (
        f"{'COVID+' if facts['label'] == 1 else 'COVID-'}: scan {facts['scan_id']} of hospital {facts['hospital']}. "
        f"Above {'what is stored' if fine.step == coarse.step else what}, {voxels(fine.spacing)}; "
        f"below the network's grid of {' x '.join(map(str, run.profile.model.grid))}, {voxels(coarse.spacing)}. "
        f"The planes meet in {fine.where}. Lung window; bar: 5 cm{'' if fine.lesions is None else '; yellow: true lesions'}."
    )
    return draw.closely(fine, coarse, nominal_window(run.profile.windows)), caption


def voxels(spacing: tuple[float, float, float]) -> str:
    """Return a voxel's size for captions."""
    return f"voxels of {' x '.join(f'{side:.1f}' for side in spacing)} mm"


def made_on(run: Run, shown: Picture) -> str:
    """Return, for captions, on what grid maps were made, and what is drawn beneath them."""
    grid = " x ".join(map(str, run.profile.model.grid))
    if shown.step == (1.0, 1.0, 1.0):
        return f"Scan and map on the network's grid of {grid}"
    return f"The map was made on {grid} and is laid over the same simulated patient in {voxels(shown.spacing)}"
