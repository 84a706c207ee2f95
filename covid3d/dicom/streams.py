"""The voxels of an image file, plain or compressed: all of them, to the end of their stream, or none.

Libraries read as many voxels as the header announces and leave the rest of a stream alone: its end and its checksum are
then never looked at, and voxels that are not there become zeros.
"""

import bz2
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from covid3d.run.errors import SeriesError

CHUNK_BYTES = 1 << 24
LONGEST_HEADER = 1 << 20
GZIP, ZLIB_OR_GZIP = b"\x1f\x8b", 47
COPY_AGAIN = "Copy or export this file again, and compare its size with the original's"


@dataclass(frozen=True)
class ImageFile:
    """What a file holds: values (k, j, i) as stored, HU = slope * value + intercept, affine (i, j, k, 1) -> LPS mm.

    `sides_known` is False where the file does not say how its axes lie in the patient.
    """

    values: np.ndarray
    affine: np.ndarray
    file_format: str
    sides_known: bool = True
    slope: float = 1.0
    intercept: float = 0.0


CURES: Final = {
    "truncated": COPY_AGAIN,
    "unreadable": "Open the file in a viewer, and save it again as NIfTI, NRRD or MHA",
    "unsupported_encoding": "Save the file again in one piece, raw or compressed with gzip",
    "missing_file": "Copy the file with the voxels as well, beside the header that names it",
    "no_ct_volume": "Give one volume with one value a voxel",
    "gantry_tilt": "Choose a series without gantry tilt, or one that was resampled to right angles",
    "oblique": "Choose an axial reconstruction",
    "missing_geometry": "Convert the scan again, with its voxel spacing, or give its DICOM series",
    "contradicting_geometry": "Convert the scan again, or give its DICOM series",
}


def refusal(path: Path, code: str, what: str) -> SeriesError:
    """Return the error that refuses an image file."""
    return SeriesError(what, where=path.name, cure=CURES[code], code=code)


def header_lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the lines of a header that is text, without their ends; refuse what is no text."""
    while line := stream.readline(max(0, LONGEST_HEADER - stream.tell())):
        text = line.decode("utf-8", "replace").rstrip("\r\n").replace("\t", " ").strip(" ")
        if not text.isprintable():
            raise refusal(path, "unreadable", "the header is damaged: a line is no text")
        yield text


def read_voxels(stream: IO[bytes], encoding: str, kind: np.dtype, sizes: tuple[int, ...], path: Path) -> np.ndarray:
    """Return the voxels (k, j, i) of sizes (i, j, k) that fill a stream from where it stands to its end.

    encoding: raw, gzip, bzip2 or zlib. Raises SeriesError (truncated) for a stream that stops, whose checksum is wrong, or
    that holds fewer or more bytes than the sizes need.
    """
    wanted = int(np.prod(sizes, dtype=object)) * kind.itemsize
    try:
        content = _content(stream, encoding, wanted)
    except EOFError as error:
        raise refusal(path, "truncated", "the file is truncated: its compressed data stop before their end") from error
    except (OSError, zlib.error) as error:
        raise refusal(path, "truncated", "the compressed data are damaged or truncated") from error
    if len(content) != wanted:
        found = len(content) if len(content) < wanted else "more"
        what = f"the file is truncated or its header is wrong: {wanted} bytes of voxels announced, {found} found"
        raise refusal(path, "truncated", what)
    return np.frombuffer(content, kind).reshape(sizes[::-1])


def _content(stream: IO[bytes], encoding: str, wanted: int) -> bytes | bytearray:
    """Return what a stream holds, or one byte more than wanted; memory grows with what there is, not with a header."""
    if encoding == "zlib":
        engine = zlib.decompressobj(ZLIB_OR_GZIP)
        content = engine.decompress(stream.read(), wanted + 1)
        if len(content) <= wanted and not engine.eof:
            raise EOFError
        return content + engine.unused_data[:1]
    found = bytearray()
    if encoding == "bzip2":
        packed = stream.read()
        while packed and len(found) <= wanted:
            unpacker = bz2.BZ2Decompressor()
            found += unpacker.decompress(packed, wanted + 1 - len(found))
            if len(found) <= wanted and not unpacker.eof:
                raise EOFError
            packed = unpacker.unused_data
        return found
    plain: IO[bytes] = gzip.GzipFile(fileobj=stream) if encoding == "gzip" else stream  # type: ignore[assignment]
    while len(found) <= wanted and (part := plain.read(min(CHUNK_BYTES, wanted + 1 - len(found)))):
        found += part
    return found


@contextmanager
def data_file(header: Path, name: str) -> Iterator[IO[bytes]]:
    """Open the file of voxels that a header names, beside the header unless its path is absolute.

    Raises SeriesError: missing_file where it is not there, unsupported_encoding where the slices lie in many files.
    """
    if name.upper().split()[:1] == ["LIST"] or re.search(r"%\d*d", name):
        raise refusal(header, "unsupported_encoding", "the voxels lie in several files")
    place = header.parent / name
    if not name or not os.path.isfile(place):  # a Path would not bear every name
        raise refusal(header, "missing_file", "the file with the voxels, which the header names, is not there")
    with place.open("rb") as stream:
        yield stream
