"""Weights that a person gives to score scans: those of a fold of Task 1, never those of a control."""

from pathlib import Path

from covid3d.network.weights import describe_weights
from covid3d.run.errors import WeightsError

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
