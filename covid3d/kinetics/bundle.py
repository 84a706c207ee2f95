"""Read a TensorFlow V2 checkpoint (a "tensor bundle") without TensorFlow, every byte of it checked.

PREFIX.index is a LevelDB table (google/leveldb, doc/table_format.md): blocks of sorted keys and values, each followed by its
kind and a masked CRC-32C. The empty key's value is a BundleHeaderProto, any other key is a variable's name and its value a
BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto). PREFIX.data-00000-of-00001 holds the variables' bytes.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covid3d.run.errors import WeightsError

SHARD = ".data-00000-of-00001"
MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5
FLOAT32 = 1
CURE = "It may be truncated or changed on its way: fetch it again"
POLYNOMIAL = 0x82F63B78
PIECE = 1 << 16  # words
ALL_ONES = bytes.fromhex("54641f64")  # from an empty register, these four bytes lead to 0xFFFFFFFF


class Variable(NamedTuple):
    """Where a float32 variable lies in the shard: shape, offset and size in bytes, masked CRC-32C of its bytes."""

    shape: tuple[int, ...]
    offset: int
    size: int
    crc32c: int


def read_index(path: Path) -> dict[str, Variable]:
    """Return a checkpoint's variables by name; a WeightsError for an index that is damaged or of another kind.

    The variables tile the shard: where one ends the next begins, so the last one's end is the shard's size.
    """
    try:
        entries = {key.decode(): _fields(value) for key, value in _table(path.read_bytes())}
        header = entries.pop("")
        if header.get(1, 0) != 1 or header.get(2, 0) != 0:
            raise ValueError("it has several shards, or is big-endian")
        variables = {name: _variable(name, entry) for name, entry in entries.items()}
        end = 0
        for name, variable in sorted(variables.items(), key=lambda item: item[1].offset):
            if variable.offset != end:
                raise ValueError(f"'{name}' does not begin where the variable before it ends")
            end += variable.size
    except OSError as error:
        raise WeightsError(
            f"it cannot be read ({error.strerror})", where=path.name, cure="Give another file"
        ) from error
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise WeightsError(f"not a whole checkpoint index ({error})", where=path.name, cure=CURE) from error
    return variables


def shard_size(variables: dict[str, Variable]) -> int:
    """Return the number of bytes that a checkpoint's shard must have."""
    return sum(variable.size for variable in variables.values())


def read_variables(path: Path, variables: dict[str, Variable]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every variable of a shard, float32 of its shape; a WeightsError for another size or a wrong checksum."""
    try:
        shard = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"it cannot be read ({error.strerror})", where=path.name, cure="Give another file"
        ) from error
    if len(shard) != shard_size(variables):
        what = f"it has {len(shard):,} bytes, but its index asks for {shard_size(variables):,}"
        raise WeightsError(what, where=path.name, cure=CURE)
    for name, (shape, offset, size, checksum) in variables.items():
        content = shard[offset : offset + size]
        if masked(crc32c(content)) != checksum:
            raise WeightsError("its checksum (CRC-32C) is wrong", where=f"{path.name}, variable {name}", cure=CURE)
        yield name, np.frombuffer(content, "<f4").reshape(shape)


def _variable(name: str, entry: dict[int, Any]) -> Variable:
    """Return what a BundleEntryProto says: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 CRC; 7 are slices."""
    shape = tuple(_fields(axis).get(1, 0) for axis in _all_fields(entry.get(2, b""), 2))
    offset, size = entry.get(4, 0), entry.get(5, 0)
    if entry.get(1) != FLOAT32 or entry.get(3, 0) != 0 or 7 in entry:
        raise ValueError(f"'{name}' is no float32 variable in one piece")
    if size != 4 * math.prod(shape):
        raise ValueError(f"'{name}' has {size} bytes for the shape {shape}")
    return Variable(shape, offset, size, int.from_bytes(entry[6], "little"))


# --- the table -------------------------------------------------------------------------------------------------------


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a LevelDB table: the footer leads to the index block, that one to the data blocks."""
    footer = content[-FOOTER:]
    if len(footer) != FOOTER or footer[-8:] != MAGIC:
        raise ValueError("it does not end like a table")
    meta_offset, meta_size, index_offset, index_size, *padding = _varints(footer[:-8])
    if any(padding):
        raise ValueError("its footer is damaged")
    list(_block(content, meta_offset, meta_size))  # empty; its checksum counts
    for _, handle in _block(content, index_offset, index_size):
        offset, size = _varints(handle)
        yield from _block(content, offset, size)


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; each key is kept as what it shares with the one before, and the rest."""
    block, trailer = content[offset : offset + size], content[offset + size : offset + size + TRAILER]
    if len(trailer) != TRAILER or masked(crc32c(block + trailer[:1])) != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the checksum (CRC-32C) of the block at byte {offset} is wrong")
    if trailer[0]:
        raise ValueError(f"the block at byte {offset} is compressed, which checkpoints are not")
    end = size - 4 * (int.from_bytes(block[-4:], "little") + 1)  # restart points follow, then their number
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length
    if at != end:
        raise ValueError(f"the block at byte {offset} is cut short")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length number at a position, seven bits a byte from the lowest, and where it ends."""
    value, shift, start = 0, 0, at
    while True:
        value |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] == 0 < at - start - 1:
            raise ValueError("a number is longer than it needs to be")
        if content[at - 1] < 0x80:
            return value, at


def _varints(content: bytes) -> list[int]:
    """Return all variable-length numbers of some bytes."""
    values, at = [], 0
    while at < len(content):
        value, at = _varint(content, at)
        values.append(value)
    return values


# --- protocol buffers ------------------------------------------------------------------------------------------------


def _messages(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of every field: an int for a varint, bytes for a string, a message or a fixed 32 bits."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, size = tag & 7, 4
        if kind in (0, 2):
            size, at = _varint(message, at)
        elif kind != 5:
            raise ValueError(f"a field of kind {kind}")
        if kind == 0:
            yield tag >> 3, size
        else:
            yield tag >> 3, message[at : at + size]
            at += size
    if at != len(message):
        raise ValueError("a message is cut short")


def _fields(message: bytes) -> dict[int, Any]:
    """Return the fields of a message by number; of a repeated one the last."""
    return dict(_messages(message))


def _all_fields(message: bytes, number: int) -> list[Any]:
    """Return every value of a repeated field."""
    return [value for found, value in _messages(message) if found == number]


# --- CRC-32C ---------------------------------------------------------------------------------------------------------


def masked(crc: int) -> int:
    """Return a CRC as tables and checkpoints store it: turned by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli, RFC 3720) of some bytes, in numpy: seconds for a hundred megabytes.

    A CRC is linear: with M the step of the register over four zero bytes, words w1 … wn leave M(M(…M(w1) + w2 …) + wn),
    + being xor. Neighbours are joined, M(w1) + w2, then neighbours of these with M twice, until one word is left; pieces
    of PIECE words stay in the processor's cache. Zeros in front change nothing.
    """
    words = np.frombuffer(bytes(-len(content) % 4) + ALL_ONES + content, "<u4")
    register = np.zeros(1, np.uint32)
    for start in range(0, len(words), PIECE):
        piece = words[start : start + PIECE].copy()
        piece[0] ^= register[0]
        doublings = 0
        while len(piece) > 1:
            if len(piece) % 2:
                piece = np.concatenate([piece[:1] * 0, piece])
            piece = _step(piece[0::2], doublings) ^ piece[1::2]
            doublings += 1
        register = _step(piece, 0)
    return int(register[0]) ^ 0xFFFFFFFF


def _step(registers: np.ndarray, doublings: int) -> np.ndarray:
    """Return registers after 4 * 2**doublings zero bytes."""
    low, high = _tables(doublings)
    return low[registers & 0xFFFF] ^ high[registers >> 16]


@functools.cache
def _tables(doublings: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each value of a register's lower, and of its upper 16 bits leads to."""
    bits = 1 << np.arange(32, dtype=np.uint32)
    if doublings:
        bits = _step(_step(bits, doublings - 1), doublings - 1)
    else:
        for _ in range(32):
            bits = (bits >> 1) ^ np.where(bits & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    low = high = np.zeros(1, np.uint32)
    for one, other in zip(bits[:16], bits[16:], strict=True):
        low, high = np.concatenate([low, low ^ one]), np.concatenate([high, high ^ other])
    return low, high
