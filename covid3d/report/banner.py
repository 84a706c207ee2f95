"""What stands first on every page of a run: where its scans come from, and what its network started from."""

from safetensors import safe_open

from covid3d.run.profile import Run

STARTS = {
    "kinetics600": "Kinetics-600",
    "phantom": "a trunk pretrained on simulated scans of other patients (where and how much the lungs are ill, never the class)",
}
BANNERS = {
    "phantom": "Simulated scans: no number of this run was measured on a patient.",
    "site": "Research use only: scans of one hospital.",
    "public": "",
}


def banner(run: Run) -> str:
    """Return the sentence that stands first on every page of a run; empty when none is needed."""
    return BANNERS[run.cohort]


def initialisation(run: Run) -> str:
    """Return the sentence that says what the network of a run starts from, or that it was given."""
    if run.is_site:
        return "COVID3D has the weights that were given."
    start = _start(run)
    if start in STARTS:
        return f"COVID3D starts from {STARTS[start]}."
    why = "the Kinetics-600 weights are not at hand" if run.profile.model.pretrained else "the profile asks for it"
    return f"COVID3D starts from scratch: {why}."


def _start(run: Run) -> str:
    """Return the first word of what the run's first fold, once trained, started from; before that, of what it would."""
    trained = run.model("task1", "covid3d", 0) / "weights.safetensors"
    path, key = (trained, "starts_from") if trained.is_file() else (run.pretrained, "trained_on")
    if path is None:
        return ""
    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get(key, "").partition(" ")[0]
