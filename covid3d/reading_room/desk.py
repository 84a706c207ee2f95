"""The desk between a session and the screen: messages from the screen in, messages to it out.

The screen gets pixels and words, under a token made up for each showing: nothing that names or numbers a scan of the run.
"""

import math
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from covid3d.reading_room.cases import Case
from covid3d.reading_room.pixels import Picture, picture
from covid3d.reading_room.session import CONFIDENCE, Session
from covid3d.run.errors import Covid3DError

Answer = tuple[dict[str, Any], list[bytes]]
PRESETS = {
    "lung": (-600, 1500),
    "mediastinum": (40, 400),
    "bone": (450, 1800),
    "ground glass": (-700, 800),
    "wide": (-200, 2400),
}
"""Windows on keys 1 to 5: level and width, HU."""
TITLES = {"covid": "Task 1: COVID-19?", "stay_single": "Task 2: one scan", "stay_pair": "Task 2: with the prior scan"}


class Desk:
    """Shows the case in hand, takes the answer, shows the truth of training cases, goes on."""

    def __init__(self, session: Session, *, allow_back: bool = False):
        self.session, self.allow_back = session, allow_back
        self._case: Case | None = None
        self._token = ""
        self._pool = ThreadPoolExecutor(1)
        self._pictures: dict[str, Future[Picture]] = {}

    def hear(self, message: dict[str, Any]) -> Iterator[Answer]:
        """Yield the answers to one message of the screen; an expected error is one that says what and the cure."""
        kinds: dict[str, Callable[[dict[str, Any]], Iterator[Answer]]] = {
            "ready": self._show,
            "next": self._show,
            "want": self._send,
            "answer": self._take,
            "back": self._back,
        }
        try:
            yield from kinds[message["kind"]](message)
        except Covid3DError as error:
            yield {"kind": "error", "text": f"{error.what}. {error.cure}"}, []

    def _show(self, _: dict[str, Any]) -> Iterator[Answer]:
        """Describe the case in hand; its pixels are fetched piece by piece."""
        waiting = self.session.waiting()
        if not waiting:
            self._case = None
            yield {"kind": "end", "text": "All cases are read and saved. Thank you."}, []
            return
        case = self._case = waiting[0]
        self._token = secrets.token_hex(8)
        self._fetch(waiting[:2])
        scans = [self._described(scan_id) for scan_id in _scans(case)]
        names = ["this scan"] if len(scans) == 1 else ["prior scan", "this scan"]
        listed = sum(other.task == case.task and not other.truth for other in self.session.cases)
        days = self.session.run.profile.prognosis.high_risk_days
        yield (
            {
                "kind": "case",
                "token": self._token,
                "title": TITLES[case.task],
                "place": "Training: the truth is shown after your answer"
                if case.truth
                else f"Case {case.order} of {listed}",
                "question": "Is it COVID-19?"
                if case.task == "covid"
                else f"High risk: a further stay of {days:g} days or more?",
                "scans": [{"name": name, **scan} for name, scan in zip(names, scans, strict=True)],
                "presets": [[name, *window] for name, window in PRESETS.items()],
                "confidence": list(CONFIDENCE),
                "back": self.allow_back and self.session.can_take_back,
            },
            [],
        )

    def _send(self, message: dict[str, Any]) -> Iterator[Answer]:
        """Send one piece of a scan of the case in hand."""
        case = self._in_hand(message)
        if case is not None:
            held = self._pictures[_scans(case)[int(message["scan"])]].result()
            number = int(message["piece"])
            first, packed = held.pieces[number]
            told = {"scan": int(message["scan"]), "piece": number, "pieces": len(held.pieces), "first": first}
            yield {"kind": "piece", "token": self._token, **told}, [packed]

    def _take(self, message: dict[str, Any]) -> Iterator[Answer]:
        """Keep an answer, once; then the truth of a training case, or the next case."""
        case = self._in_hand(message)
        if case is None:
            return
        call, seconds = int(message["call"]), float(message["seconds"])
        confidence = list(CONFIDENCE.values())[int(message["confidence"])]
        if call not in (0, 1) or not math.isfinite(seconds):
            raise ValueError("an answer is 0 or 1, after a number of seconds")
        self.session.record(call, confidence, seconds)
        self._case = None
        if case.truth:
            yield {"kind": "truth", "text": f"The truth: {case.truth}."}, []
        else:
            yield {"kind": "saved"}, []
            yield from self._show(message)

    def _back(self, message: dict[str, Any]) -> Iterator[Answer]:
        """Show the case before again, where this is allowed."""
        if self.allow_back and self.session.can_take_back:
            self.session.take_back()
            yield {"kind": "saved"}, []
            yield from self._show(message)

    def _in_hand(self, message: dict[str, Any]) -> Case | None:
        """Return the case that a message speaks of, None when it is answered."""
        return self._case if message.get("token") == self._token else None

    def _fetch(self, cases: list[Case]) -> None:
        """Read the scans of these cases, one after the other, in the background; let go of all others."""
        wanted = dict.fromkeys(scan_id for case in cases for scan_id in _scans(case))
        self._pictures = {scan_id: self._pictures[scan_id] for scan_id in wanted if scan_id in self._pictures}
        for scan_id in wanted:
            if scan_id not in self._pictures:
                self._pictures[scan_id] = self._pool.submit(picture, self.session.run, scan_id)

    def _described(self, scan_id: str) -> dict[str, Any]:
        """Return what the screen must know of a scan to draw it."""
        held = self._pictures[scan_id].result()
        return {
            "shape": list(held.shape),
            "spacing": list(held.spacing_mm),
            "lungs": list(held.lungs),
            "sides": held.sides,
            "remark": held.remark,
        }


def _scans(case: Case) -> list[str]:
    """Return the scans of a case as they stand on the screen: the prior one left of this one."""
    return [case.prior_scan_id, case.scan_id] if case.prior_scan_id else [case.scan_id]
