"""Kinetics-600 weights: from a checkpoint to a trunk that a run starts from; everything else is refused."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import warm_python
from conftest import CHECKOUT
from write_checkpoint import shapes, small, values, write

from covid3d.chapters import task1
from covid3d.commands import pipeline
from covid3d.kinetics.bundle import SHARD, crc32c
from covid3d.kinetics.convert import INDEX_SHA256, convert, load_trunk, read_trunk
from covid3d.network import training
from covid3d.network.covid3d import Covid3D
from covid3d.network.i3d import InceptionI3d
from covid3d.network.registry import build
from covid3d.network.weights import describe_weights, read_tensors
from covid3d.run import steps
from covid3d.run.errors import Covid3DError, DownloadError, WeightsError
from covid3d.run.files import sha256_file
from covid3d.run.profile import KINETICS

DATA = CHECKOUT / "tests" / "data"
PREFIX = DATA / "small.ckpt"


def trunk_of(prefix: Path, width: float = 1 / 16) -> InceptionI3d:
    return read_trunk(Path(f"{prefix}.index"), Path(f"{prefix}{SHARD}"), width)


def by_hand(variables: dict[str, np.ndarray], width: float) -> InceptionI3d:
    """A three-channel trunk filled layer by layer, as its names say, by a way of its own."""
    rgb = InceptionI3d(in_channels=3, width=width)
    with torch.no_grad():
        for name, value in variables.items():
            layer, _, kind = name.replace("/", ".").partition(".conv_3d.")
            if name.startswith("Logits") or name.endswith("Momentum"):
                continue
            if not kind:
                layer, _, kind = name.replace("/", ".").partition(".batch_norm.")
            if layer == "Mixed_5b.Branch_2.Conv3d_0a_3x3":
                layer = "Mixed_5b.Branch_2.Conv3d_0b_3x3"
            unit = rgb.get_submodule(layer)
            if kind == "w":
                unit.conv.weight.copy_(torch.einsum("dhwio->oidhw", torch.from_numpy(value)))
            else:
                target = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}[kind]
                getattr(unit.bn, target).copy_(torch.from_numpy(value).reshape(-1))
    return rgb


def test_the_trunk_gives_the_features_of_the_rgb_network_on_three_equal_channels():
    rgb, grey = by_hand(small(), 1 / 16).double().eval(), trunk_of(PREFIX).double().eval()
    x = torch.rand(1, 1, 16, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = grey(x), rgb(x.expand(1, 3, 16, 48, 48))
    assert theirs.std() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


def test_batch_norm_has_no_scale_of_its_own():
    scales = [tensor for name, tensor in trunk_of(PREFIX).state_dict().items() if name.endswith("bn.weight")]
    assert len(scales) == 57 and all(bool((tensor == 1).all()) for tensor in scales)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("Mixed_4c/Branch_1/Conv3d_0b_3x3/conv_3d/w"), "missing Mixed_4c.Branch_1.Conv3d_0b_3x3.conv"),
        (lambda v: v.pop("Logits/Conv3d_0c_1x1/conv_3d/b"), "missing Logits/Conv3d_0c_1x1/conv_3d/b"),
        (lambda v: v.update({"RGB/step": np.zeros(1, np.float32)}), "another shape RGB/step"),
        (
            lambda v: v.update({"Logits/Conv3d_0c_1x1/conv_3d/b": np.zeros(400, np.float32)}),
            "missing Logits/Conv3d_0c_1x1/conv_3d/b; unknown or of another shape Logits/Conv3d_0c_1x1/conv_3d/b",
        ),
        (
            lambda v: v.update({"Conv3d_2b_1x1/batch_norm/beta": np.zeros((1, 1, 1, 2, 8), np.float32)}),
            "another shape Conv3d_2b_1x1/batch_norm/beta",
        ),
    ],
)
def test_another_set_of_variables_is_refused_with_their_names(tmp_path, change, message):
    variables = small()
    change(variables)
    write(tmp_path / "x", variables, crc32c)
    with pytest.raises(WeightsError, match=message) as error:
        trunk_of(tmp_path / "x")
    assert "rgb_scratch_kin600" in error.value.cure


def test_another_width_is_refused_with_a_few_names_and_the_number_of_the_rest():
    with pytest.raises(WeightsError, match=r"missing .* and \d+ more; unknown .* and \d+ more"):
        trunk_of(PREFIX, 1.0)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """A folder with a checkpoint of the true names and sizes, made-up values, without momentum."""
    folder = tmp_path_factory.mktemp("full")
    variables = {name: values(name, shape) for name, shape in shapes(1.0, momentum=False).items()}
    write(folder / "model.ckpt", variables, crc32c)
    return folder


@pytest.fixture(scope="module")
def converted(full) -> Path:
    out = full.parent / "converted" / "kinetics600.safetensors"
    convert(str(full), out)
    return out


def test_only_the_published_index_makes_weights_the_published_ones(converted):
    assert sha256_file(DATA / "kinetics600.ckpt.index") == INDEX_SHA256
    assert describe_weights(converted)["source"] == "another checkpoint of this architecture"


def test_converted_weights_say_what_they_are(full, converted):
    metadata = describe_weights(converted)
    assert metadata["trained_on"] == "kinetics600" and metadata["licence"] == "unknown" and metadata["width"] == "1"
    assert all(len(metadata[key]) == 64 for key in ("index_sha256", "shard_sha256"))
    tensors = read_tensors(converted)[0]
    stem = values("Conv3d_1a_7x7/conv_3d/w", (7, 7, 7, 3, 64)).sum(3)
    np.testing.assert_allclose(tensors["Conv3d_1a_7x7.conv.weight"][:, 0], np.moveaxis(stem, 3, 0), rtol=1e-6)
    assert not any(name.startswith("Logits") for name in tensors)


def test_a_model_takes_the_trunk_and_keeps_its_head(converted):
    model = Covid3D(1.0)
    head = model.head.weight.clone()
    load_trunk(model, converted)
    assert torch.equal(model.head.weight, head)
    wanted = read_tensors(converted)[0]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.extractor.state_dict().items())
    with pytest.raises(WeightsError, match="tensors differ"):
        load_trunk(Covid3D(1 / 4), converted)


def command(root, *arguments):
    given = {**os.environ, "COVID3D_ROOT": str(root)}
    return warm_python.run("covid3d", "weights", "kinetics600", *map(str, arguments), cwd=root, env=given)


def test_the_command_writes_where_runs_look_and_equal_bytes_each_time(root, full, converted):
    found = command(root, full / "model.ckpt.index")
    assert found.returncode == 0, found.stderr
    assert "another checkpoint of this architecture (unknown)" in found.stdout and "600 classes" in found.stdout
    assert (root / KINETICS).read_bytes() == converted.read_bytes()


def test_the_command_refuses_a_shard_that_is_not_the_one_of_the_true_index_in_one_line(root, tmp_path):
    shutil.copy(DATA / "kinetics600.ckpt.index", tmp_path / "model.ckpt.index")
    with (tmp_path / f"model.ckpt{SHARD}").open("wb") as stream:
        stream.truncate(103_218_112)  # of the right size, all zeros
    found = command(root, tmp_path, "--out", tmp_path / "out.safetensors")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "variable Conv3d_1a_7x7/batch_norm/beta: its checksum (CRC-32C) is wrong" in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"model.ckpt{SHARD}", "model.ckpt.index"]


@pytest.mark.parametrize("source", ["absent", "absent/model.ckpt", "."])
def test_a_checkpoint_that_is_not_there_is_refused(tmp_path, source):
    with pytest.raises(WeightsError) as error:
        convert(str(tmp_path / source), tmp_path / "out.safetensors")
    assert error.value.where and error.value.cure
    assert not (tmp_path / "out.safetensors").exists()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; under /short/ it announces more than it sends."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if not self.path.startswith("/short/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)


@pytest.fixture
def server(full):
    handler = functools.partial(Quiet, directory=str(full))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_checkpoint_is_fetched_from_its_address_and_leaves_only_the_weights(server, converted, tmp_path):
    convert(f"{server}/model.ckpt", tmp_path / "new" / "out.safetensors")
    assert (tmp_path / "new" / "out.safetensors").read_bytes() == converted.read_bytes()
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "message"), [("/absent.ckpt", "not found"), ("/short/model.ckpt", "10 of 1,000 bytes arrived")]
)
def test_a_download_that_fails_is_refused_and_leaves_nothing(server, tmp_path, path, message):
    with pytest.raises(DownloadError, match=f"(?i){message}"):
        convert(server + path, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_message_says_what_to_do(tmp_path):
    with pytest.raises(DownloadError, match="cannot be fetched") as error:
        convert("http://127.0.0.1:9/model.ckpt", tmp_path / "out.safetensors")
    assert "by hand" in error.value.cure


class Store:
    @staticmethod
    def of(run):
        return Store()

    def stack(self, scan_ids):
        return np.zeros((len(scan_ids), 4, 4, 4), np.int16)


def test_folds_start_from_the_weights_at_hand_and_are_trained_anew_when_these_change(
    make_run, converted, monkeypatch, tmp_path
):
    run, models, inputs = make_run(profile="paper"), [], []
    rows = pd.DataFrame({"scan_id": ["a", "b"], "patient_id": ["a", "b"], "hospital": "A", "label": [0, 1]})
    monkeypatch.setattr(task1, "Store", Store)
    monkeypatch.setattr(task1, "fit", lambda model, *args, **kwargs: models.append(model))
    monkeypatch.setattr(task1, "write_fold", lambda *args: None)
    monkeypatch.setattr(task1, "split_of", lambda run, fold: (rows, rows))
    monkeypatch.setattr(task1, "_inputs", lambda *args: {"fold": 0})

    def ensure(run, step, folder, content, compute, *, again):
        inputs.append(steps.fingerprint(run, step, content))
        compute(folder)

    monkeypatch.setattr(steps, "ensure", ensure)
    monkeypatch.setattr(training, "_commit", lambda: "unknown")
    run.manifest.write_text("")
    task1.ensure_fold(run, 0)
    given = pipeline.own_files(run, "fold")
    assert training.weights_metadata(run, "covid3d")["starts_from"] == "random values"
    (run.root / KINETICS).parent.mkdir(parents=True)
    shutil.copy(converted, run.root / KINETICS)
    task1.ensure_fold(run, 0)
    assert inputs[0] != inputs[1] and pipeline.own_files(run, "fold") != given
    assert training.weights_metadata(run, "covid3d")["starts_from"].startswith("kinetics600 ")
    assert training.weights_metadata(run, "resnet_2d")["starts_from"] == "random values"
    scratch, started = (model.state_dict() for model in models)
    wanted = read_tensors(converted)[0]
    assert all(torch.equal(started[f"extractor.{name}"], tensor) for name, tensor in wanted.items())
    assert torch.equal(started["head.weight"], scratch["head.weight"])
    assert not torch.equal(
        started["extractor.Mixed_5c.Branch_0.Conv3d_0a_1x1.conv.weight"],
        scratch["extractor.Mixed_5c.Branch_0.Conv3d_0a_1x1.conv.weight"],
    )


def test_damaged_weights_stop_a_fold_instead_of_training_from_scratch(make_run, converted):
    run = make_run(profile="paper")
    (run.root / KINETICS).parent.mkdir(parents=True)
    (run.root / KINETICS).write_bytes(converted.read_bytes()[:-1])
    with pytest.raises(Covid3DError, match="not a whole safetensors file"):
        load_trunk(build("covid3d", run.profile), run.pretrained)
