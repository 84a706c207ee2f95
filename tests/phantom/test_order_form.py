"""The order form holds the paper's counts and special cases, and its generator writes it again byte for byte."""

from pathlib import Path

import pandas as pd
import pytest

from covid3d.cohort.manifest import COLUMNS, read_manifest
from covid3d.phantom import cohort
from covid3d.phantom.order_form import make_order_form
from covid3d.run.errors import ConfigError
from covid3d.run.files import write_csv
from covid3d.run.profile import DATA, load_profile

FORM = DATA / "data_manifest.csv"


@pytest.fixture(scope="module")
def form() -> pd.DataFrame:
    return read_manifest(FORM)


def test_generator_writes_the_committed_file_again(tmp_path: Path) -> None:
    write_csv(tmp_path / "form.csv", make_order_form())
    assert (tmp_path / "form.csv").read_bytes() == FORM.read_bytes()


def test_scans_and_slices_are_the_papers(form: pd.DataFrame) -> None:
    assert tuple(form.columns) == COLUMNS
    assert (len(form), int(form["n_slices"].sum())) == (397, 84_806)
    firsts = form[form["scan_index"] == 0].groupby(["hospital", "label"]).size().to_dict()
    assert firsts == {("A", 0): 83, ("A", 1): 83, ("B", 0): 20, ("B", 1): 20, ("C", 0): 9, ("C", 1): 12}


def test_followups_are_170_scans_of_49_and_4_covid_patients_alive_and_not_ventilated(form: pd.DataFrame) -> None:
    later = form[form["scan_index"] > 0]
    assert len(later) == 170
    assert later.groupby("hospital")["patient_id"].nunique().to_dict() == {"A": 49, "C": 4}
    assert set(later["label"]) == {1} and set(later["ventilated"]) == {0} and "died" not in set(later["outcome"])
    assert (form["rt_pcr_tests"] >= 2).all()


def test_special_cases_are_present(form: pd.DataFrame) -> None:
    censored = form[form["censored"] == 1]
    assert censored["patient_id"].nunique() == 1 and set(censored["hospital"]) == {"C"}
    later = form[(form["scan_index"] > 0) & (form["hospital"] == "A")]
    last = later.groupby("patient_id")["days_to_discharge"].min()
    assert (last > 3).sum() == 4
    case = form[form["age"] == 24]
    assert case["patient_id"].nunique() == 1 and len(case) == 5
    assert case["days_to_discharge"].iloc[0] == 12 and {6.0, 11.0} <= set(case["day"])


def test_remaining_stays_follow_the_protocol(form: pd.DataFrame) -> None:
    followed = form[form["patient_id"].isin(form.loc[form["scan_index"] > 0, "patient_id"])]
    assert 5 <= followed["days_to_discharge"].median() <= 9
    index = followed.loc[followed["scan_index"] == 1, "days_to_discharge"]
    assert 0.35 <= (index >= 7).mean() <= 0.65
    assert (followed.loc[followed["scan_index"] == 0, "days_to_discharge"] > 7).mean() > 0.8


def test_clinical_columns_do_not_depend_on_the_label(form: pd.DataFrame) -> None:
    firsts = form[form["scan_index"] == 0]
    for column in ("age", "days_since_onset", "days_to_discharge", "n_slices"):
        groups = [part[column].astype(float) for _, part in firsts[firsts["hospital"] == "A"].groupby("label")]
        assert abs(groups[0].mean() - groups[1].mean()) < 3.2 * (groups[0].var() / 83 + groups[1].var() / 83) ** 0.5


def test_smoke_subset_keeps_roles_special_cases_and_both_risks(form: pd.DataFrame) -> None:
    limits = load_profile("smoke").cohort
    table = cohort.select(form, limits)
    assert table.equals(cohort.select(form, limits)) and 45 <= len(table) <= 60
    assert set(table["role"]) == {"development", "external", "followup"}
    later = table[table["scan_index"] > 0]
    assert later["patient_id"].nunique() == limits.followup_patients
    assert (table["censored"] == 1).any() and (table["age"] == 24).sum() == 5
    index = table[(table["scan_index"] == 1) & (table["hospital"] == "A")]["days_to_discharge"]
    assert (index >= 7).sum() >= 2 and (index < 7).sum() >= 2
    whole = form[form["patient_id"].isin(later["patient_id"])]
    assert set(whole["scan_id"]) <= set(table["scan_id"])


def test_no_limits_take_every_row(form: pd.DataFrame) -> None:
    assert cohort.select(form, load_profile("standard").cohort).equals(form)


def test_controls_lie_outside_the_order_form(form: pd.DataFrame) -> None:
    extra = cohort.controls(form, load_profile("standard").cohort)
    assert not set(extra["scan_id"]) & set(form["scan_id"])
    assert extra["role"].value_counts().to_dict() == {"control": 30, "rescan": 20}
    assert set(extra.loc[extra["role"] == "control", "label"]) == {0}
    assert extra.loc[extra["role"] == "rescan", "patient_id"].is_unique


@pytest.mark.parametrize(
    ("key", "value"),
    [("development_per_class", 84), ("external_per_class", 21), ("followup_patients", 54), ("control_patients", 99)],
)
def test_impossible_cohorts_are_refused_by_name(form: pd.DataFrame, key: str, value: int) -> None:
    limits = load_profile("standard").cohort.model_copy(update={key: value})
    with pytest.raises(ConfigError, match=key):
        cohort.controls(cohort.select(form, limits), limits)


def test_real_scans_and_unknown_hospitals_are_refused(form: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="source"):
        cohort.check_orders(form.assign(source="scans/a"))
    with pytest.raises(ConfigError, match="hospital"):
        cohort.check_orders(form.assign(hospital="D"))
