"""Weights that a person gives to score scans: those of a fold of Task 1, never those of a control."""

from pathlib import Path

from covid3d.network.weights import describe_weights
from covid3d.run.errors import WeightsError
from covid3d.run.files import read_json
from covid3d.run.steps import STEPS

CURE = "Give runs/NAME/models/task1/covid3d/fold_NN/weights.safetensors"


def describe_classifier(path: str | Path) -> dict[str, str]:
    """Return the metadata of weights that score scans; WeightsError for those of another model, and of another step.

    A network of permuted labels has the metadata of any other: the done.json that its step left beside it tells them apart.
    """
    path, metadata = Path(path), describe_weights(path)
    if metadata["model"] != "covid3d" or metadata["trained_on"] == "kinetics600":
        what = f"weights of '{metadata['model']}' trained on {metadata['trained_on']}, not of a COVID3D classifier"
        raise WeightsError(f"these are {what}", where=path.name, cure=CURE)
    try:
        step = read_json(path.with_name("done.json"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return metadata  # a file of its own
    if step != "fold":
        does = STEPS[step].does if step in STEPS else "unknown"
        what = f"these are weights of the step '{step}' ({does}), which are no classifier of scans"
        raise WeightsError(what, where="/".join(path.parts[-4:]), cure=CURE)
    return metadata
