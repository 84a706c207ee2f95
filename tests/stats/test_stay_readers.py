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
