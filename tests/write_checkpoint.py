"""Write TensorFlow V2 checkpoints without TensorFlow, and with code of its own, for the tests of the reader.

`python tests/write_checkpoint.py` writes tests/data/small.ckpt.{index,data-00000-of-00001} again: the variables of
tests/data/kinetics600_variables.csv with the channels of an I3D of width 1/16, their values drawn by a fixed rule.
tests/data/kinetics600.ckpt.index is the true index of rgb_scratch_kin600, google-deepmind/kinetics-i3d, Apache-2.0.
"""

import csv
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from covid3d.kinetics.convert import our_name
from covid3d.network.i3d import InceptionI3d

HERE = Path(__file__).parent / "data"


def slow_crc32c(content: bytes) -> int:
    """CRC-32C bit by bit through a table of 256, as RFC 3720 describes it."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    return ((crc >> 15) + (crc << 17) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    return varint(number * 8 + 2) + varint(len(value)) + value


def block(pairs: Mapping[bytes, bytes], compressed: int = 0) -> bytes:
    """A LevelDB block, a restart point at every 16th key, with its kind and checksum."""
    body, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(sorted(pairs.items())):
        shared = 0
        if number % 16:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(body))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    body += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + bytes([compressed])
    return body + struct.pack("<I", mask(slow_crc32c(body)))


def table(pairs: Mapping[bytes, bytes], keys_per_block: int = 100, compressed: int = 0) -> bytes:
    """A LevelDB table: data blocks, an empty meta block, the index block, the footer."""
    content, handles, keys = b"", {}, sorted(pairs)
    for start in range(0, len(keys), keys_per_block):
        part = keys[start : start + keys_per_block]
        written = block({key: pairs[key] for key in part}, compressed)
        handles[part[-1]] = varint(len(content)) + varint(len(written) - 5)
        content += written
    ends = b""
    for written in (block({}), block(handles)):
        ends += varint(len(content)) + varint(len(written) - 5)
        content += written
    return content + ends.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def write(
    prefix: Path,
    variables: Mapping[str, np.ndarray],
    checksum: Callable[[bytes], int] = slow_crc32c,
    entry: Callable[[str, bytes], bytes] = lambda name, message: message,
    header: bytes = field(1, 1) + field(3, field(1, 1)),
    **options: int,
) -> None:
    """Write a checkpoint of float32 variables; `entry` and `header` let a test spoil what stands in the index."""
    pairs, shard = {b"": header}, []
    offset = 0
    for name, values in sorted(variables.items()):
        content = values.astype("<f4").tobytes()
        shape = b"".join(field(2, field(1, size)) for size in values.shape)
        message = field(1, 1) + field(2, shape) + field(4, offset) * (offset > 0) + field(5, len(content))
        message += varint(6 * 8 + 5) + struct.pack("<I", mask(checksum(content)))
        pairs[name.encode()] = entry(name, message)
        shard.append(content)
        offset += len(content)
    Path(f"{prefix}.index").write_bytes(table(pairs, **options))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(b"".join(shard))


def shapes(width: float, momentum: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the Kinetics-600 variables, channels scaled by `width`; the head keeps its 600 classes."""
    ours = InceptionI3d(in_channels=3, width=width).state_dict()
    found = {}
    with (HERE / "kinetics600_variables.csv").open() as stream:
        for row in csv.DictReader(stream):
            layer = row["name"].removesuffix("/Momentum")
            name = our_name(layer)
            if name:
                shape = tuple(ours[name].shape)
                shape = (*shape[2:], shape[1], shape[0]) if len(shape) == 5 else (1, 1, 1, 1, *shape)
            else:
                shape = (600,) if layer.endswith("b") else (1, 1, 1, 1024 if width == 1 else 1, 600)
            if momentum or layer == row["name"]:
                found[row["name"]] = shape
    return found


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return values in steps of 1/256 that differ from place to place and variable to variable; variances are positive."""
    number = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(sum(name.encode()) * 7919)
    drawn = (number * np.uint32(2654435761) >> np.uint32(24)).astype(np.float32).reshape(shape) / 256
    return drawn + 0.5 if name.endswith("variance") else drawn - 0.5


def small(width: float = 1 / 16) -> dict[str, np.ndarray]:
    """Return the variables of the committed checkpoint: momentum of the biases alone, to keep it small."""
    wanted = shapes(width)
    kept = [name for name in wanted if not name.endswith("/w/Momentum")]
    return {name: values(name, wanted[name]) for name in kept}


if __name__ == "__main__":
    write(HERE / "small.ckpt", small())
