"""From results to the book: execute a chapter's notebook, collect what the chapters left, stage the sources, build."""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import yaml

from covid3d.chapter import banner, initialisation, read_values
from covid3d.report.claims import ledger
from covid3d.report.pages import write_fragments
from covid3d.run.errors import Covid3DError, MissingResult, nearest
from covid3d.run.files import (
    atomic_folder,
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_csv,
    write_json,
    write_text,
)
from covid3d.run.profile import CHAPTERS, SITE_CHAPTERS, Run, chapter_title
from covid3d.run.steps import code_fingerprint, code_hash, imports_of, note_cost

COHORT = ("manifest.csv", "controls.csv", "intake.csv", "flow.json", "splits.csv", "leakage.json")
READS: dict[str, tuple[str, ...]] = {
    "01_data": (*COHORT, "truth/truth.csv"),
    "02_model": (*COHORT, "models/task1/selection", "models/task1/covid3d"),
    "03_cross_validation": (*COHORT, "truth/truth.csv", "models/task1", "windows"),
    "04_external_tests": (*COHORT, "truth/truth.csv", "models/task1", "external", "windows", "explain", "comparators"),
    "05_reader_comparison": (*COHORT, "models/task1", "external", "reader_study.csv"),
    "06_trajectories": (*COHORT, "truth/truth.csv", "models/task1", "external", "trajectories", "explain"),
    "07_prognosis": (*COHORT, "models/task1", "models/prognosis", "trajectories", "reader_study.csv"),
    "08_claims": ("chapters",),
}
BUDGET = {  # minutes of the profile `standard` on the reference machine, and the first words of the steps they cover
    "cohort and intake": (4.0, ("cohort", "intake", "splits")),
    "folds of Task 1": (10.0, ("models/task1/covid3d", "models/task1/selection", "external", "trajectories")),
    "2D baseline": (2.0, ("models/task1/resnet_2d",)),
    "prognosis": (3.0, ("models/prognosis", "prognosis")),
    "windows and maps": (2.0, ("windows", "explain")),
    "notebooks": (2.0, ("notebooks",)),
    "book": (1.5, ("book",)),
}
PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "torch",
    "timm",
    "pydicom",
    "SimpleITK",
    "lifelines",
    "papermill",
)
RENDERER = "from jupyter_book.cli.main import main; main()"


def ensure_chapter(run: Run, chapter: str) -> Path:
    """Execute a chapter's notebook and return the executed one; an unchanged chapter is returned at once.

    The notebook gets the run's name, `compute` and device. Raises Covid3DError with the failing cell's message.
    """
    if chapter not in CHAPTERS:
        raise Covid3DError(f"there is no chapter '{chapter}'", cure=nearest(chapter, CHAPTERS))
    source = run.root / "notebooks" / f"{chapter}.ipynb"
    if not source.is_file():
        raise MissingResult(
            "the notebook does not exist", where=f"notebooks/{chapter}.ipynb", cure="Restore it from the repository"
        )
    executed = run.path("notebooks", f"{chapter}.ipynb")
    record = run.path("done", f"chapter_{chapter[:2]}.json")
    wanted = chapter_fingerprint(run, chapter, source)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        done = read_json(record)
        if done["fingerprint"] == wanted and all(
            sha256_file(run.path(name)) == value for name, value in done["outputs"].items()
        ):
            return executed
    started = time.perf_counter()
    print(f"notebooks/{chapter}: executing …", flush=True)
    _execute(run, chapter, source, executed)
    outputs = [executed, *sorted(path for path in run.chapter(chapter[:2]).rglob("*") if path.is_file())]
    hashes = {path.relative_to(run.folder).as_posix(): sha256_file(path) for path in outputs}
    write_json(record, {"fingerprint": chapter_fingerprint(run, chapter, source), "outputs": hashes})
    seconds = time.perf_counter() - started
    note_cost(run, f"notebooks/{chapter}", seconds)
    print(f"notebooks/{chapter}: done in {seconds:.1f} s", flush=True)
    return executed


def chapter_fingerprint(run: Run, chapter: str, source: Path) -> str:
    """Return the hash of all that a chapter depends on: its cells, the code it imports, the results it reads."""
    notebook = nbformat.read(source, as_version=4)
    prose = [cell.source for cell in notebook.cells if cell.cell_type != "code"]
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    modules = sorted(imports_of(_parse(code, chapter)))
    results = {name: _content(run.path(name), chapter) for name in READS[chapter]}
    profile = run.profile.model_dump(mode="json")
    options = [run.name, run.config.model_dump(), profile]
    return sha256_json([prose, code_hash(code), [code_fingerprint(name) for name in modules], results, options])


def _parse(code: str, chapter: str) -> Any:
    import ast

    try:
        return ast.parse(code)
    except SyntaxError as error:
        raise Covid3DError(
            f"not valid Python ({error.msg})", where=f"notebooks/{chapter}.ipynb", cure="Mend the cell"
        ) from None


def _content(path: Path, chapter: str) -> Any:
    """Return what stands for a result: a file's hash, or the hashes of a folder's records."""
    if path.is_file():
        return sha256_file(path)
    if path.name == "chapters":
        own = chapter[:2]
        return {
            file.parent.name: sha256_file(file) for file in sorted(path.glob("*/*.json")) if file.parent.name != own
        }
    return {file.relative_to(path).as_posix(): sha256_file(file) for file in sorted(path.rglob("done.json"))}


def _execute(run: Run, chapter: str, source: Path, executed: Path) -> None:
    """Run a notebook with papermill in the current interpreter; keep a failing one in logs/."""
    parameters = {"run": run.name, "compute": run.compute, "device": run.device}
    with tempfile.TemporaryDirectory() as folder, _kernel_environment(run, Path(folder)):
        target = Path(folder) / "executed.ipynb"
        try:
            papermill.execute_notebook(
                source,
                target,
                parameters,
                kernel_name="python3",
                cwd=run.root,
                progress_bar=False,
                record_timing=False,
            )
        except papermill.PapermillExecutionError as error:
            _keep(run, target, run.path("logs", f"{chapter}.ipynb"))
            raise Covid3DError(
                f"{error.ename}: {_scrub(run, str(error.evalue)).strip().rstrip('.')}",
                where=f"chapter {chapter}, code cell {error.exec_count}",
                cure=f"The notebook up to there is in runs/{run.name}/logs/{chapter}.ipynb",
                code="chapter",
            ) from None
        _keep(run, target, executed)


@contextlib.contextmanager
def _kernel_environment(run: Run, folder: Path) -> Iterator[None]:
    """Give Jupyter a kernel of this interpreter that imports this package, whatever is installed elsewhere."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [
        sys.executable,
        "-Xfrozen_modules=off",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
        "--log-level=ERROR",
    ]
    write_json(kernel / "kernel.json", {"argv": argv, "display_name": "Python 3", "language": "python"})
    package = str(Path(__file__).resolve().parents[2])
    wanted = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")])),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "COVID3D_ROOT": str(run.root),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    previous = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _keep(run: Run, source: Path, target: Path) -> None:
    """Store an executed notebook without papermill's metadata, warnings' noise and absolute paths."""
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    text = _scrub(run, nbformat.writes(notebook))
    with atomic_path(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _scrub(run: Run, text: str) -> str:
    """Return text without this machine's paths and terminal colours."""
    for path in (run.root, Path(sys.prefix), Path(__file__).resolve().parents[2], Path.home()):
        if len(path.parts) > 1:
            text = text.replace(f"{path}/", "").replace(str(path), ".")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def collect(run: Run) -> Path:
    """Merge the chapters into values.json, tables/, figures/, predictions.csv and claims.csv.

    Also writes cost.json and passport.json. Raises Covid3DError when two chapters use one key or one name.
    Returns the path of values.json.
    """
    values = read_values(run)
    for group in ("tables", "figures"):
        _merge_files(run, group)
    write_csv(run.path("predictions.csv"), _predictions(run))
    write_csv(run.path("claims.csv"), ledger(run))
    write_json(run.path("cost.json"), cost(run))
    write_json(run.path("passport.json"), passport(run))
    write_json(run.path("values.json"), values)
    return run.path("values.json")


def _merge_files(run: Run, group: str) -> None:
    """Copy all chapters' tables or figures into one folder of the run."""
    owner: dict[str, str] = {}
    with atomic_folder(run.path(group)) as folder:
        for path in sorted(run.path("chapters").glob(f"*/{group}/*")):
            if path.name in owner:
                chapters = f"{owner[path.name]} and {path.parent.parent.name}"
                raise Covid3DError(
                    f"chapters {chapters} both write {group}/{path.name}", cure="Rename one of them in its notebook"
                )
            owner[path.name] = path.parent.parent.name
            shutil.copyfile(path, folder / path.name)


def _predictions(run: Run) -> pd.DataFrame:
    """Return all predictions of a run in one table."""
    paths = [
        path
        for name in ("models", "external", "windows", "trajectories")
        for path in sorted(run.path(name).rglob("predictions.csv"))
    ]
    tables = [
        pd.read_csv(path, dtype={"scan_id": str, "patient_id": str, "fold": str, "window": str}) for path in paths
    ]
    return (
        pd.concat([table for table in tables if len(table)], ignore_index=True)
        if tables
        else pd.DataFrame({"task": []})
    )


def cost(run: Run) -> dict[str, Any]:
    """Return the time of every step, and of groups of steps beside the budget of the profile `standard`.

    `wall_minutes` counts the time in which at least one step of a group ran, so parallel jobs do not add up; that of the run
    leaves out what `make extended` adds.
    """
    steps = [read_json(path) for path in sorted(run.path("logs", "cost").glob("*.json"))]
    groups = []
    for name, (minutes, starts) in BUDGET.items():
        measured = _wall_minutes([step for step in steps if step["step"].startswith(starts)])
        budget = minutes if run.profile.name == "standard" else None
        groups.append({"group": name, "wall_minutes": measured, "budget_minutes": budget})
    return {
        "profile": run.profile.name,
        "profile_minutes": run.profile.minutes,
        "wall_minutes": _wall_minutes([step for step in steps if not step["step"].startswith("comparators")]),
        "groups": groups,
        "steps": [{"step": step["step"], "seconds": step["seconds"]} for step in steps],
    }


def _wall_minutes(steps: list[dict[str, Any]]) -> float:
    """Return the minutes in which at least one of these steps ran."""
    total = latest = 0.0
    for step in sorted(steps, key=lambda step: step["ended"] - step["seconds"]):
        begun = max(step["ended"] - step["seconds"], latest)
        total += max(step["ended"] - begun, 0.0)
        latest = max(latest, step["ended"])
    return round(total / 60, 2)


def passport(run: Run) -> dict[str, Any]:
    """Return what a run was made with: versions, kind of processor and device, commit, options; no host and no path."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() and run.device != "cpu" else "cpu"
    versions = {}
    for name in ("covid3d", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    options = run.config.model_dump() | {"manifest": Path(run.config.manifest).name if run.config.manifest else None}
    options["weights"] = Path(run.config.weights).name if run.config.weights else None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "device": device,
        "versions": versions,
        "commit": _commit(run.root),
        "run": run.name,
        "options": options,
        "cohort": run.cohort,
        "manifest_sha256": sha256_file(run.manifest) if run.manifest.is_file() else None,
    }


def _commit(root: Path) -> str:
    """Return the checkout's commit, or "unknown"."""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def build(run: Run) -> Path:
    """Stage the book's sources with the run's results and build it offline, warnings as errors; return index.html.

    Nothing is built when the staged sources are the ones that were built last.
    """
    book, record = run.path("book"), run.path("done", "book.json")
    index = book / "_build" / "html" / "index.html"
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "book"
        stage(run, staged)
        wanted = _folder_hash(staged)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if read_json(record)["fingerprint"] == wanted and index.is_file():
                return index
        started = time.perf_counter()
        print("book: building …", flush=True)
        record.unlink(missing_ok=True)
        with atomic_folder(book) as temporary:
            shutil.copytree(staged, temporary, dirs_exist_ok=True)
    _render(run, book)
    write_json(record, {"fingerprint": wanted})
    seconds = time.perf_counter() - started
    note_cost(run, "book", seconds)
    write_json(run.path("cost.json"), cost(run))
    print(f"book: done in {seconds:.1f} s", flush=True)
    return index


def _render(run: Run, book: Path) -> None:
    """Call jupyter-book on staged sources; the error gives its warnings."""
    command = [sys.executable, "-c", RENDERER, "build", "-W", "-q", "--keep-going", "--all", str(book)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "JUPYTER_PLATFORM_DIRS": "1", "NO_COLOR": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=book)
    write_text(run.path("logs", "book.log"), _scrub(run, found.stdout + found.stderr))
    if found.returncode != 0:
        lines = [
            line
            for line in (found.stdout + found.stderr).splitlines()
            if "WARNING" in line or "ERROR" in line or "Error" in line
        ]
        said = _scrub(run, "; ".join(lines[:5])) or "see the log"
        raise Covid3DError(
            f"the book does not build: {said}", where="book", cure=f"The log is runs/{run.name}/logs/book.log"
        )


def stage(run: Run, target: Path) -> None:
    """Write the sources of a run's book into `target`: pages, executed notebooks, generated fragments, settings."""
    shutil.copytree(run.root / "book", target, ignore=shutil.ignore_patterns("_build", "_generated", ".*"))
    values = read_values(run)
    write_fragments(run, target / "_generated")
    pages = sorted(target.glob("*.md"))
    used = {key for page in pages for key in re.findall(r"\{\{\s*(\w+)\s*\}\}", page.read_text(encoding="utf-8"))}
    texts = {key: values[key]["text"] if key in values else "not available in this run" for key in sorted(used)}
    settings = yaml.safe_load((target / "_config.yml").read_text(encoding="utf-8"))
    settings.setdefault("parse", {})["myst_substitutions"] = texts
    write_text(target / "_config.yml", yaml.safe_dump(settings, sort_keys=True, allow_unicode=True))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if "{{" in text or re.search("_generated/(?!refusals)", text):  # reasons of refusals are those of every run
            first = [f"{part}\n\n" for part in (banner(run) and banner_source(run), initialisation(run)) if part]
            page.write_text("".join(first) + text, encoding="utf-8")
    for chapter in CHAPTERS:
        stage_chapter(run, chapter, target / "notebooks")


def banner_source(run: Run) -> str:
    """Return the first line of a page: where its scans come from."""
    return f"**{banner(run)}**"


def stage_chapter(run: Run, chapter: str, folder: Path) -> None:
    """Write one chapter's page: the executed notebook under its banner, or one line that says why it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    executed = run.path("notebooks", f"{chapter}.ipynb")
    if executed.is_file() and run.chapter(chapter[:2]).is_dir():
        notebook = nbformat.read(executed, as_version=4)
        if banner(run):
            notebook.cells.insert(0, nbformat.v4.new_markdown_cell(banner_source(run), id="where-the-scans-come-from"))
        nbformat.write(notebook, folder / f"{chapter}.ipynb")
        return
    why = (
        "This chapter is not part of a run with given weights."
        if run.is_site and chapter not in SITE_CHAPTERS
        else "This chapter has not been run yet."
    )
    first = f"{banner_source(run)}\n\n" if banner(run) else ""
    (folder / f"{chapter}.md").write_text(f"{first}# {chapter_title(chapter)}\n\n{why}\n", encoding="utf-8")


def _folder_hash(folder: Path) -> str:
    """Return one hash of all files of a folder and of the renderer's version."""
    digest = hashlib.sha256(json.dumps([metadata.version("jupyter-book"), metadata.version("myst-nb")]).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + sha256_file(path).encode())
    return digest.hexdigest()
