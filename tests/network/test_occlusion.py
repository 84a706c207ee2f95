"""Occlusion: evidence that is known, healthy lung of the scan's own, and pieces that are where disease can be."""

import numpy as np
import pytest
import torch
from torch import nn

from covid3d.ct.lungs import lung_mask, whole_lung
from covid3d.ct.windows import Window
from covid3d.network import occlusion
from covid3d.network.covid3d import Covid3D
from covid3d.network.scoring import score

WINDOW = Window(-600, 1500)
SPACING = (12.0, 6.0, 6.0)
SHAPE = (24, 64, 64)
HEALTHY, ILL, TISSUE = -840, -300, 40


class Weighted(nn.Module):
    """A linear model: the logit is the weighted sum of the windowed voxels."""

    def __init__(self, weights: np.ndarray):
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights.astype(np.float32)))

    def forward(self, x):
        return (x[:, 0] * self.weights).sum((1, 2, 3))


def chest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a chest with a lesion in each lung, int16 HU, and the true lung and lesions: the left one lies at the wall."""
    grid, lung, lesion = np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    lung[3:21, 16:48, 10:28] = lung[3:21, 16:48, 36:54] = True
    lesion[8:12, 30:36, 16:22] = lesion[12:15, 38:42, 51:54] = True
    grid[:, 10:54, 5:59] = TISSUE
    grid[lung], grid[lesion] = HEALTHY, ILL
    return grid, lung, lesion


def hu_step() -> float:
    """Return how much a voxel of the network's input falls when a lesion becomes healthy lung."""
    return (ILL - HEALTHY) / (WINDOW.width / 2)


def test_healthy_lung_is_the_median_of_aerated_voxels_that_touch_nothing_opaque():
    grid, lung, lesion = chest()
    grid[lesion] = -500
    beside = np.zeros(SHAPE, bool)
    beside[7:13, 29:37, 15:23] = True
    grid[beside & ~lesion] = -710
    grid[3:20, 16:48, 36:38] = -990  # emphysema is not healthy either
    assert occlusion.healthy_lung(grid, lung) == HEALTHY
    assert occlusion.healthy_lung(np.full(SHAPE, -705, np.int16), lung) == -705
    assert occlusion.healthy_lung(np.full(SHAPE, -300, np.int16), lung) == -300, "no aerated lung: the darkest there is"
    assert np.isnan(occlusion.healthy_lung(grid, np.zeros(SHAPE, bool)))


def test_the_searched_lung_holds_the_lesions_at_its_border_too():
    grid, lung, lesion = chest()
    searched = whole_lung(grid, SPACING)
    at_wall = lesion & (np.arange(64) >= 32)
    assert searched[lesion & ~at_wall].all()
    assert searched[at_wall].mean() >= 2 / 3 > 0.5 > lung_mask(grid, SPACING)[at_wall].mean()
    assert (searched & ~lung).sum() < 0.05 * lung.sum()


def test_a_part_never_becomes_brighter_and_the_rest_stays():
    grid = np.random.default_rng(0).integers(-1000, 200, SHAPE).astype(np.int16)
    part = np.arange(500, 900)
    changed = occlusion.without(grid, part, -700.4)
    assert (changed <= grid).all() and changed.dtype == np.int16
    assert (changed.flat[part] == np.minimum(grid.flat[part], -700)).all()
    rest = np.setdiff1d(np.arange(grid.size), part)
    assert (changed.flat[rest] == grid.flat[rest]).all()
    mask = np.zeros(SHAPE, bool)
    mask.flat[part] = True
    assert (occlusion.without(grid, mask, np.full(SHAPE, -700)) == changed).all(), "a mask and a value for each voxel"


def test_boxes_lie_at_half_steps_wherever_at_least_half_is_lung():
    lung = np.zeros(SHAPE, bool)
    lung[4:7, 8:24, 8:16] = True
    parts = occlusion.boxes(lung)
    whole = [part for part in parts if len(part) == 3 * 8 * 8]
    rows = sorted(int(part[0] // 64 % 64) for part in whole)
    assert rows == [8, 12, 16], "boxes of 3x8x8, four rows apart"
    assert min(map(len, parts)) >= 3 * 8 * 8 / 2
    assert set(np.concatenate(parts)) == set(np.flatnonzero(lung))
    assert occlusion.box_shape((16, 48, 48)) == (2, 6, 6) and occlusion.box_shape((64, 224, 224)) == (8, 28, 28)
    assert occlusion.boxes(np.zeros(SHAPE, bool)) == []


def test_pieces_are_connected_opaque_and_no_wider_than_a_box():
    grid, lung, lesion = np.full(SHAPE, HEALTHY, np.int16), np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    lesion[3:6, 8:16, 8:12] = True  # within one box of the lattice
    lesion[3:6, 8:16, 13:16] = True  # beside it, not connected
    lesion[12:14, 20:30, 40:44] = True  # over two boxes
    lesion[20, 60, 60:67] = True  # too small
    grid[lesion] = ILL
    parts = occlusion.pieces(grid, lung)
    assert sorted(map(len, parts)) == [2 * 4 * 4, 2 * 6 * 4, 3 * 8 * 3, 3 * 8 * 4]
    joined = np.concatenate(parts)
    assert len(joined) == len(set(joined)), "no voxel twice"
    assert set(joined) == set(np.flatnonzero(lesion)) - {
        np.ravel_multi_index((20, 60, x), SHAPE) for x in range(60, 64)
    }
    assert occlusion.pieces(grid, np.zeros(SHAPE, bool)) == []
    aerated = np.where(lesion, -700, grid).astype(np.int16)
    assert occlusion.pieces(aerated, lung) == [], "-700 HU is still aerated"


def test_the_evidence_of_a_linear_model_is_exactly_what_its_weights_say():
    grid, _, lesion = chest()
    weights = np.zeros(SHAPE)
    weights[:, :, :32], weights[:, :, 32:] = 0.01, -0.02
    found = occlusion.by_pieces(Weighted(weights), grid, whole_lung(grid, SPACING), WINDOW)
    assert found.healthy_hu == HEALTHY
    seen = lesion & found.lung
    right, left = (seen & (np.arange(64) < 32)).sum(), (seen & (np.arange(64) >= 32)).sum()
    of_lesions = np.where(lesion, found.values, 0)
    assert of_lesions[:, :, :32].sum() == pytest.approx(0.01 * hu_step() * right, rel=1e-4)
    assert of_lesions[:, :, 32:].sum() == pytest.approx(-0.02 * hu_step() * left, rel=1e-4)
    assert np.allclose(found.values[8:12, 30:36, 16:22], 0.01 * hu_step(), rtol=1e-3)
    assert found.logit == pytest.approx(
        float(score(Weighted(weights), grid[None], [WINDOW])[0, 0]), rel=1e-5
    )  # a sum in float32, in another order
    assert found.values.sum() == pytest.approx(found.falls.sum(), rel=1e-4)
    assert found.together == pytest.approx(found.falls.sum(), rel=1e-4), "a linear model adds up"


def test_what_two_lesions_say_twice_is_lost_only_without_both():
    grid, lung, lesion = chest()
    grid[lesion] = 0
    either = Weighted(np.zeros(SHAPE))
    either.forward = lambda x: (x[:, 0][:, lung] > 0.5).any(1).float()  # one lesion is enough
    grid[lesion & ~whole_lung(grid, SPACING)] = HEALTHY
    found = occlusion.by_pieces(either, grid, whole_lung(grid, SPACING), WINDOW)
    assert len(found.falls) >= 2 and not found.falls.any() and not found.values.any()
    assert (found.logit, found.together) == (1, 1)


def test_boxes_give_a_linear_model_its_lesions_and_nothing_where_the_lung_is_healthy():
    grid = chest()[0]
    found = occlusion.by_boxes(Weighted(np.full(SHAPE, 0.01)), grid, whole_lung(grid, SPACING), WINDOW)
    middle = (slice(8, 12), slice(30, 36), slice(16, 22))
    assert found.values[middle].min() > 0 and found.values.min() > -1e-6
    far = np.ones(SHAPE, bool)
    far[5:18, 22:50, 8:60] = False
    far &= found.lung & (grid == HEALTHY)
    assert far.sum() > 2000 and np.abs(found.values[far]).max() < 0.01 * found.values[middle].max()


def test_where_parts_overlap_the_map_is_their_mean():
    values = occlusion.spread(np.array([6.0, 2.0]), [np.array([0, 1, 2]), np.array([2, 3])], (1, 1, 5))
    assert values.tolist() == [[[2.0, 2.0, 1.5, 1.0, 0.0]]]
    assert values.dtype == np.float32


def test_batches_do_not_change_the_numbers():
    grid, lung, _ = chest()
    model, parts = Covid3D(1 / 16).eval(), occlusion.boxes(lung)[:37]
    falls, logit = occlusion.falls(model, grid, parts, HEALTHY, WINDOW, batch_size=16)
    again, other = occlusion.falls(model, grid, parts, HEALTHY, WINDOW, batch_size=5)
    assert len(falls) == 37 and logit == pytest.approx(other, abs=1e-5)
    np.testing.assert_allclose(falls, again, atol=1e-5)
    alone = score(model, np.stack([grid, occlusion.without(grid, parts[30], HEALTHY)]), [WINDOW])[:, 0]
    assert falls[30] == pytest.approx(alone[0] - alone[1], abs=1e-5)


def test_a_scan_without_lung_or_without_opacity_has_no_evidence_and_says_why():
    model, grid = Weighted(np.ones(SHAPE)), np.full(SHAPE, TISSUE, np.int16)
    found = occlusion.by_pieces(model, grid, whole_lung(grid, SPACING), WINDOW)
    assert not found.values.any() and found.words == "none: no lung was found"
    grid, lung, _ = chest()
    grid[lung] = HEALTHY
    found = occlusion._evidence(model, grid, lung, occlusion.pieces(grid, lung), WINDOW, "cpu")
    assert found.words == "none: no part of the lung is opaque"
