"""Why a scan is refused: a stable code for each reason, what causes it and what to do about it."""

from pathlib import Path

from covid3d.run.errors import SeriesError

FEWEST_SLICES = 16

CAUSES = {
    "missing_slice": "Slices are missing inside the series: a step is a multiple of the others",
    "blank_slice": "A slice holds one value everywhere: its image was lost",
    "duplicate_position": "Two or more slices lie at one position: copies, or phases of one region",
    "variable_spacing": "Slices lie further from the best even grid than a tenth of their spacing, or 0.1 mm",
    "gantry_tilt": "The gantry was tilted, or axes are sheared: slices are not at right angles to the line of their positions",
    "shifted_slices": "Slices lie aside of the line through the first and the last by more than a pixel",
    "mixed_series": "One series UID holds several scans: patients, studies, series numbers, frames of reference, kernels, "
    "tube voltages, phases, or slices with and without contrast medium; or times, thicknesses or descriptions take turns",
    "mixed_image_type": "A series mixes original with derived images, localizers, screen shots or other modalities",
    "mixed_orientation": "Slices of one series have different directions",
    "mixed_matrix": "Slices of one series differ in rows, columns or pixel size",
    "missing_geometry": "A slice or frame has no position, orientation or pixel size, or one that cannot be",
    "contradicting_geometry": "Two places of an image file's header give different spacings or orientations",
    "oblique": "The slices lie more than 15 degrees oblique to the body",
    "too_few_slices": f"The scan has fewer than {FEWEST_SLICES} slices",
    "not_ct": "There is no CT image, or the images are in colour",
    "not_hu": "A slice or frame is a map (of perfusion, atomic numbers, densities) or says that it is not in HU",
    "not_chest": "No lung was found: less than 300 ml of air within the body, or air without lung tissue",
    "impossible_size": "No body has this size: a field of view below 40 mm or above 1 m (bores have up to 90 cm), lungs of "
    "more than 13 l or 380 mm of height, or whole lungs below 60 mm",
    "no_ct_volume": "No series is an axial CT volume, or a file holds something else than one volume",
    "missing_file": "A file is not there: one that a DICOMDIR or an image header names, or a part of a multi-frame image",
    "broken_link": "A link that stands for a slice leads nowhere",
    "packed": "A file is an archive, or compressed as a whole (zip, gz, …)",
    "missing_rescale": "A slice or frame has no rescale slope or intercept, or a table (modality LUT) in their place",
    "hu_out_of_range": "The values are no Hounsfield units of a body: beyond any CT number, shifted, scaled or clipped, or "
    "no air, or only air",
    "no_number": "Voxels of an image file are NaN or infinite, and not only as padding that lies outside the body",
    "unsupported_syntax": "The pixel data are compressed in a way that cannot be decoded safely, or the header does not say how",
    "unsupported_encoding": "The voxels of an image file are stored in a way that is not read",
    "several_series": "A folder holds several CT volumes",
    "no_such_series": "There is no CT series of the number that was asked for",
    "no_such_path": "There is no such file or folder",
    "truncated": "A file ends too early, its pixel data are incomplete or damaged, or it stands for a slice and is none",
    "no_dicom": "There is no DICOM file, and no volume in another known format",
    "slice_count": "The scan has another number of slices than the manifest gives: its end may be missing",
    "checksum": "The files of the scan are not those whose checksum the manifest gives",
    "unreadable": "A file cannot be opened, or its header is damaged or does not say how pixels are stored",
}
"""What each code means."""

CURES_OF_FILES = {
    "broken_link": "Copy what the link leads to, or remove the link",
    "missing_file": "Copy the whole medium, or give the folder instead of its DICOMDIR",
    "packed": "Unpack it first, or move it away if no slice is in it",
    "truncated": "Copy or export this scan again, or move the file away if it is no slice",
    "unreadable": "Make it readable or copy it again, or move it away",
}
"""What to do about a file that stands where a slice should be."""

CURES = {
    "missing_slice": "Export the series again, complete",
    "blank_slice": "Export the series again: each slice with its image",
    "duplicate_position": "Leave one slice at each position: remove copies, or split phases into series",
    "variable_spacing": "Choose a reconstruction with one slice spacing",
    "gantry_tilt": "Choose a series without gantry tilt, or correct the tilt on the scanner's console",
    "shifted_slices": "Choose one reconstruction: all slices must lie above each other",
    "mixed_series": "Split it: one patient, one study, one reconstruction and one phase to a series",
    "mixed_image_type": "Move localizers and derived images out of the series",
    "mixed_orientation": "Choose one reconstruction: all slices must have one direction",
    "mixed_matrix": "Choose one reconstruction: all slices must have one matrix and pixel size",
    "missing_geometry": "Export the series with image position, orientation and pixel spacing",
    "contradicting_geometry": "Convert the scan again, or give its DICOM series: its header gives two geometries",
    "oblique": "Choose an axial reconstruction",
    "too_few_slices": f"Give the whole series: at least {FEWEST_SLICES} slices",
    "not_ct": "Give a CT series",
    "not_hu": "Give the CT images themselves, not a map computed from them",
    "not_chest": "Give a CT of the chest",
    "impossible_size": "Check pixel spacing, slice positions and their unit (NIfTI: xyzt_units); export or convert it again",
    "no_ct_volume": "Give the folder of a CT series; localizers, screen shots, reports and short series are no volume",
    "missing_file": "Copy the whole medium, with every file that a DICOMDIR or an image header names, and every part",
    "broken_link": CURES_OF_FILES["broken_link"],
    "packed": CURES_OF_FILES["packed"],
    "missing_rescale": "Export the series with RescaleSlope and RescaleIntercept",
    "hu_out_of_range": "Check how the file was made: its values are no Hounsfield units",
    "no_number": "Fill what lies outside the scan with -1024 before, and convert the scan again if some is missing inside",
    "unsupported_syntax": "Export the series again as Explicit VR Little Endian, or convert it with `gdcmconv --raw`",
    "unsupported_encoding": "Save the file again in one piece, raw or compressed with gzip",
    "several_series": "Choose one series by its number, in a manifest as path#number",
    "no_such_series": "Choose one of the series that are there",
    "no_such_path": "Check the path; in a manifest it starts from the manifest's own folder",
    "truncated": "Copy or export this scan again",
    "no_dicom": "Give a folder with the slices of one CT series, or a NIfTI, NRRD or MHA file",
    "slice_count": "Copy the scan again, or correct n_slices in the manifest: the slices, or frames, of this one series",
    "checksum": "Copy the scan again, or correct sha256 in the manifest",
    "unreadable": "Open the scan in a viewer; export it again as Explicit VR Little Endian",
}
"""What to do about each code. No cure, and no `what` of a SeriesError, repeats text from headers or paths."""


def refusal(code: str, what: str, path: Path, cure: str | None = None) -> SeriesError:
    """Return the error that refuses a scan for a reason, with its usual cure unless another one is given."""
    return SeriesError(what, where=path.name, cure=cure or CURES[code], code=code)
