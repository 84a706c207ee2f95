"""The reader study: calls that do not fit the manifest are refused with their row."""

import pandas as pd
import pytest

from covid3d.cohort.manifest import COLUMNS, write_manifest
from covid3d.cohort.reader_study import DELIVERED, ROOM, read_reader_study, whose
from covid3d.run.errors import ManifestError

HEADER = "reader_id,scan_id,prior_scan_id,task,call,confidence,order,read_at"
SCANS = {"P1-0": ("P1", 0), "P1-1": ("P1", 1), "P2-0": ("P2", 0), "N1": ("N1", 0)}


def study(*rows: str) -> str:
    return "\n".join([HEADER, *rows, ""])


@pytest.fixture
def run(make_run):
    """A run whose manifest has three patients at A, one of them with a follow-up scan."""
    run = make_run()
    rows = [
        {"scan_id": scan, "patient_id": patient, "scan_index": index, "hospital": "A", "label": 1, "source": "scan"}
        | {"role": "followup" if index else "development", "day": 5 * index}
        for scan, (patient, index) in SCANS.items()
    ]
    write_manifest(run.manifest, pd.DataFrame(rows).reindex(columns=list(COLUMNS)))
    return run


def test_calls_are_read_with_their_types(run):
    run.path("reader_study.csv").write_text(study("R1,N1,,covid,0,0.9,1,", "R1,P1-1,P1-0,stay_pair,1,,,"))
    table = read_reader_study(run)
    assert table["call"].tolist() == [0, 1] and str(table["call"].dtype) == "Int64"
    assert table["prior_scan_id"].tolist() == ["", "P1-0"]


def test_two_files_of_readings_must_not_name_one_reader(run, monkeypatch):
    monkeypatch.setattr(type(run), "is_phantom", False)
    for name in (DELIVERED, ROOM):
        run.path(name).parent.mkdir(exist_ok=True)
        run.path(name).write_text(study("R1,N1,,covid,0,0.9,1,"))
    with pytest.raises(ManifestError, match=r"'R1' is in .*calls.csv as well"):
        read_reader_study(run)


def test_a_run_without_a_reader_study_has_no_calls(run):
    assert read_reader_study(run).empty
    run.path("reader_study.csv").write_text(study())
    assert read_reader_study(run).empty, "a header alone: nobody has read yet"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("R1,N1,,covid,2,,,", "column 'call': the value is '2'"),
        ("R1,N1,,diagnosis,1,,,", "column 'task': the value is 'diagnosis'"),
        (
            "R1,N1,,covid,1,90,,",
            "column 'confidence': the value is '90'. Expected: a whole number from 1 (a guess) to 5",
        ),
        ("R1,N1,,covid,1,6,,", "column 'confidence': the value is '6'"),
        ("R1,N1,,covid,1,2.5,,", "column 'confidence': the value is '2.5'"),
        ("R1,N1,,covid,yes,,,", "column 'call': the value is 'yes'. Expected: 1 (COVID+, or a long stay) or 0"),
        ("R1,N9,,covid,1,,,", "column 'scan_id': scan 'N9' is not in the manifest"),
        ("R1,P1-1,,stay_pair,1,,,", "column 'prior_scan_id': task 'stay_pair' needs a prior scan"),
        ("R1,P1-1,P1-0,stay_single,1,,,", "column 'prior_scan_id': task 'stay_single' has a prior scan"),
        ("R1,P1-1,P2-0,stay_pair,1,,,", "'P2-0' is no earlier scan of the patient of 'P1-1'"),
        ("R1,P1-0,P1-1,stay_pair,1,,,", "'P1-1' is no earlier scan of the patient of 'P1-0'"),
        ("R2,N1,,covid,1,,,", "reader 'R2' has already called scan 'N1' for task 'covid' in row 2"),
    ],
)
def test_a_broken_reading_is_refused_with_its_row(run, row, said):
    run.path("reader_study.csv").write_text(study("R2,N1,,covid,1,,,", row))
    with pytest.raises(ManifestError) as caught:
        read_reader_study(run)
    assert str(caught.value).startswith("reader_study.csv, row 3")
    assert said in str(caught.value)


def test_five_points_and_shares_in_one_file_are_refused(run):
    run.path("reader_study.csv").write_text(study("R1,N1,,covid,1,4,,", "R2,N1,,covid,1,0.9,,"))
    with pytest.raises(
        ManifestError, match=r"row 3, column 'confidence': the value is '0.9', though other rows have five"
    ):
        read_reader_study(run)


def test_readers_are_numbered_so_that_no_name_is_printed_and_their_rows_stay_theirs(run):
    rows = [f"{name},N1,,covid,{call},3,1,2021-05-04" for name, call in (("R10", 0), ("R2", 1))]
    run.path("reader_study.csv").write_text(study(*rows, "Mayer,N1,,covid,1,5,1,2021-05-04"))
    table = read_reader_study(run).set_index("reader_id")
    assert table["call"].to_dict() == {"R1": 1, "R2": 0, "R3": 1}, "R2, R10, Mayer"
    run.path("reader_study.csv").write_text(study(*rows))
    assert read_reader_study(run)["reader_id"].tolist() == ["R10", "R2"], "pseudonyms stay"
    assert whose(table.reset_index(), simulated_scans=True) == "3 readers of the reading room"


def test_only_what_the_simulator_writes_is_called_simulated(run):
    run.path("reader_study.csv").write_text(study("R1,N1,,covid,0,0.9,1,", "R2,N1,,covid,1,0.8,1,"))
    table = read_reader_study(run)
    assert whose(table, simulated_scans=True) == "2 simulated readers"
    assert whose(table, simulated_scans=False) == "2 readers of the reading room", (
        "real scans have no simulated readers"
    )
    assert whose(table.assign(confidence=5.0), simulated_scans=True) == "2 readers of the reading room"
    assert whose(table[:1].assign(read_at="2021-05-04"), simulated_scans=True) == "1 reader of the reading room"
