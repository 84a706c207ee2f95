"""The fairness table on a small fixed slice of simulated patients: complete, and able to find a leak that is put in."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import fairness


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return fairness.measure(fairness.Setting("A", matrix=48, slices=20), 40, workers=1)


def test_one_row_a_scan_with_every_group_and_no_gap(rows: pd.DataFrame) -> None:
    assert len(rows) == 40 and rows["label"].sum() == 20
    assert all(any(str(name).startswith(f"{group}.") for name in rows) for group in fairness.GROUPS)
    assert not rows.isna().any().any()
    again = fairness.measure_one(fairness.Setting("A", matrix=48, slices=20), 3)
    assert pd.Series(again).drop("pattern").equals(rows.loc[3, list(again)].drop("pattern").rename(None))


def test_total_burden_and_lungs_do_not_depend_on_the_class_by_much(rows: pd.DataFrame) -> None:
    table = fairness.auc_table(rows, seeds=(1,)).set_index("group")
    assert table.loc[list(fairness.GROUPS), "low"].max() < 0.6
    assert table.loc["oracle_full", "auc"] > 0.8 and table.loc["oracle_full", "auc"] > table.loc["lung", "auc"]


def test_a_leak_is_found_and_features_without_spread_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 2
    table = pd.DataFrame({"hospital": "A", "label": labels, "lung.00": rng.normal(labels, 1), "slices.00": 40.0})
    found = fairness.auc_table(table.assign(oracle_full=labels + 0.0, oracle_grid=0.0), seeds=(1, 2, 3)).set_index(
        "group"
    )
    assert found.at["lung", "auc"] > 0.68 and found.at["lung", "verdict"] == "not reached"
    assert found.at["slices", "auc"] == 0.5 and found.at["slices", "verdict"] == "reached"
    assert found.at["oracle_full", "verdict"] == "not reached"


def test_another_scanner_and_mix_are_harder_for_a_classifier_of_a_that_reads_shifted_features() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(600) % 2
    near = pd.DataFrame({"hospital": "A", "mix": "A", "label": labels, "image.00": rng.normal(2 * labels, 1)})
    near["number"] = np.arange(600)
    far = near.assign(hospital="C", mix="C", **{"image.00": rng.normal(1.0 * labels, 1) + 1})
    tested = pd.concat([near, far.sample(frac=1, random_state=0)])
    found = fairness.difficulty(tested, near, fairness.feature_classifier(near)).set_index("hospital")
    assert found.at["A", "auc"] > found.at["C", "auc"] and found.at["A", "accuracy"] > found.at["C", "accuracy"]
    assert found.at["A", "change"] == 0 and found.at["C", "change_high"] < 0
    assert found.at["C", "change"] == pytest.approx(found.at["C", "auc"] - found.at["A", "auc"])


def test_two_settings_can_have_the_same_patients() -> None:
    small = {"matrix": 48, "slices": 12, "grid": (12, 24, 24), "write": False}
    own, same, other = (
        pd.DataFrame([fairness.measure_one(fairness.Setting(*place, patients=patients, **small), 3)])
        for place, patients in ((("A", "A"), "twins"), (("C", "A"), "twins"), (("C", "A"), ""))
    )
    burden = [table["burden.00"].item() for table in (own, same, other)]
    assert burden[0] == burden[1] != burden[2]
    assert own["volume.00"].item() != same["volume.00"].item()


def test_a_drift_moves_the_hounsfield_scale_and_nothing_else() -> None:
    small = {"matrix": 48, "slices": 12, "grid": (12, 24, 24), "write": False, "keep_grid": True}
    own, drifted = (fairness.measure_one(fairness.Setting("A", drift_hu=drift, **small), 3) for drift in (0.0, 60.0))
    inside = own["grid"] > -950
    assert np.abs(drifted["grid"] - own["grid"] - 60)[inside].mean() < 1
    assert own["burden.00"] == drifted["burden.00"]
