"""A scan that a table of scores holds twice is refused by whoever reads it, with the file and the scan."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from covid3d.chapters import ceiling, comparison, explanation, reader_comparison, results
from covid3d.chapters.once import once
from covid3d.run.errors import Covid3DError

READERS = {
    "thresholds": (reader_comparison.thresholds, r"predictions\.csv of a fold"),
    "models that see no image": (ceiling.blind_models, r"predictions\.csv of a fold"),
    "the network among others": (lambda run: comparison.fold_scores(run, "covid3d"), r"predictions\.csv of a fold"),
    "a compared model": (lambda run: comparison.fold_scores(run, "s3d"), r"predictions\.csv of a fold of s3d"),
    "what models are compared with": (comparison.ensure_comparators, r"external/predictions\.csv"),
    "maps": (explanation.read_summary, r"explain/summary\.csv"),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_a_scan_that_has_two_scores(reader, monkeypatch):
    row = {"scan_id": "A1", "model": "covid3d", "fold": 0, "epoch": 3, "window": "nominal", "label": 1, "logit": 0.5}
    monkeypatch.setattr(results, "read_predictions", lambda path: pd.DataFrame([row, row | {"logit": 0.7}]))
    monkeypatch.setattr(results, "deployed_fold", lambda run: 0)
    monkeypatch.setattr(results, "folds", lambda run: range(1))
    run = SimpleNamespace(path=Path, model=lambda *parts: Path(*map(str, parts)), epochs=3)
    read, where = READERS[reader]
    with pytest.raises(Covid3DError, match=rf"^{where}: scan A1 has two scores"):
        read(run)


def test_a_scan_may_be_judged_by_several_methods_and_one_without_a_score_stays():
    table = pd.DataFrame({"scan_id": ["A1", "A1", "A2"], "method": ["pieces", "boxes", "pieces"]})
    assert once(table, "evidence/summary.csv") is table
    with pytest.raises(Covid3DError, match=r"evidence/summary\.csv: scan A1 has two"):
        once(table.assign(method="pieces"), "evidence/summary.csv")
    assert len(once(table.assign(logit=[1.0, 2.0, np.nan]), "some.csv")) == 3
