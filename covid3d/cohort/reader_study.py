"""The reader study: what readers called, one row a reader, scan and task. Calls are 1 (COVID+, or a long stay) or 0.

The cohort brings a file, the simulator's or the one that lay beside a hospital's manifest, and may bring it anew; the reading
room's is its own, and takes the place of the simulated one. Confidence is that of the call made: five points from 1 (a
guess) to 5 (certain), or the probability of being right, as the simulator writes it, and a reading room for its five points.
"""

import re
from typing import Any

import pandas as pd

from covid3d.cohort.manifest import read_manifest
from covid3d.run.errors import ManifestError
from covid3d.run.profile import Run
from covid3d.run.tables import (
    Rule,
    check_values,
    identifier,
    matching,
    one_of,
    read_cells,
    refuse,
    typed,
    whole,
    within,
)

DELIVERED, ROOM = "reader_study.csv", "reading_room/calls.csv"
TASKS = ("covid", "stay_single", "stay_pair")
POINTS = "a whole number from 1 (a guess) to 5 (certain), or a share from 0 to 1; empty when not asked"
SHARE, FIVE = within(0, 1), within(1, 5, whole=True)
RULES = {
    "reader_id": identifier(),
    "scan_id": identifier(),
    "prior_scan_id": identifier(blank=True),
    "task": one_of(*TASKS, blank=False),
    "call": whole(0, 1, "1 (COVID+, or a long stay) or 0", blank=False),
    "confidence": Rule(lambda text: SHARE(text) or FIVE(text), POINTS, "Float64"),
    "order": whole(0, 1_000_000, "the position in the reader's list"),
    "read_at": matching(r"(?s).*", "text"),
}


def read_reader_study(run: Run) -> pd.DataFrame:
    """Return the readings of a run, checked: one row a reader, scan and task; no row for a run without any.

    Those of the reading room, beside which a hospital's delivered ones stay and simulated ones give way.

    Columns reader_id (R1, R2 … in the order of the file's ids where these are no such numbers, so that no name is printed),
    scan_id, prior_scan_id ("" when blank), task (covid | stay_single | stay_pair), call (Int64), confidence, order, read_at.
    Scans and priors must be the manifest's, and a prior an earlier scan of the same patient. Raises ManifestError naming file,
    row, column and cure; also for an id that both files hold, for they may be two people.
    """
    room, delivered = _checked(run, ROOM), _checked(run, DELIVERED)
    kept = delivered.head(0) if run.is_phantom and len(room) else delivered
    both = sorted(set(kept["reader_id"]) & set(room["reader_id"]))
    if both:
        what, cure = f"reader '{both[0]}' is in {ROOM} as well", "Give one of the two another id"
        raise ManifestError(what, where=f"{DELIVERED}, column 'reader_id'", cure=cure)
    cells = pd.concat([kept, room], ignore_index=True)
    ids = sorted(set(cells["reader_id"]), key=lambda name: (len(name), name))
    numbered = all(re.fullmatch(r"R\d+", name) for name in ids)
    names = {name: name if numbered else f"R{position}" for position, name in enumerate(ids, start=1)}
    return typed(cells.assign(reader_id=cells["reader_id"].map(names)), RULES)


def delivered_readers(run: Run) -> set[str]:
    """Return the readers of a hospital's own reader study by their ids in the file; raises like `read_reader_study`."""
    return set() if run.is_phantom else set(_checked(run, DELIVERED)["reader_id"])


def _checked(run: Run, name: str) -> pd.DataFrame:
    """Return the cells of a file of readings, checked; none where there is no file, or only its header."""
    path = run.path(name)
    if not path.is_file() or len(path.read_bytes().splitlines()) == 1:  # nobody has read yet
        return pd.DataFrame(columns=list(RULES), dtype=str)
    cells = read_cells(path, RULES)
    check_values(cells, RULES, name)
    _check_confidence(cells, name)
    _check_readings(cells, name)
    _check_scans(cells, read_manifest(run.manifest), name)
    return cells


def simulated(study: pd.DataFrame, *, simulated_scans: bool) -> bool:
    """True for readings of the simulator, which notes no time of reading and writes confidence as a share."""
    return bool(simulated_scans and (study["read_at"] == "").all() and not (study["confidence"] > 1).any())


def whose(study: pd.DataFrame, *, simulated_scans: bool) -> str:
    """Return whose readings these are, in words."""
    readers = study["reader_id"].nunique()
    if not readers:
        return "nobody's: there is no reader study"
    made_up = simulated(study, simulated_scans=simulated_scans)
    who = "simulated reader" if made_up else "reader"
    return f"{readers} {who}{'s' * (readers != 1)}" + ("" if made_up else " of the reading room")


def _check_confidence(cells: pd.DataFrame, file: str) -> None:
    """Refuse a file that mixes five points with shares: a 1 would be a guess in one row and certain in another."""
    if any(text and not SHARE(text) for text in cells["confidence"]):
        for row, text in cells["confidence"].items():
            if text and not FIVE(text):
                what = f"the value is '{text}', though other rows have five points"
                refuse(file, row, "confidence", what, "Write all as whole numbers from 1 to 5, or all as shares")


def _check_readings(cells: pd.DataFrame, file: str) -> None:
    """Refuse a scan read twice by one reader for one task, and priors where they do not belong."""
    seen: dict[tuple[str, str, str], Any] = {}
    for row, reader, scan, task in zip(cells.index, cells["reader_id"], cells["scan_id"], cells["task"], strict=True):
        line = seen.setdefault((reader, scan, task), row)
        if line != row:
            what = f"reader '{reader}' has already called scan '{scan}' for task '{task}' in row {line}"
            refuse(file, row, "scan_id", what, "Keep one call a reader, scan and task")
    for row, task, prior in zip(cells.index, cells["task"], cells["prior_scan_id"], strict=True):
        if (task == "stay_pair") != (prior != ""):
            what = f"task '{task}' {'needs a prior scan' if task == 'stay_pair' else 'has a prior scan'}"
            refuse(file, row, "prior_scan_id", what, "Name the prior scan for stay_pair, leave it empty otherwise")


def _check_scans(cells: pd.DataFrame, manifest: pd.DataFrame, file: str) -> None:
    """Refuse scans that the manifest lacks, and priors that are no earlier scan of the same patient."""
    known = manifest.set_index("scan_id")
    for column in ("scan_id", "prior_scan_id"):
        for row, scan in zip(cells.index, cells[column], strict=True):
            if scan and scan not in known.index:
                refuse(file, row, column, f"scan '{scan}' is not in the manifest", "Use scan_ids of the manifest")
    for row, scan, prior in zip(cells.index, cells["scan_id"], cells["prior_scan_id"], strict=True):
        if prior:
            now, before = known.loc[scan], known.loc[prior]
            if now["patient_id"] != before["patient_id"] or before["scan_index"] >= now["scan_index"]:
                what = f"'{prior}' is no earlier scan of the patient of '{scan}'"
                refuse(file, row, "prior_scan_id", what, "Name a scan of the same patient with a lower scan_index")
