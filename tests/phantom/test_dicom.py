"""Every series is valid CT Image Storage whose header says what its pixels are, and four readers agree on it."""

import shutil
import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from simulated_series import KINDS, acquisition, row_of, write

from covid3d.ct.volume import HU_MAX, HU_MIN
from covid3d.dicom.series import read_ct
from covid3d.phantom import dicom
from covid3d.run.files import sha256_tree
from covid3d.run.profile import PHANTOM_MANUFACTURER

NO_DCIODVFY = "dciodvfy not found: apt-get install dicom3tools"
KNOWN = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dicom")
    for kind in KINDS:
        write(out / kind, kind)
    return out


def slices(folder: Path) -> list[pydicom.Dataset]:
    """Return a series' datasets from the feet to the head."""
    found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    return sorted(found, key=lambda ds: float(ds.ImagePositionPatient[2]))


@KNOWN
def test_a_validator_finds_no_error_and_no_doubt(written: Path, kind: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip(NO_DCIODVFY)
    files = sorted((written / kind).glob("*.dcm"))
    for file in (files[0], files[-1]):
        said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert (said.stdout + said.stderr).split() == ["CTImage"]
    entities = subprocess.run(["dcentvfy", *map(str, files)], capture_output=True, text=True, check=False)
    assert entities.stdout + entities.stderr == "" and entities.returncode == 0


@KNOWN
def test_pydicom_simpleitk_dcm2niix_and_the_reader_agree(written: Path, tmp_path: Path, kind: str) -> None:
    volume = read_ct(written / kind)
    by_hand = np.stack(
        [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices(written / kind)]
    )
    assert np.array_equal(volume.hu, np.clip(by_hand, HU_MIN, HU_MAX)) and volume.simulated

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(written / kind)))
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), by_hand)
    assert volume.spacing_mm[::-1] == pytest.approx(image.GetSpacing(), abs=1e-5)
    assert volume.affine[:3, 3] == pytest.approx(image.GetOrigin(), abs=1e-5)
    assert image.GetDirection() == pytest.approx(np.eye(3).ravel())

    command = [dcm2niix.bin, "-f", "scan", "-z", "n", "-b", "n", "-o", str(tmp_path), str(written / kind)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = tmp_path.iterdir()
    nifti = nib.as_closest_canonical(nib.load(made))  # x to the right, y to the front, z to the head
    assert np.array_equal(np.asarray(nifti.dataobj).T[:, ::-1, ::-1], by_hand)
    ours = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    last = [size - 1 for size in volume.shape[::-1]]
    corners = np.array([[0, 0, 0, 1], [last[0], last[1], last[2], 1]]).T
    flipped = np.array([[last[0], last[1], 0, 1], [0, 0, last[2], 1]]).T
    assert nifti.affine @ flipped == pytest.approx(ours @ corners, abs=2e-3)
    assert nifti.header.get_zooms() == pytest.approx(volume.spacing_mm[::-1], abs=1e-4)


@KNOWN
def test_the_header_says_what_was_simulated(written: Path, kind: str) -> None:
    scan = acquisition(KINDS[kind][0])
    found = slices(written / kind)
    first, z = found[0], [float(ds.ImagePositionPatient[2]) for ds in found]
    assert np.diff(z) == pytest.approx(float(first.SpacingBetweenSlices), abs=2e-4)
    assert float(first.SliceThickness) == scan.scanner.thickness_mm
    assert float(first.ReconstructionDiameter) == pytest.approx(first.Columns * first.PixelSpacing[0], abs=1e-3)
    assert first.Exposure * 1000 == first.XRayTubeCurrent * first.ExposureTime and scan.scanner.kvp == first.KVP
    assert first.HighBit == first.BitsStored - 1 and first.BitsAllocated == 16
    assert [float(ds.SliceLocation) for ds in found] == pytest.approx(z)
    assert [int(ds.InstanceNumber) for ds in found] == list(range(len(found), 0, -1))
    assert first.file_meta.TransferSyntaxUID == KINDS[kind][1] and first.LossyImageCompression == "00"
    stored = np.stack([ds.pixel_array for ds in found])
    if scan.scanner.padding is None:
        assert stored.min() >= 0 and stored.max() < 2**first.BitsStored and "PixelPaddingValue" not in first
    else:
        assert (stored[:, 0, 0] == first.PixelPaddingValue).all() and (
            stored[:, 24, 24] > first.PixelPaddingValue
        ).all()


@KNOWN
def test_a_slice_read_and_written_again_by_pydicom_is_the_same(written: Path, tmp_path: Path, kind: str) -> None:
    source = written / kind / "IM0003.dcm"
    pydicom.dcmread(source).save_as(tmp_path / "again.dcm")
    assert (tmp_path / "again.dcm").read_bytes() == source.read_bytes()


def test_slices_are_simulated_by_name_and_differ_in_their_uids(written: Path) -> None:
    found = [ds for kind in ("explicit", "rle") for ds in slices(written / kind)]
    assert len({ds.SOPInstanceUID for ds in found}) == len(found) == 40
    for ds in found:
        assert ds.SOPInstanceUID.is_valid and ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert ds.Manufacturer.startswith(PHANTOM_MANUFACTURER) and ds.QualityControlImage == "YES"
        assert ds.PatientIdentityRemoved == "YES" and ds.PatientBirthDate == ""


def test_size_of_the_slabs_leaves_the_bytes_alone(written: Path, tmp_path: Path) -> None:
    write(tmp_path / "slabs", "implicit", slab=1)
    assert sha256_tree(tmp_path / "slabs") == sha256_tree(written / "implicit")


@pytest.mark.parametrize(("age", "stated"), [(61.7, "061Y"), (2, "002Y"), (0.5, "006M"), (None, None)])
def test_age_is_stated_as_dicom_has_it(age: float | None, stated: str | None) -> None:
    header = dicom.header(row_of("A001-0", "A", age=age), acquisition("A"), 1)
    assert header.get("PatientAge") == stated


def test_headers_of_one_hospital_differ_in_geometry_and_dose_only() -> None:
    one, two = (dicom.header(row_of(name, "A"), acquisition("A"), 1) for name in ("A001-0", "A002-0"))
    differing = {e.keyword for e in one if two.get(e.keyword) != e.value}
    allowed = {"StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientName", "PatientID"}
    allowed |= {"StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "FrameOfReferenceUID"}
    assert differing <= allowed | {"StudyInstanceUID", "SeriesInstanceUID"}
