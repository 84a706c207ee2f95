"""Chapter 6: s(t), the Task-1 logit of every scan of the followed patients, its noise band, peaks and the pooled curve.

A patient of A is scored by the one fold that never saw that patient; B and C by the deployed fold. Days count from the
patient's first scan; the paper's "day d" is day d - 1 here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import evidence, explanation, results, scored, severity
from covid3d.chapters.measured import judged
from covid3d.chapters.pictured import made_on, picture
from covid3d.chapters.results import EVERY_FOLD, THREE_D
from covid3d.chapters.severity import NO_TRUTH, Severity
from covid3d.cohort.folds import read_splits, require_certificate
from covid3d.cohort.intake import accepted, grid_spacing, read_intake
from covid3d.ct.windows import nominal_window
from covid3d.figures import trajectories as draw
from covid3d.figures.picture import Picture
from covid3d.network.registry import build
from covid3d.run import steps
from covid3d.run.files import random_seed
from covid3d.run.profile import Run
from covid3d.stats import courses
from covid3d.stats.auc import spearman
from covid3d.stats.estimate import NAN, Estimate
from covid3d.stats.proportions import wilson

NOBODY = "no patient has a follow-up scan"
LATE_IN_BAND = "of these, s within the noise band around 0"
LEAST_RANK, MOST_APART = 0.5, 15
"""The bars of s: its mean rank correlation with the burden within patients; points between shares of patients."""
SPANS = {"0 to 2": 2, "3 to 6": 6, "7 to 10": 10, "11 to 14": 14, "15 or later": np.inf}
SIZE = ("n_slices", "rows", "columns", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm")
AXES = {
    "day": "days since the first scan",
    "days_since_onset": "days since onset of symptoms",
    "days_to_discharge": "days before discharge",
}


# --- the chapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectories:
    """s of every scan, read once; every question of the chapter is asked of these tables.

    scores: one row a scan, as `results.trajectory_scores` returns it. course: the scans of the followed patients by patient
    and day, with age, days_since_onset, days_to_discharge, and how ill the lung is (`severity.beside`). controls: the same
    of COVID- patients with simulated later scans (none in a real cohort). external: first scans of B and C by every fold.
    own: patients of the splits, scored out of fold. split_scans: the scans that train or validate. case: the patient of
    Figure 4, one row a scan, with the evidence that pieces of its lung hold (`evidence.ensure_evidence`).
    """

    run: Run
    late_days: float
    scores: pd.DataFrame
    course: pd.DataFrame
    controls: pd.DataFrame
    external: pd.DataFrame
    own: frozenset[str]
    split_scans: frozenset[str]
    case: pd.DataFrame

    # --- what s is, and its noise

    def checks(self) -> dict[str, bool]:
        """Return what holds of s: every scan has one, no follow-up scan is in a split, and s is the logit."""
        rising = self.scores.sort_values("logit")["probability"].to_numpy()
        probability = 1 / (1 + np.exp(-self.scores["logit"]))
        followups = self.scores.loc[self.scores["kind"] == "followup", "scan_id"]
        return {
            "every scan is scored": bool(self.scores["logit"].notna().all()),
            "no follow-up scan is in a split": self.split_scans.isdisjoint(followups),
            "probability rises with s": bool((np.diff(rising) >= 0).all()),
            "s is the logit of the probability": bool(np.allclose(probability, self.scores["probability"], atol=1e-5)),
        }

    def followed(self) -> dict[str, int]:
        """Return how many patients have follow-up scans, and how many of A's have none within `late_days` of discharge."""
        hospital = self.course.groupby("patient_id")["hospital"].first()
        late = courses.late_scans(self.course, self.late_days).reindex(hospital.index)
        return {
            "at hospital A": int((hospital == "A").sum()),
            "at hospital C": int((hospital == "C").sum()),
            "together": len(hospital),
            "of A without a late scan": int((~late[hospital == "A"].fillna(True).astype(bool)).sum()),
        }

    @cached_property
    def band(self) -> courses.NoiseBand:
        """The largest change of s between two scans of one patient that nothing may have caused."""
        return courses.noise_band(self.scores)

    def noise(self) -> dict[str, Any]:
        """Return the noise band: its half-width in logits, and the same-day pairs that it comes from."""
        band = self.band
        half = Estimate(band.half_width, method=band.method, unit="logit")
        return {"half-width": half, "same-day pairs": band.pairs, "how": band.method}

    def fold_offsets(self) -> pd.DataFrame:
        """Return how the scales of the folds differ: mean s out of fold at A by label, and mean s at B and C."""
        first = self.scores[(self.scores["kind"] == "first") & self.scores["patient_id"].isin(self.own)]
        outside = self.external.groupby("fold")["logit"].mean()
        rows = [
            {
                "fold": fold,
                "scans": len(part),
                "mean of COVID+": part.loc[part["label"] == 1, "logit"].mean(),
                "mean of COVID-": part.loc[part["label"] == 0, "logit"].mean(),
                "mean at B and C": outside.get(fold, NAN),
            }
            for fold, part in first.groupby("fold")
        ]
        return pd.DataFrame(rows).set_index("fold")

    def fold_variation(self) -> pd.DataFrame:
        """Return how far the folds disagree on one scan of B and C, which none of them has seen: hospital, SD, scans.

        SD: root mean square over scans of the SD of s over folds, after each fold's mean at the hospital is taken off.
        """
        rows = []
        for hospital, part in self.external.groupby("hospital"):
            wide = part.pivot(index="scan_id", columns="fold", values="logit")
            spread = (wide - wide.mean()).std(axis=1, ddof=1)
            rows.append((hospital, float(np.sqrt((spread**2).mean())), len(wide)))
        return pd.DataFrame(rows, columns=["hospital", "SD", "scans"]).set_index("hospital")

    # --- the course

    def curve(self, time: str = "day", *, controls: bool = False) -> courses.Curve:
        """Return the population curve of s over a time of `AXES`, hospitals A and C together; see `courses.curve_of`."""
        table = self.controls if controls else self.course
        rng = np.random.default_rng(random_seed(self.run.seed, "trajectories", time, controls))
        found = courses.curve_of(table, time, self.run.profile.statistics.bootstrap, rng)
        return found._replace(peak=found.peak.of_unit("days"))

    def plot_curve(self, curve: courses.Curve, time: str = "day", *, controls: bool = False) -> Figure:
        """Return s(t) of every patient, a panel a hospital, with the population curve and the noise band around 0."""
        table = self.controls if controls else self.course
        return draw.course(table, curve.points, self.band.half_width, time, AXES[time], curve.peak.method)

    @property
    def severity(self) -> Severity:
        """How ill the lung is, beside s: what the chapter asks of burden and opacity."""
        return Severity(self.course, self.controls)

    def bars(self) -> pd.DataFrame:
        """Return the bars of s(t): what each asks, what was found, and whether it is reached.

        A band makes room for scans late in the stay, and few controls seldom show a rise: read both beside `shares` and
        `Severity.changes`.
        """
        ill, shares = self.severity, self.shares().set_index("what")["share"].to_dict()
        follows, apart = ill.with_burden(), ill.week_apart()
        late, controls = shares[LATE_IN_BAND], ill.changes()["COVID-"].to_dict()["days 7 to 10"]
        none = controls if controls.has_limits or not controls.known else Estimate.missing("no interval")
        rows = [
            ("s follows burden", f"at least {LEAST_RANK}", follows, follows.value >= LEAST_RANK),
            (
                "highest s on days 7 to 10",
                f"within {MOST_APART} points of the share of the highest burden",
                apart,
                abs(apart.value) <= MOST_APART,
            ),
            ("last scan near discharge", "most within the noise band around 0", late, late.value > 50),
            ("controls to days 7 to 10", "no rise: the interval of the change is not above 0", none, none.low <= 0),
        ]
        found = [(name, asks, value, judged(value, holds)) for name, asks, value, holds in rows]
        return pd.DataFrame(found, columns=["bar", "asks", "found", "verdict"]).set_index("bar")

    def change(self, first_day: float = 7, last_day: float = 10) -> Estimate:
        """Return the mean change of s from the first scan to days 7 to 10 (paired t; patients with such a scan)."""
        return courses.change_of(self.course, first_day, last_day).of_unit("logit")

    def negatives(self) -> pd.DataFrame:
        """Return s of the COVID- first scans by each fold that has not seen them: fold, scan_id, logit.

        A's by the fold that held them out, B's and C's by every fold. A scan is placed among the scores of its own fold: the
        scales of the folds differ.
        """
        columns = ["fold", "scan_id", "logit"]
        own = self.scores.loc[(self.scores["kind"] == "first") & (self.scores["label"] == 0), columns]
        other = self.external.loc[self.external["label"] == 0, columns]
        return pd.concat([own, other]).drop_duplicates(["fold", "scan_id"], ignore_index=True)

    def shares(self) -> pd.DataFrame:
        """Return the counts behind the words of the text: patients as k of n, and the share in per cent (Wilson)."""
        peaks = courses.peak_table(self.course).set_index("patient_id")
        late = courses.late_scans(self.course, self.late_days)
        ended, first = peaks[late.fillna(False).astype(bool)], peaks["first"].dropna()
        days, onset = peaks["peak_day"].dropna(), peaks["peak_days_since_onset"].dropna()
        fold = self.course.groupby("patient_id")["fold"].first().reindex(ended.index)
        negative = self.negatives().groupby("fold")["logit"]
        low, high = (fold.map(negative.quantile(share)) for share in (0.025, 0.975))
        half = self.band.half_width
        fallen, silent, low_peak = ended["fall"] > half, ended["last"].abs() <= half, peaks["peak"].abs() <= half
        banded = np.isfinite(half)
        counts = {
            "s above 0 at the first scan": first > 0,
            "highest scan 7 to 10 days after the first": days.between(7, 10),
            "highest scan 10 to 15 days after onset": onset.between(10, 15),
            "highest s within the noise band around 0": low_peak if banded else low_peak.iloc[:0],
            "last scan near discharge": late.dropna().astype(bool),
            "of these, s below 0 at the last scan": ended["last"] < 0,
            "of these, last scan like COVID-": ended["last"].between(low, high),
            LATE_IN_BAND: silent if banded else silent.iloc[:0],
            "of these, fall from the peak beyond noise": fallen if banded else fallen.iloc[:0],
        }
        rows = [
            (name, f"{values.sum()} of {len(values)}", wilson(int(values.sum()), len(values)).of_unit("%"))
            for name, values in counts.items()
        ]
        return pd.DataFrame(rows, columns=["what", "patients", "share"])

    def peaks(self) -> dict[str, Estimate]:
        """Return the median over patients of the day of the highest scan, counted in three ways."""
        table = courses.peak_table(self.course)
        columns = {
            "days after the first scan": "peak_day",
            "days after onset": "peak_days_since_onset",
            "days before discharge": "peak_to_discharge",
        }
        medians = {name: float(table[column].median()) for name, column in columns.items()}
        return {name: Estimate(value, method="median of patients", unit="days") for name, value in medians.items()}

    def peak_days(self) -> pd.DataFrame:
        """Return how many patients have their highest scan in each span of days since the first scan."""
        days = courses.peak_table(self.course)["peak_day"].dropna()
        counts = pd.cut(days, [-np.inf, *SPANS.values()], labels=list(SPANS)).value_counts().reindex(list(SPANS))
        share = counts.to_numpy() / max(len(days), 1)
        return pd.DataFrame({"days": list(SPANS), "patients": counts.to_numpy(int), "share": share})

    def plot_peak_days(self) -> Figure:
        """Return the distribution of each patient's highest scan over the days."""
        return draw.peaks(self.peak_days())

    # --- Figure 4

    def case_study(self) -> pd.DataFrame:
        """Return the patient of Figure 4, one row a scan: the paper's day, s, its place among COVID- scans, and the lung.

        True burden and opacity are shares of the lung. percentile: among the COVID- first scans of the same fold. moved beyond
        noise: since the scan before, by more than the noise band; never where there is no band. H: `_peaks`.
        """
        others = self.negatives()
        negative = others.loc[others["fold"].isin(self.case["fold"]), "logit"]
        table = pd.DataFrame(
            {
                "scan": self.case["scan_id"],
                "day": (self.case["day"] + 1).floordiv(1).astype("Int64"),
                "s": self.case["logit"],
                "probability": self.case["probability"],
                "percentile": [courses.percentile_in(negative, score) for score in self.case["logit"]],
                "moved beyond noise": (self.case["logit"].diff().abs() > self.band.half_width).tolist(),
                "H": self._peaks,
            }
        )
        return pd.concat([table, severity.shares_in_words(self.case)], axis=1).set_index("scan")

    def case_facts(self) -> dict[str, Any]:
        """Return the case study in numbers; days count as the paper's do, and H is that of `_peaks`."""
        if self.case.empty:
            return dict.fromkeys(CASE_FACTS, Estimate.missing(NOBODY))
        table, maps = self.case_study(), self._maps
        last, (*earlier, size) = table.iloc[-1], self._peaks
        leaves = float(last["day"] + self.case["days_to_discharge"].iloc[-1])
        none = Estimate.missing("there is no earlier scan")
        values = (
            len(table),
            Estimate(float(table["day"].iloc[int(table["s"].argmax())]), unit="day"),
            Estimate(leaves, method="discharge is not known", unit="day"),
            Estimate(float(last["day"]), unit="day"),
            Estimate(float(last["probability"])).of_unit("%"),
            float(last["percentile"]),
            size,
            size * max(float(last["s"]), 0.0),
            min(earlier, default=none),
            max(earlier, default=none),
            any(bool(heat.min() < 0 < heat.max()) for heat in maps),
        )
        return dict(zip(CASE_FACTS, values, strict=True))

    def case_evidence(self) -> pd.DataFrame:
        """Return, by scan of the case, the evidence for and against COVID-19 in pieces of its lung, beside its true burden.

        In logits: what s loses, or gains, without the opaque pieces of the lung, one at a time and all at once, and without
        the true lesions. ratio: lesions' share of the evidence of the pieces over their share of the lung.
        """
        columns = {"scan_id": "scan", "logit": "s", "positive_mass": "evidence for", "negative_mass": "against"}
        columns |= {"together": "all at once", "without_lesions": "true lesions", "ratio": "ratio"}
        table = self.case[[*columns]].rename(columns=columns)
        table.insert(1, "day", (self.case["day"] + 1).floordiv(1).astype("Int64"))
        burden = severity.shares_in_words(self.case)["true burden"]
        return table.assign(**{"true burden": burden}).set_index("scan")

    def case_follows(self) -> dict[str, Estimate]:
        """Return Spearman's correlation with the true burden, over the scans of the case, of s, of opacity and of evidence."""
        burden = self.case["burden_fraction"]
        if burden.isna().any() or burden.empty:
            return dict.fromkeys(FOLLOWS, Estimate.missing(NO_TRUTH))
        return {name: spearman(self.case[column], burden).estimate for name, column in FOLLOWS.items()}

    @cached_property
    def pictures(self) -> list[Picture]:
        """The scans of the case as they are shown."""
        return [picture(self.run, scan["scan_id"], scan) for scan in self.case.to_dict("records")]

    def plot_case(self) -> Figure:
        """Return Figure 4: each scan of the case, its map, the map times max(s, 0), its evidence by pieces, and the course."""
        heats = [shown.lay(heat) for shown, heat in zip(self.pictures, self._maps, strict=True)]
        pieces = [evidence.read_maps(self.run, scan)["pieces"] for scan in self.case["scan_id"]]
        maps = {
            "map H": heats,
            "H ·\nmax(s, 0)": [heat * max(s, 0.0) for heat, s in zip(heats, self.case["logit"], strict=True)],
            "evidence": [shown.lay(found) for shown, found in zip(self.pictures, pieces, strict=True)],
        }
        course = self.case.assign(day=self.case["day"] + 1)
        return draw.figure_4(
            self.pictures, maps, course, self.band.half_width, nominal_window(self.run.profile.windows)
        )

    def case_words(self) -> str:
        """Return who is shown in Figure 4 and how the map was made, for its caption."""
        scans, age = len(self.case), self.case["age"].max()
        exact = (age, scans) == (explanation.CASE_AGE, explanation.CASE_SCANS)
        wanted = f"{explanation.CASE_AGE} years, {explanation.CASE_SCANS} scans"
        who = wanted if exact else f"nobody here has {wanted}: one with {scans} scans is shown" if scans else NOBODY
        settings, grid = self.run.profile.explain, self.run.profile.model.grid
        extractor: Any = build(THREE_D, self.run.profile).extractor
        cell = explanation.cell_size_mm(extractor, settings.layer, grid, self._spacing())
        cells = " x ".join(f"{side:.0f}" for side in cell)
        beneath = f". {made_on(self.run, self.pictures[0])}" if self.pictures else ""
        return f"{who}; {settings.method} at {settings.layer}, cells of {cells} mm{beneath}"

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        return [explanation.read_map(self.run, scan) for scan in self.case["scan_id"]]

    @cached_property
    def _peaks(self) -> list[float]:
        """The largest absolute value of each scan's map, logit a voxel."""
        return [float(np.abs(heat).max()) for heat in self._maps]

    def _spacing(self) -> tuple[float, float, float]:
        """Return the voxel size of the grid of the case's first scan, mm (z, y, x)."""
        if self.case.empty:
            return 1.0, 1.0, 1.0
        first: dict[str, Any] = {str(name): value for name, value in self.case.iloc[0].items()}
        return grid_spacing(first, self.run.profile.model.grid)


FOLLOWS = {
    "s and true burden": "logit",
    "lung above -700 HU and true burden": "above_700",
    "lung above -500 HU and true burden": "above_500",
    "evidence and true burden": "positive_mass",
    "evidence of all at once and true burden": "together",
    "evidence of the true lesions and true burden": "without_lesions",
}
CASE_FACTS = (
    "scans",
    "day of the highest s",
    "day of discharge",
    "day of the last scan",
    "probability at the last scan, %",
    "percentile at the last scan",
    "H at the last scan",
    "H x max(s, 0) at the last scan",
    "lowest H of an earlier scan",
    "highest H of an earlier scan",
    "maps have both signs",
)


def load(run: Run, late_days: float = 3) -> Trajectories:
    """Return the chapter's results, computing what is missing; a last scan is late within `late_days` of discharge."""
    steps.ensure_needs(run, "06_trajectories")
    require_certificate(run)
    scores, manifest = results.trajectory_scores(run), accepted(run)
    external = scored.usable(results.external_scores(run))
    course, controls = (severity.beside(run, course_of(scores, manifest, controls=which)) for which in (False, True))
    chosen = manifest[manifest["patient_id"] == explanation.case_patient(manifest)]
    case = course[course["scan_id"].isin(chosen["scan_id"])].merge(read_intake(run)[["scan_id", *SIZE]], on="scan_id")
    found = evidence.read_summary(run)
    pieces = found.loc[
        found["method"] == evidence.PIECES, ["scan_id", "positive_mass", "negative_mass", "together", "ratio"]
    ]
    causal = evidence.read_causal(run)
    causal["without_lesions"] = causal["whole"] - causal["removed"]
    case = case.merge(pieces, on="scan_id", how="left").merge(causal[["scan_id", "without_lesions"]], how="left")
    return Trajectories(
        run=run,
        late_days=late_days,
        scores=scores,
        course=course,
        controls=controls,
        external=external[external["model"] == EVERY_FOLD],
        own=frozenset(results.held_out_by(run)),
        split_scans=frozenset(read_splits(run)["scan_id"]),
        case=case,
    )


def fits(curves: Mapping[str, courses.Curve]) -> pd.DataFrame:
    """Return what population curves rest on, a row a curve: patients, scans, and the SD of s between and within patients."""
    rows = [(name, one.patients, one.scans, one.between, one.within) for name, one in curves.items()]
    columns = ["days", "patients", "scans", "SD between patients", "SD within a patient"]
    return pd.DataFrame(rows, columns=columns).set_index("days")


def course_of(scores: pd.DataFrame, manifest: pd.DataFrame, *, controls: bool = False) -> pd.DataFrame:
    """Return every scan of the patients with follow-up, with the days of the manifest, ordered by patient and day.

    A censored stay has no days_to_discharge (the manifest gives the last contact there). controls: the COVID- patients with
    simulated later scans instead.
    """
    columns = ["scan_id", "days_since_onset", "days_to_discharge", "outcome", "censored", "age", "sex"]
    table, later = scores.merge(manifest[columns], on="scan_id"), "control" if controls else "followup"
    followed = table.loc[table["kind"] == later, "patient_id"]
    chosen = table[table["patient_id"].isin(followed) & table["kind"].isin(["first", later])]
    numbers = ["day", "days_since_onset", "days_to_discharge", "age"]
    chosen = chosen.assign(**{name: pd.to_numeric(chosen[name]).astype(float) for name in numbers})
    censored = pd.to_numeric(chosen["censored"]).eq(1).fillna(False)
    chosen["days_to_discharge"] = chosen["days_to_discharge"].mask(censored)
    return chosen.sort_values(["patient_id", "scan_index", "day"], ignore_index=True)
