"""Is it the layer or the form of the map that misses the lesions? Three forms at every layer that a map can be taken from.

`python -m benchmarks.map_layers` explains the first COVID+ scans of the run `standard` (after `make report`) by the folds that
never saw them, and writes results/map_layers.csv: where the positive, the negative and the absolute map lie. Beside the two
forms of `explain` stands one that leaves nothing out: `integrated` sums to what sets a scan's logit apart from the average's.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks import campaigns
from covid3d.chapters.explanation import cell_map, first_scans, mass, read_summary, spread
from covid3d.chapters.task1 import split_of
from covid3d.chapters.truth import lesion_mask, lung_mask
from covid3d.cohort.store import Store
from covid3d.ct.windows import Window, nominal_window
from covid3d.network.scoring import to_input
from covid3d.network.training import load_fold
from covid3d.run.profile import Run

from .seeds import run_of

PARTS = {"positive": lambda values: values, "negative": np.negative, "absolute": np.abs}
SHARES = ["lesion_share", "lung_share", "lesion_of_lung"]
KEYS = ["layer", "method", "part"]
STEPS, BATCH = 8, 16


def mean_activations(model: nn.Module, grids: np.ndarray, window: Window) -> dict[str, Tensor]:
    """Return each layer's mean activation over scans, int16 HU (N, z, y, x), as tensors (1, C, z, y, x)."""
    totals: dict[str, Tensor] = {}
    for first in range(0, len(grids), BATCH):
        x = to_input(grids[first : first + BATCH], window, "cpu")
        with torch.no_grad():
            for name, stage in model.extractor.items():  # type: ignore[operator, union-attr]
                x = stage(x)
                totals[name] = totals.get(name, 0) + x.sum(0, keepdim=True)
    return {name: total / len(grids) for name, total in totals.items()}


def integrated(model: nn.Module, grid: np.ndarray, window: Window, layer: str, mean: Tensor) -> np.ndarray:
    """Return integrated gradients (Sundararajan et al., ICML 2017) on the cells of `layer`, from the mean activation.

    The cells sum to the logit of the scan minus that of the mean activation.
    """
    extractor, head = model.extractor, model.head
    with torch.no_grad():
        change = extractor.forward_features(to_input(grid[None], window, "cpu"), stop=layer) - mean  # type: ignore[operator, union-attr]
    total = torch.zeros_like(change)
    for step in range(STEPS):
        x = (mean + (step + 0.5) / STEPS * change).requires_grad_()
        logit = head(model.pool(extractor.forward_features(x, start=layer))).sum()  # type: ignore[operator, union-attr]
        total += torch.autograd.grad(logit, x)[0]
    return (total / STEPS * change).sum(1)[0].numpy()


def maps_of(model: nn.Module, grid: np.ndarray, window: Window, means: Mapping[str, Tensor], layer: str) -> dict:
    """Return the cells of each form of map, float32 (z, y, x)."""
    cells = {method: cell_map(model, grid, window, layer, method).cells for method in ("hirescam", "gradcam")}  # type: ignore[arg-type]
    return {**cells, "integrated": integrated(model, grid, window, layer, means[layer])}


def shares_of(run: Run) -> pd.DataFrame:
    """Return, by layer, method and part of the map, its mean shares over scans and the ratios of `explain.mass`."""
    summary = first_scans(read_summary(run))
    scans = summary[summary["label"] == 1]
    store, window, rows = Store.of(run), nominal_window(run.profile.windows), []
    for fold, group in scans.groupby("fold"):
        model = load_fold(run, "task1", "covid3d", int(str(fold)))
        means = mean_activations(model, store.stack(split_of(run, int(str(fold)))[0]["scan_id"]), window)
        layers = [name for name in means if "Conv" in name or "Mixed" in name]
        for scan_id in group["scan_id"]:
            grid = np.asarray(store.get(scan_id))
            lesion, lung = lesion_mask(run, scan_id), lung_mask(run, scan_id)
            for layer in layers:
                for method, cells in maps_of(model, grid, window, means, layer).items():
                    values = spread(cells, model.extractor, layer, grid.shape)  # type: ignore[arg-type]
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
    print(campaigns.write("map_layers", shares_of(run_of(1)), ("covid3d.chapters.explanation", __file__)).to_string())
