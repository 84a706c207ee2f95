"""The ledger: every checkable claim of the paper beside what this run computed, and a careful verdict."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from covid3d.chapter import read_values
from covid3d.run.errors import Covid3DError
from covid3d.run.files import read_json
from covid3d.run.profile import CHAPTERS, DATA, Run

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


def ledger(run: Run) -> pd.DataFrame:
    """Return one row a claim (142): published value, the run's own, the verdict, and the cell that shows it."""
    values = read_values(run)
    shown = _shown(run)
    cohort = run.cohort
    rows = []
    for claim in load_claims().to_dict("records"):
        used = {key: entry for key, entry in values.items() if claim["claim_id"] in entry["claims"]}
        main = _main(claim, used)
        where = [(entry["chapter"], entry["cell"]) for entry in ([main] if main else [])] + list(_cells(used))
        where += [(about["chapter"], about["cell"]) for about in shown if claim["claim_id"] in about["claims"]]
        rows.append(
            {
                **{name: claim[name] for name in ("claim_id", "section", "kind", "text", "how_checked")},
                "published": _published(claim),
                "re_run": _rerun_text(claim, main),
                "beside": _beside(main, used),
                "verdict": verdict(claim, main, cohort),
                "cohort": main["cohort"] if main else cohort if claim["basis"] in ("input", "performance") else "paper",
                "notebook": _notebook(where[0][0]) if where else claim["where_regenerated"].split(";")[0],
                "cell": next((cell for _, cell in where if cell), ""),
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
    published = published_number(claim["value"])
    value = entry["value"]
    if published is None or isinstance(value, (str, bool)):
        return BY_DEFINITION
    number, tolerance = published
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


def _main(claim: Row, used: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the entry that is judged: the one the map names, else the first computed one, else a statement."""
    if claim["key"] in used:
        return used[claim["key"]]
    computed = [entry for key, entry in used.items() if not key.startswith("note_")]
    return next(iter(computed or used.values()), None)


def _rerun_text(claim: Row, main: dict[str, Any] | None) -> str:
    if main is None:
        return claim["reason"] or "not available (its chapter has not been run)"
    return f"{main['text']} ({claim['reason']})" if claim["reason"] and claim["basis"] != "software" else main["text"]


def _beside(main: dict[str, Any] | None, used: dict[str, dict[str, Any]]) -> str:
    """Return the other values that serve a claim, each with its name."""
    others = {key.removeprefix("note_"): entry for key, entry in used.items() if entry is not main}
    return "; ".join(f"{key.replace('_', ' ')}: {entry['text']}" for key, entry in others.items())


def _published(claim: Row) -> str:
    """Return the printed value with its unit, or blank when the claim is in words only."""
    value = "" if claim["value"] == "-" else claim["value"]
    unit = "" if claim["unit"] in ("-", "date") or not value else f" {claim['unit']}"
    return f"{value}{unit}"


def _cells(used: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (chapter, cell) of every value that serves a claim."""
    return [(entry["chapter"], entry["cell"]) for entry in used.values()]


def _shown(run: Run) -> list[dict[str, Any]]:
    """Return what the captions of all tables and figures say, each with its chapter."""
    found = []
    for path in sorted(run.path("chapters").glob("*/captions.json")):
        for group in read_json(path).values():
            found += [{**about, "chapter": path.parent.name} for about in group.values()]
    return found


def _notebook(number: str) -> str:
    """Return a chapter's notebook by its two digits."""
    return next((name for name in CHAPTERS if name.startswith(number)), number)


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
