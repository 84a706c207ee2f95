"""The folder of a cohort that `covid3d phantom build --out` writes: the simulator's own, and of one cohort."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covid3d.config import Profile
from covid3d.errors import ConfigError, StorageError
from covid3d.io import read_json, sha256_json, sha256_tree, write_json
from covid3d.phantom.build import RECORDS

NAME = "cohort.json"


@contextlib.contextmanager
def cohort_folder(out: Path, *, world: str, seed: int, profile: Profile, manifest: Path) -> Iterator[list[str]]:
    """Claim `out` for one simulated cohort and yield the scan_ids that it holds already.

    A new or empty folder gets cohort.json, which says that the scans are simulated, and with what; if nothing comes of
    the build the folder is as before. Raises ConfigError for a folder with anything else in it or with another cohort,
    since a build replaces scans and tables of the same name, and StorageError for one that cannot be made.
    """
    sizes = {"cohort": profile.cohort.model_dump(), "phantom": profile.phantom.model_dump(), "grid": profile.model.grid}
    setting = {"world": world, "seed": seed, "sizes": sha256_json(sizes), "order form": sha256_tree(manifest)}
    record = out / NAME
    known = _known(record)
    if known is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(
                f"'{out.resolve().name}' holds something else than a simulated cohort",
                where="--out",
                cure="Give a new or empty folder",
            )
        made = not out.exists()
        try:
            write_json(record, {"simulated": True, "profile": profile.name, **setting})
        except OSError as error:
            raise StorageError("the folder cannot be made", where="--out", cure="Give another folder") from error
    elif others := [name for name, value in setting.items() if known.get(name) != value]:
        told = ", ".join(f"{name} {known.get(name)}" for name in ("world", "seed", "profile"))
        raise ConfigError(
            f"'{out.resolve().name}' holds another cohort ({told}); what differs: {', '.join(others)}",
            where="--out",
            cure="Give a new folder, or the options of the cohort that is there",
        )
    try:
        yield sorted(path.stem for path in out.joinpath(*RECORDS).glob("[!.]*.json"))
    finally:
        if known is None and [path.name for path in out.iterdir()] == [NAME]:
            record.unlink()
            if made:
                out.rmdir()


def _known(record: Path) -> dict[str, Any] | None:
    """Return what cohort.json says, or None where there is none that can be read."""
    try:
        known = read_json(record)
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and known.get("simulated") is True else None
