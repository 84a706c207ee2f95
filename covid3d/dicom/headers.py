"""DICOM files of a folder and what their headers say, one entry a slice; pixel data stay on disk."""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from covid3d.dicom.quiet import quiet
from covid3d.dicom.walk import ARCHIVE, DICOM_ENDINGS, DIRECTORY, candidates, doubts, passed_over
from covid3d.run.errors import SeriesError

TAGS = [
    "ImageType", "SOPClassUID", "AcquisitionDate", "AcquisitionDateTime", "AcquisitionTime", "Modality",
    "Manufacturer", "SeriesDescription", "PatientName", "PatientID", "PatientBirthDate", "PatientAge",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "PatientPosition", "KVP", "SliceThickness", "ConvolutionKernel",
    "Exposure", "GantryDetectorTilt", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase",
    "ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PlanarConfiguration", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "FloatPixelData", "DoubleFloatPixelData", "PixelData",
]  # fmt: skip
OF_FRAMES = [
    "FrameType", "FrameAcquisitionDateTime", "TemporalPositionIndex", "ContrastBolusAgentAdministered", "ExposureInmAs",
]  # fmt: skip
OF_FILES = ["MediaStorageSOPClassUID", "TransferSyntaxUID"]
PIXEL_DATA = 0x7FE00010
CONTEXT = ("SQ", "UN", "OW", "OB", "US or SS", "LO", "PN", "SH")  # they depend on more than their own bytes
TEXT, ESCAPE = ("LO", "PN", "SH"), b"\x1b"  # plain ASCII reads alike in every character set
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT_IMAGES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
BARE_BIG_ENDIAN = re.compile(rb"\0[\x02\x08]\0.[A-Z]{2}", re.DOTALL)
DEFER_BYTES = 4096
MOST_COMPRESSED = 1024
TRUNCATED = "Copy or export this scan again; the file's size tells"


AMBIGUOUS = {BaseTag(0x00280120), BaseTag(0x00280121), BaseTag(0x7FE00010)}
TAG_OF = {keyword: BaseTag(tag_for_keyword(keyword) or 0) for keyword in (*TAGS, *OF_FRAMES, *OF_FILES)}
WANTED = [TAG_OF[keyword] for keyword in TAGS]  # pydicom would look keywords up again in every file


def header_value(dataset: Dataset, keyword: str) -> Any:
    """Return a value of a header as pydicom reads it, None where it is silent; equal bytes are interpreted once."""
    tag = TAG_OF.get(keyword)
    if tag is None:
        return dataset.get(keyword)
    raw = dataset.get_item(tag)
    if raw is None:
        return None
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        return dataset.get(keyword)
    if raw.VR in CONTEXT and not (raw.VR in TEXT and raw.value.isascii() and ESCAPE not in raw.value):
        return dataset.get(keyword)
    if raw.VR is None and tag in AMBIGUOUS:
        return dataset.get(keyword)
    return _interpreted(tag, raw.VR, raw.value, raw.is_implicit_VR, raw.is_little_endian)


@functools.lru_cache(maxsize=4096)
def _interpreted(tag: BaseTag, vr: str | None, value: bytes, implicit: bool, little: bool) -> Any:
    """Return a value from its bytes."""
    raw = RawDataElement(tag, vr, len(value), value, 0, implicit, little)
    return convert_raw_data_element(raw).value


@dataclass(frozen=True)
class Slice:
    """One slice: where its pixels are and what its header says; positions in LPS mm, None where it is silent."""

    path: Path
    frame: int | None
    dataset: Dataset
    places: tuple[Dataset, ...]
    syntax: UID
    modality: str
    series: str
    series_number: str
    description: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    position: np.ndarray | None
    orientation: np.ndarray | None
    pixel_spacing: tuple[float, float] | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    pixels_at: int | None

    def get(self, keyword: str) -> Any:
        """Return a value of the header, None where it is silent."""
        return header_value(self.dataset, keyword)

    def find(self, keyword: str) -> Any:
        """Return a value of the frame's functional groups, else of the header; None where both are silent or damaged."""
        try:
            return _first(self.places, keyword)
        except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError):
            return None

    def number(self, keyword: str) -> float | None:
        """Return a number of the frame's functional groups, else of the header, or None."""
        return _number(self.find(keyword))

    @property
    def localizer(self) -> bool:
        """True for a scout view."""
        return "LOCALIZER" in self.image_type

    @property
    def secondary_capture(self) -> bool:
        """True for a screen shot or a scanned page."""
        return str(self.get("SOPClassUID") or "").startswith(SECONDARY_CAPTURE)

    @property
    def group(self) -> str:
        """Return what series this slice belongs to; where the UID was blanked, slices of one geometry belong together."""
        if self.series:
            return self.series
        way = () if self.orientation is None else (np.round(self.orientation, 2) + 0.0).tolist()
        spacing = () if self.pixel_spacing is None else np.round(self.pixel_spacing, 3).tolist()
        rest = [str(self.get(keyword) or "") for keyword in ("SliceThickness", "ConvolutionKernel")]
        geometry = (self.modality, self.rows, self.columns, *spacing, *way, *rest)
        return f"{self.series_number}|{self.description}|{geometry}"


class Objects(NamedTuple):
    """What was read: image slices, the kinds of objects without pixels, and lines of history on files passed over."""

    slices: list[Slice]
    reports: list[str]
    passed: tuple[str, ...]


def read_slices(path: Path) -> list[Slice]:
    """Return every image slice of a file, a folder or a DICOMDIR (see `read_objects`)."""
    return read_objects(path).slices


@quiet()
def read_objects(path: Path) -> Objects:
    """Return the image slices of a DICOM file, of a folder or of what a DICOMDIR lists, and the kinds of objects without pixels.

    Folders may be nested, their files have any names. Raises SeriesError: no_dicom when there is no DICOM file, truncated
    for a file that ends too early or stands for a slice and is none, packed for one that must be unpacked, broken_link or
    missing_file for one that is not there.
    """
    files, others = candidates(path)
    found = {file: _entries(file) for file in files}
    dicom = [file for file, entries in found.items() if entries is not None]
    left = list(doubts([*(file for file in files if found[file] is None), *others], dicom))
    if not dicom:
        for doubt in left:
            if doubt.fault == ARCHIVE:
                raise doubt.error
    passed = passed_over(left)
    if not dicom:
        raise SeriesError(
            "there is no DICOM file here",
            where=path.name,
            cure="Give a folder with the slices of one CT series, or a NIfTI, NRRD or MHA file",
            code="no_dicom",
        )
    entries = [entry for read in found.values() for entry in read or []]
    slices = [entry for entry in entries if isinstance(entry, Slice)]
    return Objects(slices, [entry for entry in entries if isinstance(entry, str)], passed)


@quiet()  # odd values of real headers (padded numbers, UUIDs as UIDs) are read as they are
def read_file(file: Path) -> Sequence[Slice | str] | None:
    """Return the image slices of one file, or the kind of the object without pixels; None when it is no DICOM file."""
    return _entries(file)


def _entries(file: Path) -> Sequence[Slice | str] | None:
    """Read one file; remarks of other packages are silenced by those who call."""
    dataset = _header(file)
    if dataset is None:
        return None
    return _readable(file, dataset) if PIXEL_DATA in dataset else [_kind(file, dataset)]


def _header(file: Path) -> Dataset | None:
    """Return a file's header with its pixel data left on disk, or None when it is no DICOM file."""
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError as error:
        cure = "Make the file readable, or move it away"
        raise SeriesError("a file cannot be opened", where=file.name, cure=cure, code="unreadable") from error
    marked = start[128:] == b"DICM"
    named = file.suffix.lower() in DICOM_ENDINGS
    if not marked and start[:2] not in (b"\x02\x00", b"\x08\x00"):
        if start and not start.strip(b"\0"):
            raise _truncated(file)
        if BARE_BIG_ENDIAN.match(start):
            raise _unsupported(file, "a file has no file meta information, and its values are big endian")
        return None
    try:
        dataset = dcmread(file, defer_size=DEFER_BYTES, specific_tags=WANTED, force=not marked)
        if _syntax(dataset) == DeflatedExplicitVRLittleEndian:
            return dcmread(file, specific_tags=WANTED)  # inflated as a whole: nothing can be left on disk
    except (EOFError, OSError) as error:
        raise _truncated(file) from error
    except InvalidDicomError:
        return None
    except Exception as error:  # the parser's own errors on broken bytes are of any kind
        raise _truncated(file) from error
    if header_value(dataset.file_meta, "MediaStorageSOPClassUID") == DIRECTORY:
        return None
    if marked and TAG_OF["TransferSyntaxUID"] not in dataset.file_meta:
        raise (
            _unsupported(file, "a file does not say its transfer syntax") if PIXEL_DATA in dataset else _truncated(file)
        )
    if TAG_OF["Modality"] not in dataset and TAG_OF["SOPClassUID"] not in dataset:
        if (marked or named) and PIXEL_DATA in dataset:
            cure = "Export the series again, with its modality"
            raise SeriesError(
                "a header does not say what image it is of", where=file.name, cure=cure, code="unreadable"
            )
        if marked or named:
            raise _truncated(file)
        return None
    return dataset


def _syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; without file meta information the DICOM default, Implicit VR Little Endian."""
    syntax = dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    return syntax if isinstance(syntax, UID) else UID(str(syntax))


def _truncated(file: Path) -> SeriesError:
    return SeriesError("a file is truncated", where=file.name, cure=TRUNCATED, code="truncated")


def _unsupported(file: Path, what: str) -> SeriesError:
    cure = "Export the series again as Explicit VR Little Endian"
    return SeriesError(what, where=file.name, cure=cure, code="unsupported_syntax")


def _readable(file: Path, dataset: Dataset) -> list[Slice]:
    """Return the slices of one file; SeriesError (unreadable) where a value of its header cannot be understood."""
    try:
        found = list(_slices(file, dataset))
        for keyword in ("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation"):
            header_value(dataset, keyword)
        return found
    except SeriesError:
        raise
    except Exception as error:  # values are parsed when they are asked for, and errors on broken bytes are of any kind
        raise _damaged(file) from error


def _damaged(file: Path) -> SeriesError:
    cure = "Copy or export this scan again"
    return SeriesError("a header is damaged", where=file.name, cure=cure, code="unreadable")


def _kind(file: Path, dataset: Dataset) -> str:
    """Return what an object without pixels is, such as Raw Data; SeriesError for a CT image (truncated, not_hu)."""
    try:
        modality = str(header_value(dataset, "Modality") or "")
        kind = UID(str(header_value(dataset, "SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
    except Exception as error:  # as above
        raise _damaged(file) from error
    if kind in CT_IMAGES or (not kind and modality == "CT"):
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            cure = "Export the CT images themselves, with whole numbers as pixels"
            raise SeriesError("the pixels are floating-point numbers", where=file.name, cure=cure, code="not_hu")
        raise _truncated(file)
    known = not kind.is_private and kind.name != kind  # an unknown UID would repeat text from the header
    return kind.name.removesuffix(" Storage") if known else "unknown kind"


def _slices(file: Path, dataset: Dataset) -> Iterator[Slice]:
    """Yield the slices of one file: itself, or each frame of an enhanced multi-frame file."""
    start = _pixels_at(file, dataset)
    if TAG_OF["PerFrameFunctionalGroupsSequence"] not in dataset:
        frames = max(1, _count(dataset, "NumberOfFrames"))
        if frames * (_count(dataset, "Rows") * _count(dataset, "Columns") // MOST_COMPRESSED) > file.stat().st_size:
            raise _truncated(file)
        yield from (_slice(file, dataset, None if frames == 1 else index, start, [dataset]) for index in range(frames))
        return
    shared = [macro for item in dataset.get("SharedFunctionalGroupsSequence") or [] for macro in _macros(item)]
    frames = dataset.PerFrameFunctionalGroupsSequence
    if len(frames) != _count(dataset, "NumberOfFrames") and header_value(dataset, "Modality") == "CT":
        what = f"functional groups are given for {len(frames)} of {_count(dataset, 'NumberOfFrames')} frames"
        cure = "Export the scan again with a position for every frame"
        raise SeriesError(what, where=file.name, cure=cure, code="missing_geometry")
    for index, groups in enumerate(frames):
        yield _slice(file, dataset, index, start, [*_macros(groups), *shared, dataset])


def _pixels_at(file: Path, dataset: Dataset) -> int | None:
    """Return where uncompressed 16-bit pixel data begin in the file, or None; refuse a file that ends before they do."""
    element: Any = dataset.get_item(PIXEL_DATA, keep_deferred=True)
    start = getattr(element, "value_tell", None)
    if start is None or element.length == 0xFFFFFFFF or _syntax(dataset) == DeflatedExplicitVRLittleEndian:
        return None
    if start + element.length > file.stat().st_size:
        raise _truncated(file)
    words = _count(dataset, "Rows") * _count(dataset, "Columns") * max(1, _count(dataset, "NumberOfFrames"))
    return int(start) if element.VR in ("OW", "OB", None) and element.length >= 2 * words else None


def _macros(groups: Dataset) -> list[Dataset]:
    """Return the items of all functional group macros of a frame."""
    return [item for element in groups if element.VR == "SQ" and element.value for item in element.value[:1]]


def _slice(file: Path, dataset: Dataset, frame: int | None, start: int | None, places: list[Dataset]) -> Slice:
    """Return one slice whose values are looked up in `places`, the first that has them."""
    image_type = _first(places, "FrameType") or _first(places, "ImageType") or ()
    spacing = _numbers(_first(places, "PixelSpacing"), 2)
    return Slice(
        path=file,
        frame=frame,
        dataset=dataset,
        places=tuple(places),
        syntax=_syntax(dataset),
        modality=str(header_value(dataset, "Modality") or ""),
        series=str(header_value(dataset, "SeriesInstanceUID") or ""),
        series_number=str(header_value(dataset, "SeriesNumber") or "").lstrip("0"),
        description=str(header_value(dataset, "SeriesDescription") or "").strip(),
        image_type=tuple(str(value).strip() for value in ([image_type] if isinstance(image_type, str) else image_type)),
        rows=_count(dataset, "Rows"),
        columns=_count(dataset, "Columns"),
        position=_numbers(_first(places, "ImagePositionPatient"), 3),
        orientation=_numbers(_first(places, "ImageOrientationPatient"), 6),
        pixel_spacing=None if spacing is None or spacing.min() <= 0 else (float(spacing[0]), float(spacing[1])),
        slope=_number(_first(places, "RescaleSlope")),
        intercept=_number(_first(places, "RescaleIntercept")),
        rescale_type=str(_first(places, "RescaleType") or "").strip().upper(),
        pixels_at=start,
    )


def _first(places: Sequence[Dataset], keyword: str) -> Any:
    """Return the value of a keyword in the first dataset that has one."""
    for place in places:
        value = header_value(place, keyword)
        if value is not None and value != "":
            return value
    return None


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """Return a header's list of numbers, or None unless it holds `count` finite ones."""
    try:
        numbers = np.array([float(item) for item in value])
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _count(dataset: Dataset, keyword: str) -> int:
    """Return a header's count, 0 where it is absent or no number."""
    return int(_number(header_value(dataset, keyword)) or 0)


def _number(value: Any) -> float | None:
    """Return a header's number, or None unless it is a finite one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
