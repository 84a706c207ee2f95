"""The first page: published beside re-run in one picture, what was reached and what was not, and what the run was made with."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from statsmodels.stats.proportion import proportion_confint

from covid3d.chapters.measured import NOT_REACHED, OWN, REACHED
from covid3d.figures.style import BLUE, GREY, RED, canvas, tidy
from covid3d.report import audit
from covid3d.report.banner import initialisation
from covid3d.report.claims import load_claims
from covid3d.report.outputs import RESULTS
from covid3d.report.verdict import published_number
from covid3d.run import campaigns
from covid3d.run.profile import Run
from covid3d.show import render
from covid3d.stats.estimate import number

Values = Mapping[str, Mapping[str, Any]]
ROWS = {
    "C095": "AUC, hospital A (folds)",
    "C064": "AUC, hospital B",
    "C066": "AUC, hospital C",
    "C060": "AUC, 2D model, B",
    "C062": "AUC, 2D model, C",
    "C083": "sensitivity, B",
    "C084": "specificity, B",
    "C085": "sensitivity, C",
    "C086": "specificity, C",
}
BEST = {
    f"C{claim}": f"skill_by_hospital.{place}.perfect_reader"
    for claim, place in (("095", "a"), ("064", "b"), ("066", "c"))
}
AUCS = {"C095": "CV mean, pooled A", "C064": "3D B", "C066": "3D C", "C060": "2D B", "C062": "2D C"}
"""Rows of `audit.printed_aucs` that hold the interval of a claim's printed AUC."""
VERDICTS = (REACHED, NOT_REACHED)
TOGETHER = "all_of_them"
"""The row of a table of bars that judges the others together; it is no bar of its own."""
COUNTED = "trust"
"""The table of chapter 9 that counts the bars of stored campaigns, so that those that are reached are not listed one by one."""
STAYS_PERMUTED = "side_by_side.two_scans.permutation_p"
OUTSIDE = ("table_1.covid3d.auc_at_b", "table_1.covid3d.auc_at_c")
ASKED = ("asks", "asked", "wanted")
"""What a table of bars calls the column that says what was asked."""


def comparison(values: Values) -> list[dict[str, Any]]:
    """Return one row a claim: what is printed and what was found, each (value, low, high) from 0 to 1, and the best possible.

    The interval of a printed number is the sampling interval that its number of patients allows (Hanley and McNeil for an
    AUC, Wilson for a share). What a run lacks is None.
    """
    claims = load_claims().set_index("claim_id", drop=False)
    intervals = audit.printed_aucs().set_index("row")[["low", "high"]]
    sizes = audit.audit_published().set_index("claim_id")["n"]
    rows = []
    for claim, label in ROWS.items():
        number = published_number(str(claims.loc[claim, "value"]))
        assert number is not None
        if claim in AUCS:
            printed = (number[0], *intervals.loc[AUCS[claim]].astype(float))
        else:
            share, n = number[0] / 100, int(sizes[claim])
            printed = (share, *map(float, proportion_confint(share * n, n, method="wilson")))
        entry = values.get(str(claims.loc[claim, "address"]))
        best = values.get(BEST.get(claim, ""), {}).get("value")
        rows.append({"label": label, "printed": printed, "found": _found(entry), "best": best})
    return rows


def _found(entry: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """Return a run's number and its limits as shares; None when the run lacks it; limits default to the value."""
    if entry is None or entry["value"] is None:
        return None
    scale = 0.01 if entry["unit"] == "%" else 1.0
    value = entry["value"] * scale
    low, high = (value if entry[side] is None else entry[side] * scale for side in ("low", "high"))
    return value, low, high


def picture(values: Values, kind: str, *, narrow: bool = False) -> Figure:
    """Return the picture of the first page: a row a number, printed above and re-run below, with 95 % intervals.

    narrow: drawn for a phone, letters as large.
    """
    figure, axes = canvas(width=3.6 if narrow else 7.4, height=5.2 if narrow else 4.2)
    panel = tidy(axes[0, 0], "AUC, or share of patients")
    rows = comparison(values)
    for place, row in enumerate(rows):
        for shift, mark, colour, points in ((-0.17, "D", "black", row["printed"]), (0.17, "o", BLUE, row["found"])):
            if points is None:
                panel.text(0.02, place + shift, "not available in this run", va="center", fontsize=8, color=GREY)
                continue
            value, low, high = points
            panel.plot([low, high], [place + shift] * 2, color=colour, lw=1.2 if mark == "D" else 2.4)
            panel.plot([value], [place + shift], mark, color=colour, ms=6)
        if row["best"] is not None:
            panel.plot([row["best"]] * 2, [place - 0.36, place + 0.36], color=RED, lw=2.4)
    aucs = [place for place, row in enumerate(rows) if row["label"].startswith("AUC")]
    panel.vlines(0.5, min(aucs) - 0.5, max(aucs) + 0.5, color=GREY, ls=":", lw=0.8)
    panel.set(yticks=range(len(rows)), yticklabels=[row["label"] for row in rows], xlim=(0, 1.05))
    panel.invert_yaxis()
    panel.plot([], [], "D-", color="black", lw=1.2, label="published (95 % interval that its n allows)")
    panel.plot([], [], "o-", color=BLUE, lw=2.4, label=f"re-run on {kind} (95 % interval)")
    panel.plot([], [], "|", color=RED, ms=12, mew=2.4, label="best possible here (oracle)")
    figure.legend(loc="outside upper left", ncols=1 if narrow else 3, fontsize=8, frameon=False, columnspacing=1.2)
    return figure


def picture_words(values: Values) -> str:
    """Return what the picture shows, row by row, for readers who do not see it."""
    rows = []
    for row in comparison(values):
        found = "not available" if row["found"] is None else f"{row['found'][0]:.2f}"
        best = "" if row["best"] is None else f", best possible {row['best']:.2f}"
        rows.append(f"{row['label']}: published {row['printed'][0]:.2f}, re-run {found}{best}")
    return "; ".join(rows) + "."


def picture_html(run: Run, values: Values, folder: Path) -> str:
    """Write the picture as SVG and PNG into the book's results; return its HTML."""
    kind = "simulated scans" if run.is_phantom else "these scans"
    figure = picture(values, kind)
    for suffix in ("svg", "png"):
        (folder / f"published_and_rerun.{suffix}").write_bytes(render(figure, suffix))
    (folder / "published_and_rerun_narrow.svg").write_bytes(render(picture(values, kind, narrow=True), "svg"))
    caption = (
        f"What the paper prints (diamonds) and what this run found (dots) on {kind}, with 95 % intervals. The upright bar is the "
        "perfect reader of the same scans, who knows where the lesions are. Dotted: chance, for an AUC. The picture says whether "
        "the method works on these scans, not whether the paper is right."
    )
    return (
        f"<figure id='figure-published_and_rerun'><picture><source media='(max-width: 600px)' "
        f"srcset='{RESULTS}/published_and_rerun_narrow.svg'><img src='{RESULTS}/published_and_rerun.svg' width='814' "
        f"alt='{html.escape(picture_words(values), quote=True)}'/></picture><figcaption>{html.escape(caption)} "
        f"<a href='{RESULTS}/published_and_rerun.svg' download>SVG</a> "
        f"<a href='{RESULTS}/published_and_rerun.png' download>PNG</a></figcaption></figure>"
    )


def texts(run: Run, values: Values) -> dict[str, str]:
    """Return what the first page says of numbers, by address; a sentence that has nothing to say is empty."""
    p = values.get(STAYS_PERMUTED, {}).get("value")
    shown = "not known" if p is None else "shown at 5 %" if p < 0.05 else "not shown at 5 %"
    return {"first_page.different_times": shown, "first_page.other_seeds": _other_seeds(run)}


def _other_seeds(run: Run) -> str:
    """Return the AUCs at B and C with the other seeds, as stored: for runs of `standard` on the embedded cohort alone."""
    stored, config = campaigns.read("seeds"), run.config
    like = (run.profile.name, config.world, config.manifest, config.weights) == ("standard", "effect", None, None)
    if stored is None or not like:
        return ""
    others = stored[(stored["profile"] == run.profile.name) & (stored["seed"] != run.seed)]
    found = others.pivot(index="seed", columns="address", values="value").reindex(columns=OUTSIDE).dropna()
    each = [f"{number(b)} and {number(c)} (seed {seed})" for seed, b, c in found.itertuples()]
    said = f" With other seeds the last two are {', '.join(each)}, [as stored](notebooks/09_simulator)."
    return said if each else ""


def judged(values: Values) -> dict[str, Mapping[str, Any]]:
    """Return the bars of a run: the entry that says whether it is reached, by the address of its row."""
    found = {}
    for address, entry in values.items():
        row, _, column = address.rpartition(".")
        if column in ("reached", "verdict") and entry["text"] in VERDICTS:
            found[row] = entry
    return found


def bars(values: Values, simulator: bool) -> dict[str, list[str]]:
    """Return the addresses of a run's bars by verdict.

    simulator: those of chapter 9, which judge the simulated scans, campaign by campaign; else those of the network, its maps
    and its scores.
    """
    found: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for row, entry in judged(values).items():
        counted = entry["chapter"] == "09" and row.partition(".")[0] not in (COUNTED, OWN)
        left_out = row.endswith(f".{TOGETHER}") or (counted and entry["text"] == REACHED)
        if (entry["chapter"] == "09") == simulator and not left_out:
            found[entry["text"]].append(row)
    return found


def bars_html(values: Values, places: Mapping[str, tuple[str, str]]) -> str:
    """Return the lists of what was not reached and what was, by name, each linked to its table; the simulator's folded."""
    network, simulator = (_lists(values, bars(values, which), places) for which in (False, True))
    return f"{network}<details><summary>The simulator's own bars</summary>{simulator}</details>"


def _lists(values: Values, found: Mapping[str, list[str]], places: Mapping[str, tuple[str, str]]) -> str:
    parts = []
    for verdict, addresses in found.items():
        items = "".join(f"<li>{_bar(values, address, places)}</li>" for address in addresses)
        parts.append(
            f"<p><strong>{verdict.capitalize()} ({len(addresses)}):</strong></p><ul>{items or '<li>nothing</li>'}</ul>"
        )
    return "".join(reversed(parts))


def _bar(values: Values, address: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Return a bar in the words of its table: its row, what was found, what was asked, and the table as a link."""
    table = address.partition(".")[0]
    name = judged(values)[address]["row"]
    one = values.get(f"{address}.found", values.get(f"{address}.value", {}))
    found = one["text"] if one.get("value") is not None else ""
    if f"{address}.holds" in values:
        found = f"{values[f'{address}.holds']['text']} of {values[f'{address}.of']['text']} hold"
    asks = next((values[f"{address}.{word}"]["text"] for word in ASKED if f"{address}.{word}" in values), "")
    said = "; ".join(part for part in (found, f"asked: {asks}" if asks else "") if part)
    return f"{html.escape(f'{name}: {said}' if said else name)}{_link(table, places)}"


def _link(table: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Return a table's number as a link, in brackets; nothing for one that the book does not have."""
    number, place = places.get(f"table.{table}", ("", ""))
    return f" (<a href='{place}'>{number}</a>)" if number else ""


def details_html(run: Run, made: Mapping[str, str]) -> str:
    """Return what a run was made with, folded."""
    words = {
        "run": "run",
        "profile": "profile (size)",
        "world": "world",
        "seed": "seed",
        "commit": "commit of the program",
        "manifest": "manifest, first digits of its SHA-256",
        "date": "date",
        "minutes": "minutes",
        "machine": "machine",
        "device": "device",
        "python": "Python",
        "versions": "versions",
    }
    rows = [(title, made[name]) for name, title in words.items()]
    rows.append(("what the network starts from", initialisation(run)))
    body = "".join(
        f"<tr><th scope='row'>{html.escape(title)}</th><td data-label='value'>{html.escape(value)}</td></tr>"
        for title, value in rows
    )
    return (
        f"<details id='run-details'><summary>Run details: {html.escape(made['profile'])}, commit {html.escape(made['commit'])}, "
        f"{html.escape(made['date'])}</summary><div class='scrolls'><table class='table'><thead><tr><th scope='col'>what</th>"
        f"<th scope='col'>value</th></tr></thead><tbody>{body}</tbody></table></div></details>"
    )
