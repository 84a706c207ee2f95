"""Networks on axial slices: the 2D baseline of Table 1, and one that takes the strongest slice."""

from torch import nn

from covid3d.comparators.interface import Network
from covid3d.network import registry
from covid3d.network.slices import MaxPooledResNet
from covid3d.run.profile import Profile


def resnet_2d(profile: Profile) -> Network:
    """Return the ResNet whose scan logit is the mean of its slices' logits."""
    return _network(profile, "2D", registry.slice_network(profile))


def resnet_maxpool(profile: Profile) -> Network:
    """Return the ResNet whose features are max-pooled over slices."""
    return _network(profile, "2.5D max-pooled", registry.slice_network(profile, MaxPooledResNet))


def _network(profile: Profile, kind: str, net: nn.Module) -> Network:
    settings = profile.slices
    size, epochs = f"{settings.slices_per_scan} slices of {settings.size} px", settings.epochs
    row = f"{kind} {settings.network} ({size}, {settings.start}, {epochs} epoch{'s' * (epochs > 1)})"
    changes = settings.model_dump(include={"epochs", "batch_size", "learning_rate"})
    return Network.of(profile, row, net, "net.layer2", head_first=settings.head_first, **changes)
