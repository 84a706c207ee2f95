"""Slices on a line: positions are compared with the best even grid; orientation is the authority."""

import numpy as np
import pytest
from dicom_series import SHAPE, body, write_enhanced, write_series

from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

LONG = body((80, 24, 24))


def write(folder, z, hu=LONG):
    return write_series(
        folder,
        hu,
        spacing=(2.0, 14.0, 14.0),
        change=lambda d, i: setattr(d, "ImagePositionPatient", [-150, -120, z[i]]),
    )


def refusal(path):
    with pytest.raises(SeriesError) as caught:
        read_ct(path)
    return caught.value


@pytest.mark.parametrize(
    ("spacing", "decimals"), [(0.625, 1), (0.7, 1), (1.25, 1), (1.25, 2), (0.3, 2), (3.987, 0), (5, 0)]
)
def test_rounded_positions_are_no_irregularity(tmp_path, spacing, decimals):
    if spacing == 3.987:
        decimals, spacing = 1, 3.98734
    volume = read_ct(write(tmp_path, np.round(-100 + spacing * np.arange(80), decimals)))
    np.testing.assert_array_equal(volume.hu, LONG)
    assert volume.spacing_mm[0] == pytest.approx(spacing, abs=2e-3)
    assert volume.affine[2, 3] == pytest.approx(-100, abs=0.06)


@pytest.mark.parametrize("after", [1, 2, 40, 78])
@pytest.mark.parametrize(("spacing", "decimals"), [(0.625, 1), (0.625, 4), (0.4, 1), (0.25, 2), (1.25, 1), (5, 0)])
def test_a_missing_slice_is_found_among_rounded_positions(tmp_path, spacing, decimals, after):
    places = np.arange(80) + (np.arange(80) >= after)
    error = refusal(write(tmp_path, np.round(-100 + spacing * places, decimals)))
    assert error.code == "missing_slice"
    assert "1 of 81 slices are missing" in error.what


@pytest.mark.parametrize("gap", [2, 3])
def test_missing_slices_are_counted(tmp_path, gap):
    z = np.delete(0.625 * np.arange(90), [20, *range(40, 40 + gap)])[:80]
    assert f"{1 + gap} of {81 + gap} slices are missing" in refusal(write(tmp_path, np.round(z, 1))).what


@pytest.mark.parametrize(
    "z",
    [
        np.cumsum(np.where(np.arange(80) < 40, 2.0, 2.1)),  # each step near the usual one, their sum far from the grid
        np.cumsum(np.where(np.arange(80) == 40, 3.0, 2.0)),
        np.cumsum(np.where(np.arange(80) == 1, 2.6, 2.0)),
        2.0 * np.arange(80) + 0.5 * (np.arange(80) == 30),
        100 * 1.02 ** np.arange(80),
    ],
)
def test_slices_off_the_best_even_grid_are_refused(tmp_path, z):
    assert refusal(write(tmp_path, np.round(z, 4))).code == "variable_spacing"


@pytest.mark.parametrize("off", [0.17, 0.3])
def test_the_tolerance_is_a_tenth_of_the_spacing(tmp_path, off):
    z = 2.0 * np.arange(80) + off * np.where(np.arange(80) % 2, 1, -1)
    if off < 0.2:
        assert read_ct(write(tmp_path, z)).spacing_mm[0] == pytest.approx(2.0, abs=1e-3)
    else:
        assert refusal(write(tmp_path, z)).code == "variable_spacing"


def test_frames_are_compared_with_the_grid_too(tmp_path):
    def frames(index):
        return {"PlanePositionSequence": {"ImagePositionPatient": [-150.0, -120.0, np.round(-60 + 0.625 * index, 1)]}}

    volume = read_ct(write_enhanced(tmp_path / "scan", frames=frames))
    np.testing.assert_array_equal(volume.hu, body())
    assert volume.spacing_mm[0] == pytest.approx(0.625, abs=2e-3)


def test_a_tilt_that_only_the_header_states_is_noted_where_the_slices_lie_straight(tmp_path):
    volume = read_ct(write_series(tmp_path, GantryDetectorTilt="-12"))
    np.testing.assert_array_equal(volume.hu, body())
    assert any("states a gantry tilt of 12.0 degrees" in line for line in volume.history)


@pytest.mark.parametrize("said", ["0", "15", None])
def test_a_tilt_of_the_slices_is_refused_whatever_the_header_states(tmp_path, said):
    def tilt(dataset, index):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.9659258, -0.2588190]
        dataset.GantryDetectorTilt = said

    error = refusal(write_series(tmp_path, change=tilt))
    assert error.code == "gantry_tilt"
    assert "15.0 degrees" in error.what


def test_slices_that_the_scanner_straightened_keep_their_own_direction(tmp_path):
    turned = np.radians(10)

    def oblique(dataset, index):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, np.cos(turned), -np.sin(turned)]
        dataset.ImagePositionPatient = [-150.0, -120 + 8 * index * np.sin(turned), 8 * index * np.cos(turned)]
        dataset.GantryDetectorTilt = "10"

    assert read_ct(write_series(tmp_path, change=oblique)).shape == SHAPE
