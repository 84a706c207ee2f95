"""Reading one scan: equal HU whatever the files look like, and each fault refused with its own code."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import SHAPE, SPACING, body, rewrite, slice_dataset, write_enhanced, write_series
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from covid3d.dicom.headers import read_slices
from covid3d.dicom.series import group_by_number, read_ct
from covid3d.run.errors import SeriesError


def refusal(path, **options):
    with pytest.raises(SeriesError) as caught:
        read_ct(path, **options)
    assert caught.value.cure
    assert "CANARY" not in caught.value.what
    return caught.value


def test_a_series_in_any_file_order_is_read_head_up_in_hounsfield_units(tmp_path):
    volume = read_ct(write_series(tmp_path / "a" / "nested", names="none").parent)
    np.testing.assert_array_equal(volume.hu, body())
    assert volume.hu.dtype == np.int16
    assert volume.spacing_mm == SPACING
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [-150, -120, -300, 1])
    np.testing.assert_allclose(volume.affine @ [2, 3, 4, 1], [-136, -99, -268, 1])
    assert (volume.series.kernel, volume.series.kvp, volume.simulated) == ("B40f", 120.0, False)


def test_slices_are_ordered_by_position_not_by_name_or_instance_number(tmp_path):
    def misleading(dataset, index):
        dataset.InstanceNumber = (index * 3) % SHAPE[0]

    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "s", change=misleading)).hu, body())


@pytest.mark.parametrize("orientation", ["feet first", "prone", "turned", "coronal"])
def test_other_orientations_are_turned_to_axial_head_up(tmp_path, orientation):
    hu = body()

    def turn(dataset, index):
        plane, x, y, z = hu[index], -150.0, -120.0, -300 + 8.0 * index
        if orientation == "prone":
            plane, x, y = plane[::-1, ::-1], x + 47 * 7, y + 47 * 7
            dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        elif orientation == "turned":
            plane = plane.T
            dataset.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
        elif orientation == "feet first":
            plane, x = plane[:, ::-1], x + 47 * 7
            dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        elif orientation == "coronal":
            return
        dataset.ImagePositionPatient = [x, y, z]
        dataset.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()

    if orientation == "coronal":
        uid = generate_uid()
        for row in range(48):
            dataset = slice_dataset(hu[::-1, row], row, uid)
            dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 0, -1], [8.0, 7.0]
            dataset.ImagePositionPatient = [-150.0, -120.0 + 7 * row, -300 + 8.0 * 19]
            dataset.save_as(tmp_path / f"{row}.dcm", enforce_file_format=True)
    else:
        write_series(tmp_path, change=turn)
    volume = read_ct(tmp_path, series=4)  # a coronal series is read when it is asked for
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing_mm == SPACING
    np.testing.assert_allclose(volume.affine, read_ct(write_series(tmp_path / "straight", hu)).affine, atol=1e-9)


def test_slope_and_intercept_are_taken_from_each_slice(tmp_path):
    def scale(dataset, index):
        if index % 2:
            dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-2000"
            stored = (body()[index].astype(int) + 2000) * 2
            dataset.BitsStored, dataset.HighBit = 16, 15
            dataset.PixelData = stored.astype("<u2").tobytes()

    np.testing.assert_array_equal(read_ct(write_series(tmp_path, change=scale)).hu, body())


def test_padding_is_air_whatever_its_value_and_the_sign_it_is_written_with(tmp_path):
    def pad(dataset, index):
        stored = body()[index].astype(np.int16)
        stored[:4] = -2000
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.RescaleIntercept, dataset.PixelData = 0, stored.tobytes()
        dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000 as an unsigned word

    hu = read_ct(write_series(tmp_path / "below", change=pad)).hu
    assert (hu[:, :4] == -1024).all()

    def bright(dataset, index):
        stored = body()[index].astype(int) + 1024
        stored[:4] = 4000
        dataset.PixelData, dataset.PixelPaddingValue = stored.astype("<u2").tobytes(), 4000

    assert (read_ct(write_series(tmp_path / "above", change=bright)).hu[:, :4] == -1024).all()


@pytest.mark.parametrize("slope", [1, 0.5])
def test_padding_with_a_number_that_tissue_has_is_air_up_to_the_pictures_edge_only(tmp_path, slope):
    hu = body()
    hu[:, 22:26, 22:26] = 0  # water within the body
    padded = hu.copy()
    padded[:, :4] = padded[:, :, -3:] = 0

    def pad(dataset, index):
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PixelPaddingValue = slope, 0, 0
        dataset.PixelData = (padded[index] / slope).astype("<i2").tobytes()

    found = read_ct(write_series(tmp_path, change=pad)).hu
    assert (found[:, :4] == -1024).all()
    assert (found[:, :, -3:] == -1024).all()
    np.testing.assert_array_equal(found[:, 4:, :-3], hu[:, 4:, :-3])


def test_padding_of_0_below_all_air_is_air_everywhere(tmp_path):
    hu = body()
    hu[:, 22:26, 22:26] = -1024
    path = write_series(tmp_path, hu, PixelPaddingValue=0)
    np.testing.assert_array_equal(read_ct(path).hu, hu)


def test_blank_slices_between_others_are_refused_in_an_image_file_and_borne_at_its_ends(tmp_path):
    hu = body()
    hu[[0, 1, 19]] = -1024
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "ends.nrrd"))
    np.testing.assert_array_equal(read_ct(tmp_path / "ends.nrrd").hu, hu)
    hu[7], hu[8] = -1024, -7
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "inside.nrrd"))
    error = refusal(tmp_path / "inside.nrrd")
    assert error.code == "blank_slice"
    assert "2 of 20 slices" in error.what


def test_a_header_that_hides_the_sign_is_mended_and_noted(tmp_path):
    def lie(dataset, index):
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 0, 16, 15, 0
        dataset.PixelData = body()[index].tobytes()

    volume = read_ct(write_series(tmp_path, change=lie))
    np.testing.assert_array_equal(volume.hu, body())
    assert any("sign mended" in line for line in volume.history)


def test_metal_and_deep_padding_are_clipped_to_the_documented_range(tmp_path):
    hu = body()
    hu[5, 24, 24] = 3500
    volume = read_ct(write_series(tmp_path, hu, RescaleIntercept=-1024, BitsStored=16, HighBit=15, change=lambda d, i: setattr(
        d, "PixelData", (hu[i].astype(int) + 1024).astype("<u2").tobytes())))  # fmt: skip
    assert volume.hu.max() == 3071
    assert volume.hu.min() >= -1024


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_series_hold_the_same_values(tmp_path, syntax):
    np.testing.assert_array_equal(read_ct(write_series(tmp_path, syntax=syntax)).hu, body())


def test_a_deflated_series_holds_the_same_values(tmp_path):
    def deflate(dataset, index):
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    np.testing.assert_array_equal(read_ct(write_series(tmp_path, change=deflate)).hu, body())


def test_blanked_uids_and_numbers_are_no_obstacle(tmp_path):
    write_series(tmp_path, SeriesInstanceUID="", SOPInstanceUID="", SeriesNumber=None)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_one_enhanced_multi_frame_file_is_read_from_its_functional_groups(tmp_path, syntax):
    volume = read_ct(write_enhanced(tmp_path / "enhanced", syntax=syntax))
    np.testing.assert_array_equal(volume.hu, body())
    assert volume.spacing_mm == SPACING


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_image_files_equal_the_dicom_series(tmp_path, ending):
    image = sitk.GetImageFromArray(body())
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-150, -120, -300))
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(image, str(path))
    volume, dicom = read_ct(path), read_ct(write_series(tmp_path / "dicom"))
    np.testing.assert_array_equal(volume.hu, dicom.hu)
    np.testing.assert_allclose(volume.affine, dicom.affine, atol=1e-4)
    assert volume.spacing_mm == pytest.approx(dicom.spacing_mm)


def test_an_image_file_in_another_orientation_is_turned(tmp_path):
    image = sitk.GetImageFromArray(body())
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-150, -120, -300))
    turned = sitk.DICOMOrient(image, "RIA")
    sitk.WriteImage(turned, str(tmp_path / "scan.nrrd"))
    volume = read_ct(tmp_path / "scan.nrrd")
    np.testing.assert_array_equal(volume.hu, body())
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [-150, -120, -300, 1], atol=1e-4)


def test_an_oblique_image_file_is_refused(tmp_path):
    image = sitk.GetImageFromArray(body())
    image.SetDirection([1, 0, 0, 0, 0.9, -0.43589, 0, 0.43589, 0.9])
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    assert refusal(tmp_path / "scan.nrrd").code == "oblique"


def test_other_modalities_and_localizers_beside_the_series_are_passed_over(tmp_path):
    write_series(tmp_path / "ct")
    write_series(tmp_path / "scout", body()[:2], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesNumber=1)
    write_series(tmp_path / "pet", body()[:3], Modality="PT", SeriesNumber=9)
    (tmp_path / "notes.txt").write_text("no DICOM")
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())


def test_several_series_are_listed_and_one_is_chosen_by_its_number(tmp_path):
    write_series(tmp_path / "a", SeriesNumber=2, SeriesDescription="CANARY thin")
    write_series(tmp_path / "b", body(seed=1)[:18], SeriesNumber=7)
    error = refusal(tmp_path)
    assert error.code == "several_series"
    assert "--series N" in error.cure
    assert "2 (CANARY thin, 20 slices)" in error.cure
    assert "7 (Chest, 18 slices)" in error.cure
    np.testing.assert_array_equal(read_ct(tmp_path, series=7).hu, body(seed=1)[:18])
    assert refusal(tmp_path, series=3).code == "no_such_series"


def test_series_that_share_a_number_are_counted(tmp_path):
    write_series(tmp_path / "a", uid="1.2.3.1")
    write_series(tmp_path / "b", body(seed=1), uid="1.2.3.2")
    assert list(group_by_number(read_slices(tmp_path))) == [1, 2]
    np.testing.assert_array_equal(read_ct(tmp_path, series=2).hu, body(seed=1))


def coronal(dataset, index):
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    dataset.ImagePositionPatient = [-150.0, -120.0 + 8 * index, 0.0]


def test_what_is_no_volume_is_set_aside_and_listed(tmp_path):
    scout, capture = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "1.2.840.10008.5.1.4.1.1.7"
    write_series(tmp_path / "ct", SeriesNumber=2)
    write_series(tmp_path / "scout", body()[:2], ImageType=scout, SeriesNumber=1)
    write_series(tmp_path / "shots", SOPClassUID=capture, SeriesNumber=3, SeriesDescription="CANARY")
    write_series(tmp_path / "coronal", change=coronal, SeriesNumber=5)
    write_series(tmp_path / "bolus", body()[:4], SeriesNumber=6)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, body())
    aside = (
        "1 (2 slices, a localizer); 3 (20 slices, secondary capture); 5 (20 slices, not axial); 6 (4 slices, too short)"
    )
    assert volume.history[1] == f"set aside: series {aside}"
    assert refusal(tmp_path, series=6).code == "too_few_slices"
    for path in (tmp_path / "ct").iterdir():
        path.unlink()
    error = refusal(tmp_path)
    assert error.code == "no_ct_volume"
    assert "1 a localizer, 1 not axial, 1 secondary capture, 1 too short" in error.what
    assert "6 (Chest, 4 slices)" in error.cure


def test_series_with_blanked_uids_are_told_apart_by_their_geometry(tmp_path):
    blank = {"SeriesInstanceUID": "", "SeriesNumber": None, "SeriesDescription": ""}
    write_series(tmp_path / "ct", **blank)
    write_series(tmp_path / "scout", body()[:2], change=coronal, **blank)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())
    write_series(tmp_path / "wide", SliceThickness=16, **blank)
    assert refusal(tmp_path).code == "several_series"
    assert sorted(map(len, group_by_number(read_slices(tmp_path)).values())) == [2, 20, 20]
    write_series(tmp_path / "again" / "one", **blank)
    write_series(tmp_path / "again" / "two", body(seed=1), **blank)
    assert refusal(tmp_path / "again").code == "duplicate_position"


def dicomdir(folder, names):
    """Write a DICOMDIR that lists files."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = "1.2.840.10008.1.2.1", "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    records = [Dataset() for _ in names]
    for record, name in zip(records, names, strict=True):
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
    directory = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    directory.DirectoryRecordSequence = records
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_is_read_by_what_it_lists(tmp_path):
    write_series(tmp_path / "A", names="none")
    write_series(tmp_path / "B", body(seed=1), SeriesNumber=5)
    names = [["A", path.name] for path in sorted((tmp_path / "A").iterdir())]
    path = dicomdir(tmp_path, names)
    np.testing.assert_array_equal(read_ct(path).hu, body())
    path.rename(tmp_path / "A" / "index")  # under another name it is no image either
    np.testing.assert_array_equal(read_ct(tmp_path / "A").hu, body())
    (tmp_path / "A" / names[0][1]).unlink()  # the first or last slice: positions could not tell
    error = refusal(dicomdir(tmp_path, names))
    assert error.code == "missing_file"
    assert "1 of the 20 files" in error.what


@pytest.mark.parametrize(
    ("position", "row", "said"),
    [
        ("HFS", 1, "supine"),
        ("FFP", 1, "prone"),
        ("HFDL", 1, "decubitus"),
        (None, 1, "supine"),
        (None, -1, "prone"),
        (None, 0, "decubitus"),
    ],
)
def test_a_patient_who_lay_prone_or_on_the_side_is_flagged(tmp_path, position, row, said):
    def turn(dataset, index):
        dataset.ImageOrientationPatient = [row, 0, 0, 0, row, 0] if row else [0, 1, 0, -1, 0, 0]
        if position:
            dataset.PatientPosition = position

    volume = read_ct(write_series(tmp_path, change=turn))
    assert volume.series.patient_position == said
    assert any("lay" in line for line in volume.history) == (said != "supine")


def test_padding_that_the_header_does_not_tell_of_is_air_but_odd_values_are_refused(tmp_path):
    def write(folder, stored):
        def change(dataset, index):
            dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 1, 16, 15, 0
            dataset.PixelData = stored[index].astype("<i2").tobytes()

        return write_series(folder, change=change)

    padded = body()
    padded[:, :4] = -32768
    hu = read_ct(write(tmp_path / "padded", padded)).hu
    assert (hu[:, :4] == -1024).all()
    odd = body()
    odd[:, :4] = np.random.default_rng(1).integers(-30000, -4000, odd[:, :4].shape)
    assert refusal(write(tmp_path / "odd", odd)).code == "hu_out_of_range"


def test_small_jitter_of_the_spacing_is_borne(tmp_path):
    jitter = np.random.default_rng(2).uniform(-0.3, 0.3, SHAPE[0])
    np.testing.assert_array_equal(
        read_ct(write_series(tmp_path, change=moved(lambda index: 8.0 * index + jitter[index]))).hu, body()
    )


def moved(z):
    return lambda dataset, index: setattr(dataset, "ImagePositionPatient", [-150.0, -120.0, z(index)])


def tilted(dataset, index):
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.9659258, -0.2588190]


CHANGES = {
    "missing_slice": moved(lambda index: 8.0 * (index + (index > 9))),
    "duplicate_position": moved(lambda index: 8.0 * (index // 2)),
    "variable_spacing": moved(lambda index: 8.0 * index + 3 * (index > 9)),
    "gantry_tilt": tilted,
    "mixed_image_type": lambda d, i: setattr(d, "ImageType", ["DERIVED" if i == 3 else "ORIGINAL", "PRIMARY", "AXIAL"]),
    "mixed_orientation": lambda d, i: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 1 - 2 * (i == 3), 0]),
    "mixed_matrix": lambda d, i: setattr(d, "PixelSpacing", [7.0 + (i == 3), 7.0]),
    "missing_geometry": lambda d, i: i != 3 or delattr(d, "ImagePositionPatient"),
    "shifted_slices": lambda d, i: setattr(d, "ImagePositionPatient", [-150.0 + 20 * (i == 3), -120.0, 8.0 * i]),
    "missing_rescale": lambda d, i: i != 3 or delattr(d, "RescaleSlope"),
    "not_hu": lambda d, i: setattr(d, "RescaleType", "Z_EFF"),
    "not_ct": lambda d, i: setattr(d, "Modality", "MR"),
    "no_ct_volume": lambda d, i: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "hu_out_of_range": lambda d, i: setattr(d, "RescaleIntercept", 0),
}


@pytest.mark.parametrize(
    "change",
    [
        lambda d, i: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER" if i == 3 else "AXIAL"]),
        lambda d, i: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7" if i == 3 else d.SOPClassUID),
        lambda d, i: setattr(d, "Modality", "OT" if i == 3 else "CT"),
    ],
    ids=["localizer", "secondary capture", "other modality"],
)
def test_another_kind_of_image_inside_a_series_is_refused(tmp_path, change):
    assert refusal(write_series(tmp_path, change=change)).code == "mixed_image_type"


@pytest.mark.parametrize("code", CHANGES)
def test_a_faulty_series_is_refused_with_its_own_code(tmp_path, code):
    assert refusal(write_series(tmp_path, change=CHANGES[code])).code == code


def test_all_faults_of_a_stack_are_named(tmp_path):
    def change(dataset, index):
        tilted(dataset, index)
        moved(lambda k: 8.0 * (k + (k > 1)))(dataset, index)

    error = refusal(write_series(tmp_path, body()[:4], change=change))
    assert error.code == "gantry_tilt"
    assert "15.0 degrees" in error.what
    assert "1 of 5 slices are missing" in error.what
    assert "at least 16" in error.what


def test_too_few_slices_are_refused(tmp_path):
    assert refusal(write_series(tmp_path, body()[:15])).code == "too_few_slices"
    assert read_ct(write_series(tmp_path / "enough", body()[:16])).shape[0] == 16


def test_values_above_any_ct_number_are_refused(tmp_path):
    assert refusal(write_series(tmp_path, RescaleSlope=20)).code == "hu_out_of_range"


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
def test_an_absurd_scale_does_not_wrap_round_to_ct_numbers(tmp_path, tag):
    assert refusal(write_series(tmp_path, **{tag: "1E+30"})).code == "hu_out_of_range"


def test_a_count_that_is_no_number_does_not_stop_a_series_whose_pixels_are_there(tmp_path):
    def change(dataset, index):
        dataset.add(DataElement("NumberOfFrames", "LO", "many"))

    np.testing.assert_array_equal(read_ct(write_series(tmp_path, change=change)).hu, body())


def test_pixel_data_stay_on_disk_until_they_are_decoded(tmp_path):
    plane = np.zeros((64, 64), np.int16)
    slice_dataset(plane, 0, generate_uid()).save_as(tmp_path / "one.dcm", enforce_file_format=True)
    (entry,) = read_slices(tmp_path)
    assert entry.pixels_at == (tmp_path / "one.dcm").stat().st_size - 2 * plane.size
    assert entry.dataset.get_item("PixelData", keep_deferred=True).value is None


def test_a_file_that_hides_its_transfer_syntax_is_refused_not_guessed(tmp_path):
    write_series(tmp_path)
    path = sorted(tmp_path.iterdir())[3]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI", 1))
    error = refusal(tmp_path)
    assert error.code == "unsupported_syntax"
    assert "does not say its transfer syntax" in error.what
    path.write_bytes(content.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00GW", 1))
    assert refusal(tmp_path).code in ("truncated", "unreadable")


def test_bits_that_are_not_used_mean_nothing_unless_they_repeat_the_sign(tmp_path):
    def overlay(dataset, index):
        stored = body()[index].astype(int) + 1024
        stored[10:20, 10:20] |= 0x1000
        dataset.PixelData = stored.astype("<u2").tobytes()

    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "overlay", change=overlay)).hu, body())

    def signed(dataset, index):
        dataset.RescaleIntercept, dataset.PixelData = 0, body()[index].astype("<i2").tobytes()

    volume = read_ct(write_series(tmp_path / "signed", change=signed))
    np.testing.assert_array_equal(volume.hu, body())
    assert any("sign mended" in line for line in volume.history)


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    def change(dataset, index):
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
        dataset["PixelData"].VR = "OB"
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])

    error = refusal(write_series(tmp_path, change=change))
    assert error.code == "unsupported_syntax"
    assert "MPEG2" in error.what
    assert "1.2.840.10008.1.2.4.100" in error.what


@pytest.mark.parametrize("keep", [0, 100, 140, 500, 3000, -1])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_a_truncated_file_is_refused(tmp_path, keep, syntax):
    write_series(tmp_path, syntax=syntax)
    path = sorted(tmp_path.iterdir())[3]
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 0 else int(len(content) * 0.8)])
    assert refusal(tmp_path).code == "truncated"


def test_paths_without_dicom_are_refused(tmp_path):
    assert refusal(tmp_path / "nowhere").code == "no_such_path"
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    assert refusal(tmp_path / "text").code == "no_dicom"
    (tmp_path / "broken.nrrd").write_text("NRRD0004\n")
    assert refusal(tmp_path / "broken.nrrd").code == "truncated"
    sitk.WriteImage(sitk.GetImageFromArray((body() > 0).astype(np.uint8)), str(tmp_path / "mask.nii.gz"))
    assert refusal(tmp_path / "mask.nii.gz").code == "hu_out_of_range"


def test_one_slice_alone_is_refused_by_its_number_of_slices(tmp_path):
    assert refusal(next(write_series(tmp_path).iterdir())).code == "too_few_slices"


def test_a_file_can_be_mended_and_read_again(tmp_path):
    write_series(tmp_path)
    path = sorted(tmp_path.iterdir())[3]
    rewrite(path, RescaleSlope=None)
    assert refusal(tmp_path).code == "missing_rescale"
    rewrite(path, RescaleSlope=1)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())
