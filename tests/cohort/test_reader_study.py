"""The reader study: calls that do not fit the manifest are refused with their row."""

import pandas as pd
import pytest

from covid3d.cohort.manifest import COLUMNS, write_manifest
from covid3d.cohort.reader_study import read_reader_study
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


def test_a_run_without_a_reader_study_has_no_calls(run):
    assert read_reader_study(run).empty


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("R1,N1,,covid,2,,,", "column 'call': the value is '2'"),
        ("R1,N1,,diagnosis,1,,,", "column 'task': the value is 'diagnosis'"),
        ("R1,N1,,covid,1,90,,", "column 'confidence': the value is '90'"),
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
