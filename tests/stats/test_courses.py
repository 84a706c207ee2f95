"""Courses of a score: noise band, peaks, changes and the pooled curve, against scipy, statsmodels and hand sums."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from covid3d.stats import courses


def course_of(patients: int, rng: np.random.Generator, noise: float = 0.2) -> pd.DataFrame:
    """Return courses that rise to a peak of 2 at day 8 and fall, each patient on a level of its own."""
    rows = []
    for number in range(patients):
        level = rng.normal(0, 3)
        for index, day in enumerate(np.cumsum([0, *rng.integers(2, 6, 4)])):
            s = level + 2 - (day - 8) ** 2 / 32 + rng.normal(0, noise)
            days = {"day": float(day), "days_since_onset": day + 4.0, "days_to_discharge": 20.0 - day}
            ids = {
                "scan_id": f"P{number:03d}-{index}",
                "patient_id": f"P{number:03d}",
                "hospital": "A",
                "scan_index": index,
            }
            rows.append({**ids, **days, "logit": s})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("pairs", "heavy"), [(3, False), (20, False), (20, True)])
def test_the_band_flags_at_most_five_percent_of_true_no_change_pairs(pairs, heavy):
    rng = np.random.default_rng(pairs)
    draw = (lambda size: rng.standard_t(2, size)) if heavy else (lambda size: rng.normal(0, 0.7, size))
    flagged = [abs(draw(1)[0]) > courses.noise_band_of(draw(pairs)).half_width for _ in range(4000)]
    assert np.mean(flagged) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)


def test_window_noise_widens_the_band():
    differences = np.array([0.3, -0.2, 0.1, 0.4])
    assert courses.noise_band_of(differences, 0.5).half_width > courses.noise_band_of(differences).half_width
    assert np.isnan(courses.noise_band_of(np.array([0.1])).half_width)


def test_a_pair_without_a_score_does_not_take_the_band_away():
    whole = courses.noise_band_of(np.array([0.3, -0.2, 0.1, 0.4]))
    assert courses.noise_band_of(np.array([0.3, -0.2, np.nan, 0.1, 0.4])) == whole


def test_the_band_of_twenty_pairs_is_no_narrower_than_their_largest_difference():
    """ceil(0.95 x 21) = 20th smallest of 20: the largest."""
    differences = np.r_[np.full(19, 0.01), 5.0]
    assert courses.noise_band_of(differences).half_width == pytest.approx(5)


def test_peak_table_by_hand():
    table = pd.DataFrame(
        {
            "scan_id": ["a", "b", "c", "d"],
            "patient_id": ["P"] * 3 + ["Q"],
            "hospital": "A",
            "scan_index": [0, 1, 2, 0],
            "day": [0.0, 8.0, 13.0, 0.0],
            "days_since_onset": [4.0, 12.0, 17.0, np.nan],
            "days_to_discharge": [15.0, 7.0, 2.0, np.nan],
            "logit": [1.0, 2.5, -0.5, 1.0],
        }
    )
    row = courses.peak_table(table).set_index("patient_id").loc["P"]
    assert row[["first", "peak", "last", "peak_day"]].tolist() == [1.0, 2.5, -0.5, 8.0]
    assert row[["peak_days_since_onset", "peak_to_discharge", "last_to_discharge"]].tolist() == [12, 7, 2]
    assert (row["rise"], row["fall"], row["peak_inside"]) == (1.5, 3.0, 1)
    assert courses.late_scans(table, 3).astype(object).where(lambda t: t.notna(), None).tolist() == [True, None]
    assert courses.late_scans(table, 1)["P"] == False  # noqa: E712


def test_change_is_a_paired_t_interval_as_scipy_gives_it():
    table = course_of(12, np.random.default_rng(1))
    found = courses.change_of(table)
    first = table[table["scan_index"] == 0].set_index("patient_id")["logit"]
    later = table[table["day"].between(7, 10) & (table["scan_index"] > 0)].groupby("patient_id")["logit"].mean()
    expected = stats.ttest_rel(later, first[later.index]).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(courses.change_of(table.query("day < 5")).low)


def test_the_pooled_curve_finds_the_peak_whatever_the_patients_levels():
    table = course_of(40, np.random.default_rng(2))
    curve, peak = courses.curve_of(table, "day", 99, np.random.default_rng(3))
    assert peak.low <= 8 <= peak.high
    assert peak.value == pytest.approx(8, abs=1)
    assert (curve["low"] <= curve["s"] + 1e-9).all() and (curve["s"] <= curve["high"] + 1e-9).all()


def test_the_band_of_the_curve_is_the_central_95_percent_of_refits_to_resampled_patients():
    """The refits by statsmodels: a spline and a constant of each drawn patient, averaged over the drawn patients' levels."""
    table, rng = course_of(12, np.random.default_rng(8), noise=1.0), np.random.default_rng(9)
    curve, _ = courses.curve_of(table, "day", 400, np.random.default_rng(9))
    days, patients = table["day"].to_numpy(), table["patient_id"].unique()
    knots = np.quantile(days, np.linspace(0, 1, courses.CURVE_DF)[1:-1])
    limits = {"lower_bound": days.min(), "upper_bound": days.max()}
    at, draws = courses._spline(curve["day"].to_numpy(), knots, limits), []
    for _ in range(400):
        drawn = [
            table[table["patient_id"] == patients[one]].assign(draw=n) for n, one in enumerate(rng.integers(0, 12, 12))
        ]
        part = pd.concat(drawn)
        levels = pd.get_dummies(part["draw"]).astype(float).to_numpy()
        design = np.hstack([courses._spline(part["day"].to_numpy(), knots, limits), levels])
        found = sm.OLS(part["logit"].to_numpy(), design).fit().params
        draws.append(at @ found[:-12] + found[-12:].mean())
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    assert curve["low"].to_numpy() == pytest.approx(low, abs=1e-6)
    assert curve["high"].to_numpy() == pytest.approx(high, abs=1e-6)


def test_the_pooled_curve_is_the_fixed_effects_regression_of_statsmodels():
    table = course_of(10, np.random.default_rng(4))
    curve, _ = courses.curve_of(table, "day", 99, np.random.default_rng(5))
    days = table["day"].to_numpy()
    knots = np.quantile(days, np.linspace(0, 1, courses.CURVE_DF)[1:-1])
    limits = {"lower_bound": days.min(), "upper_bound": days.max()}
    dummies = pd.get_dummies(table["patient_id"]).astype(float).to_numpy()
    fit = sm.OLS(table["logit"].to_numpy(), np.hstack([courses._spline(days, knots, limits), dummies])).fit()
    expected = courses._spline(curve["day"].to_numpy(), knots, limits) @ fit.params[: -dummies.shape[1]]
    assert np.diff(curve["s"]) == pytest.approx(np.diff(expected), abs=1e-8)


def test_a_curve_of_few_patients_is_not_available():
    curve, peak = courses.curve_of(course_of(3, np.random.default_rng(6)), "day", 99, np.random.default_rng(7))
    assert curve.empty and str(peak) == "not available (too few patients or days)"


def test_a_percentile_counts_ties_half():
    assert courses.percentile_in(pd.Series([1.0, 2.0, 2.0, 3.0]), 2.0) == 50
    assert np.isnan(courses.percentile_in(pd.Series(dtype=float), 1.0))
