"""Statistics against R, value by value; reference/reference.R says with which packages, and makes every expected value."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covid3d.stats import auc, calibration, courses, cut_offs, independent, over_time, proportions, survival

FOLDER = Path(__file__).parent / "reference"
EQUAL = {"rel": 1e-6, "abs": 1e-7, "nan_ok": True}


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def cases(name: str) -> list[tuple[pd.Series, pd.DataFrame]]:
    """Return each case's expected values with its data."""
    data, key = read(name), "set" if name == "clusters" else "case"
    return [(row, data[data[key] == row[key]]) for _, row in read(f"{name}_expected").iterrows()]


def limits(found) -> list[float]:
    return [found.low, found.high]


@pytest.mark.parametrize(("expected", "data"), cases("auc"))
def test_auc_its_intervals_and_delong_for_differences_equal_proc_and_auroc(expected, data):
    label, a, b = (data[name].to_numpy() for name in ("label", "a", "b"))
    value = auc.auc_value(label, a)
    assert value == pytest.approx(expected["auc"])
    assert auc.delong_standard_error(label, a) ** 2 == pytest.approx(expected["var"], **EQUAL)
    assert limits(auc.auc(label, a)) == pytest.approx(list(expected[["newcombe_low", "newcombe_high"]]), **EQUAL)
    paired = auc.paired_delong(label, a, b)
    assert paired.p == pytest.approx(expected["p"], **EQUAL)
    unpaired = independent.unpaired_delong((label, a), (label, b))
    spread = min(auc.delong_standard_error(label, score) for score in (a, b)) > 0  # R tests where only one AUC has any
    assert unpaired.p == pytest.approx(expected["unpaired_p"] if spread else math.nan, **EQUAL)
    assert (unpaired.p < 0.05) == (not unpaired.estimate.low <= 0 <= unpaired.estimate.high) or math.isnan(unpaired.p)
    for found, names in (
        (auc.delong_interval(label, a), ["low", "high"]),
        (auc.logit_delong_interval(label, a), ["logit_low", "logit_high"]),
        (paired.estimate, ["d_low", "d_high"]),
    ):
        wanted = expected[names].tolist()
        point = abs(wanted[1] - wanted[0]) < 1e-12  # where nothing varies, R gives a point
        assert limits(found) == pytest.approx([math.nan] * 2 if point else wanted, **EQUAL)


@pytest.mark.parametrize(("expected", "data"), cases("ranks"))
def test_spearman_equals_cor_test_exactly_up_to_nine_pairs_without_ties(expected, data):
    found = auc.spearman(data["x"], data["y"])
    assert found.estimate.value == pytest.approx(expected["rho"])
    if expected["n"] > 9:
        assert found.p == pytest.approx(expected["p"])
    elif expected["p_exact"] > 0:
        assert found.p == pytest.approx(expected["p_exact"])


@pytest.mark.parametrize(("expected", "data"), cases("survival"))
def test_log_rank_and_cox_equal_survdiff_and_coxph(expected, data):
    rows = [data[name] for name in ("days", "event", "group")]
    chi_square = survival.log_rank(*rows).chi_square
    assert chi_square == pytest.approx(expected["chisq"], **EQUAL)
    for found, names in (
        (survival.hazard_ratio(*rows), ["hr", "hr_low", "hr_high", "p"]),
        (survival.hazard_ratio(*rows, cluster=data["cluster"]), ["cl_hr", "cl_low", "cl_high", "cl_p"]),
    ):
        if isinstance(expected["warned"], str) or data["event"].sum() < 2:
            assert not found.estimate.known, "R warns that the ratio may be infinite, or there is nothing to estimate"
        else:
            wanted = expected[names].tolist()
            if "fewer than 5 patients" in found.estimate.method:
                wanted[1:] = [math.nan] * 3
            assert [found.estimate.value, *limits(found.estimate), found.p] == pytest.approx(wanted, **EQUAL)


@pytest.mark.parametrize(("expected", "data"), cases("clusters"))
def test_the_sandwich_keeps_efrons_weights_on_tied_days_as_coxph_does(expected, data):
    rows = [data[name] for name in ("days", "event", "group")]
    assert data["days"].duplicated().any()
    for found, error in (
        (survival.hazard_ratio(*rows), expected["naive"]),
        (survival.hazard_ratio(*rows, cluster=data["id"]), expected["robust"]),
    ):
        assert math.log(found.estimate.value) == pytest.approx(expected["coef"], abs=1e-8)
        half = math.log(found.estimate.high / found.estimate.low) / 2
        assert half == pytest.approx(1.959963985 * error, rel=1e-8)


def test_a_finite_ratio_of_one_patient_against_nineteen_is_not_called_separated():
    """coxph: 10.165 (1.015 to 101.8), p 0.0485; unguarded Newton steps run away on these data."""
    data = read("survival").query("case == 401")
    found = survival.hazard_ratio(data["days"], data["event"], data["group"])
    assert found.estimate.value == pytest.approx(10.165, abs=1e-3) and found.p == pytest.approx(0.0485, abs=1e-4)


@pytest.mark.parametrize(("case", "expected"), list(read("kaplan_meier_expected").groupby("case")))
def test_kaplan_meier_and_its_limits_equal_survfit(case, expected):
    data = read("survival").query("case == @case")
    found = survival.kaplan_meier(data["days"], data["event"]).set_index("day").loc[expected["day"]]
    assert found["still_in_hospital"].tolist() == pytest.approx(expected["surv"].tolist())
    for side in ("low", "high"):
        assert found[side].tolist() == pytest.approx(expected[side].tolist(), **EQUAL)
    for count in ("at_risk", "events", "censored"):
        assert found[count].tolist() == expected[count].tolist()


@pytest.mark.parametrize(("case", "expected"), list(read("incidence_expected").groupby("case")))
def test_cumulative_incidence_with_ties_equals_cuminc(case, expected):
    data = read("survival").query("case == @case")
    found = survival.aalen_johansen(data["days"], data["cause"]).set_index("day")
    for cause, part in expected.groupby("cause"):
        assert found.loc[part["day"], f"cause_{cause}"].tolist() == pytest.approx(part["est"].tolist())
    assert found.index.is_unique


def test_limits_of_the_cumulative_incidence_equal_survfit():
    data, expected = read("competing"), read("competing_incidence_expected")
    found = survival.aalen_johansen(data["days"], data["cause"]).set_index("day").loc[expected["day"]]
    wanted = expected.rename(columns={"low": "cause_1 low", "high": "cause_1 high"}).drop(columns="day")
    for column, values in wanted.items():
        assert found[column].tolist() == pytest.approx(values.tolist(), rel=1e-8), column


@pytest.mark.parametrize("expected", [row for _, row in read("competing_expected").iterrows()])
def test_grays_test_equals_cuminc(expected):
    data = read(expected["data"])
    found = survival.gray(data["days"], data["cause"], data["group"], cause=expected["cause"])
    assert found.chi_square == pytest.approx(expected["chi_square"], abs=1e-7)
    assert found.p == pytest.approx(expected["p"], abs=1e-8)
    turned = survival.gray(data["days"], data["cause"], 1 - data["group"], cause=expected["cause"])
    assert turned.z == pytest.approx(-found.z)
    left = np.bincount(data["group"][data["cause"] == expected["cause"]])
    assert found.events == (left[1], left[0])


@pytest.mark.parametrize(("expected", "data"), cases("calibration"))
def test_calibration_and_net_benefit_equal_val_prob_glm_and_the_formula_of_dcurves(expected, data):
    label, logit = data["label"], data["logit"]
    line, large = calibration.recalibration(label, logit), calibration.calibration_intercept(label, logit)
    assert line.intercept.value == pytest.approx(expected["intercept"], **EQUAL)
    for found, name in ((line.slope, "slope"), (large, "large")):
        wanted = expected[[name, f"{name}_low", f"{name}_high"]].tolist()
        assert [found.value, *limits(found)] == pytest.approx(wanted, **EQUAL), name
    assert calibration.brier(label, logit).value == pytest.approx(expected["brier"])
    assert auc.auc_value(label, logit) == pytest.approx(expected["auc"])
    gains = calibration.net_benefit(label, logit, [0.25, 0.5])["score"]
    assert gains.tolist() == pytest.approx(expected[["net_25", "net_50"]].tolist())


@pytest.mark.parametrize(
    ("expected", "counts"),
    list(zip(*(read(name).to_dict("records") for name in ("calls_expected", "calls")), strict=True)),
)
def test_kappa_mcnemar_shares_tango_and_equivalence_equal_vcd_r_itself_and_propcis(expected, counts):
    first, second = counts["first"], counts["second"]
    n, right = sum(counts.values()), counts["both"] + first
    kappa = proportions.kappa(np.repeat([1, 1, 0, 0], [*counts.values()]), np.repeat([1, 0, 1, 0], [*counts.values()]))
    half = 1.959963985 * expected["kappa_se"]
    assert kappa.value == pytest.approx(expected["kappa"], abs=1e-12)
    if half:
        assert limits(kappa) == pytest.approx([max(-1, kappa.value - half), min(1, kappa.value + half)])
    else:
        assert not kappa.has_limits, "vcd gives a point"
    assert proportions.mcnemar_exact(first, second) == pytest.approx(expected["p"])
    for found, name in ((proportions.wilson(right, n), "wilson"), (proportions.clopper_pearson(right, n), "exact")):
        assert limits(found) == pytest.approx([expected[f"{name}_low"], expected[f"{name}_high"]])
    narrow = [expected["low_90"], expected["high_90"]]
    found = proportions.tost_paired_proportions(first, second, n, max(map(abs, narrow)))
    assert limits(found.difference) == pytest.approx(
        [expected["low"], expected["high"]], abs=2e-6
    )  # PropCIs bisects to 1e-6
    assert limits(found.interval_90) == pytest.approx(narrow, abs=2e-6)
    assert found.p == pytest.approx(0.05, abs=1e-4), "at the margin that the 90 % interval just touches"


def test_the_population_curve_and_its_spread_equal_lmer():
    data, expected = read("courses"), read("courses_expected")
    found = courses.curve_of(data, "day", 9, np.random.default_rng(1))
    assert found.points["day"].tolist() == pytest.approx(expected["day"].tolist())
    assert found.points["s"].tolist() == pytest.approx(expected["s"].tolist(), abs=1e-5)
    spread = expected.loc[0, ["between", "within"]].tolist()
    assert [found.between.value, found.within.value] == pytest.approx(spread, abs=1e-5)


def test_auc_and_brier_score_by_day_with_deaths_equal_riskregression():
    """`Score` of riskRegression: the dead are controls of the discharged, censoring is weighted by Kaplan and Meier."""
    data, expected = read("stays"), read("stays_expected")
    table = data.rename(columns={"days": "remaining_days", "score": "logit"})
    days, one = expected["day"].tolist(), np.ones((1, len(table)))
    areas = [over_time.dynamic_pairs(table, day=day).value(one)[0] for day in days]
    assert areas == pytest.approx(expected["auc"].tolist())
    chance = np.exp(-np.outer(np.exp(-data["score"]), days) / 10)
    assert over_time.squared_errors(table, chance, days).mean(0) == pytest.approx(expected["brier"].tolist())


def test_the_best_cut_off_and_the_landmarks_equal_survdiff():
    data, expected = read("stays"), read("stays_expected")
    days, event, score = data["days"].to_numpy(float), (data["cause"] == 1).to_numpy(float), data["score"].to_numpy()
    best = cut_offs.best_cut(score, days, event)
    assert (best.chi_square, best.cuts) == (pytest.approx(expected.loc[0, "largest"]), expected.loc[0, "cuts"])
    for row in expected.itertuples():
        there = days > row.day
        found = survival.log_rank(days[there], event[there], score[there] >= 0)
        assert found.chi_square == pytest.approx(row.landmark)
