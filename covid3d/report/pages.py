"""The generated parts of the book's pages as HTML: key numbers, the ledger, the picture and the audit."""

import html
from pathlib import Path

import pandas as pd

from covid3d.dicom.refusals import CAUSES, CURES
from covid3d.report import audit_page
from covid3d.report.claims import key_numbers, ledger
from covid3d.report.ledger_page import badge, ledger_html
from covid3d.run.files import read_json
from covid3d.run.profile import DATA, Run
from covid3d.show import figure_html, table_html


def write_fragments(run: Run, folder: Path) -> None:
    """Write the generated parts of pages: key numbers, the ledger, a picture, costs, the audit and the reasons of refusals."""
    folder.mkdir(parents=True)
    claims = ledger(run)
    (folder / "ledger.html").write_text(ledger_html(claims), encoding="utf-8")
    (folder / "key_numbers.html").write_text(key_numbers_html(claims), encoding="utf-8")
    (folder / "picture.html").write_text(_picture(run), encoding="utf-8")
    for name, part in audit_page.fragments().items():
        (folder / f"{name}.html").write_text(part, encoding="utf-8")
    worlds = {"effect": "effect (the disease leaves its marks)", "null": "null (labels and courses at random)"}
    facts = {
        "profile": f"{run.profile.name} ({run.profile.purpose})",
        "cohort": {"phantom": "simulated scans"}.get(run.cohort, run.cohort),
        "world": worlds[run.world] if run.is_phantom else "real scans",
        "seed": str(run.seed),
    }
    about = pd.DataFrame({"what": list(facts), "value": list(facts.values())})
    (folder / "run.html").write_text(table_html(about, f"The run '{run.name}'."), encoding="utf-8")
    (folder / "refusals.html").write_text(refusals_html(), encoding="utf-8")
    columns = pd.read_csv(DATA / "dictionary.csv", dtype=str)
    columns_html = table_html(columns, "The columns of the files that a run leaves, and the keys of values.json.")
    (folder / "dictionary.html").write_text(columns_html, encoding="utf-8")


def refusals_html() -> str:
    """Return the table of all reasons for which a scan is refused: code, cause and cure."""
    rows = [(code, f"{CAUSES[code]}.", f"{cure}.") for code, cure in sorted(CURES.items())]
    table = pd.DataFrame(rows, columns=["code", "what is wrong", "what to do"])
    return table_html(table, f"The {len(table)} reasons for which a scan is refused.")


def key_numbers_html(claims: pd.DataFrame) -> str:
    """Return the landing page's table: published beside re-run."""
    chosen = key_numbers(claims).reset_index()
    return _claims_table(
        chosen, ("claim_id", "text", "published", "re_run", "verdict"), "Key numbers, published and re-run."
    )


def _claims_table(claims: pd.DataFrame, names: tuple[str, ...], caption: str) -> str:
    """Return rows of the ledger as HTML with badges and links to the chapters."""
    heads = "".join(f"<th scope='col'>{name.replace('_', ' ')}</th>" for name in names)
    rows = []
    for row in claims.to_dict("records"):
        cells = {name: html.escape(str(row[name])) for name in names}
        cells["verdict"] = badge(row["verdict"])
        rows.append("<tr>" + "".join(f"<td>{cells[name]}</td>" for name in names) + "</tr>")
    return (
        "<div class='scrolls' style='overflow-x:auto' tabindex='0'>"
        f"<table class='table ledger'><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _picture(run: Run) -> str:
    """Return the landing page's picture: Figure 1 of the run, or a line when it does not exist."""
    for captions in run.chapter_files("captions.json"):
        figures = read_json(captions)["figures"]
        path = captions.parent / "figures" / "figure_1.png"
        if "figure_1" in figures and path.is_file():
            return figure_html(path.read_bytes(), figures["figure_1"])
    return "<p>Figure 1 is not available in this run.</p>"
