"""The one registry of steps, and reuse: a step is computed when its data, profile keys or code have changed, never else.

To add a step is to add one entry to `STEPS`: the order of a run, the fingerprints, the inputs of the chapters and the table
of costs follow from it. The fingerprint of a step is the hash of the content of its inputs, of the profile keys that it
declares, of seed and world, and of the code of the module it starts in (`covid3d.run.fingerprint`). It is stored with the
hashes of the step's outputs in `done.json`, and it is the only authority on reuse.
"""

import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covid3d.run.errors import ConfigError, MissingResult, nearest
from covid3d.run.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from covid3d.run.fingerprint import code_fingerprint, profile_values
from covid3d.run.profile import Run


@dataclass(frozen=True)
class Step:
    """One step of a run.

    does: one sentence for the terminal. entry: "module:function", called with the run and one value of each name in `over`.
    needs: steps that come first. keys: the profile keys it reads. makes: what it leaves in the run's folder. budget: the
    line of the cost table that it belongs to. code: the module whose code counts, where it is not the entry's. trains:
    it is no part of a run with given weights. all_cores: it spreads over the cores by itself.
    """

    does: str
    entry: str
    needs: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    budget: str = ""
    code: str = ""
    trains: bool = False
    all_cores: bool = False

    @property
    def module(self) -> str:
        """The module whose code, with all that it imports, counts in the fingerprint."""
        return self.code or self.entry.partition(":")[0]


@dataclass(frozen=True)
class Chapter(Step):
    """A notebook: it presents what its needs have made.

    stored: campaign tables that it shows (benchmarks/results/<name>.csv). files: other files of the checkout that it
    shows. optional: steps whose result it shows where it is there. said: files of the run that people leave in it, shown
    where they are. `needs`, `stored`, `files`, `optional` and `said` are all that its fingerprint takes from outside its own
    cells and code.
    """

    does: str = "execute the notebook"
    entry: str = "covid3d.report.chapter:ensure_chapter"
    budget: str = "notebooks"
    stored: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


READINGS = ("reading_room/calls.csv",)
WINDOW = ("windows.level", "windows.width")
STEPS: dict[str, Step] = {
    "cohort": Step(
        "deliver the cohort: simulate it, or take over a hospital's scans",
        "covid3d.commands.deliver:ensure_cohort",
        keys=("cohort", "phantom", "model.grid"),
        makes=("manifest.csv", "controls.csv", "reader_study.csv", "truth/truth.csv"),
        budget="cohort and intake",
        code="covid3d.phantom.build",
        all_cores=True,
    ),
    "intake": Step(
        "read, check and resample every scan",
        "covid3d.cohort.intake:ensure_intake",
        needs=("cohort",),
        keys=("model.grid", "phantom.keep_dicom"),
        makes=("intake.csv", "flow.json"),
        budget="cohort and intake",
        all_cores=True,
    ),
    "splits": Step(
        "draw the folds and check them for leaks",
        "covid3d.cohort.folds:ensure_splits",
        needs=("intake",),
        keys=("training.folds",),
        makes=("splits.csv", "leakage.json"),
        budget="cohort and intake",
    ),
    "examples": Step(
        "simulate the examples of chapter 1 again in smaller voxels",
        "covid3d.commands.twins:ensure_examples",
        needs=("intake",),
        keys=("cohort", "phantom"),
        makes=("examples",),
        budget="cohort and intake",
        all_cores=True,
    ),
    "fold": Step(
        "train one fold of COVID3D",
        "covid3d.chapters.task1:ensure_fold",
        needs=("splits",),
        over=("fold",),
        keys=("model", "training", *WINDOW),
        makes=("models/task1/covid3d",),
        budget="folds of Task 1",
        trains=True,
    ),
    "selection": Step(
        "choose the fold that is deployed",
        "covid3d.chapters.task1:ensure_selection",
        needs=("fold",),
        keys=("training.folds",),
        makes=("models/task1/selection",),
        budget="folds of Task 1",
        trains=True,
    ),
    "slices": Step(
        "train the 2D baseline",
        "covid3d.chapters.task1:ensure_slices",
        needs=("selection",),
        keys=("slices", "model.grid", "training", *WINDOW),
        makes=("models/task1/resnet_2d",),
        budget="2D baseline",
        trains=True,
    ),
    "external": Step(
        "score hospitals B and C",
        "covid3d.chapters.external_scores:ensure_external",
        needs=("slices",),
        keys=("model", "slices", "statistics", *WINDOW),
        makes=("external",),
        budget="folds of Task 1",
        trains=True,
    ),
    "given": Step(
        "score a hospital's scans with the given weights",
        "covid3d.chapters.your_hospital:ensure_scores",
        needs=("splits",),
        keys=("model", *WINDOW),
        makes=("external",),
    ),
    "windows": Step(
        "score every window",
        "covid3d.chapters.robustness:ensure_windows",
        needs=("slices",),
        keys=("model", "slices", "windows"),
        makes=("windows",),
        budget="windows and maps",
        trains=True,
        all_cores=True,
    ),
    "explain": Step(
        "compute activation maps",
        "covid3d.chapters.explanation:ensure_explain",
        needs=("selection",),
        keys=("model", "explain.layer", "explain.method", *WINDOW),
        makes=("explain",),
        budget="windows and maps",
        trains=True,
    ),
    "random_labels": Step(
        "train the deployed fold again on permuted labels",
        "covid3d.chapters.random_labels:ensure_random_labels",
        needs=("selection",),
        keys=("model", "training", *WINDOW),
        makes=("models/random_labels",),
        budget="windows and maps",
        trains=True,
    ),
    "evidence": Step(
        "make parts of the lung healthy and score again",
        "covid3d.chapters.evidence:ensure_evidence",
        needs=("explain", "random_labels"),
        keys=("model", "explain", "training.threads_per_fold", *WINDOW),
        makes=("evidence",),
        budget="windows and maps",
        trains=True,
    ),
    "twins": Step(
        "simulate the scans of pictures again in smaller voxels",
        "covid3d.commands.twins:ensure_twins",
        needs=("explain",),
        keys=("cohort", "phantom"),
        makes=("twins",),
        budget="windows and maps",
        trains=True,
        all_cores=True,
    ),
    "trajectories": Step(
        "score every follow-up scan",
        "covid3d.chapters.trajectory_scores:ensure_trajectories",
        needs=("selection",),
        keys=("model", "windows"),
        makes=("trajectories",),
        budget="folds of Task 1",
        trains=True,
    ),
    "prognosis": Step(
        "fine-tune one fold for prognosis",
        "covid3d.chapters.fine_tuning:ensure_prognosis",
        needs=("fold",),
        over=("variant", "fold"),
        keys=("model", "prognosis", "training", *WINDOW),
        makes=("models/prognosis",),
        budget="prognosis",
        trains=True,
    ),
    "comparator": Step(
        "train one fold of a compared model",
        "covid3d.chapters.comparison:ensure_comparator",
        needs=("splits",),
        over=("model", "fold"),
        keys=("model.grid", "model.width", "training", "slices", *WINDOW),
        code="covid3d.comparators.interface",
        trains=True,
    ),
    "comparators": Step(
        "score every compared model",
        "covid3d.chapters.comparison:ensure_comparators",
        needs=("external", "comparator"),
        keys=("model", "training", "slices", *WINDOW),
        makes=("comparators/summary",),
        trains=True,
    ),
    "nested": Step(
        "choose epochs and rate inside one fold's training patients",
        "covid3d.chapters.nested:ensure_nested",
        needs=("fold",),
        over=("fold",),
        keys=("model", "training", *WINDOW),
        makes=("nested",),
        trains=True,
    ),
    "01_data": Chapter(needs=("splits", "examples")),
    "02_model": Chapter(needs=("selection",)),
    "03_cross_validation": Chapter(needs=("selection", "windows"), stored=("seeds",), optional=("nested",)),
    "04_external_tests": Chapter(
        needs=("external", "windows", "explain", "random_labels", "evidence", "twins"),
        stored=("comparators", "map_layers", "coverage", "levels", "window_order", "phantom_boxes", "phantom_depth"),
        optional=("comparators",),
    ),
    "05_reader_comparison": Chapter(needs=("external",), said=READINGS),
    "06_trajectories": Chapter(needs=("trajectories", "external", "explain", "evidence", "twins")),
    "07_prognosis": Chapter(needs=("trajectories", "prognosis"), said=READINGS),
    "08_claims": Chapter(),
    "09_simulator": Chapter(
        needs=("splits",),
        stored=tuple(
            "phantom_realism phantom_fairness phantom_difficulty phantom_evidence seeds scaling recipes null_world null_smoke "
            "phantom_course phantom_prognosis phantom_gain phantom_power phantom_speed".split()
        ),
        files=("book/images/phantom_contact_sheet.jpg",),
    ),
    "10_your_hospital": Chapter(needs=("given",)),
    "collect": Step("merge the chapters", "covid3d.report.collect:collect"),
    "book": Step("build the book", "covid3d.report.book:build", needs=("collect",), budget="book"),
}
EXTENDED = ("nested", "comparators")
"""Steps that only `make extended` computes, with what they need."""
CHAPTERS = tuple(name for name, step in STEPS.items() if isinstance(step, Chapter))


def chapters_of(run: Run) -> tuple[str, ...]:
    """Return the chapters that a run's book has: a hospital's own with given weights, else the paper's; 09 needs a simulator."""
    if run.is_site:
        return ("10_your_hospital",)
    return tuple(name for name in CHAPTERS if name < ("10" if run.is_phantom else "09"))


def needs(run: Run, name: str) -> tuple[str, ...]:
    """Return the steps that come before a step or chapter; with given weights nothing is trained."""
    if name in ("08_claims", "collect"):
        return tuple(chapter for chapter in chapters_of(run) if chapter != name)
    return tuple(other for other in known(name).needs if not (run.is_site and STEPS[other].trains))


def all_needs(run: Run, name: str) -> list[str]:
    """Return every step that a step or chapter rests on, in an order in which they can be computed."""
    found: dict[str, None] = {}
    for other in needs(run, name):
        found.update(dict.fromkeys([*all_needs(run, other), other]))
    return list(found)


def values_over(run: Run, name: str) -> Iterator[dict[str, Any]]:
    """Yield what a step is called with, once for each fold, model or variant: {} for a step that runs once."""
    names = known(name).over
    for values in itertools.product(*(options(run, one) for one in names)):
        yield dict(zip(names, values, strict=True))


def options(run: Run, name: str) -> Sequence[Any]:
    """Return the values of what steps fan out over: fold, variant or model."""
    if name == "fold":
        return range(run.profile.training.folds)
    if name == "variant":
        return ("single", "pair")
    return importlib.import_module("covid3d.comparators.catalogue").OTHERS


def call(run: Run, name: str, **values: Any) -> None:
    """Compute one step for one fold, variant or model, where it is missing or out of date."""
    module, _, function = known(name).entry.partition(":")
    entry = getattr(importlib.import_module(module), function)
    entry(run, name) if name in CHAPTERS else entry(run, **values)


def ensure_needs(run: Run, name: str) -> None:
    """Compute, in order, all that a step or chapter rests on and that is missing or out of date.

    With `run.compute` False, what is missing is a MissingResult that names the command to run.
    """
    for step in all_needs(run, name):
        if not isinstance(STEPS[step], Chapter):
            for values in values_over(run, step):
                call(run, step, **values)


def static_fingerprint(run: Run, name: str) -> str:
    """Return the part of a step's fingerprint that is known before its inputs exist: code, profile keys and seed."""
    step = known(name)
    return sha256_json([code_fingerprint(step.module), profile_values(run, step.keys), run.seed, run.world])


def fingerprint(run: Run, name: str, inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a step: the static part and the content of its inputs.

    A `Path` among the inputs counts by the SHA-256 of its bytes; anything else must be JSON-able.
    """
    content = {key: sha256_file(value) if isinstance(value, Path) else value for key, value in inputs.items()}
    return sha256_json([static_fingerprint(run, name), content])


def ensure(
    run: Run,
    name: str,
    folder: Path,
    inputs: Mapping[str, Any],
    compute: Callable[[Path], None],
    *,
    again: str | None = None,
) -> Path:
    """Return `folder` holding the finished result of a step, computing it when it is missing or out of date.

    `compute(temporary)` writes its files into a temporary folder, which replaces `folder` only when it has succeeded.
    With `run.compute` False, a missing result is a MissingResult that names the command `again`.
    """
    wanted = fingerprint(run, name, inputs)
    if is_done(folder, wanted):
        return folder
    place = folder.relative_to(run.folder).as_posix()
    _refuse_to_compute(run, place, again)

    def whole() -> None:
        with atomic_folder(folder) as temporary:
            compute(temporary)
            mark_done(temporary, name, wanted)

    _timed(run, name, place, whole)
    return folder


def ensure_in_place(
    run: Run, name: str, outputs: Sequence[str], inputs: Mapping[str, Any], compute: Callable[[], None]
) -> None:
    """Like `ensure`, for a step that resumes by itself and writes named files into the run's folder.

    `compute()` writes `outputs` (paths relative to the run's folder) atomically, each as its last act; the record lies in
    `done/<step>.json`.
    """
    wanted = fingerprint(run, name, inputs)
    record = run.path("done", f"{name}.json")
    try:
        current = read_json(record)["fingerprint"] == wanted
    except (OSError, ValueError, KeyError, TypeError):
        current = False
    if current and all(run.path(output).is_file() for output in outputs):
        return
    _refuse_to_compute(run, outputs[0], None)
    _timed(run, name, name, compute)
    write_json(record, {"step": name, "fingerprint": wanted})


def _refuse_to_compute(run: Run, place: str, again: str | None) -> None:
    """Raise MissingResult for a run that may not compute, with the command that does."""
    if not run.compute:
        raise MissingResult(
            f"'{place}' has not been computed, or is out of date",
            where=f"run '{run.name}'",
            cure=f"Run `{again or f'make run RUN={run.name}'}`, or set compute=True",
        )


def _timed(run: Run, name: str, place: str, compute: Callable[[], None]) -> None:
    print(f"{place}: {known(name).does} …", flush=True)
    started = time.perf_counter()
    compute()
    seconds = time.perf_counter() - started
    print(f"{place}: done in {seconds:.1f} s", flush=True)
    note_cost(run, place, seconds, budget=known(name).budget)


def mark_done(folder: Path, name: str, value: str) -> None:
    """Write done.json: the step, its fingerprint and the hash of every file of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "done.json")
    outputs = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    write_json(folder / "done.json", {"step": name, "fingerprint": value, "outputs": outputs})


def is_done(folder: Path, wanted: str) -> bool:
    """True when `folder` holds a result with this fingerprint and all of its files, as they were written."""
    try:
        done = read_json(folder / "done.json")
        same = (sha256_file(folder / name) == value for name, value in done["outputs"].items())
        return done["fingerprint"] == wanted and all(same)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def content(folder: Path) -> str:
    """Return the hash of a finished step's outputs, for use as another step's input."""
    try:
        return sha256_json(read_json(folder / "done.json")["outputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingResult(
            f"'{folder.name}' has not been computed", cure="Run `make run` for this run first"
        ) from error


def note_cost(run: Run, place: str, seconds: float, *, budget: str) -> None:
    """Keep when a step ended (seconds since 1970) and how long it took outside the results, for cost.json."""
    note = {"step": place, "budget": budget, "seconds": round(seconds, 2), "ended": round(time.time(), 2)}
    write_json(run.path("logs", "cost", place.replace("/", "__") + ".json"), note)


def known(name: str) -> Step:
    """Return a step by its name; a ConfigError gives the nearest name."""
    if name not in STEPS:
        raise ConfigError(f"there is no step '{name}'", cure=nearest(name, STEPS))
    return STEPS[name]
