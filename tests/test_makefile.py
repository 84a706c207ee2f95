"""What the Makefile promises: help by default, words before work, safe cleaning."""

import os
import subprocess

import pytest
from conftest import CHECKOUT

TARGETS = "report smoke test verify extended run batch book lint doctor clean clean-run distclean".split()


def make(*arguments, cwd=CHECKOUT):
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=outer, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def copy(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    return tmp_path


def test_make_alone_prints_the_help():
    found = make()
    assert found.returncode == 0
    assert all(target in found.stdout for target in TARGETS)
    assert "8 GB" in found.stdout
    assert found.stdout == make("help").stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_exists(target):
    assert make("--dry-run", target, "RUN=smoke").returncode == 0


def test_without_the_right_python_the_message_says_what_to_do(copy):
    found = make("smoke", "PYTHON=python0.0", cwd=copy)
    assert found.returncode == 2
    assert "error: there is no 'python0.0'" in found.stderr
    assert "PYTHON=" in found.stderr


def test_set_up_is_announced_with_its_size_before_it_starts(copy):
    assert make("smoke", "PYTHON=python0.0", cwd=copy).stdout.startswith("Set-up in .venv: about 8 GB of disk")


@pytest.mark.parametrize("name", ["../other", ".", "..", ".git", "a/b"])
def test_cleaning_a_run_touches_only_folders_of_runs(copy, name):
    (copy / "runs").mkdir()
    found = make("clean-run", f"RUN={name}", cwd=copy)
    assert found.returncode == 2
    assert (copy / "runs").is_dir()
    assert (copy / "Makefile").is_file()


def test_cleaning_a_run_removes_that_run_alone(copy):
    for name in ("one", "two"):
        (copy / "runs" / name).mkdir(parents=True)
    assert make("clean-run", "RUN=one", cwd=copy).returncode == 0
    assert [path.name for path in (copy / "runs").iterdir()] == ["two"]


@pytest.mark.parametrize("target", ["run", "book", "clean-run"])
def test_a_target_that_needs_a_run_asks_for_it(target):
    found = make(target, "RUN=")
    assert found.returncode == 2
    assert "which run?" in found.stderr


def test_a_wrong_profile_is_one_message_without_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    found = make("run", "RUN=x", "PROFILE=standart")
    assert found.returncode == 2
    assert "error: there is no profile 'standart'. Did you mean 'standard'?" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "runs" / "x").exists()
