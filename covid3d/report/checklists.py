"""Checklists filled from a run: item by number, a paraphrase, and where the run answers it.

`checklists.csv` has one row an item: checklist, item, section, asks (our words, whatever the licence of the list), answer,
and where: names of figures, tables or pages.
"""

import html
from collections.abc import Mapping

import pandas as pd

from covid3d.run.profile import DATA

LISTS = {
    "claim": "CLAIM 2024",
    "stard": "STARD-AI",
    "tripod": "TRIPOD+AI",
    "probast_development": "PROBAST+AI, development",
    "probast_evaluation": "PROBAST+AI, evaluation",
}
ANSWERS = ("from the run", "half", "author to complete")
HEADS = ("section", "what it asks", "answer", "where")


def load() -> pd.DataFrame:
    """Return all items of all checklists as text."""
    return pd.read_csv(DATA / "checklists.csv", dtype=str, keep_default_na=False)


def page(name: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Return one checklist as HTML; what a run does not have says so in its row."""
    table = load().query("checklist == @name")
    counts = table["answer"].value_counts()
    said = f"{len(table)} rows: " + ", ".join(f"{counts.get(answer, 0)} {answer}" for answer in ANSWERS)
    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("item", *HEADS))
    rows = []
    for row in table.to_dict("records"):
        mark = f"<span class='answer a{ANSWERS.index(row['answer'])}'>{row['answer']}</span>"
        cells = (row["section"], html.escape(row["asks"]), mark, _links(row["where"], places))
        tds = "".join(f"<td data-label='{head}'>{cell}</td>" for head, cell in zip(HEADS, cells, strict=True))
        rows.append(f"<tr><th scope='row'>{row['item']}</th>{tds}</tr>")
    return (
        f"<div class='scrolls' tabindex='0'><table class='table'><caption>{LISTS[name]}, {said}.</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _links(where: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Return names of figures, tables and pages as links."""
    found = []
    for name in where.split():
        title, place = places.get(name, ("", ""))
        found.append(f"<a href='{place}'>{html.escape(title)}</a>" if title else "not in this run")
    return ", ".join(dict.fromkeys(found))
