"""The store: by content and grid, whole or not at all."""

import numpy as np
import pytest

from covid3d.cohort.store import Store
from covid3d.run.errors import MissingResult

SHAPE = (3, 4, 5)


def grid(value):
    return np.full(SHAPE, value, dtype=np.int16)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "volumes", SHAPE)


def test_what_is_put_comes_back_memory_mapped_and_read_only(store):
    name = store.put("A001-0", "source", grid(-7), {"n_slices": 3})
    found = store.get("A001-0")
    assert isinstance(found, np.memmap)
    assert (found == -7).all()
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    assert store.facts("A001-0", "source") == {"n_slices": 3}
    assert (store.folder / name).is_file()


def test_a_scan_is_known_by_its_source_and_its_grid(store):
    store.put("A001-0", "source", grid(1), {})
    assert store.has("A001-0", "source")
    assert not store.has("A001-0", "other")
    assert store.facts("A001-0", "other") is None
    assert not Store(store.folder, (3, 4, 6)).has("A001-0", "source")
    with pytest.raises(MissingResult, match="A001-0"):
        Store(store.folder, (3, 4, 6)).get("A001-0")


def test_a_new_version_replaces_the_old_one(store):
    store.put("A001-0", "old", grid(1), {})
    store.put("A001-0", "new", grid(2), {})
    assert (store.get("A001-0") == 2).all()
    assert len(list(store.folder.iterdir())) == 2


def test_ids_that_begin_alike_are_kept_apart(store):
    store.put("A1", "s", grid(1))
    store.put("A1__0123456789abcdef", "s", grid(2))
    assert (store.stack(["A1__0123456789abcdef", "A1"])[:, 0, 0, 0] == [2, 1]).all()


def test_equal_content_gives_equal_bytes(store, tmp_path):
    other = Store(tmp_path / "again", SHAPE)
    name = store.put("A1", "s", grid(1), {"b": 1, "a": 2})
    assert other.put("A1", "s", grid(1), {"a": 2, "b": 1}) == name
    for suffix in (".npy", ".json"):
        assert (store.folder / name).with_suffix(suffix).read_bytes() == (other.folder / name).with_suffix(
            suffix
        ).read_bytes()


def test_another_shape_or_type_is_refused(store):
    with pytest.raises(ValueError, match="int16 grids"):
        store.put("A1", "s", np.zeros((3, 4, 4), np.int16))
    with pytest.raises(ValueError, match="int16 grids"):
        store.put("A1", "s", np.zeros(SHAPE, np.float32))
    with pytest.raises(ValueError, match="scan_id"):
        store.put("../A1", "s", grid(1))
    with pytest.raises(MissingResult):
        store.get("A1")


def test_a_scan_on_another_grid_is_refused_with_both_grids(store):
    Store(store.folder, (3, 4, 6)).put("A1", "s", np.zeros((3, 4, 6), np.int16))
    with pytest.raises(
        MissingResult, match=r"scan A1: the scan is stored on a grid of \(3, 4, 6\), and \(3, 4, 5\) is needed"
    ):
        store.stack(["A1"])
