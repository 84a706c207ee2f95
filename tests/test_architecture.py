"""The floors of the package hold, and no file hides from the rules."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ABSOLUTE_PATH, CHECKOUT

PACKAGE = CHECKOUT / "covid3d"
FILES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def module_of(path):
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_module_has_a_floor(path):
    floors = re.findall(r"[\w.]+", " ".join(CONTRACTS[0]["layers"]))
    module = module_of(path)
    holders = [floor for floor in floors if module == floor or module.startswith(f"{floor}.")]
    assert holders or path.name == "__init__.py", f"{module} is in no layer of pyproject.toml"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_is_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= 450


READERS = {"run.intake": "cohort.intake", "run.splits": "cohort.folds", "selection_file(run)": "chapters.results"}


@pytest.mark.parametrize("name", READERS)
def test_each_of_these_files_is_read_in_one_place(name):
    """A fact that is read in two ways is two facts sooner or later."""
    readers = set()
    for path in FILES:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            function, given = ast.unparse(call.func), " ".join(map(ast.unparse, call.args))
            if function.rpartition(".")[2].startswith(("read_", "_read", "open")) and name in given:
                readers.add(module_of(path).removeprefix("covid3d."))
    assert readers == {READERS[name]}


TABLES_OF_SCORES = ("predictions.csv", "scores.csv", "summary.csv", "causal.csv")
OPEN_TABLES = {
    "benchmarks": {"contact_sheet", "realism", "scaling"},
    "covid3d.chapters": {
        "comparison",
        "nested",
        "predictors",
        "reader_comparison",
        "results",
        "robustness",
        "scored",
        "truth",
    },
    "covid3d.cohort": {"folds", "intake"},
    "covid3d.cohort.public": {"selection", "stay"},
    "covid3d.report": {"checklists", "claims", "pages", "printed"},
    "covid3d.run": {"campaigns"},
}
"""Who opens a table with pandas itself; all but `scored` such as hold no scores."""


def test_no_other_module_opens_a_table_that_may_hold_scores():
    files = [*FILES, *(CHECKOUT / "benchmarks").glob("*.py")]
    found = {module_of(path) for path in files if "pd.read_csv(" in path.read_text()}
    assert found == {f"{room}.{name}" for room, names in OPEN_TABLES.items() for name in names}


@pytest.mark.parametrize("path", [*FILES, *sorted((CHECKOUT / "benchmarks").glob("*.py"))], ids=lambda path: path.stem)
def test_a_table_of_scores_is_opened_by_the_reader_that_refuses_doubles(path):
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [
        call for call in calls if call.startswith("pd.read_csv") and any(name in call for name in TABLES_OF_SCORES)
    ]


def test_the_choice_of_the_deployed_fold_is_named_by_its_writer_and_its_reader_alone():
    holders = {module_of(path) for path in FILES if '"selection.csv"' in path.read_text()}
    assert holders == {
        "covid3d.chapters.task1",
        "covid3d.chapters.results",
        "covid3d.cohort.public.selection",
    }


@pytest.mark.parametrize("module", ["notebook", "report.collect", "commands.cli", "commands.pipeline"])
def test_what_starts_often_starts_without_what_takes_long(module):
    late = {"torch", "nbformat", "papermill", "rfc3987_syntax.syntax_helpers"}
    code = f"import sys, covid3d.{module}; sys.exit(not {late}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


def test_init_files_import_nothing():
    assert not [path for path in FILES if path.name == "__init__.py" and imports(path)]


def test_only_the_command_line_and_the_simulator_itself_import_the_simulator():
    reach = {module_of(path) for path in FILES if any(name.startswith("covid3d.phantom") for name in imports(path))}
    assert {name for name in reach if not name.startswith("covid3d.phantom")} <= {
        "covid3d.commands.cli",
        "covid3d.commands.deliver",
        "covid3d.commands.twins",
    }


def test_only_rooms_that_judge_read_the_truth():
    allowed = {
        "covid3d.chapters.ceiling",
        "covid3d.chapters.simulator",
        "covid3d.chapters.explanation",
        "covid3d.chapters.evidence",
        "covid3d.chapters.external_tests",
        "covid3d.chapters.severity",
        "covid3d.chapters.pictured",
        "covid3d.report.claims",
    }
    reach = {module_of(path) for path in FILES if "covid3d.chapters.truth" in imports(path)}
    assert reach <= allowed


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_unpickles_or_swallows_every_error(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not imports(path) & {"pickle", "joblib", "dill"}
    assert "torch.load(" not in text
    assert "allow_pickle=True" not in text


def test_no_file_holds_an_absolute_path():
    for path in [*FILES, *(CHECKOUT / "notebooks").glob("*.ipynb"), CHECKOUT / "Makefile", CHECKOUT / "Snakefile"]:
        text = path.read_text()
        assert not [mark for mark in ("/home/", "/root/", "/Users/") if mark in text], path.name
        folders = {found[1] for found in ABSOLUTE_PATH.finditer(text) if text[found.end() : found.end() + 1] == "/"}
        assert folders <= {"path"}, "only the example PYTHON=/path/to/python"


def test_the_snakefile_only_orders():
    text = (CHECKOUT / "Snakefile").read_text()
    assert len(text.splitlines()) <= 150
    assert "import numpy" not in text
    assert "import torch" not in text
    assert "import pandas" not in text


def test_notebooks_in_the_checkout_hold_no_outputs():
    for path in (CHECKOUT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")], path.name
