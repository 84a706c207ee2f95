"""The remaining stay of NY-SBU scans: visit + length of stay - scan, by hand."""

import pandas as pd
import pytest

from covid3d.cohort.public.stay import read_clinical, remaining_stays, summary
from covid3d.run.errors import ManifestError

HEADER = "to_patient_id,visit_start_datetime,length_of_stay,last.status,was_ventilated,days_prior_sx\n"
VISITS = """\
A001,1901-01-01 23:30:00,10,discharged,No,5
A002,1901-01-01,20,deceased,Yes,
A003,01/05/1901 08:00,4,discharged,No,-2
A004,1901-01-01,,discharged,No,1
A005,1901-01-01,5,transferred,No,1
A006,1900-12-01,3,discharged,No,1
A006,1901-01-02,3,discharged,,1
A007,1901-01-01,5,discharged,No,1
A007,1901-01-03,5,discharged,No,1
"""


@pytest.fixture
def stays(tmp_path):
    (tmp_path / "clinical.csv").write_text("\ufeff" + HEADER + VISITS, encoding="utf-8")
    dates = {f"A00{number}": "1901-01-04" for number in range(1, 9)}
    scans = pd.DataFrame({"scan_id": [*dates], "patient_id": [*dates], "date": [*dates.values()]})
    late = pd.DataFrame({"scan_id": ["late"], "patient_id": ["A001"], "date": ["1901-01-12"]})
    table = remaining_stays(pd.concat([scans, late], ignore_index=True), read_clinical(tmp_path / "clinical.csv"))
    return table.set_index("scan_id")


def test_the_stay_is_counted_in_calendar_days_from_the_scan(stays):
    row = stays.loc["A001"]
    assert (row["days_to_discharge"], row["outcome"], row["censored"], row["ventilated"]) == (
        "7",
        "discharged",
        "0",
        "0",
    )
    assert row["days_since_onset"] == "8"


def test_death_ends_the_stay_as_a_competing_event(stays):
    row = stays.loc["A002"]
    assert (row["days_to_discharge"], row["outcome"], row["censored"], row["ventilated"]) == ("17", "died", "0", "1")
    assert row["days_since_onset"] == ""


def test_of_two_visits_the_one_around_the_scan_counts(stays):
    assert stays.loc["A006", "days_to_discharge"] == "1"


@pytest.mark.parametrize(
    ("scan", "why"),
    [
        ("A003", "scanned before the visit"),
        ("late", "scanned after the visit"),
        ("A004", "a date or the length of stay cannot be read"),
        ("A005", "the visit's end is neither discharge nor death"),
        ("A007", "the scan lies inside two visits"),
        ("A008", "the patient is not in the clinical table"),
    ],
)
def test_what_does_not_fit_stays_blank_and_is_told(stays, scan, why):
    assert stays.loc[scan, "mismatch"] == why
    assert set(stays.loc[scan].drop("mismatch")) == {""}


def test_dates_that_hardly_ever_fit_raise_the_question_of_their_shift(stays):
    lines = summary(stays)
    assert lines[0].startswith("remaining stay known for 3 of 9 scans (2 discharged, 1 died)")
    assert "shifted alike" in lines[-1]


def test_a_table_of_another_kind_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text(HEADER.replace("length_of_stay", "length.of.stay") + "1,1,1,1,1,1\n")
    with pytest.raises(ManifestError, match=r"column 'length_of_stay': the column is missing.*'length.of.stay'"):
        read_clinical(tmp_path / "other.csv")
    with pytest.raises(ManifestError, match="does not exist"):
        read_clinical(tmp_path / "none.csv")
