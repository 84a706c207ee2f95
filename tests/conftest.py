"""Fixtures shared by all tests: a private root folder, one smoke run for all, and the list of skips that CI accepts."""

import fcntl
import os
import re
import shutil
from pathlib import Path

import pytest

from covid3d.commands import pipeline
from covid3d.run.files import cpu_count, end_with_caller
from covid3d.run.profile import Run, open_run

end_with_caller()  # what tests start ends with them
CHECKOUT = Path(__file__).resolve().parent.parent
ABSOLUTE_PATH = re.compile(r"(?:file://|(?<![\w.~\]})>*/<-])(?<!\w`))/(\w[\w.-]*)")
"""A path from the root of any machine's file system, no part of a relative path or a URL; group: its first folder."""
NO_REAL_CT = "real CT not found: set COVID3D_REAL_CT"
NO_GPU = "no CUDA GPU"
NO_SLURM = "no Slurm can be started: it is not installed, in use already, or the user is not root"
NO_SMALL_DISK = "no small file system can be mounted"
NO_PUBLIC = "the extra 'public' is not installed"
NO_R = "R is not installed"


def skips_allowed_in_ci() -> tuple[str, ...]:
    """Return the first words of the skip reasons that continuous integration accepts; any other skip fails it."""
    real_ct_is_here = bool(os.environ.get("COVID3D_REAL_CT"))
    return (NO_GPU, NO_PUBLIC, NO_R, NO_SMALL_DISK, *(() if real_ct_is_here else (NO_REAL_CT,)))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder that serves as repository root, so that a test's runs lie in it."""
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def make_run(root):
    """Open runs under the private root: `make_run("name", profile="smoke")`."""

    def open_it(name: str = "test", **options: object) -> Run:
        return open_run(name, **{"profile": "smoke", **options})

    return open_it


def furnish(folder: Path) -> Path:
    """Copy what a run reads besides the package (notebooks, pages of the book) into a private root; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("notebooks", "book"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("_build", ".*"))
    return folder


@pytest.fixture(scope="session")
def smoke_root(tmp_path_factory, request) -> Path:
    """The private root of the smoke run that all tests share, in all worker processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if hasattr(request.config, "workerinput") else base) / "shared-smoke"


@pytest.fixture(scope="session")
def smoke_run(smoke_root) -> Run:
    """The profile `smoke`, computed once as `make smoke` does; tests read it and leave it as it is."""
    smoke_root.mkdir(exist_ok=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("COVID3D_ROOT", str(smoke_root))
    with (smoke_root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker process may be computing it
        try:
            if not (smoke_root / "notebooks").is_dir():
                furnish(smoke_root)
            run = open_run("smoke")
            status = 0 if (smoke_root / "finished").is_file() else pipeline.compute(run, cpu_count())
        finally:
            patch.undo()
        if status:
            log = run.path("logs", "snakemake.log").read_text(encoding="utf-8")
            pytest.fail(f"the smoke run stopped with status {status}\n{log[-3000:]}", pytrace=False)
        (smoke_root / "finished").touch()
    return run


def pytest_collection_modifyitems(items):
    """Put the tests of the shared smoke run first: they take longest, and one worker gets them all as its first share."""
    items.sort(key=lambda item: "smoke_run" not in getattr(item, "fixturenames", ()))


def pytest_runtest_logreport(report):
    """Note the skips that continuous integration does not accept."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(skips_allowed_in_ci()):
            _unlisted.append(f"{report.nodeid}: {reason}")


_unlisted: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Fail continuous integration on an unlisted skip."""
    if os.environ.get("CI") == "true" and _unlisted and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """Name the unlisted skips."""
    if os.environ.get("CI") == "true" and _unlisted:
        terminalreporter.section("skips that tests/conftest.py does not list")
        for line in sorted(set(_unlisted)):
            terminalreporter.line(line)


NO_CHROMIUM = "chromium not found: apt-get install chromium"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of the system."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
