"""Built scans are real DICOM, the same bytes for the same seed, resumable, and silent about the label."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import yaml

from covid3d.cohort.manifest import read_manifest
from covid3d.dicom.series import read_ct
from covid3d.phantom import cohort
from covid3d.phantom.build import build, pattern_labels
from covid3d.run.errors import ConfigError, ManifestError
from covid3d.run.files import sha256_tree
from covid3d.run.profile import DATA, Profile, load_profile

FORM = DATA / "data_manifest.csv"
THREE = ["A002-0", "B001-0", "C003-0"]


def smoke_cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scans of the profile smoke, and its scans outside the order form."""
    limits = load_profile("smoke").cohort
    table = cohort.select(read_manifest(FORM), limits)
    return table, cohort.controls(table, limits)


COHORT, OUTSIDE = smoke_cohort()
FOLLOWED_C = COHORT.loc[(COHORT["hospital"] == "C") & (COHORT["scan_index"] == 1), "patient_id"].iloc[0]
RESCAN = OUTSIDE.loc[(OUTSIDE["role"] == "rescan") & (OUTSIDE["label"] == 1), "scan_id"].iloc[-1]
RESCANNED = RESCAN.removesuffix("-rescan")
SCANS = [RESCANNED, RESCAN, "A002-0", "A002-control-1", "B001-0", "B002-0", "C003-0"]
SCANS += [f"{FOLLOWED_C}-0", f"{FOLLOWED_C}-1"]


def tiny() -> Profile:
    profile = load_profile("smoke")
    size = profile.phantom.model_copy(update={"matrix": 32, "slices": 16})
    return profile.model_copy(update={"phantom": size})


def make(out: Path, scans: list[str], **options: Any) -> pd.DataFrame:
    return build(out, manifest=FORM, profile=options.pop("profile", tiny()), scans=scans, workers=1, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom")
    make(out, SCANS)
    return out


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def test_manifest_gives_paths_slices_and_checksums(built: Path) -> None:
    table = pd.read_csv(built / "manifest.csv", dtype=str)
    for row in table.itertuples():
        folder = built / row.source
        assert len(list(folder.glob("*.dcm"))) == int(row.n_slices) == 16
        assert sha256_tree(folder) == row.sha256
    assert set(pd.read_csv(built / "controls.csv")["role"]) == {"rescan", "control"}


@pytest.mark.parametrize("scan", [RESCANNED, "B001-0", "C003-0", f"{FOLLOWED_C}-1"])
def test_pydicom_simpleitk_and_the_reader_agree(built: Path, scan: str) -> None:
    files = sorted(headers(built / "dicom" / scan), key=lambda ds: float(ds.ImagePositionPatient[2]))
    by_hand = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in files])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(built / "dicom" / scan)))
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), by_hand)
    volume = read_ct(built / "dicom" / scan)
    assert np.array_equal(volume.hu, np.clip(by_hand, -1024, 3071)) and volume.simulated
    assert volume.spacing_mm[::-1] == pytest.approx(image.GetSpacing(), abs=1e-4)
    assert volume.affine[:3, 3] == pytest.approx(image.GetOrigin(), abs=1e-4)
    assert by_hand.min() >= -3024 and 300 < by_hand.max() < 2000


def test_head_is_up_and_the_liver_lies_on_the_right(built: Path) -> None:
    hu = read_ct(built / "dicom" / "A002-0").hu.astype(float)
    soft = (hu > -200) & (hu < 200)
    assert soft[0].mean() > soft[8].mean()
    low, middle = hu[1:3, 10:20], hu.shape[2] // 2
    assert (low[:, :, 6:middle] > 0).mean() > (low[:, :, middle:-6] > 0).mean()


def test_each_hospital_has_its_transfer_syntax_and_padding(built: Path) -> None:
    found = {}
    for hospital, scan in (("A", RESCANNED), ("B", "B001-0"), ("C", "C003-0")):
        first = headers(built / "dicom" / scan)[0]
        found[hospital] = (
            first.file_meta.TransferSyntaxUID.name,
            first.get("PixelPaddingValue"),
            first.PixelRepresentation,
        )
    assert found["A"] == ("Explicit VR Little Endian", None, 0)
    assert found["B"][0] in ("JPEG-LS Lossless Image Compression", "JPEG 2000 Image Compression (Lossless Only)")
    assert found["B"][1:] == (-2000, 1)
    assert found["C"][0] in ("RLE Lossless", "Implicit VR Little Endian") and found["C"][1:] == (-2048, 1)


def test_headers_are_alike_in_both_classes_and_hold_no_label(built: Path) -> None:
    own = (
        "UID",
        "Date",
        "Time",
        "Position",
        "Location",
        "PixelData",
        "Spacing",
        "Thickness",
        "PatientName",
        "PatientID",
    )
    own += ("PatientAge", "PatientSex", "Diameter", "Exposure", "TubeCurrent")  # of the chest's width

    def shared(scan: str) -> dict[str, str]:
        first = headers(built / "dicom" / scan)[0]
        return {e.keyword: str(e.value) for e in first if not any(part in e.keyword for part in own)}

    positive, negative = shared(RESCANNED), shared("A002-0")
    assert positive == negative and {"Manufacturer", "KVP", "ConvolutionKernel", "StudyDescription"} <= positive.keys()
    for path in built.glob("dicom/*/*.dcm"):
        text = str(pydicom.dcmread(path, stop_before_pixels=True)).lower().replace("covid3d phantom", "")
        assert not any(word in text for word in ("covid", "lesion", "rounded", "branching", "lobar", "burden"))


def test_uids_are_valid_and_unique(built: Path) -> None:
    instances, series = set(), set()
    for folder in sorted((built / "dicom").iterdir()):
        for ds in headers(folder):
            assert ds.SOPInstanceUID.is_valid and ds.SeriesInstanceUID.is_valid
            assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
            instances.add(ds.SOPInstanceUID)
            series.add(ds.SeriesInstanceUID)
    assert len(instances) == 16 * len(SCANS) and len(series) == len(SCANS)


def test_same_seed_same_bytes_and_another_seed_another_image(built: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", ["B001-0"])
    table = pd.read_csv(built / "manifest.csv", dtype=str).set_index("scan_id")
    assert again["sha256"].tolist() == [table.at["B001-0", "sha256"]]
    for masks in ("truth/masks/B001-0.npz", "truth/masks/B001-0.nii.gz"):
        assert (tmp_path / "again" / masks).read_bytes() == (built / masks).read_bytes()
    other = make(tmp_path / "other", ["B001-0"], seed=2)
    assert other["sha256"].tolist() != again["sha256"].tolist()


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans, to be damaged and mended again."""
    out = tmp_path_factory.mktemp("mended")
    make(out, THREE)
    return out


DAMAGES = {
    "cut slice": ("dicom/B001-0/IM0003.dcm", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "one bit": ("dicom/B001-0/IM0009.dcm", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01")),
    "lost slice": ("dicom/B001-0/IM0001.dcm", Path.unlink),
    "empty shares": ("truth/masks/B001-0.npz", lambda path: path.write_bytes(b"")),
    "cut labels": ("truth/masks/B001-0.nii.gz", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    "lost labels": ("truth/masks/B001-0.nii.gz", Path.unlink),
    "unreadable record": ("done/phantom/B001-0.json", lambda path: path.write_text("{")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_resume_keeps_whole_scans_and_mends_the_damaged_one(mended: Path, damage: str) -> None:
    name, harm = DAMAGES[damage]
    before = {path: path.read_bytes() for path in files(mended)}
    kept = {path: path.stat().st_mtime_ns for path in files(mended) if "B001" not in str(path)}
    harm(mended / name)
    make(mended, THREE)
    assert {path: path.read_bytes() for path in files(mended)} == before
    scans = {path: time for path, time in kept.items() if {"dicom", "masks", "phantom"} & set(path.parts[-3:])}
    assert scans and all(path.stat().st_mtime_ns == time for path, time in scans.items())


def files(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file())


def _stop_at_b(row: dict[str, Any], scan: Path) -> None:
    if row["scan_id"] == "B001-0":
        raise KeyboardInterrupt


def test_interrupted_build_goes_on_where_it_stopped(mended: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, THREE, after_scan=_stop_at_b)
    assert not (tmp_path / "manifest.csv").exists()
    done = tmp_path / "dicom" / "A002-0" / "IM0001.dcm"
    written = done.stat().st_mtime_ns
    make(tmp_path, THREE)
    assert done.stat().st_mtime_ns == written
    assert [path.relative_to(tmp_path) for path in files(tmp_path)] == [
        path.relative_to(mended) for path in files(mended)
    ]
    assert sha256_tree(tmp_path) == sha256_tree(mended)


def test_two_processes_make_the_bytes_of_one(mended: Path, tmp_path: Path) -> None:
    build(tmp_path, manifest=FORM, profile=tiny(), scans=THREE, workers=2)
    assert sha256_tree(tmp_path) == sha256_tree(mended)


def test_what_is_kept_of_a_scan_in_memory_is_small(mended: Path) -> None:
    assert all(path.stat().st_size < 4096 for path in (mended / "done" / "phantom").glob("*.json"))


def _note(folder: Path, row: dict[str, Any], scan: Path) -> None:
    (folder / f"{row['scan_id']}.json").write_text(json.dumps([row["sha256"], sha256_tree(scan)]))


def _kept(folder: Path, scan_id: str, sha256: str) -> bool:
    path = folder / f"{scan_id}.json"
    return path.is_file() and json.loads(path.read_text())[0] == sha256


def test_streaming_hands_over_each_scan_and_keeps_no_dicom(tmp_path: Path) -> None:
    profile = tiny()
    profile = profile.model_copy(update={"phantom": profile.phantom.model_copy(update={"keep_dicom": False})})
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    options = {"profile": profile, "after_scan": partial(_note, inbox), "stored": partial(_kept, inbox)}
    make(tmp_path / "run", ["A002-0"], **options)
    note = inbox / "A002-0.json"
    given, seen = json.loads(note.read_text())
    assert given == seen and not (tmp_path / "run/dicom/A002-0").exists()
    assert {path.suffix for path in (tmp_path / "run/truth/masks").iterdir()} == {".npz", ".gz"}
    written = note.stat().st_mtime_ns
    make(tmp_path / "run", ["A002-0"], **options)
    assert note.stat().st_mtime_ns == written
    note.unlink()
    make(tmp_path / "run", ["A002-0"], **options)
    assert note.is_file()


def test_truth_masks_are_shares_on_the_models_grid(built: Path) -> None:
    truth = pd.read_csv(built / "truth" / "truth.csv").set_index("scan_id")
    for scan in SCANS:
        with np.load(built / "truth" / "masks" / f"{scan}.npz", allow_pickle=False) as masks:
            lesion, lung = masks["lesion"], masks["lung"]
        assert lesion.shape == lung.shape == (16, 48, 48) and lesion.dtype == np.uint8
        assert (lesion <= lung.astype(int) + 1).all() and 0.02 < (lung > 127).mean() < 0.4
        if truth.at[scan, "effusion_ml"] == 0 and truth.at[scan, "burden_fraction"] > 0.02:
            assert lesion.sum() / lung.sum() == pytest.approx(truth.at[scan, "burden_fraction"], rel=0.2)


@pytest.mark.parametrize("scan", [RESCANNED, "B001-0", "C003-0"])
def test_label_maps_lie_on_their_series_and_agree_with_the_shares(built: Path, scan: str) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(built / "dicom" / scan)))
    series, image = reader.Execute(), sitk.ReadImage(str(built / "truth" / "masks" / f"{scan}.nii.gz"))
    assert image.GetSize() == series.GetSize() and image.GetDirection() == pytest.approx(series.GetDirection())
    assert image.GetSpacing() == pytest.approx(series.GetSpacing(), abs=1e-4)
    assert image.GetOrigin() == pytest.approx(series.GetOrigin(), abs=1e-3)
    labels = sitk.GetArrayFromImage(image)
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 10}
    with np.load(built / "truth" / "masks" / f"{scan}.npz", allow_pickle=False) as shares:
        lung, lesion = (float(shares[name].mean() / 255) for name in ("lung", "lesion"))
    assert (labels > 0).mean() == pytest.approx(lung, rel=0.1)
    assert np.isin(labels, (1, 2)).mean() == pytest.approx(lesion, abs=0.15 * lung)
    hu = sitk.GetArrayFromImage(series)
    assert np.median(hu[labels == 10]) < -600


def test_rescan_shares_anatomy_and_disease_but_not_position_or_noise(built: Path) -> None:
    truth = pd.read_csv(built / "truth" / "truth.csv").set_index("scan_id")
    pair = truth.loc[[RESCANNED, RESCAN]]
    assert pair.loc[RESCAN, "same_day_of"] == RESCANNED
    assert pair["burden_fraction"].nunique() == pair["phase"].nunique() == pair["pattern"].nunique() == 1
    folders = [built / "dicom" / scan for scan in pair.index]
    assert not np.array_equal(read_ct(folders[0]).hu, read_ct(folders[1]).hu)


def test_null_world_permutes_patterns_within_hospitals_and_keeps_the_manifests_labels(tmp_path: Path) -> None:
    table = read_manifest(FORM)
    firsts = table[table["scan_index"] == 0].set_index("patient_id")
    shown = pd.Series(pattern_labels(table, "null", 1)).loc[firsts.index]
    assert (
        shown.groupby(firsts["hospital"]).sum().tolist() == firsts["label"].groupby(firsts["hospital"]).sum().tolist()
    )
    assert abs(np.corrcoef(shown, firsts["label"].astype(int))[0, 1]) < 0.2
    assert pattern_labels(table, "effect", 1) == firsts["label"].astype(int).to_dict()
    null = make(tmp_path, ["A006-0", "A006-1"], world="null")
    assert null["label"].tolist() == [1, 1]


def test_reader_study_has_two_readers_and_three_tasks(built: Path) -> None:
    study = pd.read_csv(built / "reader_study.csv", dtype=str, keep_default_na=False)
    assert set(study["reader_id"]) == {"R1", "R2"} and set(study["call"]) <= {"0", "1"}
    covid = study[study["task"] == "covid"]
    assert set(covid["scan_id"]) == {"B001-0", "B002-0", "C003-0", f"{FOLLOWED_C}-0"} and set(study["read_at"]) == {""}
    pair = study[study["task"] == "stay_pair"]
    assert set(pair["scan_id"]) == {f"{FOLLOWED_C}-1"} and set(pair["prior_scan_id"]) == {f"{FOLLOWED_C}-0"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"world": "both"}, "world"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"scans": []}, "scans"),
        ({"scans": ["A002-0", "A999-0"]}, "A999-0"),
    ],
)
def test_impossible_parameters_are_refused_by_name(tmp_path: Path, options: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"scans": ["A002-0"], "workers": 1, **options}
    with pytest.raises(ConfigError, match=field):
        build(tmp_path, manifest=FORM, profile=tiny(), **arguments)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("phantom", "matrix", 0),
        ("phantom", "matrix", -96),
        ("phantom", "slices", 0),
        ("phantom", "slices", 5000),
        ("phantom", "phase_visible", 1.5),
        ("phantom", "phase_visible", -0.1),
        ("model", "grid", (16, 0, 48)),
    ],
)
def test_impossible_sizes_are_refused_by_name(tmp_path: Path, part: str, key: str, value: Any) -> None:
    content = tiny().model_dump(mode="json")
    content[part][key] = list(value) if isinstance(value, tuple) else value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=f"{part}.{key}"):
        make(tmp_path / "out", ["A002-0"], profile=load_profile(str(tmp_path / "mine.yaml")))
    changed = getattr(tiny(), part).model_copy(update={key: value})
    with pytest.raises(ConfigError, match=f"{part}.{key}"):
        make(tmp_path / "out", ["A002-0"], profile=tiny().model_copy(update={part: changed}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("hospital", "D"),
        ("source", "phantom:one"),
        ("source", "scans/1"),
        ("age", "0"),
        ("age", "-3"),
        ("age", "300"),
        ("n_slices", "0"),
        ("n_slices", "-8"),
        ("n_slices", "3"),
        ("n_slices", ""),
        ("label", "2"),
        ("day", "-1"),
        ("sex", "X"),
    ],
)
def test_impossible_orders_are_refused_with_row_and_column(tmp_path: Path, column: str, value: str) -> None:
    form = pd.read_csv(FORM, dtype=str, keep_default_na=False)
    form.loc[4, column] = value
    form.to_csv(tmp_path / "form.csv", index=False)
    size = tiny().phantom.model_copy(update={"slices": None})
    with pytest.raises((ConfigError, ManifestError)) as error:
        build(tmp_path / "out", manifest=tmp_path / "form.csv", profile=tiny().model_copy(update={"phantom": size}))
    assert "row 6" in str(error.value) and f"'{column}'" in str(error.value)
    assert not (tmp_path / "out").exists()
