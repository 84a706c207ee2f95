"""What a notebook shows, it keeps: one verb for tables, named numbers and figures.

Every number that is shown has an address made of the words that the reader sees, `name.row.column`: the AUC of the row
"mean of the folds" of the table `internal` is `internal.mean_of_the_folds.auc`. Prose prints it as
{glue:text}`internal.mean_of_the_folds.auc`, and `claims_map.csv` names it beside the claim that it answers. A number is
entered once.
"""

import base64
import html
import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from covid3d.figures.words import has_pixels, seen
from covid3d.run.errors import ConfigError
from covid3d.run.files import atomic_folder, write_csv, write_json
from covid3d.run.profile import Run
from covid3d.stats.estimate import Estimate, number, value_text

Shown = pd.DataFrame | pd.Series | Mapping[str, Any] | Figure
DPI = 110
"""Pixels an inch of figure takes on a page; files hold twice as many, for sharp screens."""
LARGEST_PNG = 1_500_000
"""Bytes from which a picture is written as it stands on the page instead."""
WIDE = 90
"""Characters in a row from which a table takes the page's full width."""


class Show:
    """`show(thing, name, caption)` in a notebook; `show.save()` in its last cell writes chapters/NN in one act.

    claims: the claims that each address answers; captions print them.
    """

    def __init__(self, run: Run, chapter: str, claims: Mapping[str, list[str]]):
        self.run, self.chapter, self.claims = run, chapter, claims
        self.values: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, tuple[pd.DataFrame, str]] = {}
        self.figures: dict[str, tuple[dict[str, bytes], str]] = {}

    def __call__(self, thing: Shown, name: str, caption: str) -> None:
        """Show a table, numbers by name, or a figure, and keep it with all its numbers.

        The rows of a table are named by its index where that has a name, else by its first column. Raises ConfigError for
        two numbers of one address.
        """
        if slug(name) != name:
            raise ConfigError(f"'{name}' is no name for what is shown", where=self.chapter, cure=f"Use '{slug(name)}'")
        caption = caption + self._answers(name)
        if isinstance(thing, Figure):
            files = {suffix: render(thing, suffix) for suffix in ("png", "svg")}
            self.figures[name] = files, caption
            width = round(thing.get_figwidth() * DPI)
            pixels = has_pixels(thing)
            return display_html(
                figure_html(files["png"], caption, alt=seen(thing), name=name, width=width, pixels=pixels)
            )
        table, labels = as_table(thing)
        self.values = {address: entry for address, entry in self.values.items() if address.split(".")[0] != name}
        for address, row, value, unit in cells(table, name, labels, alone=not isinstance(thing, pd.DataFrame)):
            if address in self.values:
                cure = "Name the rows by columns that tell them apart: table.set_index([...])"
                raise ConfigError(f"two numbers have the address '{address}'", where=self.chapter, cure=cure)
            self.values[address] = entry_of(value, unit) | {"row": row, "cohort": self.run.cohort}
        self.tables[name] = table, caption
        return display_html(table_html(table, caption, name, labels))

    def text(self, address: str) -> str:
        """Return a number that was shown, as prose prints it."""
        return str(self.values[address]["text"])

    def save(self) -> None:
        """Write chapters/NN whole: values.json, captions.json, tables and figures."""
        with atomic_folder(self.run.chapter(self.chapter[:2])) as folder:
            write_json(folder / "values.json", self.values)
            captions = {
                kind: {name: caption for name, (_, caption) in kept.items()}
                for kind, kept in (("tables", self.tables), ("figures", self.figures))
            }
            write_json(folder / "captions.json", captions)
            (folder / "tables").mkdir()
            (folder / "figures").mkdir()
            for name, (table, _) in self.tables.items():
                write_csv(folder / "tables" / f"{name}.csv", three_columns(table))
            for name, (files, _) in self.figures.items():
                for suffix, content in files.items():
                    (folder / "figures" / f"{name}.{suffix}").write_bytes(content)

    def _answers(self, name: str) -> str:
        """Return the claims that a table or figure answers, for the end of its caption."""
        of_name = [ids for address, ids in self.claims.items() if address.split(".")[0] == name]
        found = sorted({claim for ids in of_name for claim in ids})
        return f" Answers {', '.join(found)}." if found else ""


def as_table(thing: pd.DataFrame | pd.Series | Mapping[str, Any]) -> tuple[pd.DataFrame, int]:
    """Return what is shown as a table, and how many of its first columns name the rows."""
    if isinstance(thing, pd.DataFrame):
        if any(level is not None for level in thing.index.names):
            return thing.reset_index(), thing.index.nlevels
        if not pd.api.types.is_integer_dtype(thing.index):
            cure = 'Name the index: table.rename_axis("model")'
            raise ConfigError("the rows of the table have words but no heading", where="show", cure=cure)
        return thing, 1
    if isinstance(thing, pd.Series) and not thing.index.is_unique:
        raise ConfigError("two numbers have one name", where="show", cure="Give each number its own name")
    numbers = dict(thing.items())
    return pd.DataFrame({"what": list(numbers), "value": pd.Series(list(numbers.values()), dtype=object)}), 1


def cells(table: pd.DataFrame, name: str, labels: int, *, alone: bool) -> list[tuple[str, str, Any, str]]:
    """Return (address, words of the row, value, unit) of every cell; with `alone` one column, which gives no word."""
    found = []
    for row in table.to_dict("records"):
        words, rest = [row[label] for label in table.columns[:labels]], table.columns[labels:]
        said = ", ".join(map(str, words))
        for column in rest:
            address = slug(name, *words) if alone else slug(name, *words, column)
            found.append((address, said, plain(row[column]), "p" if is_p(words[-1] if alone else column) else ""))
    return found


def is_p(words: object) -> bool:
    """True for the name of a p value: "p", "p, nominal" or "permutation p"."""
    return bool(re.search(r"(^p\b|\bp$)", str(words)))


def entry_of(value: Any, unit: str = "") -> dict[str, Any]:
    """Return a number as values.json keeps it: value, low, high, unit, text and how it was made."""
    estimate = value if isinstance(value, Estimate) else Estimate(value, unit=unit) if _is_number(value) else None
    if estimate is None:
        return {"value": value, "low": None, "high": None, "unit": "", "text": text(value), "method": ""}
    return {
        "value": plain(estimate.value),
        "low": plain(estimate.low),
        "high": plain(estimate.high),
        "unit": estimate.unit,
        "text": ordinal(estimate),
        "method": estimate.method,
    }


def ordinal(found: Estimate) -> str:
    """Return a number as prose prints it; the unit "day" counts days of a course: "day 13"."""
    return f"day {number(found.value, 'day')}" if found.known and found.unit == "day" else str(found)


def slug(*words: object) -> str:
    """Return words as an address.

    >>> slug("table_1", "COVID3D", "B")
    'table_1.covid3d.b'
    >>> slug("mass", "COVID+", 0.5)
    'mass.covid_plus.0_5'
    """
    plus = (re.sub(r"\+(?!\w)", " plus", re.sub(r"(?<=\w)-(?!\w)", " minus", str(word))) for word in words)
    return ".".join(re.sub(r"\W+", "_", word).strip("_").lower() for word in plus)


def plain(value: Any) -> Any:
    """Return a numpy or pandas scalar as a Python one; None for NaN, infinity and NA."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def text(value: Any, unit: str = "") -> str:
    """Return a cell as prose prints it; what is missing says so."""
    value = plain(value)
    if value is None:
        return "not available"
    return value_text(value, unit) if isinstance(value, (bool, int, float)) else str(value)


def three_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for a CSV file: a column of Estimates becomes value, low and high."""
    parts: dict[str, Any] = {}
    for column in table.columns:
        values = list(table[column])
        if not any(isinstance(value, Estimate) for value in values):
            parts[str(column)] = values
            continue
        known = [value if isinstance(value, Estimate) else Estimate(plain(value) or float("nan")) for value in values]
        parts[str(column)] = [estimate.value for estimate in known]
        if any(estimate.has_limits for estimate in known):
            parts[f"{column} low"] = [estimate.low for estimate in known]
            parts[f"{column} high"] = [estimate.high for estimate in known]
    return pd.DataFrame(parts)


def table_html(table: pd.DataFrame, caption: str = "", name: str = "", labels: int = 1) -> str:
    """Return a table as HTML: its first columns name the rows, every other cell repeats its heading for small screens.

    Estimates stand in one cell with their 95 % limits in brackets. A table that is wide takes the page's full width.
    """
    heads = {column: html.escape(str(column).replace("_", " ")) for column in table.columns}
    whole = {column: _is_whole(table[column]) for column in table.columns}
    rows = [{c: _cell(row[c], c, whole[c]) for c in table.columns} for row in table.to_dict("records")]
    body = "".join(_row(row, heads, table.columns[:labels]) for row in rows)
    body = body or f"<tr><td colspan='{max(1, len(heads))}'>none</td></tr>"
    cells = [value for column in table.columns for value in table[column]]
    if any(isinstance(value, Estimate) and value.known and value.has_limits for value in cells):
        caption += " In brackets: 95 % limits."
    longest = sum(max([len(head), *(len(row[column]) for row in rows)]) for column, head in heads.items())
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    headings = "".join(f"<th scope='col'>{head}</th>" for head in heads.values())
    place = f" id='table-{name}'" if name else ""
    return (
        f"<div class='scrolls{' wide' if longest > WIDE else ''}'{place} style='overflow-x:auto' tabindex='0'>"
        f"<table class='table'>{title}<thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Mapping[Any, str], heads: Mapping[Any, str], labels: pd.Index) -> str:
    """Return one row of a table: its label as a heading, its cells with the words of their columns."""
    cells = [
        f"<th scope='row'>{html.escape(row[column])}</th>"
        if column in labels
        else f"<td data-label='{heads[column]}'>{html.escape(row[column])}</td>"
        for column in row
    ]
    return f"<tr>{''.join(cells)}</tr>"


def figure_html(
    png: bytes, caption: str, *, alt: str = "", name: str = "", width: int = 0, pixels: bool = False
) -> str:
    """Return a figure as HTML with the image inside; `alt` says what is seen, `width` how many pixels of the page it takes.

    pixels: a dark page must not change the image's grey values.
    """
    source = base64.b64encode(png).decode("ascii")
    words, seen_words = html.escape(caption, quote=True), html.escape(alt or caption, quote=True)
    place, mark = f" id='figure-{name}'" if name else "", " class='dark-light'" if pixels else ""
    size = f" width='{width}'" if width else ""
    return (
        f"<figure{place}><img{mark}{size} style='max-width:100%;height:auto' alt='{seen_words}' "
        f"src='data:image/png;base64,{source}'/><figcaption>{words}</figcaption></figure>"
    )


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as PNG or SVG bytes that are the same at every execution (no dates, fixed ids)."""
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[suffix]
    for dpi in (2 * DPI, DPI) if suffix == "png" else (DPI,):
        target = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "covid3d", "svg.fonttype": "path"}):
            figure.savefig(target, format=suffix, dpi=dpi, metadata=metadata, bbox_inches="tight")
        if target.tell() <= LARGEST_PNG:
            break
    return target.getvalue()


def _cell(value: Any, column: object, whole: bool) -> str:
    """Return a cell of a table: short, since its column says what it is; missing numbers are empty."""
    if isinstance(value, Estimate):
        return _estimate(value, str(column))
    value = plain(value)
    if value is None:
        return ""
    if whole and isinstance(value, float):
        value = int(value)
    return number(value, "p" if is_p(column) else "") if isinstance(value, (bool, int, float)) else str(value)


def _estimate(value: Estimate, column: str) -> str:
    """Return an estimate for a cell: "58.5 % (45.1–70.7)"; limits below 0 take "to", for a dash would read as a sign.

    The unit stands in the cell where the column does not name it; p and logit need none.
    """
    if not value.known:
        return value.short()
    if value.unit == "day":
        return ordinal(value)
    unit = "" if value.unit in ("", "p", "logit") or value.unit in column else f" {value.unit}"
    found = f"{number(value.value, value.unit)}{unit}"
    if value.has_limits:
        low, high = number(value.low, value.unit), number(value.high, value.unit)
        found += f" ({low} to {high})" if value.low < 0 else f" ({low}–{high})"
    return found + (f" ({value.remark})" if value.remark else "")


def _is_whole(column: pd.Series) -> bool:
    """True for counts and days that stand as floats, often because of a missing cell; shares and AUCs never reach 2."""
    known = column.dropna() if column.dtype == float else pd.Series(dtype=float)
    return bool(len(known)) and bool((known == known.round()).all()) and bool(known.abs().max() >= 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def display_html(content: str) -> None:
    """Show HTML in a notebook; nothing elsewhere."""
    from IPython.core.getipython import get_ipython
    from IPython.display import HTML, display

    if get_ipython() is not None:  # type: ignore[no-untyped-call]
        display(HTML(content))  # type: ignore[no-untyped-call]
