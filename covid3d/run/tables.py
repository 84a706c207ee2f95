"""CSV tables under contract: cells are text, each column has a rule, a refusal names file, row, column and cure."""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pandas as pd

from covid3d.run.errors import ManifestError, nearest

EXPORT = "Export the table as 'CSV UTF-8, comma separated'"
SAFE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
REWRITTEN = r"[+-]?\d+([.,]\d+)?[eE][+-]\d+"
DATE = r"\d{4}([-./])\d{1,2}\1\d{1,2}([T ].*)?|\d{1,2}([-./])\d{1,2}\3(\d{4}|\d{2})( .*)?"
MISSING = r"(?i:na|nan|null|none)"
"""Words that readers of tables take for an empty cell."""


@dataclass(frozen=True)
class Rule:
    """What one cell of a column may hold, in code and in words, and the dtype of the finished column."""

    allows: Callable[[str], bool]
    expects: str
    dtype: str = "str"
    blank: bool = True

    def accepts(self, value: str) -> bool:
        """True for an allowed value; a blank passes where the column may be blank."""
        return self.blank if value == "" else self.allows(value)


def number(text: str) -> float | None:
    """Return the value of a plain decimal number, None for any other text."""
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) else None


def within(low: float, high: float, *, whole: bool = False) -> Callable[[str], bool]:
    """Return a test for a number, or a whole number, from `low` to `high`."""

    def allows(text: str) -> bool:
        value = number(text)
        return value is not None and low <= value <= high and (not whole or value == int(value))

    return allows


def whole(low: int, high: int, expects: str, *, blank: bool = True) -> Rule:
    """Return the rule of a column of whole numbers."""
    return Rule(within(low, high, whole=True), expects, "Int64", blank)


def matching(pattern: str, expects: str, *, blank: bool = True) -> Rule:
    """Return the rule of a column of text of one form."""
    return Rule(lambda text: re.fullmatch(pattern, text) is not None, expects, blank=blank)


def one_of(*names: str, blank: bool = True) -> Rule:
    """Return the rule of a column of a few known words."""
    return Rule(lambda text: text in names, f"one of {', '.join(names)}", blank=blank)


def identifier(*, blank: bool = False) -> Rule:
    """Return the rule of a column of ids: safe as a file name, no number rewritten by a spreadsheet, no word for "empty"."""
    return Rule(
        lambda text: re.fullmatch(SAFE_ID, text) is not None and re.fullmatch(f"{REWRITTEN}|{MISSING}", text) is None,
        "an id of letters, digits, '.', '_' and '-', at most 64, kept as text",
        blank=blank,
    )


def named(expects: str) -> Rule:
    """Return the rule of a column of names as people write them: never blank, and no word for "empty"."""
    return Rule(lambda text: re.fullmatch(MISSING, text) is None, expects, blank=False)


def read_cells(path: Path, columns: Collection[str], optional: Collection[str] = ()) -> pd.DataFrame:
    """Return a CSV file's cells as stripped text, in the order of `columns`, indexed by the line each row starts on.

    `optional` columns that the file does not have are blank.

    Raises ManifestError for a file that is missing, empty, no UTF-8 text, not separated by commas, or has missing,
    unknown, unnamed or repeated columns, or rows of another length.
    """
    records = _records(path, columns)
    _, header = next(records, (1, [""]))
    header = [name.strip() for name in header]
    _check_header([name for name in header if name not in optional], columns, path.name)
    for name in optional:
        if header.count(name) > 1:
            refuse(path.name, 1, name, f"the column appears {header.count(name)} times", "Keep one of them")
    rows: dict[int, list[str]] = {}
    for line, record in records:
        if not any(cell.strip() for cell in record):
            continue
        if len(record) != len(header):
            refuse(
                path.name,
                line,
                None,
                f"the row has {len(record)} cells, the header {len(header)}",
                "Put text that holds a comma between double quotes, and give every row all columns",
            )
        rows[line] = [cell.strip() for cell in record]
    if not rows:
        raise ManifestError("there is no row below the header", where=path.name, cure="Add one row for each scan")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=header)
    return table.reindex(columns=[*columns, *optional], fill_value="")


def _records(path: Path, columns: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of each record."""
    reader = csv.reader(io.StringIO(_text(path, columns), newline=""), strict=True)
    line = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            refuse(path.name, line, None, f"not a CSV file ({error})", EXPORT)
        if record is None:
            return
        yield line, record
        line = reader.line_num + 1


def _text(path: Path, columns: Collection[str]) -> str:
    """Return a file's text; refuses what is not UTF-8 text."""
    if not path.is_file():
        raise ManifestError("the file does not exist", where=str(path), cure="Check the path")
    raw = path.read_bytes()
    if not raw.strip():
        raise ManifestError("the file is empty", where=path.name, cure=f"Start with the header: {','.join(columns)}")
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ManifestError("this is a spreadsheet's own format, not a CSV file", where=path.name, cure=EXPORT)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("the text is encoded as UTF-16", where=path.name, cure=EXPORT)
    if b"\x00" in raw:
        raise ManifestError("this is a binary file, not a CSV file", where=path.name, cure=EXPORT)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        refuse(path.name, line, None, f"the text is not UTF-8 (byte 0x{raw[error.start]:02X})", EXPORT)


def _check_header(header: list[str], columns: Collection[str], file: str) -> None:
    if len(header) == 1 and header[0] not in columns:
        for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in header[0]:
                cure = "Export it with commas as separator and the point as decimal mark"
                refuse(file, 1, None, f"the columns are separated by {word}", cure)
        refuse(file, 1, None, "this is not a comma-separated table", f"Start with the header: {','.join(columns)}")
    unknown = [name for name in header if name not in columns]
    if "" in unknown:
        refuse(file, 1, None, f"column {header.index('') + 1} has no name", "Delete empty columns from the table")
    missing = [name for name in columns if name not in header]
    if unknown:
        refuse(file, 1, unknown[0], "there is no such column", f"{nearest(unknown[0], missing or columns)}")
    if missing:
        present = f"It has {', '.join(header)}. Leave cells empty where a value is unknown"
        refuse(file, 1, missing[0], "the column is missing", f"Add it. {present}")
    for name in header:
        if header.count(name) > 1:
            refuse(file, 1, name, f"the column appears {header.count(name)} times", "Keep one of them")


def check_values(cells: pd.DataFrame, rules: Mapping[str, Rule], file: str) -> None:
    """Raise ManifestError for the first cell, in reading order, that breaks its column's rule."""
    broken = {name: [not rule.accepts(value) for value in cells[name]] for name, rule in rules.items()}
    found = pd.DataFrame(broken, index=cells.index)
    if not found.any(axis=None):
        return
    row = found.index[found.any(axis=1)][0]
    column = next(name for name in rules if found.loc[row, name])
    value, alike = str(cells.loc[row, column]), int(found[column].sum()) - 1
    what = f"the value is '{value}'" if value else "the cell is empty"
    more = f" ({alike} more row{'s' if alike > 1 else ''} with a fault in this column)" if alike else ""
    refuse(file, row, column, what + more, _cure(column, value, rules[column]))


def _cure(column: str, value: str, rule: Rule) -> str:
    """Return how to mend one cell."""
    if re.fullmatch(REWRITTEN, value):
        return "A spreadsheet has rewritten the id as a number: format the column as text and enter the ids again"
    if re.fullmatch(r"\d{1,3}[DWMY]", value):
        return f"Write the {column} in years as a number, e.g. {int(value[:-1]) if value.endswith('Y') else 1}"
    if re.fullmatch(r"[+-]?\d+,\d+", value):
        return "Write a decimal point, not a comma"
    if re.fullmatch(DATE, value) and rule.dtype != "str":
        return f"That is a date. Write {rule.expects}"
    if re.fullmatch(MISSING, value):
        empty = "leave it empty, or write" if rule.blank else "write"
        return f"'{value}' is many programs' word for an empty cell: {empty} {rule.expects}"
    return f"Expected: {rule.expects}"


def typed(cells: pd.DataFrame, rules: Mapping[str, Rule]) -> pd.DataFrame:
    """Return checked text as a table with the dtypes of its rules, and the rows numbered from 0."""
    table = cells.reset_index(drop=True)
    for column, rule in rules.items():
        if rule.dtype != "str":
            numbers = pd.Series([number(text) for text in table[column]], dtype="Float64")
            table[column] = numbers.astype(rule.dtype)  # type: ignore[call-overload]
    return table


def refuse(
    file: str, row: object, column: str | None, what: str, cure: str, code: str = ManifestError.code
) -> NoReturn:
    """Raise a ManifestError that names the file, the row (line of the file) and the column."""
    where = f"{file}, row {row}" + (f", column '{column}'" if column else "")
    raise ManifestError(what, where=where, cure=cure, code=code)
