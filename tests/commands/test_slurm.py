"""Runs on a cluster: jobs are handed to a real Slurm of one node on the loopback, started for the test."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import NO_SLURM, furnish

from covid3d.commands import pipeline
from covid3d.run.errors import ConfigError
from covid3d.run.files import cpu_count, read_json
from covid3d.run.profile import load_profile, open_run

SETTINGS = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort=6817
SlurmdPort=6818
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""The ports are Slurm's own: below those that a machine gives to outgoing connections, one of which held a higher one before."""
VOLATILE = Path("/run/slurm/conf/slurm.conf")
"""Where srun, which the executor deprives of SLURM_CONF, looks for settings after /etc."""
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A controller and a node on the loopback, ended with the test."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    installed = all(map(shutil.which, PROGRAMS)) and find_spec("snakemake_executor_plugin_slurm")
    if not installed or os.geteuid() or VOLATILE.exists() or Path("/etc/slurm/slurm.conf").exists():
        pytest.skip(NO_SLURM)
    (tmp_path / "state").mkdir()
    (tmp_path / "spool").mkdir()
    settings = tmp_path / "slurm.conf"
    host = platform.node().partition(".")[0]
    memory = psutil.virtual_memory().total // 2**20
    settings.write_text(SETTINGS.format(host=host, user="root", folder=tmp_path, cores=cpu_count(), memory=memory))
    monkeypatch.setenv("SLURM_CONF", str(settings))
    VOLATILE.parent.mkdir(parents=True, exist_ok=True)
    VOLATILE.symlink_to(settings)
    servers = [subprocess.Popen([program, "-D"]) for program in PROGRAMS[:2]]
    try:
        wait_for(lambda: b"idle" in subprocess.run(["sinfo"], capture_output=True, check=False).stdout)
        yield
    finally:
        VOLATILE.unlink()
        subprocess.run(["scancel", "--user", "root"], check=False)
        for server in servers:
            server.send_signal(signal.SIGTERM)
        for server in servers:
            server.wait(timeout=30)


def wait_for(ready, seconds=120):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "Slurm does not come up"
        time.sleep(0.5)


def new_run(tmp_path, monkeypatch, **cohort):
    """A run of the profile smoke, or of fewer scans."""
    root = tmp_path / "root"
    furnish(root)
    monkeypatch.setenv("COVID3D_ROOT", str(root))
    monkeypatch.setenv("COVID3D_CALLER", "1")
    content = load_profile("smoke").model_dump(mode="json")
    (root / "few.yaml").write_text(yaml.safe_dump(content | {"cohort": content["cohort"] | cohort}))
    return open_run("far", profile=str(root / "few.yaml") if cohort else "smoke")


def test_jobs_are_handed_to_slurm(slurm, tmp_path, monkeypatch, capfd):
    few = {"development_per_class": 4, "external_per_class": 2, "followup_patients": 4, "control_patients": 0}
    run = new_run(tmp_path, monkeypatch, **few)
    monkeypatch.setattr(pipeline, "SLURM_LOOKS_AFTER", 2)
    assert pipeline.compute(run, cpu_count(), ["done/jobs/splits.done"], "slurm") == 0
    assert run.splits.is_file()
    said = run.path("logs", "snakemake.log").read_text()
    assert said.count("has been submitted with SLURM jobid") == 3  # cohort, intake, splits


@pytest.mark.verify
def test_a_run_on_slurm_ends_with_the_same_values(slurm, smoke_run, tmp_path, monkeypatch):
    run = new_run(tmp_path, monkeypatch)
    assert pipeline.compute(run, cpu_count(), cluster="slurm") == 0
    assert read_json(run.path("values.json")) == read_json(smoke_run.path("values.json"))


@pytest.mark.parametrize(("cluster", "what"), [("slrum", "slurm"), ("slurm", "command sbatch")])
def test_a_cluster_that_is_not_there_is_named(monkeypatch, tmp_path, cluster, what):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=what):
        pipeline.check_cluster(cluster)


def test_a_cluster_without_snakemakes_executor_says_what_to_install(monkeypatch):
    monkeypatch.setitem(pipeline.CLUSTERS, "moon", sys.executable)
    with pytest.raises(ConfigError, match=r"cluster.*constraints"):
        pipeline.check_cluster("moon")
