"""What printed numbers can and cannot be: percentages of n cases, and the paper's own numbers from its own counts."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from covid3d.chapters.reader_comparison import published_table_2
from covid3d.run.files import read_json
from covid3d.run.profile import DATA
from covid3d.run.tables import Rule, check_values, matching, read_cells, whole, within
from covid3d.stats.auc import hanley_mcneil_interval, hanley_mcneil_standard_error, pool_inverse_variance
from covid3d.stats.proportions import attainable, mcnemar_exact
from covid3d.stats.survival import log_rank

RULES = {
    "label": matching(r"(?s).+", "the name of the printed number", blank=False),
    "percent": Rule(within(0, 100), "a percentage from 0 to 100, with the decimals printed", blank=False),
    "n": whole(1, 10_000_000, "the number of cases", blank=False),
}
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.9)
LOG_RANK_P = {"two scans": 5.3e-5, "one scan": 0.0033, "age and sex": 0.77}


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


def fold_spread(replicates: int = 4000, *, folds: int = 10, size: int = 8, true_auc: float = 0.92) -> dict[str, float]:
    """Return findings F3 and F10, simulated: SD of fold AUCs, how often it is <= 0.015, and the best fold's mean AUC.

    Folds of `size` + `size` cases, scores of two normals of equal variance, one fixed seed.
    """
    generator = np.random.default_rng(0)
    shift = math.sqrt(2) * stats.norm.ppf(true_auc)
    positive = generator.standard_normal((replicates, folds, size)) + shift
    negative = generator.standard_normal((replicates, folds, size))
    aucs = (positive[..., :, None] > negative[..., None, :]).mean(axis=(2, 3))
    spread = aucs.std(axis=1, ddof=1)
    return {
        "sd": float(spread.mean()),
        "p": float((spread <= 0.015).mean()),
        "emax": float(aucs.max(axis=1).mean()),
        "sd_mean": float(aucs.mean(axis=1).std(ddof=1)),
    }


def superiority(correlations: Iterable[float] = CORRELATIONS) -> pd.DataFrame:
    """Return finding F4: p of 3D - 2D at B, at C and pooled, by the unknown correlation of the two AUCs.

    Normal test with Hanley & McNeil's errors (1983); pooled by inverse variance. Columns correlation, b, c, pooled.
    """
    printed = {row["row"]: row for row in printed_aucs().to_dict("records")}
    rows = []
    for correlation in correlations:
        gaps, errors = [], []
        for hospital in ("B", "C"):
            three, two = printed[f"3D {hospital}"], printed[f"2D {hospital}"]
            a, b = float(three["standard_error"]), float(two["standard_error"])
            gaps.append(float(three["auc"]) - float(two["auc"]))
            errors.append(math.sqrt(a * a + b * b - 2 * correlation * a * b))
        b_p, c_p = (float(2 * stats.norm.sf(gap / error)) for gap, error in zip(gaps, errors, strict=True))
        rows.append((correlation, b_p, c_p, pool_inverse_variance(gaps, errors).p))
    return pd.DataFrame(rows, columns=["correlation", "b", "c", "pooled"])


def reader_gaps() -> pd.DataFrame:
    """Return finding F5: the printed gap between the two readers, and the smallest p that exact McNemar could give it.

    Columns hospital, measure, n, gap_points, cases (the gap in cases, rounded), best_p (all discordance one way).
    """
    printed = published_table_2()
    wide = printed.pivot(index=["hospital", "measure", "published_n"], columns="reader", values="published")
    rows = []
    for row in wide.reset_index().to_dict("records"):
        gap = abs(row["Rad1"] - row["Rad2"])
        cases = round(gap / 100 * row["published_n"])
        rows.append((row["hospital"], row["measure"], row["published_n"], gap, cases, mcnemar_exact(cases, 0)))
    return pd.DataFrame(rows, columns=["hospital", "measure", "n", "gap_points", "cases", "best_p"])


def log_rank_needs(p: float = LOG_RANK_P["two scans"]) -> dict[str, Any]:
    """Return finding F7: what a log-rank p needs. z, the hazard ratio by number of events, the fewest patients.

    Hazard ratio with equal groups: exp(2 z / sqrt(events)) (Schoenfeld, Biometrika 1981). Fewest patients: perfect
    separation without ties, by the chi-square statistic and by exact permutation of equal halves.
    """
    z = float(stats.norm.isf(p / 2))
    ratios = {events: math.exp(2 * z / math.sqrt(events)) for events in (10, 20, 30, 53)}
    asymptotic = next(n for n in range(4, 200) if _separated_p(n) <= p)
    exact = next(n for n in range(4, 200) if 2 / math.comb(n, n // 2) <= p)
    return {"z": z, "hazard_ratio": ratios, "min_n_asymptotic": asymptotic, "min_n_exact": exact}


def _separated_p(n: int) -> float:
    """Return the log-rank p when one half of n patients leaves entirely before the other."""
    days = np.arange(1.0, n + 1)
    return float(log_rank(days, np.ones(n, dtype=int), (days > n // 2).astype(int)).p)


def cohort_arithmetic() -> dict[str, float]:
    """Return the checks that pass: first scans, later scans, their mean a patient, slices a scan."""
    values = pd.read_csv(DATA / "claims.csv", dtype=str).set_index("claim_id")["value"]
    first = sum(int(values[claim]) for claim in ("C020", "C021", "C026", "C027", "C029"))
    scans, slices, followed_a, followed_c = (
        int(values[claim].replace(",", "")) for claim in ("C008", "C009", "C042", "C043")
    )
    later = scans - first
    return {
        "initial": first,
        "followup_scans": later,
        "mean_extra": later / (followed_a + followed_c),
        "slices_per_scan": slices / scans,
    }


def stored_audit() -> dict[str, Any]:
    """Return the stored results of the audit that the functions above are tested against."""
    return read_json(DATA / "consistency_audit.json")


def paper_audit() -> dict[str, Any]:
    """Return all that is derived from the paper's printed numbers, by finding; tables are DataFrames."""
    return {
        "cohort": cohort_arithmetic(),
        "F1": audit_published(),
        "F2": printed_aucs(),
        "F3": fold_spread(),
        "F4": superiority(),
        "F5": reader_gaps(),
        "F7": log_rank_needs(),
    }
