"""The recommended interval covers at the paper's sample sizes; the usual ones do not. True AUCs of two normals are exact."""

import math

import pytest

from benchmarks.coverage import AUCS, METHODS, REPLICATES, SIZES, cells, held
from covid3d.run import campaigns
from covid3d.stats.auc import delong_interval


def test_recommended_interval_covers_on_a_slice_of_the_campaign() -> None:
    table = cells("recommended", 400, seed=1)
    assert len(table) == len(AUCS) * len(SIZES)
    share = table["held"] / 400
    assert share.min() >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 400) and share.max() < 1


@pytest.mark.verify
def test_recommended_interval_covers_93_percent() -> None:
    assert cells("recommended", 10_000, seed=2)["held"].min() >= 9300


def test_coverage_sees_an_interval_that_is_too_narrow() -> None:
    assert held(delong_interval, true_auc=0.96, positives=12, negatives=9, replicates=400) < 0.8 * 400


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_tried_in_every_cell_and_repeats_by_seed(name: str) -> None:
    table = cells(name, 3, seed=4)
    assert len(table) == len(AUCS) * len(SIZES) and table.equals(cells(name, 3, seed=4))


def test_the_stored_table_has_every_cell_at_full_size_and_the_recommended_interval_covers() -> None:
    table = campaigns.read("coverage")
    assert len(table) == len(METHODS) * len(AUCS) * len(SIZES)
    assert (table["replicates"] == table["method"].map(REPLICATES)).all()
    assert table.query("method == 'recommended'").eval("held / replicates").min() >= 0.93
