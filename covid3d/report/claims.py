"""The ledger: every checkable claim of the paper beside what this run computed, and a careful verdict.

`claims_map.csv` names what is shown for a claim by its address: `address` the numbers that are judged, `beside` what else is
shown (numbers, tables or figures), while `statement` documents what cannot be computed.
`claims_words.csv` says a claim's numbers in words, each with its noun, and on which side of a bound the paper expects them.
"""

import ast
import fnmatch
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.cohort.folds import require_certificate
from covid3d.report import printed
from covid3d.report.verdict import NOT_AVAILABLE, Row, direction, verdict_of_all
from covid3d.run.errors import ConfigError, Covid3DError
from covid3d.run.files import read_json
from covid3d.run.profile import DATA, Run
from covid3d.run.steps import CHAPTERS

Values = Mapping[str, dict[str, Any]]
COLUMNS = (
    "claim_id",
    "section",
    "kind",
    "text",
    "published",
    "re_run",
    "direction",
    "verdict",
    "printed_check",
    "print",
    "beside",
    "cohort",
    "notebook",
    "cell",
    "finding",
    "how_checked",
)
KEY_CLAIMS = tuple("C008 C095 C064 C066 C060 C062 C097 C083 C084 C085 C086 C123 C124 C125".split())
ABSENT = "absent"
"""The text of a value that a run does not have."""
SLOT = re.compile(r"\{([^}]+)\}")


def load_claims() -> pd.DataFrame:
    """Return the 142 claims of the paper with how each is judged and said: claims.csv, claims_map.csv, claims_words.csv.

    `basis` is software (a fact about the program), printed (a check of printed values), input (what a simulator is
    given), performance (what a model reaches), definition (the paper leaves it open) or private (authors only).
    """
    rules, words = (
        pd.read_csv(DATA / f"claims_{name}.csv", dtype=str, keep_default_na=False) for name in ("map", "words")
    )
    table = printed.table().reset_index().merge(rules, on="claim_id", how="left", validate="one_to_one")
    if table["basis"].isna().any():
        lost = ", ".join(table.loc[table["basis"].isna(), "claim_id"])
        raise Covid3DError(f"claims without a rule: {lost}", where="claims_map.csv", cure="Add a row for each")
    table = table.merge(words, on="claim_id", how="left", validate="one_to_one").fillna({"words": "", "side": ""})
    return table.merge(findings_by_claim(), on="claim_id", how="left").fillna({"finding": ""})


@functools.cache
def findings() -> pd.DataFrame:
    """Return the findings of the audit, indexed by finding (F1 to F19): weight (high | medium | low), title and claims."""
    return pd.read_csv(DATA / "findings.csv", dtype=str, keep_default_na=False).set_index("finding")


def findings_by_claim() -> pd.DataFrame:
    """Return claim_id and finding, the findings that concern a claim ("F1 F5")."""
    pairs = findings()["claims"].str.split().explode().reset_index()
    return pairs.groupby("claims")["finding"].agg(" ".join).rename_axis("claim_id").reset_index()


@functools.cache
def answers() -> dict[str, list[str]]:
    """Return the claims that each address answers, from claims_map.csv."""
    found: dict[str, list[str]] = {}
    for claim in load_claims().to_dict("records"):
        for address in addresses(claim):
            found.setdefault(address, []).append(claim["claim_id"])
    return found


def addresses(claim: Row) -> list[str]:
    """Return every address that a claim's rows name, the judged ones first; patterns ("a.*.b") give their first word."""
    in_words = [address if "*" not in address else address.split(".")[0] for address in SLOT.findall(claim["words"])]
    return list(dict.fromkeys([*claim["address"].split(), *in_words, *claim["beside"].split()]))


def published_texts() -> dict[str, str]:
    """Return the printed values as prose names them: `paper.C095` and its text."""
    return {f"paper.{claim['claim_id']}": published(claim) for claim in load_claims().to_dict("records")}


def published(claim: Row) -> str:
    """Return the printed value with its unit, or blank when the claim is in words only."""
    value = "" if claim["value"] == "-" else claim["value"]
    if claim["unit"] == "p":
        return f"p = {value}"
    if claim["unit"] == "day":
        return f"day {value}"
    unit = "" if claim["unit"] in ("-", "date") or not value else f" {claim['unit']}"
    return f"{value}{unit}"


def read_values(run: Run) -> dict[str, dict[str, Any]]:
    """Return the numbers of all finished chapters by address; each entry also names its `chapter` and `cell`.

    Raises ConfigError when two chapters use one address.
    """
    found: dict[str, dict[str, Any]] = {}
    where = shown_in(run.root / "notebooks")
    for path in run.chapter_files("values.json"):
        for address, entry in read_json(path).items():
            if address in found:
                raise ConfigError(
                    f"'{address}' is shown in chapters {found[address]['chapter']} and {path.parent.name}",
                    where="values.json",
                    cure="Give one of them another name in its notebook",
                )
            cell = where.get(address.split(".")[0], ("", ""))[1]
            found[address] = {**entry, "chapter": path.parent.name, "cell": cell}
    return found


@functools.cache
def shown_in(notebooks: Path) -> dict[str, tuple[str, str]]:
    """Return the chapter and the cell's id of everything that the notebooks show, by its name.

    Raises ConfigError when two cells show things of one name.
    """
    found: dict[str, tuple[str, str]] = {}
    for chapter in CHAPTERS:
        path = notebooks / f"{chapter}.ipynb"
        cells = read_json(path)["cells"] if path.is_file() else []
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            for name in names_shown("".join(cell["source"])):
                if name in found:
                    where, cure = f"notebooks/{chapter}.ipynb", "Give one of them another name"
                    raise ConfigError(f"'{name}' is also shown in {found[name][0]}", where=where, cure=cure)
                found[name] = chapter, cell["id"]
    return found


def names_shown(source: str) -> list[str]:
    """Return the names under which a cell shows something: the second argument of its calls of `show`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    shows = [
        call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "show" and len(call.args) > 1
    ]
    return [str(call.args[1].value) for call in shows if isinstance(call.args[1], ast.Constant)]


def load(run: Run) -> pd.DataFrame:
    """Return the ledger of a run whose leakage certificate has passed; else a ManifestError or MissingResult."""
    require_certificate(run)
    return ledger(run)


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a ledger by which the paper is known, indexed by claim_id."""
    return table.set_index("claim_id").loc[list(KEY_CLAIMS)]


def ledger(run: Run) -> pd.DataFrame:
    """Return one row a claim (142): published value, the run's own, the verdict, and the cell that shows it."""
    values, cells = read_values(run), shown_in(run.root / "notebooks")
    rows = []
    for claim in load_claims().to_dict("records"):
        where = [cells[name] for name in (address.split(".")[0] for address in addresses(claim)) if name in cells]
        check = printed.check(claim)
        entries = _judged(claim, values, check)
        rows.append(
            {
                **{name: claim[name] for name in ("claim_id", "section", "kind", "text", "how_checked", "finding")},
                "published": published(claim),
                "re_run": _rerun_text(claim, entries, values),
                "direction": direction(claim["side"], values),
                "verdict": verdict_of_all(claim, entries, run.cohort),
                "printed_check": "" if check is None else "agrees" if check[0] else "disagrees",
                "print": "" if check is None else check[1],
                "beside": _beside(claim, values),
                "cohort": run.cohort if claim["basis"] in ("input", "performance") else "paper",
                "notebook": where[0][0] if where else claim["where_regenerated"].split(";")[0],
                "cell": where[0][1] if where else "",
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _judged(claim: Row, values: Values, check: printed.Check | None) -> list[dict[str, Any] | None]:
    """Return the entries that are judged: the printed-value check, the numbers at the claim's addresses, or its statement."""
    if claim["basis"] == "printed":
        return [None if check is None else {"value": check[0], "low": None, "high": None, "text": check[1]}]
    found = [values.get(address) for address in claim["address"].split()]
    if any(found):
        return found
    statement = claim["statement"]
    return [{"value": statement, "low": None, "high": None, "text": statement} if statement else None]


def _rerun_text(claim: Row, entries: list[dict[str, Any] | None], values: Values) -> str:
    """Return a claim's own numbers in its words, and the reason why they may differ; what is private says why."""
    reason = claim["reason"]
    if not any(entries):
        return reason or f"{NOT_AVAILABLE} (its chapter has not been run)"
    said = in_words(claim["words"], values) if claim["words"] else "; ".join(str(e["text"]) for e in entries if e)
    if not reason or claim["basis"] in ("software", "private") or reason in said:
        return said
    return f"{said}. {reason[0].upper()}{reason[1:]}"


def in_words(words: str, values: Values) -> str:
    """Return words with each {address} replaced by its number; a pattern such as {a.*.b} gives the range of all that match.

    An address without a number is "not available", a pattern without one "not run".

    >>> in_words("of {x.*.n}", {"x.one.n": {"value": 2}, "x.two.n": {"value": 5}})
    'of 2 to 5'
    """

    def number(slot: re.Match[str]) -> str:
        address = slot.group(1)
        if "*" not in address:
            return str(values[address]["text"]) if address in values else NOT_AVAILABLE
        found = [values[name] for name in fnmatch.filter(values, address)]
        if len(found) == 1:
            return str(found[0]["text"])
        known = [float(entry["value"]) for entry in found if isinstance(entry["value"], (int, float))]
        return f"{min(known):.3g} to {max(known):.3g}" if known else "not run"

    return SLOT.sub(number, words)


def _beside(claim: Row, values: Values) -> str:
    """Return the other numbers that serve a claim and that its words do not say, each with its name."""
    said = {*claim["address"].split(), *SLOT.findall(claim["words"])}
    others = [address for address in addresses(claim) if address in values and address not in said]
    return "; ".join(f"{address.replace('.', ' ').replace('_', ' ')}: {values[address]['text']}" for address in others)


def without_cell(table: pd.DataFrame) -> list[str]:
    """Return the claims of a ledger that no notebook cell shows."""
    return table.loc[table["cell"] == "", "claim_id"].tolist()


def diff(run_a: Run, run_b: Run) -> pd.DataFrame:
    """Compare the values of two runs as `compare` does; the columns of texts are named as the runs."""
    names = {"before": run_a.name, "after": run_b.name}
    return compare(read_values(run_a), read_values(run_b)).rename(columns=names)


def compare(a: Values, b: Values) -> pd.DataFrame:
    """Compare two sets of values: key, chapter, the claims it answers, both texts, difference b - a, and equal or not."""
    served = answers()
    rows = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key, {}), b.get(key, {})
        pair = [entry.get("value") for entry in (left, right)]
        numbers = [float(value) for value in pair if isinstance(value, (int, float)) and not isinstance(value, bool)]
        rows.append(
            {
                "key": key,
                "chapter": (left or right).get("chapter", ""),
                "claims": " ".join(served.get(key, [])),
                "before": left.get("text", ABSENT),
                "after": right.get("text", ABSENT),
                "difference": numbers[1] - numbers[0] if len(numbers) == 2 else math.nan,
                "equal": bool(left) and bool(right) and pair[0] == pair[1] and left.get("text") == right.get("text"),
            }
        )
    return pd.DataFrame(rows, columns=["key", "chapter", "claims", "before", "after", "difference", "equal"])


def show(run: Run) -> str:
    """Return the ledger as plain text, one claim a line; no count of agreements is given for simulated scans."""
    table = ledger(run)
    lines = [
        f"{row['claim_id']}  {row['verdict']:<26} published: {row['published'] or '-':<22} re-run: {row['re_run']}"
        for row in table.to_dict("records")
    ]
    if run.cohort == "phantom":
        return "\n".join(["simulated scans: nothing below was measured on a patient", *lines])
    counts = table["verdict"].value_counts()
    return "\n".join([*lines, ", ".join(f"{name}: {count}" for name, count in counts.items())])
