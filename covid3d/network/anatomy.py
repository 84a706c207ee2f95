"""What a built network looks like from outside: each stage's output, parameters and work, and what one cell sees."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import nn

from covid3d.network.covid3d import Covid3D
from covid3d.network.i3d import ConvUnit, GlobalAveragePool, Inception, InceptionI3d, MaxPool

KINDS = {
    ConvUnit: "convolution",
    MaxPool: "max pool",
    Inception: "Inception block",
    GlobalAveragePool: "average pool",
    nn.Linear: "fully connected",
}


def stages(model: Covid3D, grid: Sequence[int]) -> pd.DataFrame:
    """Return one row a stage, from the stem to the FC layer, for one scan on a grid (z, y, x).

    Columns: stage, kind, channels, z, y, x (the output's), parameters, gflop (10^9 operations of one forward pass, two a
    multiplication and addition; convolutions and the FC layer only). Read from the layers; nothing passes the network.
    """
    size, channels, rows = tuple(grid), model.extractor.in_channels, []
    for name, stage in (*model.extractor.items(), ("pool", model.pool), ("head", model.head)):
        stride = np.broadcast_to(size if name == "pool" else getattr(stage, "stride", 1), 3)
        size = tuple(-(-cells // step) for cells, step in zip(size, stride.tolist(), strict=True))
        channels = _outputs(stage) or channels
        kernels = sum(
            part.numel() for part in stage.parameters() if part.ndim > 1
        )  # each visits every cell of the output
        total = sum(part.numel() for part in stage.parameters())
        rows.append((name, KINDS[type(stage)], channels, *size, total, 2e-9 * kernels * math.prod(size)))
    return pd.DataFrame(rows, columns=["stage", "kind", "channels", "z", "y", "x", "parameters", "gflop"])


def receptive_fields(trunk: InceptionI3d) -> pd.DataFrame:
    """Return how many input voxels (z, y, x) one cell of each endpoint depends on; columns stage, z, y, x.

    A layer of kernel k adds k - 1 steps of its input, and its stride multiplies the step; branches side by side count
    by the longest (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019).
    """
    field, step, rows = np.ones(3, int), np.ones(3, int), []
    for name, stage in trunk.items():
        field = field + (_reach(stage) - 1) * step
        step = step * np.broadcast_to(getattr(stage, "stride", 1), 3)
        rows.append((name, *field.tolist()))
    return pd.DataFrame(rows, columns=["stage", "z", "y", "x"])


def branches(block: Inception) -> list[list[tuple[str, int | None]]]:
    """Return the layers of each branch in order: name, and channels that leave it (None for a pool)."""
    return [
        [(name, layer.conv.out_channels if isinstance(layer, ConvUnit) else None) for name, layer in branch.items()]
        for branch in (dict(chain.named_children()) for chain in block.values())
    ]


def _outputs(stage: nn.Module) -> int:
    """Return the channels that a stage gives, 0 for a pool, which keeps those it gets."""
    if isinstance(stage, Inception):
        return sum(chain[-1][1] or 0 for chain in branches(stage))
    if isinstance(stage, ConvUnit):
        return stage.conv.out_channels
    return stage.out_features if isinstance(stage, nn.Linear) else 0


def _reach(module: nn.Module) -> np.ndarray:
    """Return the kernel (z, y, x) that a module of layers at stride 1, or a single layer, amounts to."""
    if isinstance(module, (ConvUnit, MaxPool)):
        return np.broadcast_to(np.asarray(module.kernel), 3)
    parts = [_reach(child) for child in module.children()]
    if isinstance(module, Inception):
        return np.max(parts, axis=0)
    return 1 + np.sum([part - 1 for part in parts], axis=0)
