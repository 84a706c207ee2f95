"""A simple lung mask: air inside the body. Good enough to measure lung volume and to crop, not to outline disease."""

import numpy as np
from scipy import ndimage

AIR_BELOW_HU = -400
BODY_ABOVE_HU = -300
AIR_HU = -1000
SMALLEST_ML = 100.0
CLOSING_MM = 8.0
DISEASE_CLOSING_MM = 16.0
"""Twice that of the lung mask, so that consolidation up to 3 cm thick at the lung's border is inside."""


def lung_mask(hu: np.ndarray, spacing_mm: tuple[float, float, float], closing_mm: float = CLOSING_MM) -> np.ndarray:
    """Return a bool mask (z, y, x) of both lungs, vessels and lesions inside closed; all False when none is found.

    The body is the largest dense component; air inside its outline, slice by slice, is lung when its component has at
    least 100 ml and a tenth of the largest. Dense disease at the lung's border is missed where it is wider than twice
    `closing_mm`; a wider closing takes more of the hilum and of the chest wall along.
    """
    inside = body_mask(hu) & (hu < AIR_BELOW_HU)
    labels, count = ndimage.label(inside)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(float) * float(np.prod(spacing_mm)) / 1000
    sizes[0] = 0
    kept = (sizes >= SMALLEST_ML) & (sizes >= 0.1 * sizes.max())
    mask = kept[labels]
    return _closed(mask, spacing_mm, closing_mm) if mask.any() else mask


def whole_lung(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the lung with the disease at its border closed in, bool (z, y, x): where opacity is measured and searched."""
    return lung_mask(hu, spacing_mm, DISEASE_CLOSING_MM)


def body_mask(hu: np.ndarray) -> np.ndarray:
    """Return the body with all inside its outline, bool (z, y, x); a table that does not touch it is left out."""
    labels, count = ndimage.label(hu > BODY_ABOVE_HU)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.stack([ndimage.binary_fill_holes(plane) for plane in labels == int(sizes.argmax())])


def _closed(mask: np.ndarray, spacing_mm: tuple[float, float, float], closing_mm: float) -> np.ndarray:
    """Close gaps of up to twice `closing_mm` and fill holes slice by slice."""
    reach = [max(1, round(closing_mm / step)) if step <= closing_mm else 0 for step in spacing_mm]
    padded = np.pad(mask, [(step, step) for step in reach])
    distance_out = ndimage.distance_transform_edt(~padded, sampling=spacing_mm)
    grown = distance_out <= closing_mm
    shrunk = ndimage.distance_transform_edt(np.pad(grown, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1] > closing_mm
    inner = tuple(slice(step, step + size) for step, size in zip(reach, mask.shape, strict=True))
    closed = shrunk[inner] | mask
    return np.stack([ndimage.binary_fill_holes(plane) for plane in closed])


def blanked(hu: np.ndarray, spacing_mm: tuple[float, float, float], part: str) -> np.ndarray:
    """Return a copy of HU (z, y, x) with air in place of the box around the lungs (`lungs`) or of the body (`body`).

    The box, unlike the mask, takes disease at the lung's border along; it goes through all slices, since dense bases are in
    no mask of air. Without a lung the box is the whole scan.
    """
    out = np.array(hu)
    if part == "body":
        out[body_mask(hu)] = AIR_HU
        return out
    inside = lung_mask(hu, spacing_mm)
    _, *plane = np.nonzero(inside if inside.any() else np.ones_like(inside))
    out[(slice(None), *(slice(axis.min(), axis.max() + 1) for axis in plane))] = AIR_HU
    return out
