"""The command line: one thing at a time.

Exit status: 0 done; 1 done, but something was refused or disagrees; 2 wrong use or bad input.
"""

import json
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covid3d.run.errors import ConfigError, Covid3DError, nearest, printable
from covid3d.run.files import end_with_caller, storage_error

if TYPE_CHECKING:
    from covid3d.run.profile import Run

INTERRUPTED = 130
"""The exit status of a command that was stopped by Ctrl-C, typer's too."""


def group(text: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=text
    )


app = group("COVID3D companion. `make` is for a run; these commands are for one thing at a time.")
manifest_app = group("Draft a manifest of your own scans.")
phantom_app = group("Simulate scans with known truth.")
claims_app = group("Published against re-run, claim by claim.")
public_app = group("The public replication cohort of the Imaging Data Commons.")
weights_app = group("Weights that networks start from.")
app.add_typer(manifest_app, name="manifest")
app.add_typer(public_app, name="public")
app.add_typer(phantom_app, name="phantom")
app.add_typer(claims_app, name="claims")
app.add_typer(weights_app, name="weights")


@phantom_app.command("build")
def phantom_build(
    out: Annotated[Path | None, typer.Option(help="folder to write to")] = None,
    manifest: Annotated[Path | None, typer.Option(help="order form; default: the embedded one")] = None,
    profile: Annotated[str, typer.Option(help="sizes: a profile's name or a YAML file")] = "smoke",
    scan: Annotated[list[str] | None, typer.Option(help="only this scan_id (may be repeated)")] = None,
    world: Annotated[str, typer.Option(help="effect | null")] = "effect",
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Simulate a cohort and write it as DICOM series with their truth."""

    from covid3d.phantom.build import build
    from covid3d.phantom.folder import cohort_folder
    from covid3d.run.profile import DATA, load_profile

    if world not in ("effect", "null"):
        raise ConfigError(f"there is no world '{world}'", cure="Known: effect, null")
    if out is None:
        raise ConfigError("there is no folder to write to", cure="Give --out DIR")
    form = manifest or DATA / "data_manifest.csv"
    if not form.is_file():
        raise ConfigError("the manifest does not exist", where=str(form), cure="Give --manifest FILE")
    sizes = load_profile(profile)
    with cohort_folder(out, world=world, seed=seed, profile=sizes, manifest=form) as held:
        scans = sorted({*scan, *held}) if scan else None
        built = build(out, manifest=form, profile=sizes, world=world, seed=seed, scans=scans)
    others = len((out / "controls.csv").read_text(encoding="utf-8").splitlines()) - 1
    more = f"; {out / 'controls.csv'}: {others} more, rescans and controls" if others else ""
    typer.echo(f"{out / 'manifest.csv'}: {len(built)} simulated scans{more}")


@app.command()
def predict(
    path: Annotated[Path, typer.Argument(help="folder of DICOM files, or a NIfTI, NRRD or MHA file")],
    weights: Annotated[Path | None, typer.Option(help="default: the deployed fold of the run 'standard'")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for map.nii.gz, planes.png and prediction.json")] = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="also write what the logit loses when opaque lung is made healthy")
    ] = False,
    features: Annotated[Path | None, typer.Option(help=".npz file for the pooled features and the logit")] = None,
    series: Annotated[int | None, typer.Option(help="number of the series, where a folder holds several")] = None,
    simulated_weights_ok: Annotated[
        bool,
        typer.Option("--simulated-weights-ok", help="show a real scan's number from weights made on simulated ones"),
    ] = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
) -> None:
    """Score one scan: logit, probability, map and picture. Research use only."""
    from covid3d.commands.predict import predict as score_scan

    found = score_scan(
        path,
        weights or deployed_weights(),
        out=out,
        features=features,
        evidence=evidence,
        series=series,
        simulated_weights_ok=simulated_weights_ok,
        device=device,
    )
    typer.echo("\n".join(found.lines()))
    raise typer.Exit(found.exit_status)


def deployed_weights() -> Path:
    """Return the weights of the fold that the run 'standard' deploys."""
    from covid3d.chapters.results import TASK, THREE_D, deployed_fold
    from covid3d.run.errors import MissingResult
    from covid3d.run.profile import open_run, repository_root

    cure = "Give --weights FILE, or train some with `make report` and repeat the command"
    if not (repository_root() / "runs" / "standard" / "config.yaml").is_file():
        raise ConfigError("there are no weights", cure=cure)
    run = open_run("standard")
    try:
        return run.model(TASK, THREE_D, deployed_fold(run)) / "weights.safetensors"
    except MissingResult:
        raise ConfigError("there are no weights: the run 'standard' is not finished", cure=cure) from None


@app.command()
def check(
    manifest: Path,
    out: Annotated[Path | None, typer.Option(help="folder for the tables, flow.json and leakage.json")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Read every scan of a manifest once: refusals, quality, clinical rows, flow, acquisition, leakage certificate."""
    from covid3d.cohort.gate import check_manifest

    gate = check_manifest(manifest, out)
    if as_json:
        report = {
            "scans": gate.intake[["scan_id", "ok", "code", "message"]].to_dict("records"),
            "clinical": gate.findings.to_dict("records"),
            "acquisition": gate.acquisition.to_dict("records"),
            "flow": gate.flow,
            "leakage": gate.certificate,
        }
        typer.echo(json.dumps(report, indent=2, default=int))
    else:
        typer.echo("\n".join(gate.lines()))
    if not gate.passed:
        raise typer.Exit(1)


@app.command()
def audit(
    table: Annotated[
        Path, typer.Argument(help="CSV: label,percent,n for percentages; label,auc,positives,negatives,bound for AUCs")
    ],
) -> None:
    """Tell whether printed percentages can be k of n, or AUCs be of so many cases; exit status 1 when one cannot."""
    from covid3d.report.audit import audit_table

    found = audit_table(table)
    typer.echo(found.to_string(index=False))
    if not found["attainable"].all():
        raise typer.Exit(1)


@manifest_app.command("new")
def manifest_new(
    folder: Annotated[Path, typer.Argument(help="tree of DICOM files")],
    out: Annotated[Path, typer.Option(help="the manifest to write")] = Path("manifest.csv"),
) -> None:
    """Draft a manifest: one row a CT series, study pseudonyms, the key file apart; labels are yours to fill in.

    Says which folders and files were left out and why; exit status 1 where one may hold a scan.
    """
    from covid3d.cohort.delivery import draft_key
    from covid3d.cohort.draft import draft_manifest

    if out.exists():
        raise ConfigError("there is such a file already", where=out.name, cure="Choose another --out")
    key = draft_key(out)
    draft = draft_manifest(folder, out, key)
    scans, patients = len(draft.table), draft.table["patient_id"].nunique()
    name, key_name = printable(out.name), printable(key.name)
    typer.echo(f"{name}: {scans} scans of {patients} patients; fill in label")
    typer.echo(
        "assumed: hospital A; a patient's first scan is external (scored, never trained on), a later one followup. "
        "Other hospitals, or scans to train on (development): change the columns hospital and role"
    )
    typer.echo(
        f"the key to the pseudonyms is data/keys/drafts/{key_name} of the checkout: keep it to yourself, "
        f"and {name} too where names of folders tell of patients (column source)"
    )
    typer.echo("".join(f"{line}\n" for line in draft.lines()), nl=False)
    if draft.left:
        raise typer.Exit(1)


@public_app.command("select")
def public_select(
    out: Annotated[Path | None, typer.Option(help="CSV file for the series selected")] = None,
) -> None:
    """Select the cohort from the installed index; exit status 1 when it differs from the embedded one."""
    from covid3d.cohort.public.selection import INDEX_VERSION, differences, licences, overview, select
    from covid3d.run.files import write_csv

    table, version = select()
    if out is not None:
        write_csv(out, table)
    other = differences(table, version)
    typer.echo("\n".join([*overview(table), "", licences(table)]))
    typer.echo(
        f"{len(table)} series selected from index {version}; embedded: index {INDEX_VERSION}, which is downloaded"
    )
    typer.echo("\n".join(other) or "no difference")
    if other:
        raise typer.Exit(1)


@public_app.command("download")
def public_download(
    role: Annotated[list[str], typer.Option(help="some of A, B, C, D, F, SBU, SBU1, AR, separated by commas")],
    to: Annotated[Path, typer.Option(help="folder for scans, licences and manifest")],
    endpoint: Annotated[str | None, typer.Option(help="another S3 endpoint that holds the same buckets")] = None,
    clinical: Annotated[Path | None, typer.Option(help="clinical CSV of COVID-19-NY-SBU: remaining stays")] = None,
) -> None:
    """Fetch scans of some roles, check them and write a manifest for `make run`; a stopped download goes on."""
    from covid3d.cohort.public.selection import ENDPOINT, download

    names = [name for part in role for name in part.split(",")]
    download(names, to, endpoint=endpoint or ENDPOINT, clinical=clinical, say=typer.echo)


@weights_app.command("kinetics600")
def weights_kinetics600(
    source: Annotated[
        str, typer.Argument(help="the checkpoint: its prefix, its folder, or the http(s) address of its prefix")
    ],
    out: Annotated[Path | None, typer.Option(help="default: data/weights/kinetics600.safetensors")] = None,
) -> None:
    """Check the Kinetics-600 checkpoint byte by byte and convert it to weights that a run at full width starts from."""
    from covid3d.kinetics.convert import convert
    from covid3d.run.profile import KINETICS, repository_root

    target = out or repository_root() / KINETICS
    metadata = convert(source, target)
    typer.echo(f"{target.name}: {metadata['source']} ({metadata['licence']})")
    typer.echo(f"{metadata['changes']}; shard sha256 {metadata['shard_sha256']}")


@claims_app.command("show")
def claims_show(run: Annotated[str, typer.Argument(help="name of a run")]) -> None:
    """Show the ledger of a run: published, re-run, verdict."""
    from covid3d.report.claims import show

    typer.echo(show(finished(run)))


@claims_app.command("diff")
def claims_diff(
    run_a: str,
    run_b: str,
    out: Annotated[Path | None, typer.Option(help="CSV file for what differs, with the claims that it answers")] = None,
) -> None:
    """Compare the values of two runs, say the earlier one first; exit status 1 when any differs."""
    if not compare(finished(run_a), finished(run_b), out):
        raise typer.Exit(1)


def finished(name: str) -> "Run":
    """Return a run that was finished once, and say on stderr when it is being computed anew; it is never created here."""
    from covid3d.commands.pipeline import computed_by
    from covid3d.run.profile import open_run, repository_root

    folder = repository_root() / "runs"
    under_way = (folder / name / "config.yaml").is_file() and computed_by(open_run(name)) is not None
    if not (folder / name / "values.json").is_file():
        known = sorted(path.parent.name for path in folder.glob("*/values.json"))
        cure = nearest(name, known) if known else "Make one with `make smoke`"
        what = f"there is no finished run '{name}'"
        if under_way:
            what, cure = f"run '{name}' is being computed for the first time", "Wait until it is done"
        raise ConfigError(what, where="runs/", cure=cure)
    if under_way:
        typer.echo(f"run '{name}' is being computed: chapters not done yet show their values of before", err=True)
    return open_run(name)


def compare(run_a: "Run", run_b: "Run", out: Path | None = None) -> bool:
    """Print what differs between two runs, and write it to `out` if given; True when nothing does."""
    from covid3d.report.claims import ABSENT, diff
    from covid3d.run.files import write_csv

    table = diff(run_a, run_b)
    other = table[~table["equal"]].drop(columns="equal")
    if out is not None:
        write_csv(out, other)
    only = [other.iloc[:, place] == ABSENT for place in (4, 3)]  # texts of b and of a: one run may be both
    both = other[~(only[0] | only[1])]
    alone = ", ".join(f"{part.sum()} only in {run.name}" for run, part in zip((run_a, run_b), only, strict=True))
    shared = len(table) - len(other) + len(both)
    typer.echo(f"{run_a.name} against {run_b.name}: {len(both)} of {shared} values that both have differ; {alone}")
    if len(both):
        typer.echo(both.to_string(index=False, max_colwidth=40))
    if len(both) < len(other) and out is None:
        typer.echo("--out FILE lists those that only one run has, too")
    return other.empty


@app.command()
def publish(
    run: Annotated[str, typer.Argument(help="name of a run")],
    to: Annotated[Path, typer.Option("--to", help="folder to write; must not exist")],
) -> None:
    """Copy a run's built book for the public; refused unless its scans are simulated or public."""
    from covid3d.report.publish import publish as copy

    typer.echo(copy(finished(run), to))


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Show what this machine has and what each profile needs."""
    from covid3d.commands.doctor import as_text, examine

    report = examine()
    typer.echo(json.dumps(report, indent=2) if as_json else as_text(report))


@app.command(hidden=True)
def pipeline(
    name: str,
    cores: Annotated[int, typer.Option(min=1)] = 1,
    profile: str | None = None,
    manifest: str | None = None,
    world: str | None = None,
    seed: int | None = None,
    weights: str | None = None,
    extended: Annotated[bool, typer.Option("--extended", help="first nested folds and compared models")] = False,
    cluster: Annotated[str, typer.Option(help="hand each job to a cluster: slurm")] = "",
) -> None:
    """Compute one run: what `make report`, `smoke`, `run` and `extended` call."""
    from covid3d.commands.pipeline import announce, compute, create, extended_targets, where_it_lies

    run = create(name, profile=profile, manifest=manifest, world=world, seed=seed, weights=weights)
    typer.echo(announce(run, cores))
    for targets in ([extended_targets(run)] if extended else []) + [[]]:
        status = compute(run, cores, targets, cluster)
        if status:
            raise typer.Exit(status)
    typer.echo(where_it_lies(run))


@app.command(hidden=True)
def batch(sweep: Path, cores: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """Compute every run of a sweep file and compare each with the first."""
    from covid3d.commands.pipeline import batch as compute_all
    from covid3d.commands.pipeline import where_it_lies

    first, *others = compute_all(sweep, cores)
    for run in (first, *others):
        typer.echo(f"{run.name}\n{where_it_lies(run)}")
    for other in others:
        compare(first, other)


@app.command(hidden=True)
def room(
    run: str,
    reader: str,
    more: Annotated[list[str] | None, typer.Argument(help="options of JupyterLab, after --")] = None,
) -> None:
    """Open the reading room of a run for one reader: what `make reading-room` calls."""
    from covid3d.commands.room import prepare, serve

    raise typer.Exit(serve(*prepare(run, reader), more or ()))


@app.command(hidden=True)
def step(
    name: str,
    run: Annotated[str, typer.Option(help="name of the run, i.e. its folder under runs/")],
    fold: int | None = None,
    variant: str | None = None,
    model: str | None = None,
) -> None:
    """Compute one step of a run: what the Snakefile calls."""
    from covid3d.commands.pipeline import run_step
    from covid3d.run.profile import open_run

    run_step(open_run(run), name, fold=fold, variant=variant, model=model)


def main() -> None:
    """Run the command line: an expected error is one message and exit status 2; `--debug` shows where it arose."""
    end_with_caller()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not {"pipeline", "batch", "step"} & set(arguments[:1]):  # they wait for others
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing half-written stays
    try:
        if any(argument == "" or re.fullmatch(r"--[a-z0-9-]+=", argument) for argument in arguments):
            cure = "Give it a value, or leave the option out; in a script, see whether its variable is set"
            raise ConfigError("an argument is empty", cure=cure)
        app(args=arguments, prog_name="covid3d", standalone_mode=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Covid3DError, OSError) as error:
        if debug:
            traceback.print_exc()
        sys.stdout.flush()
        print(f"error: {storage_error(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        kept = "finished work is kept, the same command goes on from there"
        whole = {"predict", "check", "manifest", "publish", "audit"} & set(arguments[:1])
        print(f"\nstopped; {'nothing half-written is left' if whole else kept}", file=sys.stderr)
        sys.exit(INTERRUPTED)
