"""What readers called of the stay, from one scan and from two; tables in, tables out.

Groups of readers have the columns of `covid3d.stats.risk`, and reader_id and task (stay_single | stay_pair); a call is the group
(high), and the score (logit) is the confidence with the call's sign, or the call.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from covid3d.stats import risk
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import mcnemar_exact, paired_difference

LONG_STAY = 9.0


def scored(calls: pd.DataFrame) -> pd.DataFrame:
    """Return reader_id, task, scan_id, high and logit of the rows of a reader study (call, confidence).

    A network's score is graded, so a reader's is too: the confidence with the sign of the call. A reader who did not always
    give one is ranked by calls, of which tied ones count half in a C-index.
    """
    call, confidence = (
        calls[name].astype("Float64").to_numpy(float, na_value=np.nan) for name in ("call", "confidence")
    )
    table = calls[["reader_id", "task", "scan_id"]].assign(high=call, logit=(2 * call - 1) * confidence)
    graded = table["logit"].notna().groupby([table["reader_id"], table["task"]]).transform("all")
    return table.assign(logit=table["logit"].where(graded, table["high"]))


def separation(
    groups: pd.DataFrame,
    predictors: Mapping[str, pd.DataFrame],
    names: Mapping[str, str],
    draws: int,
    rng: Callable[..., np.random.Generator],
) -> pd.DataFrame:
    """Return `risk.separation` for each reader and number of scans, and the model's lead (C-index minus the reader's).

    predictors: the test set by task, scored by the model that sees as many scans. names: what a task shows. rng: gives a
    generator for a reader and a task.
    """
    rows = []
    for (reader, task), part in groups.groupby(["reader_id", "task"]):
        draw = rng(reader, task)
        row = {"reader": reader, "saw": names[str(task)], **risk.separation(part, draws, draw, remark="")}
        lead = risk.compare(predictors[str(task)], part, draws, draw)
        rows.append(row | {"lead of COVID3D": lead.loc["c_index", "difference"]})
    return pd.DataFrame(rows).set_index(["reader", "saw"]) if rows else pd.DataFrame()


def first(readers: pd.DataFrame) -> dict[str, Any]:
    """Return the first reader of `separation` by number: whose groups, their log-rank p, and COVID3D's lead over them.

    Readers are R1, R2 … or have the numbers that their file gives them, so that prose cannot name one.
    """
    names: list[str] = readers.index.unique("reader").tolist() if len(readers) else []
    name = min(names, key=lambda name: (len(name), name), default="nobody")

    def of(saw: str, column: str) -> Any:
        known = len(readers) and (name, saw) in readers.index
        return readers.at[(name, saw), column] if known else Estimate.missing("nobody read so")

    wanted = (("two scans", "log-rank p"), ("two scans", "lead of COVID3D"), ("one scan", "lead of COVID3D"))
    return {"reader": name, **{f"{saw}, {column}": of(saw, column) for saw, column in wanted}}


def errors(groups: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the wrong groups among stays longer than nine days and among the others, by reader and number of scans."""
    rows = [
        {"reader": reader, "saw": names[str(task)], **long_stays(part, LONG_STAY)}
        for (reader, task), part in groups.groupby(["reader_id", "task"])
    ]
    return pd.DataFrame(rows).set_index(["reader", "saw"]) if rows else pd.DataFrame()


def together(groups: pd.DataFrame, errors: pd.DataFrame, gain: pd.DataFrame) -> dict[str, Any]:
    """Return the readers together: ratings a case, errors in long stays and in others, and the mean gain of a second scan."""
    none = Estimate.missing("no reader's call of a known stay")
    wrong = {
        side: Estimate(int(errors[f"wrong in {side}"].sum()), remark=f"of {errors[side].sum()} ratings")
        if len(errors)
        else none
        for side in ("longer stays", "other stays")
    }
    return {
        "ratings a case": int(groups["task"].nunique()),
        f"wrong in stays longer than {LONG_STAY:g} days": wrong["longer stays"],
        "wrong in other stays": wrong["other stays"],
        "mean gain of a second scan": Estimate(float(gain["gain"].map(float).mean())) if len(gain) else none,
    }


def long_stays(table: pd.DataFrame, days: float) -> dict[str, Any]:
    """Return the wrong groups among stays longer than `days` (share with Wilson's interval) and among the others.

    Of a stay that is censored within `days` nobody knows on which side it is: it is on neither.
    """
    known = table[table["label"].notna() & ((table["cause"] != 0) | (table["remaining_days"] > days))]
    wrong, long = (known["high"] != known["label"]).astype(bool), known["remaining_days"] > days
    return {
        "longer stays": int(long.sum()),
        "wrong in longer stays": int(wrong[long].sum()),
        "share wrong in longer stays": risk.share(int(wrong[long].sum()), int(long.sum())),
        "other stays": int((~long).sum()),
        "wrong in other stays": int(wrong[~long].sum()),
    }


def gain(groups: pd.DataFrame) -> pd.DataFrame:
    """Return how many more patients a reader gets right with two scans than with one, one row a reader.

    groups: reader_id, task (stay_single | stay_pair), scan_id, high, label. The gain is the difference of accuracy with
    Tango's score interval; its p is the exact one of McNemar.
    """
    known, rows = groups[groups["label"].notna()], []
    for reader, part in known.assign(right=known["high"] == known["label"]).groupby("reader_id"):
        wide = part.pivot(index="scan_id", columns="task", values="right").reindex(columns=["stay_pair", "stay_single"])
        wide = wide.dropna().astype(bool)
        pair, single = wide["stay_pair"], wide["stay_single"]
        two, one = int((pair & ~single).sum()), int((single & ~pair).sum())
        if len(wide):
            rows.append((reader, len(wide), two, one, paired_difference(two, one, len(wide)), mcnemar_exact(two, one)))
    columns = ["reader", "patients", "right with two scans only", "right with one only", "gain", "McNemar p"]
    return pd.DataFrame(rows, columns=columns).set_index("reader")
