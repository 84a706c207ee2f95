"""Planted faults: each one, put into a copy of the package, turns its named test red; without it that test is green."""

import compileall
import os
import py_compile
import shutil

import pytest
import warm_python
import yaml
from conftest import CHECKOUT

FAULTS = yaml.safe_load((CHECKOUT / "tests" / "faults.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and its tests, where nothing can hurt the checkout."""
    tree = tmp_path_factory.mktemp("faults")
    for name in ("covid3d", "tests", "notebooks", "book"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("pyproject.toml", "Snakefile"):
        shutil.copyfile(CHECKOUT / name, tree / name)
    by_content = py_compile.PycInvalidationMode.CHECKED_HASH
    assert compileall.compile_dir(tree / "covid3d", quiet=1, invalidation_mode=by_content)
    return tree


def run_tests(tree, *nodes):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVID3D_ROOT"))
    }
    environment |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
    options = [*"-q -x -p no:cacheprovider -p no:xdist".split(), f"--basetemp={tree.with_name('of-faults')}"]
    return warm_python.run("pytest", *options, *nodes, cwd=tree, env=environment)


def test_there_are_at_least_twelve_faults_each_with_its_own_name():
    names = [fault["name"] for fault in FAULTS]
    assert len(names) == len(set(names)) >= 12
    assert all(fault.keys() == {"name", "file", "old", "new", "test"} for fault in FAULTS)


def test_without_a_fault_the_named_tests_are_green(copy):
    found = run_tests(copy, *sorted({fault["test"] for fault in FAULTS}))
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert "skipped" not in found.stdout.splitlines()[-1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["name"].replace(" ", "_"))
def test_a_planted_fault_turns_its_test_red(copy, fault):
    path = copy / fault["file"]
    sound = path.read_text(encoding="utf-8")
    assert sound.count(fault["old"]) == 1, f"{fault['file']} holds {sound.count(fault['old'])} times: {fault['old']}"
    path.write_text(sound.replace(fault["old"], fault["new"]), encoding="utf-8")
    try:
        found = run_tests(copy, fault["test"])
    finally:
        path.write_text(sound, encoding="utf-8")
    assert found.returncode == pytest.ExitCode.TESTS_FAILED, found.stdout[-3000:] + found.stderr[-1000:]
