"""One list of pins: pyproject.toml, constraints.txt, environment.yml and the container agree."""

import contextlib
import importlib.metadata
import re
import tomllib

import pytest
import yaml
from conftest import CHECKOUT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from covid3d.commands.doctor import PYTHONS

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (
        line.strip().partition("==")
        for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    )
}


def wanted():
    lines = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    return [Requirement(line) for line in lines if not line.startswith("covid3d")]


def test_every_pin_is_one_exact_version():
    lines = [
        line for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in lines)
    assert len(lines) == len(PINS)


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_each_dependency_is_pinned_within_its_bounds(requirement):
    version = PINS.get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} has no line in constraints.txt"
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_what_is_installed_is_what_is_pinned(requirement):
    installed = importlib.metadata.version(requirement.name).partition("+")[0]
    assert installed == PINS[canonicalize_name(requirement.name)]


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


def test_all_places_name_the_same_pythons():
    makefile = (CHECKOUT / "Makefile").read_text()
    readme = (CHECKOUT / "README.md").read_text()
    names = [f"3.{minor}" for _, minor in PYTHONS]
    accepted = SpecifierSet(PROJECT["requires-python"])
    assert [name for name in map("3.{}".format, range(8, 20)) if accepted.contains(f"{name}.1")] == names
    classifiers = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert classifiers == names
    assert f"for python in {' '.join(f'python{name}' for name in names)};" in makefile
    assert "Python 3.11, 3.12 or 3.13" in readme


@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_that_any_python_needs_is_pinned(python):
    version = ".".join(map(str, python))
    surroundings = {"python_version": version, "python_full_version": f"{version}.1", "extra": ""}
    waiting, seen = [(requirement.name, requirement.extras) for requirement in wanted()], set()
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras := frozenset(extras)) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # what only another Python needs
            for line in importlib.metadata.requires(name) or ():
                inner = Requirement(line)
                marks = [surroundings | {"extra": extra} for extra in ("", *extras)]
                if inner.marker is None or any(map(inner.marker.evaluate, marks)):
                    waiting.append((inner.name, inner.extras))
    assert sorted({name for name, _ in seen} - PINS.keys()) == []


def test_the_container_and_make_install_with_the_pins():
    assert "make setup" in (CHECKOUT / "Dockerfile").read_text()
    assert "--constraint constraints.txt" in (CHECKOUT / "Makefile").read_text()


def test_no_package_registry_is_named_anywhere():
    pattern = re.compile(r"(pypi\.org|pythonhosted|index-url|download\.pytorch|registry\.npm)")
    files = ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile", "Dockerfile", ".ci/run", "README.md")
    assert not [name for name in files if pattern.search((CHECKOUT / name).read_text())]


def test_no_dependency_is_declared_in_vain():
    tools = {
        "jupyterlab",
        "jupyter-book",
        "myst-nb",
        "snakemake",
        "pytest",
        "pytest-xdist",
        "ruff",
        "mypy",
        "pandas-stubs",
    }
    tools |= {"types-pyyaml", "import-linter", "nbstripout", "ipykernel", "torchvision"}  # torchvision: needed by timm
    tools |= {"pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm"}  # plugins of pydicom
    tools |= {"flask", "flask-cors", "snakemake-executor-plugin-slurm"}  # moto's server; found by Snakemake itself
    imported = {"scikit-learn": "sklearn", "pyyaml": "yaml", "beautifulsoup4": "bs4"}
    text = "\n".join(path.read_text() for folder in ("covid3d", "tests") for path in (CHECKOUT / folder).rglob("*.py"))
    unused = []
    for requirement in wanted():
        name = canonicalize_name(requirement.name)
        module = imported.get(name, requirement.name.replace("-", "_"))
        if name not in tools and not re.search(rf"^\s*(import|from) {module}\b", text, re.MULTILINE | re.IGNORECASE):
            unused.append(name)
    assert not unused


def test_the_system_packages_of_ci_are_listed_once():
    packages = [line for line in (CHECKOUT / "apt.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert packages == ["chromium", "dicom3tools", "slurm-wlm"]
    assert "apt.txt" in (CHECKOUT / ".ci/run").read_text()
