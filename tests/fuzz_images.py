"""Image files for the campaign of mutated files, and what nibabel or SimpleITK read of their bytes."""

import bz2
import gzip

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from dicom_series import body
from image_files import files, put

IMAGES = [
    "NIfTI",
    "NIfTI gzip",
    "NIfTI-2",
    "NIfTI big endian",
    "NRRD",
    "NRRD gzip",
    "NRRD bzip2",
    "NHDR",
    "MHA",
    "MHA zlib",
    "MHD",
    "MHD zlib",
]
MM_OF_UNIT = {1: 1000.0, 3: 0.001}


def base(folder, case, shape):
    """Write a sound file; return the path of the scan and the content of each file."""
    contents = files(body(shape))[case]
    return put(folder, contents), contents


def independent(path):
    """Return HU (z, y, x) as stored, spacing (z, y, x) and the first voxel's LPS, head up."""
    content = path.read_bytes()
    if ".nii" in path.name:
        return _by_nibabel(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    header, blank, packed = content.partition(b"\n\n")
    if b"encoding: bzip2" in header:
        path = path.with_name("plain.nrrd")
        path.write_bytes(header.replace(b"encoding: bzip2", b"encoding: raw") + blank + bz2.decompress(packed))
    try:
        image = sitk.ReadImage(path)
    finally:
        path.with_name("plain.nrrd").unlink(missing_ok=True)
    image = sitk.DICOMOrient(image[..., 0] if image.GetDimension() == 4 else image, "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1], image.GetOrigin()


def _by_nibabel(content):
    """Return the same by nibabel, which does not scale by the unit of length and centres files without forms."""
    kind = (
        nib.Nifti2Image
        if 540 in (int.from_bytes(content[:4], order) for order in ("little", "big"))
        else nib.Nifti1Image
    )
    image = kind.from_bytes(content)
    unit = MM_OF_UNIT.get(int(image.header["xyzt_units"]) & 7, 1.0)
    known = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
    affine = image.affine if known else np.diag([*image.header.get_zooms()[:3], 1.0])
    values = image.get_fdata()
    image = nib.as_closest_canonical(
        nib.Nifti1Image(values.reshape(values.shape[:3]), np.diag([unit, unit, unit, 1.0]) @ affine)
    )
    hu, affine = image.get_fdata()[::-1, ::-1].T, image.affine
    corner = affine @ [image.shape[0] - 1, image.shape[1] - 1, 0, 1]
    return hu, np.linalg.norm(affine[:3, :3], axis=0)[::-1], corner[:3] * [-1, -1, 1]
