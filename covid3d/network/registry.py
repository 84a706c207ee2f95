"""The registered models by name."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from covid3d.network.covid3d import Covid3D, PairedCovid3D
from covid3d.network.i3d import InceptionI3d
from covid3d.network.slices import SliceResNet
from covid3d.run.errors import ConfigError, nearest
from covid3d.run.profile import Profile, repository_root


def imagenet_file(backbone: str) -> Path:
    """Return where the ImageNet weights of a 2D backbone are looked for."""
    return repository_root() / "data" / "weights" / f"{backbone}.safetensors"


def _covid3d(profile: Profile) -> nn.Module:
    return Covid3D(width=profile.model.width)


def _pair(profile: Profile) -> nn.Module:
    return PairedCovid3D(InceptionI3d(in_channels=1, width=profile.model.width))


def _resnet_2d(profile: Profile) -> nn.Module:
    settings = profile.slices
    pretrained = imagenet_file(settings.backbone) if settings.pretrained else None
    return SliceResNet(settings.backbone, pretrained, settings.size, settings.slices_per_scan)


MODELS: dict[str, Callable[[Profile], nn.Module]] = {
    "covid3d": _covid3d,
    "resnet_2d": _resnet_2d,
    "single": _covid3d,
    "pair": _pair,
}


def build(name: str, profile: Profile, *, seed: int = 0) -> nn.Module:
    """Return a registered model of the profile's size, its starting weights drawn from `seed` alone."""
    if name not in MODELS:
        raise ConfigError(f"there is no model '{name}'", cure=nearest(name, MODELS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](profile)


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
