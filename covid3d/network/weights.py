"""Weights files: safetensors with metadata that says what they are, matched to a model exactly or refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from covid3d.run.errors import WeightsError
from covid3d.run.files import atomic_path

FORMAT = "covid3d/1"
KEYS = (
    "format",
    "model",
    "width",
    "grid",
    "hu_clip",
    "window",
    "trained_on",
    "profile",
    "manifest_sha256",
    "commit",
    "licence",
)
TRAINED_ON = ("phantom", "public", "site", "kinetics600")
PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
LARGEST_GRID = 512
MAKE_NEW = "Give a weights.safetensors of a run, e.g. runs/NAME/models/task1/covid3d/fold_00/weights.safetensors"


def save_weights(path: str | Path, model: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a model's tensors and its metadata (all of KEYS; `format` is filled in) as safetensors, atomically.

    Equal tensors and metadata give equal bytes. Raises WeightsError when the metadata are incomplete.
    """
    content = {"format": FORMAT, **{key: str(value) for key, value in metadata.items()}}
    _check_metadata(content, Path(path).name)
    write_tensors(path, model.state_dict(), content)


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, atomically; the library writes metadata in random order, so they are put in here."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + size])}).encode()
    header += b" " * (-len(header) % 8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; WeightsError when it cannot be read whole."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError("there is no such weights file", where=str(path), cure=MAKE_NEW)
    with path.open("rb") as stream:
        if stream.read(2) in PICKLED:
            what = "a pickled PyTorch file, which is never opened here: reading one can run foreign code"
            raise WeightsError(what, where=path.name, cure=f"Convert it to safetensors where it was made. {MAKE_NEW}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        what = f"not a whole safetensors file ({str(error).splitlines()[0]})"
        raise WeightsError(what, where=path.name, cure=f"It may be truncated: copy it again. {MAKE_NEW}") from error


def describe_weights(path: str | Path) -> dict[str, str]:
    """Return the metadata of a weights file; WeightsError when it is unreadable or lacks a key."""
    metadata = read_tensors(path)[1]
    _check_metadata(metadata, Path(path).name)
    return metadata


def load_weights(path: str | Path, model: nn.Module, *, expect: Mapping[str, str] | None = None) -> dict[str, str]:
    """Load a weights file into a model in place and return its metadata.

    expect: metadata that must be equal, e.g. {"model": "covid3d", "width": "0.25", "grid": "24,64,64"}.
    Raises WeightsError for a truncated file, missing metadata, another model or width, or any tensor that differs in
    name or shape; the model is left untouched then.
    """
    where = Path(path).name
    tensors, metadata = read_tensors(path)
    _check_metadata(metadata, where)
    for key, wanted in (expect or {}).items():
        if metadata.get(key) != str(wanted):
            raise WeightsError(
                f"these weights have {key} = {metadata.get(key)}, but {wanted} is needed",
                where=where,
                cure=f"Use weights with {key} = {wanted}, or the profile of these, {metadata['profile']}",
            )
    expected = model.state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | tensors.keys()
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    )
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors differ from the model's {len(expected)}, the first '{wrong[0]}': "
            f"{_shape(tensors, wrong[0])} in the file, {_shape(expected, wrong[0])} in the model",
            where=where,
            cure=f"The file was made for model {metadata['model']} at width {metadata['width']}. {MAKE_NEW}",
        )
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise WeightsError("a tensor holds values that are not finite", where=where, cure=MAKE_NEW)
    model.load_state_dict(tensors, strict=True)
    return metadata


def grid_text(grid: tuple[int, int, int]) -> str:
    """Return a grid as metadata text: (24, 64, 64) -> '24,64,64'."""
    return ",".join(str(size) for size in grid)


def grid_shape(text: str) -> tuple[int, int, int]:
    """Return the grid that metadata text names: '24,64,64' -> (24, 64, 64); WeightsError when it is none."""
    try:
        z, y, x = (int(size) for size in text.split(","))
    except ValueError:
        z = y = x = 0
    if not 1 <= min(z, y, x) <= max(z, y, x) <= LARGEST_GRID:
        cure = f"It should read like 24,64,64, each from 1 to {LARGEST_GRID}. {MAKE_NEW}"
        raise WeightsError(f"the metadata say grid = '{text}', which is no grid", cure=cure)
    return z, y, x


def _check_metadata(metadata: Mapping[str, str], where: str) -> None:
    missing = [key for key in KEYS if not metadata.get(key)]
    if missing:
        raise WeightsError(f"the file lacks the metadata {', '.join(missing)}", where=where, cure=MAKE_NEW)
    if metadata["format"] != FORMAT:
        raise WeightsError(f"its format is '{metadata['format']}', not '{FORMAT}'", where=where, cure=MAKE_NEW)
    if metadata["trained_on"] not in TRAINED_ON:
        known = json.dumps(TRAINED_ON)
        raise WeightsError(f"trained_on is '{metadata['trained_on']}', not one of {known}", where=where, cure=MAKE_NEW)


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    return "x".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "absent"
