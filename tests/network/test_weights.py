"""Weights files: exact matches are loaded, everything else is refused with a cure."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from covid3d.network.covid3d import Covid3D
from covid3d.network.slices import SliceResNet
from covid3d.network.weights import KEYS, describe_weights, grid_shape, grid_text, load_weights, save_weights
from covid3d.run.errors import WeightsError

METADATA = {
    "model": "covid3d",
    "width": "0.0625",
    "grid": "8,32,32",
    "hu_clip": "none",
    "window": "-600/1500",
    "trained_on": "phantom",
    "profile": "smoke",
    "manifest_sha256": "0" * 64,
    "commit": "unknown",
    "licence": "MIT",
}


@pytest.fixture
def model() -> Covid3D:
    torch.manual_seed(0)
    return Covid3D(1 / 16)


@pytest.fixture
def file(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, METADATA)
    return path


def test_weights_come_back_exactly_with_their_metadata(file, model):
    other = Covid3D(1 / 16)
    assert load_weights(file, other, expect={"model": "covid3d", "width": "0.0625"}) == {
        "format": "covid3d/1",
        **METADATA,
    }
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert set(describe_weights(file)) == set(KEYS)


@pytest.mark.parametrize(
    "other", [Covid3D(1 / 8), SliceResNet("resnet10t", None, 32, 2)], ids=["width", "architecture"]
)
def test_another_width_or_architecture_is_refused_and_leaves_the_model_untouched(file, other):
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(WeightsError, match="tensors differ") as error:
        load_weights(file, other)
    assert error.value.cure
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_metadata_that_do_not_fit_are_refused(file, model):
    with pytest.raises(WeightsError, match=r"grid = 8,32,32, but 24,64,64 is needed"):
        load_weights(file, model, expect={"grid": "24,64,64"})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(file, model, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match="not a whole safetensors file") as error:
        load_weights(file, model)
    assert "copy it again" in error.value.cure


def test_missing_or_foreign_metadata_are_refused(tmp_path, model):
    path = tmp_path / "bare.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(WeightsError, match="lacks the metadata format, model"):
        load_weights(path, model)
    save_file(model.state_dict(), path, metadata={**METADATA, "format": "other/9"})
    with pytest.raises(WeightsError, match="other/9"):
        describe_weights(path)
    with pytest.raises(WeightsError, match="licence"):
        save_weights(path, model, {key: value for key, value in METADATA.items() if key != "licence"})


def test_a_file_that_is_not_there_or_holds_nan_is_refused(tmp_path, model):
    with pytest.raises(WeightsError, match="no such weights file"):
        load_weights(tmp_path / "absent.safetensors", model)
    model.head.weight.data[0, 0] = float("nan")
    save_weights(tmp_path / "nan.safetensors", model, METADATA)
    with pytest.raises(WeightsError, match="not finite"):
        load_weights(tmp_path / "nan.safetensors", Covid3D(1 / 16))


def test_equal_weights_give_equal_bytes_in_another_process(file, tmp_path):
    code = (
        "import sys, torch; from covid3d.network.weights import *; from covid3d.network.covid3d import Covid3D;"
        f"torch.manual_seed(0); save_weights(sys.argv[1], Covid3D(1 / 16), {dict(reversed(METADATA.items()))!r})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two.safetensors")], check=True, timeout=60)
    assert (tmp_path / "two.safetensors").read_bytes() == file.read_bytes()


def test_grids_are_written_and_read_as_text():
    assert grid_text((24, 64, 64)) == "24,64,64"
    assert grid_shape("24,64,64") == (24, 64, 64)
    with pytest.raises(WeightsError, match="no grid"):
        grid_shape("24x64x64")


def test_a_pickled_file_is_refused_unopened_whatever_its_name(tmp_path, model):
    for name in ("weights.pt", "weights.safetensors"):
        torch.save(model.state_dict(), tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name}: a pickled PyTorch file") as error:
            describe_weights(tmp_path / name)
        assert "safetensors" in error.value.cure


@pytest.mark.parametrize("text", ["-1,2,3", "0,64,64", "24,64,100000", "24,64", "a,b,c"])
def test_a_grid_that_no_scan_can_be_resampled_to_is_refused(text):
    with pytest.raises(WeightsError, match="no grid"):
        grid_shape(text)
