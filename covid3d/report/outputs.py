"""What an executed notebook shows, made ready for the book: numbered, as files that can be fetched, with a passport each."""

import base64
import html
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from covid3d.report.collect import wall_minutes
from covid3d.run.errors import Covid3DError
from covid3d.run.files import read_json
from covid3d.run.profile import Run
from covid3d.run.steps import CHAPTERS

RESULTS = "_static/results"
"""Where a page of the book finds figures, tables and notebooks as files."""
LARGEST_SVG = 400_000
OPEN_LINES, OPEN_WIDTH = 4, 88
"""Code cells up to this size stand open on a page; longer ones are folded."""
SHOWN = re.compile(r"<(?:figure|div class='scrolls[^']*') id='(figure|table)-(\w+)'")
PAPERS_OWN = re.compile(r"^(Figure|Table) (\d+)\. ")


def numbers(run: Run) -> dict[str, tuple[str, str]]:
    """Return the number and the address of everything shown: `figure.roc` -> ("Figure 4.2", "notebooks/….html#figure-roc")."""
    found: dict[str, tuple[str, str]] = {}
    for chapter in CHAPTERS:
        path = run.path("notebooks", f"{chapter}.ipynb")
        counts = {"figure": 0, "table": 0}
        for text in _texts(nbformat.read(path, as_version=4)) if path.is_file() else ():
            for kind, name in SHOWN.findall(text):
                counts[kind] += 1
                number = f"{kind.capitalize()} {int(chapter[:2])}.{counts[kind]}"
                found[f"{kind}.{name}"] = number, f"notebooks/{chapter}.html#{kind}-{name}"
    return found


def pages(book: Path) -> dict[str, tuple[str, str]]:
    """Return the title and the address of every page of a book that is no notebook: `cite` -> ("Cite this", "cite.html")."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(book.glob("*.md"))}
    return {name: (text.partition("\n")[0].lstrip("# "), f"{name}.html") for name, text in texts.items()}


def _texts(notebook: Any) -> list[str]:
    """Return the HTML outputs of a notebook, in order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [html for output in outputs if (html := "".join(output.get("data", {}).get("text/html", "")))]


def copy_results(run: Run, target: Path) -> None:
    """Copy figures, tables and executed notebooks to where pages find them."""
    target.mkdir(parents=True, exist_ok=True)
    files = [path for pattern in ("figures/*", "tables/*.csv") for path in run.chapter_files(pattern)]
    for path in [*files, *sorted(run.path("notebooks").glob("*.ipynb"))]:
        shutil.copyfile(path, target / path.name)
    for name in ("values.json", "claims.csv", "predictions.csv"):
        if run.path(name).is_file():
            shutil.copyfile(run.path(name), target / name)


def prepare(
    run: Run, chapter: str, notebook: Any, known: Mapping[str, tuple[str, str]], made: Mapping[str, str]
) -> None:
    """Rewrite the outputs of an executed notebook in place: files for images, numbers in captions, passports, folded code.

    Raises Covid3DError with the name of a figure or table whose file is missing.
    """
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        _fold(cell)
        for output in cell.outputs:
            text = "".join(output.get("data", {}).get("text/html", ""))
            for kind, name in SHOWN.findall(text):
                text = _number(text, *known[f"{kind}.{name}"])
                is_figure = kind == "figure"
                text = _figure(run, chapter, name, text, made) if is_figure else _table(run, chapter, name, text)
            if text:
                output["data"]["text/html"] = searchable(text)


def as_files(text: str, folder: Path, name: str) -> str:
    """Return a page's part whose inline images have become files of a folder: `name_1.png` and so on."""
    images = re.findall(r"data:image/png;base64,([^']*)", text)
    for number, image in enumerate(images, start=1):
        (folder / f"{name}_{number}.png").write_bytes(base64.b64decode(image))
        text = text.replace(f"data:image/png;base64,{image}", f"{RESULTS}/{name}_{number}.png", 1)
    return text


def searchable(text: str) -> str:
    """Return HTML whose neighbouring cells are words apart: the search of the book takes tags away and nothing else."""
    return re.sub("><(?!/)", ">\n<", text)  # an empty cell stays empty


def _fold(cell: Any) -> None:
    """Fold a long or wide code cell, unless its notebook says what becomes of it."""
    tags = cell.metadata.setdefault("tags", [])
    lines = cell.source.splitlines()
    is_long = len(lines) > OPEN_LINES or any(len(line) > OPEN_WIDTH for line in lines)
    if is_long and not any(tag.startswith(("hide-", "remove-")) for tag in tags):
        tags.append("hide-input")


def _number(text: str, number: str, address: str) -> str:
    """Return an output whose caption begins with its number, a link to itself; the paper's own numbers say so."""
    link = f"<a class='number' href='#{address.partition('#')[2]}'>{number}</a>"
    start = r"(?<=<figcaption>)|(?<=<caption>)"
    before, caption = re.split(start, text, maxsplit=1) if re.search(start, text) else (text, "")
    caption = PAPERS_OWN.sub(r"(\1 \2 of the paper) ", caption)
    return f"{before}{link} {caption}" if caption else text


def _figure(run: Run, chapter: str, name: str, text: str, made: Mapping[str, str]) -> str:
    """Return a figure's output with its image as a file: SVG, or a sharp PNG for pictures of scans and large drawings."""
    folder = run.chapter(chapter[:2]) / "figures"
    for suffix in ("svg", "png"):
        _require(run, folder / f"{name}.{suffix}")
    is_drawing = "class='dark-light'" not in text and (folder / f"{name}.svg").stat().st_size <= LARGEST_SVG
    source = f"../{RESULTS}/{name}.{'svg' if is_drawing else 'png'}"
    text = re.sub(r"src='data:image/png;base64,[^']*'", f"src='{source}' loading='lazy'", text, count=1)
    text = re.sub(r"<img[^>]*>", r"<div class='picture' tabindex='0'>\g<0></div>", text, count=1)
    files = {"SVG": f"{name}.svg", "PNG": f"{name}.png", "notebook": f"{chapter}.ipynb"}
    return text.replace("</figcaption>", f"</figcaption>{passport_line(made, f'{name}.svg', files)}", 1)


def _table(run: Run, chapter: str, name: str, text: str) -> str:
    _require(run, run.chapter(chapter[:2]) / "tables" / f"{name}.csv")
    return f"{text}<p class='passport'>{_links({'CSV': f'{name}.csv', 'notebook': f'{chapter}.ipynb'})}</p>"


def _require(run: Run, path: Path) -> None:
    if not path.is_file():
        where, chapter = path.relative_to(run.folder).as_posix(), path.parent.parent.name
        cure = f"`make run RUN={run.name}` executes chapter {chapter} again"
        raise Covid3DError(f"the file of '{path.stem}' is missing", where=f"runs/{run.name}/{where}", cure=cure)


def passport_line(made: Mapping[str, str], file: str, files: dict[str, str]) -> str:
    """Return the small line under a figure: what it was made with, and where to fetch it."""
    names = ("commit", "manifest", "profile", "seed", "device", "minutes")
    said = " · ".join([*(f"{name} {made[name]}" for name in names), file])
    return f"<p class='passport'><span>{html.escape(said)}</span> {_links(files)}</p>"


def _links(files: dict[str, str]) -> str:
    return " ".join(f"<a href='../{RESULTS}/{path}' download>{kind}</a>" for kind, path in files.items())


def details(run: Run) -> dict[str, str]:
    """Return what a run was made with, in words: short hashes, sizes, times; "not recorded" where that is so."""
    path = run.path("passport.json")
    passport = read_json(path) if path.is_file() else {}
    unknown = "not recorded"
    steps = [read_json(file) for file in sorted(run.path("logs", "cost").glob("*.json"))]
    steps = [step for step in steps if step["step"] != "book" and step.get("budget")]
    ended = max((step["ended"] for step in steps), default=None)
    made = [part for part in (passport.get("processor"), passport.get("system")) if part]
    return {
        "run": run.name,
        "profile": run.profile.name,
        "seed": str(run.seed),
        "world": run.world if run.is_phantom else "real scans",
        "commit": (passport.get("commit") or "")[:7] or unknown,
        "manifest": (passport.get("manifest_sha256") or "")[:12] or unknown,
        "date": datetime.fromtimestamp(ended, UTC).strftime("%d %B %Y") if ended else unknown,
        "minutes": f"{wall_minutes(steps):.1f}" if steps else unknown,
        "device": passport.get("device", unknown),
        "machine": ", ".join(made) or unknown,
        "python": passport.get("python", unknown),
        "versions": ", ".join(f"{name} {version}" for name, version in passport.get("versions", {}).items()) or unknown,
    }
