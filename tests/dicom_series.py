"""Small DICOM series for tests: a round body with two lungs, written with pydicom slice by slice."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (20, 48, 48)
SPACING = (8.0, 7.0, 7.0)


def body(shape=SHAPE, seed=0):
    """HU int16 (z, y, x): air, an elliptic body of 40 HU, two lungs of -850 HU, and a mark at the head's left front."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    hu = np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, 40, -1000)
    for side in (-1, 1):
        lung = ((x - 0.4 * side) / 0.3) ** 2 + (y / 0.45) ** 2 + (z / 0.9) ** 2 < 1
        hu = np.where(lung, -850, hu)
    hu = hu + np.random.default_rng(seed).integers(-10, 11, shape)
    hu[-1, 1, -2] = 700  # the last slice lies at the head, row 1 in front, column -2 at the left
    return hu.astype(np.int16)


def write_series(folder, hu=None, *, change=None, uid=None, spacing=SPACING, names="plain", syntax=None, **tags):
    """Write `hu` (z ascending to the head) as one axial series; `change(dataset, index)` may alter a slice."""
    hu = body() if hu is None else hu
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    for index, plane in enumerate(hu):
        dataset = slice_dataset(plane, index, uid, spacing)
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        if change is not None:
            change(dataset, index)
        if syntax is not None:
            dataset.compress(syntax, generate_instance_uid=False)
        shuffled = (index * 7) % len(hu)
        name = f"{shuffled:03d}" if names == "none" else f"IM{shuffled:03d}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder


def slice_dataset(plane, index, uid, spacing=SPACING):
    """One slice as a dataset in Explicit VR Little Endian; stored = HU + 1024, unsigned 12 bit."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.Manufacturer = "CT", "Test"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.SeriesDescription = uid, 4, "Chest"
    dataset.PatientName, dataset.PatientID = "CANARY^NAME", "CANARY-ID"
    dataset.ImagePositionPatient = [-150.0, -120.0, -300.0 + spacing[0] * index]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [spacing[1], spacing[2]]
    dataset.SliceThickness, dataset.KVP, dataset.ConvolutionKernel = spacing[0], 120, "B40f"
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = (plane.astype(np.int32) + 1024).clip(0, 4095).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def item(tags):
    """A dataset from a dict of keywords; a dict in it becomes a sequence of one item, a list of dicts one of several."""
    made = Dataset()
    for keyword, value in tags.items():
        if isinstance(value, dict):
            value = [item(value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            value = [item(one) for one in value]
        setattr(made, keyword, value)
    return made


def write_enhanced(path, hu=None, *, first=0, shared=None, frames=None, syntax=None, **tags):
    """Write `hu` as one Enhanced CT file whose frames, out of order, have their geometry and rescale in functional groups.

    `shared` adds macros (or changes them), `frames(index)` those of a slice; `first` is the place of its first slice.
    """
    hu = body() if hu is None else hu
    dataset = slice_dataset(hu[0], 0, generate_uid())
    for keyword in (
        "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept SliceThickness KVP "
        "ConvolutionKernel"
    ).split():
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(hu)
    macros = {
        "PixelMeasuresSequence": {"PixelSpacing": [7.0, 7.0], "SliceThickness": 8},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
        **(shared or {}),
    }
    dataset.SharedFunctionalGroupsSequence = [item(macros)]
    order = sorted(range(len(hu)), key=lambda index: (7 * index) % len(hu))
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            {"PlanePositionSequence": {"ImagePositionPatient": [-150.0, -120.0, -300 + 8.0 * (first + index)]}}
            | (frames(index) if frames else {})
        )
        for index in order
    ]
    dataset.PixelData = b"".join((hu[index].astype(np.int32) + 1024).astype("<u2").tobytes() for index in order)
    for keyword, value in item(tags).items():
        dataset[keyword] = value
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def rewrite(path, **tags):
    """Change tags of a file in place; None deletes one."""
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def to_jpeg_lossless(path):
    """Change a file in place to JPEG Lossless, first-order prediction, which pydicom cannot write."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
