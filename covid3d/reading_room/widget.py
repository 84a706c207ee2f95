"""The screen of the reading room, a widget for JupyterLab: it draws, and passes on what the reader says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget

from covid3d.cohort.reader_study import TASKS
from covid3d.reading_room.desk import Desk
from covid3d.reading_room.session import Session
from covid3d.run.profile import open_run

HERE = Path(__file__).parent


class ReadingRoom(anywidget.AnyWidget):
    """Carries messages between a desk and its screen; nothing of a case is kept in the widget or in the notebook."""

    _esm = (HERE / "screen.js").read_text(encoding="utf-8")
    _css = (HERE / "screen.css").read_text(encoding="utf-8")

    def __init__(self, desk: Desk):
        super().__init__()
        self.desk = desk
        self.on_msg(self._hear)

    def _hear(self, _: Any, message: dict[str, Any], __: Any) -> None:
        for answer, buffers in self.desk.hear(message):
            self.send(answer, buffers)


def enter(run: str, reader: str, tasks: Sequence[str] = TASKS, *, allow_back: bool = False) -> ReadingRoom:
    """Return the reading room of a run, at the first case that the reader has not read.

    Raises Covid3DError where the run, the reader or a task is none, or there is nothing to read.
    """
    return ReadingRoom(Desk(Session.open(open_run(run), reader, tasks), allow_back=allow_back))
