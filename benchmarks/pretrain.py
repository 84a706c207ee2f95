"""The trunk that `standard` starts from: pretrained on simulated scans to say where, and how much, the lungs are ill.

The patients are of another seed than any cohort and the class is never shown: the tasks are the share of each cell that is
lesion and lung (layers `LAYERS`), and, from the pooled features, how much lies in each part of the lungs and in all, and how
many separate opacities there are.

`python -m benchmarks.pretrain` (about 45 min on 2 idle cores) writes covid3d/data/trunk.safetensors, and with `check` the
first scans and one epoch only.
"""

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from benchmarks import campaigns
from covid3d.ct.grid import resize
from covid3d.ct.volume import HU_MAX, HU_MIN
from covid3d.ct.windows import nominal_window
from covid3d.network.registry import build
from covid3d.network.training import Plan, augment, one_cycle
from covid3d.network.weights import grid_text, save_weights
from covid3d.phantom import render, scanner
from covid3d.phantom.course import Appearance, appearance, draw_course
from covid3d.run.files import cpu_count, parallel_map, progress, random_seed
from covid3d.run.profile import TRUNK, Profile, load_profile

SEED, SCANS, HELD_OUT, EPOCHS, RATE = 501, 4000, 100, 16, 0.005
LAYERS = ("Mixed_3c", "Mixed_4f")
PARTS = (4, 2, 4)  # of the lungs' own extent along z, y, x
RIM_VOXELS = 2.0  # in the plane, about 12 mm
ILL_COUNTS = 20.0  # how much more a cell full of lesion counts than a healthy one
ILL, SEPARATE_VOXELS = (
    0.3,
    (2, 10),
)  # opacities are counted from this share of a voxel on, if they have more voxels than these
GROUPS = (math.prod(PARTS) + 2, len(SEPARATE_VOXELS), 1)  # amounts, numbers, and the log of the whole burden
Scan = tuple[np.ndarray, np.ndarray, np.ndarray]


def simulate(number: int, profile: Profile, seed: int = SEED) -> Scan:
    """Return the HU grid (int16) and the shares of lesion and lung (float32) of one simulated scan of hospital A, (z, y, x).

    Every other scan is a first one, the others lie anywhere between the first day and discharge; both classes alike.
    """
    name = f"pre-{number}"
    rng = np.random.default_rng(random_seed(seed, name))
    course = draw_course(seed, name)
    since = course.onset_to_first + (rng.uniform(0, course.discharge_day) if number % 2 else 0)
    sex, age = ("M" if rng.random() < 0.53 else "F"), float(np.clip(rng.normal(51, 15), 19, 88))
    patient = render.make_patient(seed, name, sex, age, number // 2 % 2, "A")
    rng = np.random.default_rng(random_seed(seed, name))
    look = appearance(course, since, rng, phase_visible=profile.phantom.phase_visible)
    return render_grid(patient, look, acquired(patient, "A", profile, rng), profile)


def acquired(patient: render.Patient, hospital: str, profile: Profile, rng: np.random.Generator) -> scanner.Acquisition:
    """Return how a hospital's scanner takes a scan of a patient at a profile's size."""
    size, extent = profile.phantom, (patient.thorax.height, patient.thorax.half_width)
    return scanner.acquire(hospital, *extent, size.matrix, size.slices or 40, rng)


def render_grid(patient: render.Patient, look: Appearance, acquisition: scanner.Acquisition, profile: Profile) -> Scan:
    """Return the HU grid (int16) and the shares of lesion and lung (float32) of what a scanner sees of a patient."""
    levels = render.find_levels(patient, look)
    hu, lesion, lung = [], [], []
    for first, slab in render.slabs(patient, look, levels, acquisition):
        stored = scanner.store(scanner.expose(slab.hu, acquisition, first), acquisition)
        hu.append(np.clip(stored.astype(np.float32) + acquisition.scanner.intercept, -1024, 3071))
        lesion.append(slab.lesion * slab.lung)
        lung.append(slab.lung)
    grid, *shares = (resize(np.concatenate(part), profile.model.grid) for part in (hu, lesion, lung))
    return np.rint(grid).astype(np.int16), *shares


def amounts(lesion: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """Return roots of the shares of the lungs that are ill in each of `PARTS`, and under the surface of each lung: (34,).

    The second half along x mirrors the first, so that a flipped scan has flipped amounts.
    """
    body, total = lung > 0.5, float(lung.sum())
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(body))
    ill, rim = lesion[box], ndimage.distance_transform_edt(np.pad(body, 1), sampling=(2, 1, 1))[1:-1, 1:-1, 1:-1][box]
    edges = [np.linspace(0, n, parts + 1).round().astype(int) for n, parts in zip(ill.shape, PARTS, strict=True)]
    sums = ill
    for axis, edge in enumerate(edges):
        sums = np.add.reduceat(sums, edge[:-1], axis=axis)
    outer, middle = np.where(rim <= RIM_VOXELS, ill, 0), ill.shape[2] // 2
    sides = [outer[:, :, :middle].sum(), outer[:, :, middle:].sum()]
    return np.sqrt(np.concatenate([sums.ravel(), sides]).clip(0) / total)


def separate(lesion: np.ndarray) -> np.ndarray:
    """Return roots of the numbers of separate opacities that have more voxels than `SEPARATE_VOXELS`: (2,)."""
    sizes = np.bincount(ndimage.label(lesion > ILL)[0].ravel())[1:]
    return np.sqrt([(sizes > voxels).sum() for voxels in SEPARATE_VOXELS])


def mirrored(values: Tensor) -> Tensor:
    """Return amounts (N, 34) of scans flipped left-right."""
    parts, sides = values[:, :-2].reshape(-1, *PARTS).flip(3), values[:, -2:].flip(1)
    return torch.cat([parts.flatten(1), sides], dim=1)


class Tasks(nn.Module):
    """A trunk with one 1x1x1 layer at each of `LAYERS` and one linear layer on the pooled features."""

    def __init__(self, trunk: nn.Module, channels: dict[str, int], outputs: int):
        super().__init__()
        self.trunk = trunk
        self.dense = nn.ModuleDict({name: nn.Conv3d(count, 2, 1) for name, count in channels.items()})
        self.pooled = nn.Linear(trunk.channels, outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the logits of lesion and lung in each layer's cells, and the amounts."""
        found, start = {}, None
        for name, layer in self.dense.items():
            x = self.trunk.forward_features(x, start=start, stop=name)  # type: ignore[operator]
            found[name], start = layer(x), name
        x = self.trunk.forward_features(x, start=start)  # type: ignore[operator]
        return found, self.pooled(x.mean((2, 3, 4)))


def loss_of(model: Tasks, x: Tensor, masks: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss of a batch; masks: shares (N, 2, z, y, x)."""
    dense, pooled = model(x)
    parts = (pooled.split(GROUPS, dim=1), wanted.split(GROUPS, dim=1))
    loss = torch.stack([F.mse_loss(*pair) for pair in zip(*parts, strict=True)]).sum()
    for logits in dense.values():
        share = F.adaptive_avg_pool3d(masks, logits.shape[2:])
        weight = 1 + ILL_COUNTS * share[:, :1]
        loss = loss + (F.binary_cross_entropy_with_logits(logits, share, reduction="none") * weight).mean()
    return loss


def train(
    grids: np.ndarray,
    lesion: np.ndarray,
    lung: np.ndarray,
    profile: Profile,
    epochs: int = EPOCHS,
    *,
    trunk: nn.Module | None = None,
    layers: tuple[str, ...] = LAYERS,
) -> nn.Module:
    """Return the trained trunk; grids int16 (N, z, y, x), shares (N, z, y, x). The last `HELD_OUT` scans only measure.

    trunk: another one than COVID3D's, with `channels` and `forward_features`, and the `layers` whose cells are asked for.
    """
    torch.manual_seed(SEED)
    trunk = trunk or build("covid3d", profile).get_submodule("extractor")
    where = np.stack([amounts(*pair) for pair in zip(lesion, lung, strict=True)])
    burden = np.log((where[:, :-2] ** 2).sum(1, keepdims=True) + 1e-3)
    fit, held = np.arange(len(grids) - HELD_OUT), np.arange(len(grids) - HELD_OUT, len(grids))
    counts = np.stack([separate(scan) for scan in lesion])
    parts = [
        (known - known[fit].mean(0)) / scale
        for known, scale in ((where, where[fit].std()), (counts, counts[fit].std(0)), (burden, burden[fit].std()))
    ]
    wanted = torch.tensor(np.concatenate(parts, axis=1), dtype=torch.float32)
    size = torch.zeros(1, 1, *profile.model.grid)
    channels = {name: trunk.forward_features(size, stop=name).shape[1] for name in layers}  # type: ignore[operator]
    model = Tasks(trunk, channels, wanted.shape[1])
    if all(parameter.ndim != 4 for parameter in model.parameters()):  # kernels of slices have no such layout
        model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    changes = {"epochs": epochs, "learning_rate": RATE, "hold": 0.2, "shift_voxels": 0, "rotation_degrees": 0.0}
    plan = replace(Plan.of(profile.training, nominal_window(profile.windows), **changes), flip=False)
    optimiser = torch.optim.Adam(model.parameters(), RATE, weight_decay=plan.weight_decay)
    masks = torch.from_numpy(np.stack([lesion, lung], axis=1).astype(np.float32, copy=False))
    for epoch in progress(range(1, epochs + 1), "epochs"):
        rng = np.random.default_rng(random_seed(SEED, "pretrain", epoch))
        batches = np.array_split(rng.permutation(fit), math.ceil(len(fit) / plan.batch_size))
        model.train()
        for number, batch in enumerate(batches):
            rate = one_cycle(((epoch - 1) * len(batches) + number) / (epochs * len(batches)), plan)
            optimiser.param_groups[0]["lr"] = rate
            loss = loss_of(model, *_inputs(grids, masks, wanted, batch, plan, rng))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(
            f"epoch {epoch}: correlation of log burden {_held_out(model, grids, wanted, held, plan):.3f}",
            flush=True,
        )
    return trunk


def _inputs(
    grids: np.ndarray, masks: Tensor, wanted: Tensor, batch: np.ndarray, plan: Plan, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch, half of it flipped left-right with its masks and amounts, which `augment` cannot flip."""
    x = augment(grids[batch][:, None], plan, rng)
    flip = torch.from_numpy(rng.random(len(batch)) < 0.5)
    x = torch.where(flip[:, None, None, None, None], x.flip(4), x).contiguous(memory_format=torch.channels_last_3d)
    shares = torch.where(flip[:, None, None, None, None], masks[batch].flip(4), masks[batch])
    where, *rest = wanted[batch].split(GROUPS, dim=1)
    amount = torch.cat([mirrored(where), *rest], dim=1)
    return x, shares, torch.where(flip[:, None], amount, wanted[batch])


def _held_out(model: Tasks, grids: np.ndarray, wanted: Tensor, held: np.ndarray, plan: Plan) -> float:
    """Return the correlation of the log burden foretold with the true one, held-out scans."""
    model.eval()
    quiet = replace(plan, window_jitter_hu=0.0)
    with torch.no_grad():
        parts = [
            model(augment(grids[batch][:, None], quiet, np.random.default_rng(0)))[1][:, -1]
            for batch in np.array_split(held, math.ceil(len(held) / plan.batch_size))
        ]
    return float(np.corrcoef(torch.cat(parts).numpy(), wanted[held, -1].numpy())[0, 1])


def save(trunk: nn.Module, profile: Profile, path: Path = TRUNK, **changes: str) -> None:
    """Write the trunk with what it is in its metadata; `changes` replace some of them."""
    metadata = {
        "model": "i3d",
        "width": f"{profile.model.width:g}",
        "grid": grid_text(profile.model.grid),
        "hu_clip": f"{HU_MIN},{HU_MAX}",
        "window": nominal_window(profile.windows).text,
        "trained_on": "phantom",
        "profile": profile.name,
        "manifest_sha256": "none",
        "commit": campaigns.stamp(())["commit"],
        "licence": "CC0-1.0",
        "source": f"python -m benchmarks.pretrain: {SCANS} simulated scans, seed {SEED}, {EPOCHS} epochs",
        "task": "share of lesion and lung in each cell, of each part of the lungs that is ill, number of lesions, no class",
    }
    save_weights(path, trunk, metadata | changes)


def scans(count: int, profile: Profile) -> Scan:
    """Simulate the first `count` scans: their grids, shares of lesion and shares of lung, (N, z, y, x)."""
    work = partial(simulate, profile=profile)
    found = list(parallel_map(work, range(count), workers=cpu_count(), description="scans to learn from"))
    grids, lesion, lung = (np.stack(part) for part in zip(*found, strict=True))
    return grids, lesion, lung


def main(count: int = SCANS, epochs: int = EPOCHS, path: Path = TRUNK) -> None:
    """Simulate the scans, train, and write the trunk."""
    profile = load_profile("standard")
    save(train(*scans(count, profile), profile, epochs), profile, path)


if __name__ == "__main__":
    main(*((HELD_OUT + 16, 1, Path("trunk-check.safetensors")) if sys.argv[1:] == ["check"] else ()))
