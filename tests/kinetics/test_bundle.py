"""The reader of TensorFlow checkpoints: the true index of Kinetics-600, known checksums, and damage everywhere."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from write_checkpoint import field, slow_crc32c, small, write

from covid3d.kinetics.bundle import SHARD, Variable, crc32c, masked, read_index, read_variables, shard_size
from covid3d.run.errors import WeightsError

DATA = CHECKOUT / "tests" / "data"
TRUE_INDEX = DATA / "kinetics600.ckpt.index"
TWO = {"a/b": np.arange(12, dtype=np.float32).reshape(1, 3, 4), "a/w": np.full((5,), 0.5, np.float32)}


def rows():
    with (DATA / "kinetics600_variables.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("content", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (bytes([255] * 32), 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_gives_the_values_of_rfc_3720(content, crc):
    assert crc32c(content) == crc


def test_crc32c_equals_the_bytewise_definition_at_every_length_and_beyond_one_piece(monkeypatch):
    content = np.random.default_rng(0).bytes(5000)
    for length in (*range(1, 40), 255, 256, 257, 4099):
        assert crc32c(content[:length]) == slow_crc32c(content[:length])
    monkeypatch.setattr("covid3d.kinetics.bundle.PIECE", 64)
    assert crc32c(content) == slow_crc32c(content)


def test_all_346_variables_of_the_true_index_are_those_of_the_published_list():
    found, listed = read_index(TRUE_INDEX), rows()
    assert len(found) == len(listed) == 346
    assert {row["dtype"] for row in listed} == {"float32"}
    assert found == {
        row["name"]: Variable(
            tuple(int(size) for size in row["shape"].split("x")),
            int(row["offset"]),
            int(row["size"]),
            int(row["crc32c"], 16),
        )
        for row in listed
    }
    assert shard_size(found) == 103_218_112


def test_the_committed_checkpoint_is_what_its_script_writes_and_comes_back_exactly(tmp_path):
    written = small()
    write(tmp_path / "small.ckpt", written)
    for ending in (".index", SHARD):
        assert (tmp_path / f"small.ckpt{ending}").read_bytes() == (DATA / f"small.ckpt{ending}").read_bytes()
    found = dict(read_variables(DATA / f"small.ckpt{SHARD}", read_index(DATA / "small.ckpt.index")))
    assert found.keys() == written.keys()
    assert all(np.array_equal(found[name], written[name]) for name in written)
    assert all(found[name].dtype == np.float32 for name in written)


def test_a_flipped_bit_anywhere_in_the_true_index_is_refused(tmp_path):
    content = TRUE_INDEX.read_bytes()
    path = tmp_path / "flipped.index"
    for place in (*range(0, len(content) - 110, 61), *range(len(content) - 110, len(content))):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with pytest.raises(WeightsError, match="not a whole checkpoint index"):
            read_index(path)


def test_a_truncated_index_is_refused_at_every_length(tmp_path):
    content = TRUE_INDEX.read_bytes()
    path = tmp_path / "short.index"
    for length in (0, 1, 47, 48, *range(100, len(content), 997), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="not a whole checkpoint index"):
            read_index(path)


def read_back(prefix: Path):
    return dict(read_variables(Path(f"{prefix}{SHARD}"), read_index(Path(f"{prefix}.index"))))


def test_a_flipped_bit_anywhere_in_a_shard_is_refused_and_names_its_variable(tmp_path):
    write(tmp_path / "x", TWO)
    shard = tmp_path / f"x{SHARD}"
    content = shard.read_bytes()
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        shard.write_bytes(spoilt)
        with pytest.raises(WeightsError, match="checksum") as error:
            read_back(tmp_path / "x")
        assert error.value.where.endswith("a/b" if place < 48 else "a/w") and error.value.cure


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0", lambda content: b""])
def test_a_shard_of_another_size_is_refused_with_both_sizes(tmp_path, change):
    write(tmp_path / "x", TWO)
    shard = tmp_path / f"x{SHARD}"
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(WeightsError, match=f"it has {shard.stat().st_size} bytes, but its index asks for 68"):
        read_back(tmp_path / "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": field(1, 2)}, "several shards"),
        ({"header": field(1, 1) + field(2, 1)}, "big-endian"),
        ({"compressed": 1}, "compressed"),
        ({"entry": lambda name, message: field(1, 2) + message[2:]}, "no float32 variable"),
        ({"entry": lambda name, message: message + field(7, b"")}, "in one piece"),
        ({"entry": lambda name, message: message + field(3, 1)}, "in one piece"),
        ({"entry": lambda name, message: message + field(4, 4)}, "does not begin where"),
        ({"entry": lambda name, message: message + field(5, 8)}, "bytes for the shape"),
        ({"entry": lambda name, message: message[:-3]}, "not a whole"),
        ({"entry": lambda name, message: message + bytes([8 * 8 + 3])}, "a field of kind 3"),
    ],
)
def test_a_sound_index_that_says_something_else_is_refused(tmp_path, options, message):
    write(tmp_path / "x", TWO, **options)
    with pytest.raises(WeightsError, match=message):
        read_index(tmp_path / "x.index")


def test_a_table_of_many_blocks_is_read(tmp_path):
    write(tmp_path / "x", {f"layer/{number:03d}": np.full(1, number) for number in range(50)}, keys_per_block=7)
    assert [float(values[0]) for values in read_back(tmp_path / "x").values()] == list(range(50))


def test_a_stored_checksum_is_masked():
    assert masked(crc32c(b"foo")) != crc32c(b"foo")
    assert masked(0) == 0xA282EAD8  # the constant of LevelDB's util/crc32c.h
