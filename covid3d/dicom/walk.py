"""Which files of a folder, or of a DICOMDIR, may be slices; one without DICOM is passed over only where no slice is meant."""

import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread

from covid3d.dicom.images import IMAGE_SUFFIXES
from covid3d.dicom.refusals import CURES_OF_FILES as CURES
from covid3d.run.errors import SeriesError
from covid3d.run.files import tree_files

DIRECTORY = "1.2.840.10008.1.3.10"
DICOM_ENDINGS = (".dcm", ".ima", ".dicom", ".dic")
PACKED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".z", ".7z", ".rar")
PACKED_STARTS = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
ADDED = (*PACKED, ".part", ".partial", ".crdownload", ".filepart", ".download", ".tmp", ".htm", ".html")
NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
START_BYTES = 4096
SHORTEST = 132


class Fault(NamedTuple):
    """What is wrong with a file that is no slice: a code, and one clause."""

    code: str
    what: str


LINK = Fault("broken_link", "a link leads nowhere")
ARCHIVE = Fault("packed", "a file is packed")
EMPTY = Fault("truncated", "a file is empty")
PAGE = Fault("truncated", "a file holds a web page or a message, no slice")
TEXT = Fault("truncated", "a file holds text, no slice")
OTHER = Fault("truncated", "a file is no DICOM file")
NAMED = Fault("unreadable", "a file named as DICOM is none")
CLOSED = Fault("unreadable", "a file cannot be opened")
HIDDEN = Fault("unreadable", "a file of DICOM is hidden")
IMAGE = Fault("unreadable", "an image file is no DICOM")
PASSED = {LINK: "links to nowhere", ARCHIVE: "packed", HIDDEN: "hidden with DICOM", IMAGE: "image files"}


class Doubt(NamedTuple):
    """A file without DICOM, and whether a slice is meant to be there."""

    path: Path
    fault: Fault
    meant: bool

    @property
    def error(self) -> SeriesError:
        """Return the refusal that names the file."""
        code, what = self.fault
        return SeriesError(what, where=self.path.name, cure=CURES[code], code=code)


def candidates(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the files that may be DICOM (a file itself, those of a DICOMDIR or of a folder tree), and hidden or lost ones.

    Links to folders are followed, and a file that is linked to as well counts once. Raises SeriesError: missing_file for
    one that a DICOMDIR lists and that is not there, unreadable for a folder that may not be listed.
    """
    if path.is_file():
        return _listed(path), []
    try:
        files = [file for file in tree_files(path, hidden=False) if _plain(file.name) != "dicomdir"]
        hidden = [file for file in files if file.name.startswith(".")]
        shown = [file for file in files if not file.name.startswith(".")]
        there = [file for file in shown if file.is_file()]
    except OSError as error:
        where = Path(os.fsdecode(error.filename or path)).name
        cure = CURES["unreadable"]
        raise SeriesError("a folder cannot be opened", where=where, cure=cure, code="unreadable") from error
    return list(_once(there)), sorted({*hidden, *shown} - {*there})


def _once(files: Iterable[Path]) -> Iterator[Path]:
    """Yield files, each real one once."""
    real_folder = functools.cache(os.path.realpath)
    seen = set()
    for file in files:
        real = os.path.realpath(file) if file.is_symlink() else os.path.join(real_folder(file.parent), file.name)
        if real not in seen:
            seen.add(real)
            yield file


def _listed(file: Path) -> list[Path]:
    """Return the file itself, or the image files that it lists when it is a DICOMDIR."""
    try:
        directory = dcmread(file, specific_tags=["DirectoryRecordSequence"])
        if directory.file_meta.get("MediaStorageSOPClassUID") != DIRECTORY:
            return [file]
        names = [record.get("ReferencedFileID") for record in directory.DirectoryRecordSequence]
    except Exception:  # whatever is wrong with it is told when its header is read
        return [file]
    inside = functools.cache(_names)
    parts = ["/".join([name] if isinstance(name, str) else name).split("/") for name in names if name]
    places = [_find(file.parent, part, inside) for part in parts]
    if None in places:
        what = f"{places.count(None)} of the {len(places)} files that the DICOMDIR lists are not there"
        raise SeriesError(what, where=file.name, cure=CURES["missing_file"], code="missing_file")
    return sorted({place for place in places if place is not None})


def _names(folder: Path) -> dict[str, list[str]]:
    """Return the names in a folder by what media make of them."""
    names = defaultdict(list)
    for name in sorted(os.listdir(folder), key=lambda name: (len(name), name)):
        names[_plain(name)].append(name)
    return names


def _find(folder: Path, parts: Sequence[str], inside: Callable[[Path], dict[str, list[str]]]) -> Path | None:
    """Return the file that a DICOMDIR names, as media and their copies spell it, or None."""
    for part in parts:
        if part in ("", "."):
            continue
        alike = inside(folder).get(_plain(part)) if part != ".." and folder.is_dir() else None
        if not alike:
            return None
        folder /= part if part in alike else alike[0]
    return folder if folder.is_file() else None


def _bare(name: str) -> str:
    """Return a name without what media add to it: spaces, a version `;1`, a final dot."""
    return re.sub(r";\d+$", "", name.strip()).rstrip(". ")


def _plain(name: str) -> str:
    """Return what a name has in common with the ways in which media and viewers spell it."""
    return _bare(_bare(name).casefold().removesuffix(".dcm"))


def _ending(name: str) -> str:
    """Return the ending of a name in small letters; numbers, as in UIDs, are none."""
    ending = Path(_bare(name)).suffix.lower()
    return "" if ending[1:].isdecimal() else ending


def _stem(name: str) -> str:
    """Return a name without its ending."""
    return Path(_bare(name)).stem if _ending(name) else _bare(name)


def _shape(name: str) -> str:
    """Return a name with every number in it replaced by one mark."""
    return re.sub(r"\d+", "#", _bare(name).casefold())


# --- files without DICOM -----------------------------------------------------------------------------------------------


def doubts(others: Sequence[Path], slices: Sequence[Path]) -> Iterator[Doubt]:
    """Yield what is to be said of the files without DICOM, `slices` being those with DICOM."""
    if not others:
        return
    beside = _Slices(slices)
    for path in others:
        fault = _fault(path)
        if fault is None or (path.name.startswith(".") and fault != HIDDEN):
            continue
        meant = fault != HIDDEN and beside.lack(path, text=fault == TEXT)
        if fault in (PAGE, TEXT, OTHER) and beside.only_named(path):
            fault = NAMED
        if meant or fault in PASSED or fault == EMPTY or not _ending(path.name):
            yield Doubt(path, fault, meant)


def passed_over(left: Iterable[Doubt]) -> tuple[str, ...]:
    """Return a line of history on the files that were passed over; refuse the first where a slice is meant."""
    counts: Counter[str] = Counter()
    for doubt in left:
        if doubt.meant:
            raise doubt.error
        counts[PASSED.get(doubt.fault, "without DICOM")] += 1
    return (f"files passed over: {', '.join(f'{counts[kind]} {kind}' for kind in sorted(counts))}",) if counts else ()


class _Slices:
    """Files of slices, to be asked whether another file stands for a slice that they lack."""

    def __init__(self, slices: Sequence[Path]):
        self.folders = {file.parent for file in slices}
        self.names = {file.parent / stem for file in slices for stem in (file.name, _stem(file.name))}
        self.shapes = {_shape(stem) for file in slices for stem in (file.name, _stem(file.name))}
        self.endings = {_ending(file.name) for file in slices}

    def only_named(self, path: Path) -> bool:
        """True where nothing but its ending says that a file, not cut before its mark, were DICOM."""
        named = _ending(path.name) in DICOM_ENDINGS and _shape(path.name) not in self.shapes
        return named and path.stat().st_size >= SHORTEST

    def lack(self, path: Path, *, text: bool) -> bool:
        """True where a file's name says that it was meant as a slice, or where it lies among slices and is no text."""
        name = _bare(path.name)
        while _ending(name) in ADDED:
            name = _stem(name)
        if name != _bare(path.name) and path.parent / name in self.names:
            return False
        if _ending(name) in DICOM_ENDINGS or _shape(name) in self.shapes:
            return True
        return path.parent in self.folders and _ending(path.name) in self.endings and not text


def _fault(path: Path) -> Fault | None:
    """Return what a file without DICOM is; None for a DICOMDIR."""
    if not path.is_file():
        return LINK if path.is_symlink() else CLOSED
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
    except OSError:
        return CLOSED
    if start[128:132] == b"DICM":
        return HIDDEN if path.name.startswith(".") else None
    ending = _ending(path.name)
    if start and path.name.lower().endswith(IMAGE_SUFFIXES):
        return IMAGE
    if ending in PACKED:
        return ARCHIVE
    if ending in ("", *DICOM_ENDINGS) and start.startswith(PACKED_STARTS):
        return ARCHIVE
    if not start:
        return EMPTY
    if start.lstrip(b"\xef\xbb\xbf\t\r\n ")[:1] in (b"<", b"{"):
        return PAGE
    return OTHER if NO_TEXT.search(start) else TEXT
