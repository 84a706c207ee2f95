"""Chapter 9: does the simulator deserve trust? Its truth in this run, and what the campaigns measured, once, at full size.

A campaign's table is part of the chapter's fingerprint because `run/steps.py` declares it: only declared ones are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import explanation, measured, opacity
from covid3d.chapters.measured import NOT_MEASURED, verdict
from covid3d.chapters.truth import read_truth
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.manifest import read_manifest
from covid3d.figures import simulator as draw
from covid3d.figures.style import empty
from covid3d.run import campaigns, steps
from covid3d.run.errors import MissingResult
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, spearman
from covid3d.stats.courses import rank_within
from covid3d.stats.estimate import Estimate

CHAPTER = "09_simulator"
VISIBLE, LATE_DAYS, WEEK = 0.02, 3, (7, 10)
RANK = 0.7


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

    @property
    def phase_visible(self) -> float:
        """How much of the phase of the disease a scan of this run shows, 0 to 1."""
        return self.run.profile.phantom.phase_visible

    def campaigns(self) -> pd.DataFrame:
        """Return which campaigns were run: rows, and the commit that made them."""
        rows = []
        for name, table in self.stored.items():
            made = NOT_MEASURED if table is None else ", ".join(table["commit"].dropna().unique())
            rows.append((name, 0 if table is None else len(table), made))
        return pd.DataFrame(rows, columns=["campaign", "rows", "commit"]).set_index("campaign")

    def trust(self) -> pd.DataFrame:
        """Return every bar of the campaigns in one table: what is asked, how often it holds, and whether always."""
        return measured.bars(self.stored)

    def campaign(self, name: str) -> pd.DataFrame:
        """Return the table of a campaign, or one row that says that it has not been run."""
        return measured.in_words(name, self.stored.get(name))

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
        """Return whether the evidence grows with disease: what, found, asked, verdict; all scans of a patient but rescans.

        The last rows, of which nothing was asked, are what the network's grid keeps of it.
        """
        rows = [
            (what, found, asked, verdict(holds) if found.known else NOT_MEASURED)
            for what, _, found, asked, holds in evidence_bars(self.truth)
        ]
        on_grid = evidence_bars(self.truth.assign(oracle_logit=self.truth["oracle_grid_logit"]))
        rows += [(f"{what}, on the network's grid", found, "", "") for what, _, found, *_ in on_grid]
        return pd.DataFrame(rows, columns=["what", "found", "asked", "verdict"]).set_index("what")

    def opacity(self) -> pd.DataFrame:
        """Return how the measured opacity of a scan goes with its true burden: over all scans, and within patients."""
        names = {"above_700": "share above -700 HU", "above_500": "share above -500 HU", "mean_hu": "mean HU"}
        scans, rows = self.truth.merge(opacity.measured(self.run), on="scan_id"), []
        for column, name in names.items():
            every = spearman(scans[column], scans["burden_fraction"]).estimate
            within = rank_within(scans[scans["kind"] != "rescan"], column, "burden_fraction").estimate
            rows.append((name, len(scans), every, within))
        columns = ["opacity of the lung", "scans", "rank correlation with burden", "within patients"]
        return pd.DataFrame(rows, columns=columns).set_index(columns[0])

    def plot_evidence(self) -> Figure:
        """Return the perfect reader's logit of every scan against the share of lung that is ill."""
        return draw.evidence(self.scans)

    def plot_picture(self) -> Figure:
        """Return simulated patients at the paper's resolution, their true lesions outlined."""
        return draw.picture(self.picture)

    # --- beside real scans -------------------------------------------------------------------------------------------

    def plot_realism(self) -> Figure:
        """Return numbers of real scans (dots) and the phantom's range (bars), divided by the phantom's median."""
        table = self.stored["phantom_realism"]
        return empty(NOT_MEASURED) if table is None else draw.realism(table, measured.sources(table))

    def realism_summary(self) -> dict[str, Any]:
        """Return how many of the numbers of real scans the phantom's range holds, and the names of the others."""
        table = self.stored["phantom_realism"]
        if table is None:
            return dict.fromkeys(("numbers", "held", "not held"), Estimate.missing(NOT_MEASURED))
        others = table.loc[table["covered"] == "no", "number"].str.replace("_", " ")
        held = int((table["covered"] == "yes").sum())
        return {"numbers": len(table), "held": held, "not held": ", ".join(others) or "none"}

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
        """Return the special cases of this run: the censored patients, and the patient of Figure 4."""
        followed, (end, _) = self._followed(), self._ends()
        censored = end[end["censored"] == 1]
        cases = [("censored patients", len(censored), ", ".join(censored["hospital"]))]
        case = followed[followed["patient_id"] == explanation.case_patient(self.scans)]
        for one in case[case["scan_index"] == 0].to_dict("records"):
            text = (
                f"{one['age']:.0f} years; peak on day {one['day'] - one['phase']:.0f}, "
                f"discharge on day {one['days_to_discharge']:.0f}"
            )
            cases.append(("scans of Figure 4's patient", len(case), text))
        return pd.DataFrame(cases, columns=["case", "number", "which"]).set_index("case")


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


def evidence_bars(scans: pd.DataFrame) -> list[tuple[str, int, Estimate, str, bool]]:
    """Return the bars of a perfect reader whose evidence grows with disease: what, patients, found, what is asked, held.

    scans: patient_id, label, kind (rescans have no say in a course), burden_fraction, oracle_logit.
    """
    rows = []
    for label, name, least in ((1, "COVID+", RANK), (0, "COVID-", -RANK)):
        part = scans[(scans["label"] == label) & (scans["kind"] != "rescan")]
        rank = rank_within(part, "oracle_logit", "burden_fraction")
        asked, held = f"at least {RANK}" if label else f"at most -{RANK}", rank.estimate.value / least >= 1
        rows.append((f"rank correlation with burden, {name}", rank.patients, rank.estimate, asked, held))
    return rows


def _cell(value: Any) -> Any:
    """Return a number, or that no scan tells it."""
    if pd.isna(value):
        return Estimate.missing("no scan tells it")
    return value if isinstance(value, int) else Estimate(float(value))
