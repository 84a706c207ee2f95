"""What the Makefile promises: help by default, words before work, safe cleaning."""

import os
import re
import subprocess

import pytest
from conftest import CHECKOUT

TARGETS = "report smoke test verify extended run batch book reading-room publish lint doctor clean clean-run distclean".split()


def outer():
    """Return the environment without what a make that runs these tests left in it."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*arguments, cwd=CHECKOUT, **environment):
    surroundings = outer() | environment
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=surroundings, capture_output=True, text=True, stdin=subprocess.DEVNULL
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


def programs(folder, **scripts):
    """Write shell scripts as programs of these names; return a PATH that has them first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_set_up_takes_the_first_python_that_works(copy):
    broken = {"python3.11": "echo this version is not installed >&2; exit 127"}
    path = programs(copy / "bin", **broken, **{"python3.12": "exit 0", "python3.13": "exit 0"})
    assert '"python3.12" -m venv' in make("--dry-run", "setup", cwd=copy, PATH=path).stdout
    asked = make("--dry-run", "setup", "PYTHON=/my own/python", cwd=copy, PATH=path)
    assert '"/my own/python" -m venv' in asked.stdout


def test_without_any_python_the_message_names_the_versions(copy):
    path = programs(copy / "bin", **dict.fromkeys(("python3.11", "python3.12", "python3.13"), "exit 127"))
    found = make("smoke", cwd=copy, PATH=path)
    assert found.returncode == 2
    assert "Install Python 3.11, 3.12 or 3.13" in found.stderr


@pytest.fixture
def installed(tmp_path):
    """A checkout and an environment, both under paths with spaces and umlauts; its Python tells how it is called."""
    folder = tmp_path / "a pläce with spaces"
    programs(folder / "my envirönment" / "bin", python='echo "caller $COVID3D_CALLER: $0 $*"')
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((CHECKOUT / name).read_bytes())
    for name in ("covid3d", "tests"):
        (folder / name).mkdir()
    return folder


def test_a_path_with_spaces_and_umlauts_is_set_up_once_and_removed(installed):
    place = "VENV=" + str(installed / "my envirönment")
    first = make("doctor", place, "PYTHON=true", cwd=installed)
    assert first.returncode == 0, first.stderr
    assert "-m pip install" in first.stdout
    again = make("doctor", place, "PYTHON=true", cwd=installed)
    assert "-m pip install" not in again.stdout
    assert f"{installed}/my envirönment/bin/python -m covid3d doctor" in again.stdout
    assert make("distclean", place, cwd=installed).returncode == 0
    assert not (installed / "my envirönment").exists()
    assert (installed / "covid3d").is_dir()


@pytest.mark.parametrize("target", ["doctor", "smoke", "run", "batch", "extended", "test"])
def test_what_make_starts_is_told_to_end_with_make(installed, target):
    make("setup", "VENV=my envirönment", "PYTHON=true", cwd=installed)
    command = ["make", "--no-print-directory", target, "RUN=x", "VENV=my envirönment"]
    process = subprocess.Popen(command, cwd=installed, stdout=subprocess.PIPE, text=True, env=outer())
    said, _ = process.communicate()
    lines = [line for line in said.splitlines() if line.startswith("caller") and re.search("-m (covid3d|pytest)", line)]
    assert lines
    assert all(line.startswith(f"caller {process.pid}:") for line in lines)


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


def test_the_keys_of_a_run_go_with_it_and_all_others_stay(copy):
    for name in ("one", "two"):
        (copy / "runs" / name).mkdir(parents=True)
        for key in (f"{name}.json", f"manifests/{name}.json", "drafts/one-0.json"):
            (copy / "data" / "keys" / key).parent.mkdir(parents=True, exist_ok=True)
            (copy / "data" / "keys" / key).touch()
    kept = copy / "data" / "keys"
    assert make("clean-run", "RUN=one", cwd=copy).returncode == 0
    assert sorted(path.name for path in kept.rglob("*.json")) == ["one-0.json", "two.json", "two.json"]
    for folder in ("covid3d", "tests"):
        (copy / folder).mkdir()
    assert make("distclean", "VENV=none", cwd=copy).returncode == 0
    assert [path.name for path in kept.rglob("*.json")] == ["one-0.json"]


def test_the_reading_room_asks_who_reads():
    found = make("reading-room", "RUN=smoke", "READER=")
    assert found.returncode == 2
    assert "who reads?" in found.stderr


@pytest.mark.parametrize("target", ["run", "book", "reading-room", "clean-run"])
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
