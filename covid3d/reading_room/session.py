"""A reader's session: which case is next, and what was said, kept after each case so that a kill loses one case at most.

A session is `reading_room/<reader>.json` of the run; from all of them `reading_room/calls.csv` is written again after each
case. No step of a run writes there: a cohort that is delivered again takes no reading away.
"""

import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from covid3d.cohort.reader_study import DELIVERED, ROOM, RULES, TASKS, delivered_readers
from covid3d.reading_room.cases import Case, reading_list
from covid3d.run.errors import ConfigError, StorageError
from covid3d.run.files import read_json, write_csv, write_json
from covid3d.run.profile import Run

CONFIDENCE = {"guess": 0.5, "leaning": 0.625, "fairly sure": 0.75, "sure": 0.875, "certain": 1.0}
"""The five points, and the probability of being right that calls.csv keeps of each."""
SHOWN_IN = ("05_reader_comparison", "07_prognosis")


class Session:
    """One reader and the cases; every change is on the disk before it counts."""

    def __init__(self, run: Run, reader_id: str, cases: Sequence[Case]):
        self.run, self.reader_id, self.cases = run, reader_id, list(cases)
        self._file = folder(run) / f"{reader_id}.json"
        self._readings = _readings(self._file)

    @classmethod
    def open(cls, run: Run, reader_id: str, tasks: Sequence[str] = TASKS) -> "Session":
        """Return a reader's session where it was left.

        Raises ConfigError for a reader id that is none, or that readings from elsewhere have.
        """
        if not RULES["reader_id"].accepts(reader_id):
            what = f"'{reader_id}' is no reader's pseudonym" if reader_id else "no reader is named"
            raise ConfigError(what, where="parameter 'reader'", cure='Write for example reader = "R1", not your name')
        session = cls(run, reader_id, reading_list(run, reader_id, tasks))
        if not session._file.is_file() and reader_id in delivered_readers(run):
            cure = "Take another pseudonym"
            raise ConfigError(f"'{reader_id}' has readings from elsewhere", where=DELIVERED, cure=cure)
        if any(folder(run).glob("*.json")):
            publish(run)
        return session

    def waiting(self) -> list[Case]:
        """Return the cases that are still to read, in order."""
        done = {(reading["task"], reading["scan_id"]) for reading in self._readings}
        return [case for case in self.cases if (case.task, case.scan_id) not in done]

    def record(self, call: int, confidence: float, seconds: float) -> None:
        """Keep what was said of the case in hand (`waiting()[0]`). Raises StorageError where it cannot be kept."""
        case = self.waiting()[0]
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        reading = {
            "task": case.task,
            "scan_id": case.scan_id,
            "prior_scan_id": case.prior_scan_id,
            "call": call,
            "confidence": confidence,
            "order": case.order,
            "read_at": now.replace("+00:00", "Z"),
            "seconds": round(seconds, 1),
            "training": bool(case.truth),
        }
        self._keep([*self._readings, reading])

    def take_back(self) -> None:
        """Forget what was said last, so that its case comes again."""
        self._keep(self._readings[:-1])

    @property
    def can_take_back(self) -> bool:
        """True when the case that was read last is one of this session's."""
        last = self._readings[-1:]
        return any((case.task, case.scan_id) == (said["task"], said["scan_id"]) for said in last for case in self.cases)

    def progress(self) -> pd.DataFrame:
        """Return, by task, how many cases of the study were read, of how many, and the median time of one in seconds."""
        rows = []
        for task in dict.fromkeys(case.task for case in self.cases):
            took = [entry["seconds"] for entry in self._readings if entry["task"] == task and not entry["training"]]
            listed = sum(case.task == task and not case.truth for case in self.cases)
            rows.append((task, len(took), listed, statistics.median(took) if took else None))
        return pd.DataFrame(rows, columns=["task", "read", "of", "median seconds"]).set_index("task")

    def _keep(self, readings: list[dict[str, Any]]) -> None:
        if _readings(self._file) != self._readings:
            cure = "Close the other window, and run the cells of this one again"
            raise StorageError(f"reader {self.reader_id} also reads in another window", cure=cure)
        write_json(self._file, {"reader_id": self.reader_id, "readings": readings})
        self._readings = readings
        publish(self.run)


def folder(run: Run) -> Path:
    """Return where the sessions of a run lie."""
    return run.path("reading_room")


def publish(run: Run) -> None:
    """Write the room's calls from all sessions, training cases left out; see `read_reader_study` for who else is shown.

    The markers of the chapters that show readers go, so that `make run` executes these again.
    """
    rows = [pd.DataFrame(columns=list(RULES))]
    for path in sorted(folder(run).glob("*.json")):
        said = [reading for reading in _readings(path) if not reading["training"]]
        rows.append(pd.DataFrame(said).assign(reader_id=path.stem).reindex(columns=list(RULES)).astype(str))
    write_csv(run.path(ROOM), pd.concat(rows, ignore_index=True))
    for chapter in SHOWN_IN:
        run.path("done", "jobs", f"{chapter}.done").unlink(missing_ok=True)


def _readings(path: Path) -> list[dict[str, Any]]:
    return list(read_json(path)["readings"]) if path.is_file() else []
