"""The whole book as one PDF: links within it, nothing of this machine in it, and a book without it where no Chromium is."""

import re
import shutil
import zlib

import pytest
from conftest import CHECKOUT, NO_CHROMIUM

from covid3d.report import pdf

PAGE = """<html><head><title>A book</title><link rel="stylesheet" href="_static/a.css"/><script src="x.js"></script></head>
<body><nav>side bar</nav><article>{}</article></body></html>"""
INDEX = """<h1>A book<a class="headerlink" href="#a-book">#</a></h1><p id="whole-book">none yet</p>
<a href="ledger.html#C097">a claim</a> <a href="notebooks/01_data.html">chapter</a> <a href="https://doi.org/1">paper</a>
<button>press</button>"""
CHAPTER = """<h1>1 Data</h1><img src="../_static/a.png" loading="lazy"/><a id="here"></a><a href="#here">up</a>
<a href="../_static/results/values.json">file</a><details class="hide"><summary>code</summary>x</details>
<details><summary>more</summary>words</details>"""


@pytest.fixture
def built(make_run):
    """A small run with a built book of three pages; returns the run and the folder of its pages."""
    run = make_run()
    folder = run.path("book", "_build", "html")
    (folder / "notebooks").mkdir(parents=True)
    (folder / "_static").mkdir()
    shutil.copyfile(CHECKOUT / "book" / "_static" / "covid3d.css", folder / "_static" / "a.css")
    toc = (
        "root: index\nparts:\n- caption: All\n  chapters: [{file: ledger}, {file: notebooks/01_data}, {file: values}]\n"
    )
    run.path("book", "_toc.yml").write_text(toc)
    pages = {"index": INDEX, "ledger": "<h1>The ledger</h1><p id='C097'>row</p>", "notebooks/01_data": CHAPTER}
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(PAGE.format(text))
    return run, folder


def test_all_pages_become_one_without_what_only_a_screen_has(built):
    text = pdf.whole_book(*built)
    assert re.findall(r"<section class='page' id='([^']*)'", text) == [
        "page-index",
        "page-ledger",
        "page-notebooks-01_data",
    ]
    assert not re.search(r"<script|<button|headerlink|side bar|loading=", text)
    assert "Simulated scans: no number of this run was measured on a patient." in text
    assert '<details class="hide">' in text and '<details open="">' in text


def test_links_between_pages_lead_within_and_files_of_the_run_become_text(built):
    text = pdf.whole_book(*built)
    links = re.findall(r'<a href="([^"]*)">', text)
    anchors = {"#page-ledger--C097", "#page-notebooks-01_data", "#page-notebooks-01_data--here"}
    assert set(links) == {*anchors, "https://doi.org/1"}
    assert all(f'id="{anchor[1:]}"' in text.replace("'", '"') for anchor in anchors)
    assert "<a>file</a>" in text and 'src="_static/a.png"' in text


def test_without_a_chromium_the_book_stays_as_it_is_and_a_line_says_how_to_get_the_pdf(built, monkeypatch, capsys):
    run, folder = built
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    pdf.write_pdf(run, folder)
    assert "install Chromium" in capsys.readouterr().out
    assert not (folder / pdf.NAME).exists() and "none yet" in (folder / "index.html").read_text()


def test_a_chromium_that_fails_stops_nothing_and_leaves_nothing(built, monkeypatch, capsys):
    run, folder = built
    monkeypatch.setattr(pdf, "BROWSERS", ("false",))
    pdf.write_pdf(run, folder)
    assert "false failed" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["_static", "index.html", "ledger.html", "notebooks"]


def unpacked(path):
    """Return the bytes of a PDF, and after them each of its streams unpacked."""
    text = path.read_bytes()
    parts = [text]
    for found in re.finditer(rb"stream\r?\n", text):
        try:
            parts.append(zlib.decompressobj().decompress(text[found.end() :]))
        except zlib.error:
            continue
    return b"\n".join(parts)


def test_the_printed_pdf_is_linked_and_names_no_file_of_this_machine(built):
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip(NO_CHROMIUM)
    run, folder = built
    pdf.write_pdf(run, folder)
    text = unpacked(folder / pdf.NAME)
    assert text.startswith(b"%PDF") and b"https://doi.org/1" in text
    assert not [mark for mark in (b"file:", str(run.root).encode(), b"whole_book") if mark in text]
    assert "<a href='companion.pdf'>The whole book as one PDF</a>: 4 pages" in (folder / "index.html").read_text()
    assert not (folder / "whole_book.html").exists()
