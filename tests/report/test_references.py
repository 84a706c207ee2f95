"""What pages, chapters and docstrings refer to is in the bibliography."""

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import CHECKOUT

ENTRIES = (CHECKOUT / "book" / "references.bib").read_text(encoding="utf-8").splitlines()
KEYS = {re.match(r"@\w+\{(\w+),", entry)[1]: entry for entry in ENTRIES}
NO_ADDRESS = {"mantel1966", "mosteller1952", "pepe2003", "platt1999", "qin2008", "tippett1925"}
YEAR = re.compile(r"(?<![-:])\b(?:1[89]\d|20[012])\d\b")  # not of #claim-2024 and arXiv:2011.08891
NO_REFERENCE = ("CLAIM 2024", "JPEG 2000", "RFC 1952", "since 1970")
CITED = re.compile(r"\{cite(?::t)?\}`([^`]+)`")


def prose(path: Path) -> str:
    """Return a page, or the text of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


PROSE = [*sorted((CHECKOUT / "book").glob("*.md")), *sorted((CHECKOUT / "notebooks").glob("*.ipynb"))]


def unexplained(text: str, references: list[tuple[str, str]]) -> list[str]:
    """Return the ends of `text` at each year before which no author of such a reference, and no known word, stands."""
    ends = [text[max(0, year.start() - 110) : year.end()] for year in YEAR.finditer(text)]
    known = [end for end in ends if any(end.endswith(year) and name in end for name, year in references)]
    return [end for end in ends if end not in known and not end.endswith(NO_REFERENCE)]


def test_every_citation_has_an_entry():
    cited = {key for path in PROSE for group in CITED.findall(prose(path)) for key in group.split(",")}
    assert cited - KEYS.keys() == set()


def test_every_entry_leads_to_its_paper_but_those_whose_address_could_not_be_checked():
    assert {key for key, entry in KEYS.items() if not re.search(r"\b(doi|eprint|url)=\{", entry)} == NO_ADDRESS


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_a_year_in_prose_is_that_of_a_citation(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", CITED.sub("", prose(path)), flags=re.DOTALL)
    assert unexplained(text, []) == []


def test_references_of_docstrings_are_in_the_bibliography():
    references = re.findall(r"author=\{\W*([\w'-]+).*?year=\{(\d{4})\}", "\n".join(ENTRIES))
    assert len(references) == len(KEYS)
    found = {}
    for path in (CHECKOUT / "covid3d").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
        said = " ".join(" ".join((ast.get_docstring(node) or "").split()) for node in nodes if isinstance(node, kinds))
        found[path.name] = unexplained(said, references)
    assert {name: ends for name, ends in found.items() if ends} == {}
