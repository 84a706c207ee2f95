"""The delivered manifest of a run on real scans: a hospital's own, under study pseudonyms.

Pseudonyms are keyed hashes (HMAC-SHA-256). The key, with original ids and paths, lies outside the run in
`data/keys/<run>.json`, readable by its owner alone; whoever has it can undo the pseudonyms, nobody else.
"""

import functools
import hmac
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.cohort.manifest import Source, locate, read_manifest, write_manifest
from covid3d.run.errors import ManifestError, MissingResult
from covid3d.run.files import cpu_count, read_json, sha256_tree, write_csv, write_private
from covid3d.run.profile import OPEN_LICENCE, Run, repository_root
from covid3d.run.tables import check_values, named, read_cells, refuse

ORDER_FORM = "data_manifest.csv"
"""What a checkout is known by."""
POOLED_AGE = 90.0
SITE = "site:"
READINGS = ("reader_id", "scan_id", "prior_scan_id", "task", "call", "confidence", "order", "read_at")
"""The columns of a reader study, as `reader_study.RULES` has them; what is trained does not hang on those rules."""


def key_file(run: Run) -> Path:
    """Return where the key of a run's pseudonyms lies: outside the run."""
    return run.root / "data" / "keys" / f"{run.name}.json"


def draft_key(manifest: Path) -> Path:
    """Return a name of its own for the key of a drafted manifest, in the checkout that is worked in, else in this package's."""
    root, own = repository_root(), Path(__file__).resolve().parents[2]
    here = "COVID3D_ROOT" in os.environ or (root / ORDER_FORM).is_file() or not (own / ORDER_FORM).is_file()
    folder = (root if here else own) / "data" / "keys" / "drafts"
    return folder / f"{manifest.stem}-{secrets.token_hex(4)}.json"


def pseudonym(key: str, kind: str, name: str) -> str:
    """Return the study pseudonym of an id: a letter and ten hexadecimal digits of its keyed hash."""
    digest = hmac.new(bytes.fromhex(key), f"{kind}\x1f{name}".encode(errors="surrogateescape"), sha256).hexdigest()
    return f"{kind[0].upper()}{digest[:10]}"


def source_of(run: Run, source: str) -> Source:
    """Return where a delivered scan's files lie; a pseudonymous `site:` source is looked up in the key file."""
    if not source.startswith(SITE):
        return locate(run.manifest, source)
    entry = _told(run, "scans", source.removeprefix(SITE))
    return Source(Path(entry["path"]), entry["series"])


def private_hash(run: Run, source: str, value: str) -> str:
    """Return a hash keyed with the run's own key where the scan is a site's, so that nobody can link it to elsewhere."""
    return pseudonym(_key(run), "series", value) if value and source.startswith(SITE) else value


def deliver(run: Run) -> None:
    """Write the key file, then the delivered manifest: pseudonyms, opaque sources, ages of 90 and more pooled."""
    table = read_manifest(run.order_form, delivered=True)
    key = _key(run)
    places = [locate(run.order_form, source) for source in table["source"]]
    scans = [pseudonym(key, "scan", scan_id) for scan_id in table["scan_id"]]
    patients = [pseudonym(key, "patient", patient_id) for patient_id in table["patient_id"]]
    if len(set(scans)) < len(scans) or len(set(patients)) < table["patient_id"].nunique():
        raise ManifestError("two ids got one pseudonym", where=run.order_form.name, cure="Remove the key file, repeat")
    with ThreadPoolExecutor(cpu_count()) as pool:  # a checksum that is given is compared where the scan is read
        given = table["sha256"].str.lower()
        hashes = list(pool.map(lambda known, place: known or sha256_tree(place.path), given, places))
    columns = zip(scans, table["scan_id"], table["patient_id"], places, strict=True)
    originals = {
        scan: {"scan_id": own, "patient_id": patient, "path": str(place.path.resolve()), "series": place.series}
        for scan, own, patient, place in columns
    }
    write_private(key_file(run), {"key": key, "scans": originals})
    delivered = table.assign(
        scan_id=scans,
        patient_id=patients,
        hospital=_hospitals(table["hospital"]),
        age=table["age"].clip(upper=POOLED_AGE),
        source=[SITE + scan for scan in scans],
        licence=[text if re.fullmatch(OPEN_LICENCE, text) else "private" for text in table["licence"]],
        sha256=hashes,
    )
    _deliver_readers(run, dict(zip(table["scan_id"], scans, strict=True)))
    write_manifest(run.manifest, delivered)


def _hospitals(names: pd.Series) -> list[str]:
    """Return hospital codes: single capital letters stay, names become H1, H2 … in the order of the manifest."""
    codes: dict[str, str] = {}
    for name in names:
        if name not in codes:
            numbered = sum(len(code) > 1 for code in codes.values())
            codes[name] = name if re.fullmatch(r"[A-Z]", name) else f"H{numbered + 1}"
    return [codes[name] for name in names]


def _deliver_readers(run: Run, scans: dict[str, str]) -> None:
    """Copy a reader study that lies beside the manifest, under pseudonyms and without dates."""
    path, delivered = run.order_form.parent / "reader_study.csv", run.path("reader_study.csv")
    delivered.unlink(missing_ok=True)
    if not path.is_file() or len(path.read_bytes().splitlines()) == 1:  # nobody has read yet
        return
    cells = read_cells(path, READINGS)
    check_values(cells, {"reader_id": named("what the reader is called")}, path.name)
    for column in ("scan_id", "prior_scan_id"):
        for row, name in cells[column].items():
            if name and name not in scans:
                refuse(path.name, row, column, "the scan is not in the manifest", "Correct it, or move the file away")
        cells[column] = [scans.get(name, "") for name in cells[column]]
    readers = {name: f"R{number + 1}" for number, name in enumerate(sorted(set(cells["reader_id"])))}
    cells["reader_id"] = [readers[name] for name in cells["reader_id"]]
    write_csv(delivered, cells.assign(read_at=""))


def _key(run: Run) -> str:
    """Return the run's key, a new one when it has none; a damaged key file is refused, never written over."""
    return str(_told(run, "key")) if key_file(run).exists() else secrets.token_hex(32)


def _told(run: Run, *names: str) -> Any:
    """Return what a run's key file holds under these names; MissingResult where it does not."""
    try:
        return functools.reduce(lambda held, name: held[name], names, read_json(key_file(run)))
    except (OSError, ValueError, KeyError, TypeError):
        raise MissingResult(
            "the key of this run's pseudonyms is missing or does not fit",
            where=f"data/keys/{run.name}.json",
            cure=f"Put the file back, or start anew with `make clean-run RUN={run.name}`",
        ) from None
