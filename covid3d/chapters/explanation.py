"""Signed activation maps: which parts of a scan raise and lower its logit.

Grad-CAM (Selvaraju et al., ICCV 2017, arXiv:1610.02391) and HiResCAM (Draelos & Carin, 2020, arXiv:2011.08891), both
without their ReLU: what lowers the logit is kept, with its sign. A patient of A is explained by the fold that never saw
the patient.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn

from covid3d.chapters import results, scored
from covid3d.chapters.measured import judged
from covid3d.chapters.truth import lesion_mask, lung_mask
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import Window, nominal_window
from covid3d.network.i3d import InceptionI3d, same_padding
from covid3d.network.scoring import pick_device, place, to_input
from covid3d.network.training import load_fold
from covid3d.run import campaigns, steps
from covid3d.run.errors import ConfigError, nearest
from covid3d.run.files import progress, random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats.estimate import Estimate
from covid3d.stats.independent import welch

Method = Literal["gradcam", "hirescam"]
KNOWN = ("scan_id", "patient_id", "hospital", "role", "label", "why")
SHARES = ["lesion_share", "lesion_of_lung"]
FIRST = ("development", "external")  # the roles of first scans
SAMPLE_OF_A = 12
CASE_AGE, CASE_SCANS = 24, 5
CALLS = {"TP": (1, True), "FN": (1, False), "FP": (0, True), "TN": (0, False)}
CLASSES = {1: "COVID+", 0: "COVID-"}
LEAST_RATIO = 2.0  # the bar of the protocol, with a lower limit above 1
FORMS = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM", "integrated": "integrated gradients"}
BEST_LAYER = pd.Index(["best layer"], name="layer")
NO_TRUTH = "real scans have no masks of lesions or lungs"
MASS_SAYS = {
    -1: "the maps of COVID- scans have less, as the paper's words ask",
    0: "a difference is not shown",
    1: "the maps of COVID- scans have more, against the paper's words",
}
"""What follows from the interval of the difference of the mass, COVID- minus COVID+, by the side of 0 on which it lies."""


class CellMap(NamedTuple):
    """A signed map on the cells of a layer, float32 (z, y, x), and the logit that it explains."""

    cells: np.ndarray
    logit: float


def cell_map(
    model: nn.Module, grid: np.ndarray, window: Window, layer: str, method: Method, device: str = "cpu"
) -> CellMap:
    """Return the signed map of one scan on the cells of `layer`; only the layers after it are differentiated.

    grid: int16 HU (z, y, x). hirescam: sum over channels of gradient x activation. gradcam: the gradient is averaged
    over space first. With global pooling and one fully connected layer both are equal at the last block, and the cells
    sum to the logit minus the bias. Raises ConfigError for an unknown layer or method.
    """
    extractor: InceptionI3d = model.extractor  # type: ignore[assignment]
    if layer not in extractor:
        raise ConfigError(f"there is no layer '{layer}'", cure=nearest(layer, extractor))
    if method not in ("gradcam", "hirescam"):
        raise ConfigError(f"there is no method '{method}'", cure=nearest(method, ("gradcam", "hirescam")))
    place(model, device).eval()
    with torch.no_grad():
        activation = extractor.forward_features(to_input(grid[None], window, device), stop=layer)
    activation = activation.detach().requires_grad_()
    pooled = model.pool(extractor.forward_features(activation, start=layer))  # type: ignore[operator]
    logit = model.head(pooled).sum()  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(logit, activation)
    if method == "gradcam":
        gradient = gradient.mean((2, 3, 4), keepdim=True)
    cells = (gradient * activation).sum(1)[0].detach().cpu().numpy()
    return CellMap(cells, float(logit.detach()))


def signed_map(
    model: nn.Module, grid: np.ndarray, window: Window, layer: str, method: Method, device: str = "cpu"
) -> np.ndarray:
    """Return the signed map of one scan on its grid, float32 (z, y, x); its unit is logit a voxel. See `cell_map`."""
    cells = cell_map(model, grid, window, layer, method, device).cells
    return spread(cells, model.extractor, layer, grid.shape)  # type: ignore[arg-type]


def spread(cells: np.ndarray, extractor: InceptionI3d, layer: str, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate a map on cells linearly to the grid (z, y, x), each cell at the centre of what it sees.

    'SAME' padding puts that centre up to half a cell away from an even division of the grid.
    """
    weights = _weights(extractor, layer, shape, cells.shape)
    out = np.einsum("az,by,cx,zyx->abc", *weights, cells.astype(np.float64), optimize=True)
    return (out * (cells.size / out.size)).astype(np.float32)


def lesion_map(lesion: np.ndarray, extractor: InceptionI3d, layer: str, cells: tuple[int, ...]) -> np.ndarray:
    """Return the lesion itself as a map of this layer's cells: its mean in each cell, spread to the grid again.

    It is no upper bound: a map that lights up the cell most filled with lesion alone has a higher ratio.
    """
    weights = [part / part.sum(0) for part in _weights(extractor, layer, lesion.shape, cells)]
    means = np.einsum("az,by,cx,abc->zyx", *weights, lesion.astype(np.float64), optimize=True)
    return spread(means, extractor, layer, lesion.shape)


def _weights(extractor: InceptionI3d, layer: str, shape: tuple[int, ...], cells: tuple[int, ...]) -> list[np.ndarray]:
    """Return, per axis, the weight of each cell at each voxel (voxels, cells); each row sums to 1."""
    found = []
    for count, (first, step), size in zip(cells, cell_centres(extractor, layer, shape), shape, strict=True):
        place_of = np.clip((np.arange(size) - first) / step, 0, count - 1)
        found.append(np.maximum(1 - np.abs(place_of[:, None] - np.arange(count)), 0))
    return found


def cell_centres(extractor: InceptionI3d, layer: str, shape: tuple[int, ...]) -> list[tuple[float, float]]:
    """Return, per axis, the voxel at the centre of the first cell's view and the step from cell to cell, in voxels."""
    found = []
    for axis, voxels in enumerate(shape):
        size, first, step = voxels, 0.0, 1.0
        for name, stage in extractor.items():
            kernel, stride = getattr(stage, "kernel", 1), getattr(stage, "stride", 1)
            kernel, stride = (value if isinstance(value, int) else value[axis] for value in (kernel, stride))
            first += step * ((kernel - 1) / 2 - same_padding(size, kernel, stride)[0])
            size, step = -(-size // stride), step * stride
            if name == layer:
                break
        found.append((first, step))
    return found


def cell_size_mm(
    extractor: InceptionI3d, layer: str, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the step between the cells of a layer, mm (z, y, x), for captions; spacing_mm is that of the grid."""
    steps_of = [step for _, step in cell_centres(extractor, layer, shape)]
    return tuple(step * spacing for step, spacing in zip(steps_of, spacing_mm, strict=True))


def mass(values: np.ndarray, lesion: np.ndarray | None, lung: np.ndarray | None) -> dict[str, float]:
    """Return a map's positive and negative mass, and the shares of the positive mass in lesions and in the lung.

    values, lesion, lung: (z, y, x), the masks as shares in [0, 1], or None where there is no truth. lesion_of_lung:
    lesion volume / lung volume; ratio: lesion_share / lesion_of_lung; ratio_in_lung: the same with the map cut to the lung,
    where a map that is the same everywhere has 1. NaN where not defined.
    """
    positive = np.maximum(values, 0).astype(np.float64)
    total, nan = positive.sum(), float("nan")
    row = {"positive_mass": float(total), "negative_mass": float(np.minimum(values, 0).sum(dtype=np.float64))}
    row |= dict.fromkeys(("lesion_share", "lung_share", "lesion_of_lung", "ratio", "ratio_in_lung"), nan)
    if lung is not None and lung.sum() > 0:
        row["lung_share"] = float((positive * lung).sum() / total) if total > 0 else nan
        if lesion is not None:
            row["lesion_share"] = float((positive * lesion).sum() / total) if total > 0 else nan
            row["lesion_of_lung"] = float(lesion.sum(dtype=np.float64) / lung.sum(dtype=np.float64))
            row["ratio"] = row["lesion_share"] / row["lesion_of_lung"] if row["lesion_of_lung"] > 0 else nan
            row["ratio_in_lung"] = row["ratio"] / row["lung_share"] if row["lung_share"] > 0 else nan
    return row


def choose_scans(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the scans to explain, with a column `why`: external, sample of A's COVID+ (drawn by seed), and the case.

    table: accepted manifest rows.
    """
    external = table[table["role"] == "external"].assign(why="external")
    first = table[(table["role"] == "development") & (table["label"] == 1)].sort_values("scan_id")
    rng = np.random.default_rng(random_seed(seed, "explain", "sample"))
    picked = np.sort(rng.permutation(len(first))[:SAMPLE_OF_A])
    case = table[table["patient_id"] == case_patient(table)].assign(why="case")
    chosen = pd.concat([case, external, first.iloc[picked].assign(why="sample")], ignore_index=True)
    return chosen.drop_duplicates("scan_id", ignore_index=True)


def case_patient(table: pd.DataFrame) -> str | None:
    """Return the patient of Figure 4 (24 years, 5 scans; else the most scans), or None when nobody has follow-ups."""
    stays = table[table["role"].isin(["development", "external", "followup"])]
    patients = stays.groupby("patient_id").agg(age=("age", "first"), scans=("scan_id", "size"))
    exact = patients[(patients["age"] == CASE_AGE) & (patients["scans"] == CASE_SCANS)]
    if len(exact):
        return str(exact.index.min())
    return str(patients["scans"].idxmax()) if len(patients) and patients["scans"].max() > 1 else None


def ensure_explain(run: Run) -> Path:
    """Return the folder of summary.csv and maps/<scan_id>.npz (key "map", on the grid), computing them when needed.

    Columns of summary.csv: scan_id, patient_id, hospital, role, label, why, fold, logit, map_sum (of the cells), those of
    `mass`, and lesion_map_ratio, the ratio of `lesion_map`. B and C by the deployed fold, patients of A by the fold that never
    saw them.
    """
    inputs = {
        "intake": run.intake,
        "splits": run.splits,
        "selection": steps.content(results.selection_file(run).parent),
        "folds": [steps.content(run.model("task1", "covid3d", fold)) for fold in results.folds(run)],
    }
    return steps.ensure(run, "explain", run.path("explain"), inputs, lambda out: _explain(run, out))


def read_summary(run: Run) -> pd.DataFrame:
    """Return explain/summary.csv, one row a scan that was explained; see `ensure_explain`."""
    return scored.read_predictions(run.path("explain", "summary.csv"))


def _explain(run: Run, folder: Path) -> None:
    store, settings, window = Store.of(run), run.profile.explain, nominal_window(run.profile.windows)
    device = pick_device(run.device)
    scans = choose_scans(accepted(run), run.seed)
    scans = scans.assign(fold=results.fold_that_scores(run, scans["patient_id"]))
    (folder / "maps").mkdir(parents=True)
    rows = []
    for fold, group in scans.groupby("fold"):
        model = load_fold(run, "task1", "covid3d", int(str(fold)))
        for scan in progress(group.to_dict("records"), f"maps of fold {fold}"):
            scan_id = scan["scan_id"]
            grid = np.asarray(store.get(scan_id))
            cells, logit = cell_map(model, grid, window, settings.layer, settings.method, device)
            values = spread(cells, model.extractor, settings.layer, grid.shape)  # type: ignore[arg-type]
            np.savez_compressed(folder / "maps" / f"{scan_id}.npz", map=values)
            lesion, lung = lesion_mask(run, scan_id), lung_mask(run, scan_id)
            truth = mass(values, lesion, lung) | {"lesion_map_ratio": float("nan")}
            if lesion is not None and lesion.sum() > 0:
                ideal = lesion_map(lesion, model.extractor, settings.layer, cells.shape)  # type: ignore[arg-type]
                truth["lesion_map_ratio"] = mass(ideal, lesion, lung)["ratio"]
            known = {name: scan[name] for name in KNOWN}
            rows.append({**known, "fold": fold, "logit": logit, "map_sum": float(cells.sum()), **truth})
    write_csv(folder / "summary.csv", pd.DataFrame(rows).sort_values("scan_id"))


def read_map(run: Run, scan_id: str) -> np.ndarray:
    """Return the stored map of one scan, float32 (z, y, x), unit logit a voxel."""
    with np.load(run.path("explain", "maps", f"{scan_id}.npz"), allow_pickle=False) as file:
        return file["map"]


def passes(
    model: nn.Module, grid: np.ndarray, window: Window, layer: str, method: Method, device: str = "cpu"
) -> tuple[int, int]:
    """Return how often one map goes forward through the network's head, and how often backward."""
    counted = [0, 0]

    def count(way: int) -> None:
        counted[way] += 1

    head: nn.Module = model.head  # type: ignore[assignment]
    hooks = (
        head.register_forward_hook(lambda *_: count(0)),
        head.register_full_backward_hook(lambda *_: count(1)),
    )
    try:
        cell_map(model, grid, window, layer, method, device)
    finally:
        for hook in hooks:
            hook.remove()
    return counted[0], counted[1]


# --- what the maps show ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maps:
    """The maps of a run, read once; every question of where they lie is asked of this table.

    summary: one row a scan that was explained (`ensure_explain`).
    """

    run: Run
    summary: pd.DataFrame

    @classmethod
    def of(cls, run: Run) -> "Maps":
        """Read what `ensure_explain` has left."""
        return cls(run, read_summary(run))

    @property
    def external(self) -> pd.DataFrame:
        """The first scans of the external hospitals."""
        return self.summary[self.summary["role"] == "external"]

    def positive(self) -> pd.DataFrame:
        """Return the external first scans of COVID+ patients."""
        return self.external[self.external["label"] == 1]

    def drawn(self, seed: int) -> pd.DataFrame:
        """Return the external scans that are drawn by seed to be shown, rows of `summary` by case.

        Figure 1 takes a COVID+ scan that the network calls COVID+, by a logit above 0 (any, if there is none); then come one
        right and one wrong call of each class, where there are any.
        """
        outside, positive = self.external, self.positive()
        called = positive[positive["logit"] > 0]
        pools = {"Figure 1": called if len(called) else positive}
        for name, (label, above) in CALLS.items():
            pools[name] = outside[(outside["label"] == label) & ((outside["logit"] > 0) == above)]
        rng = np.random.default_rng([self.run.seed, seed])
        found = [pool.sample(min(len(pool), 1), random_state=rng).assign(case=name) for name, pool in pools.items()]
        return pd.concat(found).set_index("case")

    def made(self, scans: pd.Series) -> dict[str, Any]:
        """Return how many external scans have a map, whether each of `scans` has one, and into how many parts maps fall.

        The parts are connected and above half of the map's maximum; their number is a mean over the COVID+ scans.
        """
        parts = [
            ndimage.label(values > values.max() / 2)[1]
            for values in (read_map(self.run, scan) for scan in self.positive()["scan_id"])
        ]
        return {
            "maps": len(self.external),
            "every external scan has a map": set(scans) <= set(self.external["scan_id"]),
            "connected parts of a map, mean of COVID+ scans": Estimate(float(np.mean(parts)))
            if parts
            else Estimate.missing("no COVID+ scan"),
        }

    def lesion_share(self) -> pd.DataFrame:
        """Return `lesion_share_table` of the run, indexed by hospital and class."""
        table = lesion_share_table(self.summary, self.run.profile.statistics.bootstrap, self.run.seed)
        return (
            table.assign(label=table["label"].map(CLASSES))
            .rename(columns={"label": "class"})
            .set_index(["hospital", "class"])
        )

    def ratios(self) -> dict[str, Any]:
        """Return whether maps find the lesions of COVID+ scans: the ratio, its bar, and what it is to be compared with.

        A ratio is the lesions' share of the map over their share of the lung, each averaged over the same first scans, of which
        there are so many of each hospital. The last three are of a map that is the same everywhere, of the lesions themselves
        as a map of this layer, and of the map cut to the lung.
        """
        known = _with_lesions(self.summary, 1)
        lungs = [np.nan if mask is None else mask.mean() for mask in (lung_mask(self.run, i) for i in known["scan_id"])]
        shares = {
            "ratio": known["lesion_share"],
            "same everywhere": np.array(lungs) * known["lesion_of_lung"],
            "the lesions themselves": known["lesion_map_ratio"] * known["lesion_of_lung"],
            "inside the lung": known["ratio_in_lung"] * known["lesion_of_lung"],
        }
        how = 1, self.run.profile.statistics.bootstrap, self.run.seed
        found = {name: _over_lung(known.assign(lesion_share=share), *how) for name, share in shares.items()}
        ratio, counts = found.pop("ratio"), known.groupby("hospital").size()
        scans = ", ".join(f"{count} of {hospital}" for hospital, count in counts.items())
        return {
            "ratio": ratio,
            "bar": judged(ratio, ratio.value >= LEAST_RATIO and ratio.low > 1),
            "scans": scans or Estimate.missing(NO_TRUTH),
            **found,
        }

    def mass_by_label(self) -> pd.DataFrame:
        """Return, by class of external scans: scans, positive mass of the map (mean, SD), mean map sum, mean logit."""
        groups = self.external.groupby(self.external["label"].map(CLASSES).rename("class"))
        columns = {"scans": ("scan_id", "size"), "positive mass": ("positive_mass", "mean")}
        columns |= {"SD": ("positive_mass", "std"), "sum of the map": ("map_sum", "mean"), "logit": ("logit", "mean")}
        return groups.agg(**columns)

    def mass_difference(self) -> Estimate:
        """Return the mean positive mass of external COVID- scans minus that of COVID+ scans (Welch, Biometrika 1947)."""
        mass = [self.external.loc[self.external["label"] == label, "positive_mass"] for label in (0, 1)]
        return replace(welch(*mass), unit="logit")

    def mass_compared(self) -> dict[str, Any]:
        """Return `mass_difference` and what it says of the paper's "insignificant activation" in COVID- scans."""
        found = self.mass_difference()
        said = MASS_SAYS[int(found.low > 0) - int(found.high < 0)] if found.known else Estimate.missing(found.method)
        return {"COVID- minus COVID+": found, "what it says": said}


def ratios_by_layer() -> tuple[pd.DataFrame, str]:
    """Return the stored ratio of the positive map at every layer, one column a method, and a caption that says of which run.

    The last row is the best layer of each method, with its name; it stands alone where nothing is stored.
    """
    stored = campaigns.read("map_layers")
    if stored is None:
        best: dict[str, Estimate] = dict.fromkeys(FORMS.values(), Estimate.missing("not measured"))
        return pd.DataFrame([best], index=BEST_LAYER), "Other layers and methods: no stored measurement."
    part = stored[stored["part"] == "positive"]
    table = part.pivot(index="layer", columns="method", values="ratio").reindex(part["layer"].unique())
    table = table[[form for form in FORMS if form in table]].rename(columns=FORMS).rename_axis(columns=None)
    best = {str(name): Estimate(float(of.max()), remark=str(of.idxmax())) for name, of in table.items()}
    scans, commit = part["scans"].max(), part["commit"].iloc[0]
    caption = (
        f"Ratio at every layer, of {scans} COVID+ scans; not of this run but of simulated scans (commit {commit})."
    )
    return pd.concat([table, pd.DataFrame([best], index=BEST_LAYER)]).rename_axis("layer"), caption


def lesion_share_table(summary: pd.DataFrame, replicates: int, seed: int) -> pd.DataFrame:
    """Return, by hospital and label, the lesions' share of the map and of the lung over first scans, and their ratio.

    Rows without truth or lesions are left out. Columns hospital, label, scans, "share of the map", "share of the lung",
    ratio (an Estimate).
    """
    known, rows = _with_lesions(summary), []
    rng = np.random.default_rng(random_seed(seed, "lesion_share"))
    for (hospital, label), group in known.groupby(["hospital", "label"]):
        one, two = group[SHARES].mean()
        rows.append(
            (hospital, label, len(group), one, two, ratio_of_means(group[SHARES].to_numpy(float), replicates, rng))
        )
    columns = ["hospital", "label", "scans", "share of the map", "share of the lung", "ratio"]
    return pd.DataFrame(rows, columns=columns)


def lesion_share_ratio(summary: pd.DataFrame, label: int, replicates: int, seed: int) -> Estimate:
    """Return the ratio of `lesion_share_table` for one label over first scans, hospitals pooled; missing without truth."""
    return _over_lung(_with_lesions(summary, label), label, replicates, seed)


def _over_lung(scans: pd.DataFrame, label: int, replicates: int, seed: int) -> Estimate:
    """Return the mean lesion_share over the mean lesion_of_lung of the scans where both are known."""
    pairs = scans[SHARES].dropna().to_numpy(float)
    if not len(pairs):
        return Estimate.missing(NO_TRUTH)
    return ratio_of_means(pairs, replicates, np.random.default_rng(random_seed(seed, "lesion_share", label)))


def first_scans(scans: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of first scans by their role, so that no patient counts twice."""
    return scans[scans["role"].isin(FIRST)]


def _with_lesions(summary: pd.DataFrame, *labels: int) -> pd.DataFrame:
    """Return the first scans, of these labels or of all, that have lesions and a positive part of the map."""
    known = summary[(summary["lesion_of_lung"] > 0) & summary["lesion_share"].notna()]
    return first_scans(known[known["label"].isin(labels)] if labels else known)


def ratio_of_means(pairs: np.ndarray, replicates: int, rng: np.random.Generator) -> Estimate:
    """Return mean a / mean b of pairs (N, 2), with percentile limits over resampled patients (Efron 1979)."""
    drawn = pairs[rng.integers(0, len(pairs), (replicates, len(pairs)))].mean(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]).tolist()
    one, two = pairs.mean(0).tolist()
    return Estimate(one / two, low, high, "patient bootstrap, percentile")
