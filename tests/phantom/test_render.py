"""A scan is the same whatever the slabs it is made in, and its masks show the burden asked for."""

import numpy as np
import pytest

from covid3d.phantom import masks as labelling
from covid3d.phantom import render, scanner
from covid3d.phantom.course import Appearance
from covid3d.phantom.render import Levels, Masks, Patient

LOOK = Appearance(burden=0.14, since_onset=11, phase=-1, ground_glass=0.65, contrast_hu=300)


def patient_of(label: int) -> Patient:
    return next(
        patient
        for patient in (render.make_patient(5, f"R{i}", "F", 40.0, label) for i in range(20))
        if patient.sites.effusion_ml == 0
    )


def acquired(patient: Patient, matrix: int = 64, slices: int = 24, stream: int = 2) -> scanner.Acquisition:
    size = patient.thorax.height, patient.thorax.half_width
    return scanner.acquire("A", *size, matrix, slices, np.random.default_rng(stream))


def whole(patient: Patient, levels: Levels, acquisition: scanner.Acquisition) -> tuple[Masks, np.ndarray, np.ndarray]:
    shares = Masks(np.zeros((24, 64, 64), np.float32), np.zeros((24, 64, 64), np.float32))
    parts = list(render.render(patient, LOOK, levels, acquisition, shares))
    return shares, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])


@pytest.fixture(scope="module", params=[0, 1])
def patient(request: pytest.FixtureRequest) -> Patient:
    return patient_of(request.param)


def test_masks_show_the_burden_of_the_truth(patient: Patient) -> None:
    levels = render.find_levels(patient, LOOK)
    shares, _, labels = whole(patient, levels, acquired(patient))
    told = sum(levels.lobes_ml) / levels.lung_ml
    assert told == pytest.approx(LOOK.burden, rel=0.12)
    assert shares.lesion.sum() / shares.lung.sum() == pytest.approx(told, rel=0.1)
    counts = {label: int((labels == label).sum()) for label in (0, 1, 2, 3, 10)}
    assert sum(counts.values()) == labels.size and counts[3] == 0
    ill = counts[labelling.GROUND_GLASS] + counts[labelling.CONSOLIDATION]
    assert ill / (ill + counts[labelling.HEALTHY_LUNG]) == pytest.approx(told, rel=0.15)
    assert 0.1 < counts[labelling.CONSOLIDATION] / ill < 0.6


def test_slabs_of_any_size_give_the_same_scan(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    levels, acquisition = render.find_levels(patient, LOOK), acquired(patient)
    shares, hu, labels = whole(patient, levels, acquisition)
    monkeypatch.setattr(render, "SLAB_VOXELS", 5 * 64 * 64)
    again, slab_hu, slab_labels = whole(patient, levels, acquisition)
    assert np.array_equal(hu, slab_hu) and np.array_equal(labels, slab_labels)
    assert np.allclose(shares.lesion, again.lesion, atol=1e-5)


def test_lesions_are_denser_than_the_healthy_lung_and_less_dense_than_their_core(patient: Patient) -> None:
    levels, acquisition = render.find_levels(patient, LOOK), acquired(patient, 96, 40)
    parts = [slab for _, slab in render.slabs(patient, LOOK, levels, acquisition)]
    hu, lung, lesion, dense = (
        np.concatenate([getattr(s, k) for s in parts]) for k in ("hu", "lung", "lesion", "dense")
    )
    inner = lung == 1
    healthy, glass, core = (
        hu[inner & (lesion == 0)],
        hu[inner & (lesion > 0.9) & (dense < 0.1)],
        hu[inner & (dense > 0.9)],
    )
    assert np.median(healthy) == pytest.approx(levels.whole_hu + acquisition.breath_hu, abs=30)
    assert 220 < np.median(glass) - np.median(healthy) < 380
    assert np.median(core) > -120


def test_a_lesion_lies_at_the_same_place_of_a_follow_up_in_another_position(patient: Patient) -> None:
    levels = render.find_levels(patient, LOOK)
    centres = []
    for stream in (2, 3):
        acquisition = acquired(patient, stream=stream)
        _, slab = next(render.slabs(patient, LOOK, levels, acquisition))
        p = render.patient_frame(acquisition, 0, acquisition.shape[0])
        at = np.nonzero(slab.lesion * slab.lung > 0.5)
        centres.append((p.z[at[0], 0, 0].mean(), p.y[0, at[1], at[2]].mean(), p.x[0, at[1], at[2]].mean()))
    assert np.abs(np.array(centres[0]) - np.array(centres[1])).max() < 4
