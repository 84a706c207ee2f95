"""Inception-v1 I3D, the feature extractor of COVID3D.

Paper:    Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, arXiv:1705.07750
Source:   layer names and sizes of google-deepmind/kinetics-i3d (Apache-2.0); see `covid3d/kinetics` for its weights
Input:    (N, 1, D, H, W) float, a lung window mapped to [-1, 1]; depth ascends towards the head
Differs:  one input channel (exact when the first kernel is summed over RGB); BatchNorm keeps a scale, 1 in the source

    Conv3d_1a_7x7 -> pool -> Conv3d_2b_1x1 -> Conv3d_2c_3x3 -> pool
                  -> Mixed_3b, 3c -> pool -> Mixed_4b … 4f -> pool -> Mixed_5b, 5c
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels of one Inception block: branch 0 | branch 1: reduce, 3x3x3 | branch 2: reduce, 3x3x3 | branch 3.
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def scaled(channels: int, width: float) -> int:
    """Return `width` x `channels`, rounded up to a multiple of 8, which suits CPUs; width 1 keeps all."""
    return channels if width == 1 else 8 * math.ceil(channels * width / 8)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after one axis under TensorFlow's 'SAME': an odd total puts the extra one after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvUnit(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; (N, C, D, H, W) in and out; 'SAME' padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        inside = kernel // 2 if stride == 1 else 0  # at stride 1 'SAME' is symmetric, and padding inside is faster
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=inside, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:  # (2, 3) on even sizes: a symmetric 3 would give the right shape and wrong features
            pads = [same_padding(size, self.kernel, self.stride) for size in x.shape[:1:-1]]
            x = F.pad(x, [pad for pair in pads for pad in pair])
        return F.relu(self.bn(self.conv(x)), inplace=True)


class MaxPool(nn.Module):
    """Max pooling with 'SAME' padding; what lies outside never wins."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[2:], self.kernel, self.stride, strict=True)
        before = [same_padding(*one)[0] for one in sizes]
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)  # ceil_mode adds what lies after


class GlobalAveragePool(nn.Module):
    """Mean over space: (N, C, D, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4))


class Inception(nn.ModuleDict):
    """One Inception block: four branches side by side, joined along the channels.

    x --+-- 1x1x1 ------------------+
        +-- 1x1x1 ------- 3x3x3 ----+-- join
        +-- 1x1x1 ------- 3x3x3 ----+
        +-- pool 3x3x3 -- 1x1x1 ----+
    """

    def __init__(self, inputs: int, channels: Sequence[int]):
        a, b1, b3, c1, c3, d = channels
        unit, pool = ConvUnit, MaxPool((3, 3, 3), (1, 1, 1))
        super().__init__(
            {
                "Branch_0": _chain(Conv3d_0a_1x1=unit(inputs, a, 1)),
                "Branch_1": _chain(Conv3d_0a_1x1=unit(inputs, b1, 1), Conv3d_0b_3x3=unit(b1, b3, 3)),
                "Branch_2": _chain(Conv3d_0a_1x1=unit(inputs, c1, 1), Conv3d_0b_3x3=unit(c1, c3, 3)),
                "Branch_3": _chain(MaxPool3d_0a_3x3=pool, Conv3d_0b_1x1=unit(inputs, d, 1)),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.values()], dim=1)


class InceptionI3d(nn.ModuleDict):
    """The trunk of I3D as named endpoints, `Conv3d_1a_7x7` … `Mixed_5c`; `channels` of them leave the last one."""

    def __init__(self, in_channels: int = 1, width: float = 1.0):
        c = [scaled(channels, width) for channels in (64, 64, 192)]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["Conv3d_1a_7x7"] = ConvUnit(in_channels, c[0], 7, stride=2)  # D/2 x H/2 x W/2
        layers["MaxPool3d_2a_3x3"] = MaxPool((1, 3, 3), (1, 2, 2))  # D/2 x H/4 x W/4
        layers["Conv3d_2b_1x1"] = ConvUnit(c[0], c[1], 1)
        layers["Conv3d_2c_3x3"] = ConvUnit(c[1], c[2], 3)
        inputs = c[2]
        for name, channels in BLOCKS.items():
            if name == "Mixed_3b":
                layers["MaxPool3d_3a_3x3"] = MaxPool((1, 3, 3), (1, 2, 2))  # D/2 x H/8 x W/8
            elif name == "Mixed_4b":
                layers["MaxPool3d_4a_3x3"] = MaxPool((3, 3, 3), (2, 2, 2))  # D/4 x H/16 x W/16
            elif name == "Mixed_5b":
                layers["MaxPool3d_5a_2x2"] = MaxPool((2, 2, 2), (2, 2, 2))  # D/8 x H/32 x W/32
            sizes = [scaled(count, width) for count in channels]
            layers[name] = Inception(inputs, sizes)
            inputs = sizes[0] + sizes[2] + sizes[4] + sizes[5]
        super().__init__(layers)
        self.in_channels, self.channels, self.width = in_channels, inputs, width

    def forward_features(self, x: Tensor, *, start: str | None = None, stop: str | None = None) -> Tensor:
        """Return the feature map after endpoint `stop` (the last by default), from an input or the map after `start`.

        (N, in_channels, D, H, W) -> (N, C, D', H', W'). Raises KeyError for an unknown endpoint.
        """
        names = list(self)
        for name in (start, stop):
            if name is not None and name not in self:
                raise KeyError(f"no endpoint '{name}'; known: {', '.join(names)}")
        first = names.index(start) + 1 if start else 0
        last = names.index(stop) + 1 if stop else len(names)
        for name in names[first:last]:
            x = self[name](x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)


def _chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


class Depth(NamedTuple):
    """Layers on the longest path: those with weights, and pools."""

    weights: int
    pools: int

    @property
    def total(self) -> int:
        return self.weights + self.pools


def depth(model: nn.Module) -> Depth:
    """Count the layers on the longest path of a built network; COVID3D: 22 with weights + 5 pools = 27 (claim C001)."""
    if isinstance(model, (MaxPool, GlobalAveragePool)):
        return Depth(0, 1)
    if isinstance(model, (nn.Conv2d, nn.Conv3d, nn.Linear)):
        return Depth(1, 0)
    parts = [depth(child) for child in model.children()]
    if isinstance(model, Inception):
        return max(parts)
    return Depth(sum(part.weights for part in parts), sum(part.pools for part in parts))
