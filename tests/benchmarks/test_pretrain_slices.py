"""The 2D trunk: it is trained slice by slice, and the 2D baseline starts from what was stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import pretrain, pretrain_slices, recipes
from covid3d.chapters.results import THREE_D, TWO_D
from covid3d.chapters.task1 import plan_of
from covid3d.commands import pipeline
from covid3d.ct.windows import Window
from covid3d.network import registry
from covid3d.network.start import fit_head_first
from covid3d.network.weights import describe_weights
from covid3d.run.errors import WeightsError
from covid3d.run.profile import SLICES_TRUNK, TRUNK, Profile, Run, RunConfig, load_profile


@pytest.fixture
def profile() -> Profile:
    """The profile `smoke` with a narrow 2D network that sees every slice."""
    smoke = load_profile("smoke")
    changes = {"width": 0.125, "slices_per_scan": smoke.model.grid[0], "pretrained": "phantom"}
    return smoke.model_copy(update={"slices": smoke.slices.model_copy(update=changes)})


def test_the_trunk_sees_one_slice_at_a_time_and_its_mean_is_what_the_baseline_sees(profile):
    model = pretrain_slices.fresh(profile).eval()
    trunk, x = pretrain_slices.SliceTrunk(model), torch.randn(2, 1, *profile.model.grid)
    other = x.clone()
    other[:, :, 3] = 0
    with torch.no_grad():
        maps, changed = trunk.forward_features(x), trunk.forward_features(other)
        torch.testing.assert_close(maps.mean((2, 3, 4)), model.features(x), rtol=0.05, atol=0.05)  # bfloat16
    assert [z for z in range(len(maps[0, 0])) if not torch.equal(maps[:, :, z], changed[:, :, z])] == [3]


def test_the_baseline_starts_from_the_stored_trunk_and_keeps_its_batch_norm(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "HELD_OUT", 2)
    monkeypatch.setattr("covid3d.run.profile.SLICES_TRUNK", tmp_path / "trunk.safetensors")
    rng, shape = np.random.default_rng(0), (6, *profile.model.grid)
    lung = np.ones(shape, np.float32)
    lesion = (rng.random(shape) < rng.random((6, 1, 1, 1))).astype(np.float32)
    grids = rng.integers(-1000, 100, shape).astype(np.int16)
    model = pretrain_slices.fresh(profile)
    before = model.net.conv1[0].weight.clone()
    trunk = pretrain_slices.SliceTrunk(model)
    pretrain.train(grids, lesion, lung, profile, 1, trunk=trunk, layers=pretrain_slices.LAYERS)
    assert not torch.equal(model.net.conv1[0].weight, before)
    pretrain_slices.save(model.net, profile, tmp_path / "trunk.safetensors", 6, 1)
    started = registry.build("resnet_2d", profile, seed=3)
    torch.testing.assert_close(started.net.conv1[0].weight, model.net.conv1[0].weight.float())
    fit_head_first(started, grids[:, None], np.array([0, 1] * 3), Window(-600.0, 1500.0), "cpu")
    mean = started.net.bn1.running_mean.clone()
    started.train()(torch.randn(2, 1, *profile.model.grid)).sum().backward()
    assert torch.equal(started.net.bn1.running_mean, mean) and started.head.weight.grad is not None
    wider = profile.model_copy(update={"slices": profile.slices.model_copy(update={"width": 0.25})})
    with pytest.raises(WeightsError, match=r"width = 0\.125, but 0\.25"):
        registry.build("resnet_2d", wider)


def test_recipes_from_scratch_train_both_networks_alike(tmp_path):
    run = Run("standard", tmp_path, RunConfig(profile="standard"), load_profile("standard"))
    scratch = [recipes.set_up(run, recipe) for recipe in recipes.RECIPES.values() if not recipe.pretrained]
    assert [changed.pretrained for changed in scratch] == [None, None]
    assert plan_of(scratch[0], THREE_D) == plan_of(scratch[1], TWO_D)
    assert plan_of(run, THREE_D) != plan_of(scratch[0], THREE_D)


@pytest.mark.parametrize(("path", "epochs"), [(TRUNK, pretrain.EPOCHS), (SLICES_TRUNK, pretrain_slices.EPOCHS)])
def test_a_stored_trunk_is_what_its_script_would_make(path, epochs):
    said = describe_weights(path)["source"]
    assert said.endswith(f"{pretrain.SCANS} simulated scans, seed {pretrain.SEED}, {epochs} epochs")


def test_another_slices_trunk_is_planned_anew(profile, make_run, tmp_path, monkeypatch):
    run = replace(make_run(), profile=profile)
    before = [pipeline.own_files(run, step) for step in ("slices", "comparator")]
    other = tmp_path / "trunk.safetensors"
    other.write_bytes(SLICES_TRUNK.read_bytes() + b" ")
    monkeypatch.setattr("covid3d.run.profile.SLICES_TRUNK", other)
    assert all(pipeline.own_files(run, step) != old for step, old in zip(("slices", "comparator"), before, strict=True))
