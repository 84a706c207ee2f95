"""A run as `make` starts it: one call of Snakemake, and batches of such runs over sets of parameters."""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import Field

from covid3d.comparators.catalogue import COMPARATORS
from covid3d.report.chapter import own_fingerprint
from covid3d.run.environment import own_settings
from covid3d.run.errors import ConfigError, Covid3DError, nearest
from covid3d.run.files import CALLER, read_json, sha256_file, sha256_json, write_json
from covid3d.run.fingerprint import code_fingerprint
from covid3d.run.profile import Run, load_profile, open_run, profile_names, repository_root
from covid3d.run.steps import (
    EXTENDED,
    STEPS,
    Chapter,
    all_needs,
    call,
    known,
    needs,
    options,
    static_fingerprint,
    values_over,
)
from covid3d.run.strict import Strict, read_keys, validate

CLUSTERS = {"slurm": "sbatch"}
"""Snakemake's executor of each kind of cluster, and the command that submits to it."""
SLURM_LOOKS_AFTER = 10
"""Seconds after which Slurm is asked how a job does."""
PROGRESS = re.compile(r"\d+ of \d+ steps \(.*\) done")


def snakemake_command(run: Run, cores: int, targets: Sequence[str] = (), cluster: str = "") -> list[str]:
    """Return the command line that computes a run; what is up to date is left alone.

    cluster: a Snakemake executor that hands each job to a cluster, at most `cores` jobs at once of at most `cores` cores each.
    """
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(snakefile()), "--cores", str(cores)),
        *("--rerun-incomplete", "--rerun-triggers", "params", "input", "mtime"),
        *("--workflow-profile", "none", "--quiet", "rules", "host", "--config", f'run="{run.name}"'),
        *((f"cluster={cluster}", "--executor", cluster, *on_cluster(run, cores)) if cluster else ()),
        *(("--", *targets) if targets else ()),
    ]


def on_cluster(run: Run, cores: int) -> list[str]:
    """Return what Slurm is asked for: memory of a job as the profile needs it, four hours, and patience with shared disks."""
    asked = [f"mem_mb={int(run.profile.memory_gb * 1000)}", "runtime=240"]
    slurm = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", str(SLURM_LOOKS_AFTER)]
    return ["--jobs", str(cores), "--latency-wait", "60", *slurm, "--default-resources", *asked]


def snakefile() -> Path:
    """Return the Snakefile of the checkout that this package lies in."""
    path = Path(__file__).resolve().parents[2] / "Snakefile"
    if not path.is_file():
        raise ConfigError(
            "the Snakefile is not beside the package",
            cure="Work in a checkout: `pip install -e .`, or just `make report`",
        )
    return path


def compute(run: Run, cores: int, targets: Sequence[str] = (), cluster: str = "") -> int:
    """Compute a run and return an exit status: 0 done, 1 a program error, 2 bad input (the message was printed).

    Raises ConfigError where the cluster's commands or Snakemake's plugin for it are not installed.

    Snakemake's own words go to logs/snakemake.log; the steps' lines and the share that is done go to the terminal.
    """
    check_cluster(cluster)
    clear_dead_lock(run)
    forget_what_is_gone(run)
    status, said = 1, list[str]()
    log = run.path("logs", "snakemake.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8", buffering=1) as stream,
        subprocess.Popen(
            snakemake_command(run, cores, targets, cluster),
            cwd=run.folder,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(run, cluster),
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


def check_cluster(cluster: str) -> None:
    """Raise ConfigError unless runs can be handed to a cluster: one of `CLUSTERS`, its command here, and Snakemake's plugin."""
    if not cluster:
        return
    if cluster not in CLUSTERS:
        raise ConfigError(f"there is no cluster '{cluster}'", cure=nearest(cluster, list(CLUSTERS)))
    if not shutil.which(CLUSTERS[cluster]):
        raise ConfigError(
            f"there is no command {CLUSTERS[cluster]}", cure="Start the run where jobs are submitted from"
        )
    if not find_spec(f"snakemake_executor_plugin_{cluster}"):
        raise ConfigError(
            f"Snakemake's executor for {cluster} is not installed",
            cure="Install it: pip install -e '.[cluster]' --constraint constraints.txt",
        )


def environment(run: Run, cluster: str = "") -> dict[str, str]:
    """Return the environment of a run's jobs: number of threads from the profile, never from the machine.

    A job on another machine cannot see whether the process that asked for it still lives, so it is not told of it.
    """
    threads = str(run.profile.training.threads_per_fold)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    own = own_settings(run.path(".snakemake", "settings"))
    given = {name: value for name, value in os.environ.items() if not (cluster and name == CALLER)}
    return {
        **given,
        **own,
        **dict.fromkeys(names, threads),
        "COVID3D_ROOT": str(run.root),
        "PYTHONUNBUFFERED": "1",
    }


def clear_dead_lock(run: Run) -> None:
    """Remove Snakemake's lock, and what lay half-written, when its process is dead; refuse when it lives."""
    locks = [path for path in run.path(".snakemake", "locks").glob("*") if path.is_file()]
    if holder := computed_by(run):
        raise Covid3DError(
            f"run '{run.name}' is being computed by process {holder}",
            cure="Wait for it, or stop that process",
            code="locked",
        )
    for path in locks:
        path.unlink()
    for path in leftovers(run) if locks else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def computed_by(run: Run) -> int | None:
    """Return the number of the process that computes a run at this moment, or None."""
    try:
        holder = read_json(run.path("logs", "process.json"))
        alive = abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return int(holder["pid"]) if alive else None


def leftovers(run: Run) -> list[Path]:
    """Return the temporary files and folders that a killed process could not remove: `.<name>.<eight letters>`."""
    hidden = [
        path
        for name in ("models", "comparators", "nested", "checkpoints", "chapters")
        for path in sorted(run.path(name).rglob(".*"))
    ] + sorted(run.folder.glob(".*"))
    return [path for path in hidden if re.fullmatch(r"\..+\.[a-z0-9_]{8}(\.\w+)?", path.name)]


def forget_what_is_gone(run: Run) -> None:
    """Remove the markers of steps whose results are gone, whole or in part, so that the same command makes these again."""
    for name, step in STEPS.items():
        names = [f"{job_name(name, values)}.done" for values in values_over(run, name)]
        markers = [path for path in (run.path("done", "jobs", one) for one in names) if path.is_file()]
        if markers and step.makes and not _whole(run.path(step.makes[0]), len(markers)):
            for path in markers:
                path.unlink()


def _whole(place: Path, count: int) -> bool:
    """True for a file, and for a folder that has the results of so many jobs with all of their files.

    A damaged done.json is none, as in `steps.is_done`: the step is made again.
    """
    if not place.is_dir():
        return place.is_file()
    records = list(place.rglob("done.json"))
    try:
        files = [record.parent / name for record in records for name in read_json(record)["outputs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return len(records) >= count and all(file.is_file() for file in files)


def hold(run: Run, pid: int) -> None:
    """Note which process computes the run (number and start time, so that a reused number is not mistaken for it)."""
    write_json(run.path("logs", "process.json"), {"pid": pid, "started": psutil.Process(pid).create_time()})


@dataclass(frozen=True)
class Job:
    """One job of the graph: the arguments of `covid3d step`, the jobs before it, and what makes it run again."""

    arguments: str
    needs: tuple[str, ...]
    code: str
    all_cores: bool


def jobs(run: Run) -> dict[str, Job]:
    """Return the jobs of a run by name: its chapters with all that they need, the book, and what only `make extended` adds."""
    names = [*all_needs(run, "book"), "book"]
    if not run.is_site:
        more = [name for extra in EXTENDED for name in (*all_needs(run, extra), extra)]
        names += [name for name in dict.fromkeys(more) if name not in names]
    return {
        job_name(name, values): Job(
            arguments=" ".join([name, *(f"--{option} {value}" for option, value in values.items())]),
            needs=tuple(job_name(need, one) for need in needs(run, name) for one in values_over(run, need)),
            code=job_code(run, name, values),
            all_cores=STEPS[name].all_cores,
        )
        for name in names
        for values in values_over(run, name)
    }


def extended_targets(run: Run) -> list[str]:
    """Return the markers of what only `make extended` computes; none with given weights."""
    values = [] if run.is_site else [(name, one) for name in EXTENDED for one in values_over(run, name)]
    return [f"done/jobs/{job_name(name, one)}.done" for name, one in values]


def job_name(name: str, values: Mapping[str, Any]) -> str:
    """Return the name of a job: "fold_03", "prognosis_pair_03", "external"."""
    return "_".join([name, *(f"{value:02d}" if isinstance(value, int) else str(value) for value in values.values())])


def job_code(run: Run, name: str, values: Mapping[str, Any]) -> str:
    """Return the part of a job's fingerprint that is known beforehand: code, profile, and the user's files that it reads."""
    step = STEPS[name]
    if isinstance(step, Chapter):
        return own_fingerprint(run, name)
    parts: list[Any] = [static_fingerprint(run, name), own_files(run, name)]
    if "model" in values:
        parts.append(code_fingerprint(COMPARATORS[values["model"]]))
    if name == "book":
        pages = sorted(path for path in (run.root / "book").rglob("*") if path.is_file())
        parts += [[path.name, sha256_file(path)] for path in pages]
    return sha256_json(parts)


def run_step(run: Run, name: str, **given: Any) -> None:
    """Compute one step of a run; a ConfigError names a step, fold, variant or model that does not exist."""
    step = known(name)
    for option, value in given.items():
        if value is not None and option not in step.over:
            raise ConfigError(
                f"step '{name}' has no --{option}", cure=f"Leave it out: it takes {step.over or 'nothing'}"
            )
    values = {option: given.get(option) for option in step.over}
    for option, value in values.items():
        if value is None:
            raise ConfigError(f"step '{name}' needs --{option}", cure=f"Add --{option}")
        if value not in options(run, option):
            cure = nearest(str(value), [str(one) for one in options(run, option)])
            raise ConfigError(f"there is no {option} '{value}'", cure=cure)
    presents = isinstance(step, Chapter)  # the jobs compute, a notebook of the graph only presents
    call(run.with_options(compute=not presents), name, **values)


def create(name: str, **options: Any) -> Run:
    """Open a run, or create it when the files that it names are in order, so that a refusal leaves nothing behind.

    Given weights are loaded once into a network of the profile: others are refused before the first scan is read.
    Raises ConfigError, ManifestError or WeightsError; see `open_run`.
    """
    manifest, weights = (repository_root() / (options.get(key) or "") for key in ("manifest", "weights"))
    profile = options.get("profile") or (name if name in profile_names() else "")
    if weights.is_file() and profile:
        from covid3d.network.given import load_classifier

        load_classifier(weights, load_profile(profile, repository_root()))
    if options.get("manifest") and manifest.is_file():
        from covid3d.cohort.manifest import read_manifest

        simulated = read_manifest(manifest)["source"].str.startswith("phantom:").any()
        read_manifest(manifest, delivered=not simulated)
    run = open_run(name, **options)
    if run.is_site:
        from covid3d.network.given import load_given

        load_given(run)
    return run


def own_files(run: Run, step: str) -> str:
    """Return the hash of the user's file that a step reads: the order form, weights to start from, or given weights."""
    if step == "cohort":
        return sha256_file(run.order_form)
    starts = {"fold": [run.pretrained], "slices": [run.profile.slices.weights]}
    starts["comparator"] = starts["fold"] + starts["slices"]
    if step in starts:
        return "".join(sha256_file(path) for path in starts[step] if path and path.is_file())
    return sha256_file(run.given_weights) if step == "given" else ""


class Sweep(Strict):
    """A batch: every combination of the listed values is one run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$", description="first part of each run's name")
    profile: list[str] = Field(default=["smoke"], min_length=1)
    manifest: list[str] = Field(default=[""], min_length=1)
    world: list[Literal["effect", "null"]] = Field(default=["effect"], min_length=1)
    seed: list[Annotated[int, Field(ge=0)]] = Field(default=[1], min_length=1)
    weights: list[str] = Field(default=[""], min_length=1)


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """Read a sweep file; return the options of each run by the run's name, in the order of the file.

    Raises ConfigError, with the file, the key and a cure, for a file that is no sweep.
    """
    if not path.is_file():
        raise ConfigError("the sweep file does not exist", where=str(path), cure="Copy sweep.example.yaml")
    content = read_keys(path, where=path.name, cure="Start from sweep.example.yaml")
    worlds = content.get("world", [])
    if worlds is None or (isinstance(worlds, list) and None in worlds):
        raise ConfigError(
            "a bare null means 'nothing' in YAML",
            where=f"{path.name}, key 'world'",
            cure='Write "null" in quotes, within brackets: ["null"]',
        )
    for key, value in content.items():
        if key in Sweep.model_fields and key != "name" and not isinstance(value, list):
            cure = f"Write its values in brackets, as sweep.example.yaml does: {key}: [...]"
            raise ConfigError(f"key '{key}' is {value!r}, no list", where=path.name, cure=cure)
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

    All names and options are checked before the first run starts, and where one is refused no new run is left behind.
    An error in a run stops the batch.
    """
    runs, new = list[Run](), list[Run]()
    try:
        for name, options in read_sweep(path).items():
            known = (repository_root() / "runs" / name / "config.yaml").is_file()
            runs.append(create(name, **options))
            if not known:
                new.append(runs[-1])
    except BaseException:
        for run in new:
            _take_back(run)
        raise
    for number, run in enumerate(runs, start=1):
        print(f"run {number} of {len(runs)}: {run.name}", flush=True)
        status = compute(run, cores)
        if status:
            raise Covid3DError(
                "the batch stopped here", where=f"run '{run.name}'", cure=f"See runs/{run.name}/logs/, mend, repeat"
            )
    return runs


def _take_back(run: Run) -> None:
    """Remove what `create` wrote for a new run."""
    for written in (run.path("config.yaml"), run.note("manifest"), run.note("weights")):
        written.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files lie in the folder
        run.folder.rmdir()


def announce(run: Run, cores: int) -> str:
    """Return the opening line of a run: what it does, how long it takes and how much disk it fills."""
    profile = run.profile
    return (
        f"run '{run.name}': {profile.purpose}; about {profile.minutes:g} min on {profile.reference_machine}, "
        f"{profile.disk_gb:g} GB in runs/{run.name}/. Cores used: {cores}. What is up to date is kept.{_trained_on(run)}"
    )


def _trained_on(run: Run) -> str:
    """Return what given weights were trained on, and what that means for real scans; "" for a run that trains."""
    if not run.is_site:
        return ""
    from covid3d.network.given import describe_classifier

    source = describe_classifier(run.given_weights)["trained_on"]
    means = " (simulated scans): a real scan gets no score" if source == "phantom" else ""
    return f"\nweights '{run.given_weights.name}': trained on {source}{means}."


def where_it_lies(run: Run) -> str:
    """Return the closing lines of a run: where the book, the numbers and the cost are."""
    base = run.folder.relative_to(repository_root()) if run.folder.is_relative_to(repository_root()) else run.folder
    return (
        f"book:    {base}/book/_build/html/index.html  (open it in a browser)\n"
        f"numbers: {base}/values.json, tables/, figures/, predictions.csv, claims.csv\n"
        f"cost:    {base}/cost.json"
    )
