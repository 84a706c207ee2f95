"""Fit the oracle's frozen rule on simulated patients outside every cohort: `python -m benchmarks.fit_oracle`.

The case mix is that of hospital A; B and C are never used.
"""

import sys
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler

from covid3d.phantom import oracle, render
from covid3d.phantom.course import appearance, draw_course
from covid3d.run.files import cpu_count, parallel_map, random_seed

SEED = 90_001


def first_scan(number: int, *, hospital: str = "A", seed: int = SEED) -> tuple[int, np.ndarray]:
    """Return label and features of one simulated first scan, on the patient's reference grid."""
    name, label = f"oracle-{hospital}-{number}", number % 2
    rng = np.random.default_rng(random_seed(seed, name))
    sex, age = ("M" if rng.random() < 0.53 else "F"), float(np.clip(rng.normal(51, 15), 19, 88))
    patient = render.make_patient(seed, name, sex, age, label, hospital)
    course = draw_course(seed, name)
    look = appearance(course, course.onset_to_first, rng, phase_visible=0.5)
    return label, render.find_levels(patient, look).features


def first_scans(patients: int, hospital: str, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and features (N, F) of simulated first scans with one hospital's case mix."""
    work = partial(first_scan, hospital=hospital, seed=seed)
    rows = list(parallel_map(work, range(patients), workers=cpu_count(), description=f"oracle {hospital}"))
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def main(patients: int = 1600) -> None:
    """Print the coefficients to be copied into `oracle`, and their cross-validated AUC."""
    labels, features = first_scans(patients, "A")
    scaler = StandardScaler().fit(features)
    scaled = np.clip(scaler.transform(features), -oracle.LIMIT, oracle.LIMIT)
    model = LogisticRegression(C=1.0)
    scores = cross_val_predict(model, scaled, labels, cv=10, method="decision_function")
    model.fit(scaled, labels)
    for name, values in (("CENTRE", scaler.mean_), ("SCALE", scaler.scale_), ("WEIGHTS", model.coef_[0])):
        print(f"{name} = ({', '.join(f'{value:.3f}' for value in values)})")
    print(f"BIAS = {model.intercept_[0]:.3f}\n# cross-validated AUC {roc_auc_score(labels, scores):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1600)
