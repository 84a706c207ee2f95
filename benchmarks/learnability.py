"""Can the network learn the simulated classes, and from the lesions? `standard` with three seeds, as far as Task 1 goes.

`python -m benchmarks.learnability [seed …]` computes cohort, intake, folds, B and C, and the maps of the missing seeds (about
25 min each on 2 cores) in runs/, and writes benchmarks/results/learnability.csv and learnability_curves.csv. The runs are those
of `make report` and `make extended`: what one has computed the other does not compute again.
"""

import sys
from typing import Any

import pandas as pd

from benchmarks import campaigns
from covid3d.chapters import ceiling, results, severity, trajectories
from covid3d.chapters.cross_validation import FLAT_WITHIN, LEAST_LOWER, LEAST_MEAN, LEAST_SKILL, flatness
from covid3d.chapters.explanation import lesion_share_ratio, read_summary
from covid3d.cohort.folds import read_splits
from covid3d.cohort.intake import accepted
from covid3d.commands import pipeline
from covid3d.run.files import cpu_count
from covid3d.run.profile import Run, open_run
from covid3d.stats.auc import auc, mean_fold_auc
from covid3d.stats.estimate import Estimate

NAME, CURVES = "learnability", "learnability_curves"
MADE_BY = (
    "covid3d.chapters.external_tests",
    "covid3d.chapters.cross_validation",
    "covid3d.chapters.explanation",
    "covid3d.chapters.severity",
    "covid3d.chapters.trajectory_scores",
    "covid3d.phantom.build",
    __file__,
)
SEEDS = (1, 2, 3)
LOWEST_RATIO = 2.0
JOBS = ("external", "explain", "trajectories")
BARS = (
    "mean of the folds",
    "beats 0.75",
    "beats burden",
    "beats metadata",
    "skill at A",
    "loss is flat",
    "map on lesions",
    "s follows burden",
)


def run_of(seed: int, profile: str = "standard") -> Run:
    """Open the run of a seed, named as `make report` and `make extended` name it."""
    return open_run(profile if seed == 1 else f"{profile}-seed{seed}", profile=profile, seed=seed)


def measure(seed: int, profile: str = "standard", cores: int | None = None) -> pd.DataFrame:
    """Compute Task 1, the external tests and the maps of one seed, and return `row_of` as one row."""
    run = run_of(seed, profile)
    if pipeline.compute(run, cores or cpu_count(), [f"done/jobs/{job}.done" for job in JOBS]):
        raise RuntimeError(f"run '{run.name}' stopped; see runs/{run.name}/logs/")
    return pd.DataFrame([row_of(run.with_options(compute=False))])


def row_of(run: Run) -> dict[str, Any]:
    """Return what a finished run says of learnability, and for each of `BARS` whether it is reached (1 or 0)."""
    change = flatness(results.learning_curves(run))
    ratio = lesion_share_ratio(read_summary(run), 1, run.profile.statistics.bootstrap, run.seed)
    inside, outside = results.out_of_fold(run), results.external_scores(run)
    outside = outside[outside["model"] == results.THREE_D]
    blind = ceiling.blind_models(run)
    row: dict[str, Any] = {"profile": run.profile.name, "scans_a": _scans(run), "scans_bc": len(outside)}
    for name, found in {"auc": mean_fold_auc(inside), "burden": blind["burden"], "metadata": blind["metadata"]}.items():
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    for hospital in ("A", "B", "C"):
        part = inside if hospital == "A" else outside[outside["hospital"] == hospital]
        reached = mean_fold_auc(part) if hospital == "A" else auc(part["label"], part["logit"])
        best = ceiling.oracle(run, part)
        known = {"auc": reached, "oracle": best, "skill": ceiling.skill(reached, best)}
        row |= {f"{what}_{hospital.lower()}": found.value for what, found in known.items()}
    s = _s_with_burden(run)
    row |= {"flatness": change, "map_ratio": ratio.value, "map_ratio_low": ratio.low, "map_ratio_high": ratio.high}
    row |= {"s_rank": s.value, "s_rank_low": s.low, "s_rank_high": s.high}
    reached = (
        row["auc"] >= LEAST_MEAN,
        row["auc_low"] > LEAST_LOWER,
        row["auc_low"] > row["burden"],
        not row["auc_low"] <= row["metadata"],  # no metadata varies: nothing to beat
        row["skill_a"] >= LEAST_SKILL,
        abs(change) <= FLAT_WITHIN,
        ratio.value >= LOWEST_RATIO and ratio.low > 1,
        s.value >= severity.LEAST_RANK,
    )
    return row | {name: int(bool(value)) for name, value in zip(BARS, reached, strict=True)}


def _s_with_burden(run: Run) -> Estimate:
    """Return the mean rank correlation of s with the true burden within the followed COVID+ patients."""
    course = severity.beside(run, trajectories.course_of(results.trajectory_scores(run), accepted(run)))
    return severity.Severity(course, course.head(0)).bar()["found"]


def _scans(run: Run) -> int:
    return int(read_splits(run)["scan_id"].nunique())


def missed(table: pd.DataFrame) -> list[str]:
    """Return the bars that are not reached, one line each, with the figure."""
    names = ("auc", "auc_low", "auc_low", "auc_low", "skill_a", "flatness", "map_ratio", "s_rank")
    figures = dict(zip(BARS, names, strict=True))
    short = [(row, bar) for row in table.to_dict("records") for bar in BARS if not row[bar]]
    return [f"seed {row['seed']}: {bar} not reached ({figures[bar]} {row[figures[bar]]:.3f})" for row, bar in short]


def campaign(seeds: tuple[int, ...] = SEEDS, profile: str = "standard", cores: int | None = None) -> pd.DataFrame:
    """Run the seeds that are missing; return learnability.csv, and write the mean learning curves beside it."""

    def one(seed: int) -> pd.DataFrame:
        row = measure(seed, profile, cores)
        curves = (
            results.learning_curves(run_of(seed, profile)).groupby("epoch", as_index=False).mean().drop(columns="fold")
        )
        known = campaigns.read(CURVES)
        others = [] if known is None else [known[known["seed"] != seed]]
        table = pd.concat([*others, curves.assign(seed=seed)], ignore_index=True).sort_values(["seed", "epoch"])
        campaigns.write(CURVES, table, MADE_BY)
        return row

    return campaigns.extend(NAME, "seed", seeds, one, MADE_BY)


if __name__ == "__main__":
    found = campaign(tuple(int(seed) for seed in sys.argv[1:]) or SEEDS)
    print(found.drop(columns=list(campaigns.STAMP)).T.to_string())
    print("\n".join(missed(found)) or "every bar is reached")
