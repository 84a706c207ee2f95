"""What is drawn of a patient's chest: its sizes and densities, and the parts inside. Its shape follows from these alone."""

from dataclasses import dataclass

import numpy as np

from covid3d.phantom.shapes import Array, Points


@dataclass(frozen=True, eq=False)
class Part:
    """A tapered capsule from `start` to `end` (z, y, x in mm), or an ellipsoid about `start` when `axes` is given."""

    start: Array
    end: Array
    radius: tuple[float, float]
    hu: float
    axes: Array | None = None  # rows: unit axis / half length
    fat: float = 2.5  # of fat between it and the lungs, mm
    painted: bool = True

    def box(self, margin: float) -> tuple[Array, Array]:
        """Return the lowest and highest corner (z, y, x) of what lies within `margin` mm of the part."""
        if self.axes is not None:
            reach = np.linalg.norm(np.linalg.inv(self.axes), axis=1) + margin
            return self.start - reach, self.start + reach
        reach = max(self.radius) + margin
        return np.minimum(self.start, self.end) - reach, np.maximum(self.start, self.end) + reach

    def distance(self, p: Points) -> Array:
        """Return the distance inside, mm."""
        z, y, x = p.z - self.start[0], p.y - self.start[1], p.x - self.start[2]
        if self.axes is not None:
            m = self.axes
            u, v, w = (m[i, 0] * z + (m[i, 1] * y + m[i, 2] * x) for i in range(3))
            k0 = np.sqrt(u * u + v * v + w * w)
            s, t, r = (float(np.linalg.norm(row)) for row in m)
            k1 = np.sqrt((u * s) ** 2 + (v * t) ** 2 + (w * r) ** 2)
            return np.asarray(k0 * (1 - k0) / (k1 + np.float32(1e-4)))
        d = (self.end - self.start).astype(np.float32)
        share = np.clip((z * d[0] + (y * d[1] + x * d[2])) / max(float(d @ d), 1e-4), 0, 1)
        gap = np.sqrt((z - share * d[0]) ** 2 + (y - share * d[1]) ** 2 + (x - share * d[2]) ** 2)
        return np.asarray(np.float32(self.radius[0]) + share * np.float32(self.radius[1] - self.radius[0]) - gap)


@dataclass(frozen=True, eq=False)
class Thorax:
    """Sizes of one patient's chest, in mm and HU; shares without a unit."""

    height: float
    half_width: float
    half_depth: float
    fat: float
    muscle: float
    breast: float
    glands: float
    heart: float
    aorta: float
    dome_right: float
    dome_left: float
    liver: float
    gas_level: float
    lean: float
    kyphosis: float
    scoliosis: float
    apex_width: float
    squareness: float
    rib_slope: float
    spine_start: float
    cortex_hu: float
    marrow_hu: float
    muscle_hu: float
    liver_hu: float
    lung_hu: float
    gravity_hu: float
    sag: float  # curvature of the table, 1/mm
    back: float  # y of the table's middle
    texture: Array  # (waves, 4): kx, ky, kz in rad/mm and phase
    bounds: Array  # (4, y, x): height of the diaphragm and its slope's cosine, the same of the tops of the lungs
    parts: tuple[Part, ...]
    belly: tuple[Part, ...]

    def level(self, t: float) -> float:
        """Return z of a relative height t (0 base, 1 apex)."""
        return t * self.height
