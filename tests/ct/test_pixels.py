"""Stored values of compressed slices beside pydicom's own plugins, for every way to store a word."""

import numpy as np
import pytest
from dicom_series import slice_dataset, to_jpeg_lossless
from pydicom import dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from covid3d.ct.headers import read_slices
from covid3d.ct.pixels import _fast, stored_values
from covid3d.errors import SeriesError

SYNTAXES = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless, "JPEG Lossless": None}
REFERENCES = {"RLE": "pydicom", "JPEG-LS": "pyjpegls", "JPEG 2000": "pylibjpeg", "JPEG Lossless": "gdcm"}
WORDS = {"12 bits": (0, 4095, 12, 0), "16 bits": (0, 65535, 16, 0), "signed": (-32768, 32767, 16, 1)}


def write(tmp_path, syntax, lowest, highest, bits, signed):
    """Write one slice that uses the whole range of its words; return its path and values."""
    values = np.random.default_rng(0).integers(lowest, highest, (40, 56), endpoint=True)
    values[0, :2] = lowest, highest
    values[10:30, 10:40] = np.linspace(lowest, highest, 30).astype(int)
    dataset = slice_dataset(values, 0, generate_uid())
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, signed
    dataset.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    if SYNTAXES[syntax] is not None:
        dataset.compress(SYNTAXES[syntax], generate_instance_uid=False)
    path = tmp_path / "slice.dcm"
    dataset.save_as(path, enforce_file_format=True)
    if syntax == "JPEG Lossless":
        to_jpeg_lossless(path)
    return path, values


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_decoders_that_run_side_by_side_agree_with_those_of_pydicom(tmp_path, syntax, words):
    path, values = write(tmp_path, syntax, *WORDS[words])
    (entry,) = read_slices(path)
    found = stored_values(entry)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(found, pixel_array(path, raw=True, decoding_plugin=REFERENCES[syntax]))
    fast = _fast(entry)
    assert fast is not None and fast.dtype == found.dtype, "pydicom had to step in"


@pytest.mark.parametrize("syntax", ["RLE", "JPEG-LS", "JPEG 2000"])
def test_words_with_a_sign_below_their_upper_bits_are_left_to_pydicom(tmp_path, syntax):
    path, values = write(tmp_path, syntax, -2048, 2047, 12, 1)
    (entry,) = read_slices(path)
    assert _fast(entry) is None
    np.testing.assert_array_equal(stored_values(entry), values)


def test_damaged_jpeg_lossless_is_never_read_otherwise_than_by_gdcm(tmp_path):
    path, _ = write(tmp_path, "JPEG Lossless", *WORDS["12 bits"])
    (entry,) = read_slices(path)
    dataset, rng, passed = dcmread(path), np.random.default_rng(1), 0
    sound = dataset.PixelData
    for _ in range(60):
        damaged = bytearray(sound)
        damaged[int(rng.integers(200, len(sound) - 2))] = int(rng.integers(256))
        dataset.PixelData = entry.dataset.PixelData = bytes(damaged)
        try:
            fast = _fast(entry)
        except (ValueError, IndexError, RuntimeError):
            continue
        if fast is None:  # looks like another kind
            continue
        passed += 1
        np.testing.assert_array_equal(fast, pixel_array(dataset, raw=True, decoding_plugin="gdcm"))
    assert 0 < passed < 20


def test_a_marker_within_the_scan_of_jpeg_lossless_is_refused(tmp_path):
    path, _ = write(tmp_path, "JPEG Lossless", *WORDS["16 bits"])
    (entry,) = read_slices(path)
    sound = dcmread(path).PixelData
    places = [at for at in range(300, len(sound) - 40) if sound[at] in (0xFE, 0xFD, 0xFB) and sound[at + 1]]
    assert len(places) > 20
    for at in places:  # one bit, often one that leaves the length of every code as it is
        entry.dataset.PixelData = sound[:at] + b"\xff" + sound[at + 1 :]
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            _fast(entry)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_half_a_slice_is_refused(tmp_path, syntax):
    path, _ = write(tmp_path, syntax, *WORDS["12 bits"])
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    (entry,) = read_slices(path)
    with pytest.raises(SeriesError, match="incomplete or damaged"):
        stored_values(entry)
