"""Fit the oracle's frozen rule on simulated patients outside every cohort: `python -m benchmarks.fit_oracle`.

The case mix is that of hospital A; B and C are never used. Each patient gives the first scan and `LATER` more on days drawn
over the whole stay, so that the rule knows how far few lesions are to be believed.
"""

import sys
from functools import partial

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from covid3d.phantom import oracle, render
from covid3d.phantom.course import appearance, draw_course
from covid3d.run.files import cpu_count, parallel_map, random_seed

SEED, LATER = 90_001, 4
RIDGE = 1e-3


def scans_of(number: int, *, hospital: str = "A", seed: int = SEED, later: int = LATER) -> tuple[int, np.ndarray]:
    """Return label and features (1 + later, F) of a simulated patient's scans on the reference grid, the first scan first."""
    name, label = f"oracle-{hospital}-{number}", number % 2
    rng = np.random.default_rng(random_seed(seed, name))
    sex, age = ("M" if rng.random() < 0.53 else "F"), float(np.clip(rng.normal(51, 15), 19, 88))
    patient = render.make_patient(seed, name, sex, age, label, hospital)
    course = draw_course(seed, name)
    days = course.onset_to_first + np.append(0, rng.uniform(0, course.discharge_day, later))
    looks = [appearance(course, day, rng, phase_visible=0.5) for day in days]
    return label, np.array([render.find_levels(patient, look).features for look in looks])


def patients_of(count: int, hospital: str, seed: int = SEED, later: int = LATER) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and features (N, 1 + later, F) of simulated patients with one hospital's case mix."""
    work = partial(scans_of, hospital=hospital, seed=seed, later=later)
    rows = list(parallel_map(work, range(count), workers=cpu_count(), description=f"oracle {hospital}"))
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def fit(labels: np.ndarray, features: np.ndarray) -> oracle.Rule:
    """Return the rule of highest penalised likelihood; features (N, F), labels (N,).

    Trust starts at nothing and never falls with the amount of disease.
    """
    hats = oracle.usual(features[:, -1], np.eye(len(oracle.AMOUNTS)))
    centre = np.linalg.lstsq(hats, features[:, :-1], rcond=None)[0]
    spread = np.linalg.lstsq(hats, (features[:, :-1] - hats @ centre) ** 2, rcond=None)[0]
    scale = np.sqrt(np.maximum(spread, 1e-6))
    scaled = oracle.scaled(features, centre, scale)
    size = scaled.shape[1]

    def trust(p: np.ndarray) -> np.ndarray:
        return np.append(0, np.cumsum(np.exp(p[size + 1 :])))

    def loss(p: np.ndarray) -> float:
        logit = (hats @ trust(p)) * (p[size] + scaled @ p[:size])
        return float(np.mean(np.logaddexp(0, logit) - labels * logit) + RIDGE * p[:size] @ p[:size])

    steps = len(oracle.AMOUNTS) - 1
    limits = [(None, None)] * (size + 1) + [(-6.0, 1.0)] * steps
    p = minimize(loss, np.append(np.zeros(size + 1), np.full(steps, -1.4)), method="L-BFGS-B", bounds=limits).x
    return oracle.Rule(centre, scale, trust(p), p[:size], float(p[size]))


def main(patients: int = 1000) -> None:
    """Print the coefficients to be copied into `oracle`, and the cross-validated AUC of first scans."""
    labels, features = patients_of(patients, "A")
    scans = features.shape[1]
    first = np.zeros(patients)
    for train, held in GroupKFold(10).split(labels, groups=np.arange(patients)):
        rule = fit(np.repeat(labels[train], scans), features[train].reshape(-1, features.shape[2]))
        first[held] = oracle.logits(features[held, 0], rule)
    rule = fit(np.repeat(labels, scans), features.reshape(-1, features.shape[2]))
    for name, value in zip(map(str.upper, rule._fields), rule, strict=True):
        print(f"{name} = np.array({np.round(value, 3).tolist()})" if np.ndim(value) else f"{name} = {value:.3f}")
    print(f"# cross-validated AUC of first scans {roc_auc_score(labels, first):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
