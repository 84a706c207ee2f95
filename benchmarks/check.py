"""`covid3d check` on manifests of 100, 1,000 and 10,000 scans: seconds a scan and peak memory must not grow with them.

Every scan is a small chest of its own (a NRRD file of 20 x 48 x 48), so that nothing is a copy and every row is read, as a
hospital's would be. `python -m benchmarks.check [rows …]` writes results/check.csv; about 3 GB of temporary disk.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import campaigns
from covid3d.cohort.manifest import COLUMNS

SIZES = (100, 1000, 10_000)
SHAPE, SPACING = (20, 48, 48), (7.0, 7.0, 8.0)
CHECK = """
import json, resource, sys, time
from covid3d.cohort.gate import check_manifest
start = time.perf_counter()
gate = check_manifest(sys.argv[1])
seconds = time.perf_counter() - start
(own,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss is inherited
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, own / 1024, worker / 1024, int(gate.intake["ok"].sum()), len(gate.leaks)]))
"""


def write_cohort(folder: Path, count: int) -> Path:
    """Write `count` scans of as many patients, half of each label, and their manifest; return it."""
    import SimpleITK as sitk

    sys.path.insert(0, str(campaigns.CHECKOUT / "tests"))
    from dicom_series import body

    plain, rows = body(SHAPE), []
    for index in range(count):
        rough = np.random.default_rng(index).integers(-150, 150, (5, 12, 12))
        image = sitk.GetImageFromArray((plain + np.kron(rough, np.ones((4, 4, 4)))).astype(np.int16))
        image.SetSpacing(SPACING)
        sitk.WriteImage(image, str(folder / f"scan_{index}.nrrd"))
        values = {"scan_id": f"s{index}", "patient_id": f"p{index}", "hospital": "A", "role": "development"}
        rows.append({**values, "label": index % 2, "scan_index": 0, "day": 0, "source": f"scan_{index}.nrrd"})
    manifest = folder / "manifest.csv"
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(manifest, index=False)
    return manifest


def measure(count: int) -> pd.DataFrame:
    """Return seconds, seconds a scan and peak MiB of one check in a process of its own (its workers not counted)."""
    with tempfile.TemporaryDirectory() as place:
        manifest = write_cohort(Path(place), count)
        command = [sys.executable, "-c", CHECK, str(manifest)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, own, worker, read, leaks = json.loads(done.stdout.splitlines()[-1])
    row = {"read": read, "leaks": leaks, "seconds": round(seconds, 1), "ms_a_scan": round(1000 * seconds / count, 2)}
    return pd.DataFrame([{"rows": count, **row, "peak_mib": round(own), "largest_worker_mib": round(worker)}])


def main(sizes: list[int]) -> None:
    """Measure each size, which keeps those already stored."""
    start = time.perf_counter()
    print(campaigns.extend("check", "rows", sizes or SIZES, measure, ["covid3d.cohort.gate", __file__]).to_string())
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]])
