"""Turning arrays to axial, head up, and back to the axes they came in."""

import itertools

import numpy as np
import pytest

from covid3d.ct.volume import axial_volume, to_source_axes

FLIPS = list(itertools.product([1, -1], repeat=3))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_orientation_is_turned_and_turned_back(order):
    array = np.random.default_rng(3).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    for flips in FLIPS:
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for column in range(3):
            affine[order[column], column] = flips[column] * (column + 1.5)
            affine[column, 3] = 10 * column
        volume = axial_volume(array, affine)
        assert (np.diag(volume.affine)[:3] > 0).all()
        assert volume.spacing_mm == pytest.approx(tuple(np.diag(volume.affine)[2::-1]))
        back, back_affine = to_source_axes(volume.hu, volume)
        np.testing.assert_array_equal(back, array)
        np.testing.assert_allclose(back_affine, affine)
        world = affine @ [5, 0, 3, 1]  # voxel (i, j, k)
        x, y, z, _ = np.rint(np.linalg.inv(volume.affine) @ world).astype(int)
        assert volume.hu[z, y, x] == array[3, 0, 5]
