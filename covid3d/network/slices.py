"""The 2D baseline: a ResNet on single axial slices, its scan logit the mean of the logits of evenly spaced slices."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from covid3d.network.i3d import scaled
from covid3d.run.errors import WeightsError

CHANNELS = (64, 128, 256, 512)
"""What the four stages of a timm ResNet hold at width 1."""


class SliceResNet(nn.Module):
    """A timm ResNet with one input channel, applied slice by slice; (N, 1, D, H, W) -> (N,) logits.

    The head is one fully connected layer on the mean of the slices' features: the mean of the slices' logits.

    backbone:        resnet10t, resnet18 or resnet50
    width:           scales its channels, as that of I3D; 1 is timm's own
    pretrained:      a local safetensors file with timm's ImageNet weights (nothing is downloaded), or None
    size:            pixels in each row and column that the backbone sees
    slices_per_scan: evenly spaced slices of the grid that are averaged
    """

    def __init__(self, backbone: str, pretrained: Path | None, size: int, slices_per_scan: int, width: float = 1.0):
        import timm  # takes seconds, and only this model needs it

        super().__init__()
        self.size, self.slices_per_scan = size, slices_per_scan
        narrow: dict[str, Any] = {
            "channels": [scaled(count, width) for count in CHANNELS],
            "stem_width": scaled(32, width),
        }
        self.net = timm.create_model(backbone, in_chans=1, num_classes=0, **(narrow if width < 1 else {}))
        self.head = nn.Linear(self.net.num_features, 1)  # type: ignore[arg-type]
        if pretrained is not None:
            _load_imagenet(self.net, Path(pretrained), backbone)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of scans, the mean over their slices: (N, 1, D, H, W) -> (N, C)."""
        return self.each(x).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)

    def each(self, x: Tensor) -> Tensor:
        """Return the features of every slice: (N, 1, D, H, W) -> (N, S, C)."""
        return self.net(self.images(x)).unflatten(0, (len(x), -1))

    def images(self, x: Tensor) -> Tensor:
        """Return the slices of scans as images, those of one scan together: (N, 1, D, H, W) -> (N * S, 1, size, size)."""
        if x.ndim != 5 or x.shape[1] != 1:
            raise ValueError(f"expected (N, 1, D, H, W), got {tuple(x.shape)}")
        slices = x[:, 0, spaced_slices(x.shape[2], self.slices_per_scan)]  # (N, S, H, W)
        if slices.shape[-2:] != (self.size, self.size):
            slices = F.interpolate(slices, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return slices.reshape(-1, 1, self.size, self.size).contiguous(memory_format=torch.channels_last)


class MaxPooledResNet(SliceResNet):
    """The same ResNet, its features max-pooled over a scan's slices before the one fully connected layer ("2.5D").

    As COVNet (Li et al., Radiology 2020, doi:10.1148/radiol.2020200905); (N, 1, D, H, W) -> (N,) logits.
    """

    def features(self, x: Tensor) -> Tensor:
        """Return the largest value of each feature over a scan's slices: (N, 1, D, H, W) -> (N, C)."""
        return self.each(x).amax(1)


def spaced_slices(depth: int, count: int) -> list[int]:
    """Return the centres of `count` equal parts of `depth` slices; all slices when there are fewer."""
    return list(range(depth)) if count >= depth else [int((part + 0.5) * depth / count) for part in range(count)]


def _load_imagenet(net: nn.Module, path: Path, backbone: str) -> None:
    """Load ImageNet weights from a local file, the first kernel summed over RGB, the classifier left as drawn."""
    cure = f"Put timm's {backbone} weights there as safetensors, or set slices.pretrained to null"
    if not path.is_file():
        raise WeightsError("the ImageNet weights are not there", where=path.name, cure=cure)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"not a readable safetensors file ({error})", where=path.name, cure=cure) from error
    first = next(name for name, tensor in net.state_dict().items() if tensor.ndim == 4)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    if first in kept:
        kept[first] = kept[first].float().sum(1, keepdim=True)
    expected = {name: tensor.shape for name, tensor in net.state_dict().items()}
    counters = {name for name in expected if name.endswith("num_batches_tracked")} - kept.keys()
    wrong = [name for name in expected.keys() - counters if name not in kept or kept[name].shape != expected[name]]
    if wrong or kept.keys() - expected.keys():
        raise WeightsError(f"these are not the weights of {backbone}", where=path.name, cure=cure)
    net.load_state_dict(kept, strict=False)
