"""How good could anyone be, and how good is it to see no image? The perfect reader of simulated scans, and two blind models."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from covid3d.chapters.results import out_of_fold
from covid3d.chapters.truth import read_truth
from covid3d.cohort.intake import accepted, read_intake
from covid3d.network.tabular import METADATA, fit_predict, logistic
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, mean_fold_auc
from covid3d.stats.estimate import Estimate, p_value
from covid3d.stats.independent import FEWEST, unpaired_delong, welch

NO_TRUTH = "real scans have no oracle"
GROUPINGS = ("age", "sex")


def oracle(run: Run, scores: pd.DataFrame, *, sees: str = "grid") -> Estimate:
    """Return the AUC of the simulator's perfect reader on the scans of `scores` (scan_id, label).

    sees: "grid", what the network sees, or "scan", the full-size scan. Missing for real scans.
    """
    truth = read_truth(run)
    if truth is None:
        return Estimate.missing(NO_TRUTH)
    column = {"grid": "oracle_grid_logit", "scan": "oracle_logit"}[sees]
    seen = scores[["scan_id", "label"]].merge(truth[["scan_id", column]], on="scan_id")
    return auc(seen["label"], seen[column])


def skill(found: Estimate, best: Estimate) -> Estimate:
    """Return the share of the way from chance to the perfect reader: (AUC - 0.5) / (best AUC - 0.5)."""
    if not (best.known and found.known):
        return best if found.known else found
    if not best.value > 0.5:
        return Estimate.missing("the perfect reader is at chance")
    return Estimate((found.value - 0.5) / (best.value - 0.5))


def auc_at(scores: pd.DataFrame, column: str, hospital: str) -> Estimate:
    """Return the AUC of a column of one hospital's scores (label, …); a hospital that the run lacks has none."""
    return auc(scores["label"], scores[column]) if len(scores) else Estimate.missing(f"no scans of hospital {hospital}")


def by_hospital(run: Run, inside: pd.DataFrame, outside: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the AUC, the perfect reader's AUC and skill, one row a hospital: A (mean of the fold AUCs), then `outside`.

    inside: scan_id, fold, label, logit of A; outside: scan_id, label, logit of each other hospital.
    """
    found = {"A": mean_fold_auc(inside)} | {name: auc_at(part, "logit", name) for name, part in outside.items()}
    best = {name: oracle(run, part) for name, part in {"A": inside, **outside}.items()}
    rows = [(name, found[name], best[name], skill(found[name], best[name])) for name in found]
    return pd.DataFrame(rows, columns=["hospital", "AUC", "perfect reader", "skill"]).set_index("hospital")


def group_differences(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the AUC of one age, and of one sex, at A minus that of the other (`unpaired_delong`, nominal), a row each.

    scores: `Decisions.grouped`. Beside it, of simulated scans, the same of the perfect reader and of the true burden (points of
    the lung, Welch). Missing unless there are two groups, each with ten patients of each class.
    """
    truth, inside, rows = read_truth(run), scores[scores["hospital"] == "A"], []
    known = [] if truth is None else ["oracle_grid_logit", "burden_fraction"]
    if truth is not None:
        inside = inside.merge(truth[["scan_id", *known]], on="scan_id")
    for by in GROUPINGS:
        parts = [part for _, part in inside[inside[by] != "unknown"].groupby(by)]
        names = " minus ".join(str(part[by].iloc[0]) for part in parts)
        if len(parts) != 2 or min((part["label"] == label).sum() for part in parts for label in (0, 1)) < FEWEST:
            rows.append((by, names, *[Estimate.missing("too few")] * 4))
            continue
        areas = [
            unpaired_delong(*((part["label"], part[column]) for part in parts)) for column in ("logit", *known[:1])
        ]
        row = [
            areas[0].estimate.noted("nominal"),
            p_value(min(len(GROUPINGS) * areas[0].p, 1.0), "nominal, of two comparisons"),
            *(best.estimate for best in areas[1:]),
        ]
        row += [replace(welch(*(100 * part[column] for part in parts)), unit="points") for column in known[1:]]
        rows.append((by, names, *row, *[Estimate.missing(NO_TRUTH)] * (4 - len(row))))
    columns = ["by", "groups", "difference", "p", "perfect reader", "true burden"]
    return pd.DataFrame(rows, columns=columns).set_index("by")


def blind_models(run: Run) -> pd.Series:
    """Return the mean fold AUC at A of two models that see no image, in the network's folds: a Series of Estimates.

    "metadata": how the scan was made. "burden": how much disease there is, the simulator's truth; missing for real scans.
    """
    scores = out_of_fold(run)
    table = scores[["scan_id", "fold", "label"]].merge(accepted(run).drop(columns="label"), on="scan_id")
    facts = read_intake(run)
    wanted = [name for group in METADATA for name in group if name in facts and name not in table]
    table = table.merge(facts[["scan_id", *wanted]], on="scan_id", how="left")
    found = {"metadata": _logistic(table, *METADATA), "burden": Estimate.missing(NO_TRUTH)}
    truth = read_truth(run)
    if truth is not None:
        with_burden = table.merge(truth[["scan_id", "burden_ml"]], on="scan_id", how="left")
        found["burden"] = _logistic(with_burden, ("burden_ml",), ())
    return pd.Series(found, name="mean fold AUC", dtype=object)


def _logistic(table: pd.DataFrame, numbers: tuple[str, ...], categories: tuple[str, ...]) -> Estimate:
    """Return the mean fold AUC of a logistic regression in the same folds, on the columns that vary."""
    numbers = tuple(name for name in numbers if name in table and table[name].nunique() > 1)
    categories = tuple(name for name in categories if name in table and table[name].nunique() > 1)
    if not numbers and not categories:
        return Estimate.missing("no column varies")
    columns, parts = [*numbers, *categories], []
    table = table.astype(dict.fromkeys(categories, object))
    for fold, test in table.groupby("fold"):
        train = table[table["fold"] != fold]
        if train["label"].nunique() == 2:
            logit = fit_predict(logistic(numbers, categories), train[columns], train["label"], test[columns])
            parts.append(test.assign(logit=logit))
    return mean_fold_auc(pd.concat(parts)) if parts else Estimate.missing("one class only")
