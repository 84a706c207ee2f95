"""`python -m …` without the wait: each call is a fork of one process that has imported the large packages, and nothing of ours.

A fork has its own arguments, environment, working directory, output and exit status, and imports covid3d by itself. What
Python reads from the environment as it starts (LC_ALL, PYTHONUTF8) is that of the test process.
"""

import atexit
import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LARGE = (
    "imagecodecs lifelines matplotlib.figure nbformat nibabel numpy pandas papermill pydantic pydicom pytest scipy.stats "
    "SimpleITK sklearn.metrics statsmodels.api timm torch torchvision typer yaml"
).split()


def run(module: str, *arguments: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a module as `python -m` does in a folder; return its exit status and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("stdout", "stderr")]
        call = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": dict(env), "said": [*map(str, said)]}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps(call), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess([module, *arguments], status, *(path.read_text("utf-8") for path in said))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that is forked; it ends with its standard input, that is with this process."""
    return subprocess.Popen([sys.executable, "-B", __file__], stdin=-1, stdout=-1, text=True)


def serve() -> None:
    """Import the large packages, then run each module that standard input asks for in a fork; print its exit status."""
    for name in LARGE:
        importlib.import_module(name)
    gc.freeze()  # forks neither look through these objects nor copy them
    for line in sys.stdin:
        child = multiprocessing.get_context("fork").Process(target=become, args=(json.loads(line),))
        child.start()
        child.join()
        print(child.exitcode, flush=True)


def become(asked: Mapping) -> None:
    """Go on as the process that was asked for."""
    os.chdir(asked["cwd"])
    multiprocessing.process.ORIGINAL_DIR = asked["cwd"]  # where workers begin
    os.environ.clear()
    os.environ.update(asked["env"])
    places = [(os.devnull, os.O_RDONLY), *((path, os.O_WRONLY | os.O_CREAT) for path in asked["said"])]
    for number, place in enumerate(places):
        os.dup2(os.open(*place), number)
    sys.argv = [asked["module"], *asked["arguments"]]
    sys.path[0] = asked["cwd"]
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


if __name__ == "__main__":
    serve()
