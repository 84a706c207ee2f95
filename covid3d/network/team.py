"""Several processes on one fold, started by torchrun: each takes its share of every batch, gradients are summed over all.

All processes draw the same order and augmentation, so the result is that of one process with the whole batch, within
rounding. BatchNorm alone may differ: on CUDA it takes the statistics of the whole batch (SyncBatchNorm, which has no CPU
form), on CPU each process those of its own share. The CUDA part is untested.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Team(NamedTuple):
    """The number of this process and of all; a process by itself is 0 of 1, and nothing here does anything then."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> "Team":
        """Return the team that torchrun has started this process in; `cuda` then means the process's own GPU."""
        if not dist.is_available() or not dist.is_torchelastic_launched():
            return cls()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def equip(self, model: nn.Module, device: str) -> None:
        """Give the model BatchNorm over the whole batch, where there is a form of it."""
        if self.size > 1 and device == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def share(self, count: int) -> slice:
        """Return which of the `count` examples of a batch are this process's."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place."""
        if self.size == 1:
            return
        parts = list(tensors)
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        for part, total in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))

    def average_statistics(self, model: nn.Module) -> None:
        """Replace BatchNorm's running statistics by their mean over all processes, so that all hold one model."""
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.size > 1 and statistics:
            self.add_up(statistics)
            for buffer in statistics:
                buffer /= self.size

    def leave(self) -> None:
        """End the team; every process but the first ends here, without a word: one process writes the result."""
        if self.size > 1:
            dist.destroy_process_group()
            if self.rank:
                raise SystemExit(0)
