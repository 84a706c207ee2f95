"""How near simulated scans come to real ones: the numbers of `benchmarks.measures` side by side.

`python -m benchmarks.realism` builds first scans of the three hospitals at the paper's size, reads them as a user would and
writes benchmarks/results/phantom_realism.csv: numbers only, no pixel of a real scan. Real scans lie in $COVID3D_REAL_CT, else in
../shared/real_ct. `--scans N` scans a hospital; 12 take 13 min with `--workers 2`.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import campaigns, measures
from covid3d.dicom.series import read_ct
from covid3d.phantom.build import build
from covid3d.run.files import parallel_map
from covid3d.run.profile import DATA, load_profile

FORM = DATA / "data_manifest.csv"
MADE_BY = ("covid3d.phantom.build", "covid3d.dicom.series", "covid3d.ct.lungs", measures.__file__, __file__)
REAL = {"P002": "chest/covid_P002", "cap001": "chest/pneumonia_cap001", "CIP": "nrrd/ct-64.nrrd"}
"""COVID-19 and bacterial pneumonia of COVID-CT-MD (Afshar et al. 2021), and the 64x64x79 chest of Chest Imaging Platform."""


def main() -> None:
    """Measure real and simulated scans and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=12, help="simulated scans a hospital")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    folder = Path(os.environ.get("COVID3D_REAL_CT", campaigns.CHECKOUT.parent / "shared" / "real_ct"))
    made = campaigns.stamp(MADE_BY)  # the code that is loaded now, not that of the end
    real = {name: measures.measure(read_ct(folder / path, threads=1)) for name, path in REAL.items()}
    table = compare(real, phantom(options.scans, options.workers))
    campaigns.write("phantom_realism", table.assign(**made), MADE_BY)
    print(table.to_string(index=False))


def phantom(scans: int, workers: int) -> pd.DataFrame:
    """Return the numbers of simulated first scans, `scans` of each hospital, half of each label, one row a scan."""
    form = pd.read_csv(FORM)
    first = form[form["scan_index"] == 0].sort_values("scan_id")
    chosen = first.groupby(["hospital", "label"]).head((scans + 1) // 2).groupby("hospital").head(scans)
    rows = parallel_map(one, list(chosen["scan_id"]), workers=workers, description="simulating and measuring")
    return pd.DataFrame(list(rows), index=list(chosen["scan_id"]))


def one(scan_id: str) -> dict[str, float]:
    """Build one scan of the order form at the paper's size, read it and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), manifest=FORM, profile=load_profile("paper"), scans=[scan_id], workers=1)
        return measures.measure(read_ct(Path(folder) / "dicom" / scan_id, threads=1))


def compare(real: dict[str, dict[str, float]], simulated: pd.DataFrame) -> pd.DataFrame:
    """Return one row a number: unit, each real value, phantom minimum, median, maximum, scans, covered yes or no.

    covered: every real value lies between the phantom's minimum and maximum.
    """
    rows = []
    for name, unit in measures.UNITS.items():
        known = {source: values[name] for source, values in real.items()}
        low, middle, high = (f(simulated[name].dropna()) for f in (np.min, np.median, np.max))
        missed = [source for source, value in known.items() if np.isfinite(value) and not low <= value <= high]
        rows.append(
            {
                "number": name,
                "unit": unit,
                **known,
                "phantom_min": low,
                "phantom_median": middle,
                "phantom_max": high,
                "phantom_scans": int(simulated[name].notna().sum()),
                "covered": "no" if missed else "yes",
                "not_covered": " ".join(missed),
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
