"""The ledger: every checkable claim of the paper beside what this run computed, and a careful verdict.

`claims_map.csv` is the only place where a claim meets an address of what notebooks show: `address` is the number that is judged,
`beside` names what is printed beside it (numbers, tables or figures), `statement` documents what cannot be computed.
"""

import ast
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.cohort.folds import require_certificate
from covid3d.run.errors import ConfigError, Covid3DError
from covid3d.run.files import read_json
from covid3d.run.profile import DATA, Run
from covid3d.run.steps import CHAPTERS

Row = Mapping[Any, Any]
COLUMNS = (
    "claim_id",
    "section",
    "kind",
    "text",
    "published",
    "re_run",
    "beside",
    "verdict",
    "cohort",
    "notebook",
    "cell",
    "how_checked",
)
KEY_CLAIMS = tuple("C008 C095 C064 C066 C060 C062 C097 C083 C084 C085 C086 C123 C124 C125".split())
BY_CONSTRUCTION = "by construction"
NOT_COMPARABLE = "simulated, not comparable"
BY_DEFINITION = "differs by definition"
NOT_RERUNNABLE = "not re-runnable"
NOT_AVAILABLE = "not available"
JUDGEMENTS = ("agrees", "compatible", "disagrees")
NEVER_JUDGED_ON_PHANTOM = ("cohort", "result", "interpretation", "figure")


def load_claims() -> pd.DataFrame:
    """Return the 142 claims of the paper with how each is judged: the columns of claims.csv and of claims_map.csv.

    `basis` is software (a fact about the program), printed (a check of printed values), input (what a simulator is
    given), performance (what a model reaches), definition (the paper leaves it open) or private (authors only).
    """
    claims = pd.read_csv(DATA / "claims.csv", dtype=str, keep_default_na=False)
    rules = pd.read_csv(DATA / "claims_map.csv", dtype=str, keep_default_na=False)
    table = claims.merge(rules, on="claim_id", how="left", validate="one_to_one")
    if table["basis"].isna().any():
        lost = ", ".join(table.loc[table["basis"].isna(), "claim_id"])
        raise Covid3DError(f"claims without a rule: {lost}", where="claims_map.csv", cure="Add a row for each")
    return table


@functools.cache
def answers() -> dict[str, list[str]]:
    """Return the claims that each address answers, from claims_map.csv."""
    found: dict[str, list[str]] = {}
    for claim in load_claims().to_dict("records"):
        for address in addresses(claim):
            found.setdefault(address, []).append(claim["claim_id"])
    return found


def addresses(claim: Row) -> list[str]:
    """Return every address that a claim's row names: the judged one first."""
    return [*claim["address"].split(), *claim["beside"].split()]


def published_texts() -> dict[str, str]:
    """Return the printed values as prose names them: `paper.C095` and its text."""
    return {f"paper.{claim['claim_id']}": published(claim) for claim in load_claims().to_dict("records")}


def published(claim: Row) -> str:
    """Return the printed value with its unit, or blank when the claim is in words only."""
    value = "" if claim["value"] == "-" else claim["value"]
    if claim["unit"] == "p":
        return f"p = {value}"
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
        main = _judged(claim, values)
        where = [cells[name] for name in (address.split(".")[0] for address in addresses(claim)) if name in cells]
        rows.append(
            {
                **{name: claim[name] for name in ("claim_id", "section", "kind", "text", "how_checked")},
                "published": published(claim),
                "re_run": _rerun_text(claim, main),
                "beside": _beside(claim, values),
                "verdict": verdict(claim, main, run.cohort),
                "cohort": run.cohort if claim["basis"] in ("input", "performance") else "paper",
                "notebook": where[0][0] if where else claim["where_regenerated"].split(";")[0],
                "cell": where[0][1] if where else "",
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def verdict(claim: Row, entry: dict[str, Any] | None, cohort: str) -> str:
    """Judge one claim by its basis; on simulated scans nothing about patients, readers or performance is judged."""
    basis = claim["basis"]
    if basis == "private":
        return NOT_RERUNNABLE
    if entry is None or entry["value"] is None:
        return NOT_AVAILABLE
    if basis == "definition":
        return BY_DEFINITION
    if basis in ("software", "printed"):
        if claim["kind"] in NEVER_JUDGED_ON_PHANTOM and cohort == "phantom":
            return NOT_COMPARABLE
        if _meets(entry["value"], claim["expected"]):
            return "agrees"
        return BY_DEFINITION if claim["reason"] else "disagrees"
    if cohort == "phantom":
        return BY_CONSTRUCTION if basis == "input" else NOT_COMPARABLE
    found = _judge_numbers(claim, entry)
    is_count = basis == "input" and claim["kind"] != "interpretation"
    return BY_DEFINITION if found == "disagrees" and is_count else found  # another cohort has other counts


def _judge_numbers(claim: Row, entry: dict[str, Any]) -> str:
    """Judge a number from real scans: equal as printed, inside the interval, or neither."""
    if claim["expected"]:
        return "agrees" if _meets(entry["value"], claim["expected"]) else "disagrees"
    printed = published_number(claim["value"])
    value = entry["value"]
    if printed is None or isinstance(value, (str, bool)):
        return BY_DEFINITION
    number, tolerance = printed
    if abs(value - number) <= tolerance:
        return "agrees"
    if entry["low"] is not None and entry["high"] is not None and entry["low"] <= number <= entry["high"]:
        return "compatible"
    return "disagrees"


def published_number(text: str) -> tuple[float, float] | None:
    """Return a printed number and half a unit of its last digit, e.g. "+/-0.01" -> (0.01, 0.005); None without one."""
    found = re.search(r"(?<!/)-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)
    if found is None:
        return None
    plain = found.group().replace(",", "")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(plain), 0.5 * 10.0 ** (int(exponent or 0) - decimals)


def _meets(value: Any, expected: str) -> bool:
    """True when a value is the expected one: true, a text, a number, or a range such as 12..13."""
    if value is None:
        return False
    if isinstance(value, bool) or expected == "true":
        return value is True and expected in ("true", "")
    if ".." in expected:
        low, high = expected.split("..")
        return float(low) <= float(value) <= float(high)
    try:
        return math.isclose(float(value), float(expected), rel_tol=1e-9)
    except ValueError:
        return str(value) == expected


def _judged(claim: Row, values: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the entry that is judged: the number at the claim's address, else its statement."""
    if claim["address"] in values:
        return values[claim["address"]]
    statement = claim["statement"]
    return {"value": statement, "low": None, "high": None, "text": statement} if statement else None


def _rerun_text(claim: Row, main: dict[str, Any] | None) -> str:
    """Return a claim's own number with its noun, and the reason why it may differ; a reason is not said twice."""
    reason = claim["reason"]
    if main is None:
        return reason or "not available (its chapter has not been run)"
    said = _with_noun(claim, main)
    return said if not reason or claim["basis"] == "software" or reason in said else f"{said} ({reason})"


def _with_noun(claim: Row, main: dict[str, Any]) -> str:
    """Return a number with what it counts: the claim's own unit, else the last words of its address."""
    value, unit = main["value"], claim["unit"]
    if main.get("unit") or isinstance(value, (str, bool)) or value is None or unit in ("AUC", "p", "%"):
        return str(main["text"])
    if isinstance(value, int) and re.fullmatch(r"[A-Za-z ]+", unit):
        return f"{main['text']} {unit}"
    return f"{main['text']} ({claim['address'].rpartition('.')[2].replace('_', ' ')})"


def _beside(claim: Row, values: Mapping[str, dict[str, Any]]) -> str:
    """Return the other numbers that serve a claim, each with its name."""
    others = [address for address in addresses(claim) if address in values and address != claim["address"]]
    return "; ".join(f"{address.replace('.', ' ').replace('_', ' ')}: {values[address]['text']}" for address in others)


def without_cell(table: pd.DataFrame) -> list[str]:
    """Return the claims of a ledger that no notebook cell shows."""
    return table.loc[table["cell"] == "", "claim_id"].tolist()


def diff(run_a: Run, run_b: Run) -> pd.DataFrame:
    """Compare the values of two runs: one row a key with both texts, the difference b - a, and equal or not."""
    a, b = read_values(run_a), read_values(run_b)
    rows = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key, {}), b.get(key, {})
        pair = [entry.get("value") for entry in (left, right)]
        numbers = [float(value) for value in pair if isinstance(value, (int, float)) and not isinstance(value, bool)]
        rows.append(
            {
                "key": key,
                run_a.name: left.get("text", "absent"),
                run_b.name: right.get("text", "absent"),
                "difference": numbers[1] - numbers[0] if len(numbers) == 2 else math.nan,
                "equal": bool(left) and bool(right) and pair[0] == pair[1] and left["text"] == right["text"],
            }
        )
    return pd.DataFrame(rows, columns=list(dict.fromkeys(["key", run_a.name, run_b.name, "difference", "equal"])))


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
