"""Readers beside the model: Table 2, agreement, equivalence, and the rating of the stay. Calls are 1 or 0."""

import math
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.cohort.manifest import read_manifest
from covid3d.run.errors import MissingResult
from covid3d.run.profile import DATA, Run
from covid3d.run.tables import (
    Rule,
    check_values,
    identifier,
    matching,
    one_of,
    read_cells,
    refuse,
    typed,
    whole,
    within,
)
from covid3d.stats.auc import roc, youden_threshold
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import (
    attainable,
    kappa,
    mcnemar_exact,
    paired_difference,
    tost_paired_proportions,
    wilson,
)

TASKS = ("covid", "stay_single", "stay_pair")
RULES = {
    "reader_id": identifier(),
    "scan_id": identifier(),
    "prior_scan_id": identifier(blank=True),
    "task": one_of(*TASKS, blank=False),
    "call": whole(0, 1, "1 (COVID+, or a long stay) or 0", blank=False),
    "confidence": Rule(within(0, 1), "a number from 0 to 1, empty when not asked", "Float64"),
    "order": whole(0, 1_000_000, "the position in the reader's list"),
    "read_at": matching(r"(?s).*", "text"),
}
MODEL = "COVID3D"
YOUDEN, HALF = f"{MODEL}, Youden threshold of A", f"{MODEL}, probability 0.5"
MEASURES = {"sensitivity": 1, "specificity": 0}
LONG_STAY_DAYS = 9.0


# --- the calls -------------------------------------------------------------------------------------------------------


def read_readers(source: Run | str | Path) -> pd.DataFrame:
    """Read and check reader_study.csv, of a run or by its path.

    Returns reader_id, scan_id, prior_scan_id ("" when blank), task, call (Int64), confidence, order, read_at; no row
    for a run without a reader study. Of a run, scans and priors must be the manifest's, and a prior an earlier scan of
    the same patient. Raises ManifestError naming file, row, column and cure.
    """
    path = source.path("reader_study.csv") if isinstance(source, Run) else Path(source)
    if isinstance(source, Run) and not path.is_file():
        return typed(pd.DataFrame(columns=list(RULES), dtype=str), RULES)
    cells = read_cells(path, RULES)
    check_values(cells, RULES, path.name)
    _check_readings(cells, path.name)
    if isinstance(source, Run):
        _check_scans(cells, read_manifest(source.manifest), path.name)
    return typed(cells, RULES)


def _check_readings(cells: pd.DataFrame, file: str) -> None:
    """Refuse a scan read twice by one reader for one task, and priors where they do not belong."""
    seen: dict[tuple[str, str, str], Any] = {}
    for row, reader, scan, task in zip(cells.index, cells["reader_id"], cells["scan_id"], cells["task"], strict=True):
        line = seen.setdefault((reader, scan, task), row)
        if line != row:
            what = f"reader '{reader}' has already called scan '{scan}' for task '{task}' in row {line}"
            refuse(file, row, "scan_id", what, "Keep one call a reader, scan and task")
    for row, task, prior in zip(cells.index, cells["task"], cells["prior_scan_id"], strict=True):
        if (task == "stay_pair") != (prior != ""):
            what = f"task '{task}' {'needs a prior scan' if task == 'stay_pair' else 'has a prior scan'}"
            refuse(file, row, "prior_scan_id", what, "Name the prior scan for stay_pair, leave it empty otherwise")


def _check_scans(cells: pd.DataFrame, manifest: pd.DataFrame, file: str) -> None:
    """Refuse scans that the manifest lacks, and priors that are no earlier scan of the same patient."""
    known = manifest.set_index("scan_id")
    for column in ("scan_id", "prior_scan_id"):
        for row, scan in zip(cells.index, cells[column], strict=True):
            if scan and scan not in known.index:
                refuse(file, row, column, f"scan '{scan}' is not in the manifest", "Use scan_ids of the manifest")
    for row, scan, prior in zip(cells.index, cells["scan_id"], cells["prior_scan_id"], strict=True):
        if prior:
            now, before = known.loc[scan], known.loc[prior]
            if now["patient_id"] != before["patient_id"] or before["scan_index"] >= now["scan_index"]:
                what = f"'{prior}' is no earlier scan of the patient of '{scan}'"
                refuse(file, row, "prior_scan_id", what, "Name a scan of the same patient with a lower scan_index")


def model_thresholds(validation: pd.DataFrame) -> dict[str, float]:
    """Return the model's operating thresholds (logit) by name, fixed on A's validation scans: label, logit.

    Youden's threshold is NaN when they are of one class; no call is made with it.
    """
    return {YOUDEN: youden_threshold(validation["label"], validation["logit"]), HALF: 0.0}


def reader_calls(readers: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """Return the readers' COVID+ calls on first scans: reader, kind, hospital, scan_id, label, call."""
    calls = readers[readers["task"] == "covid"].merge(first[["scan_id", "hospital", "label"]], on="scan_id")
    return _calls(calls.assign(reader=calls["reader_id"], kind="reader"))


def model_calls(predictions: pd.DataFrame, thresholds: dict[str, float]) -> pd.DataFrame:
    """Return the model's calls (logit >= threshold) for each named threshold: columns of `reader_calls`."""
    parts = [
        predictions.assign(reader=name, kind="model", call=(predictions["logit"] >= cut).astype(int))
        for name, cut in thresholds.items()
        if math.isfinite(cut)
    ]
    return _calls(pd.concat(parts, ignore_index=True))


def _calls(table: pd.DataFrame) -> pd.DataFrame:
    return table[["reader", "kind", "hospital", "scan_id", "label", "call"]].astype({"label": int, "call": int})


# --- Table 2 ---------------------------------------------------------------------------------------------------------


def operating_table(calls: pd.DataFrame) -> pd.DataFrame:
    """Return sensitivity and specificity of each rater at each hospital, with k, n and the Wilson interval (1927).

    calls: of `reader_calls` and `model_calls`. Columns reader, kind, hospital, measure, k, n, value, low, high (shares).
    """
    rows = []
    for (reader, hospital), part in calls.groupby(["reader", "hospital"], sort=False):
        for measure, label in MEASURES.items():
            cases = part[part["label"] == label]
            k = int((cases["call"] == label).sum())
            found = wilson(k, len(cases))
            rows.append(
                (reader, part["kind"].iloc[0], hospital, measure, k, len(cases), found.value, found.low, found.high)
            )
    columns = ["reader", "kind", "hospital", "measure", "k", "n", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def published_table_2() -> pd.DataFrame:
    """Return the printed percentages of Table 2: claim_id, reader (Rad1, Rad2, COVID3D), hospital, measure, percent, n."""
    claims = pd.read_csv(DATA / "claims.csv", dtype=str)
    rows = []
    for claim in claims[(claims["section"] == "Table 2") & (claims["unit"] == "%")].itertuples():
        found = re.fullmatch(r"(Radiologist (\d)|COVID3D) (sensitivity|specificity) at (\w)", str(claim.text))
        if found:
            reader = f"Rad{found[2]}" if found[2] else MODEL
            rows.append((claim.claim_id, reader, found[4], found[3], float(str(claim.value)), int(str(claim.n_basis))))
    return pd.DataFrame(rows, columns=["claim_id", "reader", "hospital", "measure", "published", "published_n"])


def beside_published(table: pd.DataFrame) -> pd.DataFrame:
    """Add to `operating_table` what the paper printed for the same cell, and whether that can be k of its n.

    New columns: percent, claim_id, published, published_n, attainable (True, False, or missing where nothing is
    printed). Readers in order of their ids stand beside Rad1 and Rad2; the model at either threshold beside COVID3D.
    """
    ids = sorted(table.loc[table["kind"] == "reader", "reader"].unique())
    names = {reader: f"Rad{position}" for position, reader in enumerate(ids, start=1)}
    printed = published_table_2().rename(columns={"reader": "name"})
    table = table.assign(name=table["reader"].map(names).fillna(MODEL), percent=100 * table["value"])
    table = table.merge(printed, on=["name", "hospital", "measure"], how="left").drop(columns="name")
    fits = [
        bool(attainable(percent, int(n))) if pd.notna(percent) else None
        for percent, n in zip(table["published"], table["published_n"], strict=True)
    ]
    return table.assign(attainable=pd.array(fits, dtype="boolean"), published_n=table["published_n"].astype("Int64"))


def read_offs(table: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the model's sensitivity on each hospital's own ROC curve at each reader's specificity.

    A description of that curve, not an operating point: its threshold is chosen on the cases it is measured on.
    Columns reader, hospital, reader_specificity, reader_sensitivity, model_sensitivity, label ("descriptive").
    """
    rows = []
    shares = table[table["kind"] == "reader"].pivot(index=["reader", "hospital"], columns="measure", values="value")
    for share in shares.reset_index().to_dict("records"):
        hospital, wanted = share["hospital"], share["specificity"]
        cases = predictions[predictions["hospital"] == hospital]
        if cases["label"].nunique() == 2:
            _, sensitivity, specificity = roc(cases["label"], cases["logit"])
            best = float(sensitivity[specificity >= wanted - 1e-9].max())
            rows.append((share["reader"], hospital, wanted, share["sensitivity"], best, "descriptive"))
    columns = ["reader", "hospital", "reader_specificity", "reader_sensitivity", "model_sensitivity", "label"]
    return pd.DataFrame(rows, columns=columns)


# --- agreement and equivalence ---------------------------------------------------------------------------------------


def agreement_table(calls: pd.DataFrame) -> pd.DataFrame:
    """Return how far each two readers agree, by hospital: all cases, COVID+ cases (sensitivity), COVID- (specificity).

    Columns reader_a, reader_b, hospital, cases, n, agree, kappa, low, high, only_a, only_b (calls of 1), p (exact
    McNemar), gap_points: |difference of the shares called 1| in points, for one class |Rad1 - Rad2| of Table 2.
    """
    rows = []
    read = calls[calls["kind"] == "reader"]
    for a, b in combinations(sorted(read["reader"].unique()), 2):
        both = _paired(read, a, b)
        for hospital, part in both.groupby("hospital"):
            for cases, inside in (
                ("all", part),
                ("COVID+", part[part["label"] == 1]),
                ("COVID-", part[part["label"] == 0]),
            ):
                if len(inside):
                    rows.append((a, b, hospital, cases, *_agreement(inside["call_a"], inside["call_b"])))
    columns = [
        "reader_a",
        "reader_b",
        "hospital",
        "cases",
        "n",
        "agree",
        "kappa",
        "low",
        "high",
        "only_a",
        "only_b",
        "p",
    ]
    return pd.DataFrame(rows, columns=[*columns, "gap_points"])


def _paired(calls: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Return the cases that two raters have both called: scan_id, hospital, label, call_a, call_b."""
    left, right = (calls[calls["reader"] == name] for name in (a, b))
    return left.merge(right[["scan_id", "call"]], on="scan_id", suffixes=("_a", "_b"))


def _agreement(a: pd.Series, b: pd.Series) -> tuple[float, ...]:
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    found = kappa(a, b)
    gap = 100 * abs(only_a - only_b) / len(a)
    share = float((a == b).mean())
    return len(a), share, found.value, found.low, found.high, only_a, only_b, mcnemar_exact(only_a, only_b), gap


def equivalence_table(calls: pd.DataFrame, margin_points: float, model: str = YOUDEN) -> pd.DataFrame:
    """Return model minus reader in points, for sensitivity and specificity at each hospital, tested against a margin.

    Two one-sided score tests of paired shares (Schuirmann 1987; Tango 1998). Columns comparison, reader, hospital,
    measure, n, difference, low, high (90 % interval), low_95, high_95, p, equivalent, best_p (p of perfect agreement).
    """
    rows = []
    for reader in sorted(calls.loc[calls["kind"] == "reader", "reader"].unique()):
        for hospital, part in _paired(calls, model, reader).groupby("hospital"):
            for measure, label in MEASURES.items():
                cases = part[part["label"] == label]
                if cases.empty:
                    continue
                right, other = cases["call_a"] == label, cases["call_b"] == label
                only_model, only_reader = int((right & ~other).sum()), int((other & ~right).sum())
                found = tost_paired_proportions(only_model, only_reader, len(cases), margin_points / 100)
                name = f"{measure} at {hospital}, {MODEL} - {reader}"
                wide, narrow = _points(found.difference), _points(found.interval_90)
                rows.append((name, reader, hospital, measure, len(cases), *narrow, *wide[1:], found.p, found.equivalent,
                             found.best_p))  # fmt: skip
    columns = ["comparison", "reader", "hospital", "measure", "n", "difference", "low", "high", "low_95", "high_95"]
    return pd.DataFrame(rows, columns=[*columns, "p", "equivalent", "best_p"])


def _points(interval: Estimate) -> tuple[float, float, float]:
    return 100 * interval.value, 100 * interval.low, 100 * interval.high


def equivalence_statement(table: pd.DataFrame, margin_points: float) -> str:
    """Return in plain words what numbers of this size can show of an equivalence."""
    if table.empty:
        return "There are no paired calls, so equivalence cannot be judged."
    hopeless = sorted(set(table.loc[table["best_p"] >= 0.05, "n"].astype(int)), reverse=True)
    shown = int(table["equivalent"].sum())
    text = f"Equivalence within {margin_points:g} points is shown in {shown} of {len(table)} comparisons."
    if hopeless:
        sizes = ", ".join(str(n) for n in hopeless)
        best = float(table.loc[table["best_p"] >= 0.05, "best_p"].min())
        text += (
            f" With {sizes} cases it cannot be shown: even calls that agree on every case give p = {best:.2f} or more."
            " Not finding a difference is not finding equivalence."
        )
    return text


# --- rating the stay -------------------------------------------------------------------------------------------------


def stay_calls(readers: pd.DataFrame, manifest: pd.DataFrame, high_risk_days: float) -> pd.DataFrame:
    """Return the readers' calls on the remaining stay, where it is known.

    Columns reader, task (stay_single | stay_pair), scan_id, patient_id, hospital, days, long (days >= high_risk_days),
    call. Censored stays and stays that did not end in discharge, as far as the manifest knows, are left out.
    """
    calls = readers[readers["task"] != "covid"].merge(
        manifest[["scan_id", "patient_id", "hospital", "days_to_discharge", "censored", "outcome"]], on="scan_id"
    )
    ended = (calls["censored"].fillna(0) == 0) & calls["outcome"].isin(["discharged", ""])
    calls = calls[ended & calls["days_to_discharge"].notna()]
    days = calls["days_to_discharge"].astype(float)
    table = calls.assign(reader=calls["reader_id"], days=days, long=(days >= high_risk_days).astype(int))
    columns = ["reader", "task", "scan_id", "patient_id", "hospital", "days", "long", "call"]
    return table[columns].astype({"call": int}).reset_index(drop=True)


def stay_table(calls: pd.DataFrame, long_stay_days: float = LONG_STAY_DAYS) -> pd.DataFrame:
    """Return how often each reader rated the stay right from one scan and from two, and the errors on long stays.

    Columns reader, task, hospital, stays (all, > 9 days, <= 9 days), n, errors, error_rate, low, high (Wilson 1927).
    """
    rows = []
    for (reader, task, hospital), part in calls.groupby(["reader", "task", "hospital"]):
        beyond = part["days"] > long_stay_days
        groups = (
            ("all", part),
            (f"> {long_stay_days:g} days", part[beyond]),
            (f"<= {long_stay_days:g} days", part[~beyond]),
        )
        for stays, inside in groups:
            errors = int((inside["call"] != inside["long"]).sum())
            found = wilson(errors, len(inside))
            rows.append((reader, task, hospital, stays, len(inside), errors, found.value, found.low, found.high))
    columns = ["reader", "task", "hospital", "stays", "n", "errors", "error_rate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def stay_change_table(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what the second scan changed for each reader: right from two scans minus right from one, same cases.

    Columns reader, hospital, n, single_right, pair_right, change_points, low, high (Tango 1998), p (exact McNemar).
    """
    right = calls.assign(right=calls["call"] == calls["long"])
    wide = right.pivot(index=["reader", "hospital", "scan_id"], columns="task", values="right")
    wide = wide.reindex(columns=["stay_single", "stay_pair"]).dropna().astype(bool)
    rows = []
    for (reader, hospital), part in wide.groupby(level=["reader", "hospital"]):
        single, pair = part["stay_single"], part["stay_pair"]
        gained, lost = int((pair & ~single).sum()), int((single & ~pair).sum())
        change = _points(paired_difference(gained, lost, len(part)))
        counts = (len(part), int(single.sum()), int(pair.sum()))
        rows.append((reader, hospital, *counts, *change, mcnemar_exact(gained, lost)))
    columns = ["reader", "hospital", "n", "single_right", "pair_right", "change_points", "low", "high", "p"]
    return pd.DataFrame(rows, columns=columns)


# --- of a run --------------------------------------------------------------------------------------------------------


def thresholds(run: Run) -> dict[str, float]:
    """Return the deployed model's thresholds (logit), fixed on the validation scans of the deployed fold of A."""
    selection = _read(run, run.path("models", "task1", "selection", "selection.csv"))
    fold = int(selection.loc[selection["deployed"] == 1, "fold"].iloc[0])
    predictions = _read(run, run.model("task1", "covid3d", fold) / "predictions.csv")
    inside = predictions[(predictions["split"] == "validation") & (predictions["window"] == "nominal")]
    return model_thresholds(inside[inside["epoch"] == inside["epoch"].max()])


def external_scores(run: Run) -> pd.DataFrame:
    """Return the deployed model's scores of first scans at B and C, at the nominal window: scan_id, hospital, label, logit."""
    table = _read(run, run.path("external", "predictions.csv"))
    chosen = (table["model"] == "covid3d") & (table["split"] == "external") & (table["window"] == "nominal")
    return table.loc[chosen, ["scan_id", "hospital", "label", "logit"]].reset_index(drop=True)


def calls_of(run: Run) -> pd.DataFrame:
    """Return all COVID+ calls on the external first scans: readers, and the model at both thresholds."""
    manifest = read_manifest(run.manifest)
    of_readers = reader_calls(read_readers(run), manifest[manifest["role"] == "external"])
    return pd.concat([of_readers, model_calls(external_scores(run), thresholds(run))], ignore_index=True)


def table_2(run: Run) -> pd.DataFrame:
    """Return Table 2 of a run, readers and model at B and C, beside the printed values."""
    return beside_published(operating_table(calls_of(run)))


def read_off_table(run: Run) -> pd.DataFrame:
    """Return the descriptive read-off of the model's ROC curve at each reader's specificity."""
    return read_offs(operating_table(calls_of(run)), external_scores(run))


def agreement(run: Run) -> pd.DataFrame:
    """Return kappa, exact McNemar and the gap in points between the readers of a run."""
    return agreement_table(calls_of(run))


def equivalence(run: Run, margin_points: float | None = None) -> pd.DataFrame:
    """Return the equivalence tests model against each reader; the margin is the profile's unless given."""
    return equivalence_table(calls_of(run), margin_points or run.profile.statistics.equivalence_margin_points)


def stays(run: Run) -> pd.DataFrame:
    """Return the readers' calls on the remaining stay of a run, with the profile's limit of a long stay."""
    return stay_calls(read_readers(run), read_manifest(run.manifest), run.profile.prognosis.high_risk_days)


def _read(run: Run, path: Path) -> pd.DataFrame:
    """Read a table of another chapter."""
    if not path.is_file():
        raise MissingResult(
            f"'{path.relative_to(run.folder).as_posix()}' has not been computed",
            where=f"run '{run.name}'",
            cure=f"Run `make run RUN={run.name}`",
        )
    return pd.read_csv(path, dtype={"scan_id": str, "patient_id": str, "window": str})
