"""Chapter 2: the network as it was built, trained and deployed, with one scan in front of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from covid3d.chapters import explanation, results
from covid3d.chapters.results import TASK, THREE_D, TWO_D
from covid3d.cohort.intake import accepted, grid_spacing, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.lungs import lung_mask
from covid3d.ct.windows import Window, nominal_window, sample_windows
from covid3d.figures import model as draw
from covid3d.figures.picture import peak_of
from covid3d.figures.privacy import shown_box
from covid3d.figures.style import empty
from covid3d.network import anatomy, i3d, registry
from covid3d.network.covid3d import Covid3D
from covid3d.network.scoring import score
from covid3d.network.training import load_fold
from covid3d.network.weights import describe_weights
from covid3d.run import steps
from covid3d.run.errors import Covid3DError, nearest
from covid3d.run.profile import Run, load_profile
from covid3d.stats.estimate import Estimate

BLOCK, LAST = "Mixed_4b", "Mixed_5c"
FRAMES = ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c", BLOCK, "Mixed_4f", LAST)
SOFT_TISSUE = Window(40.0, 400.0)
PREPROCESSING = ("read and sort the series", "rescale to HU", "resample the whole volume", "window to -1 … 1")


@dataclass(frozen=True)
class Model:
    """The deployed network of a run and one scan of it.

    net: the network of the fold that is deployed. grid: HU (z, y, x) as the network sees it; spacing: (z, y, x) in mm; lung:
    the scan's lungs, bool (z, y, x).
    """

    run: Run
    net: Covid3D
    fold: int
    scan: Mapping[str, Any]
    grid: np.ndarray
    spacing: tuple[float, float, float]
    lung: np.ndarray

    @property
    def window(self) -> Window:
        """The lung window, (level, width) in HU."""
        return nominal_window(self.run.profile.windows)

    @cached_property
    def stages(self) -> pd.DataFrame:
        """One row a stage of the network, from the stem to the fully connected layer; see `anatomy.stages`."""
        return anatomy.stages(self.net, self.run.profile.model.grid)

    def plot_architecture(self) -> Figure:
        """Return the network drawn from its stages, and the inside of one Inception block."""
        inside = anatomy.branches(self.net.extractor[BLOCK])  # type: ignore[arg-type]
        return draw.architecture(self.stages, self.run.profile.model.grid, BLOCK, inside)

    def layers(self) -> dict[str, Estimate]:
        """Return the layers on the longest path: those with weights, those that pool, and all."""
        count = i3d.depth(self.net)
        found = {"with weights": count.weights, "that pool": count.pools, "on the longest path": sum(count)}
        return {name: Estimate(number, unit="layers") for name, number in found.items()}

    def size(self) -> dict[str, Estimate]:
        """Return trainable parameters, and operations of one scan's forward pass, here and at the paper's size."""
        full = Covid3D(width=1.0)
        largest = anatomy.stages(full, load_profile("paper").model.grid)
        return {
            "parameters here": Estimate(registry.parameter_count(self.net), unit="parameters"),
            "parameters at full width": Estimate(registry.parameter_count(full), unit="parameters"),
            "operations here": Estimate(self.stages["gflop"].sum(), unit="GFLOP"),
            "operations at the paper's size": Estimate(largest["gflop"].sum(), unit="GFLOP"),
        }

    def plot_costs(self) -> Figure:
        """Return where the parameters are and where the operations are."""
        return draw.costs(self.stages)

    def stage_table(self) -> pd.DataFrame:
        """Return every stage: cells and channels that leave it, parameters, MFLOP, and what one cell has seen."""
        seen = self.fields.set_index("stage")[["z", "y", "x"]].astype(str).agg("x".join, axis=1)
        table = self.stages.assign(
            **{
                "MFLOP": (1000 * self.stages["gflop"]).round(2),
                "a cell has seen": self.stages["stage"].map(seen).fillna("all"),
            }
        )
        return table.drop(columns="gflop").set_index("stage")

    def head(self) -> dict[str, int]:
        """Return what stands after the last block: average pools over space, fully connected layers, logits."""
        linear = [module for module in self.net.modules() if isinstance(module, nn.Linear)]
        pools = [module for module in self.net.modules() if isinstance(module, i3d.GlobalAveragePool)]
        return {"average pools": len(pools), "fully connected layers": len(linear), "logits": linear[0].out_features}

    def weights(self) -> pd.Series:
        """Return what the deployed fold's weights file says of itself."""
        file = self.run.model(TASK, THREE_D, self.fold) / "weights.safetensors"
        return pd.Series(dict(sorted(describe_weights(file).items())), name="content")

    def baseline(self) -> dict[str, Any]:
        """Return the 2D baseline of this profile: backbone, parameters, slices a scan, and whether it was pretrained."""
        settings = self.run.profile.slices
        net = registry.build(TWO_D, self.run.profile, seed=self.run.seed)
        return {
            "backbone": settings.backbone,
            "width": settings.width,
            "parameters": Estimate(registry.parameter_count(net), unit="parameters"),
            "slices a scan": Estimate(settings.slices_per_scan, unit="slices"),
            "start": settings.start,
        }

    def logit(self) -> float:
        """Return the scan's logit in the lung window."""
        return float(score(self.net, self.grid[None], [self.window])[0, 0])

    @cached_property
    def fields(self) -> pd.DataFrame:
        """How many input voxels one cell of each stage depends on: stage, z, y, x."""
        return anatomy.receptive_fields(self.net.extractor)

    def sees_all(self) -> bool:
        """True when every cell of the last block, even in a corner, depends on the whole grid."""
        last = self.fields.set_index("stage").loc[LAST, ["z", "y", "x"]].to_numpy(int)
        return bool((last >= 2 * np.array(self.grid.shape) - 1).all())

    def plot_receptive_fields(self) -> Figure:
        """Return frames of what the middle cell of some stages sees, over the scan; no more of a site's patient than lungs."""
        fitting = self.fields["stage"].isin(FRAMES) & (self.fields["x"] <= 1.8 * self.grid.shape[2])
        names = self.fields.loc[fitting, "stage"].tolist()
        return draw.receptive_fields(self.fields, self.grid[self._shown], self.spacing, self.window, names)

    def plot_windows(self) -> Figure:
        """Return what the lung window, the narrowest and widest of the sample, and one for soft tissue make of the scan."""
        sample = sample_windows(self.run.profile.windows, self.run.seed).sort_values("width")
        narrow, wide = (Window(*sample[["level", "width"]].iloc[row]) for row in (0, -1))
        chosen = {"nominal": self.window, "narrowest": narrow, "widest": wide, "soft tissue": SOFT_TISSUE}
        return draw.windows(self.grid[self._shown], self.lung[self._shown], self.spacing, chosen)

    @cached_property
    def maps(self) -> dict[str, explanation.CellMap]:
        """The signed maps of the scan by layer: the profile's own, and Grad-CAM after the last block."""
        settings = self.run.profile.explain
        ways = {settings.layer: settings.method, LAST: "gradcam"}
        return {
            layer: explanation.cell_map(self.net, self.grid, self.window, layer, method)  # type: ignore[arg-type]
            for layer, method in ways.items()
        }

    def plot_maps(self) -> Figure:
        """Return three planes through the strongest place in the lungs, with each map on its own scale."""
        if self.run.cohort == "site":
            return empty("a site's patient is not shown")
        heats = {}
        for layer, found in self.maps.items():
            size = explanation.cell_size_mm(self.net.extractor, layer, self.grid.shape, self.spacing)
            name = f"{layer}\ncells of {' × '.join(f'{side:.0f}' for side in size)} mm"
            heats[name] = explanation.spread(found.cells, self.net.extractor, layer, self.grid.shape)
        strength = np.abs(next(iter(heats.values())))
        centre = peak_of(np.where(self.lung | ~self.lung.any(), strength, -np.inf))
        return draw.maps(self.grid, heats, self.spacing, centre, self.window)

    def map_sum(self) -> dict[str, Any]:
        """Return what the cells of the last block sum to, and what they explain: the logit minus the bias."""
        cells, logit = self.maps[LAST]
        without_bias = logit - float(self.net.head.bias.detach())  # type: ignore[arg-type]
        equal = abs(float(cells.sum()) - without_bias) < 1e-4 * max(1.0, abs(without_bias))
        return {"sum of the map": float(cells.sum()), "logit minus bias": without_bias, "equal": equal}

    @cached_property
    def _shown(self) -> tuple[slice, ...]:
        return shown_box(self.run.cohort, self.lung)


def load(run: Run, scan_id: str = "") -> Model:
    """Return the deployed network and one scan: `scan_id`, or by default the first COVID+ one of hospital B.

    Raises Covid3DError, with the nearest id, for a scan that was not accepted.
    """
    steps.ensure_needs(run, "02_model")
    scans = accepted(run).sort_values("label", ascending=False, kind="stable")
    known = scans["scan_id"].tolist()
    chosen = scan_id or (scans.loc[scans["hospital"] == "B", "scan_id"].tolist() or known)[0]
    if chosen not in known:
        raise Covid3DError(f"there is no accepted scan '{chosen}'", where="scan_id", cure=nearest(chosen, known))
    fold = results.deployed_fold(run)
    grid = np.asarray(Store.of(run).get(chosen))
    (facts,) = read_intake(run).query("scan_id == @chosen").to_dict("records")
    spacing = grid_spacing(facts, run.profile.model.grid)
    scan = scans.set_index("scan_id").loc[chosen].to_dict() | {"scan_id": chosen}
    net = load_fold(run, TASK, THREE_D, fold)
    return Model(run, net, fold, scan, grid, spacing, lung_mask(grid, spacing))  # type: ignore[arg-type]
