"""s beside burden and opacity: rank within patients, days of the highest, and what controls do, by hand sums."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_run import synthetic_run

from covid3d.chapters import severity
from covid3d.chapters.severity import Severity
from covid3d.stats.proportions import paired_difference


def course_of(sign: float) -> pd.DataFrame:
    """Four patients of four scans whose burden peaks on day 8, and s with it (sign 1) or against it (sign -1)."""
    rows = [(name, index, day) for name in "PQRS" for index, day in enumerate((0.0, 4.0, 8.0, 14.0))]
    table = pd.DataFrame(rows, columns=["patient_id", "scan_index", "day"])
    burden = table["day"].map({0.0: 0.1, 4.0: 0.2, 8.0: 0.3, 14.0: 0.05}) + table["patient_id"].map(ord) / 1000
    known = {"burden_fraction": burden, "above_700": burden / 2, "above_500": -burden, "oracle_grid_logit": 3 * burden}
    return table.assign(
        scan_id=table["patient_id"] + table["scan_index"].astype(str), logit=sign * 10 * burden, **known
    )


SICK = Severity(course_of(1), course_of(-1))


def test_s_goes_with_burden_or_against_it():
    assert SICK.with_burden().value == 1
    assert replace(SICK, course=SICK.controls).with_burden().value == -1


def test_the_shares_of_the_week_are_compared_within_patients():
    """Four patients with their burden's highest on day 8; two have s highest on day 0: 50 points, Tango's interval."""
    assert SICK.week_apart().value == 0
    early = SICK.course["patient_id"].isin(["P", "Q"]) & (SICK.course["day"] == 0)
    table = SICK.course.assign(logit=SICK.course["logit"].mask(early, 99.0))
    found = replace(SICK, course=table).week_apart()
    expected = paired_difference(0, 2, 4)
    assert (found.value, found.low, found.high) == pytest.approx((-50, 100 * expected.low, 100 * expected.high))
    assert str(found).startswith("-50")
    unscored = table.assign(logit=table["logit"].mask(table["patient_id"] == "P"))
    assert replace(SICK, course=unscored).week_apart().value == pytest.approx(-100 / 3), "P counts in nothing"


def test_both_groups_are_asked_of_every_measure():
    table = SICK.follows()
    assert [found.value for found in table["s"]] == [1, 1, -1, -1, -1, 1]
    assert [found.value for found in table["perfect reader"]] == [1, 1, -1] * 2
    assert table["patients"].tolist() == [4] * 6
    assert [found.value for found in SICK.measures()["with true burden"]] == [1, -1]


def test_a_patient_with_one_scan_and_one_without_a_change_are_counted_apart():
    scans = SICK.course.drop(index=[0, 1, 2])
    scans.loc[scans["patient_id"] == "Q", "logit"] = 1.0
    row = replace(SICK, course=scans).follows().loc["COVID+, true burden"]
    assert (row["patients"], row["few scans"], row["constant"]) == (2, 1, 1)


def test_the_days_of_the_highest_are_those_of_each_measure():
    table = SICK.highest()
    assert table["patients"].tolist() == ["4 of 4", "4 of 4", "4 of 4", "4 of 4", "0 of 4", ""]
    assert table["on the burden's scan"].tolist() == ["4 of 4", "4 of 4", "4 of 4", "4 of 4", "0 of 4", ""]
    assert table.loc["a scan drawn blindly", "share"].value == 25, "one scan in four"
    tied = SICK.course.assign(logit=0.0)
    assert replace(SICK, course=tied).highest().loc["s", "patients"] == "0 of 4", "of equals the earliest"


def test_the_perfect_reader_is_asked_for_its_own_highest_evidence():
    early = SICK.course["patient_id"].isin(["P", "Q", "R"]) & (SICK.course["day"] == 0)
    table = SICK.course.assign(oracle_grid_logit=SICK.course["oracle_grid_logit"].mask(early, 99.0))
    row = replace(SICK, course=table).highest().loc["perfect reader"]
    assert (row["patients"], row["on the burden's scan"]) == ("1 of 4", "1 of 4") and row["share"].value == 25
    assert row["above the burden's share"].value == -75


def test_changes_of_controls_have_a_direction():
    spread = [
        table.assign(logit=table["logit"] * (1 + table["patient_id"].map(ord) % 5))
        for table in (SICK.course, SICK.controls)
    ]
    table = Severity(*spread).changes()
    assert table.loc["days 7 to 10", ["COVID+, in a word", "COVID-, in a word"]].tolist() == ["rises", "falls"]
    assert table.loc["day 11 or later", "COVID-"].value > 0


def test_real_scans_have_opacity_and_no_burden(tmp_path, monkeypatch):
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    run = synthetic_run(tmp_path)
    table = severity.beside(
        run, pd.DataFrame({"scan_id": ["A000-0", "A000-1"], "patient_id": "A000", "logit": [1.0, 2.0]})
    )
    assert table["burden_fraction"].isna().all() and table["oracle_grid_logit"].isna().all()
    asked = Severity(table.assign(day=[0.0, 8.0], above_700=np.nan), table.head(0))
    assert asked.with_burden().method == asked.week_apart().method == "real scans have no known burden"
    assert (
        str(severity.shares_in_words(table)["true burden"].iloc[0]) == "not available (real scans have no known burden)"
    )
    best = asked.highest().loc["perfect reader"]
    assert best["share"].method == best["above the burden's share"].method == severity.NO_TRUTH
    assert not severity.beside(run, table.head(0)).shape[0]


def test_truth_is_matched_by_scan(tmp_path, monkeypatch):
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    run = synthetic_run(tmp_path)
    truth = pd.DataFrame(
        {"scan_id": ["A000-1", "A000-0"], "burden_fraction": [0.2, 0.1], "oracle_grid_logit": [2.0, 1.0]}
    )
    monkeypatch.setattr(severity, "read_truth", lambda run: truth)
    table = severity.beside(run, pd.DataFrame({"scan_id": ["A000-0", "A000-1"]}))
    assert table[["burden_fraction", "oracle_grid_logit"]].to_numpy() == pytest.approx(np.array([[0.1, 1], [0.2, 2]]))
