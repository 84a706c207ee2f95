"""Folds are drawn by patient, and the certificate finds every leak that is planted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covid3d.cohort.certificate import NEAR_DUPLICATE, THUMBNAIL, leakage_certificate, near_duplicates, thumbnail
from covid3d.cohort.folds import ensure_splits, make_folds, near_copies, require_certificate
from covid3d.cohort.manifest import COLUMNS, write_manifest
from covid3d.run import profile as config
from covid3d.run.errors import ManifestError, MissingResult
from covid3d.run.files import read_json, write_csv, write_json


def cohort(per_class: int = 12, external: int = 3) -> pd.DataFrame:
    """Return a manifest: A with every second COVID+ patient followed once, and B."""
    rows = []
    for hospital, role, count in (("A", "development", per_class), ("B", "external", external)):
        for label in (0, 1):
            for number in range(count):
                patient = f"{hospital}{label}{number:03d}"
                rows.append((f"{patient}-0", patient, hospital, role, label, 0, 0.0))
                if label == 1 and number % 2 == 0 and role == "development":
                    rows.append((f"{patient}-1", patient, hospital, "followup", label, 1, 7.0))
    table = pd.DataFrame(rows, columns=["scan_id", "patient_id", "hospital", "role", "label", "scan_index", "day"])
    return table.assign(source="phantom:1").reindex(columns=list(COLUMNS))


def intake_of(table: pd.DataFrame) -> pd.DataFrame:
    hashes = [f"{number:064x}" for number in range(len(table))]
    return table[["scan_id", "patient_id"]].assign(ok=1, pixel_sha256=hashes, series_uid_sha256=hashes)


def found(certificate: dict, name: str) -> list[str]:
    return next(check["found"] for check in certificate["checks"] if check["check"] == name)


def test_folds_split_patients_and_validate_each_first_scan_once() -> None:
    table = cohort(83)
    splits = make_folds(table, 10, seed=1)
    inside = splits[splits["split"] == "validation"]
    assert sorted(inside["scan_id"]) == sorted(table.query("role == 'development'")["scan_id"])
    assert splits.groupby("fold").size().eq(166).all()
    labels = inside.merge(table[["scan_id", "label"]], on="scan_id")
    sizes = labels.groupby(["fold", "label"]).size()
    assert set(sizes) == {8, 9}
    assert set(inside.groupby("fold").size()) <= {16, 17}
    followed = inside["patient_id"].isin(table.query("role == 'followup'")["patient_id"])
    assert set(followed.groupby(inside["fold"]).sum()) <= {4, 5}


def test_folds_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    table = cohort()
    drawn = make_folds(table, 3, seed=1)
    pd.testing.assert_frame_equal(drawn, make_folds(table.sample(frac=1, random_state=5), 3, seed=1))
    assert not drawn.equals(make_folds(table, 3, seed=2))


def test_too_few_patients_for_the_folds_are_refused() -> None:
    with pytest.raises(ManifestError, match="4 usable patients with label 0, too few for 5 folds"):
        make_folds(cohort(4), 5, seed=1)


def test_a_clean_cohort_passes() -> None:
    table = cohort()
    certificate = leakage_certificate(table, make_folds(table, 3, 1), intake_of(table))
    assert certificate["passed"]
    assert all(check["found"] == [] for check in certificate["checks"])


def test_a_patient_on_both_sides_of_a_fold_is_found_by_the_manifest_not_by_the_splits_own_ids() -> None:
    table = cohort()
    second = table.iloc[[0]].assign(scan_id="A0000-x")
    table = pd.concat([table, second], ignore_index=True)
    row = {"task": "task1", "fold": 0, "scan_id": "A0000-x", "patient_id": "someone-else"}
    splits = make_folds(cohort(), 3, 1)
    side = splits.query("fold == 0 and scan_id == 'A0000-0'")["split"].item()
    other = {"train": "validation", "validation": "train"}[side]
    splits = pd.concat([splits, pd.DataFrame([row | {"split": other}])], ignore_index=True)
    certificate = leakage_certificate(table, splits, intake_of(table))
    assert not certificate["passed"]
    assert found(certificate, "patient") == ["fold 0: patient A0000"]


def test_one_dicom_patient_on_both_sides_is_found_under_two_ids() -> None:
    table = cohort()
    hashes = table["patient_id"].where(~table["patient_id"].isin(["A0001", "A0002"]), "one").replace("B0000", "A0003")
    made = leakage_certificate(table, make_folds(table, 3, 1), intake_of(table).assign(patient_sha256=hashes))
    assert {text.partition(": ")[2] for text in found(made, "patient")} == {"patient A0001 = A0002"}
    assert found(made, "roles") == ["A0003 = B0000"] and not made["passed"]


def test_a_followup_scan_in_task_1_is_found() -> None:
    table = cohort()
    splits = make_folds(table, 3, 1)
    splits = pd.concat([splits, splits.iloc[[0]].assign(scan_id="A1000-1", patient_id="A1000")], ignore_index=True)
    assert found(leakage_certificate(table, splits, intake_of(table)), "followup") == ["A1000-1"]


def test_one_hospital_in_two_roles_is_found() -> None:
    table = cohort()
    table.loc[table["patient_id"] == "B0000", "hospital"] = "A"
    assert found(leakage_certificate(table, make_folds(table, 3, 1), intake_of(table)), "hospitals") == ["A"]


@pytest.mark.parametrize(("column", "check"), [("pixel_sha256", "pixels"), ("series_uid_sha256", "series_uid")])
def test_one_scan_under_two_names_is_found(column: str, check: str) -> None:
    table = cohort()
    intake = intake_of(table)
    intake.loc[intake["scan_id"] == "B0000-0", column] = intake.loc[intake["scan_id"] == "A0000-0", column].item()
    assert found(leakage_certificate(table, make_folds(table, 3, 1), intake), check) == ["A0000-0 = B0000-0"]


def test_near_copies_of_the_certificate_are_read_as_pairs(make_run) -> None:
    run, values = make_run(), np.random.default_rng(1).normal(size=THUMBNAIL)
    thumbnails = {"B0000-0": values, "A0000-0": values, "A0001-0": -values}
    made = leakage_certificate(table := cohort(), make_folds(table, 3, 1), intake_of(table), thumbnails)
    write_json(run.path("leakage.json"), made)
    assert near_copies(run) == [("A0000-0", "B0000-0")]


def test_a_check_whose_column_is_missing_is_not_reported_as_passed() -> None:
    table = cohort()
    certificate = leakage_certificate(
        table, make_folds(table, 3, 1), intake_of(table).drop(columns="series_uid_sha256")
    )
    assert "series_uid" not in [check["check"] for check in certificate["checks"]]
    assert "pixels" in [check["check"] for check in certificate["checks"]]
    assert certificate["passed"]


def test_refused_scans_and_blank_hashes_are_not_compared() -> None:
    table = cohort()
    intake = intake_of(table).assign(pixel_sha256=None)
    intake.loc[intake["scan_id"].isin(["A0000-0", "B0000-0"]), "series_uid_sha256"] = "same"
    intake.loc[intake["scan_id"] == "B0000-0", "ok"] = 0
    assert leakage_certificate(table, make_folds(table, 3, 1), intake)["passed"]


def test_a_noisy_copy_under_another_patient_is_a_near_duplicate_and_a_rescan_is_not() -> None:
    generator = np.random.default_rng(1)
    chest = np.linspace(-900, 100, 48 * 48).reshape(48, 48)
    grids = {f"S{n}": chest + generator.normal(0, 60, (24, 48, 48)) for n in range(12)}
    grids["S7"] = grids["S3"] + generator.normal(20, 10, (24, 48, 48))
    thumbnails = {scan: thumbnail(grid) for scan, grid in grids.items()}
    owners = {scan: scan for scan in grids}
    assert near_duplicates(thumbnails, owners) == ["S3 ~ S7"]
    assert near_duplicates(thumbnails, owners | {"S7": "S3"}) == []


def all_pairs(thumbnails: dict[str, np.ndarray], owners: dict[str, str]) -> set[str]:
    """Return what comparing every thumbnail with every other finds, by NumPy's own correlation."""
    ids = sorted(thumbnails)
    alike = np.corrcoef(np.stack([thumbnails[scan].ravel() for scan in ids]))
    pairs = np.argwhere(np.triu(alike > NEAR_DUPLICATE, 1))
    return {f"{ids[i]} ~ {ids[j]}" for i, j in pairs if owners[ids[i]] != owners[ids[j]]}


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_search_for_near_duplicates_finds_every_pair_that_comparing_all_finds(shared: float) -> None:
    """Copies with just less and just more noise than the limit allows, among scans alone or built on one pattern."""
    generator = np.random.default_rng(3)
    common = generator.normal(size=THUMBNAIL)
    scans = [np.sqrt(shared) * common + np.sqrt(1 - shared) * generator.normal(size=THUMBNAIL) for _ in range(300)]
    limit = np.sqrt(NEAR_DUPLICATE**-2 - 1)  # noise to signal at which a copy correlates with its original at the limit
    copies = [
        scan + generator.normal(0, limit * part, THUMBNAIL)
        for scan, part in zip(scans[:60], np.linspace(0, 2, 60), strict=True)
    ]
    thumbnails = {f"S{n:03d}": value for n, value in enumerate([*scans, *copies, np.zeros(THUMBNAIL), scans[0]])}
    owners = {scan: scan for scan in thumbnails} | {"S301": "S001"}
    with np.errstate(invalid="ignore"):  # a constant thumbnail correlates with nothing
        wanted = all_pairs(thumbnails, owners)
    assert 20 < len(wanted) < 60
    assert set(near_duplicates(thumbnails, owners)) == wanted


class Counted(dict):
    """Thumbnails that count how often one is read."""

    reads = 0

    def __getitem__(self, scan: str) -> np.ndarray:
        self.reads += 1
        return super().__getitem__(scan)


def test_work_grows_with_the_number_of_scans_not_of_pairs() -> None:
    """Scans that have nothing in common, the worst case: whole thumbnails are read for at most one pair in 10,000."""
    generator = np.random.default_rng(4)
    for count in (300, 3000):
        thumbnails = Counted({f"S{n}": generator.normal(size=THUMBNAIL).astype(np.float16) for n in range(count)})
        assert near_duplicates(thumbnails, {scan: scan for scan in thumbnails}) == []
        assert thumbnails.reads <= 2 * count + 256


def test_thumbnails_hold_what_is_individual_not_the_level_of_hu() -> None:
    grid = np.random.default_rng(2).integers(-900, -100, (24, 48, 48))
    assert thumbnail(grid).shape == THUMBNAIL
    np.testing.assert_allclose(thumbnail(grid + 50), thumbnail(grid), atol=1e-3)
    assert not thumbnail(np.full((8, 16, 16), -2000)).any()


# --- of a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Run:
    """A smoke run with a manifest and an intake, nothing else."""
    monkeypatch.setenv("COVID3D_ROOT", str(tmp_path))
    write_manifest(tmp_path / "form.csv", cohort())
    run = config.open_run("t", profile="smoke", manifest="form.csv", seed=3)
    write_manifest(run.manifest, cohort())
    write_csv(run.intake, intake_of(cohort()))
    return run


def test_splits_are_drawn_once_and_certified(run: config.Run) -> None:
    splits = ensure_splits(run)
    assert require_certificate(run)["origin"] == "drawn"
    written = run.splits.stat().st_mtime_ns
    pd.testing.assert_frame_equal(ensure_splits(run), splits)
    assert run.splits.stat().st_mtime_ns == written


def test_a_refused_scan_is_left_out_of_the_folds_that_are_drawn_again(run: config.Run) -> None:
    ensure_splits(run)
    intake = intake_of(cohort())
    intake.loc[intake["scan_id"] == "A0000-0", "ok"] = 0
    write_csv(run.intake, intake)
    with pytest.raises(MissingResult, match="other files"):
        require_certificate(run)
    assert "A0000-0" not in set(ensure_splits(run)["scan_id"])
    assert require_certificate(run)["passed"]


def test_a_kill_before_splits_are_written_does_not_pass_them_off_as_given(run: config.Run) -> None:
    splits = ensure_splits(run)
    run.splits.unlink()
    pd.testing.assert_frame_equal(ensure_splits(run), splits)
    assert read_json(run.path("leakage.json"))["origin"] == "drawn"


def test_splits_of_a_person_are_kept_and_checked(run: config.Run) -> None:
    given = make_folds(cohort(), 2, seed=99)
    write_csv(run.splits, given)
    pd.testing.assert_frame_equal(ensure_splits(run), given)
    assert require_certificate(run)["origin"] == "given"
    again = make_folds(cohort(), 2, seed=100)
    write_csv(run.splits, again)
    pd.testing.assert_frame_equal(ensure_splits(run), again)


def test_leaking_splits_of_a_person_get_no_certificate(run: config.Run) -> None:
    given = make_folds(cohort(), 2, seed=99)
    extra = given.iloc[[0]].assign(scan_id="A1000-1", patient_id="A1000", split="train")
    write_csv(run.splits, pd.concat([given, extra]))
    ensure_splits(run)
    with pytest.raises(ManifestError, match="'patient' has not passed|'followup' has not passed"):
        require_certificate(run)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.assign(fold=t["fold"] + 1), "fold 2 is not one of 0 to 1"),
        (lambda t: t.assign(scan_id=["Z9", *t["scan_id"][1:]]), "row 2, column 'scan_id': 'Z9' is no accepted scan"),
        (lambda t: t.assign(patient_id=["A0001", *t["patient_id"][1:]]), "belongs to patient"),
        (lambda t: pd.concat([t, t.iloc[[0]]]), "is already in fold 0, row 2"),
        (lambda t: t[t["scan_id"] != "A0000-0"], "'A0000-0' is in validation 0 times"),
        (lambda t: t.assign(split="train"), "fold 0 needs scans of both classes"),
        (lambda t: t.assign(split="test"), "column 'split': the value is 'test'"),
        (lambda t: t.drop(columns="task"), "column 'task': the column is missing"),
    ],
)
def test_splits_that_do_not_fit_the_cohort_are_refused(run: config.Run, spoil, said: str) -> None:
    write_csv(run.splits, spoil(make_folds(cohort(), 2, seed=99)))
    with pytest.raises(ManifestError, match="splits.csv") as caught:
        ensure_splits(run)
    assert said in str(caught.value)


def test_without_intake_or_certificate_the_message_says_what_to_run(run: config.Run) -> None:
    with pytest.raises(MissingResult, match="no leakage certificate"):
        require_certificate(run)
    run.intake.unlink()
    with pytest.raises(MissingResult, match="intake"):
        ensure_splits(run)


def test_near_duplicates_are_looked_for_in_the_store(run: config.Run) -> None:
    intake = intake_of(cohort())
    generator = np.random.default_rng(0)
    run.volumes.mkdir()
    intake["volume"] = intake["scan_id"] + ".npy"
    for name in intake["volume"]:
        np.save(run.volumes / name, generator.integers(-900, 100, (8, 16, 16)).astype(np.int16))
    np.save(run.volumes / "B0000-0.npy", np.load(run.volumes / "A0000-0.npy") + np.int16(1))
    write_csv(run.intake, intake)
    ensure_splits(run)
    with pytest.raises(ManifestError, match="A0000-0 ~ B0000-0"):
        require_certificate(run)
