"""The reading room of a run: one notebook a reader, in a JupyterLab that leaves nothing outside the checkout."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from covid3d.reading_room.session import Session, folder
from covid3d.report.chapter import private_folder, source_of
from covid3d.run.environment import own_settings
from covid3d.run.errors import ConfigError
from covid3d.run.profile import Run, open_run, repository_root

NOTEBOOK = "11_reading_room"
LONGEST = "kernel-12345678-1234-1234-1234-123456789012-ipc-5"
"""A socket of a kernel that JupyterLab starts."""


def prepare(name: str, reader: str) -> tuple[Run, Path]:
    """Return a run and the notebook of one reader, parameters filled in; nothing is written where one of them is none.

    Raises ConfigError for a run that does not exist or a name that is no pseudonym, MissingResult where there is nothing to read.
    """
    from papermill import execute_notebook

    if not (repository_root() / "runs" / name / "config.yaml").is_file():
        raise ConfigError(f"there is no run '{name}'", where="runs/", cure="Make it first, e.g. with `make smoke`")
    run = open_run(name)
    Session.open(run, reader)
    notebook = folder(run) / f"{reader}.ipynb"
    notebook.parent.mkdir(parents=True, exist_ok=True)
    given = {"run": name, "reader": reader}
    execute_notebook(source_of(run, NOTEBOOK), notebook, given, prepare_only=True, progress_bar=False)
    return run, notebook


def serve(run: Run, notebook: Path, more: Sequence[str] = ()) -> int:
    """Open a reader's notebook in JupyterLab until that is shut down; return its exit status.

    Jupyter's settings and data lie beside the notebook; sockets take the place of TCP between it and the notebook's Python,
    so that no other user of the machine can listen. As root, JupyterLab is told that this is meant.
    """
    own = own_settings(folder(run) / ".jupyter")
    own = {
        key: value for key, value in own.items() if key.startswith(("JUPYTER", "IPYTHON", "MPLCONFIG"))
    }  # not the browser's
    options = ["--KernelManager.transport=ipc", "--LanguageServerManager.autodetect=False"]  # which would start npm
    options += ["--allow-root"] if os.geteuid() == 0 else []
    command = [sys.executable, "-m", "jupyterlab", str(notebook), *options, *more]
    with private_folder(LONGEST) as sockets:
        environment = {**os.environ, **own, "JUPYTER_RUNTIME_DIR": str(sockets)}
        server = subprocess.Popen(command, cwd=run.root, env=environment)
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C JupyterLab asks whether to shut down
            return server.wait()
        finally:
            server.terminate()
            server.wait()
