"""NIfTI, NRRD and MHA volumes in Hounsfield units -> CTVolume."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from covid3d.ct.volume import HU_MAX, HU_MIN, CTVolume, SeriesInfo, axial_volume
from covid3d.dicom.axes import check_axes
from covid3d.dicom.metaimage import read_metaimage
from covid3d.dicom.nifti import read_nifti
from covid3d.dicom.nrrd import read_nrrd
from covid3d.dicom.streams import ImageFile
from covid3d.run.errors import SeriesError

NOT_HU_SHARE = 0.01
LOWEST_HU, HIGHEST_HU = -3024, 4000
UNTOLD_PADDING = 64
READERS: Final[dict[str, Callable[[Path], ImageFile]]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".mha": read_metaimage,
    ".mhd": read_metaimage,
}
IMAGE_SUFFIXES = tuple(READERS)


def is_image(path: Path) -> bool:
    """True for a file with the ending of an image format."""
    return path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def read_image(path: Path) -> CTVolume:
    """Read a volume file as int16 HU, axial, head up, clipped to -1024 … 3071.

    Raises SeriesError: truncated for voxels that are not all there, missing_geometry, contradicting_geometry, gantry_tilt for
    axes not at right angles, oblique, too_few_slices, no_ct_volume unless it has three axes and one value a voxel,
    hu_out_of_range for values that are no CT numbers, unsupported_encoding, missing_file, unreadable.
    """
    reader = next(reader for suffix, reader in READERS.items() if path.name.lower().endswith(suffix))
    try:
        image = reader(path)
    except OSError as error:
        cure = "Make the file readable, or copy it again"
        raise SeriesError("the file cannot be opened", where=path.name, cure=cure, code="unreadable") from error
    check_axes(image.affine, path)
    hu = _hounsfield(image, path)
    history: tuple[str, ...] = (f"{len(hu)} slices of {image.file_format}",)
    sides_known = image.sides_known and not np.array_equal(np.abs(image.affine), np.eye(4))
    if not sides_known:
        history = (*history, "sides unknown: the file does not say how its axes lie in the patient, left may be right")
    info = SeriesInfo(file_format=image.file_format, sides_unknown=not sides_known)
    volume = axial_volume(hu, image.affine, history=history, series=info)
    if volume.shape[0] < 16:
        raise SeriesError(
            f"the volume has {volume.shape[0]} slices, at least 16 are needed",
            where=path.name,
            cure="Give the whole series: at least 16 slices",
            code="too_few_slices",
        )
    return volume


def _hounsfield(image: ImageFile, path: Path) -> np.ndarray:
    """Return values (k, j, i) as int16 HU in range; refuse values that are no CT numbers.

    The lowest value of a plane, if it lies below any CT number, is padding.
    """
    hu = np.empty(image.values.shape, np.int16)
    beyond = 0
    for plane, stored in zip(hu, image.values, strict=True):
        values = stored
        if image.values.dtype.newbyteorder("=") != np.int16 or (image.slope, image.intercept) != (1, 0):
            scaled = stored.astype(np.float64) * image.slope + image.intercept
            values = np.rint(np.nan_to_num(scaled, nan=HU_MIN, neginf=HU_MIN))
        beyond += int(np.count_nonzero(values > HIGHEST_HU))
        lowest = float(values.min())
        if lowest < LOWEST_HU:
            beyond += int(np.count_nonzero((values < LOWEST_HU) & (values > lowest + UNTOLD_PADDING)))
        plane[:] = np.clip(values, HU_MIN, HU_MAX)
    if beyond > NOT_HU_SHARE * hu.size:
        what = f"{beyond / hu.size:.0%} of the voxels lie beyond any CT number"
        cure = "Check how the file was made: its values are no Hounsfield units"
        raise SeriesError(what, where=path.name, cure=cure, code="hu_out_of_range")
    return hu
