"""Build a simulated cohort: real DICOM, the truth beside it, simulated readers. Interrupted builds resume.

Each scan has its own random stream from (seed, scan_id) and is written whole or not at all; the record of a finished scan lies
in done/phantom/ and holds the checksums of its series and masks, so that a damaged file is noticed and made again. A scan is
made slab by slab in one process; nothing of it stays in memory but its record.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from covid3d.cohort.manifest import read_manifest, write_manifest
from covid3d.phantom import cohort, dicom, masks, oracle, render, scanner
from covid3d.phantom.course import Appearance, Course, appearance
from covid3d.phantom.lung import LOBES
from covid3d.phantom.order_form import course_of
from covid3d.phantom.readers import reader_study
from covid3d.run.errors import ConfigError, nearest
from covid3d.run.files import (
    atomic_folder,
    cpu_count,
    parallel_map,
    random_seed,
    read_json,
    sha256_json,
    sha256_tree,
    write_csv,
    write_json,
)
from covid3d.run.fingerprint import code_fingerprint
from covid3d.run.profile import Profile

AfterScan = Callable[[dict[str, Any], Path], None]
RECORDS = ("done", "phantom")
SLICES = range(16, 2001)
SLICES_CURE = "Use 16 to 2000"


@dataclass(frozen=True)
class Job:
    """What one scan needs; nothing in it depends on the other scans."""

    out: Path
    row: dict[str, Any]
    kind: Literal["manifest", "rescan", "control"]
    same_day_of: str
    pattern_label: int
    course: Course
    seed: int
    independent: bool
    matrix: int
    slices: int | None
    phase_visible: float
    grid: tuple[int, int, int]
    fingerprint: str

    @property
    def scan_id(self) -> str:
        return str(self.row["scan_id"])

    @property
    def folder(self) -> Path:
        return self.out / "dicom" / self.scan_id

    @property
    def shares(self) -> Path:
        return self.out / "truth" / "masks" / f"{self.scan_id}.npz"

    @property
    def labels(self) -> Path:
        return self.out / "truth" / "masks" / f"{self.scan_id}.nii.gz"

    @property
    def record(self) -> Path:
        return self.out.joinpath(*RECORDS, f"{self.scan_id}.json")


def build(
    out: Path,
    *,
    manifest: Path,
    profile: Profile,
    world: str = "effect",
    seed: int = 1,
    scans: Sequence[str] | None = None,
    workers: int | None = None,
    after_scan: AfterScan | None = None,
    stored: Callable[[str, str], bool] | None = None,
) -> pd.DataFrame:
    """Simulate the cohort of an order form into `out` and return the delivered manifest.

    Writes dicom/<scan_id>/, truth/, controls.csv, reader_study.csv and, last, manifest.csv. `scans` limits the build to
    these scan_ids. `after_scan(row, folder)` is called in the worker once a scan is written; with `keep_dicom` False the
    scan's DICOM is deleted after it, and on a later build `stored(scan_id, sha256)` says whether it may stay deleted.
    Both must be picklable. Raises ConfigError naming the field that is impossible, ManifestError for the order form.
    """
    _check(world, seed, workers, scans, profile)
    form = read_manifest(manifest)
    cohort.check_orders(form)
    if profile.phantom.slices is None:
        _check_slices(form)
    table = cohort.select(form, profile.cohort)
    extra = cohort.controls(table, profile.cohort)
    jobs = _jobs(Path(out), table, extra, profile, world, seed)
    if scans is not None:
        unknown = sorted(set(scans) - {job.scan_id for job in jobs})
        if unknown:
            known = [job.scan_id for job in jobs]
            raise ConfigError(
                f"there is no scan '{unknown[0]}' in this profile's cohort",
                where="scans",
                cure=nearest(unknown[0], known),
            )
        jobs = [job for job in jobs if job.scan_id in set(scans)]
    drop = after_scan is not None and not profile.phantom.keep_dicom
    work = partial(_ensure_scan, after_scan=after_scan, stored=stored, drop=drop)
    records = list(parallel_map(work, jobs, workers=workers or cpu_count(), description="simulating scans"))
    return _deliver(Path(out), jobs, records, table, extra, seed)


def _check(world: str, seed: int, workers: int | None, scans: Sequence[str] | None, profile: Profile) -> None:
    """Refuse parameters that no build can honour, by name."""
    size, grid = profile.phantom, profile.model.grid
    rules: list[tuple[str, object, bool, str]] = [
        ("world", world, world in ("effect", "null"), "Use effect or null"),
        ("seed", seed, seed >= 0, "Use a whole number of 0 or more"),
        ("workers", workers, workers is None or workers >= 1, "Use 1 or more"),
        ("scans", scans, scans is None or len(scans) > 0, "Name one or more, or leave it out for all"),
        ("phantom.matrix", size.matrix, 32 <= size.matrix <= 1024, "Use 32 to 1024"),
        ("phantom.slices", size.slices, size.slices is None or size.slices in SLICES, SLICES_CURE),
        ("phantom.phase_visible", size.phase_visible, 0 <= size.phase_visible <= 1, "Use 0 to 1"),
        ("model.grid", grid, all(n >= 1 for n in grid), "Use 1 or more on every axis"),
    ]
    for field, value, possible, cure in rules:
        if not possible:
            raise ConfigError(f"{field} is {value!r}", where=field, cure=cure)


def _check_slices(form: pd.DataFrame) -> None:
    """Refuse an order form whose numbers of slices, which the profile asks for, are missing or impossible."""
    for number, count in enumerate(form["n_slices"], 2):
        if pd.isna(count) or int(count) not in SLICES:
            what = "n_slices is empty" if pd.isna(count) else f"n_slices is {count}"
            raise ConfigError(what, where=f"row {number}, column 'n_slices'", cure=SLICES_CURE)


def _jobs(out: Path, table: pd.DataFrame, extra: pd.DataFrame, profile: Profile, world: str, seed: int) -> list[Job]:
    """Return one job a scan: the manifest's scans, then the controls."""
    days = {patient: [int(d) for d in group["day"].fillna(0)] for patient, group in table.groupby("patient_id")}
    shown = pattern_labels(table, world, seed)
    size = profile.phantom
    code = code_fingerprint("covid3d.phantom.build")
    jobs = []
    for row in [*table.to_dict("records"), *extra.to_dict("records")]:
        plain = {str(name): None if pd.isna(value) else _plain(value) for name, value in row.items()}
        patient, role = str(row["patient_id"]), str(row["role"])
        kind: Literal["manifest", "rescan", "control"] = (
            "rescan" if role == "rescan" else "control" if role == "control" else "manifest"
        )
        course = course_of(cohort.order_seed(row["source"]), patient, plain["age"], days.get(patient, []))
        setting = [
            plain,
            kind,
            shown[patient],
            seed,
            world,
            size.matrix,
            size.slices,
            size.phase_visible,
            profile.model.grid,
            code,
        ]
        jobs.append(
            Job(
                out=out,
                row=plain,
                kind=kind,
                same_day_of=str(row["scan_id"]).removesuffix("-rescan") if kind == "rescan" else "",
                pattern_label=shown[patient],
                course=course,
                seed=seed,
                independent=world == "null",
                matrix=size.matrix,
                slices=size.slices,
                phase_visible=size.phase_visible,
                grid=profile.model.grid,
                fingerprint=sha256_json(setting),
            )
        )
    return jobs


def pattern_labels(table: pd.DataFrame, world: str, seed: int) -> dict[str, int]:
    """Return the class whose pattern each patient shows: the label, or in the null world a permutation within the hospital.

    Permuting patterns over labelled patients is permuting labels over finished scans; the manifest keeps its counts.
    """
    firsts = table[table["scan_index"] == 0]
    shown: dict[str, int] = {}
    for hospital, group in firsts.groupby("hospital", sort=True):
        labels = group["label"].astype(int).to_numpy()
        if world == "null":
            labels = np.random.default_rng(random_seed(seed, hospital, "null labels")).permutation(labels)
        shown.update(zip(group["patient_id"], (int(label) for label in labels), strict=True))
    return shown


def look_of(job: Job) -> Appearance:
    """Return what a scan shows; a same-day rescan shows what its first scan shows."""
    rng = np.random.default_rng(random_seed(job.seed, job.same_day_of or job.scan_id, "disease"))
    since = job.row["days_since_onset"]
    if since is None:
        since = job.course.onset_to_first + (job.row["day"] or 0)
    return appearance(job.course, float(since), rng, phase_visible=job.phase_visible, independent=job.independent)


def _ensure_scan(
    job: Job, *, after_scan: AfterScan | None, stored: Callable[[str, str], bool] | None, drop: bool
) -> dict[str, Any]:
    """Return the record of a scan, making the scan when its record, masks or files are missing or damaged."""
    try:
        record: dict[str, Any] = read_json(job.record)
        whole = record["fingerprint"] == job.fingerprint and record["masks_sha256"] == _masks_sha256(job)
        kept = stored is not None and stored(job.scan_id, record["sha256"])
        if whole and (sha256_tree(job.folder) == record["sha256"] if job.folder.is_dir() else kept):
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    record = _make_scan(job)
    if after_scan is not None:
        after_scan({**job.row, "sha256": record["sha256"], "n_slices": record["n_slices"]}, job.folder)
    write_json(job.record, record)
    if drop:
        shutil.rmtree(job.folder, ignore_errors=True)
    return record


def _make_scan(job: Job) -> dict[str, Any]:
    """Write one scan's DICOM and masks; return its record: checksums, geometry and truth."""
    row = job.row
    hospital = str(row["hospital"])
    patient = render.make_patient(
        job.seed, str(row["patient_id"]), str(row["sex"]), row["age"] or 50, job.pattern_label, hospital
    )
    look = look_of(job)
    rng = np.random.default_rng(random_seed(job.seed, job.scan_id, "scanner"))
    slices = job.slices or int(row["n_slices"])
    thorax = patient.thorax
    acquisition = scanner.acquire(hospital, thorax.height, thorax.half_width, job.matrix, slices, rng)
    levels = render.find_levels(patient, look)
    shares = render.Masks(np.zeros(job.grid, np.float32), np.zeros(job.grid, np.float32))
    labels = masks.LabelMap(acquisition)
    with atomic_folder(job.folder) as folder:
        series = dicom.SeriesWriter(folder, row, acquisition, job.seed)
        for first, stored, known in render.render(patient, look, levels, acquisition, shares):
            series.write(first, stored)
            labels.add(first, known)
    labels.write(job.labels)
    masks.write_shares(job.shares, shares.lesion, shares.lung)
    return {
        "fingerprint": job.fingerprint,
        "sha256": sha256_tree(job.folder),
        "masks_sha256": _masks_sha256(job),
        "n_slices": slices,
        "truth": list(_truth(job, patient, look, levels, shares, acquisition).items()),  # a list keeps its order
    }


def _masks_sha256(job: Job) -> list[str]:
    """Return the checksums of a scan's two masks."""
    return [sha256_tree(job.shares), sha256_tree(job.labels)]


def _truth(
    job: Job,
    patient: render.Patient,
    look: Appearance,
    levels: render.Levels,
    shares: render.Masks,
    acquisition: scanner.Acquisition,
) -> dict[str, Any]:
    """Return a scan's row of truth.csv."""
    spacing = tuple(s * n / g for s, n, g in zip(acquisition.spacing_mm, acquisition.shape, job.grid, strict=True))
    on_grid = oracle.evidence(
        masks.as_bytes(shares.lesion) / 255, masks.as_bytes(shares.lung) / 255, (spacing[0], spacing[1], spacing[2])
    )
    full, grid = oracle.oracle_logit(levels.features), oracle.oracle_logit(on_grid)
    return {
        "scan_id": job.scan_id,
        "patient_id": job.row["patient_id"],
        "hospital": job.row["hospital"],
        "kind": job.kind,
        "label": job.row["label"],
        "same_day_of": job.same_day_of,
        "burden_ml": round(sum(levels.lobes_ml), 2),
        "burden_fraction": round(sum(levels.lobes_ml) / levels.lung_ml, 5),
        **{f"burden_{lobe}": round(ml, 2) for lobe, ml in zip(LOBES, levels.lobes_ml, strict=True)},
        "ground_glass_fraction": round(look.ground_glass, 4),
        "effusion_ml": round(patient.sites.effusion_ml, 1),
        "lung_ml": round(levels.lung_ml, 1),
        "phase": round(look.phase, 2),
        "stage": look.stage,
        "days_since_onset": round(look.since_onset, 2),
        "pattern": patient.sites.pattern,
        "oracle_logit": round(full, 4),
        "oracle_probability": round(oracle.probability(full), 6),
        "oracle_grid_logit": round(grid, 4),
        "oracle_grid_probability": round(oracle.probability(grid), 6),
    }


def _deliver(
    out: Path,
    jobs: Sequence[Job],
    records: Sequence[dict[str, Any]],
    table: pd.DataFrame,
    extra: pd.DataFrame,
    seed: int,
) -> pd.DataFrame:
    """Write truth, readers, controls and the manifest, in this order; return the manifest."""
    made = {job.scan_id: record for job, record in zip(jobs, records, strict=True)}
    truth = pd.DataFrame([dict(record["truth"]) for record in records])
    write_csv(out / "truth" / "truth.csv", truth)
    write_csv(out / "reader_study.csv", reader_study(table, truth, seed))
    delivered = _delivered(table, made)
    write_manifest(out / "controls.csv", _delivered(extra, made))
    write_manifest(out / "manifest.csv", delivered)
    return delivered


def _delivered(table: pd.DataFrame, made: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the rows whose scans were made, with path, true number of slices and checksum."""
    rows = table[table["scan_id"].isin(made)].copy()
    rows["source"] = [f"dicom/{scan_id}" for scan_id in rows["scan_id"]]
    rows["n_slices"] = pd.array([made[scan_id]["n_slices"] for scan_id in rows["scan_id"]], dtype="Int64")
    rows["sha256"] = [made[scan_id]["sha256"] for scan_id in rows["scan_id"]]
    return rows.reset_index(drop=True)


def _plain(value: Any) -> Any:
    """Return a numpy scalar as plain Python, whole floats included as they are."""
    return value.item() if isinstance(value, np.generic) else value
