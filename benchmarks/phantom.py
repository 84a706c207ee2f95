"""How fast and how large: the simulated cohort of `standard`, one scan of clinical size, and the floor of any writer.

`python -m benchmarks.phantom [cohort|scan] …` writes benchmarks/results/phantom_speed.csv (about 5 min on 2 cores).
The floor writes the same arrays, already in memory, and does nothing else: by a plain loop of pydicom, and by SimpleITK. Whoever
wants many labelled volumes pays it whatever makes them; the ratio is in core seconds.
"""

import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks import campaigns
from covid3d.phantom.build import build
from covid3d.run.profile import DATA, Profile, load_profile

NAME = "phantom_speed"
MADE_BY = ("covid3d.phantom.build", __file__)
COHORT = {"what": "cohort of `standard`", "limit_seconds": 240.0, "limit_mib": 2048.0}
SCAN = {"what": "one scan of 512 x 512 x 214", "limit_seconds": 40.0, "limit_mib": 2048.0}


class PeakMemory(threading.Thread):
    """Samples the memory of this process and its children (proportional set size, shared pages counted once)."""

    def __init__(self, every: float = 0.2) -> None:
        super().__init__(daemon=True)
        self.every, self.peak, self._stop_it = every, 0, threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stop_it.wait(self.every):
            self.peak = max(self.peak, tree_memory())

    def __enter__(self) -> "PeakMemory":
        self.peak = tree_memory()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join()


def tree_memory() -> int:
    """Return the bytes held by this process and its children."""
    own, total = psutil.Process(), 0
    for process in (own, *own.children(recursive=True)):
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(memory, "pss", 0) or memory.rss
    return total


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Return wall seconds and peak memory (MiB) of a piece of work, all its processes together."""
    with PeakMemory() as memory:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "peak_mib": round(memory.peak / 2**20, 1)}


def of_size(name: str, matrix: int | None = None, slices: int | None = None) -> Profile:
    """Return a profile, with another size of its scans where given."""
    profile = load_profile(name)
    size = {"matrix": matrix or profile.phantom.matrix, "slices": slices or profile.phantom.slices}
    return profile.model_copy(update={"phantom": profile.phantom.model_copy(update={**size, "keep_dicom": True})})


def simulate(head: dict[str, Any], profile: Profile, scans: Sequence[str] | None, workers: int) -> pd.DataFrame:
    """Return the rows of one size: the simulation, and both floors on the arrays that it has written."""
    form = DATA / "data_manifest.csv"
    with tempfile.TemporaryDirectory(prefix="covid3d-speed-") as folder:
        out = Path(folder) / "cohort"
        found = measured(lambda: build(out, manifest=form, profile=profile, scans=scans, workers=workers))
        series = sorted(path for path in (out / "dicom").iterdir())
        rows = [{"by": "covid3d.phantom", "workers": workers, **found}]
        for name, write in (("pydicom loop", pydicom_loop), ("SimpleITK", simpleitk_writer)):
            seconds = sum(timed(write, array, Path(folder) / "floor") for array in arrays(series))
            rows.append({"by": f"floor: {name}", "workers": 1, "seconds": round(seconds, 2)})
    table = pd.DataFrame(rows)
    core_seconds = table["seconds"] * table["workers"]
    table["ratio_to_floor"] = (core_seconds[0] / core_seconds).where(table.index > 0).round(2)
    kept = found["seconds"] <= head["limit_seconds"] and found["peak_mib"] <= head["limit_mib"]
    table["within_limits"] = [int(kept), None, None]
    size = {"scans": len(series), "matrix": profile.phantom.matrix, "slices": profile.phantom.slices}
    return table.assign(**head, **size, **machine())


def arrays(series: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield the stored values (z, y, x) of each series."""
    for folder in series:
        yield np.stack([pydicom.dcmread(path).pixel_array for path in sorted(folder.glob("*.dcm"))])


def timed(write: Callable[[np.ndarray, Path], None], array: np.ndarray, folder: Path) -> float:
    """Return the seconds that `write(array, folder)` takes into a new folder, which is removed."""
    folder.mkdir()
    started = time.perf_counter()
    write(array, folder)
    seconds = time.perf_counter() - started
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return seconds


def pydicom_loop(array: np.ndarray, folder: Path) -> None:
    """Write slices as uncompressed CT images with the fewest elements that a reader needs."""
    uid = generate_uid(prefix=None)
    for number, plane in enumerate(array):
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number + 1}"
        ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = uid, "CT", number + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.RescaleIntercept, ds.RescaleSlope = [1, 1], 0, 1
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *plane.shape, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelRepresentation = int(plane.dtype.kind == "i")
        ds.PixelData = plane.tobytes()
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def simpleitk_writer(array: np.ndarray, folder: Path) -> None:
    """Write slices with SimpleITK's DICOM writer."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    uid = generate_uid(prefix=None)
    for number, plane in enumerate(array):
        image = sitk.GetImageFromArray(plane)
        tags = {"0008|0060": "CT", "0020|000e": uid, "0020|0013": f"{number + 1}", "0008|0018": f"{uid}.{number + 1}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number:04d}.dcm"))
        writer.Execute(image)


def machine() -> dict[str, object]:
    """Return what the seconds belong to: device, cores, and how busy the machine was."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    device = names[0] if names else platform.processor()
    return {"device": device, "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}


def measure(what: str, scans: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows of `cohort` (397 scans and the controls, two workers) or `scan` (one scan, one process)."""
    if what == "cohort":
        return simulate(COHORT, of_size("standard"), scans, 2)
    return simulate(SCAN, of_size("paper", 512, 214), scans or ["A002-0"], 1)


def campaign(sizes: Sequence[str] = ("scan", "cohort")) -> pd.DataFrame:
    """Measure the sizes that are missing and return phantom_speed.csv."""
    return campaigns.extend(NAME, "size", sizes, measure, MADE_BY)


if __name__ == "__main__":
    print(campaign(sys.argv[1:] or ("scan", "cohort")).drop(columns=list(campaigns.STAMP)).to_string(index=False))
