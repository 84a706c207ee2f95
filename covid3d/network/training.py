"""Training of one fold of any registered model, on one page; it resumes after a kill with identical results.

Everything random is drawn from (seed, purpose, epoch), so a checkpoint after each epoch holds all that a restart needs:
the tensors of the model and of Adam, and the history so far.
"""

import hashlib
import json
import math
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covid3d.ct.volume import HU_MAX, HU_MIN
from covid3d.ct.windows import Window, apply_window
from covid3d.network.registry import build, slices_start
from covid3d.network.scoring import place, prediction_rows, score
from covid3d.network.team import Team
from covid3d.network.weights import describe_weights, grid_text, load_weights, read_tensors, save_weights, write_tensors
from covid3d.run.errors import Covid3DError, WeightsError
from covid3d.run.files import progress, random_seed, sha256_file, sha256_json, write_csv
from covid3d.run.fingerprint import code_fingerprint
from covid3d.run.profile import Run, Training
from covid3d.stats.auc import auc_value


class TrainingError(Covid3DError):
    """Training cannot go on."""

    code = "training"


@dataclass(frozen=True)
class Examples:
    """Labelled scans: grids int16 HU (N, S, z, y, x), S scans of one patient an example; the rest has N entries."""

    grids: np.ndarray
    labels: np.ndarray
    scan_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    hospitals: tuple[str, ...]

    @classmethod
    def of(cls, table: pd.DataFrame, grids: np.ndarray) -> "Examples":
        """Pair rows (scan_id, patient_id, hospital, label) with their grids (N, z, y, x) or (N, S, z, y, x)."""
        if len(table) != len(grids):
            raise ValueError(f"{len(table)} rows, {len(grids)} grids")
        grids = grids if grids.ndim == 5 else grids[:, None]
        ids = (tuple(table[name].astype(str)) for name in ("scan_id", "patient_id", "hospital"))
        return cls(grids, table["label"].to_numpy(np.int64), *ids)

    @property
    def table(self) -> pd.DataFrame:
        """Return scan_id, patient_id, hospital, label, one row an example."""
        columns = zip(self.scan_ids, self.patient_ids, self.hospitals, self.labels.tolist(), strict=True)
        return pd.DataFrame(list(columns), columns=["scan_id", "patient_id", "hospital", "label"])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Plan:
    """How to train: sizes, rates, augmentation, the nominal window, and the number of CPU threads."""

    epochs: int
    batch_size: int
    learning_rate: float
    warm_up: float
    hold: float
    final_rate: float
    weight_decay: float
    flip: bool
    shift_voxels: int
    rotation_degrees: float
    window_jitter_hu: float
    threads: int
    window: Window

    @classmethod
    def of(cls, training: Training, window: Window, **changes: float) -> "Plan":
        """Return the plan of a profile's `training`; `changes` (epochs, learning_rate …) replace its values."""
        values = training.model_dump(exclude={"folds", "threads_per_fold", "from_trunk"}) | changes
        return cls(**values, threads=training.threads_per_fold, window=Window(*window))


@dataclass(frozen=True)
class Fit:
    """history: one row an epoch; epoch_logits: float32 (epochs, validation scans); logits: those of the last epoch."""

    history: pd.DataFrame
    epoch_logits: np.ndarray

    @property
    def logits(self) -> np.ndarray:
        return self.epoch_logits[-1]


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    seed: int,
) -> Fit:
    """Train a model in place for a fixed number of epochs: Adam, binary cross-entropy on logits, one-cycle rate.

    With `checkpoint` (a file), each epoch is kept there and a restart goes on from it to byte-identical results; it is
    removed at the end. Under torchrun several processes train one model, see `covid3d/network/team.py`; the first one returns.
    Raises TrainingError when a grid is unusable or a value is not finite, StorageError when the disk is full.
    """
    for part in (train, validation):
        _check_grids(part)
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(plan.threads)
    torch.set_float32_matmul_precision("high" if device == "cuda" else precision)  # TF32; convolutions have it anyway
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")  # pools of volumes have no exact form there
    try:
        return _fit(model, train, validation, plan, checkpoint, device, seed)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(exact)


def _check_grids(examples: Examples) -> None:
    """Refuse grids that are no int16 HU, and a scan that is the same everywhere, by its name."""
    again = "Run this run's intake again"
    if examples.grids.dtype != np.int16:
        raise TrainingError(f"the grids are {examples.grids.dtype}, not int16 HU", where="volumes/", cure=again)
    for name, scans in zip(examples.scan_ids, examples.grids, strict=True):
        for grid in scans:
            if grid.min() == grid.max():
                what = f"the grid is {grid.flat[0]} HU everywhere: there is nothing to learn from it"
                raise TrainingError(
                    what, where=f"scan {name}", cure=f"Look at the scan; leave it out, or {again.lower()}"
                )


def _fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    plan: Plan,
    checkpoint: Path | None,
    device: str,
    seed: int,
) -> Fit:
    team = Team.join(device)
    if team.size > 1 and len(train) // math.ceil(len(train) / plan.batch_size) < team.size:
        raise TrainingError(
            f"{team.size} processes for batches of {plan.batch_size}", cure="Start fewer, or raise batch_size"
        )
    identity = _identity(model, train, validation, plan, seed) if checkpoint else ""
    team.equip(model, device)
    place(model, device)
    optimiser = optimiser_of(model, plan)
    rows, logits = _resume(checkpoint, identity, model, optimiser)
    resumed, started = len(rows), time.perf_counter()
    for epoch in progress(range(resumed + 1, plan.epochs + 1), "epochs"):
        train_loss = _train_epoch(model, optimiser, train, plan, team, device, seed, epoch)
        scores = score(model, validation.grids, [plan.window], device=device)[:, 0]
        if not np.isfinite(scores).all():
            name = validation.scan_ids[int(np.argmin(np.isfinite(scores)))]
            raise _not_finite("a validation logit", f"epoch {epoch}, scan {name}", plan)
        rows.append({"epoch": epoch, "train_loss": train_loss, **_validation(validation.labels, scores)})
        logits.append(scores)
        if checkpoint and team.rank == 0:
            _save_checkpoint(checkpoint, identity, model, optimiser, rows, logits)
        if epoch == resumed + 1 < plan.epochs and team.rank == 0:
            print(cost_card(plan.epochs - epoch, time.perf_counter() - started, checkpoint), flush=True)
    team.leave()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return Fit(pd.DataFrame(rows), np.stack(logits))


def optimiser_of(model: nn.Module, plan: Plan) -> torch.optim.Adam:
    """Return the optimiser of every training: Adam (Kingma & Ba, 2015)."""
    return torch.optim.Adam(model.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of every training: the mean binary cross-entropy of logits (N,) against labels (N,), in nats."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def cost_card(epochs: int, seconds: float, checkpoint: Path | None) -> str:
    """Return what `epochs` more epochs will cost, from the seconds of the first one and what this process holds now."""
    memory = psutil.Process().memory_info().rss / 2**30
    disk = checkpoint.stat().st_size / 2**20 if checkpoint else 0.0
    return f"  {epochs} epochs to go: about {epochs * seconds / 60:.1f} min, {memory:.1f} GB memory, {disk:.0f} MB of checkpoint"


def _train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Adam,
    train: Examples,
    plan: Plan,
    team: Team,
    device: str,
    seed: int,
    epoch: int,
) -> float:
    """Train one epoch in the order that (seed, epoch) draws; return the mean loss over the examples."""
    rng = np.random.default_rng(random_seed(seed, "training", epoch))
    batches = np.array_split(rng.permutation(len(train)), math.ceil(len(train) / plan.batch_size))
    labels = torch.from_numpy(train.labels).to(device, torch.float32)
    total = 0.0
    model.train()
    inputs = (augment(np.asarray(train.grids[batch]), plan, rng, device) for batch in batches)
    for number, (batch, x) in enumerate(zip(batches, _ahead(inputs) if device == "cuda" else inputs, strict=True)):
        step, steps = (epoch - 1) * len(batches) + number, plan.epochs * len(batches)
        optimiser.param_groups[0]["lr"] = one_cycle(step / steps, plan)
        optimiser.zero_grad()
        mine = team.share(len(batch))
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = model(x[mine])
        loss = loss_of(logits.float(), labels[torch.from_numpy(batch[mine]).to(device)])
        loss = loss * (len(batch[mine]) / len(batch))
        mean = loss.detach().clone()
        team.add_up([mean])
        if not torch.isfinite(mean):
            scans = ", ".join(train.scan_ids[example] for example in batch)
            where = f"epoch {epoch}, batch {number + 1} of {len(batches)} (scans {scans})"
            raise _not_finite("the training loss", where, plan)
        loss.backward()
        team.add_up(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        optimiser.step()
        total += mean.item() * len(batch)
    team.average_statistics(model)
    return total / len(train)


def _not_finite(what: str, where: str, plan: Plan) -> TrainingError:
    cure = f"Lower the learning rate ({plan.learning_rate:g}) in the profile; see broken HU in intake.csv"
    return TrainingError(f"{what} is not finite", where=where, cure=cure)


def _ahead(inputs: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the same inputs, the next one being made in a thread meanwhile: for a GPU, which needs no core of its own."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, inputs, None)
        while (x := waiting.result()) is not None:
            waiting = pool.submit(next, inputs, None)
            yield x


def one_cycle(progress: float, plan: Plan) -> float:
    """Return the rate after a share of the steps: cosine from peak/25 up to the peak, down to the final rate, then constant.

    One cycle as in Smith and Topin, arXiv:1708.07120. At the constant end, the loss tells whether training has converged.
    """
    peak, end = plan.learning_rate, 1 - plan.hold
    low, way = peak / 25, progress / plan.warm_up if plan.warm_up else 1.0
    if way >= 1:
        low, way = peak * plan.final_rate, max(end - progress, 0.0) / (end - plan.warm_up)
    return low + (peak - low) * (1 - math.cos(math.pi * way)) / 2


def augment(grids: np.ndarray, plan: Plan, rng: np.random.Generator, device: str = "cpu") -> Tensor:
    """Return HU grids (N, S, z, y, x) as network input, each windowed, flipped left-right, shifted, turned at random.

    Never up-down or front-back: that would destroy the lower-posterior signal. All scans of an example move alike.
    """
    count, scans, depth, height, width = grids.shape
    jitter = rng.uniform(-plan.window_jitter_hu, plan.window_jitter_hu, (count, 2))
    level, span = plan.window
    windowed = [apply_window(grid, Window(level + a, span + 2 * b)) for grid, (a, b) in zip(grids, jitter, strict=True)]
    x = torch.from_numpy(np.stack(windowed))
    x = x.pin_memory().to(device, non_blocking=True) if device == "cuda" else x
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0) if plan.flip else np.ones(count)
    shift = rng.integers(-plan.shift_voxels, plan.shift_voxels, (count, 3), endpoint=True)
    angle = np.radians(rng.uniform(-plan.rotation_degrees, plan.rotation_degrees, count))
    for number, dz in enumerate(shift[:, 0].tolist()):
        x[number] = _shifted(x[number], dz)
    # Rows of the matrix give where each output pixel (x, y, 1) is read, in units of half the image.
    cos, sin, aspect = np.cos(angle), np.sin(angle), height / width
    matrix = np.empty((count, 2, 3), np.float32)
    matrix[:, 0] = np.stack([mirror * cos, -mirror * sin * aspect, 2 * shift[:, 2] / width], 1)
    matrix[:, 1] = np.stack([sin / aspect, cos, 2 * shift[:, 1] / height], 1)
    where = F.affine_grid(torch.from_numpy(matrix).to(device), [count, 1, height, width], align_corners=False)
    planes = x.reshape(count, scans * depth, height, width)
    moved = F.grid_sample(planes, where, "bilinear", "border", align_corners=False)
    return moved.reshape(x.shape).contiguous(memory_format=torch.channels_last_3d)


def _shifted(x: Tensor, dz: int) -> Tensor:
    """Return (S, z, y, x) moved by dz slices, the end slice repeated."""
    source = torch.arange(x.shape[1], device=x.device) + dz
    return x[:, source.clamp(0, x.shape[1] - 1)]


def _validation(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return validation loss and AUC; the AUC of a single class is NaN."""
    loss = loss_of(torch.from_numpy(logits), torch.from_numpy(labels).float())
    both = 0 < labels.sum() < len(labels)
    return {"validation_loss": loss.item(), "validation_auc": auc_value(labels, logits) if both else math.nan}


def _identity(model: nn.Module, train: Examples, validation: Examples, plan: Plan, seed: int) -> str:
    """Return a hash of everything that decides the result, so that a checkpoint of another fit is never taken up."""
    start = [_digest(tensor.cpu().numpy()) for tensor in model.state_dict().values()]
    data = [[part.scan_ids, part.labels.tolist(), _digest(part.grids)] for part in (train, validation)]
    return sha256_json([start, data, asdict(plan), seed, code_fingerprint("covid3d.network.training")])


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _save_checkpoint(
    path: Path, identity: str, model: nn.Module, optimiser: torch.optim.Adam, rows: list[dict], logits: list[np.ndarray]
) -> None:
    """Keep the state after an epoch in one safetensors file; its metadata are JSON."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
    tensors["logits"] = torch.from_numpy(np.stack(logits))
    write_tensors(path, tensors, {"identity": identity, "history": json.dumps(rows)})


def _resume(
    path: Path | None, identity: str, model: nn.Module, optimiser: torch.optim.Adam
) -> tuple[list[dict], list[np.ndarray]]:
    """Load a checkpoint of this very fit, if there is one, and return its history and logits."""
    if path is None or not path.is_file():
        return [], []
    try:
        tensors, metadata = read_tensors(path)
    except WeightsError:  # not ours, or an older format: start again
        return [], []
    if metadata.get("identity") != identity:
        return [], []
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for number, parameter in enumerate(model.parameters()):
        if not parameter.requires_grad:
            continue
        state = optimiser.state[parameter]
        state["step"] = tensors[f"adam.{number}.step"]
        for name in ("exp_avg", "exp_avg_sq"):  # in the parameter's own layout, or rounding would differ
            state[name] = torch.empty_like(parameter, requires_grad=False).copy_(tensors[f"adam.{number}.{name}"])
    return json.loads(metadata["history"]), list(tensors["logits"].numpy())


def write_fold(
    folder: Path, run: Run, task: str, name: str, fold: int, model: nn.Module, result: Fit, validation: Examples
) -> None:
    """Write weights.safetensors, history.csv and predictions.csv (the validation logits of every epoch) of one fold.

    The weights' metadata have the task, "task1" or that of a control, so that a copy of the file tells it, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "weights.safetensors", model, weights_metadata(run, name) | {"task": task})
    write_csv(folder / "history.csv", result.history)
    rows = [
        prediction_rows(task, name, fold, epoch, validation.table, "validation", "nominal", logits)
        for epoch, logits in enumerate(result.epoch_logits, start=1)
    ]
    write_csv(folder / "predictions.csv", pd.concat(rows, ignore_index=True))


def load_fold(run: Run, task: str, name: str, fold: int) -> nn.Module:
    """Return the trained model of a fold, in evaluation mode; WeightsError when its file is missing or does not fit."""
    model = build(name, run.profile)
    load_weights(run.model(task, name, fold) / "weights.safetensors", model, expect=expected_metadata(run, name))
    return place(model, "cpu").eval()


def expected_metadata(run: Run, name: str) -> dict[str, str]:
    """Return the metadata that weights for this run's model must have."""
    profile = run.profile
    return {"model": name, "width": f"{profile.model.width:g}", "grid": grid_text(profile.model.grid)}


def weights_metadata(run: Run, name: str) -> dict[str, str]:
    """Return the metadata of weights that this run trains."""
    windows = run.profile.windows
    return expected_metadata(run, name) | {
        "hu_clip": f"{HU_MIN},{HU_MAX}",
        "window": Window(windows.level, windows.width).text,
        "trained_on": run.cohort,
        "profile": run.profile.name,
        "manifest_sha256": sha256_file(run.manifest),
        "commit": _commit(),
        "licence": "MIT",
        "starts_from": starts_from(run, name),
    }


def starts_from(run: Run, name: str = "covid3d") -> str:
    """Return what a model's trunk was before its first epoch: what weights were trained on, and their SHA-256."""
    if run.pretrained and name in ("covid3d", "single", "pair"):
        return f"{describe_weights(run.pretrained)['trained_on']} {sha256_file(run.pretrained)}"
    if name.startswith("resnet") and (start := slices_start(run.profile)):
        return f"{run.profile.slices.pretrained} {sha256_file(start)}"
    return "random values"


def _commit() -> str:
    """Return the commit of the code, or 'unknown' outside a checkout."""
    command, here = ["git", "rev-parse", "HEAD"], Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
