"""One small fold on stored noise, trained through `covid3d step fold`: whole, or killed at random moments."""

import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from safetensors import safe_open
from synthetic_run import synthetic_run

from covid3d.chapters.task1 import ensure_fold
from covid3d.cohort.folds import ensure_splits
from covid3d.commands.pipeline import environment, leftovers
from covid3d.run.errors import MissingResult
from covid3d.run.files import write_csv
from covid3d.run.profile import Run, open_run

EPOCHS = 5
FOLD = ("step", "fold", "--run", "noise", "--fold", "0")
NOTING = """
import os
from covid3d.commands import cli
from covid3d.network import training
train = training._train_epoch
def noted(*arguments):
    with open(os.environ["EPOCHS_BEGUN"], "a") as file:
        print(arguments[-1], file=file)
    return train(*arguments)
training._train_epoch = noted
cli.main()
"""


def prepare(root: Path) -> Run:
    """Return a run with scans, splits and nothing trained; `root` must be COVID3D_ROOT."""
    run = synthetic_run(root)
    profile = root / "tiny.yaml"
    content = yaml.safe_load(profile.read_text(encoding="utf-8"))
    content["training"]["epochs"] = EPOCHS
    profile.write_text(yaml.safe_dump(content), encoding="utf-8")
    intake = pd.read_csv(run.intake)
    hashes = [hashlib.sha256(scan.encode()).hexdigest() for scan in intake["scan_id"]]
    write_csv(run.intake, intake.assign(pixel_sha256=hashes))
    shutil.rmtree(run.path("models"))
    run = open_run("noise")
    ensure_splits(run)
    return run


def outcome(run: Run) -> dict[str, str]:
    """Return the hash of every file of the trained fold."""
    folder = run.model("task1", "covid3d", 0)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def remains(run: Run) -> list[str]:
    """Return what a finished fold must not leave: checkpoints and temporary files."""
    return [path.name for path in (*leftovers(run), *run.path("checkpoints").glob("*"))]


def saved_epochs(run: Run) -> int:
    """Return how many epochs lie in the fold's checkpoint; all of them once the fold is finished."""
    if run.model("task1", "covid3d", 0).is_dir():
        return EPOCHS
    for path in run.path("checkpoints").glob("task1__covid3d__fold_00.safetensors"):
        with safe_open(path, framework="np") as file:
            return len(file.get_tensor("logits"))
    return 0


def trained(run: Run, wait: float | None) -> dict[str, Any]:
    """Compute the fold in a process of its own, killed `wait` seconds after its work begins unless it has ended.

    Returns killed (0 or 1), seconds of its work, saved (epochs that lie on disk after it) and again (epochs begun although
    they were on disk before).
    """
    before, log = saved_epochs(run), run.root / "begun.txt"
    log.unlink(missing_ok=True)
    variables = {**environment(run), "EPOCHS_BEGUN": str(log)}
    command = [sys.executable, "-c", NOTING, *FOLD]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, cwd=run.root) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and "train one fold" not in line:
            pass
        started = time.monotonic()
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
        status = process.wait()
        seconds = time.monotonic() - started
    if status not in (0, -9):
        raise AssertionError(f"the step ended with status {status}")
    begun = [int(number) for number in log.read_text().split()] if log.is_file() else []
    again = sum(epoch <= before for epoch in begun)
    return {"killed": int(status == -9), "seconds": round(seconds, 2), "saved": saved_epochs(run), "again": again}


def kill_often(run: Run, kills: int, seed: int) -> pd.DataFrame:
    """Train the fold over and over with `kills` kills at uniform moments of its work; one row a process.

    A fold that is finished is compared with an uninterrupted one (equal: 0 or 1), searched for remains, asked for once more
    (kept: 1 when nothing had to be computed), and removed.
    """
    span = 1.1 * trained(run, None)["seconds"]
    expected, draw = outcome(run), random.Random(seed)
    rows: list[dict[str, Any]] = []
    shutil.rmtree(run.path("models"))
    while sum(row["killed"] for row in rows) < kills or rows[-1]["killed"]:
        enough = sum(row["killed"] for row in rows) >= kills
        rows.append(trained(run, None if enough else draw.uniform(0, span)))
        if not rows[-1]["killed"]:
            rows[-1] |= {"equal": int(outcome(run) == expected), "remains": len(remains(run)), "kept": int(kept(run))}
            shutil.rmtree(run.path("models"))
    return pd.DataFrame(rows)


def kept(run: Run) -> bool:
    """True when the finished fold would not be trained again."""
    try:
        return ensure_fold(run.with_options(compute=False), 0).is_dir()
    except MissingResult:
        return False
