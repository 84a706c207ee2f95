"""Reuse of results: a step is computed when its data, profile keys or code have changed, and never else.

The fingerprint of a step is the hash of
  - the content of its inputs (hashes of files, or plain values),
  - the profile keys that the step declares,
  - the code of the module it starts in and of every covid3d module that this one imports, transitively; comments,
    docstrings and layout do not count.
It is stored with the hashes of the step's outputs in `done.json`, and it is the only authority on reuse.
"""

import ast
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covid3d.run.errors import MissingResult, nearest
from covid3d.run.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from covid3d.run.profile import Run

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """What a step starts in, which profile keys it reads, and what it costs on the reference machine."""

    module: str
    keys: tuple[str, ...]
    does: str


STEPS = {
    "cohort": Step(
        "covid3d.phantom.build",
        ("cohort", "phantom", "model.grid"),
        "deliver the cohort: simulate it, or take over a hospital's scans",
    ),
    "intake": Step(
        "covid3d.cohort.intake", ("model.grid", "phantom.keep_dicom"), "read, check and resample every scan"
    ),
    "splits": Step("covid3d.cohort.folds", ("training.folds",), "draw the folds and check them for leaks"),
    "fold": Step(
        "covid3d.chapters.cross_validation",
        ("model", "training", "windows.level", "windows.width"),
        "train one fold of COVID3D",
    ),
    "selection": Step("covid3d.chapters.cross_validation", ("training.folds",), "choose the fold that is deployed"),
    "slices": Step(
        "covid3d.chapters.cross_validation",
        ("slices", "model.grid", "training", "windows.level", "windows.width"),
        "train the 2D baseline",
    ),
    "comparator": Step(
        "covid3d.comparators.interface",
        ("model.grid", "model.width", "training", "slices", "windows.level", "windows.width"),
        "train one fold of a compared model",
    ),
    "comparators": Step(
        "covid3d.chapters.comparison",
        ("model", "training", "slices", "windows.level", "windows.width"),
        "score every compared model",
    ),
    "external": Step(
        "covid3d.chapters.external_tests",
        ("model", "slices", "windows.level", "windows.width", "statistics"),
        "score hospitals B and C",
    ),
    "windows": Step("covid3d.chapters.robustness", ("model", "slices", "windows"), "score every window"),
    "explain": Step(
        "covid3d.chapters.explanation",
        ("model", "explain", "windows.level", "windows.width"),
        "compute activation maps",
    ),
    "trajectories": Step("covid3d.chapters.trajectories", ("model", "windows"), "score every follow-up scan"),
    "prognosis": Step(
        "covid3d.chapters.prognosis",
        ("model", "prognosis", "windows.level", "windows.width", "training"),
        "fine-tune one fold for prognosis",
    ),
}


def static_fingerprint(run: Run, step: str) -> str:
    """Return the part of a step's fingerprint that is known before its inputs exist: code, profile keys and seed."""
    known = _step(step)
    return sha256_json([code_fingerprint(known.module), profile_values(run, known.keys), run.seed, run.world])


def fingerprint(run: Run, step: str, inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a step: the static part and the content of its inputs.

    A `Path` among the inputs counts by the SHA-256 of its bytes; anything else must be JSON-able.
    """
    content = {name: sha256_file(value) if isinstance(value, Path) else value for name, value in inputs.items()}
    return sha256_json([static_fingerprint(run, step), content])


def ensure(
    run: Run,
    step: str,
    folder: Path,
    inputs: Mapping[str, Any],
    compute: Callable[[Path], None],
    *,
    again: str | None = None,
) -> Path:
    """Return `folder` holding the finished result of a step, computing it when it is missing or out of date.

    `compute(temporary)` writes its files into a temporary folder, which replaces `folder` only when it has succeeded.
    With `run.compute` False, a missing result is a MissingResult that names the command `again`.
    """
    wanted = fingerprint(run, step, inputs)
    if is_done(folder, wanted):
        return folder
    name = folder.relative_to(run.folder).as_posix()
    if not run.compute:
        raise MissingResult(
            f"'{name}' has not been computed, or is out of date",
            where=f"run '{run.name}'",
            cure=f"Run `{again or f'make run RUN={run.name}'}`, or set compute=True",
        )
    print(f"{name}: {_step(step).does} …", flush=True)
    started = time.perf_counter()
    with atomic_folder(folder) as temporary:
        compute(temporary)
        mark_done(temporary, step, wanted)
    seconds = time.perf_counter() - started
    print(f"{name}: done in {seconds:.1f} s", flush=True)
    note_cost(run, name, seconds)
    return folder


def ensure_in_place(
    run: Run, step: str, outputs: Sequence[str], inputs: Mapping[str, Any], compute: Callable[[], None]
) -> None:
    """Like `ensure`, for a step that resumes by itself and writes named files into the run's folder.

    `compute()` writes `outputs` (paths relative to the run's folder) atomically, each as its last act; the record lies in
    `done/<step>.json`.
    """
    wanted = fingerprint(run, step, inputs)
    record = run.path("done", f"{step}.json")
    try:
        current = read_json(record)["fingerprint"] == wanted
    except (OSError, ValueError, KeyError, TypeError):
        current = False
    if current and all(run.path(name).is_file() for name in outputs):
        return
    if not run.compute:
        raise MissingResult(
            f"'{outputs[0]}' has not been computed, or is out of date",
            where=f"run '{run.name}'",
            cure=f"Run `make run RUN={run.name}`, or set compute=True",
        )
    print(f"{step}: {_step(step).does} …", flush=True)
    started = time.perf_counter()
    compute()
    write_json(record, {"step": step, "fingerprint": wanted})
    seconds = time.perf_counter() - started
    print(f"{step}: done in {seconds:.1f} s", flush=True)
    note_cost(run, step, seconds)


def mark_done(folder: Path, step: str, value: str) -> None:
    """Write done.json: the step, its fingerprint and the hash of every file of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "done.json")
    outputs = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    write_json(folder / "done.json", {"step": step, "fingerprint": value, "outputs": outputs})


def is_done(folder: Path, wanted: str) -> bool:
    """True when `folder` holds a result with this fingerprint and all of its files."""
    try:
        done = read_json(folder / "done.json")
        return done["fingerprint"] == wanted and all((folder / name).is_file() for name in done["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def content(folder: Path) -> str:
    """Return the hash of a finished step's outputs, for use as another step's input."""
    try:
        return sha256_json(read_json(folder / "done.json")["outputs"])
    except (OSError, ValueError, KeyError) as error:
        raise MissingResult(
            f"'{folder.name}' has not been computed", cure="Run `make run` for this run first"
        ) from error


def note_cost(run: Run, name: str, seconds: float) -> None:
    """Keep when a step ended (seconds since 1970) and how long it took outside the results, for cost.json."""
    note = {"step": name, "seconds": round(seconds, 2), "ended": round(time.time(), 2)}
    write_json(run.path("logs", "cost", name.replace("/", "__") + ".json"), note)


def profile_values(run: Run, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of dotted profile keys, e.g. `training.folds` or all of `model`."""
    values = run.profile.model_dump(mode="json")
    return {key: functools.reduce(lambda level, part: level[part], key.split("."), values) for key in keys}


@functools.cache
def code_fingerprint(module: str) -> str:
    """Return the hash of a module's code and of all covid3d modules it imports, transitively."""
    return sha256_json({name: _code_hash(name) for name in sorted(imported_modules(module))})


@functools.cache
def imported_modules(module: str) -> frozenset[str]:
    """Return a covid3d module and every covid3d module that it imports, transitively, found in the source."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and _source(name) is not None:
            found.add(name)
            waiting.extend(imports_of(ast.parse(_source(name) or "")))
    return frozenset(found)


def imports_of(tree: ast.AST) -> set[str]:
    """Return the covid3d modules that a piece of code imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module)
    return {name for name in names if name.split(".")[0] == "covid3d" and _source(name) is not None}


def _source(module: str) -> str | None:
    """Return the source of a covid3d module, or None when there is no such file."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    return None


@functools.cache
def _code_hash(module: str) -> str:
    return code_hash(_source(module) or "")


def code_hash(source: str) -> str:
    """Return a hash of Python source that ignores comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
    return sha256_json(ast.dump(tree))


def _step(name: str) -> Step:
    if name not in STEPS:
        raise MissingResult(f"there is no step '{name}'", cure=nearest(name, STEPS))
    return STEPS[name]
