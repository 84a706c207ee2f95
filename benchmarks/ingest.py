"""One chest CT of 512 x 512 x 214 from DICOM to the 64 x 224 x 224 grid: this package beside its peers, in one run.

Every contender runs in a process of its own on one thread a core; rounds go through all of them in turn, so that a busy
moment hits all alike. The floor reads headers and decodes pixel bytes, and does no more. Peak extra memory is that of the
first scan over the process that has everything imported. `python benchmarks/ingest.py --repeats 5` writes
benchmarks/results/ingest.csv; MONAI and TorchIO are left out, with a line that says so, where they are not installed.

`--cohort 8` measures a hospital's cohort of such scans instead, through the intake of a run: 8 and 32 scans on one core
and on all, and writes benchmarks/results/ingest_cohort.csv. Scans a second must grow with the cores, memory not with the scans.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SHAPE, GRID = (214, 512, 512), (64, 224, 224)
SYNTAXES = ["uncompressed", "RLE", "JPEG-LS", "JPEG 2000", "JPEG Lossless"]
CORES = len(os.sched_getaffinity(0))


def make_series(folder: Path, syntax: str, slices: int) -> None:
    """Write a body with two lungs, vessels and correlated noise as one series."""
    import pydicom
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid
    from scipy import ndimage

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from dicom_series import body, slice_dataset, to_jpeg_lossless

    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    codec = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}.get(syntax)
    hu = body((slices, *SHAPE[1:]))
    uid = generate_uid(entropy_srcs=["ingest"])
    for index, plane in enumerate(hu):
        noise = ndimage.gaussian_filter(rng.normal(0, 1, plane.shape), 0.8)
        noisy = (plane + 25 / noise.std() * noise).clip(-1024, 3071).astype(np.int16)
        dataset = slice_dataset(noisy, index, uid, (1.25, 0.7, 0.7))
        dataset.InstanceNumber = index + 1
        if codec is not None:
            dataset.compress(codec, generate_instance_uid=False)
        path = folder / f"IM{index:03d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        if syntax == "JPEG Lossless":
            to_jpeg_lossless(path)
    assert pydicom.dcmread(path).pixel_array.shape == SHAPE[1:]


# --- contenders: each returns a function that turns a folder into a grid ------------------------------------------------


def ours():
    from covid3d.ct.grid import resample
    from covid3d.dicom.series import read_ct

    return lambda folder: resample(read_ct(folder), GRID, threads=CORES)


def floor():
    """Headers and decoded bytes only: no order, no HU, no grid."""
    from covid3d.dicom.headers import read_slices
    from covid3d.dicom.pixels import stored_values

    def run(folder):
        with ThreadPoolExecutor(CORES) as pool:
            for _ in pool.map(lambda entry: stored_values(entry).shape, read_slices(folder)):
                pass

    return run


def simpleitk():
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(CORES)

    def run(folder):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        spacing = [
            step * old / new for step, old, new in zip(image.GetSpacing(), image.GetSize(), GRID[::-1], strict=True)
        ]
        origin = [
            at + (new - old) / 2 for at, new, old in zip(image.GetOrigin(), spacing, image.GetSpacing(), strict=True)
        ]
        direction, still = image.GetDirection(), sitk.Transform()
        grid = sitk.Resample(
            image, GRID[::-1], still, sitk.sitkLinear, origin, spacing, direction, -1024, sitk.sitkInt16
        )
        return sitk.GetArrayFromImage(grid)

    return run


def pydicom_loop():
    import pydicom
    from scipy import ndimage

    def run(folder):
        slices = sorted(
            (pydicom.dcmread(path) for path in folder.iterdir()), key=lambda one: one.ImagePositionPatient[2]
        )
        hu = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])
        zoom = [new / old for new, old in zip(GRID, hu.shape, strict=True)]
        return ndimage.zoom(hu.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest").astype(np.int16)

    return run


def monai():
    import torch
    from monai.data import PydicomReader
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize

    torch.set_num_threads(CORES)
    steps = [
        LoadImage(reader=PydicomReader(), image_only=True),
        EnsureChannelFirst(),
        Resize(GRID[::-1], mode="trilinear"),
    ]
    return lambda folder: Compose(steps)(str(folder)).numpy()[0].astype(np.int16).T


def torchio():
    import torch
    import torchio as tio

    torch.set_num_threads(CORES)
    return lambda folder: tio.Resize(GRID[::-1])(tio.ScalarImage(folder)).numpy()[0].astype(np.int16).T


CONTENDERS = {
    "covid3d": ours,
    "headers and bytes": floor,
    "SimpleITK": simpleitk,
    "pydicom loop": pydicom_loop,
    "MONAI": monai,
    "TorchIO": torchio,
}
PACKAGES = {"SimpleITK": "SimpleITK", "pydicom loop": "pydicom", "MONAI": "monai", "TorchIO": "torchio"}


def memory(name: str) -> float:
    """Return a size of this process in MiB: VmRSS now, VmHWM at its peak (Linux)."""
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))


def serve(name: str) -> None:
    """Answer each folder given on standard input with seconds, peak extra MiB and mean HU."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = CONTENDERS[name]()
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = memory("VmRSS")
        start, work = time.perf_counter(), time.process_time()
        try:
            grid = run(Path(line.strip()))
            seconds, work = time.perf_counter() - start, time.process_time() - work
            mean = None if grid is None else float(grid.mean())
            error = "" if grid is None or grid.shape == GRID else f"shape {grid.shape}"
        except Exception as caught:
            seconds, mean, error = None, None, f"{type(caught).__name__}: {str(caught.__cause__ or caught)[:80]}"
        extra = memory("VmHWM") - before
        print(json.dumps([seconds, extra, mean, error, work]), file=answers, flush=True)


def compare(folder: Path, repeats: int) -> dict[str, dict]:
    """Return seconds (median), peak extra MiB and mean HU of each contender on one series."""
    wanted = [
        name for name in CONTENDERS if name not in ("MONAI", "TorchIO") or importlib.util.find_spec(PACKAGES[name])
    ]
    command = [sys.executable, __file__, "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    servers = {name: subprocess.Popen([*command, name], **pipes) for name in wanted}
    found: dict[str, list] = {name: [] for name in wanted}
    for _ in range(repeats + 1):  # the first round warms up, and is that of the memory
        for name, server in servers.items():
            server.stdin.write(f"{folder}\n")
            server.stdin.flush()
            found[name].append(json.loads(server.stdout.readline() or '[null, 0, null, "the process died", 0]'))
    for server in servers.values():
        server.stdin.close()
        server.wait()
    return {
        name: {
            "seconds": None if rounds[-1][0] is None else round(statistics.median(line[0] for line in rounds[1:]), 3),
            "cpu_seconds": None
            if rounds[-1][0] is None
            else round(statistics.median(line[4] for line in rounds[1:]), 3),
            "extra_mib": round(rounds[0][1]),
            "hu_mean": None if rounds[0][2] is None else round(rounds[0][2], 2),
            "remark": rounds[-1][3],
        }
        for name, rounds in found.items()
    }


TAKE_IN = """
import json, os, resource, sys, time
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[2])])
from covid3d.run.profile import open_run
from covid3d.cohort.intake import read_intake
from covid3d.run import steps
run, start = open_run("cohort", profile=sys.argv[1], manifest="manifest.csv"), time.perf_counter()
steps.ensure_needs(run, "splits")
table, seconds = read_intake(run), time.perf_counter() - start
(own,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss is inherited
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([int(table["ok"].sum()), seconds, own / 1024, worker / 1024]))
"""


def take_in(series: Path, count: int, cores: int, profile: str) -> dict:
    """Take in `count` scans (one series under as many names) by a run on some cores: scans a second and peak MiB."""
    import pandas as pd

    from covid3d.cohort.manifest import COLUMNS

    with tempfile.TemporaryDirectory(dir=series.parent) as root:
        for number in range(count):
            shutil.copytree(series, Path(root) / f"scan_{number}", copy_function=os.link)
        row = {"hospital": "A", "role": "development", "scan_index": 0, "day": 0}
        rows = [
            {**row, "scan_id": f"s{n}", "patient_id": f"p{n}", "label": n % 2, "source": f"scan_{n}"}
            for n in range(count)
        ]
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(Path(root) / "manifest.csv", index=False)
        command = [sys.executable, "-c", TAKE_IN, profile, str(cores)]
        environment = {**os.environ, "COVID3D_ROOT": root}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    read, seconds, own, worker = json.loads(done.stdout.splitlines()[-1])
    peaks = {"peak_mib": round(own), "largest_worker_mib": round(worker)}
    return {"scans": count, "cores": cores, "read": read, "scans_a_second": round(count / seconds, 3), **peaks}


def measure_cohort(count: int, slices: int, profile: str) -> None:
    """Measure `count` scans and four times as many, each on one core and on all; write the table."""
    import pandas as pd

    from benchmarks import campaigns

    with tempfile.TemporaryDirectory() as place:
        series = Path(place) / "series"
        make_series(series, "uncompressed", slices)
        sizes = [(count, 1), (4 * count, 1), (count, CORES), (4 * count, CORES)]
        rows = [{**take_in(series, *size, profile), "slices": slices, "profile": profile} for size in sizes]
    print(campaigns.write("ingest_cohort", pd.DataFrame(rows), ["covid3d.cohort.intake", __file__]).to_string())


def main() -> None:
    """Measure every syntax and write the table."""
    import pandas as pd

    from benchmarks import campaigns
    from covid3d.run.files import write_csv

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slices", type=int, default=SHAPE[0])
    parser.add_argument("--syntax", action="append", choices=SYNTAXES)
    parser.add_argument("--cohort", type=int, help="number of scans of a whole cohort, measured instead")
    parser.add_argument("--profile", default="paper", help="whose grid the cohort is stored on")
    parser.add_argument("--out", type=Path, help="another file than benchmarks/results/ingest.csv")
    parser.add_argument("--serve", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    if options.cohort:
        return measure_cohort(options.cohort, options.slices, options.profile)
    rows = []
    for syntax in options.syntax or SYNTAXES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "series"
            make_series(folder, syntax, options.slices)
            found = compare(folder, options.repeats)
        own = found["covid3d"]["seconds"]
        for name, line in found.items():
            version = importlib.metadata.version(PACKAGES[name]) if name in PACKAGES else ""
            ratio = None if line["seconds"] is None else round(line["seconds"] / own, 2)
            rows.append({"syntax": syntax, "contender": name, "version": version, **line, "times_ours": ratio})
            print(*rows[-1].values(), sep="\t", flush=True)
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        processor = line.split(": ")[1] if line.startswith("model name") else processor
    table = pd.DataFrame(rows).assign(slices=options.slices, repeats=options.repeats, device=processor, cores=CORES)
    if options.out:
        write_csv(options.out, table)
    else:
        campaigns.write("ingest", table, ["covid3d.dicom.series", "covid3d.ct.grid", __file__])


if __name__ == "__main__":
    main()
