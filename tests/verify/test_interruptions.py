"""Training that is killed, or runs out of disk: after resume the same bytes, nothing trained twice, nothing left over."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import CHECKOUT, NO_SMALL_DISK
from interrupted_training import EPOCHS, kill_often, outcome, prepare, remains, saved_epochs

from benchmarks import campaigns
from covid3d.chapters.task1 import ensure_fold
from covid3d.run.errors import StorageError
from covid3d.run.profile import Run

MADE_BY = ("covid3d.chapters.task1", str(CHECKOUT / "tests" / "interrupted_training.py"))


def check(table: pd.DataFrame, kills: int) -> None:
    finished = table[table["killed"] == 0]
    assert table["killed"].sum() == kills and len(finished) > 0
    assert (table["again"] == 0).all(), "an epoch that was on disk was trained again"
    assert (finished["equal"] == 1).all(), "resumed weights, history or predictions differ in their bytes"
    assert (finished["remains"] == 0).all() and (finished["kept"] == 1).all()


def test_two_kills_at_random_moments_change_no_byte(root):
    check(kill_often(prepare(root), 2, seed=2), 2)


@pytest.mark.verify
def test_fifty_kills_at_random_moments_change_no_byte(root):
    print("\ncampaign: 50 kills during training of a small fold; 8 min", flush=True)
    table = campaigns.read("kills")
    if table is None or (table["code"] != campaigns.stamp(MADE_BY)["code"]).any():
        table = campaigns.write("kills", kill_often(prepare(root), 50, seed=1), MADE_BY)
    check(table, 50)


@pytest.fixture
def small_disk(tmp_path_factory, monkeypatch):
    """A file system of 64 MiB in memory as COVID3D_ROOT."""
    place = tmp_path_factory.mktemp("small-disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip(NO_SMALL_DISK)
    monkeypatch.setenv("COVID3D_ROOT", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Fill a disk up to `free` bytes; return the file that does so."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(shutil.disk_usage(disk).free - free, 0)))
    return ballast


def stopped_by_a_full_disk(run: Run, disk: Path, free: int) -> int:
    """Train with `free` bytes left until the disk is full; return the number of epochs that are kept."""
    ballast = fill(disk, free)
    with pytest.raises(StorageError, match="no space left on device") as error:
        ensure_fold(run, 0)
    assert "Free some space" in error.value.cure and error.value.where
    ballast.unlink()
    kept = saved_epochs(run)
    assert not run.model("task1", "covid3d", 0).exists()
    assert len(remains(run)) == (kept > 0), "something half-written was left"
    return kept


def test_a_full_disk_stops_clearly_and_after_freeing_space_the_bytes_are_the_same(small_disk):
    run = prepare(small_disk)
    ensure_fold(run, 0)
    expected = outcome(run)
    checkpoint = 3 * (run.model("task1", "covid3d", 0) / "weights.safetensors").stat().st_size
    for free, epochs in ((0, 0), (checkpoint // 2, 0), (3 * checkpoint // 2, 1)):
        shutil.rmtree(run.path("models"))
        assert stopped_by_a_full_disk(run, small_disk, free) == epochs < EPOCHS
        ensure_fold(run, 0)
        assert outcome(run) == expected and not remains(run)
