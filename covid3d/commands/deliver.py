"""The first step of a run: its cohort is simulated, or a hospital's own is delivered under pseudonyms.

Here and in `covid3d.commands.twins` alone a run and the simulator meet.
"""

from functools import partial
from pathlib import Path
from typing import Any

from covid3d.cohort.delivery import deliver
from covid3d.cohort.intake import take_in
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.store import Store
from covid3d.phantom.build import build
from covid3d.run.errors import Covid3DError, ManifestError
from covid3d.run.profile import Run
from covid3d.run.steps import STEPS, ensure_in_place


def ensure_cohort(run: Run) -> Path:
    """Return the run's delivered manifest; when it is missing, simulate the cohort or pseudonymise a hospital's.

    Raises ManifestError for a faulty manifest, with row, column and cure.
    """
    simulated = read_manifest(run.order_form)["source"].str.startswith("phantom:")
    if simulated.any() and not simulated.all():
        where = f"{run.order_form.name}, column 'source'"
        raise ManifestError("it mixes simulated and real scans", where=where, cure="Make two manifests, and two runs")
    outputs = STEPS["cohort"].makes if simulated.any() else ("manifest.csv",)
    compute = partial(_simulate if simulated.any() else deliver, run)
    ensure_in_place(run, "cohort", outputs, {"manifest": run.order_form}, compute)
    return run.manifest


def _simulate(run: Run) -> None:
    """Simulate the cohort; each scan is read back and stored as soon as it is written."""
    build(
        run.folder,
        manifest=run.order_form,
        profile=run.profile,
        world=run.world,
        seed=run.seed,
        after_scan=partial(store_scan, run),
        stored=partial(is_stored, run),
    )


def store_scan(run: Run, row: dict[str, Any], folder: Path) -> None:
    """Read a simulated scan back and store its grid, so that its DICOM need not stay."""
    found = take_in(run, {**row, "source": folder.relative_to(run.folder).as_posix()})
    if found["ok"] != 1:
        raise Covid3DError("a simulated scan cannot be read back", where=row["scan_id"], cure=str(found["message"]))


def is_stored(run: Run, scan_id: str, sha256: str) -> bool:
    """True when the grid of these very files is in the store."""
    return Store.of(run).facts(scan_id, sha256) is not None
