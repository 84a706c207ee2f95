"""Twins: the same patient in smaller voxels, on which maps of the network's grid land where they belong."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from covid3d.chapters import pictured
from covid3d.chapters.truth import lung_mask
from covid3d.cohort.intake import grid_spacing, take_in
from covid3d.cohort.store import Store
from covid3d.commands import deliver, twins
from covid3d.phantom.build import build
from covid3d.run.profile import load_profile, open_run

SCAN = "C001-0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with one simulated scan and its twin, and the scan's row of intake.csv."""
    patch = pytest.MonkeyPatch()
    patch.setenv("COVID3D_ROOT", str(tmp_path_factory.mktemp("twins")))
    run = open_run("smoke")
    build(
        run.folder,
        manifest=run.order_form,
        profile=run.profile,
        scans=[SCAN],
        after_scan=partial(deliver.store_scan, run),
    )
    (row,) = deliver.read_manifest(run.manifest).to_dict("records")
    facts = take_in(run, row)
    before = pictured.picture(run, SCAN, facts)
    run.path("twins").mkdir()
    twins._build(run, [SCAN], run.path("twins"))
    yield run, facts, before
    patch.undo()


def test_a_twin_is_the_same_patient_in_smaller_voxels(made):
    run, facts, before = made
    twin = pictured.picture(run, SCAN, facts)
    assert before.step == (1, 1, 1) and max(twin.step) < 0.5
    volumes = [one.lesions.sum() * np.prod(one.spacing) / 1000 for one in (before, twin)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02), "ml of lesion"
    assert twin.ill[twin.at] and before.ill[before.at], "the planes go through disease"
    assert sorted(path.name for path in run.path("twins").iterdir()) == [f"{SCAN}.npz"]


def test_a_map_lies_on_the_twin_where_it_lies_on_the_grid(made):
    """The true lungs of the grid, laid over the twin, have the centre of the twin's own lungs."""
    run, facts, _ = made
    twin = pictured.picture(run, SCAN, facts)
    laid, own = twin.lay(lung_mask(run, SCAN)), twin.lung.astype(float)
    points = np.indices(own.shape).reshape(3, -1).T * twin.spacing
    centres = [np.average(points, axis=0, weights=values.ravel()) for values in (laid, own)]
    np.testing.assert_allclose(*centres, atol=0.8)
    inside = laid[twin.lung].mean() - laid[~twin.lung].mean()
    assert inside > 0.6
    air = Store.of(run).get(SCAN)
    assert np.corrcoef(twin.lay(air).ravel(), twin.hu.ravel())[0, 1] > 0.8


def test_the_grid_beside_a_twin_shows_the_same_box_in_the_same_planes(made):
    run, facts, whole = made
    twin = pictured.picture(run, SCAN, facts)
    grid = pictured.on_grid(run, SCAN, facts, twin)
    for axis in range(3):
        ends = [
            (one.first[axis] - one.step[axis] / 2, one.first[axis] + one.step[axis] * (one.hu.shape[axis] - 0.5))
            for one in (twin, grid)
        ]
        np.testing.assert_allclose(*ends, atol=0.51, err_msg="in voxels of the grid")
        points = [one.first[axis] + one.step[axis] * one.at[axis] for one in (twin, grid)]
        assert abs(points[0] - points[1]) <= 0.5, "the planes meet in the voxel that holds the point"
    assert grid.spacing == whole.spacing and grid.lesions[grid.at] > 0


def test_a_real_scan_is_shown_as_it_was_read_and_lies_on_the_grid_where_it_is(made, monkeypatch, tmp_path):
    """The same scan taken for a real one: read again from its files, whose voxels lie where those of the grid do."""
    run, facts, _ = made
    folder = tmp_path / "scan"
    folder.mkdir()
    stored = Store.of(run).get(SCAN)
    hu = np.kron(stored, np.ones((3, 4, 4), np.int16))
    spacing = tuple(size / finer for size, finer in zip(grid_spacing(facts, stored.shape), (3, 4, 4), strict=True))
    volume = SimpleNamespace(hu=hu, spacing_mm=spacing)
    monkeypatch.setattr(type(run), "is_phantom", False)
    monkeypatch.setattr(type(run), "cohort", "public")
    monkeypatch.setattr(pictured, "source_of", lambda run, source: SimpleNamespace(path=folder, series=None))
    monkeypatch.setattr(pictured, "read_ct", lambda path, series: volume)
    monkeypatch.setattr(pictured, "true_lesions", lambda run, scan: None)
    shown = pictured.picture(run, SCAN, facts, "somewhere", "no twins")
    assert shown.spacing == spacing and shown.lesions is None
    laid = shown.lay(stored)
    assert np.corrcoef(laid.ravel(), shown.hu.ravel())[0, 1] > 0.97
    assert pictured.picture(run, SCAN, facts, folder="no twins").step != shown.step, (
        "other pictures do not read the files"
    )


def test_the_twins_of_every_profile_are_at_most_half_of_the_papers_size():
    sizes = {name: twins.finer(load_profile(name)) for name in ("smoke", "standard", "paper")}
    assert {name: one.model.grid for name, one in sizes.items()} == {
        "smoke": (60, 160, 160),
        "standard": (100, 240, 240),
        "paper": (112, 256, 256),
    }
    assert all((one.phantom.slices, one.phantom.matrix) == one.model.grid[:2] for one in sizes.values())
