"""One scan's files -> its grid and the facts about it: the code that decides whether a stored grid is current."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covid3d.ct.grid import grid_spacing, resample
from covid3d.ct.lungs import BODY_ABOVE_HU, body_mask, lung_mask
from covid3d.ct.volume import CTVolume, SeriesInfo
from covid3d.dicom.refusals import CURES
from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

LUNG_GRID = (48, 96, 96)
LEAST_LUNG_ML = 300.0
SMALL_LUNGS_ML = 800.0
MOST_LUNG_ML = 13_000.0
"""The largest lungs measured hold 11.68 l (rower P. Reed, English Institute of Sport, 2006)."""
LUNG_HEIGHT_MM = (60.0, 380.0)
"""Adult lungs are 24 to 27 cm high at full inspiration; the lower limit is for lungs that the scan has whole."""
LUNG_SLICE = 0.1
"""Slices with less lung than this share of the largest do not count for its height: gas of the bowel below."""
AIR_IN_BODY_HU = -850
DENSEST_HU = 100
TISSUE_HU = (-150, 150)
BARE_AIR_HU = -980
CUT_SHARE = 0.5
SMALLEST_FIELD_MM = 250.0
BONE_KERNEL = re.compile(r"(?i)bone|^EDGE|^(B80|[HJ][6-9]\d|FC(3\d|8\d)|YD$|D$|E$)")  # GE; Siemens, Canon, Philips


@dataclass(frozen=True)
class Lungs:
    """Aerated lung of a scan in ml, and how large its first or last slice is, 0 … 1 of its largest."""

    volume_ml: float
    cut: float


def read_scan(
    path: Path, series: int | None, shape: Sequence[int], *, threads: int = 1
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one scan; return its grid int16 HU (z, y, x) and what intake.csv says about it. Raises SeriesError."""
    volume = read_ct(path, series, threads=threads)
    found = facts(volume)
    return resample(volume, shape), found


def find_lungs(volume: CTVolume) -> Lungs:
    """Return the lungs of a scan.

    Raises SeriesError: not_chest below 300 ml (no chest, or the wrong part of one) and for air without tissue in it,
    impossible_size above 13 l or 380 mm of height, or whole below 60 mm, hu_out_of_range as `check_scale` does.
    """
    coarse = tuple(min(own, most) for own, most in zip(volume.shape, LUNG_GRID, strict=True))
    spacing = grid_spacing(volume, coarse)
    grid = resample(volume, coarse)
    mask = lung_mask(grid, spacing)
    areas = mask.sum(axis=(1, 2))
    lungs = Lungs(float(areas.sum() * np.prod(spacing) / 1000), float(max(areas[0], areas[-1]) / max(areas.max(), 1)))
    if lungs.volume_ml < LEAST_LUNG_ML:
        what = f"no lung was found ({lungs.volume_ml:.0f} ml of air within the body)"
        raise SeriesError(what, cure=CURES["not_chest"], code="not_chest")
    density = float(np.median(grid[mask]))
    if density < BARE_AIR_HU:
        what = f"no lung was found: the air within the body has {density:.0f} HU and holds no tissue"
        raise SeriesError(what, cure=CURES["not_chest"], code="not_chest")
    height = float(np.count_nonzero(areas > LUNG_SLICE * areas.max()) * spacing[0])
    flat = height < LUNG_HEIGHT_MM[0] and lungs.cut <= LUNG_SLICE
    if lungs.volume_ml > MOST_LUNG_ML or height > LUNG_HEIGHT_MM[1] or flat:
        what = f"the lungs would hold {lungs.volume_ml / 1000:.3g} l and be {height:.0f} mm high"
        raise SeriesError(what, cure=CURES["impossible_size"], code="impossible_size")
    check_scale(grid, int(volume.hu.max()))
    return lungs


def check_scale(hu: np.ndarray, densest: int) -> None:
    """Refuse a chest (z, y, x) whose values only look like Hounsfield units: shifted, scaled or clipped.

    Air in the body (trachea, emphysema, bowel) is near -1000 HU, and noise makes its lowest values lower still; soft tissue
    and fat have a median near 0; bone is above 100 HU (`densest`: the highest value of the whole scan). A scanner that has
    drifted by 60 HU passes. Raises SeriesError (hu_out_of_range).
    """
    body = hu[body_mask(hu)]
    air, tissue = float(np.percentile(body, 0.01)), float(np.median(body[body > BODY_ABOVE_HU]))
    faults = {
        f"the darkest air within the body has {air:.0f} HU, not about -1000": air > AIR_IN_BODY_HU,
        f"soft tissue has {tissue:.0f} HU, not about 0": not TISSUE_HU[0] <= tissue <= TISSUE_HU[1],
        f"nothing is denser than {densest} HU, as bone is": densest < DENSEST_HU,
    }
    if any(faults.values()):
        what = f"the values are no Hounsfield units: {'; '.join(text for text, wrong in faults.items() if wrong)}"
        raise SeriesError(what, cure=CURES["hu_out_of_range"], code="hu_out_of_range")


def facts(volume: CTVolume) -> dict[str, Any]:
    """Return size, spacing, scanner settings, HU statistics, lungs, hashes, and codes of what is odd but was kept.

    Nothing in it identifies a patient. Raises SeriesError as `find_lungs` does.
    """
    lungs = find_lungs(volume)
    mean, deviation = _mean_and_sd(volume.hu)
    series = volume.series or SeriesInfo()
    return {
        "n_slices": volume.shape[0],
        "rows": volume.shape[1],
        "columns": volume.shape[2],
        "spacing_z_mm": round(volume.spacing_mm[0], 5),
        "spacing_y_mm": round(volume.spacing_mm[1], 5),
        "spacing_x_mm": round(volume.spacing_mm[2], 5),
        "thickness_mm": series.slice_thickness_mm,
        "kernel": series.kernel[:32],
        "kvp": series.kvp,
        "exposure_mas": series.exposure_mas,
        "manufacturer": series.manufacturer[:32],
        "transfer_syntax": series.transfer_syntax,
        "hu_mean": round(mean, 3),
        "hu_sd": round(deviation, 3),
        "lung_volume_ml": round(lungs.volume_ml, 1),
        "kept_with": " ".join(oddities(volume, lungs)),
        "pixel_sha256": pixel_sha256(volume.hu),
        "series_uid_sha256": series.uid_sha256,
        "patient_sha256": series.patient_sha256,
    }


def oddities(volume: CTVolume, lungs: Lungs) -> list[str]:
    """Return the codes of what a reader of the results must know of a scan that was kept."""
    series = volume.series or SeriesInfo()
    field = min(step * count for step, count in zip(volume.spacing_mm[1:], volume.shape[1:], strict=True))
    found = {
        "prone": series.patient_position == "prone",
        "decubitus": series.patient_position == "decubitus",
        "contrast": series.contrast,
        "paediatric": series.paediatric,
        "bone_kernel": BONE_KERNEL.search(series.kernel) is not None,
        "small_lungs": lungs.volume_ml < SMALL_LUNGS_ML,
        "half_chest": lungs.cut > CUT_SHARE or field < SMALLEST_FIELD_MM,
        "sides_unknown": series.sides_unknown,
        "sign_mended": any("sign mended" in line for line in volume.history),
    }
    return [code for code, holds in found.items() if holds]


def pixel_sha256(hu: np.ndarray) -> str:
    """Return a hash of a volume's size and values: equal for equal pixels, whatever file they came in."""
    digest = hashlib.sha256(str(hu.shape).encode())
    digest.update(np.ascontiguousarray(hu, dtype="<i2").data)
    return digest.hexdigest()


def _mean_and_sd(hu: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation, slice by slice to spare memory."""
    total = squares = 0.0
    for plane in hu:
        values = plane.astype(np.float64)
        total += float(values.sum())
        squares += float((values * values).sum())
    mean = total / hu.size
    return mean, float(np.sqrt(max(squares / hu.size - mean * mean, 0.0)))


def safe_message(error: SeriesError) -> str:
    """Return why a scan was refused and what to do, without file names or text from headers."""
    return f"{error.what}. {CURES.get(error.code, CURES['unreadable'])}"
