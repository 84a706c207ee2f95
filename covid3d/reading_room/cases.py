"""What a reader reads: the cases of each task in an order of the reader's own, after a few cases whose truth is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from covid3d.cohort.certificate import first_scans
from covid3d.cohort.intake import read_intake
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.reader_study import TASKS
from covid3d.run.errors import ConfigError, MissingResult, nearest
from covid3d.run.files import random_seed
from covid3d.run.profile import Run

TRAINING = 4
"""Cases with the truth shown before each task, at most."""


@dataclass(frozen=True)
class Case:
    """One case of one task. order: its place in the reader's list, from 1; truth: in words, of a training case alone."""

    task: str
    scan_id: str
    prior_scan_id: str = ""
    order: int = 0
    truth: str = ""


def reading_list(run: Run, reader_id: str, tasks: Sequence[str] = TASKS) -> list[Case]:
    """Return a reader's cases, task by task: training cases, then the study's in an order drawn by seed, reader and task.

    covid: the external first scans. stay_single, stay_pair: the index scans (the second ones) of the development patients,
    of all patients where there is no development; the pair shows the first scan beside. Only scans that intake accepted.
    Raises ConfigError for an unknown task, MissingResult where a run has nothing to read.
    """
    table = read_manifest(run.manifest)
    intake = read_intake(run)
    table = table[table["scan_id"].isin(intake.loc[intake["ok"] == 1, "scan_id"])]
    cases: list[Case] = []
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f"there is no task '{task}' for readers", cure=nearest(task, TASKS))
        if task == "covid":
            study, training = _first_scans(table), _known_labels(table, run.seed)
        else:
            study, training = _index_scans(table, task, run.profile.prognosis.high_risk_days)
        rng = np.random.default_rng(random_seed(run.seed, reader_id, task, "reading room"))
        shuffled = [study[position] for position in rng.permutation(len(study))]
        cases += training + [
            Case(task, case.scan_id, case.prior_scan_id, order) for order, case in enumerate(shuffled, 1)
        ]
    if not any(case.order for case in cases):
        cure = "It needs accepted scans of role 'external', or second scans of role 'followup'"
        raise MissingResult("there is nothing to read", where=f"run '{run.name}'", cure=cure)
    return cases


def _first_scans(table: pd.DataFrame) -> list[Case]:
    """Return the external first scans."""
    found = table[(table["role"] == "external") & (table["scan_index"] == 0)]
    return [Case("covid", scan_id) for scan_id in sorted(found["scan_id"])]


def _known_labels(table: pd.DataFrame, seed: int) -> list[Case]:
    """Return training cases of the first task, as many of each class, of patients whom no task has."""
    followed = set(table.loc[table["role"] == "followup", "patient_id"])
    first = first_scans(table).sort_values("scan_id")
    first = first[~first["patient_id"].isin(followed)]
    rng = np.random.default_rng(random_seed(seed, "training cases"))
    drawn = first.iloc[rng.permutation(len(first))].groupby("label").head(TRAINING // 2)
    drawn = drawn.iloc[rng.permutation(len(drawn))]
    words = {1: "COVID-19", 0: "no COVID-19: another pneumonia"}
    return [Case("covid", row["scan_id"], truth=words[int(row["label"])]) for row in drawn.to_dict("records")]


def _index_scans(table: pd.DataFrame, task: str, limit: float) -> tuple[list[Case], list[Case]]:
    """Return the index scans of the study, and those of patients outside it whose group is known (training cases)."""
    priors = table[table["scan_index"] == 0].set_index("patient_id")["scan_id"]
    index = table[(table["scan_index"] == 1) & table["patient_id"].isin(priors.index)].sort_values("scan_id")
    home = index["patient_id"].isin(first_scans(table)["patient_id"])
    home = home if home.any() else ~home
    censored = index["censored"].fillna(0) == 1
    known = index["days_to_discharge"].notna() & (~censored | (index["days_to_discharge"] >= limit).fillna(False))

    def case(row: Any, truth: str = "") -> Case:
        return Case(task, row["scan_id"], priors[row["patient_id"]] if task == "stay_pair" else "", truth=truth)

    study = [case(row) for row in index[home].to_dict("records")]
    others = index.assign(least=censored.map({True: "at least ", False: ""}))[~home & known].head(TRAINING)
    return study, [case(row, _stayed(row, limit)) for row in others.to_dict("records")]


def _stayed(row: Any, limit: float) -> str:
    """Return the truth of a stay in words; a death, whenever it comes, is of high risk, as in `fine_tuning.pairs_of`."""
    days = float(row["days_to_discharge"])
    if row["outcome"] == "died" and not row["least"]:
        return f"high risk: died after {days:g} days"
    return f"{'high' if days >= limit else 'low'} risk: a further stay of {row['least']}{days:g} days"
