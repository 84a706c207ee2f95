"""Does depth tell the class in the simulated world? The perfect reader of whole scans beside one of single slices.

Chapter 4 asks that the 3D network does better than the 2D one. How much can it? Both readers see the true lesions on the
network's grid. The one takes the oracle's features of the whole scan, the other those of each axial slice by itself, averaged
over the slices by how much of them is ill; it is told how high each slice lies and how much of the whole lung is ill. The rule
of each is fitted as the oracle's, on the other folds. An average is one way to read slices, not the best: what is
found is the most that depth can be worth to such a rule.

And how often would as few patients as the embedded cohort has outside A show the difference with p below 0.05?

`python -m benchmarks.phantom_depth` (about 6 min on 2 cores) writes benchmarks/results/phantom_depth.csv.
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from benchmarks import campaigns
from benchmarks.fairness import grid_spacing
from benchmarks.fit_oracle import fit
from covid3d.phantom import oracle, render, scanner
from covid3d.phantom.course import appearance, draw_course
from covid3d.run.files import cpu_count, parallel_map, random_seed
from covid3d.run.profile import load_profile
from covid3d.stats import auc
from covid3d.stats.proportions import wilson

NAME, SEED, PATIENTS, FOLDS = "phantom_depth", 90_101, 1200, 10
EMBEDDED, DRAWS = {1: 32, 0: 29}, 1000
"""So many COVID+ and COVID- patients has the embedded cohort outside A."""
MADE_BY = ("covid3d.phantom.render", "covid3d.stats.auc", "benchmarks.fit_oracle", __file__)
APART = 1e6
"""mm between slices that are too far apart to know of each other; it scales one feature, which the rule undoes."""


def by_slices(lesion: np.ndarray, lung: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the oracle's features as single slices tell them, (F,); lesion, lung: shares in [0, 1], (z, y, x).

    Height and amount are those of the whole scan.
    """
    whole = oracle.evidence(lesion, lung, spacing_mm)
    ill = (lesion * (lung > 0.5)).sum((1, 2))
    seen = np.flatnonzero(ill > 1e-6)
    if not len(seen):
        return whole
    each = [oracle.evidence(lesion[z : z + 1], lung[z : z + 1], (APART, *spacing_mm[1:])) for z in seen]
    found = np.average(each, axis=0, weights=ill[seen])
    kept = [oracle.FEATURES.index(name) for name in ("height", "amount")]
    found[kept] = whole[kept]
    return found


def read(number: int, hospital: str = "A") -> tuple[int, np.ndarray]:
    """Return label and features (2, F), of the whole scan and by slices, of a simulated patient's first scan."""
    name, label, profile = f"depth-{number}", number % 2, load_profile("standard")
    rng = np.random.default_rng(random_seed(SEED, name))
    sex, age = ("M" if rng.random() < 0.53 else "F"), float(np.clip(rng.normal(51, 15), 19, 88))
    patient, course = render.make_patient(SEED, name, sex, age, label, hospital), draw_course(SEED, name)
    look = appearance(course, course.onset_to_first, rng, phase_visible=profile.phantom.phase_visible)
    size = patient.thorax.height, patient.thorax.half_width
    acquisition = scanner.acquire(hospital, *size, profile.phantom.matrix, profile.phantom.slices, rng)
    shares = render.Masks(*np.zeros((2, *profile.model.grid), np.float32))
    for first, slab in render.slabs(patient, look, render.find_levels(patient, look), acquisition):
        render.add_to_grid(shares, slab, first, acquisition.shape)
    seen = shares.lesion, shares.lung, grid_spacing(acquisition, profile.model.grid)
    return label, np.array([oracle.evidence(*seen), by_slices(*seen)])


def out_of_fold(labels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return each patient's logit (N,) by a rule that was fitted to the other folds' features (N, F)."""
    found = np.zeros(len(labels))
    for train, held in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(features, labels):
        found[held] = oracle.logits(features[held], fit(labels[train], features[train]))
    return found


def judged(labels: np.ndarray, whole: np.ndarray, slices: np.ndarray) -> pd.DataFrame:
    """Return one row a quantity, from labels and both readers' logits (N,): quantity, patients, value, low, high, p."""
    difference = auc.paired_delong(labels, whole, slices)
    rows = [
        ("AUC, whole scans", len(labels), auc.auc(labels, whole), np.nan),
        ("AUC, single slices", len(labels), auc.auc(labels, slices), np.nan),
        ("whole scans minus single slices", len(labels), difference.estimate, difference.p),
    ]
    rng, shown = np.random.default_rng(random_seed(NAME, "draws")), 0
    for _ in range(DRAWS):
        few = np.concatenate([rng.permutation(np.flatnonzero(labels == one))[:n] for one, n in EMBEDDED.items()])
        test = auc.paired_delong(labels[few], whole[few], slices[few])
        shown += test.estimate.value > 0 and test.p < 0.05
    rows.append(
        ("share of draws of few patients with p below 0.05", sum(EMBEDDED.values()), wilson(shown, DRAWS), np.nan)
    )
    columns = ["quantity", "patients", "value", "low", "high", "p"]
    return pd.DataFrame([(what, n, one.value, one.low, one.high, p) for what, n, one, p in rows], columns=columns)


def campaign(patients: int = PATIENTS) -> pd.DataFrame:
    """Simulate the patients and let both read; return and write phantom_depth.csv."""
    found = list(parallel_map(read, range(patients), workers=cpu_count(), description="depth"))
    labels, features = np.array([one[0] for one in found]), np.array([one[1] for one in found])
    logits = [out_of_fold(labels, features[:, reader]) for reader in range(2)]
    return campaigns.write(NAME, judged(labels, *logits), MADE_BY)


if __name__ == "__main__":
    print(campaign().drop(columns=list(campaigns.STAMP)).to_string(index=False))
