"""The recommended interval covers at the paper's sample sizes; the usual ones do not."""

import math

import pytest

from covid3d.stats.auc import delong_interval
from covid3d.stats.coverage import AUCS, METHODS, SIZES, coverage, coverage_table

RECOMMENDED = {"recommended": METHODS["recommended"]}


def test_recommended_interval_covers_on_a_slice_of_the_campaign() -> None:
    table = coverage_table(replicates=400, seed=1, methods=RECOMMENDED)
    assert len(table) == len(AUCS) * len(SIZES)
    assert table["coverage"].min() >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 400)
    assert table["coverage"].max() < 1


@pytest.mark.verify
def test_recommended_interval_covers_93_percent() -> None:
    assert coverage_table(replicates=10_000, seed=2, methods=RECOMMENDED)["coverage"].min() >= 0.93


def test_coverage_sees_an_interval_that_is_too_narrow() -> None:
    assert coverage(delong_interval, true_auc=0.96, positives=12, negatives=9, replicates=400) < 0.8


def test_the_table_holds_every_method_and_repeats_by_seed() -> None:
    table = coverage_table(replicates=3, seed=4)
    assert set(table["method"]) == {"recommended", "logit DeLong", "DeLong", "bootstrap"}
    assert table.equals(coverage_table(replicates=3, seed=4))
