"""MetaImage, with its voxels attached (MHA) or in a file of their own (MHD) -> ImageFile. Source: MetaIO's documentation."""

from contextlib import nullcontext
from pathlib import Path
from typing import IO, Final

import numpy as np

from covid3d.dicom.axes import compare_spacings
from covid3d.dicom.streams import ImageFile, data_file, header_lines, read_voxels, refusal

TYPES: Final = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
SYNONYMS: Final = {
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "Origin": "Offset",
    "Position": "Offset",
}
Fields = dict[str, str]


def read_metaimage(path: Path) -> ImageFile:
    """Return the volume of a MetaImage. Raises SeriesError for any fault of its header and for missing voxels."""
    with path.open("rb") as stream:
        fields = _fields(stream, path)
        sizes = _sizes(fields, path)
        affine, sides_known = _affine(fields, path)
        kind = _kind(fields, path)
        name = fields["ElementDataFile"]
        with nullcontext(stream) if name.upper() == "LOCAL" else data_file(path, name) as data:
            values = _voxels(data, fields, kind, sizes, path)
    return ImageFile(values, affine, "MetaImage", sides_known)


def _fields(stream: IO[bytes], path: Path) -> Fields:
    """Return the fields of a header by their names, read up to the one that says where the voxels are."""
    fields: Fields = {}
    for text in header_lines(stream, path):
        name, equals, value = text.partition("=")
        name = SYNONYMS.get(name.strip(" "), name.strip(" "))
        if (name or equals) and (not equals or (name in fields and name != "Comment")):
            raise refusal(path, "unreadable", "the header is damaged: a line is no field, or a field stands twice")
        fields[name] = value.strip(" ")
        if name == "ElementDataFile":
            return fields
    raise refusal(path, "truncated", "the file is truncated: it stops within its header")


def _sizes(fields: Fields, path: Path) -> tuple[int, ...]:
    """Return the number of voxels along i, j, k; further axes must have one element."""
    words = fields.get("DimSize", "").split()
    if fields.get("NDims") != str(len(words)) or not all(word.isdecimal() and int(word) for word in words):
        raise refusal(path, "unreadable", "the header is damaged: it does not say how many voxels there are")
    sizes = [int(word) for word in words]
    single = fields.get("ElementNumberOfChannels", "1") == "1" and all(size == 1 for size in sizes[3:])
    if len(sizes) < 3 or not single or fields.get("ObjectType", "Image").lower() != "image":
        raise refusal(path, "no_ct_volume", "the file holds no single volume")
    return tuple(sizes[:3])


def _numbers(fields: Fields, name: str, count: int, path: Path) -> np.ndarray | None:
    """Return the numbers of a field, None where it is absent."""
    if name not in fields:
        return None
    try:
        numbers = np.array([float(word) for word in fields[name].split()])
    except ValueError:
        numbers = np.full(count, np.nan)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise refusal(
            path, "missing_geometry", f"the header gives no voxel geometry: {count} numbers are needed in a field"
        )
    return numbers


def _affine(fields: Fields, path: Path) -> tuple[np.ndarray, bool]:
    """Return the affine (i, j, k, 1) -> LPS mm, and if the header says how the axes lie in the patient."""
    count = int(fields["NDims"])
    spacing = _numbers(fields, "ElementSpacing", count, path)
    if spacing is None or (spacing[:3] <= 0).any():
        raise refusal(
            path, "missing_geometry", "the header gives no voxel spacing, or none along one axis (ElementSpacing)"
        )
    matrix, offset = _numbers(fields, "TransformMatrix", count**2, path), _numbers(fields, "Offset", count, path)
    affine = np.eye(4)
    if matrix is not None:
        affine[:3, :3] = matrix.reshape(count, count)[:3, :3].T
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    compare_spacings(path, "ElementSpacing", spacing[:3], "TransformMatrix", spacing[:3] * lengths)
    affine[:3, :3] *= spacing[:3]
    affine[:3, 3] = 0 if offset is None else offset[:3]
    return affine, matrix is not None


def _kind(fields: Fields, path: Path) -> np.dtype:
    """Return the type of a voxel in the byte order of the file, little endian unless the header says otherwise."""
    name = TYPES.get(fields.get("ElementType", ""))
    if name is None:
        raise refusal(
            path, "unreadable", "the header does not say of what type the voxels are, or of one that is no number"
        )
    return np.dtype((">" if _holds(fields, "BinaryDataByteOrderMSB", path) else "<") + name)


def _holds(fields: Fields, name: str, path: Path) -> bool:
    """Return a field that is True or False, False where it is absent."""
    value = fields.get(name, "False").lower()
    if value not in ("true", "false", "1", "0"):
        raise refusal(path, "unreadable", "the header is damaged: a field is neither True nor False")
    return value in ("true", "1")


def _voxels(stream: IO[bytes], fields: Fields, kind: np.dtype, sizes: tuple[int, ...], path: Path) -> np.ndarray:
    """Return the voxels, from where the header says that they begin to the end of the file."""
    if "BinaryData" in fields and not _holds(fields, "BinaryData", path):
        raise refusal(path, "unsupported_encoding", "the voxels are written as text")
    skipped, packed = fields.get("HeaderSize", "0"), _holds(fields, "CompressedData", path)
    start = stream.tell()
    left = stream.seek(0, 2) - start
    stated = fields.get("CompressedDataSize", "")
    if packed and stated.isdecimal() and int(stated) and int(stated) != left:
        raise refusal(
            path, "truncated", f"the file is truncated: {stated} bytes of compressed data announced, {left} found"
        )
    if skipped == "-1" and not packed:
        start += left - int(np.prod(sizes, dtype=object)) * kind.itemsize
    elif skipped not in ("0", "-1"):
        if not skipped.isdecimal():
            raise refusal(path, "unreadable", "the header is damaged: it does not say where the voxels begin")
        start = int(skipped)
    stream.seek(max(0, start))
    return read_voxels(stream, "zlib" if packed else "raw", kind, sizes, path)
