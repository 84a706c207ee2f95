"""Mutated DICOM and image files, read beside an independent decode of the same bytes.

`fuzz_reader.py FIRST LAST [images]` prints cases, with the third word those of image files alone.
"""

import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import fuzz_images
import imagecodecs
import numpy as np
import pydicom
import SimpleITK as sitk
from dicom_series import body, to_jpeg_lossless, write_series
from fuzz_images import IMAGES
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

SHAPE = (16, 32, 32)
SYNTAXES = ["explicit", "implicit", "big endian", "RLE", "JPEG-LS", "JPEG 2000", "JPEG Lossless", "JPEG", "HTJ2K"]
FORMATS = SYNTAXES + IMAGES
LOSSY, HTJ2K = "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.202"
MUTATIONS = ["bit", "byte", "word", "truncate", "delete", "insert", "repeat", "zeros", "splice", "header bits"]
SECONDS = 20
MIB = 400
HEADER_BYTES = 600


def base(folder, syntax):
    """Write the sound series in one syntax."""
    uids = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
    change = (lambda dataset, index: pack(dataset, syntax)) if syntax in ("JPEG", "HTJ2K") else None
    words = {"spacing": (10.0, 10.0, 10.0), "uid": "1.2.3", "PixelPaddingValue": 63, "change": change}
    write_series(folder, body(SHAPE), syntax=uids.get(syntax), **words)
    plain = {"implicit": ImplicitVRLittleEndian, "big endian": ExplicitVRBigEndian}
    if syntax == "JPEG Lossless":
        for path in folder.iterdir():
            to_jpeg_lossless(path)
    if syntax in plain:
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            if syntax == "big endian":
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
            fresh = pydicom.Dataset(
                {element.tag: element for element in dataset}
            )  # it may be written in any order of bytes
            fresh.file_meta, fresh.file_meta.TransferSyntaxUID = dataset.file_meta, plain[syntax]
            implicit = syntax == "implicit"
            pydicom.dcmwrite(path, fresh, implicit_vr=implicit, little_endian=implicit, enforce_file_format=True)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pack(dataset, syntax):
    """Compress a slice in a way that pydicom cannot write."""
    values = np.frombuffer(dataset.PixelData, "<u2").reshape(SHAPE[1:])
    if syntax == "JPEG":
        frame, uid = imagecodecs.jpeg8_encode(values, level=98, bitspersample=12), LOSSY
    else:
        frame, uid = imagecodecs.htj2k_encode(values, reversible=True), HTJ2K
    dataset.PixelData, dataset.file_meta.TransferSyntaxUID = encapsulate([frame]), uid
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def mutate(content, other, kind, rng, most):
    """Return changed bytes; the change begins before `most`."""
    data = bytearray(content)
    at, many = int(rng.integers(min(len(data), most))), int(rng.integers(1, 40))
    if kind == "bit":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "header bits":
        for place in rng.integers(0 if most == HEADER_BYTES else 128, min(len(data), most, 900), 3):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[at] = int(rng.integers(256))
    elif kind == "word":
        data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\x7f\0\0", b"\0\0\0\x80"])
    elif kind == "truncate":
        del data[min(at, len(data.rstrip()) - 1) :]  # a line's end is no loss
    elif kind == "delete":
        del data[at : at + many]
    elif kind == "insert":
        data[at:at] = rng.bytes(many)
    elif kind == "repeat":
        data[at:at] = data[at : at + many]
    elif kind == "zeros":
        data[at : at + many] = bytes(len(data[at : at + many]))
    else:
        data[at : at + 8 * many] = other[at : at + 8 * many]
    return bytes(data)


def independent(folder):
    """Return HU, spacing and first position of the best even grid, as plain pydicom reads what most files belong to."""
    entries = []
    for path in sorted(folder.iterdir()):
        try:
            dataset = pydicom.dcmread(path)
        except Exception:
            continue
        if "PixelData" in dataset:
            entries.append(dataset)
    uids = [str(dataset.get("SeriesInstanceUID", "")) for dataset in entries]
    usual = max(set(uids), key=uids.count)
    planes = []
    for dataset in (one for one, uid in zip(entries, uids, strict=True) if uid == usual):
        if "PhotometricInterpretation" not in dataset:
            dataset.PhotometricInterpretation = "MONOCHROME2"  # how it is shown does not matter
        if dataset.file_meta.get("TransferSyntaxUID") in (LOSSY, LOSSY[:-1] + "0"):  # GDCM may crash
            stored = imagecodecs.jpeg8_decode(get_frame(dataset.PixelData, 0, number_of_frames=1)).astype(float)
        else:
            stored = dataset.pixel_array.astype(float)
        hu = np.rint(stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
        if "PixelPaddingValue" in dataset:
            low, high = sorted(
                (dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
            )
            hu[(stored >= low) & (stored <= high)] = -1024
        planes.append((float(dataset.ImagePositionPatient[2]), dataset, hu.clip(-1024, 3071).astype(np.int16)))
    planes.sort(key=lambda plane: plane[0])
    places, along = np.arange(len(planes)), np.array([z for z, *_ in planes])
    step = np.polyfit(places, along, 1)[0]
    starts = along - step * places
    first = (starts.min() + starts.max()) / 2
    return np.stack([hu for *_, hu in planes]), (step, *map(float, planes[0][1].PixelSpacing)), first


def outcome(path, sound, kind):
    """Return what became of one mutated series; a line that starts with "wrong" is a fault of the reader."""
    try:
        volume = read_ct(path, threads=1)
    except SeriesError as error:
        return f"refused {error.code}"
    except Exception as error:
        return f"wrong: {type(error).__name__} {error}"
    if kind == "truncate" and path.is_file():
        return "wrong: a truncated file is a volume"
    if np.array_equal(volume.hu, sound.hu) and np.allclose(volume.affine, sound.affine):
        return "unmutated"
    try:
        if path.is_file():
            hu, spacing, first = fuzz_images.independent(path)
            hu = np.rint(np.nan_to_num(hu.astype(float), nan=-1024, neginf=-1024)).clip(-1024, 3071)
            same_place = np.allclose(volume.affine[:3, 3], first, rtol=1e-4, atol=1e-2)
        else:
            hu, spacing, first = independent(path)
            same_place = abs(volume.affine[2, 3] - first) < 1e-3
    except Exception as error:
        return f"wrong: a volume where the other reader fails ({type(error).__name__} {error})"
    if (
        volume.hu.shape == hu.shape
        and np.array_equal(volume.hu, hu)
        and np.allclose(volume.spacing_mm, spacing, rtol=1e-4, atol=1e-4)
    ):
        return "as the other reader" if same_place else f"wrong: another position {volume.affine[:3, 3]} {first}"
    differ = int((volume.hu != hu).sum()) if volume.hu.shape == hu.shape else -1
    return f"wrong: {volume.hu.shape} {volume.spacing_mm} against {hu.shape} {spacing}, {differ} voxels"


def too_slow(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def bases(place, formats):
    """Write the sound scans; return for each format the path that is read and the content of its files."""
    found = {}
    for name in formats:
        if name in IMAGES:
            found[name] = fuzz_images.base(place / name, name, SHAPE)
        else:
            found[name] = (place / name, base(place / name, name))
    return found


def main(first, last, formats=FORMATS):
    """Run the cases from `first` up to `last`, each from its own seed."""
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        scans = bases(Path(place), formats)
        sound = {name: read_ct(path) for name, (path, _) in scans.items()}
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for case in range(first, last):
            rng = np.random.default_rng([1, case])
            name, kind = formats[case % len(formats)], MUTATIONS[case // len(formats) % len(MUTATIONS)]
            path, files = scans[name]
            names = sorted(files)
            chosen = names[int(rng.integers(len(names)))]
            changed = (path.parent if name in IMAGES else path) / chosen
            most = HEADER_BYTES if name in IMAGES and rng.random() < 0.5 else 1 << 30
            changed.write_bytes(mutate(files[chosen], files[names[0]], kind, rng, most))
            print(case, name, kind, sep="\t", end="\t", flush=True)
            signal.alarm(SECONDS)
            found = " ".join(outcome(path, sound[name], kind).split())
            signal.alarm(0)
            changed.write_bytes(files[chosen])
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
            print(found if grown < MIB else f"wrong: {grown:.0f} MiB", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), IMAGES if sys.argv[3:] == ["images"] else FORMATS)
