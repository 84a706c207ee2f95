"""Lesions of both classes are ranks of one distance: alike in amount and density, unlike in site, kept between scans."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from covid3d.phantom import lesions, render, sites
from covid3d.phantom.course import Appearance
from covid3d.phantom.render import Patient
from covid3d.phantom.shapes import Points

SIZE = (24, 64, 64)


@pytest.fixture(scope="module")
def patients() -> dict[str, Patient]:
    """One patient without effusion of each pattern."""
    found: dict[str, Patient] = {}
    for number in range(60):
        patient = render.make_patient(4, f"T{number}", "M", 50.0, number % 2, "C")
        if patient.sites.effusion_ml == 0:
            found.setdefault(patient.sites.pattern, patient)
        if len(found) == len(sites.PATTERNS):
            return found
    raise AssertionError(f"only {sorted(found)} in 60 patients")


@pytest.fixture
def look() -> Callable[..., Appearance]:
    def make(burden: float = 0.12, ground_glass: float = 0.7) -> Appearance:
        return Appearance(burden=burden, since_onset=10, phase=0, ground_glass=ground_glass, contrast_hu=300)

    return make


def own_places(patient: Patient) -> Points:
    """Return the middles of the sites of the patient's own pattern."""
    z, y, x = (0.5 * (patient.sites.own.lines[:, :3] + patient.sites.own.lines[:, 3:])).T
    return Points(z, y, x)


def ranks(patient: Patient) -> np.ndarray:
    ref = patient.reference
    relative = lesions.distance(patient.sites, patient.thorax, ref.points)
    return lesions.rank_of(relative, ref.aerated).rank(relative)


def test_a_burden_makes_the_same_histogram_of_lesion_weights_in_every_pattern(patients: dict[str, Patient]) -> None:
    samples = {}
    for name, patient in patients.items():
        share = np.repeat(patient.reference.aerated / patient.reference.aerated.sum(), 1)
        drawn = np.random.default_rng(1).choice(len(share), size=4000, p=share)
        samples[name] = lesions.weight(ranks(patient), 0.15)[drawn]
    for name in ("patchy", "branching", "lobar"):
        assert stats.ks_2samp(samples["rounded"], samples[name]).statistic < 0.03


@pytest.mark.parametrize("burden", [0.002, 0.05, 0.3])
def test_weights_add_up_to_the_burden(patients: dict[str, Patient], burden: float) -> None:
    for patient in patients.values():
        found = np.average(lesions.weight(ranks(patient), burden), weights=patient.reference.aerated)
        assert found == pytest.approx(burden, rel=0.05, abs=2e-4)


def test_lesions_keep_their_place_and_grow_outwards(patients: dict[str, Patient]) -> None:
    for patient in patients.values():
        rank = ranks(patient)
        levels = [lesions.weight(rank, burden) > 0.5 for burden in (0.02, 0.06, 0.12, 0.3)]
        for small, large in itertools.pairwise(levels):
            assert (small & large).sum() == small.sum() < large.sum()
        assert (lesions.core(rank, 0.05) <= lesions.weight(rank, 0.12)).all()


def test_covid_lies_low_behind_and_on_both_sides(patients: dict[str, Patient]) -> None:
    rounded, lobar = [], []
    for number in range(16):
        patient = render.make_patient(9, f"S{number}", "F", 60.0, number % 2)
        ill = ranks(patient) < 0.1
        behind = float(patient.reference.points.y[ill].mean() - patient.reference.points.y.mean())
        (rounded if patient.sites.pattern == "rounded" else lobar).append(behind)
    assert np.mean(rounded) > np.mean(lobar) + 8
    assert len(set(np.sign(own_places(patients["lobar"]).x))) == 1


def test_lobar_consolidation_stops_at_the_fissure(patients: dict[str, Patient]) -> None:
    patient = patients["lobar"]
    relative = lesions.nearest(patient.sites.own, patient.thorax, patient.reference.points, None)
    ill = relative < np.quantile(relative, 0.03)
    assert np.isin(patient.reference.lobe[ill], patient.sites.own.lobes).mean() > 0.9


def test_the_first_lesions_lie_at_the_early_foci_and_the_patterns_own_sites_come_in_one_after_the_other(
    patients: dict[str, Patient],
) -> None:
    for patient in patients.values():
        ref, placed = patient.reference, patient.sites
        rank = ranks(patient)
        early = lesions.nearest(placed.early, patient.thorax, ref.points, None) < placed.early_reach
        assert early[rank < 0.4 * sites.EARLY].mean() > 0.9
        assert np.average(early, weights=ref.aerated) == pytest.approx(sites.EARLY, rel=0.1)
        assert early[rank < 0.2].mean() < 0.2
        assert placed.own.waits.min() == 0 and (placed.own.waits <= sites.WAIT_MM).all()


def test_paving_is_a_network_of_cells_of_about_ten_mm() -> None:
    axis = np.arange(0, 120, 0.5, dtype=np.float32)
    y, x = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    gap = lesions.septa(Points(np.full_like(y, 7.0), y, x))
    assert gap.min() >= 0 and 0.08 < (gap < 0.7).mean() < 0.45
    assert 2 < np.quantile(gap, 0.98) < 8
    again = lesions.septa(Points(np.full(3, 7.0, np.float32), y[:3], x[:3]))
    assert np.array_equal(again, gap[:3])


def test_both_classes_draw_texture_nodules_and_fluid_from_the_same_distributions() -> None:
    rows = []
    for number in range(40):
        placed = render.make_patient(11, f"U{number}", "F", 45.0, number % 2).sites
        rows.append((number % 2, placed.paving > 0, len(placed.buds) > 0, placed.effusion_ml > 0))
    table = np.array(rows, float)
    for column in (1, 2, 3):
        counts = [[(table[table[:, 0] == label, column] == value).sum() for value in (0, 1)] for label in (0, 1)]
        assert stats.fisher_exact(counts).pvalue > 0.01
