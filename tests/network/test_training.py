"""Training: learns, resumes to equal bytes, augments without destroying the signal, and fails clearly."""

import errno
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from covid3d.ct.windows import Window, apply_window
from covid3d.network import training
from covid3d.network.covid3d import Covid3D
from covid3d.network.scoring import score
from covid3d.network.training import Examples, Plan, TrainingError, augment, fit, one_cycle
from covid3d.network.weights import write_tensors
from covid3d.run.errors import StorageError, WeightsError
from covid3d.run.files import write_text
from covid3d.run.profile import load_profile

NOMINAL = Window(-600, 1500)
PLAN = Plan(3, 4, 0.01, 0.25, 0.0, 1e-4, 1e-4, True, 2, 5.0, 20.0, 1, NOMINAL)
STILL = replace(PLAN, flip=False, shift_voxels=0, rotation_degrees=0.0, window_jitter_hu=0.0)


def examples(count: int, seed: int, shape=(8, 32, 32)) -> Examples:
    """Noise; in class 1 a bright block lies low and at the back, in class 0 high and in front."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    grids = rng.normal(-850, 60, (count, *shape))
    for grid, label in zip(grids, labels, strict=True):
        z, y = (slice(0, 3), slice(18, 26)) if label else (slice(5, 8), slice(6, 14))
        grid[z, y, 6:14] += 500
    table = pd.DataFrame({"scan_id": [f"{seed}-{number}" for number in range(count)], "hospital": "A", "label": labels})
    return Examples.of(table.assign(patient_id=table["scan_id"]), grids.astype(np.int16))


def start(seed: int = 0) -> Covid3D:
    torch.manual_seed(seed)
    return Covid3D(1 / 16)


def run_fit(model: Covid3D, checkpoint: Path | None = None, plan: Plan = PLAN, seed: int = 7) -> training.Fit:
    return fit(model, examples(14, 1), examples(6, 2), plan, checkpoint=checkpoint, seed=seed)


def outcome(model: Covid3D, result: training.Fit, folder: Path) -> tuple[bytes, str, bytes]:
    """Everything a fold writes, as bytes."""
    write_tensors(folder / "weights.safetensors", model.state_dict(), {})
    return (folder / "weights.safetensors").read_bytes(), result.history.to_csv(), result.epoch_logits.tobytes()


def test_it_learns_an_easy_signal_that_flips_would_destroy():
    model = start()
    result = fit(model, examples(32, 1), examples(16, 2), replace(PLAN, epochs=8), seed=1)
    assert result.history["validation_auc"].iloc[-1] > 0.95
    assert result.history["train_loss"].iloc[-1] < 0.75 * result.history["train_loss"].iloc[0]
    assert list(result.history) == ["epoch", "train_loss", "validation_loss", "validation_auc"]
    assert result.epoch_logits.shape == (8, 16)
    np.testing.assert_allclose(score(model, examples(16, 2).grids, [NOMINAL])[:, 0], result.logits, atol=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    one, two, other = start(), start(), start()
    first = outcome(one, run_fit(one), tmp_path)
    assert first == outcome(two, run_fit(two), tmp_path)
    assert first != outcome(other, run_fit(other, seed=8), tmp_path)


def test_a_fit_interrupted_after_each_epoch_ends_in_the_same_bytes(tmp_path, monkeypatch):
    straight = start()
    expected = outcome(straight, run_fit(straight), tmp_path)
    save, checkpoint = training._save_checkpoint, tmp_path / "checkpoints" / "fold.safetensors"

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save_checkpoint", save_and_stop)
    for _ in range(PLAN.epochs):
        with pytest.raises(KeyboardInterrupt):
            run_fit(start(), checkpoint)
    monkeypatch.setattr(training, "_save_checkpoint", save)
    model = start()
    assert outcome(model, run_fit(model, checkpoint), tmp_path) == expected
    assert not checkpoint.exists()


@pytest.mark.parametrize("kind", ["other plan", "truncated"])
def test_a_checkpoint_of_another_fit_or_a_broken_one_is_not_taken_up(tmp_path, monkeypatch, kind):
    save, checkpoint = training._save_checkpoint, tmp_path / "fold.safetensors"

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_save_checkpoint", save_and_stop)
        run_fit(start(), checkpoint, replace(PLAN, learning_rate=0.02) if kind == "other plan" else PLAN)
    if kind == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    straight, again = start(), start()
    expected = outcome(straight, run_fit(straight), tmp_path)
    assert outcome(again, run_fit(again, checkpoint), tmp_path) == expected


def test_a_loss_that_is_not_finite_stops_with_epoch_batch_scans_and_cure():
    model = start()
    model.head.bias.data.fill_(float("nan"))
    with pytest.raises(
        TrainingError, match=r"epoch 1, batch 1 of 4 \(scans 1-\d+(, 1-\d+){3}\): the training loss"
    ) as error:
        run_fit(model)
    assert "learning rate" in error.value.cure


def test_a_validation_logit_that_is_not_finite_stops_with_epoch_and_scan(monkeypatch):
    found = np.array([[0.0]] * 4 + [[np.nan], [0.0]], np.float32)
    monkeypatch.setattr(training, "score", lambda *_, **__: found)
    with pytest.raises(TrainingError, match="epoch 1, scan 2-4: a validation logit is not finite"):
        run_fit(start())


@pytest.mark.parametrize("side", ["training", "validation"])
def test_a_scan_that_is_the_same_everywhere_is_refused_by_name(side):
    parts = {"training": examples(14, 1), "validation": examples(6, 2)}
    parts[side].grids[3] = -1024
    with pytest.raises(TrainingError, match="scan [12]-3: the grid is -1024 HU everywhere") as error:
        fit(start(), *parts.values(), PLAN, seed=7)
    assert "intake" in error.value.cure


def test_grids_that_are_no_int16_hu_are_refused():
    train = examples(14, 1)
    broken = replace(train, grids=np.full(train.grids.shape, np.nan, np.float32))
    with pytest.raises(TrainingError, match="the grids are float32, not int16 HU"):
        fit(start(), broken, examples(6, 2), PLAN, seed=7)


def test_the_cost_of_the_epochs_to_go_is_told_after_the_first(tmp_path, capsys):
    run_fit(start(), tmp_path / "fold.safetensors")
    assert re.search(
        r"2 epochs to go: about \d+\.\d min, \d+\.\d GB memory, \d+ MB of checkpoint", capsys.readouterr().out
    )


def test_inputs_made_ahead_are_the_same_in_the_same_order():
    inputs = [torch.full((2,), float(number)) for number in range(5)]
    assert [x.tolist() for x in training._ahead(iter(inputs))] == [x.tolist() for x in inputs]


def test_a_full_disk_stops_with_one_clear_message(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="no space left on device") as error:
        run_fit(start(), tmp_path / "fold.safetensors")
    assert "Free some space" in error.value.cure
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_seen_once_an_epoch(monkeypatch):
    seen: list[np.ndarray] = []

    def watch(grids: np.ndarray, *arguments: object) -> torch.Tensor:
        seen.append(grids[:, 0, 0, 0, 0])
        return augment(grids, *arguments)

    monkeypatch.setattr(training, "augment", watch)
    run_fit(start(), plan=replace(STILL, epochs=1))
    train = examples(14, 1).grids[:, 0, 0, 0, 0]
    assert sorted(np.concatenate(seen)) == sorted(train)
    assert max(map(len, seen)) == 4 and min(map(len, seen)) >= 3


def test_threads_and_determinism_are_given_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    run_fit(start(), plan=replace(PLAN, epochs=1))
    found = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert found == 3 and not torch.are_deterministic_algorithms_enabled()


def test_the_rate_rises_to_its_peak_falls_to_its_final_value_and_stays_there():
    plan = replace(PLAN, warm_up=0.25, hold=0.4, final_rate=0.02)
    rates = np.array([one_cycle(step / 100, plan) for step in range(100)])
    assert rates[0] == pytest.approx(0.0004) and rates.max() == rates[25] == pytest.approx(0.01)
    assert (np.diff(rates[:26]) > 0).all() and (np.diff(rates[25:61]) < 0).all()
    np.testing.assert_allclose(rates[60:], 0.0002)
    assert one_cycle(0.0, replace(plan, warm_up=0.0)) == pytest.approx(0.01)


def test_a_cycle_without_a_constant_end_falls_to_nearly_nothing():
    rates = np.array([one_cycle(step / 100, replace(PLAN, hold=0.0, final_rate=1e-4)) for step in range(100)])
    assert (np.diff(rates[25:]) < 0).all() and 1e-6 < rates[-1] < 1e-5


def grid_of_a_block() -> np.ndarray:
    grid = np.full((1, 1, 8, 32, 32), -850, np.int16)
    grid[0, 0, 1:3, 22:28, 4:10] = 0
    return grid


def centre(x: torch.Tensor) -> np.ndarray:
    weights = (x[0, 0] - x.min()).numpy()
    return np.array(
        [
            (weights.sum(tuple({0, 1, 2} - {axis})) * np.arange(size)).sum() / weights.sum()
            for axis, size in enumerate(weights.shape)
        ]
    )


def test_without_augmentation_the_input_is_the_windowed_grid():
    grid = grid_of_a_block()
    x = augment(grid, STILL, np.random.default_rng(0))
    np.testing.assert_allclose(x.numpy(), apply_window(grid, NOMINAL), atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last_3d)


def test_flips_go_left_right_only():
    rng, plan = np.random.default_rng(0), replace(STILL, flip=True)
    centres = np.array([centre(augment(grid_of_a_block(), plan, rng)) for _ in range(40)])
    assert set(centres[:, 2].round(2)) == {6.5, 24.5}
    assert set(centres[:, 0].round(2)) == {1.5} and set(centres[:, 1].round(2)) == {24.5}


def test_shifts_are_whole_voxels_along_every_axis():
    rng, plan = np.random.default_rng(0), replace(STILL, shift_voxels=2)
    moved = np.array([centre(augment(grid_of_a_block(), plan, rng)) for _ in range(60)]) - [1.5, 24.5, 6.5]
    assert set(moved[:, 2].round(2)) == set(moved[:, 1].round(2)) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert moved[:, 0].min() < -0.4 and moved[:, 0].max() == pytest.approx(2)  # below, the block leaves the grid


def test_rotation_turns_in_the_axial_plane_about_the_centre():
    rng, plan = np.random.default_rng(0), replace(STILL, rotation_degrees=5.0)
    moved = np.array([centre(augment(grid_of_a_block(), plan, rng)) for _ in range(40)])
    radius = np.hypot(moved[:, 1] - 15.5, moved[:, 2] - 15.5)
    angle = np.degrees(np.arctan2(moved[:, 1] - 15.5, moved[:, 2] - 15.5)) - np.degrees(np.arctan2(9, -9))
    assert moved[:, 0] == pytest.approx(1.5, abs=1e-3)
    assert radius == pytest.approx(np.hypot(9, 9), abs=0.1)
    assert 3 < np.abs(angle).max() <= 5.2 and angle.min() < 0 < angle.max()


def test_both_scans_of_a_pair_move_alike():
    pair = np.concatenate([grid_of_a_block()] * 2, 1)
    x = augment(pair, PLAN, np.random.default_rng(3))
    assert torch.equal(x[:, 0], x[:, 1])


def test_window_jitter_changes_each_example_a_little():
    x = augment(
        np.concatenate([grid_of_a_block()] * 4), replace(STILL, window_jitter_hu=20.0), np.random.default_rng(0)
    )
    background = x[:, 0, 0, 0, 0].numpy()
    assert len(set(background.round(5))) == 4
    assert np.abs(background - apply_window(np.array([-850]), NOMINAL)).max() < 0.05


def test_a_fold_is_written_with_every_epochs_validation_logits_and_loads_exactly(make_run):
    profile = load_profile("smoke")
    small = profile.model_copy(update={"model": profile.model.model_copy(update={"width": 1 / 16})})
    run = replace(make_run(), profile=small)
    write_text(run.manifest, "scan_id\n")
    folder, model = run.model("task1", "covid3d", 0), start()
    result = run_fit(model)
    training.write_fold(folder, run, "task1", "covid3d", 0, model, result, examples(6, 2))
    rows = pd.read_csv(folder / "predictions.csv", dtype={"scan_id": str})
    assert len(rows) == 3 * 6 and set(rows["epoch"]) == {1, 2, 3} and set(rows["split"]) == {"validation"}
    assert rows.loc[rows["epoch"] == 3, "logit"].to_numpy(np.float32).tolist() == result.logits.tolist()
    assert training.weights_metadata(run, "covid3d")["hu_clip"] == "-1024,3071"
    loaded = training.load_fold(run, "task1", "covid3d", 0)
    assert not loaded.training
    assert np.array_equal(score(loaded, examples(6, 2).grids, [NOMINAL]), score(model, examples(6, 2).grids, [NOMINAL]))
    wider = replace(run, profile=profile)
    with pytest.raises(WeightsError, match="width"):
        training.load_fold(wider, "task1", "covid3d", 0)
