"""What a result depends on besides its data: profile keys, and the code that makes it.

The code of a module counts with every covid3d module that it imports, transitively; comments, docstrings and layout do
not count. The registry of steps does not count either: it orders, and computes nothing.
"""

import ast
import functools
from pathlib import Path
from typing import Any

from covid3d.run.files import sha256_file, sha256_json
from covid3d.run.profile import DATA, Run

PACKAGE = Path(__file__).parents[1]
ORDERS_ONLY = frozenset({"covid3d.run.steps"})
READS = {  # what a module says comes from these files of covid3d/data as much as from its code
    "covid3d.report.claims": ("claims_map.csv", "claims_words.csv", "findings.csv"),
    "covid3d.report.printed": ("claims.csv",),
    "covid3d.chapters.reader_comparison": ("claims.csv",),
}


def profile_values(run: Run, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of dotted profile keys, e.g. `training.folds` or all of `model`."""
    values = run.profile.model_dump(mode="json")
    return {key: functools.reduce(lambda level, part: level[part], key.split("."), values) for key in keys}


@functools.cache
def code_fingerprint(module: str) -> str:
    """Return the hash of a module's code and of all covid3d modules it imports, transitively."""
    return sha256_json({name: _code_hash(name) for name in sorted(imported_modules(module))})


@functools.cache
def imported_modules(module: str) -> frozenset[str]:
    """Return a covid3d module and every covid3d module that it imports, transitively, found in the source."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found | ORDERS_ONLY and _source(name) is not None:
            found.add(name)
            waiting.extend(_direct_imports(name))
    return frozenset(found)


@functools.cache
def _direct_imports(module: str) -> frozenset[str]:
    """Return the covid3d modules that a module names itself; each source is parsed once, however many steps rest on it."""
    return frozenset(imports_of(ast.parse(_source(module) or "")))


def imports_of(tree: ast.AST) -> set[str]:
    """Return the covid3d modules that a piece of code imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module)
    return {name for name in names if name.split(".")[0] == "covid3d" and _source(name) is not None}


@functools.cache
def _source(module: str) -> str | None:
    """Return the source of a covid3d module, or None when there is no such file."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    return None


@functools.cache
def _code_hash(module: str) -> str:
    return sha256_json([code_hash(_source(module) or ""), [sha256_file(DATA / name) for name in READS.get(module, ())]])


def code_hash(source: str) -> str:
    """Return a hash of Python source that ignores comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
    return sha256_json(ast.dump(tree))
