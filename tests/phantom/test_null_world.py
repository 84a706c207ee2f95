"""The null world: nothing tells of label, day or stay, no test of the project claims that it does, and each test can fail."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from benchmarks import null_world
from benchmarks.null_smoke import signed_effect
from covid3d.chapters import explanation as explain
from covid3d.ct.windows import nominal_window
from covid3d.network import registry
from covid3d.phantom.course import appearance, draw_course
from covid3d.run.profile import load_profile
from covid3d.stats import estimate
from covid3d.stats.auc import spearman

SHOWN = ("burden", "phase", "ground_glass", "contrast_hu")
SLICE = 40


def scans(world: str, patients: int = 2000) -> pd.DataFrame:
    """Return two scans a simulated patient, on random days of the stay: what is known and what the scan shows."""
    rows = []
    for number in range(patients):
        course = draw_course(11, f"N{number}")
        days = np.sort(np.random.default_rng([12, number]).integers(0, course.discharge_day, 2))
        for index, day in enumerate(days.tolist()):
            rng = np.random.default_rng([13, number, index])
            since = course.onset_to_first + day
            look = appearance(course, since, rng, phase_visible=0.5, independent=world == "null")
            known = (number, index, day, course.discharge_day - day)
            rows.append((*known, *(getattr(look, name) for name in SHOWN)))
    return pd.DataFrame(rows, columns=["patient", "index", "day", "remaining", *SHOWN])


@pytest.fixture(scope="module", params=["null", "effect"])
def world(request) -> tuple[str, pd.DataFrame]:
    return request.param, scans(request.param)


def correlations(table: pd.DataFrame) -> dict[str, estimate.Tested]:
    """Return Spearman's correlation of what a first scan shows with day and stay, and with what the second one shows."""
    first, second = (table[table["index"] == index].reset_index(drop=True) for index in (0, 1))
    found = {
        f"{name}, {known}": spearman(first[name], first[known]) for known in ("day", "remaining") for name in SHOWN
    }
    return found | {f"{name}, second scan": spearman(first[name], second[name]) for name in SHOWN}


def test_burden_and_phase_go_with_day_and_stay_in_the_effect_world_alone(world):
    name, table = world
    for pair, found in correlations(table).items():
        if name == "null":
            assert found.p > 0.001 and found.estimate.low < 0.03 and found.estimate.high > -0.03, (pair, found)
    if name == "effect":
        found = correlations(table)
        for pair in ("burden, day", "burden, remaining", "phase, day", "phase, remaining", "burden, second scan"):
            assert found[pair].p < 1e-6 and abs(found[pair].estimate.value) > 0.10, (pair, found[pair])


def test_both_worlds_show_the_same_range_of_burdens():
    null, effect = (scans(name, 600)["burden"] for name in ("null", "effect"))
    assert null.median() == pytest.approx(effect.median(), rel=0.35)
    assert stats.ks_2samp(null, effect).statistic < 0.15


@pytest.fixture(scope="module")
def replicates() -> dict[str, pd.DataFrame]:
    return {name: null_world.replicates(name, count) for name, count in (("null", SLICE), ("stay", 10))}


def test_on_a_slice_of_the_campaign_no_test_finds_what_is_not_there(replicates):
    table = replicates["null"]
    counts = {quantity: int(table[column].sum()) for quantity, column in null_world.TESTS.items()}
    assert len(table) == SLICE and max(counts.values()) <= null_world.allowed(SLICE), counts
    assert table["auc_b"].nunique() > SLICE / 4, "every replicate is drawn afresh"


def test_the_same_tests_find_what_is_there(replicates):
    """The gain in AUC is found less often than that in C-index: what its permutation test pays for holding its level."""
    shares = replicates["stay"][list(null_world.TESTS.values())].mean()
    seldom = ["log_rank_single_rejects", "gain_auc_rejects"]
    assert (shares.drop(seldom) >= 0.8).all(), shares
    assert (shares[seldom] >= 0.2).all(), shares


def test_without_an_effect_s_has_no_sign(replicates):
    table = null_world.summary(replicates["null"]).set_index("quantity").loc[list(null_world.SIGNED)]
    assert (table["p"] > 0.001).all(), table
    planted = null_world.summary(replicates["stay"]).set_index("quantity")
    assert planted.loc["s against true burden, followed patients", "p"] < 0.001


def test_the_bound_of_the_full_campaign_is_that_of_the_protocol():
    assert null_world.allowed(400) == 32
    assert 5 <= null_world.allowed(SLICE) <= 10


@pytest.fixture(scope="module")
def lesion_scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU grids with and without a lesion, and the lesion's mask."""
    rng, shape = np.random.default_rng(5), load_profile("smoke").model.grid
    place = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"))
    mask = (
        np.linalg.norm((place - np.array([8, 30, 14])[:, None, None, None]) / [[[[4]]], [[[8]]], [[[8]]]], axis=0) < 1
    )
    healthy = rng.normal(-850, 40, shape)
    return (healthy + 350 * mask).astype(np.int16), healthy.astype(np.int16), mask.astype(np.float32)


def effects(lesion_scan, *, informed: bool, networks: int = 24) -> np.ndarray:
    """Return the signed effect of the lesion in the maps of untrained networks; `informed` heads point at lesions."""
    ill, healthy, mask = lesion_scan
    profile, found = load_profile("smoke"), []
    window = nominal_window(profile.windows)
    for seed in range(networks):
        model = registry.build("covid3d", profile, seed=seed).eval()
        if informed:
            with torch.no_grad():
                seen, clear = (
                    model.pool(model.extractor.forward_features(explain.to_input(grid[None], window, "cpu"))).flatten()
                    for grid in (ill, healthy)
                )
                model.head.weight.copy_((seen - clear)[None])
        values = explain.signed_map(model, ill, window, profile.explain.layer, profile.explain.method)
        found.append(signed_effect(values, mask))
    return np.array(found)


def test_maps_of_networks_that_know_nothing_have_no_mean_sign_in_lesions(lesion_scan):
    assert stats.ttest_1samp(effects(lesion_scan, informed=False), 0).pvalue > 0.01
    assert stats.ttest_1samp(effects(lesion_scan, informed=True), 0, alternative="greater").pvalue < 1e-4
