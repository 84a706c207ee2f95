"""One interface for COVID3D and the models that it is compared with: fit, score, explain, save and load.

A model's file holds a function `name(profile) -> Comparator`; nearly all return a `Network`, which sees the windowed grid,
or a `Table`, which sees columns. Both train on the same folds and are scored on the same scans.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from covid3d.cohort.intake import read_intake
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import scoring, training
from covid3d.network.covid3d import Covid3D
from covid3d.network.registry import parameter_count
from covid3d.network.slices import spaced_slices
from covid3d.network.start import fit_head_first
from covid3d.network.tabular import TERM_COLUMNS, Linear, contributions, fit_linear
from covid3d.network.training import Examples, Fit, Plan
from covid3d.network.weights import load_weights, save_weights
from covid3d.run.errors import ConfigError, Covid3DError, WeightsError, nearest
from covid3d.run.files import random_seed, read_json, write_csv, write_json
from covid3d.run.profile import FromTrunk, Profile, Run
from covid3d.stats.auc import auc_value, log_loss

TASK = "task1"
WEIGHTS, TERMS = "weights.safetensors", "terms.json"


@dataclass(frozen=True)
class Cases:
    """Scans as every model gets them.

    grids: int16 HU (N, z, y, x); spacing_mm: voxel size of each grid (N, 3); facts: N rows of manifest and intake, with at
    least scan_id, patient_id, hospital and label. Raises ValueError when the three differ in N.
    """

    grids: np.ndarray
    spacing_mm: np.ndarray
    facts: pd.DataFrame

    def __post_init__(self) -> None:
        if self.grids.ndim != 4 or not len(self.grids) == len(self.spacing_mm) == len(self.facts):
            found = f"{self.grids.shape}, {self.spacing_mm.shape} and {len(self.facts)} rows"
            raise ValueError(f"expected grids (N, z, y, x), spacing_mm (N, 3) and N rows of facts, got {found}")

    @classmethod
    def of(cls, run: Run, table: pd.DataFrame) -> "Cases":
        """Return the stored scans of `table` (rows of the manifest), in its order."""
        intake = read_intake(run)
        more = [name for name in intake if name == "scan_id" or name not in table]
        facts = table.merge(intake[more], on="scan_id", how="left", validate="1:1")
        read = intake.set_index("scan_id").loc[list(facts["scan_id"])]
        size = read[["n_slices", "rows", "columns"]].to_numpy(float, na_value=np.nan)
        spacing = read[["spacing_z_mm", "spacing_y_mm", "spacing_x_mm"]].to_numpy(float, na_value=np.nan)
        return cls(Store.of(run).stack(facts["scan_id"]), spacing * size / run.profile.model.grid, facts)

    @property
    def labels(self) -> np.ndarray:
        return self.facts["label"].to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.grids)


class Explanation(NamedTuple):
    """Why one scan has its logit: a network gives `map`, a table gives `table`; the other is None.

    map: signed HiResCAM on the grid, float32 (z, y, x), logit a voxel. table: one row a term, with columns term,
    coefficient (logit for one SD, or for being in a category) and contribution; these and the intercept sum to the logit.
    """

    logit: float
    map: np.ndarray | None = None
    table: pd.DataFrame | None = None


class Comparator(ABC):
    """A model of Task 1. `row` is its name in tables; `grid` (z, y, x) the shape of the scans that it takes."""

    row: str
    grid: tuple[int, int, int]

    @abstractmethod
    def fit(
        self, train: Cases, validation: Cases, *, seed: int, checkpoint: Path | None = None, device: str = "cpu"
    ) -> Fit:
        """Fit to `train` in place and return the history with the logits of `validation`, a row for each epoch."""

    @abstractmethod
    def score(self, cases: Cases, *, device: str = "cpu") -> np.ndarray:
        """Return the logit of each scan in the nominal window, (N,); Covid3DError when the scans do not fit."""

    @abstractmethod
    def explain(self, case: Cases, *, device: str = "cpu") -> Explanation:
        """Return why the one scan of `case` has its logit."""

    @abstractmethod
    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write the fitted model into a folder; equal models give equal bytes, and nothing is pickled."""

    @abstractmethod
    def load(self, folder: Path, expect: dict[str, str]) -> None:
        """Read what `save` wrote; WeightsError when it is unreadable, of another model, or differs from `expect`."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """The number of fitted values."""

    def check(self, cases: Cases) -> Cases:
        """Return `cases` when their grids have the model's shape, else raise ConfigError."""
        if cases.grids.shape[1:] != tuple(self.grid):
            raise ConfigError(
                f"the scans have the shape {cases.grids.shape[1:]}, but the model takes {tuple(self.grid)}",
                where=self.row,
                cure="Take the model and the scans from runs of one profile",
            )
        return cases


def whole_grid(cases: Cases) -> np.ndarray:
    """Return the grids as they are: what most networks see before windowing."""
    return cases.grids


@dataclass
class Network(Comparator):
    """A network from windowed grids (N, 1, z, y, x) in [-1, 1] to N logits.

    layer: the submodule whose cells carry the explanation, by its dotted name; prepare: changes the HU before windowing,
    (N, z, y, x) in and out; head_first: training goes on from a pretrained trunk, see `start.fit_head_first`.
    """

    row: str
    net: nn.Module
    layer: str
    plan: Plan
    grid: tuple[int, int, int]
    prepare: Callable[[Cases], np.ndarray] = whole_grid
    head_first: bool = False

    @classmethod
    def of(
        cls,
        profile: Profile,
        row: str,
        net: nn.Module,
        layer: str,
        prepare: Callable[[Cases], np.ndarray] = whole_grid,
        head_first: bool = False,
        **changes: float,
    ) -> "Network":
        """Return a network that trains as the profile says; `changes` (epochs, batch_size …) replace its values."""
        plan = Plan.of(profile.training, nominal_window(profile.windows), **changes)
        return cls(row, net, layer, plan, profile.model.grid, prepare, head_first)

    def fit(
        self, train: Cases, validation: Cases, *, seed: int, checkpoint: Path | None = None, device: str = "cpu"
    ) -> Fit:
        one, two = (Examples.of(part.facts, self._seen(part)) for part in (train, validation))
        if self.head_first:
            if self.prepare is not whole_grid:
                self._measure_batch_norm(one, device)
            fit_head_first(self.net, one.grids, one.labels, self.plan.window, device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # for layers that draw, such as dropout; a fold that is resumed draws anew
            return training.fit(self.net, one, two, self.plan, checkpoint=checkpoint, device=device, seed=seed)

    def go_on(self, plan: FromTrunk) -> None:
        """Train from now on as Task 1 does from a pretrained trunk: its epochs, its rate, the head first, fixed batch norm.

        What batch norm is fixed at is measured on the training scans as this network sees them: the trunk's own numbers are
        of whole scans, and lungs alone would lie outside them (Li et al., arXiv:1603.04779).
        """
        self.plan, self.head_first = replace(self.plan, **plan.model_dump()), True

    def _measure_batch_norm(self, examples: Examples, device: str) -> None:
        """Set the mean and variance of every BatchNorm to those of these examples, windowed, and nothing else."""
        starts = range(0, len(examples), self.plan.batch_size)
        parts = (examples.grids[start : start + self.plan.batch_size] for start in starts)
        update_bn((scoring.to_input(part, self.plan.window, device) for part in parts), scoring.place(self.net, device))

    def score(self, cases: Cases, *, device: str = "cpu") -> np.ndarray:
        return scoring.score(self.net, self._seen(cases), [self.plan.window], device=device)[:, 0]

    def explain(self, case: Cases, *, device: str = "cpu") -> Explanation:
        scoring.place(self.net, device).eval()
        x = scoring.to_input(self._seen(case)[:1], self.plan.window, device)
        cells, logit = cells_of(self.net, x, self.layer)
        return Explanation(logit, map=spread(cells, self.grid, getattr(self.net, "slices_per_scan", None)))

    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        save_weights(folder / WEIGHTS, self.net, metadata)

    def load(self, folder: Path, expect: dict[str, str]) -> None:
        load_weights(folder / WEIGHTS, self.net, expect=expect)

    @property
    def parameters(self) -> int:
        return parameter_count(self.net)

    def _seen(self, cases: Cases) -> np.ndarray:
        return self.prepare(self.check(cases))


def cells_of(net: nn.Module, x: Tensor, layer: str) -> tuple[np.ndarray, float]:
    """Return HiResCAM on the cells of a layer, and the logit, of one scan (1, 1, z, y, x), without the ReLU.

    Gradient x activation, summed over channels (Draelos & Carin 2020, arXiv:2011.08891): (z, y, x) of a 3D layer, (slices,
    y, x) of a 2D layer that sees one slice after the other. At the last layer before pooling and one fully connected layer
    the cells sum to the logit minus the bias. Raises ConfigError for an unknown layer.
    """
    known = dict(net.named_modules())
    if layer not in known:
        raise ConfigError(f"there is no layer '{layer}'", cure=nearest(layer, known))
    kept: list[Tensor] = []
    hook = known[layer].register_forward_hook(lambda _module, _given, out: kept.append(out))
    try:
        with torch.enable_grad():
            logit = net(x.requires_grad_()).sum()
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    cells = (gradient * kept[0]).sum(1).detach().cpu().numpy()
    return (cells[0] if cells.ndim == 4 else cells), float(logit.detach())


def spread(cells: np.ndarray, grid: tuple[int, int, int], slices_per_scan: int | None = None) -> np.ndarray:
    """Return cells interpolated linearly to a grid, float32 (z, y, x), as logit a voxel.

    With `slices_per_scan` each layer of cells is one of the slices that a 2D network saw; the others are 0.
    """
    scale = float(cells.size / np.prod(grid))
    wanted = grid if slices_per_scan is None else (len(cells), *grid[1:])
    whole = F.interpolate(torch.from_numpy(cells)[None, None].float(), wanted, mode="trilinear", align_corners=False)
    found = whole[0, 0].numpy()
    if slices_per_scan is None:
        return found * scale
    out = np.zeros(grid, np.float32)
    out[spaced_slices(grid[0], slices_per_scan)] = found * float(cells[0].size / np.prod(grid[1:]))
    return out


@dataclass
class Table(Comparator):
    """A logistic regression on columns; numbers are standardised, text is categories, constant columns are left out.

    columns: the columns of each scan, N rows.
    """

    row: str
    columns: Callable[[Cases], pd.DataFrame]
    grid: tuple[int, int, int]
    fitted: Linear | None = None

    def fit(
        self, train: Cases, validation: Cases, *, seed: int, checkpoint: Path | None = None, device: str = "cpu"
    ) -> Fit:
        self.fitted = fit_linear(self.columns(self.check(train)), train.labels)
        inside, outside = self.score(train), self.score(validation)
        both = 0 < validation.labels.sum() < len(validation)
        row = {
            "epoch": 1,
            "train_loss": log_loss(train.labels, inside),
            "validation_loss": log_loss(validation.labels, outside),
            "validation_auc": auc_value(validation.labels, outside) if both else float("nan"),
        }
        return Fit(pd.DataFrame([row]), outside[None])

    def score(self, cases: Cases, *, device: str = "cpu") -> np.ndarray:
        known = self._known()
        return (known.intercept + contributions(known, self.columns(self.check(cases))).sum(axis=1)).to_numpy()

    def explain(self, case: Cases, *, device: str = "cpu") -> Explanation:
        known = self._known()
        parts = contributions(known, self.columns(self.check(case))).iloc[0]
        coefficients = known.terms["coefficient"].to_numpy()
        table = pd.DataFrame({"term": parts.index, "coefficient": coefficients, "contribution": parts.to_numpy()})
        return Explanation(known.intercept + float(parts.sum()), table=table)

    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        known = self._known()
        write_json(
            folder / TERMS,
            {"metadata": metadata, "intercept": known.intercept, "terms": known.terms.to_dict("records")},
        )

    def load(self, folder: Path, expect: dict[str, str]) -> None:
        cure = "Fit it again: `make extended`"
        try:
            content = read_json(folder / TERMS)
            terms = pd.DataFrame(content["terms"], columns=TERM_COLUMNS)
            found, metadata = Linear(terms, float(content["intercept"])), content["metadata"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError("not the terms of a fitted table", where=TERMS, cure=cure) from error
        for key, wanted in expect.items():
            if metadata.get(key) != wanted:
                what = f"these terms have {key} = {metadata.get(key)}, but {wanted} is needed"
                raise WeightsError(what, where=TERMS, cure=cure)
        self.fitted = found

    @property
    def parameters(self) -> int:
        return len(self._known().terms) + 1

    def _known(self) -> Linear:
        if self.fitted is None:
            raise Covid3DError("the model has not been fitted", where=self.row, cure="Call fit or load first")
        return self.fitted


def train_fold(
    run: Run, name: str, model: Comparator, fold: int, train: pd.DataFrame, validation: pd.DataFrame, folder: Path
) -> None:
    """Fit a model to one fold and write its weights, history.csv and predictions.csv (validation, every epoch)."""
    checkpoint = run.path("checkpoints", f"comparator__{name}__fold_{fold:02d}.safetensors")
    held_out, seed = Cases.of(run, validation), fold_seed(run, name, fold)
    device = scoring.pick_device(run.device)
    result = model.fit(Cases.of(run, train), held_out, seed=seed, checkpoint=checkpoint, device=device)
    metadata = training.weights_metadata(run, name)
    model.save(folder, metadata | ({"starts_from": training.starts_from(run)} if is_covid3d(model) else {}))
    write_csv(folder / "history.csv", result.history)
    rows = [
        scoring.prediction_rows(TASK, name, fold, epoch, validation, "validation", "nominal", logits)
        for epoch, logits in enumerate(result.epoch_logits, start=1)
    ]
    write_csv(folder / "predictions.csv", pd.concat(rows, ignore_index=True))


def is_covid3d(model: Comparator) -> bool:
    """True for COVID3D, whatever it is shown: it starts where the run's own folds start."""
    return isinstance(model, Network) and isinstance(model.net, Covid3D)


def fold_seed(run: Run, name: str, fold: int) -> int:
    """Return the seed of one fold: that of Task 1, so that a network trained there has the same weights here."""
    return random_seed(run.seed, TASK, name, fold)
