"""How often the tests of the book reject at 5 % where there is nothing to find, at the paper's numbers of patients.

`python -m benchmarks.levels` writes results/levels.csv, which chapter 4 shows: rejections at p < 0.05, or intervals that leave
out the true value. The tests by permutation of the real networks' heads have their own campaign, `benchmarks.null_world`.
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
from covid3d.stats import calibration, courses, cut_offs, over_time, risk, survival
from covid3d.stats.auc import external_internal_difference, fold_aucs, mean_auc, paired_delong, pooled_delong, spearman
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import kappa, mcnemar_exact, paired_difference, tost_paired_proportions, wilson

STATISTICS = ("calibration", "courses", "cut_offs", "over_time", "proportions", "risk")
MADE_BY = (*(f"covid3d.stats.{name}" for name in STATISTICS), __file__)
FOLDS = 10
PATIENTS = 49
ORDERS = 99
SHIFT = math.sqrt(2) * float(stats.norm.ppf(0.84))


class Level(NamedTuple):
    """What is tried: chapter, test, setting, how often, and one try: rejected or not, None without an answer."""

    chapter: str
    test: str
    setting: str
    replicates: int
    rejects: Callable[[Generator], bool | None]


def leaves_out(found: Estimate, true: float) -> bool | None:
    """True when an interval does not hold the true value; None without an interval, which neither holds nor misses."""
    return not found.low <= true <= found.high if found.has_limits else None


def small(p: float) -> bool | None:
    """True when p rejects at 5 %; None where there is no p."""
    return p < 0.05 if math.isfinite(p) else None


def at_most(p: float) -> bool | None:
    """The same for a p by permutation, which reaches 5 % itself."""
    return p <= 0.05 if math.isfinite(p) else None


# --- differences of AUCs ---------------------------------------------------------------------------------------------


def two_scores(positives: int, negatives: int, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and two scores of the same cases with a true AUC of .84 and a correlation of one half."""
    labels = np.repeat([1, 0], [positives, negatives])
    shared, one, two = rng.normal(scale=math.sqrt(0.5), size=(3, len(labels)))
    return labels, SHIFT * labels + shared + one, SHIFT * labels + shared + two


def paired(positives: int, negatives: int) -> Callable[[Generator], bool | None]:
    """Two models of equal AUC on the same patients."""
    return lambda rng: small(paired_delong(*two_scores(positives, negatives, rng)).p)


def pooled(rng: Generator) -> bool | None:
    """The same at two hospitals."""
    return small(pooled_delong([two_scores(20, 20, rng), two_scores(12, 9, rng)]).p)


def external(positives: int, negatives: int) -> Callable[[Generator], bool | None]:
    """Ten folds that are really fitted, the best one deployed to more patients of the same kind."""

    def cases(count: tuple[int, int], rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([1, 0], count)
        values = rng.normal(size=(len(labels), 6))
        values[:, :2] += np.array([1.4, 0.9]) * labels[:, None]
        return labels, values

    def rejects(rng: Generator) -> bool | None:
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
        return small(external_internal_difference(inside, other, deployed).p)

    return rejects


def folds_mean(rng: Generator) -> bool | None:
    """Fold AUCs of 8 and 8 patients."""
    table = pd.DataFrame({"fold": np.repeat(range(FOLDS), 16), "label": np.tile(np.repeat([1, 0], 8), FOLDS)})
    table["logit"] = SHIFT * table["label"] + rng.normal(size=len(table))
    return leaves_out(mean_auc(fold_aucs(table)), 0.84)


# --- probabilities ----------------------------------------------------------------------------------------------------


def calibrated(positives: int, negatives: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and logits that come true, of an AUC of .84: the log likelihood ratio and the odds of the sample."""
    labels = np.repeat([1, 0], [positives, negatives])
    values = SHIFT * labels + rng.normal(size=len(labels))
    return labels, SHIFT * (values - SHIFT / 2) + math.log(positives / negatives)


def slope(positives: int, negatives: int) -> Callable[[Generator], bool | None]:
    """The calibration slope of such logits, which is 1."""
    return lambda rng: leaves_out(calibration.recalibration(*calibrated(positives, negatives, rng)).slope, 1.0)


def intercept(positives: int, negatives: int) -> Callable[[Generator], bool | None]:
    """Their calibration in the large, which is 0."""
    return lambda rng: leaves_out(calibration.calibration_intercept(*calibrated(positives, negatives, rng)), 0.0)


def net_benefit(positives: int, negatives: int) -> Callable[[Generator], bool | None]:
    """What deciding at one half gains over treating all: the healthy left alone less the diseased left alone."""
    share = positives / (positives + negatives)
    cut = SHIFT / 2 - math.log(positives / negatives) / SHIFT
    true = (1 - share) * stats.norm.cdf(cut) - share * stats.norm.cdf(cut - SHIFT)

    def rejects(rng: Generator) -> bool | None:
        found = calibration.gain_over_defaults(*calibrated(positives, negatives, rng), 0.5)
        return leaves_out(found["treat all"], float(true))

    return rejects


def predictive_value(cases: int) -> Callable[[Generator], bool | None]:
    """The PPV at a prevalence of 10 %, where 85 % of each class are called rightly."""

    def rejects(rng: Generator) -> bool | None:
        right = [(int(rng.binomial(cases, 0.85)), cases) for _ in range(2)]
        found = calibration.predictive_values(right[0], right[1], [0.1]).at[0, "PPV"]
        return leaves_out(found, 0.85 * 0.1 / (0.85 * 0.1 + 0.15 * 0.9))

    return rejects


# --- calls of readers ------------------------------------------------------------------------------------------------


def mcnemar(cases: int) -> Callable[[Generator], bool | None]:
    """Two readers, equally often right, who differ on 30 % of the cases."""

    def rejects(rng: Generator) -> bool | None:
        differ = int(rng.binomial(cases, 0.3))
        first = int(rng.binomial(differ, 0.5))
        return mcnemar_exact(first, differ - first) < 0.05

    return rejects


def share(cases: int) -> Callable[[Generator], bool | None]:
    """The share of right calls of a rater who is right in 83 %."""
    return lambda rng: leaves_out(wilson(int(rng.binomial(cases, 0.83)), cases), 0.83)


def agreement(cases: int) -> Callable[[Generator], bool | None]:
    """Cohen's kappa of two raters who call half of the cases positive and agree on 80 %: it is .6."""

    def rejects(rng: Generator) -> bool | None:
        counts = rng.multinomial(cases, [0.4, 0.1, 0.1, 0.4])
        return leaves_out(kappa(np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)), 0.6)

    return rejects


def at_the_margin(cases: int, rng: Generator) -> tuple[int, int]:
    """Return the discordant calls of two raters who truly differ by ten points."""
    first, second, _ = rng.multinomial(cases, [0.15, 0.05, 0.8]).tolist()
    return first, second


def equivalence(cases: int) -> Callable[[Generator], bool | None]:
    """Two raters who just are not equivalent."""
    return lambda rng: tost_paired_proportions(*at_the_margin(cases, rng), cases, 0.1).equivalent


def tango(cases: int) -> Callable[[Generator], bool | None]:
    """The interval of their difference."""
    return lambda rng: leaves_out(paired_difference(*at_the_margin(cases, rng), cases), 0.1)


# --- courses ---------------------------------------------------------------------------------------------------------


def course(patients: int, rng: Generator) -> pd.DataFrame:
    """Return courses of four scans that rise by .05 a day on average; patients differ in level and slope."""
    level, steepness = rng.normal(size=patients), rng.normal(0.05, 0.03, patients)
    day = np.cumsum(rng.integers(2, 6, (patients, 4)), axis=1) - 2
    s = level[:, None] + steepness[:, None] * day + rng.normal(scale=0.7, size=day.shape)
    table = {"patient_id": np.repeat(np.arange(patients), 4), "day": day.ravel(), "logit": s.ravel()}
    return pd.DataFrame(table).assign(other=rng.normal(size=day.size))


def population_curve(rng: Generator) -> bool | None:
    """The curve's interval in the middle of the time."""
    points = courses.curve_of(course(PATIENTS, rng), "day", 199, rng).points
    if points.empty:
        return None
    day, _, low, high = points.iloc[30]
    return not low <= 0.05 * day <= high


def within(rng: Generator) -> bool | None:
    """s and a measure that has nothing to do with it."""
    return leaves_out(courses.rank_within(course(PATIENTS, rng), "logit", "other").estimate, 0.0)


def rescans(pairs: int) -> Callable[[Generator], bool | None]:
    """A new change beyond the noise band of rescans, where nothing has changed."""
    return lambda rng: abs(rng.normal()) > courses.noise_band_of(rng.normal(size=pairs)).half_width


# --- the stay --------------------------------------------------------------------------------------------------------


def stays(count: int, rng: Generator) -> np.ndarray:
    """Return stays of whole days, on average a week."""
    return np.ceil(rng.exponential(7, count))


def fixed_groups(test: str) -> Callable[[Generator], bool | None]:
    """Groups that have nothing to do with the stay; one in ten dies."""

    def rejects(rng: Generator) -> bool | None:
        days, high = stays(PATIENTS, rng), rng.integers(0, 2, PATIENTS)
        cause = np.where(rng.random(PATIENTS) < 0.1, 2, 1)
        if test == "Gray":
            return small(survival.gray(days, cause, high).p)
        return small(getattr(survival, test)(days, cause == 1, high).p)

    return rejects


def clustered(rng: Generator) -> bool | None:
    """Three rows a patient; a patient's rows are of one group or of both."""
    patients = np.repeat(np.arange(PATIENTS), 3)
    days = np.repeat(stays(PATIENTS, rng), 3) + np.tile([8, 4, 0], PATIENTS)
    high = (np.repeat(rng.integers(0, 2, PATIENTS), 3) + rng.binomial(1, 0.2, len(patients))) % 2
    return small(survival.hazard_ratio(days, np.ones(len(days)), high, cluster=patients).p)


def out_of_fold(rng: Generator) -> pd.DataFrame:
    """Return patients with groups and logits of heads refitted by fold on noise, and logits of other such heads."""
    days = stays(PATIENTS, rng)
    table = pd.DataFrame({"patient_id": range(PATIENTS), "scan_id": range(PATIENTS), "remaining_days": days})
    table = table.assign(event=1, cause=1, label=(days >= 7).astype(int), fold=np.arange(PATIENTS) % FOLDS)
    order, label, held = np.arange(PATIENTS)[None], table["label"].to_numpy(float), table["fold"].to_numpy()
    inputs = rng.normal(size=(2, PATIENTS, 8))
    logit, other = (survival.permuted_logits([values] * FOLDS, held, label, order)[0] for values in inputs)
    return table.assign(logit=logit, other=other, high=(logit >= 0).astype(float))


def nominal(measure: str) -> Callable[[Generator], bool | None]:
    """What is called nominal: the interval of an out-of-fold score, of a gain, and the log-rank p of out-of-fold groups."""

    def rejects(rng: Generator) -> bool | None:
        table = out_of_fold(rng)
        if measure == "log-rank":
            return small(survival.log_rank(table["remaining_days"], table["event"], table["high"]).p)
        if measure == "hazard ratio":
            return small(survival.hazard_ratio(table["remaining_days"], table["event"], table["logit"]).p)
        if measure == "AUC at the end of day 7":
            return leaves_out(over_time.auc_on(table, 7, 499, rng), 0.5)
        if measure.startswith("gain"):
            name = measure.removeprefix("gain ")
            return leaves_out(risk.bootstrap_interval(table, name, 499, rng, against="other"), 0.0)
        return leaves_out(risk.bootstrap_interval(table, measure, 499, rng), 0.5)

    return rejects


class Refitted(NamedTuple):
    """Patients, orders of their outcomes, logits (P, N) of heads refitted to each, and of a network moved from their features."""

    table: pd.DataFrame
    orders: np.ndarray
    heads: list[np.ndarray]
    own: list[np.ndarray]


def refitted(predictors: int, rng: Generator) -> Refitted:
    """Return predictors that know nothing, each by its heads on frozen features and by a network fine-tuned from there."""
    table = out_of_fold(rng)
    held, label = table["fold"].to_numpy(), table["label"].to_numpy(float)
    orders, heads, own = survival.permuted_orders(PATIENTS, ORDERS, rng), [], []
    for _ in range(predictors):
        inputs, layer = rng.normal(size=(PATIENTS, 8)), rng.normal(scale=8**-0.5, size=(8, 8))
        frozen = np.tanh(inputs @ layer)
        folds = [survival.principal_components(frozen, held != fold, 8) for fold in range(FOLDS)]
        heads.append(survival.permuted_logits(folds, held, label, orders))
        own.append(fine_tuned(inputs, layer, held, label))
    return Refitted(table, orders, heads, own)


def fine_tuned(
    inputs: np.ndarray, layer: np.ndarray, held: np.ndarray, label: np.ndarray, steps: int = 30
) -> np.ndarray:
    """Return out-of-fold logits (N,) of networks whose layer and head move by gradient steps from the frozen features' head."""
    logits = np.empty(len(label))
    for fold in range(FOLDS):
        train, weights = held != fold, layer.copy()
        head, bias = survival.linear_head(np.tanh(inputs[train] @ weights), label[train], 8)
        for _ in range(steps):
            hidden = np.tanh(inputs[train] @ weights)
            error = (1 / (1 + np.exp(-(hidden @ head + bias))) - label[train]) / train.sum()
            back = np.outer(error, head) * (1 - hidden**2)
            head, bias = head - hidden.T @ error, bias - error.sum()
            weights -= inputs[train].T @ back
        logits[~train] = np.tanh(inputs[~train] @ weights) @ head + bias
    return logits


def by_permutation(test: str, own: bool) -> Callable[[Generator], bool | None]:
    """A test by permuted outcomes: of the heads themselves, or of a network placed among the heads that stand in for it."""

    def rejects(rng: Generator) -> bool | None:
        table, orders, heads, networks = refitted(2 if test == "gain" else 1, rng)
        days, event = table["remaining_days"].to_numpy(float), table["event"].to_numpy(float)
        mine = networks[0] if own else heads[0][0]
        if test == "gain":
            found = risk.permuted_gain(table, orders, heads[0], heads[1], networks if own else None)
            return at_most(found.loc["auc", "permutation p"].value)
        if test == "best cut-off":
            return at_most(cut_offs.permuted(heads[0], orders, days, event, mine).p)
        null, group = survival.permuted_log_rank(heads[0], orders, days, event).null, mine >= 0
        return at_most(survival.permutation_p(survival.log_rank(days, event, group).chi_square, null))

    return rejects


def ranks(pairs: int) -> Callable[[Generator], bool | None]:
    """Two measures that have nothing to do with each other."""
    return lambda rng: small(spearman(*rng.normal(size=(2, pairs))).p)


NOMINAL = {
    "C-index": "c_index",
    "AUC": "auc",
    "AUC at the end of day 7": "AUC at the end of day 7",
    "gain in C-index": "gain c_index",
    "gain in AUC": "gain auc",
    "hazard ratio of the score": "hazard ratio",
}
LEVELS = (
    Level("3", "mean of the folds: t interval", "10 folds of 8 + 8, AUC .84", 1000, folds_mean),
    Level("4", "paired DeLong", "20 + 20, AUC .84", 2000, paired(20, 20)),
    Level("4", "paired DeLong", "12 + 9, AUC .84", 2000, paired(12, 9)),
    Level("4", "pooled over two hospitals", "20 + 20 and 12 + 9, AUC .84", 2000, pooled),
    Level("4", "external minus internal", "20 + 20, AUC .87", 1000, external(20, 20)),
    Level("4", "external minus internal", "12 + 9, AUC .87", 1000, external(12, 9)),
    Level("4", "calibration slope: interval", "20 + 20, AUC .84", 1000, slope(20, 20)),
    Level("4", "calibration slope: interval", "12 + 9, AUC .84", 1000, slope(12, 9)),
    Level("4", "calibration intercept: interval", "20 + 20, AUC .84", 1000, intercept(20, 20)),
    Level("4", "calibration intercept: interval", "12 + 9, AUC .84", 1000, intercept(12, 9)),
    Level("4", "net benefit over treating all: interval", "20 + 20, AUC .84", 1000, net_benefit(20, 20)),
    Level("4", "net benefit over treating all: interval", "12 + 9, AUC .84", 1000, net_benefit(12, 9)),
    Level("4", "predictive value: interval", "20 + 20, 85 % right", 2000, predictive_value(20)),
    Level("5", "share: Wilson's interval", "20 cases, 83 % right", 2000, share(20)),
    Level("5", "share: Wilson's interval", "9 cases, 83 % right", 2000, share(9)),
    Level("5", "kappa: interval", "40 cases, kappa .6", 1000, agreement(40)),
    Level("5", "kappa: interval", "21 cases, kappa .6", 1000, agreement(21)),
    Level("5", "McNemar, exact", "40 cases", 2000, mcnemar(40)),
    Level("5", "McNemar, exact", "20 cases", 2000, mcnemar(20)),
    Level("5", "McNemar, exact", "9 cases", 2000, mcnemar(9)),
    Level("5", "equivalence, at the margin", "20 cases", 2000, equivalence(20)),
    Level("5", "difference of shares: Tango's interval", "49 cases", 2000, tango(49)),
    Level("5", "difference of shares: Tango's interval", "20 cases", 2000, tango(20)),
    Level("5", "difference of shares: Tango's interval", "9 cases", 2000, tango(9)),
    Level("6", "rank within patients: t interval", "49 patients of 4 scans", 200, within),
    Level("6", "population curve: interval at mid time", "49 patients of 4 scans", 200, population_curve),
    Level("6", "noise band: a new change", "20 rescans", 2000, rescans(20)),
    Level("7", "log-rank", "49 patients, groups fixed", 2000, fixed_groups("log_rank")),
    Level("7", "Gray", "49 patients, groups fixed", 2000, fixed_groups("Gray")),
    Level("7", "hazard ratio", "49 patients, groups fixed", 2000, fixed_groups("hazard_ratio")),
    Level("7", "hazard ratio, all pairs by patient", "49 patients, 3 rows each", 1000, clustered),
    Level("7", "log-rank, nominal", "49 patients, out-of-fold groups", 1000, nominal("log-rank")),
    *(
        Level("7", f"{name}, nominal interval", "49 patients, out-of-fold scores", 1000, nominal(measure))
        for name, measure in NOMINAL.items()
    ),
    Level(
        "7", "best cut-off by permutation", "49 patients, heads refitted", 300, by_permutation("best cut-off", False)
    ),
    *(
        Level("7", f"{test} by permutation", "49 patients, a network among its heads", 300, by_permutation(test, True))
        for test in ("log-rank", "best cut-off", "gain")
    ),
    Level("7", "Spearman", "49 patients", 2000, ranks(49)),
    Level("7", "Spearman, exact", "6 patients", 2000, ranks(6)),
)


def rejections(level: Level, replicates: int) -> tuple[int, int]:
    """Return how often a level's test rejects, and in how many replicates it answers; each has random numbers of its own."""
    rng = np.random.default_rng(random_seed(1, level.test, level.setting))
    found = [level.rejects(rng) for _ in range(replicates)]
    return sum(answer is not None and bool(answer) for answer in found), sum(answer is not None for answer in found)


def measure(key: str) -> pd.DataFrame:
    """Return the row of one level, which "chapter: test, setting" names."""
    level = next(level for level in LEVELS if name_of(level) == key)
    row = {name: getattr(level, name) for name in ("chapter", "test", "setting", "replicates")}
    rejected, answered = rejections(level, level.replicates)
    return pd.DataFrame([row | {"rejected": rejected, "answered": answered}])


def name_of(level: Level) -> str:
    """Return a level's name, for the stored table and the command line."""
    return f"{level.chapter}: {level.test}, {level.setting}"


if __name__ == "__main__":
    wanted = [name_of(level) for level in LEVELS if not sys.argv[1:] or level.chapter in sys.argv[1:]]
    print(campaigns.extend("levels", "level", wanted, measure, MADE_BY).to_string())
