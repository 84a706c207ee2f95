"""Executing chapters, collecting them, and the book: offline, complete, and honest in its first line."""

import html
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from covid3d.report import book, claims, collect
from covid3d.report import chapter as chapters
from covid3d.report.verdict import JUDGEMENTS, NEVER_JUDGED_ON_PHANTOM
from covid3d.run.errors import ConfigError, Covid3DError
from covid3d.run.files import read_json, write_text
from covid3d.run.profile import Run, open_run
from covid3d.run.steps import CHAPTERS
from covid3d.show import Show

CHECKOUT = Path(__file__).parents[2]
PARAMETERS = 'run = "standard"\ncompute = True\ndevice = "auto"'
START = 'from covid3d import notebook\n\nrun, show = notebook.open("01_data", globals())'
WORK = 'show({"scans": 397}, "counts", "Counts.")\nshow.save()'


def write_notebook(path: Path, *code: str) -> None:
    """Write a small notebook of chapter 1 with the given code cells after the usual first two."""
    cells = [new_markdown_cell("# 1 Data\n\nA test.", id="title")]
    cells.append(new_code_cell(PARAMETERS, id="parameters", metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(text, id=f"cell-{number}") for number, text in enumerate([START, *code])]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    shutil.copytree(CHECKOUT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build", ".*"))
    return open_run("smoke").with_options(compute=False)


def test_a_chapter_runs_from_any_directory_and_keeps_no_path(run, tmp_path, monkeypatch):
    write_notebook(run.root / "notebooks" / "01_data.ipynb", WORK)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    executed = chapters.ensure_chapter(run, "01_data")
    text = executed.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert str(tmp_path) not in text
    assert "papermill" not in notebook.metadata
    injected = [cell.source for cell in notebook.cells if cell.id == "injected-parameters"]
    assert 'run = "smoke"' in injected[0]
    assert "compute = False" in injected[0]
    assert claims.read_values(run)["counts.scans"]["cell"] == "cell-1"


def test_an_unchanged_chapter_is_not_executed_again(run, capsys):
    source = run.root / "notebooks" / "01_data.ipynb"
    write_notebook(source, WORK)
    chapters.ensure_chapter(run, "01_data")
    before = run.path("notebooks", "01_data.ipynb").stat().st_mtime_ns
    write_notebook(source, WORK + "  # a comment changes nothing")
    chapters.ensure_chapter(run, "01_data")
    assert run.path("notebooks", "01_data.ipynb").stat().st_mtime_ns == before
    write_notebook(source, WORK.replace("397", "398"))
    chapters.ensure_chapter(run, "01_data")
    assert read_json(run.chapter("01") / "values.json")["counts.scans"]["value"] == 398


def test_what_a_chapter_reads_is_part_of_its_fingerprint(run):
    source = run.root / "notebooks" / "01_data.ipynb"
    write_notebook(source, WORK)
    before = chapters.fingerprint(run, "01_data")
    run.intake.write_text("scan_id\n", encoding="utf-8")
    assert chapters.fingerprint(run, "01_data") != before


def test_a_failing_cell_is_one_message_with_the_cells_error(run):
    write_notebook(run.root / "notebooks" / "01_data.ipynb", 'raise ValueError("the cell says why")')
    with pytest.raises(Covid3DError, match="ValueError: the cell says why") as error:
        chapters.ensure_chapter(run, "01_data")
    assert "chapter 01_data" in str(error.value)
    assert run.path("logs", "01_data.ipynb").is_file()
    assert not run.path("notebooks", "01_data.ipynb").exists()


def test_a_notebook_whose_python_is_killed_is_one_message(run):
    write_notebook(run.root / "notebooks" / "01_data.ipynb", "import os\n\nos.kill(os.getpid(), 9)")
    with pytest.raises(Covid3DError, match=r"chapter 01_data: the notebook's Python was ended .* \(CORES=1\)"):
        chapters.ensure_chapter(run, "01_data")
    assert not run.path("notebooks", "01_data.ipynb").exists()


def test_a_notebook_whose_python_does_not_start_is_one_message(run, tmp_path, monkeypatch):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(chapters, "START_SECONDS", 2)
    write_notebook(run.root / "notebooks" / "01_data.ipynb", WORK)
    with pytest.raises(Covid3DError, match="chapter 01_data: the notebook's Python did not start"):
        chapters.ensure_chapter(run, "01_data")


def test_kernels_are_spoken_to_through_files_of_this_user_alone(run, tmp_path, monkeypatch):
    """Not through TCP ports, which two kernels that start at once can both be given; and wherever TMPDIR lies."""
    place = tmp_path / ("a_long_path" * 10)
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    look = """\
import stat
from pathlib import Path
from ipykernel.connect import get_connection_info

used = get_connection_info(unpack=True)
folder = Path(used["ip"]).parent
print(used["transport"], oct(stat.S_IMODE(folder.stat().st_mode)), len(list(folder.glob("kernel-?"))))
"""
    write_notebook(run.root / "notebooks" / "01_data.ipynb", look)
    notebook = nbformat.read(chapters.ensure_chapter(run, "01_data"), as_version=4)
    assert notebook.cells[-1].outputs[0].text.split() == ["ipc", "0o700", "5"]


def test_an_unknown_chapter_gives_the_nearest_name(run):
    with pytest.raises(Covid3DError, match="01_data"):
        chapters.ensure_chapter(run, "01_dat")


def leave(run: Run, chapter: str, name: str) -> None:
    show = Show(run, chapter, {})
    show({"n": 1}, name, "A table.")
    show.save()


def test_collect_merges_the_chapters(run):
    leave(run, "01_data", "one")
    leave(run, "02_model", "two")
    values = read_json(collect.collect(run))
    assert set(values) == {"one.n", "two.n"}
    assert sorted(path.name for path in run.path("tables").iterdir()) == ["one.csv", "two.csv"]
    assert len(run.path("claims.csv").read_text(encoding="utf-8").splitlines()) >= 143
    assert read_json(run.path("cost.json"))["profile"] == "smoke"


def test_a_doubled_name_is_refused(run):
    leave(run, "01_data", "one")
    leave(run, "02_model", "one")
    with pytest.raises(ConfigError, match="01 and 02"):
        collect.collect(run)


def test_the_passport_names_no_host_and_no_path(run):
    text = json.dumps(collect.passport(run))
    assert str(run.root) not in text
    assert os.uname().nodename not in text


def test_a_missing_chapter_is_one_line_that_says_why(run, tmp_path):
    shutil.copytree(CHECKOUT / "notebooks", run.root / "notebooks")
    book.stage(run, tmp_path / "staged")
    page = (tmp_path / "staged" / "notebooks" / "07_prognosis.md").read_text(encoding="utf-8")
    assert page.startswith('# 7 Prognosis\n\n<p class="origin"><strong>Simulated scans')
    assert "has not been run" in page


def test_prose_gets_its_numbers_and_a_number_that_nobody_makes_is_named(run):
    notebook = new_notebook(cells=[new_code_cell('show(table, "counts", "Counts.")', id="a")])
    (run.root / "notebooks").mkdir()
    nbformat.write(notebook, run.root / "notebooks" / "01_data.ipynb")
    texts = {"counts.scans": "397", "paper.C008": "397 scans"}
    said = book.with_numbers(run, "{glue:text}`counts.scans` of {glue:text}`paper.C008`", texts, "page")
    assert said == "397 of 397 scans"
    assert book.with_numbers(run, "{glue:text}`counts.slices`", texts, "page") == "not available in this run"
    with pytest.raises(Covid3DError, match=r"page: prose names a number that nobody makes: 'count\.scans'"):
        book.with_numbers(run, "{glue:text}`count.scans`", texts, "page")
    texts["counts.campaign.result"] = "not measured yet"
    assert book.with_numbers(run, "{glue:text}`counts.slices`", texts, "page") == "not measured yet"


def test_what_only_the_embedded_cohort_has_is_not_available_in_a_run_of_another(run):
    notebook = new_notebook(cells=[new_code_cell('show(table, "auc", "By hospital.")', id="a")])
    (run.root / "notebooks").mkdir()
    nbformat.write(notebook, run.root / "notebooks" / "01_data.ipynb")
    write_text(run.root / "own.csv", "scan_id\n")
    other = open_run("other", profile="smoke", manifest="own.csv")
    for one in (run, other):
        leave(one, "01_data", "auc")
    with pytest.raises(Covid3DError, match=r"nobody makes: 'auc\.b'"):
        book.with_numbers(run, "{glue:text}`auc.b`", {}, "page")
    assert book.with_numbers(other, "{glue:text}`auc.b`", {}, "page") == "not available in this run"
    with pytest.raises(Covid3DError, match=r"nobody makes: 'aux\.b'"):
        book.with_numbers(other, "{glue:text}`aux.b`", {}, "page")


def test_staging_leaves_the_sources_alone_and_fills_every_number(run, tmp_path):
    shutil.copytree(CHECKOUT / "notebooks", run.root / "notebooks")
    before = {path.name: path.read_bytes() for path in (run.root / "book").glob("*") if path.is_file()}
    book.stage(run, tmp_path / "staged")
    assert {path.name: path.read_bytes() for path in (run.root / "book").glob("*") if path.is_file()} == before
    page = (tmp_path / "staged" / "index.md").read_text(encoding="utf-8")
    assert "not available in this run" in page and "{glue:text}" not in page


def test_a_change_of_the_pdfs_code_alone_prints_it_again_and_renders_nothing(run, monkeypatch):
    calls, code = [], ["old"]

    def render(run, book):
        calls.append("render")
        write_text(book / "_build" / "html" / "index.html", "")

    def write_pdf(run, built):
        calls.append("print")
        write_text(built / book.pdf.NAME, "")
        return len(calls) != 3  # the first attempt to print it again fails

    monkeypatch.setattr(book, "stage", lambda run, target: write_text(target / "index.md", "# A book"))
    monkeypatch.setattr(book, "_render", render)
    monkeypatch.setattr(book.pdf, "write_pdf", write_pdf)
    monkeypatch.setattr(book, "code_fingerprint", lambda module: {"covid3d.report.pdf": code[-1]}[module])
    for code[-1] in ("old", "old", "new", "new", "new"):
        book.build(run)
    assert calls == ["render", "print", "print", "print"]


def test_the_page_on_own_scans_gets_the_table_of_refusals_and_no_word_on_the_runs_scans(run, tmp_path):
    for page in (run.root / "book").glob("*.md"):
        if page.stem not in ("own_scans", "audit"):
            page.unlink()
    book.stage(run, tmp_path / "staged")
    assert "mixed_series" in (tmp_path / "staged" / "_generated" / "refusals.html").read_text(encoding="utf-8")
    assert "Simulated scans:" not in (tmp_path / "staged" / "own_scans.md").read_text(encoding="utf-8")
    assert "Simulated scans" in (tmp_path / "staged" / "audit.md").read_text(encoding="utf-8")


# --- the built book ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def built(smoke_run) -> Path:
    """The folder of the smoke run's book."""
    folder = smoke_run.path("book", "_build", "html")
    assert (folder / "index.html").is_file()
    return folder


TOC = yaml.safe_load((CHECKOUT / "book" / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_the_network_for_nothing(built, name):
    text = (built / f"{name}.html").read_text(encoding="utf-8")
    asked = re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=[\"'](https?:[^\"']+)", text)
    assert [address for address in asked if "canonical" not in address] == []


def test_every_value_of_the_smoke_run_is_served_to_the_ledger(smoke_run, built):
    table = claims.ledger(smoke_run)
    lost = table.loc[(table["verdict"] == claims.NOT_AVAILABLE) & table["kind"].isin(["result", "figure", "cohort"])]
    unwritten = [row.claim_id for row in lost.itertuples() if "chapter has not been run" in str(row.re_run)]
    assert unwritten == []
    silent = table["kind"].isin(NEVER_JUDGED_ON_PHANTOM) & (table["claim_id"] != "C094")  # C094 is a check of the print
    assert not set(table.loc[silent, "verdict"]) & set(JUDGEMENTS)
    assert claims.without_cell(table) == []


LARGEST_PAGE = 3_000_000


@pytest.mark.parametrize("name", PAGES)
def test_a_page_weighs_at_most_3_mb_with_its_pictures(built, name):
    path = built / f"{name}.html"
    text = path.read_text(encoding="utf-8")
    images = {(path.parent / source).resolve() for source in re.findall(r"<img[^>]*src=[\"']([^\"':]+)[\"']", text)}
    assert path.stat().st_size + sum(image.stat().st_size for image in images) <= LARGEST_PAGE
    assert "base64" not in text


@pytest.mark.parametrize("name", PAGES)
def test_links_of_a_page_lead_somewhere(built, name):
    path = built / f"{name}.html"
    ids = {path: set(re.findall(r"\bid=[\"']([^\"']+)", path.read_text(encoding="utf-8")))}
    lost = []
    for link in set(re.findall(r"<a [^>]*href=[\"']([^\"']*)[\"']", path.read_text(encoding="utf-8"))):
        address, _, anchor = html.unescape(link).partition("#")
        if re.match(r"[a-z]+:", address):
            continue
        target = (path.parent / address.partition("?")[0]).resolve() if address else path
        if not target.is_file():
            lost.append(link)
        elif anchor and target.suffix == ".html":
            known = ids.setdefault(target, set(re.findall(r"\bid=[\"']([^\"']+)", target.read_text(encoding="utf-8"))))
            if anchor not in known:
                lost.append(link)
    assert lost == []


def opened(browser, *, width: int = 1280, dark: bool = False):
    """Return a new page of the browser, and the list of what it complains of."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:200]}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else complaints.append(request.url),
    )
    if dark:
        page.add_init_script("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    return page, complaints


@pytest.fixture(scope="module")
def screens(browser):
    """Wide and narrow, light and dark: a window of the browser each, which goes from page to page, and its complaints."""
    made = {(width, dark): opened(browser, width=width, dark=dark) for width in (1280, 390) for dark in (False, True)}
    yield made
    for page, _ in made.values():
        page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_errors_on_every_screen(built, screens, name):
    """Wide and narrow, light and dark: no error or request, no broken image, nothing cut, no serious finding of axe."""
    for (width, dark), (page, complaints) in screens.items():
        page.goto("about:blank")  # ends what the page before was still at
        complaints.clear()
        page.goto((built / f"{name}.html").as_uri())
        page.wait_for_load_state("load")
        page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
        first = page.locator("article").first.inner_text().strip().splitlines()[:4]
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        broken = page.evaluate("[...document.images].filter(image => image.naturalWidth === 0).length")
        page.evaluate("document.querySelectorAll('tbody tr:nth-child(n+40)').forEach(row => row.remove())")  # all alike
        serious = [
            (found["id"], found["impact"], [node["html"][:120] for node in found["nodes"][:3]])
            for found in Axe()
            .run(page, options={"preload": False, "resultTypes": ["violations"]})
            .response["violations"]
            if found["impact"] in ("serious", "critical")
        ]
        assert complaints == []
        assert (wide <= 0, broken) == (True, 0)
        assert serious == [], (width, dark)
        if name.startswith("notebooks") or name in ("index", "ledger"):
            assert any(line.startswith("Simulated scans") for line in first)


@pytest.mark.parametrize(
    ("words", "page"), [("Grad-CAM", "04_external_tests"), ("Kaplan-Meier", "07_prognosis"), ("C097", "ledger")]
)
def test_search_finds_the_words_of_the_field(built, browser, words, page):
    window, complaints = opened(browser)
    window.goto(f"{(built / 'search.html').as_uri()}?q={words}")
    window.wait_for_selector("#search-results li, .search-summary:not(:empty)")
    window.wait_for_timeout(1500)
    found = window.evaluate("[...document.querySelectorAll('#search-results li a')].map(link => link.href)")
    window.close()
    assert any(page in link for link in found), found
    assert complaints == []


def test_there_is_one_search_box(built, browser):
    page, _ = opened(browser)
    page.goto((built / "index.html").as_uri())
    boxes = page.locator(".search-button:visible, .search-button-field:visible, input[type=search]:visible").count()
    page.close()
    assert boxes == 1


LEFTMOST = """cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return Math.min(...[...range.getClientRects()].map(box => box.left)) - cell.getBoundingClientRect().left;
}"""


def test_a_narrow_table_shows_each_cell_beside_its_column(built, browser):
    page, _ = opened(browser, width=390)
    page.goto((built / "checklists.html").as_uri())
    cell = page.locator("td[data-label='section']").first
    assert "section" in page.evaluate("cell => getComputedStyle(cell, '::before').content", cell.element_handle())
    assert page.locator(".scrolls thead").first.bounding_box()["x"] < 0
    several = page.locator("td[data-label='where']:has(a + a)").first  # links, and a comma between them
    assert several.evaluate(LEFTMOST) > 100
    page.close()


def test_all_chapters_are_reached_from_the_landing_page(built, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((built / "index.html").as_uri())
    links = page.evaluate("[...document.querySelectorAll('a')].map(link => link.href)")
    page.close()
    for name in CHAPTERS:
        assert any(link.endswith(f"notebooks/{name}.html") for link in links), name


def test_the_ledger_can_be_searched_filtered_and_sorted(built, browser):
    page = browser.new_page()
    page.goto((built / "ledger.html").as_uri())
    rows = page.locator("#ledger tbody tr:visible")
    assert rows.count() == 142
    page.locator("#search").fill("27-layer")
    assert 1 <= rows.count() < 10
    page.locator("#search").fill("")
    page.locator("#verdict").select_option("print disagrees")
    assert 5 <= rows.count() < 20
    page.locator("#chapter").select_option("05_reader_comparison")
    assert page.locator("#C083").is_visible() and not page.locator("#C064").is_visible()
    page.locator("#verdict").select_option("")
    page.locator("#chapter").select_option("")
    last = page.locator("#ledger th button").first
    last.click()
    last.click()
    assert rows.first.get_attribute("id") == "C142"
    page.close()


def test_a_row_of_the_ledger_is_reached_by_its_number_and_leads_to_its_cell(built, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((built / "ledger.html").as_uri() + "#C097")
    row = page.locator("#C097")
    assert 0 <= row.bounding_box()["y"] < 800
    assert row.locator("a[href='audit.html#f4']").count() == 1
    link = row.locator("a[href*='04_external_tests.html#']")
    place = link.get_attribute("href").partition("#")[2]
    link.click()
    page.locator(f"a.anchor[id='{place}']").wait_for(state="attached", timeout=10_000)
    assert page.locator("a[href='../ledger.html#C097']").count() >= 1
    page.close()


def test_the_ledger_is_a_plain_table_without_scripts(built, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((built / "ledger.html").as_uri())
    assert page.locator("#ledger tbody tr").count() == 142
    assert page.locator("#search").count() == 0
    context.close()
