"""Who is followed and for how long: the label of high risk, the remaining stay, and how the stays ended; tables in, numbers out.

A table has one row a pair of scans with patient_id, scan_index, interval_days, remaining_days, event (1 = discharged alive),
cause (0 censored, 1 discharged alive, 2 died), label and label_strict (1 = high risk, NA = unknown), outcome, ventilated.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray
from scipy.special import expit

from covid3d.stats.cut_offs import BestCut
from covid3d.stats.estimate import Estimate

Floats = NDArray[np.float64]


def by_rule(table: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Return how many are of high risk by "`limit` days or longer" and by "longer than `limit`", and how the stays ended."""
    rows = []
    for rule, name in ((f"{limit:g} days or longer", "label"), (f"longer than {limit:g} days", "label_strict")):
        label = table[name]
        row = {"high risk is": rule, "patients": len(table), "high risk": int((label == 1).sum())}
        row |= {"low risk": int((label == 0).sum()), "unknown": int(label.isna().sum())}
        ends = ((1, "discharged"), (0, "censored"), (2, "died"))
        rows.append(row | {name: int((table["cause"] == cause).sum()) for cause, name in ends})
    return pd.DataFrame(rows).set_index("high risk is")


def as_defined(pairs: pd.DataFrame, limit: float) -> dict[str, Any]:
    """Return the remaining stay over all pairs and over index scans, and whether it and its label are as defined.

    Medians are those of stays that were seen to end in a discharge, and so are the scans at exactly the limit.
    """
    left = pairs[pairs["event"] == 1]
    agrees = (left["label"] == (left["remaining_days"] >= limit).astype("Int64")).fillna(False).all()
    steps_taken = pairs.groupby("patient_id")[["scan_index", "remaining_days"]].diff().dropna()
    change = steps_taken.loc[steps_taken["scan_index"] == 1, "remaining_days"]
    change = (change + pairs.loc[change.index, "interval_days"]).dropna()
    nobody, nothing = Estimate.missing("nobody was discharged"), Estimate.missing("nobody has three scans with a day")
    return {
        "scans at exactly the limit": int((left["remaining_days"] == limit).sum()),
        "median over scans": _median_days(left),
        "median over patients": _median_days(left[left["scan_index"] == 1]),
        "high risk is the limit or longer": bool(agrees) if len(left) else nobody,
        "falls by the days between scans": bool((change.abs() < 1e-6).all()) if len(change) else nothing,
    }


def _median_days(left: pd.DataFrame) -> Estimate:
    """Return the median of the remaining stays, in days."""
    return (
        Estimate(float(left["remaining_days"].median()), unit="days") if len(left) else Estimate.missing("nobody left")
    )


def who(table: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """Return the size of the test set, censored and ventilated patients, and how much longer the worst stayed."""
    severe = (table["ventilated"] == 1) | (table["outcome"] == "died")
    gap = table.loc[severe, "remaining_days"].mean() - table.loc[~severe, "remaining_days"].mean()
    longer = (
        Estimate(float(gap), unit="days")
        if gap == gap
        else Estimate.missing("nobody is known to be on one of the two sides")
    )
    nobody = Estimate.missing("nobody is in the test set")
    unknown = int(table["ventilated"].isna().sum())
    return {
        "in the test set": len(test),
        "censored": int(censored(table).sum()),
        "no censored stay in the test set": bool((test["cause"] != 0).all()) if len(test) else nobody,
        "ventilated": int(table["ventilated"].sum())
        if unknown < len(table)
        else Estimate.missing("not known of anybody"),
        "not known whether ventilated": unknown,
        "longer stay if ventilated or dead": longer,
    }


def unpaired(scans: pd.DataFrame, pairs: pd.DataFrame) -> int:
    """Return how many COVID+ patients of hospital A have no pair of first and second scan, controls and rescans left out.

    scans: the accepted rows of a manifest. Who has one scan, or whose first or second scan was refused.
    """
    mine = scans[(scans["hospital"] == "A") & (scans["label"] == 1) & scans["role"].isin(["development", "followup"])]
    return len(set(mine["patient_id"]) - set(pairs.loc[pairs["scan_index"] == 1, "patient_id"]))


def censored(table: pd.DataFrame) -> pd.Series:
    """Return whose stay was not seen to its end, a transfer included, bool; who has no day at all only where they are said to."""
    return (table["cause"] == 0) & (table["remaining_days"].notna() | (table["censored"] == 1))


def left_out(table: pd.DataFrame, alone: int, predictors: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how many patients cannot be judged, one row a reason; and how many share their stay with another patient.

    table: the index pairs, with fold (-1 outside A) and test. alone: patients without such a pair. predictors: the test set with
    the logit of each.
    """
    mine, test = table[table["fold"] >= 0], table[table["test"] == 1]
    missing = [set(found.loc[~np.isfinite(found["logit"].astype(float)), "scan_id"]) for found in predictors.values()]
    counts = {
        "without a first and a second scan": alone,
        "no known end of the stay": int(mine["remaining_days"].isna().sum()),
        "censored before the limit: risk unknown": int((test["label"].isna()).sum()),
        "without a score of some predictor": len(set().union(*missing)),
        "another hospital: no fold holds them out": int((table["fold"] < 0).sum()),
        "in the test set, a stay as long as another's": int(test["remaining_days"].duplicated(keep=False).sum()),
    }
    return pd.DataFrame({"patients": counts}).rename_axis("what")


def outside(table: pd.DataFrame, scores: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the patients of a table of pairs, one row each: mean, lowest and highest probability over the folds' networks.

    scores: model, scan_id, probability. names: a model's name for a reader.
    """
    rows = []
    for patient in table.assign(censored=censored(table)).to_dict("records"):
        row = {"patient": patient["patient_id"], "hospital": patient["hospital"], "stay": patient["remaining_days"]}
        row |= {"high risk": patient["label"], "censored": int(patient["censored"])}
        for model, name in names.items():
            mine = (scores["scan_id"] == patient["scan_id"]) & (scores["model"] == model)
            values = scores.loc[mine, "probability"]
            row |= {f"{name}, mean": values.mean(), f"{name}, lowest": values.min(), f"{name}, highest": values.max()}
        rows.append(row)
    return pd.DataFrame(rows)


def at_cut(cut: BestCut, scores: Floats, days: Floats, events: Floats) -> dict[str, Any]:
    """Return the best cut-off of logits (N,) in words: how many were tried, the cut-off as a probability, both sides, the test.

    The stay of a side is the first day on which its Kaplan-Meier curve is at one half or below.
    """
    found: dict[str, Any] = {"cut-offs": cut.cuts, "leave later": cut.later}
    found["best cut-off"] = float(expit(scores[cut.above].min())) if cut.cuts else Estimate.missing("no cut-off")
    for side, name, which in (("at or above", "stay above", cut.above), ("below", "stay below", ~cut.above)):
        found |= {side: int(which.sum()) if cut.cuts else 0, name: Estimate.missing("no cut-off")}
        if cut.cuts:
            median = KaplanMeierFitter().fit(days[which], events[which]).median_survival_time_
            known = np.isfinite(median)
            found[name] = Estimate(median, unit="days") if known else Estimate.missing("most are still there")
    return found | {"chi-square": cut.chi_square, "uncorrected p": cut.uncorrected}
