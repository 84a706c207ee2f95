"""The command line: exit statuses, one message for each mistake, nothing half-written."""

import errno
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
import warm_python
from conftest import CHECKOUT
from dicom_series import body, write_series

from covid3d.cohort.delivery import draft_key
from covid3d.commands import doctor
from covid3d.run.files import storage_error
from covid3d.run.profile import DATA


@pytest.fixture
def call(root):
    def run(*arguments, **environment):
        given = {**os.environ, "COVID3D_ROOT": str(root), **environment}
        if not environment:
            return warm_python.run("covid3d", *map(str, arguments), cwd=root, env=given)
        command = [sys.executable, "-m", "covid3d", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=root, env=given)

    return run


def refused(found, *words):
    """One message on stderr, exit status 2, no traceback."""
    assert found.returncode == 2, found.stderr
    lines = [line for line in found.stderr.splitlines() if line]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_help_names_every_command(call):
    found = call("--help")
    assert found.returncode == 0
    for command in ("predict", "check", "manifest", "phantom", "claims", "weights", "audit", "doctor"):
        assert command in found.stdout
    for hidden in ("pipeline", "step"):
        assert f"  {hidden}" not in found.stdout


@pytest.mark.parametrize("arguments", [["predikt"], ["predict"], ["phantom", "build", "--sed", "1"], ["step", "fold"]])
def test_wrong_use_is_exit_status_2_without_traceback(call, arguments):
    found = call(*arguments)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_the_command_line_starts_quickly_because_torch_is_not_loaded():
    code = "import sys, covid3d.commands.cli; print([n for n in ('torch', 'pandas', 'papermill', 'pydicom') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert found.stdout.strip() == "[]"


def test_debug_shows_where_an_error_arose(call):
    found = call("claims", "show", "nothing", "--debug")
    assert found.returncode == 2
    assert "Traceback" in found.stderr
    assert "error: " in found.stderr


def test_an_unfinished_run_is_not_created_by_asking_for_its_claims(call, root):
    refused(call("claims", "show", "nothing"), "there is no finished run 'nothing'", "make smoke")
    assert not (root / "runs").exists()


def test_doctor_tells_the_machine_and_every_profile(call):
    found = call("doctor")
    assert found.returncode == 0
    for word in ("Python", "Disk", "Cores", "Memory", "GPU", "smoke", "standard", "paper"):
        assert word in found.stdout
    assert "smoke     needs 4 GB memory" in found.stdout and "min on a machine like: " in found.stdout
    report = json.loads(call("doctor", "--json").stdout)
    assert [row["profile"] for row in report["profiles"]] == ["paper", "smoke", "standard"]


def test_doctor_says_what_is_short():
    machine = {"disk_free_gb": 1.0, "memory_gb": 2.0, "gpu": None}
    short = doctor.needs("paper", machine)["short"]
    assert short[0] == "disk: 8 GB needed, 1 GB here"
    assert short[1] == "memory: 32 GB needed, 2 GB here"
    assert "GPU" in short[2]
    assert doctor.needs("smoke", {"disk_free_gb": 50.0, "memory_gb": 24.0, "gpu": None})["short"] == []


# phantom


def test_a_phantom_scan_is_written_as_dicom_with_its_truth(call, root):
    found = call("phantom", "build", "--out", "cohort", "--scan", "B001-0", "--seed", 3)
    assert found.returncode == 0, found.stderr
    assert list((root / "cohort" / "dicom" / "B001-0").glob("*.dcm"))
    assert (root / "cohort" / "truth" / "truth.csv").is_file()
    assert "1 simulated scans" in found.stdout and "simulated" in (root / "cohort" / "cohort.json").read_text()
    again = call("phantom", "build", "--out", "cohort", "--scan", "C001-0", "--seed", 3)
    assert again.returncode == 0, again.stderr
    for table in ("manifest.csv", "truth/truth.csv"):
        assert set(pd.read_csv(root / "cohort" / table)["scan_id"]) == {"B001-0", "C001-0"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["Give --out DIR"]),
        (["--out", "x", "--world", "nul"], ["there is no world 'nul'", "effect, null"]),
        (["--out", "x", "--profile", "smok"], ["Did you mean 'smoke'"]),
        (["--out", "x", "--manifest", "none.csv"], ["none.csv", "does not exist"]),
        (["--out", "x", "--scan", "Z999-0"], ["Z999-0"]),
    ],
)
def test_a_phantom_that_cannot_be_built_is_one_message_and_leaves_nothing(call, root, arguments, words):
    refused(call("phantom", "build", *arguments), *words)
    assert not (root / "x").exists()


def test_a_phantom_is_not_built_over_other_files(call, root):
    foreign = root / "mine" / "dicom" / "B001-0" / "1.dcm"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"a scan")
    refused(call("phantom", "build", "--out", "mine", "--scan", "B001-0"), "'mine'", "new or empty folder")
    assert foreign.read_bytes() == b"a scan" and [path.name for path in (root / "mine").iterdir()] == ["dicom"]


# check


def manifest(root, *rows, header=None):
    lines = (DATA / "data_manifest.csv").read_text().splitlines()
    path = root / "mine.csv"
    path.write_text("\n".join([header or lines[0], *rows]) + "\n")
    return path


ROW = "P1-0,P1,A,development,1,0,0,,,discharged,0,0,47,M,,,{source},private,"


def test_a_missing_scan_is_a_row_with_its_code_and_exit_status_1(call, root):
    found = call("check", manifest(root, ROW.format(source="scans/none")), "--out", "report")
    assert found.returncode == 1, found.stderr
    assert "P1-0  no_such_path" in found.stdout
    assert (root / "report" / "check.csv").read_text().splitlines()[0] == "scan_id,ok,code,message"
    assert (root / "report" / "leakage.json").is_file()


def test_check_speaks_json_to_programs(call, root):
    found = call("check", manifest(root, ROW.format(source="scans/none")), "--json")
    report = json.loads(found.stdout)
    assert report["scans"][0]["code"] == "no_such_path"
    assert {test["check"] for test in report["leakage"]["checks"]} >= {"patient", "pixels"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW.replace(",1,0,0,", ",2,0,0,", 1), ["row 2", "label"]),
        (ROW.replace("47", "045Y"), ["row 2", "age"]),
        (ROW.replace("P1-0,P1", "1.2E+05,P1"), ["row 2", "scan_id"]),
        (ROW.replace(",", ";"), ["mine.csv"]),
    ],
)
def test_a_faulty_manifest_names_its_row_and_column(call, root, row, words):
    refused(call("check", manifest(root, row.format(source="x"))), *words)


def test_a_manifest_that_does_not_exist_is_named(call):
    refused(call("check", "nowhere.csv"), "nowhere.csv")


# audit, predict


def test_an_impossible_percentage_is_exit_status_1(call, root):
    (root / "table.csv").write_text("label,percent,n\nsensitivity,95,20\nspecificity,83,20\n")
    found = call("audit", "table.csv")
    assert found.returncode == 1, found.stderr
    assert "specificity" in found.stdout


def test_predict_on_a_folder_without_a_scan_is_one_message(call, root):
    (root / "empty").mkdir()
    refused(call("predict", "empty", "--weights", "none.safetensors"), "none.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [["predict", ""], ["check", ""], ["manifest", "new", ""], ["predict", "scan", "--out="], ["claims", "show", ""]],
)
def test_an_empty_argument_is_refused_and_not_taken_for_the_working_folder(call, root, arguments):
    write_series(root / "scan")
    refused(call(*arguments), "an argument is empty")


@pytest.mark.parametrize("arguments", [["check"], ["manifest", "new"], ["predict", "scan", "--weights"]])
def test_a_misspelt_path_is_shown_whole(call, root, arguments):
    write_series(root / "scan")
    refused(call(*arguments, root / "hospital" / "misspelt.csv"), str(root / "hospital" / "misspelt.csv"))


# manifest new


def test_a_draft_with_nothing_left_out_is_exit_status_0(call, root):
    write_series(root / "export" / "p1")
    write_series(root / "export" / "scout", body()[:2], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = call("manifest", "new", "export")
    assert found.returncode == 0, found.stderr
    assert "1 scans of 1 patients" in found.stdout
    assert "set aside: scout: 2 images, a localizer" in found.stdout
    assert "assumed: hospital A; a patient's first scan is external" in found.stdout


def test_a_draft_says_what_it_left_out_and_exits_with_1_whatever_the_names(call, root):
    write_series(root / "export" / "p1")
    write_series(root / "export" / os.fsdecode(b"M\xfcller\n1"), body(seed=1), PatientID="2")
    found = call("manifest", "new", "export", "--out", os.fsdecode(b"\xfc.csv"), LC_ALL="C", PYTHONUTF8="0")
    assert found.returncode == 1, found.stderr
    assert not found.stderr
    assert "\\xfc.csv: 1 scans of 1 patients" in found.stdout
    assert "left out: M\\xfcller\\n1: a table cannot hold this name" in found.stdout
    (root / "export" / "p1" / "IM003.dcm").write_bytes(b"")
    refused(call("manifest", "new", "export", "--out", "next.csv"), "no CT series", "IM003.dcm: a file is empty")
    assert not (root / "next.csv").exists()


def keys(root):
    return sorted((root / "data" / "keys" / "drafts").glob("*"))


def test_each_draft_has_a_key_of_its_own_whatever_it_is_called(call, root):
    for number in ("1", "2"):
        write_series(root / f"export{number}" / "p", PatientID=f"CANARY{number}")
        found = call("manifest", "new", f"export{number}", "--out", f"study{number}/manifest.csv")
        assert found.returncode == 0, found.stderr
        assert "data/keys/drafts/manifest-" in found.stdout and "tell of patients" in found.stdout
    told = [json.loads(path.read_text()) for path in keys(root)]
    assert {scan["patient_id"] for one in told for scan in one["scans"].values()} == {"CANARY1", "CANARY2"}
    assert {path.stat().st_mode & 0o777 for path in keys(root)} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (root / "data" / "keys", keys(root)[0].parent)} == {0o700}


def test_a_draft_made_outside_a_checkout_keeps_its_key_in_that_of_the_package(tmp_path, monkeypatch):
    monkeypatch.delenv("COVID3D_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert draft_key(tmp_path / "x.csv").parent == CHECKOUT / "data" / "keys" / "drafts"
    (tmp_path / "data_manifest.csv").touch()
    assert draft_key(tmp_path / "x.csv").parent == tmp_path / "data" / "keys" / "drafts"


def test_a_draft_that_cannot_be_written_leaves_no_key(call, root):
    write_series(root / "export" / "p1")
    (root / "taken").touch()
    refused(call("manifest", "new", "export", "--out", "taken/manifest.csv"), "A file lies where a folder is needed")
    assert keys(root) == []


# paths that the system refuses


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", LONG, "--weights", "none"],
        ["check", LONG],
        ["check", "mine.csv", "--out", LONG],
        ["manifest", "new", "export", "--out", f"{LONG}/m.csv"],
        ["audit", LONG],
        ["batch", LONG],
    ],
)
def test_a_name_that_is_too_long_is_one_message(call, root, arguments):
    write_series(root / "export" / "p1")
    manifest(root, ROW.format(source="export/p1"))
    refused(call(*arguments), "" if arguments[0] == "predict" else "too long")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="no folder that even root cannot write to")
@pytest.mark.parametrize("command", [["check", "mine.csv"], ["manifest", "new", "export"]])
def test_a_folder_that_cannot_be_made_is_named_as_it_was_typed(call, root, command):
    write_series(root / "export" / "p1")
    manifest(root, ROW.format(source="export/p1"))
    out = "/proc/x" if command[0] == "check" else "/proc/x/m.csv"
    refused(call(*command, "--out", out), "error: /proc/x: no such file or directory. ")


def test_a_refused_path_below_the_working_folder_is_told_relative_to_it_and_without_the_temporary_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    error = OSError(errno.EROFS, "Read-only file system", str(tmp_path / "runs" / ".x.npz.12.abcd_123.npz"))
    said = str(storage_error(error))
    assert said == "runs/x.npz: read-only file system. Choose a folder on a writable disk"


# stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_what_is_kept_and_leaves_nothing_half_written(root, number):
    code = (
        "import os, sys, time; from pathlib import Path; from covid3d.commands import cli, predict\n"
        "from covid3d.run.files import working_folder\n"
        "def slow(path, weights, out, **_):\n"
        "    with working_folder(out / 'prediction'):\n"
        f"        os.kill(os.getpid(), {int(number)}); time.sleep(60)\n"
        "predict.predict = slow; sys.argv = ['covid3d', 'predict', 'x', '--weights', 'y', '--out', 'out']; cli.main()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert found.returncode == 130
    assert found.stderr.split("\n") == ["", "stopped; nothing half-written is left", ""]
    assert list((root / "out").iterdir()) == []


@pytest.mark.parametrize("day", ["2020-03-14", "14.03.2020", "3/14/20"])
def test_a_date_where_days_are_asked_for_is_called_one(call, root, day):
    row = ROW.replace(",1,0,0,", f",1,0,{day},", 1).format(source="x")
    refused(
        call("check", manifest(root, row)), "column 'day'", "That is a date. Write days since the patient's first scan"
    )
