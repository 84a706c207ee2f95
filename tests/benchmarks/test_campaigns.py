"""Results of campaigns: what is stored is known again."""

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import campaigns, map_layers, null_smoke, scaling
from covid3d.ct.windows import Window
from covid3d.network.covid3d import Covid3D
from covid3d.network.scoring import to_input
from covid3d.run import campaigns as stored


def test_the_world_called_null_is_a_word_and_is_not_measured_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    measured = []

    def measure(world):
        measured.append(world)
        return pd.DataFrame({"value": [0.1, None]})

    for _ in range(2):
        table = campaigns.extend("worlds", "world", ("null", "effect"), measure, ["covid3d.run.errors"])
    assert measured == ["null", "effect"]
    assert list(table["world"]) == ["effect", "effect", "null", "null"] and table["value"].isna().sum() == 2


def test_the_enlarged_cohort_has_the_patients_of_a_again_and_again_under_other_names_and_seeds():
    form, embedded = scaling.order_form(3), pd.read_csv("data_manifest.csv")
    first = embedded[(embedded["hospital"] == "A") & (embedded["scan_index"] == 0)]
    assert len(form) == 3 * len(first) and form["scan_id"].is_unique and form["patient_id"].is_unique
    assert not set(form["patient_id"]) & set(embedded["patient_id"])
    assert not set(form["source"]) & set(embedded["source"]) and form["source"].nunique() == 3
    assert (form["label"].astype(int) == 1).sum() == 3 * (first["label"] == 1).sum()


def test_integrated_gradients_sum_to_what_sets_a_scan_apart_from_the_mean():
    torch.manual_seed(0)
    model, window = Covid3D(width=0.125), Window(-600.0, 1500.0)
    scans = np.random.default_rng(0).integers(-1000, 300, (3, 8, 32, 32)).astype(np.int16)
    scans[0, :, 8:24, 8:24] = 100
    with torch.no_grad():
        model(to_input(scans, window, "cpu"))  # statistics of batch norm
    model.eval()
    means = map_layers.mean_activations(model, scans, window)
    layer = "Mixed_3c"
    with torch.no_grad():
        here = model(to_input(scans[:1], window, "cpu")).item()
        mean = model.head(model.pool(model.extractor.forward_features(means[layer], start=layer))).item()
    cells = map_layers.integrated(model, scans[0], window, layer, means[layer])
    assert abs(here - mean) > 0.01
    assert cells.sum() == pytest.approx(here - mean, rel=0.05)


def explained() -> pd.DataFrame:
    """Return one first scan of A and of B, and what else is explained of the patient of A."""
    roles = ["development", "external", "followup", "rescan", "control"]
    return pd.DataFrame({"scan_id": ["A1-0", "B1-0", "A1-1", "A1-0r", "A1-2"], "role": roles, "label": 1, "fold": 0})


def test_maps_of_the_null_world_are_those_of_first_scans(monkeypatch):
    seen, lesion = [], np.zeros((2, 4, 4))
    lesion[0, 0, 0] = 1
    monkeypatch.setattr(null_smoke, "read_summary", lambda run: explained())
    monkeypatch.setattr(null_smoke, "read_map", lambda run, scan: seen.append(scan) or lesion)
    monkeypatch.setattr(null_smoke, "lesion_mask", lambda run, scan: lesion)
    assert null_smoke._of_maps(None)["signed effect of lesions in the map"] > 0
    assert seen == ["A1-0", "B1-0"]


def test_layers_are_asked_of_first_scans(monkeypatch, make_run):
    seen, grid = [], np.ones((2, 4, 4))
    monkeypatch.setattr(map_layers, "read_summary", lambda run: explained())
    monkeypatch.setattr(map_layers.Store, "of", lambda run: map_layers.Store)
    monkeypatch.setattr(map_layers.Store, "get", lambda scan: seen.append(scan) or grid)
    monkeypatch.setattr(map_layers.Store, "stack", lambda scans: grid)
    monkeypatch.setattr(map_layers, "load_fold", lambda *which: Covid3D(width=0.125))
    monkeypatch.setattr(map_layers, "split_of", lambda run, fold: [explained()])
    monkeypatch.setattr(map_layers, "mean_activations", lambda model, grids, window: {"Mixed_3c": None})
    monkeypatch.setattr(map_layers, "maps_of", lambda *of: {"gradcam": grid})
    for name in ("lesion_mask", "lung_mask"):
        monkeypatch.setattr(map_layers, name, lambda run, scan: grid)
    table = map_layers.shares_of(make_run())
    assert seen == ["A1-0", "B1-0"] and set(table["scans"]) == {2}
