"""The 2D baseline: a ResNet on single axial slices, its scan logit the mean over evenly spaced slices."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from covid3d.run.errors import WeightsError


class SliceResNet(nn.Module):
    """A timm ResNet with one input channel, applied slice by slice; (N, 1, D, H, W) -> (N,) logits.

    backbone:        resnet10t, resnet18 or resnet50
    pretrained:      a local safetensors file with timm's ImageNet weights (nothing is downloaded), or None
    size:            pixels in each row and column that the backbone sees
    slices_per_scan: evenly spaced slices of the grid that are averaged
    """

    def __init__(self, backbone: str, pretrained: Path | None, size: int, slices_per_scan: int):
        import timm  # takes seconds, and only this model needs it

        super().__init__()
        self.size, self.slices_per_scan = size, slices_per_scan
        self.net = timm.create_model(backbone, pretrained=False, in_chans=1, num_classes=1)
        if pretrained is not None:
            _load_imagenet(self.net, Path(pretrained), backbone)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.images(x)).reshape(len(x), -1).mean(1)

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

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        features = net.forward_head(net.forward_features(self.images(x)), pre_logits=True)  # (N * S, C)
        return net.fc(features.reshape(len(x), -1, features.shape[1]).amax(1)).squeeze(1)


def spaced_slices(depth: int, count: int) -> list[int]:
    """Return the centres of `count` equal parts of `depth` slices; all slices when there are fewer."""
    return list(range(depth)) if count >= depth else [int((part + 0.5) * depth / count) for part in range(count)]


def _load_imagenet(net: nn.Module, path: Path, backbone: str) -> None:
    """Load ImageNet weights from a local file, the first kernel summed over RGB, the classifier left as drawn."""
    cure = f"Put timm's {backbone} weights there as safetensors, or set slices.pretrained to false"
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
    expected = {name: tensor.shape for name, tensor in net.state_dict().items() if not name.startswith("fc.")}
    counters = {name for name in expected if name.endswith("num_batches_tracked")} - kept.keys()
    wrong = [name for name in expected.keys() - counters if name not in kept or kept[name].shape != expected[name]]
    if wrong or kept.keys() - expected.keys():
        raise WeightsError(f"these are not the weights of {backbone}", where=path.name, cure=cure)
    net.load_state_dict(kept, strict=False)
