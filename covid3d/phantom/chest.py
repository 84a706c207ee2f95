"""A patient's chest as functions of physical coordinates: the lungs' shape, and the tissue around them.

Coordinates are mm in the patient's frame: z towards the head (0: the lowest point of the lungs at full breath), y towards the
back, x towards the patient's left. Distances are mm, positive inside.
"""

from dataclasses import replace

import numpy as np

from covid3d.phantom import body_wall, organs
from covid3d.phantom.organs import carina
from covid3d.phantom.shapes import Array, Points, blend, soft
from covid3d.phantom.thorax import Thorax

LUNG_DEPTH_MM = organs.MARGIN_MM  # lungs() does not grow beyond this depth
PLEURA_MM = 1.6  # of fat and fascia between ribs and lungs
_CELL_MM = 4.0
_GRID_X, _GRID_Y = np.arange(-200, 201, _CELL_MM, dtype=np.float32), np.arange(-160, 161, _CELL_MM, dtype=np.float32)
_TABLE_HU = 120.0
_MALE, _FEMALE = (273.0, 129.0, 94.0), (253.0, 119.5, 89.5)  # mean height, half width, half depth, mm
_BULK_MM3 = (2.40e6, 3.90e6)  # bounds of their product: lungs of 3 to 6.5 litres


def draw_thorax(rng: np.random.Generator, sex: str, age: float) -> Thorax:
    """Draw a patient's chest; sex and age shift its size, shape and bones."""
    male = sex == "M"
    old = float(np.clip((age - 50) / 30, -1.2, 1.3))
    size = float(np.clip(rng.normal(1.0, 0.035), 0.92, 1.08))

    def normal(mean: float, sd: float, low: float = -np.inf, high: float = np.inf) -> float:
        return float(np.clip(rng.normal(mean, sd), low, high))

    fat = float(np.clip((11 if male else 15) * np.exp(rng.normal(0, 0.5)), 3, 40))
    sizes = np.array(
        [normal(mean * size, sd) for mean, sd in zip(_MALE if male else _FEMALE, (7, 2.5, 2.5), strict=True)]
    )
    sizes *= np.cbrt(np.clip(sizes.prod(), *_BULK_MM3) / sizes.prod())
    height, half_width, half_depth = (float(mm) for mm in sizes)
    waves = np.concatenate([rng.normal(0, 2 * np.pi / 60, (6, 3)), rng.uniform(0, 2 * np.pi, (6, 1))], axis=1)
    dome_left = normal(56, 5, 44, 68)
    thorax = Thorax(
        height=height,
        half_width=half_width,
        half_depth=half_depth,
        fat=fat,
        muscle=normal((1.1 if male else 0.85) - 0.12 * old, 0.1, 0.55, 1.4),
        breast=normal(2.5, 1.5, 0, 6) if male else normal(10 + 1.1 * fat, 6, 8, 46),
        glands=0.0 if male else normal(0.55 - 0.2 * old, 0.15, 0.1, 0.9),
        heart=normal(0.97 + 0.03 * old + 0.03 * male, 0.05, 0.84, 1.15),
        aorta=normal(14 + 1.3 * old + 0.8 * male, 0.8, 11, 18.5),
        dome_right=dome_left + normal(11, 3, 4, 16),
        dome_left=dome_left,
        liver=normal(38, 10, 15, 60),
        gas_level=normal(-14, 8),
        lean=normal(0.3, 2, -3.0, 4.0),
        kyphosis=normal(7 + 5 * old, 3, 0, 20),
        scoliosis=normal(0, 2, -5, 5),
        apex_width=normal(0.08, 0.07, -0.08, 0.22),
        squareness=normal(2.4, 0.08, 2.2, 2.6),
        rib_slope=normal(1.0, 0.08, 0.8, 1.2),
        spine_start=normal(0.03, 0.02, -0.01, 0.07),
        cortex_hu=normal(840 - 80 * old, 80, 550, 1100),
        marrow_hu=normal(180 - 45 * old, 25, 70, 280),
        muscle_hu=normal(54 - 5 * old, 4, 35, 65),
        liver_hu=normal(57, 6, 35, 70),
        lung_hu=normal(-872, 24, -930, -815),
        gravity_hu=normal(28, 14, 4, 70),
        sag=0.0021,
        back=half_depth + body_wall.LAYER_MM + 14 + 0.55 * fat,
        texture=waves.astype(np.float32),
        bounds=np.zeros((4, 1, 1), np.float32),
        parts=(),
        belly=(),
    )
    thorax = replace(thorax, parts=organs.mediastinum(thorax, rng), belly=organs.place_belly(thorax, rng))
    return replace(thorax, bounds=_bounds(thorax))


def cavity(thorax: Thorax, p: Points) -> tuple[Array, Array]:
    """Return the distance inside the chest wall (mm) and the relative height t."""
    return body_wall.wall_distance(thorax, p, body_wall.cavity_radius), p.z / np.float32(thorax.height)


def body(thorax: Thorax, p: Points) -> Array:
    """Return the depth under the skin (mm)."""
    return body_wall.wall_distance(thorax, p, body_wall.skin_radius)


def _bounds(thorax: Thorax) -> Array:
    """Tabulate the diaphragm and the tops of the lungs over the plane, each with the cosine of its slope."""
    y, x = (a.ravel() for a in np.meshgrid(_GRID_Y, _GRID_X, indexing="ij"))
    z = np.full_like(x, 0.12 * thorax.height)
    wall = body_wall.wall_distance(thorax, Points(z, y, x), body_wall.cavity_radius)
    share = 0.5 + 0.5 * np.tanh((x - 8) / 16)
    dome = thorax.dome_right * (1 - share) + thorax.dome_left * share
    middle = np.where(x < 0, -0.45, 0.47) * thorax.half_width
    dome = dome - 14 * ((y + 14) / thorax.half_depth) ** 2 - 11 * ((x - middle) / (0.5 * thorax.half_width)) ** 2
    front = 0.5 - 0.5 * y / np.hypot(x, y).clip(1)
    bottom = -7 + (0.62 * dome + 7) * front**1.5
    rise = 1 - np.abs(1 - np.clip(wall / (0.62 * thorax.half_width), 0, 1)) ** 2.6
    floor = bottom + (dome - bottom) * rise + 2.4 * np.minimum(wall, 0)
    tip = np.abs(x) - (0.37 + thorax.apex_width * 0.4) * thorax.half_width
    roof = thorax.height - 24 * (tip / 35) ** 2 - 24 * ((y - 6) / 46) ** 2
    roof = np.maximum(roof, 0.3 * thorax.height)
    maps = []
    for surface in (floor, roof):
        surface = surface.reshape(len(_GRID_Y), len(_GRID_X)).astype(np.float32)
        along_y, along_x = np.gradient(surface, _CELL_MM)
        maps += [surface, 1 / np.sqrt(1 + along_y**2 + along_x**2)]
    return np.stack(maps).astype(np.float32)


def _surface(thorax: Thorax, p: Points, first: int) -> tuple[Array, Array]:
    """Return height and slope's cosine of the diaphragm (`first` 0) or of the lungs' tops (`first` 2) at points."""
    y, x = np.broadcast_arrays(p.y, p.x)
    v = np.clip((y - _GRID_Y[0]) / _CELL_MM, 0, len(_GRID_Y) - 1.001)
    u = np.clip((x - _GRID_X[0]) / _CELL_MM, 0, len(_GRID_X) - 1.001)
    j, i = v.astype(np.intp), u.astype(np.intp)
    v, u = (v - j).astype(np.float32), (u - i).astype(np.float32)
    corner = j * len(_GRID_X) + i
    cells = [thorax.bounds[k].ravel() for k in (first, first + 1)]
    below, left = len(_GRID_X), 1
    return tuple(  # type: ignore[return-value]
        (1 - v) * ((1 - u) * m[corner] + u * m[corner + left])
        + v * ((1 - u) * m[corner + below] + u * m[corner + below + left])
        for m in cells
    )


def above_diaphragm(thorax: Thorax, p: Points) -> Array:
    """Return the distance above the diaphragm, mm."""
    floor, cosine = _surface(thorax, p, 0)
    return np.asarray((p.z - floor) * cosine)


def below_tops(thorax: Thorax, p: Points) -> Array:
    """Return the distance below the tops of the lungs, mm."""
    roof, cosine = _surface(thorax, p, 2)
    return np.asarray((roof - p.z) * cosine)


def lungs(thorax: Thorax, p: Points, inside: Array, t: Array) -> Array:
    """Return the distance inside the lungs (mm), both together; it saturates at `LUNG_DEPTH_MM`."""
    distance = np.minimum(inside - np.float32(PLEURA_MM), np.float32(LUNG_DEPTH_MM))
    np.minimum(distance, above_diaphragm(thorax, p), out=distance)
    np.minimum(distance, below_tops(thorax, p), out=distance)
    np.minimum(distance, -organs.around(thorax, p, distance.shape), out=distance)
    return distance


def pleura(thorax: Thorax, p: Points, inside: Array) -> Array:
    """Return roughly the distance to the chest wall or the diaphragm, mm."""
    ends = np.minimum(above_diaphragm(thorax, p), below_tops(thorax, p))
    return np.minimum(inside - np.float32(PLEURA_MM), ends).astype(np.float32)


def hilum(thorax: Thorax, side: int) -> Array:
    """Return z, y, x of the right (side -1) or left (+1) hilum."""
    z, y, x = carina(thorax)
    down, back, out = (26.0, -8.0, -37.0) if side < 0 else (20.0, -4.0, 40.0)
    return np.array([z - down, y + back, x + out], np.float32)


def tissue(thorax: Thorax, p: Points, inside: Array, t: Array, skin: Array, edge: float) -> Array:
    """Return the HU of everything but lungs, airways and table, float32, with edges `edge` mm wide."""
    hu = np.full(inside.shape, -1000, np.float32)
    body_wall.add_wall(hu, thorax, p, inside, skin, edge)
    blend(hu, np.float32(-97) + 140 * np.clip((t - 0.94 + 0.0012 * np.abs(p.x)) / 0.06, 0, 1), soft(inside, edge))
    reach = np.array([-1e4, -1.2 * thorax.half_depth, -1.1 * thorax.half_width])
    found = organs.near(p, reach, np.append(max(thorax.dome_right, thorax.dome_left) + 6, -reach[1:]))
    if found:
        index, q = found
        view = hu[index]
        organs.add_belly(view, thorax, q, above_diaphragm(thorax, q), inside[index], edge)
        hu[index] = view
    organs.add_mediastinum(hu, thorax, p, lambda q: above_diaphragm(thorax, q), edge)
    organs.add_spine(hu, thorax, p, edge)
    _shoulder_blades(hu, thorax, p, skin, edge)
    return hu


def _shoulder_blades(hu: Array, thorax: Thorax, p: Points, skin: Array, edge: float) -> None:
    """Add shoulder blades with their muscles, collar bones and upper arms, in place."""
    h, w, d = thorax.height, thorax.half_width / 118, thorax.half_depth / 88
    for side in (-1, 1):
        low, high = sorted((side * 50 * w, side * 190))
        found = organs.near(p, np.array([0.42 * h, -20.0, low]), np.array([1.2 * h, 140.0, high]))
        if found:
            index, q = found
            view = hu[index]
            blade, flesh = _blade(thorax, q, side)
            under = soft(skin[index] - 4, edge)
            blend(view, np.float32(thorax.muscle_hu), soft(flesh, edge) * under)
            organs.add_bone(
                view, np.minimum(blade, skin[index] - 5), 1.2, thorax.cortex_hu * 0.9, thorax.marrow_hu, edge
            )
            hu[index] = view
        front = -thorax.half_depth * 0.52
        collar = organs.capsule(
            (0.865 * h, front - 2, side * 21 * w), (0.96 * h, front + 22 * d, side * 88 * w), (9.0, 6.5)
        )
        outer = organs.capsule(
            (0.96 * h, front + 22 * d, side * 88 * w), (1.04 * h, 10 * d, side * 138 * w), (6.5, 6.0)
        )
        arm = organs.egg((1.02 * h, 16 * d, side * 152 * w), (26, 23, 23))
        for part in (collar, outer, arm):
            found = organs.near(p, *part.box(edge))
            if found:
                index, q = found
                view = hu[index]
                organs.add_bone(view, part.distance(q), 2.0, thorax.cortex_hu, thorax.marrow_hu, edge)
                hu[index] = view


def _blade(thorax: Thorax, p: Points, side: int) -> tuple[Array, Array]:
    """Return the distances inside one shoulder blade and inside its muscles, mm."""
    h, w, d = thorax.height, thorax.half_width / 118, thorax.half_depth / 88
    up = np.clip((p.z / h - 0.47) / 0.42, 0, 1)
    x = side * p.x
    ay, ax = (30 - 4 * up) * d, (124 + 18 * up) * w
    by, bx = (40 + 40 * up) * d, (124 - 54 * up**0.8) * w
    ey, ex = by - ay, bx - ax
    s = np.clip(((p.y - ay) * ey + (x - ax) * ex) / (ey**2 + ex**2 + 1), 0, 1)
    plane = np.sqrt((p.y - ay - s * ey) ** 2 + (x - ax - s * ex) ** 2)
    ends = np.minimum(p.z - 0.45 * h, 0.97 * h - p.z)
    plate = np.minimum(2.1 + 3.0 * (s < 0.06) + 1.5 * np.clip(up - 0.6, 0, 1) - plane, ends)
    middle_y, middle_x = ay + 0.45 * ey, ax + 0.45 * ex
    out = np.clip((p.y - middle_y) / 26, 0, 1)
    ridge = np.minimum(2.6 - np.abs(x - middle_x - 16 * out) * 0.85, np.minimum(p.y - middle_y, middle_y + 24 - p.y))
    ridge = np.minimum(ridge, np.minimum(p.z - 0.76 * h, 0.93 * h - p.z))
    return np.maximum(plate, ridge), np.minimum(13 * np.minimum(1, 0.5 + up) - plane, ends + 8)


def table(thorax: Thorax, p: Points) -> Array:
    """Return the distance inside the two curved plates of the table under the back, mm."""
    gap = p.y + thorax.sag * 1.12 * p.x**2 - (thorax.back + 6)
    upper = 1.0 - np.abs(gap)
    lower = 1.1 - np.abs(gap - 22 - 0.0003 * p.x**2)
    return np.minimum(np.maximum(upper, lower), 205 - np.abs(p.x)).astype(np.float32)


def add_table(hu: Array, thorax: Thorax, p: Points, skin: Array, edge: float) -> None:
    """Add the table's plates with a foam core, and folds of cloth over the front, outside the body and in place."""
    gap = p.y + thorax.sag * 1.12 * p.x**2 - (thorax.back + 6)
    thin = np.float32(min(1, 2 / edge))
    core = soft(np.minimum(gap, 22 - gap), edge) * 30 + soft(table(thorax, p), edge) * ((_TABLE_HU + 970) * thin)
    hu += (skin < -1) * core
    folds = body_wall.spread(p, lambda z, angle: body_wall.cloth(thorax, z, angle))
    folds += skin
    hu += soft(0.6 - np.abs(folds), edge) * ((skin < -1) * np.float32(110 * thin))
