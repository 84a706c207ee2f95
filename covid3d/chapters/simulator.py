"""Chapter 9: does the simulator deserve trust? Its truth in this run, and what the campaigns measured, once, at full size.

A campaign's table is part of the chapter's fingerprint because `run/steps.py` declares it: only declared ones are read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters.truth import read_truth
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.manifest import read_manifest
from covid3d.figures import simulator as draw
from covid3d.figures.style import empty
from covid3d.run import campaigns, steps
from covid3d.run.errors import MissingResult
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, mean_interval
from covid3d.stats.estimate import Estimate, number

CHAPTER = "09_simulator"
NOT_MEASURED = "not measured yet"
VISIBLE, LATE_DAYS, WEEK = 0.02, 3, (7, 10)
CLEAR, RANK, SILENT = 0.01, 0.7, 0.5
REACHED, NOT_REACHED = "reached", "not reached"
BARS = {
    "beats 0.60": "above chance",
    "beats burden": "above burden",
    "beats metadata": "above metadata",
    "skill at A": "skill at A is reached",
    "loss is flat": "loss is flat",
    "map on lesions": "map lies on lesions",
}

Table = pd.DataFrame


@dataclass(frozen=True)
class Simulator:
    """The truth of this run and the stored tables of the campaigns, read once.

    truth: one row a simulated scan, controls included. scans: the manifest with burden_fraction, phase and both oracle
    logits of the truth.
    stored: the table of each campaign that the chapter shows, None where it has not been run.
    picture: a file that shows simulated patients.
    """

    run: Run
    truth: pd.DataFrame
    scans: pd.DataFrame
    stored: dict[str, pd.DataFrame | None]
    picture: Path

    def campaigns(self) -> pd.DataFrame:
        """Return which campaigns were run: rows, and the commit that made them."""
        rows = []
        for name, table in self.stored.items():
            made = NOT_MEASURED if table is None else ", ".join(table["commit"].dropna().unique())
            rows.append((name, 0 if table is None else len(table), made))
        return pd.DataFrame(rows, columns=["campaign", "rows", "commit"]).set_index("campaign")

    def _shown(self, name: str, words: Callable[[Table], Table]) -> pd.DataFrame:
        """Return a campaign's table in words for a reader, or one row that says that it has not been run."""
        table = self.stored[name]
        if table is None:
            return pd.DataFrame({"campaign": [name], "result": [NOT_MEASURED]})
        return words(table.drop(columns=[*campaigns.STAMP]))

    # --- the evidence in a scan --------------------------------------------------------------------------------------

    def readers(self) -> pd.DataFrame:
        """Return the AUC of the perfect reader on the first scans of each hospital: of the full scan and of the grid."""
        first = self.scans[self.scans["scan_index"] == 0]
        rows = [
            {
                "hospital": f"hospital {hospital}",
                "patients": len(part),
                "AUC, full scan": auc(part["label"], part["oracle_logit"]),
                "AUC, grid": auc(part["label"], part["oracle_grid_logit"]),
            }
            for hospital, part in first.groupby("hospital")
        ]
        return pd.DataFrame(rows).set_index("hospital")

    def evidence(self) -> pd.DataFrame:
        """Return whether the evidence grows with disease: what, found, asked, verdict; all scans of a patient but rescans."""
        rows = []
        for label, name, least in ((1, "COVID+", RANK), (0, "COVID-", -RANK)):
            scans = self.truth[(self.truth["label"] == label) & (self.truth["kind"] != "rescan")]
            rank = rank_with_burden(scans)
            asked = f"at least {RANK}" if label else f"at most -{RANK}"
            rows.append((f"rank correlation with burden, {name}", rank, asked, rank.value / least >= 1))
        for label, name in ((1, "COVID+"), (0, "COVID-")):
            clear = self.truth[(self.truth["label"] == label) & (self.truth["burden_fraction"] < CLEAR)]
            mean = mean_interval(clear["oracle_logit"]) if len(clear) else Estimate.missing("no scan is that clear")
            rows.append(
                (f"mean logit of a lung almost clear, {name}", mean, f"within {SILENT} of 0", abs(mean.value) <= SILENT)
            )
        judged = [
            (name, found, asked, _verdict(holds) if found.known else NOT_MEASURED) for name, found, asked, holds in rows
        ]
        return pd.DataFrame(judged, columns=["what", "found", "asked", "verdict"]).set_index("what")

    def plot_evidence(self) -> Figure:
        """Return the perfect reader's logit of every scan against the share of lung that is ill."""
        return draw.evidence(self.scans)

    def plot_picture(self) -> Figure:
        """Return simulated patients at the paper's resolution, their true lesions outlined."""
        return draw.picture(self.picture)

    # --- beside real scans -------------------------------------------------------------------------------------------

    def realism(self) -> pd.DataFrame:
        """Return numbers of real scans beside the phantom's median with its range, and what that range does not hold."""
        return self._shown("phantom_realism", _realism)

    def plot_realism(self) -> Figure:
        """Return numbers of real scans (dots) and the phantom's range (bars), divided by the phantom's median."""
        table = self.stored["phantom_realism"]
        return empty(NOT_MEASURED) if table is None else draw.realism(table, _sources(table))

    def realism_summary(self) -> dict[str, Any]:
        """Return how many of the numbers of real scans the phantom's range holds, and the names of the others."""
        table = self.stored["phantom_realism"]
        if table is None:
            return dict.fromkeys(("numbers", "held", "not held"), Estimate.missing(NOT_MEASURED))
        others = table.loc[table["covered"] == "no", "number"].str.replace("_", " ")
        held = int((table["covered"] == "yes").sum())
        return {"numbers": len(table), "held": held, "not held": ", ".join(others) or "none"}

    # --- what tells the class, and what must not ---------------------------------------------------------------------

    def fairness(self) -> pd.DataFrame:
        """Return the AUC of what must not tell the class, with its upper limit, and of the oracle, with its lower one."""
        return self._shown("phantom_fairness", _fairness)

    def difficulty(self) -> pd.DataFrame:
        """Return what other scanners and case mixes do to fixed classifiers of A's scans, on the same patients."""
        return self._shown("phantom_difficulty", _difficulty)

    def learnability(self) -> pd.DataFrame:
        """Return what `standard` learns with three seeds, one column a seed, and which bars it reaches."""
        return self._shown("learnability", _learnability)

    def scaling(self) -> pd.DataFrame:
        """Return what more epochs, more patients, or the lungs alone bring, one column a setting."""
        return self._shown("scaling", _scaling)

    # --- when there is nothing to find -------------------------------------------------------------------------------

    def null_world(self) -> pd.DataFrame:
        """Return rejections of the project's own tests over replicates, and mean effects, by world; the null world first."""
        return self._shown("null_world", _null_world)

    def null_runs(self) -> pd.DataFrame:
        """Return what whole smoke runs of the null world found: mean and SD of each quantity."""
        return self._shown("null_smoke", _null_runs)

    # --- the course --------------------------------------------------------------------------------------------------

    def _followed(self) -> pd.DataFrame:
        """All scans of the patients who were scanned more than once, in order of their days."""
        return self.scans.groupby("patient_id").filter(lambda part: len(part) > 1).sort_values("day", kind="stable")

    def _ends(self) -> tuple[pd.DataFrame, pd.Series]:
        """The last scan of each followed patient, by patient, and whether it lies near the discharge."""
        end = self._followed().groupby("patient_id").tail(1).set_index("patient_id")
        return end, (end["days_to_discharge"] <= LATE_DAYS).fillna(False).astype(bool)

    def course(self) -> pd.DataFrame:
        """Return the true course of the followed patients, as the simulator was told it: what, in this run, standing."""
        followed = self._followed()
        start = followed[followed["scan_index"] == 0].set_index("patient_id")
        burden = followed.groupby("patient_id")["burden_fraction"]
        week = followed[followed["day"].between(*WEEK)].groupby("patient_id")["burden_fraction"].max()
        peak = start["day"] - start["phase"]
        onset = peak + start["days_since_onset"] - start["day"]
        end, late = self._ends()
        rows = {
            "followed patients": len(start),
            "ill on the first scan, %": 100 * (start["burden_fraction"] > VISIBLE).mean(),
            "median change of burden to days 7 to 10, % of lung": 100 * (week - start["burden_fraction"]).median(),
            "median peak, days after the first scan": peak.median(),
            "median peak, days after onset": onset.median(),
            "earliest peak, days after onset": onset.min(),
            "latest peak, days after onset": onset.max(),
            "median burden near discharge, % of the largest": 100
            * (end.loc[late, "burden_fraction"] / burden.max()).median(),
            "median days from peak to discharge": (start["days_to_discharge"] - peak).median(),
            "patients of A without a scan near discharge": int((~late & (end["hospital"] == "A")).sum()),
        }
        standing = "the null world has no course" if self.run.world == "null" else "by construction"
        cells = [(name, _cell(value), standing) for name, value in rows.items()]
        return pd.DataFrame(cells, columns=["what", "in this run", "standing"]).set_index("what")

    def special_cases(self) -> pd.DataFrame:
        """Return the special cases of this run: the censored patients, and the youngest, who is Figure 4's."""
        followed, (end, _) = self._followed(), self._ends()
        censored = end[end["censored"] == 1]
        cases = [("censored patients", len(censored), ", ".join(censored["hospital"]))]
        start = followed[followed["scan_index"] == 0]
        for one in start[start["age"] == start["age"].min()].head(1).to_dict("records"):
            text = (
                f"{one['age']:.0f} years; peak on day {one['day'] - one['phase']:.0f}, "
                f"discharge on day {one['days_to_discharge']:.0f}"
            )
            cases.append(("scans of the youngest", int((followed["patient_id"] == one["patient_id"]).sum()), text))
        return pd.DataFrame(cases, columns=["case", "number", "which"]).set_index("case")

    def whole_course(self) -> pd.DataFrame:
        """Return the same for the whole order form, with what each row was wanted to be."""
        return self._shown("phantom_course", _whole_course)

    def prognosis(self) -> pd.DataFrame:
        """Return how well the stay can be told from the true state of one scan and of two."""
        return self._shown("phantom_prognosis", _prognosis)

    def speed(self) -> pd.DataFrame:
        """Return seconds and memory of one full scan and of a whole cohort, beside writing the same arrays."""
        return self._shown("phantom_speed", _speed)

    # --- all together ------------------------------------------------------------------------------------------------

    def trust(self) -> pd.DataFrame:
        """Return every bar of the campaigns in one table: what is asked, how often it holds, and whether always."""
        rows = []
        for name, (campaign, asks, judge) in CHECKS.items():
            table = self.stored[campaign]
            held = pd.Series(dtype=bool) if table is None else judge(table).dropna().astype(bool)
            count = Estimate(int(held.sum())) if len(held) else Estimate.missing(NOT_MEASURED)
            verdict = _verdict(bool(held.all())) if len(held) else NOT_MEASURED
            rows.append((name, asks, count, len(held), verdict))
        return pd.DataFrame(rows, columns=["check", "asks", "holds", "of", "verdict"]).set_index("check")


def load(run: Run) -> Simulator:
    """Return the chapter's tables; the truth belongs to simulated scans alone, others raise MissingResult."""
    steps.ensure_needs(run, CHAPTER)
    require_certificate(run)
    truth = read_truth(run)
    if truth is None:
        raise MissingResult("real scans have no truth", where=f"run '{run.name}'", cure="Open a run of simulated scans")
    known = truth[["scan_id", "burden_fraction", "phase", "oracle_logit", "oracle_grid_logit"]]
    scans = read_manifest(run.manifest).merge(known, on="scan_id", validate="1:1")
    chapter = steps.STEPS[CHAPTER]
    assert isinstance(chapter, steps.Chapter)
    stored = {name: campaigns.read(name) for name in chapter.stored}
    return Simulator(run, truth, scans, stored, run.root / chapter.files[0])


# --- the campaigns' tables in words ----------------------------------------------------------------------------------


def _realism(table: pd.DataFrame) -> pd.DataFrame:
    bounds = table[["phantom_median", "phantom_min", "phantom_max"]].itertuples(index=False)
    shown = table[["number", "unit", *_sources(table)]].assign(number=table["number"].str.replace("_", " "))
    column = f"phantom, {table['phantom_scans'].max()} scans"
    shown[column] = ["{} ({} to {})".format(*map(number, row)) for row in bounds]
    shown["held"] = table["covered"] + table["not_covered"].map(": {}".format, na_action="ignore").fillna("")
    return shown.set_index("number")


def _sources(table: pd.DataFrame) -> list[str]:
    """Return the columns of real scans."""
    return list(table.columns[2 : table.columns.get_loc("phantom_min")])


def _fairness(table: pd.DataFrame) -> pd.DataFrame:
    sides = _oracle(table).map({True: "at least ", False: "at most "})
    shown = table[["hospital", "group", "classifier", "n"]].rename(columns={"n": "scans"})
    shown["group"] = shown["group"].str.replace("_", " ")
    shown["AUC"] = _estimates(table, "auc", "low", "high", "DeLong on mean out-of-fold scores")
    shown["limit"] = sides + table["limit"].map(number)
    return shown.assign(verdict=table["verdict"]).set_index(["hospital", "group", "classifier"])


def _oracle(table: pd.DataFrame) -> pd.Series:
    """Return which rows are of the oracle, which must tell the classes."""
    return table["group"].str.startswith("oracle")


def _difficulty(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["setting", "classifier", "hospital", "mix"]].rename(
        columns={"hospital": "scanner", "mix": "case mix"}
    )
    shown["setting"] = shown["setting"].replace(
        {"drift of +60 HU": "drift up by 60 HU", "drift of -60 HU": "drift down by 60 HU"}
    )
    shown["AUC"] = _estimates(table, "auc", "low", "high", "DeLong")
    shown["change"] = _estimates(table, "change", "change_low", "change_high", "paired DeLong")
    return shown.assign(accuracy=table["accuracy"]).set_index(["setting", "classifier"])


def _learnability(table: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"seed": table["seed"].map("seed {}".format)})
    for words, name in (
        ("AUC at A", "auc"),
        ("AUC, burden alone", "burden"),
        ("AUC, metadata alone", "metadata"),
        ("lesions in the map against the lung", "map_ratio"),
    ):
        shown[words] = _estimates(table, name, f"{name}_low", f"{name}_high")
    for site in "abc":
        shown[f"perfect reader at {site.upper()}"] = table[f"oracle_{site}"]
        shown[f"skill at {site.upper()}"] = table[f"skill_{site}"]
    shown["change of the loss at the end"] = table["flatness"]
    for name, words in BARS.items():
        shown[words] = table[name].map({1: REACHED, 0: NOT_REACHED})
    return shown.set_index("seed").T.rename_axis("measure")


def _scaling(table: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"setting": table["setting"], "patients": table["patients"], "epochs": table["epochs"]})
    shown["AUC"] = table["auc"]
    shown["perfect reader"] = table["oracle"]
    shown["loss at the end"] = table["last_loss"]
    shown["change of the loss at the end"] = table["flatness"]
    shown["lesions in the map against the lung"] = _estimates(table, "map_ratio", "map_low", "map_high")
    shown["best layer for the map"] = table["best_layer"]
    return shown.set_index("setting").T.rename_axis("measure")


def _null_world(table: pd.DataFrame) -> pd.DataFrame:
    ordered = table.sort_values("world", key=lambda world: world != "null", kind="stable")
    shown = ordered[["world", "quantity", "replicates", "rejections"]].copy()
    shown["allowed"] = ordered["allowed"].where(ordered["world"] == "null")
    shown["share or mean"] = _estimates(ordered, "value", "low", "high")
    return shown.assign(p=ordered["p"]).set_index(["world", "quantity"])


def _kept_level(table: pd.DataFrame) -> pd.Series:
    return table["rejections"] <= table["allowed"]


def _null_runs(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby("quantity").agg(rows=("value", "size"), mean=("value", "mean"), SD=("value", "std"))


def _whole_course(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["quantity", "value", "low", "high", "n", "wanted", "verdict"]]
    return shown.rename(columns={"n": "patients"}).set_index("quantity")


def _prognosis(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[["phase_visible", "predictor", "patients"]].rename(columns={"phase_visible": "phase visible"})
    shown["phase visible"] = shown["phase visible"].map("{:g}".format)
    for words, name, stem in (
        ("AUC", "auc", "auc"),
        ("C-index", "c_index", "c"),
        ("hazard ratio", "hazard_ratio", "hazard"),
    ):
        shown[words] = _estimates(table, name, f"{stem}_low", f"{stem}_high", "bootstrap over patients")
    return shown.set_index(["phase visible", "predictor"])


def _speed(table: pd.DataFrame) -> pd.DataFrame:
    names = {
        "seconds": "seconds",
        "limit_seconds": "at most",
        "peak_mib": "memory, MiB",
        "ratio_to_floor": "times the floor",
    }
    shown = table[["what", "by", "workers", *names]].rename(columns=names)
    shown["what"] = shown["what"].str.replace("`", "")
    return shown.set_index(["what", "by", "workers"])


CHECKS: dict[str, tuple[str, str, Callable[[Table], pd.Series]]] = {
    "realism": (
        "phantom_realism",
        "the phantom's range holds the numbers of the real scans",
        lambda table: table["covered"] == "yes",
    ),
    "fairness": (
        "phantom_fairness",
        "what is no disease does not tell the class",
        lambda table: table.loc[~_oracle(table), "verdict"] == REACHED,
    ),
    "disease": (
        "phantom_fairness",
        "the oracle, who knows the lesions, tells the class",
        lambda table: table.loc[_oracle(table), "verdict"] == REACHED,
    ),
    "course": (
        "phantom_course",
        "the course is the one that the paper describes",
        lambda table: table["verdict"].map({REACHED: 1.0, NOT_REACHED: 0.0}),
    ),
    "null world": (
        "null_world",
        "tests reject no more often than they may",
        lambda table: (table["rejections"] <= table["allowed"])[table["allowed"].notna() & (table["world"] == "null")],
    ),
    "learnability": (
        "learnability",
        "a network of the profile standard reaches its bars, with each seed",
        lambda table: pd.Series(table[list(BARS)].to_numpy().ravel() == 1),
    ),
    "speed": (
        "phantom_speed",
        "a scan and a cohort are made within their limits",
        lambda table: table["within_limits"].dropna() == 1,
    ),
}
"""Every bar of the campaigns: the campaign, what is asked, and which of its rows hold."""


def rank_with_burden(scans: pd.DataFrame) -> Estimate:
    """Return the mean within-patient rank correlation of the perfect reader's logit with burden, t limits over patients.

    Patients with three scans or more; columns patient_id, oracle_logit, burden_fraction.
    """
    parts = [part for _, part in scans.groupby("patient_id") if len(part) >= 3]
    ranks = [part["oracle_logit"].corr(part["burden_fraction"], method="spearman") for part in parts]
    known = [value for value in ranks if pd.notna(value)]
    if not known:
        return Estimate.missing("no patient has three scans")
    found = mean_interval(known)
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0)) if found.has_limits else found


def _verdict(holds: bool) -> str:
    return REACHED if holds else NOT_REACHED


def _estimates(table: pd.DataFrame, value: str, low: str, high: str, method: str = "") -> pd.Series:
    """Return one Estimate a row, from the columns of the value and of its limits."""
    rows = table[[value, low, high]].to_numpy(float).tolist()
    found = [Estimate(a, b, c, method) if pd.notna(a) else None for a, b, c in rows]
    return pd.Series(found, index=table.index, dtype=object)


def _cell(value: Any) -> Any:
    """Return a number, or that no scan tells it."""
    return (
        value if isinstance(value, int) else Estimate(float(value)) if pd.notna(value) else Estimate.missing("no scan")
    )
