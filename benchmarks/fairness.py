"""Is the phantom fair, and how hard are B and C? What a model could learn about the class from anything but site, side and
shape of the lesions.

Simulated patients outside every cohort, as many of each class, in a hospital's setting: `measure` gives one row a scan,
`auc_table` how well each group of features tells the classes apart, `difficulty` how a fixed classifier of hospital A fares
with another scanner and another case mix.

`python -m benchmarks.fairness [hospital …]` measures 600 patients a class in each hospital's setting and writes
benchmarks/results/phantom_fairness.csv. `python -m benchmarks.fairness difficulty` lets two fixed classifiers of A meet each
scanner and case mix, and a drift of the Hounsfield scale, with the same 300 patients, and writes phantom_difficulty.csv. Without
arguments both are done.
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import campaigns
from covid3d.ct.grid import resize
from covid3d.ct.windows import nominal_window
from covid3d.network.registry import build
from covid3d.network.scoring import score
from covid3d.network.training import Examples, Plan, fit
from covid3d.phantom import dicom, oracle, render, scanner
from covid3d.phantom.course import appearance, draw_course
from covid3d.phantom.order_form import SLICES_OF
from covid3d.phantom.shapes import Array
from covid3d.run.files import cpu_count, parallel_map, random_seed
from covid3d.run.profile import load_profile
from covid3d.stats.auc import delong_interval, paired_delong

Score = Callable[[pd.DataFrame], Array]

SEED = 70_001
LIMIT = 0.60
ORACLE = (0.88, 0.96)
GROUPS = ("header", "files", "slices", "background", "volume", "lung", "lung_grid", "burden")
HU_EDGES = np.array(
    [-1100, -980, -940, -900, -870, -840, -800, -750, -700, -650, -600, -500, -400, -300, -200, -100, 0, 50, 100, 300, 3100]
)  # fmt: skip
HEADER = (
    "SliceThickness SpacingBetweenSlices KVP Exposure XRayTubeCurrent ExposureTime DataCollectionDiameter ReconstructionDiameter "
    "TableHeight PatientAge Rows BitsStored RescaleIntercept SliceLocation"
).split()
SEEN = (-780.0, 250.0)  # HU from which, and over which, the fixed classifier takes lung for lesion
NAME, DIFFICULTY = "phantom_fairness", "phantom_difficulty"
MADE_BY = (
    "covid3d.phantom.render",
    "covid3d.phantom.dicom",
    "covid3d.phantom.order_form",
    "covid3d.ct.grid",
    "covid3d.stats.auc",
    __file__,
)
DIFFICULTY_MADE_BY = (*MADE_BY, "covid3d.network.training")
HOSPITALS = ("A", "B", "C")
A_CLASS, DIFFICULTY_A_CLASS = 600, 150


@dataclass(frozen=True)
class Setting:
    """A hospital's scanner, whose case mix the patients follow, and the size of scan and grid."""

    hospital: str
    mix: str = ""  # of another hospital; "" = its own
    matrix: int = 96
    slices: int = 40
    grid: tuple[int, int, int] = (24, 64, 64)
    phase_visible: float = 0.5
    write: bool = True  # DICOM too, for headers and file sizes
    seed: int = SEED
    patients: str = ""  # settings with the same name here have the same patients; "" = patients of its own
    keep_grid: bool = False  # a column "grid", int16 HU (z, y, x)
    drift_hu: float = 0.0  # added to the scanner's own


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

# --- rows --------------------------------------------------------------------------------------------------------------


def measure(setting: Setting, patients: int, workers: int | None = None) -> pd.DataFrame:
    """Return one row a first scan of `patients` patients, every other one COVID+: hospital, mix, label, group.feature …"""
    work = functools.partial(measure_one, setting)
    name = f"fairness {setting.hospital}{setting.mix}"
    return pd.DataFrame(list(parallel_map(work, range(patients), workers=workers or cpu_count(), description=name)))


def measure_one(setting: Setting, number: int) -> dict[str, Any]:
    """Simulate one scan and return its row."""
    patient_id, label = f"fair-{setting.patients or f'{setting.hospital}-{setting.mix}'}-{number}", number % 2
    rng = np.random.default_rng(random_seed(setting.seed, patient_id))
    sex, age = ("M" if rng.random() < 0.53 else "F"), float(np.clip(rng.normal(51, 15), 19, 88))
    patient = render.make_patient(setting.seed, patient_id, sex, age, label, setting.mix or setting.hospital)
    course = draw_course(setting.seed, patient_id)
    look = appearance(course, course.onset_to_first, rng, phase_visible=setting.phase_visible)
    levels = render.find_levels(patient, look)
    size = patient.thorax.height, patient.thorax.half_width
    acquisition = scanner.acquire(setting.hospital, *size, setting.matrix, setting.slices, rng)
    acquisition = replace(acquisition, drift_hu=acquisition.drift_hu + setting.drift_hu)
    shares = render.Masks(np.zeros(setting.grid, np.float32), np.zeros(setting.grid, np.float32))
    stored, lung = [], []
    for first, slab in render.slabs(patient, look, levels, acquisition):
        render.add_to_grid(shares, slab, first, acquisition.shape)
        stored.append(scanner.store(scanner.expose(slab.hu, acquisition, first), acquisition))
        lung.append(slab.lung)
    values, inside = np.concatenate(stored), np.concatenate(lung)
    hu = np.clip(values.astype(np.float32) + acquisition.scanner.intercept, -1024, 3071)
    grid, on_grid = resize(hu, setting.grid), shares.lung > 0.5
    spacing = grid_spacing(acquisition, setting.grid)
    seen = np.clip((grid - SEEN[0]) / SEEN[1], 0, 1)
    row: dict[str, Any] = {"hospital": setting.hospital, "mix": setting.mix or setting.hospital, "label": label}
    row |= {"number": number, "pattern": patient.sites.pattern}
    row |= _named("slices", [round(rng.normal(*SLICES_OF[setting.hospital])), setting.slices])
    row |= _named("background", _histogram(hu[inside == 0]) + _profile(np.where(inside == 0, hu, -1000)))
    row |= _named("volume", _histogram(hu)) | _named("lung", _histogram(hu[inside > 0.5]))
    row |= _named("lung_grid", _histogram(grid[on_grid]))
    row |= _named("burden", [float(np.log(sum(levels.lobes_ml) / levels.lung_ml + 1e-4))])
    row |= _named("image", oracle.evidence(seen, shares.lung, spacing).tolist())
    row |= _named("evidence", levels.features.tolist())
    row["oracle_full"] = oracle.oracle_logit(levels.features)
    row["oracle_grid"] = oracle.oracle_logit(oracle.evidence(shares.lesion, shares.lung, spacing))
    if setting.keep_grid:
        row["grid"] = np.rint(grid).astype(np.int16)
    if setting.write:
        known = {
            "scan_id": patient_id,
            "patient_id": patient_id,
            "hospital": setting.hospital,
            "sex": sex,
            "age": age,
            "day": 0,
        }
        row |= _written(known, acquisition, values, setting.seed)
    return row


def grid_spacing(acquisition: scanner.Acquisition, grid: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return the size in mm (z, y, x) of a cell when a simulated scan is brought to a grid (z, y, x)."""
    z, y, x = (s * n / g for s, n, g in zip(acquisition.spacing_mm, acquisition.shape, grid, strict=True))
    return z, y, x


def _named(group: str, values: Sequence[float]) -> dict[str, float]:
    """Return values as columns group.00, group.01, …"""
    return {f"{group}.{i:02d}": float(value) for i, value in enumerate(values)}


def _histogram(hu: Array) -> list[float]:
    """Return the roots of the shares of voxels between `HU_EDGES`, then mean and SD."""
    counts = np.histogram(hu, HU_EDGES)[0] / max(1, hu.size)
    return [*np.sqrt(counts).tolist(), float(hu.mean()), float(hu.std())]


def _profile(hu: Array) -> list[float]:
    """Return the means of eight parts of a volume: halves of z, y and x."""
    z, y, x = (n // 2 for n in hu.shape)
    return [float(hu[k, j, i].mean()) for k in _halves(z) for j in _halves(y) for i in _halves(x)]


def _halves(middle: int) -> tuple[slice, slice]:
    return slice(None, middle), slice(middle, None)


def _written(row: dict[str, Any], acquisition: scanner.Acquisition, stored: Array, seed: int) -> dict[str, float]:
    """Write a scan as DICOM into a folder that vanishes; return its header's numbers and its files' sizes."""
    with tempfile.TemporaryDirectory() as folder:
        dicom.SeriesWriter(Path(folder), row, acquisition, seed).write(0, stored)
        files = sorted(Path(folder).glob("*.dcm"))
        sizes = np.array([file.stat().st_size for file in files], float)
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
    numbers = [_number(header.get(name)) for name in HEADER]
    numbers += [float(v) for v in (*header.PixelSpacing, *header.ImagePositionPatient)]
    numbers += [
        float(header.PatientSex == "M"),
        float(header.StudyDate[4:]),
        float(header.StudyTime[:2]),
        float(len(header)),
    ]
    return _named("header", numbers) | _named(
        "files", np.log([sizes.sum(), sizes.min(), sizes.max(), sizes.std() + 1]).tolist()
    )


def _number(value: Any) -> float:
    """Return a header value as a number; absent is 0."""
    return 0.0 if value is None else float(str(value).rstrip("Y") or 0)


# --- verdicts ----------------------------------------------------------------------------------------------------------


def auc_table(rows: pd.DataFrame, seeds: Sequence[int] = (1, 2, 3), *, second: bool = False) -> pd.DataFrame:
    """Return hospital, group, classifier, n, auc, low, high, limit, verdict.

    The score of a scan is its out-of-fold logit, averaged over ten-fold cross-validations with these seeds; the 95 % limits
    are DeLong's on that average. A group is fair when the upper limit is at most `LIMIT`; the oracle, which needs no fit, is
    judged by its value. `second` adds a small gradient boosting.
    """
    found = []
    for hospital, part in rows.groupby("hospital", sort=True):
        labels = part["label"].to_numpy()
        for group in GROUPS:
            columns = [name for name in part if str(name).startswith(f"{group}.")]
            if columns:
                for name, classifier in _classifiers(second).items():
                    scores = _out_of_fold(part[columns].to_numpy(), labels, seeds, classifier)
                    found.append({"hospital": hospital, "group": group, "classifier": name, **_row(labels, scores)})
        for name in ("oracle_full", "oracle_grid"):
            row = _row(labels, part[name].to_numpy())
            fine = ORACLE[0] <= row["auc"] <= ORACLE[1]
            row |= {"limit": ORACLE[0], "verdict": "reached" if fine else "not reached"}
            found.append({"hospital": hospital, "group": name, "classifier": "frozen rule", **row})
    return pd.DataFrame(found)


def _classifiers(second: bool) -> dict[str, Callable[[int], Any]]:
    """Return makers of classifiers by seed."""
    makers: dict[str, Callable[[int], Any]] = {"logistic regression": _logistic}
    return makers | ({"gradient boosting": _boosting} if second else {})


def _logistic(seed: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, random_state=seed))


def _boosting(seed: int) -> Any:
    return HistGradientBoostingClassifier(max_iter=40, max_depth=3, learning_rate=0.1, random_state=seed)


def _out_of_fold(features: Array, labels: Array, seeds: Sequence[int], classifier: Callable[[int], Any]) -> Array:
    """Return mean out-of-fold logits (N,); features that never vary give all scans the same score."""
    varying = features[:, features.std(0) > 1e-9]
    if not varying.shape[1]:
        return np.zeros(len(labels))
    total = np.zeros(len(labels))
    for seed in seeds:
        folds = StratifiedKFold(10, shuffle=True, random_state=seed)
        total += cross_val_predict(classifier(seed), varying, labels, cv=folds, method="decision_function")
    return total / len(seeds)


def _row(labels: Array, scores: Array) -> dict[str, Any]:
    """Return n, AUC with limits, and the verdict on fairness."""
    interval = delong_interval(labels, scores)
    highest = interval.high if interval.has_limits else interval.value
    verdict = "reached" if highest <= LIMIT else "not reached"
    limits = {"auc": interval.value, "low": interval.low, "high": interval.high}
    return {
        "n": len(labels),
        **limits,
        "limit": LIMIT,
        "verdict": verdict,
        "method": "DeLong on mean out-of-fold scores",
    }


def feature_classifier(trained: pd.DataFrame) -> Score:
    """Return a logistic regression fitted to rows of `measure`, as a function of rows that gives logits.

    Its features are those of the oracle, read from the image alone by a fixed threshold.
    """
    columns = [name for name in trained if str(name).startswith("image.")]
    model = _logistic(1).fit(trained[columns].to_numpy(), trained["label"].to_numpy())
    return lambda rows: model.decision_function(rows[columns].to_numpy())


def difficulty(tested: pd.DataFrame, usual: pd.DataFrame, judge: Score) -> pd.DataFrame:
    """Return hospital, mix, n, auc, low, high, accuracy of a fixed classifier, given as a function of rows to logits.

    It must not have seen any of the patients. Accuracy is at logit 0. Then change, change_low, change_high: AUC minus that on
    `usual`, the same patients (column number) with the scanner and the mix of A, by the paired DeLong test.
    """
    before = pd.Series(judge(usual), index=usual["number"])
    found = []
    for (hospital, mix), part in tested.groupby(["hospital", "mix"], sort=True):
        labels, scores = part["label"].to_numpy(), judge(part)
        change = paired_delong(labels, scores, before.loc[part["number"]]).estimate
        interval = delong_interval(labels, scores)
        accuracy = float(((scores > 0) == labels).mean())
        row = {"n": len(part), "auc": interval.value, "low": interval.low, "high": interval.high, "accuracy": accuracy}
        row |= {"change": change.value, "change_low": change.low, "change_high": change.high}
        found.append({"hospital": hospital, "mix": mix, **row})
    return pd.DataFrame(found)


# --- campaigns ---------------------------------------------------------------------------------------------------------


def fair(hospital: str, a_class: int = A_CLASS) -> pd.DataFrame:
    """Return the fairness table of one hospital, with a second classifier."""
    return auc_table(measure(Setting(hospital), 2 * a_class), second=True)


@functools.cache
def patients(setting: Setting, a_class: int) -> pd.DataFrame:
    """Return the rows of a setting with their grids, without DICOM, which no image feature needs."""
    return measure(replace(setting, write=False, keep_grid=True), 2 * a_class)


@functools.cache
def classifiers(a_class: int) -> dict[str, Score]:
    """Return two fixed classifiers of A's images, fitted to patients of their own, as functions of rows to logits."""
    trained = patients(Setting("A", seed=SEED + 1), a_class)
    return {"oracle's features": feature_classifier(trained), "COVID3D": network(trained)}


def network(trained: pd.DataFrame) -> Score:
    """Train the network of `standard`; every tenth patient is left out, to follow it by."""
    profile = load_profile("standard")
    names = trained["number"].astype(str)
    table = trained[["hospital", "label"]].assign(scan_id=names, patient_id=names)
    aside = (trained["number"] // 2 % 10 == 0).to_numpy()
    sides = [Examples.of(table[rows], np.stack(trained.loc[rows, "grid"].tolist())) for rows in (~aside, aside)]
    window, model = nominal_window(profile.windows), build("covid3d", profile, seed=SEED)
    fit(model, sides[0], sides[1], replace(Plan.of(profile.training, window), threads=cpu_count()), seed=SEED)
    return lambda rows: score(model, np.stack(rows["grid"].tolist()), [window])[:, 0]


def hard(name: str, a_class: int = DIFFICULTY_A_CLASS) -> pd.DataFrame:
    """Return how classifiers of A's images, fitted to other patients, fare in one of `SETTINGS`."""
    usual, tested = patients(SETTINGS["as trained"], a_class), patients(SETTINGS[name], a_class)
    parts = [difficulty(tested, usual, judge).assign(classifier=by) for by, judge in classifiers(a_class).items()]
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
