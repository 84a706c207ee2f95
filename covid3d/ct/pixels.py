"""Pixel data of one slice -> stored values -> Hounsfield units, with the decoder that is fastest for each syntax."""

from collections.abc import Callable
from typing import Any, Final

import gdcm
import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID

from covid3d.ct.headers import PIXEL_DATA, TRUNCATED, Slice
from covid3d.ct.volume import HU_MAX, HU_MIN
from covid3d.errors import SeriesError

NATIVE: Final = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
DECODERS: Final = {
    "1.2.840.10008.1.2": "",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99": "",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2": "",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.4.50": "gdcm",  # JPEG Baseline, lossy
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG Extended, lossy
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE Lossless
}
JPEG_2000: Final = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
LOWEST_HU, HIGHEST_HU = -3024, 4000
FARTHEST = 2**24
UNTOLD_PADDING = 64
SIGNED_SHARE = 0.01


def syntax_name(syntax: UID) -> str:
    """Return a transfer syntax in words and its UID."""
    words = "private syntax" if syntax.is_private else syntax.name
    return f"{words} ({syntax})"


def stored_values(entry: Slice) -> np.ndarray:
    """Return the stored values of a slice (rows, columns) as the file holds them.

    Raises SeriesError: unsupported_syntax, or truncated when the pixel data are incomplete or cannot be decoded.
    """
    if entry.syntax not in DECODERS:
        raise SeriesError(
            f"the transfer syntax {syntax_name(entry.syntax)} cannot be decoded",
            where=entry.path.name,
            cure="Export the series again as Explicit VR Little Endian, or convert it with `gdcmconv --raw`",
            code="unsupported_syntax",
        )
    try:
        values = _native(entry) if _is_plain(entry) else _decoded(entry)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # each decoder raises errors of its own kind; a panic in Rust is no Exception
        raise SeriesError(
            "the pixel data are incomplete or damaged", where=entry.path.name, cure=TRUNCATED, code="truncated"
        ) from error
    if values.shape != (entry.rows, entry.columns):
        raise SeriesError(
            f"a slice has {values.shape} pixels instead of {(entry.rows, entry.columns)}",
            where=entry.path.name,
            cure=TRUNCATED,
            code="truncated",
        )
    return values


def _is_plain(entry: Slice) -> bool:
    """True for uncompressed little-endian words whose place in the file is known."""
    return entry.syntax in NATIVE and _holds_words(entry) and entry.pixels_at is not None


def _holds_words(entry: Slice) -> bool:
    """True for 16-bit words whose upper bits mean nothing else."""
    bits = entry.get("BitsStored")
    whole = bits == 16 or (entry.get("PixelRepresentation") == 0 and isinstance(bits, int) and 0 < bits < 16)
    return entry.get("BitsAllocated") == 16 and whole


def _native(entry: Slice) -> np.ndarray:
    """Return uncompressed 16-bit values, read straight from their place in the file."""
    assert entry.pixels_at is not None
    count = entry.rows * entry.columns
    kind = "<i2" if entry.get("PixelRepresentation") == 1 else "<u2"
    with entry.path.open("rb") as stream:
        stream.seek(entry.pixels_at + 2 * count * (entry.frame or 0))
        content = stream.read(2 * count)
    values = np.frombuffer(content, dtype=kind, count=count).reshape(entry.rows, entry.columns)
    bits = entry.get("BitsStored")
    return values if bits == 16 or values.max() < 1 << bits else _without_unused_bits(values, bits)


def _without_unused_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return unsigned words without the bits above `bits` (overlays); as they are where these repeat a sign."""
    above = values >> bits
    sign = above == 0xFFFF >> bits
    return values if sign.mean() > SIGNED_SHARE and (sign | (above == 0)).all() else values & ((1 << bits) - 1)


def _decoded(entry: Slice) -> np.ndarray:
    """Return the values by the fast decoder of the syntax, or through pydicom and one of its plugins."""
    values = _fast(entry)
    if values is not None:
        return values
    if entry.syntax == JPEG_EXTENDED and entry.frame is None:
        return _through_gdcm(entry)
    dataset = entry.dataset
    if entry.frame is None and _left_on_disk(dataset):
        dataset = dcmread(entry.path, force=True)  # this copy goes when the slice is decoded
    preferred = DECODERS[entry.syntax]
    plugin = preferred if preferred in get_decoder(entry.syntax).available_plugins else ""
    return pixel_array(dataset, index=entry.frame, raw=True, decoding_plugin=plugin)


def _left_on_disk(dataset: Dataset) -> bool:
    """True where the header was read without its pixel data."""
    return dataset.get_item(PIXEL_DATA, keep_deferred=True).value is None


def _frame(entry: Slice) -> bytes:
    """Return the compressed bytes of a slice; a file of one slice is read from where they begin, not parsed again."""
    if entry.frame is None and _left_on_disk(entry.dataset):
        element: Any = entry.dataset.get_item(PIXEL_DATA, keep_deferred=True)
        with entry.path.open("rb") as stream:
            stream.seek(element.value_tell)
            return get_frame(stream, 0, number_of_frames=1)
    frames = int(entry.get("NumberOfFrames") or 1)
    return get_frame(entry.dataset.PixelData, entry.frame or 0, number_of_frames=frames)


def _fast(entry: Slice) -> np.ndarray | None:
    """Return 16-bit values by the decoder in `FAST`, or None for what pydicom has to judge."""
    if entry.syntax not in FAST or not _holds_words(entry):
        return None
    kind = "<i2" if entry.get("PixelRepresentation") == 1 else "<u2"
    values = np.empty((entry.rows, entry.columns), kind if entry.syntax in JPEG_2000 else "<u2")  # others know no signs
    try:
        FAST[entry.syntax](_frame(entry), out=values)
    except _OtherKind:
        return None
    except Exception:
        if FAST[entry.syntax] is _jpeg_lossless:
            raise  # GDCM, which pydicom would ask, ends the program on some damaged frames
        return None
    bits = entry.get("BitsStored")
    return None if bits < 16 and values.max() >> bits else values.view(kind)


class _OtherKind(Exception):
    """A frame that the fast decoder is not meant for."""


def _jpeg_lossless(content: bytes, out: np.ndarray) -> None:
    """Decode a frame of JPEG Lossless, first-order prediction, into `out`; ValueError or IndexError where it is damaged.

    The decoder does not notice damage, but coding the values again must take as many bits as the frame holds (ITU-T T.81, H.1).
    """
    at, tables, precision, marker = 2, {}, 0, 0
    while marker != 0xDA:  # scan
        if content[at] != 0xFF:
            raise ValueError("no segment where one should begin")
        marker, size = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        segment, at = content[at + 4 : at + 2 + size], at + 2 + size
        if marker == 0xC3:  # frame
            precision = segment[0]
        elif marker == 0xC4:  # Huffman table: the numbers of codes of 1 to 16 bits, then the categories they stand for
            lengths = np.repeat(np.arange(1, 17), list(segment[1:17]))
            tables[segment[0]] = dict(zip(segment[17:], lengths, strict=True))
        elif marker == 0xDD:
            raise _OtherKind("restart intervals")
    if segment[0] != 1 or segment[3] != 1 or segment[5] != 0:
        raise _OtherKind("several components, another predictor or a point transform")
    imagecodecs.jpeg8_decode(content, out=out)
    coded = content[at : content.rindex(b"\xff\xd9")].rstrip(b"\xff")  # fill bytes may precede the end
    stuffed = coded.count(b"\xff\x00")
    if coded.count(b"\xff") != stuffed:
        raise ValueError("a marker within the scan")
    differences = np.diff(out, axis=1, prepend=out[:, :1])
    differences[1:, 0] = out[1:, 0] - out[:-1, 0]
    differences[:1, :1] = out[:1, :1] - np.uint16(1 << (precision - 1))
    bits = np.full(17, np.inf, np.float32)
    for category, length in tables[segment[2] >> 4].items():
        bits[category] = length + category % 16  # category 16, a difference of 32768, has no further bits
    spare = 8 * (len(coded) - stuffed) - bits[CATEGORIES].take(differences).sum(dtype=float)
    if not 0 <= spare < 8:
        raise ValueError("the values do not use up the frame")


def _rle(content: bytes, out: np.ndarray) -> None:
    """Decode an RLE frame into `out`: high bytes are packed first, then low ones (DICOM PS3.5, Annex G)."""
    segments, high, low = (int.from_bytes(content[at : at + 4], "little") for at in (0, 4, 8))
    if segments != 2:
        raise _OtherKind("no 16-bit words")
    halves = out.reshape(-1).view("u1").reshape(-1, 2)
    for half, packed in ((1, content[high:low]), (0, content[low:])):
        halves[:, half] = np.frombuffer(imagecodecs.packbits_decode(packed), "u1").reshape(out.size)


# They let other threads run, which the plugins of pydicom do not. Not `dicomrle_decode`: it crashes on damaged data.
FAST: Final[dict[str, Callable[..., object]]] = {
    "1.2.840.10008.1.2.4.57": _jpeg_lossless,
    "1.2.840.10008.1.2.4.70": _jpeg_lossless,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.5": _rle,
}
CATEGORIES: Final = np.ceil(np.log2(np.abs(np.arange(1 << 16, dtype="<u2").view("<i2").astype(int)) + 1)).astype(int)


def _through_gdcm(entry: Slice) -> np.ndarray:
    """Return the values of a 12-bit JPEG file by GDCM itself: pydicom knows no free decoder for it."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(entry.path))
    if not reader.Read():
        raise ValueError("GDCM cannot read the file")
    content = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    kind = "<u2" if entry.dataset.BitsAllocated == 16 else "u1"
    return np.frombuffer(content, dtype=kind).reshape(entry.rows, entry.columns)


def padding_range(entry: Slice) -> tuple[int, int] | None:
    """Return the stored values that mean "no image here", lowest and highest, or None."""
    low = _word(entry, "PixelPaddingValue")
    if low is None:
        return None
    high = _word(entry, "PixelPaddingRangeLimit")
    return (low, low) if high is None else (min(low, high), max(low, high))


def _word(entry: Slice, keyword: str) -> int | None:
    """Return a 16-bit header value with the sign of the pixels (some writers give -2000 as 63536)."""
    value = entry.get(keyword)
    if not isinstance(value, int):
        return None
    signed = entry.get("PixelRepresentation") == 1
    return (value + 0x8000) % 0x10000 - 0x8000 if signed else value % 0x10000


def hounsfield(entry: Slice) -> tuple[np.ndarray, float, bool]:
    """Return a slice's HU int16 (rows, columns), the share of pixels beyond any CT number, and if its sign was mended.

    slope * stored + intercept, rounded; padding and everything below air becomes -1024, metal above 3071 becomes 3071.
    A slice whose header says unsigned while its values are signed is read as signed when that gives CT numbers.
    """
    stored = stored_values(entry)
    padding = padding_range(entry)
    plain = _plain_hounsfield(stored, entry, padding)
    if plain is not None:
        return plain, 0.0, False
    values, above = _scaled(stored, entry, padding)
    mended = False
    if above > 0 and stored.dtype == np.uint16 and (stored >= 0x8000).any():
        other, other_above = _scaled(stored.astype(np.uint16).view(np.int16), entry, padding)
        if other_above == 0 and other.min() >= LOWEST_HU:
            values, above, mended = other, other_above, True
    return np.clip(values, HU_MIN, HU_MAX).astype(np.int16), above, mended


def _plain_hounsfield(stored: np.ndarray, entry: Slice, padding: tuple[int, int] | None) -> np.ndarray | None:
    """Return HU clipped from below, int16, where slope is 1 and all values are CT numbers; else None. One or two passes."""
    if entry.slope != 1 or entry.intercept is None or entry.intercept != int(entry.intercept):
        return None
    shift, lowest, highest = int(entry.intercept), int(stored.min()), int(stored.max())
    if abs(shift) >= FARTHEST or lowest + shift < LOWEST_HU or highest + shift > HU_MAX:
        return None
    if lowest + shift < HU_MIN:
        values = np.maximum(stored, stored.dtype.type(HU_MIN - shift)).astype(np.int16)
    else:
        values = stored.astype(np.int16)
    values += np.int16(shift)
    if padding is not None and padding[0] <= highest and padding[1] >= lowest:
        values[(stored >= padding[0]) & (stored <= padding[1])] = HU_MIN
    return values


def _scaled(stored: np.ndarray, entry: Slice, padding: tuple[int, int] | None) -> tuple[np.ndarray, float]:
    """Return rounded HU with padding set to air, not clipped, and the share of pixels beyond any CT number.

    One lowest value below any CT number is padding that the header does not tell of.
    """
    assert entry.slope is not None
    assert entry.intercept is not None
    if entry.slope == 1 and entry.intercept == int(entry.intercept) and abs(entry.intercept) < FARTHEST:
        values = stored.astype(np.int32) + int(entry.intercept)
    else:
        exact = np.rint(stored * entry.slope + entry.intercept)  # clipped, or an absurd slope would wrap round
        values = np.clip(exact, -FARTHEST, FARTHEST).astype(np.int32)
    if padding is not None:
        values[(stored >= padding[0]) & (stored <= padding[1])] = HU_MIN
    beyond = np.count_nonzero(values > HIGHEST_HU)
    lowest = int(values.min())
    if lowest < LOWEST_HU:
        beyond += np.count_nonzero((values < LOWEST_HU) & (values > lowest + UNTOLD_PADDING))
    return values, beyond / values.size
