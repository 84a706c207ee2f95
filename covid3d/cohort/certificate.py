"""The certificate that nothing leaks between the splits: patients, hospitals, follow-ups, equal pixels and near duplicates."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from covid3d.cohort.persons import persons

THUMBNAIL = (12, 24, 24)
# Simulated scans of two patients reach 0.89 (64 scans), two real patients 0.0;
# a copy smoothed and with 30 HU of noise 0.986 or more.
NEAR_DUPLICATE = 0.975
NEAR = " ~ "
BLOCK, SPACE, ROUNDING = 512, 256, 1e-4


def first_scans(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that Task 1 is trained and validated on: role development, scan_index 0."""
    return table[(table["role"] == "development") & (table["scan_index"].astype(int) == 0)]


def leakage_certificate(
    manifest: pd.DataFrame,
    splits: pd.DataFrame,
    intake: pd.DataFrame,
    thumbnails: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return what was looked for, what was found, and whether all of it is clean.

    manifest: rows of the manifest and its controls. splits: of Task 1. intake: scan_id, ok, pixel_sha256 and, where
    known, series_uid_sha256 and patient_sha256: patient ids that share a DICOM PatientID are one patient. thumbnails: tiny
    grids by scan_id for the search for near duplicates.
    Returns {passed, checks: [{check, question, compared, found, passed}]}; `found` lists scans and patients by id. A check
    whose column is missing is left out: it has not passed.
    """
    accepted = intake[intake["ok"].astype(int) == 1]
    patients = dict(zip(manifest["scan_id"], manifest["patient_id"], strict=True))
    named = _people(manifest, accepted)
    people = manifest.assign(patient_id=[named.get(patient, patient) for patient in manifest["patient_id"]])
    owners = dict(zip(people["scan_id"], people["patient_id"], strict=True))
    checks = [
        _check("patient", "Is a patient in train and validation of one fold?", splits, _split_patients(splits, owners)),
        _check("roles", "Is a patient in development and external?", manifest, _two_roles(people, "patient_id")),
        _check("hospitals", "Is a hospital in development and external?", manifest, _two_roles(manifest, "hospital")),
        _check(
            "followup",
            "Does Task 1 hold a scan that is not a first scan of development?",
            splits,
            _foreign(splits, manifest),
        ),
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


def _people(manifest: pd.DataFrame, accepted: pd.DataFrame) -> dict[str, str]:
    """Return for each patient id under which another one's DICOM PatientID was read all of that person's: "P1 = P7"."""
    if "patient_sha256" not in accepted:
        return {}
    read = manifest[["scan_id", "patient_id"]].merge(accepted[["scan_id", "patient_sha256"]], on="scan_id")
    return {patient: " = ".join(ids) for patient, ids in persons(read, ["patient_sha256"]).items()}


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
    return [f"{a}{NEAR}{b}" for a, b in found if patients.get(a) != patients.get(b)]


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
