"""What notebooks show, in the book: numbered files with passports; the first page follows the run; hospitals stay private."""

import errno
import json
import re
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import CHECKOUT
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from covid3d.report import api, book, checklists, claims, landing, outputs
from covid3d.report.claims import load_claims, shown_in
from covid3d.report.pages import EXPECTED
from covid3d.report.publish import publish
from covid3d.run.errors import Covid3DError, MissingResult, StorageError
from covid3d.run.files import write_json
from covid3d.run.profile import open_run
from covid3d.show import Show, figure_html, render, table_html

CHAPTER = "04_external_tests"
MADE = dict.fromkeys(("commit", "manifest", "profile", "seed", "device", "minutes", "date"), "x")


@pytest.fixture
def run(root):
    return open_run("smoke")


def executed(run, chapter, *cells):
    """Write an executed notebook: (source, HTML output) a cell, after a title."""
    shown = [new_code_cell(source, outputs=[new_output("display_data", {"text/html": html})]) for source, html in cells]
    run.path("notebooks").mkdir(parents=True, exist_ok=True)
    notebook = new_notebook(cells=[new_markdown_cell("# 4 External tests\n\nHow well?"), *shown])
    nbformat.write(notebook, run.path("notebooks", f"{chapter}.ipynb"))
    return notebook


@pytest.fixture
def shown(run):
    """A chapter that shows a drawing, a picture and a table; its executed notebook."""
    drawing, pixels = Figure(), Figure()
    drawing.subplots().plot([0, 1])
    pixels.subplots().imshow([[0, 1], [1, 0]])
    table = pd.DataFrame({"model": ["3D"], "AUC": [0.8]})
    show = Show(run, CHAPTER, {})
    show(drawing, "roc", "ROC curves.")
    show(pixels, "figure_1", "Figure 1. A scan.")
    show(table, "table_1", "Table 1. AUCs.")
    show.save()
    return executed(
        run,
        CHAPTER,
        ("x = 1", figure_html(render(drawing, "png"), "ROC curves.", name="roc")),
        ("x = 1\n" * 9, figure_html(render(pixels, "png"), "Figure 1. A scan.", name="figure_1", pixels=True)),
        ("y = 2", table_html(table, "Table 1. AUCs.", "table_1")),
    )


def html_of(notebook):
    return "".join(output["data"]["text/html"] for cell in notebook.cells[1:] for output in cell.outputs)


def test_figures_become_numbered_files_with_their_passport(run, shown):
    places = outputs.numbers(run)
    assert places["figure.figure_1"] == ("Figure 4.2", "notebooks/04_external_tests.html#figure-figure_1")
    outputs.prepare(run, CHAPTER, shown, places, MADE | {"commit": "abc1234", "seed": "7"})
    page = html_of(shown)
    assert "base64" not in page
    assert "src='../_static/results/roc.svg'" in page and "src='../_static/results/figure_1.png'" in page
    assert re.search(r"class='dark-light'[^>]*figure_1\.png", page)
    assert "Figure 4.2</a> (Figure 1 of the paper) A scan." in page
    assert "Table 4.1</a> (Table 1 of the paper) AUCs." in page
    assert page.count("commit abc1234 · manifest x · profile x · seed 7 · device x · minutes x") == 2
    for name in ("roc.svg", "roc.png", "figure_1.svg", "table_1.csv", "04_external_tests.ipynb"):
        assert f"href='../_static/results/{name}' download" in page


def test_long_code_is_folded_and_short_code_stands_open(run, shown):
    outputs.prepare(run, CHAPTER, shown, outputs.numbers(run), MADE)
    assert [cell.metadata.get("tags") for cell in shown.cells[1:]] == [[], ["hide-input"], []]


@pytest.mark.parametrize("name", ["figures/roc.svg", "figures/figure_1.png", "tables/table_1.csv"])
def test_a_lost_file_stops_the_build_with_its_name(run, shown, name):
    (run.chapter("04") / name).unlink()
    with pytest.raises(Covid3DError, match=rf"chapters/04/{name}"):
        outputs.prepare(run, CHAPTER, shown, outputs.numbers(run), MADE)


def test_prose_refers_to_a_figure_by_its_name(run, shown):
    texts = book.links(outputs.numbers(run), "../")
    said = book.with_numbers(run, "See {glue:text}`figure.roc`.", texts, "page")
    assert said == 'See <a href="../notebooks/04_external_tests.html#figure-roc">Figure 4.1</a>.'


def test_the_line_of_origin_stands_under_the_title():
    assert book.under_title("# Title\n\nText.", "<p>line</p>") == "# Title\n\n<p>line</p>\n\nText."
    assert book.under_title("(label)=\n# Title\n", "<p>line</p>").startswith("(label)=\n# Title\n\n<p>line</p>")


def test_a_build_service_gives_the_book_its_repository():
    config = (CHECKOUT / "book" / "_config.yml").read_text(encoding="utf-8")
    assert book.with_repository(config, {}) == config
    told = book.with_repository(config, {"GITHUB_REPOSITORY": "someone/companion"})
    assert "url: https://github.com/someone/companion" in told and "use_issues_button: true" in told


# --- the first page ---------------------------------------------------------------------------------------------------


def entry(value, low=None, high=None, unit="", chapter="04", row=""):
    text = str(value)
    return {"value": value, "low": low, "high": high, "unit": unit, "chapter": chapter, "text": text, "row": row}


def values_of(auc):
    address = load_claims().set_index("claim_id").loc["C064", "address"]
    return {address: entry(auc, 0.7, 0.9), "skill_by_hospital.b.perfect_reader": entry(0.97)}


def test_the_first_picture_follows_the_run():
    for auc in (0.81, 0.62):
        row = next(row for row in landing.comparison(values_of(auc)) if row["label"] == "AUC, hospital B")
        assert row["found"] == (auc, 0.7, 0.9) and row["best"] == 0.97
        assert f"AUC, hospital B: published 0.78, re-run {auc:.2f}, best possible 0.97" in landing.picture_words(
            values_of(auc)
        )
    first, second = (render(landing.picture(values_of(auc), "simulated scans"), "svg") for auc in (0.81, 0.62))
    assert first != second
    assert first == render(landing.picture(values_of(0.81), "simulated scans"), "svg")


def test_chance_is_drawn_over_the_rows_of_aucs_alone():
    (axes,) = landing.picture(values_of(0.81), "simulated scans").axes
    (low, high) = next(
        ends[:, 1] for line in axes.collections for ends in line.get_segments() if set(ends[:, 0]) == {0.5}
    )
    over = [
        label.get_text() for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True) if low < at < high
    ]
    assert over == [name for name in landing.ROWS.values() if name.startswith("AUC")] and 0 < len(over) < len(
        landing.ROWS
    )


@pytest.mark.parametrize(
    ("p", "said"),
    [(0.049, "shown at 5 %"), (0.05, "not shown at 5 %"), (0.074, "not shown at 5 %"), (None, "not known")],
)
def test_the_first_page_says_whether_the_stays_are_shown_to_differ(run, p, said):
    values = {landing.STAYS_PERMUTED: entry(p, unit="p")}
    assert landing.texts(run, values)["first_page.different_times"] == said
    assert landing.texts(run, {})["first_page.different_times"] == "not known"


def test_the_first_page_shows_the_other_seeds_of_its_own_run_alone(root, run, monkeypatch):
    rows = [(seed, place, seed / 10 + at / 100) for seed in (1, 2, 3) for at, place in enumerate(landing.OUTSIDE)]
    stored = pd.DataFrame(rows, columns=["seed", "address", "value"]).assign(profile="standard")
    monkeypatch.setattr(landing.campaigns, "read", {"seeds": stored}.get)
    own = open_run("standard-seed2", profile="standard", seed=2)
    said = landing.texts(own, {})["first_page.other_seeds"]
    assert "are 0.100 and 0.110 (seed 1), 0.300 and 0.310 (seed 3)" in said and "seed 2" not in said
    null = open_run("null", profile="standard", world="null")
    assert {landing.texts(one, {})["first_page.other_seeds"] for one in (run, null)} == {""}
    stored.drop(stored.index[stored["seed"] != 2], inplace=True)
    assert landing.texts(own, {})["first_page.other_seeds"] == ""
    monkeypatch.setattr(landing.campaigns, "read", lambda name: None)
    assert landing.texts(own, {})["first_page.other_seeds"] == ""


def test_the_first_page_names_only_words_that_are_made(run):
    named = set(re.findall(r"first_page\.\w+", (CHECKOUT / "book" / "index.md").read_text(encoding="utf-8")))
    assert named == landing.texts(run, {}).keys() and named <= book.prose_texts(run).keys()


def test_one_changed_value_of_a_run_changes_its_first_page_its_picture_and_its_ledger(run, shown):
    address = load_claims().set_index("claim_id").loc["C064", "address"]
    sentence = (CHECKOUT / "book" / "index.md").read_text(encoding="utf-8")
    assert f"{{glue:text}}`{address}`" in sentence
    seen = []
    for auc in (0.81, 0.62):
        write_json(run.chapter("04") / "values.json", {address: entry(auc, 0.7, 0.9)})
        values = claims.read_values(run)
        page = book.with_numbers(
            run, f"{{glue:text}}`{address}`", {name: one["text"] for name, one in values.items()}, "index"
        )
        row = claims.ledger(run).set_index("claim_id").loc["C064", "re_run"]
        assert str(auc) in page and str(auc) in row and f"re-run {auc:.2f}" in landing.picture_words(values)
        seen.append((page, row))
    assert len({*seen}) == 2


def test_the_first_picture_has_the_printed_values_with_the_interval_of_their_counts():
    """AUC: Hanley and McNeil 1982. Share: Wilson's formula, written out here for 70 % of 20."""
    rows = {row["label"]: row["printed"] for row in landing.comparison({})}
    assert rows["AUC, hospital C"][0] == 0.84 and 0.5 < rows["AUC, hospital C"][1] < 0.84
    z, p, n = 1.959964, 0.7, 20
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert rows["specificity, B"] == pytest.approx(
        (0.7, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), abs=1e-6
    )
    assert all(row["found"] is None for row in landing.comparison({}))


def test_what_was_reached_and_what_was_not_is_listed_in_the_words_of_its_table():
    values = {
        "bars.skill.reached": entry("not reached", row="skill"),
        "bars.skill.found": entry(0.5) | {"text": "0.5 (lower limit)"},
        "course_bars.s_follows_2d_covid_plus.verdict": entry("reached", row="s follows 2D, COVID+ < 0.02"),
        "trust.course.verdict": entry("not reached", chapter="09", row="course"),
        "trust.course.holds": entry("1", chapter="09"),
        "trust.course.of": entry("2", chapter="09"),
        "whole_course.peak.verdict": entry("not reached", chapter="09", row="peak"),
        "whole_course.stay.verdict": entry("reached", chapter="09", row="stay"),
        "bars_of_seeds.skill.reached": entry("2 of 3", chapter="09"),
    }
    page = landing.bars_html(values, {"table.bars": ("Table 3.2", "notebooks/03.html#table-bars")})
    link = "<a href='notebooks/03.html#table-bars'>Table 3.2</a>"
    assert f"Not reached (1):</strong></p><ul><li>skill: 0.5 (lower limit) ({link})</li></ul>" in page
    assert "Reached (1):</strong></p><ul><li>s follows 2D, COVID+ &lt; 0.02</li></ul>" in page
    own = page.partition("<details><summary>The simulator's own bars</summary>")[2]
    assert "Not reached (2):</strong></p><ul><li>course: 1 of 2 hold</li><li>peak</li></ul>" in own
    assert "stay" not in own, "counted by its campaign's line"
    assert page.index("Not reached (1)") < page.index("Reached (1)")


# --- checklists, functions, publishing ----------------------------------------------------------------------------------


def test_checklists_have_all_items_by_number():
    """Sizes as their authors state them; PROBAST+AI asks 3, 4 and 4 questions alike of both, then 5 and 7 of the analysis."""
    table = checklists.load()
    items = {name: part["item"].tolist() for name, part in table.groupby("checklist")}
    assert items.keys() == checklists.LISTS.keys() and not table.duplicated(["checklist", "item"]).any()
    for name, (numbers, rows) in {"claim": (44, 44), "stard": (40, 48), "tripod": (27, 52)}.items():
        assert len(items[name]) == rows
        assert list(dict.fromkeys(int(item.rstrip("abcdefg")) for item in items[name])) == list(range(1, numbers + 1))
    for name, sizes in {"probast_development": (3, 4, 4, 5), "probast_evaluation": (3, 4, 4, 7)}.items():
        assert items[name] == [f"{domain}.{n + 1}" for domain, size in enumerate(sizes, 1) for n in range(size)]
    assert set(table["answer"]) == set(checklists.ANSWERS)
    assert ((table["where"] == "") == (table["answer"] == "author to complete")).all()


def test_checklists_name_only_what_notebooks_show_and_pages_that_exist():
    names = {name for where in checklists.load()["where"] for name in where.split()}
    things = {name.partition(".")[2] for name in names if "." in name}
    assert things - shown_in(CHECKOUT / "notebooks").keys() == set()
    assert {name for name in names if "." not in name and not (CHECKOUT / "book" / f"{name}.md").is_file()} == set()


def test_the_page_of_functions_shows_signatures_and_docstrings():
    page = api.page()
    assert page.count("class='function'") == len(api.FUNCTIONS)
    assert "open_run(name: str, **options: Any) -&gt; Run" in page and "Open a run by name" in page


def test_a_hospitals_book_is_not_published(run, tmp_path, monkeypatch):
    built = run.path("book", "_build", "html")
    built.mkdir(parents=True)
    (built / "index.html").write_text("a page")
    assert publish(run, tmp_path / "site").read_text() == "a page"
    with pytest.raises(Covid3DError, match="there already"):
        publish(run, tmp_path / "site")
    monkeypatch.setattr(type(run), "cohort", property(lambda self: "site"))
    with pytest.raises(Covid3DError, match="a hospital's: its book is not published"):
        publish(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_full_disk_ends_publishing_with_one_message_and_leaves_nothing(run, tmp_path, monkeypatch):
    built = run.path("book", "_build", "html")
    built.mkdir(parents=True)
    for name in ("index.html", "b.html", "c.html"):
        (built / name).touch()
    asked = []

    def full(source, *_):
        asked.append(source)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("covid3d.report.publish.shutil.copy2", full)
    with pytest.raises(StorageError, match="site: no space left on device. Free some space") as caught:
        publish(run, tmp_path / "public" / "site")
    assert len(str(caught.value)) < 200 and len(asked) == 1
    assert list((tmp_path / "public").iterdir()) == []


def test_a_book_that_was_not_built_is_not_published(run, tmp_path):
    with pytest.raises(MissingResult, match="has not been built"):
        publish(run, tmp_path / "site")


# --- prose ------------------------------------------------------------------------------------------------------------

RESULT = re.compile(r"(AUC[^.\n|]{0,20} 0\.\d\d|p\s*[=<]\s*0?\.\d|95 % CI|±\s*\d|\bκ\s*=)")


@pytest.mark.parametrize("page", sorted(path.name for path in (CHECKOUT / "book").glob("*.md")))
def test_no_result_is_typed_by_hand_on_a_page(page):
    text = (CHECKOUT / "book" / page).read_text(encoding="utf-8")
    if page == "public_cohort.md":  # its AUCs are facts of the index of public scans, not results of a run
        text = text.partition("## What can mislead")[0]
    assert RESULT.findall(text) == []


def test_what_other_machines_are_compared_by_is_shown_in_some_notebook():
    named = {address.split(".")[0] for address in (*EXPECTED, *landing.BEST.values())}
    assert named - shown_in(CHECKOUT / "notebooks").keys() == set()


def test_version_and_title_are_the_same_wherever_the_companion_is_cited():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    archive = json.loads((CHECKOUT / ".zenodo.json").read_text(encoding="utf-8"))
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (CHECKOUT / "book" / "cite.md").read_text(encoding="utf-8")
    assert citation["version"] == archive["version"] == project["version"]
    assert citation["title"] == archive["title"]
    assert f"{{{citation['version']}}}" in page and citation["title"] in page


def test_workflows_publish_by_the_command_that_refuses_hospitals():
    for path in (CHECKOUT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert "_build/html" not in text, path.name
    assert "make publish RUN=standard" in Path(CHECKOUT / ".github" / "workflows" / "book.yml").read_text()


def test_results_lie_beside_the_pages(run, shown, tmp_path):
    write_json(run.path("values.json"), {})
    outputs.copy_results(run, tmp_path / "results")
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"roc.svg", "roc.png", "table_1.csv", "04_external_tests.ipynb", "values.json"} <= names


def test_neighbouring_cells_are_words_apart_and_an_empty_cell_stays_empty():
    assert outputs.searchable("<td>a</td><td></td><td>b</td>") == "<td>a</td>\n<td></td>\n<td>b</td>"
