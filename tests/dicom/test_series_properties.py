"""Whatever is done to a series that keeps its content, the volume stays; a slice less or more is refused."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import body, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

SHAPE = (16, 32, 32)
SPACING = (10.0, 10.0, 10.0)
BODY = body(SHAPE)
PROPERTY = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """The series, sound, and with the normal of its slices turned by numbering rows or columns from the other side."""
    folder = tmp_path_factory.mktemp("series")
    write_series(folder / "sound", BODY, spacing=SPACING, uid="1.2.3")
    for name, row, column in (("rows", 1, -1), ("columns", -1, 1), ("both", -1, -1)):

        def turn(dataset, index, row=row, column=column):
            dataset.ImageOrientationPatient = [row, 0, 0, 0, column, 0]
            x, y = -150 + 310 * (row < 0), -120 + 310 * (column < 0)
            dataset.ImagePositionPatient = [x, y, -300 + SPACING[0] * index]
            dataset.PixelData = (BODY[index, ::column, ::row].astype(np.int32) + 1024).astype("<u2").tobytes()

        write_series(folder / name, BODY, spacing=SPACING, uid="1.2.3", change=turn)
    write_series(folder / "localizer", BODY[:1], uid="1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return folder


names = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=12).map(lambda text: "f" + text)


@given(data=st.data())
@PROPERTY
def test_names_folders_direction_syntax_and_a_localizer_leave_the_volume_as_it_is(series, data):
    source = sorted((series / data.draw(st.sampled_from(["sound", "rows", "columns", "both"]))).iterdir())
    syntax = data.draw(st.sampled_from([None, RLELossless, JPEGLSLossless, JPEG2000Lossless]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        drawn = data.draw(st.lists(names, min_size=len(source), max_size=len(source), unique_by=str.lower))
        for path, name in zip(source, drawn, strict=True):
            below = folder / data.draw(st.sampled_from(["", "dir1", "dir2", "dir1/deep"]))
            below.mkdir(parents=True, exist_ok=True)
            if syntax is None:
                shutil.copy(path, below / name)
            else:
                dataset = pydicom.dcmread(path)
                dataset.compress(syntax, generate_instance_uid=False)
                dataset.save_as(below / name)
        if data.draw(st.booleans()):
            shutil.copytree(series / "localizer", folder / "scout")
        volume = read_ct(folder, threads=1)
    np.testing.assert_array_equal(volume.hu, BODY)
    np.testing.assert_allclose(volume.affine, read_ct(series / "sound").affine, atol=1e-9)
    assert volume.spacing_mm == SPACING


@given(data=st.data())
@PROPERTY
def test_a_slice_less_or_more_is_refused_with_its_code(series, data):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "series"
        longer = np.concatenate([BODY, BODY[:4]])
        write_series(folder, longer, spacing=SPACING)
        by_position = sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
        double = data.draw(st.booleans())
        chosen = by_position[data.draw(st.integers(0 if double else 1, len(longer) - (1 if double else 2)))]
        if double:
            copy = pydicom.dcmread(chosen)
            if data.draw(st.booleans()):
                copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            copy.save_as(folder / data.draw(names))
        else:
            chosen.unlink()
        with pytest.raises(SeriesError) as caught:
            read_ct(folder, threads=1)
    assert caught.value.code == ("duplicate_position" if double else "missing_slice")
