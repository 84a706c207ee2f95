"""Results of campaigns: what is stored is known again."""

import pandas as pd

from covid3d import campaigns


def test_the_world_called_null_is_a_word_and_is_not_measured_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(campaigns, "RESULTS", tmp_path)
    measured = []

    def measure(world):
        measured.append(world)
        return pd.DataFrame({"value": [0.1, None]})

    for _ in range(2):
        table = campaigns.extend("worlds", "world", ("null", "effect"), measure, ["covid3d.errors"])
    assert measured == ["null", "effect"]
    assert list(table["world"]) == ["effect", "effect", "null", "null"] and table["value"].isna().sum() == 2
