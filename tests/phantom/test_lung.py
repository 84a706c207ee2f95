"""Lobes, fissures, texture and background disease of the simulated lungs."""

import numpy as np
import pytest

from covid3d.phantom import chest, lung
from covid3d.phantom.shapes import Array, Points
from covid3d.phantom.thorax import Thorax


def draw(seed: int = 0) -> Thorax:
    return chest.draw_thorax(np.random.default_rng(seed), "MF"[seed % 2], 55)


def block(centre: tuple[float, float, float], step: float, n: int = 24) -> Points:
    line = (np.arange(n) - (n - 1) / 2) * step
    z, y, x = (np.asarray(line + c, np.float32) for c in centre)
    planes = np.broadcast_arrays(y[None, :, None], x[None, None, :])
    return Points(z[:, None, None], *planes)


def healthy(thorax: Thorax, p: Points, edge: float, background: lung.Background | None = None) -> Array:
    depth = np.full(np.broadcast_shapes(p.z.shape, p.y.shape), 30, np.float32)
    return lung.parenchyma(thorax, background, p, 0.0, depth, edge)


def lung_points(thorax: Thorax, step: float = 5.0) -> Points:
    spans = ((0, thorax.height), (-110, 110), (-thorax.half_width, thorax.half_width))
    axes = [np.arange(a, b, step, dtype=np.float32) for a, b in spans]
    p = Points(*(a.ravel() for a in np.meshgrid(*axes, indexing="ij")))
    inside, t = chest.cavity(thorax, p)
    kept = chest.lungs(thorax, p, inside, t) > 0
    return Points(p.z[kept], p.y[kept], p.x[kept])


@pytest.mark.parametrize("seed", range(4))
def test_five_lobes_have_realistic_shares(seed: int) -> None:
    thorax = draw(seed)
    p = lung_points(thorax)
    number, gap = lung.lobe(thorax, p)
    shares = np.bincount(number, minlength=5) / len(number)
    low, high = (0.13, 0.05, 0.17, 0.17, 0.17), (0.27, 0.15, 0.32, 0.31, 0.30)
    assert all(a < share < b for a, share, b in zip(low, shares, high, strict=True)), shares
    assert gap.min() >= 0
    assert set(number[p.x < 0]) == {0, 1, 2}
    assert set(number[p.x >= 0]) == {3, 4}


def test_upper_lobes_lie_above_and_the_middle_lobe_in_front() -> None:
    thorax = draw()
    p = lung_points(thorax)
    number, _ = lung.lobe(thorax, p)
    mean = {name: (p.z[number == i].mean(), p.y[number == i].mean()) for i, name in enumerate(lung.LOBES)}
    assert mean["rul"][0] > mean["rml"][0]
    assert mean["lul"][0] > mean["lll"][0] + 40
    assert mean["rml"][1] < mean["rll"][1] - 30


def test_gap_is_close_to_the_true_distance() -> None:
    thorax = draw()
    p = lung_points(thorax, 4.0)
    _, gap = lung.lobe(thorax, p)
    moved = [
        lung.lobe(thorax, Points(p.z + dz, p.y + dy, p.x))[1] for dz, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    ]
    slope = np.hypot(moved[0] - moved[1], moved[2] - moved[3])[gap > 2]
    assert 0.8 < np.median(slope) < 1.2


def test_a_fissure_is_thin_and_fades_with_the_voxel() -> None:
    gap = np.abs(np.arange(-10, 10, 0.05, dtype=np.float32))
    added = []
    for edge in (1.2, 3.6):
        filling = np.full(gap.shape, -870, np.float32)
        lung.add_fissures(filling, gap, edge)
        added.append(filling + 870)
        assert np.ptp(np.abs(np.arange(-10, 10, 0.05))[added[-1] > added[-1].max() / 2]) < edge
    assert added[0].max() > 2 * added[1].max()
    assert added[0].sum() == pytest.approx(added[1].sum(), rel=0.05)


def test_density_rises_towards_the_back_and_with_less_breath() -> None:
    thorax = draw()
    front, back = (healthy(thorax, block((120, y, 70), 1.0), 1.2).mean() for y in (-60.0, 60.0))
    assert 0.5 < (back - front) / (thorax.gravity_hu * 120 / thorax.half_depth) < 1.5
    p = block((120, 0, 70), 1.0)
    depth = np.full((24, 24, 24), 30, np.float32)
    deep, shallow = (lung.parenchyma(thorax, None, p, hu, depth, 1.2) for hu in (0.0, 60.0))
    assert np.allclose(shallow - deep, 60, atol=1e-2)


def test_slabs_and_flat_points_give_the_same_values() -> None:
    thorax, p = draw(), block((150, 20, -70), 2.0)
    background = lung.Background(0.8, 0.8, np.array([[0.6, 2.0, 0.3, 20, 1.5]], np.float32), 150.0)
    whole = healthy(thorax, p, 1.5, background)
    parts = [healthy(thorax, Points(p.z[a : a + 5], p.y, p.x), 1.5, background) for a in range(0, 24, 5)]
    assert np.array_equal(whole, np.concatenate(parts))
    flat = Points(*(np.broadcast_to(a, whole.shape).ravel() for a in (p.z, p.y, p.x)))
    depth = np.full(whole.size, 30, np.float32)
    assert np.allclose(lung.parenchyma(thorax, background, flat, 0.0, depth, 1.5).reshape(whole.shape), whole, atol=0.6)


def test_texture_sd_falls_with_the_voxel_and_the_mean_stays() -> None:
    thorax = draw()
    hu = [healthy(thorax, block((130, 0, 70), step, int(48 / step)), max(1.2, 0.9 * step)) for step in (0.8, 1.6, 4.0)]
    sd = [float(v.std()) for v in hu]
    assert 16 < sd[0] < 40
    assert sd[0] > sd[1] > sd[2] > 5
    averaged = hu[0].reshape(12, 5, 12, 5, 12, 5).mean(axis=(1, 3, 5))
    assert averaged.mean() == pytest.approx(hu[2].mean(), abs=4)
    assert averaged.std() == pytest.approx(sd[2], rel=0.35)


def test_voxels_outside_the_lungs_get_the_mean() -> None:
    thorax, p = draw(), block((130, 0, 70), 2.0)
    depth = np.full((24, 24, 24), -50, np.float32)
    assert np.all(lung.parenchyma(thorax, None, p, 10.0, depth, 1.2) == np.float32(thorax.lung_hu + 10))


def test_background_is_drawn_at_the_stated_rates_and_repeats() -> None:
    drawn = [lung.draw_background(np.random.default_rng(i), 60) for i in range(3000)]
    found = [(b.emphysema > 0, len(b.scars) > 0, b.dependent_hu > 0) for b in drawn]
    rates = list(np.mean(found, axis=0))
    assert rates == pytest.approx([0.10, 0.10, 0.20], abs=0.025)
    young = np.mean([lung.draw_background(np.random.default_rng(i), 25).emphysema > 0 for i in range(1000)])
    assert young < rates[0] / 2
    again = lung.draw_background(np.random.default_rng(7), 60)
    assert (again.emphysema, again.dependent_hu) == (drawn[7].emphysema, drawn[7].dependent_hu)
    assert np.array_equal(again.scars, drawn[7].scars)


def test_emphysema_darkens_the_upper_lung_and_dependent_density_the_back() -> None:
    thorax = draw()
    empty = np.zeros((0, 5), np.float32)
    top, base = (block((t * thorax.height, 0, 70), 2.0) for t in (0.8, 0.2))
    ill = lung.Background(0.9, 0.0, empty, 0.0)
    assert (healthy(thorax, top, 1.2, ill) < -945).mean() > 0.03
    assert np.array_equal(healthy(thorax, base, 1.2, ill), healthy(thorax, base, 1.2))
    p = block((0.3 * thorax.height, 0.8 * thorax.half_depth, 70), 1.0)
    depth = np.full((24, 24, 24), 3, np.float32)
    heavy = lung.parenchyma(thorax, lung.Background(0.0, 0.0, empty, 200.0), p, 0.0, depth, 1.2)
    assert (heavy - lung.parenchyma(thorax, None, p, 0.0, depth, 1.2)).mean() > 50
