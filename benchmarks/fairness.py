"""Is the phantom fair, and how hard are B and C? `covid3d.phantom.fairness` at full size.

`python -m benchmarks.fairness [hospital …]` measures 600 simulated patients a class in each hospital's setting and writes
benchmarks/results/phantom_fairness.csv. `python -m benchmarks.fairness difficulty` lets two fixed classifiers of A meet each
scanner and case mix, and a drift of the Hounsfield scale, with the same 300 patients, and writes phantom_difficulty.csv. Without
arguments both are done.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from covid3d.ct.windows import nominal_window
from covid3d.network.registry import build
from covid3d.network.scoring import score
from covid3d.network.training import Examples, Plan, fit
from covid3d.phantom import fairness
from covid3d.phantom.fairness import Setting
from covid3d.run import campaigns
from covid3d.run.files import cpu_count
from covid3d.run.profile import load_profile

Score = Callable[[pd.DataFrame], np.ndarray]

NAME, DIFFICULTY = "phantom_fairness", "phantom_difficulty"
MADE_BY = ("covid3d.phantom.fairness", __file__)
DIFFICULTY_MADE_BY = (*MADE_BY, "covid3d.network.training")
HOSPITALS = ("A", "B", "C")
A_CLASS, DIFFICULTY_A_CLASS = 600, 150
PLACES = {  # whose scanner, whose case mix, HU of further drift; the same patients everywhere
    "as trained": ("A", "A", 0),
    "scanner of B": ("B", "A", 0),
    "scanner of C": ("C", "A", 0),
    "drift of -60 HU": ("A", "A", -60),
    "drift of +60 HU": ("A", "A", 60),
    "mix of B": ("A", "B", 0),
    "mix of C": ("A", "C", 0),
    "B": ("B", "B", 0),
    "C": ("C", "C", 0),
}
SETTINGS = {
    name: Setting(hospital, mix, drift_hu=drift, patients="difficulty")
    for name, (hospital, mix, drift) in PLACES.items()
}


def fair(hospital: str, a_class: int = A_CLASS) -> pd.DataFrame:
    """Return the fairness table of one hospital, with a second classifier."""
    return fairness.auc_table(fairness.measure(Setting(hospital), 2 * a_class), second=True)


@functools.cache
def patients(setting: Setting, a_class: int) -> pd.DataFrame:
    """Return the rows of a setting with their grids, without DICOM, which no image feature needs."""
    return fairness.measure(replace(setting, write=False, keep_grid=True), 2 * a_class)


@functools.cache
def classifiers(a_class: int) -> dict[str, Score]:
    """Return two fixed classifiers of A's images, fitted to patients of their own, as functions of rows to logits."""
    trained = patients(Setting("A", seed=fairness.SEED + 1), a_class)
    return {"oracle's features": fairness.feature_classifier(trained), "COVID3D": network(trained)}


def network(trained: pd.DataFrame) -> Score:
    """Train the network of `standard`; every tenth patient is left out, to follow it by."""
    profile = load_profile("standard")
    names = trained["number"].astype(str)
    table = trained[["hospital", "label"]].assign(scan_id=names, patient_id=names)
    aside = (trained["number"] // 2 % 10 == 0).to_numpy()
    sides = [Examples.of(table[rows], np.stack(trained.loc[rows, "grid"].tolist())) for rows in (~aside, aside)]
    window, model = nominal_window(profile.windows), build("covid3d", profile, seed=fairness.SEED)
    fit(model, sides[0], sides[1], replace(Plan.of(profile.training, window), threads=cpu_count()), seed=fairness.SEED)
    return lambda rows: score(model, np.stack(rows["grid"].tolist()), [window])[:, 0]


def hard(name: str, a_class: int = DIFFICULTY_A_CLASS) -> pd.DataFrame:
    """Return how classifiers of A's images, fitted to other patients, fare in one of `SETTINGS`."""
    usual, tested = patients(SETTINGS["as trained"], a_class), patients(SETTINGS[name], a_class)
    parts = [
        fairness.difficulty(tested, usual, judge).assign(classifier=by) for by, judge in classifiers(a_class).items()
    ]
    return pd.concat(parts, ignore_index=True)


def campaign(hospitals: tuple[str, ...] = HOSPITALS) -> pd.DataFrame:
    """Measure the hospitals that are missing and return phantom_fairness.csv."""
    return campaigns.extend(NAME, "hospital", hospitals, fair, MADE_BY)


def difficulty_campaign() -> pd.DataFrame:
    """Measure the settings that are missing and return phantom_difficulty.csv."""
    return campaigns.extend(DIFFICULTY, "setting", tuple(SETTINGS), hard, DIFFICULTY_MADE_BY)


if __name__ == "__main__":
    asked = tuple(sys.argv[1:]) or (*HOSPITALS, "difficulty")
    if chosen := tuple(one for one in asked if one != "difficulty"):
        print(campaign(chosen).drop(columns=list(campaigns.STAMP)).to_string(index=False))
    if "difficulty" in asked:
        print(difficulty_campaign().drop(columns=list(campaigns.STAMP)).to_string(index=False))
