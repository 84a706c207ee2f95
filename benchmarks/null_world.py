"""The null world, replicate by replicate: no test of the project may find what is not there.

A replicate redraws the order form, every scan's appearance and the patterns of the patients, and goes the project's own way
from there: its folds, its choice of the deployed fold, its AUC intervals, its pairs, heads, bootstrap and permutations. Only
the network is replaced: what it would compute of a scan is a random layer over what the scan shows, another one a fold.

In the `effect` world the classes and the course are simulated as ever; in the world `stay` the change between a patient's
scans tells the remaining stay. They show that the same tests do find what is there.

`python -m benchmarks.null_world [null|effect|stay] [replicates]` writes benchmarks/results/null_world.csv.
"""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import campaigns
from covid3d.chapters import prognosis
from covid3d.chapters.fine_tuning import COMPONENTS, VARIANTS, head_inputs, pairs_of
from covid3d.chapters.predictors import network_scores
from covid3d.chapters.task1 import select
from covid3d.cohort.folds import make_folds
from covid3d.network.scoring import prediction_rows
from covid3d.phantom.build import pattern_labels
from covid3d.phantom.course import appearance
from covid3d.phantom.order_form import course_of, make_order_form
from covid3d.run.files import cpu_count, parallel_map, random_seed
from covid3d.run.profile import Run, RunConfig, load_profile
from covid3d.stats.auc import auc, auc_value, fold_aucs, log_loss, mean_interval, spearman
from covid3d.stats.courses import change_of
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import clopper_pearson
from covid3d.stats.survival import linear_head

NAME = "null_world"
MADE_BY = ("covid3d.chapters.prognosis", "covid3d.chapters.task1", "covid3d.phantom.build", __file__)
WORLDS = ("null", "effect", "stay")
REPLICATES = 400
FOLDS, FEATURES, EVIDENCE = 10, 32, 5
PHASE_VISIBLE = 0.5
TESTS = {
    "AUC at B is not 0.5": "b_rejects",
    "AUC at C is not 0.5": "c_rejects",
    "two scans gain by permutation, C-index": "gain_c_index_rejects",
    "two scans gain by permutation, AUC": "gain_auc_rejects",
    "log-rank by permutation, one scan": "log_rank_single_rejects",
    "log-rank by permutation, two scans": "log_rank_pair_rejects",
}
SIGNED = {"change of s to days 7 to 10": "s_change", "s against true burden, followed patients": "s_burden"}


def allowed(replicates: int) -> int:
    """Return how many rejections at 5 % pass: 32 of 400; of fewer replicates the 99.9 % quantile of that share."""
    return 32 if replicates == REPLICATES else int(stats.binom.ppf(0.999, replicates, 32 / REPLICATES))


def order_form(seed: int) -> tuple[pd.DataFrame, int]:
    """Return an order form drawn afresh, and the seed of its courses; a seed whose scans do not fit its stays is passed over."""
    for attempt in range(9):
        drawn = 1000 * seed + attempt
        with contextlib.suppress(ValueError):
            return make_order_form(drawn), drawn
    raise RuntimeError(f"no order form from seed {seed}")


def shown(
    table: pd.DataFrame, courses: int, world: str, seed: int, phase_visible: float = PHASE_VISIBLE
) -> pd.DataFrame:
    """Return what each scan of an order form shows: columns burden, phase, ground_glass, contrast_hu, pattern (1 | 0)."""
    days = table.groupby("patient_id")["day"].agg(lambda values: [int(day) for day in values])
    pattern, rows = pattern_labels(table, "null" if world == "null" else "effect", seed), []
    for scan in table.itertuples():
        course = course_of(courses, str(scan.patient_id), float(scan.age), days[scan.patient_id])
        rng = np.random.default_rng(random_seed(seed, scan.scan_id, "disease"))
        since = float(scan.days_since_onset)
        look = appearance(course, since, rng, phase_visible=phase_visible, independent=world == "null")
        rows.append((look.burden, look.phase, look.ground_glass, look.contrast_hu, pattern[str(scan.patient_id)]))
    columns = ["burden", "phase", "ground_glass", "contrast_hu", "pattern"]
    return pd.DataFrame(rows, columns=columns, index=table["scan_id"])


def features(seen: pd.DataFrame, table: pd.DataFrame, world: str, seed: int) -> np.ndarray:
    """Return what each fold's network would make of the scans, (folds, N, FEATURES).

    Evidence of the pattern grows with the burden; site and shape are the patient's, noise is the scan's. In the world
    `stay` further values lie at a level of the patient's own and differ by the remaining stay from the second scan on.
    """
    rng = np.random.default_rng(random_seed(seed, "features"))
    codes, names = pd.factorize(table["patient_id"])
    own = rng.normal(size=(len(names), EVIDENCE))[codes]
    strength = (seen["burden"] / (seen["burden"] + 0.03)).to_numpy()[:, None]
    side = (2 * seen["pattern"] - 1).to_numpy()[:, None]
    evidence = strength * (0.7 * side + own) + rng.normal(0, 0.3, own.shape)
    amount = (np.log(seen["burden"]) + 2.5, (seen["ground_glass"] - 0.7) / 0.15, (seen["contrast_hu"] - 270) / 60)
    values = np.column_stack([evidence, *amount])
    if world == "stay":
        stay = (table["days_to_discharge"].to_numpy(float) - 7) / 2 * (table["scan_index"] > 0).to_numpy()
        level = (rng.normal(0, 2, len(names))[codes] + stay)[:, None]
        values = np.column_stack([values, level + rng.normal(0, 0.2, (len(table), 2 * EVIDENCE))])
    layers = rng.normal(0, 1 / np.sqrt(values.shape[1]), (FOLDS, values.shape[1], FEATURES))
    return np.tanh(values @ layers + rng.normal(0, 0.5, (FOLDS, 1, FEATURES)))


def replicate(seed: int, world: str, permutations: int = 99, bootstrap: int = 399) -> dict[str, Any]:
    """Return one replicate: the tests of `TESTS` (1 = rejected at 5 %), `SIGNED` and the AUCs."""
    table, courses = order_form(seed)
    seen = shown(table, courses, world, seed)
    found = features(seen, table, world, seed)
    splits = make_folds(table, FOLDS, seed)
    logits, deployed, inside = _task_1(table, splits, found)
    row: dict[str, Any] = {"seed": seed, "auc_a": inside}
    for hospital in ("B", "C"):
        first = ((table["hospital"] == hospital) & (table["scan_index"] == 0)).to_numpy()
        area = auc(table.loc[first, "label"], logits[deployed][first])
        row |= {f"auc_{hospital.lower()}": area.value, f"{hospital.lower()}_rejects": _without(area, 0.5)}
    row |= _trajectories(table, seen, splits, logits, deployed)
    return row | _prognosis(table, splits, found, seed, permutations, bootstrap)


def _without(interval: Estimate, value: float) -> int:
    return int(not interval.low <= value <= interval.high)


def _task_1(table: pd.DataFrame, splits: pd.DataFrame, found: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Return the logits of each fold's model on all scans, the deployed fold, and the mean fold AUC at A."""
    logits, curves, held_out = [], [], []
    for fold, part in splits.groupby("fold"):
        train, held = (
            table["scan_id"].isin(part.loc[part["split"] == side, "scan_id"]) for side in ("train", "validation")
        )
        weight, bias = linear_head(found[fold][train], table.loc[train, "label"].to_numpy(float), COMPONENTS)
        logits.append(found[fold] @ weight + bias)
        scores = table.loc[held, ["label"]].assign(fold=fold, logit=logits[-1][held])
        loss = log_loss(scores["label"], scores["logit"])
        curves.append((fold, 1, loss, auc_value(scores["label"], scores["logit"])))
        held_out.append(scores)
    choice = select(pd.DataFrame(curves, columns=["fold", "epoch", "validation_loss", "validation_auc"]))
    deployed = int(choice.loc[choice["deployed"] == 1, "fold"].iloc[0])
    return np.array(logits), deployed, float(np.mean(fold_aucs(pd.concat(held_out))))


def _trajectories(
    table: pd.DataFrame, seen: pd.DataFrame, splits: pd.DataFrame, logits: np.ndarray, deployed: int
) -> dict[str, float]:
    """Return the mean change of s to days 7 to 10, and Spearman's correlation of s with true burden, followed patients."""
    held = splits[splits["split"] == "validation"].set_index("patient_id")["fold"]
    fold = table["patient_id"].map(held).fillna(deployed).astype(int)
    scored = table.assign(logit=logits[fold, np.arange(len(table))], burden=seen["burden"].to_numpy())
    followed = scored[scored["patient_id"].isin(table.loc[table["role"] == "followup", "patient_id"])]
    rank = spearman(followed["logit"], followed["burden"]).estimate.value
    return {"s_change": change_of(followed).value, "s_burden": rank}


def _prognosis(
    table: pd.DataFrame,
    splits: pd.DataFrame,
    found: np.ndarray,
    seed: int,
    permutations: int,
    bootstrap: int,
) -> dict[str, Any]:
    """Return the paired gain of two scans over one and both permutation tests, by the object that chapter 7 asks."""
    profile = load_profile("standard")
    sizes = {
        "prognosis": profile.prognosis.model_copy(update={"permutations": permutations}),
        "statistics": profile.statistics.model_copy(update={"bootstrap": bootstrap}),
    }
    pairs = pairs_of(table, splits, profile.prognosis.high_risk_days)
    pairs = pairs[pairs["scan_index"] == 1].reset_index(drop=True)
    run = Run("null", Path("null"), RunConfig(profile="standard", seed=seed), profile.model_copy(update=sizes))
    features, scores = _heads(pairs, table["scan_id"], found)
    networks = network_scores(pairs, scores)  # no controls: the order form's schedule is real in every world
    stay = prognosis.Prognosis(run, pairs, networks, features, scores)
    chance = {variant: stay.permutation(variant).p for variant in VARIANTS}
    row: dict[str, Any] = {f"p_{variant}": p for variant, p in chance.items()}
    row |= {f"log_rank_{variant}_rejects": int(p <= 0.05) for variant, p in chance.items()}
    for measure, gain in stay.gain_over("single").iterrows():
        rejects = int(gain["permutation p"].value <= 0.05)
        row |= {f"gain_{measure}": gain["difference"].value, f"gain_{measure}_rejects": rejects}
    return row


def _heads(
    pairs: pd.DataFrame, scans: pd.Series, found: np.ndarray
) -> tuple[dict[str, list[pd.DataFrame]], pd.DataFrame]:
    """Return what fine-tuning leaves: each fold's features by variant, and the scores of heads fitted without the fold."""
    place = pd.Series(np.arange(len(scans)), index=scans)
    one, two = place[pairs["scan_id"]].to_numpy(), place[pairs["prior_scan_id"]].to_numpy()
    features: dict[str, list[pd.DataFrame]] = {"single": [], "pair": []}
    rows = []
    for fold in range(FOLDS):
        train = ((pairs["fold"] != fold) & (pairs["test"] == 1) & pairs["label"].notna()).to_numpy()
        held = ((pairs["fold"] == fold) & (pairs["test"] == 1)).to_numpy()
        labels = pairs.loc[train, "label"].to_numpy(float)
        for variant, values in (
            ("single", found[fold][one]),
            ("pair", np.hstack([found[fold][two], found[fold][one]])),
        ):
            inputs = head_inputs(variant, values)
            weight, bias = linear_head(inputs[train], labels, COMPONENTS)
            features[variant].append(pd.DataFrame(values, index=pairs["scan_id"]))
            logits = inputs[held] @ weight + bias
            scored = pairs[held]
            rows.append(prediction_rows("prognosis", variant, fold, 1, scored, "validation", "nominal", logits))
    return features, pd.concat(rows, ignore_index=True)


def replicates(world: str, count: int, workers: int = 1) -> pd.DataFrame:
    """Return `count` replicates with seeds 1, 2, …, one row each."""
    work = partial(replicate, world=world)
    return pd.DataFrame(list(parallel_map(work, range(1, count + 1), workers=workers, description=f"{world} world")))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a test: quantity, replicates, rejections, share, allowed, mean, low, high, p (t test of mean zero)."""
    rows: list[dict[str, Any]] = []
    for quantity, column in TESTS.items():
        count = int(table[column].sum())
        share = clopper_pearson(count, len(table))
        head = {"quantity": quantity, "replicates": len(table), "rejections": count, "allowed": allowed(len(table))}
        rows.append({**head, "value": share.value, "low": share.low, "high": share.high})
    for quantity, column in SIGNED.items():
        values = table[column].dropna()
        mean = mean_interval(values)
        p = float(stats.ttest_1samp(values, 0).pvalue)
        rows.append({"quantity": quantity, "replicates": len(values), **_limits(mean), "p": p})
    return pd.DataFrame(rows)


def _limits(interval: Estimate) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def campaign(worlds: tuple[str, ...] = WORLDS, count: int = REPLICATES, workers: int = 1) -> pd.DataFrame:
    """Run what is missing and return null_world.csv: `summary` of each world."""
    return campaigns.extend(NAME, "world", worlds, lambda world: summary(replicates(world, count, workers)), MADE_BY)


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:2]) or WORLDS
    print(campaign(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else REPLICATES, cpu_count()).to_string(index=False))
