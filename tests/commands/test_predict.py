"""One scan, one number: the safety rule, the map's geometry, and files without identifiers."""

import errno
import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import CHECKOUT, NO_REAL_CT
from dicom_series import body, write_series

from covid3d.chapters.explanation import signed_map
from covid3d.commands.predict import RESEARCH, SIMULATED_WEIGHTS, predict, weights_profile, weights_window
from covid3d.ct.grid import grid_spacing, resample, to_volume_space
from covid3d.ct.lungs import whole_lung
from covid3d.ct.windows import Window, apply_window
from covid3d.dicom.series import read_ct
from covid3d.network.given import describe_classifier
from covid3d.network.occlusion import by_pieces
from covid3d.network.registry import build
from covid3d.network.scoring import score
from covid3d.network.weights import read_tensors, save_weights, write_tensors
from covid3d.run.errors import ConfigError, SeriesError, StorageError, WeightsError
from covid3d.run.profile import load_profile

PROFILE = load_profile("smoke")
WINDOW = Window(-600, 1500)
REAL = Path(os.environ.get("COVID3D_REAL_CT", CHECKOUT / "data" / "real_ct"))


@pytest.fixture(scope="module")
def model():
    return build("covid3d", PROFILE, seed=7).eval()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    """Return weights files by what they were trained on."""
    folder = tmp_path_factory.mktemp("weights")

    def write(trained_on, name="covid3d"):
        path = folder / f"{trained_on}_{name}.safetensors"
        metadata = {"model": name, "width": "0.125", "grid": "16,48,48", "hu_clip": "none", "window": WINDOW.text}
        metadata |= {
            "trained_on": trained_on,
            "profile": "smoke",
            "manifest_sha256": "0" * 64,
            "commit": "c",
            "licence": "MIT",
        }
        save_weights(path, model, metadata)
        return path

    return write


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("CANARY") / "scan", StudyDescription="CANARY", InstitutionName="CANARY")


@pytest.fixture(scope="module")
def written(weights, scan, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return predict(scan, weights("site"), out=out), out


def test_simulated_weights_say_nothing_about_a_real_patient(weights, scan, tmp_path):
    found = predict(scan, weights("phantom"), out=tmp_path / "out")
    lines = found.lines()
    assert lines[0] == SIMULATED_WEIGHTS == "trained on simulated scans: this number says nothing about this patient"
    assert found.probability is None
    assert found.exit_status == 2
    assert not any(line.startswith(("probability ", "logit ")) for line in lines)
    assert f"{found.logit:.3f}".lstrip("-") not in "\n".join(lines)
    assert not (tmp_path / "out").exists()


def test_with_consent_the_number_is_shown_under_the_same_first_line(weights, scan):
    found = predict(scan, weights("phantom"), simulated_weights_ok=True)
    assert found.lines()[0] == SIMULATED_WEIGHTS
    assert found.exit_status == 0
    assert found.probability == pytest.approx(1 / (1 + np.exp(-found.logit)))
    assert any(line.startswith("probability ") for line in found.lines())


def test_a_simulated_scan_may_be_scored_by_simulated_weights(weights, tmp_path):
    scan = write_series(tmp_path / "phantom", Manufacturer="COVID3D phantom Test")
    found = predict(scan, weights("phantom"))
    assert found.exit_status == 0
    assert found.lines()[0] == "this scan is simulated"


def test_the_logit_is_the_models_on_the_resampled_scan_in_the_window(written, model, scan):
    grid = resample(read_ct(scan), (16, 48, 48))
    wanted = score(model, grid[None], [WINDOW])[0, 0]
    assert written[0].logit == pytest.approx(wanted, abs=1e-5)
    assert written[0].window == "-600/1500"
    assert written[0].lines()[-1] == RESEARCH
    assert not written[0].warnings


def test_the_map_has_the_voxel_grid_of_the_dicom_series(written, scan):
    reader = sitk.ImageSeriesReader()
    positions = sorted(scan.iterdir(), key=lambda path: read_position(path))
    reader.SetFileNames([str(path) for path in positions])
    source, found = reader.Execute(), sitk.ReadImage(str(written[1] / "map.nii.gz"))
    assert found.GetSize() == source.GetSize()
    np.testing.assert_allclose(found.GetSpacing(), source.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(found.GetOrigin(), source.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(found.GetDirection(), source.GetDirection(), atol=1e-6)


def read_position(path):
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_the_map_of_an_image_file_lies_in_its_own_axes(weights, model, tmp_path, orientation):
    image = sitk.GetImageFromArray(body())
    image.SetSpacing((7, 7, 8))
    image.SetOrigin((-150, -120, -300))
    source = sitk.DICOMOrient(image, orientation)
    sitk.WriteImage(source, str(tmp_path / "scan.nii.gz"))
    predict(tmp_path / "scan.nii.gz", weights("site"), out=tmp_path / "out")
    found = sitk.ReadImage(str(tmp_path / "out" / "map.nii.gz"))
    assert found.GetSize() == source.GetSize()
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "out" / "map.nii.gz").affine, nibabel.load(tmp_path / "scan.nii.gz").affine, atol=1e-3
    )
    volume = read_ct(tmp_path / "scan.nii.gz")
    explain = PROFILE.explain
    wanted = to_volume_space(
        signed_map(model, resample(volume, (16, 48, 48)), WINDOW, explain.layer, explain.method), volume
    )
    upright = sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS"))
    np.testing.assert_allclose(upright, wanted, atol=np.abs(wanted).max() / 30_000)


def test_the_files_hold_no_identifier_and_say_what_they_are_for(written):
    out = written[1]
    assert sorted(path.name for path in out.iterdir()) == ["map.nii.gz", "planes.png", "prediction.json"]
    for path in out.iterdir():
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert b"CANARY" not in content
        assert str(out).encode() not in content
    assert b"research use only" in (out / "prediction.json").read_bytes()
    assert b"research use only" in gzip.decompress((out / "map.nii.gz").read_bytes())
    assert (out / "planes.png").stat().st_size > 20_000


def test_the_number_names_its_weights_and_what_a_killed_one_left_goes(written, weights, scan, tmp_path):
    known = json.loads((written[1] / "prediction.json").read_text(encoding="utf-8"))
    assert known["weights_sha256"] == hashlib.sha256(weights("site").read_bytes()).hexdigest()
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    (tmp_path / f".prediction.{died.pid}.abcd1234").mkdir()
    (tmp_path / "notes.txt").write_text("of the user", encoding="utf-8")
    predict(scan, weights("site"), out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "map.nii.gz",
        "notes.txt",
        "planes.png",
        "prediction.json",
    ]


def test_the_same_scan_gives_the_same_bytes(written, weights, scan, tmp_path):
    predict(scan, weights("site"), out=tmp_path)
    for name in ("map.nii.gz", "prediction.json"):
        assert (tmp_path / name).read_bytes() == (written[1] / name).read_bytes()


def test_the_picture_carries_window_and_purpose():
    from covid3d.figures.predict import three_planes

    hu, heat = body(), np.random.default_rng(0).normal(size=body().shape).astype(np.float32)
    figure = three_planes(hu, heat, (8, 7, 7), (10, 24, 24), WINDOW, ["a line"])
    text = figure.get_supxlabel()
    assert "RESEARCH USE ONLY" in text
    assert "-600/1500" in text
    assert "a line" in text


@pytest.mark.parametrize(
    ("trained_on", "name"), [("kinetics600", "covid3d"), ("phantom", "resnet_2d"), ("site", "single")]
)
def test_weights_of_another_purpose_are_refused(weights, scan, trained_on, name):
    with pytest.raises(WeightsError, match="not of a COVID3D classifier"):
        predict(scan, weights(trained_on, name))


def test_weights_of_permuted_labels_are_refused_wherever_they_lie(weights, tmp_path):
    tensors, metadata = read_tensors(weights("site"))
    copy = tmp_path / "copied.safetensors"
    write_tensors(copy, tensors, metadata | {"task": "random_labels"})
    with pytest.raises(WeightsError, match="of the task 'random_labels', a control") as error:
        predict(tmp_path, copy, simulated_weights_ok=True)
    assert "copied.safetensors" in str(error.value) and "models/task1/covid3d/fold_NN" in str(error.value)
    for task in ({}, {"task": "task1"}):
        write_tensors(copy, tensors, metadata | task)
        assert describe_classifier(copy)["model"] == "covid3d"


def test_a_scan_that_cannot_be_read_writes_nothing(weights, tmp_path):
    with pytest.raises(SeriesError):
        predict(tmp_path, weights("site"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_all_three_files_or_none(weights, scan, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("covid3d.commands.predict.write_json", full)
    with pytest.raises(StorageError, match="Free some space"):
        predict(scan, weights("site"), out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


EARLIER = ("evidence.nii.gz", "evidence.png", "map.nii.gz", "planes.png", "prediction.json")


@pytest.fixture
def used(tmp_path):
    """A folder and a file of features with what an earlier call left there, beside a file of the user's."""
    out = tmp_path / "used"
    out.mkdir()
    for name in (*EARLIER, "features.npz", "notes.txt"):
        (out / name).write_text("of the scan before", encoding="utf-8")
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_of_another_scan_do_not_stay_beside_a_result(weights, scan, used):
    """No file tells whose it is, so one that stays would be taken for this patient's."""
    predict(scan, weights("site"), out=used)
    assert names(used) == ["features.npz", "map.nii.gz", "notes.txt", "planes.png", "prediction.json"]
    assert b"of the scan before" not in (used / "map.nii.gz").read_bytes() + (used / "prediction.json").read_bytes()


def test_a_withheld_number_leaves_no_earlier_one_in_its_place(weights, scan, used):
    assert predict(scan, weights("phantom"), out=used, features=used / "features.npz").withheld
    assert names(used) == ["notes.txt"]


def test_a_refused_scan_leaves_no_earlier_result_in_its_place(weights, used, tmp_path):
    with pytest.raises(SeriesError):
        predict(tmp_path / "nothing", weights("site"), out=used, features=used / "features.npz")
    assert names(used) == ["notes.txt"]


def test_wrong_use_removes_nothing(weights, scan, used):
    before = names(used)
    with pytest.raises(ConfigError, match=r"--features NAME\.npz"):
        predict(scan, weights("site"), out=used, features=used / "features.csv")
    for name in EARLIER:
        with pytest.raises(ConfigError, match=f"^{name}: .*Give another --out"):
            predict(used / name, weights("site"), out=used)
    assert names(used) == before


def test_a_file_of_another_scan_that_cannot_be_removed_stops_the_call(weights, used, tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "denied")

    own = weights("site")
    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(StorageError, match=r"^map\.nii\.gz: .*may write to"):
        predict(tmp_path / "nothing", own, out=used)


def test_weights_whose_window_is_none_are_refused():
    with pytest.raises(WeightsError, match="'lung' is no window"):
        weights_window({"window": "lung"})


def test_a_scan_with_little_lung_is_warned_about_and_one_without_is_refused(weights, tmp_path):
    found = predict(write_series(tmp_path / "s", spacing=(5.0, 5.0, 5.0)), weights("site"))
    assert any("hardly any lung" in line for line in found.warnings)
    hu = np.where(body() > -1100, 40, 0).astype(np.int16)
    hu[:, :4] = -1000
    with pytest.raises(SeriesError, match="no lung was found"):
        predict(write_series(tmp_path / "none", hu), weights("site"))


def test_weights_of_an_unknown_profile_bring_their_own_size():
    profile = weights_profile({"profile": "mine", "grid": "20,40,50", "width": "0.5"})
    assert profile.model.grid == (20, 40, 50)
    assert profile.model.width == 0.5


# --- evidence ----------------------------------------------------------------------------------------------------------


def test_the_evidence_of_a_scan_lies_beside_its_map_in_its_own_voxels(weights, model, scan, tmp_path):
    hu = body()
    hu[12:15, 20:26, 12:18] = -350  # something opaque in a lung
    ill = write_series(tmp_path / "ill", hu, Manufacturer="COVID3D phantom Test")
    found = predict(ill, weights("phantom"), out=tmp_path / "out", evidence=True)
    names = ["map.nii.gz", "planes.png", "evidence.nii.gz", "evidence.png", "prediction.json"]
    assert [path.name for path in found.files] == names and all(path.is_file() for path in found.files)
    volume = read_ct(ill)
    grid = resample(volume, (16, 48, 48))
    wanted = by_pieces(model, grid, whole_lung(grid, grid_spacing(volume, grid.shape)), WINDOW)
    assert len(wanted.falls) > 0 and wanted.values.any()
    image = sitk.ReadImage(str(tmp_path / "out" / "evidence.nii.gz"))
    other = sitk.ReadImage(str(tmp_path / "out" / "map.nii.gz"))
    assert (image.GetSize(), image.GetOrigin(), image.GetSpacing()) == (
        other.GetSize(),
        other.GetOrigin(),
        other.GetSpacing(),
    )
    upright = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    on_scan = to_volume_space(wanted.values, volume)
    np.testing.assert_allclose(upright, on_scan, atol=2e-3 * np.abs(on_scan).max())
    assert f"in {len(wanted.falls)} parts of the lung" in "\n".join(found.lines())
    content = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert content["evidence"] == found.evidence and "this scan is simulated" in content["warnings"]


def test_evidence_of_a_real_scan_needs_consent_as_its_number_does(weights, scan, tmp_path):
    found = predict(scan, weights("phantom"), out=tmp_path / "out", evidence=True)
    assert found.exit_status == 2 and not (tmp_path / "out").exists() and not found.evidence
    found = predict(scan, weights("phantom"), out=tmp_path / "out", evidence=True, simulated_weights_ok=True)
    assert found.lines()[0] == SIMULATED_WEIGHTS
    assert (tmp_path / "out" / "evidence.nii.gz").is_file()
    for path in (tmp_path / "out").iterdir():
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert b"CANARY" not in content


def test_evidence_without_a_folder_is_refused_before_the_scan_is_read(weights, tmp_path):
    with pytest.raises(ConfigError, match="Give --out FOLDER"):
        predict(tmp_path / "nothing", weights("site"), evidence=True)


# --- pooled features ---------------------------------------------------------------------------------------------------


def test_features_are_the_models_with_the_logit_and_what_they_were_made_with(weights, model, scan, tmp_path):
    path = tmp_path / "new" / "features.npz"
    found = predict(scan, weights("site"), features=path)
    assert found.files == (path,)
    assert "wrote        features.npz" in found.lines()
    with np.load(path, allow_pickle=False) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    assert sorted(held) == ["features", "grid", "logit", "trained_on", "weights_sha256", "window"]
    assert held["features"].dtype == np.float32
    assert held["features"].shape == (model.extractor.channels,)
    grid = resample(read_ct(scan), tuple(held["grid"]))
    assert grid.shape == (16, 48, 48)
    with torch.inference_mode():
        x = torch.from_numpy(apply_window(grid[None, None], Window.parse(str(held["window"]))))
        np.testing.assert_allclose(held["features"], model.features(x)[0], rtol=1e-4, atol=1e-6)
        assert float(model.head(torch.from_numpy(held["features"]))) == pytest.approx(held["logit"], abs=1e-5)
    assert str(held["weights_sha256"]) == hashlib.sha256(weights("site").read_bytes()).hexdigest()
    assert str(held["trained_on"]) == "site"
    content = path.read_bytes()
    assert b"CANARY" not in content and str(tmp_path).encode() not in content
    predict(scan, weights("site"), features=path)
    assert path.read_bytes() == content


def test_features_of_a_real_scan_need_consent_as_its_number_does(weights, scan, tmp_path):
    path = tmp_path / "features.npz"
    assert predict(scan, weights("phantom"), features=path).exit_status == 2
    assert not path.exists()
    found = predict(scan, weights("phantom"), features=path, out=tmp_path / "out", simulated_weights_ok=True)
    assert found.exit_status == 0
    assert [file.name for file in found.files] == ["map.nii.gz", "planes.png", "prediction.json", "features.npz"]
    assert str(np.load(path)["trained_on"]) == "phantom"


@pytest.mark.parametrize("name", ["scan.dcm", "features", "folder.npz"])
def test_features_replace_no_other_file(weights, scan, tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ConfigError, match=r"--features NAME\.npz"):
        predict(scan, weights("site"), features=tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npz"]


@pytest.mark.skipif(not REAL.is_dir(), reason=NO_REAL_CT)
def test_a_real_scan_gets_its_map_and_picture(weights, tmp_path):
    found = predict(REAL / "chest" / "covid_P002", weights("phantom"), out=tmp_path, simulated_weights_ok=True)
    assert found.lines()[0] == SIMULATED_WEIGHTS
    image = nibabel.load(tmp_path / "map.nii.gz")
    assert image.shape == (512, 512, 133)
    np.testing.assert_allclose(image.header.get_zooms(), (0.603515625, 0.603515625, 2), rtol=1e-6)
    assert len(found.warnings) == 1
