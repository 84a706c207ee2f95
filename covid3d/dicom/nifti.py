"""NIfTI-1 and NIfTI-2, compressed or not whatever the name says -> ImageFile. Source: nifti1.h and nifti2.h."""

import gzip
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from nibabel import Nifti1Header, Nifti2Header
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

from covid3d.dicom.axes import SHEAR_DEGREES, compare_spacings, sheared_by
from covid3d.dicom.streams import CHUNK_BYTES, GZIP, ImageFile, read_voxels, refusal

KINDS = {348: (Nifti1Header, b"n+1"), 540: (Nifti2Header, b"n+2")}
MM_OF_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Header = Nifti1Header | Nifti2Header


def read_nifti(path: Path) -> ImageFile:
    """Return the volume of a NIfTI file. Raises SeriesError for any fault of its header and for missing voxels."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
        try:
            header = _header(stream, path)
            _skip(stream, header, path)
        except EOFError as error:
            raise refusal(path, "truncated", "the file is truncated: it stops within its header") from error
        except (OSError, zlib.error) as error:
            raise refusal(path, "truncated", "the compressed data are damaged or truncated") from error
        sizes, kind = _sizes(header, path), _kind(header, path)
        affine, sides_known = _affine(header, path)
        values = read_voxels(stream, "raw", kind, sizes, path)
    slope, intercept = _scale(header, path)
    return ImageFile(values, affine, "NIfTI", sides_known, slope, intercept)


def _header(stream: IO[bytes], path: Path) -> Header:
    """Return the header of either version and byte order, as it stands: nibabel's checks would mend it."""
    start = stream.read(4)
    orders = {"<": int.from_bytes(start, "little"), ">": int.from_bytes(start, "big")}
    order = next((order for order, size in orders.items() if size in KINDS), "")
    if len(start) < 4:
        raise EOFError
    if not order:
        raise refusal(path, "unreadable", "the file is no NIfTI: its header has another length")
    size = orders[order]
    block = start + stream.read(size - 4)
    if len(block) < size:
        raise EOFError
    kind, magic = KINDS[size]
    header = kind(block, endianness=order, check=False)
    found = bytes(header["magic"].item())
    if found in (b"ni1", b"ni2"):
        raise refusal(path, "unsupported_encoding", "the file is the header of a pair of files")
    if found != magic or (size == 540 and tuple(header["eol_check"]) not in ((0, 0, 0, 0), (13, 10, 26, 10))):
        raise refusal(path, "unreadable", "the file is no NIfTI: its header has no mark of one")
    return header


def _skip(stream: IO[bytes], header: Header, path: Path) -> None:
    """Move on from the header's end to the voxels."""
    offset = float(header["vox_offset"])
    left = offset - header.sizeof_hdr
    if not np.isfinite(offset) or offset != int(offset) or left < 4:
        raise refusal(path, "unreadable", "the header is damaged: it does not say where the voxels begin")
    while left > 0:
        part = stream.read(int(min(left, CHUNK_BYTES)))
        if not part:
            raise EOFError
        left -= len(part)


def _sizes(header: Header, path: Path) -> tuple[int, ...]:
    """Return the number of voxels along i, j, k; further axes must have one element."""
    dim = [int(size) for size in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise refusal(path, "unreadable", "the header is damaged: it does not say how many voxels there are")
    sizes = dim[1 : dim[0] + 1]
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        raise refusal(path, "no_ct_volume", "the file holds no single volume")
    return tuple(sizes[:3])


def _kind(header: Header, path: Path) -> np.dtype:
    try:
        kind = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise refusal(
            path, "unreadable", "the header is damaged: it does not say of what type the voxels are"
        ) from error
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise refusal(path, "no_ct_volume", "the voxels hold colours or pairs of numbers, not one value each")
    if int(header["bitpix"]) != 8 * kind.itemsize:
        raise refusal(path, "unreadable", "the header is damaged: it gives two sizes of a voxel")
    return kind


def _scale(header: Header, path: Path) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0 means that values are not scaled."""
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise refusal(path, "unreadable", "the header is damaged: the intercept of the values is no number") from error
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))


def _affine(header: Header, path: Path) -> tuple[np.ndarray, bool]:
    """Return the affine (i, j, k, 1) -> LPS mm, and if the header says how the axes lie in the patient.

    The sform counts before the qform, as in nibabel. With neither, axes are taken as nifti1.h's method 1 has them.
    """
    pixdim = np.array(header["pixdim"], dtype=float)
    if not (np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()):
        raise refusal(path, "missing_geometry", "the header gives no voxel spacing, or none along one axis (pixdim)")
    if pixdim[0] == 0:
        header["pixdim"][0] = 1  # as nifti1.h says
    unit = MM_OF_UNIT.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        raise refusal(path, "missing_geometry", "the unit of the voxel spacing is not known")
    if not all(0 <= int(header[code]) <= 5 for code in ("qform_code", "sform_code")):
        raise refusal(path, "unreadable", "the header is damaged: a code of its orientation is none of NIfTI's")
    sform, _ = header.get_sform(coded=True)
    try:
        qform, _ = header.get_qform(coded=True)
    except (HeaderDataError, ValueError) as error:
        raise refusal(path, "missing_geometry", "the orientation in the header (qform) is damaged") from error
    if sform is not None:
        _compare(pixdim[1:4], sform, path)
    if (
        sform is not None
        and qform is not None
        and sheared_by(sform) <= SHEAR_DEGREES
        and aff2axcodes(sform) != aff2axcodes(qform)
    ):
        ways = " and ".join("".join(map(str, aff2axcodes(form))) for form in (sform, qform))
        what = f"two orientations contradict each other: sform and qform lay the axes {ways}"
        raise refusal(path, "contradicting_geometry", what)
    known = sform if sform is not None else qform
    affine = np.diag([*pixdim[1:4], 1.0]) if known is None else known
    return RAS_TO_LPS @ np.diag([unit, unit, unit, 1.0]) @ affine, known is not None


def _compare(pixdim: np.ndarray, sform: np.ndarray, path: Path) -> None:
    """Refuse a header whose pixdim and sform give different spacings; a sheared sform is refused for its shear later."""
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise refusal(path, "missing_geometry", "the affine in the header (sform) gives no voxel spacing along an axis")
    if sheared_by(sform) <= SHEAR_DEGREES:
        compare_spacings(path, "pixdim", pixdim, "sform", spacing)
