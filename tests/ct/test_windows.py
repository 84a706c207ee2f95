"""Windows: the scale, and a sample that grows and stretches without being drawn again."""

import numpy as np
import pytest

from covid3d.ct.windows import Window, apply_window, nominal_window, sample_windows
from covid3d.run.errors import ConfigError
from covid3d.run.profile import load_profile

SETTINGS = load_profile("standard").windows


def test_the_lung_window_maps_its_borders_to_minus_one_and_one():
    hu = np.array([-3000, -1350, -600, 150, 3000], dtype=np.int16)
    scaled = apply_window(hu, Window(-600, 1500))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [-1, -1, 0, 1, 1], atol=1e-6)


def test_text_and_back():
    assert nominal_window(SETTINGS).text == "-600/1500"
    assert Window.parse("-600/1500") == Window(-600, 1500)
    assert Window.parse(Window(-587.25, 1432.5).text) == Window(-587.25, 1432.5)


@pytest.mark.parametrize("text", ["nominal", "-600", "-600/0", "-600/nan", "1/2/3"])
def test_a_text_that_is_no_window_is_refused(text):
    with pytest.raises(ConfigError, match="no window"):
        Window.parse(text)


def test_the_sample_is_fixed_by_the_seed_and_has_the_profiles_spread():
    table = sample_windows(SETTINGS, 1, count=20_000)
    assert table["level"].mean() == pytest.approx(SETTINGS.level, abs=2)
    assert table["level"].std() == pytest.approx(SETTINGS.level_sd, rel=0.03)
    assert table["width"].std() == pytest.approx(SETTINGS.width_sd, rel=0.03)
    assert np.corrcoef(table["level"], table["width"])[0, 1] == pytest.approx(0, abs=0.03)
    assert table["window"].tolist()[:2] == ["w000", "w001"]
    assert sample_windows(SETTINGS, 1).equals(sample_windows(SETTINGS, 1))
    assert not sample_windows(SETTINGS, 2).equals(sample_windows(SETTINGS, 1))


def test_fewer_windows_are_the_first_and_a_multiple_only_stretches():
    full = sample_windows(SETTINGS, 1)
    assert len(full) == SETTINGS.count
    assert sample_windows(SETTINGS, 1, count=7).equals(full.head(7))
    wide = sample_windows(SETTINGS, 1, multiple=2)
    np.testing.assert_allclose(wide["level"] - SETTINGS.level, 2 * (full["level"] - SETTINGS.level))


def test_uniform_windows_lie_within_one_sd_and_widths_stay_positive():
    table = sample_windows(SETTINGS, 1, count=2000, law="uniform")
    assert (table["level"] - SETTINGS.level).abs().max() <= SETTINGS.level_sd
    assert sample_windows(SETTINGS, 1, count=2000, multiple=50)["width"].min() >= 1
