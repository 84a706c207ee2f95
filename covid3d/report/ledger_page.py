"""The ledger as one page of the book: a table that any browser shows, which `_static/ledger.js` lets sort and filter.

Rows are reached as `ledger.html#C097`, the cells that show their numbers as `notebooks/04_external_tests.html#cell-04-18`.
"""

import html
import re
from typing import Any

import pandas as pd

from covid3d.run.profile import chapter_title

BADGES = {"agrees": "green", "compatible": "blue", "disagrees": "red"}
HEADS = ("claim", "published", "re-run", "verdict", "shown in", "finding", "rule")


def badge(text: str) -> str:
    """Return a verdict as a small label; grey unless it is a judgement on real scans, software or the print."""
    colour = BADGES.get(text.removeprefix("print "), "grey")
    return f"<span class='verdict {colour}'>{html.escape(text)}</span>"


def ledger_html(claims: pd.DataFrame) -> str:
    """Return the ledger as HTML, one row a claim with its own anchor; it needs no script to be read."""
    heads = "".join(f"<th scope='col'>{name}</th>" for name in HEADS)
    rows = "".join(_row(row) for row in claims.to_dict("records"))
    caption = f"All {len(claims)} claims, in the order of the paper."
    return (
        f"<div id='ledger-controls'></div><table class='table ledger' id='ledger'><caption>{caption}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(row: dict[Any, Any]) -> str:
    """Return one claim as a row; its verdicts and chapter stand in data attributes, for the filters."""
    text = {name: html.escape(str(value)) for name, value in row.items()}
    claim = text["claim_id"]
    checked = f"print {row['printed_check']}" if row["printed_check"] else ""
    printed = f"{badge(checked)} {text['print']}" if checked else ""
    cells = (
        f"<a class='claim' href='#{claim}'>{claim}</a> {text['text']} <small>{text['kind']}, {text['section']}</small>",
        text["published"] + _small(printed),
        text["re_run"] + _small(_direction(text["direction"])) + _small(text["beside"]),
        badge(row["verdict"]),
        cell_link(row["notebook"], row["cell"]),
        finding_links(row["finding"]),
        text["how_checked"],
    )
    verdicts = "|".join(filter(None, [row["verdict"], checked]))
    tds = "".join(f"<td data-label='{name}'>{cell}</td>" for name, cell in zip(HEADS, cells, strict=True))
    return f"<tr id='{claim}' data-verdict='{html.escape(verdicts)}' data-chapter='{text['notebook']}'>{tds}</tr>"


def _direction(said: str) -> str:
    return f"direction: {said}" if said else ""


def _small(text: str) -> str:
    return f" <small>{text}</small>" if text else ""


def cell_link(chapter: str, cell: str) -> str:
    """Return a link to the cell that shows a claim's number, or to the chapter where no cell does."""
    place = f"#{cell}" if cell else ""
    return f"<a href='notebooks/{chapter}.html{place}'>{html.escape(chapter_title(chapter))}</a>"


def finding_links(findings: str) -> str:
    """Return links to findings of the audit, e.g. of "F1 F5"."""
    return " ".join(f"<a href='audit.html#{name.lower()}'>{name}</a>" for name in findings.split())


def linked_claims(output: str) -> str:
    """Return the HTML of a chapter's table or figure whose caption links the claims that it answers to their rows."""

    def links(caption: re.Match[str]) -> str:
        return re.sub(r"\bC\d{3}\b", r"<a href='../ledger.html#\g<0>'>\g<0></a>", caption.group())

    return re.sub(r"<(caption|figcaption)>.*?</\1>", links, output, flags=re.DOTALL)
