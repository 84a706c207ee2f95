"""The walk through a folder: whatever may stand for a slice is read, said or refused, never passed over in silence."""

import gzip
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_series import body, write_series
from test_series import dicomdir, refusal

from covid3d.dicom.headers import read_slices
from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
RULES = {"endings": "IM{:03d}.dcm", "no endings": "IM{:03d}", "UIDs": "1.2.840.113619.2.{:d}", "numbers": "I.{:04d}"}


def named(folder, rule):
    """Write the series with one more slice, at its head, that is not there; return the folder and the lost file's path."""
    write_series(folder, names="none")
    for path in folder.iterdir():
        path.rename(folder / ("tmp" + path.name))
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / RULES[rule].format(number))
    return folder / RULES[rule].format(20)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a file is empty"),
        (PAGE, "a web page or a message"),
        (b'\n {"error": "no such object"}', "a web page or a message"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000\n", "text, no slice"),
        (bytes(range(256)) * 4, "no DICOM file"),
        (gzip.compress(b"a slice"), "packed"),
    ],
    ids=["empty", "page", "message", "pointer", "noise", "packed"],
)
def test_a_file_in_a_slices_place_is_refused(tmp_path, rule, content, said):
    lost = named(tmp_path, rule)
    assert read_ct(tmp_path).shape[0] == 20
    lost.write_bytes(content)
    error = refusal(tmp_path)
    assert error.code == ("packed" if said == "packed" else "truncated")
    assert said in error.what
    assert error.where == lost.name


@pytest.mark.parametrize("rule", ["endings", "no endings"])
@pytest.mark.parametrize("ending", [".part", ".crdownload", ".html", ".gz", ".zip"])
def test_what_a_download_left_of_a_slice_is_refused_but_not_beside_the_slice(tmp_path, rule, ending):
    lost = named(tmp_path, rule)
    left = lost.with_name(lost.name + ending)
    left.write_bytes(b"")
    assert refusal(tmp_path).where == left.name
    left.rename(tmp_path / (RULES[rule].format(3) + ending))
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())


def test_a_whole_folder_of_lost_slices_is_refused(tmp_path):
    write_series(tmp_path / "a", names="none")
    (tmp_path / "b").mkdir()
    for number in range(20, 25):
        (tmp_path / "b" / f"{number:03d}").touch()
    assert refusal(tmp_path).code == "truncated"


@pytest.mark.parametrize("rule", RULES)
def test_a_link_to_a_slice_that_is_gone_is_refused(tmp_path, rule):
    lost = named(tmp_path, rule)
    lost.symlink_to(tmp_path / ".annex" / "gone")
    assert refusal(tmp_path).code == "broken_link"
    lost.unlink()
    lost.symlink_to(lost.name)
    assert refusal(tmp_path).code == "broken_link"


def test_what_may_be_no_slice_is_passed_over_and_counted(tmp_path):
    write_series(tmp_path / "IMAGES", names="none")
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())
    for name in ("notes.txt", "index.html", "VIEWER.EXE", ".DS_Store", "IMAGES/thumb.jpg", "IMAGES/._001"):
        (tmp_path / name).write_bytes(PAGE)
    assert len(read_ct(tmp_path).history) == 1
    for name in ("a.nii.gz", "other_scan.nrrd", "IMAGES/third.mha"):
        (tmp_path / name).write_bytes(b"NRRD0004\0")
    (tmp_path / "README").write_text("How to open this medium")
    (tmp_path / "VERSION").write_bytes(b"\0\1\2")
    (tmp_path / "IMAGES" / "LICENCE").write_text("of the viewer")
    (tmp_path / "viewer.zip").write_bytes(b"PK\3\4")
    (tmp_path / "manual.pdf").symlink_to("gone")
    shutil.copy(tmp_path / "IMAGES" / "001", tmp_path / "IMAGES" / ".001.dcm.Xa3d9f")
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, body())
    said = "files passed over: 1 hidden with DICOM, 3 image files, 1 links to nowhere, 1 packed, 3 without DICOM"
    assert volume.history[-1] == said


def test_a_file_named_unlike_the_slices_is_counted(tmp_path):
    write_series(tmp_path)
    (tmp_path / "LOCKFILE").touch()
    assert read_ct(tmp_path).history[-1] == "files passed over: 1 without DICOM"
    (tmp_path / "IM020").touch()
    assert refusal(tmp_path).where == "IM020"


@pytest.mark.parametrize("packed", ["scan.zip", "scan.dcm.gz", "scan.tar.gz", "scan"])
def test_packed_scans_are_refused_with_their_cure(tmp_path, packed):
    path = tmp_path / packed
    if packed.endswith("gz"):
        path.write_bytes(gzip.compress(next(write_series(tmp_path / ".s").iterdir()).read_bytes()))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for slice_path in write_series(tmp_path / ".s").iterdir():
                archive.write(slice_path, slice_path.name)
    for given in (path, tmp_path):
        error = refusal(given)
        assert error.code == "packed"
        assert error.cure.startswith("Unpack it first")


def test_links_to_folders_are_followed_and_each_file_is_read_once(tmp_path):
    write_series(tmp_path / "store" / "series")
    patient = tmp_path / "patient"
    (patient / "deep").mkdir(parents=True)
    (patient / "series").symlink_to(tmp_path / "store" / "series")
    np.testing.assert_array_equal(read_ct(patient).hu, body())
    (patient / "again").symlink_to(tmp_path / "store" / "series", target_is_directory=True)
    (patient / "deep" / "latest.dcm").symlink_to(tmp_path / "store" / "series" / "IM003.dcm")
    (patient / "deep" / "loop").symlink_to(patient)
    (patient / "deep" / "above").symlink_to(tmp_path)
    (tmp_path / "store" / "series" / "loop").symlink_to(tmp_path / "store" / "series")
    np.testing.assert_array_equal(read_ct(patient).hu, body())
    (tmp_path / "direct").symlink_to(tmp_path / "store" / "series")
    np.testing.assert_array_equal(read_ct(tmp_path / "direct").hu, body())


def test_a_link_into_a_hidden_store_is_followed(tmp_path):
    write_series(tmp_path / ".store" / "series")
    assert refusal(tmp_path).code == "no_dicom"
    (tmp_path / "series").symlink_to(tmp_path / ".store" / "series")
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())
    write_series(tmp_path / "files")
    for path in list((tmp_path / "files").iterdir()):
        path.rename(path.with_name(f".{path.name}"))
        path.symlink_to(f".{path.name}")
    np.testing.assert_array_equal(read_ct(tmp_path / "files").hu, body())


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, monkeypatch):
    write_series(tmp_path)
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def closed(path):
        if path.name == "closed":
            raise PermissionError(13, "denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", closed)  # permissions do not stop root
    error = refusal(tmp_path)
    assert (error.code, error.where) == ("unreadable", "closed")


@pytest.mark.parametrize("spell", ["{}", "{}.dcm", "{}.DCM", "{};1", "{}.", "{}.;1", "{}.DCM;1"])
@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_names_of_a_dicomdir_match_as_media_spell_them(tmp_path, spell, case):
    write_series(tmp_path / "A", names="none")
    write_series(tmp_path / "B", body(seed=1), SeriesNumber=5)
    names = [["DIR1", f"IM{int(path.name):06d}"] for path in sorted((tmp_path / "A").iterdir())]
    for path, name in zip(sorted((tmp_path / "A").iterdir()), names, strict=True):
        path.rename(path.with_name(case(spell.format(name[1]))))
    (tmp_path / "A").rename(tmp_path / case("dir1"))
    path = dicomdir(tmp_path, names)
    np.testing.assert_array_equal(read_ct(path).hu, body())
    next((tmp_path / case("dir1")).iterdir()).unlink()
    assert refusal(path).code == "missing_file"


@pytest.mark.parametrize("name", ["dicomdir", "DICOMDIR.", "DICOMDIR;1", "dicomdir.dcm"])
def test_a_dicomdir_is_no_slice_however_it_is_spelt(tmp_path, name):
    write_series(tmp_path)
    dicomdir(tmp_path, [["IM000.dcm"]]).rename(tmp_path / name)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())


@pytest.mark.parametrize("name", [["..", "outside"], ["/", "etc", "passwd"]])
def test_a_dicomdir_names_nothing_outside_its_folder(tmp_path, name):
    write_series(tmp_path / "medium")
    (tmp_path / "outside").write_bytes(next((tmp_path / "medium").iterdir()).read_bytes())
    assert refusal(dicomdir(tmp_path / "medium", [["IM000.dcm"], name])).code == "missing_file"


def test_a_misspelt_path_is_shown_whole_and_an_empty_one_is_refused(tmp_path):
    with pytest.raises(SeriesError) as caught:
        read_ct(tmp_path / "hospital" / "scan_1")
    assert str(tmp_path / "hospital" / "scan_1") in str(caught.value)
    with pytest.raises(SeriesError, match="no path was given"):
        read_ct("")


def test_a_message_names_any_file_in_one_line(tmp_path):
    write_series(tmp_path)
    (tmp_path / os.fsdecode(b"M\xfcller\n1.dcm")).touch()
    text = str(refusal(tmp_path))
    assert "M\\xfcller\\n1.dcm: a file is empty" in text
    text.encode("utf-8")


def test_slices_of_any_name_are_read(tmp_path):
    write_series(tmp_path)
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(tmp_path / os.fsdecode(b"\xfc\n " + str(number).encode() + b" "))
    assert len(read_slices(tmp_path)) == 20
