"""Mistakes that make good numbers out of nothing: each has one small test that a planted fault turns red."""

import importlib

import numpy as np
import pandas as pd
import pytest

from covid3d.chapters import fine_tuning, results, task1
from covid3d.chapters import reader_comparison as readers
from covid3d.cohort import certificate
from covid3d.cohort import folds as splits
from covid3d.network.training import Examples
from covid3d.run import steps
from covid3d.run.errors import ManifestError
from covid3d.run.files import write_json


def test_labels_reach_training_as_the_manifest_gives_them():
    table = pd.DataFrame(
        {"scan_id": ["a", "b", "c"], "patient_id": ["a", "b", "c"], "hospital": "A", "label": [1, 0, 0]}
    )
    examples = Examples.of(table, np.zeros((3, 4, 4, 4), np.int16))
    assert examples.labels.tolist() == [1, 0, 0]
    assert examples.scan_ids == ("a", "b", "c")


def test_every_fold_starts_from_its_own_seed(make_run, monkeypatch, tmp_path):
    run, seeds = make_run(), []
    rows = pd.DataFrame({"scan_id": ["a", "b"], "patient_id": ["a", "b"], "hospital": "A", "label": [0, 1]})

    class Store:
        @staticmethod
        def of(run):
            return Store()

        def stack(self, scan_ids):
            return np.zeros((len(scan_ids), 4, 4, 4), np.int16)

    monkeypatch.setattr(task1, "Store", Store)
    monkeypatch.setattr(task1, "build", lambda name, profile, seed: None)
    monkeypatch.setattr(task1, "fit", lambda *args, seed, **kwargs: seeds.append(seed))
    monkeypatch.setattr(task1, "write_fold", lambda *args: None)
    for fold in range(4):
        task1.train_fold(run, "covid3d", fold, None, rows, rows, tmp_path)
    assert len(set(seeds)) == 4


def test_the_operating_threshold_is_fixed_on_hospital_a(make_run, monkeypatch):
    """Scores of B and C lie elsewhere than those of A; a threshold chosen on them would, too."""
    inside = pd.DataFrame({"scan_id": [*"abcd"], "label": [0, 0, 1, 1], "logit": [-2.0, -1.0, 1.0, 2.0]})
    monkeypatch.setattr(results, "out_of_fold", lambda run: inside.assign(fold=0))
    monkeypatch.setattr(results, "external_scores", lambda run: inside.assign(fold=0, logit=inside["logit"] + 100))
    monkeypatch.setattr(results, "deployed_fold", lambda run: 0)
    assert readers.thresholds(make_run())[readers.YOUDEN] == pytest.approx(0.0)


def test_task_1_takes_first_scans_of_hospital_a_only():
    table = pd.DataFrame(
        {
            "scan_id": ["A1-0", "A1-1", "B1-0"],
            "role": ["development", "followup", "external"],
            "scan_index": [0, 1, 0],
        }
    )
    assert certificate.first_scans(table)["scan_id"].tolist() == ["A1-0"]


RESULTS = ("cross_validation", "external_tests", "reader_comparison", "trajectories", "prognosis")


@pytest.mark.parametrize("name", RESULTS)
def test_a_chapter_with_results_stops_at_a_failed_certificate(make_run, monkeypatch, name):
    run = make_run()
    found = [{"check": "patient", "found": ["fold 0: patient P1"], "passed": False}]
    write_json(run.path("leakage.json"), {"checks": found, "files": splits._hashes(run)})
    monkeypatch.setattr(steps, "ensure_needs", lambda run, chapter: None)
    with pytest.raises(ManifestError, match="'patient' has not passed: fold 0: patient P1"):
        importlib.import_module(f"covid3d.chapters.{name}").load(run)


def test_a_pair_is_the_prior_scan_then_the_index_scan(make_run, monkeypatch):
    days = {"first": 0, "second": 7}

    class Store:
        @staticmethod
        def of(run):
            return Store()

        def stack(self, scan_ids):
            return np.stack([np.full((1, 1, 1), days[scan], np.int16) for scan in scan_ids])

    monkeypatch.setattr(fine_tuning, "Store", Store)
    table = pd.DataFrame({"scan_id": ["second"], "prior_scan_id": ["first"]})
    assert fine_tuning._grids(make_run(), "pair", table).ravel().tolist() == [0, 7]
    assert fine_tuning._grids(make_run(), "single", table).ravel().tolist() == [7]
