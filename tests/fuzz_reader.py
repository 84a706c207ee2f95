"""Mutated DICOM files, read beside an independent decode of the same bytes; `fuzz_reader.py FIRST LAST` prints cases."""

import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
from dicom_series import body, to_jpeg_lossless, write_series
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from covid3d.dicom.series import read_ct
from covid3d.run.errors import SeriesError

SHAPE = (16, 32, 32)
SYNTAXES = ["explicit", "implicit", "big endian", "RLE", "JPEG-LS", "JPEG 2000", "JPEG Lossless"]
MUTATIONS = ["bit", "byte", "word", "truncate", "delete", "insert", "repeat", "zeros", "splice", "header bits"]
SECONDS = 20
MIB = 400


def base(folder, syntax):
    """Write the sound series in one syntax."""
    uids = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
    write_series(
        folder, body(SHAPE), spacing=(10.0, 10.0, 10.0), syntax=uids.get(syntax), uid="1.2.3", PixelPaddingValue=63
    )
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


def mutate(content, other, kind, rng):
    """Return changed bytes."""
    data = bytearray(content)
    at, many = int(rng.integers(len(data))), int(rng.integers(1, 40))
    if kind == "bit":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "header bits":
        for place in rng.integers(128, min(len(data), 900), 3):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[at] = int(rng.integers(256))
    elif kind == "word":
        data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\x7f\0\0", b"\0\0\0\x80"])
    elif kind == "truncate":
        del data[at:]
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
    """Return HU, spacing along z and first position as plain pydicom reads the series that most files belong to."""
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
        stored = dataset.pixel_array.astype(float)
        hu = np.rint(stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
        if "PixelPaddingValue" in dataset:
            low, high = sorted(
                (dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
            )
            hu[(stored >= low) & (stored <= high)] = -1024
        planes.append((float(dataset.ImagePositionPatient[2]), dataset, hu.clip(-1024, 3071).astype(np.int16)))
    planes.sort(key=lambda plane: plane[0])
    step = (planes[-1][0] - planes[0][0]) / (len(planes) - 1)
    return np.stack([hu for *_, hu in planes]), (step, *map(float, planes[0][1].PixelSpacing)), planes[0][0]


def outcome(folder, sound):
    """Return what became of one mutated series; a line that starts with "wrong" is a fault of the reader."""
    try:
        volume = read_ct(folder, threads=1)
    except SeriesError as error:
        return f"refused {error.code}"
    except Exception as error:
        return f"wrong: {type(error).__name__} {error}"
    if np.array_equal(volume.hu, sound.hu) and np.allclose(volume.affine, sound.affine):
        return "unmutated"
    try:
        hu, spacing, first = independent(folder)
    except Exception as error:
        return f"wrong: a volume where pydicom fails ({type(error).__name__} {error})"
    if (
        volume.hu.shape == hu.shape
        and np.array_equal(volume.hu, hu)
        and np.allclose(volume.spacing_mm, spacing, atol=1e-4)
    ):
        return "as pydicom" if abs(volume.affine[2, 3] - first) < 1e-3 else "wrong: another position"
    differ = int((volume.hu != hu).sum()) if volume.hu.shape == hu.shape else -1
    return f"wrong: {volume.hu.shape} {volume.spacing_mm} against {hu.shape} {spacing}, {differ} voxels"


def too_slow(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def main(first, last):
    """Run the cases from `first` up to `last`, each from its own seed."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        series = {syntax: base(Path(place) / syntax, syntax) for syntax in SYNTAXES}
        sound = {syntax: read_ct(Path(place) / syntax) for syntax in SYNTAXES}
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for case in range(first, last):
            rng = np.random.default_rng([1, case])
            syntax, kind = SYNTAXES[case % len(SYNTAXES)], MUTATIONS[case // len(SYNTAXES) % len(MUTATIONS)]
            files, names = series[syntax], sorted(series[syntax])
            chosen = names[int(rng.integers(len(names)))]
            path = Path(place) / syntax / chosen
            path.write_bytes(mutate(files[chosen], files[names[0]], kind, rng))
            print(case, syntax, kind, sep="\t", end="\t", flush=True)
            signal.alarm(SECONDS)
            found = outcome(path.parent, sound[syntax])
            signal.alarm(0)
            path.write_bytes(files[chosen])
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
            print(found if grown < MIB else f"wrong: {grown:.0f} MiB", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
