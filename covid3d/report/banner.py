"""What stands first on every page of a run: where its scans come from, and what its network started from."""

from safetensors import safe_open

from covid3d.run.profile import Run

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
    if _started_pretrained(run):
        return "COVID3D starts from Kinetics-600."
    if run.profile.model.width != 1:
        return "COVID3D starts from scratch: no pretrained weights exist at this width."
    why = "the Kinetics-600 weights are not at hand" if run.profile.model.pretrained else "the profile asks for it"
    return f"COVID3D starts from scratch: {why}."


def _started_pretrained(run: Run) -> bool:
    """True when the run's first fold, once trained, started from Kinetics-600; before that, when it would."""
    trained = run.model("task1", "covid3d", 0) / "weights.safetensors"
    if not trained.is_file():
        return run.pretrained is not None
    with safe_open(trained, framework="numpy") as file:
        return (file.metadata() or {}).get("starts_from", "").startswith("kinetics600")
