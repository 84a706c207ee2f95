"""The page of functions: signatures and docstrings, read from the sources so that nothing is imported."""

import ast
import html
from pathlib import Path

FUNCTIONS = (
    "notebook:open",
    "show:Show",
    "run/profile:open_run",
    "run/profile:load_profile",
    "cohort/manifest:read_manifest",
    "commands/predict:predict",
    "ct/windows:apply_window",
    "network/registry:build",
    "network/scoring:score",
    "chapters/cross_validation:load",
    "chapters/comparison:load",
    "stats/auc:auc",
    "stats/auc:paired_delong",
    "stats/proportions:wilson",
    "stats/survival:log_rank",
    "report/claims:ledger",
)
PACKAGE = Path(__file__).parents[1]


def page() -> str:
    """Return the functions as HTML: name, signature, docstring."""
    return "".join(f"<section class='function'>{described(name)}</section>" for name in FUNCTIONS)


def described(name: str) -> str:
    """Return one function or class, named "file:object" below the package, as HTML."""
    file, _, wanted = name.partition(":")
    tree = ast.parse((PACKAGE / f"{file}.py").read_text(encoding="utf-8"))
    node = next(node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == wanted)
    title = f"covid3d.{file.replace('/', '.')}.{wanted}"
    anchor = f"<h3 id='{title}'><code>{title}</code></h3>"
    said = html.escape(ast.get_docstring(node) or "")
    return f"{anchor}<pre class='signature'>{html.escape(_signature(node))}</pre><p class='docstring'>{said}</p>"


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        return f"{node.name}({ast.unparse(inits[0].args).removeprefix('self, ')})" if inits else node.name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"
