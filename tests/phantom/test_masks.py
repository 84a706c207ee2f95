"""Label maps lie where their series lies, are the same bytes for the same labels, and are quickly written."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from simulated_series import acquisition, write

from covid3d.phantom import masks


def some_labels(shape: tuple[int, int, int]) -> np.ndarray:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 3, 10], np.uint8), shape)
    labels[-3:, :5] = 0  # tells the axes apart
    return labels


def test_map_and_series_have_one_geometry(tmp_path: Path) -> None:
    scan = write(tmp_path / "dicom", "rle")
    labels = some_labels(scan.shape)
    gathered = masks.LabelMap(scan)
    for first in range(0, len(labels), 7):
        gathered.add(first, labels[first : first + 7])
    gathered.write(tmp_path / "truth" / "scan.nii.gz")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "dicom")))
    series, image = reader.Execute(), sitk.ReadImage(str(tmp_path / "truth" / "scan.nii.gz"))
    assert image.GetPixelIDValue() == sitk.sitkUInt8 and np.array_equal(sitk.GetArrayFromImage(image), labels)
    assert image.GetSize() == series.GetSize() and image.GetDirection() == pytest.approx(series.GetDirection())
    assert image.GetSpacing() == pytest.approx(series.GetSpacing(), abs=1e-4)
    assert image.GetOrigin() == pytest.approx(series.GetOrigin(), abs=1e-3)
    by_nibabel = nib.load(tmp_path / "truth" / "scan.nii.gz")
    assert np.array_equal(np.asarray(by_nibabel.dataobj).T, labels)
    assert by_nibabel.header.get_xyzt_units()[0] == "mm" and by_nibabel.get_qform() == pytest.approx(by_nibabel.affine)
    assert masks.MEANING.encode() in by_nibabel.header["descrip"].item()


def test_same_labels_give_the_same_bytes_without_name_and_time(tmp_path: Path) -> None:
    scan = acquisition("A")
    for name in ("one", "two"):
        gathered = masks.LabelMap(scan)
        gathered.add(0, some_labels(scan.shape))
        gathered.write(tmp_path / f"{name}.nii.gz")
    one = (tmp_path / "one.nii.gz").read_bytes()
    assert one == (tmp_path / "two.nii.gz").read_bytes()
    assert one[:3] == b"\x1f\x8b\x08" and one[3:8] == bytes(5)  # no name, no comment, no time
    assert len(gzip.decompress(one)) == 352 + np.prod(scan.shape)


def test_labels_name_what_fills_most_of_a_voxel_that_is_half_ill() -> None:
    lung = np.array([1, 1, 1, 1, 1, 0.4, 0.6], np.float32)
    ground_glass = np.array([0, 0.7, 0.3, 0.2, 0.1, 1.0, 0.2], np.float32)
    consolidation = np.array([0, 0.2, 0.4, 0.3, 0.3, 0.0, 0.2], np.float32)
    effusion = np.array([0, 0, 0, 0, 0.5, 0.0, 0], np.float32)
    found = masks.label_slab(lung, ground_glass, consolidation, effusion)
    assert found.dtype == np.uint8 and found.tolist() == [10, 1, 2, 2, 3, 0, 10]


def test_shares_are_bytes(tmp_path: Path) -> None:
    masks.write_shares(tmp_path / "scan.npz", np.array([[[0.0, 0.5]]]), np.array([[[1.2, 1.0]]]))
    with np.load(tmp_path / "scan.npz") as made:
        assert made["lesion"].tolist() == [[[0, 128]]] and made["lung"].tolist() == [[[255, 255]]]
