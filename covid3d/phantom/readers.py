"""Two simulated readers: the oracle's evidence through noise and a criterion."""

import math
from typing import Any

import numpy as np
import pandas as pd

from covid3d.phantom.oracle import probability
from covid3d.run.files import random_seed

Known = dict[str, dict[Any, Any]]  # rows of truth.csv by scan_id
COLUMNS = ("reader_id", "scan_id", "prior_scan_id", "task", "call", "confidence", "order", "read_at")
NOISE = {"R1": 1.6, "R2": 2.6}
CRITERION = {("R1", "B"): -1.0, ("R2", "B"): 0.6, ("R1", "C"): 1.0, ("R2", "C"): 1.3}
SPREAD = 2.5  # the evidence is limited to +/- this, so that no case is beyond doubt
STAY_NOISE = {"R1": 2.2, "R2": 2.8}  # days
HIGH_RISK_DAYS = 7.0


def reader_study(table: pd.DataFrame, truth: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return simulated calls: task covid on first scans of B and C, stay_single and stay_pair on index scans."""
    known = {str(row["scan_id"]): row for row in truth.to_dict("records")}
    rows: list[dict[str, Any]] = []
    for reader in NOISE:
        rows += _covid(reader, table, known, seed)
        for task in ("stay_single", "stay_pair"):
            rows += _stay(reader, task, table, known, seed)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _covid(reader: str, table: pd.DataFrame, known: Known, seed: int) -> list[dict[str, Any]]:
    """Return one reader's calls of COVID+ on the first scans of the external hospitals."""
    scans = table[(table["hospital"] != "A") & (table["scan_index"] == 0) & table["scan_id"].isin(list(known))]
    rows = []
    for order, row in enumerate(_shuffled(scans, seed, reader, "covid"), 1):
        rng = np.random.default_rng(random_seed(seed, reader, row["scan_id"], "covid"))
        evidence = float(np.clip(known[row["scan_id"]]["oracle_logit"], -SPREAD, SPREAD)) + rng.normal(0, NOISE[reader])
        margin = evidence - CRITERION[reader, row["hospital"]]
        rows.append(_call(reader, row["scan_id"], "", "covid", margin, order))
    return rows


def _stay(reader: str, task: str, table: pd.DataFrame, known: Known, seed: int) -> list[dict[str, Any]]:
    """Return one reader's calls of a stay of 7 days or more, from burden and density alone or with the change since the prior."""
    priors = {str(row.patient_id): str(row.scan_id) for row in table[table["scan_index"] == 0].itertuples()}
    index = table[(table["scan_index"] == 1) & table["scan_id"].isin(list(known))]
    index = index[index["patient_id"].map(lambda patient: priors.get(patient) in known)]
    rows = []
    for order, row in enumerate(_shuffled(index, seed, reader, task), 1):
        scan, prior = row["scan_id"], priors[row["patient_id"]]
        rng = np.random.default_rng(random_seed(seed, reader, scan, task))
        now, before = (math.log(max(float(known[s]["burden_fraction"]), 1e-3)) for s in (scan, prior))
        days = 7.0 + 2.0 * (now - math.log(0.16)) + 6.0 * (float(known[scan]["ground_glass_fraction"]) - 0.65)
        if task == "stay_pair":
            days += 2.0 * np.clip(now - before - 0.8, -2.0, 2.0)
        margin = (
            days + rng.normal(0, STAY_NOISE[reader] * (0.75 if task == "stay_pair" else 1.0)) - HIGH_RISK_DAYS
        ) / 2
        rows.append(_call(reader, scan, prior if task == "stay_pair" else "", task, margin, order))
    return rows


def _shuffled(scans: pd.DataFrame, seed: int, reader: str, task: str) -> list[dict[Any, Any]]:
    order = np.random.default_rng(random_seed(seed, reader, task, "order")).permutation(len(scans))
    return scans.iloc[order].to_dict("records")


def _call(reader: str, scan: str, prior: str, task: str, margin: float, order: int) -> dict[str, Any]:
    """Return one row; the confidence is that of the call made."""
    chance = probability(margin)
    call = int(margin > 0)
    return {
        "reader_id": reader,
        "scan_id": scan,
        "prior_scan_id": prior,
        "task": task,
        "call": call,
        "confidence": round(max(chance, 1 - chance), 3),
        "order": order,
        "read_at": "",
    }
