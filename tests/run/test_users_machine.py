"""The user's machine: own settings of other programs, a home that cannot be written, odd paths, killed callers."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from conftest import CHECKOUT, furnish
from dicom_series import write_series
from nbformat.v4 import new_code_cell, new_notebook

from covid3d.cohort.manifest import COLUMNS
from covid3d.commands import pipeline
from covid3d.report.chapter import ensure_chapter
from covid3d.run.environment import own_settings
from covid3d.run.profile import open_run

PARAMETERS = 'run = "standard"\ncompute = True\ndevice = "auto"'
START = 'from covid3d import notebook\n\nrun, show = notebook.open("01_data", globals())'
SETTINGS = """\
import matplotlib

print(matplotlib.rcParams["font.size"], "inline" in matplotlib.get_backend(), "of_the_user" in globals())
"""


def write_notebook(folder, *code):
    """Write a small chapter 1 with the given code cells after that of parameters."""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "01_data.ipynb")
    return folder / "01_data.ipynb"


def printed(executed):
    notebook = nbformat.read(executed, as_version=4)
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.outputs)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home whose settings would change or stop a run; none of the variables that lead away from it is set."""
    home = tmp_path / "home"
    files = {
        ".ipython/profile_default/startup/00-mine.py": "of_the_user = 1",
        ".ipython/profile_default/ipython_kernel_config.py": "c.InteractiveShellApp.exec_lines = ['of_the_user = 1']",
        ".config/matplotlib/matplotlibrc": "font.size: 40",
        ".config/snakemake/mine/config.yaml": "dry-run: true",
        "startup.py": "of_the_user = 1",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text + "\n")
    for name in own_settings(tmp_path):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    return home


def test_the_users_settings_have_no_part_in_a_chapter(make_run, home, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", str(home / "startup.py"))
    monkeypatch.setenv("MPLBACKEND", "svg")
    run = make_run().with_options(compute=False)
    write_notebook(run.root / "notebooks", START, SETTINGS)
    before = sorted(home.rglob("*"))
    assert printed(ensure_chapter(run, "01_data")).split() == ["10.0", "True", "False"]
    assert sorted(home.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that even root cannot write to")
@pytest.mark.parametrize("place", ["/proc", None])
def test_a_chapter_needs_no_home(make_run, home, monkeypatch, place):
    monkeypatch.setenv("HOME", place) if place else monkeypatch.delenv("HOME")
    run = make_run().with_options(compute=False)
    write_notebook(run.root / "notebooks", START, SETTINGS)
    assert printed(ensure_chapter(run, "01_data")).startswith("10.0")


def test_what_start_up_files_define_is_no_parameter_where_a_reader_runs_papermill(make_run, home, tmp_path):
    make_run()
    notebook = write_notebook(tmp_path / "notebooks", START, "print('of_the_user' in globals())")
    command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", "run", "test"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    assert printed(tmp_path / "out.ipynb").strip() == "True"


@pytest.fixture
def site(root):
    """A run with one small series of a hospital: its first job takes no time."""
    furnish(root)
    write_series(root / "scans" / "one")
    row = {"scan_id": "S1", "patient_id": "P1", "hospital": "B", "role": "external", "label": 1, "scan_index": 0}
    pd.DataFrame([row | {"source": "scans/one"}], columns=COLUMNS).to_csv(root / "mine.csv", index=False)
    return open_run("site", profile="smoke", manifest="mine.csv")


FIRST_JOB = ["done/jobs/cohort.done"]


def test_a_job_runs_without_a_home_and_without_the_users_snakemake_profile(site, home, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(home / ".config" / "snakemake" / "mine"))
    monkeypatch.setenv("HOME", "/proc")
    assert pipeline.compute(site, 1, FIRST_JOB) == 0
    assert site.manifest.is_file()


def test_a_job_runs_where_checkout_and_python_lie_under_a_path_with_spaces_and_umlauts(site, tmp_path):
    checkout = tmp_path / "a pläce with 'spaces'"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "covid3d", checkout / "covid3d", ignore=ignored)
    shutil.copyfile(CHECKOUT / "Snakefile", checkout / "Snakefile")
    shutil.move(site.folder, checkout / "runs" / site.name)
    shutil.copytree(tmp_path / "scans", checkout / "scans")
    shutil.copyfile(tmp_path / "mine.csv", checkout / "mine.csv")
    (checkout / ".venv").symlink_to(sys.prefix)
    furnish(checkout)
    code = (
        "import sys\nfrom covid3d.commands import pipeline\nfrom covid3d.run.profile import open_run\n"
        f"sys.exit(pipeline.compute(open_run('site'), 1, {FIRST_JOB}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(checkout), "COVID3D_ROOT": str(checkout)}
    python = checkout / ".venv" / "bin" / "python"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, cwd=checkout)
    assert found.returncode == 0, found.stdout + found.stderr
    assert (checkout / "runs" / "site" / "manifest.csv").is_file()


# what ends a run is said on the terminal


def test_where_no_job_started_the_last_words_are_shown(make_run, monkeypatch, capfd):
    broken = [sys.executable, "-c", "raise PermissionError(13, 'Permission denied', '/nowhere/.cache')"]
    monkeypatch.setattr(pipeline, "snakemake_command", lambda *_: broken)
    assert pipeline.compute(make_run(), 1) == 1
    said = capfd.readouterr().err
    assert "PermissionError: [Errno 13] Permission denied: '/nowhere/.cache'" in said
    assert "Logs: runs/test/logs/" in said


def test_a_job_that_was_killed_is_named_with_the_likely_reason():
    said = [
        "/usr/bin/bash: line 1:   123 Killed                  python -m covid3d step fold --run x --fold 0 2>&1",
        "Command 'set -euo pipefail; …' returned non-zero exit status 137.",
    ]
    assert "step fold --run x --fold 0" in pipeline.cause(said)[0]
    assert "memory" in pipeline.cause(said)[1]


def test_what_a_job_said_itself_is_not_said_again():
    assert pipeline.cause(["Command '…' returned non-zero exit status 2.", "WorkflowError:"]) == []


# what is deleted


def test_a_chapter_deleted_with_its_marker_is_made_again(root, make_run):
    furnish(root)
    run = make_run()
    command = pipeline.snakemake_command(run, 1)
    command[command.index("--quiet") : command.index("--config")] = ["--dryrun", "--nolock"]

    def planned():
        found = subprocess.run(command, capture_output=True, text=True, env=pipeline.environment(run), cwd=run.folder)
        assert found.returncode == 0, found.stderr
        lines = (found.stdout + found.stderr).splitlines()
        return {Path(line.split()[1]).stem for line in lines if line.strip().startswith("output: done/jobs/")}

    jobs = planned()
    for job in jobs:
        run.path("done", "jobs").mkdir(parents=True, exist_ok=True)
        run.path("done", "jobs", f"{job}.done").touch()
        os.utime(run.path("done", "jobs", f"{job}.done"), (1e9, 1e9))
    assert planned() == set()
    run.path("done", "jobs", "01_data.done").unlink()
    assert planned() == {"01_data", "08_claims", "collect", "book"}


# killed callers


def test_a_build_and_its_workers_end_when_the_caller_of_the_build_is_killed(tmp_path):
    arguments = [
        "phantom",
        "build",
        "--out",
        str(tmp_path / "out"),
    ]  # some 50 scans: it takes longer than is waited for
    code = (
        "import os, subprocess, sys\nos.environ['COVID3D_CALLER'] = str(os.getpid())\n"
        f"subprocess.run([sys.executable, '-m', 'covid3d', *{arguments}])"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    started, until = [], time.monotonic() + 90
    while len([one for one in started if "spawn_main" in shlex.join(one.cmdline())]) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
        started = psutil.Process(caller.pid).children(recursive=True)
    caller.kill()  # not collected: a caller that nobody waits for is dead all the same
    _, alive = psutil.wait_procs(started, timeout=15)
    still = [one.cmdline() for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    for one in alive:
        one.kill()
    caller.wait()
    assert still == []
