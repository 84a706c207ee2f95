"""Frames of JPEG Lossless: every form of T.81's Annex H is read, and no bit may be damaged unnoticed."""

import numpy as np
import pytest
from jpeg_frames import encode

from covid3d.dicom.jpeg import decode_lossless

DAMAGE = (ValueError, IndexError, KeyError, RuntimeError)


def values(rng, precision, shape=(12, 9)):
    found = rng.integers(0, 1 << precision, shape)
    found[0, :2] = 0, (1 << precision) - 1
    return found


@pytest.mark.parametrize("lines", [0, 1, 5])
@pytest.mark.parametrize("transform", [0, 2])
@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("precision", [8, 12, 16])
def test_a_frame_of_any_form_is_read_as_a_literal_encoder_wrote_it(precision, predictor, transform, lines):
    wanted = values(np.random.default_rng(0), precision)
    found, bits = decode_lossless(encode(wanted, precision, predictor, transform, lines))
    assert (found.dtype, bits) == (np.uint16, precision)
    np.testing.assert_array_equal(found, wanted >> transform << transform)


def test_a_difference_of_32768_has_no_further_bits():
    wanted = np.array([[32768, 0], [32768, 65535]])
    np.testing.assert_array_equal(decode_lossless(encode(wanted, 16))[0], wanted)


def test_what_follows_the_end_of_a_frame_is_left():
    wanted = values(np.random.default_rng(0), 12)
    np.testing.assert_array_equal(decode_lossless(encode(wanted, 12) + b"\0\xff\xd9\0")[0], wanted)


@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_a_damaged_scan_is_refused_or_is_that_of_the_values_it_gives(predictor):
    rng = np.random.default_rng(1)
    content = encode(values(rng, 12), 12, predictor)
    start, read = content.index(b"\xff\xff\xda") + 11, 0
    for at in range(start, len(content) - 3):
        other = bytes([content[at] ^ 1 << int(rng.integers(8))])
        before, after = content[:at], content[at + 1 :]
        for damaged in (
            before + after,
            before + b"\x55" + content[at:],
            before + other + after,
            before + b"\0\0" + after,
        ):
            try:
                found, _ = decode_lossless(damaged)
            except DAMAGE:
                continue
            read += 1
            again = encode(found, 12, predictor)
            assert again[:-4] == damaged[: len(again) - 4], at  # but for the bits that fill the last byte
    assert read < len(content)


def test_a_frame_that_lost_its_last_value_is_refused():
    rng, tried = np.random.default_rng(2), 0
    for _ in range(40):
        wanted = values(rng, 12)
        wanted[-1, -1] = wanted[-1, -2]  # its difference is 0: five bits, which may fit into the last byte's padding
        content = encode(wanted, 12)
        scan = content[content.index(b"\xff\xff\xda") + 11 : -3].replace(b"\xff\0", b"\xff")
        bits = f"{int.from_bytes(scan, 'big'):0{8 * len(scan)}b}"
        kept = bits.rstrip("1").removesuffix("00000")
        if len(bits) - len(kept) > 7:
            continue
        tried += 1
        lost = int(kept.ljust(len(bits), "1"), 2).to_bytes(len(scan), "big").replace(b"\xff", b"\xff\0")
        with pytest.raises(DAMAGE, match="last value|use up"):
            decode_lossless(content[: content.index(b"\xff\xff\xda") + 11] + lost + b"\xff\xd9")
    assert tried > 5


@pytest.mark.parametrize("lines", [0, 3])
def test_a_marker_within_a_scan_is_refused(lines):
    content = encode(values(np.random.default_rng(3), 16, (24, 20)), 16, lines=lines)
    start = content.index(b"\xff\xff\xda") + 11
    places = [at for at in range(start, len(content) - 4) if content[at] in (0xFE, 0xFD, 0xFB) and content[at + 1]]
    assert len(places) > 5
    for at in places:  # one bit, often one that leaves the length of every code as it is
        with pytest.raises(DAMAGE):
            decode_lossless(content[:at] + b"\xff" + content[at + 1 :])


def test_headers_cut_short_or_changed_never_give_other_values():
    wanted = values(np.random.default_rng(4), 12)
    content = encode(wanted, 12)
    precision = content.index(b"\xff\xff\xc3") + 5
    for at in range(2, content.index(b"\xff\xff\xda") + 11):
        for byte in (0, 1, 0x80, 0xFF):
            try:
                found, _ = decode_lossless(content[:at] + bytes([byte]) + content[at + 1 :])
            except DAMAGE:
                continue
            same = found.shape == wanted.shape and (found == wanted).all()
            assert same or at == precision, at  # which alone moves all values alike
