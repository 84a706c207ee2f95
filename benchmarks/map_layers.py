"""Is it the layer or the form of the map that misses the lesions? Both methods at every layer that a map can be taken from.

`python -m benchmarks.map_layers` explains the first COVID+ scans of the run `standard` (after `make report`) by the folds that
never saw them, and writes results/map_layers.csv: where the positive, the negative and the absolute map lie.
"""

import numpy as np
import pandas as pd

from covid3d import campaigns
from covid3d.config import Run
from covid3d.ct.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.explain import cell_map, mass, read_summary, spread
from covid3d.training import load_fold
from covid3d.truth import lesion_mask, lung_mask

from .learnability import run_of

METHODS = ("hirescam", "gradcam")
PARTS = {"positive": lambda values: values, "negative": np.negative, "absolute": np.abs}
SHARES = ["lesion_share", "lung_share", "lesion_of_lung"]
KEYS = ["layer", "method", "part"]


def shares_of(run: Run) -> pd.DataFrame:
    """Return, by layer, method and part of the map, its mean shares over scans and the ratios of `explain.mass`."""
    summary = read_summary(run.path("explain"))
    scans = summary[(summary["label"] == 1) & (summary["role"] != "followup")]
    store, window, rows = Store.of(run), nominal_window(run.profile.windows), []
    for fold, group in scans.groupby("fold"):
        model = load_fold(run, "task1", "covid3d", int(str(fold)))
        layers = [name for name in model.extractor if "Conv" in name or "Mixed" in name]
        for scan_id in group["scan_id"]:
            grid = np.asarray(store.get(scan_id))
            lesion, lung = lesion_mask(run, scan_id), lung_mask(run, scan_id)
            for layer in layers:
                for method in METHODS:
                    cells = cell_map(model, grid, window, layer, method).cells
                    values = spread(cells, model.extractor, layer, grid.shape)
                    for part, pick in PARTS.items():
                        rows.append(
                            {"layer": layer, "method": method, "part": part, **mass(pick(values), lesion, lung)}
                        )
    table = pd.DataFrame(rows)
    found = table.groupby(KEYS, sort=False)[SHARES].mean().assign(scans=len(scans)).reset_index()
    found["ratio"] = found["lesion_share"] / found["lesion_of_lung"]
    found["ratio_in_lung"] = found["ratio"] / found["lung_share"]
    return found


if __name__ == "__main__":
    print(campaigns.write("map_layers", shares_of(run_of(1)), ("covid3d.explain", __file__)).to_string())
