"""A CT volume: Hounsfield units on a regular axial grid, with its place in the patient and its history.

Arrays are (z, y, x) everywhere in this project: z ascends towards the head, y towards the back, x towards the patient's
left, so that the axes are DICOM's L, P, S. Spacings have the same order. Affines map voxel (x, y, z, 1) to LPS mm.
"""

from dataclasses import dataclass

import numpy as np

HU_MIN, HU_MAX = -1024, 3071
"""The range kept: air to the top of a 12-bit scanner. Padding below it is air; metal above it is clipped."""


@dataclass(frozen=True)
class SeriesInfo:
    """What is kept of a series' header; nothing in it identifies a patient."""

    kernel: str = ""
    kvp: float | None = None
    manufacturer: str = ""
    transfer_syntax: str = ""
    slice_thickness_mm: float | None = None
    exposure_mas: float | None = None
    file_format: str = "DICOM"
    simulated: bool = False
    patient_sha256: str = ""  # tells that two patients of a manifest are one; intake keys it
    patient_position: str = ""  # supine, prone or decubitus
    contrast: bool = False
    paediatric: bool = False
    sides_unknown: bool = False  # the file does not say how its axes lie in the patient
    uid_sha256: str = ""  # tells that two scans come from one series; blank where de-identification blanked the UID


@dataclass(frozen=True)
class CTVolume:
    """One scan: hu int16 (z, y, x), spacing_mm (z, y, x), affine voxel (x, y, z, 1) -> LPS mm.

    `source_axes` says, for each axis of `hu`, which axis of the source array it was (x = 2, y = 1, z = 0) and its sign.
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    history: tuple[str, ...] = ()
    series: SeriesInfo | None = None
    source_axes: tuple[tuple[int, int], ...] = ((0, 1), (1, 1), (2, 1))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (slices, rows, columns)."""
        return self.hu.shape  # type: ignore[return-value]

    @property
    def simulated(self) -> bool:
        """True when the phantom wrote this scan."""
        return self.series is not None and self.series.simulated


def axial_volume(
    array: np.ndarray, affine: np.ndarray, *, history: tuple[str, ...] = (), series: SeriesInfo | None = None
) -> CTVolume:
    """Return a CTVolume from an array (k, j, i) and an affine voxel (i, j, k, 1) -> LPS mm.

    Axes are permuted and flipped, never resampled, until they point to the left, the back and the head.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    taken = _nearest_axes(directions)  # for each of L, P, S: the column of the affine that follows it
    signs = [1 if directions[world, column] > 0 else -1 for world, column in enumerate(taken)]
    turned = np.zeros((4, 4))
    turned[3, 3] = 1
    origin = np.array(affine[:3, 3], dtype=float)
    for world, (column, sign) in enumerate(zip(taken, signs, strict=True)):
        turned[:3, world] = sign * affine[:3, column]
        if sign < 0:
            origin += affine[:3, column] * (array.shape[2 - column] - 1)
    turned[:3, 3] = origin
    axes = tuple((2 - taken[2 - axis], signs[2 - axis]) for axis in range(3))
    moved = array.transpose([axis for axis, _ in axes])[tuple(slice(None, None, sign) for _, sign in axes)]
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    if axes != ((0, 1), (1, 1), (2, 1)):
        history = (*history, "turned to axial, head up")
    return CTVolume(
        hu=np.ascontiguousarray(moved),
        spacing_mm=(float(spacing[2]), float(spacing[1]), float(spacing[0])),
        affine=turned,
        history=history,
        series=series,
        source_axes=axes,
    )


def to_source_axes(array: np.ndarray, volume: CTVolume) -> tuple[np.ndarray, np.ndarray]:
    """Return an array shaped like `volume.hu` in the source's axes (k, j, i), and its affine (i, j, k, 1) -> LPS mm."""
    signs = [sign for _, sign in volume.source_axes]
    order = [axis for axis, _ in volume.source_axes]
    affine = np.eye(4)
    origin = np.array(volume.affine[:3, 3], dtype=float)
    for axis, (source, sign) in enumerate(volume.source_axes):
        column = volume.affine[:3, 2 - axis]
        affine[:3, 2 - source] = sign * column
        if sign < 0:
            origin += column * (volume.hu.shape[axis] - 1)
    affine[:3, 3] = origin
    unflipped = array[tuple(slice(None, None, sign) for sign in signs)]
    return unflipped.transpose(np.argsort(order)), affine


def _nearest_axes(directions: np.ndarray) -> list[int]:
    """Return for each of L, P, S the column that points most along it, each column once."""
    taken = [-1, -1, -1]
    strength = np.abs(directions).copy()
    for _ in range(3):
        world, column = np.unravel_index(int(np.argmax(strength)), strength.shape)
        taken[int(world)] = int(column)
        strength[world, :] = -1
        strength[:, column] = -1
    return taken
