"""Stored values of compressed slices beside pydicom's own plugins, for every way to store a word."""

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import slice_dataset, to_jpeg_lossless
from jpeg_frames import encode
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from covid3d.dicom.headers import read_slices
from covid3d.dicom.jpeg import decode_lossless
from covid3d.dicom.pixels import OWN, _Unusual, stored_values
from covid3d.run.errors import SeriesError

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


def own(path):
    """Return the values by the decoder of the package alone."""
    (entry,) = read_slices(path)
    return OWN[entry.syntax](entry)


def put(path, frames, syntax, values, **tags):
    """Write frames, compressed already, as one file; return its path."""
    dataset = slice_dataset(values, 0, generate_uid())
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData, dataset.file_meta.TransferSyntaxUID = encapsulate(frames), UID(syntax)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_decoders_that_run_side_by_side_agree_with_those_of_pydicom(tmp_path, syntax, words):
    path, values = write(tmp_path, syntax, *WORDS[words])
    (entry,) = read_slices(path)
    found = stored_values(entry)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(found, pixel_array(path, raw=True, decoding_plugin=REFERENCES[syntax]))
    assert own(path).dtype == found.dtype, "pydicom had to step in"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_words_with_a_sign_below_their_upper_bits_are_read_too(tmp_path, syntax):
    path, values = write(tmp_path, syntax, -2048, 2047, 12, 1)
    (entry,) = read_slices(path)
    np.testing.assert_array_equal(stored_values(entry), values)


@pytest.mark.parametrize("syntax", ["RLE", "JPEG-LS", "JPEG 2000"])
def test_signs_that_the_fast_decoders_do_not_know_are_left_to_pydicom(tmp_path, syntax):
    path, _ = write(tmp_path, syntax, -2048, 2047, 12, 1)
    with pytest.raises(_Unusual):
        own(path)
    path, _ = write(tmp_path, syntax, 0, 4095, 12, 0)
    dataset = dcmread(path)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1  # not what the frame says
    dataset.save_as(path)
    (entry,) = read_slices(path)
    reference = pixel_array(path, raw=True, decoding_plugin=REFERENCES[syntax])
    np.testing.assert_array_equal(stored_values(entry), reference)


@pytest.mark.parametrize(("predictor", "transform", "lines"), [(1, 0, 0), (4, 0, 0), (6, 1, 0), (7, 0, 8)])
def test_jpeg_lossless_of_any_form_agrees_with_gdcm(tmp_path, predictor, transform, lines):
    values = np.random.default_rng(0).integers(0, 4096, (40, 56))
    frame = encode(values, 12, predictor, transform, lines)
    path = put(tmp_path / "slice.dcm", [frame], "1.2.840.10008.1.2.4.57", values, RescaleIntercept=0)
    np.testing.assert_array_equal(own(path), sitk.GetArrayFromImage(sitk.ReadImage(path))[0])


@pytest.mark.parametrize(("bits", "syntax"), [(8, "1.2.840.10008.1.2.4.50"), (12, "1.2.840.10008.1.2.4.51")])
def test_lossy_jpeg_is_decoded_as_gdcm_does(tmp_path, bits, syntax):
    values = np.add.outer(np.arange(40), np.arange(56)).astype("u1" if bits == 8 else "<u2") << (bits - 7)
    frame = imagecodecs.jpeg8_encode(values, level=90, bitspersample=bits)
    words = {"BitsAllocated": 8 if bits == 8 else 16, "BitsStored": bits, "HighBit": bits - 1}
    path = put(tmp_path / "slice.dcm", [frame], syntax, values, RescaleIntercept=0, **words)
    (entry,) = read_slices(path)
    np.testing.assert_array_equal(stored_values(entry), sitk.GetArrayFromImage(sitk.ReadImage(path))[0])


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
            values = stored_values(entry)
        except SeriesError:
            continue
        np.testing.assert_array_equal(values, pixel_array(dataset, raw=True, decoding_plugin="gdcm"))
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        passed += decode_lossless(frame)[0].max() < 1 << 12  # others have bits that the header calls unused
    assert 0 < passed < 20


def test_a_frame_of_jpeg_ls_without_its_end_is_refused_at_once(tmp_path):
    values = np.linspace(0, 4095, 40 * 56).astype(int).reshape(40, 56)  # on smooth slices CharLS would never return
    frame = imagecodecs.jpegls_encode(values.astype("<u2"))
    for length in range(len(frame) // 4, len(frame) - 2, 7):
        path = put(tmp_path / "slice.dcm", [frame[:length]], JPEGLSLossless, values)
        (entry,) = read_slices(path)
        with pytest.raises(SeriesError, match="incomplete or damaged"):
            stored_values(entry)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_table_of_offsets_that_no_longer_fits_a_single_slice_does_not_matter(tmp_path, syntax):
    path, values = write(tmp_path, syntax, *WORDS["12 bits"])
    dataset = dcmread(path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    content = encapsulate([frame], has_bot=True)
    dataset.PixelData = content[:8] + (64).to_bytes(4, "little") + content[12:]
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    np.testing.assert_array_equal(own(path), values)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_frames_are_found_by_an_extended_table_of_offsets(tmp_path, syntax):
    frames, slices = [], []
    for highest in (900, 4095):
        path, values = write(tmp_path, syntax, 0, highest, 12, 0)
        dataset = dcmread(path)
        frames.append(get_frame(dataset.PixelData, 0, number_of_frames=1))
        slices.append(values)
    content, offsets, lengths = encapsulate_extended(frames)
    table = np.frombuffer(offsets, "<u8"), np.frombuffer(lengths, "<u8")
    dataset.NumberOfFrames = 2  # which are stored in the other order
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (one[::-1].tobytes() for one in table)
    dataset.PixelData = content
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    for entry, values in zip(read_slices(path), slices[::-1], strict=True):
        np.testing.assert_array_equal(stored_values(entry), values)


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
