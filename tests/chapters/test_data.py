"""Chapter 1: counts, what is not known, refusals, pictures with their own voxel size, and the certificate at the door."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_run import synthetic_run

from covid3d.chapters import data, pictured
from covid3d.cohort.intake import read_intake
from covid3d.cohort.manifest import read_manifest
from covid3d.run import steps
from covid3d.run.errors import ManifestError, MissingResult
from covid3d.run.files import read_json, write_csv, write_json
from covid3d.stats.estimate import Estimate


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    """The chapter of a run of noise: A 8/8 with six followed patients, B 4/4, C 3/3 with one."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVID3D_ROOT", str(folder))
        run = synthetic_run(folder)
    kept = {"few_pcr_tests": {"scans": 2, "patients": 1}}
    certificate = {"passed": True, "checks": [{"check": "patient", "question": "?", "compared": 9, "passed": True}]}
    scans, splits = read_manifest(run.manifest), pd.read_csv(run.splits, dtype={"scan_id": str})
    return data.Data(run, scans, scans, read_intake(run), splits, {"kept_with_code": kept}, certificate)


def with_column(chapter, **values):
    return replace(chapter, scans=chapter.scans.assign(**values))


def refusing(chapter, scan_id):
    intake = chapter.intake.copy()
    intake.loc[intake["scan_id"] == scan_id, ["ok", "code", "message"]] = [0, "missing_slice", "a slice is missing"]
    return replace(chapter, intake=intake)


def test_patients_are_counted_once_by_their_first_scan(chapter):
    table = chapter.patients()
    assert table.loc["hospital A"].tolist() == [16, 8, 8]
    assert table.loc["hospital C"].tolist() == [6, 3, 3]
    assert chapter.followed["patient_id"].nunique() == 7


def test_a_refused_scan_leaves_the_accepted_ones_and_is_named_with_its_reason(chapter):
    found = refusing(chapter, "A000-1")
    flow = found.flow()["scans"]
    assert flow["accepted"] == flow["delivered"] - 1
    assert flow["refused"] == 1
    assert found.refused().loc["A000-1"].tolist() == ["missing_slice", "a slice is missing"]
    assert found.inclusion()["every scan was accepted"] is False
    assert chapter.inclusion()["every scan was accepted"] is True


def test_a_refused_control_is_named_but_is_no_scan_of_the_cohort(chapter):
    found = refusing(chapter, "A008-1c")
    assert found.refused().index.tolist() == ["A008-1c"]
    assert found.flow().loc["refused", "scans"] == 0
    assert found.inclusion()["every scan was accepted"] is True


def test_a_kept_scan_comes_with_what_its_code_says(chapter):
    assert chapter.kept().loc["few_pcr_tests"].tolist() == ["fewer than two RT-PCR tests", 2, 1]


def test_a_blank_column_is_said_to_be_missing(chapter):
    assert "number of tests" in str(chapter.inclusion()["two tests or more"])
    blank = with_column(chapter, age=pd.NA, sex="U", days_to_discharge=pd.NA, outcome="")
    people, stays = blank.demography().loc[("hospital A", "COVID+")], blank.stays()
    words = ["no age is known", "no sex is known", "no stay is known", "no outcome is known"]
    for name, why in zip(["median age", "women, %", "median days to the end of stay", "died"], words, strict=True):
        assert people[name] == Estimate.missing(why)
    assert stays["median days left"].tolist() == [Estimate.missing("no stay is known")] * 3
    assert not blank.flow().loc["delivered", "slices"].known
    assert chapter.acquisition().loc["hospital A", "lung volume, ml"] == Estimate.missing("not in the headers")


def test_who_the_patients_are_is_told_of_each_class(chapter):
    """Ages that differ between the classes are seen; over both together they would not be."""
    table = with_column(chapter, age=chapter.scans["label"].map({1: 70, 0: 30})).demography()
    assert table["patients"].groupby("hospital").sum().tolist() == [16, 8, 6]
    assert {(name, float(age)) for (_, name), age in table["median age"].items()} == {("COVID+", 70), ("COVID-", 30)}


def test_slices_of_some_scans_only_are_a_sum_with_a_remark(chapter):
    some = with_column(chapter, n_slices=pd.array([40] + [pd.NA] * (len(chapter.scans) - 1), "Int64"))
    assert str(some.flow().loc["delivered", "slices"]) == f"40 (unknown for {len(chapter.scans) - 1} scans)"


@pytest.mark.parametrize(("tests", "holds"), [(2, True), (1, False)])
def test_two_tests_are_asked_of_every_patient_with_a_number(chapter, tests, holds):
    numbers = [tests] + [2] * (len(chapter.scans) - 2) + [pd.NA]
    assert with_column(chapter, rt_pcr_tests=numbers).inclusion()["two tests or more"] is holds


def test_a_patient_of_two_hospitals_is_found(chapter):
    assert chapter.inclusion()["hospitals share no patient"] is True
    moved = chapter.scans["hospital"].mask(chapter.scans["scan_id"] == "A000-1", "B")
    assert with_column(chapter, hospital=moved).inclusion()["hospitals share no patient"] is False


def test_long_stays_are_counted_from_the_profiles_days(chapter):
    stays = chapter.stays()
    left = chapter.followed.query("scan_index == 1")["days_to_discharge"].astype(float)
    assert stays.loc["index scan", "scans"] == 7
    assert stays.loc["index scan", "median days left"].value == left.median()
    assert stays.loc["index scan", "7 days or more, %"].value == pytest.approx(100 * (left >= 7).mean())


def test_every_example_has_its_own_voxel_size(chapter, monkeypatch):
    """All hospitals were once drawn with the first one's."""
    intake = chapter.intake
    intake = intake.assign(spacing_z_mm=intake["hospital"].map({"A": 1.0, "B": 2.0, "C": 3.0}), n_slices=160)
    drawn = {}
    monkeypatch.setattr(data.draw, "planes", lambda scans, level, width: drawn.update(scans))
    replace(chapter, intake=intake).plot_examples(label=1)
    depth = chapter.run.profile.model.grid[0]
    assert {name: spacing[0] for name, (_, spacing) in drawn.items()} == {
        "hospital A": 160 / depth,
        "hospital B": 320 / depth,
        "hospital C": 480 / depth,
    }


def test_a_sites_patients_are_shown_no_further_than_their_lungs(chapter, monkeypatch):
    """Without lungs, as in these scans of noise, nothing is left to show."""
    lung = np.zeros(chapter.run.profile.model.grid, bool)
    monkeypatch.setattr(data, "lung_mask", lambda hu, spacing: lung)
    monkeypatch.setattr(type(chapter.run), "cohort", "site")
    drawn = []
    monkeypatch.setattr(data.draw, "planes", lambda scans, level, width: drawn.append(scans))
    chapter.plot_examples(label=1)
    lung[2:4, 3:7, 5:9] = True
    chapter.plot_examples(label=1)
    assert drawn[0] == {} and {hu.shape for hu, _ in drawn[1].values()} == {(2, 4, 4)}


def test_a_look_closely_at_a_scan_says_which_picture_is_which(chapter):
    figure, words = pictured.look_closely(chapter.run, chapter.example(label=1))
    assert len(figure.axes) == 6 and "COVID+: scan A" in words
    assert "Above what is stored" in words, "there is no twin, and no file to read again"
    nobody, _ = pictured.look_closely(chapter.run, replace(chapter, intake=chapter.intake.head(0)).example(label=1))
    assert "no scan of this kind" in nobody.axes[0].texts[0].get_text()


def test_a_picture_above_is_called_finer_only_where_it_is(chapter):
    facts = chapter.example(label=1)
    stored = pictured.picture(chapter.run, facts["scan_id"], facts)
    coarse = pictured.on_grid(chapter.run, facts["scan_id"], facts, stored)
    finer = data.draw.closely(stored._replace(step=(0.5, 0.5, 0.5)), coarse, (-600, 1500))
    same = data.draw.closely(stored, coarse, (-600, 1500))
    assert [figure.axes[0].get_ylabel() for figure in (finer, same)] == ["finer voxels", "as stored"]


def test_no_slice_is_without_a_weight_and_one_that_is_would_be_counted(chapter, monkeypatch):
    assert chapter.unused_slices() == 0
    weights = data.axis_weights

    def without_the_last(size, cells):
        matrix = weights(size, cells).tolil()
        matrix[:, -1] = 0
        return matrix.tocsr()

    monkeypatch.setattr(data, "axis_weights", without_the_last)
    delivered = chapter.intake[chapter.intake["role"].isin(["development", "external", "followup"])]
    assert chapter.unused_slices() == delivered["n_slices"].nunique()


def test_folds_hold_each_patient_of_a_once(chapter):
    sizes = chapter.fold_sizes()
    assert sizes.sum().tolist() == [8, 8]
    assert len(sizes) == 2


def test_the_last_row_of_the_certificate_is_of_all_checks(chapter):
    assert chapter.leakage().loc["all of them", "passed"]
    failed = replace(chapter, certificate={**chapter.certificate, "passed": False})
    assert not failed.leakage().loc["all of them", "passed"]


def test_the_chapter_is_loaded_behind_its_certificate(root, monkeypatch):
    run = synthetic_run(root)
    monkeypatch.setattr(steps, "ensure_needs", lambda run, name: None)
    with pytest.raises(MissingResult, match="certificate"):
        data.load(run)
    write_json(run.path("flow.json"), {"kept_with_code": {}})
    steps.call(run, "splits")
    assert data.load(run).patients().shape == (3, 3)
    splits = pd.read_csv(run.splits, dtype=str)
    splits.loc[splits["scan_id"] == splits["scan_id"][0], "split"] = "train"
    write_csv(run.splits, splits)
    certificate = read_json(run.path("leakage.json"))
    with pytest.raises(MissingResult, match="other files"):
        data.load(run)
    certificate["checks"][0] |= {"passed": False, "found": ["fold 0: patient A000"]}
    certificate["files"]["splits"] = steps.sha256_file(run.splits)
    write_json(run.path("leakage.json"), certificate)
    with pytest.raises(ManifestError, match="fold 0: patient A000"):
        data.load(run)
