"""The levels of the book's tests: what gives no answer is neither held nor missed."""

import pandas as pd
import pytest

from benchmarks import levels
from covid3d.chapters import external_tests
from covid3d.stats.estimate import Estimate


def test_a_sample_without_an_interval_or_p_is_counted_apart():
    found = iter([Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.1, 0.2), Estimate.missing("one class"), Estimate(1.0)])
    level = levels.Level("4", "t", "s", 4, lambda rng: levels.leaves_out(next(found), 0.5))
    assert levels.rejections(level, 4) == (1, 2)
    assert [levels.small(p) for p in (0.01, 0.2, float("nan"))] == [True, False, None]


def test_the_share_is_of_the_samples_that_answer(monkeypatch):
    row = {"chapter": 4, "setting": "s", "replicates": 100, "rejected": 5}
    stored = pd.DataFrame([row | {"test": "new", "answered": 50}, row | {"test": "old", "answered": None}])
    monkeypatch.setattr(external_tests.campaigns, "read", lambda name: stored)
    table = external_tests.ExternalTests.levels(None).droplevel(["chapter", "setting"])
    assert table["rejects"].map(float).tolist() == pytest.approx([0.1, 0.05])
    assert table.at["new", "no answer"] == 50 and pd.isna(table.at["old", "no answer"])
