"""How often the tests of the book reject at 5 % where there is nothing to find, at the paper's numbers of patients.

`python -m benchmarks.levels` writes results/levels.csv, which chapter 4 shows: rejections at p < 0.05, or intervals that leave
out the true value. The tests by permutation have their own campaign, `benchmarks.null_world`.
"""

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

from benchmarks import campaigns
from covid3d.run.files import random_seed
from covid3d.stats import risk, survival
from covid3d.stats.auc import external_internal_difference, fold_aucs, mean_auc, paired_delong, pooled_delong, spearman
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import mcnemar_exact, paired_difference, tost_paired_proportions

MADE_BY = ("covid3d.stats.risk", "covid3d.stats.proportions", __file__)
FOLDS = 10
PATIENTS = 49
SHIFT = math.sqrt(2) * float(stats.norm.ppf(0.84))


class Level(NamedTuple):
    """What is tried: the chapter that prints it, test, setting, how often, and one try: rejected or not."""

    chapter: str
    test: str
    setting: str
    replicates: int
    rejects: Callable[[Generator], bool]


def leaves_out(found: Estimate, true: float) -> bool:
    """True when an interval does not hold the true value; no interval claims nothing."""
    return found.has_limits and not found.low <= true <= found.high


# --- differences of AUCs ---------------------------------------------------------------------------------------------


def two_scores(positives: int, negatives: int, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and two scores of the same cases with a true AUC of .84 and a correlation of one half."""
    labels = np.repeat([1, 0], [positives, negatives])
    shared, one, two = rng.normal(scale=math.sqrt(0.5), size=(3, len(labels)))
    return labels, SHIFT * labels + shared + one, SHIFT * labels + shared + two


def paired(positives: int, negatives: int) -> Callable[[Generator], bool]:
    """Two models of equal AUC on the same patients."""
    return lambda rng: paired_delong(*two_scores(positives, negatives, rng)).p < 0.05


def pooled(rng: Generator) -> bool:
    """The same at two hospitals."""
    return pooled_delong([two_scores(20, 20, rng), two_scores(12, 9, rng)]).p < 0.05


def external(positives: int, negatives: int) -> Callable[[Generator], bool]:
    """Ten folds that are really fitted, the best one deployed to more patients of the same kind."""

    def cases(count: tuple[int, int], rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([1, 0], count)
        values = rng.normal(size=(len(labels), 6))
        values[:, :2] += np.array([1.4, 0.9]) * labels[:, None]
        return labels, values

    def rejects(rng: Generator) -> bool:
        labels, values = cases((83, 83), rng)
        other, seen = cases((positives, negatives), rng)
        held = np.tile(np.arange(83) % FOLDS, 2)
        every, logits = np.vstack([values, seen]), []
        for fold in range(FOLDS):
            train = np.r_[held != fold, np.zeros(len(seen), bool)]
            logits.append(survival.logistic_heads(every, np.r_[labels, other].astype(float)[None], train)[0])
        scores = np.array(logits)[held, np.arange(len(labels))]
        inside = pd.DataFrame({"fold": held, "label": labels, "logit": scores})
        deployed = logits[int(np.argmax(fold_aucs(inside)))][len(labels) :]
        return external_internal_difference(inside, other, deployed).p < 0.05

    return rejects


def folds_mean(rng: Generator) -> bool:
    """Fold AUCs of 8 and 8 patients."""
    table = pd.DataFrame({"fold": np.repeat(range(FOLDS), 16), "label": np.tile(np.repeat([1, 0], 8), FOLDS)})
    table["logit"] = SHIFT * table["label"] + rng.normal(size=len(table))
    return leaves_out(mean_auc(fold_aucs(table)), 0.84)


# --- calls of readers ------------------------------------------------------------------------------------------------


def mcnemar(cases: int) -> Callable[[Generator], bool]:
    """Two readers, equally often right, who differ on 30 % of the cases."""

    def rejects(rng: Generator) -> bool:
        differ = int(rng.binomial(cases, 0.3))
        first = int(rng.binomial(differ, 0.5))
        return mcnemar_exact(first, differ - first) < 0.05

    return rejects


def at_the_margin(cases: int, rng: Generator) -> tuple[int, int]:
    """Return the discordant calls of two raters who truly differ by ten points."""
    first, second, _ = rng.multinomial(cases, [0.15, 0.05, 0.8]).tolist()
    return first, second


def equivalence(cases: int) -> Callable[[Generator], bool]:
    """Two raters who just are not equivalent."""
    return lambda rng: tost_paired_proportions(*at_the_margin(cases, rng), cases, 0.1).equivalent


def tango(cases: int) -> Callable[[Generator], bool]:
    """The interval of their difference."""
    return lambda rng: leaves_out(paired_difference(*at_the_margin(cases, rng), cases), 0.1)


# --- the stay --------------------------------------------------------------------------------------------------------


def stays(count: int, rng: Generator) -> np.ndarray:
    """Return stays of whole days, on average a week."""
    return np.ceil(rng.exponential(7, count))


def fixed_groups(test: str) -> Callable[[Generator], bool]:
    """Groups that have nothing to do with the stay; one in ten dies."""

    def rejects(rng: Generator) -> bool:
        days, high = stays(PATIENTS, rng), rng.integers(0, 2, PATIENTS)
        cause = np.where(rng.random(PATIENTS) < 0.1, 2, 1)
        if test == "Gray":
            return survival.gray(days, cause, high).p < 0.05
        return getattr(survival, test)(days, cause == 1, high).p < 0.05

    return rejects


def clustered(rng: Generator) -> bool:
    """Three rows a patient; a patient's rows are of one group or of both."""
    patients = np.repeat(np.arange(PATIENTS), 3)
    days = np.repeat(stays(PATIENTS, rng), 3) + np.tile([8, 4, 0], PATIENTS)
    high = (np.repeat(rng.integers(0, 2, PATIENTS), 3) + rng.binomial(1, 0.2, len(patients))) % 2
    return survival.hazard_ratio(days, np.ones(len(days)), high, cluster=patients).p < 0.05


def out_of_fold(rng: Generator) -> pd.DataFrame:
    """Return patients with groups and logits of heads refitted by fold on noise, and logits of other such heads."""
    days = stays(PATIENTS, rng)
    table = pd.DataFrame({"patient_id": range(PATIENTS), "scan_id": range(PATIENTS), "remaining_days": days})
    table = table.assign(event=1, cause=1, label=(days >= 7).astype(int), fold=np.arange(PATIENTS) % FOLDS)
    order, label, held = np.arange(PATIENTS)[None], table["label"].to_numpy(float), table["fold"].to_numpy()
    inputs = rng.normal(size=(2, PATIENTS, 8))
    logit, other = (survival.permuted_logits([values] * FOLDS, held, label, order)[0] for values in inputs)
    return table.assign(logit=logit, other=other, high=(logit >= 0).astype(float))


def nominal(measure: str) -> Callable[[Generator], bool]:
    """What is called nominal: the interval of an out-of-fold score, of a gain, and the log-rank p of out-of-fold groups."""

    def rejects(rng: Generator) -> bool:
        table = out_of_fold(rng)
        if measure == "log-rank":
            return survival.log_rank(table["remaining_days"], table["event"], table["high"]).p < 0.05
        if measure.startswith("gain"):
            name = measure.removeprefix("gain ")
            return leaves_out(risk.bootstrap_interval(table, name, 499, rng, against="other"), 0.0)
        return leaves_out(risk.bootstrap_interval(table, measure, 499, rng), 0.5)

    return rejects


def ranks(pairs: int) -> Callable[[Generator], bool]:
    """Two measures that have nothing to do with each other."""
    return lambda rng: spearman(*rng.normal(size=(2, pairs))).p < 0.05


LEVELS = (
    Level("3", "mean of the folds: t interval", "10 folds of 8 + 8, AUC .84", 1000, folds_mean),
    Level("4", "paired DeLong", "20 + 20, AUC .84", 2000, paired(20, 20)),
    Level("4", "paired DeLong", "12 + 9, AUC .84", 2000, paired(12, 9)),
    Level("4", "pooled over two hospitals", "20 + 20 and 12 + 9, AUC .84", 2000, pooled),
    Level("4", "external minus internal", "20 + 20, AUC .87", 1000, external(20, 20)),
    Level("4", "external minus internal", "12 + 9, AUC .87", 1000, external(12, 9)),
    Level("5", "McNemar, exact", "20 cases", 2000, mcnemar(20)),
    Level("5", "McNemar, exact", "9 cases", 2000, mcnemar(9)),
    Level("5", "equivalence, at the margin", "20 cases", 2000, equivalence(20)),
    Level("5", "difference of shares: Tango's interval", "20 cases", 2000, tango(20)),
    Level("7", "log-rank", "49 patients, groups fixed", 2000, fixed_groups("log_rank")),
    Level("7", "Gray", "49 patients, groups fixed", 2000, fixed_groups("Gray")),
    Level("7", "hazard ratio", "49 patients, groups fixed", 2000, fixed_groups("hazard_ratio")),
    Level("7", "hazard ratio, all pairs by patient", "49 patients, 3 rows each", 1000, clustered),
    Level("7", "log-rank, nominal", "49 patients, out-of-fold groups", 1000, nominal("log-rank")),
    Level("7", "C-index, nominal interval", "49 patients, out-of-fold scores", 1000, nominal("c_index")),
    Level("7", "AUC, nominal interval", "49 patients, out-of-fold scores", 1000, nominal("auc")),
    Level("7", "gain in C-index, nominal interval", "49 patients, out-of-fold scores", 1000, nominal("gain c_index")),
    Level("7", "gain in AUC, nominal interval", "49 patients, out-of-fold scores", 1000, nominal("gain auc")),
    Level("7", "Spearman", "49 patients", 2000, ranks(49)),
    Level("7", "Spearman, exact", "6 patients", 2000, ranks(6)),
)


def rejections(level: Level, replicates: int) -> int:
    """Return how often a level's test rejects; each has random numbers of its own."""
    rng = np.random.default_rng(random_seed(1, level.test, level.setting))
    return sum(bool(level.rejects(rng)) for _ in range(replicates))


def measure(key: str) -> pd.DataFrame:
    """Return the row of one level, which "chapter: test, setting" names."""
    level = next(level for level in LEVELS if name_of(level) == key)
    row = {name: getattr(level, name) for name in ("chapter", "test", "setting", "replicates")}
    return pd.DataFrame([row | {"rejected": rejections(level, level.replicates)}])


def name_of(level: Level) -> str:
    """Return a level's name, for the stored table and the command line."""
    return f"{level.chapter}: {level.test}, {level.setting}"


if __name__ == "__main__":
    wanted = [name_of(level) for level in LEVELS if not sys.argv[1:] or level.chapter in sys.argv[1:]]
    print(campaigns.extend("levels", "level", wanted, measure, MADE_BY).to_string())
