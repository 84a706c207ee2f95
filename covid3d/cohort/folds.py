"""Patient-level folds of hospital A's first scans, and the certificate that nothing leaks between the splits."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from covid3d.cohort.manifest import read_controls, read_manifest
from covid3d.run import steps
from covid3d.run.errors import ManifestError, MissingResult
from covid3d.run.files import random_seed, read_json, sha256_file, write_json, write_text
from covid3d.run.profile import Run
from covid3d.run.tables import check_values, identifier, one_of, read_cells, refuse, typed, whole

RULES = {
    "task": one_of("task1", blank=False),
    "fold": whole(0, 999, "0 for the first fold, then 1, 2, …", blank=False),
    "scan_id": identifier(),
    "patient_id": identifier(),
    "split": one_of("train", "validation", blank=False),
}
THUMBNAIL = (12, 24, 24)
# Simulated scans of two patients reach 0.89 (64 scans), two real patients 0.0;
# a copy smoothed and with 30 HU of noise 0.986 or more.
NEAR_DUPLICATE = 0.975
BLOCK, SPACE, ROUNDING = 512, 256, 1e-4


def first_scans(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that Task 1 is trained and validated on: role development, scan_index 0."""
    return table[(table["role"] == "development") & (table["scan_index"].astype(int) == 0)]


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


def read_splits(path: Path, table: pd.DataFrame, folds: int) -> pd.DataFrame:
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


# --- the certificate -------------------------------------------------------------------------------------------------


def leakage_certificate(
    manifest: pd.DataFrame,
    splits: pd.DataFrame,
    intake: pd.DataFrame,
    thumbnails: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return what was looked for, what was found, and whether all of it is clean.

    manifest: rows of the manifest and its controls. splits: of Task 1. intake: scan_id, ok, pixel_sha256 and, where
    known, series_uid_sha256. thumbnails: tiny grids by scan_id for the search for near duplicates.
    Returns {passed, checks: [{check, question, compared, found, passed}]}; `found` lists scans and patients by id. A check
    whose column is missing is left out: it has not passed.
    """
    accepted = intake[intake["ok"].astype(int) == 1]
    patients = dict(zip(manifest["scan_id"], manifest["patient_id"], strict=True))
    checks = [
        _check(
            "patient", "Is a patient in train and validation of one fold?", splits, _split_patients(splits, patients)
        ),
        _check("roles", "Is a patient in development and external?", manifest, _two_roles(manifest, "patient_id")),
        _check("hospitals", "Is a hospital in development and external?", manifest, _two_roles(manifest, "hospital")),
        _check("followup", "Is a scan of Task 1 no first scan of development?", splits, _foreign(splits, manifest)),
        _check("validation", "Is a scan validated in more than one fold?", splits, _validated_twice(splits)),
        *(
            _hash_check(accepted, column, name, question)
            for column, name, question in (
                ("pixel_sha256", "pixels", "Do two scans have the same pixels?"),
                ("series_uid_sha256", "series_uid", "Do two scans come from one DICOM series?"),
            )
            if column in accepted
        ),
        _near_check(thumbnails or {}, patients),
    ]
    return {"passed": all(check["passed"] for check in checks), "checks": checks}


def _check(name: str, question: str, compared: Sized, found: list[str]) -> dict[str, Any]:
    return {"check": name, "question": question, "compared": len(compared), "found": found, "passed": not found}


def _split_patients(splits: pd.DataFrame, patients: dict[str, str]) -> list[str]:
    """Return patients, by the manifest, that stand on both sides of a fold."""
    owner = splits["scan_id"].map(patients).fillna(splits["patient_id"])
    sides = splits.assign(owner=owner).groupby(["fold", "owner"])["split"].nunique()
    both = sides[sides > 1].reset_index()
    return [f"fold {fold}: patient {owner}" for fold, owner in zip(both["fold"], both["owner"], strict=True)]


def _two_roles(manifest: pd.DataFrame, column: str) -> list[str]:
    """Return patients or hospitals that have first scans of development and of external."""
    roles = manifest[manifest["role"].isin(["development", "external"])].groupby(column)["role"].nunique()
    return [str(value) for value, count in roles.items() if count > 1]


def _foreign(splits: pd.DataFrame, manifest: pd.DataFrame) -> list[str]:
    allowed = set(first_scans(manifest)["scan_id"])
    return sorted(set(splits["scan_id"]) - allowed)


def _validated_twice(splits: pd.DataFrame) -> list[str]:
    counts = splits.loc[splits["split"] == "validation", "scan_id"].value_counts()
    return sorted(str(scan) for scan, count in counts.items() if count > 1)


def _hash_check(accepted: pd.DataFrame, column: str, name: str, question: str) -> dict[str, Any]:
    """Return groups of accepted scans with one hash; blank hashes are not compared."""
    known = accepted[accepted[column].notna() & (accepted[column].astype(str) != "")]
    groups = [sorted(part["scan_id"]) for _, part in known.groupby(column) if len(part) > 1]
    return _check(name, question, known, [" = ".join(group) for group in sorted(groups)])


def _near_check(thumbnails: Mapping[str, np.ndarray], patients: dict[str, str]) -> dict[str, Any]:
    question = f"Are scans of two patients near duplicates (correlation above {NEAR_DUPLICATE})?"
    return _check("near_duplicates", question, thumbnails, near_duplicates(thumbnails, patients))


def near_duplicates(thumbnails: Mapping[str, np.ndarray], patients: dict[str, str]) -> list[str]:
    """Return pairs of scans of different patients whose thumbnails correlate above `NEAR_DUPLICATE`."""
    ids = sorted(thumbnails)
    found: list[tuple[str, str]] = []
    for pairs in _candidates(thumbnails, ids):
        (left, i), (right, j) = (np.unique(side, return_inverse=True) for side in pairs.T)
        alike = _normed(thumbnails, [ids[at] for at in left]) @ _normed(thumbnails, [ids[at] for at in right]).T
        found += [(ids[a], ids[b]) for a, b in pairs[alike[i, j] > NEAR_DUPLICATE]]
    return [f"{a} ~ {b}" for a, b in found if patients.get(a) != patients.get(b)]


def _candidates(thumbnails: Mapping[str, np.ndarray], ids: list[str]) -> Iterator[np.ndarray]:
    """Yield, block by block, pairs of positions in `ids` that may correlate above `NEAR_DUPLICATE`; none is left out.

    A thumbnail is split into its part in a space that `SPACE` scans of this cohort span, and the rest. The rests' product
    is at most that of their lengths (Cauchy-Schwarz), so `SPACE` + 1 numbers a scan bound a correlation from above. Each
    thumbnail is read once for them, and memory grows by them alone.
    """
    if not ids:
        return
    sample = [ids[at * len(ids) // SPACE] for at in range(SPACE)] if len(ids) > SPACE else ids
    space = np.linalg.qr(_normed(thumbnails, sample).T)[0]
    parts = [_shortened(_normed(thumbnails, ids[at : at + BLOCK]), space) for at in range(0, len(ids), BLOCK)]
    for number, block in enumerate(parts):
        for other in range(number, len(parts)):
            pairs = np.argwhere(block @ parts[other].T > NEAR_DUPLICATE - ROUNDING) + np.array((number, other)) * BLOCK
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs


def _shortened(values: np.ndarray, space: np.ndarray) -> np.ndarray:
    """Return rows' coordinates in a space with orthonormal columns, and the length of what lies outside it."""
    inside = values @ space
    rest = np.square(values).sum(axis=1) - np.square(inside).sum(axis=1)
    return np.column_stack([inside, np.sqrt(np.maximum(rest, 0))])


def _normed(thumbnails: Mapping[str, np.ndarray], ids: list[str]) -> np.ndarray:
    """Return thumbnails as rows of mean 0 and length 1, float32."""
    values = np.stack([np.asarray(thumbnails[scan], dtype=np.float32).ravel() for scan in ids])
    values -= values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def thumbnail(grid: np.ndarray) -> np.ndarray:
    """Return what is individual of a grid (z, y, x): block means less the mean of their neighbours, float32.

    HU are clipped to -1000..200 and averaged in at most `THUMBNAIL` blocks; the coarse shape, in which all chests are
    alike, goes with the mean over 3 x 3 x 3 blocks.
    """
    clipped = np.clip(np.asarray(grid, dtype=np.float32), -1000, 200)
    for axis, blocks in enumerate(THUMBNAIL):
        parts = np.array_split(clipped, min(blocks, clipped.shape[axis]), axis=axis)
        clipped = np.stack([part.mean(axis=axis) for part in parts], axis=axis)
    return clipped - ndimage.uniform_filter(clipped, 3)


# --- of a run --------------------------------------------------------------------------------------------------------


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
    return pd.read_csv(run.splits, dtype={"scan_id": str, "patient_id": str})


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
    intake = pd.read_csv(run.intake, dtype={"scan_id": str, "patient_id": str})
    usable = cohort[cohort["scan_id"].isin(intake.loc[intake["ok"] == 1, "scan_id"])]
    folds = run.profile.training.folds
    if given:
        splits, text = read_splits(run.splits, usable, folds), run.splits.read_bytes()
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
