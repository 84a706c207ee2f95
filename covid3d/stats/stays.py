"""Who is followed and for how long: the label of high risk, the remaining stay, and how the stays ended; tables in, numbers out.

A table has one row a pair of scans with patient_id, scan_index, interval_days, remaining_days, event (1 = discharged alive),
cause (0 censored, 1 discharged alive, 2 died), label and label_strict (1 = high risk, NA = unknown), outcome, ventilated.
"""

from typing import Any

import pandas as pd

from covid3d.stats.estimate import Estimate


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
    """Return the remaining stay over all pairs and over index scans, and whether it and its label are as defined."""
    days, left = pairs["remaining_days"], pairs[pairs["event"] == 1]
    agrees = (left["label"] == (left["remaining_days"] >= limit).astype("Int64")).fillna(False).all()
    steps_taken = pairs.groupby("patient_id")[["scan_index", "remaining_days"]].diff().dropna()
    change = steps_taken.loc[steps_taken["scan_index"] == 1, "remaining_days"]
    falls = ((change + pairs.loc[change.index, "interval_days"]).abs() < 1e-6).all()
    nobody, nothing = Estimate.missing("nobody was discharged"), Estimate.missing("nobody has three scans")
    return {
        "scans at exactly the limit": int((days == limit).sum()),
        "median over scans": Estimate(float(days.median()), unit="days"),
        "median over patients": Estimate(float(days[pairs["scan_index"] == 1].median()), unit="days"),
        "high risk is the limit or longer": bool(agrees) if len(left) else nobody,
        "falls by the days between scans": bool(falls) if len(change) else nothing,
    }


def who(table: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """Return the size of the test set, censored and ventilated patients, and how much longer the worst stayed."""
    severe = (table["ventilated"] == 1) | (table["outcome"] == "died")
    gap = table.loc[severe, "remaining_days"].mean() - table.loc[~severe, "remaining_days"].mean()
    longer = Estimate(float(gap), unit="days") if gap == gap else Estimate.missing("nobody was ventilated or died")
    nobody = Estimate.missing("nobody is in the test set")
    return {
        "in the test set": len(test),
        "censored": int(table["censored"].sum()),
        "no censored stay in the test set": bool((test["cause"] != 0).all()) if len(test) else nobody,
        "ventilated": int(table["ventilated"].sum()),
        "longer stay if ventilated or dead": longer,
    }
