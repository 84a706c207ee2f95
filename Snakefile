# The order of the jobs of one run: the package computes, this file orders, the notebooks present.
#
# A job's only declared output is a marker, done/jobs/<job>.done. Snakemake deletes the declared outputs of a job that it
# starts or that was interrupted; results and their done.json are therefore undeclared, and the fingerprint inside is the
# only authority on reuse: a job whose results still match returns at once. The parameter `code` of a rule is the part of
# that fingerprint which is known in advance (code without comments, profile keys, seed).
#
#   make run RUN=name      or      snakemake --cores 2 --config run=name
import shlex
import sys

from covid3d.commands import pipeline
from covid3d.run import files, steps
from covid3d.comparators.catalogue import OTHERS
from covid3d.run.profile import CHAPTERS, SITE_CHAPTERS, open_run

files.end_with_caller()
run = open_run(str(config.get("run", "smoke")))


workdir: str(run.folder)


STEP = f"{shlex.quote(sys.executable)} -m covid3d step"
RUN = f"--run {run.name}"
TEE = "2>&1 | tee {log}"
FOLDS = [f"{k:02d}" for k in range(run.profile.training.folds)]
CHAPTER = list(SITE_CHAPTERS if run.is_site else CHAPTERS)
OPTION = {"prognosis": "--variant", "comparator": "--model"}
THREADS = run.profile.training.threads_per_fold
NEEDS = {
    "cohort": [],
    "intake": ["cohort"],
    "splits": ["intake"],
    "fold": ["splits"],
    "selection": [f"fold_{k}" for k in FOLDS],
    "slices": ["selection"],
    "external": ["splits"] if run.is_site else ["slices"],
    "windows": ["slices"],
    "explain": ["selection"],
    "comparators": ["external", *(f"comparator_{name}_{k}" for name in OTHERS for k in FOLDS)],
    "trajectories": ["selection"],
    "prognosis": [f"fold_{k}" for k in FOLDS],
    "comparator": ["splits"],
    "01_data": ["splits"],
    "02_model": ["splits"] if run.is_site else ["selection"],
    "03_cross_validation": ["selection", "windows"],
    "04_external_tests": ["external"] if run.is_site else ["external", "windows", "explain"],
    "05_reader_comparison": ["external"],
    "06_trajectories": ["trajectories", "external", "explain"],
    "07_prognosis": ["trajectories", *(f"prognosis_{variant}_{k}" for variant in ("single", "pair") for k in FOLDS)],
    "08_claims": [name for name in CHAPTERS if name != "08_claims"],
    "collect": CHAPTER,
    "book": ["collect"],
}


def done(job):
    return f"done/jobs/{job}.done"


def needs(job):
    return [done(name) for name in NEEDS[job]]


def up_to(job):
    return {job}.union(*map(up_to, NEEDS.get(job, [])))


wildcard_constraints:
    k=r"\d\d",
    job="|".join(OPTION),
    model="|".join(["single", "pair", *OTHERS]),
    chapter="|".join(CHAPTER),
    step="cohort|intake|splits|selection|slices|external|windows|explain|trajectories|comparators",


rule all:
    input:  # every marker, not only the last: what was deleted together with its marker is made again
        [done(job) for job in sorted(up_to("book"))],


rule step:
    input:
        lambda wildcards: needs(wildcards.step),
    output:
        touch(done("{step}")),
    params:
        code=lambda wildcards: steps.static_fingerprint(run, wildcards.step),
        given=lambda wildcards: pipeline.own_files(run, wildcards.step),
    threads: lambda wildcards: workflow.cores if wildcards.step in ("cohort", "intake", "windows") else THREADS
    log:
        "logs/{step}.log",
    shell:
        f"{STEP} {{wildcards.step}} {RUN} {TEE}"


rule fold:
    input:
        needs("fold"),
    output:
        touch(done("fold_{k}")),
    params:
        code=steps.static_fingerprint(run, "fold"),
        given=pipeline.own_files(run, "fold"),
    threads: THREADS
    log:
        "logs/fold_{k}.log",
    shell:
        f"{STEP} fold {RUN} --fold {{wildcards.k}} {TEE}"


rule model:
    input:
        lambda wildcards: needs(wildcards.job),
    output:
        touch(done("{job}_{model}_{k}")),
    params:
        code=lambda wildcards: pipeline.model_code(run, wildcards.job, wildcards.model),
        option=lambda wildcards: OPTION[wildcards.job],
    threads: THREADS
    log:
        "logs/{job}_{model}_{k}.log",
    shell:
        f"{STEP} {{wildcards.job}} {RUN} {{params.option}} {{wildcards.model}} --fold {{wildcards.k}} {TEE}"


rule chapter:
    input:
        lambda wildcards: needs(wildcards.chapter),
    output:
        touch(done("{chapter}")),
    params:
        code=lambda wildcards: pipeline.chapter_code(run, wildcards.chapter),
    threads: THREADS
    log:
        "logs/{chapter}.log",
    shell:
        f"{STEP} chapter {RUN} --chapter {{wildcards.chapter}} {TEE}"


rule finish:
    input:
        lambda wildcards: needs(wildcards.last),
    output:
        touch(done("{last}")),
    wildcard_constraints:
        last="collect|book",
    params:
        code=steps.code_fingerprint("covid3d.report.book"),
        pages=lambda wildcards: pipeline.pages_code(run) if wildcards.last == "book" else "",
    log:
        "logs/job_{last}.log",
    shell:
        f"{STEP} {{wildcards.last}} {RUN} {TEE}"
