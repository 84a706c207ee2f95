"""Courses of a score: noise band, peaks, changes and the population curve, against scipy, lme4's example and hand sums."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from covid3d.stats import courses
from covid3d.stats.estimate import Estimate

SLEEPSTUDY = Path(__file__).parent.parent / "data" / "sleepstudy.csv"


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


def test_a_scan_without_a_day_is_not_the_last_and_one_without_s_is_not_the_highest():
    days = {"day": [0.0, np.nan, 9.0, 12.0], "days_since_onset": np.nan, "days_to_discharge": [20.0, 15.0, 11.0, 8.0]}
    scans = {"scan_id": ["a", "b", "c", "d"], "patient_id": "P", "hospital": "A", "scan_index": [0, 1, 2, 3]}
    row = courses.peak_table(pd.DataFrame({**scans, **days, "logit": [0.0, 1.0, 3.0, np.nan]})).iloc[0]
    assert (row["scans"], row["peak"], row["peak_day"], row["last"], row["last_to_discharge"]) == (3, 3, 9, 3, 11)


def test_a_curve_needs_scans_on_other_days_than_the_first():
    table = course_of(6, np.random.default_rng(0), noise=0.3)
    rare = table["scan_index"].eq(0) | table["patient_id"].isin(["P000", "P001"])
    found = courses.curve_of(table[rare], "day", 20, np.random.default_rng(0))
    assert found.points.empty and found.peak.method == "too many scans of one day"


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


def test_the_population_curve_finds_the_peak_whatever_the_patients_levels():
    curve = courses.curve_of(course_of(40, np.random.default_rng(2)), "day", 99, np.random.default_rng(3))
    assert curve.peak.low <= 8 <= curve.peak.high
    assert curve.peak.value == pytest.approx(8, abs=1)
    assert (curve.points["low"] <= curve.points["s"]).all() and (curve.points["s"] <= curve.points["high"]).all()
    assert (curve.patients, curve.scans) == (40, 200)


def sleepstudy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reaction times of 18 people over 10 days (Belenky et al., J Sleep Res 2003; the data of R's lme4): values, design, ids."""
    wide = pd.read_csv(SLEEPSTUDY).set_index("subject")
    days = np.tile(np.arange(10.0), len(wide))
    return wide.to_numpy().ravel(), np.column_stack([np.ones(180), days]), np.repeat(wide.index.to_numpy(), 10)


def test_the_mixed_model_is_that_of_lme4_in_its_own_example():
    """lmer(Reaction ~ Days + (1 | Subject), sleepstudy): 251.405 and 10.467, SD 37.12 between and 30.99 within."""
    fit = courses.mixed_fit(*sleepstudy())
    assert fit.coefficients == pytest.approx([251.405, 10.467], abs=5e-4)
    assert (fit.between, fit.within) == pytest.approx((37.12, 30.99), abs=5e-3)


def test_the_limits_know_that_patients_differ_in_their_slopes():
    """Bates et al., J Stat Softw 2015: the slope's SE is 1.546 where slopes may differ; a common slope would make it 0.804."""
    values, design, people = sleepstudy()
    draws = courses.resampled(
        courses.mixed_fit(values, design, people), values, design, people, 4000, np.random.default_rng(1)
    )
    assert draws.std(0) == pytest.approx([6.825, 1.546], rel=0.06)
    assert draws.mean(0) == pytest.approx([251.405, 10.467], rel=0.01)


def test_a_refit_to_the_patients_themselves_is_statsmodels_fit():
    """Generalised least squares with the fitted variances, on patients with unequal numbers of scans."""
    table = course_of(12, np.random.default_rng(8)).sample(45, random_state=1)
    design = np.column_stack([np.ones(45), table["day"]])
    fit = courses.mixed_fit(table["logit"].to_numpy(), design, table["patient_id"].to_numpy())
    each_once = SimpleNamespace(multinomial=lambda count, shares, size: np.ones((size, count), int))
    again = courses.resampled(fit, table["logit"].to_numpy(), design, table["patient_id"].to_numpy(), 1, each_once)
    assert again[0] == pytest.approx(fit.coefficients, abs=1e-6)


def test_the_limits_hold_the_true_slope_in_nearly_all_of_25_cohorts():
    """Known truth: a slope of 0.3 a day, patients' levels and slopes drawn; by the bootstrap of 40 patients."""
    rng, held = np.random.default_rng(12), 0
    for _ in range(25):
        people, days = np.repeat(np.arange(40), 4), np.tile([0.0, 4, 8, 12], 40)
        slopes = rng.normal(0.3, 0.2, 40)[people]
        values = rng.normal(0, 1.5, 40)[people] + slopes * days + rng.normal(0, 0.8, 160)
        design = np.column_stack([np.ones(160), days])
        fit = courses.mixed_fit(values, design, people)
        low, high = np.quantile(courses.resampled(fit, values, design, people, 200, rng)[:, 1], [0.025, 0.975])
        held += low <= 0.3 <= high
    assert held >= 20, "the 2 % quantile of the binomial of 0.93, at which percentile intervals of 40 patients stand"


def test_a_model_that_does_not_converge_gives_no_curve_and_says_so(monkeypatch):
    real = courses.MixedLM.fit

    def fails(self, **options):
        found = real(self, **options)
        found.converged = False
        return found

    monkeypatch.setattr(courses.MixedLM, "fit", fails)
    curve = courses.curve_of(course_of(9, np.random.default_rng(6)), "day", 9, np.random.default_rng(7))
    assert curve.points.empty and str(curve.peak) == "not available (the mixed model did not converge)"


def test_a_curve_of_few_patients_is_not_available():
    curve = courses.curve_of(course_of(3, np.random.default_rng(6)), "day", 99, np.random.default_rng(7))
    assert curve.points.empty and str(curve.peak) == "not available (too few patients or days)"


def test_the_rank_within_patients_counts_whom_it_leaves_out():
    """Scipy's rank correlation a patient, ties kept; a scan without a value, too few scans and a constant are said."""
    scans = {
        "A": ([1, 2, 2, 4], [1, 3, 2, 4]),
        "B": ([1, 2, 3, np.nan], [9, 8, 9, 1]),
        "few": ([1, 2, np.nan], [1, 2, 3]),
        "one": ([1], [1]),
        "flat": ([5, 5, 5], [1, 2, 3]),
    }
    rows = [(name, a, b) for name, (one, other) in scans.items() for a, b in zip(one, other, strict=True)]
    found = courses.rank_within(pd.DataFrame(rows, columns=["patient_id", "s", "burden"]), "s", "burden")
    each = [stats.spearmanr(*scans["A"]).statistic, stats.spearmanr([1, 2, 3], [9, 8, 9]).statistic]
    assert (found.estimate.value, found.patients, found.few, found.constant) == (pytest.approx(np.mean(each)), 2, 2, 1)
    assert (found.estimate.low, found.estimate.high) == (-1, 1), "cut to what a correlation can be"
    none = courses.rank_within(pd.DataFrame(rows[-3:], columns=["patient_id", "s", "burden"]), "s", "burden")
    assert not none.estimate.known and none.constant == 1


def test_the_word_of_a_change_is_read_from_its_interval():
    words = [courses.direction(Estimate(value, value - 1, value + 1)) for value in (2, -2, 0.5)]
    assert words == ["rises", "falls", "no change beyond chance"]
    assert (
        courses.direction(Estimate.missing("0 patients with such a scan")) == "not known (0 patients with such a scan)"
    )


def test_a_percentile_counts_ties_half():
    assert courses.percentile_in(pd.Series([1.0, 2.0, 2.0, 3.0]), 2.0) == 50
    assert np.isnan(courses.percentile_in(pd.Series(dtype=float), 1.0))
