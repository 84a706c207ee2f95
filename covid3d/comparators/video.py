"""Two networks for video from torchvision, for one grey channel, trained from scratch.

S3D:    Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018, arXiv:1712.04851
r3d_18: Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018, arXiv:1711.11248
Differ: one input channel; all channels scaled by the profile's width, as in COVID3D; half of the epochs that the profile has
for a training from scratch, since these two take longest. S3D averages over whatever space is left, for small grids, has no
dropout, and its BatchNorm forgets as fast as the others' (0.1; with torchvision's 0.001 a short training would be scored with
the statistics of its start). The stem of r3d_18 halves the depth as well, as those of S3D and COVID3D do.
"""

from torch import Tensor, nn

from covid3d.comparators.interface import Network
from covid3d.run.errors import ConfigError
from covid3d.run.profile import Profile


def s3d(profile: Profile) -> Network:
    """Return S3D at the profile's width."""
    from torchvision.models.video import s3d as build

    net = build(weights=None, num_classes=1, dropout=0.0)
    net.avgpool = nn.AdaptiveAvgPool3d(1)
    return _network(profile, "S3D", net, "features.6")


def r3d_18(profile: Profile) -> Network:
    """Return the 18-layer 3D ResNet at the profile's width."""
    from torchvision.models.video import r3d_18 as build

    net = build(weights=None, num_classes=1)
    net.stem[0].stride = (2, 2, 2)
    return _network(profile, "3D ResNet-18", net, "layer3")


class VideoNet(nn.Module):
    """A video network for one grey channel; (N, 1, D, H, W) -> (N,) logits."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != 1:
            raise ValueError(f"expected (N, 1, D, H, W), got {tuple(x.shape)}")
        return self.net(x).squeeze(1)


def _network(profile: Profile, name: str, net: nn.Module, layer: str) -> Network:
    width = profile.model.width
    rescale(net, width)
    size = "full width" if width == 1 else f"width 1/{1 / width:g}"
    epochs = max(1, profile.training.epochs // 2)
    row = f"{name} ({size}, from scratch, {epochs} epoch{'s' * (epochs > 1)})"
    return Network.of(profile, row, VideoNet(net), f"net.{layer}", epochs=epochs)


def rescale(net: nn.Module, width: float) -> None:
    """Multiply the channels of every layer of a network of three input channels and one output by `width`, in place.

    The first layer gets one input channel. Kernels are drawn anew (He init). Raises ConfigError when `width` does not
    divide them all.
    """
    for name, layer in list(net.named_modules()):
        new: nn.Module
        if isinstance(layer, nn.Conv3d):
            inputs = 1 if layer.in_channels == 3 else scaled(layer.in_channels, width)
            outputs = layer.out_channels if layer.out_channels == 1 else scaled(layer.out_channels, width)
            shape = layer.kernel_size, layer.stride, layer.padding
            new = nn.Conv3d(inputs, outputs, *shape, bias=layer.bias is not None)  # type: ignore[arg-type]
            nn.init.kaiming_normal_(new.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm3d):
            new = nn.BatchNorm3d(scaled(layer.num_features, width), eps=layer.eps)
        elif isinstance(layer, nn.Linear):
            new = nn.Linear(scaled(layer.in_features, width), layer.out_features)
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, new)


def scaled(channels: int, width: float) -> int:
    """Return `width` x `channels` where that is a whole number, else raise ConfigError."""
    found = channels * width
    if found != int(found):
        raise ConfigError(
            f"{channels} channels cannot be scaled by {width:g}", cure="Use a width of 1, 1/2, 1/4 or 1/8"
        )
    return int(found)
