"""A slow, literal encoder of JPEG Lossless (ITU-T T.81, Annex H): every predictor, point transform and restart interval."""

import numpy as np


def segment(marker, content):
    """Return a marker segment; bytes of 255 may stand before any marker."""
    return b"\xff\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content


def predicted(x, i, j, predictor, first, start):
    """Return what the neighbours of x[i, j] predict; `first`: line in which its interval begins."""
    if i == first:
        return start if j == 0 else x[i, j - 1]
    if j == 0:
        return x[i - 1, j]
    left, above, corner = x[i, j - 1], x[i - 1, j], x[i - 1, j - 1]
    return {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + ((above - corner) >> 1),
        6: above + ((left - corner) >> 1),
        7: (left + above) >> 1,
    }[predictor]


def encode(values, precision, predictor=1, transform=0, lines=0):
    """Return a frame of non-negative values; codes of all 17 categories have five bits; `lines` in a restart interval."""
    x = np.asarray(values, dtype=np.int64) >> transform
    rows, columns = x.shape
    scan = b""
    for first in range(0, rows, lines or rows):
        bits = ""
        for i in range(first, min(first + (lines or rows), rows)):
            for j in range(columns):
                difference = int(x[i, j] - predicted(x, i, j, predictor, first, 1 << (precision - transform - 1)))
                difference = (difference + 32767) % 65536 - 32767  # -32767 to 32768
                category = abs(difference).bit_length()
                bits += f"{category:05b}"
                if 0 < category < 16:
                    bits += f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}"
        bits += "1" * (-len(bits) % 8)
        if first:
            scan += bytes([0xFF, 0xD0 + (first // lines - 1) % 8])
        scan += int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    table = bytes([0] * 4 + [17] + [0] * 11) + bytes(range(17))
    frame = bytes([precision]) + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    parts = [segment(0xC4, b"\x01" + table + b"\x00" + table), segment(0xC3, frame)]
    if lines:
        parts.append(segment(0xDD, (lines * columns).to_bytes(2, "big")))
    parts.append(segment(0xDA, bytes([1, 1, 0, predictor, 0, transform])))
    return b"\xff\xd8" + b"".join(parts) + scan + b"\xff\xff\xd9"
