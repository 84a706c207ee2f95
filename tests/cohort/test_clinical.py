"""Clinical rows: each thing that does not fit has its own code, and a sound patient has none."""

import pandas as pd
import pytest

from covid3d.cohort.clinical import CODES, acquisition_table, findings, kept_counts

SOUND = {
    "patient_id": "P1", "label": 1, "scan_index": 0, "day": 0, "days_to_discharge": 12, "outcome": "discharged",
    "censored": 0, "age": 44, "rt_pcr_tests": 2, "days_since_admission": 1, "pixel_sha256": "a", "kept_with": "",
    "series_uid_sha256": "s", "patient_sha256": "h",
}  # fmt: skip
LATER = SOUND | {"scan_index": 1, "day": 5, "days_to_discharge": 7, "days_since_admission": 6}
NUMBERS = ("day", "days_to_discharge", "age", "days_since_admission")


def codes(*rows, unique=True):
    table = pd.DataFrame(rows).assign(scan_id=[f"S{number}" for number in range(len(rows))], ok=1)
    if unique:
        table["pixel_sha256"] = table["series_uid_sha256"] = table["scan_id"]
    table = table.astype(dict.fromkeys(NUMBERS, "Float64")).astype({"rt_pcr_tests": "Int64", "censored": "Int64"})
    intake = table[["scan_id", "ok", "kept_with", "pixel_sha256", "series_uid_sha256", "patient_sha256"]]
    found = findings(table.drop(columns=list(intake.columns[1:])), intake)
    return list(zip(found["scan_id"], found["code"], strict=True))


def test_a_sound_patient_has_no_code():
    assert codes(SOUND, LATER, SOUND | {"patient_id": "P2", "patient_sha256": "i"}) == []


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("few_pcr_tests", {"rt_pcr_tests": 1}),
        ("before_admission", {"days_since_admission": -2, "day": 0}),
        ("after_discharge", {"day": 20, "days_to_discharge": pd.NA, "days_since_admission": pd.NA}),
        ("other_admission", {"days_to_discharge": 20}),
        ("other_admission", {"days_since_admission": 2}),
        ("same_day_repeat", {"day": 0, "days_to_discharge": 12, "days_since_admission": 1}),
        ("day_is_no_discharge", {"censored": 1, "outcome": "discharged"}),
        ("paediatric", {"age": 17}),
        ("half_chest", {"kept_with": "half_chest"}),
        ("two_patients", {"patient_sha256": "other"}),
    ],
)
def test_a_row_that_does_not_fit_has_its_code(code, changed):
    assert code in dict(reversed(pair) for pair in codes(SOUND, LATER | changed))


def test_a_death_is_no_discharge_and_a_stay_has_one_outcome():
    died = codes(SOUND | {"outcome": "died"})
    assert died == [("S0", "death_is_no_discharge")]
    assert ("S1", "two_outcomes") in codes(SOUND, LATER | {"outcome": "died"})


def test_a_stay_that_ends_before_it_begins_is_told():
    assert ("S0", "negative_stay") in codes(SOUND | {"days_since_admission": -3, "days_to_discharge": 1})


@pytest.mark.parametrize("column", ["pixel_sha256", "series_uid_sha256", "patient_sha256"])
def test_two_ids_of_one_patient_are_found(column):
    others = [
        SOUND | {"patient_id": f"P{n}", "pixel_sha256": f"{n}", "series_uid_sha256": f"{n}", "patient_sha256": f"{n}"}
        for n in range(2, 6)
    ]
    copy = others[0] | {"patient_id": "P9", "pixel_sha256": "x", "series_uid_sha256": "x", "patient_sha256": "x"}
    copy[column] = others[0][column]
    assert codes(*others, copy, unique=False) == [("S0", "two_ids"), ("S4", "two_ids")]


def test_a_patient_id_that_de_identification_blanked_alike_says_nothing():
    assert codes(*(SOUND | {"patient_id": f"P{n}"} for n in range(4))) == []


def test_kept_scans_are_counted_once_a_code_and_refused_ones_not_at_all():
    table = pd.DataFrame([SOUND | {"age": 5, "scan_id": "S0"}, SOUND | {"age": 5, "scan_id": "S1", "day": 3}])
    intake = table[["scan_id", "kept_with"]].assign(ok=[1, 0])
    found = findings(table.drop(columns="kept_with"), intake)
    assert kept_counts(found) == {"paediatric": {"scans": 1, "patients": 1}}
    assert set(found["code"]) <= set(CODES)


def test_the_acquisition_table_counts_settings_by_hospital_and_label():
    intake = pd.DataFrame(
        {
            "ok": [1, 1, 0],
            "hospital": ["A", "A", "A"],
            "label": [1, 1, 1],
            "thickness_mm": [1.249, None, 5],
            "kernel": ["B40f", "", "X"],
            "kvp": [120.0, 120.0, 80.0],
        }
    )
    table = acquisition_table(intake).set_index(["setting", "value"])["scans"].to_dict()
    assert table == {
        ("thickness_mm", "1.2"): 1,
        ("thickness_mm", "unknown"): 1,
        ("kernel", "B40f"): 1,
        ("kernel", "unknown"): 1,
        ("kvp", "120"): 2,
    }
