"""Is the phantom fair, and how hard are B and C? `covid3d.phantom.fairness` at full size.

`python -m benchmarks.fairness [hospital …]` measures 600 simulated patients a class in each hospital's setting and writes
benchmarks/results/phantom_fairness.csv. `python -m benchmarks.fairness difficulty` lets a fixed classifier of A meet each scanner
with each case mix, 300 patients a setting, and writes phantom_difficulty.csv. Without arguments both are done.
"""

import functools
import sys
from dataclasses import replace

import pandas as pd

from covid3d import campaigns
from covid3d.phantom import fairness
from covid3d.phantom.fairness import Setting

NAME, DIFFICULTY = "phantom_fairness", "phantom_difficulty"
MADE_BY = ("covid3d.phantom.fairness", __file__)
HOSPITALS = ("A", "B", "C")
A_CLASS, DIFFICULTY_A_CLASS = 600, 150
SETTINGS = {
    "as trained": Setting("A"),
    "scanner of B": Setting("B", mix="A"),
    "scanner of C": Setting("C", mix="A"),
    "mix of B": Setting("A", mix="B"),
    "mix of C": Setting("A", mix="C"),
    "B": Setting("B"),
    "C": Setting("C"),
}


def fair(hospital: str, a_class: int = A_CLASS) -> pd.DataFrame:
    """Return the fairness table of one hospital, with a second classifier."""
    return fairness.auc_table(fairness.measure(Setting(hospital), 2 * a_class), second=True)


@functools.cache
def patients(setting: Setting, a_class: int) -> pd.DataFrame:
    """Return the rows of a setting without DICOM, which no image feature needs."""
    return fairness.measure(replace(setting, write=False), 2 * a_class)


def hard(name: str, a_class: int = DIFFICULTY_A_CLASS) -> pd.DataFrame:
    """Return how a classifier of A's images, fitted to other patients, fares in one of `SETTINGS`."""
    trained = patients(Setting("A", seed=fairness.SEED + 1), a_class)
    return fairness.difficulty(trained, patients(SETTINGS[name], a_class))


def campaign(hospitals: tuple[str, ...] = HOSPITALS) -> pd.DataFrame:
    """Measure the hospitals that are missing and return phantom_fairness.csv."""
    return campaigns.extend(NAME, "hospital", hospitals, fair, MADE_BY)


def difficulty_campaign() -> pd.DataFrame:
    """Measure the settings that are missing and return phantom_difficulty.csv."""
    return campaigns.extend(DIFFICULTY, "setting", tuple(SETTINGS), hard, MADE_BY)


if __name__ == "__main__":
    asked = tuple(sys.argv[1:]) or (*HOSPITALS, "difficulty")
    if chosen := tuple(one for one in asked if one != "difficulty"):
        print(campaign(chosen).drop(columns=list(campaigns.STAMP)).to_string(index=False))
    if "difficulty" in asked:
        print(difficulty_campaign().drop(columns=list(campaigns.STAMP)).to_string(index=False))
