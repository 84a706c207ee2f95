"""House rules of the notebooks: empty in git, one cell of parameters, short cells, no result typed by hand."""

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import ABSOLUTE_PATH

from covid3d.cohort.reader_study import TASKS
from covid3d.notebook import PARAMETERS, Parameters
from covid3d.report.claims import answers, names_shown, published_texts, shown_in
from covid3d.run.steps import CHAPTERS

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ROOM = "11_reading_room"
"""The notebook that is no chapter: a person reads in it, no run executes it."""
LONGEST_CELL = 12
of_chapters = pytest.mark.parametrize("notebook", CHAPTERS)
HIDDEN = {"parameters", "remove-input", "remove-cell"}


@pytest.fixture(params=[*CHAPTERS, ROOM])
def notebook(request):
    return request.param


@pytest.fixture
def cells(notebook):
    return json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def code(cells):
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_is_one_notebook_a_chapter_and_the_reading_room():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted([*CHAPTERS, ROOM])


def test_no_output_is_kept_in_git(cells):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code(cells))


def test_the_kernel_is_named_for_any_machine(notebook):
    metadata = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"


def test_cell_ids_are_unique_and_speak(cells):
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9-]{2,64}", name) for name in ids)


def test_it_begins_with_a_title_then_the_parameters(cells, notebook):
    assert cells[0]["cell_type"] == "markdown"
    assert source(cells[0]).startswith(f"# {int(notebook[:2])} ")
    assert cells[1]["metadata"] == {"tags": ["parameters"]}
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1


@of_chapters
def test_the_parameters_are_those_of_the_chapter(cells, notebook):
    namespace: dict[str, object] = {}
    exec(source(cells[1]), namespace)
    found = {name for name in namespace if not name.startswith("__")}
    model = PARAMETERS.get(notebook, Parameters)
    assert found == set(model.model_fields)
    model.model_validate({name: namespace[name] for name in found})
    assert len(found) <= 6


@of_chapters
def test_the_run_is_opened_right_after_the_parameters_out_of_the_readers_sight(cells, notebook):
    assert f'run, show = notebook.open("{notebook}", globals())' in source(cells[2])
    assert cells[2]["metadata"] == {"tags": ["remove-input"]}
    assert (source(cells[-1]), cells[-1]["metadata"]) == ("show.save()", {"tags": ["remove-cell"]})


def test_code_holds_no_claim_and_no_guard_on_the_kind_of_cohort(cells):
    text = "\n".join(source(cell) for cell in code(cells))
    assert re.findall(r"\bC\d{3}\b", text) == []
    assert re.findall(r"\bif\b.*\b(run\.is_\w+|run\.cohort|paper)\b", text) == []


def test_most_cells_end_in_what_they_show(cells):
    seen = [cell for cell in code(cells) if not HIDDEN & set(cell["metadata"].get("tags", []))]
    ends = [ast.parse(source(cell)).body[-1] for cell in seen]
    assert sum(isinstance(end, ast.Expr) for end in ends) >= 0.8 * len(ends)


def test_prose_names_only_numbers_that_a_notebook_shows(cells):
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    named = re.findall(r"\{glue:text\}`([^`]+)`", prose)
    known = shown_in(NOTEBOOKS).keys() | {"paper"}
    words = [name.removeprefix("figure.").removeprefix("table.").split(".")[0] for name in named]
    assert [name for name in words if name not in known] == []
    assert [name for name in named if name.startswith("paper.") and not published_texts().get(name)] == []


def test_what_is_shown_has_a_literal_name(cells):
    """So that a number's cell can be found without running it."""
    calls = sum(source(cell).count("show(") for cell in code(cells))
    assert calls == sum(len(names_shown(source(cell))) for cell in code(cells))


def test_every_name_of_the_map_of_claims_is_shown_in_some_notebook():
    assert {address.split(".")[0] for address in answers()} - shown_in(NOTEBOOKS).keys() == set()


def test_cells_are_short(cells):
    lengths = {
        cell["id"]: len(
            [line for line in source(cell).splitlines() if line.strip() and not line.lstrip().startswith("#")]
        )
        for cell in code(cells)
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_CELL} == {}


def test_every_heading_is_followed_by_words(cells):
    bare = [
        source(cell) for cell in cells if cell["cell_type"] == "markdown" and len(source(cell).strip().splitlines()) < 1
    ]
    assert bare == []


def test_it_closes_with_a_summary_list(cells, notebook):
    _, _, summary = source(cells[-1 if notebook == ROOM else -2]).partition("## Summary")
    assert summary.count("\n- ") >= 2


def test_no_result_is_typed_by_hand(cells):
    """Prose holds no AUC, interval or p of this run: numbers come from {glue:text} or from a table."""
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    suspicious = r"(AUC[^.\n]{0,20} 0\.\d\d|p\s*[=<]\s*0?\.\d|95 % CI|±\s*\d|\bκ\s*=)"
    assert re.findall(suspicious, prose) == []


def test_no_cell_knows_a_path_or_filters_warnings(cells):
    text = "\n".join(source(cell) for cell in code(cells))
    for word in ("warnings.filter", "os.chdir", "sys.path", "/home", "except:", "!pip", "%run", "phantom."):
        assert word not in text, word
    assert not ABSOLUTE_PATH.search(text)


def test_the_reading_room_is_entered_with_its_parameters():
    cells = json.loads((NOTEBOOKS / f"{ROOM}.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, object] = {}
    exec(source(cells[1]), namespace)
    found = {name for name in namespace if not name.startswith("__")}
    assert found == {"run", "reader", "tasks", "allow_back"}
    assert namespace["tasks"] == TASKS and namespace["reader"] == ""
    assert any("enter(**notebook.reading_room(globals()))" in source(cell) for cell in cells)
