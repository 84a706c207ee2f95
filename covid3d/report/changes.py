"""What differs from the numbers that a run had before: kept when new ones replace them, shown as a page of the book."""

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

from covid3d.report.claims import Values, compare
from covid3d.run.files import read_json, write_json
from covid3d.run.profile import Run

HEADS = ("before", "now", "answers", "shown in")
FIRST = "<p>No number of this run has changed since it was first computed on this machine.</p>"


def keep_last(run: Run, values: Values) -> None:
    """Keep the numbers that `values` are about to replace, with what they were made with; equal ones replace nothing."""
    path, passport = run.path("values.json"), run.path("passport.json")
    old = read_json(path) if path.is_file() else {}
    if old and not compare(old, values)["equal"].all():
        made = read_json(passport) if passport.is_file() else {}
        write_json(run.path("values.previous.json"), {"passport": made, "values": old})


def changes_html(run: Run, values: Values, places: Mapping[str, tuple[str, str]]) -> str:
    """Return which numbers of a run differ from those that it had before, claims' answers first, the others folded."""
    path = run.path("values.previous.json")
    if not path.is_file():
        return FIRST
    last = read_json(path)
    table = compare(last["values"], values)
    seen = table[table["before"] != table["after"]]
    hidden = int((~table["equal"]).sum()) - len(seen)
    answers = seen["claims"] != ""
    others = f"Other numbers that differ: {(~answers).sum():,}."
    return (
        f"<p><strong>{len(seen):,} of {len(table):,} numbers differ</strong> from what this run held before they last changed"
        f"{f', {hidden:,} more in digits that are not shown' if hidden else ''}. {_made_with(run, last['passport'])}</p>"
        f"{_rows(seen[answers], f'Numbers that answer a claim and differ: {answers.sum():,}.', places)}"
        f"<details class='unprinted'><summary>{others}</summary>{_rows(seen[~answers], others, places)}</details>"
    )


def _made_with(run: Run, before: Mapping[str, Any]) -> str:
    """Return what the two runs were made with, where it differs: commit, scans, machine, versions."""
    path = run.path("passport.json")
    old, new = _flat(before), _flat(read_json(path) if path.is_file() else {})
    said = [f"{name} {old[name]} → {new[name]}" for name in old if name in new and old[name] != new[name]]
    return html.escape(
        f"Made differently: {'; '.join(said)}." if said else "Both were made with the same program and scans."
    )


def _flat(passport: Mapping[str, Any]) -> dict[str, str]:
    short = {"commit": passport.get("commit"), "manifest": passport.get("manifest_sha256")}
    named = {name: passport.get(name) for name in ("processor", "device", "python")}
    found = {name: str(value)[:12] for name, value in short.items()} | named | passport.get("versions", {})
    return {name: str(value) for name, value in found.items()}


def _rows(table: pd.DataFrame, caption: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Return numbers that differ as a table: address, before, now, the claims that it answers, the table that shows it."""
    if table.empty:
        return ""
    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("address", *HEADS))
    body = "".join(_row(row, places) for row in table.to_dict("records"))
    return (
        f"<div class='scrolls' tabindex='0'><table class='table values'><caption>{caption}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Mapping[Any, Any], places: Mapping[str, tuple[str, str]]) -> str:
    number, place = places.get(f"table.{row['key'].split('.')[0]}", ("", ""))
    cells = (
        html.escape(str(row["before"])),
        html.escape(str(row["after"])),
        " ".join(f"<a href='ledger.html#{claim}'>{claim}</a>" for claim in row["claims"].split()),
        f"<a href='{place}'>{number}</a>" if number else "",
    )
    tds = "".join(f"<td data-label='{head}'>{cell}</td>" for head, cell in zip(HEADS, cells, strict=True))
    return f"<tr><th scope='row'><code>{html.escape(row['key'])}</code></th>{tds}</tr>"
