"""Airways and vessels: grown connected and tapering, drawn by the share of each voxel."""

from dataclasses import replace

import numpy as np
import pytest

from covid3d.phantom import chest, lung, organs, trees
from covid3d.phantom.shapes import Array, Points
from covid3d.phantom.thorax import Thorax


@pytest.fixture(scope="module")
def thorax() -> Thorax:
    return chest.draw_thorax(np.random.default_rng(3), "M", 55)


@pytest.fixture(scope="module")
def grown(thorax: Thorax) -> trees.Trees:
    return trees.grow(thorax, np.random.default_rng(4))


def slab(
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    steps: tuple[float, float, float],
    turn: float = 0.0,
) -> Points:
    """Return voxel centres of a box (z, y, x) with the steps given, turned about z."""
    z, y, x = (np.arange(a + s / 2, b, s, dtype=np.float32) for a, b, s in zip(low, high, steps, strict=True))
    c, s = np.cos(turn), np.sin(turn)
    return Points(
        z[:, None, None],
        (c * y[:, None] - s * x[None]).astype(np.float32)[None],
        (s * y[:, None] + c * x[None]).astype(np.float32)[None],
    )


def vessels_in(trees_: trees.Trees, p: Points, edge: float, thickness: float) -> Array:
    filling = np.full(np.broadcast_shapes(p.z.shape, p.y.shape), -870, np.float32)
    trees.add_vessels(filling, trees_, p, edge, thickness)
    return filling


@pytest.mark.parametrize("kind", ["vessels", "airways"])
def test_trees_are_connected_and_never_widen_outwards(grown: trees.Trees, kind: str) -> None:
    s = getattr(grown, kind)
    parent = s[:, 8].astype(int)
    child = np.flatnonzero(parent >= 0)
    assert s.dtype == np.float32
    assert np.all(parent[child] < child)
    assert np.allclose(s[child, :3], s[parent[child], 3:6], atol=1e-3)
    assert np.all(s[:, 7] <= s[:, 6] + 1e-4)
    assert np.all(s[child, 6] <= s[parent[child], 7] + 1e-3)
    assert (parent < 0).sum() == {"vessels": 10, "airways": 1}[kind]


def test_sizes_are_those_of_a_chest(thorax: Thorax, grown: trees.Trees) -> None:
    assert 7 < grown.airways[0, 6] < 11
    assert 0.6 < grown.airways[:, 7].min() < 1.1
    assert 5 < grown.vessels[:, 6].max() < 9
    assert 0.25 < grown.vessels[:, 7].min() < 0.6
    assert len(grown.vessels) > 5000
    assert thorax.height < grown.airways[:, 0].max()


def test_segments_lie_inside_the_chest_wall_and_most_tips_inside_the_lungs(thorax: Thorax, grown: trees.Trees) -> None:
    p = Points(*grown.vessels[:, 3:6].T)
    inside, t = chest.cavity(thorax, p)
    assert np.mean(inside > 0) > 0.999
    assert np.mean(chest.lungs(thorax, p, inside, t) > 0) > 0.95


def test_every_lobe_has_airways_and_vessels(thorax: Thorax, grown: trees.Trees) -> None:
    for segments, least in ((grown.vessels, 300), (grown.airways, 15)):
        number, _ = lung.lobe(thorax, Points(*segments[:, 3:6].T))
        assert np.bincount(number, minlength=5).min() > least


def test_growing_repeats(thorax: Thorax, grown: trees.Trees) -> None:
    again = trees.grow(thorax, np.random.default_rng(4))
    assert np.array_equal(again.vessels, grown.vessels)
    assert np.array_equal(again.airways, grown.airways)
    assert not np.array_equal(trees.grow(thorax, np.random.default_rng(5)).vessels[:500], grown.vessels[:500])


@pytest.mark.parametrize("radius", [0.3, 0.6, 1.1, 2.0, 4.0])
@pytest.mark.parametrize("steps", [(1.0, 0.7, 0.7), (2.0, 1.4, 1.4), (7.0, 3.6, 3.6)])
def test_a_tube_keeps_its_volume(radius: float, steps: tuple[float, float, float]) -> None:
    row = np.array([[-20, -15, -10, 20, 16, 13, radius, radius, -1]], np.float32)
    p = slab((-42, -40, -40), (42, 40, 40), steps, turn=0.1)
    edge = max(1.2, 0.9 * steps[1])
    share = (vessels_in(trees.Trees(row, row), p, edge, steps[0]) + 870) / 910
    volume = np.pi * radius**2 * np.linalg.norm(row[0, :3] - row[0, 3:6])
    ends = 4 / 3 * np.pi * radius**3 if radius > 1.7 * steps[1] else 0.0
    assert share.sum() * np.prod(steps) == pytest.approx(volume + ends, rel=0.12)
    assert share.max() <= 1


def test_coarse_voxels_show_the_average_of_fine_ones(thorax: Thorax, grown: trees.Trees) -> None:
    low, high = (100.0, -50.0, 45.0), (156.0, 34.0, 87.0)
    fine = vessels_in(grown, slab(low, high, (0.7, 0.7, 0.7)), 1.2, 0.7)
    coarse = vessels_in(grown, slab(low, high, (7.0, 3.5, 3.5)), 3.2, 7.0)
    assert coarse.mean() == pytest.approx(fine.mean(), abs=6)
    averaged = fine.reshape(8, 10, 24, 5, 12, 5).mean(axis=(1, 3, 5))
    assert np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1] > 0.85
    assert averaged.std() > coarse.std() * 0.8


@pytest.mark.parametrize("step", [1, 4, 7])
def test_slab_boundaries_do_not_show(grown: trees.Trees, step: int) -> None:
    p = slab((110, -60, -100), (145, 60, 100), (1.5, 2.0, 2.0), turn=0.05)

    def draw(part: Points) -> Array:
        hu = np.full(np.broadcast_shapes(part.z.shape, part.y.shape), -870, np.float32)
        trees.add_vessels(hu, grown, part, 1.8, 1.5)
        trees.add_airways(hu, grown, part, 1.8, 1.5)
        return hu

    whole = draw(p)
    parts = [draw(Points(p.z[a : a + step], p.y, p.x)) for a in range(0, len(p.z), step)]
    assert np.abs(whole - np.concatenate(parts)).max() < 0.01
    assert np.abs(whole[::-1] - draw(Points(p.z[::-1], p.y, p.x))).max() < 0.01


def test_lumens_are_air_even_inside_consolidation(thorax: Thorax, grown: trees.Trees) -> None:
    middle = np.flatnonzero((grown.airways[:, 6] > 1.4) & (grown.airways[:, 6] < 2.5))[::9]
    found = []
    for row in grown.airways[middle]:
        z, y, x = (row[:3] + row[3:6]) / 2
        p = slab((z - 4.2, y - 4.2, x - 4.2), (z + 4.2, y + 4.2, x + 4.2), (1.0, 0.7, 0.7))
        hu = np.full((len(p.z), *p.y.shape[1:]), 30, np.float32)
        trees.add_airways(hu, grown, p, 1.2, 1.0)
        found.append(hu[3:6, 4:8, 4:8].min())
    assert np.median(found) < -850
    carina = organs.carina(thorax)
    p = slab((carina[0] + 40, carina[1] - 40, -30), (carina[0] + 42, carina[1] + 40, 30), (1.0, 0.7, 0.7))
    hu = np.full((len(p.z), *p.y.shape[1:]), -90, np.float32)
    trees.add_airways(hu, grown, p, 1.2)
    assert hu.min() < -950
    assert -5 < hu.max() < 15


def test_no_vessels_is_no_change(grown: trees.Trees) -> None:
    p = slab((0, 0, 0), (10, 20, 20), (1, 1, 1))
    empty = replace(grown, vessels=grown.vessels[:0], airways=grown.airways[:0])
    assert np.all(vessels_in(empty, p, 1.2, 1.0) == -870)


def test_vessel_share_lies_in_the_range_of_real_scans(thorax: Thorax, grown: trees.Trees) -> None:
    p = slab((60, -90, -130), (220, 100, 130), (4.0, 0.8, 0.8))
    inside, t = chest.cavity(thorax, p)
    deep = (chest.lungs(thorax, p, inside, t) > 10) & (lung.lobe(thorax, p)[1] > 3)
    hu = vessels_in(grown, p, 1.2, 1.2)[deep]
    assert 0.015 < (hu > -500).mean() < 0.06
    assert (hu > -700).mean() > 1.3 * (hu > -500).mean()
