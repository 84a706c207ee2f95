"""Image files: equal to the DICOM series they were made from, or refused with the cause; never voxels that are not there."""

import logging
import sys
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import SPACING, body, write_series
from image_files import LPS, files, metaimage, nifti, nrrd, put, vectors, voxels

from covid3d.cohort.scan import facts, safe_message
from covid3d.dicom.refusals import CURES
from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

CASES = files()
LAST_BYTES = (1, 2, 3, 5, 8, 9, 40)


def read(tmp_path, name, content):
    return read_ct(put(tmp_path, {name: content}))


def refusal(path):
    with pytest.raises(SeriesError) as caught:
        read_ct(path)
    assert caught.value.cure
    assert caught.value.code in CURES
    return caught.value


def refused(tmp_path, name, content):
    return refusal(put(tmp_path, {name: content}))


@pytest.mark.parametrize("case", CASES)
def test_every_format_encoding_and_byte_order_holds_the_same_scan(tmp_path, case):
    volume = read_ct(put(tmp_path, CASES[case]))
    np.testing.assert_array_equal(volume.hu, body())
    np.testing.assert_allclose(volume.affine, LPS, atol=1e-4)
    assert volume.spacing_mm == pytest.approx(SPACING)
    assert not volume.series.sides_unknown
    assert volume.history == (f"20 slices of {volume.series.file_format}",)


@pytest.mark.parametrize("case", CASES)
def test_voxels_that_are_not_all_there_are_never_read(tmp_path, case):
    path = put(tmp_path, CASES[case])
    voxels_in = path.with_name(list(CASES[case])[-1])
    content = voxels_in.read_bytes()
    for length in [*(len(content) - last for last in LAST_BYTES), *(len(content) * part // 8 for part in range(8))]:
        voxels_in.write_bytes(content[:length])
        error = refusal(path)
        assert error.code == "truncated", length
        assert "truncated" in error.what
    voxels_in.write_bytes(content)
    np.testing.assert_array_equal(read_ct(path).hu, body())


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_holds_more_than_its_header_says_is_refused(tmp_path, case):
    path = put(tmp_path, CASES[case])
    voxels_in = path.with_name(list(CASES[case])[-1])
    voxels_in.write_bytes(voxels_in.read_bytes() + b"\x01\x02")
    assert refusal(path).code == "truncated"


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith(("gzip", "zlib", "bzip2", "named .nii"))])
def test_a_compressed_stream_with_a_wrong_checksum_is_refused(tmp_path, case):
    path = put(tmp_path, CASES[case])
    voxels_in = path.with_name(list(CASES[case])[-1])
    content = voxels_in.read_bytes()
    for back in range(5, 9) if "gzip" in case else range(1, 5):
        damaged = bytearray(content)
        damaged[-back] ^= 0x10
        voxels_in.write_bytes(damaged)
        assert refusal(path).code == "truncated"


def test_a_stream_of_several_gzip_members_is_read_to_its_last(tmp_path):
    content = nifti()
    members = [voxels(np.frombuffer(part, "u1"), "gzip") for part in (content[:500], content[500:9000], content[9000:])]
    np.testing.assert_array_equal(read(tmp_path, "scan.nii.gz", b"".join(members)).hu, body())
    assert refused(tmp_path, "scan.nii.gz", b"".join(members[:2])).code == "truncated"


@pytest.mark.parametrize("kind", ["u1", "i4", "f4", "f8"])
def test_stored_values_of_any_type_are_scaled_as_nibabel_does(tmp_path, kind):
    hu = (body() // 8 + 128 if kind == "u1" else body()).astype(kind)
    slope, intercept = (8.25, -1030.5) if kind == "u1" else (1, 0)

    def change(header):
        header["scl_slope"], header["scl_inter"] = slope, intercept

    volume = read(tmp_path, "scan.nii", nifti(hu, change=change))
    wanted = np.rint(nib.load(tmp_path / "scan.nii").get_fdata().T)
    np.testing.assert_array_equal(volume.hu, np.clip(wanted, -1024, 3071))
    if kind != "u1":
        for name, content in {"scan.nrrd": nrrd(hu), "scan.mha": metaimage(hu)}.items():
            np.testing.assert_array_equal(read(tmp_path, name, content).hu, body())


def no_numbers(where, value=np.nan):
    hu = body().astype("f4")
    hu[where] = value
    return hu


IN_FORMAT = {"scan.nii": nifti, "scan.nrrd": nrrd, "scan.mha": metaimage}
NO_NUMBERS = {
    "block in the lung": np.s_[8:12, 20:26, 30:36],
    "block in the wall": np.s_[8:12, 20:26, 4:8],
    "half the body, up to the edge": np.s_[:, :, :24],
    "the last slices": np.s_[:5],
    "hole in the air outside": np.s_[8:12, 1:3, 1:3],
}


@pytest.mark.parametrize("name", IN_FORMAT)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_never_become_air_within_the_body(tmp_path, name, value):
    for where in NO_NUMBERS.values():
        hu = no_numbers(where, value)
        error = refused(tmp_path, name, IN_FORMAT[name](hu))
        assert error.code == "no_number"
        assert f"{np.count_nonzero(~np.isfinite(hu))} voxels" in error.what
        assert "-1024" in error.cure


@pytest.mark.parametrize("name", IN_FORMAT)
def test_voxels_that_are_no_numbers_around_the_body_are_padding(tmp_path, name):
    y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48), indexing="ij")
    for outside in (np.s_[:, 0], np.s_[:, x**2 + y**2 > 1.1]):
        volume = read(tmp_path, name, IN_FORMAT[name](no_numbers(outside)))
        assert (volume.hu[outside] == -1024).all()
        kept = volume.hu != -1024
        np.testing.assert_array_equal(volume.hu[kept], body()[kept])


def test_values_beyond_ct_are_refused(tmp_path):
    padded = body()
    padded[:, :4] = -32768
    assert (read(tmp_path, "scan.nrrd", nrrd(padded)).hu[:, :4] == -1024).all()
    padded[:, :4] = np.arange(-32768, -32768 + 4 * 48 * 100, 100).reshape(4, 48)
    assert refused(tmp_path, "scan.nrrd", nrrd(padded)).code == "hu_out_of_range"
    swapped = body().byteswap()
    assert refused(tmp_path, "scan.mha", metaimage(swapped)).code == "hu_out_of_range"


def setitem(header, value, axis=3):
    header["pixdim"][axis] = value


def sheared(degrees, affine=LPS):
    """The affine with its last axis sheared, spacings as they were along the normal."""
    found = affine.copy()
    found[1, 2] += np.tan(np.radians(degrees)) * SPACING[0]
    return found


def turned(degrees):
    """The affine of LPS turned about the left-right axis."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    return turn @ LPS


def in_every_format(affine):
    """Return the name and content of a file with an affine (LPS), in each format."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    matrix = " ".join(map(str, (affine[:3, :3] / steps).T.ravel()))
    return {
        "scan.nii": nifti(affine=np.diag([-1, -1, 1, 1]) @ affine, codes=(0, 1)),
        "scan.nrrd": nrrd(directions=vectors(affine)),
        "scan.mha": metaimage(matrix=matrix, spacing=steps),
    }


@pytest.mark.parametrize("name", ["scan.nii", "scan.nrrd", "scan.mha"])
def test_axes_not_at_right_angles_are_judged_as_a_gantry_tilt_is(tmp_path, name):
    np.testing.assert_array_equal(read(tmp_path, name, in_every_format(sheared(0.3))[name]).hu, body())
    for degrees in (0.7, 10, -10):
        error = refused(tmp_path, name, in_every_format(sheared(degrees))[name])
        assert error.code == "gantry_tilt"
        assert f"sheared by {abs(degrees):.1f} degrees" in error.what
    both = nifti(
        affine=np.diag([-1, -1, 1, 1]) @ sheared(15), codes=(0, 1), change=lambda header: setitem(header, SPACING[0])
    )
    assert refused(tmp_path, "scan.nii", both).code == "gantry_tilt"  # pixdim along the normal, sform along the table
    rows = LPS.copy()
    rows[1, 0] = 2.0
    assert refused(tmp_path, name, in_every_format(rows)[name]).code == "gantry_tilt"
    flat = LPS.copy()
    flat[:3, 2] = flat[:3, 1]
    assert refused(tmp_path, name, in_every_format(flat)[name]).code == "gantry_tilt"
    np.testing.assert_array_equal(read(tmp_path, name, in_every_format(turned(10))[name]).hu, body())
    assert refused(tmp_path, name, in_every_format(turned(20))[name]).code == "oblique"


NO_SPACING = {
    "NRRD without any": ("scan.nrrd", nrrd(directions=None)),
    "NRRD without space": ("scan.nrrd", nrrd(directions=None, space=None)),
    "NRRD none": ("scan.nrrd", nrrd(directions="(7,0,0) (0,7,0) none")),
    "NRRD nan": ("scan.nrrd", nrrd(directions="(7,0,0) (0,7,0) (nan,nan,nan)")),
    "NRRD zero": ("scan.nrrd", nrrd(directions="(7,0,0) (0,7,0) (0,0,0)")),
    "NRRD two axes": ("scan.nrrd", nrrd(directions="(7,0,0) (0,7,0)")),
    "NRRD spacings nan": ("scan.nrrd", nrrd(directions=None, more="spacings: 7 7 nan")),
    "NRRD spacings negative": ("scan.nrrd", nrrd(directions=None, more="spacings: 7 7 -8")),
    "MHA without any": ("scan.mha", metaimage(spacing=None)),
    "MHA zero": ("scan.mha", metaimage(spacing=(7, 7, 0))),
    "MHA nan": ("scan.mha", metaimage(spacing=(7, 7, np.nan))),
    "MHA negative": ("scan.mha", metaimage(spacing=(7, 7, -8))),
    "MHA two axes": ("scan.mha", metaimage(spacing=(7, 7))),
    "MHA size of a voxel alone": ("scan.mha", metaimage(spacing=None, more="ElementSize = 7 7 8")),
    **{
        f"NIfTI {value} {codes}": (
            "scan.nii",
            nifti(codes=codes, change=lambda header, value=value: setitem(header, value)),
        )
        for value in (0, np.nan, -8)
        for codes in ((0, 0), (1, 0), (0, 1), (1, 1))
    },
}


@pytest.mark.parametrize("case", NO_SPACING)
def test_a_spacing_that_is_not_told_is_never_made_up(tmp_path, case):
    error = refused(tmp_path, *NO_SPACING[case])
    assert error.code == "missing_geometry"
    assert "no voxel" in error.what or "every axis" in error.what


def test_two_spacings_that_contradict_each_other_are_both_told(tmp_path):
    error = refused(tmp_path, "scan.nii", nifti(change=lambda header: setitem(header, 1.0)))
    assert error.code == "contradicting_geometry"
    assert "pixdim says 1 mm, sform 8 mm" in error.what
    near = read(tmp_path, "scan.nii", nifti(change=lambda header: setitem(header, 8.05)))
    assert near.spacing_mm == pytest.approx(SPACING)
    error = refused(tmp_path, "scan.nrrd", nrrd(more="spacings: 7 7 1.5"))
    assert error.code == "contradicting_geometry"
    assert "spacings says 1.5 mm, space directions 8 mm" in error.what
    error = refused(tmp_path, "scan.mha", metaimage(matrix="1 0 0 0 1 0 0 0 2"))
    assert error.code == "contradicting_geometry"
    assert "ElementSpacing says 8 mm, TransformMatrix 16 mm" in error.what


def test_two_orientations_that_contradict_each_other_are_refused(tmp_path):
    def flip(header):
        header["srow_x"] *= -1

    error = refused(tmp_path, "scan.nii", nifti(change=flip))
    assert error.code == "contradicting_geometry"
    assert "RPS and LPS" in error.what


SIDELESS = {
    "NIfTI without forms": ("scan.nii", nifti(codes=(0, 0), change=lambda header: setitem(header, 8)), SPACING),
    "NIfTI identity": ("scan.nii", nifti(affine=np.eye(4)), (1, 1, 1)),
    "NRRD spacings": ("scan.nrrd", nrrd(directions=None, space=None, more="spacings: 7 7 8"), SPACING),
    "NRRD unnamed space": ("scan.nrrd", nrrd(space="3D-right-handed"), SPACING),
    "MHA without directions": ("scan.mha", metaimage(matrix=None), SPACING),
}


@pytest.mark.parametrize("case", SIDELESS)
def test_a_file_that_does_not_tell_left_from_right_is_kept_with_a_remark(tmp_path, case):
    name, content, spacing = SIDELESS[case]
    volume = read(tmp_path, name, content)
    assert volume.spacing_mm == pytest.approx(spacing)
    assert volume.series.sides_unknown
    assert any("left may be right" in line for line in volume.history)
    if spacing == SPACING:
        assert "sides_unknown" in facts(volume)["kept_with"]


def unit(header):
    header["xyzt_units"] = 1
    for field in ("srow_x", "srow_y", "srow_z", "pixdim"):
        header[field] *= 0.001
    header["pixdim"][0] *= 1000
    for field in ("qoffset_x", "qoffset_y", "qoffset_z"):
        header[field] *= 0.001


def test_lengths_in_metres_are_millimetres(tmp_path):
    assert read(tmp_path, "scan.nii", nifti(change=unit)).spacing_mm == pytest.approx(SPACING)
    metres = nrrd(directions=vectors(LPS / 1000), more='space units: "m" "m" "m"')
    assert read(tmp_path, "scan.nrrd", metres).spacing_mm == pytest.approx(SPACING)
    error = refused(tmp_path, "scan.nrrd", nrrd(more='space units: "inch" "inch" "inch"'))
    assert error.code == "missing_geometry"


@pytest.mark.parametrize(("unit_code", "field"), [(1, "3.36e+05 x 3.36e+05"), (3, "0.336 x 0.336")])
def test_millimetres_that_a_header_calls_metres_or_microns_are_no_body(tmp_path, unit_code, field):
    content = nifti(change=lambda header: header.__setitem__("xyzt_units", unit_code))
    error = refused(tmp_path, "scan.nii", content)
    assert (error.code, f"field of view would be {field} mm" in error.what) == ("impossible_size", True), error


CAUSES = {
    "no NIfTI": ("scan.nii", b"hello" * 200, "unreadable", "no NIfTI"),
    "empty": ("scan.nii", b"", "truncated", "within its header"),
    "pair": ("scan.nii", nifti().replace(b"n+1", b"ni1"), "unsupported_encoding", "pair of files"),
    "no mark": ("scan.nii", nifti().replace(b"n+1\0", b"\0\0\0\0"), "unreadable", "no mark"),
    "mark": ("scan.nii", nifti().replace(b"n+1\0", b"n+1@"), "unreadable", "no mark"),
    "ends of lines": (
        "scan.nii",
        nifti(kind=nib.Nifti2Image).replace(b"\r\n\x1a", b"\n\n\x1a"),
        "unreadable",
        "no mark",
    ),
    "type": ("scan.nii", nifti(change=lambda h: h.__setitem__("datatype", 77)), "unreadable", "type"),
    "complex": ("scan.nii", nifti(change=lambda h: h.__setitem__("datatype", 32)), "no_ct_volume", "one value"),
    "two sizes": ("scan.nii", nifti(change=lambda h: h.__setitem__("bitpix", 8)), "unreadable", "two sizes"),
    "time": (
        "scan.nii",
        nifti(change=lambda h: h.__setitem__("dim", [4, 48, 48, 4, 5, 1, 1, 1])),
        "no_ct_volume",
        "single",
    ),
    "offset": (
        "scan.nii",
        nifti(change=lambda h: h.__setitem__("vox_offset", 0)),
        "unreadable",
        "where the voxels begin",
    ),
    "quaternion": ("scan.nii", nifti(change=lambda h: h.__setitem__("quatern_b", 3)), "missing_geometry", "qform"),
    "no NRRD": ("scan.nrrd", b"hello", "unreadable", "no NRRD"),
    "text": ("scan.nrrd", nrrd().replace(b"encoding: raw", b"encoding: txt"), "unsupported_encoding", "none of raw"),
    "no endian": ("scan.nrrd", nrrd().replace(b"endian: little\n", b""), "unreadable", "endian"),
    "block": ("scan.nrrd", nrrd().replace(b"type: short", b"type: block"), "unreadable", "type"),
    "no field": ("scan.nrrd", nrrd().replace(b"space origin", b"spcae origin"), "unreadable", "no field"),
    "no space": ("scan.nrrd", nrrd(space="left-posterior-inferior"), "missing_geometry", "space"),
    "no text": ("scan.nrrd", nrrd().replace(b"(-150.0,", b"(-150.0,\r"), "unreadable", "no text"),
    "no text in MHA": ("scan.mha", metaimage().replace(b"48 48", b"48\x0b48"), "unreadable", "no text"),
    "form code": ("scan.nii", nifti(change=lambda h: h.__setitem__("sform_code", 129)), "unreadable", "code"),
    "twice": ("scan.nrrd", nrrd(more="sizes: 48 48 20"), "unreadable", "twice"),
    "not there": ("scan.nhdr", nrrd(data="scan.raw"), "missing_file", "is not there"),
    "long name": ("scan.nhdr", nrrd(data="x" * 5000), "missing_file", "is not there"),
    "list": ("scan.nhdr", nrrd(data="LIST"), "unsupported_encoding", "several files"),
    "no MHA": ("scan.mha", b"hello\n", "unreadable", "no field"),
    "MHD not there": ("scan.mhd", metaimage(data="scan.raw"), "missing_file", "is not there"),
    "MHD pattern": ("scan.mhd", metaimage(data="slice%03d.raw 1 20 1"), "unsupported_encoding", "several files"),
    "MHA text": (
        "scan.mha",
        metaimage().replace(b"BinaryData = True", b"BinaryData = False"),
        "unsupported_encoding",
        "text",
    ),
    "channels": ("scan.mha", metaimage(more="ElementNumberOfChannels = 3"), "no_ct_volume", "single volume"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_is_named(tmp_path, case):
    name, content, code, words = CAUSES[case]
    error = refused(tmp_path, name, content)
    assert (error.code, words in error.what) == (code, True), error


def test_where_voxels_begin_in_a_file_of_their_own_may_be_said_in_each_formats_way(tmp_path):
    before = b"a line\nanother\n"
    skipping = [
        ("scan.nhdr", nrrd(data="v.raw", more="line skip: 2")),
        ("scan.nhdr", nrrd(data="v.raw", more=f"byte skip: {len(before)}")),
        ("scan.nhdr", nrrd(data="v.raw", more="byte skip: -1")),
        ("scan.mhd", metaimage(data="v.raw", more=f"HeaderSize = {len(before)}")),
        ("scan.mhd", metaimage(data="v.raw", more="HeaderSize = -1")),
    ]
    for name, content in skipping:
        path = put(tmp_path, {name: content, "v.raw": before + voxels(body())})
        np.testing.assert_array_equal(read_ct(path).hu, body())
        (tmp_path / "v.raw").write_bytes(voxels(body())[:-4])
        assert refusal(path).code == "truncated"


@pytest.mark.parametrize("case", CASES)
def test_another_reader_sees_the_same_scan(tmp_path, case):
    path = put(tmp_path, CASES[case])
    try:
        image = sitk.ReadImage(path)
    except RuntimeError:
        assert "bzip2" in case or "named .nii" in case or case.startswith("NIfTI-2")
        return
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), read_ct(path).hu)
    assert image.GetSpacing()[::-1] == pytest.approx(read_ct(path).spacing_mm)
    assert image.GetOrigin() == pytest.approx(tuple(LPS[:3, 3]))


ODD = {
    "two spacings": {"CANARY.nii.gz": nifti(change=lambda header: setitem(header, 1.0))},
    "odd NIfTI": {"CANARY.nii": nifti(change=lambda header: setitem(header, 0, axis=0))},
    "cut NIfTI": {"CANARY.nii": nifti()[:-9]},
    "two NRRD fields": {"CANARY.nrrd": nrrd(more="CANARY:=1\ncontent: CANARY\n# CANARY")},
    "cut NRRD": {"CANARY.nrrd": nrrd(encoding="gzip")[:-900]},
    "no raw": {"CANARY.nhdr": nrrd(data="CANARY.raw")},
    "odd MHA": {"CANARY.mha": metaimage(more="Comment = CANARY\nCANARY = 3")},
    "cut MHD": {"CANARY.mhd": metaimage(data="CANARY.raw"), "CANARY.raw": voxels(body())[:-9]},
}


def odd_header(dataset, index):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.SeriesInstanceUID = dataset.SOPInstanceUID = "CANARY^UID"
        dataset.add_new("ConvolutionKernel", "SH", "B40f" + " " * 40)


@pytest.mark.parametrize("case", [*CASES, *ODD, "DICOM", "cut DICOM"])
def test_no_path_and_no_name_leaves_through_what_other_packages_say(tmp_path, capfd, case):
    folder, lines = tmp_path / "CANARY_Smith_John", []
    if "DICOM" in case:
        path = write_series(folder, change=odd_header, names="none")
        if case == "cut DICOM":
            some = sorted(folder.iterdir())[3]
            some.write_bytes(some.read_bytes()[:-900])
    else:
        path = put(folder, (CASES | ODD)[case])
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            said = outcome(path)
    finally:
        logging.root.removeHandler(handler)
    sys.stderr.flush()
    out, err = capfd.readouterr()
    assert "CANARY" not in "\n".join([*said, *lines, *(str(one.message) for one in caught), out, err])
    assert str(tmp_path) not in out + err


def outcome(path):
    """Return what a run keeps of a scan."""
    try:
        volume = read_ct(path)
    except SeriesError as error:
        return [error.what, error.cure, safe_message(error)]
    return [*volume.history, str(facts(volume)), str(volume.series)]
