"""Opacity of the lung by thresholds."""

import doctest

import numpy as np
import pytest
from dicom_series import SPACING, body

from covid3d.ct import opacity as module
from covid3d.ct.lungs import whole_lung
from covid3d.ct.opacity import opacity


def test_the_example_of_the_docstring_holds():
    assert doctest.testmod(module).failed == 0


def test_shares_count_what_was_put_into_the_lung():
    clear = body()
    inside = whole_lung(clear, SPACING)
    before = opacity(clear, SPACING)
    deep = np.zeros_like(inside)
    deep[8:13, 22:28, 12:20] = True
    deep &= inside & (clear < -700)
    hazy, dense = clear.copy(), clear.copy()
    hazy[deep], dense[deep] = -600, -100
    share = deep.sum() / inside.sum()
    assert share > 0.005
    assert opacity(hazy, SPACING).above_700 - before.above_700 == pytest.approx(share)
    assert opacity(hazy, SPACING).above_500 == pytest.approx(before.above_500)
    assert opacity(dense, SPACING).above_500 - before.above_500 == pytest.approx(share, rel=0.05)
    assert opacity(dense, SPACING).mean_hu > opacity(hazy, SPACING).mean_hu > before.mean_hu


def test_without_a_lung_there_is_no_opacity():
    assert np.isnan(opacity(np.full((8, 8, 8), 40, np.int16), SPACING)).all()
