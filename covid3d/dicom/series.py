"""One scan, whatever its files look like -> CTVolume, or a SeriesError whose code says why not.

DICOM folders (any file names, nested, several series), one enhanced multi-frame file, NIfTI, NRRD and MHA. Slices are
ordered by their position along the normal of the slices, never by name or number.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from covid3d.ct.volume import CTVolume, SeriesInfo, axial_volume
from covid3d.dicom.headers import Slice, read_objects
from covid3d.dicom.images import is_image, read_image
from covid3d.dicom.one_scan import check_headers, contrast
from covid3d.dicom.pixels import hounsfield
from covid3d.dicom.quiet import quiet
from covid3d.dicom.refusals import CURES, FEWEST_SLICES, refusal
from covid3d.dicom.stack import TILT_DEGREES, geometry
from covid3d.run.errors import SeriesError
from covid3d.run.files import cpu_count
from covid3d.run.profile import PHANTOM_MANUFACTURER

AXIAL_COSINE = 0.7071
NOT_HU_SHARE = 0.01
NOT_HU_SHARE_OF_A_SLICE = 0.1
SERIES_NAMED = 12
ADULT_YEARS = 18


def read_ct(path: str | Path, series: int | None = None, *, threads: int | None = None) -> CTVolume:
    """Read one scan as int16 HU (z, y, x), axial, head up; `series` picks one of several by its number.

    HU are clipped to -1024 … 3071; padding is -1024. `threads` decode slices (None: one a core).
    Raises SeriesError with a stable code and a cure (see CURES).
    """
    path = _existing(path)
    with _damaged_headers(path):
        if is_image(path):
            return _without_gaps(checked_range(read_image(path), path), path)
        slices, without_pixels, passed = read_objects(path)
        chosen, left = _choose(group_by_number(slices), series, path, without_pixels)
        check_headers(chosen, path)
        ordered, affine, spacing = geometry(chosen, path)
        return _decode(ordered, affine, spacing, path, threads or cpu_count(), (*left, *passed))


def check_series(slices: list[Slice], path: Path) -> None:
    """Refuse, as `read_ct` does, what the headers of a series tell to be no CT volume; pixels are not decoded."""
    with _damaged_headers(path):
        check_headers(slices, path)
        geometry(slices, path)


@contextlib.contextmanager
def _damaged_headers(path: Path) -> Iterator[None]:
    """Turn the errors that odd values of a header may raise into a refusal, and let no remark of other packages out."""
    try:
        with quiet():
            yield
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, MemoryError) as error:
        raise refusal("unreadable", f"a header is damaged ({type(error).__name__})", path) from error


def _existing(path: str | Path) -> Path:
    """Return a path that exists; the refusal shows a misspelt one whole."""
    if path == "" or not os.path.exists(path):  # which has no exception for a name that is too long
        what = "no path was given" if path == "" else "there is no such file or folder"
        raise SeriesError(what, where=str(path), cure=CURES["no_such_path"], code="no_such_path")
    return Path(path)


def group_by_number(slices: list[Slice]) -> dict[int, list[Slice]]:
    """Return the slices of each series by its number."""
    found: dict[str, list[Slice]] = {}
    for entry in slices:
        found.setdefault(entry.group, []).append(entry)

    def order(group: list[Slice]) -> tuple[int, str]:
        number = group[0].series_number
        return (int(number) if number.isdecimal() else 1 << 31, group[0].group)

    groups = sorted(found.values(), key=order)
    numbers = [group[0].series_number for group in groups]
    own = len(set(numbers)) == len(numbers) and all(number.isdecimal() for number in numbers)
    return {int(numbers[index]) if own else index + 1: group for index, group in enumerate(groups)}


def why_aside(group: list[Slice]) -> str:
    """Return why a series is no CT volume of a chest, in two words, or ""."""
    if not any(entry.modality == "CT" for entry in group):
        return "not CT"
    if all(entry.localizer for entry in group):
        return "a localizer"
    if all(entry.secondary_capture for entry in group):
        return "secondary capture"
    ways = [entry.orientation for entry in group if entry.orientation is not None]
    if ways and all(abs(np.cross(way[:3], way[3:])[2]) < AXIAL_COSINE for way in ways):
        return "not axial"
    return "too short" if len(group) < FEWEST_SLICES else ""


def _choose(
    groups: dict[int, list[Slice]], series: int | None, path: Path, without_pixels: Sequence[str]
) -> tuple[list[Slice], tuple[str, ...]]:
    """Return the slices of the one CT volume meant, and lines of history on the series and objects that were set aside.

    One short series alone goes on, to be refused for what is wrong with it.
    """
    ct = {number: group for number, group in groups.items() if any(entry.modality == "CT" for entry in group)}
    if not ct:
        seen = {group[0].modality for group in groups.values()} - {""}
        besides = f", but {_named(without_pixels)}" if without_pixels else ""
        raise refusal("not_ct" if seen else "no_ct_volume", f"there is no CT image here{besides}", path)
    if series is not None and series not in ct:
        raise refusal("no_such_series", f"there is no CT series {series}", path, f"Choose one: {_listing(ct)}")
    reasons = {number: why_aside(group) for number, group in groups.items()}
    volumes = [number for number, reason in reasons.items() if not reason] if series is None else [series]
    if not volumes and len(ct) == 1 and set(reasons.values()) <= {"too short", "not CT"}:
        volumes = list(ct)
    if not volumes:
        kinds = Counter(reasons[number] for number in ct)
        found = ", ".join(f"{count} {reason}" for reason, count in sorted(kinds.items()))
        cure = f"{CURES['no_ct_volume']}. Or choose one with --series N, in a manifest as path#N: {_listing(ct)}"
        raise refusal("no_ct_volume", f"none of the CT series here is a volume ({found})", path, cure)
    if len(volumes) > 1:
        named = _listing({number: ct[number] for number in volumes})
        cure = f"Choose one with --series N, in a manifest as path#N in `source`: {named}"
        raise refusal("several_series", f"there are {len(volumes)} CT series here", path, cure)
    left = [
        f"{number} ({len(groups[number])} slices, {reason or 'not chosen'})"
        for number, reason in reasons.items()
        if number != volumes[0]
    ]
    aside = [f"series {_first_few(left)}"] if left else []
    aside += [_named(without_pixels)] if without_pixels else []
    return ct[volumes[0]], tuple(f"set aside: {text}" for text in aside)


def _named(kinds: Sequence[str]) -> str:
    """Return how many objects without pixels there are, and of what kinds."""
    count = f"{len(kinds)} object{'' if len(kinds) == 1 else 's'} without pixels"
    return f"{count} ({_first_few(sorted(set(kinds)))})"


def _listing(groups: dict[int, list[Slice]]) -> str:
    """Return number, description and slices of each series, in one line."""
    named = ((number, group, group[0].description) for number, group in groups.items())
    return _first_few([f"{number} ({text + ', ' if text else ''}{len(group)} slices)" for number, group, text in named])


def _first_few(items: list[str]) -> str:
    more = len(items) - SERIES_NAMED
    return "; ".join(items[:SERIES_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _decode(
    slices: list[Slice], affine: np.ndarray, spacing: float, path: Path, threads: int, left: tuple[str, ...]
) -> CTVolume:
    """Return the volume; slices are decoded by threads straight into it."""
    first = slices[0]
    hu = np.empty((len(slices), first.rows, first.columns), dtype=np.int16)
    above = np.zeros(len(slices))
    mended = np.zeros(len(slices), dtype=bool)
    blank = np.zeros(len(slices), dtype=bool)

    def decode(index: int) -> None:
        hu[index], above[index], mended[index] = hounsfield(slices[index])
        blank[index] = _is_blank(hu[index])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(decode, range(len(slices))))
    if above.mean() > NOT_HU_SHARE:
        raise refusal("hu_out_of_range", f"{above.mean():.0%} of the pixels lie beyond any CT number", path)
    if above.max() > NOT_HU_SHARE_OF_A_SLICE:
        raise refusal("hu_out_of_range", f"in a slice {above.max():.0%} of the pixels lie beyond any CT number", path)
    if blank.any():
        raise refusal("blank_slice", f"{int(blank.sum())} of {len(slices)} slices hold one value everywhere", path)
    history: tuple[str, ...] = (f"{len(slices)} slices of DICOM, {spacing:.3g} mm apart, ordered by position", *left)
    info = _info(slices)
    tilt = abs(first.number("GantryDetectorTilt") or 0)
    if tilt > TILT_DEGREES:
        history = (*history, f"the header states a gantry tilt of {tilt:.1f} degrees, but the slices lie straight")
    if info.patient_position not in ("", "supine"):
        history = (*history, f"the patient lay {info.patient_position}")
    if mended.any():
        history = (*history, f"sign mended on {int(mended.sum())} slices")
    return checked_range(axial_volume(hu, affine, history=history, series=info), path)


def _is_blank(plane: np.ndarray) -> bool:
    """True for a slice (rows, columns) with one value everywhere."""
    return bool((plane[::8, ::8] == plane[0, 0]).all() and (plane == plane[0, 0]).all())


def _without_gaps(volume: CTVolume, path: Path) -> CTVolume:
    """Return the volume of an image file, or refuse one with blank slices between others; resampling leaves some outside."""
    blank = np.array([_is_blank(plane) for plane in volume.hu])
    kept = np.flatnonzero(~blank)
    inside = int(blank[kept[0] : kept[-1]].sum()) if len(kept) else 0
    if inside:
        what = f"{inside} of {len(blank)} slices, within the volume, hold one value everywhere"
        raise refusal("blank_slice", what, path)
    return volume


def checked_range(volume: CTVolume, path: Path) -> CTVolume:
    """Return the volume, or refuse one without air: a chest scan has some, other units have none."""
    middle = volume.hu[volume.shape[0] // 2]
    if middle.min() < -500 < middle.max():  # as in any chest; else look at all
        return volume
    if volume.hu.min() >= -500 or volume.hu.max() <= -500:
        raise refusal("hu_out_of_range", "the values are no Hounsfield units of a body: no air, or only air", path)
    return volume


def _info(slices: Sequence[Slice]) -> SeriesInfo:
    """Return what is kept of the headers; settings that vary from slice to slice are given by their median."""
    first = slices[0]

    def text(keyword: str) -> str:
        return str(first.find(keyword) or "").strip()

    def median(*keywords: str) -> float | None:
        for keyword in keywords:
            numbers = [number for entry in slices if (number := entry.number(keyword)) is not None]
            if numbers:
                return float(np.median(numbers))
        return None

    kernels = (entry.find("ConvolutionKernel") for entry in slices)
    kernel = next((found for found in kernels if found), "")
    manufacturer, uid, patient = text("Manufacturer"), text("SeriesInstanceUID"), text("PatientID")
    age = re.fullmatch(r"(\d{3})([DWMY])", text("PatientAge"))
    return SeriesInfo(
        kernel=str(kernel if isinstance(kernel, str) else kernel[0]).strip(),
        kvp=median("KVP"),
        manufacturer=manufacturer,
        transfer_syntax=str(first.syntax),
        slice_thickness_mm=median("SliceThickness"),
        exposure_mas=median("ExposureInmAs", "Exposure"),
        simulated=manufacturer.startswith(PHANTOM_MANUFACTURER),
        uid_sha256=hashlib.sha256(f"covid3d series {uid}".encode()).hexdigest() if uid else "",
        patient_sha256=hashlib.sha256(f"covid3d patient {patient}".encode()).hexdigest() if patient else "",
        patient_position=patient_position(first),
        contrast=any(contrast(entry) for entry in slices),
        paediatric=age is not None and (age[2] != "Y" or int(age[1]) < ADULT_YEARS),
    )


def patient_position(first: Slice) -> str:
    """Return supine, prone or decubitus: as the header says, else as the image is turned in the patient; "" unknown."""
    stated = str(first.dataset.get("PatientPosition") or "").strip().upper()[2:]
    known = {"S": "supine", "P": "prone", "DL": "decubitus", "DR": "decubitus"}
    if stated in known or first.orientation is None:
        return known.get(stated, "")
    right, down = first.orientation[0], first.orientation[4]
    if min(abs(right), abs(down)) < AXIAL_COSINE:
        return "decubitus"
    return "supine" if down > 0 else "prone"
