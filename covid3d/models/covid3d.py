"""COVID3D: an I3D trunk, global average pooling, one fully connected layer; and its two-scan variant."""

import torch
from torch import Tensor, nn

from covid3d.models.i3d import GlobalAveragePool, InceptionI3d


class Covid3D(nn.Module):
    """One chest CT to one logit of COVID+; (N, 1, D, H, W) in a lung window mapped to [-1, 1] -> (N,)."""

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.extractor = InceptionI3d(in_channels=1, width=width)
        self.pool = GlobalAveragePool()
        self.head = nn.Linear(self.extractor.channels, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features: (N, 1, D, H, W) -> (N, C)."""
        return self.pool(self.extractor(_one_channel(x, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)


class PairedCovid3D(nn.Module):
    """A prior and an index scan, one shared extractor, one fully connected layer on both feature vectors.

    (N, 2, D, H, W), channel 0 the prior and channel 1 the index scan -> (N,) logits.
    """

    def __init__(self, extractor: InceptionI3d):
        super().__init__()
        self.extractor = extractor
        self.pool = GlobalAveragePool()
        self.head = nn.Linear(2 * extractor.channels, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return prior then index features: (N, 2, D, H, W) -> (N, 2C)."""
        x = _one_channel(x, 2)
        both = x.reshape(-1, 1, *x.shape[2:]).contiguous(memory_format=torch.channels_last_3d)
        return self.pool(self.extractor(both)).reshape(len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)


def _one_channel(x: Tensor, scans: int) -> Tensor:
    """Return x when it is (N, scans, D, H, W), else raise ValueError."""
    if x.ndim != 5 or x.shape[1] != scans:
        raise ValueError(f"expected (N, {scans}, D, H, W), got {tuple(x.shape)}")
    return x
