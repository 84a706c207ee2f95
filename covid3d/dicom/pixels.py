"""Pixel data of one slice -> stored values -> Hounsfield units, with the decoder that is fastest for each syntax."""

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_fragments, get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID
from scipy import ndimage

from covid3d.ct.volume import HU_MAX, HU_MIN
from covid3d.dicom.headers import PIXEL_DATA, TRUNCATED, Slice
from covid3d.dicom.jpeg import END, decode_lossless, decode_lossy, precision_of
from covid3d.run.errors import SeriesError

NATIVE: Final = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
PLUGINS: Final = {  # of pydicom, "" for its own decoder
    "1.2.840.10008.1.2": "",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99": "",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2": "",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # the same with resolutions first (RPCL)
    "1.2.840.10008.1.2.4.203": "pylibjpeg",  # High-Throughput JPEG 2000
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE Lossless
}
LOWEST_HU, HIGHEST_HU = -3024, 4000
TISSUE_HU = (-900, 2000)
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
    if entry.syntax not in SYNTAXES:
        raise SeriesError(
            f"the transfer syntax {syntax_name(entry.syntax)} cannot be decoded",
            where=entry.path.name,
            cure="Export the series again as Explicit VR Little Endian, or convert it with `gdcmconv --raw`",
            code="unsupported_syntax",
        )
    _check_words(entry)
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
            f"a slice has {values.shape} pixels, and its header says {(entry.rows, entry.columns)}",
            where=entry.path.name,
            cure="Export the series again",
            code="unreadable",
        )
    return values


def _check_words(entry: Slice) -> None:
    """Refuse a header that does not say how a pixel is stored."""
    allocated, stored = entry.get("BitsAllocated"), entry.get("BitsStored")
    if allocated not in (8, 16, 32) or not isinstance(stored, int) or not 0 < stored <= allocated:
        what, cure = "a header does not say how its pixels are stored", "Export the series again"
        raise SeriesError(what, where=entry.path.name, cure=cure, code="unreadable")


def _is_plain(entry: Slice) -> bool:
    """True for uncompressed little-endian words whose place in the file is known."""
    return entry.syntax in NATIVE and _holds_words(entry) and entry.pixels_at is not None


def _holds_words(entry: Slice) -> bool:
    """True for 16-bit words whose upper bits mean nothing else."""
    bits = entry.get("BitsStored")
    whole = bits == 16 or (entry.get("PixelRepresentation") == 0 and isinstance(bits, int) and 0 < bits < 16)
    return entry.get("BitsAllocated") == 16 and whole


def _is_signed(entry: Slice) -> bool:
    """True where the header says that stored values are signed."""
    return entry.get("PixelRepresentation") == 1


def _native(entry: Slice) -> np.ndarray:
    """Return uncompressed 16-bit values, read straight from their place in the file."""
    assert entry.pixels_at is not None
    count = entry.rows * entry.columns
    kind = "<i2" if _is_signed(entry) else "<u2"
    with entry.path.open("rb") as stream:
        stream.seek(entry.pixels_at + 2 * count * (entry.frame or 0))
        content = stream.read(2 * count)
    values = np.frombuffer(content, dtype=kind, count=count).reshape(entry.rows, entry.columns)
    return _without_unused_bits(values, entry.get("BitsStored"))


def _without_unused_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return words without the bits above `bits` (overlays); as they are where these repeat a sign."""
    if bits == 16 or values.max() < 1 << bits:
        return values
    above = values >> bits
    sign = above == 0xFFFF >> bits
    return values if sign.mean() > SIGNED_SHARE and (sign | (above == 0)).all() else values & ((1 << bits) - 1)


def _decoded(entry: Slice) -> np.ndarray:
    """Return the values of a compressed slice by the decoder in `OWN`, or through pydicom and one of its plugins."""
    try:
        if entry.syntax in OWN:
            return OWN[entry.syntax](entry)
    except _Unusual:
        pass
    dataset = entry.dataset
    if entry.frame is None and _left_on_disk(dataset):
        dataset = dcmread(entry.path, force=True)  # this copy goes when the slice is decoded
    preferred = PLUGINS[entry.syntax]
    plugin = preferred if preferred in get_decoder(entry.syntax).available_plugins else ""
    return pixel_array(dataset, index=entry.frame, raw=True, decoding_plugin=plugin)


class _Unusual(Exception):
    """A slice that pydicom has to judge."""


def _left_on_disk(dataset: Dataset) -> bool:
    """True where the header was read without its pixel data."""
    return dataset.get_item(PIXEL_DATA, keep_deferred=True).value is None


def _frame(entry: Slice) -> bytes:
    """Return the compressed bytes of a slice; a file of one slice is read from where they begin, not parsed again."""
    dataset = entry.dataset
    if entry.frame is not None:
        offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
        frames = int(entry.get("NumberOfFrames") or 1)
        return get_frame(
            dataset.PixelData, entry.frame, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None
        )
    with entry.path.open("rb") if _left_on_disk(dataset) else BytesIO(dataset.PixelData) as stream:
        if _left_on_disk(dataset):
            element: Any = dataset.get_item(PIXEL_DATA, keep_deferred=True)
            stream.seek(element.value_tell)
        _offsets, *fragments = generate_fragments(stream)
        return b"".join(fragments)


def _jpeg(entry: Slice) -> np.ndarray:
    """Decode lossy JPEG of 8 or 12 bits."""
    return decode_lossy(_frame(entry))


def _jpeg_lossless(entry: Slice) -> np.ndarray:
    """Decode JPEG Lossless with any predictor; bits of signed words above their precision repeat the sign."""
    values, precision = decode_lossless(_frame(entry))
    bits = min(precision, entry.get("BitsStored") or 16)
    if _is_signed(entry):
        return (values.view(np.int16) << (16 - bits)) >> (16 - bits)
    return values & np.uint16((1 << bits) - 1)


def _jpeg_ls(entry: Slice) -> np.ndarray:
    """Decode JPEG-LS; a frame without its end is refused, because CharLS may look for it for ever."""
    content = _ended(_frame(entry))
    if not _holds_words(entry) or (_is_signed(entry) and precision_of(content) < 16):
        raise _Unusual
    return _words(entry, imagecodecs.jpegls_decode(content))


def _jpeg_2000(entry: Slice) -> np.ndarray:
    """Decode JPEG 2000 that starts with the size segment of a code stream (ITU-T T.800, A.5.1)."""
    content, signed = _ended(_frame(entry)), _is_signed(entry)
    if not _holds_words(entry) or content[:4] != b"\xff\x4f\xff\x51":
        raise _Unusual
    if content[42] != 0x80 | 15 if signed else content[42] >> 7:  # the sign, and the number of bits minus 1
        raise _Unusual
    try:
        return _words(entry, imagecodecs.jpeg2k_decode(content))
    except (imagecodecs.Jpeg2kError, ValueError) as error:
        raise _Unusual from error


def _htj2k(entry: Slice) -> np.ndarray:
    """Leave High-Throughput JPEG 2000 to pydicom, once its end was seen; a part that holds zeros would be decoded."""
    _ended(_frame(entry))
    raise _Unusual


def _ended(content: bytes) -> bytes:
    """Return a frame of JPEG-LS or JPEG 2000; ValueError where its end is missing."""
    if not content.rstrip(b"\0").endswith(END):
        raise ValueError("the frame does not end")
    return content


def _rle(entry: Slice) -> np.ndarray:
    """Decode RLE: all high bytes are packed first, then all low ones (DICOM PS3.5, Annex G)."""
    content = _frame(entry)
    segments, high, low = (int.from_bytes(content[at : at + 4], "little") for at in (0, 4, 8))
    if not _holds_words(entry) or segments != 2:
        raise _Unusual
    halves = np.empty((entry.rows * entry.columns, 2), "u1")
    try:
        for half, packed in ((1, content[high:low]), (0, content[low:])):
            halves[:, half] = np.frombuffer(imagecodecs.packbits_decode(packed), "u1").reshape(len(halves))
    except (imagecodecs.PackbitsError, ValueError) as error:
        raise _Unusual from error
    return _words(entry, halves.view("<u2").reshape(entry.rows, entry.columns))


def _words(entry: Slice, values: np.ndarray) -> np.ndarray:
    """Return decoded 16-bit words with the sign that the header gives, if no bits are set that it calls unused."""
    bits = entry.get("BitsStored")
    if bits < 16 and values.max() >> bits:
        raise _Unusual
    return values.astype("<u2", copy=False).view("<i2" if _is_signed(entry) else "<u2")


# imagecodecs lets other threads run, as the plugins of pydicom do not. Not its RLE decoder for DICOM: it crashes on damaged
# data, as GDCM does on JPEG.
OWN: Final[dict[str, Callable[[Slice], np.ndarray]]] = {
    "1.2.840.10008.1.2.4.50": _jpeg,  # Baseline, lossy
    "1.2.840.10008.1.2.4.51": _jpeg,  # Extended, lossy
    "1.2.840.10008.1.2.4.57": _jpeg_lossless,
    "1.2.840.10008.1.2.4.70": _jpeg_lossless,  # first-order prediction
    "1.2.840.10008.1.2.4.80": _jpeg_ls,
    "1.2.840.10008.1.2.4.81": _jpeg_ls,
    "1.2.840.10008.1.2.4.90": _jpeg_2000,
    "1.2.840.10008.1.2.4.91": _jpeg_2000,
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)), _htj2k),
    "1.2.840.10008.1.2.5": _rle,
}
SYNTAXES: Final = PLUGINS.keys() | OWN.keys()


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
    return (value + 0x8000) % 0x10000 - 0x8000 if _is_signed(entry) else value % 0x10000


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
        values[_padded(stored, entry, padding)] = HU_MIN
    return values


def _padded(stored: np.ndarray, entry: Slice, padding: tuple[int, int]) -> np.ndarray:
    """Return where a slice is padding; a value that tissue may have (0 of HU is water) is so only up to the picture's edge."""
    inside = (stored >= padding[0]) & (stored <= padding[1])
    low, high = sorted((entry.slope or 1) * value + (entry.intercept or 0) for value in padding)
    if high < TISSUE_HU[0] or low > TISSUE_HU[1]:
        return inside
    labels, _ = ndimage.label(inside)
    edge = np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
    return inside & np.isin(labels, edge[edge > 0])


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
        values[_padded(stored, entry, padding)] = HU_MIN
    beyond = np.count_nonzero(values > HIGHEST_HU)
    lowest = int(values.min())
    if lowest < LOWEST_HU:
        beyond += np.count_nonzero((values < LOWEST_HU) & (values > lowest + UNTOLD_PADDING))
    return values, beyond / values.size
