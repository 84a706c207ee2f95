"""Remarks of other packages while a scan is read: they may repeat paths and what a header says of a patient."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FOREIGN: Final = ("pydicom", "pylibjpeg", "openjpeg", "rle", "jpeg_ls", "nibabel")
"""Packages that warn or log."""


@contextmanager
def quiet() -> Iterator[None]:
    """Let no warning and no log line of another package out; what is wrong with a scan is told by a SeriesError."""
    loggers = [logging.getLogger(name) for name in FOREIGN]
    before, nowhere = [logger.propagate for logger in loggers], logging.NullHandler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:  # and those below it, which hand their lines up
            logger.propagate = False
            logger.addHandler(nowhere)
        try:
            yield
        finally:
            for logger, propagate in zip(loggers, before, strict=True):
                logger.propagate = propagate
                logger.removeHandler(nowhere)
