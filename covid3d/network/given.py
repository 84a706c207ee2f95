"""Weights that a person gives to score scans: those of a fold of Task 1, never those of a control."""

from pathlib import Path

from torch import nn

from covid3d.ct.windows import nominal_window
from covid3d.network import registry
from covid3d.network.weights import describe_weights, grid_text, load_weights
from covid3d.run.errors import WeightsError
from covid3d.run.files import sha256_file
from covid3d.run.profile import Profile, Run

CURE = "Give runs/NAME/models/task1/covid3d/fold_NN/weights.safetensors"
TASK = "task1"


def describe_classifier(path: str | Path) -> dict[str, str]:
    """Return the metadata of weights that score scans; WeightsError for those of another model, and of another task.

    A network of permuted labels is told from a classifier by its task alone. Weights without one are Task 1's.
    """
    path, metadata = Path(path), describe_weights(path)
    if metadata["model"] != "covid3d" or metadata["trained_on"] == "kinetics600":
        what = f"weights of '{metadata['model']}' trained on {metadata['trained_on']}, not of a COVID3D classifier"
        raise WeightsError(f"these are {what}", where=path.name, cure=CURE)
    if (task := metadata.get("task", TASK)) != TASK:
        what = f"these weights are of the task '{task}', a control that was never taught who has COVID-19"
        raise WeightsError(what, where=path.name, cure=CURE)
    return metadata


def load_classifier(path: str | Path, profile: Profile) -> tuple[nn.Module, dict[str, str]]:
    """Return a network of the profile with these weights, in evaluation mode, and their metadata.

    Raises WeightsError as `describe_classifier`, and for another grid, width or window than the profile's.
    """
    describe_classifier(path)
    model, size = registry.build("covid3d", profile), profile.model
    expect = {"grid": grid_text(size.grid), "width": f"{size.width:g}", "window": nominal_window(profile.windows).text}
    metadata = load_weights(path, model, expect=expect)
    return model.eval(), metadata


def load_given(run: Run) -> tuple[nn.Module, dict[str, str]]:
    """Return what `load_classifier` returns for a run's given weights; WeightsError when the file is not that of config.yaml."""
    path, known = run.given_weights, run.config.weights_sha256
    if known and path.is_file() and sha256_file(path) != known:
        what = f"other weights than those that run '{run.name}' was made with lie under this name"
        raise WeightsError(what, where=path.name, cure="Put the file back, or start a run under another name")
    return load_classifier(path, run.profile)
