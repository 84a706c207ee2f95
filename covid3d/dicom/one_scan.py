"""Is a series one scan, of one patient and one reconstruction, in Hounsfield units? Every slice and frame is asked."""

import datetime
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.multival import MultiValue

from covid3d.dicom.headers import Slice
from covid3d.dicom.pixels import SYNTAXES, syntax_name
from covid3d.dicom.refusals import refusal

LARGEST_MATRIX = 4096
PAUSE_SECONDS = 1.0
OTHER_THICKNESS = 1.2
ONE_OF_EACH = {
    "patients": ("PatientID", "PatientName", "PatientBirthDate"),
    "studies": ("StudyInstanceUID",),
    "series numbers": ("SeriesNumber",),
    "frames of reference": ("FrameOfReferenceUID",),
    "kernels": ("ConvolutionKernel",),
    "tube voltages": ("KVP",),
    "phases": (
        "TemporalPositionIdentifier",
        "TemporalPositionIndex",
        "NominalPercentageOfCardiacPhase",
        "NominalPercentageOfRespiratoryPhase",
    ),
}
"""What one scan has one of, and where slices tell of it. Not AcquisitionNumber: it differs within good volumes."""
MADE_UP = ("studies", "frames of reference")
"""Where every slice has a UID of its own, a program that missed one made them up (GDCM does)."""
MOMENT = ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime")


def check_headers(slices: Sequence[Slice], path: Path) -> None:
    """Refuse a series that is not one whole set of CT images in Hounsfield units with a known decoder."""
    for entry in slices:
        if entry.syntax not in SYNTAXES:
            what = f"the transfer syntax {syntax_name(entry.syntax)} cannot be decoded"
            raise refusal("unsupported_syntax", what, path)
    _check_parts(slices, path)
    colours = {str(entry.get("PhotometricInterpretation") or "MONOCHROME2").strip() for entry in slices}
    kinds = {(entry.image_type[:3], entry.modality, entry.secondary_capture) for entry in slices}
    if len(kinds) > 1 or len(colours) > 1:
        raise refusal("mixed_image_type", f"the series mixes {max(len(kinds), len(colours))} types of image", path)
    if not all(1 < size <= LARGEST_MATRIX for entry in slices for size in (entry.rows, entry.columns)):
        raise refusal("unreadable", "a slice has no matrix, or one that no scanner makes", path)
    samples = {entry.get("SamplesPerPixel") for entry in slices}
    if not colours <= {"MONOCHROME1", "MONOCHROME2"} or not samples <= {None, 1}:
        raise refusal("not_ct", "the images are in colour", path)
    if not all(_may_be_hounsfield(entry) for entry in slices):
        raise refusal("not_hu", "the values are not in Hounsfield units", path)
    if any(entry.find("ModalityLUTSequence") for entry in slices):
        raise refusal("missing_rescale", "a table (modality LUT) stands in place of slope and intercept", path)
    if any(entry.slope is None or entry.intercept is None or entry.slope <= 0 for entry in slices):
        raise refusal("missing_rescale", "the slope or intercept to Hounsfield units is missing", path)
    if any(entry.position is None or entry.orientation is None or entry.pixel_spacing is None for entry in slices):
        raise refusal("missing_geometry", "a slice has no position, orientation or pixel spacing", path)
    if (
        len({(entry.rows, entry.columns) for entry in slices}) > 1
        or np.ptp([entry.pixel_spacing for entry in slices if entry.pixel_spacing], axis=0).max() > 1e-3
    ):
        raise refusal("mixed_matrix", "slices differ in matrix or pixel size", path)


def _check_parts(slices: Sequence[Slice], path: Path) -> None:
    """Refuse a concatenation (one multi-frame image in several files) of which a part is not there."""
    files = {entry.path: entry for entry in slices}.values()
    parts: dict[str, list[Slice]] = {}
    for entry in files:
        if entry.number("InConcatenationNumber") is not None or entry.number("InConcatenationTotalNumber") is not None:
            parts.setdefault(str(entry.find("ConcatenationUID") or ""), []).append(entry)
    for found in parts.values():
        numbers = {entry.number("InConcatenationNumber") or 1 for entry in found}
        total = int(max(*numbers, *(entry.number("InConcatenationTotalNumber") or 1 for entry in found)))
        if len(numbers) < total:
            raise refusal("missing_file", f"{len(numbers)} of {total} parts of a multi-frame image are there", path)


def _may_be_hounsfield(entry: Slice) -> bool:
    """True unless a slice says that it is a map; older ones may leave their unit unspecified (US)."""
    units = ("", "HU", "US") if entry.frame is None else ("", "HU")
    return entry.rescale_type in units and "PERFUSION" not in entry.image_type


def check_one_scan(slices: Sequence[Slice], path: Path) -> None:
    """Refuse slices, in order along their normal, of several scans under one series UID, even where they mesh."""
    several = []
    for name, keywords in ONE_OF_EACH.items():
        count = max(len(stated(slices, keyword)) for keyword in keywords)
        if count > 1 and not (name in MADE_UP and count == len(slices)):
            several.append(f"{count} {name}")
    if len({contrast(entry) for entry in slices}) > 1:
        several.append("slices with and without contrast medium")
    for name, labels in IN_TURN.items():
        if _take_turns(labels(slices)):
            several.append(f"{name} that take turns")
    if several:
        raise refusal("mixed_series", f"one series holds several scans: {', '.join(several)}", path)


def stated(slices: Sequence[Slice], keyword: str) -> set[Any]:
    """Return the different values that slices state; numbers as numbers, text without case and padding."""
    return {_plain(value) for entry in slices if (value := entry.find(keyword)) is not None} - {""}


def _plain(value: Any) -> float | str:
    if isinstance(value, int | float):
        return float(value)
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    return text.strip(" ^=\0").upper()


def contrast(entry: Slice) -> bool:
    """True where a slice says that contrast medium was given; a frame may say that it was not yet."""
    if str(entry.find("ContrastBolusAgentAdministered") or "").strip().upper() == "NO":
        return False
    agent = str(entry.find("ContrastBolusAgent") or "").strip()
    return bool(agent or entry.find("ContrastBolusAgentSequence"))


def _take_turns(labels: Sequence[Any]) -> bool:
    """True where labels alternate along the body; blocks do not, nor one block within another (a part scanned again)."""
    return len(list(itertools.groupby(labels))) > len(set(labels)) + 1


def _halves(values: Sequence[float | None], *, least: float) -> list[bool]:
    """Return for each value whether it lies above the widest gap between values, if that is wider than `least`; else []."""
    if None in values:
        return []
    known = np.array(values, dtype=float)
    ordered = np.unique(known)
    gaps = np.diff(ordered)
    if not len(gaps) or gaps.max() <= least:
        return []
    return (known > ordered[int(gaps.argmax())]).tolist()


def _times(slices: Sequence[Slice]) -> list[bool]:
    """Return whether each slice was acquired after the longest pause, if there is one."""
    return _halves([_moment(entry) for entry in slices], least=PAUSE_SECONDS)


def _thicknesses(slices: Sequence[Slice]) -> list[bool]:
    """Return whether each slice is one of the thick ones, if some are."""
    values = [entry.number("SliceThickness") for entry in slices]
    thinnest = min((value for value in values if value), default=0.0)
    return _halves(values, least=(OTHER_THICKNESS - 1) * thinnest)


def _descriptions(slices: Sequence[Slice]) -> list[str]:
    return [entry.description for entry in slices]


def _types(slices: Sequence[Slice]) -> list[tuple[str, ...]]:
    return [entry.image_type for entry in slices]


def _moment(entry: Slice) -> float | None:
    """Return when a slice was acquired, in seconds, or None where it does not tell."""
    text = next((str(value) for keyword in MOMENT if (value := entry.find(keyword))), "").replace(":", "").strip()
    if re.match(r"\d{6}(\.|$)", text):
        text = f"{entry.find('AcquisitionDate') or ''}".strip() + text
    found = re.match(r"(\d{8})?(\d\d)(\d\d)(\d\d(?:\.\d+)?)", text)
    if not found:
        return None
    day, hours, minutes, seconds = found.groups()
    try:
        days = datetime.date.fromisoformat(day).toordinal() if day else 0
    except ValueError:
        return None
    return ((days * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(seconds)


IN_TURN: dict[str, Callable[[Sequence[Slice]], Sequence[Any]]] = {
    "acquisitions at different times": _times,
    "slice thicknesses": _thicknesses,
    "descriptions": _descriptions,
    "types of image": _types,
}
"""What may differ between blocks of one scan, but not from slice to slice and back."""
