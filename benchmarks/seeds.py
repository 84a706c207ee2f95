"""What a run of `standard` reaches with each seed: every bar that its chapters judge, and the AUCs that Table 1 rests on.

`python -m benchmarks.seeds [seed …]` computes the runs that are missing, whole (about 15 min each on 2 cores), and writes
benchmarks/results/seeds.csv. The runs are those of `make report` and `make extended`.
"""

import sys
from typing import Any

import pandas as pd

from benchmarks import campaigns
from covid3d.chapters.measured import REACHED, of_networks
from covid3d.commands import pipeline
from covid3d.report.landing import ASKED, judged
from covid3d.run.files import cpu_count, read_json
from covid3d.run.profile import Run, open_run

NAME, SEEDS = "seeds", (1, 2, 3)
MADE_BY = (
    "covid3d.chapters.prognosis",
    "covid3d.chapters.trajectories",
    "covid3d.phantom.build",
    __file__,
    *campaigns.STARTS,
)
OF_OTHER_FORMS = "evidence_of_forms"
"""A table of chapter 9 that is the same with every seed: a campaign's, of other order forms."""
BESIDE = ("internal.mean_of_the_folds.auc", "table_1.covid3d.auc_at_b", "table_1.covid3d.auc_at_c")
"""Numbers that no bar asks for, kept beside the bars."""


def run_of(seed: int, profile: str = "standard") -> Run:
    """Open the run of a seed, named as `make report` and `make extended` name it."""
    return open_run(profile if seed == 1 else f"{profile}-seed{seed}", profile=profile, seed=seed)


def measure(seed: int, profile: str = "standard", cores: int | None = None) -> pd.DataFrame:
    """Compute the run of one seed where it is missing, and return `bars_of` it."""
    run = run_of(seed, profile)
    if pipeline.compute(run, cores or cpu_count()):
        raise RuntimeError(f"run '{run.name}' stopped; see runs/{run.name}/logs/")
    return bars_of(read_json(run.path("values.json"))).assign(profile=profile)


def bars_of(values: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return every number of a run that a bar was set for: address, asks, value, low, high, reached (1 or 0); then `BESIDE`."""
    rows = []
    for row, said in judged(values).items():
        if row.startswith(f"{OF_OTHER_FORMS}.") or values.get(f"{row}.found", {}).get("value") is None:
            continue
        asks = next((values[f"{row}.{word}"]["text"] for word in ASKED if f"{row}.{word}" in values), "")
        found = (values[f"{row}.found"][part] for part in ("value", "low", "high"))
        rows.append((row, asks, *found, int(said["text"] == REACHED)))
    rows += [(name, "", *(values[name][part] for part in ("value", "low", "high")), None) for name in BESIDE]
    return pd.DataFrame(rows, columns=["address", "asks", "value", "low", "high", "reached"])


def campaign(seeds: tuple[int, ...] = SEEDS, profile: str = "standard", cores: int | None = None) -> pd.DataFrame:
    """Return seeds.csv with a row for every bar of every seed asked for."""
    return campaigns.extend(NAME, "seed", seeds, lambda seed: measure(seed, profile, cores), MADE_BY)


def missed(table: pd.DataFrame) -> list[str]:
    """Return the bars of the networks that are not reached, one line each, with what was found."""
    short = of_networks(table).query("reached == 0")
    return [f"seed {row.seed}: {row.address} asks {row.asks}; found {row.value:.3f}" for row in short.itertuples()]


if __name__ == "__main__":
    found = campaign(tuple(int(seed) for seed in sys.argv[1:]) or SEEDS)
    print(found.drop(columns=list(campaigns.STAMP)).to_string())
    print("\n".join(missed(found)) or "every bar is reached")
