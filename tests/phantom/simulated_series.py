"""Small series of each hospital and transfer syntax for tests, made by the scanner and the writer from a plain body."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dicom_series import body

from covid3d.phantom import dicom, scanner

KINDS = {
    "explicit": ("A", scanner.EXPLICIT),
    "jpeg_ls": ("B", scanner.JPEG_LS),
    "jpeg_2000": ("B", scanner.JPEG_2000),
    "rle": ("C", scanner.RLE),
    "implicit": ("C", scanner.IMPLICIT),
}
SEED = 7


def acquisition(hospital: str, matrix: int = 48, slices: int = 20, **changes: Any) -> scanner.Acquisition:
    rng = np.random.default_rng(SEED)
    return replace(scanner.acquire(hospital, 250, 122, matrix, slices, rng), **changes)


def row_of(scan_id: str, hospital: str, **changes: Any) -> dict[str, Any]:
    return {
        "scan_id": scan_id,
        "patient_id": scan_id[:4],
        "hospital": hospital,
        "sex": "F",
        "age": 61.0,
        "day": 3,
        **changes,
    }


def write(folder: Path, kind: str, slab: int = 6) -> scanner.Acquisition:
    """Write one series into `folder` slab by slab; returns its acquisition."""
    hospital, syntax = KINDS[kind]
    scan = acquisition(hospital, syntax=syntax)
    folder.mkdir(parents=True)
    series = dicom.SeriesWriter(folder, row_of(f"{hospital}001-0", hospital), scan, SEED)
    hu = body(scan.shape).astype(np.float32)
    for first in range(0, len(hu), slab):
        series.write(first, scanner.store(scanner.expose(hu[first : first + slab], scan, first), scan))
    return scan
