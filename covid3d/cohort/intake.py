"""Intake: every scan is decoded once, checked, hashed, resampled and stored; a bad scan is a row, not a crash."""

import errno
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.cohort.clinical import findings, kept_counts
from covid3d.cohort.delivery import private_hash, source_of
from covid3d.cohort.manifest import Source, read_controls, read_manifest
from covid3d.cohort.scan import read_scan, safe_message
from covid3d.cohort.store import Store
from covid3d.dicom.refusals import CURES
from covid3d.run.errors import Covid3DError, MissingResult, SeriesError, StorageError
from covid3d.run.files import cpu_count, parallel_map, remembered, sha256_tree, write_csv, write_json
from covid3d.run.fingerprint import code_fingerprint
from covid3d.run.profile import Run
from covid3d.run.steps import ensure_in_place

IDS = ("scan_id", "patient_id", "hospital", "role", "label", "scan_index")
FACTS = (
    "n_slices", "rows", "columns", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm", "thickness_mm", "kernel", "kvp",
    "exposure_mas", "manufacturer", "transfer_syntax", "hu_mean", "hu_sd", "lung_volume_ml", "kept_with", "pixel_sha256",
    "series_uid_sha256", "patient_sha256", "volume",
)  # fmt: skip
SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
"""Errors of a machine that has no more files or memory to give, or whose disk was away, for a moment."""
COLUMNS = (*IDS, "ok", "code", "message", *FACTS)
WHOLE = ("label", "scan_index", "ok", "n_slices", "rows", "columns")


def ensure_intake(run: Run) -> pd.DataFrame:
    """Return intake.csv, one row a scan (manifest, then controls); what is missing is read in parallel processes.

    Also writes flow.json. Goes on after a kill: scans that this code has stored from the same files are not read again.
    """
    inputs: dict[str, Any] = {"manifest": run.manifest}
    if run.path("controls.csv").is_file():
        inputs["controls"] = run.path("controls.csv")
    if run.compute and not _store_is_whole(run):
        run.path("done", "intake.json").unlink(missing_ok=True)
    ensure_in_place(run, "intake", ["intake.csv", "flow.json"], inputs, lambda: _intake(run))
    return read_intake(run)


def read_intake(run: Run) -> pd.DataFrame:
    """Return intake.csv as it stands; a MissingResult when there is none."""
    if not run.intake.is_file():
        cure = f"Run `make run RUN={run.name}`"
        raise MissingResult("the scans have not been read", where=f"run '{run.name}'", cure=cure)
    return _read(run.intake)


@remembered
def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in table.columns:
        if column in WHOLE:
            table[column] = pd.to_numeric(table[column]).astype("Int64")
        elif column.startswith(("spacing_", "hu_")) or column in (
            "kvp",
            "exposure_mas",
            "thickness_mm",
            "lung_volume_ml",
        ):
            table[column] = pd.to_numeric(table[column])
    return table


def accepted(run: Run) -> pd.DataFrame:
    """Return the manifest's and the controls' rows whose scan was accepted, in the order of intake.csv."""
    intake = read_intake(run)
    good = set(intake.loc[intake["ok"] == 1, "scan_id"])
    table = _ordered(run)
    return table[table["scan_id"].isin(good)].reset_index(drop=True)


def grid_spacing(scan: Mapping[Any, Any], grid: Sequence[int]) -> tuple[float, float, float]:
    """Return the voxel size (z, y, x) in mm of a scan on a grid; `scan` is its row of intake.csv."""
    counts = zip("zyx", ("n_slices", "rows", "columns"), grid, strict=True)
    z, y, x = (float(scan[f"spacing_{axis}_mm"]) * int(scan[count]) / cells for axis, count, cells in counts)
    return z, y, x


def take_in(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """Read, check and store one delivered scan; return its row of intake.csv. A bad scan gives ok = 0 and a code.

    Safe to repeat: a scan that this code has stored from the same files is not read again.
    """
    ids = {name: row[name] for name in IDS}
    store = Store.of(run)
    place = source_of(run, str(row["source"]))
    known = _known(run, row)
    if known is not None:
        return known
    try:
        if not place.path.exists():
            raise SeriesError("there is no such file or folder", code="no_such_path")
        found = checked_files(row, place.path)
        grid, facts = read_scan(place.path, place.series, store.shape)
        check_slices(row, facts)
        for name in ("series_uid_sha256", "patient_sha256"):
            facts[name] = private_hash(run, str(row["source"]), facts[name])
        name = store.name(ids["scan_id"], _source_hash(found, place))
        noted = {**facts, "volume": name, "code": code_fingerprint("covid3d.cohort.scan")}
        store.put(ids["scan_id"], _source_hash(found, place), grid, noted)
    except SeriesError as error:
        return refused(ids, error.code, safe_message(error))
    except StorageError:
        raise
    except Exception as error:  # one scan's fault, whatever kind, must not stop the others
        of_the_machine(error, ids["scan_id"])
        return refused(ids, "unreadable", f"reading failed ({type(error).__name__}). {CURES['unreadable']}")
    return _row(ids, noted)


def of_the_machine(error: Exception, scan_id: str) -> None:
    """Raise Covid3DError for an error that is none of the scan's, so that the scan is read again and not refused for good."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORT_OF):
        what = f"the machine ran short while a scan was read ({getattr(error, 'strerror', None) or 'memory'})"
        cure = "Repeat the command, with fewer jobs at once: CORES=1; what was read is kept"
        raise Covid3DError(what, where=f"scan {scan_id}", cure=cure, code="machine") from error


def checked_files(row: Mapping[str, Any], path: Path) -> str:
    """Return the hash of a scan's files; SeriesError (checksum) where its row of the manifest gives another one."""
    found = sha256_tree(path)
    if row.get("sha256") and str(row["sha256"]).lower() != found:
        what = "the scan's files have another checksum than the manifest says"
        raise SeriesError(what, cure=CURES["checksum"], code="checksum")
    return found


def check_slices(row: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse a scan (slice_count) that has not the slices of its row: those missing at its end are seen in no other way."""
    listed = row.get("n_slices")
    if not pd.isna(listed) and listed not in ("", facts["n_slices"]):
        what = f"{facts['n_slices']} slices were read, but the manifest says {listed}"
        raise SeriesError(what, cure=CURES["slice_count"], code="slice_count")


def _known(run: Run, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row of a scan that this code has stored from the same files, or None.

    Where the files are gone (simulated DICOM that is not kept) what is stored counts as current.
    """
    if not row.get("sha256"):
        return None
    place = source_of(run, str(row["source"]))
    found = Store.of(run).facts(str(row["scan_id"]), _source_hash(str(row["sha256"]).lower(), place))
    if found is None or (found["code"] != code_fingerprint("covid3d.cohort.scan") and place.path.exists()):
        return None
    try:
        check_slices(row, found)
    except SeriesError:  # it is read again, and refused there
        return None
    return _row({name: row[name] for name in IDS}, found)


def _source_hash(sha256: str, place: Source) -> str:
    """Return the content key of a source: the hash of its files and the series taken from them."""
    return sha256 if place.series is None else f"{sha256}#{place.series}"


def _row(ids: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**ids, "ok": 1, "code": "", "message": "", **{name: facts.get(name) for name in FACTS}}


def refused(ids: dict[str, Any], code: str, message: str) -> dict[str, Any]:
    """Return the row of a scan that was not read."""
    return {**ids, "ok": 0, "code": code, "message": message}


def _let_go(run: Run, record: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Delete the DICOM of a stored simulated scan when the profile does not keep it."""
    if row["ok"] and run.is_phantom and not run.profile.phantom.keep_dicom:
        folder = source_of(run, str(record["source"])).path.resolve()
        if folder.is_relative_to(run.path("dicom").resolve()):
            shutil.rmtree(folder, ignore_errors=True)


def _ordered(run: Run) -> pd.DataFrame:
    """Return the rows of the manifest, then of the controls."""
    parts = [table for table in (read_manifest(run.manifest), read_controls(run)) if len(table)]
    return pd.concat(parts, ignore_index=True) if parts else read_manifest(run.manifest)


def _store_is_whole(run: Run) -> bool:
    """True unless intake.csv names a volume that is no longer there."""
    if not run.intake.is_file():
        return True
    names = read_intake(run)["volume"]
    return all((run.volumes / name).is_file() for name in names if name)


def _intake(run: Run) -> None:
    """Read what is not stored, in parallel; write flow.json, then intake.csv."""
    table = _ordered(run)
    records: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    known = [_known(run, record) for record in records]
    new = [record for record, row in zip(records, known, strict=True) if row is None]
    read = parallel_map(partial(take_in, run), new, workers=cpu_count(), description="reading scans")
    rows = []
    for record, row in zip(records, known, strict=True):
        rows.append(next(read) if row is None else row)
        _let_go(run, record, rows[-1])
    intake = as_table(rows)
    bad = intake[intake["ok"] == 0]
    if len(bad):
        codes = ", ".join(f"{count} {code}" for code, count in _counts(bad["code"]).items())
        where = run.intake.relative_to(run.root).as_posix()
        print(
            f"intake: {len(bad)} of {len(intake)} scans refused ({codes}); reason and cure of each: {where}", flush=True
        )
    order = read_manifest(run.order_form, clinical=True)
    listed = read_manifest(run.manifest)
    if len(order) == len(listed):  # a site's manifest: the same rows under pseudonyms
        listed["days_since_admission"] = order["days_since_admission"]
    write_json(run.path("flow.json"), flow(order, intake, findings(listed, intake)))
    write_csv(run.intake, intake)


def as_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table with the columns of intake.csv."""
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    return table.astype(dict.fromkeys(WHOLE, "Int64"))


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}


def flow(order: pd.DataFrame, intake: pd.DataFrame, found: pd.DataFrame) -> dict[str, Any]:
    """Return the counts of a flow diagram (STARD): ordered, delivered, read, refused by code, and for each group.

    `found`: the clinical findings; scans that were kept with a code are counted by it.
    """
    listed = intake[~intake["role"].isin(["rescan", "control"])]
    groups = []
    for names, part in intake.groupby(["hospital", "role", "label"], sort=True):
        hospital, role, label = (str(name) for name in names)
        read = part["ok"] == 1
        groups.append(
            {
                "hospital": hospital,
                "role": role,
                "label": int(label),
                "delivered": len(part),
                "patients": int(part["patient_id"].nunique()),
                "read": int(read.sum()),
                "refused": int((~read).sum()),
            }
        )
    return {
        "ordered": len(order),
        "delivered": len(listed),
        "controls": len(intake) - len(listed),
        "read": int((listed["ok"] == 1).sum()),
        "refused": int((listed["ok"] == 0).sum()),
        "refused_by_code": _counts(intake.loc[intake["ok"] == 0, "code"]),
        "kept_with_code": kept_counts(found),
        "groups": groups,
    }
