"""The generated parts of the book's pages as HTML: key numbers, the ledger, all values, the audit, refusals."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.dicom.refusals import CAUSES, CURES
from covid3d.report import api, audit_page, checklists, landing
from covid3d.report.changes import changes_html
from covid3d.report.claims import key_numbers, ledger, read_values
from covid3d.report.ledger_page import badge, ledger_html
from covid3d.report.outputs import RESULTS, as_files, searchable
from covid3d.run.profile import DATA, Run
from covid3d.show import table_html

VALUE_HEADS = ("address", "value", "how its interval was made", "shown in")
SAME, TRAINED = "nothing", "a trained network's number: by how much has not been measured"
EXPECTED = {
    "flow.delivered.scans": SAME,
    "skill_by_hospital.a.perfect_reader": SAME,
    "table_2.r1.b.sensitivity": SAME,
    "size.parameters_here": SAME,
    "internal.mean_of_the_folds.auc": TRAINED,
    "table_1.covid3d.auc_at_b": TRAINED,
    "table_1.covid3d.auc_at_c": TRAINED,
    "table_1.2d_baseline.auc_at_b": TRAINED,
    "lesion_ratios.ratio": TRAINED,
    "risk.two_scans.c_index": TRAINED,
}
"""Numbers by which a run elsewhere is compared, and what another processor or version may change in them."""


def write_fragments(run: Run, folder: Path, places: Mapping[str, tuple[str, str]], made: Mapping[str, str]) -> None:
    """Write the generated parts of pages: the first page's, the ledger, all values, the audit, checklists, refusals.

    places: the number and the page of everything shown. made: what the run was made with. Files that pages offer lie in
    the folder `_static/results` beside.
    """
    folder.mkdir(parents=True)
    claims, values = ledger(run), read_values(run)
    parts = {
        "ledger": ledger_html(claims),
        "key_numbers": key_numbers_html(claims),
        "published_and_rerun": landing.picture_html(run, values, folder.parent / RESULTS),
        "bars": landing.bars_html(values, places),
        "run": landing.details_html(run, made),
        "values": values_html(values, places),
        "changes": changes_html(run, values, places),
        "tolerances": tolerances_html(values, places),
        "api": api.page(),
        **audit_page.fragments(),
        "dictionary": dictionary_html(),
        "refusals": refusals_html(),
        **{name: checklists.page(name, places) for name in checklists.LISTS},
    }
    for name, text in parts.items():
        part = as_files(text, folder.parent / RESULTS, name)
        (folder / f"{name}.html").write_text(searchable(part), encoding="utf-8")


def dictionary_html() -> str:
    """Return what the columns of a run's files are."""
    columns = pd.read_csv(DATA / "dictionary.csv", dtype=str)
    return table_html(columns, "The columns of the files that a run leaves, and the keys of values.json.")


def refusals_html() -> str:
    """Return the table of all reasons for which a scan is refused: code, cause and cure."""
    rows = [(code, f"{CAUSES[code]}.", f"{cure}.") for code, cure in sorted(CURES.items())]
    table = pd.DataFrame(rows, columns=["code", "what is wrong", "what to do"])
    return table_html(table, f"The {len(table)} reasons for which a scan is refused.")


def key_numbers_html(claims: pd.DataFrame) -> str:
    """Return the landing page's table: published beside re-run, each claim linked to its row of the ledger."""
    heads = ("claim", "published", "re-run", "verdict")
    rows = []
    for claim, row in key_numbers(claims).iterrows():
        link = f"<a href='ledger.html#{claim}'>{claim}</a> {html.escape(row['text'])}"
        cells = (link, html.escape(row["published"]), html.escape(row["re_run"]), badge(row["verdict"]))
        rows.append("".join(f"<td data-label='{head}'>{cell}</td>" for head, cell in zip(heads, cells, strict=True)))
    titles = "".join(f"<th scope='col'>{head}</th>" for head in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        "<div class='scrolls' tabindex='0'><table class='table'><caption>Key numbers, published and re-run.</caption>"
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def values_html(values: Mapping[str, Mapping[str, Any]], places: Mapping[str, tuple[str, str]]) -> str:
    """Return every number of a run with its address, its method and the page that shows it, under a search box."""
    rows = []
    for address, entry in values.items():
        name = address.split(".")[0]
        number, place = places.get(f"table.{name}", ("", ""))
        shown = f"<a href='{place}'>{number}</a>" if number else ""
        cells = [html.escape(str(entry["text"])), html.escape(str(entry["method"])), shown]
        cells = [f"<td data-label='{head}'>{cell}</td>" for head, cell in zip(VALUE_HEADS[1:], cells, strict=True)]
        rows.append(f"<tr><th scope='row'><code>{html.escape(address)}</code></th>{''.join(cells)}</tr>")
    heads = "".join(f"<th scope='col'>{head}</th>" for head in VALUE_HEADS)
    return (
        f"{search_box('values')}<div class='scrolls wide' tabindex='0'><table class='table values' id='values'>"
        f"<caption>All {len(values):,} values of this run.</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def search_box(table: str) -> str:
    """Return a box that hides the rows of a table that do not contain what is typed."""
    return (
        f"<p><label for='find-{table}'>Show rows that contain</label> <input id='find-{table}' type='search' "
        'oninput="const t=this.value.toLowerCase();'
        f"document.querySelectorAll('#{table} tbody tr')"
        '.forEach(r=>r.hidden=!r.textContent.toLowerCase().includes(t))"></p>'
    )


def tolerances_html(values: Mapping[str, Mapping[str, Any]], places: Mapping[str, tuple[str, str]]) -> str:
    """Return the numbers by which another machine's run is compared with this one."""
    rows, heads = [], ("this run", "what may differ elsewhere", "shown in")
    for address, kind in EXPECTED.items():
        entry = values.get(address, {"text": "not available in this run"})
        number, place = places.get(f"table.{address.split('.')[0]}", ("", ""))
        shown = f"<a href='{place}'>{number}</a>" if number else ""
        cells = (html.escape(str(entry["text"])), html.escape(kind), shown)
        tds = "".join(f"<td data-label='{head}'>{cell}</td>" for head, cell in zip(heads, cells, strict=True))
        rows.append(f"<tr><th scope='row'><code>{address}</code></th>{tds}</tr>")
    head = "".join(f"<th scope='col'>{text}</th>" for text in ("address", *heads))
    return f"<div class='scrolls'><table class='table'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
