"""Three scanners: geometry, kernel, noise, drift of the Hounsfield scale, padding and transfer syntax."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG_LS, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"


@dataclass(frozen=True)
class Scanner:
    """How one hospital's scanner sees a chest."""

    manufacturer: str
    model: str
    kernel: str
    kvp: int
    exposure_mas: int
    field_mm: float
    noise_hu: float
    noise_mm: float  # correlation length of the noise
    sharpening: float
    offset_hu: float
    gain: float
    padding: int | None  # stored value outside the field of view
    signed: bool
    intercept: int
    syntaxes: tuple[str, ...]


SCANNERS = {
    "A": Scanner(
        "COVID3D phantom Northlight Simulated",
        "NL-64",
        "B40f",
        120,
        110,
        370,
        18,
        1.6,
        0.0,
        0,
        1.0,
        None,
        False,
        -1024,
        (EXPLICIT,),
    ),
    "B": Scanner(
        "COVID3D phantom Kestrel Simulated",
        "KS-128",
        "LUNG",
        120,
        80,
        390,
        30,
        0.8,
        0.35,
        12,
        1.012,
        -2000,
        True,
        -1024,
        (JPEG_LS,),
    ),
    "C": Scanner(
        "COVID3D phantom Hollow Oak Simulated",
        "HO-16",
        "FC08",
        100,
        60,
        380,
        34,
        2.2,
        0.0,
        -14,
        0.985,
        -2048,
        True,
        0,
        (RLE, IMPLICIT),
    ),
}


@dataclass(frozen=True)
class Acquisition:
    """Geometry and state of one scan."""

    scanner: Scanner
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  # z, y, x of the first voxel's centre, table frame
    shift_mm: tuple[float, float]  # y, x of the patient in the table frame
    angle: float  # rad, about z
    breath: float  # 1 = full breath; scales the chest's z
    breath_hu: float
    drift_hu: float
    syntax: str


def acquire(
    hospital: str, height_mm: float, half_width_mm: float, matrix: int, slices: int, rng: np.random.Generator
) -> Acquisition:
    """Draw position, breath and geometry of a scan; nothing depends on the disease."""
    scanner = SCANNERS[hospital]
    breath = float(np.clip(rng.normal(0.97, 0.025), 0.88, 1.03))
    length = float((height_mm * 1.02) * breath + rng.uniform(14, 30) + 16)
    below = float(rng.uniform(12, 26))
    field = round(max(scanner.field_mm * rng.uniform(0.97, 1.03), 2 * half_width_mm + 70))
    dz = round(length / slices, 3)
    pixel = round(field / matrix, 6)
    start = -pixel * (matrix - 1) / 2
    return Acquisition(
        scanner=scanner,
        shape=(slices, matrix, matrix),
        spacing_mm=(dz, pixel, pixel),
        origin_mm=(-below, round(start, 4), round(start, 4)),
        shift_mm=(float(rng.normal(8, 5)), float(rng.normal(0, 6))),
        angle=float(np.deg2rad(rng.normal(0, 1.8))),
        breath=breath,
        breath_hu=float(rng.normal(0, 8) + 220 * (0.97 - breath)),
        drift_hu=float(rng.normal(scanner.offset_hu, 4)),
        syntax=scanner.syntaxes[int(rng.integers(len(scanner.syntaxes)))],
    )


def expose(hu: Array, acquisition: Acquisition, rng: np.random.Generator) -> Array:
    """Add drift, kernel and noise to a block of slices of true HU; returns float32 HU.

    Noise is drawn slice by slice, so blocks of any size give the same image.
    """
    scanner = acquisition.scanner
    pixel = acquisition.spacing_mm[1]
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    sigma = scanner.noise_mm / pixel
    if sigma > 0.25:
        noise = ndimage.gaussian_filter(noise, (0, sigma, sigma), truncate=3)
        noise /= _after_filter(sigma)
    out = hu
    if scanner.sharpening:
        out = out + scanner.sharpening * (out - ndimage.uniform_filter(out, (0, 3, 3)))
    return out * scanner.gain + (scanner.gain - 1) * 1000 + acquisition.drift_hu + scanner.noise_hu * noise


def _after_filter(sigma: float) -> float:
    """Return the SD of white noise after a discrete Gaussian filter in the plane."""
    radius = int(3 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    return float((kernel**2).sum())


def outside(acquisition: Acquisition) -> Array | None:
    """Return the pixels outside the round field of view, bool (y, x), or None when the scanner pads nothing."""
    if acquisition.scanner.padding is None:
        return None
    n = acquisition.shape[1]
    along = np.arange(n) - (n - 1) / 2
    return along[:, None] ** 2 + along[None, :] ** 2 > (n / 2) ** 2


def store(hu: Array, acquisition: Acquisition) -> Array:
    """Return stored values (uint16 or int16) of a block of HU, padding included."""
    scanner = acquisition.scanner
    low, high = (0, 4095) if not scanner.signed else (-1024 - scanner.intercept, 3071 - scanner.intercept)
    stored = np.clip(np.rint(hu - scanner.intercept), low, high).astype(np.int16 if scanner.signed else np.uint16)
    beyond = outside(acquisition)
    if beyond is not None and scanner.padding is not None:
        stored[:, beyond] = scanner.padding
    return stored
