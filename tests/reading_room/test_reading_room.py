"""The reading room: order, blinding, saving, going on after a kill; without a screen."""

import json
import os
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import CHECKOUT, furnish
from dicom_series import body, write_series
from reading_run import FIRST, deliver, order

from covid3d.cohort.manifest import read_manifest, write_manifest
from covid3d.cohort.reader_study import ROOM, read_reader_study
from covid3d.commands.room import prepare
from covid3d.dicom.series import read_ct
from covid3d.reading_room.cases import reading_list
from covid3d.reading_room.desk import PRESETS, Desk
from covid3d.reading_room.pixels import lung_ends, picture
from covid3d.reading_room.session import SHOWN_IN, Session
from covid3d.report.chapter import fingerprint
from covid3d.run.errors import ConfigError, StorageError
from covid3d.run.files import write_text
from covid3d.run.profile import open_run
from covid3d.run.steps import CHAPTERS

HEADER = "reader_id,scan_id,prior_scan_id,task,call,confidence,order,read_at\n"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """The folder of a run of small scans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVID3D_ROOT", str(tmp_path_factory.mktemp("reading")))
        return deliver(open_run("reading", profile="smoke")).folder


@pytest.fixture
def run(delivered, root):
    """A copy of that run in a private root."""
    shutil.copytree(delivered, root / "runs" / "reading")
    return open_run("reading")


def read_all(session, count):
    for _ in range(count):
        session.record(1, 0.75, 30.0)


def test_each_reader_has_an_order_of_their_own_and_always_the_same(run):
    assert order(run, "R1") == order(run, "R1")
    assert len({tuple(order(run, f"R{number}")) for number in range(5)}) > 1
    assert sorted(order(run, "R1")) == sorted(order(run, "R2")) == [*(f"B00{n}-0" for n in range(5)), "C000-0"]


def test_the_stay_is_read_from_the_index_scan_alone_and_then_beside_the_first_scan(run):
    cases = [case for case in reading_list(run, "R1", ["stay_single", "stay_pair"]) if not case.truth]
    assert sorted((case.scan_id, case.prior_scan_id) for case in cases[:2]) == [("A000-1", ""), ("A001-1", "")]
    assert sorted((case.scan_id, case.prior_scan_id) for case in cases[2:]) == [
        ("A000-1", "A000-0"),
        ("A001-1", "A001-0"),
    ]


def test_training_cases_come_first_with_their_truth_and_are_of_patients_whom_no_task_has(run):
    covid = reading_list(run, "R1", ["covid"])
    assert {case.scan_id for case in covid[:4]} == {"A002-0", "A003-0", "A004-0", "A005-0"}
    said = {case.scan_id: case.truth for case in covid[:4]}
    assert said["A003-0"] == "COVID-19" and said["A002-0"].startswith("no COVID-19")
    stay = reading_list(run, "R1", ["stay_single"])
    assert (stay[0].scan_id, stay[0].truth) == ("C000-1", "high risk: a further stay of 8 days")
    assert not any(case.truth for case in covid[4:] + stay[1:])


def test_a_training_case_who_died_within_the_limit_is_of_high_risk(run):
    table = read_manifest(run.manifest)
    table.loc[table["scan_id"] == "C000-1", ["days_to_discharge", "outcome"]] = [3, "died"]
    write_manifest(run.manifest, table)
    assert reading_list(run, "R1", ["stay_single"])[0].truth == "high risk: died after 3 days"


def test_what_intake_refused_is_not_read(run):
    table = run.intake.read_text().replace("B001-0,B001,B,external,1,0,1,", "B001-0,B001,B,external,1,0,0,")
    write_text(run.intake, table)
    assert "B001-0" not in order(run, "R1")


def test_after_each_case_the_calls_stand_in_the_study_without_the_training_cases(run):
    session = Session.open(run, "R1", ["covid", "stay_pair"])
    read_all(session, 4)
    assert run.path(ROOM).read_text() == HEADER
    listed = [case for case in session.cases if not case.truth]
    for number, case in enumerate(listed, 1):
        read_all(session, 1 + (number == 7))  # one training case before the pairs
        table = read_reader_study(run)
        assert len(table) == number
        last = table.iloc[-1]
        assert (last["scan_id"], last["prior_scan_id"], last["order"]) == (
            case.scan_id,
            case.prior_scan_id,
            case.order,
        )
    assert set(table["reader_id"]) == {"R1"}
    assert session.waiting() == []
    assert session.progress().loc["covid"].tolist() == [6, 6, 30.0]


def test_readers_do_not_touch_each_others_calls(run):
    for reader in ("R2", "R1"):
        read_all(Session.open(run, reader, ["covid"]), 5)
    assert sorted(read_reader_study(run)["reader_id"]) == ["R1", "R2"]


def test_simulated_readers_give_way_to_the_first_reading_and_a_cohort_made_anew_takes_none_away(run):
    simulated = HEADER + "R1,B001-0,,covid,0,0.9,1,\nR2,B001-0,,covid,0,0.9,1,\n"
    write_text(run.path("reader_study.csv"), simulated)
    session = Session.open(run, "R1", ["covid"])
    assert read_reader_study(run)["confidence"].tolist() == [0.9, 0.9]  # nobody has read yet
    shutil.copytree(CHECKOUT / "notebooks", run.root / "notebooks")
    before = {chapter: fingerprint(run, chapter) for chapter in SHOWN_IN}
    read_all(session, 5)
    write_text(run.path("reader_study.csv"), simulated)  # the cohort was simulated again
    assert read_reader_study(run)["confidence"].tolist() == [0.75]
    assert not any(fingerprint(run, chapter) == before[chapter] for chapter in SHOWN_IN), "these are executed again"


def test_make_run_executes_the_chapters_that_show_readers_again(run):
    markers = [run.path("done", "jobs", f"{chapter}.done") for chapter in SHOWN_IN]
    for marker in markers:
        write_text(marker, "")
    read_all(Session.open(run, "R1", ["covid"]), 1)
    assert set(SHOWN_IN) <= set(CHAPTERS)
    assert not any(marker.exists() for marker in markers)


def test_real_readings_from_elsewhere_stay_and_their_reader_ids_are_taken(run, make_run):
    os.link(run.manifest, run.root / "order.csv")
    real = make_run("real", manifest="order.csv")
    for name in ("manifest.csv", "intake.csv"):
        os.link(run.path(name), real.path(name))
    write_text(
        real.path("reader_study.csv"), HEADER + " R1 ,B001-0,,covid,0,0.9,1,\n"
    )  # a space does not make another reader
    read_all(Session.open(real, "R2", ["covid"]), 5)
    assert sorted(read_reader_study(real)["reader_id"]) == ["R1", "R2"]
    Session.open(real, "R2", ["covid"])
    with pytest.raises(ConfigError, match="'R1' has readings from elsewhere"):
        Session.open(real, "R1")


@pytest.mark.parametrize("reader", ["", "Dr. Müller", "../R1"])
def test_a_reader_needs_a_pseudonym(run, reader):
    with pytest.raises(ConfigError, match='reader = "R1"'):
        Session.open(run, reader)


def test_a_killed_reader_goes_on_where_the_last_answer_was_saved(run):
    code = (
        "import os, signal\n"
        "from covid3d.reading_room.session import Session\n"
        "from covid3d.run.profile import open_run\n"
        "session = Session.open(open_run('reading'), 'R1', ['covid'])\n"
        "for _ in range(6): session.record(0, 0.5, 1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == -9
    session = Session.open(run, "R1", ["covid"])
    assert [case.order for case in session.waiting()] == [3, 4, 5, 6]
    assert read_reader_study(run)["scan_id"].tolist() == order(run, "R1")[:2]


def test_calls_that_a_kill_left_behind_their_session_are_written_when_the_room_opens(run):
    read_all(Session.open(run, "R1", ["covid"]), 6)
    write_text(run.path(ROOM), HEADER)
    Session.open(run, "R1", ["covid"])
    assert len(read_reader_study(run)) == 2


def test_one_reader_in_two_windows_is_told_so_and_loses_nothing(run):
    one, two = Session.open(run, "R1", ["covid"]), Session.open(run, "R1", ["covid"])
    read_all(one, 5)
    with pytest.raises(StorageError, match="another window"):
        two.record(0, 0.5, 1.0)
    assert len(read_reader_study(run)) == 1


# --- the desk: what the screen is told ---------------------------------------------------------------------------------


def show(desk):
    [(case, _)] = desk.hear({"kind": "ready"})
    return case


def answer(desk, token, call=1):
    said = list(desk.hear({"kind": "answer", "token": token, "call": call, "confidence": 2, "seconds": 12.0}))
    return [message for message, _ in said]


def test_the_screen_is_told_nothing_that_names_a_scan_or_its_class(run):
    """Every message of a whole session, but the truth of training cases, is searched for ids, hospitals, paths and labels."""
    desk = Desk(Session.open(run, "R1"))
    case, heard = show(desk), []
    while case["kind"] == "case":
        heard.append(json.dumps(case))
        for number in range(len(case["scans"])):
            for message, buffers in desk.hear({"kind": "want", "token": case["token"], "scan": number, "piece": 0}):
                heard.append(json.dumps(message))
                assert not any(name in buffers[0] for name in (b"B00", b"C00", b"A00"))
        *_, case = answer(desk, case["token"])
        if case["kind"] == "truth":
            case = show(desk)
    text = " ".join(heard)
    assert len(heard) >= 2 * len(desk.session.cases)
    for name in (
        *FIRST,
        "dicom",
        "hospital",
        "label",
        "development",
        "external",
        str(run.root),
    ):
        assert name not in text, name


def test_every_showing_has_a_token_of_its_own_and_an_answer_counts_once(run):
    desk = Desk(Session.open(run, "R1", ["covid"]))
    first = show(desk)["token"]
    assert answer(desk, "made-up") == []
    [truth] = answer(desk, first)
    assert truth["text"].startswith("The truth: ")
    assert answer(desk, first) == []
    assert len(desk.session.waiting()) == 9
    assert show(desk)["token"] != first


def test_there_is_no_way_back_unless_it_is_allowed(run):
    closed = Desk(Session.open(run, "R1", ["covid"]))
    answer(closed, show(closed)["token"])
    assert list(closed.hear({"kind": "back", "token": ""})) == []
    assert show(closed)["back"] is False
    opened = Desk(Session.open(run, "R1", ["covid"]), allow_back=True)
    assert show(opened)["back"] is True
    *_, (case, _) = opened.hear({"kind": "back", "token": ""})
    assert case["kind"] == "case" and len(opened.session.waiting()) == 10


def test_the_screen_says_whether_it_shows_the_scan_or_the_networks_grid(run):
    desk = Desk(Session.open(run, "R1", ["covid"]))
    remarks = {}
    case = show(desk)
    while case["kind"] == "case":
        scan = desk.session.waiting()[0].scan_id
        remarks[scan] = (case["scans"][0]["remark"], case["scans"][0]["shape"])
        *_, case = answer(desk, case["token"])
        case = show(desk) if case["kind"] == "truth" else case
    grid = list(run.profile.model.grid)
    assert remarks["B001-0"] == ("original resolution", [20, 48, 48])
    assert remarks["B000-0"][0].startswith(f"the networks' grid of {grid[0]} × ") and remarks["B000-0"][1] == grid


def test_the_pixels_of_the_scan_arrive_whole(run):
    case = next(case for case in reading_list(run, "R1", ["covid"]) if case.scan_id == "B001-0")
    held = picture(run, case.scan_id)
    values = b"".join(zlib.decompress(packed) for _, packed in held.pieces)
    scan = read_ct(run.path("dicom", "B001-0"))
    assert np.array_equal(np.frombuffer(values, "<i2").reshape(held.shape), scan.hu)
    assert held.spacing_mm == scan.spacing_mm


def test_files_that_are_no_longer_those_of_intake_are_not_shown(run):
    write_series(run.path("dicom", "B001-0"), body(seed=99), PatientID="B001", SeriesNumber=1)
    assert picture(run, "B001-0").remark.startswith("the networks' grid")


def test_the_ends_of_the_lungs_are_found_in_a_scan_and_in_one_that_reaches_further_down():
    """The lungs of `body` reach from 0.05 to 0.95 of its height; below come as many slices of soft tissue again."""
    hu = body((40, 48, 48))
    low, high = lung_ends(hu, (4.0, 7.0, 7.0))
    assert (low, high) == pytest.approx((0.05, 0.95), abs=0.08)
    longer = np.concatenate([np.where(hu[:1] > -300, 40, -1000).repeat(40, 0), hu]).astype(np.int16)
    assert lung_ends(longer, (4.0, 7.0, 7.0)) == pytest.approx((0.5 + low / 2, 0.5 + high / 2), abs=0.03)


def test_a_full_disk_is_said_on_the_screen_and_the_case_stays(run, monkeypatch):
    desk = Desk(Session.open(run, "R1", ["covid"]))
    token = show(desk)["token"]

    def full(*_):
        raise StorageError("no space left on device", cure="Free some space")

    monkeypatch.setattr("covid3d.reading_room.session.write_json", full)
    assert answer(desk, token)[0] == {"kind": "error", "text": "no space left on device. Free some space"}
    monkeypatch.undo()
    monkeypatch.setenv("COVID3D_ROOT", str(run.root))
    assert answer(desk, token)[0]["kind"] == "truth"


def test_five_windows_lie_on_the_keys():
    assert list(PRESETS) == ["lung", "mediastinum", "bone", "ground glass", "wide"]
    assert PRESETS["lung"] == (-600, 1500)


def test_each_reader_has_a_notebook_and_a_name_is_checked_before_anything_is_written(run):
    furnish(run.root)
    with pytest.raises(ConfigError, match="'Dr. Müller' is no reader's pseudonym"):
        prepare("reading", "Dr. Müller")
    with pytest.raises(ConfigError, match="there is no run 'readin'"):
        prepare("readin", "R1")
    assert not run.path("reading_room").exists() and not (run.root / "runs" / "readin").exists()
    for reader in ("R1", "R2"):
        assert prepare("reading", reader)[1] == run.path("reading_room", f"{reader}.ipynb")
    for reader in ("R1", "R2"):
        text = run.path("reading_room", f"{reader}.ipynb").read_text()
        assert f'reader = \\"{reader}\\"' in text and 'run = \\"reading\\"' in text
