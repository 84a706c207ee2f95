"""Chapter 4: the networks at hospitals that they have never seen.

Nothing here is fitted or chosen on B or C: the deployed fold comes from A. The tuned row of Table 1 is the one exception,
made after the evaluation as in the paper, and no other table reads it but the one that compares it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import nn

from covid3d.chapters import ceiling, evidence, explanation, results, scored
from covid3d.chapters.evidence import Evidence
from covid3d.chapters.explanation import Maps
from covid3d.chapters.external_scores import logits_of
from covid3d.chapters.measured import judged
from covid3d.chapters.pictured import made_on, picture
from covid3d.chapters.results import ENSEMBLE, EVERY_FOLD, TASK, THREE_D, TWO_D
from covid3d.chapters.robustness import TUNED, Windows
from covid3d.chapters.robustness import spread as window_spread
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.intake import grid_spacing, read_intake
from covid3d.cohort.public import selection as public
from covid3d.cohort.store import Store
from covid3d.ct.lungs import blanked
from covid3d.ct.windows import Window, nominal_window
from covid3d.figures import external_tests as draw
from covid3d.figures.in_space import HALF, in_space, of_peak
from covid3d.figures.picture import Picture, peak_of
from covid3d.network import training
from covid3d.run import campaigns, steps
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, external_internal_difference, paired_delong, pooled_delong
from covid3d.stats.estimate import Estimate, Tested, number, p_value
from covid3d.stats.proportions import wilson

PAIRS = {
    "3D minus 2D": (THREE_D, TWO_D),
    "tuned minus untuned": (TUNED, THREE_D),
    "ensemble minus deployed": (ENSEMBLE, THREE_D),
}
Site = tuple[pd.Series, pd.Series, pd.Series]
NO_FOLD = "no fold has both classes"
PRINTED = {
    TWO_D: {"B": "0.65 ± 0.01", "C": "0.69 ± 0.02"},
    THREE_D: {"B": "0.78 ± 0.01", "C": "0.84 ± 0.02"},
    TUNED: {"B": "0.81 ± 0.01", "C": "0.87 ± 0.02"},
}
"""The paper's Table 1. Its 2D model is a ResNet-50 that was pretrained on ImageNet."""


# --- the chapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExternalTests:
    """What the networks say of first scans of B and C, read once; every question of the chapter is asked of these tables.

    deployed: the number of the deployed fold. scores: one row a scan (scan_id, hospital, label, and a logit column a model;
    `first_scores`). predictions: one row a scan and model, each fold's among them. inside: one row a patient of A, by the
    fold that never saw the patient. facts: intake.csv by scan. windows: what the image window does. maps: what the deployed
    network looks at. evidence: what its logit loses without parts of the lung. left_out: the hospital of each scan that a
    model gave no score.
    """

    run: Run
    deployed: int
    scores: pd.DataFrame
    predictions: pd.DataFrame
    inside: pd.DataFrame
    facts: Mapping[str, Any]
    windows: Windows
    maps: Maps
    evidence: Evidence
    left_out: tuple[str, ...] = ()

    @cached_property
    def network(self) -> nn.Module:
        """The deployed fold's network."""
        return training.load_fold(self.run, TASK, THREE_D, self.deployed)

    @cached_property
    def hospitals(self) -> list[str]:
        """The paper's B and C, and whatever else the run has outside A."""
        return results.hospitals(self.scores)

    def of(self, hospital: str) -> pd.DataFrame:
        """Return the scores of one hospital."""
        return self.scores[self.scores["hospital"] == hospital]

    def judged(self) -> pd.DataFrame:
        """Return the patients of each class, scans without a score and ties of COVID3D, by hospital (`scored.counted`)."""
        return scored.counted(self.scores, THREE_D, self.left_out)

    def table_1(self) -> pd.DataFrame:
        """Return Table 1, five rows: what each model is, and for each hospital the printed and found AUC and SD over windows.

        The paper's three models, the ensemble, and the mean of all folds with the lowest and the highest of them.
        """
        rows: dict[str, dict[str, Any]] = {}
        for model, (name, words) in row_names(self.run).items():
            rows[name] = {"what it is": words}
            for hospital in self.hospitals:
                rows[name] |= {
                    f"printed at {hospital}": PRINTED.get(model, {}).get(hospital, "-"),
                    f"AUC at {hospital}": ceiling.auc_at(self.of(hospital), model, hospital),
                    f"SD over windows at {hospital}": window_spread(self.windows.sd, model, hospital),
                }
        rows["mean of the folds"] = {"what it is": "every fold's network alone"}
        folds = self.fold_models()[["mean", "lowest", "highest"]]
        for site, (mean, lowest, highest) in zip(folds.index, folds.to_numpy(float).tolist(), strict=True):
            spread = f"lowest {lowest:.3f}, highest {highest:.3f} of the folds"
            rows["mean of the folds"] |= {
                f"printed at {site}": "-",
                f"AUC at {site}": Estimate(mean, method=NO_FOLD, remark=spread),
                f"SD over windows at {site}": Estimate.missing("scored in one window"),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def skill(self) -> pd.DataFrame:
        """Return the AUC, that of the perfect reader of the same grids, and skill, at A (mean of the folds), B and C."""
        outside = {hospital: self.of(hospital).rename(columns={THREE_D: "logit"}) for hospital in self.hospitals}
        return ceiling.by_hospital(self.run, self.inside, outside)

    def coverage(self) -> pd.DataFrame:
        """Return how often each interval of an AUC holds the true one, at the paper's numbers of patients, as stored.

        Each share has the Wilson interval that the number of simulated samples leaves it.
        """
        stored, names = (
            campaigns.read("coverage"),
            {"positives": "COVID+", "negatives": "COVID-", "true_auc": "true AUC"},
        )
        if stored is None:
            return pd.DataFrame({"true AUC": []})
        stored = stored.assign(held=_shares(stored["held"], stored["replicates"]))
        wide = stored.rename(columns=names).pivot(index=list(names.values()), columns="method", values="held")
        return wide[sorted(wide, key=lambda name: name != "recommended")].rename_axis(columns=None)

    def levels(self) -> pd.DataFrame:
        """Return how often the book's tests reject at 5 % where there is nothing to find, by chapter, test and setting.

        Each share has the Wilson interval that the number of simulated samples leaves it; samples without an interval or p
        are counted apart ("no answer") in rows that were measured so.
        """
        stored = campaigns.read("levels")
        if stored is None:
            return pd.DataFrame({"test": []})
        columns = ["rejects", "replicates"]
        if "answered" in stored:
            stored["no answer"] = stored["replicates"] - stored["answered"]
            columns.append("no answer")
        answered = stored.get("answered", stored["replicates"]).fillna(stored["replicates"]).astype(int)
        shares = _shares(stored["rejected"], answered)
        stored = stored.assign(chapter=stored["chapter"].astype(str), rejects=shares)
        return stored.set_index(["chapter", "test", "setting"])[columns]

    def window_facts(self) -> dict[str, Any]:
        """Return how windows were drawn, and whether the evaluation is free of the tuned one."""
        return {**self.windows.drawn(), "tuned after the evaluation": set(self.predictions["window"]) == {"nominal"}}

    def roc_points(self) -> pd.DataFrame:
        """Return the corners of the ROC curves: model, hospital, false_positive, true_positive; none with one class only."""
        parts = []
        for model in (THREE_D, TWO_D, ENSEMBLE):
            for hospital, part in self.scores.groupby("hospital"):
                if part["label"].nunique() == 2:
                    false, true, _ = roc_curve(part["label"].astype(int), part[model], drop_intermediate=False)
                    corners = {"false_positive": false, "true_positive": true}
                    parts.append(pd.DataFrame({"model": model, "hospital": hospital, **corners}))
        empty = pd.DataFrame(columns=["model", "hospital", "false_positive", "true_positive"])
        return pd.concat(parts, ignore_index=True) if parts else empty

    def plot_roc(self) -> Figure:
        """Return the ROC curves, one panel a hospital."""
        points = self.roc_points()
        return draw.roc(points, sorted(points["hospital"].unique()))

    def comparisons(self) -> pd.DataFrame:
        """Return differences of AUC, indexed by comparison and hospital: difference, p, how.

        Models by paired DeLong (1988) at each hospital and as the inverse-variance mean of the hospitals; external minus
        internal as a difference of independent samples (mean of the fold AUCs at A).
        """
        rows = []
        for name, (a, b) in PAIRS.items():
            of_each = {hospital: self.of(hospital) for hospital in self.hospitals}
            sites: dict[str, Site] = {hospital: (part["label"], part[a], part[b]) for hospital, part in of_each.items()}
            found = {hospital: paired_delong(*columns) for hospital, columns in sites.items()}
            found["pooled"] = pooled_delong([site for site in sites.values() if len(site[0])])
            rows += [(name, hospital, *_tested(test)) for hospital, test in found.items()]
        for hospital in self.hospitals:
            drop = external_internal_difference(self.inside, self.of(hospital)["label"], self.of(hospital)[THREE_D])
            rows.append(("external minus internal", hospital, *_tested(drop)))
        table = pd.DataFrame(rows, columns=["comparison", "hospital", "difference", "p", "how"])
        return table.set_index(["comparison", "hospital"])

    def volume_bar(self, comparisons: pd.DataFrame) -> pd.DataFrame:
        """Return the protocol's bar for the third dimension: what it asks, what `comparisons` found, and whether it holds."""
        pooled: Any = comparisons.loc[("3D minus 2D", "pooled")]
        difference, p = pooled["difference"], pooled["p"]
        said = judged(difference if p.known else p, difference.value > 0 and p.value < 0.05)
        row = ("3D above 2D, hospitals pooled", "difference above 0, p below 0.05", difference, p, said)
        return pd.DataFrame([row], columns=["bar", "asks", "found", "p", "verdict"]).set_index("bar")

    def shuffled(self) -> dict[str, Any]:
        """Return the AUC that is lost when the slices of each scan are shuffled, at the first hospital with both classes."""
        both = [name for name in self.hospitals if self.of(name)["label"].nunique() == 2]
        if not both:
            return {"hospital": "none", "AUC lost": Estimate.missing("no hospital has both classes")}
        part = self.of(both[0])
        order = np.random.default_rng(self.run.seed).permutation(self.run.profile.model.grid[0])
        logits = logits_of(self.run, self.network, Store.of(self.run).stack(part["scan_id"])[:, order])
        lost = paired_delong(part["label"], part[THREE_D], pd.Series(logits, index=part.index))
        return {"hospital": both[0], "AUC lost": lost.estimate}

    def controls(self) -> pd.DataFrame:
        """Return the deployed fold's AUC with parts of the scan blanked, by what is left and hospital: 0.5 but for a giveaway."""
        store, rows = Store.of(self.run), []
        for part, left in (("lungs", "without the lungs"), ("body", "background alone")):
            for hospital, known in self.scores.groupby("hospital"):
                spaced = [(scan, self.spacing(scan)) for scan in known["scan_id"]]
                grids = np.stack([blanked(store.get(scan), spacing, part) for scan, spacing in spaced])
                logits = pd.Series(logits_of(self.run, self.network, grids), index=known.index)
                rows.append((left, hospital, len(known), auc(known["label"], logits)))
        return pd.DataFrame(rows, columns=["left", "hospital", "scans", "AUC"]).set_index(["left", "hospital"])

    def confounds(self) -> pd.DataFrame:
        """Return what is known to tell the class in public scans, by place and cause; no row for other scans."""
        table = public.confounds().rename(columns={"auc": "AUC of that alone"})
        return table[[self.run.cohort == "public"] * len(table)].set_index(["at", "what"])

    def by_fold(self) -> pd.DataFrame:
        """Return the AUC of every fold's network (rows) at each hospital (columns)."""
        every = self.predictions[self.predictions["model"] == EVERY_FOLD]
        found = every.groupby(["fold", "hospital"])[["label", "logit"]].apply(
            lambda part: float(auc(part["label"], part["logit"]))
        )
        return found.unstack().reindex(columns=self.hospitals)

    def fold_models(self) -> pd.DataFrame:
        """Return, by hospital, mean, lowest and highest AUC of the folds' networks, and that of the deployed one."""
        found = self.by_fold()
        summary = found.agg(["mean", "min", "max"]).T.rename(columns={"min": "lowest", "max": "highest"})
        summary["deployed"] = found.loc[self.deployed]
        return summary.assign(folds=found.notna().sum()).rename_axis("hospital")

    def plot_window_curve(self) -> Figure:
        """Return the AUC over the spread of the windows."""
        return draw.window_curve(self.windows.curve)

    def window_sd(self) -> pd.DataFrame:
        """Return what the window does to the AUC of each model at each hospital (`robustness.window_sd`)."""
        names = {model: name for model, (name, _) in row_names(self.run).items()}
        columns = {"sd": "SD", "n_windows": "windows", "uniform_sd": "SD, uniform", "n_uniform": "uniform windows"}
        return self.windows.sd.rename(index=names, level="model").rename(columns=columns)

    def cases(self, seed: int) -> pd.DataFrame:
        """Return the scans whose maps are shown (`Maps.drawn`): scan, hospital, class, logit, and the mm of a map's cell."""
        table = self.maps.drawn(seed)[["scan_id", "hospital", "label", "logit"]]
        table = table.assign(label=table["label"].map(explanation.CLASSES), cell=[*map(self._cell, table["scan_id"])])
        return table.rename(columns={"scan_id": "scan", "label": "class", "cell": "cell, mm"})

    def about(self, cases: pd.DataFrame) -> str:
        """Return what a caption says of drawn cases: whose they are, the size of each map's cells, and how maps are made."""
        each = [
            f"{scan} of hospital {hospital} ({label}, s = {logit:.2f}), cells of {cell} mm"
            for scan, hospital, label, logit, cell in cases.itertuples(index=False)
        ]
        settings = self.run.profile.explain
        return f"{'; '.join(each)}. {results.input_words(self.run)}; {settings.method} at {settings.layer}."

    def figure_1_facts(self, cases: pd.DataFrame) -> dict[str, Any]:
        """Return how many external COVID+ scans Figure 1 shows with a map of the whole grid, and how the map is made."""
        settings, positive = self.run.profile.explain, set(self.maps.positive()["scan_id"])
        grids = {scan: np.asarray(Store.of(self.run).get(scan)) for scan in self._figure_1(cases) if scan in positive}
        ways = {
            explanation.passes(self.network, grid, self._window, settings.layer, settings.method)
            for grid in grids.values()
        }
        whole = [explanation.read_map(self.run, scan).shape == grid.shape for scan, grid in grids.items()]
        return {
            "external COVID+ scans": sum(whole),
            "one forward and one backward pass": ways == {(1, 1)},
            "where the map's peak lies": self._peak(cases),
            **self._hottest(cases),
        }

    def _hottest(self, cases: pd.DataFrame) -> dict[str, Estimate]:
        """Return how much of Figure 1 lies above half of its map's peak, and how much of that in the lungs and in lesions."""
        names = ("above half of the map's peak", "of that in the lungs", "of that in true lesions")
        for scan in self._figure_1(cases):
            shown = self.picture(scan)
            hot = of_peak(self.heat(scan)) > HALF
            if not hot.any():
                break
            volume = Estimate(float(hot.sum() * np.prod(shown.spacing) / 1000), unit="ml")
            lung, ill = (Estimate(float(part[hot].mean())).of_unit("%") for part in (shown.lung, shown.ill))
            lesions = Estimate.missing(explanation.NO_TRUTH) if shown.lesions is None else ill
            return dict(zip(names, (volume, lung, lesions), strict=True))
        return dict.fromkeys(names, Estimate.missing("no map is above 0"))

    def _peak(self, cases: pd.DataFrame) -> str | Estimate:
        """Return where the peak of Figure 1's map lies: in a true lesion, or how many mm from the nearest."""
        for scan in self._figure_1(cases):
            shown, peak = self.picture(scan), peak_of(self.heat(scan))
            if shown.lesions is not None and shown.ill.any():
                way = np.linalg.norm((np.argwhere(shown.ill) - peak) * shown.spacing, axis=1).min()
                return f"{number(way)} mm from the nearest true lesion" if way > 0 else "in a true lesion"
        return Estimate.missing(explanation.NO_TRUTH)

    def figure_1_words(self, cases: pd.DataFrame) -> str:
        """Return where the planes of Figure 1 meet, what the scan and its map are there, and what is drawn beneath the map."""
        scans = self._figure_1(cases)
        if not scans:
            return "No COVID+ scan outside A."
        shown = self.picture(scans[0])
        return (
            f"{shown.says(self.heat(scans[0]))}. {made_on(self.run, shown)}." if shown.hu.size else "No lung was found."
        )

    def figure_1_ground(self, cases: pd.DataFrame) -> str:
        """Return on what grid the map of Figure 1 was made, and on what it lies."""
        return "".join(f"{made_on(self.run, self.picture(scan))}." for scan in self._figure_1(cases))

    def plot_figure_1(self, cases: pd.DataFrame) -> Figure:
        """Return the scan of Figure 1 in three planes, without and with its signed map."""
        scans = self._figure_1(cases)
        if not scans:
            return draw.empty("no COVID+ scan outside A")
        return draw.figure_1(self.picture(scans[0]), self.heat(scans[0]), self._window)

    def plot_figure_1_in_space(self, cases: pd.DataFrame) -> Figure:
        """Return the scan of Figure 1 from three sides, with its true lesions and the hottest part of its map."""
        scans = self._figure_1(cases)
        if not scans:
            return draw.empty("no COVID+ scan outside A")
        return in_space(self.picture(scans[0]), self.heat(scans[0]))

    def plot_evidence(self, cases: pd.DataFrame) -> Figure:
        """Return the scan of Figure 1 in one plane, with its activation map and its evidence by pieces and by boxes."""
        scans = self._figure_1(cases)
        if not scans:
            return draw.empty("no COVID+ scan outside A")
        shown, found = self.picture(scans[0]), evidence.read_maps(self.run, scans[0])
        maps = {evidence.MAP: self.heat(scans[0])}
        maps |= {f"by {way}": shown.lay(found[way]) for way in ("pieces", "boxes") if way in found}
        return draw.side_by_side(shown, maps, self._window)

    def plot_cases(self, cases: pd.DataFrame) -> Figure:
        """Return drawn cases in one axial plane each, every scan with its own voxels, one colour scale for all maps."""
        shown = [(f"{name}: {scan}", self.picture(scan), self.heat(scan)) for name, scan in cases["scan"].items()]
        return draw.examples(shown, self._window)

    def spacing(self, scan_id: str) -> tuple[float, float, float]:
        """Return the voxels of a scan's grid, mm (z, y, x)."""
        return grid_spacing(self.facts[scan_id], self.run.profile.model.grid)

    def picture(self, scan_id: str) -> Picture:
        """Return a scan as pictures show it."""
        return picture(self.run, scan_id, self.facts[scan_id])

    def heat(self, scan_id: str) -> np.ndarray:
        """Return a scan's signed map on the voxels of its picture."""
        return self.picture(scan_id).lay(explanation.read_map(self.run, scan_id))

    @property
    def _window(self) -> Window:
        return nominal_window(self.run.profile.windows)

    def _figure_1(self, cases: pd.DataFrame) -> list[str]:
        return cases.loc[cases.index == "Figure 1", "scan"].tolist()

    def _cell(self, scan_id: str) -> str:
        """Return the size of a map's cells in one scan, mm (z x y x x)."""
        extractor, settings = self.network.extractor, self.run.profile
        cell = explanation.cell_size_mm(extractor, settings.explain.layer, settings.model.grid, self.spacing(scan_id))  # type: ignore[arg-type]
        return " x ".join(f"{side:.0f}" for side in cell)


def _shares(counts: pd.Series, of: pd.Series) -> pd.Series:
    """Return shares of simulated samples with Wilson's interval, one Estimate a row."""
    return pd.Series([wilson(*pair) for pair in zip(counts, of, strict=True)], index=counts.index, dtype=object)


def _tested(found: Tested) -> tuple[Estimate, Estimate, str]:
    """Return an estimate, its p or why there is none, and how both were made."""
    estimate = found.estimate
    p = p_value(found.p) if np.isfinite(found.p) else Estimate.missing(estimate.method)
    return estimate, p, estimate.method


def load(run: Run) -> ExternalTests:
    """Return the chapter's results, computing what is missing.

    Raises MissingResult, with the command to run, where `run.compute` is False and something is missing; ManifestError
    where the leakage certificate has not passed.
    """
    steps.ensure_needs(run, "04_external_tests")
    require_certificate(run)
    every, windows = results.external_scores(run), Windows.of(run)
    predictions = scored.usable(every)
    left_out = every[~every["scan_id"].isin(predictions["scan_id"])].drop_duplicates("scan_id")["hospital"]
    scores = first_scores(predictions, windows.scores)
    facts = {row["scan_id"]: row for row in read_intake(run).to_dict("records")}
    deployed, inside = results.deployed_fold(run), scored.usable(results.out_of_fold(run))
    maps = Maps.of(run)
    found = Evidence.of(run, maps)
    return ExternalTests(run, deployed, scores, predictions, inside, facts, windows, maps, found, tuple(left_out))


def first_scores(predictions: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a first scan of B and C: label, hospital, and one logit column a model (covid3d, …, tuned).

    predictions: of external/predictions.csv; windows: of windows/predictions.csv.
    """
    chosen = predictions[predictions["model"] != EVERY_FOLD]
    table = chosen.drop_duplicates("scan_id")[["scan_id", "hospital", "label"]]
    for model, part in chosen.groupby("model", sort=False):
        table = table.merge(part[["scan_id", "logit"]].rename(columns={"logit": str(model)}), on="scan_id")
    tuned = windows[(windows["model"] == THREE_D) & (windows["window"] == TUNED) & (windows["split"] == "external")]
    return table.merge(tuned[["scan_id", "logit"]].rename(columns={"logit": TUNED}), on="scan_id", how="left")


def row_names(run: Run) -> Mapping[str, tuple[str, str]]:
    """Return the names of Table 1's rows, each with what it is: with backbone, start and size that were used."""
    settings, model = run.profile.slices, run.profile.model
    seen = f"{settings.slices_per_scan} slices of {settings.size} px"
    return {
        TWO_D: (
            draw.NAMES[TWO_D],
            f"{settings.network} {settings.start}, {seen} (printed: ResNet-50, ImageNet)",
        ),
        THREE_D: (draw.NAMES[THREE_D], f"I3D Inception of width {model.width:g}, the fold that is deployed"),
        TUNED: (draw.NAMES[TUNED], "the same in a window tuned after the evaluation"),
        ENSEMBLE: (draw.NAMES[ENSEMBLE], f"mean logit of {run.profile.training.folds} folds"),
    }
