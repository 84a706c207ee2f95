"""The Kinetics-600 I3D checkpoint (google-deepmind/kinetics-i3d, rgb_scratch_kin600, Apache-2.0) as weights to start from.

Its kernels are stored (D, H, W, in, out), its BatchNorm has no scale (1 here), its stem reads red, green and blue. The stem is
summed over the three: exact for a grey scan, whose three channels would be equal. The head of 600 classes is dropped.
"""

import http.client
import math
import shutil
import urllib.request
from pathlib import Path

import torch
from torch import Tensor, nn

from covid3d.kinetics.bundle import SHARD, Variable, read_index, read_variables
from covid3d.network.i3d import InceptionI3d
from covid3d.network.weights import load_weights, save_weights
from covid3d.run.errors import DownloadError, WeightsError
from covid3d.run.files import sha256_file, storage_errors, working_folder

# One layer of the checkpoint breaks its own naming.
IRREGULAR = {"Mixed_5b/Branch_2/Conv3d_0a_3x3": "Mixed_5b/Branch_2/Conv3d_0b_3x3"}
TENSORS = {
    "conv_3d/w": "conv.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}
OURS_ALONE = ("bn.weight", "num_batches_tracked")
LOGITS = ("Logits/Conv3d_0c_1x1/conv_3d/b", "Logits/Conv3d_0c_1x1/conv_3d/w")
SLOT = "/Momentum"
STEM = "Conv3d_1a_7x7.conv.weight"
INDEX_SHA256 = "366815af85b76e46222db13761f087584b3dc9c56abf67b822949846302e432a"
"""The published index; it holds the checksum of every tensor, so that it stands for them all."""
WANTED = "Give the checkpoint rgb_scratch_kin600 of google-deepmind/kinetics-i3d"
METADATA = {
    "model": "i3d",
    "width": "1",
    "grid": "none",
    "hu_clip": "none",
    "window": "none",
    "trained_on": "kinetics600",
    "profile": "none",
    "manifest_sha256": "none",
    "commit": "none",
    "licence": "Apache-2.0",
    "source": "google-deepmind/kinetics-i3d, rgb_scratch_kin600",
    "changes": "stem summed over red, green and blue; head of 600 classes and momentum dropped; BatchNorm scale 1 added",
}


def our_name(variable: str) -> str | None:
    """Return the name in InceptionI3d of a checkpoint variable; None for the logits and the optimiser's slots."""
    for ending, tensor in TENSORS.items():
        if variable.endswith("/" + ending) and not variable.startswith("Logits/"):
            layer = variable.removesuffix("/" + ending)
            return f"{IRREGULAR.get(layer, layer).replace('/', '.')}.{tensor}"
    return None


def our_shape(variable: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in InceptionI3d of a checkpoint variable: DHWIO -> OIDHW for kernels, (C,) for BatchNorm."""
    if variable.endswith("/w") and len(shape) == 5:
        depth, height, width, inputs, outputs = shape
        return outputs, inputs, depth, height, width
    return shape[-1:]


def convert(source: str, out: Path) -> dict[str, str]:
    """Turn the checkpoint into weights of a one-channel trunk and return their metadata; `out` is written whole or not at all.

    source: a prefix, its .index, the folder that holds one, or the http(s) address of a prefix. Raises WeightsError for a file
    that is damaged or not this checkpoint, DownloadError when it cannot be fetched.
    """
    if out.is_dir():
        raise WeightsError("a folder lies where the weights belong", where=out.name, cure="Give --out FILE")
    if not source.startswith(("http://", "https://")):
        return _convert(_local(Path(source)), out)
    with storage_errors(out), working_folder(out) as folder:
        address = source.removesuffix(".index")
        prefix = folder / address.rpartition("/")[2]
        download(f"{address}.index", Path(f"{prefix}.index"))
        read_index(Path(f"{prefix}.index"))  # before the long download
        download(f"{address}{SHARD}", Path(f"{prefix}{SHARD}"))
        return _convert(prefix, out)


def _convert(prefix: Path, out: Path) -> dict[str, str]:
    index, shard = (Path(f"{prefix}{ending}") for ending in (".index", SHARD))
    trunk = read_trunk(index, shard)
    metadata = {**METADATA, "index_sha256": sha256_file(index), "shard_sha256": sha256_file(shard)}
    if metadata["index_sha256"] != INDEX_SHA256:
        metadata |= {"source": "another checkpoint of this architecture", "licence": "unknown"}
    save_weights(out, trunk, metadata)
    return metadata


def _local(path: Path) -> Path:
    """Return the prefix that a path names: itself, that of an .index, or of the only .index in a folder."""
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            what = f"the folder holds {len(found)} files *.index, not one"
            raise WeightsError(what, where=path.name, cure="Give the checkpoint's prefix")
        path = found[0]
    prefix = Path(str(path).removesuffix(".index").removesuffix(SHARD))
    for ending in (".index", SHARD):
        if not Path(f"{prefix}{ending}").is_file():
            raise WeightsError("there is no such file", where=f"{prefix}{ending}", cure=WANTED)
    return prefix


def download(address: str, path: Path) -> None:
    """Fetch one file; a DownloadError when the server is out of reach, refuses, or sends less than it announces."""
    name = address.rpartition("/")[2]
    cure = "Check the network and the address, or fetch both files by hand and give their folder"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, storage_errors(path), path.open("wb") as stream:
            announced = answer.headers.get("Content-Length")
            shutil.copyfileobj(answer, stream)
    except (OSError, http.client.HTTPException, ValueError) as error:
        what = f"it cannot be fetched ({getattr(error, 'reason', None) or error})"
        raise DownloadError(what, where=name, cure=cure, code="unreachable") from error
    if announced is not None and path.stat().st_size != int(announced):
        what = f"{path.stat().st_size:,} of {int(announced):,} bytes arrived"
        raise DownloadError(what, where=name, cure="Repeat the command")


def read_trunk(index: Path, shard: Path, width: float = 1.0) -> InceptionI3d:
    """Return a one-channel trunk with the weights of a checkpoint; every variable is checked, also those that are dropped.

    Raises WeightsError when a file is damaged, or variables are missing, unknown or of another shape.
    """
    variables = read_index(index)
    tensors = InceptionI3d(in_channels=3, width=width).state_dict()  # a new BatchNorm has scale 1
    _check_set(variables, tensors, index.name)
    for name, values in read_variables(shard, variables):
        ours = our_name(name)
        if ours is not None:
            values = values.transpose(4, 3, 0, 1, 2).reshape(our_shape(name, values.shape))
            tensors[ours] = torch.from_numpy(values.copy())
    tensors[STEM] = tensors[STEM].double().sum(1, keepdim=True).float()
    trunk = InceptionI3d(in_channels=1, width=width)
    trunk.load_state_dict(tensors)
    return trunk


def _check_set(variables: dict[str, Variable], tensors: dict[str, Tensor], where: str) -> None:
    """Refuse any other set of variables than the trunk, the head of 600 classes, and momentum of these."""
    fitting = {name: our_name(name) or name for name, variable in variables.items() if _fits(name, variable, tensors)}
    slots = {name for name in variables if name.endswith(SLOT) and name.removesuffix(SLOT) in variables}
    unknown = variables.keys() - fitting.keys() - slots
    missing = {name for name in tensors if not name.endswith(OURS_ALONE)} | set(LOGITS)
    missing -= set(fitting.values())
    if missing or unknown:
        what = f"missing {_few(missing)}; unknown or of another shape {_few(unknown)}"
        raise WeightsError(f"not the variables of Kinetics-600: {what}", where=where, cure=WANTED)


def _fits(name: str, variable: Variable, tensors: dict[str, Tensor]) -> bool:
    """True for a variable of the trunk that has the shape of its tensor, and for the head of 600 classes."""
    if name in LOGITS:
        return variable.shape[-1:] == (600,)
    tensor, shape = tensors.get(our_name(name) or ""), variable.shape
    return (
        tensor is not None
        and len(shape) == 5
        and our_shape(name, shape) == tensor.shape
        and math.prod(shape) == tensor.numel()
    )


def _few(found: set[str]) -> str:
    names = sorted(found)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


def load_trunk(model: nn.Module, path: Path) -> None:
    """Let a COVID3D start from a trunk's weights, its head as drawn; WeightsError when they do not fit."""
    trunk = model.get_submodule("extractor")
    load_weights(path, trunk, expect={"model": METADATA["model"]})
