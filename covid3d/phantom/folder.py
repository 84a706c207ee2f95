"""The folder of a cohort that `covid3d phantom build --out` writes: the simulator's own, and of one cohort."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covid3d.phantom.build import RECORDS
from covid3d.run.errors import ConfigError, StorageError
from covid3d.run.files import read_json, sha256_json, sha256_tree, write_json
from covid3d.run.profile import Profile

NAME = "cohort.json"


@contextlib.contextmanager
def cohort_folder(out: Path, *, world: str, seed: int, profile: Profile, manifest: Path) -> Iterator[list[str]]:
    """Claim `out` for one simulated cohort and yield the scan_ids that it holds already, finished or not.

    A new or empty folder gets cohort.json, which says that the scans are simulated, and with what; if nothing comes of
    the build the folder is as before. Raises ConfigError for a folder that is not the simulator's or holds another
    cohort, since a build replaces scans and tables of the same name, and StorageError for one that cannot be made.
    """
    sizes = {"cohort": profile.cohort.model_dump(), "phantom": profile.phantom.model_dump(), "grid": profile.model.grid}
    setting = {"world": world, "seed": seed, "sizes": sha256_json(sizes), "order form": sha256_tree(manifest)}
    name = out.resolve().name or str(out)
    try:
        made, held = not out.exists(), _held(out)
        known = _known(out) if held else None  # what a build without scans has left binds no other
        claims = known is None
        if known is None:
            if not _is_empty(out):
                raise ConfigError(
                    f"'{name}' holds something else than a simulated cohort",
                    where="--out",
                    cure="Give a new or empty folder",
                )
            known = {"simulated": True, "profile": profile.name, **setting}
            write_json(out / NAME, known)
    except OSError as error:
        raise StorageError("the folder cannot be used", where="--out", cure="Give another folder") from error
    others = [key for key, value in setting.items() if known.get(key) != value]
    if others:
        told = ", ".join(f"{key} {known.get(key)}" for key in ("world", "seed", "profile"))
        raise ConfigError(
            f"'{name}' holds another cohort ({told}); what differs: {', '.join(others)}",
            where="--out",
            cure="Give a new folder, or the options of the cohort that is there",
        )
    try:
        yield held
    finally:
        if claims and not _held(out) and _is_empty(out):
            with contextlib.suppress(OSError):  # another build may have begun in it
                if (out / "dicom").exists():
                    (out / "dicom").rmdir()
                (out / NAME).unlink()
                if made:
                    out.rmdir()


def _held(out: Path) -> list[str]:
    """Return the scans that have a record or a series: a killed build leaves series without a record."""
    found = [path.stem for path in out.joinpath(*RECORDS).glob("[!.]*.json")]
    return sorted({*found, *(path.name for path in (out / "dicom").glob("[!.]*"))})


def _is_empty(out: Path) -> bool:
    """Tell whether a folder without scans is new, or holds only what a build writes before its first scan."""
    if not out.exists():
        return True
    found = {path.name for path in out.iterdir()} if out.is_dir() else {""}
    expected = {NAME, "dicom"} if _known(out) is not None else set()
    return all(name in expected or name.startswith(f".{NAME}.") for name in found)


def _known(out: Path) -> dict[str, Any] | None:
    """Return what cohort.json says, or None where there is none that can be read."""
    try:
        known = read_json(out / NAME)
    except (OSError, ValueError, RecursionError):
        return None
    return known if isinstance(known, dict) and known.get("simulated") is True else None
