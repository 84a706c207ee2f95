"""Files written whole or not at all, content hashes, a worker pool and a progress bar."""

import contextlib
import errno
import functools
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from tqdm import tqdm

from covid3d.run.errors import Covid3DError, StorageError

if TYPE_CHECKING:
    import pandas as pd

CALLER = "COVID3D_CALLER"
Item = TypeVar("Item")
Result = TypeVar("Result")


STORAGE_CURES = {
    errno.ENOSPC: "Free some space (`make clean-run RUN=name`), then repeat the command; finished work is kept",
    errno.EDQUOT: "Your disk quota is used up: free some space, then repeat the command; finished work is kept",
    errno.EACCES: "Choose a folder that you may write to",
    errno.EPERM: "Choose a folder that you may write to",
    errno.EROFS: "Choose a folder on a writable disk",
    errno.EEXIST: "A file lies where a folder is needed: choose another folder",
    errno.ENOTDIR: "A file lies where a folder is needed: choose another folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a refused write of `path` into one clear StorageError that names it; other files' errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_CURES or not _concerns(error, Path(path)):
            raise
        cure = STORAGE_CURES[error.errno]
        raise StorageError(os.strerror(error.errno).lower(), where=Path(path).name, cure=cure) from error


def _concerns(error: OSError, path: Path) -> bool:
    """True for an error of a path, of what lies above or below it, or of its temporary name; and where it names no file."""
    if not isinstance(error.filename, str | bytes):
        return True
    named = Path(os.fsdecode(error.filename))
    below = (named, *named.parents)
    return path in below or named in path.parents or any(other.name.startswith(f".{path.name}.") for other in below)


def storage_error(error: OSError) -> StorageError:
    """Return what the command line says of any other OSError: the path as it was given, the reason in words, a cure."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if temporary := re.fullmatch(r"\.(.+)\.\d+\.\w{8}(\.\w+)?", os.path.basename(path)):
        path = os.path.join(os.path.dirname(path), temporary[1])
    if os.path.isabs(path) and Path(path).is_relative_to(Path.cwd()):
        path = os.path.relpath(path)
    known = {errno.ENOENT: "Check the path: something on it is not there and cannot be made", **STORAGE_CURES}
    cure = known.get(error.errno or 0, "Mend that, then repeat the command; `--debug` shows where it arose")
    return StorageError((error.strerror or type(error).__name__).lower(), where=path, cure=cure)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and vanishes on failure."""
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_dead_writes(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that replaces it on success and vanishes on failure."""
    path = Path(path)
    with storage_errors(path), working_folder(path) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)


@contextlib.contextmanager
def working_folder(path: str | Path) -> Iterator[Path]:
    """Yield a folder beside `path` to work in that vanishes in the end; what a process killed on this machine left goes first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_dead_writes(path)
    prefix = f".{path.name}.{os.getpid()}."
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def clear_dead_writes(path: Path) -> None:
    """Remove what a killed process left of its writing of `path`: temporary names carry the number of their process."""
    start = f".{path.name}."
    for name in os.listdir(path.parent):
        found = re.match(r"(\d+)\.\w{8}", name.removeprefix(start)) if name.startswith(start) else None
        if found and not psutil.pid_exists(int(found[1])):
            remains = path.parent / name
            shutil.rmtree(remains, ignore_errors=True) if remains.is_dir() else remains.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's umask (reading it needs setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, no NaN."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically with mode 0600: at no moment can anyone but the owner read it."""
    with storage_errors(path):
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            folder.mkdir(exist_ok=True, mode=0o700)
        clear_dead_writes(path)
        prefix = f".{path.name}.{os.getpid()}."
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)  # created with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(content, stream, indent=2, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table atomically, without its index, floats with their shortest exact form."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def tree_files(folder: str | Path, *, hidden: bool = True) -> Iterator[Path]:
    """Yield all that lies in a folder tree and is no folder, in a fixed order; `hidden` folders may be left out.

    Links to folders are followed, but each folder is entered once, and none that holds the tree itself.
    Raises OSError for a folder that may not be listed.
    """
    root = Path(os.path.realpath(folder))
    entered = set(root.parents)
    waiting = [Path(folder)]
    while waiting:
        place = waiting.pop()
        real = Path(os.path.realpath(place))
        if real in entered:
            continue
        entered.add(real)
        folders = []
        for path in sorted(place.iterdir()):
            if not path.is_dir():
                yield path
            elif hidden or not path.name.startswith("."):
                folders.append(path)
        waiting += reversed(folders)


def remembered(read: Callable[[Path], "pd.DataFrame"]) -> Callable[[Path], "pd.DataFrame"]:
    """Let a table be read and checked again only when its file has other content; every caller gets a copy."""
    kept: dict[str, pd.DataFrame] = {}

    @functools.wraps(read)
    def once(path: Path) -> "pd.DataFrame":
        key = f"{path.name} {sha256_file(path)}"
        if key not in kept:
            kept[key] = read(path)
        return kept[key].copy()

    return once


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a folder: the names (relative, sorted) and hashes of all its files."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file in tree_files(path) if file.is_file())
    return sha256_json([[name, sha256_file(file)] for name, file in files])


def sha256_json(content: Any) -> str:
    """Return the SHA-256 of a JSON-able value; equal values give equal hashes."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def random_seed(*parts: object) -> int:
    """Return a 63-bit seed from any parts, e.g. `random_seed(run.seed, scan_id, "noise")`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Show a progress bar with the time left; silent when the output is not a terminal or a notebook."""
    quiet = not (sys.stderr.isatty() or os.environ.get("COVID3D_PROGRESS"))
    return tqdm(items, desc=description, total=total, disable=quiet, leave=False)


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`, computed in `workers` processes, at most four results ahead each.

    The first error stops the pool and is raised; workers end with the process that started them, also when it is killed.
    `workers` <= 1 runs in this process.
    """
    if workers <= 1 or len(items) <= 1:
        for item in progress(items, description, len(items)):
            yield function(item)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_end_with_parent) as pool:
        waiting: dict[int, Future[Result]] = {}
        submitted = 0
        try:
            for position in progress(range(len(items)), description, len(items)):
                while submitted < len(items) and len(waiting) < 4 * workers:
                    waiting[submitted] = pool.submit(function, items[submitted])
                    submitted += 1
                yield waiting.pop(position).result()
        except BrokenProcessPool:
            cure = "Most often memory ran out: free some, then repeat the command; finished work is kept"
            raise Covid3DError("a worker process was killed", where=description, cure=cure) from None
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.kill()
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let this worker end when its parent does, and not by itself: it waits at a queue that a killed parent cannot close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; it is the parent's to say so
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_caller() -> None:
    """Let this process and all that it starts end when its caller does, even by `kill -9`.

    The caller is the process whose number COVID3D_CALLER holds; for what this process starts, it is this process. Without
    the variable it goes on alone, so that `nohup` and a closed terminal mean what they always mean.
    """
    caller = os.environ.get(CALLER, "")
    os.environ[CALLER] = str(os.getpid())
    if caller.isdecimal() and int(caller) != os.getpid():
        threading.Thread(target=_end_after, args=(int(caller),), daemon=True).start()


def _end_after(caller: int) -> None:
    """Wait for the end of a process, then kill what this one started, and end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(caller)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # nobody may collect a dead caller
            time.sleep(0.5)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


def cpu_count() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
