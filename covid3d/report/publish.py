"""A run's book for the public: only simulated scans and scans with an open licence leave the machine."""

import shutil
from functools import partial
from pathlib import Path

from covid3d.run.errors import Covid3DError, MissingResult
from covid3d.run.files import atomic_folder, storage_errors
from covid3d.run.profile import Run


def publish(run: Run, target: Path) -> Path:
    """Copy the built book of a run to a folder that does not exist yet; return its index.html.

    Raises Covid3DError for a run whose scans are neither simulated nor public, MissingResult without a book.
    """
    if run.cohort not in ("phantom", "public"):
        cure = (
            "Publish a run on simulated or public scans; every scan of a public one has an open licence in its manifest"
        )
        raise Covid3DError(
            "the scans of this run are a hospital's: its book is not published", where=f"run '{run.name}'", cure=cure
        )
    built = run.path("book", "_build", "html")
    if not (built / "index.html").is_file():
        raise MissingResult(
            "the book has not been built", where=f"runs/{run.name}", cure=f"Build it with `make book RUN={run.name}`"
        )
    if target.exists():
        raise Covid3DError("the folder is there already", where=str(target), cure="Name one that does not exist")
    with atomic_folder(target) as folder:
        copy = partial(_copy, target)
        shutil.copytree(built, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.map"), copy_function=copy)
        (folder / ".nojekyll").touch()  # pages services leave folders with an underscore alone then
    return target / "index.html"


def _copy(target: Path, source: str, copied: str) -> None:
    """Copy one file; what goes wrong ends the copying, where `copytree` by itself would try all others and list each."""
    with storage_errors(target):
        shutil.copy2(source, copied)
