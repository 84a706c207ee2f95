"""Numbers that describe a chest CT: densities, sizes, vessels, noise. They say how near simulated scans come to real ones.

No number needs anything but the volume. Masks are made on a grid of about 1.5 mm; noise and vessels use full resolution.
"""

import numpy as np
from scipy import ndimage

from covid3d.ct.lungs import AIR_BELOW_HU, BODY_ABOVE_HU
from covid3d.ct.volume import HU_MIN, CTVolume

Spacing = tuple[float, float, float]  # mm, (z, y, x)

MASK_MM = 1.5
COARSEST_MM = 1.5  # no vessel and no noise is measured on larger pixels
PLANES = 40
CLOSING_MM, HOLE_MM2 = 5.0, 1000.0
DENSE_HU = -500
FAT, MUSCLE, BONE_HU = (-160, -40), (0, 100), 150
VESSEL_HU = 200
VESSEL_MM = 9.0
SMALL_MM2 = 5.0
DISC_MM = 6.0
HALF = 0.5
UNITS = {
    "lung_volume": "ml",
    "lung_height": "mm",
    "lung_width": "mm",
    "lung_depth": "mm",
    "lung_mode": "HU",
    "lung_p05": "HU",
    "lung_p95": "HU",
    "lung_dense": "% of lung",
    "lung_gradient": "HU/cm",
    "lung_texture": "HU",
    "vessels": "% of lung",
    "small_vessels": "% of lung",
    "body_width": "mm",
    "body_depth": "mm",
    "fat_share": "% of body",
    "bone_share": "% of body",
    "fat_peak": "HU",
    "muscle_peak": "HU",
    "bone_median": "HU",
    "bone_p95": "HU",
    "air": "HU",
    "noise": "HU",
    "noise_width": "mm",
}
"""Every number that `measure` returns, with its unit."""


def measure(volume: CTVolume) -> dict[str, float]:
    """Return the numbers of UNITS; NaN where the scan is too coarse or the place is not found.

    lung_*: the simple mask of `ct.lungs`, trachea and vessels included; height, width and depth are the mask's extent,
    percentiles and mode those of the mask 3 mm under its border. lung_dense: share above -500 HU. lung_gradient: slope
    of the median HU from front to back between -950 and -700 HU. lung_texture: median SD in windows of 5 mm there.
    """
    grid, spacing, _ = coarse(volume.hu, volume.spacing_mm)
    lung = lungs(grid, spacing)
    inner = ndimage.distance_transform_edt(lung, sampling=spacing) > 3 if lung.any() else lung
    found = dict.fromkeys(UNITS, float("nan"))
    if not inner.any():
        return found
    found |= _lung_numbers(grid, lung, inner, spacing)
    found |= _body_numbers(grid, _body(grid, lung, spacing), lung, spacing)
    if max(volume.spacing_mm[1:]) <= COARSEST_MM:
        found |= _vessel_numbers(volume, inner) | _noise_numbers(volume, grid, lung, spacing)
    return {name: round(float(value), 3) for name, value in found.items()}


def coarse(hu: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, Spacing, tuple[int, int, int]]:
    """Return every n-th voxel, so that no step is much below MASK_MM, with its spacing and the n of each axis."""
    z, y, x = (max(1, round(MASK_MM / step)) for step in spacing)
    dz, dy, dx = spacing
    return np.ascontiguousarray(hu[::z, ::y, ::x]), (dz * z, dy * y, dx * x), (z, y, x)


def lungs(hu: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Return both lungs with trachea, vessels and small lesions, bool (z, y, x); all False when none is found.

    Air below -400 HU that does not reach the sides of the image; parts less than 40 % as high as the highest (stomach,
    bowel) are left out. Slice by slice gaps of 5 mm are closed and holes of up to 10 cm2 filled.
    """
    air = hu < AIR_BELOW_HU
    core = ndimage.binary_erosion(air, border_value=1)
    labels, count = ndimage.label(core)
    outer = np.concatenate([labels[:, edge].ravel() for edge in (0, -1)] + [labels[:, :, e].ravel() for e in (0, -1)])
    boxes = ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[np.append(np.unique(outer), 0)] = 0
    height = np.array([0, *(box[0].stop - box[0].start for box in boxes)]) * (sizes * np.prod(spacing) > 1e5)
    kept = (height > 0) & (height >= 0.4 * height.max())
    mask = ndimage.binary_dilation(kept[labels], mask=air, iterations=2)
    disc = _disc(CLOSING_MM, spacing)
    limit = HOLE_MM2 / (spacing[1] * spacing[2])
    for plane in mask:
        if plane.any():
            plane |= ndimage.binary_closing(np.pad(plane, len(disc)), disc)[
                len(disc) : -len(disc), len(disc) : -len(disc)
            ]
            holes, _ = ndimage.label(~plane)
            plane |= (np.bincount(holes.ravel()) < limit)[holes]
    return mask


def _disc(radius: float, spacing: Spacing) -> np.ndarray:
    """Return a disc of a radius in mm as bool (y, x)."""
    y, x = (max(1, round(radius / step)) for step in spacing[1:])
    return np.hypot(*np.ogrid[-1 : 1 : 1j * (2 * y + 1), -1 : 1 : 1j * (2 * x + 1)]) <= 1.0


def _body(hu: np.ndarray, lung: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Return the patient with the lungs, bool (z, y, x): clothes and table shells are opened away slice by slice."""
    dense = ndimage.binary_opening((hu > BODY_ABOVE_HU) | lung, _disc(4.0, spacing)[None])
    labels, count = ndimage.label(dense)
    if not count:
        return dense
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.stack([ndimage.binary_fill_holes(plane) for plane in labels == int(sizes.argmax())])


def _lung_numbers(hu: np.ndarray, lung: np.ndarray, inner: np.ndarray, spacing: Spacing) -> dict[str, float]:
    """Return sizes and densities of the lungs."""
    values = hu[inner].astype(float)
    low, high = np.percentile(values, [5, 95])
    extent = [np.ptp(np.flatnonzero(lung.any(axis=other))) + 1 for other in ((1, 2), (0, 2), (0, 1))]
    smooth = hu.astype(np.float32)
    reach = [1, *(max(3, round(5 / step)) for step in spacing[1:])]
    mean = ndimage.uniform_filter(smooth, reach)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(smooth**2, reach) - mean**2, 0))
    healthy = inner & (mean > -950) & (mean < -700)
    rows = [row for row in range(hu.shape[1]) if healthy[:, row].sum() > 300]
    medians = [np.median(hu[:, row][healthy[:, row]]) for row in rows]
    slope = np.polyfit(np.array(rows) * spacing[1] / 10, medians, 1)[0] if len(rows) > 4 else np.nan
    return {
        "lung_volume": lung.sum() * np.prod(spacing) / 1000,
        **dict(zip(("lung_height", "lung_depth", "lung_width"), np.multiply(extent, spacing), strict=True)),
        "lung_mode": _peak(values, -1000, -500),
        "lung_p05": low,
        "lung_p95": high,
        "lung_dense": 100 * (hu[lung] > DENSE_HU).mean(),
        "lung_gradient": slope,
        "lung_texture": np.median(spread[healthy]) if healthy.any() else np.nan,
    }


def _body_numbers(hu: np.ndarray, body: np.ndarray, lung: np.ndarray, spacing: Spacing) -> dict[str, float]:
    """Return sizes and densities of the body at the height of the lungs, and of the air around it.

    Peaks are modes of the smoothed histogram; bone is everything above 150 HU, so its median falls with noise.
    """
    levels = np.flatnonzero(lung.any(axis=(1, 2)))
    part, inside = hu[levels[0] : levels[-1] + 1], body[levels[0] : levels[-1] + 1]
    solid = part[inside & ~lung[levels[0] : levels[-1] + 1]].astype(float)
    bone = solid[solid > BONE_HU]
    middle = inside[len(inside) // 3 : 2 * len(inside) // 3]
    width, depth = (np.median(_extents(middle, axis)) for axis in (1, 2))
    outside = ~ndimage.binary_dilation(body, iterations=6)
    outside &= ~ndimage.binary_erosion(hu <= HU_MIN, np.ones((1, 3, 3)))  # padding; noisy air is clipped here and there
    air = hu[outside & (hu < -900)]
    return {
        "body_width": width * spacing[2],
        "body_depth": depth * spacing[1],
        "fat_share": 100 * ((solid > FAT[0]) & (solid < FAT[1])).sum() / inside.sum(),
        "bone_share": 100 * len(bone) / inside.sum(),
        "fat_peak": _peak(solid, *FAT),
        "muscle_peak": _peak(solid, *MUSCLE),
        "bone_median": np.median(bone) if len(bone) else np.nan,
        "bone_p95": np.percentile(bone, 95) if len(bone) else np.nan,
        "air": np.median(air) if len(air) else np.nan,
    }


def _extents(mask: np.ndarray, axis: int) -> list[float]:
    """Return for each plane with a body the pixels from the first to the last, across columns (1) or rows (2)."""
    lines = map(np.flatnonzero, np.any(mask, axis=axis))
    return [float(np.ptp(line) + 1) for line in lines if len(line)]


def _peak(values: np.ndarray, low: int, high: int) -> float:
    """Return the mode of a histogram of 2 HU a bin, smoothed over 10 HU; NaN when it rises to a border."""
    counts, edges = np.histogram(values, bins=np.arange(low, high + 2, 2))
    best = int(ndimage.gaussian_filter1d(counts.astype(float), 5).argmax())
    return float(edges[best] + 1) if 0 < best < len(counts) - 1 else float("nan")


def _vessel_numbers(volume: CTVolume, inner: np.ndarray) -> dict[str, float]:
    """Return the share of the inner lung's area in bright structures thinner than 9 mm, and in those below 5 mm2.

    A white top-hat of 200 HU on at most 40 axial planes; walls of bronchi and thin septa count too. The small ones follow
    the share of small cross-sections of Matsuoka et al., Am J Respir Crit Care Med 2010;181:218 (without its rule on roundness).
    """
    used = np.flatnonzero(inner.any(axis=(1, 2)))
    used = used[:: max(1, len(used) // PLANES)]
    z, y, x = coarse(volume.hu[:0], volume.spacing_mm)[2]
    pixel = volume.spacing_mm[1] * volume.spacing_mm[2]
    side = [max(3, round(VESSEL_MM / step)) for step in volume.spacing_mm[1:]]
    area = bright = small = 0.0
    for index in used:
        plane = volume.hu[index * z].astype(np.float32)
        mask = np.kron(inner[index], np.ones((y, x), bool))[: plane.shape[0], : plane.shape[1]]
        smooth = ndimage.gaussian_filter(plane, [0.5 / step for step in volume.spacing_mm[1:]])
        labels, _ = ndimage.label((smooth - ndimage.grey_opening(smooth, side) > VESSEL_HU) & mask)
        sizes = np.bincount(labels.ravel())[1:] * pixel
        area += mask.sum() * pixel
        bright += sizes.sum()
        small += sizes[sizes < SMALL_MM2].sum()
    return {"vessels": 100 * bright / area, "small_vessels": 100 * small / area}


def _noise_numbers(volume: CTVolume, grid: np.ndarray, lung: np.ndarray, spacing: Spacing) -> dict[str, float]:
    """Return the SD in the descending aorta, and the distance at which the noise's correlation falls to a half.

    The aorta is the disc of soft tissue, at least 6 mm in radius, nearest to the left front of the spine, in the planes
    at 35 to 65 % of the lungs' height; where there is none the heart's back wall is taken by the same rule. A tilted
    plane is taken off each disc; the numbers are medians over the planes.
    """
    pixel = volume.spacing_mm[2]
    step = coarse(volume.hu[:0], volume.spacing_mm)[2]
    levels = np.flatnonzero(lung.any(axis=(1, 2)))
    sds, correlations = [], []
    for index in range(*(int(np.quantile(levels, share)) for share in (0.35, 0.65))):
        centre = _aorta(grid[index].astype(np.float32), lung[index], spacing)
        if centre is None:
            continue
        rest = _flattened(volume.hu[index * step[0]], centre[0] * step[1], centre[1] * step[2], pixel)
        if rest is not None:
            sds.append(np.nanstd(rest))
            correlations.append([np.nanmean(rest[:, : -n or None] * rest[:, n:]) for n in range(8)])
    if len(sds) < 3:
        return {}
    curve = np.median(np.array(correlations) / np.square(sds)[:, None], axis=0)
    lag = int(np.argmax(curve < HALF)) or len(curve) - 1
    width = lag - 1 + (curve[lag - 1] - HALF) / max(curve[lag - 1] - curve[lag], 1e-6)
    return {"noise": float(np.median(sds)), "noise_width": min(width, len(curve) - 1) * pixel}


def _aorta(plane: np.ndarray, lung: np.ndarray, spacing: Spacing) -> tuple[int, int] | None:
    """Return the centre (row, column) of the soft-tissue disc nearest to the left front of the spine."""
    if not lung.any():
        return None
    smooth = ndimage.gaussian_filter(plane, [1.5 / step for step in spacing[1:]])
    rows, columns = np.nonzero(lung)
    left, right = columns.min(), columns.max()
    third = (right - left) / 3
    bone = smooth > BONE_HU
    bone[: int(np.mean(rows))] = False
    bone[:, : int(left + third)] = bone[:, int(right - third) :] = False
    if bone.sum() * spacing[1] * spacing[2] < 200:
        return None
    y, x = np.nonzero(bone)
    front, middle = np.percentile(y, 5), np.median(x)
    room = ndimage.distance_transform_edt((smooth > 0) & (smooth < 110), sampling=spacing[1:])
    row, column = np.indices(plane.shape)
    away = np.hypot((row - front) * spacing[1] + 8, (column - middle) * spacing[2] - 18)
    away[room < DISC_MM + 1] = np.inf
    if away.min() > 45:
        return None
    best = np.unravel_index(int(np.argmin(away - 2 * np.minimum(room, 12))), plane.shape)
    return int(best[0]), int(best[1])


def _flattened(plane: np.ndarray, row: int, column: int, pixel: float) -> np.ndarray | None:
    """Return a disc of DISC_MM without its mean and tilt, NaN around it; None at the image's border."""
    reach = int(DISC_MM / pixel)
    part = plane[row - reach : row + reach + 1, column - reach : column + reach + 1].astype(float)
    if part.shape != (2 * reach + 1, 2 * reach + 1):
        return None
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(y, x) <= reach
    design = np.stack([np.ones(disc.sum()), y[disc], x[disc]], axis=1)
    part[~disc] = np.nan
    part[disc] -= design @ np.linalg.lstsq(design, part[disc], rcond=None)[0]
    return part
