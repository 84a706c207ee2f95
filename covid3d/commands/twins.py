"""The twins of the scans that pictures show: the same patients on the same days, simulated again in smaller voxels.

A network's grid is too coarse to look at. Nothing is scored on a twin: maps are made on the grid and laid over it.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from covid3d.chapters.data import examples
from covid3d.chapters.explanation import Maps, case_patient
from covid3d.cohort.intake import accepted, read_intake
from covid3d.dicom.series import read_ct
from covid3d.phantom.build import build
from covid3d.run import steps
from covid3d.run.profile import Profile, Run

SEED = 1  # the notebooks' own, `seed_of_examples`
FINER, MATRIX, SLICES = 2.5, 256, 112
"""How much finer a twin is on each axis than the run's scans, and its largest size: half of the paper's."""


def ensure_twins(run: Run) -> Path:
    """Return the folder of <scan_id>.npz, one for each scan that is shown, made when needed; empty for real scans.

    Keys: hu (int16), lesion and lung (uint8, 255 = fully), all (z, y, x), and spacing_mm.
    """
    scans = shown(run) if run.is_phantom else []
    inputs = {"scans": scans, "order form": run.order_form}
    return steps.ensure(run, "twins", run.path("twins"), inputs, partial(_build, run, scans))


def ensure_examples(run: Run) -> Path:
    """Return the folder of the twins that chapter 1 shows, one of each class; like `ensure_twins`, but no network is asked."""
    table = read_intake(run)
    scans = [scan for label in (0, 1) for scan in examples(table, label)["scan_id"].head(1)] if run.is_phantom else []
    inputs = {"scans": scans, "order form": run.order_form}
    return steps.ensure(run, "examples", run.path("examples"), inputs, partial(_build, run, scans))


def shown(run: Run) -> list[str]:
    """Return the scans of Figure 1 and of the cases beside it, as the notebook draws them, and those of Figure 4."""
    table = accepted(run)
    case = table.loc[(table["patient_id"] == case_patient(table)) & (table["role"] != "rescan"), "scan_id"]
    return sorted({*Maps.of(run).drawn(SEED)["scan_id"], *case})


def finer(profile: Profile) -> Profile:
    """Return a profile whose scans, and the true masks beside them, have the size of twins."""
    matrix = min(MATRIX, round(FINER * profile.phantom.matrix))
    slices = min(SLICES, round(FINER * (profile.phantom.slices or SLICES)))
    phantom = profile.phantom.model_copy(update={"matrix": matrix, "slices": slices, "keep_dicom": False})
    model = profile.model.model_copy(update={"grid": (slices, matrix, matrix)})
    return profile.model_copy(update={"phantom": phantom, "model": model})


def _build(run: Run, scans: list[str], folder: Path) -> None:
    if not scans:
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        options: dict[str, Any] = {"world": run.world, "seed": run.seed, "scans": scans}
        keep = partial(_keep, Path(place), folder)
        build(Path(place), manifest=run.order_form, profile=finer(run.profile), after_scan=keep, **options)


def _keep(place: Path, folder: Path, row: dict[str, Any], series: Path) -> None:
    """Write a twin from its series and its true masks."""
    volume = read_ct(series, threads=1)
    with np.load(place / "truth" / "masks" / f"{row['scan_id']}.npz", allow_pickle=False) as masks:
        known = {name: masks[name] for name in ("lesion", "lung")}
    np.savez_compressed(folder / f"{row['scan_id']}.npz", hu=volume.hu, spacing_mm=np.array(volume.spacing_mm), **known)
