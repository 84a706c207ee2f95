"""Faults of DICOM files and pixels that are no truncation have sentences of their own, and broken frames give no values."""

import re

import imagecodecs
import numpy as np
import pydicom
import pytest
from conftest import CHECKOUT
from dicom_series import body, rewrite, slice_dataset, write_series
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from covid3d.dicom.jpeg import decode_lossy
from covid3d.dicom.pixels import OWN, PLUGINS, SYNTAXES
from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

HTJ2K = {name: f"1.2.840.10008.1.2.4.{name}" for name in ("201", "202", "203")}
LOSSY = {8: "1.2.840.10008.1.2.4.50", 12: "1.2.840.10008.1.2.4.51"}


def refusal(path):
    with pytest.raises(SeriesError) as caught:
        read_ct(path)
    return caught.value


def set_frame(dataset, frame, syntax):
    dataset.PixelData, dataset.file_meta.TransferSyntaxUID = encapsulate([frame]), syntax
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def lossy(bits):
    """Return what changes a slice to lossy JPEG of 8 or 12 bits."""

    def change(dataset, index):
        stored = body()[index].astype(int) + 1024
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        if bits == 8:
            dataset.BitsAllocated, dataset.RescaleSlope = 8, 8
            frame = imagecodecs.jpeg8_encode((stored // 8).clip(0, 255).astype("u1"), level=97)
        else:
            frame = imagecodecs.jpeg8_encode(stored.astype("<u2"), level=98, bitspersample=12)
        set_frame(dataset, frame, LOSSY[bits])

    return change


def high_throughput(syntax):
    def change(dataset, index):
        stored = (body()[index].astype(int) + 1024).astype("<u2")
        set_frame(dataset, imagecodecs.htj2k_encode(stored, reversible=True), syntax)

    return change


def frame_of(path):
    return get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)


SERIES = {
    "JPEG 8 bits": {"change": lossy(8)},
    "JPEG 12 bits": {"change": lossy(12)},
    "JPEG-LS": {"syntax": JPEGLSLossless},
    "JPEG 2000": {"syntax": JPEG2000Lossless},
    "RLE": {"syntax": RLELossless},
    **{f"HTJ2K {name}": {"change": high_throughput(syntax)} for name, syntax in HTJ2K.items()},
}


@pytest.mark.parametrize("case", SERIES)
def test_a_frame_that_was_cut_is_refused_whatever_its_file_looks_like(tmp_path, case):
    path = sorted(write_series(tmp_path, **SERIES[case]).iterdir())[7]
    read_ct(tmp_path)
    frame = frame_of(path)
    syntax = pydicom.dcmread(path).file_meta.TransferSyntaxUID
    for length in (len(frame) // 4, len(frame) // 2, len(frame) * 7 // 8, len(frame) - 30):
        endings = [b""] if case == "RLE" else [b"", b"\xff\xd9", bytes(len(frame) - length)]
        for ending in endings:
            dataset = pydicom.dcmread(path)
            set_frame(dataset, frame[:length] + ending, syntax)
            dataset.save_as(path)
            assert refusal(tmp_path).code == "truncated", (length, ending[:2])


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_lossy_frame_that_lost_its_last_bytes_is_refused(bits, optimize):
    values = np.random.default_rng(0).integers(0, 1 << bits, (40, 56)).astype("u1" if bits == 8 else "<u2")
    values[20:] = np.linspace(0, (1 << bits) - 1, 56).astype(values.dtype)
    frame = imagecodecs.jpeg8_encode(values, level=90, bitspersample=bits, optimize=optimize)
    np.testing.assert_array_equal(decode_lossy(frame), imagecodecs.jpeg8_decode(frame))
    np.testing.assert_array_equal(decode_lossy(frame + b"\0\xff\xd9"), imagecodecs.jpeg8_decode(frame))
    for lost in range(1, 60):
        for ending in (b"", b"\0\0", b"\xff\xd9"):
            with pytest.raises((ValueError, IndexError)):
                decode_lossy(frame[: -2 - lost] + ending)


def test_a_lossy_frame_that_lost_part_of_one_interval_is_refused(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (64, 64)).astype("u1")
    Image.fromarray(values).save(tmp_path / "restart.jpg", restart_marker_rows=2, quality=90)
    frame = (tmp_path / "restart.jpg").read_bytes()
    np.testing.assert_array_equal(decode_lossy(frame), np.asarray(Image.open(tmp_path / "restart.jpg")))
    ends = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", frame)]
    assert len(ends) == 3
    for end in ends:
        with pytest.raises(ValueError, match="not all in the frame"):
            decode_lossy(frame[: end - 40] + frame[end:])


@pytest.mark.parametrize("name", HTJ2K)
def test_high_throughput_jpeg_2000_holds_the_same_values(tmp_path, name):
    volume = read_ct(write_series(tmp_path, change=high_throughput(HTJ2K[name])))
    np.testing.assert_array_equal(volume.hu, body())
    assert volume.series.transfer_syntax == HTJ2K[name]


def test_the_book_lists_the_transfer_syntaxes_that_are_read():
    page = (CHECKOUT / "book" / "own_scans.md").read_text()
    assert set(re.findall(r"1\.2\.840\.10008\.1\.2[.\d]*\d|1\.2\.840\.10008\.1\.2(?!\.)", page)) == SYNTAXES
    for syntax in SYNTAXES - {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}:
        wanted = PLUGINS.get(syntax, "")
        decoder = get_decoder(syntax)
        assert wanted in decoder.available_plugins if wanted else syntax in OWN or decoder.is_native


def floats(dataset, index):
    del dataset.PixelData
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = body()[index].astype("<f4").tobytes()


def test_floating_point_pixels_are_named(tmp_path):
    error = refusal(write_series(tmp_path, change=floats))
    assert (error.code, error.what) == ("not_hu", "the pixels are floating-point numbers")


@pytest.mark.parametrize(
    "kind", ["1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.7"]
)
def test_an_object_of_another_kind_without_pixels_is_set_aside(tmp_path, kind):
    write_series(tmp_path)

    def without(dataset, index):
        floats(dataset, index)
        dataset.SOPClassUID = kind
        if kind.endswith(".7"):
            del dataset.FloatPixelData

    write_series(tmp_path / "report", body()[:1], change=without, SeriesNumber=99)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())


def test_big_endian_values_without_file_meta_information_are_named(tmp_path):
    write_series(tmp_path, names="none")
    path = sorted(tmp_path.iterdir())[3]
    dataset = pydicom.dcmread(path)
    fresh = pydicom.Dataset({element.tag: element for element in dataset})
    pydicom.dcmwrite(path, fresh, implicit_vr=False, little_endian=False)
    error = refusal(tmp_path)
    assert error.code == "unsupported_syntax"
    assert "no file meta information" in error.what and "big endian" in error.what


def test_a_file_named_as_dicom_that_is_none_is_named(tmp_path):
    write_series(tmp_path)
    (tmp_path / "page.dcm").write_text("<html>" + "x" * 500)
    assert (refusal(tmp_path).code, refusal(tmp_path).what) == ("unreadable", "a file named as DICOM is none")


@pytest.mark.parametrize(
    "tags", [{"BitsAllocated": None}, {"BitsStored": None}, {"BitsStored": 17}, {"BitsAllocated": 12}]
)
def test_a_header_that_does_not_say_how_pixels_are_stored_is_named(tmp_path, tags):
    rewrite(sorted(write_series(tmp_path).iterdir())[3], **tags)
    error = refusal(tmp_path)
    assert (error.code, error.what) == ("unreadable", "a header does not say how its pixels are stored")


def test_a_frame_of_another_matrix_than_its_header_is_named(tmp_path):
    def change(dataset, index):
        if index == 3:
            set_frame(dataset, imagecodecs.jpegls_encode(np.zeros((48, 40), "<u2")), JPEGLSLossless)
        else:
            dataset.compress(JPEGLSLossless, generate_instance_uid=False)

    error = refusal(write_series(tmp_path, change=change))
    assert error.code == "unreadable"
    assert "(48, 40) pixels" in error.what


def test_a_header_without_modality_and_class_is_named(tmp_path):
    write_series(tmp_path)
    dataset = slice_dataset(body()[0], 0, generate_uid())
    del dataset.Modality, dataset.SOPClassUID
    dataset.save_as(tmp_path / "other.dcm", enforce_file_format=False)
    assert refusal(tmp_path).what == "a header does not say what image it is of"
