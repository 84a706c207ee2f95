"""Scoring: scans x windows -> logits, by a copy of the model made for evaluation alone."""

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from covid3d.ct.windows import Window, apply_window
from covid3d.network.i3d import ConvUnit
from covid3d.run.errors import ConfigError
from covid3d.run.files import progress
from covid3d.run.profile import Run

PREDICTIONS = (
    "task",
    "model",
    "fold",
    "epoch",
    "scan_id",
    "patient_id",
    "hospital",
    "split",
    "label",
    "window",
    "logit",
    "probability",
)
MOST_SCANS, MOST_VOXELS = 16, 8 * 64 * 224 * 224  # of a batch: enough to keep cores busy, and little enough for memory


def pick_device(name: str = "auto") -> str:
    """Return 'cpu' or 'cuda' for 'auto', 'cpu' or 'cuda'; ConfigError when the GPU that was asked for is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' is not available", cure="Use device 'cpu' or 'auto'")
    return name


def use_device(run: Run) -> str:
    """Return the device of a run; on the CPU PyTorch takes as many threads as the profile gives a fold."""
    device = pick_device(run.device)
    if device == "cpu":
        torch.set_num_threads(run.profile.training.threads_per_fold)
    return device


def to_input(grids: np.ndarray, window: Window, device: str = "cpu") -> Tensor:
    """Return HU grids (N, z, y, x) or (N, S, z, y, x) as windowed float32 network input (N, S, z, y, x)."""
    grids = grids if grids.ndim == 5 else grids[:, None]
    return torch.from_numpy(apply_window(grids, window)).to(device, memory_format=torch.channels_last_3d)


def score(
    model: nn.Module,
    grids: np.ndarray,
    windows: Sequence[Window],
    *,
    batch_size: int | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Return the logit of every scan in every window, float32 (N, len(windows)); the model itself stays as it is.

    grids: int16 HU, (N, z, y, x), or (N, S, z, y, x) for a model of S scans. The result does not depend on the batch
    size, within rounding.
    """
    return score_twin(for_evaluation(model, device), grids, windows, batch_size=batch_size, device=device)


@torch.inference_mode()
def score_twin(
    twin: nn.Module, grids: np.ndarray, windows: Sequence[Window], *, batch_size: int | None = None, device: str = "cpu"
) -> np.ndarray:
    """Return what `score` returns, by a copy that `for_evaluation` has made: for callers that score many times."""
    logits = np.empty((len(grids), len(windows)), np.float32)
    for scans, column, x in _batches(grids, windows, batch_size, device):
        logits[scans, column] = twin(x).cpu().numpy()
    return logits


@torch.inference_mode()
def features(
    model: nn.Module, grids: np.ndarray, window: Window, *, batch_size: int | None = None, device: str = "cpu"
) -> np.ndarray:
    """Return the pooled features of every scan in one window, float32 (N, C); the model itself stays as it is."""
    twin = for_evaluation(model, device)
    batches = _batches(grids, [window], batch_size, device)
    return np.concatenate([twin.features(x).cpu().numpy() for _, _, x in batches])  # type: ignore[operator]


def for_evaluation(model: nn.Module, device: str) -> nn.Module:
    """Return a copy of a model in evaluation mode, each BatchNorm of its trunk folded into the convolution before it."""
    twin = copy.deepcopy(model).eval()
    for unit in twin.modules():
        if isinstance(unit, ConvUnit):
            unit.conv, unit.bn = fuse_conv_bn_eval(unit.conv, unit.bn), nn.Identity()  # type: ignore[assignment]
    return place(twin, device)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of logits, float64, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def prediction_rows(
    task: str,
    model: str,
    fold: int | str,
    epoch: int,
    table: pd.DataFrame,
    split: str | Sequence[str],
    window: str,
    logits: np.ndarray,
) -> pd.DataFrame:
    """Return rows of predictions.csv: the scans of `table` (scan_id, patient_id, hospital, label), logits (N,)."""
    if len(table) != len(logits):
        raise ValueError(f"{len(table)} scans, {len(logits)} logits")
    rows = table[["scan_id", "patient_id", "hospital", "label"]].reset_index(drop=True)
    logits = np.asarray(logits, np.float32)
    rows = rows.assign(
        task=task,
        model=model,
        fold=fold,
        epoch=epoch,
        split=split,
        window=window,
        logit=logits,
        probability=sigmoid(logits).astype(np.float32),
    )
    return rows[list(PREDICTIONS)]


def place(model: nn.Module, device: str) -> nn.Module:
    """Move a model to a device, its kernels in the layout in which they are fastest there, and return it.

    A kernel of one voxel has nothing to dilate, but PyTorch sends it to the fast CPU library only when it is dilated, the
    batch has 16 scans or there are several threads; else it is slow, and leaves a layout that slows the pools after it.
    """
    volumes = any(parameter.ndim == 5 for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1):
            module.dilation = (2, 2, 2) if device == "cpu" else (1, 1, 1)
    layout = torch.channels_last_3d if volumes else torch.channels_last
    return model.to(device=torch.device(device)).to(memory_format=layout)  # type: ignore[call-overload]


def _batches(
    grids: np.ndarray, windows: Sequence[Window], batch_size: int | None, device: str
) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield (scans, window number, input) in batches of even size, which the CPU's convolutions like."""
    size = batch_size or min(MOST_SCANS, MOST_VOXELS // math.prod(grids.shape[1:]))
    size = max(2, size - size % 2)
    starts = [(start, column) for start in range(0, len(grids), size) for column in range(len(windows))]
    for start, column in progress(starts, "scoring"):
        scans = slice(start, min(start + size, len(grids)))
        yield scans, column, to_input(np.asarray(grids[scans]), windows[column], device)
