"""How often few patients reach the bars of chapter 7: always where two scans tell all, never where none tells anything."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import phantom_gain
from covid3d.chapters.opacity import MEASURES
from covid3d.chapters.predictors import CHANGES


def patients(tells: float, count: int = 120) -> tuple[pd.DataFrame, np.ndarray]:
    """Patients whose stay goes with the change between two scans as far as `tells` says, and 4 + 4 features of the scans."""
    rng = np.random.default_rng(3)
    change, noise = rng.normal(size=count), rng.normal(size=count)
    days = 7 + 3 * (tells * change + (1 - tells) * noise)
    columns = {name: change + rng.normal(size=count) * 0.1 for name in CHANGES} | dict.fromkeys(MEASURES, noise * 0)
    table = pd.DataFrame(
        {
            "scan_id": [f"s{n}" for n in range(count)],
            "patient_id": [f"p{n}" for n in range(count)],
            **columns,
            "age": 50.0 + rng.normal(size=count),
        }
    )
    table = table.assign(sex="F", test=1, remaining_days=days.round().clip(1), event=1, label=(days >= 7).astype(float))
    index = rng.normal(size=(count, 4))
    prior = index.copy()
    prior[:, 0] -= change
    return table, np.hstack([prior, index])


@pytest.mark.parametrize(("tells", "opaque"), [(1.0, 1.0), (0.0, 0.0)])
def test_the_share_of_draws_that_reach_a_bar_is_that_of_what_the_scans_tell(tells, opaque):
    table = phantom_gain.power(*patients(tells), samples=4).set_index("bar")
    assert table["draws"].eq(4).all() and table["patients"].eq(phantom_gain.PATIENTS).all()
    assert table.loc["opacity, two scans", "value"] == opaque
    assert table.loc["log-rank, opacity of two scans", "value"] == opaque
