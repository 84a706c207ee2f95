"""The course of disease: rise, peak 10 to 15 days after onset, clearance, discharge; no course at all in the null world."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from covid3d.phantom.course import CLEARED, FIGURE_4, appearance, draw_course
from covid3d.phantom.order_form import SHOWS_DISEASE, plan_days
from covid3d.stats.auc import auc_value, paired_delong


def test_burden_peaks_10_to_15_days_after_onset_and_is_cleared_at_discharge() -> None:
    courses = [draw_course(3, f"P{i}") for i in range(500)]
    assert all(10 <= c.peak <= 15 for c in courses)
    for course in courses[:50]:
        days = np.arange(0, 30, 0.25)
        burdens = [course.burden(day) for day in days]
        assert abs(days[int(np.argmax(burdens))] - course.peak) <= 0.25
        assert course.burden(course.clearance) == pytest.approx(min(CLEARED, course.peak_burden))
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


def prognosis(visible: float, patients: int = 400) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return who stays 7 days or more after the index scan, and out-of-fold scores from true values of one or two scans."""
    rows, stays, number = [], [], 0
    while len(rows) < patients:
        number += 1
        course = draw_course(71, f"prognosis-{number}")
        if course.burden(course.onset_to_first) <= SHOWS_DISEASE:
            continue
        day = plan_days(3, course.discharge_day, False, np.random.default_rng([71, number]))[1]
        looks = [
            appearance(course, course.onset_to_first + d, np.random.default_rng([72, number, d]), phase_visible=visible)
            for d in (0, day)
        ]
        before, now = (math.log(look.burden) for look in looks)
        rows.append((now, looks[1].ground_glass, looks[1].contrast_hu, (now - before) / day))
        stays.append(course.discharge_day - day)
    table, long = np.array(rows), np.array(stays) >= 7
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=500))
    sets = {"burden": [0], "single": [0, 1, 2], "slope": [0, 3], "pair": [0, 1, 2, 3]}
    return long, {
        name: cross_val_predict(model, table[:, columns], long, cv=10, method="decision_function")
        for name, columns in sets.items()
    }


@pytest.mark.parametrize("visible", [0.0, 0.5])
def test_burden_and_slope_foretell_the_stay_better_than_burden_alone(visible: float) -> None:
    long, scores = prognosis(visible)
    gain = paired_delong(long, scores["slope"], scores["burden"])
    assert 0.40 < long.mean() < 0.65
    assert gain.estimate.value > 0.06 and gain.estimate.low > 0 and gain.p < 1e-4
    assert 0.58 < auc_value(long, scores["single"]) < 0.77 and 0.85 < auc_value(long, scores["slope"]) < 0.96


def test_the_second_scan_gains_less_when_one_scan_shows_the_phase() -> None:
    gains = {}
    for visible in (0.0, 0.5, 1.0):
        long, scores = prognosis(visible)
        gains[visible] = auc_value(long, scores["pair"]) - auc_value(long, scores["single"])
    assert gains[0.0] > gains[0.5] > gains[1.0] + 0.03 and gains[1.0] < 0.05
