"""NIfTI, NRRD and MHA volumes in Hounsfield units -> CTVolume."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from covid3d.ct.volume import HU_MAX, HU_MIN, CTVolume, SeriesInfo, axial_volume
from covid3d.run.errors import SeriesError

OBLIQUE_DEGREES = 15.0
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def is_image(path: Path) -> bool:
    """True for a file with the ending of an image format."""
    return path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def read_image(path: Path) -> CTVolume:
    """Read a volume file as int16 HU, axial, head up, clipped to -1024 … 3071.

    Raises SeriesError: truncated when it cannot be read, no_ct_volume unless it has three axes and one channel,
    oblique, too_few_slices, hu_out_of_range for values that are no CT numbers.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise SeriesError(
            "the file cannot be read", where=path.name, cure="It may be truncated: copy it again", code="truncated"
        ) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise SeriesError(
            "the file holds no single volume",
            where=path.name,
            cure="Give one volume with one value a voxel",
            code="no_ct_volume",
        )
    directions = np.abs(np.array(image.GetDirection()).reshape(3, 3)).max(axis=0)
    if np.degrees(np.arccos(np.clip(directions.min(), 0, 1))) > OBLIQUE_DEGREES:
        what, cure = "the slices lie oblique to the body", "Choose an axial reconstruction"
        raise SeriesError(what, where=path.name, cure=cure, code="oblique")
    volume = axial_volume(
        sitk.GetArrayViewFromImage(image),
        _affine(image),
        history=(f"{image.GetSize()[2]} slices of {_format(path)}",),
        series=SeriesInfo(file_format=_format(path)),
    )
    return CTVolume(**{**vars(volume), "hu": _hounsfield(volume.hu, path)})


def _format(path: Path) -> str:
    names = {".nii": "NIfTI", ".gz": "NIfTI", ".nrrd": "NRRD", ".nhdr": "NRRD"}
    return names.get(path.suffix.lower(), "MetaImage")


def _affine(image: sitk.Image) -> np.ndarray:
    """Return the affine voxel (i, j, k, 1) -> LPS mm; SimpleITK's world is LPS in every format."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def _hounsfield(values: np.ndarray, path: Path) -> np.ndarray:
    """Return values as int16 HU in range; refuse too few slices and values that are no CT numbers."""
    if values.shape[0] < 16:
        raise SeriesError(
            f"the volume has {values.shape[0]} slices, at least 16 are needed",
            where=path.name,
            cure="Give the whole series: at least 16 slices",
            code="too_few_slices",
        )
    finite = np.nan_to_num(values, nan=HU_MIN, posinf=HU_MAX, neginf=HU_MIN)
    if float((finite > 4000).mean()) > 0.01:
        raise SeriesError(
            "more than 1% of the voxels lie above any CT number",
            where=path.name,
            cure="Check how the file was made: its values are no Hounsfield units",
            code="hu_out_of_range",
        )
    rounded = np.rint(finite) if finite.dtype.kind == "f" else finite
    return np.clip(rounded, HU_MIN, HU_MAX).astype(np.int16)
