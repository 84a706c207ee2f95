"""Noise, kernel, dose and artefacts follow their laws; slices have streams of their own; impossible settings are refused."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_series import acquisition

from covid3d.phantom import scanner
from covid3d.phantom.scanner import SCANNERS
from covid3d.run.errors import ConfigError

HOSPITALS = pytest.mark.parametrize("hospital", SCANNERS)
MIDDLE = (slice(None), slice(40, 56), slice(40, 56))


def exposed(hu: float, scan: scanner.Acquisition, first: int = 0, count: int | None = None) -> np.ndarray:
    block = np.full((count or scan.shape[0], *scan.shape[1:]), hu, np.float32)
    return scanner.expose(block, scan, first)


@HOSPITALS
def test_noise_sd_is_that_of_the_dose_at_any_matrix(hospital: str) -> None:
    for matrix in (96, 256):
        scan = acquisition(hospital, matrix, 12, scanner=replace(SCANNERS[hospital], rings_hu=0.0))
        amid = slice(int(0.42 * matrix), int(0.58 * matrix))
        seen = exposed(40.0, scan)[4:8, amid, amid]
        assert seen.std() == pytest.approx(scan.noise_hu, rel=0.12)
    assert 15 < scan.noise_hu < 40


def test_noise_falls_with_the_root_of_dose_and_thickness_and_grows_with_the_patient() -> None:
    thin = SCANNERS["A"]
    assert scanner.noise_sd(thin, 440) == pytest.approx(scanner.noise_sd(thin, 110) / 2)
    assert scanner.noise_sd(replace(thin, thickness_mm=6.0), 110) == pytest.approx(scanner.noise_sd(thin, 110) / 2)
    assert scanner.noise_sd(replace(thin, kvp=140), 110) < scanner.noise_sd(thin, 110)
    small, large = (scanner.acquire("A", 250, half, 64, 20, np.random.default_rng(1)) for half in (105, 140))
    assert small.mas < large.mas and small.noise_hu < large.noise_hu


@HOSPITALS
def test_power_spectrum_is_that_of_the_kernel(hospital: str) -> None:
    scan = acquisition(hospital, 512, 20)
    pixel = scan.spacing_mm[1]
    noise = exposed(0.0, scan, first=9, count=6) - scanner.filters(scan).floor_hu
    power = (np.abs(np.fft.fft2(noise[:, 128:384, 128:384])) ** 2).mean(0)
    along = np.fft.fftfreq(256, pixel)
    radius = np.hypot(along[:, None], along[None, :])
    bins = np.arange(0.0, 0.68, 0.04)
    middles = bins[:-1] + 0.02
    measured = np.array([power[(radius >= low) & (radius < low + 0.04)].mean() for low in bins[:-1]])
    expected = scanner.noise_power(scan.scanner, middles)
    peak = middles[expected.argmax()]
    assert abs(middles[measured.argmax()] - peak) <= 0.08
    assert measured[1:-3] / measured.max() == pytest.approx(expected[1:-3] / expected.max(), abs=0.15)


def test_kernels_differ_where_only_a_fine_matrix_sees_it() -> None:
    coarse = np.linspace(0, 0.5 / 3.9, 30)
    for hospital in SCANNERS:
        assert np.abs(scanner.mtf(SCANNERS[hospital], coarse) - 1).max() < 0.1
    fine = np.linspace(0, 1, 500)
    soft, lung, smooth = (scanner.mtf(SCANNERS[hospital], fine) for hospital in "ABC")
    assert lung.max() > 1.1 and soft.max() == smooth.max() == 1
    half = [fine[np.flatnonzero(curve > 0.5)[-1]] for curve in (lung, soft, smooth)]
    assert half == sorted(half, reverse=True) and half[1] == pytest.approx(0.40, abs=0.01)


@HOSPITALS
def test_slices_do_not_depend_on_the_block_they_come_in(hospital: str) -> None:
    scan = acquisition(hospital, 64, 24)
    true = np.random.default_rng(0).normal(-400, 300, scan.shape).astype(np.float32)
    whole = scanner.expose(true, scan, 0)
    for first, last in ((0, 1), (3, 10), (10, 24)):
        assert np.array_equal(scanner.expose(true[first:last], scan, first), whole[first:last])


def test_overlapping_slices_share_noise_and_slices_apart_do_not() -> None:
    thick = replace(SCANNERS["C"], streaks=0.0, rings_hu=0.0)
    for slices, overlap in ((168, 0.3), (40, 0.0)):
        scan = acquisition("C", 96, slices, scanner=thick)
        assert scan.overlap == pytest.approx(overlap, abs=0.06)
        noise = (exposed(0.0, scan, slices // 2, 12) - scanner.filters(scan).floor_hu)[MIDDLE].reshape(12, -1)
        near = np.mean([np.corrcoef(noise[k], noise[k + 1])[0, 1] for k in range(11)])
        assert near == pytest.approx(scan.overlap, abs=0.06) and noise.std() == pytest.approx(scan.noise_hu, rel=0.1)


def test_noise_is_stronger_and_streaky_between_the_shoulders() -> None:
    scan = acquisition("C", 256, 60)
    noise = exposed(0.0, scan) - scanner.filters(scan).floor_hu
    amid = (slice(None), slice(108, 148), slice(108, 148))
    heart, shoulders = noise[20:35][amid], noise[-10:][amid]
    assert 1.2 < shoulders.std() / heart.std() < 1.6

    def roughness(block: np.ndarray) -> float:
        return float(np.diff(block, axis=1).std() / np.diff(block, axis=2).std())

    assert roughness(heart) == pytest.approx(1, abs=0.08) and roughness(shoulders) > 1.15


def test_bone_darkens_the_rows_it_lies_in_and_softer_tissue_does_not() -> None:
    scan = acquisition("A", 96, 20)
    true = np.full((2, 96, 96), 40, np.float32)
    plain = scanner.expose(true, scan, 8)
    true[1, 40:52, [10, 11, 12, 80, 81, 82]] = 900
    dark = (scanner.expose(true, scan, 8) - plain)[:, :, 30:60].mean(axis=2)
    assert np.array_equal(dark[0], np.zeros(96)) and -20 < dark[1, 46] < -4 and abs(dark[1, 10]) < 0.5
    grey = np.where(true > 200, 100, true).astype(np.float32)
    assert abs((scanner.expose(grey, scan, 8) - plain)[1, 46, 30:60].mean()) < 2


def test_rings_are_round_and_faint() -> None:
    scan = acquisition("C", 512, 20)
    none = replace(scan, scanner=replace(scan.scanner, rings_hu=0.0))
    rings = scanner.filters(scan).floor_hu - scanner.filters(none).floor_hu
    assert 0.2 < rings.std() < 3 and np.abs(rings).max() < 15
    assert np.allclose(rings, rings.T, atol=1e-4) and np.allclose(rings, rings[::-1], atol=1e-4)


@HOSPITALS
def test_drift_of_the_hounsfield_scale_is_the_hospitals_and_the_scans_own(hospital: str) -> None:
    own = SCANNERS[hospital]
    scans = [scanner.acquire(hospital, 250, 122, 32, 16, np.random.default_rng(k)) for k in range(200)]
    drift = np.array([scan.drift_hu for scan in scans])
    assert drift.mean() == pytest.approx(own.offset_hu, abs=1) and 3 < drift.std() < 5
    assert {scan.syntax for scan in scans} == set(own.syntaxes)
    scan = acquisition(hospital, 96, 16, noise_hu=0.0, scanner=replace(own, rings_hu=0.0))
    for hu in (-1000.0, 0.0):
        expected = own.gain * (hu + 1000) - 1000 + scan.drift_hu
        assert exposed(hu, scan)[MIDDLE] == pytest.approx(expected, abs=0.5)


def test_stored_values_stay_in_their_range_and_padding_lies_outside_the_field() -> None:
    extremes = np.linspace(-5000, 9000, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    for hospital, (low, high) in {"A": (0, 4095), "B": (0, 4095), "C": (-1024, 3071)}.items():
        scan = acquisition(hospital, 64, 16)
        stored = scanner.store(extremes, scan)
        beyond = scanner.outside(scan)
        inside = np.ones((64, 64), bool) if beyond is None else ~beyond
        assert stored.dtype == (np.int16 if scan.scanner.signed else np.uint16)
        assert stored[0, inside].min() >= low and stored[0, inside].max() <= high
        if beyond is not None:
            assert (stored[0, beyond] == scan.scanner.padding).all() and 0.15 < beyond.mean() < 0.25


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -0.7, -0.7), (float("nan"), 1.0, 1.0)])
def test_impossible_spacing_is_refused_by_name(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="spacing_mm"):
        acquisition("A", spacing_mm=spacing)


@pytest.mark.parametrize(
    ("hospital", "matrix", "slices", "field"),
    [
        ("D", 64, 20, "hospital"),
        ("A", 0, 20, "phantom.matrix"),
        ("A", -4, 20, "phantom.matrix"),
        ("A", 64, 0, "slices"),
    ],
)
def test_impossible_scans_are_refused_by_name(hospital: str, matrix: int, slices: int, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        scanner.acquire(hospital, 250, 122, matrix, slices, np.random.default_rng(0))
