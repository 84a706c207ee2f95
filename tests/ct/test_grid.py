"""Resampling: exact geometry, no aliasing, and back again."""

import numpy as np
import pytest
import torch
from dicom_series import body

from covid3d.ct.grid import axis_weights, grid_spacing, resample, resize, to_volume_space
from covid3d.ct.volume import CTVolume

RNG = np.random.default_rng(5)


def volume(hu, spacing=(2.0, 1.0, 0.5)):
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    affine[:3, 3] = [-10, 20, 30]
    return CTVolume(np.asarray(hu, dtype=np.int16), spacing, affine)


@pytest.mark.parametrize(("size_in", "size_out"), [(64, 24), (48, 48), (24, 64), (133, 24), (512, 224), (1, 5), (7, 3)])
def test_weights_of_an_axis_sum_to_one_and_keep_the_centre_of_mass(size_in, size_out):
    weights = axis_weights(size_in, size_out).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    if size_in == size_out:
        np.testing.assert_array_equal(weights, np.eye(size_in))
    centres = weights @ np.arange(size_in)
    inside = slice(2, -2) if size_out > 5 else slice(0, 0)
    np.testing.assert_allclose(
        centres[inside], ((np.arange(size_out) + 0.5) * size_in / size_out - 0.5)[inside], atol=0.1
    )


@pytest.mark.parametrize(("old", "new"), [((64, 96), (24, 40)), ((30, 31), (64, 70)), ((48, 64), (48, 32))])
def test_a_plane_equals_torchs_antialiased_bilinear_resize(old, new):
    image = RNG.normal(0, 300, old).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], size=new, mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
    np.testing.assert_allclose(resize(image[None], (1, *new))[0], expected.numpy(), atol=0.01)


def test_the_three_axes_are_treated_alike():
    array = RNG.normal(0, 300, (40, 30, 20)).astype(np.float32)
    turned = resize(array.transpose(2, 0, 1), (8, 16, 12)).transpose(1, 2, 0)
    np.testing.assert_allclose(resize(array, (16, 12, 8)), turned, atol=1e-2)


def test_a_constant_stays_and_noise_is_averaged_not_picked():
    assert (resample(volume(np.full((30, 40, 50), -612)), (8, 16, 16)) == -612).all()
    noise = volume(RNG.normal(0, 100, (64, 128, 128)))
    assert resample(noise, (16, 32, 32)).std() < 15  # point sampling would keep 100; a mean of 4 x 4 x 4 gives 12.5


def grid_affine(volume, shape):
    """Return the affine of the resampled grid, voxel (x, y, z, 1) -> LPS mm: the outer borders of both grids agree."""
    scale = np.array([old / new for old, new in zip(volume.shape[::-1], list(shape)[::-1], strict=True)])
    to_voxel = np.diag([*scale, 1.0])
    to_voxel[:3, 3] = (scale - 1) / 2
    return volume.affine @ to_voxel


def test_the_affine_puts_a_ramp_where_it_was():
    z, y, x = np.meshgrid(np.arange(30), np.arange(40), np.arange(50), indexing="ij")
    source = volume(0 * z)
    shape = (10, 20, 25)
    affine = grid_affine(source, shape)
    for axis, coordinate in enumerate((x, y, z)):
        ramp = resize(coordinate.astype(np.float32), shape)
        for at in [(3, 7, 9), (6, 12, 10)]:
            expected = (affine @ [at[2], at[1], at[0], 1])[:3]
            found = source.affine[:3, axis] * ramp[at] + source.affine[:3, 3]
            assert found[axis] == pytest.approx(expected[axis], abs=1e-4)
    corner = grid_affine(source, shape) @ [-0.5, -0.5, -0.5, 1]
    np.testing.assert_allclose(corner, source.affine @ [-0.5, -0.5, -0.5, 1])
    assert grid_spacing(source, shape) == pytest.approx((6.0, 2.0, 1.0))


def test_a_map_goes_back_to_the_scans_voxels_at_the_same_place():
    source = volume(body((33, 50, 46)))
    grid = np.zeros((11, 25, 23), dtype=np.float32)
    grid[4, 10, 15] = 1
    back = to_volume_space(grid, source)
    assert back.shape == source.shape
    assert back.dtype == np.float32
    peak = np.unravel_index(back.argmax(), back.shape)
    wanted = grid_affine(source, grid.shape) @ [15, 10, 4, 1]
    found = source.affine @ [peak[2], peak[1], peak[0], 1]
    assert np.abs(found - wanted)[:3].max() <= 1.0


def test_shapes_that_are_no_volume_are_refused():
    with pytest.raises(ValueError, match="z, y, x"):
        resize(np.zeros((4, 4)), (2, 2))
