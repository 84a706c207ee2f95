"""Write one simulated scan as DICOM CT Image Storage (PS3.3 A.3), one file a slice, the same bytes for the same seed."""

import datetime
import hashlib
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import rle
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage

from covid3d.io import random_seed
from covid3d.phantom.scanner import IMPLICIT, JPEG_LS, RLE, Acquisition

Array = np.ndarray[Any, Any]
ENCAPSULATED = (JPEG_LS, RLE)


def uid(*parts: object) -> UID:
    """Return a UID under 2.25 derived from any parts (PS3.5 B.2)."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:15], 'big')}")


def study_date(seed: int, patient_id: str, day: float) -> str:
    """Return the date of a scan: a first day drawn for the patient, plus days since the first scan."""
    first = random_seed(seed, patient_id, "date") % 50
    return (datetime.date(2020, 1, 2) + datetime.timedelta(days=int(first + day))).strftime("%Y%m%d")


def header(row: dict[str, Any], acquisition: Acquisition, seed: int) -> Dataset:
    """Return the attributes that all slices of a scan share; none of them depends on the label."""
    scan, patient, scanner = row["scan_id"], row["patient_id"], acquisition.scanner
    date = study_date(seed, patient, 0 if row["day"] is None else row["day"])
    time = f"{8 + random_seed(seed, scan, 'hour') % 10:02d}{random_seed(seed, scan, 'minute') % 60:02d}00"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber = ""
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = scanner.manufacturer, scanner.model
    ds.InstitutionName = f"Simulated hospital {row['hospital']}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription, ds.SeriesDescription = "Simulated chest CT", f"Chest {scanner.kernel}"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"Phantom^{patient}", patient, ""
    ds.PatientSex = {"M": "M", "F": "F"}.get(str(row["sex"]), "O")
    if row["age"] is not None:
        ds.PatientAge = f"{int(row['age']):03d}Y"
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "Simulated: there is no patient"
    ds.BodyPartExamined = "CHEST"
    ds.SliceThickness = ds.SpacingBetweenSlices = f"{acquisition.spacing_mm[0]:.3f}"
    ds.KVP, ds.Exposure = str(scanner.kvp), str(scanner.exposure_mas)
    ds.ConvolutionKernel = scanner.kernel
    ds.SoftwareVersions = "phantom 1"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(seed, patient, date, scan, "study"), uid(seed, scan, "series")
    ds.FrameOfReferenceUID = uid(seed, scan, "frame")
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", "2", "1"
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = acquisition.shape[1:]
    ds.PixelSpacing = [f"{acquisition.spacing_mm[1]:.6f}", f"{acquisition.spacing_mm[2]:.6f}"]
    ds.BitsAllocated = 16
    ds.BitsStored, ds.HighBit = (16, 15) if scanner.signed else (12, 11)
    ds.PixelRepresentation = int(scanner.signed)
    if scanner.padding is not None:
        ds.PixelPaddingValue = scanner.padding
    ds.WindowCenter, ds.WindowWidth = "-600", "1500"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(scanner.intercept), "1", "HU"
    return ds


def write_slices(
    folder: Path, ds: Dataset, first: int, stored: Array, acquisition: Acquisition, seed: int, scan_id: str
) -> None:
    """Write slices `first`, `first` + 1, … of a scan; `stored` (z, y, x) ascends towards the head."""
    syntax = UID(acquisition.syntax)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = syntax
    ds.file_meta = meta
    for offset, pixels in enumerate(stored):
        k = first + offset
        number = acquisition.shape[0] - k  # instance 1 lies at the head, as scanners number them
        ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid(seed, scan_id, "instance", k)
        ds.InstanceNumber = str(number)
        z = acquisition.origin_mm[0] + acquisition.spacing_mm[0] * k
        ds.ImagePositionPatient = [f"{acquisition.origin_mm[2]:.4f}", f"{acquisition.origin_mm[1]:.4f}", f"{z:.4f}"]
        ds.SliceLocation = f"{z:.4f}"
        ds.PixelData = _encode(pixels, acquisition.syntax)
        ds["PixelData"].VR = "OW" if acquisition.syntax not in ENCAPSULATED else "OB"
        ds["PixelData"].is_undefined_length = acquisition.syntax in ENCAPSULATED
        dcmwrite(
            folder / f"IM{number:04d}.dcm",
            ds,
            enforce_file_format=True,
            implicit_vr=acquisition.syntax == IMPLICIT,
            little_endian=True,
        )


def _encode(pixels: Array, syntax: str) -> bytes:
    """Return one slice's pixel data in a transfer syntax, padded to an even length."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    if syntax == JPEG_LS:
        return encapsulate([bytes(jpeg_ls.encode_array(little.view(np.uint16)))])
    if syntax == RLE:
        rows, columns = little.shape
        size = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "bits_allocated": 16}
        return encapsulate([rle.encode_pixel_data(little.tobytes(), byteorder="<", **size)])
    return little.tobytes()
