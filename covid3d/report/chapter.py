"""Execute a chapter's notebook: reused while its cells, code and results are unchanged, kept without this machine's traces."""

import ast
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covid3d.run.campaigns import RESULTS
from covid3d.run.environment import own_settings
from covid3d.run.errors import Covid3DError, MissingResult, nearest
from covid3d.run.files import atomic_path, read_json, sha256_file, sha256_json, write_json
from covid3d.run.fingerprint import code_fingerprint, code_hash, imports_of
from covid3d.run.profile import Run
from covid3d.run.steps import CHAPTERS, STEPS, Chapter, all_needs, note_cost

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
# jsonschema, which checks notebooks, would import this grammar of international addresses where it is installed: it takes
# 1.5 s to build, in each job of a run, and no notebook needs it.

START_SECONDS = 180  # until a kernel must have answered; the usual 60 are short where all cores are busy
MAX_SOCKET_PATH = 103  # bytes of a Unix socket's path: 104 with its end on macOS, 108 on Linux


def ensure_chapter(run: Run, chapter: str) -> Path:
    """Execute a chapter's notebook and return the executed one; an unchanged chapter is returned at once.

    The notebook gets the run's name, `compute` and device. Raises Covid3DError with the failing cell's message.
    """
    if chapter not in CHAPTERS:
        raise Covid3DError(f"there is no chapter '{chapter}'", cure=nearest(chapter, CHAPTERS))
    executed, record = run.path("notebooks", f"{chapter}.ipynb"), _record(run, chapter)
    if is_current(run, chapter):
        return executed
    started = time.perf_counter()
    print(f"notebooks/{chapter}: executing …", flush=True)
    _execute(run, chapter, source_of(run, chapter), executed)
    outputs = [executed, *sorted(path for path in run.chapter(chapter[:2]).rglob("*") if path.is_file())]
    hashes = {path.relative_to(run.folder).as_posix(): sha256_file(path) for path in outputs}
    write_json(record, {"fingerprint": fingerprint(run, chapter), "outputs": hashes})
    seconds = time.perf_counter() - started
    note_cost(run, f"notebooks/{chapter}", seconds, budget=STEPS[chapter].budget)
    print(f"notebooks/{chapter}: done in {seconds:.1f} s", flush=True)
    return executed


def is_current(run: Run, chapter: str) -> bool:
    """True when a chapter was executed with today's cells, code and results, and all of its files are as it left them."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        done = read_json(_record(run, chapter))
        same = (sha256_file(run.path(name)) == value for name, value in done["outputs"].items())
        return bool(done["fingerprint"] == fingerprint(run, chapter) and all(same))
    return False


def _record(run: Run, chapter: str) -> Path:
    return run.path("done", f"chapter_{chapter[:2]}.json")


def source_of(run: Run, chapter: str) -> Path:
    """Return a chapter's notebook in the checkout; MissingResult when it is not there."""
    source = run.root / "notebooks" / f"{chapter}.ipynb"
    if not source.is_file():
        raise MissingResult(
            "the notebook does not exist", where=f"notebooks/{chapter}.ipynb", cure="Restore it from the repository"
        )
    return source


def fingerprint(run: Run, chapter: str) -> str:
    """Return the hash of all that a chapter depends on: its cells, code, options, and the results it presents."""
    made = dict.fromkeys(path for step in all_needs(run, chapter) for path in STEPS[step].makes)
    results = {name: _content(run.path(name)) for name in made}
    if chapter == "08_claims":  # it presents the other chapters
        others = run.chapter_files("*.json")
        results = {path.relative_to(run.folder).as_posix(): sha256_file(path) for path in others}
        results = {name: value for name, value in results.items() if f"/{chapter[:2]}/" not in name}
    return sha256_json([own_fingerprint(run, chapter), run.name, results])


def own_fingerprint(run: Run, chapter: str) -> str:
    """Return the part of it that is known before its needs exist: cells, code, options, order form, stored tables."""
    cells = read_json(source_of(run, chapter))["cells"]
    layout = [[cell["cell_type"], cell["id"], cell["metadata"].get("tags", [])] for cell in cells]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] != "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    try:
        modules = sorted(imports_of(ast.parse(code)))
    except SyntaxError as error:
        where = f"notebooks/{chapter}.ipynb"
        raise Covid3DError(f"not valid Python ({error.msg})", where=where, cure="Mend the cell") from None
    step = STEPS[chapter]
    assert isinstance(step, Chapter)
    stored = [_content(RESULTS / f"{name}.csv") for name in step.stored]
    stored += [_content(path) for path in (run.order_form, *(run.root / name for name in step.files))]
    optional = [_content(run.path(path)) for name in step.optional for path in STEPS[name].makes]
    optional += [_content(run.path(name)) for name in step.said]
    options = [run.config.model_dump(), run.profile.model_dump(mode="json")]
    parts = [code_hash(code), [code_fingerprint(name) for name in modules], stored, optional, options]
    return sha256_json([layout, prose, *parts])


def _content(path: Path) -> Any:
    """Return what stands for a result: a file's hash, or the hashes of a folder's records."""
    if path.is_file():
        return sha256_file(path)
    return {file.relative_to(path).as_posix(): sha256_file(file) for file in sorted(path.rglob("done.json"))}


def _execute(run: Run, chapter: str, source: Path, executed: Path) -> None:
    """Run a notebook with papermill in the current interpreter; keep a failing one in logs/."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    parameters = {"run": run.name, "compute": run.compute, "device": run.device}
    with private_folder() as folder, _kernel_environment(run, folder):
        target = folder / "executed.ipynb"
        try:
            papermill.execute_notebook(
                source,
                target,
                parameters,
                kernel_name="python3",
                cwd=run.root,
                progress_bar=False,
                record_timing=False,
                start_timeout=START_SECONDS,
                config=Config({"KernelManager": {"transport": "ipc", "ip": str(folder / "kernel")}}),
            )
        except papermill.PapermillExecutionError as error:
            _keep(run, target, run.path("logs", f"{chapter}.ipynb"))
            raise Covid3DError(
                f"{error.ename}: {scrub(run, str(error.evalue)).strip().rstrip('.')}",
                where=f"chapter {chapter}, code cell {error.exec_count}",
                cure=f"The notebook up to there is in runs/{run.name}/logs/{chapter}.ipynb",
                code="chapter",
            ) from None
        except DeadKernelError:
            cure = "Often memory has run out: give the run fewer cores (CORES=1) or more memory, and start it again"
            what = "the notebook's Python was ended before its last cell"
            raise Covid3DError(what, where=f"chapter {chapter}", cure=cure, code="chapter") from None
        except RuntimeError as error:
            cure = f"The machine may be overloaded: start the run again. Jupyter says: {scrub(run, str(error))}"
            what = "the notebook's Python did not start"
            raise Covid3DError(what, where=f"chapter {chapter}", cure=cure, code="chapter") from None
        _keep(run, target, executed)


@contextlib.contextmanager
def private_folder(socket: str = "kernel-5") -> Iterator[Path]:
    """Give a folder of this user alone whose path is short enough for the sockets of a kernel, `socket` the longest name.

    A notebook is spoken to through files in it: two kernels that start at once can be given the same TCP port, and other
    users of the machine could listen there.
    """
    longest = len(f"{tempfile.gettempdir()}/tmp12345678/{socket}".encode())
    with tempfile.TemporaryDirectory(dir="/tmp" if longest > MAX_SOCKET_PATH else None) as folder:
        yield Path(folder)


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
        **own_settings(run.path(".snakemake", "settings")),
        "IPYTHONDIR": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder),
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
    import nbformat

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
    text = scrub(run, nbformat.writes(notebook))
    with atomic_path(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def scrub(run: Run, text: str) -> str:
    """Return text without this machine's paths and terminal colours."""
    for path in (run.root, Path(sys.prefix), Path(__file__).resolve().parents[2], Path(os.path.expanduser("~"))):
        if len(path.parts) > 1:
            text = text.replace(f"{path}/", "").replace(str(path), ".")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
