"""COVID3D: an I3D trunk, global average pooling, one fully connected layer; and its two-scan variant.

Paper:    "Using deep learning on chest CT to track COVID-19 patients", "2 Model" and "3 Prognosis"
Input:    (N, 1, D, H, W) or, for two scans, (N, 2, D, H, W); a lung window mapped to [-1, 1]
Differs:  nothing is known of dropout in the paper: it is off unless a caller asks for it

    scan  -> InceptionI3d -> mean over space -> dropout -> FC -> logit
    prior -> InceptionI3d -> mean over space -+
                  | one extractor             +-> dropout -> FC -> logit
    index -> InceptionI3d -> mean over space -+
"""

import torch
from torch import Tensor, nn

from covid3d.network.i3d import GlobalAveragePool, InceptionI3d


class Covid3D(nn.Module):
    """One chest CT to one logit of COVID+; (N, 1, D, H, W) in a lung window mapped to [-1, 1] -> (N,).

    width: scales the channels of the trunk; dropout: share of the pooled features zeroed in training.
    """

    def __init__(self, width: float = 1.0, dropout: float = 0.0):
        super().__init__()
        self.extractor = InceptionI3d(in_channels=1, width=width)
        self.pool = GlobalAveragePool()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.extractor.channels, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features: (N, 1, D, H, W) -> (N, C)."""
        return self.pool(self.extractor(_one_channel(x, 1)))  # (N, C, D/8, H/32, W/32) -> (N, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x))).squeeze(1)


class PairedCovid3D(nn.Module):
    """A prior and an index scan, one shared extractor, one fully connected layer on both feature vectors.

    (N, 2, D, H, W), channel 0 the prior and channel 1 the index scan -> (N,) logits.
    """

    def __init__(self, extractor: InceptionI3d, dropout: float = 0.0):
        super().__init__()
        self.extractor = extractor
        self.pool = GlobalAveragePool()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * extractor.channels, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return prior then index features: (N, 2, D, H, W) -> (N, 2C)."""
        x = _one_channel(x, 2)
        both = x.reshape(-1, 1, *x.shape[2:]).contiguous(memory_format=torch.channels_last_3d)  # (2N, 1, …)
        return self.pool(self.extractor(both)).reshape(len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x))).squeeze(1)


def _one_channel(x: Tensor, scans: int) -> Tensor:
    """Return x when it is (N, scans, D, H, W), else raise ValueError."""
    if x.ndim != 5 or x.shape[1] != scans:
        raise ValueError(f"expected (N, {scans}, D, H, W), got {tuple(x.shape)}")
    return x
