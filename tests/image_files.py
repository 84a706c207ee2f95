"""Small NIfTI, NRRD and MetaImage files for tests, written by nibabel or literally."""

import bz2
import gzip
import zlib

import nibabel as nib
import numpy as np
from dicom_series import SPACING, body

ORIGIN = (-150.0, -120.0, -300.0)
PACK = {"raw": bytes, "gzip": lambda data: gzip.compress(data, mtime=0), "bzip2": bz2.compress, "zlib": zlib.compress}
LPS = np.array(
    [[SPACING[2], 0, 0, ORIGIN[0]], [0, SPACING[1], 0, ORIGIN[1]], [0, 0, SPACING[0], ORIGIN[2]], [0, 0, 0, 1]]
)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ LPS
NRRD_TYPES = {"i1": "int8", "u1": "uint8", "i2": "short", "u2": "ushort", "i4": "int", "f4": "float", "f8": "double"}
META_TYPES = {"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT"}
META_TYPES |= {"f4": "MET_FLOAT", "f8": "MET_DOUBLE"}


def nifti(hu=None, *, affine=RAS, codes=(1, 1), kind=nib.Nifti1Image, order="<", change=None):
    """Return the bytes of a NIfTI file; `change(header)` may alter its header, codes are those of qform and sform."""
    hu = body() if hu is None else hu
    header = kind.header_class(endianness=order)
    header.set_data_dtype(hu.dtype.newbyteorder(order))
    image = kind(hu.T, affine, header)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine if codes[0] else None, codes[0])
    image.set_sform(affine if codes[1] else None, codes[1])
    content = image.to_bytes()
    if change is None:
        return content
    size = image.header.sizeof_hdr
    altered = kind.header_class(content[:size], endianness=order, check=False)
    change(altered)
    return altered.binaryblock + content[size:]


def vectors(affine):
    """Return the columns of an affine as NRRD writes them."""
    return " ".join("(" + ",".join(map(str, column)) + ")" for column in affine[:3, :3].T)


DIRECTIONS = vectors(LPS)


def nrrd(
    hu=None, *, encoding="raw", order="<", directions=DIRECTIONS, space="left-posterior-superior", more="", data=None
):
    """Return the bytes of an NRRD file, or of its header alone where `data` names the file of the voxels."""
    hu = body() if hu is None else hu
    lines = ["NRRD0004", f"type: {NRRD_TYPES[hu.dtype.str[1:]]}", "dimension: 3"]
    lines += [f"space: {space}"] if space else []
    lines += [f"sizes: {' '.join(map(str, hu.shape[::-1]))}"]
    lines += [f"space directions: {directions}"] if directions else []
    lines += [f"endian: {'little' if order == '<' else 'big'}", f"encoding: {encoding}"]
    lines += [f"space origin: ({','.join(map(str, ORIGIN))})"] if space else []
    lines += [more] if more else []
    lines += [f"data file: {data}"] if data else []
    header = ("\n".join(lines) + "\n\n").encode()
    return header if data else header + voxels(hu, encoding, order)


def voxels(hu, encoding="raw", order="<"):
    """Return packed voxels."""
    return PACK[encoding](hu.astype(hu.dtype.newbyteorder(order)).tobytes())


def metaimage(
    hu=None, *, packed=False, order="<", matrix="1 0 0 0 1 0 0 0 1", spacing=SPACING[::-1], more="", data="LOCAL"
):
    """Return the bytes of an MHA file, or of its header alone where `data` names the file of the voxels."""
    hu = body() if hu is None else hu
    content = voxels(hu, "zlib" if packed else "raw", order)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", f"BinaryDataByteOrderMSB = {order == '>'}"]
    lines += [f"CompressedData = {packed}", *([f"CompressedDataSize = {len(content)}"] if packed else [])]
    lines += [f"TransformMatrix = {matrix}"] if matrix else []
    lines += [f"Offset = {' '.join(map(str, ORIGIN))}"]
    lines += [f"ElementSpacing = {' '.join(map(str, spacing))}"] if spacing is not None else []
    lines += [more] if more else []
    lines += [f"DimSize = {' '.join(map(str, hu.shape[::-1]))}", f"ElementType = {META_TYPES[hu.dtype.str[1:]]}"]
    header = ("\n".join([*lines, f"ElementDataFile = {data}"]) + "\n").encode()
    return header + content if data == "LOCAL" else header


def files(hu=None):
    """Return {case: {name: content}} of sound files in every format, encoding and byte order; the first name is the scan's."""
    hu = body() if hu is None else hu
    gz = PACK["gzip"]
    return {
        "NIfTI": {"scan.nii": nifti(hu)},
        "NIfTI gzip": {"scan.nii.gz": gz(nifti(hu))},
        "NIfTI-2": {"scan.nii": nifti(hu, kind=nib.Nifti2Image)},
        "NIfTI-2 gzip": {"scan.nii.gz": gz(nifti(hu, kind=nib.Nifti2Image))},
        "NIfTI big endian": {"scan.nii": nifti(hu, order=">")},
        "NIfTI gzip named .nii": {"scan.nii": gz(nifti(hu))},
        "NIfTI plain named .nii.gz": {"scan.nii.gz": nifti(hu)},
        "NRRD": {"scan.nrrd": nrrd(hu)},
        "NRRD big endian": {"scan.nrrd": nrrd(hu, order=">")},
        "NRRD gzip": {"scan.nrrd": nrrd(hu, encoding="gzip")},
        "NRRD bzip2": {"scan.nrrd": nrrd(hu, encoding="bzip2")},
        "NHDR": {"scan.nhdr": nrrd(hu, data="scan.raw"), "scan.raw": voxels(hu)},
        "NHDR gzip": {"scan.nhdr": nrrd(hu, encoding="gzip", data="scan.raw.gz"), "scan.raw.gz": voxels(hu, "gzip")},
        "NHDR bzip2": {"scan.nhdr": nrrd(hu, encoding="bzip2", data="v.bz2"), "v.bz2": voxels(hu, "bzip2")},
        "MHA": {"scan.mha": metaimage(hu)},
        "MHA big endian": {"scan.mha": metaimage(hu, order=">")},
        "MHA zlib": {"scan.mha": metaimage(hu, packed=True)},
        "MHD": {"scan.mhd": metaimage(hu, data="scan.raw"), "scan.raw": voxels(hu)},
        "MHD zlib": {"scan.mhd": metaimage(hu, packed=True, data="scan.zraw"), "scan.zraw": voxels(hu, "zlib")},
    }


def put(folder, contents):
    """Write a case of `files` into a folder; return the scan's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(contents))
