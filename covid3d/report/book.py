"""The book of a run: stage the sources with the run's numbers, and build it offline, warnings as errors."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import nbformat

from covid3d.report import findings
from covid3d.report.banner import banner, initialisation
from covid3d.report.chapter import is_current, scrub
from covid3d.report.claims import names_shown, published_texts, read_values, shown_in
from covid3d.report.collect import cost
from covid3d.report.ledger_page import linked_claims
from covid3d.report.pages import write_fragments
from covid3d.report.viewer import write_viewer
from covid3d.run.environment import own_settings
from covid3d.run.errors import Covid3DError
from covid3d.run.files import atomic_folder, read_json, sha256_file, write_json, write_text
from covid3d.run.profile import Run, chapter_title
from covid3d.run.steps import CHAPTERS, chapters_of, note_cost

RENDERER = "from jupyter_book.cli.main import main; main()"
GLUE = re.compile(r"\{glue:text\}`([^`]+)`")


def build(run: Run) -> Path:
    """Stage the book's sources with the run's results and build it offline, warnings as errors; return index.html.

    Nothing is built when the staged sources are the ones that were built last.
    """
    book, record = run.path("book"), run.path("done", "book.json")
    old = [name for name in chapters_of(run) if run.chapter(name[:2]).is_dir() and not is_current(run, name)]
    if old:
        print(
            f"book: shows older results of {', '.join(old)}; `make run RUN={run.name}` executes them again", flush=True
        )
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
    note_cost(run, "book", seconds, budget="book")
    write_json(run.path("cost.json"), cost(run))
    print(f"book: done in {seconds:.1f} s", flush=True)
    return index


def _render(run: Run, book: Path) -> None:
    """Call jupyter-book on staged sources; the error gives its warnings."""
    command = [sys.executable, "-c", RENDERER, "build", "-W", "-q", "--keep-going", "--all", str(book)]
    own = own_settings(run.path(".snakemake", "settings"))
    environment = {**os.environ, **own, "PYTHONWARNINGS": "ignore", "JUPYTER_PLATFORM_DIRS": "1", "NO_COLOR": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=book)
    write_text(run.path("logs", "book.log"), scrub(run, found.stdout + found.stderr))
    if found.returncode != 0:
        lines = [
            line
            for line in (found.stdout + found.stderr).splitlines()
            if "WARNING" in line or "ERROR" in line or "Error" in line
        ]
        said = scrub(run, "; ".join(lines[:5])) or "see the log"
        raise Covid3DError(
            f"the book does not build: {said}", where="book", cure=f"The log is runs/{run.name}/logs/book.log"
        )


def stage(run: Run, target: Path) -> None:
    """Write the sources of a run's book into `target`: pages, executed notebooks, generated fragments, settings."""
    shutil.copytree(run.root / "book", target, ignore=shutil.ignore_patterns("_build", "_generated", ".*"))
    texts = prose_texts(run)
    write_fragments(run, target / "_generated")
    write_viewer(run, target)
    for page in sorted(target.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if GLUE.search(text) or re.search(
            "_generated/(?!refusals)", text
        ):  # reasons of refusals are those of every run
            first = [f"{part}\n\n" for part in (banner(run) and banner_source(run), initialisation(run)) if part]
            page.write_text("".join(first) + with_numbers(run, text, texts, page.name), encoding="utf-8")
    for chapter in CHAPTERS:
        stage_chapter(run, chapter, target / "notebooks", texts)


def prose_texts(run: Run) -> dict[str, str]:
    """Return what prose can name: a run's numbers by address, those of the audit, and the printed ones as `paper.C095`."""
    own = {address: entry["text"] for address, entry in read_values(run).items()}
    return own | findings.texts() | published_texts()


def with_numbers(run: Run, text: str, texts: Mapping[str, str], where: str) -> str:
    """Return prose with each {glue:text}`address` replaced by its number.

    An address of a chapter that the run does not have prints "not available in this run"; one that nobody makes is a
    Covid3DError that names it and its page.
    """
    chapters = {name: chapter for name, (chapter, _) in shown_in(run.root / "notebooks").items()}

    def number(found: re.Match[str]) -> str:
        address = found.group(1)
        if address in texts:
            return texts[address]
        chapter = chapters.get(address.split(".")[0], "")
        if chapter and not run.chapter(chapter[:2]).is_dir():
            return "not available in this run"
        what = f"prose names a number that nobody makes: '{address}'"
        raise Covid3DError(what, where=where, cure="Take the address from the run's values.json")

    return GLUE.sub(number, text)


def banner_source(run: Run) -> str:
    """Return the first line of a page: where its scans come from."""
    return f"**{banner(run)}**"


def stage_chapter(run: Run, chapter: str, folder: Path, texts: Mapping[str, str]) -> None:
    """Write one chapter's page: the executed notebook under its banner, or one line that says why it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    executed = run.path("notebooks", f"{chapter}.ipynb")
    if executed.is_file() and run.chapter(chapter[:2]).is_dir():
        notebook = nbformat.read(executed, as_version=4)
        notebook.cells = with_anchors(notebook.cells)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = with_numbers(run, cell.source, texts, f"notebooks/{chapter}.ipynb")
            elif {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
                cell.metadata["tags"].append("remove-cell")  # the first line of the page names the run
            elif "remove-input" in cell.metadata.get("tags", []):
                for output in cell.outputs:  # the page begins with the banner
                    said = output.get("data", {}).get("text/html", "")
                    output["data"]["text/html"] = "".join(said).replace(f"<strong>{banner(run)}</strong> ", "")
        if banner(run):
            notebook.cells.insert(0, nbformat.v4.new_markdown_cell(banner_source(run), id="where-the-scans-come-from"))
        nbformat.write(notebook, folder / f"{chapter}.ipynb")
        return
    why = (
        "This chapter has not been run yet." if chapter in chapters_of(run) else "This chapter is not part of this run."
    )
    first = f"{banner_source(run)}\n\n" if banner(run) else ""
    (folder / f"{chapter}.md").write_text(f"{first}# {chapter_title(chapter)}\n\n{why}\n", encoding="utf-8")


def with_anchors(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return a chapter's cells, each that shows something after an anchor of its id, captions linked to the ledger."""
    found = []
    for cell in cells:
        if cell.cell_type == "code" and names_shown(cell.source):
            anchor = f'<a class="anchor" id="{cell.id}"></a>'
            found.append(nbformat.v4.new_markdown_cell(anchor, id=f"anchor-{cell.id}"[:64]))
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output["data"]["text/html"] = linked_claims("".join(output["data"]["text/html"]))
        found.append(cell)
    return found


def _folder_hash(folder: Path) -> str:
    """Return one hash of all files of a folder and of the renderer's version."""
    digest = hashlib.sha256(json.dumps([metadata.version("jupyter-book"), metadata.version("myst-nb")]).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + sha256_file(path).encode())
    return digest.hexdigest()
