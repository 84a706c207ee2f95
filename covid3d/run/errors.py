"""Errors a user can act on: what is wrong, where, and what to do."""

import difflib
import re
from collections.abc import Iterable
from typing import Any


class Covid3DError(Exception):
    """Base of every expected error.

    what:  what is wrong, one sentence without the final stop
    where: scan, file, column or row that is concerned
    cure:  what the user can do about it
    code:  a stable identifier for tables and tests
    """

    code = "error"

    def __init__(self, what: str, *, where: str = "", cure: str = "", code: str | None = None):
        self.what, self.where, self.cure = what, where, cure
        if code is not None:
            self.code = code
        super().__init__(what, where, cure)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return printable(f"{text}. {self.cure}" if self.cure else f"{text}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.cure, self.code)


def _rebuild(kind: type[Covid3DError], what: str, where: str, cure: str, code: str) -> Covid3DError:
    """Rebuild an error that crossed a process boundary."""
    return kind(what, where=where, cure=cure, code=code)


class ConfigError(Covid3DError):
    """A profile, a notebook parameter or a command-line option is wrong."""

    code = "config"


class ManifestError(Covid3DError):
    """A manifest or reader file breaks its contract."""

    code = "manifest"


class SeriesError(Covid3DError):
    """A scan cannot be read as one axial CT volume; `code` says why."""

    code = "series"


class WeightsError(Covid3DError):
    """A weights file does not fit the model or its use."""

    code = "weights"


class StorageError(Covid3DError):
    """The disk is full, or a file cannot be written."""

    code = "storage"


class DownloadError(Covid3DError):
    """The archive cannot be reached, or what it sends is not what it announces."""

    code = "download"


class MissingResult(Covid3DError):
    """A result is needed that has not been computed."""

    code = "missing_result"


def printable(text: str) -> str:
    """Return text in one line that any stream can write: what is no character of UTF-8 or breaks a line is escaped."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: found[0].encode("unicode_escape").decode(), whole)


def nearest(name: str, options: Iterable[str]) -> str:
    """Return a hint such as "did you mean 'run'?" for a misspelt name, or the list of options."""
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}"
