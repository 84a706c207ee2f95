"""Intake: every scan a row, each read once, and nothing that identifies a patient in the run."""

import csv
import errno
import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import furnish
from dicom_series import body, write_series
from image_files import metaimage, nifti, nrrd, put

from covid3d.cohort import gate, intake
from covid3d.cohort.delivery import READINGS, key_file, source_of
from covid3d.cohort.draft import draft_manifest
from covid3d.cohort.manifest import COLUMNS, read_manifest
from covid3d.cohort.reader_study import RULES
from covid3d.cohort.scan import pixel_sha256
from covid3d.cohort.store import Store
from covid3d.commands import deliver
from covid3d.commands.deliver import ensure_cohort
from covid3d.ct.grid import resample
from covid3d.dicom.series import read_ct
from covid3d.report import book, collect
from covid3d.run import steps
from covid3d.run.errors import Covid3DError, ManifestError, MissingResult, SeriesError, StorageError

CANARY = "CANARY"


def take_in(run):
    """Deliver the cohort and read every scan; return intake.csv."""
    steps.ensure_needs(run, "splits")
    return intake.read_intake(run)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(intake, "cpu_count", lambda: 1)


def manifest_row(scan, patient, source, **values):
    row = dict.fromkeys(COLUMNS, "") | {"scan_id": scan, "patient_id": patient, "hospital": "B", "role": "external"}
    return row | {"label": "1", "scan_index": "0", "day": "0", "age": "61", "sex": "F", "source": source} | values


def write_rows(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def add_private_tag(dataset, index):
    dataset.private_block(0x0029, CANARY, create=True).add_new(0x01, "LO", CANARY)


@pytest.fixture
def site(root, make_run):
    """A hospital's manifest of four scans, one with a missing slice, one of two series in a folder; and its run."""
    folder = root / "hospital" / f"{CANARY}-drive"
    fields = (
        "InstitutionName",
        "InstitutionAddress",
        "StudyDescription",
        "SeriesDescription",
        "ReferringPhysicianName",
    )
    fields += ("PatientAddress", "AccessionNumber", "StudyID", "StationName", "OperatorsName", "PatientComments")
    fields += (
        "OtherPatientIDs",
        "DeviceSerialNumber",
        "ProtocolName",
        "ImageComments",
        "RequestedProcedureDescription",
    )
    dates = dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientBirthDate"), "20200401")
    private = {**dict.fromkeys(fields, CANARY), **dates, "change": add_private_tag}
    write_series(folder / "one", **private)
    write_series(folder / "two", body(seed=1), uid="1.2.3.2", SeriesNumber=2, **private)
    write_series(folder / "two" / "thin", body(seed=2), uid="1.2.3.3", SeriesNumber=3, **private)
    write_series(folder / "bad", **private)
    sorted((folder / "bad").iterdir())[5].unlink()
    write_series(folder / "three", body(seed=3), **private)
    rows = [
        manifest_row(f"{CANARY}-1", f"{CANARY}-p1", f"{folder.name}/one", age="93", licence=CANARY, hospital=CANARY),
        manifest_row(f"{CANARY}-2", "p2", f"{folder.name}/two#3", label="0", licence="CC BY 4.0", hospital="C"),
        manifest_row(f"{CANARY}-3", "p3", f"{folder.name}/bad"),
        manifest_row(f"{CANARY}-4", "p4", f"{folder.name}/two"),
        manifest_row(f"{CANARY}-5", "p5", f"{folder.name}/three", label="0"),
    ]
    path = write_rows(root / "hospital" / "manifest.csv", rows)
    return make_run("site", manifest=str(path))


def test_a_sites_scans_are_read_and_bad_ones_are_rows_with_a_code(site):
    table = take_in(site)
    assert table["ok"].tolist() == [1, 1, 0, 0, 1]
    assert table["code"].tolist() == ["", "", "missing_slice", "several_series", ""]
    assert all(message.count(".") >= 1 for message in table["message"][2:4])
    assert list(table.columns) == list(intake.COLUMNS)
    assert table.loc[0, ["n_slices", "rows", "columns", "kernel"]].tolist() == [20, 48, 48, "B40f"]
    assert table.loc[0, "pixel_sha256"] == pixel_sha256(body())
    assert table.loc[0, "hu_mean"] == pytest.approx(body().mean(), abs=1e-3)
    assert table.loc[0, "hu_sd"] == pytest.approx(body().std(), abs=1e-3)
    good = intake.accepted(site)
    assert good["scan_id"].tolist() == table.loc[table["ok"] == 1, "scan_id"].tolist()
    wanted = resample(read_ct(source_of(site, good["source"][1]).path, 3), site.profile.model.grid)
    np.testing.assert_array_equal(Store.of(site).get(good["scan_id"][1]), wanted)
    assert table.loc[1, "pixel_sha256"] == pixel_sha256(body(seed=2))


def test_refusals_are_told_in_words_with_the_place_of_their_reasons(site, capsys):
    take_in(site)
    words = "intake: 2 of 5 scans refused (1 missing_slice, 1 several_series); reason and cure of each: runs/site/intake.csv"
    assert words in capsys.readouterr().out.splitlines()


def test_the_flow_counts_every_scan_once(site):
    take_in(site)
    flow = json.loads(site.path("flow.json").read_text())
    assert (flow["ordered"], flow["delivered"], flow["controls"], flow["read"], flow["refused"]) == (5, 5, 0, 3, 2)
    assert flow["refused_by_code"] == {"missing_slice": 1, "several_series": 1}
    assert sum(group["read"] for group in flow["groups"]) == 3


def test_nothing_that_identifies_enters_the_run_or_the_terminal(site, capfd):
    """One word in every identifying field, a private tag, paths and columns; run, settings and the book's sources."""
    take_in(site)
    furnish(site.root)
    collect.collect(site)
    book.stage(site, site.path("book"))
    assert site.path("book", "notebooks", "01_data.md").is_file()
    for path in site.folder.rglob("*"):
        assert CANARY not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert CANARY.encode() not in content
            assert b"20200401" not in content
            assert str(site.root).encode() not in content
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    delivered = read_manifest(site.manifest)
    assert delivered["age"].max() == 90
    assert delivered["hospital"].tolist() == ["H1", "C", "B", "B", "B"]
    assert delivered["licence"].tolist() == ["private", "CC BY 4.0", "private", "private", "private"]
    assert delivered["source"].str.fullmatch(r"site:S[0-9a-f]{10}").all()


def test_the_key_file_alone_leads_back_and_only_its_owner_may_read_it(site):
    ensure_cohort(site)
    path = key_file(site)
    assert not path.is_relative_to(site.folder)
    assert path.stat().st_mode & 0o777 == 0o600
    delivered = read_manifest(site.manifest)
    assert source_of(site, delivered["source"][0]).path.name == "one"
    assert json.loads(path.read_text())["scans"][delivered["scan_id"][0]]["scan_id"] == f"{CANARY}-1"
    first = site.manifest.read_bytes()
    site.path("done", "cohort.json").unlink()
    ensure_cohort(site)
    assert site.manifest.read_bytes() == first  # the same key gives the same pseudonyms
    path.write_text(path.read_text()[:-9])
    damaged = path.read_bytes()
    site.path("done", "cohort.json").unlink()
    with pytest.raises(MissingResult, match="key of this run"):
        ensure_cohort(site)
    assert path.read_bytes() == damaged  # a key is never written over by another
    path.unlink()
    with pytest.raises(MissingResult, match="key of this run"):
        source_of(site, delivered["source"][0])


def test_two_runs_have_unlike_pseudonyms(site, make_run):
    other = make_run("other", manifest=site.config.manifest)
    ensure_cohort(site)
    ensure_cohort(other)
    assert not set(read_manifest(site.manifest)["scan_id"]) & set(read_manifest(other.manifest)["scan_id"])


def test_a_second_intake_reads_nothing_and_goes_on_where_it_was_killed(site, monkeypatch):
    first = take_in(site)
    content = site.intake.read_bytes()
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    original = intake.read_scan
    monkeypatch.setattr(intake, "read_scan", counted)
    take_in(site)
    assert calls == []
    site.intake.unlink()  # killed before the table was written: stored scans are not read again, refused ones are
    lost = site.volumes / first["volume"][4]
    lost.unlink()
    take_in(site)
    assert len(calls) == 3
    assert site.intake.read_bytes() == content
    lost.unlink()  # the store was damaged later: noticed, and read again
    take_in(site)
    assert lost.is_file()


def test_changed_files_are_refused_by_their_checksum(site):
    ensure_cohort(site)
    place = source_of(site, read_manifest(site.manifest)["source"][0])
    write_series(place.path, body(seed=9))
    assert take_in(site)["code"][0] == "checksum"


def rewrite_rows(path, **columns):
    """Change columns of a manifest, a value a row."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.assign(**columns).to_csv(path, index=False)


def test_a_scan_of_another_checksum_or_number_of_slices_than_listed_is_refused_and_the_rest_goes_on(site, monkeypatch):
    whole = intake.sha256_tree(site.order_form.parent / f"{CANARY}-drive" / "one").upper()
    rewrite_rows(site.order_form, n_slices=["20", "21", "", "", "20"], sha256=[whole, "", "", "", "0" * 64])
    table = take_in(site)
    assert table["code"].tolist() == ["", "slice_count", "missing_slice", "several_series", "checksum"]
    assert "20 slices were read, but the manifest says 21" in table["message"][1]
    monkeypatch.setattr(gate, "cpu_count", lambda: 1)
    assert gate.check_manifest(site.order_form).intake["code"].tolist() == table["code"].tolist()


def test_a_number_of_slices_that_is_corrected_later_counts_for_stored_scans_too(site):
    assert take_in(site)["ok"][0] == 1
    table = read_manifest(site.manifest)
    write_rows(
        site.manifest, table.assign(n_slices=[19, "", "", "", ""]).astype(str).replace("<NA>", "").to_dict("records")
    )
    intake._intake(site)
    assert intake.read_intake(site)["code"][0] == "slice_count"


def test_without_compute_a_missing_intake_names_the_command(site):
    with pytest.raises(MissingResult, match="make run RUN=site"):
        take_in(site.with_options(compute=False))
    with pytest.raises(MissingResult):
        intake.read_intake(site)


def test_an_unexpected_error_in_one_scan_is_a_row_without_details(site, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError(f"{CANARY} in /secret/path")

    monkeypatch.setattr(intake, "read_scan", broken)
    table = take_in(site)
    assert set(table["code"]) == {"unreadable"}
    assert not table["message"].str.contains(CANARY).any()


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")], ids=["memory", "files"]
)
def test_a_machine_that_runs_short_stops_the_step_and_refuses_no_scan(site, monkeypatch, error):
    def short(*_, **__):
        raise error

    monkeypatch.setattr(intake, "read_scan", short)
    with pytest.raises(Covid3DError, match=r"^scan \S+: the machine ran short .* CORES=1"):
        take_in(site)
    assert not site.intake.is_file(), "nothing that the next call would take for finished"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "nowhere"}, "does not exist"),
        ({"source": "idc:1.2.3"}, "public download"),
    ],
)
def test_a_faulty_manifest_is_refused_with_row_and_column(root, make_run, values, words):
    write_series(root / "scans" / "one")
    row = manifest_row("s1", "p1", "one") | values
    path = write_rows(root / "scans" / "m.csv", [row])
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    run = make_run("faulty", manifest=str(path))
    with pytest.raises(ManifestError, match="row 3, column") as caught:  # its line in the file, the blank one counted
        ensure_cohort(run)
    assert words in str(caught.value)
    assert not run.manifest.exists()


def test_real_and_simulated_scans_do_not_mix(root, make_run):
    write_series(root / "scans" / "one")
    rows = [manifest_row("s1", "p1", "one"), manifest_row("s2", "p2", "phantom:1")]
    run = make_run("mixed", manifest=str(write_rows(root / "scans" / "m.csv", rows)))
    with pytest.raises(ManifestError, match="mixes"):
        ensure_cohort(run)


def test_a_reader_study_beside_the_manifest_goes_under_pseudonyms(site):
    path = site.order_form.parent / "reader_study.csv"
    head = "reader_id,scan_id,prior_scan_id,task,call,confidence,order,read_at\n"
    path.write_text(head + f"Dr {CANARY},{CANARY}-1,,covid,1,0.9,1,2020-04-02\n")
    ensure_cohort(site)
    study = pd.read_csv(site.path("reader_study.csv"), keep_default_na=False, dtype=str)
    assert study.loc[0, ["reader_id", "read_at", "call"]].tolist() == ["R1", "", "1"]
    assert study["scan_id"][0] == read_manifest(site.manifest)["scan_id"][0]
    path.write_text(head + "R1,unknown,,covid,1,0.9,1,\n")
    site.path("done", "cohort.json").unlink()
    with pytest.raises(ManifestError, match="row 2, column 'scan_id'"):
        ensure_cohort(site)
    for nobody in ("", "NA", " null "):
        path.write_text(head + f"R1,{CANARY}-1,,covid,1,0.9,1,\n\n{nobody},{CANARY}-1,,covid,1,0.9,1,\n")
        with pytest.raises(
            ManifestError, match="row 4, column 'reader_id'"
        ):  # its line in the file, the blank one counted
            ensure_cohort(site)
    path.write_text(head.replace(",", ";") + "R1;x;;covid;1;;;\n")
    with pytest.raises(ManifestError, match="separated by semicolons"):
        ensure_cohort(site)
    path.write_text(head + f"Mayer,{CANARY}-1,,covid,1,,,\n Mayer , {CANARY}-1 ,,covid,1,,,\n")
    ensure_cohort(site)
    assert pd.read_csv(site.path("reader_study.csv"))["reader_id"].tolist() == ["R1", "R1"], (
        "a space is no other reader"
    )
    path.write_text(head)
    site.path("done", "cohort.json").unlink()
    ensure_cohort(site)
    assert not site.path("reader_study.csv").is_file(), "nobody has read, and what was delivered before is gone"
    assert tuple(RULES) == READINGS


# --- simulated cohorts -------------------------------------------------------------------------------------------------


def simulate(run, *_):
    """Stand in for the simulator: two scans, one rescan."""
    rows = []
    for number, (scan, role) in enumerate(
        [("A001-0", "development"), ("B001-0", "external"), ("A001-rescan", "rescan")]
    ):
        write_series(run.path("dicom", scan), body(seed=number), Manufacturer="COVID3D phantom Test")
        values = {"hospital": scan[0], "role": role, "sha256": intake.sha256_tree(run.path("dicom", scan))}
        rows.append(manifest_row(scan, scan[:4], f"dicom/{scan}", **values))
    write_rows(run.path("manifest.csv"), rows[:2])
    write_rows(run.path("controls.csv"), rows[2:])
    run.path("truth").mkdir()
    for name in ("truth/truth.csv", "reader_study.csv"):
        run.path(name).write_text("scan_id\n")


@pytest.fixture
def simulated(root, make_run, monkeypatch):
    """A run on an order form of simulated scans whose simulator is the stand-in; its profile keeps no DICOM."""
    monkeypatch.setattr(deliver, "_simulate", simulate)
    rows = [manifest_row(name, name[:4], "phantom:1", hospital=name[0]) for name in ("A001-0", "B001-0")]
    form = write_rows(root / "order.csv", rows)
    profile = Path(intake.__file__).parents[1] / "profiles" / "smoke.yaml"
    text = profile.read_text().replace("keep_dicom: true", "keep_dicom: false")
    (root / "small.yaml").write_text(text)
    return make_run("sim", manifest=str(form), profile=str(root / "small.yaml"))


def test_simulated_scans_are_stored_and_their_dicom_goes_unless_it_is_kept(simulated):
    table = take_in(simulated)
    assert table["role"].tolist() == ["development", "external", "rescan"]
    assert table["ok"].eq(1).all()
    assert not any(simulated.path("dicom").iterdir())
    assert json.loads(simulated.path("flow.json").read_text())["controls"] == 1
    simulated.path("done", "intake.json").unlink()
    assert take_in(simulated).equals(table)  # from the store: the files are gone
    assert intake.accepted(simulated)["scan_id"].tolist() == ["A001-0", "B001-0", "A001-rescan"]


def test_the_simulators_error_reaches_whoever_asked_for_the_cohort(make_run, monkeypatch):
    def full(*_, **__):
        raise StorageError("the disk is full", where="A001-0", cure="Free some space")

    monkeypatch.setattr(deliver, "build", full)
    run = make_run("smoke")
    with pytest.raises(StorageError, match="A001-0: the disk is full"):
        ensure_cohort(run)
    assert not run.path("done", "cohort.json").exists()


# --- check and draft ---------------------------------------------------------------------------------------------------


def test_check_lists_every_scan_and_writes_its_tables(site, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "cpu_count", lambda: 1)
    table = gate.check_manifest(site.order_form, tmp_path / "out").intake
    assert table["code"].tolist() == ["", "", "missing_slice", "several_series", ""]
    written = pd.read_csv(tmp_path / "out" / "check.csv", keep_default_na=False)
    assert list(written.columns) == ["scan_id", "ok", "code", "message"]
    assert "lung_volume_ml" in (tmp_path / "out" / "qc.csv").read_text()
    shutil.rmtree(site.order_form.parent / f"{CANARY}-drive" / "one")
    assert gate.check_manifest(site.order_form).intake["code"][0] == "no_such_path"


def test_check_tells_row_path_file_and_cure_on_the_terminal_and_in_no_file(site, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "cpu_count", lambda: 1)
    drive = site.order_form.parent / f"{CANARY}-drive"
    (drive / "Mu\u0308ller").mkdir()
    shutil.rmtree(drive / "three")
    shutil.copytree(drive / "one", drive / "three" / "a")
    shutil.copytree(drive / "one", drive / "three" / "b")
    text = site.order_form.read_text().replace(f"{drive.name}/one", f"{drive.name}\\one")
    site.order_form.write_text(text.replace(f"{drive.name}/bad", f"{drive.name}/M\u00fcller"))
    found = gate.check_manifest(site.order_form, tmp_path / "out")
    lines = "\n".join(found.lines())
    for words in (
        f"no_such_path: row 2, source '{drive.name}\\one' does not exist. Write / in place of \\",
        f"no_such_path: row 4, source '{drive.name}/M\u00fcller' does not exist. It does with its accents",
        f"several_series: row 5, source '{drive.name}/two': there are 2 CT series here. Choose one with --series N, in a manifest"
        " as path#N in `source`: 2 (",
        f"duplicate_position: row 6, source '{drive.name}/three', three (in the folders a, b): 20 slices lie",
    ):
        assert words in lines
    cut = drive / "two" / "thin" / "IM007.dcm"
    cut.write_bytes(cut.read_bytes()[:-900])
    (drive / "two" / "IM007.dcm").rename(drive / "two" / "IM.dcm")
    rewrite_rows(site.order_form, source=[f"{drive.name}/two#3"] * 5)
    lines = "\n".join(gate.check_manifest(site.order_form).lines())
    assert f"truncated: row 2, source '{drive.name}/two#3', thin/IM007.dcm: " in lines
    for path in (tmp_path / "out").iterdir():
        assert "drive" not in path.read_text()


def test_a_draft_names_the_folders_of_copies(root):
    for name in ("a", "b"):
        write_series(root / "export" / name, uid="1.2.3", PatientID="id-1")
    write_series(root / "export" / "c", body(seed=1), PatientID="id-2")
    draft = draft_manifest(root / "export", root / "draft.csv", root / "keys" / "draft.json")
    assert "export (in the folders a, b): 20 slices lie where another one is" in "\n".join(draft.lines())


def test_a_draft_holds_pseudonyms_and_days_but_no_dates(root):
    tree = root / "export"
    write_series(tree / "x1", StudyDate="20200401", PatientAge="093Y", PatientSex="F", PatientID="id-1")
    write_series(tree / "x2", body(seed=1), StudyDate="20200409", PatientAge="093Y", PatientSex="F", PatientID="id-1")
    write_series(tree / "x3", body(seed=2), StudyDate="20200101", PatientAge="045Y", PatientSex="M", PatientID="id-2")
    write_series(tree / "x3", body(seed=3)[:5], SeriesNumber=9, names="none")
    (tree / "x3" / "notes.txt").write_text("no DICOM")
    draft = draft_manifest(tree, root / "draft.csv", root / "keys" / "draft.json").table
    assert list(draft.columns) == list(COLUMNS)
    assert draft["patient_id"].nunique() == 2
    assert sorted(draft["day"]) == [0, 0, 8]
    assert sorted(draft["age"]) == ["45", "90", "90"]
    assert set(draft["label"]) == {""}
    text = (root / "draft.csv").read_text()
    assert "id-1" not in text
    assert "20200401" not in text
    assert "2020-04" not in text
    assert (root / "keys" / "draft.json").stat().st_mode & 0o777 == 0o600
    assert all((root / source.split("#")[0]).is_dir() for source in draft["source"])
    with pytest.raises(SeriesError, match="no CT series"):
        draft_manifest(root / "keys", root / "none.csv", root / "none.json")
    assert not os.path.exists(root / "none.csv")


def test_image_files_in_a_folder_named_after_a_patient_leave_no_trace_of_it(root, make_run, capfd):
    folder = root / "hospital" / f"{CANARY}_Smith_John"
    sound, odd = nifti(), nifti(body(seed=1), change=lambda header: header["pixdim"].__setitem__(3, 1.0))
    names = {
        f"{CANARY}.nii": sound,
        "ct.nii.gz": gzip.compress(odd),
        "cut.nrrd": nrrd(encoding="gzip")[:-900],
        "no.nhdr": nrrd(data=f"{CANARY}.raw"),
        "sideless.mha": metaimage(body(seed=2), matrix=None),
    }
    put(folder, names)
    rows = [manifest_row(f"s{index}", f"p{index}", f"{folder.name}/{name}") for index, name in enumerate(names)]
    run = make_run("images", manifest=str(write_rows(root / "hospital" / "manifest.csv", rows)))
    table = take_in(run)
    assert table["code"].tolist() == ["", "contradicting_geometry", "truncated", "missing_file", ""]
    assert table["kept_with"].fillna("").str.contains("sides_unknown").tolist() == [False] * 4 + [True]
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    for path in run.folder.rglob("*"):
        assert CANARY not in path.name
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def test_grid_spacing_is_the_field_of_view_over_the_cells():
    scan = {"n_slices": 40, "rows": 96, "columns": 96, "spacing_z_mm": 6.0, "spacing_y_mm": 4.0, "spacing_x_mm": 3.0}
    assert intake.grid_spacing(scan, (24, 64, 64)) == (10.0, 6.0, 4.5)
