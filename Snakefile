# The order of the jobs of one run: the package computes, this file orders, the notebooks present.
#
# The jobs, with their needs, come from the one registry, covid3d/run/steps.py. A job's only declared output is a marker,
# done/jobs/<job>.done. Snakemake deletes the declared outputs of a job that it starts or that was interrupted; results and
# their done.json are therefore undeclared, and the fingerprint inside is the only authority on reuse: a job whose results
# still match returns at once. The parameter `code` is the part of that fingerprint which is known in advance.
#
#   make run RUN=name [CLUSTER=slurm]      or      snakemake --cores 2 --config run=name
import shlex
import sys

from covid3d.commands.pipeline import jobs
from covid3d.run import files
from covid3d.run.profile import open_run

if "cluster" not in config:  # a job on another machine cannot see its caller
    files.end_with_caller()
run = open_run(str(config.get("run", "smoke")))
JOBS = jobs(run)


workdir: str(run.folder)


def done(job):
    return f"done/jobs/{job}.done"


def up_to(job):
    return {job}.union(*map(up_to, JOBS[job].needs))


wildcard_constraints:
    job="|".join(JOBS),


rule all:
    input:  # every marker, not only the last: what was deleted together with its marker is made again
        [done(job) for job in sorted(up_to("book"))],


rule job:
    input:
        lambda wildcards: [done(name) for name in JOBS[wildcards.job].needs],
    output:
        touch(done("{job}")),
    params:
        code=lambda wildcards: JOBS[wildcards.job].code,
        arguments=lambda wildcards: JOBS[wildcards.job].arguments,
    threads: lambda wildcards: workflow.cores if JOBS[wildcards.job].all_cores else run.profile.training.threads_per_fold
    log:
        "logs/{job}.log",
    shell:
        f"{shlex.quote(sys.executable)} -m covid3d step {{params.arguments}} --run {run.name} 2>&1 | tee {{log}}"
