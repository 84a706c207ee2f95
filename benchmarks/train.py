"""How fast a network trains: COVID3D beside a literal port of I3D and other 3D networks, in one run on the same inputs.

`python -m benchmarks.train [clinical|standard] …` writes benchmarks/results/train.csv and train_parts.csv (3 min on 2 cores).
Rounds go through all contenders in turn, with a matrix product between, so that a busy moment hits all alike; a share is the
contender's FLOP/s over that product's. The literal port is I3D as published ports write it: explicit padding before every
convolution and pool, ReLU out of place, default memory layout; it gives COVID3D's logits. Peers are built as their
documentation does, in default layout; MONAI's are left out, with a remark, where it is not installed.
"""

import copy
import importlib.metadata
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import campaigns
from benchmarks.phantom import machine
from covid3d.ct.windows import nominal_window
from covid3d.network.covid3d import Covid3D
from covid3d.network.i3d import ConvUnit, MaxPool, same_padding
from covid3d.network.scoring import place
from covid3d.network.training import Plan, augment
from covid3d.run.files import cpu_count
from covid3d.run.profile import load_profile

NAME, PARTS = "train", "train_parts"
MADE_BY = ("covid3d.network.covid3d", __file__)
GEMM = 2048
REPEATS = 7
GROUPS = {  # which part of a step an operator of torch belongs to, by what its name holds
    "convolution": ("convolution",),
    "batch norm": ("batch_norm",),
    "ReLU": ("relu", "clamp_min", "threshold"),
    "max pool": ("max_pool",),
    "Adam": ("Adam", "addcdiv", "addcmul", "sqrt", "lerp"),
}


@dataclass(frozen=True)
class Size:
    """Input (batch, z, y, x), width of I3D, threads, and whether the peers are measured too."""

    shape: tuple[int, int, int, int]
    width: float
    threads: int
    peers: bool


def size(name: str) -> Size:
    """Return `clinical` (2 x 32 x 112 x 112, full width, all cores) or `standard` (what that profile trains on)."""
    if name == "clinical":
        return Size((2, 32, 112, 112), 1.0, cpu_count(), True)
    profile = load_profile(name)
    shape = (profile.training.batch_size, *profile.model.grid)
    return Size(shape, profile.model.width, profile.training.threads_per_fold, False)


class LiteralUnit(nn.Module):
    """Zero padding to TensorFlow's 'SAME', convolution without padding, BatchNorm, ReLU: four passes over memory."""

    def __init__(self, unit: ConvUnit):
        super().__init__()
        self.kernel, self.stride, self.bn = (unit.kernel,) * 3, (unit.stride,) * 3, unit.bn
        self.conv = nn.Conv3d(unit.conv.in_channels, unit.conv.out_channels, unit.kernel, unit.stride, bias=False)
        self.conv.load_state_dict(unit.conv.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(padded(x, self.kernel, self.stride))))


class LiteralPool(nn.Module):
    """Zero padding to 'SAME' (after a ReLU zero never wins over a voxel), then the pool."""

    def __init__(self, pool: MaxPool):
        super().__init__()
        self.kernel, self.stride = pool.kernel, pool.stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(padded(x, self.kernel, self.stride), self.kernel, self.stride)


def padded(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return x with explicit zeros along all three axes, also where there are none to add."""
    sides = [same_padding(*one) for one in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.pad(x, [zeros for pair in reversed(sides) for zeros in pair])


def literal(module: nn.Module) -> nn.Module:
    """Return a copy of a network with each unit and pool replaced by its literal form, in default layout."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (ConvUnit, MaxPool)):
                setattr(parent, name, LiteralUnit(child) if isinstance(child, ConvUnit) else LiteralPool(child))
    return module.to(memory_format=torch.contiguous_format)


def s3d() -> nn.Module:
    from torchvision.models.video import s3d

    net = s3d(num_classes=1)
    net.avgpool = nn.AdaptiveAvgPool3d(1)  # its own takes videos of 224 pixels only
    return net


def r3d_18() -> nn.Module:
    from torchvision.models.video import r3d_18

    return r3d_18(num_classes=1)


def monai_resnet() -> nn.Module:
    from monai.networks.nets import resnet18

    return resnet18(spatial_dims=3, n_input_channels=1, num_classes=1)


def monai_densenet() -> nn.Module:
    from monai.networks.nets import DenseNet121

    return DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)


PEERS: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {  # package, input channels, how it is built
    "torchvision s3d": ("torchvision", 3, s3d),
    "torchvision r3d_18": ("torchvision", 3, r3d_18),
    "MONAI resnet18": ("monai", 1, monai_resnet),
    "MONAI DenseNet121": ("monai", 1, monai_densenet),
}


class Contender:
    """A network, its input and its Adam; one forward pass in evaluation mode, or one step of training."""

    def __init__(self, net: nn.Module, shape: Sequence[int], channels: int = 1, layout: bool = False):
        self.net = place(net, "cpu") if layout else net
        x = torch.randn(shape[0], channels, *shape[1:])
        self.x = x.contiguous(memory_format=torch.channels_last_3d) if layout else x
        self.labels = (torch.arange(shape[0]) % 2).float()
        self.adam = torch.optim.Adam(net.parameters(), 1e-4)
        with FlopCounterMode(display=False) as counter:
            self.forward()
        self.gflop_forward = counter.get_total_flops() / 1e9
        with FlopCounterMode(display=False) as counter:
            self.step()
        self.gflop_train = counter.get_total_flops() / 1e9

    def forward(self) -> Tensor:
        """Return the logits."""
        self.net.eval()
        with torch.no_grad():
            return self.net(self.x).flatten()

    def step(self) -> None:
        """Train on the one batch."""
        self.net.train()
        self.adam.zero_grad()
        F.binary_cross_entropy_with_logits(self.net(self.x).flatten(), self.labels).backward()
        self.adam.step()


def contenders(wanted: Size) -> dict[str, Contender]:
    """Return the networks of one size by name, those that are installed."""
    torch.manual_seed(0)
    net = Covid3D(wanted.width)
    found = {"literal port": Contender(literal(net), wanted.shape)}
    found = {"covid3d": Contender(net, wanted.shape, layout=True), **found}
    for name, (package, channels, build) in PEERS.items() if wanted.peers else ():
        if installed(package):
            found[name] = Contender(build(), wanted.shape, channels)
    return found


def gemm_rate() -> float:
    """Return GFLOP/s of one float32 product of two square matrices on torch's present number of threads."""
    a = torch.ones(GEMM, GEMM)
    out = torch.mm(a, a)
    return 2 * GEMM**3 / seconds(lambda: torch.mm(a, a, out=out)) / 1e9


def seconds(work: Callable[[], object]) -> float:
    """Return the wall seconds of a piece of work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(name: str, wanted: Size | None = None, repeats: int = REPEATS) -> pd.DataFrame:
    """Return one row a contender: seconds (medians), times ours, FLOPs of the built net, share of the matrix product."""
    wanted = wanted or size(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(wanted.threads)
    try:
        nets = contenders(wanted)
        rounds = [
            (contender, seconds(net.forward), seconds(net.step), gemm_rate())
            for _ in range(repeats + 1)
            for contender, net in nets.items()
        ][len(nets) :]  # the first round warms up
    finally:
        torch.set_num_threads(threads)
    table = pd.DataFrame(rounds, columns=["contender", "forward_s", "train_s", "gemm_gflops"])
    rate = table.pop("gemm_gflops").median()
    table = table.groupby("contender").median().reindex([*nets, *(set(PEERS) - set(nets) if wanted.peers else ())])
    for what in ("forward", "train"):
        table[f"{what}_times_ours"] = table[f"{what}_s"] / table.loc["covid3d", f"{what}_s"]
        table[f"{what}_gflop"] = pd.Series({one: getattr(net, f"gflop_{what}") for one, net in nets.items()})
        table[f"{what}_share_of_gemm"] = table[f"{what}_gflop"] / table[f"{what}_s"] / rate
    facts = {"input": "x".join(map(str, wanted.shape)), "width": wanted.width, "threads": wanted.threads}
    table["version"] = [version(PEERS[one][0]) if one in PEERS else "" for one in table.index]
    return table.reset_index().assign(**facts, gemm_gflops=rate, repeats=repeats, **machine()).round(4)


def installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def version(package: str) -> str:
    """Return a package's version, or that it is not installed."""
    return importlib.metadata.version(package) if installed(package) else "not installed"


def parts(name: str, steps: int = 5) -> pd.DataFrame:
    """Return where a training step's time goes: part, share of the step, and the convolutions' share of the product.

    The augmentation of a batch, which comes before the step, is given as a share of the step too.
    """
    wanted, profile = size(name), load_profile("standard")
    threads = torch.get_num_threads()
    torch.set_num_threads(wanted.threads)
    try:
        net = Contender(Covid3D(wanted.width), wanted.shape, layout=True)
        net.step()
        rates = [gemm_rate() for _ in range(3)]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watch:
            for _ in range(steps):
                net.step()
        rates += [gemm_rate() for _ in range(3)]
        plan, rng = Plan.of(profile.training, nominal_window(profile.windows)), np.random.default_rng(0)
        grids = rng.normal(-800, 100, (wanted.shape[0], 1, *wanted.shape[1:])).astype(np.int16)
        moving = statistics.median(seconds(lambda: augment(grids, plan, rng)) for _ in range(steps))
    finally:
        torch.set_num_threads(threads)
    times = pd.Series(0.0, index=[*GROUPS, "other"])
    for event in watch.key_averages():
        group = next((one for one, marks in GROUPS.items() if any(mark in event.key for mark in marks)), "other")
        times[group] += event.self_cpu_time_total / 1e6 / steps
    table = pd.DataFrame({"part": times.index, "seconds": times.values, "share_of_step": times.values / times.sum()})
    table.loc[len(table)] = ["augmentation, before the step", moving, moving / times.sum()]
    rate = net.gflop_train / times["convolution"] / statistics.median(rates)
    table.loc[table["part"] == "convolution", "share_of_gemm"] = rate
    return table.assign(threads=wanted.threads, **machine()).round(4)


def campaign(sizes: Sequence[str] = ("clinical", "standard")) -> pd.DataFrame:
    """Measure the sizes that are missing and return train.csv."""
    return campaigns.extend(NAME, "size", sizes, measure, MADE_BY)


def parts_campaign(sizes: Sequence[str] = ("clinical", "standard")) -> pd.DataFrame:
    """Measure the sizes that are missing and return train_parts.csv."""
    return campaigns.extend(PARTS, "size", sizes, parts, (*MADE_BY, "covid3d.network.training"))


if __name__ == "__main__":
    named = sys.argv[1:] or ("clinical", "standard")
    for found in (campaign(named), parts_campaign(named)):
        print(found.drop(columns=list(campaigns.STAMP)).to_string(index=False))
