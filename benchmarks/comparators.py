"""The compared models of the run `standard`, kept for those who have not run `make extended`.

`python -m benchmarks.comparators` reads what that command left and writes results/comparators.csv; it computes nothing.
"""

import sys

from benchmarks import campaigns
from covid3d.chapters import comparison
from covid3d.run.fingerprint import code_fingerprint

from .seeds import run_of

if __name__ == "__main__":
    run = run_of(1)
    table = comparison.shown(run)
    if table is None:
        sys.exit("error: the compared models of 'standard' have not been run, or are out of date. Say `make extended`")
    about = f"{run.name}, seed {run.seed}, world {run.world}"
    table = table.assign(run=about, simulator=code_fingerprint(comparison.SIMULATOR))
    print(
        campaigns.write("comparators", table, ("covid3d.chapters.comparison", __file__, *campaigns.STARTS)).to_string()
    )
