"""The simulated chest holds the facts of anatomy that a reader would look for."""

import time

import numpy as np
import pytest
from scipy import ndimage

from covid3d.phantom import body_wall, chest, organs
from covid3d.phantom.shapes import Points, soft
from covid3d.phantom.thorax import Thorax

STEP_MM = 4.0


def draw(seed: int, sex: str = "F", age: float = 50) -> Thorax:
    return chest.draw_thorax(np.random.default_rng(seed), sex, age)


def block(thorax: Thorax, step: float = STEP_MM, levels: tuple[float, ...] = ()) -> Points:
    """Return a slab over the whole chest, or slices at relative heights."""
    z = np.array(levels) * thorax.height if levels else np.arange(-24, thorax.height + 24, step)
    axis = np.arange(-180, 181, step, dtype=np.float32)
    return Points(z.astype(np.float32)[:, None, None], axis[None, :, None], axis[None, None, :])


def image(thorax: Thorax, p: Points, edge: float = 1.5) -> np.ndarray:
    inside, t = chest.cavity(thorax, p)
    return chest.tissue(thorax, p, inside, t, chest.body(thorax, p), edge)


def lung_distance(thorax: Thorax, p: Points) -> np.ndarray:
    return chest.lungs(thorax, p, *chest.cavity(thorax, p))


@pytest.fixture(scope="module")
def crowd() -> list[tuple[Thorax, Points, np.ndarray]]:
    """Forty adults of both sexes with the distance inside their lungs on a coarse grid."""
    people = [draw(seed, "MF"[seed % 2], 22 + 1.5 * seed) for seed in range(40)]
    grids = [block(person) for person in people]
    return [(person, grid, lung_distance(person, grid)) for person, grid in zip(people, grids, strict=True)]


def litres(distance: np.ndarray, part: np.ndarray | None = None) -> float:
    share = soft(distance, STEP_MM)
    return float((share if part is None else share * part).sum()) * STEP_MM**3 / 1e6


def test_lung_volume_is_that_of_adults_and_larger_in_men(crowd):
    volumes = np.array([litres(distance) for _, _, distance in crowd])
    assert volumes.min() > 3.0 and volumes.max() < 6.5
    assert volumes[::2].mean() > volumes[1::2].mean() + 0.6
    assert volumes.std() > 0.4


def test_the_right_lung_is_the_larger(crowd):
    ratios = [litres(distance, p.x < 0) / litres(distance, p.x >= 0) for _, p, distance in crowd]
    assert min(ratios) > 1.0 and 1.04 < np.median(ratios) < 1.25


def test_lungs_span_the_height_and_reach_below_the_domes(crowd):
    for thorax, p, distance in crowd:
        z = p.z[(distance > 0).any(axis=(1, 2)), 0, 0]
        assert -6 <= z.min() <= 14 and abs(z.max() - thorax.height) < 8
        behind = (p.y > 0.5 * thorax.half_depth) & (np.abs(p.x) > 30)
        for side in (-1, 1):
            lung = (distance > 0) & (p.x * side > 0)
            top_of_dome = thorax.dome_right if side < 0 else thorax.dome_left
            lowest = p.z[(lung & behind).any(axis=(1, 2)), 0, 0].min()
            assert lowest < top_of_dome - 30


def test_the_right_dome_is_higher(crowd):
    assert all(thorax.dome_right > thorax.dome_left for thorax, _, _ in crowd)


def test_lungs_reach_back_on_both_sides_of_the_spine():
    thorax = draw(1)
    z = np.float32([0.5 * thorax.height])
    spine = float(organs.spine_y(thorax, z)[0])
    for side in (-1, 1):
        y = np.float32([spine + 22])
        assert lung_distance(thorax, Points(z, y, np.float32([side * 45])))[0] > 0
    assert lung_distance(thorax, Points(z, np.float32([spine]), np.float32([0])))[0] < -10


def test_distance_in_lungs_is_nearly_euclidean_near_their_surface():
    thorax = draw(3, "M")
    rng = np.random.default_rng(0)
    spans = ((5, thorax.height), (-95, 100), (-130, 130))
    place = [rng.uniform(low, high, 40_000).astype(np.float32) for low, high in spans]
    square = np.zeros(40_000, np.float32)
    for axis in range(3):
        shifted = [[c + (k == axis) * h for k, c in enumerate(place)] for h in (0.5, -0.5)]
        ahead, behind = (lung_distance(thorax, Points(*(np.float32(c) for c in s))) for s in shifted)
        square += (ahead - behind) ** 2
    slope = np.sqrt(square)[np.abs(lung_distance(thorax, Points(*place))) < 4]
    assert np.quantile(slope, 0.995) < 1.3
    assert np.mean(slope > 0.7) > 0.92 and abs(np.median(slope) - 1) < 0.03


def test_twelve_pairs_of_ribs():
    thorax = draw(4, "M")
    angle = np.float32(2.75)
    z = np.arange(-60, 1.2 * thorax.height, 0.5, dtype=np.float32)
    for side in (-1, 1):
        thick, cartilage = body_wall.ribs(thorax, z, np.full_like(z, side * angle))
        assert ndimage.label(thick > 0)[1] == 12
        assert not cartilage.any()


def test_ribs_fall_towards_the_front_and_end_in_cartilage():
    thorax = draw(4)
    angle = np.linspace(2.9, 0.3, 200, dtype=np.float32)
    turn = body_wall.rib_turn(thorax, np.full_like(angle, 0.5 * thorax.height), angle)
    assert turn[140] - turn[0] > 1.5  # at one height a higher rib is met in front
    z = np.linspace(0.3, 0.6, 400, dtype=np.float32) * thorax.height
    thick, cartilage = body_wall.ribs(thorax, z, np.full_like(z, 0.4))
    assert (thick > 0).any() and cartilage[thick > 0].min() == 1


def test_fat_muscle_liver_and_blood_have_their_densities():
    thorax = draw(5)
    hu = image(thorax, block(thorax, 2.0, (0.1, 0.45, 0.7)), 1.2)
    counts, edges = np.histogram(hu[(hu > -200) & (hu < 200)], bins=np.arange(-200, 201, 5))
    fat = edges[:-1] < -50
    assert -108 <= edges[counts.argmax() if fat[counts.argmax()] else np.flatnonzero(fat)[counts[fat].argmax()]] <= -92
    assert 25 <= edges[:-1][~fat][counts[~fat].argmax()] <= 65
    middle = Points(*(np.float32([v]) for v in (0.12 * thorax.height, 0.0, -0.5 * thorax.half_width)))
    assert abs(float(image(thorax, middle)[0]) - thorax.liver_hu) < 3
    assert hu.max() > 450 and hu.min() == -1000


def test_bone_marrow_falls_with_age():
    young, old = ([draw(seed, "F", age).marrow_hu for seed in range(30)] for age in (25, 80))
    assert np.mean(young) > np.mean(old) + 40


def test_slabs_do_not_change_the_image():
    thorax = draw(6)
    whole = block(thorax, 6.0)
    hu, lung, cloth = image(thorax, whole), lung_distance(thorax, whole), chest.table(thorax, whole)
    for first in range(0, whole.z.shape[0], 7):
        part = Points(whole.z[first : first + 7], whole.y, whole.x)
        np.testing.assert_array_equal(image(thorax, part), hu[first : first + 7])
        np.testing.assert_array_equal(lung_distance(thorax, part), lung[first : first + 7])
        np.testing.assert_array_equal(chest.table(thorax, part), cloth)


def test_lists_of_points_agree_with_slabs():
    thorax = draw(7)
    slab = block(thorax, 9.0)
    shape = np.broadcast_shapes(slab.z.shape, slab.y.shape, slab.x.shape)
    flat = Points(*(np.broadcast_to(a, shape).ravel().copy() for a in (slab.z, slab.y, slab.x)))
    on_slab, on_list = lung_distance(thorax, slab).ravel(), lung_distance(thorax, flat)
    near = np.abs(on_list) < 15
    assert np.abs(on_slab - on_list)[near].max() < 1.0
    assert np.mean(np.abs(image(thorax, slab).ravel() - image(thorax, flat)) > 60) < 0.01


def test_one_stream_gives_one_chest():
    first, again, other = draw(8), draw(8), draw(9)
    p = block(first, 8.0)
    np.testing.assert_array_equal(image(first, p), image(again, p))
    np.testing.assert_array_equal(lung_distance(first, p), lung_distance(again, p))
    assert np.abs(image(first, p) - image(other, p)).max() > 100


def test_follow_up_scans_show_the_same_anatomy():
    """Another position and rotation of the patient samples the same chest."""
    thorax = draw(10)
    p = block(thorax, 5.0, (0.3, 0.5, 0.7))
    turned = np.deg2rad(2.0)
    moved = Points(
        p.z, (np.cos(turned) * p.y - np.sin(turned) * p.x - 4), (np.sin(turned) * p.y + np.cos(turned) * p.x + 3)
    )
    moved = Points(*(np.float32(a) for a in (moved.z, moved.y, moved.x)))
    shape = np.broadcast_shapes(moved.z.shape, moved.y.shape, moved.x.shape)
    flat = Points(*(np.broadcast_to(a, shape).ravel().copy() for a in (moved.z, moved.y, moved.x)))
    on_slab, on_list = lung_distance(thorax, moved).ravel(), lung_distance(thorax, flat)
    near = np.abs(on_list) < 15
    assert np.abs(on_slab - on_list)[near].max() < 1.0


def test_heart_lies_to_the_left_and_aorta_beside_the_spine():
    thorax = draw(11)
    z = np.float32([0.3 * thorax.height])
    assert max(part.distance(Points(z, np.float32([-50]), np.float32([45])))[0] for part in thorax.parts) > 0
    assert lung_distance(thorax, Points(z, np.float32([-20]), np.float32([-75])))[0] > 0
    y = organs.spine_y(thorax, z) - 27
    assert organs.around(thorax, Points(z, y, np.float32([12])), (1,))[0] > 0


def test_vessels_leave_room_for_the_windpipe():
    for seed in range(12):
        thorax = draw(seed, "MF"[seed % 2], 25 + 5 * seed)
        line = Points(*(np.linspace(a, b, 40, dtype=np.float32) for a, b in zip(*organs.windpipe(thorax), strict=True)))
        vessels = [part.distance(line) for part in thorax.parts if part.hu == organs.BLOOD_HU]
        assert np.max(vessels) < -3


@pytest.mark.parametrize("side", [-1, 1])
def test_hilum_lies_between_mediastinum_and_lung(side):
    thorax = draw(12)
    z, y, x = chest.hilum(thorax, side)
    assert np.sign(x) == side and z < organs.carina(thorax)[0]
    outwards = np.arange(0, 30, dtype=np.float32)
    row = Points(np.full(30, z, np.float32), np.full(30, y, np.float32), (x + side * outwards).astype(np.float32))
    assert lung_distance(thorax, row).max() > 3


def test_windpipe_runs_outside_the_lungs_in_front_of_the_spine():
    thorax = draw(13)
    z, y, x = (np.linspace(a, b, 30, dtype=np.float32) for a, b in zip(*organs.windpipe(thorax), strict=True))
    assert lung_distance(thorax, Points(z, y, x)).max() < -8
    assert (y < organs.spine_y(thorax, z) - 24).all()


def test_table_lies_behind_the_body():
    for seed in range(8):
        thorax = draw(seed, "MF"[seed % 2])
        p = block(thorax, 3.0, (0.2, 0.5, 0.7))
        assert chest.body(thorax, p)[np.broadcast_to(chest.table(thorax, p) > 0, (3, 121, 121))].max() < 3


def test_a_small_scan_is_quick():
    thorax = draw(14)
    axis = np.linspace(-180, 180, 96, dtype=np.float32)
    z = np.linspace(-20, thorax.height + 20, 40, dtype=np.float32)
    p = Points(z[:, None, None], axis[None, :, None], axis[None, None, :])
    took = []
    for _ in range(3):
        start = time.perf_counter()
        inside, t = chest.cavity(thorax, p)
        chest.tissue(thorax, p, inside, t, chest.body(thorax, p), 3.4)
        chest.lungs(thorax, p, inside, t)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.4  # 0.07 s on an idle core
