"""The folder of a cohort: one cohort's alone, never a folder with other files, and as before when nothing was built."""

from pathlib import Path

import pytest

from covid3d.phantom.folder import NAME, cohort_folder
from covid3d.run.errors import ConfigError, Covid3DError
from covid3d.run.files import read_json, write_json
from covid3d.run.profile import DATA, load_profile

SMOKE = {"world": "effect", "seed": 1, "profile": load_profile("smoke"), "manifest": DATA / "data_manifest.csv"}


def test_a_cohort_says_what_it_is_and_names_the_scans_that_it_holds(tmp_path):
    out = tmp_path / "cohort"
    with cohort_folder(out, **SMOKE) as held:
        assert held == []
        for name in ("A001-0", "B001-0", ".A002-0"):  # the last one is what a killed process left
            write_json(out / "done" / "phantom" / f"{name}.json", {})
    told = read_json(out / NAME)
    assert told["simulated"] is True and (told["world"], told["seed"], told["profile"]) == ("effect", 1, "smoke")
    with cohort_folder(out, **SMOKE) as held:
        assert held == ["A001-0", "B001-0"]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"world": "null"}, "differs: world"),
        ({"seed": 2}, "differs: seed"),
        ({"profile": load_profile("standard")}, "differs: sizes"),
        ({"manifest": None}, "differs: order form"),
    ],
)
def test_another_cohort_is_refused_by_what_differs(tmp_path, other, word):
    if "manifest" in other:
        other = {"manifest": tmp_path / "form.csv"}
        other["manifest"].write_text("another form\n")
    with cohort_folder(tmp_path / "cohort", **SMOKE):
        (tmp_path / "cohort" / "dicom" / "A001-0").mkdir(parents=True)
    with pytest.raises(ConfigError, match=word) as refused, cohort_folder(tmp_path / "cohort", **{**SMOKE, **other}):
        pass
    assert "world effect, seed 1, profile smoke" in str(refused.value)


def test_a_file_a_folder_with_other_files_and_a_damaged_record_are_refused_and_left(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / NAME).write_text('{"cohort": "of somebody else"}')
    for name in ("file", "folder"):
        with pytest.raises(ConfigError, match="new or empty folder"), cohort_folder(tmp_path / name, **SMOKE):
            pass
    assert (tmp_path / "file").read_text() == "mine" and "somebody" in (tmp_path / "folder" / NAME).read_text()


def test_what_a_killed_build_left_is_taken_up_by_what_it_holds(tmp_path):
    out = tmp_path / "cohort"
    with cohort_folder(out, **SMOKE):
        (out / "dicom" / ".A001-0.99999999.abcdefgh").mkdir(parents=True)  # killed in its first scan: holds nothing
        (out / f".{NAME}.99999999.abcdefgh.json").write_text("")
    with cohort_folder(out, **{**SMOKE, "seed": 2}) as held:
        assert held == [] and read_json(out / NAME)["seed"] == 2
        (out / "dicom" / "A001-0").mkdir()  # killed between series and record
    with cohort_folder(out, **{**SMOKE, "seed": 2}) as held:
        assert held == ["A001-0"]


def test_files_beside_a_record_without_scans_are_not_the_simulators(tmp_path):
    with pytest.raises(KeyboardInterrupt), cohort_folder(tmp_path / "cohort", **SMOKE):
        (tmp_path / "cohort" / "mine.txt").write_text("mine")
        raise KeyboardInterrupt
    with pytest.raises(ConfigError, match="something else"), cohort_folder(tmp_path / "cohort", **SMOKE):
        pass


def test_a_build_that_comes_to_nothing_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(ZeroDivisionError), cohort_folder(tmp_path / name, **SMOKE):
            raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), cohort_folder(tmp_path / "stopped", **SMOKE):
        (tmp_path / "stopped" / "dicom").mkdir()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["empty"] and list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/none", "x" * 300])
def test_a_place_where_no_folder_can_be_is_one_clear_error(place):
    with pytest.raises(Covid3DError, match="cannot be used"), cohort_folder(Path(place), **SMOKE):
        pass
