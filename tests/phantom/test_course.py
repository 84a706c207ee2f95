"""The course of disease: rise, peak 10 to 15 days after onset, clearance, discharge; no course at all in the null world."""

import numpy as np
import pytest
from scipy import stats

from covid3d.phantom.course import CLEARED, FIGURE_4, appearance, draw_course


def test_burden_peaks_10_to_15_days_after_onset_and_is_cleared_at_discharge() -> None:
    courses = [draw_course(3, f"P{i}") for i in range(500)]
    assert all(10 <= c.peak <= 15 for c in courses)
    for course in courses[:50]:
        days = np.arange(0, 30, 0.25)
        burdens = [course.burden(day) for day in days]
        assert abs(days[int(np.argmax(burdens))] - course.peak) <= 0.25
        assert course.burden(course.clearance) == pytest.approx(CLEARED)
    late = np.array([c.burden(c.discharge_day + c.onset_to_first) / c.peak_burden for c in courses])
    assert np.median(late) < 0.2
    after_first = np.array([c.peak - c.onset_to_first for c in courses])
    assert 7 <= np.median(after_first) <= 10


def test_the_patient_of_figure_4_peaks_on_day_6_and_leaves_on_day_12() -> None:
    assert FIGURE_4.peak - FIGURE_4.onset_to_first == 6
    assert FIGURE_4.discharge_day == 12
    assert FIGURE_4.burden(5 + 11) < 0.12 * FIGURE_4.peak_burden


def test_some_first_scans_are_nearly_clear_and_some_are_ill() -> None:
    first = np.array([c.burden(c.onset_to_first) for c in (draw_course(1, str(i)) for i in range(500))])
    assert 0.03 < (first < 0.01).mean() < 0.35 and (first > 0.08).mean() > 0.2


def test_phase_visible_decides_how_much_density_tells_of_the_phase() -> None:
    def correlation(visible: float) -> float:
        pairs = []
        for i in range(600):
            course, rng = draw_course(1, str(i)), np.random.default_rng(i)
            look = appearance(course, course.onset_to_first + rng.uniform(0, 14), rng, phase_visible=visible)
            pairs.append((look.phase, look.ground_glass))
        return float(np.corrcoef(np.array(pairs).T)[0, 1])

    assert correlation(1.0) < -0.85 and abs(correlation(0.0)) < 0.12


def test_null_world_burden_and_phase_tell_nothing_of_day_or_remaining_stay() -> None:
    rows = []
    for i in range(2000):
        course = draw_course(1, f"N{i}")
        day = int(np.random.default_rng(i).integers(0, course.discharge_day))
        look = appearance(
            course, course.onset_to_first + day, np.random.default_rng([7, i]), phase_visible=0.5, independent=True
        )
        rows.append((day, course.discharge_day - day, look.burden, look.phase, look.ground_glass))
    table = np.array(rows)
    for known in (0, 1):
        for shown in (2, 3, 4):
            assert stats.spearmanr(table[:, known], table[:, shown]).pvalue > 0.001
    assert np.unique(table[:, 2]).size > 1900
