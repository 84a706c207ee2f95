"""Scoring: independent of batches, in evaluation mode, windows on the grid."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from covid3d.ct.windows import Window
from covid3d.network import scoring as inference
from covid3d.network.covid3d import Covid3D, PairedCovid3D
from covid3d.network.i3d import InceptionI3d
from covid3d.run.errors import ConfigError

WINDOWS = [Window(-600, 1500), Window(-550, 1400), Window(-700, 1700)]
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-2}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.fixture
def grids() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 200, (5, 8, 32, 32)).astype(np.int16)


@pytest.fixture
def model(grids) -> Covid3D:
    torch.manual_seed(0)
    model = Covid3D(1 / 16)
    model(inference.to_input(grids, WINDOWS[0]))  # in training mode: moves the running statistics away from 0 and 1
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_logits_do_not_depend_on_the_batch_size(model, grids, batch_size):
    alone = np.concatenate([inference.score(model, grids[[scan]], WINDOWS) for scan in range(len(grids))])
    together = inference.score(model, grids, WINDOWS, batch_size=batch_size)
    assert together.shape == (5, 3) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_logits_are_those_of_a_plain_forward_in_evaluation_mode(model, grids):
    model.eval()
    for column, window in enumerate(WINDOWS):
        low, high = window.level - window.width / 2, window.level + window.width / 2
        x = torch.from_numpy(2 * (np.clip(grids, low, high) - low) / (high - low) - 1).float()[:, None]
        with torch.no_grad():
            expected = model(x).numpy()
        np.testing.assert_allclose(inference.score(model, grids, WINDOWS)[:, column], expected, atol=1e-4)


def test_scoring_leaves_the_model_as_it_was(model, grids):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = inference.score(model, grids, WINDOWS[:1])
    two = inference.score(model, grids, WINDOWS[:1])
    assert model.training
    assert np.array_equal(one, two)  # in training mode the running statistics would have moved
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_folded_copy_gives_the_logits_of_the_model(model, grids, device):
    twin = inference.for_evaluation(model, device)
    x = inference.to_input(grids, WINDOWS[0], device)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in twin.modules())
    with torch.no_grad():
        torch.testing.assert_close(twin(x), inference.place(model, device).eval()(x), rtol=0, atol=TOLERANCE[device])


def test_a_model_trains_on_after_scoring_as_if_it_had_not_been_scored(model, grids):
    other, x = copy.deepcopy(model), inference.to_input(grids, WINDOWS[0])
    inference.score(model, grids, WINDOWS[:1])
    inference.features(model, grids, WINDOWS[0])
    for net in (model, other):
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        net(x).square().sum().backward()
        optimiser.step()
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert list(model.state_dict()) == list(other.state_dict())


@pytest.mark.parametrize(
    ("shape", "most"), [((24, 64, 64), 16), ((2, 24, 64, 64), 16), ((64, 224, 224), 8), ((2, 64, 224, 224), 4)]
)
def test_batches_hold_more_scans_where_grids_are_small(shape, most):
    grids = np.broadcast_to(np.int16(-1000), (20, *shape))
    scans, _, x = next(inference._batches(grids, WINDOWS[:1], None, "cpu"))
    assert scans == slice(0, most) and len(x) == most


def test_pairs_of_scans_keep_their_order(grids):
    torch.manual_seed(0)
    model = PairedCovid3D(InceptionI3d(width=1 / 16))
    pairs = np.stack([grids[:4], grids[1:]], 1)
    forward, swapped = (inference.score(model, part, WINDOWS[:1]) for part in (pairs, pairs[:, ::-1]))
    assert forward.shape == (4, 1) and np.abs(forward - swapped).max() > 1e-4


def test_features_times_head_is_the_logit(model, grids):
    found = inference.features(model, grids, WINDOWS[0], batch_size=2)
    weight, bias = model.head.weight.detach().numpy()[0], model.head.bias.item()
    np.testing.assert_allclose(found @ weight + bias, inference.score(model, grids, WINDOWS[:1])[:, 0], atol=1e-4)


def test_rows_of_predictions_have_the_contracts_columns():
    table = pd.DataFrame(
        {"scan_id": ["001", "002"], "patient_id": ["1", "2"], "hospital": "A", "label": [0, 1], "age": 3}
    )
    rows = inference.prediction_rows(
        "task1", "covid3d", 3, 12, table, "validation", "nominal", np.array([-1000.0, 0.5])
    )
    assert list(rows) == (
        "task model fold epoch scan_id patient_id hospital split label window logit probability".split()
    )
    assert rows["scan_id"].tolist() == ["001", "002"] and rows["probability"].tolist() == pytest.approx(
        [0, 0.62246], abs=1e-5
    )
    with pytest.raises(ValueError, match="2 scans, 1 logits"):
        inference.prediction_rows("task1", "covid3d", 3, 12, table, "validation", "nominal", np.zeros(1))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert inference.pick_device("auto") == inference.pick_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="cuda"):
        inference.pick_device("cuda")


@needs_gpu
def test_logits_on_a_gpu_equal_those_on_the_cpu(model, grids):
    on_cpu = inference.score(model, grids, WINDOWS)
    np.testing.assert_allclose(inference.score(model, grids, WINDOWS, device="cuda"), on_cpu, atol=1e-2)


def test_small_batches_on_one_thread_stay_in_the_layout_of_the_fast_kernels():
    threads, x = torch.get_num_threads(), torch.randn(3, 1, 16, 32, 32)
    torch.set_num_threads(1)
    try:
        model = inference.place(Covid3D(width=0.125), "cpu").eval()
        with torch.no_grad():
            found = model.extractor.forward_features(x, stop="Mixed_3b")
            assert found.is_contiguous(memory_format=torch.channels_last_3d)
            logits = model(x)
            for module in model.modules():
                if isinstance(module, torch.nn.Conv3d):
                    module.dilation = (1, 1, 1)
            torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)
