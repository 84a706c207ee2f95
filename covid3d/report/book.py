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
import yaml

from covid3d.chapters.measured import NOT_MEASURED
from covid3d.report import findings, landing, pdf
from covid3d.report.banner import banner
from covid3d.report.chapter import is_current, scrub
from covid3d.report.claims import names_shown, published_texts, read_values, shown_in
from covid3d.report.collect import cost
from covid3d.report.ledger_page import linked_claims
from covid3d.report.outputs import RESULTS, copy_results, details, numbers, pages, prepare
from covid3d.report.pages import write_fragments
from covid3d.report.viewer import write_viewer
from covid3d.run.environment import own_settings
from covid3d.run.errors import Covid3DError
from covid3d.run.files import atomic_folder, read_json, sha256_file, write_json, write_text
from covid3d.run.fingerprint import code_fingerprint
from covid3d.run.profile import Run, chapter_title
from covid3d.run.steps import CHAPTERS, chapters_of, note_cost

RENDERER = "import sys; sys.modules['rfc3987_syntax'] = None; from jupyter_book.cli.main import main; main()"
"""Without a grammar that takes long to build, see `covid3d.report.chapter`."""
KEYWORDS = {
    "01_data": "cohort, inclusion, flow diagram, demography, leakage, cross-validation folds, DICOM",
    "02_model": "I3D, inflated Inception, 3D convolution, receptive field, activation map, windowing, Hounsfield units",
    "03_cross_validation": "cross-validation, ROC, AUC, learning curves, overfitting, perfect reader",
    "04_external_tests": "external validation, ROC, AUC, DeLong, ResNet, Grad-CAM, HiResCAM, saliency, occlusion, robustness",
    "05_reader_comparison": "reader study, radiologists, sensitivity, specificity, equivalence, kappa, Youden's index",
    "06_trajectories": "follow-up, longitudinal CT, time course, viral pneumonia, discharge",
    "07_prognosis": "prognosis, length of stay, Kaplan-Meier, log-rank test, Cox, hazard ratio, C-index, competing risks",
    "08_claims": "claims, reproducibility, replication",
    "09_simulator": "phantom, simulated CT, synthetic data, null world, realism",
    "10_your_hospital": "external validation, hospital, intake, pseudonyms",
}
"""The field's words for a chapter, under its title: what a reader would search for."""
VIEWER_SCRIPTS = ("niivue.umd.js", "niivue_viewer.js", "scan.js")
GLUE = re.compile(r"\{glue:text\}`([^`]+)`")


def build(run: Run) -> Path:
    """Stage the book's sources with the run's results and build it offline, warnings as errors; return index.html.

    Nothing is built when the staged sources are the ones that were built last; the PDF alone is printed again where its code
    is another.
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
        wanted = {"fingerprint": _folder_hash(staged), "pdf": code_fingerprint(pdf.__name__)}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            done = read_json(record)
            if done["fingerprint"] == wanted["fingerprint"] and index.is_file():
                old_pdf = done.get("pdf") != wanted["pdf"] or not index.with_name(pdf.NAME).is_file()
                if old_pdf and pdf.write_pdf(run, index.parent):
                    write_json(record, wanted)
                return index
        started = time.perf_counter()
        print("book: building …", flush=True)
        record.unlink(missing_ok=True)
        with atomic_folder(book) as temporary:
            shutil.copytree(staged, temporary, dirs_exist_ok=True)
    _render(run, book)
    pdf.write_pdf(run, index.parent)
    write_json(record, wanted)
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
    places, made = numbers(run) | pages(target), details(run)
    copy_results(run, target / RESULTS)
    write_fragments(run, target / "_generated", places, made)
    config = target / "_config.yml"
    config.write_text(with_repository(config.read_text(encoding="utf-8"), os.environ), encoding="utf-8")
    texts = prose_texts(run)
    write_viewer(run, target)
    _set_apart(target)
    for page in sorted(target.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        of_the_run = GLUE.search(text) or re.search("_generated/(?!refusals)", text)  # refusals are those of every run
        said = with_numbers(run, text, texts | links(places, ""), page.name)
        page.write_text(under_title(said, banner_source(run, made, "")) if of_the_run else said, encoding="utf-8")
    for chapter in CHAPTERS:
        stage_chapter(run, chapter, target / "notebooks", texts | links(places, "../"), places, made)


def _set_apart(target: Path) -> None:
    """Keep the viewer's scripts from all other pages, each of which would load whatever script lies in `_static`."""
    apart = target / "_extra" / "_static"  # html_extra_path: it lands beside the others
    apart.mkdir(parents=True)
    for name in VIEWER_SCRIPTS:
        if (target / "_static" / name).is_file():
            shutil.move(target / "_static" / name, apart / name)


def with_repository(config: str, environment: Mapping[str, str]) -> str:
    """Return the settings of the book with links to its repository and issues, where a build service names it."""
    if not environment.get("GITHUB_REPOSITORY"):
        return config
    address = f"{environment.get('GITHUB_SERVER_URL', 'https://github.com')}/{environment['GITHUB_REPOSITORY']}"
    settings = yaml.safe_load(config)
    settings["repository"] = {"url": address, "path_to_book": "book", "branch": "main"}
    settings["html"] |= {"use_repository_button": True, "use_issues_button": True}
    return yaml.safe_dump(settings, sort_keys=False)


def prose_texts(run: Run) -> dict[str, str]:
    """Return what prose can name: a run's numbers by address, those of the audit, and the printed ones as `paper.C095`.

    And what the first page says of numbers, as `first_page.other_seeds`.
    """
    values = read_values(run)
    own = {address: entry["text"] for address, entry in values.items()}
    return own | landing.texts(run, values) | findings.texts() | published_texts()


def links(places: Mapping[str, tuple[str, str]], up: str) -> dict[str, str]:
    """Return what prose names as `figure.roc` or `table.risk`: its number as a link. up: the way to the first page."""
    return {name: f'<a href="{up}{place}">{number}</a>' for name, (number, place) in places.items()}


def with_numbers(run: Run, text: str, texts: Mapping[str, str], where: str) -> str:
    """Return prose with each {glue:text}`address` replaced by its number.

    An address of a chapter that the run does not have prints "not available in this run", and so does one that is shown of the
    embedded cohort, in a run of another: its hospitals have other names. One of a campaign that is not stored prints so. One
    that nobody makes is a Covid3DError that names it and its page.
    """
    results = [address for address, text in texts.items() if text == NOT_MEASURED and address.endswith(".result")]
    unmeasured = {address.split(".")[0] for address in results}
    chapters = {name: chapter for name, (chapter, _) in shown_in(run.root / "notebooks").items()}

    def number(found: re.Match[str]) -> str:
        address = found.group(1)
        if address in texts:
            return texts[address]
        name = address.removeprefix("figure.").removeprefix("table.").split(".")[0]
        if name in unmeasured:
            return NOT_MEASURED
        chapter = chapters.get(name, "")
        if chapter and (run.config.manifest or not run.chapter(chapter[:2]).is_dir()):
            return "not available in this run"
        what = f"prose names a number that nobody makes: '{address}'"
        raise Covid3DError(what, where=where, cure="Take the address from the run's values.json")

    return GLUE.sub(number, text)


def banner_source(run: Run, made: Mapping[str, str], up: str) -> str:
    """Return the slim line under a page's title: where its scans come from, and which run it shows."""
    origin = f"<strong>{banner(run)}</strong> " if banner(run) else ""
    link = f'<a href="{up}index.html#run-details">Run {run.name}</a>'
    return f'<p class="origin">{origin}{link}: profile {made["profile"]}, {made["date"]}.</p>'


def under_title(page: str, line: str) -> str:
    """Return a page with a line under its first heading."""
    title, rest = re.match(r"((?:\(.*\)=\n)?# .*\n?)((?s:.*))", page).groups()  # type: ignore[union-attr]
    return f"{title.rstrip()}\n\n{line}\n\n{rest.lstrip()}"


def stage_chapter(
    run: Run,
    chapter: str,
    folder: Path,
    texts: Mapping[str, str],
    places: Mapping[str, tuple[str, str]],
    made: Mapping[str, str],
) -> None:
    """Write one chapter's page: the executed notebook with its numbers, or one line that says why it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    executed = run.path("notebooks", f"{chapter}.ipynb")
    line = f'{banner_source(run, made, "../")}\n<p class="keywords">Keywords: {KEYWORDS[chapter]}.</p>'
    if executed.is_file() and run.chapter(chapter[:2]).is_dir():
        notebook = nbformat.read(executed, as_version=4)
        prepare(run, chapter, notebook, places, made)
        notebook.cells = with_anchors(notebook.cells)
        for cell in notebook.cells:
            tags = cell.metadata.get("tags", [])
            if cell.cell_type == "markdown":
                cell.source = with_numbers(run, cell.source, texts, f"notebooks/{chapter}.ipynb")
            elif {"parameters", "injected-parameters", "remove-input"} & set(tags):
                cell.metadata["tags"].append("remove-cell")  # the line under the title names the run
        notebook.cells[0].source = under_title(notebook.cells[0].source, line)
        nbformat.write(notebook, folder / f"{chapter}.ipynb")
        return
    why = (
        "This chapter has not been run yet." if chapter in chapters_of(run) else "This chapter is not part of this run."
    )
    page = under_title(f"# {chapter_title(chapter)}\n\n{why}\n", line)
    (folder / f"{chapter}.md").write_text(page, encoding="utf-8")


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
