"""What frames of JPEG and JPEG-LS say of themselves, and JPEG Lossless whose every bit is accounted for.

Decoders fill what a damaged frame does not hold with values of their own, and say nothing. A frame of JPEG Lossless holds the
differences of its values from neighbours, each a Huffman code and further bits: the values decoded must need exactly
the bits there are, and the last one must be the one that ends them. Source: ITU-T T.81, Annexes B, C, F and H.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

import imagecodecs
import numpy as np

SCAN, HUFFMAN_TABLES, RESTART_INTERVAL = 0xDA, 0xC4, 0xDD
FRAMES: Final = {0xC3, 0xF7}
"""Markers of the headers of a frame: JPEG Lossless, JPEG-LS."""
END = b"\xff\xd9"
INTERVAL_END: Final = re.compile(rb"\xff+[\xd0-\xd7\xd9]")
FILLINGS: Final = b"\x55" * 64, b"\xaa" * 64
RESTART: Final = re.compile(rb"\xff+[\xd0-\xd7]")
CATEGORIES: Final = np.ceil(np.log2(np.abs(np.arange(1 << 16, dtype="<u2").view("<i2").astype(int)) + 1)).astype(int)
"""Number of further bits of every difference; of 32768, whose category is 16, there are none."""
PREDICTORS: Final[dict[int, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]] = {
    1: lambda left, above, corner: left,
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, corner: (left + above) >> 1,
}
Codes = dict[int, tuple[int, int]]
"""Category -> code and its length in bits."""


def segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, content and end of a frame's segments up to the header of its scan; ValueError or IndexError if damaged."""
    marker, at = 0, 2
    while marker != SCAN:
        if content[at] != 0xFF:
            raise ValueError("no segment where one should begin")
        while content[at] == 0xFF:  # bytes of 255 may fill the space between segments
            at += 1
        marker, end = content[at], at + 1 + int.from_bytes(content[at + 1 : at + 3], "big")
        yield marker, content[at + 3 : end], end
        at = end


def precision_of(content: bytes) -> int:
    """Return the number of bits of a frame's values; ValueError or IndexError if damaged."""
    return next(segment[0] for marker, segment, _ in segments(content) if marker in FRAMES)


def decode_lossless(content: bytes) -> tuple[np.ndarray, int]:
    """Return the values of a frame of JPEG Lossless, uint16 (rows, columns), and their precision in bits.

    Raises ValueError, IndexError, KeyError or what imagecodecs raises where the frame is damaged or has several components.
    """
    tables: dict[int, Codes] = {}
    interval, precision, start, scan = 0, 0, 0, b""
    for marker, segment, end in segments(content):
        if marker == HUFFMAN_TABLES:
            tables |= _tables(segment)
        elif marker == RESTART_INTERVAL:
            interval = int.from_bytes(segment, "big")
        elif marker in FRAMES:
            precision = segment[0]
        start, scan = end, segment
    if scan[0] != 1:
        raise ValueError("several components")
    values = imagecodecs.jpeg8_decode(content).astype(np.uint16, copy=False)
    codes, predictor, transform = tables[scan[2] >> 4], scan[3], scan[5] & 15
    rows, columns = values.shape
    step = interval // columns or rows
    coded = content[start : content.index(END, start)]
    parts = RESTART.split(coded) if interval else [coded]
    if interval % columns or len(parts) != -(-rows // step):
        raise ValueError("restart markers that do not fit")
    for part, first in zip(parts, range(0, rows, step), strict=True):
        known = values[first : first + step]
        differences = _differences(known >> transform if transform else known, predictor, precision - transform)
        _compare(part.rstrip(b"\xff"), differences, codes)
    return values, precision


def decode_lossy(content: bytes) -> np.ndarray:
    """Return the values of a sequential frame of lossy JPEG (rows, columns), 8 or 12 bits.

    A decoder makes up what a scan lacks from the bits that follow, or from none. Hence a scan is whole if other bits before
    the markers that end its intervals change nothing. Raises ValueError where they do, or where the end is missing.
    """
    start = max(end for *_, end in segments(content))
    end = content.find(END, start)
    if end < 0:
        raise ValueError("the frame does not end")
    values = imagecodecs.jpeg8_decode(content)
    for filling in FILLINGS:
        filled = INTERVAL_END.sub(filling + rb"\g<0>", content[start : end + 2])
        if not np.array_equal(imagecodecs.jpeg8_decode(content[:start] + filled), values):
            raise ValueError("the values are not all in the frame")
    return values


def _tables(segment: bytes) -> dict[int, Codes]:
    """Return the Huffman tables of a segment by their number: codes of one length follow each other (C.2)."""
    found, at = {}, 0
    while at < len(segment):
        lengths = np.repeat(np.arange(1, 17), list(segment[at + 1 : at + 17])).tolist()
        code, last, codes = 0, 0, {}
        for category, length in zip(segment[at + 17 : at + 17 + len(lengths)], lengths, strict=True):
            code, last = code << (length - last), length
            codes[category] = code, length
            code += 1
        found[segment[at]], at = codes, at + 17 + len(lengths)
    return found


def _differences(values: np.ndarray, predictor: int, precision: int) -> np.ndarray:
    """Return values minus what their neighbours predict, modulo 65536 (H.1.2)."""
    found = np.empty_like(values)
    found[:1, :1] = values[:1, :1] - np.uint16(1 << (precision - 1))
    found[0, 1:] = values[0, 1:] - values[0, :-1]
    found[1:, 0] = values[1:, 0] - values[:-1, 0]
    wide = values if predictor <= 4 else values.astype(np.int32)  # from 5 on half a sum or a signed difference
    predicted = PREDICTORS[predictor](wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1])
    found[1:, 1:] = values[1:, 1:] - predicted.astype(np.uint16, copy=False)
    return found


def _compare(coded: bytes, differences: np.ndarray, codes: Codes) -> None:
    """Raise ValueError unless differences need the bits of a scan, and the last of them is the last of the scan (F.1.2)."""
    content = np.frombuffer(coded, dtype=np.uint8)
    stuffed = np.flatnonzero(content == 0xFF) + 1
    if content[stuffed].any():
        raise ValueError("a marker within the scan")
    needed = np.full(17, np.inf, np.float32)
    for category, (_, length) in codes.items():
        needed[category] = length + category % 16
    spare = 8 * (len(coded) - len(stuffed)) - needed[CATEGORIES].take(differences).sum(dtype=float)
    if not 0 <= spare < 8:
        raise ValueError("the values do not use up the frame")
    last = int(differences[-1, -1].astype(np.int16))
    category = int(CATEGORIES[differences[-1, -1]])
    code, length = codes[category]
    further = category % 16
    wanted = code << further | ((last if last > 0 else last - 1) & ((1 << further) - 1))
    tail = int.from_bytes(coded[-16:].replace(b"\xff\0", b"\xff"), "big") >> int(spare)
    if tail & ((1 << (length + further)) - 1) != wanted:
        raise ValueError("the last value is not that of the frame")
