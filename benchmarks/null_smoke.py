"""Five whole `smoke` pipelines in the null world: a surrogate cannot reveal a leak in the real one.

`python -m benchmarks.null_smoke [seed …]` writes benchmarks/results/null_smoke.csv; a finished seed is not run again.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from benchmarks import campaigns
from covid3d.chapters import prognosis, trajectories
from covid3d.chapters.explanation import first_scans, read_map, read_summary
from covid3d.chapters.fine_tuning import VARIANTS
from covid3d.chapters.results import external_scores, out_of_fold
from covid3d.chapters.truth import lesion_mask, read_truth
from covid3d.commands import pipeline
from covid3d.run.files import cpu_count, write_text
from covid3d.run.profile import Run, RunConfig, load_profile
from covid3d.stats.auc import auc_value, fold_aucs, spearman
from covid3d.stats.risk import MEASURES

NAME = "null_smoke"
MADE_BY = (
    "covid3d.chapters.external_scores",
    "covid3d.chapters.prognosis",
    "covid3d.chapters.explanation",
    "covid3d.chapters.trajectories",
    "covid3d.chapters.trajectory_scores",
    "covid3d.phantom.build",
    __file__,
)
SEEDS = (1, 2, 3, 4, 5)
CHAPTERS = ("04_external_tests", "06_trajectories", "07_prognosis")
"""The chapters whose results are asked: all that they need is computed."""
NAN = float("nan")


def measure(seed: int, world: str = "null") -> pd.DataFrame:
    """Compute a `smoke` run from DICOM to the results of `values_of` in a temporary root, and return these."""
    with tempfile.TemporaryDirectory(prefix="covid3d-null-") as folder:
        config = RunConfig(profile="smoke", world=world, seed=seed)
        run = Run(world, Path(folder), config, load_profile("smoke"))
        for name in ("notebooks", "book"):  # what a run reads besides the package
            (run.root / name).symlink_to(campaigns.CHECKOUT / name)
        write_text(run.path("config.yaml"), yaml.safe_dump(config.model_dump()))
        known = pipeline.jobs(run)
        needed = dict.fromkeys(need for chapter in CHAPTERS for need in known[chapter].needs)
        if pipeline.compute(run, cpu_count(), [f"done/jobs/{job}.done" for job in needed]):
            log = run.path("logs", "snakemake.log").read_text(encoding="utf-8")[-3000:]
            raise RuntimeError(f"the {world} world's run with seed {seed} stopped\n{log}")
        return values_of(run.with_options(compute=False))


def values_of(run: Run) -> pd.DataFrame:
    """Return what a run says where nothing is to be said: quantity, stratum, value, positives, negatives (of an AUC)."""
    rows: list[dict[str, Any]] = []

    def add(quantity: str, stratum: str, value: float, positives: int = 0, negatives: int = 0) -> None:
        head = {"quantity": quantity, "stratum": stratum, "value": value}
        rows.append({**head, "positives": positives, "negatives": negatives})

    inside = out_of_fold(run)
    for fold, value in enumerate(fold_aucs(inside)):
        add("mean fold AUC at A", f"fold {fold}", value - 0.5)
    external = external_scores(run)
    for hospital, part in external.query("model == 'covid3d'").groupby("hospital"):
        labels = part["label"].to_numpy(int)
        counts = int(labels.sum()), int((1 - labels).sum())
        add("AUC at B and C", str(hospital), auc_value(labels, part["logit"].to_numpy(float)), *counts)
    predictors = prognosis.load(run).predictors
    for variant in VARIANTS:
        table = predictors[variant]
        for name, pairs in MEASURES.items():
            value = float(pairs(table).value(np.ones((1, len(table))))[0])
            add(f"prognosis {name}", variant, value - 0.5)
    for quantity, value in {**_of_s(run), **_of_maps(run)}.items():
        add(quantity, "all", value)
    return pd.DataFrame(rows)


def _of_s(run: Run) -> dict[str, float]:
    """Return the correlations of s with day, remaining stay and true burden, and the change to days 7 to 10."""
    chapter, truth = trajectories.load(run), read_truth(run)
    assert truth is not None, "the null world is simulated"
    table = chapter.course.merge(truth[["scan_id", "burden_ml"]], on="scan_id")
    found = {"change of s to days 7 to 10": chapter.change().value}
    for name in ("day", "days_to_discharge", "burden_ml"):
        known = table.dropna(subset=[name])
        found[f"s against {name}"] = spearman(known["logit"], known[name]).estimate.value
    return found


def _of_maps(run: Run) -> dict[str, float]:
    """Return the mean signed effect of lesions in the maps of first scans."""
    scans = first_scans(read_summary(run))["scan_id"]
    pairs = ((read_map(run, scan), lesion_mask(run, scan)) for scan in scans)
    found = [signed_effect(values, lesion) for values, lesion in pairs if lesion is not None and lesion.sum() > 0]
    return {"signed effect of lesions in the map": float(np.mean(found)) if found else NAN}


def signed_effect(values: np.ndarray, lesion: np.ndarray) -> float:
    """Return the mean of a signed map in lesions minus its mean elsewhere, in SDs of the map; maps and masks (z, y, x)."""
    weight = lesion / lesion.sum()
    other = (1 - lesion) / (1 - lesion).sum()
    spread = float(values.std())
    return float((values * weight).sum() - (values * other).sum()) / spread if spread > 0 else 0.0


def verdict(table: pd.DataFrame, replicates: int = 99_999) -> pd.DataFrame:
    """Return one row a quantity: n, value, p, method, adjusted (Holm's p over the quantities).

    AUC at B and C: their labels never reached training, so within a run and hospital every order of scores is as likely;
    the sum over runs and hospitals of U - mn / 2 is placed in its permutation distribution. All else: Student's t over
    the runs, each run being one value (its mean over strata), since folds and patients of a run depend on each other.
    Prognosis is tested for being too good only: pooled over folds, noise scores below 0.5, because a fold whose held-out
    patients stay long was trained on those who do not.
    """
    rows = []
    for quantity, part in table.groupby("quantity", sort=False):
        if (part["positives"] > 0).all():
            value, p, method = (*_permuted(part, replicates), "permutation within run and hospital")
        else:
            values = part.groupby("seed")["value"].mean().dropna()
            value, method = float(values.mean()), f"t over {len(values)} runs"
            spread = len(values) > 1 and values.std() > 0
            sides = "greater" if str(quantity).startswith("prognosis") else "two-sided"
            method += ", one-sided" if sides == "greater" else ""
            p = float(stats.ttest_1samp(values, 0, alternative=sides).pvalue) if spread else NAN
        rows.append({"quantity": quantity, "n": len(part), "value": value, "p": p, "method": method})
    found = pd.DataFrame(rows)
    tested = found["p"].notna()
    found.loc[tested, "adjusted"] = holm(found.loc[tested, "p"].to_numpy())
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p (Holm 1979)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def _permuted(part: pd.DataFrame, replicates: int) -> tuple[float, float]:
    """Return the mean AUC - 0.5 and the two-sided permutation p of the summed U."""
    rng, observed, null = np.random.default_rng(1), 0.0, np.zeros(replicates)
    for m, n, area in part[["positives", "negatives", "value"]].itertuples(index=False):
        m, n = int(m), int(n)
        ranks = rng.random((replicates, m + n)).argsort(1)[:, :m].sum(1)
        null += ranks - m * (m - 1) / 2 - m * n / 2
        observed += (area - 0.5) * m * n
    p = (1 + int((np.abs(null) >= abs(observed) - 1e-9).sum())) / (1 + replicates)
    return float((part["value"] - 0.5).mean()), p


def campaign(seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Run the seeds that are missing and return null_smoke.csv: `values_of` each run, column seed."""
    return campaigns.extend(NAME, "seed", seeds, measure, MADE_BY)


if __name__ == "__main__":
    print(verdict(campaign(tuple(int(seed) for seed in sys.argv[1:]) or SEEDS)).to_string(index=False))
