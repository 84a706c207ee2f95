"""The store: each accepted scan once, as int16 HU on the model's grid, memory-mapped, named by its content."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covid3d.run.errors import MissingResult
from covid3d.run.files import atomic_path, read_json, sha256_json, write_json
from covid3d.run.profile import Run


class Store:
    """Grids of one shape in one folder; a file's name is `<scan_id>__<key>.npy`, key from source and shape."""

    def __init__(self, folder: Path, shape: Sequence[int]):
        self.folder = Path(folder)
        self.shape = tuple(int(size) for size in shape)

    @classmethod
    def of(cls, run: Run) -> "Store":
        """Return the store of a run, on the profile's grid."""
        return cls(run.volumes, run.profile.model.grid)

    def name(self, scan_id: str, source_hash: str) -> str:
        """Return the file name that a scan from this source has."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", scan_id):
            raise ValueError("a scan_id in the store is made of letters, digits, '.', '_' and '-'")
        return f"{scan_id}__{sha256_json([source_hash, self.shape])[:16]}.npy"

    def put(self, scan_id: str, source_hash: str, grid: np.ndarray, facts: Mapping[str, Any] | None = None) -> str:
        """Write a grid int16 (z, y, x), and facts about it, atomically; older versions go. Return the file name."""
        if grid.shape != self.shape or grid.dtype != np.int16:
            raise ValueError(f"the store takes int16 grids of {self.shape}, not {grid.dtype} of {grid.shape}")
        name = self.name(scan_id, source_hash)
        with atomic_path(self.folder / name) as temporary, temporary.open("wb") as stream:
            np.save(stream, grid, allow_pickle=False)
        if facts is not None:
            write_json((self.folder / name).with_suffix(".json"), dict(facts))
        for old in self._files(scan_id):
            if old.name != name:
                old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)
        return name

    def has(self, scan_id: str, source_hash: str | None = None) -> bool:
        """True when the scan is stored (from this source, when one is given)."""
        if source_hash is not None:
            return (self.folder / self.name(scan_id, source_hash)).is_file()
        return bool(self._files(scan_id))

    def facts(self, scan_id: str, source_hash: str) -> dict[str, Any] | None:
        """Return what was noted when the scan was stored from this source, or None."""
        path = self.folder / self.name(scan_id, source_hash)
        if not path.is_file():
            return None
        try:
            return read_json(path.with_suffix(".json"))
        except (OSError, json.JSONDecodeError):
            return None

    def get(self, scan_id: str) -> np.ndarray:
        """Return the scan's grid, int16 (z, y, x), memory-mapped, read-only; a MissingResult when it is not stored."""
        return self._load(scan_id, self._files(scan_id))

    def _load(self, scan_id: str, files: Sequence[Path]) -> np.ndarray:
        """Return the first of a scan's stored versions that has the store's shape."""
        what = "the scan is not in the store"
        for path in files:
            grid = np.load(path, mmap_mode="r", allow_pickle=False)
            if grid.shape == self.shape:
                return grid
            what = f"the scan is stored on a grid of {grid.shape}, and {self.shape} is needed"
        raise MissingResult(what, where=f"scan {scan_id}", cure="Run this run's intake again")

    def stack(self, scan_ids: Iterable[str]) -> np.ndarray:
        """Return the grids of many scans, int16 (N, z, y, x), in memory."""
        ids = list(scan_ids)
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.glob("*.npy")):
            found.setdefault(path.stem.rpartition("__")[0], []).append(path)
        out = np.empty((len(ids), *self.shape), dtype=np.int16)
        for index, scan_id in enumerate(ids):
            out[index] = self._load(scan_id, found.get(scan_id, []))
        return out

    def _files(self, scan_id: str) -> list[Path]:
        """Return the stored versions of a scan."""
        pattern = re.compile(re.escape(scan_id) + r"__[0-9a-f]{16}\.npy")
        return sorted(path for path in self.folder.glob(f"{scan_id}__*.npy") if pattern.fullmatch(path.name))
