"""Numbers that describe a chest CT, on volumes whose truth is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import measures
from covid3d.ct.volume import CTVolume
from covid3d.dicom.series import read_ct
from covid3d.phantom.build import build
from covid3d.run.profile import DATA, load_profile

SPACING = (2.5, 1.25, 1.25)
SCANS = ("A001-0", "C001-0")


def drawn(noise: float = 20.0, seed: int = 1) -> tuple[CTVolume, np.ndarray]:
    """A body of muscle in a coat of fat, two lungs with a gradient, spine, aorta and a grid of vessels; and the lungs."""
    rng = np.random.default_rng(seed)
    z, y, x = (step * (np.arange(n) - n / 2) for step, n in zip(SPACING, (72, 224, 280), strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    hu = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), -1000.0)
    hu[np.broadcast_to((x / 155) ** 2 + (y / 115) ** 2 < 1, hu.shape)] = -105
    hu[np.broadcast_to((x / 140) ** 2 + (y / 100) ** 2 < 1, hu.shape)] = 45
    lung = ((np.abs(x) - 68) / 48) ** 2 + (y / 75) ** 2 + (z / 78) ** 2 < 1
    hu = np.where(lung, -860 + 3.0 * (y + 75) / 10, hu)
    rods = lung & (np.hypot((x + 400) % 16 - 8, (y + 400) % 16 - 8) < 2.0)
    hu[rods] = 40
    hu[np.broadcast_to(np.hypot(x, y - 70) < 17, hu.shape)] = 300
    hu[np.broadcast_to(np.hypot(x - 14, y - 38) < 12, hu.shape)] = 40
    hu += rng.normal(0, noise, hu.shape)
    volume = CTVolume(np.clip(hu, -1024, 3071).round().astype(np.int16), SPACING, np.eye(4))
    return volume, lung


@pytest.fixture(scope="module")
def known() -> dict[str, float]:
    return measures.measure(drawn()[0])


def test_every_number_is_named_and_finite(known):
    assert list(known) == list(measures.UNITS)
    assert all(np.isfinite(value) for value in known.values())


def test_lungs_have_their_volume_extent_and_density(known):
    _, lung = drawn()
    assert known["lung_volume"] == pytest.approx(lung.sum() * np.prod(SPACING) / 1000, rel=0.03)
    assert known["lung_height"] == pytest.approx(156, abs=6)
    assert known["lung_mode"] == pytest.approx(-860 + 22, abs=12)
    assert known["lung_gradient"] == pytest.approx(3.0, abs=0.3)


def test_tissues_have_their_peaks_and_the_body_its_size(known):
    assert known["fat_peak"] == pytest.approx(-105, abs=6)
    assert known["muscle_peak"] == pytest.approx(45, abs=6)
    assert known["bone_median"] == pytest.approx(300, abs=15)
    assert known["body_width"] == pytest.approx(310, abs=8)
    assert known["body_depth"] == pytest.approx(230, abs=8)
    assert known["air"] == pytest.approx(-1000, abs=3)


@pytest.mark.parametrize("noise", [10.0, 30.0])
def test_noise_is_found_in_the_aorta(noise):
    found = measures.measure(drawn(noise)[0])
    assert found["noise"] == pytest.approx(noise, rel=0.08)
    assert found["noise_width"] < SPACING[2]  # white noise: neighbours are independent


def test_rods_in_the_lung_are_vessels(known):
    share = 100 * np.pi * 2.0**2 / 16**2
    assert known["vessels"] == pytest.approx(share, rel=0.35)
    assert known["small_vessels"] < known["vessels"]


def test_a_volume_without_lungs_has_no_numbers():
    solid = CTVolume(np.full((20, 40, 40), 40, np.int16), SPACING, np.eye(4))
    assert all(np.isnan(value) for value in measures.measure(solid).values())


def test_coarse_scans_have_neither_noise_nor_vessels():
    volume, _ = drawn()
    coarse = CTVolume(volume.hu[::2, ::3, ::3], (5.0, 3.75, 3.75), np.eye(4))
    found = measures.measure(coarse)
    assert all(np.isnan(found[name]) for name in ("noise", "noise_width", "vessels", "small_vessels"))
    assert found["lung_mode"] == pytest.approx(-838, abs=12)


def test_simulated_lungs_have_their_true_volume(tmp_path: Path):
    profile = load_profile("smoke")
    size = profile.phantom.model_copy(update={"matrix": 128, "slices": 60})
    profile = profile.model_copy(update={"phantom": size})
    build(tmp_path, manifest=DATA / "data_manifest.csv", profile=profile, scans=list(SCANS), workers=1)
    truth = pd.read_csv(tmp_path / "truth" / "truth.csv").set_index("scan_id")["lung_ml"]
    for scan in SCANS:
        found = measures.measure(read_ct(tmp_path / "dicom" / scan))
        assert found["lung_volume"] == pytest.approx(truth[scan], rel=0.15), scan
        assert -930 < found["lung_mode"] < -780
