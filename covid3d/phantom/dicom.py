"""Write one simulated scan as DICOM CT Image Storage (PS3.3 A.3), one file a slice, the same bytes for the same seed."""

import datetime
import hashlib
import io
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import rle
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage

from covid3d.phantom.scanner import IMPLICIT, JPEG_2000, JPEG_LS, RLE, Acquisition
from covid3d.run.files import random_seed

Array = np.ndarray[Any, Any]
ENCAPSULATED = (JPEG_LS, JPEG_2000, RLE)
SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
# Stand-ins of a slice's own values in the file that pydicom makes once a scan; each is as wide as any value.
ANY_UID, ANY_NUMBER, ANY_Z, ANY_LOCATION = "2.25." + "7" * 37, "7" * 12, "7777.77771", "7777.77772"


def uid(*parts: object) -> UID:
    """Return a UID under 2.25 derived from any parts (PS3.5 B.2), always of 42 characters."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return UID(f"2.25.{10**36 + int.from_bytes(digest[:16], 'big') % (9 * 10**36)}")


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
    _describe_patient(ds, row)
    _describe_exposure(ds, acquisition)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(seed, patient, date, scan, "study"), uid(seed, scan, "series")
    ds.FrameOfReferenceUID = uid(seed, scan, "frame")
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", "2", "1"
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.ImageComments = "Simulated: no scanner and no patient"
    _describe_pixels(ds, acquisition)
    return ds


def _describe_patient(ds: Dataset, row: dict[str, Any]) -> None:
    """Say who was scanned: nobody."""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"Phantom^{row['patient_id']}", row["patient_id"], ""
    ds.PatientSex = {"M": "M", "F": "F"}.get(str(row["sex"]), "O")
    if row["age"] is not None:
        ds.PatientAge = f"{int(row['age']):03d}Y" if row["age"] >= 2 else f"{int(12 * row['age']):03d}M"
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "Simulated: there is no patient"
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", "HFS"


def _describe_exposure(ds: Dataset, acquisition: Acquisition) -> None:
    """State geometry and dose as they were simulated; mA x ms / 1000 is exactly the mAs stated."""
    scanner = acquisition.scanner
    ds.ScanOptions = "HELICAL MODE"
    ds.SliceThickness = f"{scanner.thickness_mm:g}"
    ds.SpacingBetweenSlices = f"{acquisition.spacing_mm[0]:.3f}"
    ds.DataCollectionDiameter, ds.ReconstructionDiameter = "500", str(acquisition.field_mm)
    ds.GantryDetectorTilt, ds.RotationDirection = "0", "CW"
    ds.KVP, ds.ExposureTime = str(scanner.kvp), str(scanner.rotation_ms)
    ds.XRayTubeCurrent, ds.Exposure = str(acquisition.current_ma), str(acquisition.mas)
    ds.ConvolutionKernel = scanner.kernel
    ds.SoftwareVersions = "phantom 1"


def _describe_pixels(ds: Dataset, acquisition: Acquisition) -> None:
    """State what the stored values are."""
    scanner = acquisition.scanner
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = acquisition.shape[1:]
    ds.PixelSpacing = [f"{acquisition.spacing_mm[1]:.6f}", f"{acquisition.spacing_mm[2]:.6f}"]
    ds.BitsAllocated = 16
    ds.BitsStored, ds.HighBit = (16, 15) if scanner.signed else (12, 11)
    ds.PixelRepresentation = int(scanner.signed)
    ds.QualityControlImage, ds.BurnedInAnnotation = "YES", "NO"  # "a quality control or phantom image" (C.7.6.1)
    ds.LossyImageCompression = "00"
    if scanner.padding is not None:
        ds.PixelPaddingValue = scanner.padding
    ds.WindowCenter, ds.WindowWidth, ds.WindowCenterWidthExplanation = "-600", "1500", "LUNG"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(scanner.intercept), "1", "HU"


class SeriesWriter:
    """Writes the slices of a scan: pydicom makes one file, and each slice puts its own values and pixels into it."""

    def __init__(self, folder: Path, row: dict[str, Any], acquisition: Acquisition, seed: int) -> None:
        self.folder, self.acquisition = folder, acquisition
        self.seed, self.scan_id = seed, str(row["scan_id"])
        self.start = _file_start(header(row, acquisition, seed), acquisition)

    def write(self, first: int, stored: Array) -> None:
        """Write slices `first`, `first` + 1, …; `stored` (z, y, x) ascends towards the head."""
        for k, pixels in enumerate(stored, first):
            number = self.acquisition.shape[0] - k  # instance 1 lies at the head, as scanners number them
            z = f"{self.acquisition.origin_mm[0] + self.acquisition.spacing_mm[0] * k:<10.4f}"
            own = {ANY_UID: str(uid(self.seed, self.scan_id, "instance", k)), ANY_NUMBER: f"{number:<12d}"}
            start = self.start
            for stand_in, value in {**own, ANY_Z: z, ANY_LOCATION: z}.items():
                start = start.replace(stand_in.encode(), value.encode())
            (self.folder / f"IM{number:04d}.dcm").write_bytes(start + _encode(pixels, self.acquisition.syntax))


def _file_start(ds: Dataset, acquisition: Acquisition) -> bytes:
    """Return a slice's file with stand-ins for its own values, up to where the pixel data's bytes begin."""
    syntax, encapsulated = acquisition.syntax, acquisition.syntax in ENCAPSULATED
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.TransferSyntaxUID = CTImageStorage, UID(syntax)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(ANY_UID)
    ds.InstanceNumber = ANY_NUMBER
    ds.ImagePositionPatient = [f"{acquisition.origin_mm[2]:.4f}", f"{acquisition.origin_mm[1]:.4f}", ANY_Z]
    ds.SliceLocation = ANY_LOCATION
    ds.PixelData = encapsulate([b"\0\0"]) if encapsulated else bytes(2 * ds.Rows * ds.Columns)
    ds["PixelData"].VR = "OB" if encapsulated else "OW"
    ds["PixelData"].is_undefined_length = encapsulated
    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True, implicit_vr=syntax == IMPLICIT, little_endian=True)
    ending = len(ds.PixelData) + (len(SEQUENCE_END) if encapsulated else 0)
    return stream.getvalue()[:-ending]


def _encode(pixels: Array, syntax: str) -> bytes:
    """Return what follows the start of the pixel data element: one slice's values in a transfer syntax."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    if syntax not in ENCAPSULATED:
        return little.tobytes()
    if syntax == JPEG_LS:
        frame = bytes(jpeg_ls.encode_array(little.view(np.uint16)))
    elif syntax == JPEG_2000:
        frame = encode_array(little, bits_stored=16, photometric_interpretation=2)
    else:
        rows, columns = little.shape
        size = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "bits_allocated": 16}
        frame = rle.encode_pixel_data(little.tobytes(), byteorder="<", **size)
    return encapsulate([frame]) + SEQUENCE_END
