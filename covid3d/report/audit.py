"""What printed numbers can and cannot be: percentages of n cases, and the paper's own numbers from its own counts."""

from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.chapters.reader_comparison import published_table_2
from covid3d.run.profile import DATA
from covid3d.run.tables import Rule, check_values, matching, read_cells, whole, within
from covid3d.stats.auc import hanley_mcneil_interval, hanley_mcneil_standard_error
from covid3d.stats.proportions import attainable

RULES = {
    "label": matching(r"(?s).+", "the name of the printed number", blank=False),
    "percent": Rule(within(0, 100), "a percentage from 0 to 100, with the decimals printed", blank=False),
    "n": whole(1, 10_000_000, "the number of cases", blank=False),
}


# --- any table of percentages ----------------------------------------------------------------------------------------


def audit_cell(percent: float, n: int, decimals: int = 0) -> dict[str, Any]:
    """Return attainable (bool), counts (the possible k), how (rounded, cut) and nearest (two percentages of n)."""
    counts = attainable(percent, n, decimals)
    step = 10.0**-decimals
    gaps = [100 * k / n - percent for k in counts]
    ways = [
        ("rounded", [abs(gap) <= step / 2 + 1e-9 for gap in gaps]),
        ("cut", [-1e-9 <= gap < step - 1e-9 for gap in gaps]),
    ]
    shares = sorted((100 * k / n for k in range(n + 1)), key=lambda share: (abs(share - percent), share))[:2]
    return {
        "attainable": bool(counts),
        "counts": ", ".join(str(k) for k in counts),
        "how": " or ".join(way for way, fits in ways if any(fits)),
        "nearest": ", ".join(f"{share:.1f}" for share in shares),
    }


def audit_table(path: str | Path) -> pd.DataFrame:
    """Return, for a CSV file with the columns label, percent and n, whether each percentage can be k of n.

    Columns label, percent, n, attainable, counts, how, nearest. The decimals of `percent` are those written in the
    file. Raises ManifestError naming row and column.
    """
    path = Path(path)
    cells = read_cells(path, RULES)
    check_values(cells, RULES, path.name)
    rows = []
    for label, text, size in zip(cells["label"], cells["percent"], cells["n"], strict=True):
        percent, n = float(text), int(float(size))
        rows.append({"label": label, "percent": percent, "n": n, **audit_cell(percent, n, len(text.partition(".")[2]))})
    return pd.DataFrame(rows)


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
    printed_bound, standard_error, low, high, pairs (the printed bound in case pairs).
    """
    values = pd.read_csv(DATA / "claims.csv", dtype=str).set_index("claim_id")["value"]
    places = {"B": (20, 20), "C": (12, 9)}
    table_1 = {"2D": ("C060", "C062"), "3D": ("C064", "C066"), "3D*": ("C068", "C070")}
    rows = []
    for model, claims in table_1.items():
        for (hospital, sizes), claim in zip(places.items(), claims, strict=True):
            bound = values[f"C{int(claim[1:]) + 1:03d}"]
            rows.append(_printed_auc(f"{model} {hospital}", float(values[claim]), sizes, bound))
    inside, bound = float(values["C095"]), values["C096"]
    rows.append(_printed_auc("CV mean, pooled A", inside, (83, 83), bound))
    rows.append(_printed_auc("CV one fold", inside, (8, 8), bound))
    return pd.DataFrame(rows)


def _printed_auc(name: str, value: float, sizes: tuple[int, int], bound: str) -> dict[str, Any]:
    error = hanley_mcneil_standard_error(value, *sizes)
    found = hanley_mcneil_interval(value, *sizes)
    printed = float(bound.strip("+/- "))
    return {
        "row": name,
        "auc": value,
        "positives": sizes[0],
        "negatives": sizes[1],
        "printed_bound": printed,
        "standard_error": error,
        "low": found.low,
        "high": found.high,
        "pairs": printed * sizes[0] * sizes[1],
    }
