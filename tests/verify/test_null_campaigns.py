"""The null world at full size: cached features 400 times, and five whole pipelines. Results go to benchmarks/results/."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import null_smoke, null_world
from covid3d.run.files import cpu_count


@pytest.mark.verify
def test_400_replicates_reject_at_most_32_times():
    print("\ncampaign: null world, 400 replicates of folds, AUC, prognosis; 5 min on one core", flush=True)
    table = null_world.campaign(("null",), workers=cpu_count()).query("world == 'null'").set_index("quantity")
    tests = table.loc[list(null_world.TESTS)]
    assert (tests["replicates"] == 400).all()
    assert (tests["rejections"] <= 32).all(), tests[["rejections", "allowed"]].to_string()
    signed = table.loc[list(null_world.SIGNED)]
    assert (signed["p"] > 0.001).all(), signed.to_string()


@pytest.mark.verify
def test_the_same_tests_find_what_is_there():
    print(
        "\ncampaign: the worlds with an effect and with a visible stay, 400 replicates each; 8 min on one core",
        flush=True,
    )
    table = null_world.campaign(("effect", "stay"), workers=cpu_count()).set_index(["world", "quantity"])
    areas = [name for name in null_world.TESTS if name.startswith("AUC")]
    assert (table.loc[[("effect", name) for name in areas], "value"] > 0.9).all()
    planted = [name for name in null_world.TESTS if "two scans" in name]
    assert (table.loc[[("stay", name) for name in planted], "value"] > 0.8).all()


@pytest.mark.verify
@pytest.mark.parametrize("seed", null_smoke.SEEDS)
def test_a_whole_smoke_pipeline_in_the_null_world_ends(seed):
    print(f"\ncampaign: the null world's whole pipeline with seed {seed}; 5 min on 2 cores", flush=True)
    table = null_smoke.campaign((seed,)).query(f"seed == {seed}")
    assert {"AUC at B and C", "mean fold AUC at A", "signed effect of lesions in the map"} <= set(table["quantity"])


@pytest.mark.verify
def test_five_pipelines_together_say_nothing():
    table = null_smoke.campaign()
    found = null_smoke.verdict(table)
    assert table["seed"].nunique() == 5 and found["p"].notna().sum() >= 8
    assert (found["adjusted"].dropna() >= 0.05).all(), found.to_string()


def runs(shift: float, seed: int = 3) -> pd.DataFrame:
    """Return five runs of made-up values: AUCs and correlations around chance, or `shift` away from it."""
    rng, rows = np.random.default_rng(seed), []
    for run in null_smoke.SEEDS:
        for hospital in ("B", "C"):
            scores = rng.normal(size=8)
            scores[:4] += 6 * shift
            area = float(np.mean(scores[:4, None] > scores[4:]))
            rows.append(("AUC at B and C", hospital, area, 4, 4, run))
        for quantity in ("mean fold AUC at A", "s against day"):
            rows.append((quantity, "all", shift + 0.1 * rng.normal(), 0, 0, run))
    return pd.DataFrame(rows, columns=["quantity", "stratum", "value", "positives", "negatives", "seed"])


def test_the_verdict_over_five_runs_can_go_both_ways():
    assert (null_smoke.verdict(runs(0.0), 9999)["adjusted"] > 0.05).all()
    assert (null_smoke.verdict(runs(0.4), 9999)["adjusted"] < 0.05).all()


def test_the_permutation_of_strata_has_the_spread_of_mann_whitney():
    part = pd.DataFrame({"positives": [4], "negatives": [4], "value": [1.0]})
    _, p = null_smoke._permuted(part, 99_999)
    assert p == pytest.approx(2 / 70, abs=0.003), "2 of the 70 orders of 4 and 4 are as extreme (Mann & Whitney 1947)"
    assert null_smoke.holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
