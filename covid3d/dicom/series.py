"""One scan, whatever its files look like -> CTVolume, or a SeriesError whose code says why not.

DICOM folders (any file names, nested, several series), one enhanced multi-frame file, NIfTI, NRRD and MHA. Slices are
ordered by their position along the normal of the slices, never by name or number.
"""

import contextlib
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from covid3d.ct.volume import CTVolume, SeriesInfo, axial_volume
from covid3d.dicom import walk
from covid3d.dicom.headers import Slice, read_slices, read_with_history
from covid3d.dicom.images import OBLIQUE_DEGREES, is_image, read_image
from covid3d.dicom.pixels import SYNTAXES, hounsfield, syntax_name
from covid3d.run.errors import SeriesError
from covid3d.run.files import cpu_count
from covid3d.run.profile import PHANTOM_MANUFACTURER

FEWEST_SLICES = 16
SPACING_TOLERANCE = 0.1
TILT_DEGREES = 0.5
AXIAL_COSINE = 0.7071
NOT_HU_SHARE = 0.01
SERIES_NAMED = 12
ADULT_YEARS = 18
LARGEST_MATRIX = 4096

CURES = {
    "missing_slice": "Export the series again, complete",
    "duplicate_position": "Leave one slice at each position: remove copies, or split phases into series",
    "variable_spacing": "Choose a reconstruction with one slice spacing",
    "gantry_tilt": "Choose a series without gantry tilt, or correct the tilt on the scanner's console",
    "shifted_slices": "Choose one reconstruction: all slices must lie above each other",
    "mixed_image_type": "Move localizers and derived images out of the series",
    "mixed_orientation": "Choose one reconstruction: all slices must have one direction",
    "mixed_matrix": "Choose one reconstruction: all slices must have one matrix and pixel size",
    "missing_geometry": "Export the series with image position, orientation and pixel spacing",
    "oblique": "Choose an axial reconstruction",
    "too_few_slices": f"Give the whole series: at least {FEWEST_SLICES} slices",
    "not_ct": "Give a CT series",
    "not_hu": "Give the CT images themselves, not a map computed from them",
    "not_chest": "Give a CT of the chest",
    "no_ct_volume": "Give the folder of a CT series; localizers, screen shots, reports and short series are no volume",
    "missing_file": walk.CURES["missing_file"],
    "broken_link": walk.CURES["broken_link"],
    "packed": walk.CURES["packed"],
    "missing_rescale": "Export the series with RescaleSlope and RescaleIntercept",
    "hu_out_of_range": "Check how the file was made: its values are no Hounsfield units",
    "unsupported_syntax": "Export the series again as Explicit VR Little Endian, or convert it with `gdcmconv --raw`",
    "several_series": "Choose one series by its number",
    "no_such_series": "Choose one of the series that are there",
    "no_such_path": "Check the path",
    "truncated": "Copy or export this scan again",
    "no_dicom": "Give a folder with the slices of one CT series, or a NIfTI, NRRD or MHA file",
    "checksum": "Copy the scan again, or correct sha256 in the manifest",
    "unreadable": "Open the scan in a viewer; export it again as Explicit VR Little Endian",
}
"""What to do about each code. No cure, and no `what` of a SeriesError, repeats text from headers or paths."""


def read_ct(path: str | Path, series: int | None = None, *, threads: int | None = None) -> CTVolume:
    """Read one scan as int16 HU (z, y, x), axial, head up; `series` picks one of several by its number (`list_series`).

    HU are clipped to -1024 … 3071; padding is -1024. `threads` decode slices (None: one a core).
    Raises SeriesError with a stable code and a cure (see CURES).
    """
    path = _existing(path)
    if is_image(path):
        return checked_range(read_image(path), path)
    with _damaged_headers(path):
        slices, passed = read_with_history(path)
        chosen, left = _choose(group_by_number(slices), series, path)
        _check_headers(chosen, path)
        ordered, affine, spacing = _geometry(chosen, path)
        return _decode(ordered, affine, spacing, path, threads or cpu_count(), (*left, *passed))


def check_series(slices: list[Slice], path: Path) -> None:
    """Refuse, as `read_ct` does, what the headers of a series tell to be no CT volume; pixels are not decoded."""
    with _damaged_headers(path):
        _check_headers(slices, path)
        _geometry(slices, path)


@contextlib.contextmanager
def _damaged_headers(path: Path) -> Iterator[None]:
    """Turn the errors that odd values of a header may raise into a refusal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd headers, which may repeat what identifies a patient
            yield
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, MemoryError) as error:
        raise _refusal("unreadable", f"a header is damaged ({type(error).__name__})", path) from error


def _existing(path: str | Path) -> Path:
    """Return a path that exists; the refusal shows a misspelt one whole."""
    if path == "" or not Path(path).exists():
        what = "no path was given" if path == "" else "there is no such file or folder"
        raise SeriesError(what, where=str(path), cure=CURES["no_such_path"], code="no_such_path")
    return Path(path)


def list_series(path: str | Path) -> pd.DataFrame:
    """Return the series of a file or folder: number (for `--series`), description, modality, slices, rows, columns, aside.

    The number is DICOM's SeriesNumber where every series has its own, else 1, 2, … in the order of the table. `aside`
    says why a series is not taken for the scan, "" for a CT volume.
    """
    path = _existing(path)
    rows = [
        {
            "number": number,
            "description": group[0].description,
            "modality": group[0].modality,
            "slices": len(group),
            "rows": group[0].rows,
            "columns": group[0].columns,
            "aside": why_aside(group),
        }
        for number, group in group_by_number(read_slices(path)).items()
    ]
    return pd.DataFrame(rows, columns=["number", "description", "modality", "slices", "rows", "columns", "aside"])


def _refusal(code: str, what: str, path: Path, cure: str | None = None) -> SeriesError:
    return SeriesError(what, where=path.name, cure=cure or CURES[code], code=code)


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


def _choose(groups: dict[int, list[Slice]], series: int | None, path: Path) -> tuple[list[Slice], tuple[str, ...]]:
    """Return the slices of the one CT volume meant, and a line of history on the series that were set aside.

    One short series alone goes on, to be refused for what is wrong with it.
    """
    ct = {number: group for number, group in groups.items() if any(entry.modality == "CT" for entry in group)}
    if not ct:
        seen = {group[0].modality for group in groups.values()} - {""}
        raise _refusal("not_ct" if seen else "no_ct_volume", "there is no CT image here", path)
    if series is not None and series not in ct:
        raise _refusal("no_such_series", f"there is no CT series {series}", path, f"Choose one: {_listing(ct)}")
    reasons = {number: why_aside(group) for number, group in groups.items()}
    volumes = [number for number, reason in reasons.items() if not reason] if series is None else [series]
    if not volumes and len(ct) == 1 and set(reasons.values()) <= {"too short", "not CT"}:
        volumes = list(ct)
    if not volumes:
        kinds = Counter(reasons[number] for number in ct)
        found = ", ".join(f"{count} {reason}" for reason, count in sorted(kinds.items()))
        cure = f"{CURES['no_ct_volume']}. Or choose one with --series N: {_listing(ct)}"
        raise _refusal("no_ct_volume", f"none of the CT series here is a volume ({found})", path, cure)
    if len(volumes) > 1:
        cure = f"Choose one with --series N: {_listing({number: ct[number] for number in volumes})}"
        raise _refusal("several_series", f"there are {len(volumes)} CT series here", path, cure)
    left = [
        f"{number} ({len(groups[number])} slices, {reason or 'not chosen'})"
        for number, reason in reasons.items()
        if number != volumes[0]
    ]
    return ct[volumes[0]], (f"set aside: series {_first_few(left)}",) if left else ()


def _listing(groups: dict[int, list[Slice]]) -> str:
    """Return number, description and slices of each series, in one line."""
    named = ((number, group, group[0].description) for number, group in groups.items())
    return _first_few([f"{number} ({text + ', ' if text else ''}{len(group)} slices)" for number, group, text in named])


def _first_few(items: list[str]) -> str:
    more = len(items) - SERIES_NAMED
    return "; ".join(items[:SERIES_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _check_headers(slices: list[Slice], path: Path) -> None:
    """Refuse a series that is not one set of CT images in Hounsfield units with a known decoder."""
    for entry in slices:
        if entry.syntax not in SYNTAXES:
            what = f"the transfer syntax {syntax_name(entry.syntax)} cannot be decoded"
            raise _refusal("unsupported_syntax", what, path)
    kinds = {(entry.image_type[:3], entry.modality, entry.secondary_capture) for entry in slices}
    if len(kinds) > 1:
        raise _refusal("mixed_image_type", f"the series mixes {len(kinds)} types of image", path)
    first = slices[0]
    if not all(1 < size <= LARGEST_MATRIX for entry in slices for size in (entry.rows, entry.columns)):
        raise _refusal("unreadable", "a slice has no matrix, or one that no scanner makes", path)
    colours = {str(entry.get("PhotometricInterpretation") or "MONOCHROME2").strip()[:10] for entry in slices}
    if colours != {"MONOCHROME"} or any(entry.get("SamplesPerPixel") not in (None, 1) for entry in slices):
        raise _refusal("not_ct", "the images are in colour", path)
    enhanced = first.frame is not None
    if (
        first.rescale_type not in ("", "HU", "US")
        or "PERFUSION" in first.image_type
        or (enhanced and first.rescale_type == "US")
    ):
        raise _refusal("not_hu", "the values are not in Hounsfield units", path)
    if any(entry.slope is None or entry.intercept is None or entry.slope == 0 for entry in slices):
        raise _refusal("missing_rescale", "the slope or intercept to Hounsfield units is missing", path)
    if any(entry.position is None or entry.orientation is None or entry.pixel_spacing is None for entry in slices):
        raise _refusal("missing_geometry", "a slice has no position, orientation or pixel spacing", path)
    if (
        len({(entry.rows, entry.columns) for entry in slices}) > 1
        or np.ptp([entry.pixel_spacing for entry in slices if entry.pixel_spacing], axis=0).max() > 1e-3
    ):
        raise _refusal("mixed_matrix", "slices differ in matrix or pixel size", path)


def _geometry(slices: list[Slice], path: Path) -> tuple[list[Slice], np.ndarray, float]:
    """Return the slices in order along their normal, the affine (i, j, k, 1) -> LPS mm, and the slice spacing in mm.

    All faults of the stack are named in one message; its code is the first one's.
    """
    orientations = np.array([entry.orientation for entry in slices])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise _refusal("mixed_orientation", "slices differ in direction", path)
    row, column = orientations[0][:3], orientations[0][3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise _refusal("missing_geometry", "the direction of the slices is no pair of right angles", path)
    normal = np.cross(row, column)
    positions = np.array([entry.position for entry in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    faults = _stack_faults(slices, positions[order], normal, steps)
    if faults:
        (code, _), *more = faults
        cure = CURES[code] + "".join(f"; {CURES[other][0].lower()}{CURES[other][1:]}" for other, _ in more)
        raise _refusal(code, "; ".join(text for _, text in faults), path, cure)
    spacing = float((along[order[-1]] - along[order[0]]) / (len(slices) - 1))
    first = slices[order[0]]
    assert first.pixel_spacing is not None
    affine = np.eye(4)
    affine[:3, 0] = row * first.pixel_spacing[1]
    affine[:3, 1] = column * first.pixel_spacing[0]
    affine[:3, 2] = normal * spacing
    affine[:3, 3] = positions[order[0]]
    cosines = np.abs(np.stack([row, column, normal])).max(axis=1)
    if np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))) > OBLIQUE_DEGREES:
        raise _refusal("oblique", "the slices lie oblique to the body", path)
    return [slices[index] for index in order], affine, spacing


def _stack_faults(
    slices: list[Slice], positions: np.ndarray, normal: np.ndarray, steps: np.ndarray
) -> list[tuple[str, str]]:
    """Return (code, text) of every fault of a stack: positions (N, 3) in order, steps (N - 1) along the normal, mm."""
    faults = []
    copies = int((steps < 0.01).sum())
    if copies:
        faults.append(("duplicate_position", f"{copies} slices lie where another one is"))
    tilt = _tilt(slices, positions, normal)
    if tilt > TILT_DEGREES:
        faults.append(("gantry_tilt", f"the gantry was tilted by {tilt:.1f} degrees"))
    sideways = _sideways(positions)
    if sideways > max(slices[0].pixel_spacing or (1.0,)):
        faults.append(("shifted_slices", f"slices lie up to {sideways:.1f} mm aside of the others"))
    steps = steps[steps >= 0.01]
    if len(steps):
        usual = float(np.median(steps))
        if np.abs(steps - usual).max() > max(SPACING_TOLERANCE * usual, 0.02):
            ratio = steps / usual
            whole = np.abs(ratio - np.rint(ratio)).max() < SPACING_TOLERANCE and ratio.min() > 0.5
            if whole and not copies:
                missing = int((np.rint(ratio) - 1).sum())
                faults.append(("missing_slice", f"{missing} of {len(slices) + missing} slices are missing"))
            else:
                found = f"{steps.min():.2f} to {steps.max():.2f} mm"
                faults.append(("variable_spacing", f"the slice spacing varies from {found}"))
    if len(slices) < FEWEST_SLICES:
        faults.append(("too_few_slices", f"the series has {len(slices)} slices, at least {FEWEST_SLICES} are needed"))
    return faults


def _sideways(positions: np.ndarray) -> float:
    """Return how far, in mm, a slice's corner lies from the straight line through those of the first and the last."""
    way = positions[-1] - positions[0]
    length = float(np.linalg.norm(way))
    if length < 0.01:
        return 0.0
    offsets = positions - positions[0]
    return float(np.linalg.norm(offsets - np.outer(offsets @ way, way) / length**2, axis=1).max())


def _tilt(slices: list[Slice], positions: np.ndarray, normal: np.ndarray) -> float:
    """Return the angle in degrees between the table's way and the slices' normal, or the tilt the header states."""
    way = positions[-1] - positions[0]
    length = float(np.linalg.norm(way))
    sheared = float(np.degrees(np.arccos(np.clip(abs(way @ normal) / length, 0, 1)))) if length > 0.01 else 0.0
    try:
        stated = abs(float(slices[0].dataset.get("GantryDetectorTilt") or 0))
    except (TypeError, ValueError):
        stated = 0.0
    return max(sheared, stated)


def _decode(
    slices: list[Slice], affine: np.ndarray, spacing: float, path: Path, threads: int, left: tuple[str, ...]
) -> CTVolume:
    """Return the volume; slices are decoded by threads straight into it."""
    first = slices[0]
    hu = np.empty((len(slices), first.rows, first.columns), dtype=np.int16)
    above = np.zeros(len(slices))
    mended = np.zeros(len(slices), dtype=bool)

    def decode(index: int) -> None:
        hu[index], above[index], mended[index] = hounsfield(slices[index])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(decode, range(len(slices))))
    if above.mean() > NOT_HU_SHARE:
        raise _refusal("hu_out_of_range", f"{above.mean():.0%} of the pixels lie beyond any CT number", path)
    history: tuple[str, ...] = (f"{len(slices)} slices of DICOM, {spacing:.3g} mm apart, ordered by position", *left)
    info = _info(first)
    if info.patient_position not in ("", "supine"):
        history = (*history, f"the patient lay {info.patient_position}")
    if mended.any():
        history = (*history, f"sign mended on {int(mended.sum())} slices")
    return checked_range(axial_volume(hu, affine, history=history, series=info), path)


def checked_range(volume: CTVolume, path: Path) -> CTVolume:
    """Return the volume, or refuse one without air: a chest scan has some, other units have none."""
    middle = volume.hu[volume.shape[0] // 2]
    if middle.min() < -500 < middle.max():  # as in any chest; else look at all
        return volume
    if volume.hu.min() >= -500 or volume.hu.max() <= -500:
        raise _refusal("hu_out_of_range", "the values are no Hounsfield units of a body: no air, or only air", path)
    return volume


def _info(first: Slice) -> SeriesInfo:
    """Return what is kept of the header."""
    dataset = first.dataset

    def number(keyword: str) -> float | None:
        try:
            return float(dataset.get(keyword))
        except (TypeError, ValueError):
            return None

    kernel = dataset.get("ConvolutionKernel") or ""
    manufacturer = str(dataset.get("Manufacturer") or "").strip()
    uid = str(dataset.get("SeriesInstanceUID") or "").strip()
    patient = str(dataset.get("PatientID") or "").strip()
    age = re.fullmatch(r"(\d{3})([DWMY])", str(dataset.get("PatientAge") or "").strip())
    return SeriesInfo(
        kernel=str(kernel if isinstance(kernel, str) else kernel[0]).strip(),
        kvp=number("KVP"),
        manufacturer=manufacturer,
        transfer_syntax=str(first.syntax),
        slice_thickness_mm=number("SliceThickness"),
        simulated=manufacturer.startswith(PHANTOM_MANUFACTURER),
        uid_sha256=hashlib.sha256(f"covid3d series {uid}".encode()).hexdigest() if uid else "",
        patient_sha256=hashlib.sha256(f"covid3d patient {patient}".encode()).hexdigest() if patient else "",
        patient_position=patient_position(first),
        contrast=bool(str(dataset.get("ContrastBolusAgent") or "").strip()),
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
