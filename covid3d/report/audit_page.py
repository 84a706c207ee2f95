"""The generated parts of the audit's page: a table or a figure a finding, and links from findings to the ledger."""

import numpy as np

from covid3d.figures import audit as draw
from covid3d.figures.words import seen
from covid3d.report import audit, claims, findings
from covid3d.report.printed import value
from covid3d.show import DPI, figure_html, render, table_html


def fragments() -> dict[str, str]:
    """Return the HTML of each finding that has a table or a figure, by name of its file: audit_f1, …, audit_overview."""
    cells, aucs = audit.audit_published(), audit.printed_aucs()
    smooth, events = findings.p_by_correlation(np.linspace(0, 0.95, 96)), np.arange(8, 120)
    ratio = [np.array([findings.ratio_needed(int(n), value(claim)) for n in events]) for claim in ("C123", "C124")]
    figures = {
        "f1": (draw.shares(cells), "Every printed percentage of Table 2, and the shares that so many cases can have."),
        "f2": (draw.bounds(aucs), "The printed AUCs with the printed bound and with their sampling intervals."),
        "f4": (draw.gains(smooth), "How sure the gain over 2D is, by a correlation that is not printed."),
        "f5": (draw.readers(findings.against_readers()), "The readers against COVID3D, as printed."),
        "f6": (
            draw.training_patients(findings.f6()),
            "Followed patients whose first scans a network may have been trained on.",
        ),
        "f7": (draw.ratios(events, *ratio), "What the printed log-rank p values need."),
    }
    tables = {
        "f1": (cells, "The printed percentages of Table 2, and the counts that they can be."),
        "f2": (aucs, "The printed AUCs, and the sampling interval that their counts imply."),
        "f4": (findings.p_by_correlation().reset_index(), "p of the printed gain over 2D."),
        "f5": (
            findings.against_readers().reset_index(),
            "Reader minus COVID3D in points, and half of the 95 % interval.",
        ),
    }
    found = {
        name: figure_html(render(figure, "png"), caption, alt=seen(figure), width=round(figure.get_figwidth() * DPI))
        for name, (figure, caption) in figures.items()
    }
    for name, (table, caption) in tables.items():
        found[name] += table_html(table, caption)
    return {**{f"audit_{name}": part for name, part in found.items()}, "audit_overview": overview()}


def overview() -> str:
    """Return the table of findings: number, weight, title and the claims that each concerns, with links."""
    rows = []
    for name, found in claims.findings().iterrows():
        links = " ".join(f"<a href='ledger.html#{claim}'>{claim}</a>" for claim in found["claims"].split())
        cells = (f"<a href='#{str(name).lower()}'>{name}</a>", found["weight"], found["title"], links)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("finding", "weight", "what", "claims"))
    caption = (
        "High: changes how a main claim is to be read; medium: limits another claim or a repetition; low: wording."
    )
    return (
        "<div class='scrolls' style='overflow-x:auto' tabindex='0'><table class='table'>"
        f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
