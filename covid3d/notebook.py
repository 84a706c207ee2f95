"""The first cell of every notebook: its parameters are checked, its run is opened, and `show` is handed over."""

import ast
import contextlib
import html
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from covid3d.report.banner import banner, initialisation
from covid3d.report.claims import answers
from covid3d.run.errors import ConfigError, MissingResult, nearest
from covid3d.run.profile import Run, chapter_title, open_run
from covid3d.run.steps import CHAPTERS, chapters_of
from covid3d.run.strict import Checked, Strict, validate
from covid3d.show import Show, display_html


class Parameters(Strict):
    """Parameters of every notebook."""

    run: str
    compute: bool
    device: Literal["auto", "cpu", "cuda"]


class ModelParameters(Parameters):
    scan_id: str = Field(description="the scan shown; '' takes the first COVID+ one of hospital B")


class CaseParameters(Parameters):
    seed_of_examples: int = Field(ge=0, description="draws the example cases")


class ReaderParameters(Parameters):
    margin_points: float | None = Field(gt=0, description="equivalence margin; None takes the profile's")


class TrajectoryParameters(Parameters):
    late_days: int = Field(ge=0, description="a last scan further than this from discharge is 'no late scan'")


class RoomParameters(Strict):
    """Parameters of the reading room, which is no chapter."""

    run: str
    reader: str
    tasks: tuple[str, ...] = Field(strict=False)
    allow_back: bool


PARAMETERS: Mapping[str, type[Parameters]] = {
    "02_model": ModelParameters,
    "04_external_tests": CaseParameters,
    "05_reader_comparison": ReaderParameters,
    "06_trajectories": TrajectoryParameters,
}


def open(chapter: str, namespace: Mapping[str, Any]) -> tuple[Run, Show]:
    """Return a notebook's run and its `show`, and display where the run's scans come from.

    `run, show = notebook.open("03_cross_validation", globals())` stands right after the cell of parameters. Only names that
    this cell, or papermill's beside it, assigns are parameters; a misspelt or ill-typed one is a ConfigError that gives the
    nearest name. Raises MissingResult for a chapter that the run's book does not have.
    """
    if chapter not in CHAPTERS:
        raise ConfigError(f"there is no chapter '{chapter}'", cure=nearest(chapter, CHAPTERS))
    parameters = _given(PARAMETERS.get(chapter, Parameters), namespace, where=f"parameters of {chapter}")
    run = open_run(parameters.run).with_options(compute=parameters.compute, device=parameters.device)
    if chapter not in chapters_of(run):
        raise MissingResult(
            f"chapter {chapter} is not part of this run",
            where=f"run '{run.name}'",
            cure=f"Its chapters are {', '.join(chapters_of(run))}",
        )
    np.set_printoptions(legacy="1.25")  # a bare number is displayed as 0.83, not as np.float64(0.83)
    _show_banner(run, chapter)
    return run, Show(run, chapter, answers())


def reading_room(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the reading room, checked as those of a chapter are; it is entered with them."""
    return _given(RoomParameters, namespace, where="parameters of 11_reading_room").model_dump()


def _given(model: type[Checked], namespace: Mapping[str, Any], *, where: str) -> Checked:
    """Return the parameters that a notebook's cells assign, checked; a ConfigError names a wrong one and the nearest."""
    names = assigned(namespace.get("In", [])) or list(model.model_fields)
    found = {name: namespace[name] for name in names if name in namespace}
    if isinstance(found.get("run"), Run):  # the cell is run again, step by step
        found["run"] = found["run"].name
    return validate(model, found, where=where)


def assigned(history: list[str]) -> list[str]:
    """Return the names that the cells before the first `notebook.open` (`.reading_room`) assign, in the order of the cells.

    history: the sources of the executed cells, as IPython keeps them in `In`. What a start-up file defines is not there. A cell
    that was corrected and run again before the run was opened counts as it is now: cells of parameters replace each other.
    """
    names: dict[str, None] = {}
    opened = False
    for source in history:
        if re.search(r"notebook\.(open|reading_room)\(", source):
            opened = True
            continue
        found = _targets(source)
        if "run" in found and not source.startswith("# Parameters"):  # the cell of parameters, perhaps run again
            names, opened = {}, False
        if not opened:
            names.update(dict.fromkeys(found))
    return list(names)


def _targets(source: str) -> list[str]:
    """Return the names that a cell assigns at its top level; none of a cell that is no Python."""
    found: list[str] = []
    with contextlib.suppress(SyntaxError):
        for statement in ast.parse(source).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def _show_banner(run: Run, chapter: str) -> None:
    """Show where the scans come from, the run, and what its network starts from."""
    origin = f"<strong>{html.escape(banner(run))}</strong> " if banner(run) else ""
    start = "" if chapter.startswith("01") else f" {html.escape(initialisation(run))}"
    display_html(
        f"<p>{origin}Run <code>{html.escape(run.name)}</code>: profile {html.escape(run.profile.name)}, "
        f"world {run.world}, seed {run.seed}; chapter {html.escape(chapter_title(chapter))}.{start}</p>"
    )
