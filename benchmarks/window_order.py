"""Resample first and window then, as every chapter does, or the other way round: what is the difference, and what does it cost?

`python -m benchmarks.window_order [RUN]` takes the first scans of B and C of a finished run, eight of each at most, from their
DICOM files, scores each both ways by the deployed network in the nominal window, and writes results/window_order.csv.
"""

import statistics
import sys
import time

import numpy as np
import pandas as pd

from benchmarks import campaigns
from covid3d.chapters import results
from covid3d.cohort.delivery import source_of
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.grid import resample, resize
from covid3d.ct.windows import Window, apply_window, nominal_window
from covid3d.dicom.series import read_ct
from covid3d.network import training
from covid3d.network.scoring import score
from covid3d.run.profile import Run, open_run

SCANS = 8
AS_IT_IS = Window(0, 2)  # what is windowed lies between -1 and 1
MADE_BY = ("covid3d.chapters.robustness", "covid3d.ct.grid", __file__)


def measure(run: Run) -> pd.DataFrame:
    """Return one row: scans, change of the logit (mean and largest of the absolute values), calls turned, times the work."""
    table = accepted(run)
    table = table[table["role"] == "external"].groupby("hospital").head(SCANS)
    window, shape = nominal_window(run.profile.windows), run.profile.model.grid
    model = training.load_fold(run, results.TASK, results.THREE_D, results.deployed_fold(run))
    first, second, ratios = [], [], []
    for row in table.to_dict("records"):
        place = source_of(run, str(row["source"]))
        volume = read_ct(place.path, place.series)
        grid = resample(volume, shape)
        assert np.array_equal(grid, Store.of(run).get(str(row["scan_id"]))), "the file is not the scan of the run"
        started = time.perf_counter()
        first.append(grid)
        apply_window(grid, window)
        middle = time.perf_counter()
        second.append(resize(apply_window(volume.hu, window), shape))
        ratios.append((time.perf_counter() - middle) / (middle - started))
    before, after = score(model, np.stack(first), [window])[:, 0], score(model, np.stack(second), [AS_IT_IS])[:, 0]
    change = np.abs(after - before)
    row = {
        "run": run.name,
        "scans": len(table),
        "voxels": float(np.prod(volume.shape)),
        "mean change of the logit": float(change.mean()),
        "largest change of the logit": float(change.max()),
        "calls turned": int(((before > 0) != (after > 0)).sum()),
        "times the work": statistics.median(ratios),
    }
    return pd.DataFrame([row])


if __name__ == "__main__":
    found = measure(open_run(sys.argv[1] if len(sys.argv) > 1 else "standard").with_options(compute=False))
    print(campaigns.write("window_order", found, MADE_BY).T.to_string())
