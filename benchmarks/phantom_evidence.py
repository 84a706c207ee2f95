"""Does the evidence of a simulated scan grow with disease? The perfect reader within the patients of other order forms.

The bars are those of chapter 9, which has the few followed patients of a run, and that of `benchmarks.fairness`; here there
are enough patients to judge the world. That the perfect reader says nothing of a lung that is almost clear is built into it:
its trust in so few lesions is nothing. So it is asked of these scans without that trust, where it could tell the classes.

`python -m benchmarks.phantom_evidence` (about 8 min on one core) writes benchmarks/results/phantom_evidence.csv.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import campaigns
from benchmarks.fairness import LIMIT, ORACLE
from benchmarks.null_world import order_form
from covid3d.chapters.simulator import evidence_bars
from covid3d.phantom import oracle, render
from covid3d.phantom.build import pattern_labels
from covid3d.phantom.cohort import controls
from covid3d.phantom.course import Appearance, appearance
from covid3d.phantom.order_form import course_of
from covid3d.run.files import cpu_count, parallel_map, random_seed
from covid3d.run.profile import load_profile
from covid3d.stats import auc

NAME, FORMS, CONTROLS, CLEAR = "phantom_evidence", range(21, 27), 40, 0.01
TRUSTING = oracle.FROZEN._replace(trust=np.ones(len(oracle.AMOUNTS)))
MADE_BY = ("covid3d.phantom.build", "covid3d.stats.courses", "covid3d.stats.auc", __file__)


def seen(
    scan: dict[str, Any], seed: int, courses: int, days: dict[str, list[int]]
) -> tuple[render.Patient, Appearance]:
    """Return the patient of a row of an order form, whose class is in its column `pattern`, and what the scan shows."""
    name, age = str(scan["patient_id"]), None if pd.isna(scan["age"]) else float(scan["age"])
    patient = render.make_patient(seed, name, str(scan["sex"]), age or 50, int(scan["pattern"]), str(scan["hospital"]))
    course = course_of(courses, name, age, days[name])
    since = scan["days_since_onset"]
    since = course.onset_to_first + (0 if pd.isna(scan["day"]) else scan["day"]) if pd.isna(since) else since
    rng = np.random.default_rng(random_seed(seed, scan["scan_id"], "disease"))
    return patient, appearance(course, float(since), rng, phase_visible=load_profile("standard").phantom.phase_visible)


def days_of(form: pd.DataFrame) -> dict[str, list[int]]:
    """Return the days of each patient's scans in an order form, from which its course is drawn."""
    return {str(name): [int(day) for day in part.fillna(0)] for name, part in form.groupby("patient_id")["day"]}


def read_perfectly(scan: dict[str, Any], seed: int, courses: int, days: dict[str, list[int]]) -> dict[str, Any]:
    """Return what the perfect reader says of a scan: as `evidence_bars` takes it, with hospital and scan_index."""
    patient, look = seen(scan, seed, courses, days)
    features = render.find_levels(patient, look).features
    known = {name: scan[name] for name in ("hospital", "label", "scan_index")} | {"kind": scan["role"]}
    return {
        "patient_id": f"{seed}-{scan['patient_id']}",
        **known,
        "burden_fraction": look.burden,
        "oracle_logit": oracle.oracle_logit(features),
        "trusting_logit": float(oracle.logits(features, TRUSTING)),
    }


def scans_of(number: int) -> pd.DataFrame:
    """Return every scan of one order form, and the follow-ups of `CONTROLS` of its COVID- patients."""
    form, courses = order_form(number)
    limits = load_profile("standard").cohort.model_copy(update={"rescans": 0, "control_patients": CONTROLS})
    table = pd.concat([form, controls(form, limits)], ignore_index=True)
    table["pattern"] = table["patient_id"].map(pattern_labels(form, "effect", number))
    work = partial(read_perfectly, seed=number, courses=courses, days=days_of(form))
    rows = parallel_map(work, table.to_dict("records"), workers=cpu_count(), description=f"order form {number}")
    return pd.DataFrame(list(rows))


def judged(scans: pd.DataFrame) -> pd.DataFrame:
    """Return one row a bar: what, patients, value, low, high, asked, reached (1 | 0)."""
    first = scans[(scans["scan_index"] == 0) & (scans["hospital"] == "A")]
    area, (low, high) = auc.auc(first["label"], first["oracle_logit"]), ORACLE
    asked = f"{low} to {high}"
    clear = scans[(scans["burden_fraction"] < CLEAR) & (scans["kind"] != "rescan")].drop_duplicates("patient_id")
    told = auc.auc(clear["label"], clear["trusting_logit"])
    bars = [
        *evidence_bars(scans),
        ("AUC of a lung almost clear, however few lesions", len(clear), told, f"at most {LIMIT}", told.value <= LIMIT),
        ("AUC of first scans, hospital A", len(first), area, asked, low <= area.value <= high),
    ]
    columns = ["what", "patients", "value", "low", "high", "asked", "reached"]
    rows = [(what, count, one.value, one.low, one.high, asks, int(held)) for what, count, one, asks, held in bars]
    return pd.DataFrame(rows, columns=columns)


def campaign() -> pd.DataFrame:
    """Read all scans of all forms; return and write phantom_evidence.csv."""
    return campaigns.write(NAME, judged(pd.concat([scans_of(number) for number in FORMS], ignore_index=True)), MADE_BY)


if __name__ == "__main__":
    print(campaign().drop(columns=list(campaigns.STAMP)).to_string(index=False))
