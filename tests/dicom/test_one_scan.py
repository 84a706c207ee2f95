"""One series UID is not one scan, and one slice does not speak for the others: every slice and every frame is asked."""

import numpy as np
import pytest
from dicom_series import SHAPE, SPACING, body, item, rewrite, write_enhanced, write_series
from pydicom.uid import generate_uid

from covid3d.cohort.scan import facts
from covid3d.dicom.headers import read_slices
from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError


def refusal(path):
    with pytest.raises(SeriesError) as caught:
        read_ct(path)
    assert "CANARY" not in str(caught.value)
    return caught.value


def in_turn(index):
    return index % 2


def in_blocks(index):
    return int(index > 9)


SEVERAL = {
    "PatientID": (["CANARY-1", "CANARY-2"], "2 patients"),
    "PatientName": (["CANARY^ONE", "CANARY^TWO"], "2 patients"),
    "PatientBirthDate": (["19500101", "19600101"], "2 patients"),
    "StudyInstanceUID": (["1.2.3.1", "1.2.3.2"], "2 studies"),
    "SeriesNumber": ([3, 4], "2 series numbers"),
    "FrameOfReferenceUID": (["1.2.3.1", "1.2.3.2"], "2 frames of reference"),
    "ConvolutionKernel": (["STANDARD", "LUNG"], "2 kernels"),
    "KVP": (["100", "120"], "2 tube voltages"),
    "TemporalPositionIdentifier": ([1, 2], "2 phases"),
    "NominalPercentageOfCardiacPhase": ([30.0, 70.0], "2 phases"),
    "ContrastBolusAgent": (["", "iodine"], "with and without contrast"),
}


@pytest.mark.parametrize("place", [in_turn, in_blocks])
@pytest.mark.parametrize("keyword", SEVERAL)
def test_several_scans_in_one_evenly_spaced_series_are_refused_and_named(tmp_path, keyword, place):
    values, named = SEVERAL[keyword]
    error = refusal(write_series(tmp_path, change=lambda d, i: setattr(d, keyword, values[place(i)])))
    assert error.code == "mixed_series"
    assert named in error.what
    assert "Split it" in error.cure


def test_two_reconstructions_half_a_step_apart_are_named_for_what_they_are(tmp_path):
    uid = generate_uid()
    write_series(tmp_path / "one", uid=uid, ConvolutionKernel="STANDARD")

    def shifted(dataset, index):
        dataset.ImagePositionPatient = [-150.0, -120.0, -296.0 + 8 * index]

    write_series(tmp_path / "two", uid=uid, ConvolutionKernel=["LUNG", "2"], change=shifted)
    assert refusal(tmp_path).code == "mixed_series"


def test_two_patients_whose_series_uid_was_blanked_are_refused(tmp_path):
    for patient in (0, 1):
        change = lambda d, i, n=patient: setattr(d, "ImagePositionPatient", [-150.0, -120.0, 8.0 * (2 * i + n)])  # noqa: E731
        write_series(tmp_path / str(patient), change=change, PatientID=f"CANARY-{patient}", SeriesInstanceUID="")
    assert "2 patients" in refusal(tmp_path).what


def test_what_is_written_otherwise_or_not_at_all_is_no_second_scan(tmp_path):
    def change(dataset, index):
        if index % 2:
            dataset.KVP, dataset.ConvolutionKernel, dataset.PatientName = "120.0", "b40F ", "CANARY^NAME^^"
        if index % 3 == 0:
            dataset.KVP, dataset.ConvolutionKernel, dataset.PatientID = None, "", ""
            dataset.StudyInstanceUID = ""

    volume = read_ct(write_series(tmp_path, change=change, StudyInstanceUID="1.2.3"))
    assert (volume.series.kvp, volume.series.kernel.upper()) == (120.0, "B40F")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_uids_that_a_converter_made_up_for_every_slice_tell_nothing(tmp_path, keyword):
    write_series(tmp_path, change=lambda d, i: setattr(d, keyword, generate_uid()))
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body())


@pytest.mark.parametrize("place", [in_turn, in_blocks, lambda index: index])
def test_acquisition_numbers_alone_are_no_reason(tmp_path, place):
    volume = read_ct(write_series(tmp_path, change=lambda d, i: setattr(d, "AcquisitionNumber", place(i))))
    np.testing.assert_array_equal(volume.hu, body())


@pytest.mark.parametrize(
    ("seconds", "whole"),
    [
        (lambda index: 0.05 * index, True),  # a spiral
        (lambda index: 40 - 2.0 * index, True),  # slice after slice, from the feet
        (lambda index: 300.0 * (index > 9), True),  # two stations
        (lambda index: 900.0 * (8 < index < 12), True),  # a part that was scanned again
        (lambda index: 0.4 * (index % 2), True),  # two detector rows
        (lambda index: 300.0 * (index % 2), False),  # two phases, slice by slice
        (lambda index: 300.0 * (index % 4 > 1), False),
        (lambda index: 300.0 * (index % 3) + 2 * index, False),
    ],
)
@pytest.mark.parametrize("keyword", ["AcquisitionTime", "AcquisitionDateTime"])
def test_phases_are_told_by_times_that_take_turns_along_the_body(tmp_path, seconds, whole, keyword):
    def change(dataset, index):
        at = 36000 + seconds(index)
        text = f"{int(at // 3600):02d}{int(at % 3600 // 60):02d}{at % 60:09.6f}"
        setattr(dataset, keyword, f"20200312{text}" if keyword == "AcquisitionDateTime" else text)

    path = write_series(tmp_path, change=change)
    if whole:
        np.testing.assert_array_equal(read_ct(path).hu, body())
    else:
        assert "at different times" in refusal(path).what


@pytest.mark.parametrize(
    ("keyword", "values", "named"),
    [
        ("SliceThickness", [8, 1.25], "slice thicknesses"),
        ("SeriesDescription", ["CANARY arterial", "CANARY venous"], "descriptions"),
        ("ImageType", [["ORIGINAL", "PRIMARY", "AXIAL", f"MONO_{kev}"] for kev in (40, 70)], "types of image"),
    ],
)
def test_what_may_differ_between_blocks_may_not_from_slice_to_slice(tmp_path, keyword, values, named):
    def write(name, place):
        return write_series(tmp_path / name, change=lambda d, i: setattr(d, keyword, values[place(i)]))

    np.testing.assert_array_equal(read_ct(write("blocks", in_blocks)).hu, body())
    error = refusal(write("turns", in_turn))
    assert error.code == "mixed_series"
    assert f"{named} that take turns" in error.what


def test_a_setting_of_each_slices_own_is_no_second_scan(tmp_path):
    def change(dataset, index):
        dataset.SeriesDescription = f"slice {index}"
        dataset.SliceThickness = 8 + 0.01 * (index % 2)

    assert read_ct(write_series(tmp_path, change=change)).shape == SHAPE


def test_days_that_take_turns_are_two_scans(tmp_path):
    days = ["20200312", "20200319"]
    path = write_series(
        tmp_path, change=lambda d, i: setattr(d, "AcquisitionDate", days[i % 2]), AcquisitionTime="101500"
    )
    assert refusal(path).code == "mixed_series"


def lut(dataset):
    table = {"LUTDescriptor": [4096, 0, 16], "ModalityLUTType": "US", "LUTData": np.arange(4096, dtype="<u2").tobytes()}
    dataset.ModalityLUTSequence = [item(table)]


def coloured(dataset):
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.PixelData = dataset.PixelData * 3


ODD_ONES = {
    "unit": (lambda d: setattr(d, "RescaleType", "Z_EFF"), "not_hu"),
    "map": (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL", "PERFUSION"]), "not_hu"),
    "no slope": (lambda d: delattr(d, "RescaleSlope"), "missing_rescale"),
    "slope 0": (lambda d: setattr(d, "RescaleSlope", 0), "missing_rescale"),
    "slope below 0": (lambda d: setattr(d, "RescaleSlope", -1), "missing_rescale"),
    "no intercept": (lambda d: delattr(d, "RescaleIntercept"), "missing_rescale"),
    "modality LUT": (lut, "missing_rescale"),
    "inverted": (lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME1"), "mixed_image_type"),
    "colour": (coloured, "mixed_image_type"),
    "palette": (lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"), "mixed_image_type"),
    "image type": (lambda d: setattr(d, "ImageType", ["DERIVED", "PRIMARY", "AXIAL"]), "mixed_image_type"),
    "scale": (lambda d: setattr(d, "RescaleSlope", 30), "hu_out_of_range"),
    "blank": (lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))), "blank_slice"),
    "padded": (lambda d: setattr(d, "PixelData", b"\x07\x00" * (len(d.PixelData) // 2)), "blank_slice"),
}


@pytest.mark.parametrize("place", [0, 7, SHAPE[0] - 1])
@pytest.mark.parametrize("odd", ODD_ONES)
def test_one_odd_slice_is_found_wherever_it_lies(tmp_path, odd, place):
    change, code = ODD_ONES[odd]
    hu = body((60, 48, 48))[20:40]  # none of them is one hundredth of the pixels
    path = write_series(tmp_path, hu, change=lambda d, i: change(d) if i == place else None, PixelPaddingValue=7)
    assert refusal(path).code == code


@pytest.mark.parametrize("keep", [0, 7])
def test_one_slice_in_hounsfield_units_does_not_vouch_for_a_map(tmp_path, keep):
    path = write_series(tmp_path, change=lambda d, i: setattr(d, "RescaleType", "HU" if i == keep else "Z_EFF"))
    assert refusal(path).code == "not_hu"


def transformed(**tags):
    return {"PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, **tags}}


ODD_FRAMES = {
    "unit": (transformed(RescaleType="US"), "not_hu"),
    "map": ({"CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "AXIAL", "PERFUSION"]}}, "not_hu"),
    "slope 0": (transformed(RescaleType="HU", RescaleSlope=0), "missing_rescale"),
    "frame type": ({"CTImageFrameTypeSequence": {"FrameType": ["DERIVED", "PRIMARY", "AXIAL"]}}, "mixed_image_type"),
    "kernel": ({"CTReconstructionSequence": {"ConvolutionKernel": "BONE"}}, "mixed_series"),
    "kVp": ({"CTXRayDetailsSequence": {"KVP": 80.0}}, "mixed_series"),
    "phase": ({"FrameContentSequence": {"TemporalPositionIndex": 2}}, "mixed_series"),
    "contrast": ({"ContrastBolusUsageSequence": {"ContrastBolusAgentAdministered": "NO"}}, "mixed_series"),
}


@pytest.mark.parametrize("place", [0, 7])
@pytest.mark.parametrize("odd", ODD_FRAMES)
def test_one_odd_frame_is_found_wherever_it_lies(tmp_path, odd, place):
    macros, code = ODD_FRAMES[odd]
    shared = {
        "CTReconstructionSequence": {"ConvolutionKernel": "STANDARD"},
        "CTXRayDetailsSequence": {"KVP": 120.0},
    }

    def frames(index):
        first = {"FrameContentSequence": {"TemporalPositionIndex": 1}}
        return first | (macros if index == place else {})

    sequence = [{"ContrastBolusAgentNumber": 1}]
    path = write_enhanced(tmp_path / "scan", shared=shared, frames=frames, ContrastBolusAgentSequence=sequence)
    assert refusal(path).code == code


@pytest.mark.parametrize("where", ["shared", "frames", "header"])
def test_settings_of_an_enhanced_image_are_read_wherever_they_stand(tmp_path, where):
    macros = {
        "CTReconstructionSequence": {"ConvolutionKernel": "BONE"},
        "CTXRayDetailsSequence": {"KVP": 80.0},
        "CTExposureSequence": {"ExposureInmAs": 55.0},
        "PixelMeasuresSequence": {"PixelSpacing": [7.0, 7.0], "SliceThickness": 9},
    }
    flat = {"ConvolutionKernel": "BONE", "KVP": 80, "Exposure": 55, "SliceThickness": 9}
    agent = {"ContrastBolusAgentSequence": [{"ContrastBolusAgentNumber": 1}]}
    if where == "shared":
        path = write_enhanced(tmp_path / "scan", shared=macros, **agent)
    elif where == "frames":
        path = write_enhanced(tmp_path / "scan", frames=lambda index: macros, **agent)
    else:
        bare = {"PixelMeasuresSequence": {"PixelSpacing": [7.0, 7.0]}}
        path = write_enhanced(tmp_path / "scan", shared=bare, ContrastBolusAgent="iodine", **flat)
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.hu, body())
    found = facts(volume)
    assert (found["kernel"], found["kvp"], found["exposure_mas"], found["thickness_mm"]) == ("BONE", 80.0, 55.0, 9.0)
    assert found["kept_with"] == "contrast bone_kernel"


def test_contrast_medium_that_no_frame_was_made_with_is_none(tmp_path):
    usage = {"ContrastBolusUsageSequence": {"ContrastBolusAgentAdministered": "NO"}}
    agent = {"ContrastBolusAgentSequence": [{"ContrastBolusAgentNumber": 1}]}
    assert not read_ct(write_enhanced(tmp_path / "scan", shared=usage, **agent)).series.contrast


def test_exposure_is_the_median_of_the_slices(tmp_path):
    volume = read_ct(write_series(tmp_path, change=lambda d, i: setattr(d, "Exposure", 40 + (i > 11) + 20 * (i > 17))))
    assert volume.series.exposure_mas == 40


def test_an_enhanced_map_that_is_not_in_hounsfield_units_is_refused(tmp_path):
    assert refusal(write_enhanced(tmp_path / "scan", shared=transformed(RescaleType="US"))).code == "not_hu"


def part(folder, number, of, *, total=True, name=None):
    """Write one part of a concatenation of the body."""
    length = SHAPE[0] // of
    tags = {"SeriesInstanceUID": "1.2.3", "ConcatenationUID": "1.2.4", "InConcatenationNumber": number}
    if total:
        tags["InConcatenationTotalNumber"] = of
    first = (number - 1) * length
    return write_enhanced(folder / (name or f"part{number}"), body()[first : first + length], first=first, **tags)


def test_a_concatenation_is_read_whole_or_not_at_all(tmp_path):
    part(tmp_path, 1, 2)
    error = refusal(tmp_path)
    assert error.code == "missing_file"
    assert "1 of 2 parts" in error.what
    assert "1 of 2 parts" in refusal(tmp_path / "part1").what
    part(tmp_path, 2, 2)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, body())
    assert volume.spacing_mm == SPACING
    part(tmp_path, 2, 2, name="copy")
    assert refusal(tmp_path).code == "duplicate_position"
    (tmp_path / "part1").unlink()
    assert "1 of 2 parts" in refusal(tmp_path).what


def test_a_part_that_is_missing_before_the_last_is_found_without_their_total(tmp_path):
    for number in (1, 3, 4):
        part(tmp_path, number, 4, total=False)
    assert "3 of 4 parts" in refusal(tmp_path).what


def test_frames_without_functional_groups_are_not_left_out(tmp_path):
    path = write_enhanced(tmp_path / "scan")
    rewrite(path, PerFrameFunctionalGroupsSequence=[item({}) for _ in range(SHAPE[0] - 4)])
    error = refusal(path)
    assert error.code == "missing_geometry"
    assert "16 of 20 frames" in error.what


def test_a_frame_knows_its_own_groups_before_the_shared_ones(tmp_path):
    path = write_enhanced(
        tmp_path / "scan", frames=lambda index: {"CTExposureSequence": {"ExposureInmAs": 10.0 + index}}
    )
    found = {round((entry.position[2] + 300) / 8): entry.number("ExposureInmAs") for entry in read_slices(path)}
    assert found == {index: 10.0 + index for index in range(SHAPE[0])}
