"""Files whole or not at all; hashes, seeds and the worker pool."""

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from covid3d.run import files as io
from covid3d.run.errors import Covid3DError, SeriesError, StorageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "values.json"
    io.write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt), io.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert io.read_json(path) == {"a": 1}
    assert names(tmp_path) == ["values.json"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    with io.atomic_folder(tmp_path / "fold") as temporary:
        (temporary / "weights").write_text("old")
    with pytest.raises(RuntimeError), io.atomic_folder(tmp_path / "fold") as temporary:
        (temporary / "weights").write_text("new")
        raise RuntimeError
    assert (tmp_path / "fold" / "weights").read_text() == "old"
    assert names(tmp_path) == ["fold"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("one", "two"):
        with io.atomic_folder(tmp_path / "tables") as temporary:
            (temporary / name).touch()
    assert names(tmp_path / "tables") == ["two"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_one_message_with_a_cure(tmp_path, number):
    with pytest.raises(StorageError) as caught, io.atomic_path(tmp_path / "fold.csv"):
        raise OSError(number, os.strerror(number))
    assert "fold.csv" in str(caught.value)
    assert caught.value.cure
    assert names(tmp_path) == []


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    io.write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_csv_keeps_floats_and_ids_exactly(tmp_path):
    table = pd.DataFrame({"scan_id": ["007", "1E5"], "logit": [0.1 + 0.2, np.pi]})
    io.write_csv(tmp_path / "t.csv", table)
    again = pd.read_csv(tmp_path / "t.csv", dtype={"scan_id": str}, float_precision="round_trip")
    pd.testing.assert_frame_equal(again, table)


def test_sha256_of_a_file_is_the_published_value(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert io.sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_a_tree_sees_through_links_and_loops(tmp_path):
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "a").write_text("1")
    (tmp_path / "scan").mkdir()
    empty = io.sha256_tree(tmp_path / "scan")
    (tmp_path / "scan" / "loop").symlink_to(tmp_path)
    (tmp_path / "scan" / "gone").symlink_to("nowhere")
    assert io.sha256_tree(tmp_path / "scan") == empty
    (tmp_path / "scan" / "deep").symlink_to(tmp_path / "store" / "deep")
    (tmp_path / "store" / "deep" / "loop").symlink_to(tmp_path / "store" / "deep")
    linked = io.sha256_tree(tmp_path / "scan")
    assert linked == io.sha256_tree(tmp_path / "store") != empty
    (tmp_path / "store" / "deep" / "a").write_text("2")
    assert io.sha256_tree(tmp_path / "scan") != linked


def test_the_hash_of_a_table_of_settings_ignores_the_order_of_keys():
    assert io.sha256_json({"a": 1, "b": [2]}) == io.sha256_json({"b": [2], "a": 1})
    assert io.sha256_json({"a": 1}) != io.sha256_json({"a": 2})


def test_seeds_differ_by_part_and_parts_do_not_run_together():
    seeds = {
        io.random_seed(1, "A001-0", "noise"),
        io.random_seed(1, "A001-0n", "oise"),
        io.random_seed(11, "A001-0", "noise"),
    }
    assert len(seeds) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert io.random_seed(1, "A001-0", "noise") == io.random_seed(1, "A001-0", "noise")


def _square(number):
    if number == 13:
        raise SeriesError("unlucky", where="scan 13", code="bad")
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_parallel_results_come_in_order(workers):
    assert list(io.parallel_map(_square, range(12), workers=workers, description="")) == [n * n for n in range(12)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_keeps_its_message_and_code(workers):
    with pytest.raises(SeriesError, match="scan 13: unlucky") as caught:
        list(io.parallel_map(_square, [1, 13, 2], workers=workers, description=""))
    assert caught.value.code == "bad"


def _die(number):
    os._exit(9)


def test_a_worker_that_is_killed_is_one_message_with_the_likely_reason():
    with pytest.raises(Covid3DError, match="reading scans: a worker process was killed. Most often memory ran out"):
        list(io.parallel_map(_die, [1, 2], workers=2, description="reading scans"))


def _stay(path):
    """Leave this worker's process number, then take long."""
    path.with_suffix(f".{os.getpid()}").touch()
    time.sleep(60)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = f"list(io.parallel_map(test_files._stay, [Path({str(tmp_path)!r}, name) for name in 'ab'], workers=2, description=''))"
    script = tmp_path / "pool.py"
    script.write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        f"import test_files\nfrom covid3d.run import files as io\nif __name__ == '__main__':\n    {code}\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    workers, until = [], time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < until:
        workers = [int(path.suffix[1:]) for path in tmp_path.glob("[ab].*")]
        time.sleep(0.1)
    assert len(workers) == 2
    processes = [psutil.Process(pid) for pid in workers]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while any(map(works, processes)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(works, processes))


def works(process):
    """True while a process has not ended, whether or not anyone has taken notice of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_error_reads_where_what_cure():
    assert str(Covid3DError("it is wrong", where="row 3", cure="Mend it")) == "row 3: it is wrong. Mend it"


def dead_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead, alive = dead_process(), os.getpid()
    for number in (dead, alive):
        (tmp_path / f".fold_00.{number}.abcd_123").mkdir()
        (tmp_path / f".table.csv.{number}.abcd_123.csv").touch()
    with io.atomic_folder(tmp_path / "fold_00") as folder:
        io.write_text(folder / "inside.txt", "x")
    io.write_text(tmp_path / "table.csv", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".fold_00.{alive}.abcd_123",
        f".table.csv.{alive}.abcd_123.csv",
        "fold_00",
        "table.csv",
    ]


def test_a_file_in_the_way_of_a_folder_is_one_message_with_a_cure(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match="choose another folder"):
        io.write_text(tmp_path / "taken" / "more" / "x.txt", "x")


def test_an_error_of_a_file_that_is_read_is_none_of_the_file_that_is_written(tmp_path):
    (tmp_path / "scan").touch()
    with pytest.raises(NotADirectoryError), io.atomic_folder(tmp_path / "external"):
        (tmp_path / "scan" / "volume.npy").read_bytes()
    with pytest.raises(StorageError, match="external"), io.atomic_folder(tmp_path / "external") as folder:
        (folder / "taken").touch()
        (folder / "taken" / "more.csv").write_text("x")


def test_a_run_that_cannot_be_made_leaves_no_note_of_its_manifest(root, make_run, tmp_path_factory):
    away = tmp_path_factory.mktemp("away") / "manifest.csv"
    away.write_text("scan_id\n")
    (root / "runs").touch()
    with pytest.raises(StorageError, match="choose another folder"):
        make_run("mine", manifest=str(away))
    assert not list((root / "data").rglob("*.json"))
