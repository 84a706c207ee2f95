"""Patient-level folds of hospital A's first scans, drawn or given, and certified."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covid3d.cohort.certificate import NEAR, first_scans, leakage_certificate, thumbnail
from covid3d.cohort.intake import read_intake
from covid3d.cohort.manifest import read_controls, read_manifest
from covid3d.run import steps
from covid3d.run.errors import ManifestError, MissingResult
from covid3d.run.files import random_seed, read_json, remembered, sha256_file, write_json, write_text
from covid3d.run.profile import Run
from covid3d.run.tables import check_values, identifier, one_of, read_cells, refuse, typed, whole

RULES = {
    "task": one_of("task1", blank=False),
    "fold": whole(0, 999, "0 for the first fold, then 1, 2, …", blank=False),
    "scan_id": identifier(),
    "patient_id": identifier(),
    "split": one_of("train", "validation", blank=False),
}


def make_folds(table: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Return patient-level folds of the development first scans, stratified by label and by having follow-up scans.

    table: rows of a manifest (other roles are used only to see who has follow-ups). Returns task, fold, scan_id,
    patient_id, split: every first scan once a fold, in validation in exactly one. The order of rows does not matter.
    Raises ManifestError when a class has fewer patients than folds.
    """
    first = first_scans(table).sort_values("scan_id")
    followed = set(table.loc[table["role"] == "followup", "patient_id"])
    validation_fold: dict[str, int] = {}
    for label in (0, 1):
        patients = sorted(first.loc[first["label"].astype(int) == label, "patient_id"])
        if len(patients) < folds:
            raise ManifestError(
                f"hospital A has {len(patients)} usable patients with label {label}, too few for {folds} folds",
                where="first scans of role development",
                cure="Add patients, or use a profile with fewer folds",
                code="too_few_patients",
            )
        generator = np.random.default_rng(random_seed(seed, "folds", label))
        drawn = [patients[position] for position in generator.permutation(len(patients))]
        drawn.sort(key=lambda patient: patient in followed)
        for position, patient in enumerate(drawn):
            place = position % folds
            validation_fold[patient] = place if label else folds - 1 - place
    return _rows(first, validation_fold, folds)


def _rows(first: pd.DataFrame, validation_fold: dict[str, int], folds: int) -> pd.DataFrame:
    """Return one row a fold and first scan."""
    parts = []
    for fold in range(folds):
        part = first[["scan_id", "patient_id"]].copy()
        inside = first["patient_id"].map(validation_fold) == fold
        part["split"] = np.where(inside, "validation", "train")
        part.insert(0, "fold", fold)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "task", "task1")
    return table[list(RULES)]


def check_splits(path: Path, table: pd.DataFrame, folds: int) -> pd.DataFrame:
    """Read a splits.csv, drawn or made by hand, and check that it fits the cohort.

    table: accepted rows of the manifest. Leaks are left to `leakage_certificate`; what makes a file unusable is a
    ManifestError: unknown scans, another patient_id, a fold number out of range, a scan twice in a fold, a fold
    without a class in validation, or a first scan that is not in validation exactly once.
    """
    cells = read_cells(path, RULES)
    check_values(cells, RULES, path.name)
    patients = dict(zip(table["scan_id"], table["patient_id"], strict=True))
    seen: dict[tuple[int, str], int] = {}
    for row, fold, scan, patient in zip(cells.index, cells["fold"], cells["scan_id"], cells["patient_id"], strict=True):
        number = int(float(fold))
        if number >= folds:
            refuse(path.name, row, "fold", f"fold {number} is not one of 0 to {folds - 1}", "Use the profile's folds")
        if scan not in patients:
            refuse(path.name, row, "scan_id", f"'{scan}' is no accepted scan of the manifest", "Remove the row")
        if patients[scan] != patient:
            what = f"scan '{scan}' belongs to patient '{patients[scan]}', not '{patient}'"
            refuse(path.name, row, "patient_id", what, "Copy the patient_id from the manifest")
        if (number, scan) in seen:
            what = f"'{scan}' is already in fold {number}, row {seen[number, scan]}"
            refuse(path.name, row, "scan_id", what, "Keep one row a fold and scan")
        seen[number, scan] = int(row)
    splits = typed(cells, RULES).astype({"fold": int})
    _check_validation(splits, table, folds, path.name)
    return splits


def _check_validation(splits: pd.DataFrame, table: pd.DataFrame, folds: int, file: str) -> None:
    """Refuse folds without both classes in validation, and first scans that are validated other than once."""
    inside = splits[splits["split"] == "validation"]
    labels = dict(zip(table["scan_id"], table["label"].astype(int), strict=True))
    for fold in range(folds):
        if {labels[scan] for scan in inside.loc[inside["fold"] == fold, "scan_id"]} != {0, 1}:
            raise ManifestError(
                f"the validation part of fold {fold} needs scans of both classes",
                where=file,
                cure="Move scans between folds, or delete the file to have the folds drawn again",
            )
    counts = inside["scan_id"].value_counts()
    for scan in first_scans(table)["scan_id"]:
        if counts.get(scan, 0) != 1:
            raise ManifestError(
                f"first scan '{scan}' is in validation {counts.get(scan, 0)} times, not once",
                where=file,
                cure="Give every first scan one validation fold, or delete the file to have the folds drawn again",
            )


def ensure_splits(run: Run) -> pd.DataFrame:
    """Return splits.csv of a run, drawing it when there is none, and write leakage.json.

    A splits.csv that a person has put in place is kept, checked and certified; delete it to have the folds drawn.
    With given weights there is nothing to split: the table is empty, the certificate still looks for doubles.
    """
    if not run.intake.is_file():
        raise MissingResult(
            "'intake.csv' has not been computed", where=f"run '{run.name}'", cure="Run the intake first"
        )
    given = _given(run)
    inputs = {"manifest": run.manifest, "intake": run.intake, "given": sha256_file(run.splits) if given else ""}
    steps.ensure_in_place(run, "splits", ["splits.csv", "leakage.json"], inputs, lambda: _write(run, given))
    return read_splits(run)


def read_splits(run: Run) -> pd.DataFrame:
    """Return splits.csv of a run as it stands: task, fold, scan_id, patient_id, split."""
    if not run.splits.is_file():
        raise MissingResult("the folds have not been drawn", where=f"run '{run.name}'", cure=_again(run))
    return _read(run.splits)


@remembered
def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"scan_id": str, "patient_id": str})


def require_certificate(run: Run) -> dict[str, Any]:
    """Return the certificate of a run's splits; results must not be shown without it.

    Raises MissingResult when there is none for these files, ManifestError (code leakage) naming what was found.
    """
    try:
        certificate = read_json(run.path("leakage.json"))
        known = certificate["files"]
    except (OSError, ValueError, KeyError) as error:
        raise MissingResult("there is no leakage certificate", where=f"run '{run.name}'", cure=_again(run)) from error
    if known != _hashes(run):
        what = "the leakage certificate is of other files than the manifest, intake.csv or splits.csv of this run"
        raise MissingResult(what, where=f"run '{run.name}'", cure=_again(run))
    failed = [check for check in certificate["checks"] if not check["passed"]]
    if failed:
        found = failed[0]["found"]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ManifestError(
            f"the leakage check '{failed[0]['check']}' has not passed: {'; '.join(found[:3])}{more}",
            where=f"run '{run.name}', leakage.json",
            cure="Correct the manifest, or splits.csv, so that no patient or scan stands on both sides",
            code="leakage",
        )
    return certificate


def near_copies(run: Run) -> list[tuple[str, str]]:
    """Return pairs of scans of different patients that the run's certificate found nearly alike."""
    checks = {check["check"]: check["found"] for check in read_json(run.path("leakage.json"))["checks"]}
    return [(one, other) for one, _, other in (pair.partition(NEAR) for pair in checks["near_duplicates"])]


def _again(run: Run) -> str:
    return f"Run `make run RUN={run.name}`"


def _given(run: Run) -> bool:
    """True when splits.csv is not the file that this room has drawn last."""
    if not run.splits.is_file():
        return False
    try:
        certificate = read_json(run.path("leakage.json"))
        return certificate["origin"] != "drawn" or certificate["files"]["splits"] != sha256_file(run.splits)
    except (OSError, ValueError, KeyError):
        return True


def _write(run: Run, given: bool) -> None:
    """Write leakage.json, then splits.csv unless it was given; a kill in between leaves no splits.csv to mistrust."""
    cohort = pd.concat([read_manifest(run.manifest), read_controls(run)], ignore_index=True)
    intake = read_intake(run)
    usable = cohort[cohort["scan_id"].isin(intake.loc[intake["ok"] == 1, "scan_id"])]
    folds = run.profile.training.folds
    if given:
        splits, text = check_splits(run.splits, usable, folds), run.splits.read_bytes()
    else:
        splits = pd.DataFrame(columns=list(RULES)) if run.is_site else make_folds(usable, folds, run.seed)
        text = splits.to_csv(index=False, lineterminator="\n").encode()
        run.splits.unlink(missing_ok=True)
    certificate = leakage_certificate(cohort, splits, intake, dict(_thumbnails(run.volumes, intake)))
    files = {**_hashes(run), "splits": hashlib.sha256(text).hexdigest()}
    write_json(run.path("leakage.json"), {**certificate, "origin": "given" if given else "drawn", "files": files})
    if not given:
        write_text(run.splits, text.decode())


def _hashes(run: Run) -> dict[str, str]:
    """Return the hashes of the files that a certificate is about."""
    files = {"manifest": run.manifest, "intake": run.intake, "splits": run.splits}
    return {name: sha256_file(path) if path.is_file() else "" for name, path in files.items()}


def _thumbnails(volumes: Path, intake: pd.DataFrame) -> Iterable[tuple[str, np.ndarray]]:
    """Yield (scan_id, thumbnail) of every accepted scan that lies in the store."""
    if "volume" not in intake:
        return
    accepted = intake[(intake["ok"] == 1) & intake["volume"].notna()]
    for scan, name in zip(accepted["scan_id"], accepted["volume"], strict=True):
        path = volumes / str(name)
        if path.suffix == ".npy" and path.is_file():
            yield str(scan), thumbnail(np.load(path, mmap_mode="r", allow_pickle=False))
