"""The gate: every scan of a manifest read once and judged, before there is a run. Nothing is stored."""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covid3d.cohort.certificate import THUMBNAIL, leakage_certificate, thumbnail
from covid3d.cohort.clinical import CODES, acquisition_table, findings
from covid3d.cohort.intake import FACTS, IDS, as_table, check_slices, checked_files, flow, of_the_machine, refused
from covid3d.cohort.manifest import lines_of, locate, nowhere, read_manifest
from covid3d.cohort.scan import read_scan, safe_message
from covid3d.dicom.refusals import CURES
from covid3d.run.errors import SeriesError, printable
from covid3d.run.files import cpu_count, parallel_map, storage_errors, tree_files, write_csv, write_json

GRID = tuple(2 * size for size in THUMBNAIL)


@dataclass(frozen=True)
class Gate:
    """What was found: a row a scan, what is odd about kept scans, settings, counts, and the leakage certificate.

    `told` says by scan_id why scans were refused, with row, path and file: for the terminal of whoever gave the paths, and
    in no file.
    """

    intake: pd.DataFrame
    findings: pd.DataFrame
    acquisition: pd.DataFrame
    flow: dict[str, Any]
    certificate: dict[str, Any]
    told: dict[str, str] = field(default_factory=dict)

    @property
    def leaks(self) -> list[str]:
        """Return what the certificate found, one sentence a check."""
        checks = self.certificate["checks"]
        return [f"{test['question']} {', '.join(test['found'])}" for test in checks if test["found"]]

    @property
    def passed(self) -> bool:
        """True when every scan was read and nothing leaks; scans that are kept with a code pass."""
        return bool(self.intake["ok"].all()) and not self.leaks

    def write(self, out: Path) -> None:
        """Write check.csv, qc.csv, clinical.csv, acquisition.csv, flow.json and leakage.json; no hash, no path."""
        hashes = ("pixel_sha256", "series_uid_sha256", "patient_sha256", "volume")
        write_csv(out / "check.csv", self.intake[["scan_id", "ok", "code", "message"]])
        write_csv(out / "qc.csv", self.intake[["scan_id", "ok", *(name for name in FACTS if name not in hashes)]])
        write_csv(out / "clinical.csv", self.findings.assign(meaning=self.findings["code"].map(CODES)))
        write_csv(out / "acquisition.csv", self.acquisition)
        write_json(out / "flow.json", self.flow)
        write_json(out / "leakage.json", self.certificate)

    def lines(self) -> list[str]:
        """Return the report: refused scans, kept ones with a code, counts, settings, leaks."""
        rows = self.intake.to_dict("records")
        told = {row["scan_id"]: f"{row['code']}: {self.told.get(row['scan_id'], row['message'])}" for row in rows}
        out = [f"{row['scan_id']}  {'ok' if row['ok'] else told[row['scan_id']]}" for row in rows]
        out += ["", *_flow_lines(self.flow), "", "kept with a code" if len(self.findings) else "no scan needs a code"]
        for code, count in self.flow["kept_with_code"].items():
            out.append(f"  {code}: {count['scans']} scans of {count['patients']} patients, {CODES[code]}")
        out += ["", "acquisition (scans by hospital, label, setting)"]
        for names, part in self.acquisition.groupby(["hospital", "label", "setting"], sort=False):
            values = part.sort_values("scans", ascending=False, kind="stable")
            named = [f"{value} ({count})" for value, count in zip(values["value"], values["scans"], strict=True)]
            hospital, label, setting = names
            out.append(f"  {hospital} {label} {setting}: {', '.join(named[:8])}{' …' if len(named) > 8 else ''}")
        read = self.flow["read"]
        clean = f"leakage: nothing found among the {read} of {len(rows)} scans that could be read"
        return [*out, "", *(self.leaks or [clean if read else "leakage: not judged, no scan could be read"])]


def _flow_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return the flow diagram (STARD) as text."""
    lines = [f"flow: {counts['delivered']} scans listed, {counts['refused']} refused, {counts['read']} read"]
    lines += [f"  refused, {code}: {count}" for code, count in counts["refused_by_code"].items()]
    for group in counts["groups"]:
        name = f"hospital {group['hospital']}, {group['role']}, label {group['label']}"
        lines.append(f"  {name}: {group['read']} of {group['delivered']} scans, {group['patients']} patients")
    return lines


def check_manifest(path: str | Path, out: str | Path | None = None) -> Gate:
    """Read every scan of a manifest once, in parallel, and judge it; with `out`, write the tables there.

    Raises ManifestError for a faulty manifest; a source that does not exist is a row with code no_such_path. Thumbnails,
    for near duplicates, lie in a temporary file, so that memory does not grow with the number of scans.
    """
    path = Path(path)
    table = read_manifest(path, clinical=True)
    if out is not None:
        with storage_errors(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)  # rather now than when all scans are read
    records = [row | {"line": line} for row, line in zip(table.to_dict("records"), lines_of(path), strict=True)]
    rows, told = [], {}
    with tempfile.TemporaryFile() as seen:
        checked = parallel_map(partial(_check, path), records, workers=cpu_count(), description="checking scans")
        for row, small, why in checked:
            rows.append(row)
            told[str(row["scan_id"])] = why
            if small is not None:
                seen.write(small.tobytes())
        seen.flush()
        intake = as_table(rows)
        thumbnails = Thumbnails([str(row["scan_id"]) for row in rows if row["ok"]], seen.fileno())
        certificate = leakage_certificate(table, _no_splits(), intake, thumbnails)
    found = findings(table, intake)
    gate = Gate(intake, found, acquisition_table(intake), flow(table, intake, found), certificate, told)
    if out is not None:
        gate.write(Path(out))
    return gate


class Thumbnails(Mapping[str, np.ndarray]):
    """The thumbnails of accepted scans by scan_id, read from a file of float16 one after the other when they are asked for."""

    def __init__(self, ids: Sequence[str], file: int):
        self._places = {scan_id: place for place, scan_id in enumerate(ids)}
        self._file = file

    def __getitem__(self, scan_id: str) -> np.ndarray:
        size = math.prod(THUMBNAIL) * 2
        content = os.pread(self._file, size, self._places[scan_id] * size)  # a mapped file would count as memory
        return np.frombuffer(content, dtype=np.float16).astype(np.float32).reshape(THUMBNAIL)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _no_splits() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=str) for name in ("fold", "scan_id", "patient_id", "split")})


def _check(manifest: Path, row: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray | None, str]:
    """Return one scan's row of a check, its thumbnail when it was read, and for the terminal why it was not."""
    ids = {name: row[name] for name in IDS}
    source = str(row["source"])
    place = locate(manifest, source)
    try:
        if not place.path.exists():
            what, cure = nowhere(manifest, source)
            message = f"there is no such file or folder. {CURES['no_such_path']}"
            return refused(ids, "no_such_path", message), None, f"row {row['line']}, source {what}. {cure}"
        if row["sha256"]:
            checked_files(row, place.path)
        grid, facts = read_scan(place.path, place.series, GRID, threads=1)
        check_slices(row, facts)
        return {**ids, "ok": 1, "code": "", "message": "", **facts}, thumbnail(grid).astype(np.float16), ""
    except SeriesError as error:
        found = refused(ids, error.code, safe_message(error))
        why = f"{error.what}. {error.cure or CURES[error.code]}"
        return found, None, printable(f"row {row['line']}, source '{source}'{_file(error.where, place.path)}: {why}")
    except Exception as error:  # one scan's fault, whatever kind, must not stop the others
        of_the_machine(error, str(row["scan_id"]))
        why = f"reading failed ({type(error).__name__}). {CURES['unreadable']}"
        return refused(ids, "unreadable", why), None, f"row {row['line']}, source '{source}': {why}"


def _file(where: str, source: Path) -> str:
    """Return where in a source a fault is, relative to it; "" where it is the source itself."""
    if where in ("", source.name):
        return ""
    files = [file for file in tree_files(source) if file.name == where] if source.is_dir() else []
    return f", {files[0].relative_to(source).as_posix() if len(files) == 1 else where}"
