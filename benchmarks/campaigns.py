"""Write the results of campaigns that `covid3d.run.campaigns` reads: each row carries the code that made it."""

import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.run import campaigns as stored
from covid3d.run.campaigns import STAMP, read
from covid3d.run.files import sha256_file, sha256_json, write_csv
from covid3d.run.fingerprint import code_fingerprint, code_hash
from covid3d.run.profile import PROFILES, SLICES_TRUNK, TRUNK

__all__ = ["CHECKOUT", "PACKAGES", "STAMP", "extend", "read", "stamp", "write"]
CHECKOUT = Path(__file__).resolve().parents[1]
STARTS = tuple(str(path) for path in (TRUNK, SLICES_TRUNK, PROFILES / "standard.yaml"))
"""What the networks of `standard` start from, and how they are trained: files that count for campaigns that measure them."""
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch")


def write(name: str, table: pd.DataFrame, made_by: Sequence[str]) -> pd.DataFrame:
    """Write a campaign's result whole and return it; rows without a stamp get that of today's code.

    made_by: names of modules, which count with all they import, and paths of scripts and of data files.
    """
    table = table.copy()
    for column, value in stamp(made_by).items():
        table[column] = table[column].fillna(value) if column in table else value
    write_csv(stored.RESULTS / f"{name}.csv", table)
    return table


def extend(
    name: str, key: str, wanted: Iterable[Any], measure: Callable[[Any], pd.DataFrame], made_by: Sequence[str]
) -> pd.DataFrame:
    """Return a campaign's table with rows for every wanted value of the column `key`.

    `measure(value)` gives the rows of one value, which are stored at once: an interrupted campaign goes on where it
    stopped. Rows that other code has measured are measured again.
    """
    code = stamp(made_by)["code"]
    for value in wanted:
        table = read(name)
        if table is not None and ((table[key] == value) & (table["code"] == code)).any():
            continue
        rows = measure(value).assign(**{key: value})
        others = [] if table is None else [table[table[key] != value]]
        write(name, pd.concat([*others, rows], ignore_index=True).sort_values(key, kind="stable"), made_by)
    table = read(name)
    return pd.DataFrame() if table is None else table


def stamp(made_by: Sequence[str]) -> dict[str, str]:
    """Return code (a fingerprint), commit ("+" when the package differs from it) and versions of this checkout."""
    parts = [f"python {platform.python_version()}", *(f"{package} {version(package)}" for package in PACKAGES)]
    code = [_hash(one) for one in made_by]
    return {"code": sha256_json(code)[:12], "commit": _commit(), "versions": ", ".join(parts)}


def _hash(one: str) -> str:
    """Return the fingerprint of a module with all that it imports, of a script's code, or of any other file's bytes."""
    if one.endswith(".py"):
        return code_hash(Path(one).read_text(encoding="utf-8"))
    return sha256_file(Path(one)) if Path(one).suffix in (".safetensors", ".yaml") else code_fingerprint(one)


def _commit() -> str:
    """Return the checkout's commit, "unknown" without git."""
    git = ["git", "-C", str(CHECKOUT)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        other = subprocess.run([*git, "status", "--porcelain", "covid3d"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if other.stdout.strip() else "")
