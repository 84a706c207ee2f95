"""Tables of scores as the steps leave them: whoever reads one is refused a scan that stands in it twice."""

import numpy as np
import pandas as pd
import pytest

from covid3d.chapters.scored import of_folds, read_predictions
from covid3d.run.errors import Covid3DError, MissingResult

ROW = {"scan_id": "007", "model": "covid3d", "fold": 0, "epoch": 3, "window": "nominal", "logit": 0.5}


def stored(folder, *rows):
    path = folder / "task1" / "fold_00" / "predictions.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("logit", [0.5, 0.7, np.nan])
def test_a_scan_that_stands_twice_is_refused_with_file_and_scan(tmp_path, logit):
    path = stored(tmp_path, ROW, ROW | {"scan_id": "008"}, ROW | {"logit": logit})
    with pytest.raises(Covid3DError, match=r"^task1/fold_00/predictions\.csv: scan 007 has two scores of one model"):
        read_predictions(path)


@pytest.mark.parametrize("other", [{"model": "resnet_2d"}, {"fold": 1}, {"epoch": 2}, {"window": "w000"}])
def test_a_scan_may_be_scored_by_several_models_folds_epochs_and_windows(tmp_path, other):
    assert read_predictions(stored(tmp_path, ROW, ROW | other))["scan_id"].tolist() == ["007", "007"]


def test_a_scan_may_be_judged_by_several_methods_but_by_each_once(tmp_path):
    judged = {"scan_id": "A1", "method": "pieces", "ratio": 2.0}
    path = stored(tmp_path, judged, judged | {"method": "boxes"})
    assert len(read_predictions(path)) == 2
    pd.DataFrame([judged, judged]).to_csv(path, index=False)
    with pytest.raises(Covid3DError, match="scan A1 has two"):
        read_predictions(path)


def test_a_copy_of_another_folds_scores_is_refused(tmp_path):
    paths = [stored(tmp_path / str(fold), ROW | {"fold": 0}) for fold in range(2)]
    with pytest.raises(Covid3DError, match=r"^predictions\.csv of the folds: scan 007 has two scores"):
        of_folds(paths)
    paths[1].write_text(paths[1].read_text().replace("covid3d,0", "covid3d,1").replace("007", "008"))
    assert of_folds(paths)["scan_id"].tolist() == ["007", "008"]


def test_a_scan_without_a_score_stays_and_a_table_that_is_not_there_is_named(tmp_path):
    assert read_predictions(stored(tmp_path, ROW | {"logit": np.nan}))["logit"].isna().all()
    with pytest.raises(MissingResult, match=r"external/predictions\.csv"):
        read_predictions(tmp_path / "external" / "predictions.csv")
