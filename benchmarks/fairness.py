"""Is the phantom fair, and how hard are B and C? `covid3d.phantom.fairness` at full size.

`python -m benchmarks.fairness [hospital …]` measures 600 simulated patients a class in each hospital's setting and writes
benchmarks/results/phantom_fairness.csv. `python -m benchmarks.fairness difficulty` lets a fixed classifier of A meet each scanner
and case mix with the same 300 patients, and writes phantom_difficulty.csv. Without arguments both are done.
"""

import functools
import sys

import pandas as pd

from covid3d import campaigns
from covid3d.phantom import fairness
from covid3d.phantom.fairness import Setting

NAME, DIFFICULTY = "phantom_fairness", "phantom_difficulty"
MADE_BY = ("covid3d.phantom.fairness", __file__)
HOSPITALS = ("A", "B", "C")
A_CLASS, DIFFICULTY_A_CLASS = 600, 150
PLACES = {  # whose scanner, whose case mix; the same patients everywhere
    "as trained": ("A", "A"),
    "scanner of B": ("B", "A"),
    "scanner of C": ("C", "A"),
    "mix of B": ("A", "B"),
    "mix of C": ("A", "C"),
    "B": ("B", "B"),
    "C": ("C", "C"),
}
SETTINGS = {name: Setting(*place, write=False, patients="difficulty") for name, place in PLACES.items()}


def fair(hospital: str, a_class: int = A_CLASS) -> pd.DataFrame:
    """Return the fairness table of one hospital, with a second classifier."""
    return fairness.auc_table(fairness.measure(Setting(hospital), 2 * a_class), second=True)


@functools.cache
def patients(setting: Setting, a_class: int) -> pd.DataFrame:
    """Return the rows of a setting without DICOM, which no image feature needs."""
    return fairness.measure(setting, 2 * a_class)


def hard(name: str, a_class: int = DIFFICULTY_A_CLASS) -> pd.DataFrame:
    """Return how a classifier of A's images, fitted to other patients, fares in one of `SETTINGS`."""
    trained = patients(Setting("A", write=False, seed=fairness.SEED + 1), a_class)
    usual = patients(SETTINGS["as trained"], a_class)
    return fairness.difficulty(trained, patients(SETTINGS[name], a_class), usual)


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
