"""The trunk that the 2D baseline of `standard` starts from: pretrained as COVID3D's, but it sees one slice at a time.

Patients, tasks, targets, losses and rates are those of `benchmarks.pretrain`; the amounts of a scan are told from the mean of
its slices' features. It reads the scans fewer times, for from the fourth time on held-out scans gained nothing. So the two
differ in the network, in that, and in what it can know of depth.

`python -m benchmarks.pretrain_slices` (about 12 min to simulate on 2 idle cores, then 9 min on one) writes
covid3d/data/slices_trunk.safetensors, and with `check` the first scans and one epoch only.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import pretrain
from covid3d.network.registry import slice_network
from covid3d.network.slices import SliceResNet
from covid3d.run.profile import SLICES_TRUNK, Profile, load_profile

EPOCHS = 6
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
LAYERS = ("layer2", "layer3")  # cells as wide as those of COVID3D's `pretrain.LAYERS`


class SliceTrunk(nn.Module):
    """The ResNet of a `SliceResNet` as `pretrain.Tasks` wants a trunk; every slice for itself, bfloat16 inside.

    (N, 1, D, H, W) -> (N, C, D, H', W').
    """

    def __init__(self, model: SliceResNet):
        super().__init__()
        self.net: Any = model.net
        self.channels = model.head.in_features

    def forward_features(self, x: Tensor, *, start: str | None = None, stop: str | None = None) -> Tensor:
        """Return the maps after stage `stop` (the last by default), from an input or the maps after `start`."""
        count, first = len(x), STAGES.index(start) + 1 if start else 0
        x = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (N * D, C, H, W)
        with torch.autocast("cpu", torch.bfloat16):
            for stage in STAGES[first : STAGES.index(stop) + 1 if stop else None]:
                x = self.stem(x) if stage == "stem" else self.net.get_submodule(stage)(x)
        return x.float().unflatten(0, (count, -1)).transpose(1, 2)

    def stem(self, x: Tensor) -> Tensor:
        """Return the maps that the first stage gets."""
        return self.net.maxpool(self.net.act1(self.net.bn1(self.net.conv1(x))))


def fresh(profile: Profile) -> SliceResNet:
    """Return the profile's 2D network with random values, those of `pretrain.SEED`."""
    torch.manual_seed(pretrain.SEED)
    return slice_network(profile.model_copy(update={"slices": profile.slices.model_copy(update={"pretrained": None})}))


def save(net: nn.Module, profile: Profile, path: Path, count: int, epochs: int) -> None:
    """Write the ResNet in half precision, with what it is in its metadata."""
    source = f"python -m benchmarks.pretrain_slices: {count} simulated scans, seed {pretrain.SEED}, {epochs} epochs"
    settings = profile.slices
    pretrain.save(net.half(), profile, path, model=settings.backbone, width=f"{settings.width:g}", source=source)


def main(count: int = pretrain.SCANS, epochs: int = EPOCHS, path: Path = SLICES_TRUNK) -> None:
    """Simulate the scans, train, and write the trunk."""
    profile = load_profile("standard")
    model = fresh(profile)
    pretrain.train(*pretrain.scans(count, profile), profile, epochs, trunk=SliceTrunk(model), layers=LAYERS)
    save(model.net, profile, path, count, epochs)


if __name__ == "__main__":
    check = (pretrain.HELD_OUT + 16, 1, Path("slices-trunk-check.safetensors"))
    main(*(check if sys.argv[1:] == ["check"] else ()))
