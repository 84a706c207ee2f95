"""Objects without pixels never block a folder: they are set aside and named. A CT image that lost its pixels does."""

import numpy as np
import pytest
from dicom_series import body, item, slice_dataset, write_series
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from covid3d.cohort.draft import draft_manifest
from covid3d.dicom.headers import read_slices
from covid3d.dicom.series import group_by_number, read_ct
from covid3d.run.errors import SeriesError

KINDS = {
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.66": "Raw Data",
    "1.2.840.10008.5.1.4.1.1.88.67": "X-Ray Radiation Dose SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR",
    "1.2.840.10008.5.1.4.1.1.11.1": "Grayscale Softcopy Presentation State",
    "1.2.840.10008.5.1.4.1.1.104.1": "Encapsulated PDF",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.113619.4.30": "unknown kind",
    "1.2.840.10008.9.9.9": "unknown kind",
}


def report(path, kind="1.2.840.10008.5.1.4.1.1.66", **tags):
    """Write an object of modality CT without pixels."""
    dataset = slice_dataset(body()[0], 0, generate_uid())
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.ImageType = 999, "Dose", ["DERIVED", "SECONDARY"]
    del dataset.PixelData, dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("modality", ["CT", "SR", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_an_object_without_pixels_is_set_aside_and_named(tmp_path, kind, modality):
    write_series(tmp_path)
    report(tmp_path / "AAA.dcm", kind, Modality=modality)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, body())
    assert volume.history[1] == f"set aside: 1 object without pixels ({KINDS[kind]})"


def test_an_object_of_the_series_itself_changes_neither_its_number_nor_its_slices(tmp_path):
    write_series(tmp_path, uid="1.2.3")
    report(tmp_path / "one", SeriesInstanceUID="1.2.3", SeriesNumber=4)
    report(tmp_path / "two", SeriesNumber=None, PixelPaddingValue=0)
    report(tmp_path / "three", "1.2.840.10008.5.1.4.1.1.30", FloatPixelData=bytes(4 * 48 * 48))
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())
    assert "3 objects without pixels (Parametric Map; Raw Data)" in read_ct(tmp_path).history[1]
    assert list(group_by_number(read_slices(tmp_path))) == [4]


def test_a_manifest_is_drafted_from_folders_with_reports(tmp_path):
    for patient in "ab":
        write_series(tmp_path / "in" / patient, PatientID=f"CANARY-{patient}")
    report(tmp_path / "in" / "a" / "DOSE.dcm", PatientID="CANARY-a")
    report(tmp_path / "in" / "b" / "reports" / "DOSE.dcm", PatientID="CANARY-b")
    draft = draft_manifest(tmp_path / "in", tmp_path / "m.csv", tmp_path / "key.json").table
    assert draft["n_slices"].tolist() == [20, 20]
    assert not draft["source"].str.contains("#").any()


def test_reports_alone_are_no_scan_and_are_named(tmp_path):
    report(tmp_path / "DOSE.dcm")
    with pytest.raises(SeriesError, match="1 object without pixels") as caught:
        read_ct(tmp_path)
    assert caught.value.code == "no_ct_volume"


@pytest.mark.parametrize("kind", ["", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"])
@pytest.mark.parametrize("implicit", [False, True])
def test_a_ct_image_that_ends_before_its_pixels_is_truncated_not_a_report(tmp_path, kind, implicit):
    write_series(tmp_path)
    dataset = slice_dataset(body()[0], 0, generate_uid())
    dataset.SOPClassUID = kind
    dataset.ReferencedImageSequence = [item({"ReferencedFrameNumber": 1})]
    del dataset.PixelData
    if not kind:
        del dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "cut.dcm", enforce_file_format=True)
    with pytest.raises(SeriesError) as caught:
        read_ct(tmp_path)
    assert caught.value.code == "truncated"
