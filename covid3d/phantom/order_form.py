"""The order form data_manifest.csv: every scan of the paper's cohort, drawn once with a fixed seed.

`python -m covid3d.phantom.order_form data_manifest.csv` writes it again, byte for byte.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from covid3d.phantom.course import FIGURE_4, Course, draw_course
from covid3d.run.files import random_seed, write_csv

SEED = 2020
SCANS, SLICES = 397, 84_806
CLASSES = {"A": (83, 83), "B": (20, 20), "C": (12, 9)}  # COVID+, COVID-
FOLLOWED = {"A": 49, "C": 4}
FOLLOWUP_SCANS = {"A": 159, "C": 11}
WITHOUT_LATE_SCAN = 4
LATE_DAYS = 3
INDEX_DAY = 7.2
SHOWS_DISEASE = 0.02
FIGURE_4_AGE = 24
FIGURE_4_DAYS = (0, 3, 6, 9, 11)
SLICES_OF = {"A": (214, 14), "B": (246, 16), "C": (168, 12)}  # mean, SD
COLUMNS = (
    "scan_id,patient_id,hospital,role,label,scan_index,day,days_since_onset,days_to_discharge,outcome,censored,ventilated,"
    "age,sex,rt_pcr_tests,n_slices,source,licence,sha256"
).split(",")


@dataclass
class Patient:
    """One patient of the order form."""

    patient_id: str
    hospital: str
    label: int
    age: int
    sex: str
    tests: int
    ventilated: int
    outcome: str
    course: Course
    days: list[int] = field(default_factory=lambda: [0])
    censored: int = 0
    last_contact: int = 0


def make_order_form(seed: int = SEED) -> pd.DataFrame:
    """Return the order form, one row a scan, sorted by patient and scan_index."""
    rng = np.random.default_rng(random_seed(seed, "order form"))
    patients = [patient for hospital in CLASSES for patient in _hospital(hospital, seed, rng)]
    for hospital in FOLLOWED:
        _follow(hospital, [p for p in patients if p.hospital == hospital and p.label == 1], rng)
    rows = [_row(patient, index, seed) for patient in patients for index in range(len(patient.days))]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["n_slices"] = _slice_counts(table["hospital"], rng)
    return table


def course_of(seed: int, patient_id: str, age: float | None, days: Sequence[int]) -> Course:
    """Return a patient's course: drawn from the order form's seed, fixed for the patient of Figure 4."""
    return FIGURE_4 if age == FIGURE_4_AGE and tuple(days) == FIGURE_4_DAYS else draw_course(seed, patient_id)


def _hospital(hospital: str, seed: int, rng: np.random.Generator) -> list[Patient]:
    """Draw the patients of one hospital; the order of ids does not tell the label."""
    positive, negative = CLASSES[hospital]
    labels = rng.permutation([1] * positive + [0] * negative)
    return [
        _patient(f"{hospital}{number:03d}", hospital, int(label), seed, rng) for number, label in enumerate(labels, 1)
    ]


def _patient(patient_id: str, hospital: str, label: int, seed: int, rng: np.random.Generator) -> Patient:
    """Draw one patient; nothing but the label depends on the class."""
    age = int(np.clip(round(rng.normal(51, 15)), 19, 88))
    age += age == FIGURE_4_AGE
    ventilated = int(rng.random() < 0.05)
    ends = rng.random()
    outcome = "died" if ends < 0.03 else "transferred" if ends < 0.05 else "discharged"
    return Patient(
        patient_id=patient_id,
        hospital=hospital,
        label=label,
        age=age,
        sex="M" if rng.random() < 0.53 else "F",
        tests=2 + int(rng.binomial(2, 0.3)),
        ventilated=ventilated,
        outcome=outcome,
        course=draw_course(seed, patient_id),
    )


def _follow(hospital: str, positives: list[Patient], rng: np.random.Generator) -> None:
    """Choose the followed patients of a hospital, none died or ventilated, and plan their scans."""
    fit = [p for p in positives if not p.ventilated and p.outcome == "discharged"]
    fit = [p for p in fit if p.course.burden(p.course.onset_to_first) > SHOWS_DISEASE]
    chosen = [fit[i] for i in sorted(rng.permutation(len(fit))[: FOLLOWED[hospital]])]
    counts = _followup_counts(len(chosen), FOLLOWUP_SCANS[hospital], rng)
    special = [int(i) for i in rng.permutation(len(chosen))]
    if hospital == "A":
        case = chosen[special[0]]
        case.age, case.course = FIGURE_4_AGE, FIGURE_4
        spare = counts[special[0]] - (len(FIGURE_4_DAYS) - 1)
        counts[special[0]] = len(FIGURE_4_DAYS) - 1
        _spread(counts, spare, keep=special[0])
    for position, patient in enumerate(chosen):
        without_late = hospital == "A" and position in special[1 : 1 + WITHOUT_LATE_SCAN]
        if hospital == "A" and position == special[0]:
            patient.days = list(FIGURE_4_DAYS)
        else:
            patient.days = plan_days(counts[position], patient.course.discharge_day, without_late, rng)
    if hospital == "C":
        patient = chosen[special[0]]
        patient.censored, patient.outcome = 1, "in_hospital"
        patient.last_contact = patient.days[-1] + 1


def _followup_counts(patients: int, scans: int, rng: np.random.Generator) -> list[int]:
    """Draw the number of follow-up scans of each patient, 2 to 5, with a given sum."""
    counts = [int(n) for n in rng.choice([2, 3, 4, 5], p=[0.25, 0.40, 0.25, 0.10], size=patients)]
    _spread(counts, scans - sum(counts))
    return counts


def _spread(counts: list[int], spare: int, keep: int = -1) -> None:
    """Add `spare` scans, one a patient, staying between 2 and 5."""
    step = 1 if spare > 0 else -1
    position = 0
    while spare:
        i = position % len(counts)
        if i != keep and 2 <= counts[i] + step <= 5:
            counts[i] += step
            spare -= step
        position += 1


def plan_days(count: int, discharge: int, without_late: bool, rng: np.random.Generator) -> list[int]:
    """Return the days of a patient's scans: the index scan about a week after the first, the last near discharge.

    The day of the index scan is drawn without a look at the discharge, so that the schedule alone foretells little.
    """
    low, high = (LATE_DAYS + 2, LATE_DAYS + 5) if without_late else (0, LATE_DAYS + 1)
    last = max(discharge - int(rng.integers(low, high)), count + 1)
    if without_late:
        last = min(last, discharge - LATE_DAYS - 1)
    latest = last - (count - 1)
    index = int(np.clip(round(rng.normal(INDEX_DAY, 1.5)), 2, max(2, latest)))
    free = np.arange(index + 1, max(index + count - 1, (index + last + 1) // 2 + 1))
    between = [int(day) for day in rng.choice(free, size=count - 2, replace=False)] if count > 2 else []
    return [0, index, *sorted(between), *([last] if count > 1 else [])]


def _row(patient: Patient, index: int, seed: int) -> dict[str, object]:
    """Return one row of the order form."""
    day = patient.days[index]
    first_role = "development" if patient.hospital == "A" else "external"
    end = patient.last_contact if patient.censored else patient.course.discharge_day
    return {
        "scan_id": f"{patient.patient_id}-{index}",
        "patient_id": patient.patient_id,
        "hospital": patient.hospital,
        "role": "followup" if index else first_role,
        "label": patient.label,
        "scan_index": index,
        "day": day,
        "days_since_onset": patient.course.onset_to_first + day,
        "days_to_discharge": end - day,
        "outcome": patient.outcome,
        "censored": patient.censored,
        "ventilated": patient.ventilated,
        "age": patient.age,
        "sex": patient.sex,
        "rt_pcr_tests": patient.tests,
        "n_slices": 0,
        "source": f"phantom:{seed}",
        "licence": "CC0-1.0",
        "sha256": "",
    }


def _slice_counts(hospitals: pd.Series, rng: np.random.Generator) -> list[int]:
    """Draw each scan's number of slices from its hospital's protocol, then add single slices up to the paper's sum."""
    counts = [max(64, round(rng.normal(*SLICES_OF[hospital]))) for hospital in hospitals]
    spare = SLICES - sum(counts)
    share, rest = divmod(abs(spare), len(counts))
    extra = set(rng.permutation(len(counts))[:rest].tolist())
    sign = 1 if spare > 0 else -1
    return [count + sign * (share + (i in extra)) for i, count in enumerate(counts)]


if __name__ == "__main__":
    write_csv(Path(sys.argv[1]), make_order_form())
