"""Contracts of CSV tables in general; the manifest's own rules are in test_manifest."""

from pathlib import Path

import pytest

from covid3d.run.errors import ManifestError
from covid3d.run.tables import check_values, identifier, number, one_of, read_cells, typed, whole

RULES = {"name": identifier(), "kind": one_of("a", "b"), "count": whole(0, 9, "a digit")}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("+1.50", 1.5), ("1e3", None), ("nan", None), ("inf", None), ("1,5", None), ("", None), ("0x1", None)],
)  # fmt: skip
def test_only_plain_decimal_numbers_are_numbers(text: str, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "accepted"),
    [("007", True), ("A-1.b_2", True), ("12e34", True), ("1.2E+05", False), ("1E-05", False), ("a/b", False), ("..", False),
     ("NA", False), ("null", False), ("NaN", False), ("None", False), ("NAB", True)],
)  # fmt: skip
def test_ids_are_safe_as_file_names_and_neither_rewritten_numbers_nor_words_for_empty(
    text: str, accepted: bool
) -> None:
    assert identifier().accepts(text) == accepted


def test_a_word_for_empty_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,kind,count\nNA,a,1\n")
    with pytest.raises(ManifestError, match="'NA' is many programs' word for an empty cell: write an id of letters"):
        check_values(read_cells(path, RULES), RULES, path.name)


def test_cells_keep_the_line_they_start_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('name,kind,count\n\nx,"a\n",1\n,,\ny,b,\n')
    cells = read_cells(path, RULES)
    assert cells.index.tolist() == [3, 6]
    check_values(cells, RULES, path.name)
    table = typed(cells, RULES)
    assert table["kind"].tolist() == ["a", "b"]
    assert table["count"].isna().tolist() == [False, True]


def test_the_first_fault_in_reading_order_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("count,kind,name\n1,c,x\n99,a,y\n")
    with pytest.raises(ManifestError, match=r"t\.csv, row 2, column 'kind': the value is 'c'\. Expected: one of a, b"):
        check_values(read_cells(path, RULES), RULES, path.name)
