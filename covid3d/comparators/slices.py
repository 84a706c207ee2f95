"""Networks on axial slices: the 2D baseline of Table 1, and one that takes the strongest slice."""

from torch import nn

from covid3d.comparators.interface import Network
from covid3d.network import registry
from covid3d.network.slices import MaxPooledResNet
from covid3d.run.profile import Profile


def resnet_2d(profile: Profile) -> Network:
    """Return the ResNet whose scan logit is the mean of its slices' logits."""
    return _network(profile, "2D", registry.MODELS["resnet_2d"](profile))


def resnet_maxpool(profile: Profile) -> Network:
    """Return the ResNet whose features are max-pooled over slices."""
    settings = profile.slices
    pretrained = registry.imagenet_file(settings.backbone) if settings.pretrained else None
    net = MaxPooledResNet(settings.backbone, pretrained, settings.size, settings.slices_per_scan)
    return _network(profile, "2.5D max-pooled", net)


def _network(profile: Profile, kind: str, net: nn.Module) -> Network:
    settings = profile.slices
    start = "ImageNet weights" if settings.pretrained else "from scratch"
    backbone = settings.backbone.replace("resnet", "ResNet-")
    size = f"{settings.slices_per_scan} slices of {settings.size} px"
    row = f"{kind} {backbone} ({size}, {start}, {settings.epochs} epoch{'s' * (settings.epochs > 1)})"
    changes = settings.model_dump(include={"epochs", "batch_size", "learning_rate"})
    return Network.of(profile, row, net, "net.layer2", **changes)
