"""Every code with which the package refuses a scan has a cause and a cure, and stands in the book's table."""

import ast
import re
from html.parser import HTMLParser

import pytest
from conftest import CHECKOUT

from covid3d.dicom.refusals import CAUSES, CURES
from covid3d.report.pages import refusals_html

CALLS = ("refusal", "Fault", "refused")
CODE = re.compile(r"[a-z_]+")


def constants(node):
    """Return the texts that an expression can be."""
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def raised():
    """Return the codes in the source: those of a SeriesError, and those given to the functions that make one."""
    found = {}
    for path in sorted((CHECKOUT / "covid3d").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name == "SeriesError":
                codes = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                assert codes, f"{path.name}, line {node.lineno}: a SeriesError without a code"
            elif name in CALLS:
                codes = node.args[:2]
            else:
                continue
            for code in filter(CODE.fullmatch, set().union(*map(constants, codes))):
                found.setdefault(code, path.name)
    return found


class Rows(HTMLParser):
    """The cells of a table's body, row by row; the first is the row's heading."""

    def __init__(self):
        super().__init__()
        self.rows, self.cell = [], False  # a column's heading has the scope "col"

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.cell = tag == "td" or (tag == "th" and ("scope", "col") not in attrs)
        if self.cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


def table():
    parser = Rows()
    parser.feed(refusals_html())
    return {row[0]: row[1:] for row in parser.rows if row}


def test_codes_are_found_where_they_are_raised():
    assert {"missing_slice", "mixed_series", "truncated", "not_chest", "checksum", "several_series"} <= set(raised())


@pytest.mark.parametrize("code", sorted(raised()))
def test_every_code_stands_in_the_books_table_with_a_sentence_of_cause_and_of_cure(code):
    cause, cure = table()[code]
    for sentence in (cause, cure):
        assert sentence[0].isupper() or sentence.startswith("`")
        assert sentence.endswith(".")
        assert not sentence.endswith("..")
        assert len(sentence.split()) > 2


def test_the_table_lists_no_code_that_is_never_raised():
    assert set(table()) == set(CURES) == set(CAUSES) == set(raised())


def test_the_page_on_own_scans_shows_the_table():
    page = (CHECKOUT / "book" / "own_scans.md").read_text(encoding="utf-8")
    assert "### What is refused, and why" in page
    assert ":file: _generated/refusals.html" in page
