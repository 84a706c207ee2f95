"""The simulator at full size: fair, as the paper's course, learnable, fast. Results go to benchmarks/results/."""

import pytest

from benchmarks import (
    campaigns,
    fairness,
    phantom,
    phantom_boxes,
    phantom_depth,
    phantom_evidence,
    phantom_gain,
    phantom_truth,
    scaling,
    seeds,
)

pytestmark = pytest.mark.verify


def announce(what: str) -> None:
    """Say what begins and how long it takes; a part whose result is stored and current is passed over."""
    print(f"\ncampaign: {what}", flush=True)


def test_the_true_course_is_the_one_the_paper_describes():
    announce("true course of the embedded cohort, and the stay foretold from truth; 2 min")
    course, stay = phantom_truth.campaign()
    missed = course[course["verdict"] == "not reached"]
    assert missed.empty, missed.to_string()
    assert (stay["patients"] >= 300).all()
    gain = stay[stay["predictor"] == "two scans - one scan"].set_index("phase_visible")
    single = stay[stay["predictor"] == "one scan"].set_index("phase_visible")["auc"]
    assert gain.loc[0.0, "auc_low"] > 0, "one scan without its phase tells less than two"
    assert single[0.0] < single[0.5] < single[1.0], "the knob tells the phase"
    assert gain.loc[1.0, "auc"] < gain.loc[0.0, "auc"]
    burden = stay[stay["phase_visible"] == 0.5].set_index("predictor")
    assert burden.loc["burden of two scans - burden of one scan", "p"] < 0.05, (
        "the change between two scans tells the stay"
    )
    assert burden.loc["age and sex", "auc_low"] < 0.5


def test_evidence_grows_with_disease_within_the_patients_of_other_order_forms():
    announce("the perfect reader on the scans of six order forms; 6 min on 2 cores")
    table = phantom_evidence.campaign()
    assert (table["reached"] == 1).all(), table.to_string()


def test_a_second_scan_tells_the_network_more_of_the_stay():
    announce("300 followed patients, two scans each, seen by the deployed network of 'standard'; 5 min on 2 cores")
    gain = phantom_gain.campaign().set_index("predictor").loc["network, two scans - one scan"]
    assert gain["patients"] >= 300
    assert gain["auc"] > 0 and gain["p"] < 0.05, gain.to_string()


def test_evidence_against_covid_lies_in_the_lesions_of_the_other_class():
    announce("the perfect reader and the networks of three seeds, searched by boxes; 1 min after 'make extended'")
    table = campaigns.extend(
        phantom_boxes.NAME, "seed", seeds.SEEDS, phantom_boxes.measure, phantom_boxes.MADE_BY
    ).query("reader == 'network' and evidence == 'against COVID-19'")
    assert (table.loc[table["class"] == "COVID-", "low"] > 1).all(), table.to_string()


def test_single_slices_lose_little_of_what_tells_the_class():
    announce("the perfect reader of whole scans and one of single slices, 1,200 simulated patients; 6 min on 2 cores")
    found = phantom_depth.campaign().set_index("quantity")["value"]
    assert found["AUC, single slices"] > 0.85, found.to_string()


@pytest.mark.parametrize("size", ["scan", "cohort"])
def test_a_simulation_keeps_its_limits_of_time_and_memory(size):
    announce(f"speed and memory of a {size}; scan 1 min, cohort 4 min; the machine must do nothing else")
    table = phantom.campaign((size,))
    own = table[(table["size"] == size) & (table["by"] == "covid3d.phantom")].iloc[0]
    assert own["seconds"] <= own["limit_seconds"] and own["peak_mib"] <= own["limit_mib"], own.to_string()


@pytest.mark.parametrize("hospital", fairness.HOSPITALS)
def test_nothing_but_site_side_and_shape_tells_the_class(hospital):
    announce(f"fairness at hospital {hospital}, 600 patients a class; 20 min on 2 cores")
    table = fairness.campaign((hospital,)).query(f"hospital == '{hospital}'")
    assert set(fairness.GROUPS) <= set(table["group"])
    assert (table["verdict"] == "reached").all(), table[table["verdict"] != "reached"].to_string()


@pytest.mark.parametrize(
    "harder", [("mix of B", "mix of C"), ("B", "C"), ("scanner of B", "scanner of C")], ids="-".join
)
def test_another_scanner_and_another_mix_are_harder(harder):
    announce(
        "difficulty of B and C for fixed classifiers of A, the same 300 patients in each setting; 25 min on 2 cores"
    )
    found = fairness.difficulty_campaign()
    assert (found["n"] >= 300).all()
    judged = found[found["setting"].isin(harder)]
    assert len(judged) == 4 and (judged["change"] < 0).all(), judged.to_string()


@pytest.mark.parametrize("seed", seeds.SEEDS)
def test_every_bar_is_reached_with_each_seed(seed):
    announce(f"'standard' with seed {seed}, whole; 25 min on 2 cores")
    table = seeds.campaign((seed,)).query(f"seed == {seed}")
    assert not seeds.missed(table), "\n".join(seeds.missed(table))


def test_more_patients_teach_more():
    announce("more patients, more epochs, the lungs alone; 40 min on 2 cores")
    table = scaling.campaign().set_index("setting")
    assert set(table.index) == set(scaling.SETTINGS)
    assert table.at["4 times the patients", "auc"] > table.at["as standard", "auc"], table.T.to_string()
