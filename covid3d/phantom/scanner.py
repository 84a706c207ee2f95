"""Three scanners: geometry, dose, kernel, noise, drift of the Hounsfield scale, faint artefacts, padding, transfer syntax.

Frequencies are in line pairs a mm, so that a coarse matrix sees next to nothing of a kernel. The noise is what the kernel makes
of the projections' white noise (ramp x kernel) and is folded at the matrix's own limit, as sampling does: its SD is that of the
dose, whatever the matrix. Every slice has a random stream of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import fft, ndimage

from covid3d.run.errors import ConfigError
from covid3d.run.profile import PHANTOM_MANUFACTURER

Array = np.ndarray[Any, Any]
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG_LS, JPEG_2000, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
AVERAGE_HALF_WIDTH_MM = 122.0
HIGHEST_LP_MM = 1.5
BONE_HU = 200.0
PER_SCAN = 1 << 32
"""Number of the stream of a whole scan, beyond any slice's."""


@dataclass(frozen=True)
class Scanner:
    """How one hospital's scanner sees a chest."""

    manufacturer: str
    model: str
    kernel: str
    kvp: int
    reference_mas: int  # for a chest of average width; the tube current follows the patient
    rotation_ms: int  # divides a second, so that mA x s is whole
    thickness_mm: float
    field_mm: float
    mtf50: float  # lp/mm at which the kernel passes half, edge enhancement aside
    enhancement: float  # of edges, above 0.3 lp/mm
    noise_hu: float  # SD at 100 mAs, 120 kVp, 1 mm, average width
    streaks: float  # variance at shoulder level, over that of the mediastinum
    rings_hu: float
    offset_hu: float
    gain: float
    padding: int | None  # stored value outside the field of view
    signed: bool
    intercept: int
    syntaxes: tuple[str, ...]


SCANNERS = {
    "A": Scanner(
        manufacturer=f"{PHANTOM_MANUFACTURER} Northlight Simulated",
        model="NL-64",
        kernel="B40f",
        kvp=120,
        reference_mas=110,
        rotation_ms=500,
        thickness_mm=1.5,
        field_mm=370,
        mtf50=0.40,
        enhancement=0.0,
        noise_hu=23.0,
        streaks=0.6,
        rings_hu=1.0,
        offset_hu=0,
        gain=1.0,
        padding=None,
        signed=False,
        intercept=-1024,
        syntaxes=(EXPLICIT,),
    ),
    "B": Scanner(
        manufacturer=f"{PHANTOM_MANUFACTURER} Kestrel Simulated",
        model="KS-128",
        kernel="LUNG",
        kvp=120,
        reference_mas=80,
        rotation_ms=250,
        thickness_mm=1.25,
        field_mm=390,
        mtf50=0.55,
        enhancement=0.7,
        noise_hu=30.0,
        streaks=0.6,
        rings_hu=1.5,
        offset_hu=12,
        gain=1.012,
        padding=-2000,
        signed=True,
        intercept=-1024,
        syntaxes=(JPEG_LS, JPEG_2000),
    ),
    "C": Scanner(
        manufacturer=f"{PHANTOM_MANUFACTURER} Hollow Oak Simulated",
        model="HO-16",
        kernel="FC08",
        kvp=100,
        reference_mas=60,
        rotation_ms=1000,
        thickness_mm=2.5,
        field_mm=380,
        mtf50=0.33,
        enhancement=0.0,
        noise_hu=32.0,
        streaks=0.9,
        rings_hu=2.0,
        offset_hu=-14,
        gain=0.985,
        padding=-2048,
        signed=True,
        intercept=0,
        syntaxes=(RLE, IMPLICIT),
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
    field_mm: int
    mas: int
    noise_hu: float  # SD in the mediastinum
    height_mm: float  # of the lungs at full breath
    half_width_mm: float
    stream: int  # seed of the slices' random streams

    def __post_init__(self) -> None:
        """Refuse a geometry that no scanner has; the ConfigError names the field."""
        if any(n < 1 for n in self.shape):
            raise ConfigError(f"shape is {self.shape}", where="shape", cure="Use 1 or more on every axis")
        if not all(np.isfinite(mm) and mm > 0 for mm in self.spacing_mm):
            raise ConfigError(f"spacing_mm is {self.spacing_mm}", where="spacing_mm", cure="Use more than 0 mm")

    @property
    def current_ma(self) -> int:
        """Tube current; times the rotation time it is exactly `mas`."""
        return self.mas * 1000 // self.scanner.rotation_ms

    @property
    def overlap(self) -> float:
        """Share of a slice's rays that the next slice uses too, 0 for slices apart."""
        return float(np.clip(1 - self.spacing_mm[0] / self.scanner.thickness_mm, 0, 0.45))


def acquire(
    hospital: str, height_mm: float, half_width_mm: float, matrix: int, slices: int, rng: np.random.Generator
) -> Acquisition:
    """Draw position, breath and geometry of a scan; nothing depends on the disease."""
    if hospital not in SCANNERS:
        cure = f"Use {', '.join(SCANNERS)}"
        raise ConfigError(f"there is no scanner for hospital '{hospital}'", where="hospital", cure=cure)
    for name, value in (("phantom.matrix", matrix), ("phantom.slices", slices)):
        if value < 1:
            raise ConfigError(f"{name} is {value}", where=name, cure="Use 1 or more")
    scanner = SCANNERS[hospital]
    breath = float(np.clip(rng.normal(0.97, 0.025), 0.88, 1.03))
    length = float((height_mm * 1.02) * breath + rng.uniform(14, 30) + 16)
    below = float(rng.uniform(12, 26))
    field = round(max(scanner.field_mm * rng.uniform(0.97, 1.03), 2 * half_width_mm + 70))
    pixel = round(field / matrix, 6)
    start = round(-pixel * (matrix - 1) / 2, 4)
    attenuation = float(np.exp(0.016 * (half_width_mm - AVERAGE_HALF_WIDTH_MM)))
    mas = max(1, round(scanner.reference_mas * attenuation**0.6 * float(np.exp(rng.normal(0, 0.25)))))
    return Acquisition(
        scanner=scanner,
        shape=(slices, matrix, matrix),
        spacing_mm=(round(length / slices, 3), pixel, pixel),
        origin_mm=(round(-below, 4), start, start),
        shift_mm=(float(rng.normal(8, 5)), float(rng.normal(0, 6))),
        angle=float(np.deg2rad(rng.normal(0, 1.8))),
        breath=breath,
        breath_hu=float(rng.normal(0, 8) + 220 * (0.97 - breath)),
        drift_hu=float(rng.normal(scanner.offset_hu, 4)),
        syntax=scanner.syntaxes[int(rng.integers(len(scanner.syntaxes)))],
        field_mm=field,
        mas=mas,
        noise_hu=noise_sd(scanner, mas, attenuation),
        height_mm=float(height_mm),
        half_width_mm=float(half_width_mm),
        stream=int(rng.integers(1 << 63)),
    )


def noise_sd(scanner: Scanner, mas: float, attenuation: float = 1.0) -> float:
    """Return the SD (HU) in the mediastinum: one over the root of the quanta that a slice is made of."""
    quanta = (mas / 100) * (scanner.kvp / 120) ** 2.6 * scanner.thickness_mm / attenuation
    return float(scanner.noise_hu / np.sqrt(quanta))


def mtf(scanner: Scanner, frequency: Array) -> Array:
    """Return the kernel's response at frequencies in lp/mm; 1 at 0."""
    enhanced = 1 + scanner.enhancement * (1 - np.exp(-((frequency / 0.3) ** 4)))
    return enhanced * np.exp(-np.log(2) * (frequency / scanner.mtf50) ** 2)


def noise_power(scanner: Scanner, frequency: Array) -> Array:
    """Return the noise power spectrum at frequencies in lp/mm, up to a factor: ramp times the kernel squared."""
    return (frequency + 0.01) * mtf(scanner, frequency) ** 2


class Filters(NamedTuple):
    """What acts on every slice of a scan, float32; spectra as `scipy.fft.rfft2` orders them."""

    response: Array
    noise: Array  # power, mean 1
    streaks: Array  # power, mean 1: noise drawn out from side to side
    envelope: Array  # of the noise over the image, 1 amid the chest
    floor_hu: Array  # drift and rings


@lru_cache(maxsize=2)
def filters(acquisition: Acquisition) -> Filters:
    """Return the filters of a scan."""
    scanner, n, pixel = acquisition.scanner, acquisition.shape[1], acquisition.spacing_mm[1]
    quarter = fft.rfftfreq(n, pixel).astype(np.float32)
    rows = np.abs(np.rint(fft.fftfreq(n) * n)).astype(int)
    response = scanner.gain * mtf(scanner, np.hypot(quarter[rows, None], quarter[None]))
    noise, streaks = (power[rows] / power[rows][:, rows].mean() for power in _folded(scanner, quarter, pixel))
    y = (pixel * (np.arange(n) - (n - 1) / 2))[:, None]
    x = y.T
    wide = acquisition.half_width_mm
    distance = ((y - acquisition.shift_mm[0]) / (0.8 * wide)) ** 2 + ((x - acquisition.shift_mm[1]) / wide) ** 2
    floor = (scanner.gain - 1) * 1000 + acquisition.drift_hu + _rings(acquisition, np.hypot(y, x))
    parts = (response, noise, streaks, 0.55 + 0.45 * np.exp(-distance / 2), floor)
    return Filters(*(part.astype(np.float32) for part in parts))


def _folded(scanner: Scanner, quarter: Array, pixel: float) -> tuple[Array, Array]:
    """Return the noise power of all directions and that of the streaks at (y, x) frequencies, aliases added up."""
    reach = int(np.ceil(HIGHEST_LP_MM * pixel - 0.5))
    folds = np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(pixel)
    square = (quarter[:, None] + folds).reshape(-1) ** 2
    total = square[:, None] + square[None, :]
    power = noise_power(scanner, np.sqrt(total))
    steep = power * (square[:, None] / np.maximum(total, np.float32(1e-12))) ** 8
    parts = (len(quarter), len(folds), len(quarter), len(folds))
    return power.reshape(parts).sum((1, 3)), steep.reshape(parts).sum((1, 3))


def _rings(acquisition: Acquisition, radius: Array) -> Array:
    """Return faint rings (HU) around the axis of rotation, as thin as a channel of the detector."""
    step, pixel = 0.25, acquisition.spacing_mm[1]
    rng = np.random.default_rng([acquisition.stream, PER_SCAN])
    profile = np.zeros(int(radius.max() / step) + 2)
    faulty = rng.integers(int(8 / step), len(profile), size=10)
    profile[faulty] = rng.normal(0, acquisition.scanner.rings_hu, 10) * np.sqrt(2 * np.pi) * 0.6 / step
    profile = ndimage.uniform_filter1d(ndimage.gaussian_filter1d(profile, 0.6 / step), max(1, round(pixel / step)))
    return np.interp(radius, step * np.arange(len(profile)), profile)


def expose(hu: Array, acquisition: Acquisition, first: int) -> Array:
    """Return slices `first`, `first` + 1, … of true HU (z, y, x) as the scanner sees them, float32 HU.

    Slices are independent of the block that they come in.
    """
    act, pixel = filters(acquisition), acquisition.spacing_mm[1]
    out = np.empty(hu.shape, np.float32)
    for k, noise in enumerate(_noise(acquisition, act, first, len(hu))):
        sharp = fft.irfft2(fft.rfft2(hu[k].astype(np.float32, copy=False)) * act.response, s=noise.shape)
        dark = _hardening(hu[k], pixel)[:, None] * act.envelope
        out[k] = sharp + noise + act.floor_hu + dark
    return out


def _noise(acquisition: Acquisition, act: Filters, first: int, count: int) -> Iterator[Array]:
    """Yield the noise (HU) of `count` slices; slices that overlap share part of it."""
    root = np.sqrt(1 - 4 * acquisition.overlap**2)
    own, shared = np.float32(np.sqrt((1 + root) / 2)), np.float32(np.sqrt((1 - root) / 2))
    white = _white(acquisition, first)
    for k in range(first, first + count):
        following = _white(acquisition, k + 1) if shared or k + 1 < first + count else white
        mixed = own * white + shared * following if shared else white
        shoulder, level = _level(acquisition, k)
        noise = fft.irfft2(mixed * np.sqrt(act.noise + np.float32(shoulder) * act.streaks), s=acquisition.shape[1:])
        yield noise * (act.envelope * np.float32(acquisition.noise_hu * level))
        white = following


def _white(acquisition: Acquisition, k: int) -> Array:
    """Return the spectrum of slice k's white noise of variance 1."""
    rng = np.random.default_rng([acquisition.stream, k])
    return fft.rfft2(rng.standard_normal(acquisition.shape[1:], dtype=np.float32))


def _level(acquisition: Acquisition, k: int) -> tuple[float, float]:
    """Return slice k's variance of streaks (the shoulders' thickness) and its SD relative to the mediastinum's."""
    z = acquisition.origin_mm[0] + acquisition.spacing_mm[0] * k
    t = z / (acquisition.breath * acquisition.height_mm)
    shoulder, belly = np.clip((t - 0.78) / 0.2, 0, 1), np.clip((0.3 - t) / 0.3, 0, 1)
    return acquisition.scanner.streaks * float(shoulder), 1 + 0.12 * float(belly)


def _hardening(hu: Array, pixel: float) -> Array:
    """Return the darkening (HU) of each row: rays that cross much bone on their way from side to side come out hard."""
    bone_hu_mm = np.maximum(hu - np.float32(BONE_HU), 0).sum(axis=1) * pixel
    smooth = ndimage.gaussian_filter1d(bone_hu_mm, 5 / pixel)
    return (-12 * np.tanh(smooth / 30_000)).astype(np.float32)


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
