"""What the simulator puts in: the course that the paper describes, and how much of the stay a scan can tell at best.

`python -m benchmarks.phantom_truth` (about 1 min) writes benchmarks/results/phantom_course.csv, the embedded cohort's true course
beside what the paper says of its patients (claims C106 to C114), and phantom_prognosis.csv: the stay foretold from true burden
and density of one scan or two, in 343 followed patients, for each `phase_visible`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import campaigns, null_world
from benchmarks.null_world import FOLDS, order_form, shown
from covid3d.chapters.fine_tuning import pairs_of
from covid3d.cohort.folds import make_folds
from covid3d.cohort.manifest import read_manifest
from covid3d.phantom.course import CLEARED
from covid3d.phantom.order_form import FIGURE_4_AGE, FIGURE_4_DAYS, LATE_DAYS, SEED, course_of
from covid3d.report.claims import load_claims
from covid3d.run.files import random_seed
from covid3d.run.profile import DATA, load_profile
from covid3d.stats import risk
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import wilson
from covid3d.stats.survival import permuted_log_rank, permuted_logits, permuted_orders, principal_components

PROGNOSIS, COURSE = "phantom_prognosis", "phantom_course"
MADE_BY = ("covid3d.phantom.build", "covid3d.chapters.fine_tuning", null_world.__file__, __file__)
FORMS, PHASES = 7, (0.0, 0.5, 1.0)
PERMUTATIONS = 999
TRUTH = ("burden", "ground_glass", "contrast_hu")
BOTH = (*TRUTH, *(f"prior_{name}" for name in TRUTH))
PREDICTORS = {
    "burden of one scan": ("burden",),
    "burden of two scans": ("burden", "prior_burden"),
    "one scan": TRUTH,
    "two scans": BOTH,
    "two scans and interval": (*BOTH, "interval_days"),
    "schedule": ("day", "interval_days"),
    "age and sex": ("age", "female"),
}
GAINS = (("burden of two scans", "burden of one scan"), ("two scans", "one scan"))


# --- the stay, from the truth ----------------------------------------------------------------------------------------


def followed(phase_visible: float, forms: int = FORMS) -> pd.DataFrame:
    """Return the pairs of A's followed patients of several order forms, with the truth of both scans.

    Columns of `pairs_of`, female (0 | 1), and burden, ground_glass, contrast_hu of the index scan and, with `prior_`, of the
    one before; burden on a log scale.
    """
    limit, parts = load_profile("standard").prognosis.high_risk_days, []
    for number in range(1, forms + 1):
        table, courses = order_form(number)
        seen = shown(table, courses, "effect", number, phase_visible)[list(TRUTH)]
        seen["burden"] = np.log(seen["burden"])
        pairs = pairs_of(table, make_folds(table, FOLDS, number), limit).query("scan_index == 1 and test == 1")
        pairs = pairs.assign(female=(pairs["sex"] == "F").astype(float))
        prior = seen.loc[pairs["prior_scan_id"]].add_prefix("prior_").set_index(pairs.index)
        known = pd.concat([pairs, seen.loc[pairs["scan_id"]].set_index(pairs.index), prior], axis=1)
        for name in ("scan_id", "patient_id"):
            known[name] = f"{number}-" + known[name]
        parts.append(known)
    return pd.concat(parts, ignore_index=True)


def refitted(table: pd.DataFrame, columns: tuple[str, ...], orders: np.ndarray) -> np.ndarray:
    """Return out-of-fold logits (P, N) of ridge logistic regressions on columns, by the folds of the pairs, for each order."""
    held, values = table["fold"].to_numpy(int), table[list(columns)].to_numpy(float)
    inputs = [principal_components(values, held != fold, len(columns)) for fold in range(FOLDS)]
    return permuted_logits(inputs, held, table["label"].to_numpy(float), orders)


def foretold(phase_visible: float, forms: int = FORMS, draws: int = 2000) -> pd.DataFrame:
    """Return one row a predictor: predictor, patients, high_share, auc, c_index, hazard_ratio, their limits, and p.

    p: of the log-rank by permutation. The last rows are the gains of two scans over one, paired; p is the AUC's.
    """
    table = followed(phase_visible, forms)
    table = table[table["label"].notna()].reset_index(drop=True)
    orders = permuted_orders(len(table), PERMUTATIONS, np.random.default_rng(random_seed("truth", "orders")))
    logits = {name: refitted(table, columns, orders) for name, columns in PREDICTORS.items()}
    return separations(table, logits, orders, GAINS, draws, "truth")


def separations(
    table: pd.DataFrame,
    logits: dict[str, np.ndarray],
    orders: np.ndarray,
    gains: Sequence[tuple[str, str]],
    draws: int,
    stream: str,
) -> pd.DataFrame:
    """Return how well predictors tell the stay, and how much better the first of each of `gains` does than the second.

    table: patients with known outcomes; logits: by predictor, out of fold, (P, N), refitted to the outcomes in each of `orders`.
    """
    days, event = (table[name].to_numpy(float) for name in ("remaining_days", "event"))
    rows = []
    scored = {name: table.assign(logit=found[0], high=(found[0] >= 0).astype(float)) for name, found in logits.items()}
    names = {"AUC": "auc", "C-index": "c", "hazard ratio": "hazard"}
    for name, part in scored.items():
        found = risk.separation(part, draws, np.random.default_rng(random_seed(stream, name)))
        row: dict[str, Any] = {
            "predictor": name,
            "patients": len(table),
            "high_share": float((table["label"] == 1).mean()),
            "p": permuted_log_rank(logits[name], orders, days, event).p,
        }
        for word, short in names.items():
            row |= _limits(found[word], short)
        rows.append(row)
    for two, one in gains:
        gain = risk.compare(scored[two], scored[one], draws, np.random.default_rng(random_seed(stream, "gain")))
        p = risk.permuted_gain(table, orders, logits[two], logits[one]).loc["auc", "permutation p"].value
        row = {"predictor": f"{two} - {one}", "patients": len(table), "p": p}
        gains = gain["difference"]
        rows.append(row | _limits(gains["auc"], "auc") | _limits(gains["c_index"], "c"))
    return pd.DataFrame(rows)


def _limits(found: Estimate, short: str) -> dict[str, float]:
    """Return an estimate as three columns of the table."""
    name = {"c": "c_index", "hazard": "hazard_ratio"}.get(short, short)
    return {name: found.value, f"{short}_low": found.low, f"{short}_high": found.high}


# --- the true course -------------------------------------------------------------------------------------------------


def true_course() -> pd.DataFrame:
    """Return the embedded cohort's true course: claim, paper, quantity, k, n, value, low, high, wanted, verdict.

    low and high: Wilson's limits of a share, the quartiles of a median. `wanted` is the protocol's range, where it has one.
    """
    form = read_manifest(DATA / "data_manifest.csv")
    patients = form.groupby("patient_id", sort=False)
    table = patients.agg(
        hospital=("hospital", "first"), age=("age", "first"), days=("day", list), scans=("day", "size")
    )
    table = table[table["scans"] > 1]
    last = form.groupby("patient_id")["days_to_discharge"].last()
    courses = {
        name: course_of(SEED, str(name), float(row.age), [int(d) for d in row.days]) for name, row in table.iterrows()
    }
    peak = pd.Series({name: course.peak for name, course in courses.items()})
    onset = pd.Series({name: course.onset_to_first for name, course in courses.items()})
    burden = pd.Series(
        {name: [c.burden(onset[name] + d) for d in table.at[name, "days"]] for name, c in courses.items()}
    )
    scans = form[form["patient_id"].isin(table.index) & (form["censored"] != 1)]
    stay = {index: part["days_to_discharge"].astype(float) for index, part in scans.groupby("scan_index")}
    late = (last[table.index] <= LATE_DAYS)[form.groupby("patient_id")["censored"].first()[table.index] != 1]
    week = pd.Series({name: _highest(table.at[name, "days"], burden[name], 7, 10) for name in table.index}).dropna()
    seen_peak = pd.Series({name: table.at[name, "days"][int(np.argmax(burden[name]))] for name in table.index})
    case = table[(table["age"] == FIGURE_4_AGE) & (table["days"].map(lambda d: tuple(map(int, d))) == FIGURE_4_DAYS)]
    censored = form[(form["hospital"] == "C") & (form["censored"] == 1)]["patient_id"]
    first_burden, last_burden = burden.map(lambda b: b[0]), burden.map(lambda b: b[-1])
    discharge = last[table.index] + table["days"].map(lambda d: d[-1])
    without_late = ~late[table.loc[late.index, "hospital"] == "A"]
    rows = [
        _count("C106", "followed patients at A", (table["hospital"] == "A").sum(), 49),
        _count("C106", "followed patients at C", (table["hospital"] == "C").sum(), 4),
        _share("C107", f"first scan shows disease (burden above {CLEARED})", first_burden > CLEARED, (0.9, 1)),
        _share(
            "C108", "burden at days 7 to 10 above that of the first scan", week > first_burden[week.index], (0.8, 1)
        ),
        _share("C109", "highest burden among the scans at days 7 to 10", seen_peak.between(7, 10)),
        _median("C109", "true peak, days after the first scan", peak - onset, (7, 10)),
        _share("C110", "true peak 10 to 15 days after onset", peak.between(10, 15), (1, 1)),
        _median("C110", "true peak, days after onset", peak, (10, 15)),
        _share("C111", f"last scan within {LATE_DAYS} days of discharge", late),
        _share("C111", f"burden below {CLEARED} at a late last scan", last_burden[late[late].index] < CLEARED),
        _median("C112", "true peak, days before discharge", discharge - (peak - onset), None),
        _count("C113", "scans of the followed patients", int(table["scans"].sum()), 53 + 170),
        _count(
            "C114",
            f"patients of A without a scan within {LATE_DAYS} days of discharge",
            without_late.sum(),
            4,
        ),
        _median("", "stay after any scan of a followed patient", pd.concat(stay.values()), (6, 8)),
        _median("", "stay after the first scan", stay[0], None),
        _share("", "stay after the first scan above 7 days", stay[0] > 7, (0.8, 1)),
        _median("", "stay after the index scan", stay[1], None),
        _share("", "stay after the index scan of 7 days or more", stay[1] >= 7, (0.35, 0.65)),
        _count("", "patients of Figure 4 (24 years, 5 scans)", len(case), 1),
        _count("", "its discharge, days after the first scan", discharge[case.index].sum(), 12),
        _count("", "its true peak, days after the first scan", (peak - onset)[case.index].sum(), 6),
        _count("", "censored patients at C", censored.nunique(), 1),
    ]
    claims = load_claims().set_index("claim_id")["text"]
    return pd.DataFrame(rows).assign(paper=lambda found: found["claim"].map(claims).fillna(""))


def _highest(days: list[float], burdens: list[float], first: int, last: int) -> float:
    """Return the highest burden of the scans in a span of days, NaN without one."""
    return max((b for day, b in zip(days, burdens, strict=True) if first <= day <= last), default=np.nan)


def _share(claim: str, quantity: str, true: pd.Series, wanted: tuple[float, float] | None = None) -> dict[str, Any]:
    k, n = int(true.sum()), len(true)
    share = wilson(k, n)
    row = {
        "claim": claim,
        "quantity": quantity,
        "k": k,
        "n": n,
        "value": share.value,
        "low": share.low,
        "high": share.high,
    }
    return row | _verdict(share.value, wanted)


def _median(claim: str, quantity: str, values: pd.Series, wanted: tuple[float, float] | None) -> dict[str, Any]:
    low, middle, high = np.quantile(values.astype(float), [0.25, 0.5, 0.75])
    quantity = f"{quantity}: median, quartiles"
    row = {
        "claim": claim,
        "quantity": quantity,
        "n": len(values),
        "value": middle,
        "low": low,
        "high": high,
    }
    return row | _verdict(middle, wanted)


def _count(claim: str, quantity: str, found: float, wanted: float) -> dict[str, Any]:
    return {"claim": claim, "quantity": quantity, "value": float(found), **_verdict(float(found), (wanted, wanted))}


def _verdict(value: float, wanted: tuple[float, float] | None) -> dict[str, str]:
    if wanted is None:
        return {"wanted": "", "verdict": ""}
    text = f"{wanted[0]:g}" if wanted[0] == wanted[1] else f"{wanted[0]:g} to {wanted[1]:g}"
    return {"wanted": text, "verdict": "reached" if wanted[0] - 1e-9 <= value <= wanted[1] + 1e-9 else "not reached"}


def campaign() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute both tables; return phantom_course.csv and phantom_prognosis.csv."""
    course = campaigns.write(COURSE, true_course(), MADE_BY)
    return course, campaigns.extend(PROGNOSIS, "phase_visible", PHASES, foretold, MADE_BY)


if __name__ == "__main__":
    for found in campaign():
        print(found.drop(columns=list(campaigns.STAMP)).to_string(index=False))
