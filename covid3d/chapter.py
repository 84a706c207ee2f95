"""What a chapter leaves behind: values with their text, tables and figures, written together or not at all."""

import base64
import functools
import html
import io as buffers
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from safetensors import safe_open

from covid3d.run.errors import ConfigError
from covid3d.run.files import atomic_folder, read_json, write_csv, write_json
from covid3d.run.profile import DATA, Run, chapter_title

COHORTS = ("phantom", "public", "site", "software", "paper")
BANNERS = {
    "phantom": "Simulated scans: no number of this run was measured on a patient.",
    "site": "Research use only: scans of one hospital.",
    "public": "",
}


def banner(run: Run) -> str:
    """Return the sentence that stands first on every page of a run; empty when none is needed."""
    return BANNERS[run.cohort]


def initialisation(run: Run) -> str:
    """Return the sentence that says what the network of a run starts from, or that it was given."""
    if run.is_site:
        return "COVID3D has the weights that were given."
    if _started_pretrained(run):
        return "COVID3D starts from Kinetics-600."
    if run.profile.model.width != 1:
        return "COVID3D starts from scratch: no pretrained weights exist at this width."
    why = "the Kinetics-600 weights are not at hand" if run.profile.model.pretrained else "the profile asks for it"
    return f"COVID3D starts from scratch: {why}."


def _started_pretrained(run: Run) -> bool:
    """True when the run's first fold, once trained, started from Kinetics-600; before that, when it would."""
    trained = run.model("task1", "covid3d", 0) / "weights.safetensors"
    if not trained.is_file():
        return run.pretrained is not None
    with safe_open(trained, framework="numpy") as file:
        return (file.metadata() or {}).get("starts_from", "").startswith("kinetics600")


def missing(value: Any) -> bool:
    """True for None, NaN, infinity and pandas' NA."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float) and not math.isfinite(value)


def format_number(value: Any, unit: str = "") -> str:
    """Return a number as it is printed: counts with separators, p values with two digits, the rest with three."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if unit == "p":
        return "< 0.0001" if value < 1e-4 else f"{value:.2g}"
    if unit in ("day", "days") and float(value).is_integer():
        return f"{value:,.0f}"
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 1000 else 0
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # adding 0 makes -0 a 0


def format_value(value: Any, low: Any = None, high: Any = None, unit: str = "", reason: str | None = None) -> str:
    """Return the text of a value with its 95 % interval and unit, e.g. "0.781 (95 % CI 0.640 to 0.877)"."""
    if missing(value):
        return f"not available ({reason or 'no data'})"
    if unit == "p":
        number = format_number(value, unit)
        text = f"p {number}" if number.startswith("<") else f"p = {number}"
    else:
        suffix = f" {unit}" if unit and unit != "AUC" else ""
        text = format_number(value, unit) + suffix
    if not missing(low) and not missing(high):
        empty = unit == "AUC" and high - low < 1e-9  # of equal folds, or of classes that do not overlap
        limits = f"95 % CI {format_number(low, unit)} to {format_number(high, unit)}"
        text += " (no interval: nothing varies)" if empty else f" ({limits})"
    return text


@dataclass
class Chapter:
    """Collects what one notebook leaves behind; `close()` writes it all as `chapters/NN`."""

    run: Run
    name: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list, repr=False)

    @property
    def number(self) -> str:
        """The two digits of the chapter."""
        return self.name[:2]

    def show_banner(self) -> None:
        """Show where the scans come from, the run, and what its network starts from, on which all but chapter 01 depends."""
        run = self.run
        start = "" if self.number == "01" else f" {initialisation(run)}"
        origin = f"<strong>{html.escape(banner(run))}</strong> " if banner(run) else ""
        _display_html(
            f"<p>{origin}Run <code>{html.escape(run.name)}</code>: profile {html.escape(run.profile.name)}, "
            f"world {run.world}, seed {run.seed}; chapter {html.escape(chapter_title(self.name))}.{start}</p>"
        )

    def value(
        self,
        key: str,
        value: Any,
        *,
        low: Any = None,
        high: Any = None,
        unit: str = "",
        text: str | None = None,
        label: str = "",
        cohort: str | None = None,
        claims: Sequence[str] = (),
    ) -> None:
        """Keep one value under a key; for a missing value `text` is the reason.

        `label` says how a number is meant wherever it is printed, e.g. "p = 0.012 (nominal)".
        Raises ConfigError when the key exists with another content (running the same cell again is fine).
        """
        cohort = cohort or self.run.cohort
        if cohort not in COHORTS:
            raise ConfigError(f"unknown cohort '{cohort}'", where=key, cure=f"Known: {', '.join(COHORTS)}")
        number = _plain(value)
        printed = text
        if missing(number) or text is None:
            printed = format_value(number, _plain(low), _plain(high), unit, text)
        if label and not missing(number):
            printed = f"{printed} ({label})"
        entry = {
            "value": None if missing(number) else number,
            "low": None if missing(_plain(low)) else _plain(low),
            "high": None if missing(_plain(high)) else _plain(high),
            "unit": unit,
            "text": printed,
            "cohort": cohort,
            "cell": current_cell(self.run.root / "notebooks" / f"{self.name}.ipynb"),
            "claims": sorted({*claims, *claims_of(key)}),
        }
        previous = self.values.get(key)
        if previous is not None and previous["cell"] != entry["cell"]:
            raise ConfigError(f"key '{key}' is used twice", where=self.name, cure="Give every value its own key")
        self.values[key] = entry
        self.fresh.append(key)
        _glue(key, str(entry["text"]))

    def show(self, caption: str = "") -> None:
        """Show the values that were kept since the last call."""
        rows = [(key, self.values[key]["text"]) for key in dict.fromkeys(self.fresh)]
        self.fresh.clear()
        _display_html(table_html(pd.DataFrame(rows, columns=["value", "this run"]), caption))

    def record(
        self,
        table: pd.DataFrame,
        key: str,
        value: str,
        *,
        limits: tuple[str, str] | None = None,
        unit: str = "",
        scale: float = 1.0,
        reason: str = "method",
        label: str = "",
        cohort: str | None = None,
        claims: Sequence[str] = (),
    ) -> None:
        """Keep one value a row of a table: `key` is a pattern such as "auc_{model}_{hospital}" filled from the row.

        value, limits, reason: names of columns; label and claims as in `value`; `scale` multiplies value and limits (100
        turns shares into per cent).
        """
        for row in table.to_dict("records"):
            name = key.format(**{str(column): str(cell).lower() for column, cell in row.items()})
            number, *ends = (_scaled(row[column], scale) for column in (value, *(limits or ())))
            low, high = ends or (None, None)
            text = str(row.get(reason) or "no data").removeprefix("not available: ") if missing(number) else None
            self.value(
                re.sub(r"\W+", "_", name),
                number,
                low=low,
                high=high,
                unit=unit,
                text=text,
                label=label,
                cohort=cohort,
                claims=claims,
            )

    def note(self, claim: str, text: str, *, cohort: str = "paper") -> None:
        """Record a statement for a claim that is documented, not computed."""
        self.value(f"note_{claim}", text, cohort=cohort, claims=(claim,))

    def table(self, name: str, table: pd.DataFrame, caption: str, claims: Sequence[str] = ()) -> None:
        """Keep a table (written as tables/<name>.csv) and show it with its caption."""
        self.tables[name] = (table, self._about(caption, claims))
        _display_html(table_html(table, caption))

    def figure(self, name: str, figure: Figure, caption: str, claims: Sequence[str] = ()) -> None:
        """Keep a figure (written as figures/<name>.png and .svg) and show it with its caption."""
        images = {suffix: render(figure, suffix) for suffix in ("png", "svg")}
        self.figures[name] = (images, self._about(caption, claims))
        _display_html(figure_html(images["png"], caption))

    def _about(self, caption: str, claims: Sequence[str]) -> dict[str, Any]:
        cell = current_cell(self.run.root / "notebooks" / f"{self.name}.ipynb")
        return {"caption": caption, "claims": list(claims), "cell": cell}

    def close(self) -> None:
        """Write chapters/NN in one act: values.json, captions.json, tables and figures; show what was written."""
        folder = self.run.chapter(self.number)
        with atomic_folder(folder) as temporary:
            write_json(temporary / "values.json", self.values)
            captions = {
                "tables": {name: about for name, (_, about) in self.tables.items()},
                "figures": {name: about for name, (_, about) in self.figures.items()},
            }
            write_json(temporary / "captions.json", captions)
            (temporary / "tables").mkdir()
            (temporary / "figures").mkdir()
            for name, (table, _) in self.tables.items():
                write_csv(temporary / "tables" / f"{name}.csv", table)
            for name, (images, _) in self.figures.items():
                for suffix, content in images.items():
                    (temporary / "figures" / f"{name}.{suffix}").write_bytes(content)
        _display_html(
            table_html(self.summary(), "Values of this chapter, as the ledger and the landing page print them.")
        )

    def summary(self) -> pd.DataFrame:
        """Return the values of the chapter that are not statements: key, value, claims."""
        rows = [
            {"key": key, "value": entry["text"], "claims": " ".join(entry["claims"])}
            for key, entry in self.values.items()
            if not key.startswith("note_")
        ]
        return pd.DataFrame(rows, columns=["key", "value", "claims"])


def read_values(run: Run) -> dict[str, dict[str, Any]]:
    """Return the values of all finished chapters by key; every entry also names its `chapter`.

    Raises ConfigError when two chapters use one key.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.path("chapters").glob("*/values.json")):
        for key, entry in read_json(path).items():
            if key in found:
                raise ConfigError(
                    f"key '{key}' is used by chapters {found[key]['chapter']} and {path.parent.name}",
                    where="values.json",
                    cure="Rename one of them in its notebook",
                )
            found[key] = {**entry, "chapter": path.parent.name}
    return found


def table_html(table: pd.DataFrame, caption: str = "") -> str:
    """Return a table as HTML that scrolls sideways by itself; missing cells are empty, counts whole, a column "p" as p is."""
    table = table.astype(dict.fromkeys(table.columns[[_is_whole(table[name]) for name in table.columns]], "Int64"))
    heads = "".join(f"<th scope='col'>{html.escape(str(column))}</th>" for column in table.columns)
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(_cell_text(value, 'p' if column == 'p' else ''))}</td>"
            for column, value in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.itertuples(index=False, name=None)
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        "<div class='scrolls' style='overflow-x:auto' tabindex='0'>"
        f"<table class='table'>{title}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _is_whole(column: pd.Series) -> bool:
    """True for counts and days that stand as floats, often because of a missing cell; shares and AUCs never reach 2."""
    known = column.dropna() if isinstance(column, pd.Series) and column.dtype == float else pd.Series(dtype=float)
    return bool(len(known)) and bool((known == known.round()).all()) and known.abs().max() >= 2


def _cell_text(value: Any, unit: str) -> str:
    value = _plain(value)
    return "" if missing(value) else format_number(value, unit)


def figure_html(png: bytes, caption: str) -> str:
    """Return a figure as HTML with the image inside and the caption as its text alternative."""
    source = base64.b64encode(png).decode("ascii")
    text = html.escape(caption, quote=True)
    return (
        f"<figure><img style='max-width:100%;height:auto' alt='{text}' src='data:image/png;base64,{source}'/>"
        f"<figcaption>{text}</figcaption></figure>"
    )


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as PNG or SVG bytes that are the same at every execution (no dates, fixed ids)."""
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[suffix]
    target = buffers.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "covid3d", "svg.fonttype": "path"}):
        figure.savefig(target, format=suffix, dpi=110, metadata=metadata, bbox_inches="tight")
    return target.getvalue()


def current_cell(notebook: Path) -> str:
    """Return the id of the notebook cell that is being executed, found by its source; "" outside a notebook."""
    shell = _shell()
    if shell is None or not notebook.is_file():
        return ""
    source = str(shell.history_manager.input_hist_raw[-1]).strip()
    for cell in read_json(notebook)["cells"]:
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip() == source:
            return str(cell["id"])
    return ""


def _scaled(value: Any, scale: float) -> Any:
    """Return a number times `scale`; counts stay whole when the scale is 1."""
    value = _plain(value)
    return value if missing(value) or scale == 1 else float(value) * scale


@functools.cache
def _claims_by_key() -> dict[str, tuple[str, ...]]:
    table = pd.read_csv(DATA / "claims_map.csv", dtype=str, keep_default_na=False)
    return {str(key): tuple(part["claim_id"]) for key, part in table.groupby("key") if key}


def claims_of(key: str) -> tuple[str, ...]:
    """Return the claims that are judged by a value, as claims_map.csv says."""
    return _claims_by_key().get(key, ())


def _plain(value: Any) -> Any:
    """Return a numpy or pandas scalar as a Python one."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _shell() -> Any:
    """Return the running IPython kernel's shell, or None."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()  # type: ignore[no-untyped-call]


def _glue(key: str, text: str) -> None:
    """Make a value's text available to the page's prose as {glue:text}`key`."""
    if _shell() is not None:
        from myst_nb import glue

        glue(key, text, display=False)


def _display_html(content: str) -> None:
    """Show HTML in a notebook; nothing elsewhere."""
    if _shell() is not None:
        from IPython.display import HTML, display

        display(HTML(content))  # type: ignore[no-untyped-call]
