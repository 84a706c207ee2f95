"""One scan's files -> its grid and the facts about it: the code that decides whether a stored grid is current."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covid3d.ct.grid import grid_spacing, resample
from covid3d.ct.lungs import lung_volume_ml
from covid3d.ct.series import CURES, read_ct
from covid3d.ct.volume import CTVolume
from covid3d.errors import SeriesError

LUNG_GRID = (48, 96, 96)


def read_scan(
    path: Path, series: int | None, shape: Sequence[int], *, threads: int = 1
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one scan; return its grid int16 HU (z, y, x) and what intake.csv says about it. Raises SeriesError."""
    volume = read_ct(path, series, threads=threads)
    return resample(volume, shape), facts(volume)


def facts(volume: CTVolume) -> dict[str, Any]:
    """Return size, spacing, scanner settings, HU statistics, lung volume and pixel hash; nothing that identifies."""
    mean, deviation = _mean_and_sd(volume.hu)
    coarse = tuple(min(own, most) for own, most in zip(volume.shape, LUNG_GRID, strict=True))
    series = volume.series
    return {
        "n_slices": volume.shape[0],
        "rows": volume.shape[1],
        "columns": volume.shape[2],
        "spacing_z_mm": round(volume.spacing_mm[0], 5),
        "spacing_y_mm": round(volume.spacing_mm[1], 5),
        "spacing_x_mm": round(volume.spacing_mm[2], 5),
        "kernel": series.kernel[:32] if series else "",
        "kvp": series.kvp if series else None,
        "manufacturer": series.manufacturer[:32] if series else "",
        "transfer_syntax": series.transfer_syntax if series else "",
        "hu_mean": round(mean, 3),
        "hu_sd": round(deviation, 3),
        "lung_volume_ml": round(lung_volume_ml(resample(volume, coarse), grid_spacing(volume, coarse)), 1),
        "pixel_sha256": pixel_sha256(volume.hu),
        "series_uid_sha256": series.uid_sha256 if series else "",
    }


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
