"""NRRD, with its voxels attached or in a file of their own -> ImageFile. Source: teem.sourceforge.net/nrrd/format.html."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Final

import numpy as np

from covid3d.dicom.axes import compare_spacings
from covid3d.dicom.streams import ImageFile, data_file, header_lines, read_voxels, refusal

ENCODINGS: Final = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
TYPES: Final = {
    name: kind
    for kind, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
FIELDS: Final = set(
    "content,number,type,block size,blocksize,dimension,space,space dimension,sizes,spacings,thicknesses,axis mins,axismins,"
    "axis maxs,axismaxs,space directions,centers,centerings,kinds,labels,units,space units,space origin,measurement frame,"
    "min,max,old min,oldmin,old max,oldmax,data file,endian,encoding,line skip,byte skip,sample units,sampleunits".split(
        ","
    )
)
TO_LPS: Final = {
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
}
SIDELESS: Final = {"", "scanner-xyz", "3d-right-handed", "3d-left-handed", "3dr", "3dl"}
MM_OF_UNIT: Final = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
Fields = dict[str, str]


def read_nrrd(path: Path) -> ImageFile:
    """Return the volume of an NRRD file. Raises SeriesError for any fault of its header and for missing voxels."""
    with path.open("rb") as stream:
        fields = _fields(stream, path)
        sizes, kept = _sizes(fields, path)
        affine, sides_known = _affine(fields, kept, path)
        kind, encoding = _kind(fields, path), ENCODINGS.get(fields.get("encoding", "").lower())
        if encoding is None:
            raise refusal(path, "unsupported_encoding", "the encoding of the voxels is none of raw, gzip and bzip2")
        with data_file(path, fields["data file"]) if "data file" in fields else nullcontext(stream) as data:
            _skip(data, fields, int(np.prod(sizes, dtype=object)) * kind.itemsize, encoding, path)
            values = read_voxels(data, encoding, kind, sizes, path)
    return ImageFile(values, affine, "NRRD", sides_known)


def _fields(stream: IO[bytes], path: Path) -> Fields:
    """Return the fields of a header, read up to the blank line that ends it."""
    first = stream.readline(16)
    if first and not re.fullmatch(rb"NRRD000\d\r?\n?", first):
        raise refusal(path, "unreadable", "the file is no NRRD: it does not begin as one")
    fields: Fields = {}
    for text in header_lines(stream, path):
        if not text:
            return fields
        name, colon, value = text.partition(": ")
        if text.startswith("#") or ":=" in name:
            continue
        name = name.lower()
        name = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}.get(name, name)
        if not colon or name not in FIELDS or name in fields:
            raise refusal(
                path, "unreadable", "the header is damaged: a line is no field of NRRD, or a field stands twice"
            )
        fields[name] = value.strip(" ")
    if "data file" not in fields:
        raise refusal(path, "truncated", "the file is truncated: it stops within its header")
    return fields


def _sizes(fields: Fields, path: Path) -> tuple[tuple[int, ...], list[int]]:
    """Return all sizes that are not passed over, and the numbers of the three axes in space; others have one element."""
    words = fields.get("sizes", "").split()
    if fields.get("dimension") != str(len(words)) or not all(word.isdecimal() and int(word) for word in words):
        raise refusal(path, "unreadable", "the header is damaged: it does not say how many voxels there are")
    sizes = [int(word) for word in words]
    vectors = _vectors(fields, _directed(fields), len(sizes), path)
    kept = [axis for axis, size in enumerate(sizes) if size > 1 or vectors[axis] is not None]
    if len(kept) != 3:
        raise refusal(path, "no_ct_volume", "the file holds no single volume")
    return tuple(sizes[axis] for axis in kept), kept


def _directed(fields: Fields) -> str:
    """Return the field that gives the axes."""
    return "space directions" if "space directions" in fields else "spacings"


def _vectors(fields: Fields, name: str, count: int, path: Path) -> list[np.ndarray | None]:
    """Return what a field gives of every axis, its direction or its spacing, or None."""
    text = fields.get(name)
    words = [] if text is None else re.findall(r"\([^)]*\)|\S+", text)
    if text is not None and len(words) != count:
        raise refusal(path, "missing_geometry", "the header does not give a direction or spacing for every axis")
    return [_vector(word, path) for word in words] or [None] * count


def _vector(word: str, path: Path) -> np.ndarray | None:
    """Return the numbers of "(x,y,z)" or "x"; None for "none" and for numbers that are no numbers."""
    if word.lower() == "none":
        return None
    inner = re.fullmatch(r"\(([^()]*)\)|([^(),]*)", word)
    try:
        numbers = np.array([float(part) for part in (inner[1] or inner[2] if inner else "").split(",")])
    except ValueError as error:
        raise refusal(path, "unreadable", "the header is damaged: a direction or spacing is no number") from error
    return numbers if np.isfinite(numbers).all() else None


def _affine(fields: Fields, kept: list[int], path: Path) -> tuple[np.ndarray, bool]:
    """Return the affine (i, j, k, 1) -> LPS mm, and if the header says how the axes lie in the patient."""
    count, directed, affine = len(fields["sizes"].split()), "space directions" in fields, np.eye(4)
    found = [_vectors(fields, _directed(fields), count, path)[axis] for axis in kept]
    vectors = [vector for vector in found if vector is not None and vector.shape == ((3,) if directed else (1,))]
    if len(vectors) < 3 or (not directed and min(map(float, np.concatenate(vectors))) <= 0):
        raise refusal(path, "missing_geometry", "the header gives no voxel spacing, or none along one axis")
    space = fields.get("space", "").lower()
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) or [""]
    if space not in SIDELESS and space not in TO_LPS:
        raise refusal(path, "missing_geometry", "the space of the axes is none that NRRD knows in three dimensions")
    if len(set(units)) > 1 or units[0].lower() not in MM_OF_UNIT:
        raise refusal(path, "missing_geometry", "the unit of the voxel spacing is not known")
    if not directed:
        affine[:3, :3] = np.diag(np.concatenate(vectors))
    else:
        affine[:3, :3] = np.column_stack(vectors)
        stated = [spacing for spacing in _vectors(fields, "spacings", count, path) if spacing is not None]
        if len(stated) == 3:
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
            compare_spacings(path, "spacings", np.concatenate(stated), "space directions", lengths)
        origin = _vector(fields["space origin"], path) if "space origin" in fields else np.zeros(3)
        if origin is None or origin.shape != (3,):
            raise refusal(path, "missing_geometry", "the origin in the header is no place")
        affine[:3, 3] = origin
    signs = np.array(TO_LPS.get(space, (1, 1, 1)), dtype=float) * MM_OF_UNIT[units[0].lower()]
    return np.diag([*signs, 1.0]) @ affine, directed and space in TO_LPS


def _kind(fields: Fields, path: Path) -> np.dtype:
    """Return the type of a voxel in the byte order of the file."""
    name = TYPES.get(" ".join(fields.get("type", "").lower().split()))
    if name is None:
        raise refusal(
            path, "unreadable", "the header does not say of what type the voxels are, or of one that is no number"
        )
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and name[1] != "1":
        raise refusal(path, "unreadable", "the header does not say in what order the bytes of a voxel lie (endian)")
    return np.dtype((order or "") + name)


def _skip(stream: IO[bytes], fields: Fields, wanted: int, encoding: str, path: Path) -> None:
    """Move on in a file of voxels as the header says: over lines, or over bytes, -1 meaning all but the voxels."""
    lines, skipped = fields.get("line skip", "0"), fields.get("byte skip", "0")
    if not lines.isdecimal() or not re.fullmatch(r"-1|\d+", skipped) or (encoding != "raw" and skipped != "0"):
        raise refusal(path, "unsupported_encoding", "the header says in an unusual way where the voxels begin")
    for _ in range(int(lines)):
        if not stream.readline():
            break
    if skipped == "-1":
        stream.seek(max(0, stream.seek(0, 2) - wanted))
    else:
        stream.seek(int(skipped), 1)
