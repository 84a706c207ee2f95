"""The whole book as one PDF: its built pages one after the other, printed by the user's own Chromium, where there is one.

Links between pages become links of the PDF, those to files of the run become text: no address of this machine is kept.
"""

import html
import json
import os
import posixpath
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml
from bs4 import BeautifulSoup, Tag

from covid3d.report.banner import banner
from covid3d.run.files import atomic_path, write_text
from covid3d.run.profile import Run

NAME = "companion.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    *("--headless", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--no-pdf-header-footer"),
    "--generate-pdf-document-outline",
)
SCREEN_ONLY = "script, button, input, select, fieldset, canvas, output, label, source, .headerlink, p.passport a"
LEFT_OUT = ("values",)
"""Pages that nobody reads on paper: 3,000 values would be 280 sheets."""
LIMIT_S = 300


def browser() -> str | None:
    """Return the Chromium of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def write_pdf(run: Run, built: Path) -> bool:
    """Print a built book into `companion.pdf` beside its pages, link it from the first page, and return whether it was made.

    Without a Chromium, or where it fails, the book stays without the PDF, and a line says why.
    """
    program = browser()
    if program is None:
        print("book: without its PDF; install Chromium and repeat the command to get it", flush=True)
        return False
    page = built / "whole_book.html"
    write_text(page, whole_book(run, built))
    try:
        with (
            tempfile.TemporaryDirectory(dir=built.parent, ignore_cleanup_errors=True) as own,
            atomic_path(built / NAME) as target,
        ):
            root = (
                ("--no-sandbox",) if os.geteuid() == 0 else ()
            )  # Chromium refuses root otherwise; the page has no script
            command = [program, *QUIET, *root, f"--user-data-dir={own}", f"--print-to-pdf={target}", page.as_uri()]
            subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=True)
            pages = len(re.findall(rb"/Type /Page\b", target.read_bytes()))
            if not pages:
                raise subprocess.SubprocessError("no page was printed")
    except (OSError, subprocess.SubprocessError) as error:
        print(f"book: without its PDF, {Path(program).name} failed: {type(error).__name__}", flush=True)
        return False
    finally:
        page.unlink()
    _link(built, pages)
    return True


def _link(built: Path, pages: int) -> None:
    """Let the first page of a built book offer its PDF."""
    index = built / "index.html"
    size = (built / NAME).stat().st_size / 1e6
    link = f"<p id='whole-book'><a href='{NAME}'>The whole book as one PDF</a>: {pages} pages, {size:.1f} MB.</p>"
    text = index.read_text(encoding="utf-8")
    write_text(index, re.sub(r"<p id=[\"']whole-book[\"']>.*?</p>", link, text, count=1, flags=re.DOTALL))


def whole_book(run: Run, built: Path) -> str:
    """Return the pages of a built book as one page of HTML without scripts: contents, then each page."""
    parts = _parts(run)
    order = [page for pages in parts.values() for page in pages]
    articles = {page: _article(built, page, order) for page in order}
    heads = BeautifulSoup((built / "index.html").read_text(encoding="utf-8"), "html.parser")
    sheets = "".join(str(link) for link in heads.select("link[rel=stylesheet]"))
    title = html.escape(heads.title.get_text(strip=True) if heads.title else run.name)
    said = json.dumps(banner(run), ensure_ascii=False)
    sections = "".join(
        f"<section class='page' id='{slug(page)}'>{article}</section>" for page, article in articles.items()
    )
    return (
        f"<!DOCTYPE html><html lang='en' data-theme='light'><head><meta charset='utf-8'><title>{title}</title>{sheets}"
        f"<style>@page {{ @top-left {{ content: {said} }} }}</style></head>"
        f"<body class='whole-book'>{_contents(parts, articles)}{sections}</body></html>"
    )


def slug(page: str) -> str:
    """Return the anchor of a page: `notebooks/01_data` -> `page-notebooks-01_data`."""
    return f"page-{page.replace('/', '-')}"


def _parts(run: Run) -> dict[str, list[str]]:
    """Return the printed pages of a run's book by part, in reading order."""
    toc = yaml.safe_load(run.path("book", "_toc.yml").read_text(encoding="utf-8"))
    files = {part["caption"]: [page["file"] for page in part["chapters"]] for part in toc["parts"]}
    return {"": [toc["root"]]} | {
        part: [page for page in pages if page not in LEFT_OUT] for part, pages in files.items()
    }


def _contents(parts: dict[str, list[str]], articles: dict[str, Tag]) -> str:
    """Return the list of all pages by part, each title a link."""
    lists = []
    for caption, pages in parts.items():
        titles = {page: heading.get_text(strip=True) for page in pages if (heading := articles[page].find("h1"))}
        items = "".join(f"<li><a href='#{slug(page)}'>{html.escape(title)}</a></li>" for page, title in titles.items())
        lists.append(f"<p>{html.escape(caption)}</p><ul>{items}</ul>")
    return f"<nav aria-label='Contents'>{''.join(lists)}</nav>"


def _article(built: Path, page: str, order: list[str]) -> Tag:
    """Return the text of a page ready for paper: anchors of its own, links within the PDF, nothing that only a screen has."""
    soup = BeautifulSoup((built / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article")
    assert article is not None
    for gone in article.select(SCREEN_ONLY):
        gone.decompose()
    for folded in article.select("details:not(.hide, .unprinted)"):
        folded["open"] = ""
    for image in article.select("img"):
        image["src"] = posixpath.normpath(posixpath.join(posixpath.dirname(page), str(image["src"])))
        del image["loading"]
    for link in article.select("a[href]"):
        target = _target(page, str(link["href"]), order)
        if target:
            link["href"] = target
        else:
            del link["href"]
    for element in article.select("[id]"):
        element["id"] = f"{slug(page)}--{element['id']}"
    return article


def _target(page: str, href: str, order: list[str]) -> str:
    """Return where a link of a page leads in the PDF: to a page or place in it, or to the web; "" for a file of the run."""
    if re.match(r"(https?|mailto):", href):
        return href
    path, _, anchor = href.partition("#")
    to = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)).removesuffix(".html") if path else page
    if to not in order:
        return ""
    return f"#{slug(to)}--{anchor}" if anchor else f"#{slug(to)}"
