"""Whole scans against single slices: what a slice by itself can tell, and what only depth does."""

import numpy as np
import pytest

from benchmarks.phantom_depth import EMBEDDED, by_slices, judged, out_of_fold
from covid3d.cohort.manifest import read_manifest
from covid3d.phantom import oracle
from covid3d.run.profile import repository_root

SPACING = (10.0, 5.0, 5.0)


def test_lesions_that_are_alike_in_all_slices_tell_single_slices_what_they_tell_the_whole():
    lung, lesion = np.zeros((2, 12, 40, 40), np.float32)
    lung[2:10, 5:35, 3:17] = lung[2:10, 5:35, 23:37] = 1
    lesion[2:10, 25:33, 5:12] = 1
    whole, slices = oracle.evidence(lesion, lung, SPACING), by_slices(lesion, lung, SPACING)
    same = [oracle.FEATURES.index(name) for name in ("balance", "posterior", "height", "lateral", "amount")]
    assert slices[same] == pytest.approx(whole[same])


def test_sides_that_are_ill_at_different_heights_are_balanced_in_no_slice():
    lung, lesion = np.zeros((2, 12, 40, 40), np.float32)
    lung[2:10, 5:35, 3:17] = lung[2:10, 5:35, 23:37] = 1
    lesion[3:5, 25:33, 5:12] = lesion[7:9, 25:33, 28:35] = 1
    assert oracle.evidence(lesion, lung, SPACING)[0] == pytest.approx(1)
    assert by_slices(lesion, lung, SPACING)[0] == pytest.approx(0)


def test_a_scan_without_lesions_is_the_same_to_both():
    lung, lesion = np.ones((4, 6, 6), np.float32), np.zeros((4, 6, 6), np.float32)
    assert by_slices(lesion, lung, SPACING).tolist() == oracle.evidence(lesion, lung, SPACING).tolist()


def test_a_clear_difference_is_found_even_in_few_patients():
    rng, labels = np.random.default_rng(1), np.tile([0, 1], 200)
    table = judged(labels, labels + rng.normal(0, 0.3, 400), rng.normal(size=400)).set_index("quantity")
    assert table.loc["whole scans minus single slices", "p"] < 0.001
    assert table.loc["share of draws of few patients with p below 0.05", "value"] > 0.99


def test_logits_are_of_rules_that_have_not_seen_the_patient():
    """Features of pure noise: what was fitted to itself would tell the classes."""
    rng, labels = np.random.default_rng(2), np.tile([0, 1], 100)
    features = np.column_stack([rng.normal(size=(200, 6)), rng.uniform(-4, -1.5, 200)])
    logits = out_of_fold(labels, features)
    assert abs(np.mean(logits[labels == 1]) - np.mean(logits[labels == 0])) < 0.5


def test_few_patients_are_as_many_as_the_embedded_cohort_has_outside_a():
    table = read_manifest(repository_root() / "data_manifest.csv").query("hospital != 'A' and scan_index == 0")
    assert table["label"].value_counts().to_dict() == EMBEDDED
