"""The whole path on the profile `smoke`: everything is there, nothing runs twice, a kill costs nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pydicom
import pytest
import warm_python
import yaml
from conftest import CHECKOUT, furnish

from covid3d.commands import cli, pipeline
from covid3d.run.errors import ConfigError, Covid3DError
from covid3d.run.files import read_json, sha256_file, write_json
from covid3d.run.profile import DATA, open_run
from covid3d.run.steps import CHAPTERS

OWN = CHAPTERS[:9]  # of a simulated run; 10 is a hospital's
BOOK = ("index.html", *(f"notebooks/{chapter}.html" for chapter in CHAPTERS))


def files_of(folder, *, without=(".snakemake", "logs", "done")):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path for path in found if path.relative_to(folder).parts[0] not in without
    }


def hashes_of(folder, pattern):
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.glob(pattern))}


def copy_of(run, root):
    """Copy a finished run, times included, under another root; return it."""
    furnish(root)
    alive = shutil.ignore_patterns("process.json", "locks")  # another worker may be at the original right now
    shutil.copytree(run.folder, root / "runs" / run.name, ignore=alive)
    return type(run)(run.name, root, run.config, run.profile)


def command_line(root, *arguments):
    return warm_python.run("covid3d", *arguments, cwd=root, env={**os.environ, "COVID3D_ROOT": str(root)})


# the finished run


@pytest.mark.parametrize("chapter", OWN)
def test_every_notebook_is_executed_to_its_end_without_an_error(smoke_run, chapter):
    notebook = nbformat.read(smoke_run.path("notebooks", f"{chapter}.ipynb"), as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert len(cells) > 3
    assert all(cell.execution_count for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_the_book_has_its_landing_page_and_a_page_for_each_chapter(smoke_run):
    html = smoke_run.path("book", "_build", "html")
    assert [page for page in BOOK if not (html / page).is_file()] == []


def test_the_first_words_of_every_page_with_results_say_that_they_are_simulated(smoke_run):
    html = smoke_run.path("book", "_build", "html")
    for page in BOOK:
        text = re.sub(r"<[^>]+>", " ", (html / page).read_text(encoding="utf-8").partition("<article")[2])
        assert "simulated" in text[:600].lower(), page


def test_values_are_complete_and_each_chapter_has_its_own(smoke_run):
    values = read_json(smoke_run.path("values.json"))
    assert len(values) > 50
    for key, entry in values.items():
        assert {"value", "low", "high", "unit", "text", "cohort"} <= entry.keys(), key
        assert entry["cell"], key
    merged = {}
    for chapter in OWN:
        own = read_json(smoke_run.chapter(chapter[:2]) / "values.json")
        assert own, chapter
        assert not merged.keys() & own.keys()
        merged |= own
    assert merged.keys() == values.keys()


def test_the_ledger_has_a_row_for_each_of_142_claims(smoke_run):
    claims = pd.read_csv(smoke_run.path("claims.csv"), keep_default_na=False)
    assert len(claims) == 142
    assert claims["claim_id"].is_unique
    assert (claims["verdict"] != "").all()


def test_every_table_and_figure_of_the_paper_has_its_counterpart(smoke_run):
    for number in (1, 2):
        assert smoke_run.path("tables", f"table_{number}.csv").is_file()
    for number in (1, 2, 3, 4):
        for suffix in ("png", "svg"):
            assert smoke_run.path("figures", f"figure_{number}.{suffix}").is_file()


def test_predictions_hold_every_task_and_model(smoke_run):
    table = pd.read_csv(smoke_run.path("predictions.csv"), dtype={"fold": str, "window": str})
    assert {"covid3d", "covid3d_ensemble", "resnet_2d", "single", "pair"} <= set(table["model"])
    assert {"A", "B", "C"} <= set(table["hospital"])


def test_no_result_names_a_folder_of_this_machine(smoke_run):
    marks = (str(smoke_run.root), str(CHECKOUT), sys.prefix)
    suffixes = (".json", ".csv", ".ipynb", ".html", ".yaml", ".md")
    texts = {name: path for name, path in files_of(smoke_run.folder).items() if path.suffix in suffixes}
    assert len(texts) > 50
    guilty = [name for name, path in texts.items() if any(mark in path.read_text(encoding="utf-8") for mark in marks)]
    assert not guilty


def test_the_time_of_every_step_is_noted(smoke_run):
    steps = {entry["step"] for entry in read_json(smoke_run.path("cost.json"))["steps"]}
    assert {"cohort", "intake", "models/task1/covid3d/fold_00", "notebooks/08_claims"} <= steps


def test_make_says_where_the_results_lie_and_a_second_run_does_nothing(smoke_run):
    before = {name: path.stat().st_mtime_ns for name, path in files_of(smoke_run.folder).items()}
    found = command_line(smoke_run.root, "pipeline", "smoke", "--cores", "2")
    assert found.returncode == 0, found.stderr
    assert "runs/smoke/book/_build/html/index.html" in found.stdout
    assert {name: path.stat().st_mtime_ns for name, path in files_of(smoke_run.folder).items()} == before
    assert "Nothing to be done" in smoke_run.path("logs", "snakemake.log").read_text()


# what a change runs again

A_CONSTANT = "\nA_CONSTANT = 1\nimport "


@pytest.fixture(scope="session")
def changed(smoke_run, tmp_path_factory):
    """Plan the smoke run again with a changed copy of the package: each change is a file, what is in it, and what comes there.

    Returns the names of the jobs that would run.
    """
    root = tmp_path_factory.mktemp("changed")
    run = copy_of(smoke_run, root)
    numbers = iter(range(100))

    def plan(*changes):
        tree = root / f"tree_{next(numbers)}"
        shutil.copytree(CHECKOUT / "covid3d", tree / "covid3d", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(CHECKOUT / "benchmarks" / "results", tree / "benchmarks" / "results")
        shutil.copyfile(CHECKOUT / "Snakefile", tree / "Snakefile")
        for module, old, new in changes:
            path = tree / "covid3d" / module
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new, 1))
        command = pipeline.snakemake_command(run, 1)
        command[command.index("--snakefile") + 1] = str(tree / "Snakefile")
        command[command.index("--quiet") : command.index("--config")] = ["--dryrun", "--nolock"]
        environment = {**pipeline.environment(run), "PYTHONPATH": str(tree)}
        found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=run.folder)
        assert found.returncode == 0, found.stderr
        return set(re.findall(r"output: done/jobs/(\w+)\.done", found.stdout + found.stderr))

    return plan


def test_changed_comments_run_nothing_again(changed):
    modules = "chapters/fine_tuning.py network/training.py run/profile.py run/steps.py phantom/build.py".split()
    assert changed(*((module, "\nimport ", "\n# a remark\nimport ") for module in modules)) == set()


def test_a_changed_constant_in_fine_tuning_runs_only_what_depends_on_it(changed):
    jobs = changed(("chapters/fine_tuning.py", "\nimport ", A_CONSTANT))
    folds = {f"prognosis_{variant}_{fold}" for variant in ("single", "pair") for fold in ("00", "01")}
    assert jobs == folds | {
        "05_reader_comparison",
        "07_prognosis",
        "08_claims",
        "collect",
        "book",
    }  # 5 shares its patients


def test_another_question_of_a_chapter_trains_nothing_again(changed):
    jobs = changed(("chapters/prognosis.py", "\nimport ", A_CONSTANT))
    assert jobs == {"07_prognosis", "08_claims", "collect", "book"}


def test_a_claim_that_meets_another_address_is_written_anew_and_trains_nothing(changed):
    old = "C001,software,depth.on_the_longest_path,"
    jobs = changed(("data/claims_map.csv", old, old.replace("on_the_longest_path", "with_weights")))
    assert {"02_model", "08_claims", "collect", "book"} <= jobs
    assert not jobs & {"cohort", "fold_00", "external", "windows", "prognosis_pair_00"}


def test_changed_training_leaves_the_cohort_alone(changed):
    jobs = changed(("network/training.py", "\nimport ", A_CONSTANT))
    assert {"fold_00", "fold_01", "slices", "external", "prognosis_pair_00", "book"} <= jobs
    assert not jobs & {"cohort", "intake", "splits"}


# the same again, and after a kill


def test_the_same_seed_gives_identical_values(smoke_run, tmp_path_factory):
    """Everything after training is computed a second time, in another folder; what comes before: see the next test.

    Markers of results that are gone, whole or in part, stand, and keep nothing from being made again.
    """
    run = copy_of(smoke_run, tmp_path_factory.mktemp("again"))
    for name in ("external", "explain", "trajectories", "chapters", "notebooks"):
        shutil.rmtree(run.path(name))
    run.path("windows", "predictions.csv").unlink()
    jobs = [run.path("done", "jobs", f"{job}.done") for job in (*OWN, "collect")]
    for path in (*jobs, *run.path("done").glob("chapter_*.json"), run.path("values.json")):
        path.unlink()
    assert pipeline.compute(run, 2, ["done/jobs/collect.done"]) == 0
    assert run.path("values.json").read_bytes() == smoke_run.path("values.json").read_bytes()
    for pattern in ("tables/*.csv", "external/*.csv", "trajectories/*.csv"):
        assert hashes_of(run.folder, pattern) == hashes_of(smoke_run.folder, pattern)


@pytest.mark.parametrize("damage", [lambda folder: (folder / "done.json").write_text("{"), shutil.rmtree, None])
def test_a_marker_stays_only_where_its_result_is_whole(make_run, damage):
    run = make_run()
    folder, marker = run.path("external"), run.path("done", "jobs", "external.done")
    write_json(folder / "done.json", {"outputs": {}})
    write_json(marker, {})
    if damage:
        damage(folder)
    pipeline.forget_what_is_gone(run)
    assert marker.is_file() == (damage is None)


def test_a_kill_in_a_fold_costs_nothing_and_changes_no_byte(smoke_run, tmp_path_factory, monkeypatch):
    root = furnish(tmp_path_factory.mktemp("killed"))
    monkeypatch.setenv("COVID3D_ROOT", str(root))
    run = open_run("smoke")
    target = ["done/jobs/fold_00.done", "done/jobs/fold_01.done"]
    assert pipeline.compute(run, 2, ["done/jobs/splits.done"]) == 0
    assert hashes_of(run.folder, "*.csv").items() <= hashes_of(smoke_run.folder, "*.csv").items()
    process = subprocess.Popen(
        pipeline.snakemake_command(run, 1, target),
        cwd=run.folder,
        env=pipeline.environment(run),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipeline.hold(run, process.pid)
    deadline = time.monotonic() + 120
    while not list(run.path("checkpoints").glob("task1*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(run.path("checkpoints").glob("task1*.safetensors")), "the kill came too late to say anything"
    finished = [path.parent.name for path in run.path("models", "task1", "covid3d").glob("fold_*/done.json")]
    assert len(finished) < 2
    assert pipeline.compute(run, 2, target) == 0
    pattern = "models/task1/covid3d/fold_*/predictions.csv"
    assert hashes_of(run.folder, pattern) == hashes_of(smoke_run.folder, pattern)
    pattern = "models/task1/covid3d/fold_*/weights.safetensors"
    assert len(hashes_of(run.folder, pattern)) == 2
    assert not list(run.path("checkpoints").iterdir())


# locks, sweeps, steps


def locked(run, holder):
    lock = run.path(".snakemake", "locks", "0.output.lock")
    lock.parent.mkdir(parents=True)
    lock.write_text("done/jobs/book.done\n")
    if holder is not None:
        write_json(run.path("logs", "process.json"), holder)
    return lock


@pytest.mark.parametrize("holder", [None, {"pid": 2**22 + 1, "started": 1.0}, {"pid": os.getpid(), "started": 1.0}])
def test_a_lock_of_a_dead_process_is_removed_even_when_its_number_is_in_use_again(make_run, holder):
    run = make_run()
    lock = locked(run, holder)
    half_written = run.path("checkpoints", ".fold_00.safetensors.ab12_xyz.safetensors")
    half_written.parent.mkdir(exist_ok=True)
    half_written.touch()
    pipeline.clear_dead_lock(run)
    assert not lock.exists()
    assert not half_written.exists()


def test_a_lock_of_a_living_process_is_respected(make_run):
    run = make_run()
    lock = locked(run, None)
    pipeline.hold(run, os.getpid())
    with pytest.raises(Covid3DError, match=f"is being computed by process {os.getpid()}"):
        pipeline.clear_dead_lock(run)
    assert lock.exists()


def test_the_claims_of_a_run_that_is_being_computed_say_so(make_run, monkeypatch, capsys):
    run = make_run()
    monkeypatch.setenv("COVID3D_ROOT", str(run.root))
    pipeline.hold(run, os.getpid())
    with pytest.raises(ConfigError, match=f"run '{run.name}' is being computed for the first time"):
        cli.finished(run.name)
    write_json(run.path("values.json"), {})
    assert cli.finished(run.name).name == run.name
    assert "chapters not done yet show their values of before" in capsys.readouterr().err


def sweep(tmp_path, **content):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_sweep_is_every_combination_named_by_what_varies(tmp_path):
    runs = pipeline.read_sweep(sweep(tmp_path, name="s", world=["effect", "null"], seed=[1, 2]))
    assert list(runs) == ["s-effect-1", "s-effect-2", "s-null-1", "s-null-2"]
    assert runs["s-null-2"] == {"profile": "smoke", "world": "null", "seed": 2}


def test_the_example_of_a_sweep_is_valid():
    assert len(pipeline.read_sweep(CHECKOUT / "sweep.example.yaml")) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "s", "seeds": [1]}, "unknown key 'seeds'. Did you mean 'seed'"),
        ({"name": "s", "seed": ["1"]}, "seed"),
        ({"name": "s", "seed": []}, "seed"),
        ({"name": "../s"}, "name"),
        ({"seed": [1]}, "'name' is missing"),
        ({"name": "s", "world": [None]}, "in quotes"),
        ({"name": "s", "world": None}, "key 'world': a bare null means 'nothing' in YAML. Write \"null\" in quotes"),
        (
            {"name": "s", "world": "effect"},
            "sweep.yaml: key 'world' is 'effect', no list. Write its values in brackets",
        ),
        ({"name": "s", "world": 3}, "sweep.yaml: key 'world' is 3, no list"),
        ({"name": "s", "world": True}, "sweep.yaml: key 'world' is True, no list"),
        ({"name": "s", "world": [3]}, "sweep.yaml: key 'world.0' is 3. It should be 'effect' or 'null'"),
        ({"name": "s", "seed": 1}, "sweep.yaml: key 'seed' is 1, no list"),
        ({"name": "s", "seed": [-1]}, "sweep.yaml: key 'seed.0' is -1"),
        ({"name": "s", "weights": {"a": "b"}}, "sweep.yaml: key 'weights' is {'a': 'b'}, no list"),
        ({"name": "s", "seed": [1, 1]}, "two runs would be called 's-1'"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_runs(tmp_path, content, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        pipeline.read_sweep(sweep(tmp_path, **content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: caf\xe9\n".encode("latin-1"), "sweep.yaml: the text is not UTF-8. Start from sweep.example.yaml"),
        (b"name: [s\n", "sweep.yaml: not valid YAML"),
        (b"- s\n", "sweep.yaml: it is no table of keys"),
        (b"", "sweep.yaml: it is no table of keys"),
    ],
)
def test_a_file_that_is_no_sweep_is_one_message_with_a_cure(tmp_path, content, message):
    (tmp_path / "sweep.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        pipeline.read_sweep(tmp_path / "sweep.yaml")


def test_a_refused_sweep_leaves_no_run_behind_and_an_older_one_as_it_was(root, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(pipeline, "compute", lambda *_: pytest.fail("a run of a refused sweep was started"))
    form = tmp_path_factory.mktemp("away") / "form.csv"
    shutil.copyfile(DATA / "data_manifest.csv", form)
    old = open_run("s-smoke", profile="smoke", manifest=str(form))
    kept = old.path("config.yaml").read_bytes()
    path = sweep(tmp_path, name="s", profile=["smoke", "standard", "papr"], manifest=[str(form)])
    with pytest.raises(ConfigError, match="no profile 'papr'. Did you mean 'paper'"):
        pipeline.batch(path, 1)
    assert [path.name for path in (root / "runs").iterdir()] == ["s-smoke"]
    assert old.path("config.yaml").read_bytes() == kept
    assert old.order_form == form, "the older run has lost the note of its manifest"
    assert [note.name for note in old.note("manifest").parent.iterdir()] == ["s-smoke.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fol"], "Did you mean 'fold'"),
        (["fold"], "needs --fold"),
        (["fold", "--fold", "2"], "there is no fold '2'. Known: 0, 1"),
        (["external", "--fold", "0"], "step 'external' has no --fold"),
        (["prognosis", "--fold", "0", "--variant", "both"], "Known: pair, single"),
        (["09_more"], "there is no step '09_more'"),
    ],
)
def test_a_step_that_does_not_exist_is_one_message(root, arguments, message):
    found = command_line(root, "step", *arguments, "--run", "smoke")
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_threads_come_from_the_profile_never_from_the_machine(make_run):
    assert pipeline.environment(make_run(profile="smoke"))["OMP_NUM_THREADS"] == "1"
    assert pipeline.environment(make_run("p", profile="paper"))["OMP_NUM_THREADS"] == "8"


@pytest.mark.verify
def test_two_whole_runs_with_one_seed_have_identical_values(smoke_run, tmp_path_factory, monkeypatch):
    root = furnish(tmp_path_factory.mktemp("twice"))
    monkeypatch.setenv("COVID3D_ROOT", str(root))
    run = open_run("smoke")
    assert pipeline.compute(run, 2) == 0
    for name in ("values.json", "predictions.csv", "claims.csv", "manifest.csv", "intake.csv"):
        assert run.path(name).read_bytes() == smoke_run.path(name).read_bytes(), name


# a hospital's own scans with given weights

IDENTIFYING = (
    "PatientName PatientID OtherPatientIDs PatientComments ReferringPhysicianName InstitutionName "
    "StationName DeviceSerialNumber AccessionNumber StudyID StudyDescription SeriesDescription"
).split()


def test_a_sites_manifest_with_given_weights_gives_the_hospitals_chapter_under_pseudonyms(smoke_run, tmp_path_factory):
    root = furnish(tmp_path_factory.mktemp("site"))
    own = root / "own"
    rows = pd.read_csv(smoke_run.manifest, dtype=str, keep_default_na=False)
    rows = rows[(rows["hospital"] == "B") & (rows["scan_index"] == "0")].copy()
    for name in rows["scan_id"]:
        shutil.copytree(smoke_run.path("dicom", name), own / "SECRET" / name)
    for path in (own / "SECRET").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for keyword in IDENTIFYING:
            setattr(dataset, keyword, "SECRET")
        dataset.private_block(0x0029, "SECRET", create=True).add_new(0x01, "LO", "SECRET")
        dataset.save_as(path)
    rows["source"] = "SECRET/" + rows["scan_id"]
    rows["patient_id"] = "SECRET" + rows["patient_id"]
    rows.assign(sha256="").to_csv(own / "manifest.csv", index=False)
    shutil.copy(smoke_run.model("task1", "covid3d", 0) / "weights.safetensors", own)
    options = ("--profile", "smoke", "--manifest", "own/manifest.csv", "--weights", "own/weights.safetensors")
    found = command_line(root, "pipeline", "mine", *options, "--cores", "2")
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    run = root / "runs" / "mine"
    assert {path.stem for path in (run / "notebooks").glob("*.ipynb")} == {"10_your_hospital"}
    page = (run / "book" / "_build" / "html" / "notebooks" / "10_your_hospital.html").read_text(encoding="utf-8")
    assert "simulated" in re.sub(r"<[^>]+>", " ", page.partition("<article")[2])[:600].lower()  # known by its headers
    for path in run.rglob("*"):
        assert "SECRET" not in path.name
        assert path.is_dir() or b"SECRET" not in path.read_bytes(), path.name
    assert "SECRET" not in found.stdout + found.stderr


def test_a_refused_manifest_leaves_no_run_behind(root):
    (root / "bad.csv").write_text("scan_id,patient_id\na,b\n")
    found = command_line(root, "pipeline", "mine", "--profile", "smoke", "--manifest", "bad.csv")
    assert found.returncode == 2
    assert "bad.csv" in found.stderr and "Traceback" not in found.stderr
    assert not (root / "runs" / "mine").exists()
