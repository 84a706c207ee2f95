"""What all rows of a patient together say of the stay: silence on one of them is no answer."""

import pandas as pd
import pytest
from synthetic_run import synthetic_run

from covid3d.chapters import fine_tuning
from covid3d.cohort.manifest import read_manifest, write_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root, patch = tmp_path_factory.mktemp("followed"), pytest.MonkeyPatch()
    patch.setenv("COVID3D_ROOT", str(root))
    yield synthetic_run(root)
    patch.undo()


@pytest.fixture
def change(made):
    """Return a function that puts {scan_id: {column: value}} into the run's manifest, which is as it was afterwards."""
    before = {path: path.read_bytes() for path in (made.manifest, made.intake)}
    table = read_manifest(made.manifest).set_index("scan_id", drop=False)

    def changed(values):
        for name, cells in values.items():
            for column, value in cells.items():
                table.loc[name, column] = value
        write_manifest(made.manifest, table)
        return made

    yield changed
    for path, content in before.items():
        path.write_bytes(content)


def test_never_ventilated_is_who_was_not_at_any_scan_and_ever_who_was_at_one(change):
    blank = {"ventilated": pd.NA}
    found = fine_tuning.all_pairs(
        change({"A000-0": blank, "A001-2": blank, "A003-0": blank, "A003-1": {"ventilated": 0}})
    )
    known = found.query("scan_index == 1").set_index("patient_id")["ventilated"]
    assert known["A003"] == 1 and known["A002"] == 0
    assert known[["A000", "A001", "C000"]].isna().all(), "not said at one scan, at a later one, at any"


def test_a_refused_scan_tells_of_its_patient_all_the_same(change):
    run = change({"A002-2": {"ventilated": 1}})
    intake = pd.read_csv(run.intake, dtype={"ok": int})
    intake.loc[intake["scan_id"] == "A002-2", "ok"] = 0
    intake.to_csv(run.intake, index=False)
    found = fine_tuning.all_pairs(run).query("patient_id == 'A002'")
    assert found["scan_id"].tolist() == ["A002-1"] and found["ventilated"].tolist() == [1]
