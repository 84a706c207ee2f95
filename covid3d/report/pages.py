"""The generated parts of the book's pages as HTML: key numbers, the ledger, all values, the audit, refusals."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.dicom.refusals import CAUSES, CURES
from covid3d.report import api, audit, checklists, landing
from covid3d.report.claims import key_numbers, ledger, read_values
from covid3d.report.outputs import RESULTS, searchable
from covid3d.run.profile import Run
from covid3d.show import table_html

VALUE_HEADS = ("address", "value", "how its interval was made", "shown in")
SAME, TRAINED = "nothing", "a trained network's: as another seed would change it"
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
BADGES = {"agrees": "green", "compatible": "blue", "disagrees": "red"}


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
        "tolerances": tolerances_html(values, places),
        "api": api.page(),
        "audit": audit_html(),
        "refusals": refusals_html(),
        **{name: checklists.page(name, places) for name in checklists.LISTS},
    }
    for name, text in parts.items():
        (folder / f"{name}.html").write_text(searchable(text), encoding="utf-8")


def audit_html() -> str:
    """Return the audit's tables: the printed percentages, and the printed AUCs with the intervals that their counts imply."""
    cells = table_html(audit.audit_published(), "The printed percentages of Table 2, and the counts that they can be.")
    aucs = table_html(audit.printed_aucs(), "The printed AUCs, and the sampling interval that their counts imply.")
    return cells + aucs


def refusals_html() -> str:
    """Return the table of all reasons for which a scan is refused: code, cause and cure."""
    rows = [(code, f"{CAUSES[code]}.", f"{cure}.") for code, cure in sorted(CURES.items())]
    table = pd.DataFrame(rows, columns=["code", "what is wrong", "what to do"])
    return table_html(table, f"The {len(table)} reasons for which a scan is refused.")


def badge(text: str) -> str:
    """Return a verdict as a small label; grey unless it is a judgement on real scans or software."""
    return f"<span class='verdict {BADGES.get(text, 'grey')}'>{html.escape(text)}</span>"


def key_numbers_html(claims: pd.DataFrame) -> str:
    """Return the landing page's table: published beside re-run."""
    chosen = key_numbers(claims).reset_index()
    return _claims_table(
        chosen, ("claim_id", "text", "published", "re_run", "verdict"), "Key numbers, published and re-run."
    )


def ledger_html(claims: pd.DataFrame) -> str:
    """Return the whole ledger with a search box."""
    box = (
        "<p><label for='search'>Show rows that contain</label> "
        "<input id='search' type='search' oninput=\"const t=this.value.toLowerCase();"
        "document.querySelectorAll('table.ledger tbody tr')"
        '.forEach(r=>r.hidden=!r.textContent.toLowerCase().includes(t))"></p>'
    )
    names = ("claim_id", "kind", "text", "published", "re_run", "beside", "verdict", "notebook", "how_checked")
    return box + _claims_table(claims, names, f"All {len(claims)} claims.")


def _claims_table(claims: pd.DataFrame, names: tuple[str, ...], caption: str) -> str:
    """Return rows of the ledger as HTML with badges and links to the chapters."""
    heads = "".join(f"<th scope='col'>{name.replace('_', ' ')}</th>" for name in names)
    rows = []
    for row in claims.to_dict("records"):
        cells = {name: html.escape(str(row[name])) for name in names}
        cells["verdict"] = badge(row["verdict"])
        if "notebook" in cells:
            cells["notebook"] = f"<a href='notebooks/{cells['notebook']}.html'>{cells['notebook']}</a>"
        rows.append("<tr>" + "".join(f"<td>{cells[name]}</td>" for name in names) + "</tr>")
    return (
        "<div class='scrolls' style='overflow-x:auto' tabindex='0'>"
        f"<table class='table ledger'><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
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
