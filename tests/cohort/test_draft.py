"""A manifest's draft: every series of a tree is a row that can be read back, or is named with the reason why not."""

import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from dicom_series import body, rewrite, write_series
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from covid3d.cohort import gate
from covid3d.cohort.draft import draft_manifest
from covid3d.cohort.manifest import COLUMNS, locate, read_manifest
from covid3d.dicom.refusals import CURES
from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

SMALL, SPACING = (16, 32, 32), (10.0, 10.0, 10.0)
LATIN = os.fsdecode(b"M\xfcller")
PROPERTY = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking a tree of files takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(gate, "cpu_count", lambda: 1)


def small(folder, seed=0, slices=16, **options):
    return write_series(folder, body(SMALL, seed)[:slices], spacing=SPACING, **options)


def draft(tree, out=None):
    out = out or tree.parent / "draft.csv"
    return draft_manifest(tree, out, tree.parent / "keys" / "draft.json")


def check(out):
    """Fill in the labels, as a user does, and return what `covid3d check` says of each row."""
    table = pd.read_csv(out, dtype=str, keep_default_na=False).assign(label="1")
    filled = out.with_name("filled.csv")
    table.to_csv(filled, index=False, lineterminator="\n")
    assert read_manifest(filled, delivered=True)["source"].tolist() == table["source"].tolist()
    return gate.check_manifest(filled).intake


def test_a_series_in_several_folders_is_one_scan(tmp_path):
    tree = tmp_path / "export"
    small(tree / "P1" / "CT", names="none")
    for number, path in enumerate(sorted((tree / "P1" / "CT").iterdir())):
        part = tree / "P1" / "CT" / f"part{number // 5}"
        part.mkdir(exist_ok=True)
        path.rename(part / path.name)
    found = draft(tree)
    assert found.table[["source", "n_slices", "role"]].to_numpy().tolist() == [["export/P1/CT", 16, "external"]]
    assert not found.lines()
    assert check(tmp_path / "draft.csv")["n_slices"].tolist() == [16]


def test_several_series_in_one_folder_are_scans_with_numbers_and_names_of_their_own(tmp_path):
    tree = tmp_path / "export"
    for number in (2, 3):
        small(tree, number, SeriesNumber=number)
        for path in tree.glob("IM*"):
            path.rename(tree / f"{number}_{path.name}")
    small(tree, slices=2, SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = draft(tree)
    assert sorted(found.table["source"]) == ["export#2", "export#3"]
    assert found.table["scan_id"].nunique() == 2
    assert found.lines() == ["set aside: export#1: 2 images, a localizer"]
    rows = check(tmp_path / "draft.csv")
    assert rows["ok"].tolist() == [1, 1]


def test_series_of_two_patients_under_one_uid_or_none_stay_apart(tmp_path):
    for number, uid in enumerate(("1.2.3", "1.2.3", "", "")):
        folder = tmp_path / "export" / f"p{number}" / "ct"
        small(folder, number, uid=uid or "9", PatientID=f"id-{number}" if uid else "")
        if not uid:
            for path in folder.iterdir():
                rewrite(path, SeriesInstanceUID="", SeriesNumber=None)
    found = draft(tmp_path / "export")
    assert sorted(found.table["source"]) == [f"export/p{number}/ct" for number in range(4)]
    assert found.table["patient_id"].nunique() == 4
    assert [line for line in found.lines() if "2 scans name no patient" in line]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "a file is truncated"),
        (lambda path: path.write_bytes(b""), "a file is empty"),
        (lambda path: path.unlink(), "1 of 20 slices are missing"),
        (lambda path: (path.unlink(), path.symlink_to("gone")), "a link leads nowhere"),
        (lambda path: rewrite(path, RescaleSlope=None), "slope or intercept"),
        (lambda path: shutil.copy(path, path.with_name("copy.dcm")), "1 slices lie where another one is"),
    ],
    ids=["truncated", "empty", "missing", "link", "slope", "copy"],
)
def test_a_damaged_scan_is_left_out_with_its_reason(tmp_path, damage, said):
    tree = tmp_path / "export"
    for number in range(3):
        write_series(tree / f"p{number}" / "ct", body(seed=number), PatientID=f"id-{number}")
    damage(tree / "p1" / "ct" / "IM005.dcm")
    found = draft(tree)
    assert sorted(found.table["source"]) == ["export/p0/ct", "export/p2/ct"]
    (line,) = found.lines()
    assert line.startswith("left out: p1/ct: ")
    assert said in line


def test_half_a_series_is_no_scan_because_the_other_half_is_damaged(tmp_path):
    tree = tmp_path / "export"
    write_series(tree / "p0", body((40, 32, 32)), spacing=(4.0, 10.0, 10.0))
    (tree / "p0" / "b").mkdir()
    for path in sorted((tree / "p0").glob("IM*"), key=lambda path: read_position(path))[:20]:
        path.rename(tree / "p0" / "b" / path.name)
    next((tree / "p0").glob("IM*")).write_bytes(b"")
    small(tree / "p1", 1, PatientID="id-1")
    found = draft(tree)
    assert found.table["source"].tolist() == ["export/p1"]
    assert found.left["p0"].endswith(
        "a file is empty. Copy or export this scan again, or move the file away if it is no slice"
    )


def read_position(path):
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]


def test_what_may_hold_a_scan_is_left_out_aloud(tmp_path):
    tree = tmp_path / "export"
    small(tree / "p0")
    small(tree / "p1", 1, slices=9)
    small(tree / "p2", 2, Modality="MR")
    (tree / "p3.zip").write_bytes(b"PK\3\4")
    (tree / "p4").symlink_to(tmp_path / "gone")
    (tree / "p5").mkdir()
    (tree / "p5" / "scan.nii.gz").write_bytes(b"\x1f\x8b")
    (tree / "p5" / "notes.txt").write_text("none")
    found = draft(tree)
    assert set(found.left) == {"p1", "p3.zip", "p4", "p5/scan.nii.gz"}
    assert found.aside == {"p2": "16 images, not CT"}
    assert found.left["p1"] == "9 slices, too short"
    assert found.left["p3.zip"].startswith("a file is packed. Unpack it first")
    assert found.left["p4"].startswith("a link leads nowhere")


def test_all_faulty_files_of_a_folder_are_counted(tmp_path):
    tree = tmp_path / "export"
    small(tree / "p0", 0)
    small(tree / "p1", 1, names="none", PatientID="id-1")
    for number in (3, 4, 5):
        (tree / "p1" / f"{number:03d}").write_bytes(b"")
    assert draft(tree).left["p1"].endswith("(2 more files with a fault)")


def test_a_folder_of_nothing_but_lost_slices_is_left_out_and_a_few_strange_files_are_set_aside(tmp_path):
    tree = tmp_path / "export"
    small(tree / "p0")
    (tree / "p1").mkdir()
    for number in range(20):
        (tree / "p1" / f"CT.{number}.lost").touch()
        (tree / "p1" / f"index{number}.html").write_text("<html>")
    (tree / "LOCKFILE").touch()
    found = draft(tree)
    assert found.left == {"p1": "20 files without DICOM, the first CT.0.lost: a file is empty"}
    assert found.aside == {"export": "1 files without DICOM, the first LOCKFILE: a file is empty"}


def test_linked_folders_are_drafted_where_the_link_lies(tmp_path):
    small(tmp_path / "store" / "s1")
    (tmp_path / "export" / "patient").mkdir(parents=True)
    (tmp_path / "export" / "patient" / "series").symlink_to(tmp_path / "store" / "s1")
    (tmp_path / "export" / "patient" / "loop").symlink_to(tmp_path / "export")
    assert draft(tmp_path / "export").table["source"].tolist() == ["export/patient/series"]
    assert check(tmp_path / "draft.csv")["ok"].tolist() == [1]


@pytest.mark.parametrize("name", [LATIN, "line\nbreak", "return\rn", "space ", "two\u2028lines"])
def test_a_name_that_a_table_cannot_hold_is_left_out_in_one_line(tmp_path, name):
    small(tmp_path / "export" / name)
    with pytest.raises(SeriesError, match="a table cannot hold this name") as caught:
        draft(tmp_path / "export")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "draft.csv").exists()
    small(tmp_path / "export" / "p1", 1)
    found = draft(tmp_path / "export")
    assert found.table["source"].tolist() == ["export/p1"]
    assert len(found.left) == 1
    "\n".join(found.lines()).encode("utf-8")
    assert all(len(line.splitlines()) == 1 for line in found.lines())


def test_a_name_above_the_manifest_is_of_no_matter(tmp_path):
    tree = tmp_path / LATIN / "export"
    small(tree / "p1", PatientID="")
    assert draft(tree).table["source"].tolist() == ["export/p1"]
    assert check(tree.parent / "draft.csv")["ok"].tolist() == [1]


def test_check_says_of_each_folder_what_predict_says(tmp_path):
    small(tmp_path / "store")
    for name in ("empty", "page", "packed", "gone"):
        small(tmp_path / name, names="none")
    (tmp_path / "empty" / "016").touch()
    (tmp_path / "page" / "016").write_text("<html>404</html>")
    (tmp_path / "packed" / "016.gz").touch()
    (tmp_path / "gone" / "016").symlink_to("nowhere")
    (tmp_path / "scan.zip").write_bytes(b"PK\3\4")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "series").symlink_to(tmp_path / "store")
    codes = {"empty": "truncated", "page": "truncated", "packed": "packed", "gone": "broken_link", "scan.zip": "packed"}
    codes["linked"] = ""
    blank = dict.fromkeys(COLUMNS, "") | {"hospital": "A", "role": "external", "label": "1", "scan_index": "0"}
    rows = [blank | {"scan_id": f"s{n}", "patient_id": f"p{n}", "source": name} for n, name in enumerate(codes)]
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    found = gate.check_manifest(tmp_path / "manifest.csv").intake
    assert found["code"].tolist() == list(codes.values())
    for name, code, message in zip(codes, found["code"], found["message"], strict=True):
        if code:
            with pytest.raises(SeriesError) as caught:
                read_ct(tmp_path / name)
            assert caught.value.code == code
            assert message == f"{caught.value.what}. {CURES[code]}"


def test_one_patient_has_one_sex_and_ten_years(tmp_path):
    tree = tmp_path / "export"
    for number, (patient, sex, date) in enumerate(
        [("a", "F", "20200101"), ("a", "M", "20200201"), ("b", "F", "20000101"), ("b", "", "20200101"), ("b", "F", "")]
    ):
        small(tree / str(number), number, PatientID=patient, PatientSex=sex, StudyDate=date)
    found = draft(tree)
    assert found.table[["scan_index", "source"]].to_numpy().tolist() == [[0, "export/2"], [1, "export/4"]]
    assert "two sexes" in found.left["0"]
    assert "two sexes" in found.left["1"]
    assert "3650 days" in found.left["3"]
    assert check(tmp_path / "draft.csv")["ok"].tolist() == [1, 1]


# --- whatever lies in the tree -----------------------------------------------------------------------------------------

NAMES = [
    "a",
    "b",
    "a#3",
    "b#4",
    "ü",
    'q"uote',
    "c,omma;",
    " lead",
    "trail ",
    "li\nne",
    "re\rturn",
    LATIN,
    "phantom:1",
    "idc:1.2",
]
PLACES = st.lists(st.sampled_from([*NAMES, "=1", "日本　語", "N" * 200, "-", "'"]), min_size=1, max_size=3).map(
    lambda parts: Path(*parts)
)
DAMAGES = ["", "", "", "missing", "truncated", "empty", "short", "localizer", "link"]
SERIES = st.fixed_dictionaries(
    {
        "places": st.lists(PLACES, min_size=1, max_size=3),
        "damage": st.sampled_from(DAMAGES),
        "uid": st.sampled_from(["own", "own", "blank", "shared"]),
        "number": st.sampled_from([None, 3, 4]),
        "PatientID": st.sampled_from(["", "id-1", "id-2", "Ä^b\\c", " id-1 "]),
        "PatientSex": st.sampled_from(["F", "M", "", "O", None]),
        "PatientAge": st.sampled_from(["061Y", "006M", "", "000Y", "150Y"]),
        "StudyDate": st.sampled_from(["20200401", "20200409", "20010101", "", "unknown", "99991231"]),
    }
)


def build(tree, number, drawn):
    """Write one drawn series into its folders, one slice after the other; return the folders."""
    tags = {name: drawn[name] for name in ("PatientSex", "PatientAge", "StudyDate") if drawn[name] is not None}
    if drawn["damage"] == "localizer":
        tags["ImageType"] = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    slices = 9 if drawn["damage"] == "short" else 16
    uid = {"own": f"1.2.3.{number}", "shared": "1.2.3", "blank": "1.2.4"}[drawn["uid"]]

    def change(dataset, index):
        dataset.PatientID = drawn["PatientID"].split("\\")[0]
        if drawn["uid"] == "blank":
            dataset.SeriesInstanceUID = ""
        dataset.SeriesNumber = drawn["number"]

    with tempfile.TemporaryDirectory() as place:
        files = sorted(small(Path(place), number, slices, uid=uid, change=change, **tags).iterdir())
        for index, path in enumerate(files):
            folder = tree / drawn["places"][index * len(drawn["places"]) // len(files)]
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{number}_{path.name}"
            content = path.read_bytes()
            if index == 5 and drawn["damage"] == "link":
                target.symlink_to("gone")
            elif index != 5 or drawn["damage"] != "missing":
                kept = {"truncated": 900, "empty": 0}.get(drawn["damage"], len(content)) if index == 5 else len(content)
                target.write_bytes(content[:kept])
    return {tree / place for place in drawn["places"]}


@given(series=st.lists(SERIES, min_size=1, max_size=4), where=st.sampled_from(["beside", "inside", "above"]))
@PROPERTY
def test_every_row_of_a_draft_reads_back_and_every_series_is_a_row_or_named(series, where):
    with tempfile.TemporaryDirectory() as place:
        tree = (Path(place) / "hospital" / "export").resolve()
        small(tree / "sound", 9, uid="1.9", PatientID="sound")
        folders = [build(tree, number, drawn) for number, drawn in enumerate(series)]
        out = {"beside": tree.parent, "inside": tree, "above": tree.parent.parent}[where] / "draft.csv"
        found = draft(tree, out)
        assert all(len(line.splitlines()) == 1 and line.encode() for line in found.lines())
        intake = check(out)
        assert intake["ok"].tolist() == [1] * len(found.table)
        assert intake["n_slices"].tolist() == found.table["n_slices"].tolist()
        drafted = [read_ct(*locate(out, source)).hu.tobytes() for source in found.table["source"]]
        assert body(SMALL, 9).tobytes() in drafted
        named = [name for line in (*found.left, *found.aside) for name in (line, line.rpartition("#")[0]) if name]
        at = [tree if name == tree.name else tree / name for name in named]
        for number, places in enumerate(folders):
            read = body(SMALL, number).tobytes() in drafted
            assert read or any(a.is_relative_to(b) or b.is_relative_to(a) for a in places for b in at)
