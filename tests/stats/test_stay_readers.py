"""Readers' scores of the stay: graded where they always gave a confidence."""

import numpy as np
import pandas as pd

from covid3d.stats import stay_readers


def test_a_reader_who_always_says_how_sure_is_graded_and_another_is_ranked_by_calls():
    calls = pd.DataFrame(
        {
            "reader_id": ["R1", "R1", "R2", "R2"],
            "task": "stay_pair",
            "scan_id": list("abab"),
            "call": pd.array([1, 0, 1, 0], dtype="Int64"),
            "confidence": pd.array([0.75, 0.5, 1.0, pd.NA], dtype="Float64"),
        }
    )
    found = stay_readers.scored(calls)
    assert found["high"].tolist() == [1, 0, 1, 0]
    assert np.allclose(found["logit"], [0.75, -0.5, 1, 0])


def test_the_first_reader_is_found_whatever_the_readers_are_called_and_nobody_is_said():
    rows = {("R10", "two scans"): (0.1, 0.3), ("R2", "two scans"): (0.2, 0.4)}
    table = pd.DataFrame(rows, index=["log-rank p", "lead of COVID3D"]).T.rename_axis(["reader", "saw"])
    found = stay_readers.first(table)
    assert list(found.values())[:3] == ["R2", 0.2, 0.4]
    assert str(found["one scan, lead of COVID3D"]) == "not available (nobody read so)"
    nobody = stay_readers.first(pd.DataFrame())
    assert nobody.keys() == found.keys() and nobody["reader"] == "nobody"
