"""How training starts from a trunk that is not random: the head is fitted first, and batch norm stays as it was pretrained."""

import numpy as np
import torch
from torch import nn

from covid3d.ct.windows import Window
from covid3d.network.scoring import features
from covid3d.stats.survival import linear_head

COMPONENTS = 8


class FixedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm of slices or volumes that keeps its statistics while few scans in small batches fine-tune the rest."""

    def train(self, mode: bool = True) -> "FixedBatchNorm":
        """Stay in evaluation mode whatever is asked for."""
        super().train(False)
        return self

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Take what the layer took before."""


def fix_batch_norm(model: nn.Module) -> None:
    """Let every BatchNorm of a model keep its statistics from now on."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = FixedBatchNorm  # type: ignore[assignment]


def set_head(model: nn.Module, weight: np.ndarray, bias: float) -> None:
    """Set a model's head to a weight (C,) and a bias."""
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.asarray(weight, np.float32))[None])
        head.bias.fill_(bias)


def fit_head_first(model: nn.Module, grids: np.ndarray, labels: np.ndarray, window: Window, device: str) -> None:
    """Fix batch norm, and set the head to a ridge logistic regression on components of the trunk's features.

    grids: int16 HU (N, S, z, y, x); labels (N,). Linear probing before fine-tuning (Kumar et al., ICLR 2022): a random head
    would first undo what the trunk has learned.
    """
    fix_batch_norm(model)
    found = features(model, grids, window, device=device).astype(float)
    set_head(model, *linear_head(found, labels.astype(float), COMPONENTS))
