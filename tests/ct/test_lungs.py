"""The simple lung mask."""

import numpy as np
import pytest
from dicom_series import SPACING, body

from covid3d.ct.lungs import blanked, lung_mask


def test_both_lungs_are_found_and_the_air_outside_is_not():
    hu = body()
    mask = lung_mask(hu, SPACING)
    lungs = hu < -700
    lungs[:, :, :2] = lungs[:, :, -2:] = False
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in hu.shape), indexing="ij")
    truth = lungs & ((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95
    assert mask.sum() == pytest.approx(truth.sum(), rel=0.08)


def test_a_dense_spot_inside_a_lung_belongs_to_it():
    hu = body()
    hu[9:11, 23:25, 33:35] = 30
    assert lung_mask(hu, SPACING)[9:11, 23:25, 33:35].all()


def test_air_alone_and_a_body_alone_have_no_lungs():
    assert not lung_mask(np.full((8, 8, 8), -1000, np.int16), SPACING).any()
    assert not lung_mask(np.full((8, 8, 8), 40, np.int16), SPACING).any()


def test_blanking_takes_the_lungs_with_disease_at_their_border_or_the_whole_body():
    hu = body()
    inside = lung_mask(hu, SPACING)
    hu[10, 24, 24] = 60  # between the lungs: in their box, not in the mask
    dense = inside.copy()
    dense[5:] = False
    hu[dense] = 20  # consolidated bases: in no mask of air
    assert not lung_mask(hu, SPACING)[dense].all() and dense.any()
    no_lungs, no_body = (blanked(hu, SPACING, part) for part in ("lungs", "body"))
    assert (no_lungs[dense] == -1000).all(), "disease of the bases is blanked"
    assert inside.any() and (no_lungs[inside] == -1000).all() and no_lungs[10, 24, 24] == -1000
    assert (no_body <= -500).sum() == hu.size - 1, "the mark at the head lies outside the body and stays"
    assert (no_lungs[hu > 0] > 0).any() and hu[inside].max() > -1000
    assert (blanked(np.full((4, 8, 8), 40), SPACING, "lungs") == -1000).all()
