"""Real scans of several scanners and archives, where they are at hand: see tests/data/expected.csv for the values."""

import functools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from conftest import CHECKOUT, NO_REAL_CT

from covid3d.cohort.intake import read_intake
from covid3d.cohort.manifest import COLUMNS
from covid3d.ct.lungs import lung_mask
from covid3d.dicom.headers import read_slices
from covid3d.dicom.pixels import SYNTAXES, hounsfield, stored_values
from covid3d.dicom.series import group_by_number, patient_position, read_ct, why_aside
from covid3d.run import steps
from covid3d.run.errors import SeriesError

REAL = Path(os.environ.get("COVID3D_REAL_CT", CHECKOUT / "data" / "real_ct"))
EXPECTED = pd.read_csv(CHECKOUT / "tests" / "data" / "expected.csv", comment="#", dtype=str).set_index("path")
LOSSY = ("4.50", "4.51", "4.81", "4.91")
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=NO_REAL_CT)


@functools.cache
def read(path):
    return read_ct(REAL / path)


@pytest.mark.parametrize("path", EXPECTED.index)
def test_shape_spacing_and_hounsfield_statistics_are_those_expected(path):
    volume, row = read(path), EXPECTED.loc[path]
    assert "x".join(map(str, volume.shape)) == row.shape_zyx
    assert volume.spacing_mm[0] == pytest.approx(float(row.spacing_z_median_mm), abs=1e-3)
    assert volume.spacing_mm[1:] == pytest.approx([float(step) for step in row.pixel_spacing_mm.split("/")], abs=1e-6)
    assert (volume.hu.min(), volume.hu.max()) == (float(row.hu_min), float(row.hu_max))
    assert volume.hu.mean(dtype=float) == pytest.approx(float(row.hu_mean), abs=6e-4)
    assert not volume.simulated


def test_file_names_out_of_slice_order_do_not_matter():
    folder = REAL / "chest" / "pneumonia_cap001"
    by_name = [entry.position[2] for entry in read_slices(folder)]
    assert by_name != sorted(by_name)
    volume = read("chest/pneumonia_cap001")
    steps = np.abs(np.diff(volume.hu[:, 200:300, 200:300].astype(np.float32), axis=0)).mean(axis=(1, 2))
    assert steps.max() < 4 * np.median(steps)
    assert volume.affine[2, 3] == pytest.approx(min(by_name))


def test_nrrd_and_dicom_of_one_scan_are_equal_voxel_for_voxel():
    nrrd, dicom = read("nrrd/ct-64.nrrd"), read("nrrd/ct-64Dicom")
    np.testing.assert_array_equal(nrrd.hu, dicom.hu)
    np.testing.assert_allclose(nrrd.affine, dicom.affine, atol=2e-3)


def test_the_lung_mask_agrees_with_an_experts():
    volume = read("nrrd/ct-64.nrrd")
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(REAL / "nrrd" / "wholeLung-64.nrrd"))) > 0
    mask = lung_mask(volume.hu, volume.spacing_mm)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95
    assert mask.sum() == pytest.approx(truth.sum(), rel=0.08)


def test_thirteen_transfer_syntaxes_decode_and_the_lossless_ones_alike():
    files = sorted((REAL / "transfer_syntaxes").glob("*.dcm"))
    (reference,) = [entry for file in files if "1.2.840.10008.1.2.1.dcm" in file.name for entry in read_slices(file)]
    wanted = stored_values(reference)
    assert (wanted.min(), wanted.max()) == (-2000, 2402)
    seen = set()
    for file in files:
        (entry,) = read_slices(file)
        values = stored_values(entry) * entry.slope + entry.intercept + 1024
        seen.add(str(entry.syntax))
        if str(entry.syntax).endswith(LOSSY):
            assert np.abs(values - wanted)[50:-50, 50:-50].mean() < 40
        else:
            np.testing.assert_array_equal(values, wanted)
    assert len(seen) == 13
    assert seen < SYNTAXES


REFUSALS = {
    "awkward/gantry_tilt_variable_spacing": (
        "gantry_tilt",
        "18.5 degrees; the slice spacing varies from 1.08 to 7.00 mm",
    ),
    "awkward/gantry_tilt": ("gantry_tilt", "14.0 degrees"),
    "awkward/missing_slice": ("missing_slice", "1 of 5 slices"),
    "awkward/missing_slice_and_tilt": ("gantry_tilt", "15.5 degrees; 1 of 5 slices are missing"),
    "awkward/four_slices_one_position": ("duplicate_position", "3 slices"),
    "awkward/mixed_series_one_folder": ("no_ct_volume", "too short"),
    "awkward/eCT_Supplemental.dcm": ("not_hu", "Hounsfield"),
    "awkward/TOSHIBA_J2K_SIZ1_PixRep0.dcm": ("no_ct_volume", "1 not axial"),
    "nrrd/lm-64.nrrd": ("hu_out_of_range", "Hounsfield"),
}


@pytest.mark.parametrize("path", REFUSALS)
def test_awkward_scans_are_refused_each_for_its_own_reason(path):
    with pytest.raises(SeriesError) as caught:
        read_ct(REAL / path)
    code, words = REFUSALS[path]
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_folder_of_many_series_is_told_apart_by_their_uids():
    slices = read_slices(REAL / "awkward" / "mixed_series_one_folder")
    groups = group_by_number(slices)
    assert len(groups) == 23 and len(slices) == 28
    assert all(why_aside(group) for group in groups.values())
    lay = {patient_position(entry) for entry in slices}
    assert lay == {"supine", "prone", "decubitus"}


def test_a_compressed_slice_with_a_wrong_sign_in_its_header_stays_in_range():
    (entry,) = read_slices(REAL / "awkward" / "TOSHIBA_J2K_SIZ1_PixRep0.dcm")
    assert stored_values(entry).max() > 60_000
    hu, above, mended = hounsfield(entry)
    assert mended
    assert above == 0
    assert hu.min() == -1024
    assert hu.max() < 2000


def test_unsupported_syntaxes_are_named():
    for file in sorted((REAL / "transfer_syntaxes" / "unsupported").iterdir()):
        (entry,) = read_slices(file)
        with pytest.raises(SeriesError, match=str(entry.syntax).replace(".", r"\.")) as caught:
            read_ct(file)
        assert caught.value.code == "unsupported_syntax"


def test_a_sites_manifest_of_two_real_scans_is_taken_in(root, make_run):
    names = ("chest/covid_P002", "chest/pneumonia_cap001")
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"scan_id": f"s{label}", "patient_id": f"p{label}", "hospital": "B", "role": "external", "label": label}
        | {"scan_index": 0, "source": (REAL / name).resolve().as_posix()}
        for label, name in zip((1, 0), names, strict=True)
    ]
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    run = make_run("site", manifest=str(root / "manifest.csv"))
    steps.ensure_needs(run, "splits")
    table = read_intake(run)
    assert table["ok"].tolist() == [1, 1]
    assert table["hu_mean"].tolist() == pytest.approx(
        EXPECTED.loc[list(names), "hu_mean"].astype(float).tolist(), abs=1e-3
    )
    assert table["transfer_syntax"].str.endswith(".70").all()
    assert table["lung_volume_ml"].between(3000, 7000).all()
