"""What printed numbers can and cannot be: percentages of n cases and AUCs of so many, of any paper and of this one."""

from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.chapters.reader_comparison import published_table_2
from covid3d.report.printed import audit_cell, pairs_that_print, text, value
from covid3d.run.tables import Rule, check_values, matching, read_cells, whole, within
from covid3d.stats.auc import hanley_mcneil_interval, hanley_mcneil_standard_error
from covid3d.stats.proportions import attainable

RULES = {
    "label": matching(r"(?s).+", "the name of the printed number", blank=False),
    "percent": Rule(within(0, 100), "a percentage from 0 to 100, with the decimals printed", blank=False),
    "n": whole(1, 10_000_000, "the number of cases", blank=False),
}
AUC_RULES = {
    "label": RULES["label"],
    "auc": Rule(within(0, 1), "an AUC from 0 to 1, with the decimals printed", blank=False),
    "positives": whole(1, 100_000, "the number of positive cases", blank=False),
    "negatives": whole(1, 100_000, "the number of negative cases", blank=False),
    "bound": Rule(within(0, 1), "the printed bound without its sign, or nothing"),
}


# --- any table -------------------------------------------------------------------------------------------------------


def audit_table(path: str | Path) -> pd.DataFrame:
    """Return, for a CSV file with the columns label, percent and n, whether each percentage can be k of n.

    Columns label, percent, n, attainable, counts, how, nearest. The decimals are those written in the file. A file with the
    columns label, auc, positives, negatives and bound is audited by `audit_aucs`. Raises ManifestError naming row and column.
    """
    path = Path(path)
    if _names_an_auc(path):
        return audit_aucs(path)
    cells = read_cells(path, RULES)
    check_values(cells, RULES, path.name)
    rows = []
    for label, printed, size in zip(cells["label"], cells["percent"], cells["n"], strict=True):
        percent, n = float(printed), int(float(size))
        rows.append(
            {"label": label, "percent": percent, "n": n, **audit_cell(percent, n, len(printed.partition(".")[2]))}
        )
    return pd.DataFrame(rows)


def audit_aucs(path: str | Path) -> pd.DataFrame:
    """Return, for printed AUCs and class sizes, whether the AUC can be, and the sampling interval that the sizes imply.

    Columns label, auc, positives, negatives, attainable, standard error, low, high, and bound, the printed one, in pairs.
    """
    path = Path(path)
    cells = read_cells(path, AUC_RULES)
    check_values(cells, AUC_RULES, path.name)
    rows = []
    for row in cells.to_dict("records"):
        sizes = int(float(row["positives"])), int(float(row["negatives"]))
        found = _printed_auc(row["label"], float(row["auc"]), sizes, row["bound"])
        won = pairs_that_print(found["auc"], *sizes, len(row["auc"].partition(".")[2]))
        rows.append({"label": found.pop("row"), "attainable": bool(won), **found})
    return pd.DataFrame(rows)


def _names_an_auc(path: Path) -> bool:
    """True when the first line of a file names a column `auc`; a file that cannot be read is left to the reader of tables."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return "auc" in [name.strip().strip('"').lower() for name in file.readline().split(",")]
    except (OSError, UnicodeDecodeError):
        return False


# --- the paper's numbers, from what is printed -----------------------------------------------------------------------


def audit_published() -> pd.DataFrame:
    """Return finding F1: each cell of Table 2 with the counts it can be, and whether it fits the other hospital's n.

    Columns claim_id, reader, hospital, measure, percent, n, attainable, counts, how, nearest, other_n, fits_other.
    """
    printed = published_table_2()
    sizes = {(row.hospital, row.measure): int(str(row.published_n)) for row in printed.itertuples()}
    rows = []
    for cell in printed.to_dict("records"):
        percent, n = cell["published"], cell["published_n"]
        other = sizes["C" if cell["hospital"] == "B" else "B", cell["measure"]]
        known = {key: cell[key] for key in ("claim_id", "reader", "hospital", "measure")}
        fits = {"other_n": other, "fits_other": bool(attainable(percent, other))}
        rows.append({**known, "percent": percent, "n": n, **audit_cell(percent, n), **fits})
    return pd.DataFrame(rows)


def printed_aucs() -> pd.DataFrame:
    """Return finding F2: each printed AUC with its printed bound and the sampling interval that its counts imply.

    Hanley & McNeil's standard error (1982), interval on the logit scale. Columns row, auc, positives, negatives,
    printed_bound, standard_error, low, high, bound_in_pairs (the printed bound in case pairs).
    """
    places = {"B": (20, 20), "C": (12, 9)}
    table_1 = {"2D": ("C060", "C062"), "3D": ("C064", "C066"), "3D*": ("C068", "C070")}
    rows = []
    for model, claims in table_1.items():
        for (hospital, sizes), claim in zip(places.items(), claims, strict=True):
            bound = text(f"C{int(claim[1:]) + 1:03d}")
            rows.append(_printed_auc(f"{model} {hospital}", value(claim), sizes, bound))
    rows.append(_printed_auc("CV mean, pooled A", value("C095"), (83, 83), text("C096")))
    rows.append(_printed_auc("CV one fold", value("C095"), (8, 8), text("C096")))
    return pd.DataFrame(rows)


def _printed_auc(name: str, auc: float, sizes: tuple[int, int], bound: str) -> dict[str, Any]:
    error = hanley_mcneil_standard_error(auc, *sizes)
    found = hanley_mcneil_interval(auc, *sizes)
    printed = float(bound.strip("+/- ") or "nan")
    return {
        "row": name,
        "auc": auc,
        "positives": sizes[0],
        "negatives": sizes[1],
        "printed_bound": printed,
        "standard_error": error,
        "low": found.low,
        "high": found.high,
        "bound_in_pairs": printed * sizes[0] * sizes[1],
    }
