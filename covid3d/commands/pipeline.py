"""A run as `make` starts it: one call of Snakemake, and batches of such runs over sets of parameters."""

import ast
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import Field

from covid3d.comparators.catalogue import COMPARATORS, OTHERS
from covid3d.run.environment import own_settings
from covid3d.run.errors import ConfigError, Covid3DError, nearest
from covid3d.run.files import read_json, sha256_file, sha256_json, write_json
from covid3d.run.profile import CHAPTERS, Run, open_run, repository_root
from covid3d.run.steps import code_fingerprint, code_hash, imports_of, static_fingerprint
from covid3d.run.strict import Strict, validate

ENTRIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cohort": ("covid3d.cohort.intake", "ensure_cohort", ()),
    "intake": ("covid3d.cohort.intake", "ensure_intake", ()),
    "splits": ("covid3d.cohort.folds", "ensure_splits", ()),
    "fold": ("covid3d.chapters.cross_validation", "ensure_fold", ("fold",)),
    "selection": ("covid3d.chapters.cross_validation", "ensure_selection", ()),
    "slices": ("covid3d.chapters.cross_validation", "ensure_slices", ()),
    "comparator": ("covid3d.chapters.comparison", "ensure_comparator", ("model", "fold")),
    "comparators": ("covid3d.chapters.comparison", "ensure_comparators", ()),
    "external": ("covid3d.chapters.external_tests", "ensure_external", ()),
    "windows": ("covid3d.chapters.robustness", "ensure_windows", ()),
    "explain": ("covid3d.chapters.explanation", "ensure_explain", ()),
    "trajectories": ("covid3d.chapters.trajectories", "ensure_trajectories", ()),
    "prognosis": ("covid3d.chapters.prognosis", "ensure_prognosis", ("variant", "fold")),
    "chapter": ("covid3d.report.book", "ensure_chapter", ("chapter",)),
    "collect": ("covid3d.report.book", "collect", ()),
    "book": ("covid3d.report.book", "build", ()),
}
PROGRESS = re.compile(r"\d+ of \d+ steps \(.*\) done")


def snakemake_command(run: Run, cores: int, targets: Sequence[str] = ()) -> list[str]:
    """Return the command line that computes a run; what is up to date is left alone."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(snakefile()), "--cores", str(cores)),
        *("--rerun-incomplete", "--rerun-triggers", "params", "input", "mtime"),
        *("--workflow-profile", "none", "--quiet", "rules", "host", "--config", f'run="{run.name}"'),
        *(("--", *targets) if targets else ()),
    ]


def snakefile() -> Path:
    """Return the Snakefile of the checkout that this package lies in."""
    path = Path(__file__).resolve().parents[2] / "Snakefile"
    if not path.is_file():
        raise ConfigError(
            "the Snakefile is not beside the package",
            cure="Work in a checkout: `pip install -e .`, or just `make report`",
        )
    return path


def compute(run: Run, cores: int, targets: Sequence[str] = ()) -> int:
    """Compute a run and return an exit status: 0 done, 1 a program error, 2 bad input (the message was printed).

    Snakemake's own words go to logs/snakemake.log; the steps' lines and the share that is done go to the terminal.
    """
    clear_dead_lock(run)
    status, said = 1, list[str]()
    log = run.path("logs", "snakemake.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8", buffering=1) as stream,
        subprocess.Popen(
            snakemake_command(run, cores, targets),
            cwd=run.folder,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(run),
        ) as process,
    ):
        hold(run, process.pid)
        assert process.stderr is not None
        for line in process.stderr:
            stream.write(line)
            said.append(line.rstrip())
            if PROGRESS.match(line):
                print(f"  {line.strip()}", flush=True)
            elif "returned non-zero exit status 2" in line:
                status = 2
    if process.returncode == 0:
        return 0
    last = f"stopped; finished work is kept, the same command goes on from there. Logs: runs/{run.name}/logs/"
    print(*cause(said), last, sep="\n", file=sys.stderr)
    return status


def cause(said: Sequence[str]) -> list[str]:
    """Return the lines of Snakemake's and its shell's words that tell why a run stopped, where no step could tell it itself."""
    if not any("returned non-zero exit status" in line for line in said):
        return [line for line in said if line][-3:]
    ends = [line for line in said if re.match(r"\S*bash: ", line)]
    hint = (
        "A job was killed: memory may be short (`make doctor` says what a profile needs); fewer jobs at once: CORES=1"
    )
    return [*ends, *([hint] if any("Killed" in line for line in ends) else ())]


def environment(run: Run) -> dict[str, str]:
    """Return the environment of a run's jobs: number of threads from the profile, never from the machine."""
    threads = str(run.profile.training.threads_per_fold)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    own = own_settings(run.path(".snakemake", "settings"))
    return {
        **os.environ,
        **own,
        **dict.fromkeys(names, threads),
        "COVID3D_ROOT": str(run.root),
        "PYTHONUNBUFFERED": "1",
    }


def clear_dead_lock(run: Run) -> None:
    """Remove Snakemake's lock, and what lay half-written, when its process is dead; refuse when it lives."""
    locks = [path for path in run.path(".snakemake", "locks").glob("*") if path.is_file()]
    try:
        holder = read_json(run.path("logs", "process.json"))
        alive = abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        alive = False
    if alive:
        raise Covid3DError(
            f"run '{run.name}' is being computed by process {holder['pid']}",
            cure="Wait for it, or stop that process",
            code="locked",
        )
    for path in locks:
        path.unlink()
    for path in leftovers(run) if locks else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def leftovers(run: Run) -> list[Path]:
    """Return the temporary files and folders that a killed process could not remove: `.<name>.<eight letters>`."""
    hidden = [path for name in ("models", "comparators", "checkpoints") for path in sorted(run.path(name).rglob(".*"))]
    return [path for path in hidden if re.fullmatch(r"\..+\.[a-z0-9_]{8}(\.\w+)?", path.name)]


def hold(run: Run, pid: int) -> None:
    """Note which process computes the run (number and start time, so that a reused number is not mistaken for it)."""
    write_json(run.path("logs", "process.json"), {"pid": pid, "started": psutil.Process(pid).create_time()})


def run_step(
    run: Run, name: str, *, fold: int | None, variant: str | None, model: str | None, chapter: str | None
) -> None:
    """Compute one step of a run; a ConfigError names a step, fold, variant, model or chapter that does not exist."""
    if name not in ENTRIES:
        raise ConfigError(f"there is no step '{name}'", cure=nearest(name, ENTRIES))
    module, function, wanted = ENTRIES[name]
    given = {"fold": fold, "variant": variant, "model": model, "chapter": chapter}
    for option in wanted:
        if given[option] is None:
            raise ConfigError(f"step '{name}' needs --{option}", cure=f"Add --{option}")
    if fold is not None and not 0 <= fold < run.profile.training.folds:
        raise ConfigError(f"there is no fold {fold}", cure=f"Folds are 0 to {run.profile.training.folds - 1}")
    if variant is not None and variant not in ("single", "pair"):
        raise ConfigError(f"there is no variant '{variant}'", cure="Known: single, pair")
    if model is not None and model not in OTHERS:
        raise ConfigError(f"there is no model '{model}' to compare with COVID3D", cure=nearest(model, OTHERS))
    if chapter is not None and chapter not in CHAPTERS:
        raise ConfigError(f"there is no chapter '{chapter}'", cure=nearest(chapter, CHAPTERS))
    run = run.with_options(compute=name != "chapter")  # the jobs compute, a notebook of the graph only presents
    getattr(importlib.import_module(module), function)(run, *(given[option] for option in wanted))


def create(name: str, **options: Any) -> Run:
    """Open a run, or create it when the files that it names are in order, so that a refusal leaves nothing behind.

    Raises ConfigError, ManifestError or WeightsError; see `open_run`.
    """
    manifest, weights = (repository_root() / (options.get(key) or "") for key in ("manifest", "weights"))
    if options.get("weights"):
        from covid3d.network.weights import describe_weights

        if not weights.is_file():
            cure = "Give WEIGHTS=path of a safetensors file"
            raise ConfigError("there is no such weights file", where=str(options["weights"]), cure=cure)
        describe_weights(weights)
    if options.get("manifest") and manifest.is_file():
        from covid3d.cohort.manifest import read_manifest

        simulated = read_manifest(manifest)["source"].str.startswith("phantom:").any()
        read_manifest(manifest, delivered=not simulated)
    return open_run(name, **options)


def own_files(run: Run, step: str) -> str:
    """Return the hash of the user's file that a step reads: the order form, weights to start from, or given weights."""
    if step == "cohort":
        return sha256_file(run.order_form)
    if step == "fold":
        return sha256_file(run.pretrained) if run.pretrained else ""
    return sha256_file(run.root / run.config.weights) if step == "external" and run.config.weights else ""


def chapter_code(run: Run, chapter: str) -> str:
    """Return the part of a chapter's fingerprint known before its inputs: cells, imported code, profile and options."""
    cells = read_json(run.root / "notebooks" / f"{chapter}.ipynb")["cells"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] != "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    modules = sorted(imports_of(ast.parse(code)))
    options = [run.config.model_dump(), run.profile.model_dump(mode="json")]
    others = run.path("comparators", "summary", "done.json")  # of `make extended`: shown when it is there
    more = sha256_file(others) if "covid3d.chapters.comparison" in modules and others.is_file() else ""
    return sha256_json([prose, code_hash(code), [code_fingerprint(name) for name in modules], options, more])


def model_code(run: Run, step: str, model: str) -> str:
    """Return the part of the fingerprint of one model's fold that is known before its inputs."""
    own = code_fingerprint(COMPARATORS[model]) if step == "comparator" else ""
    return sha256_json([static_fingerprint(run, step), own])


def pages_code(run: Run) -> str:
    """Return the hash of the book's sources."""
    pages = sorted(path for path in (run.root / "book").rglob("*") if path.is_file())
    return sha256_json([[path.name, sha256_file(path)] for path in pages])


def store_scan(run: Run, row: dict[str, Any], folder: Path) -> None:
    """Read a simulated scan back and store its grid as soon as it is written, so that its DICOM need not stay."""
    from covid3d.cohort.intake import take_in

    found = take_in(run, {**row, "source": folder.relative_to(run.folder).as_posix()})
    if found["ok"] != 1:
        raise Covid3DError("a simulated scan cannot be read back", where=row["scan_id"], cure=str(found["message"]))


def is_stored(run: Run, scan_id: str, sha256: str) -> bool:
    """True when the grid of these very files is in the store."""
    from covid3d.cohort.store import Store

    return Store.of(run).facts(scan_id, sha256) is not None


class Sweep(Strict):
    """A batch: every combination of the listed values is one run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$", description="first part of each run's name")
    profile: list[str] = Field(default=["smoke"], min_length=1)
    manifest: list[str] = Field(default=[""], min_length=1)
    world: list[str] = Field(default=["effect"], min_length=1)
    seed: list[int] = Field(default=[1], min_length=1)
    weights: list[str] = Field(default=[""], min_length=1)


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """Read a sweep file; return the options of each run by the run's name, in the order of the file."""
    if not path.is_file():
        raise ConfigError("the sweep file does not exist", where=str(path), cure="Copy sweep.example.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError("not valid YAML", where=path.name, cure=str(error).splitlines()[0]) from None
    if not isinstance(content, Mapping):
        raise ConfigError("a sweep is a table of keys", where=path.name, cure="Copy sweep.example.yaml")
    if None in (content.get("world") or ()):
        raise ConfigError(
            "a bare null means 'nothing' in YAML", where=f"{path.name}, key 'world'", cure='Write "null" in quotes'
        )
    sweep = validate(Sweep, content, where=path.name)
    varied: dict[str, list[Any]] = sweep.model_dump(exclude={"name"})
    runs: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*varied.values()):
        options = dict(zip(varied, values, strict=True))
        parts = [_short(value) for key, value in options.items() if len(varied[key]) > 1]
        name = "-".join([sweep.name, *parts])
        if name in runs:
            raise ConfigError(f"two runs would be called '{name}'", where=path.name, cure="List each value once")
        runs[name] = {key: value for key, value in options.items() if value != ""}
    return runs


def _short(value: object) -> str:
    """Return a value as part of a run's name: a path gives its stem."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", Path(str(value)).stem or "embedded")


def batch(path: Path, cores: int) -> list[Run]:
    """Compute every run of a sweep file, one after the other; return the runs.

    All names and options are checked before the first run starts; an error in a run stops the batch.
    """
    wanted = read_sweep(path)
    runs = [create(name, **options) for name, options in wanted.items()]
    for number, run in enumerate(runs, start=1):
        print(f"run {number} of {len(runs)}: {run.name}", flush=True)
        status = compute(run, cores)
        if status:
            raise Covid3DError(
                "the batch stopped here", where=f"run '{run.name}'", cure=f"See runs/{run.name}/logs/, mend, repeat"
            )
    return runs


def announce(run: Run, cores: int) -> str:
    """Return the opening line of a run: what it does, how long it takes and how much disk it fills."""
    profile = run.profile
    return (
        f"run '{run.name}': {profile.purpose}; about {profile.minutes:g} min on {profile.reference_machine}, "
        f"{profile.disk_gb:g} GB in runs/{run.name}/. Cores used: {cores}. What is up to date is kept."
    )


def where_it_lies(run: Run) -> str:
    """Return the closing lines of a run: where the book, the numbers and the cost are."""
    base = run.folder.relative_to(repository_root()) if run.folder.is_relative_to(repository_root()) else run.folder
    return (
        f"book:    {base}/book/_build/html/index.html  (open it in a browser)\n"
        f"numbers: {base}/values.json, tables/, figures/, predictions.csv, claims.csv\n"
        f"cost:    {base}/cost.json"
    )
