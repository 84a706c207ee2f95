"""NIfTI, NRRD and MHA volumes in Hounsfield units -> CTVolume."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from scipy import ndimage

from covid3d.ct.lungs import body_mask
from covid3d.ct.volume import HU_MAX, HU_MIN, CTVolume, SeriesInfo, axial_volume
from covid3d.dicom.axes import check_axes, check_field
from covid3d.dicom.metaimage import read_metaimage
from covid3d.dicom.nifti import read_nifti
from covid3d.dicom.nrrd import read_nrrd
from covid3d.dicom.refusals import FEWEST_SLICES, refusal
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
    axes not at right angles, oblique, impossible_size, too_few_slices, no_ct_volume unless it has three axes and one value
    a voxel, no_number for NaN within the body, hu_out_of_range for values that are no CT numbers, unsupported_encoding,
    missing_file, unreadable.
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
    check_field([step * count for step, count in zip(volume.spacing_mm[1:], volume.shape[1:], strict=True)], path)
    if volume.shape[0] < FEWEST_SLICES:
        what = f"the volume has {volume.shape[0]} slices, at least {FEWEST_SLICES} are needed"
        raise refusal("too_few_slices", what, path)
    return volume


def _hounsfield(image: ImageFile, path: Path) -> np.ndarray:
    """Return values (k, j, i) as int16 HU in range; refuse values that are no CT numbers.

    The lowest value of a plane, if it lies below any CT number, is padding.
    """
    hu = np.empty(image.values.shape, np.int16)
    no_number: dict[int, np.ndarray] = {}
    beyond = 0
    for place, (plane, stored) in enumerate(zip(hu, image.values, strict=True)):
        values = stored
        if image.values.dtype.newbyteorder("=") != np.int16 or (image.slope, image.intercept) != (1, 0):
            values = np.rint(stored.astype(np.float64) * image.slope + image.intercept)
            wrong = ~np.isfinite(values)
            if wrong.any():
                no_number[place] = wrong
                values[wrong] = HU_MIN
        beyond += int(np.count_nonzero(values > HIGHEST_HU))
        lowest = float(values.min())
        if lowest < LOWEST_HU:
            beyond += int(np.count_nonzero((values < LOWEST_HU) & (values > lowest + UNTOLD_PADDING)))
        plane[:] = np.clip(values, HU_MIN, HU_MAX)
    if beyond > NOT_HU_SHARE * hu.size:
        what = f"{beyond / hu.size:.0%} of the voxels lie beyond any CT number"
        cure = "Check how the file was made: its values are no Hounsfield units"
        raise SeriesError(what, where=path.name, cure=cure, code="hu_out_of_range")
    if no_number:
        _check_padding(np.stack([no_number.get(place, np.zeros_like(wrong)) for place in range(len(hu))]), hu, path)
    return hu


def _check_padding(no_number: np.ndarray, hu: np.ndarray, path: Path) -> None:
    """Refuse voxels that are no numbers, bool (k, j, i), unless they are padding; in `hu` they are air.

    Padding reaches the edge of its plane and touches the body nowhere; whatever else they hid, air must not stand for it.
    """
    edge = np.ones(no_number.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    padding = np.stack([ndimage.binary_propagation(plane & edge, mask=plane) for plane in no_number])
    near = ndimage.binary_dilation(no_number, ndimage.generate_binary_structure(3, 3))
    if (padding != no_number).any() or (near & body_mask(hu)).any():
        what = f"{np.count_nonzero(no_number)} voxels are no numbers (NaN or infinite), and not only outside the body"
        raise refusal("no_number", what, path)
