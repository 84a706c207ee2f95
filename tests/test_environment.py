"""One list of pins: pyproject.toml, constraints.txt, environment.yml and the container agree."""

import importlib.metadata
import re
import tomllib

import pytest
import yaml
from conftest import CHECKOUT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    assert "python=3.11" in environment["dependencies"]


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
    tools |= {"flask", "flask-cors"}  # moto's server
    imported = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
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
    assert packages == ["chromium", "dicom3tools"]
    assert "apt.txt" in (CHECKOUT / ".ci/run").read_text()
