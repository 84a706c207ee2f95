"""Shares and agreement against an outside reference, which the test's name or comment gives."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.metrics
import statsmodels.stats.contingency_tables

from covid3d.run.errors import Covid3DError
from covid3d.stats import proportions


@pytest.mark.parametrize(("k", "n"), [(0, 9), (9, 9), (8, 12), (17, 20), (1, 400)])
@pytest.mark.parametrize(("function", "name"), [(proportions.wilson, "wilson"), (proportions.clopper_pearson, "exact")])
def test_intervals_of_proportions_equal_scipy(k: int, n: int, function, name: str) -> None:
    reference = scipy.stats.binomtest(k, n).proportion_ci(method=name)
    found = function(k, n)
    assert (found.value, found.low, found.high) == pytest.approx((k / n, *reference), abs=1e-10)
    assert (found.low == 0) == (k == 0) and (found.high == 1) == (k == n), "the ends are exact"


def test_wilson_of_newcombe_1998() -> None:
    # Newcombe, Stat Med 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662
    found = proportions.wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("function", [proportions.wilson, proportions.clopper_pearson])
def test_a_share_of_no_cases_is_not_available(function) -> None:
    assert str(function(0, 0)) == "not available (no case)"


@pytest.mark.parametrize(
    ("percent", "n", "decimals", "counts"),
    [
        (83, 12, 0, [10]),
        (83, 20, 0, []),
        (66, 12, 0, [8]),  # 66.67 cut
        (78, 9, 0, [7]),  # 77.78 rounded
        (77, 9, 0, [7]),  # 77.78 cut
        (0, 9, 0, [0]),
        (100, 9, 0, [9]),
        (83.3, 12, 1, [10]),
        (83.4, 12, 1, []),
        (50, 400, 0, [198, 199, 200, 201, 202, 203]),
    ],
)
def test_attainable_counts_by_hand(percent: float, n: int, decimals: int, counts: list[int]) -> None:
    assert proportions.attainable(percent, n, decimals) == counts


def test_kappa_equals_scikit_learn_and_its_error_is_the_delta_method() -> None:
    counts = np.array([13, 2, 4, 11])
    a, b = np.repeat([0, 0, 1, 1], counts), np.repeat([0, 1, 0, 1], counts)

    def kappa_of(share: np.ndarray) -> float:
        (p, q), (r, s) = share.reshape(2, 2)
        chance = (p + q) * (p + r) + (r + s) * (q + s)
        return (p + s - chance) / (1 - chance)

    share = counts / 30  # multinomial: the variance of a function of shares, by numeric derivatives
    slope = np.array([(kappa_of(share + step) - kappa_of(share - step)) / 2e-6 for step in 1e-6 * np.eye(4)])
    error = math.sqrt((share @ slope**2 - (share @ slope) ** 2) / 30)
    found = proportions.kappa(a, b)
    assert found.value == pytest.approx(sklearn.metrics.cohen_kappa_score(a, b))
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.959964 * error, found.value + 1.959964 * error), abs=1e-6
    )


def test_kappa_of_one_and_the_same_call_is_undefined() -> None:
    assert not proportions.kappa([1, 1], [1, 1]).known


@pytest.mark.parametrize(
    ("a", "b", "value"), [([1, 1, 1, 1], [1, 1, 0, 0], 0.0), ([1, 0, 1, 0], [1, 0, 1, 0], 1.0), ([1, 0], [0, 1], -1.0)]
)
def test_kappa_without_a_standard_error_has_no_limits_that_look_certain(a, b, value) -> None:
    found = proportions.kappa(a, b)
    assert found.value == value
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(("b", "c"), [(5, 0), (0, 5), (7, 3), (4, 4), (0, 0)])
def test_mcnemar_exact_equals_statsmodels(b: int, c: int) -> None:
    reference = statsmodels.stats.contingency_tables.mcnemar([[3, b], [c, 3]], exact=True).pvalue if b + c else 1.0
    assert proportions.mcnemar_exact(b, c) == pytest.approx(reference)


def test_no_case_is_not_available_and_an_impossible_count_is_refused() -> None:
    for found in (proportions.kappa([], []), proportions.paired_difference(0, 0, 0)):
        assert str(found) == "not available (no case)"
    nobody = proportions.tost_paired_proportions(0, 0, 0, 0.1)
    assert not nobody.equivalent and math.isnan(nobody.p) and math.isnan(nobody.best_p)
    assert not nobody.interval_90.known
    with pytest.raises(Covid3DError, match="5 of 3"):
        proportions.wilson(5, 3)


def test_a_case_that_one_rater_has_not_called_is_left_out_of_kappa() -> None:
    a, b = [1, 0, 1, 0, 1, math.nan, 1], [1, 0, 0, 0, 1, 1, None]
    assert proportions.kappa(a, b) == proportions.kappa(a[:5], b[:5])
    with pytest.raises(Covid3DError, match="neither 0 nor 1"):
        proportions.kappa([1, 2, 0], [1, 1, 0])


def test_tango_statistic_at_zero_is_mcnemars_z() -> None:
    assert proportions.tango_z(7, 2, 30, 0.0) == pytest.approx((7 - 2) / 3)


def test_tango_nuisance_share_maximises_the_likelihood_found_by_scipy() -> None:
    b, c, n, difference = 7, 2, 30, 0.1

    def minus_log_likelihood(q: float) -> float:
        p = q + difference
        return -(b * math.log(p) + c * math.log(q) + (n - b - c) * math.log(1 - p - q))

    q = scipy.optimize.minimize_scalar(
        minus_log_likelihood, bounds=(1e-9, (1 - difference) / 2 - 1e-9), method="bounded"
    ).x
    wanted = (b - c - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference)))
    assert proportions.tango_z(b, c, n, difference) == pytest.approx(wanted, rel=1e-4)


def test_tango_interval_of_the_airway_example() -> None:
    # Fagerland, Lydersen & Laake, Stat Med 2014: Bentur's data, table (1, 1; 7, 12), 95 % CI -0.517 to -0.026
    found = proportions.paired_difference(1, 7, 21)
    assert (found.value, found.low, found.high) == pytest.approx((-0.286, -0.517, -0.026), abs=6e-4)


def test_tango_interval_of_perfect_agreement_has_a_width() -> None:
    found = proportions.paired_difference(0, 0, 20)
    z = scipy.stats.norm.ppf(0.975)
    assert found.high == pytest.approx(z**2 / (20 + z**2))  # n d / sqrt(n d (1 - d)) = z, solved by hand
    assert found.low == pytest.approx(-found.high)
    always = proportions.paired_difference(20, 0, 20)
    assert (always.value, always.high) == (1.0, 1.0)


def test_equivalence_needs_the_90_percent_interval_inside_the_margin() -> None:
    for b, c, n in [(3, 2, 20), (3, 2, 200), (0, 0, 20), (0, 0, 40), (9, 1, 300)]:
        found = proportions.tost_paired_proportions(b, c, n, 0.1)
        inside = found.interval_90.low > -0.1 and found.interval_90.high < 0.1
        assert found.equivalent == inside


@pytest.mark.parametrize(("b", "c"), [(30, 0), (0, 30)])
def test_a_difference_of_30_points_is_not_equivalent_whichever_rater_is_better(b: int, c: int) -> None:
    """Schuirmann 1987: p is the larger of the two one-sided tests; each is a score test at its margin."""
    found = proportions.tost_paired_proportions(b, c, 100, 0.1)
    assert found.p > 0.99 and not found.equivalent
    near = proportions.tost_paired_proportions(b // 10, c // 10, 400, 0.1)
    sides = [scipy.stats.norm.sf(proportions.tango_z(b // 10, c // 10, 400, -0.1))]
    sides.append(scipy.stats.norm.cdf(proportions.tango_z(b // 10, c // 10, 400, 0.1)))
    assert near.equivalent and near.p == max(sides) > min(sides)


@pytest.mark.parametrize(("n", "p"), [(9, 0.1587), (12, 0.1241), (20, 0.0680)])
def test_the_papers_samples_cannot_show_equivalence_within_10_points(n: int, p: float) -> None:
    # by hand for perfect agreement: z = sqrt(n d / (1 - d)) with d = 0.1; normal table for p
    found = proportions.tost_paired_proportions(0, 0, n, 0.1)
    assert found.best_p == pytest.approx(p, abs=1e-4)
    assert not found.equivalent


@pytest.mark.parametrize("disagree", [0.05, 0.2])
def test_the_cases_for_equivalence_give_the_power_that_scipys_multinomial_counts_out(disagree: float) -> None:
    """All tables of n pairs, one by one, with their probabilities: the power is reached, and missed by a fifth fewer cases."""
    cases = proportions.cases_for_equivalence(disagree, 0.1)

    def power(n: int) -> float:
        pairs = [(b, c) for b in range(n // 3) for c in range(n // 3) if b + c <= n]
        shares = [disagree / 2, disagree / 2, 1 - disagree]
        chance = scipy.stats.multinomial.pmf([(b, c, n - b - c) for b, c in pairs], n, shares)
        likely = [(pair, p) for pair, p in zip(pairs, chance, strict=True) if p > 1e-7]
        return sum(p for (b, c), p in likely if proportions._tost_p(b, c, n, 0.1) < 0.05)

    assert 0.80 <= power(cases) < 0.88
    assert power(4 * cases // 5) < 0.80


def test_perfect_agreement_needs_as_many_cases_as_its_best_p_allows() -> None:
    # by hand: z = sqrt(n d / (1 - d)) reaches 1.645 at n = 24.35 for d = 0.1
    assert proportions.cases_for_equivalence(0.0, 0.1) == 25
    assert proportions.tost_paired_proportions(0, 0, 25, 0.1).equivalent
    assert not proportions.tost_paired_proportions(0, 0, 24, 0.1).equivalent


@pytest.mark.parametrize(
    ("difference", "words"),
    [(5, "network higher by 5 points"), (-7.5, "R1 higher by 7.5 points"), (0, "neither is higher")],
)
def test_a_direction_names_the_higher_of_two(difference: float, words: str) -> None:
    assert proportions.direction(difference, "network", "R1") == words
