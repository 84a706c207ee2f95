"""The registered models by name."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from covid3d.network.covid3d import Covid3D, PairedCovid3D
from covid3d.network.i3d import InceptionI3d
from covid3d.network.slices import SliceResNet
from covid3d.network.weights import load_weights
from covid3d.run.errors import ConfigError, WeightsError, nearest
from covid3d.run.profile import Profile


def slices_start(profile: Profile) -> Path | None:
    """Return the weights that the 2D baseline starts from, None when its values are drawn; WeightsError when they are missing."""
    path = profile.slices.weights
    if path and not path.is_file():
        cure = f"Put timm's {profile.slices.backbone} weights there as safetensors, or set slices.pretrained to null"
        raise WeightsError("the weights of the 2D baseline are not there", where=path.name, cure=cure)
    return path


def slice_network(profile: Profile, kind: type[SliceResNet] = SliceResNet) -> SliceResNet:
    """Return a ResNet on slices as the profile wants it; WeightsError when what it starts from does not fit."""
    settings, start = profile.slices, slices_start(profile)
    ours = settings.pretrained == "phantom"
    model = kind(settings.backbone, None if ours else start, settings.size, settings.slices_per_scan, settings.width)
    if start and ours:
        load_weights(start, model.net, expect={"model": settings.backbone, "width": f"{settings.width:g}"})
    return model


def _covid3d(profile: Profile) -> nn.Module:
    return Covid3D(width=profile.model.width)


def _pair(profile: Profile) -> nn.Module:
    return PairedCovid3D(InceptionI3d(in_channels=1, width=profile.model.width))


MODELS: dict[str, Callable[[Profile], nn.Module]] = {
    "covid3d": _covid3d,
    "resnet_2d": slice_network,
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
