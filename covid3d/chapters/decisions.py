"""Chapter 4, what the scores would decide: thresholds, calibration, net benefit, subgroups and what a window changes.

Whatever is fitted here, a threshold or a recalibration, is fitted on the pooled out-of-fold scores of A and only used
elsewhere; at A each fold is judged by what the other folds say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters.results import ENSEMBLE, THREE_D, hospitals
from covid3d.cohort.intake import accepted, read_intake
from covid3d.figures import external_tests as draw
from covid3d.run.profile import Run
from covid3d.stats import calibration
from covid3d.stats.auc import auc, youden_threshold
from covid3d.stats.calibration import Recalibration, recalibration
from covid3d.stats.estimate import Estimate
from covid3d.stats.independent import FEWEST
from covid3d.stats.proportions import wilson

POOLED, OF_ENSEMBLE = "pooled scores of A", "pooled scores of A, ensemble"
ONE_FOLD, HALF = "the deployed fold alone", "probability 0.5"
RULES = (POOLED, OF_ENSEMBLE, ONE_FOLD, HALF)
RAW, REFITTED = "as scored", "recalibrated on A"
CURVE = np.linspace(0.05, 0.95, 91)
TREATED_FROM = (0.25, 0.5, 0.75)
PREVALENCES = (0.02, 0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Decisions:
    """What is fixed on A and then used at B and C; every question is asked of these tables.

    inside: scan_id, fold, label, logit of A, out-of-fold. outside: scan_id, hospital, label, and the logit of covid3d (the
    deployed fold) and of the ensemble. windows: hospital, scan_id, window, logit of the deployed fold at B and C, the nominal
    window among them. patients: age, sex and scanner by scan_id. deployed: the number of the deployed fold.
    """

    inside: pd.DataFrame
    outside: pd.DataFrame
    windows: pd.DataFrame
    patients: pd.DataFrame
    deployed: int

    @cached_property
    def hospitals(self) -> list[str]:
        """The paper's B and C, and whatever else the run has outside A."""
        return hospitals(self.outside)

    @cached_property
    def threshold(self) -> float:
        """Youden's threshold (logit) of the pooled out-of-fold scores of A; NaN where these are of one class."""
        return youden_threshold(self.inside["label"], self.inside["logit"])

    @cached_property
    def refit(self) -> Recalibration:
        """The logistic recalibration that is fitted on the pooled out-of-fold scores of A."""
        return recalibration(self.inside["label"], self.inside["logit"])

    def thresholds(self) -> pd.DataFrame:
        """Return each rule's threshold (logit), the patients of A that it was chosen on, and that of single folds."""
        own = self.inside[self.inside["fold"] == self.deployed]
        alone = self.inside.groupby("fold")[["label", "logit"]].apply(
            lambda part: youden_threshold(part["label"], part["logit"])
        )
        rows = [
            (POOLED, _number(self.threshold), len(self.inside)),
            (ONE_FOLD, _number(alone.get(self.deployed, np.nan)), len(own)),
            ("lowest of a single fold", _number(alone.min()), int(len(self.inside) / max(len(alone), 1))),
            ("highest of a single fold", _number(alone.max()), int(len(self.inside) / max(len(alone), 1))),
            (HALF, Estimate(0.0), 0),
        ]
        return pd.DataFrame(rows, columns=["rule", "threshold, logit", "patients"]).set_index("rule")

    def offsets(self) -> dict[str, Any]:
        """Return how far apart the folds' scores lie, in logits: SD of the folds' level, and what patients alone would give.

        A fold's level is the mean of its two class means; beside it the SD of scores within a class and fold.
        """
        classes = self.inside.groupby(["fold", "label"])["logit"].agg(["mean", "var", "size"])
        level = classes["mean"].groupby("fold").mean()
        chance = np.sqrt((classes["var"] / classes["size"]).groupby("fold").sum().mean() / 4)
        within = np.sqrt(classes["var"].mean())
        found = {"SD between folds": level.std(), "patients alone": chance, "SD within a class of a fold": within}
        return {name: _number(value) for name, value in found.items()}

    def calls(self) -> pd.DataFrame:
        """Return the calls (1 or 0) of every rule: rule, hospital, label, call; at A by the threshold of the other folds."""
        rules = {
            POOLED: (self.outside[THREE_D], self.threshold),
            OF_ENSEMBLE: (self.outside[ENSEMBLE], self.threshold),
            ONE_FOLD: (self.outside[THREE_D], self._own_threshold()),
            HALF: (self.outside[THREE_D], 0.0),
        }
        parts = [self._called(rule, self.outside, logits, cut) for rule, (logits, cut) in rules.items()]
        inside = self.inside.assign(hospital="A")
        others = self._by_other_folds(lambda fit: youden_threshold(fit["label"], fit["logit"]))
        parts += [self._called(POOLED, inside, inside["logit"], others)]
        parts += [self._called(HALF, inside, inside["logit"], 0.0)]
        return pd.concat(parts, ignore_index=True)

    @staticmethod
    def _called(rule: str, table: pd.DataFrame, logits: pd.Series, cut: Any) -> pd.DataFrame:
        called = table.assign(rule=rule, call=(logits >= cut).astype(int))[["rule", "hospital", "label", "call"]]
        return called[np.isfinite(np.broadcast_to(cut, len(table)))]

    def _own_threshold(self) -> float:
        own = self.inside[self.inside["fold"] == self.deployed]
        return youden_threshold(own["label"], own["logit"])

    def _by_other_folds(self, fit: Callable[[pd.DataFrame], float]) -> np.ndarray:
        """Return for each row of `inside` what `fit` makes of the rows of all other folds."""
        folds = self.inside["fold"]
        found = {fold: fit(self.inside[folds != fold]) for fold in folds.unique()}
        return folds.map(found).to_numpy(float)

    def transfer(self) -> pd.DataFrame:
        """Return sensitivity and specificity (Wilson) with their k of n, by rule and hospital."""
        calls, rows = self.calls(), []
        for rule in RULES:
            for hospital in ["A", *self.hospitals] if rule in (POOLED, HALF) else self.hospitals:
                part = calls[(calls["rule"] == rule) & (calls["hospital"] == hospital)]
                row: dict[str, Any] = {"rule": rule, "hospital": hospital}
                for name, label in (("sensitivity", 1), ("specificity", 0)):
                    k, n = _right(part, label)
                    found = wilson(k, n)
                    row |= {name: found.noted("nominal") if hospital == "A" else found, f"{name}, cases": f"{k} of {n}"}
                rows.append(row)
        return pd.DataFrame(rows).set_index(["rule", "hospital"])

    def predictive_values(self) -> pd.DataFrame:
        """Return PPV and NPV of the pooled threshold over the prevalence, by hospital."""
        chosen = self.calls().query("rule == @POOLED and hospital != 'A'")
        parts = [pd.DataFrame({"hospital": [], "prevalence": []})]
        for hospital, part in chosen.groupby("hospital"):
            table = calibration.predictive_values(_right(part, 1), _right(part, 0), PREVALENCES)
            parts.append(table.assign(hospital=hospital))
        return pd.concat(parts[1:] or parts).set_index(["hospital", "prevalence"])

    def probabilities(self) -> pd.DataFrame:
        """Return the scores as they are and recalibrated on A (at A on the other folds): hospital, label, both as logits."""
        inside, outside = self.inside.assign(hospital="A"), self.outside.assign(logit=self.outside[THREE_D])
        table = pd.concat([inside, outside], ignore_index=True)
        pair = [
            self._by_other_folds(lambda fit: recalibration(fit["label"], fit["logit"]).intercept.value),
            self._by_other_folds(lambda fit: recalibration(fit["label"], fit["logit"]).slope.value),
        ]
        again = [pair[0] + pair[1] * inside["logit"], self.refit(outside["logit"])]
        columns = {"hospital": table["hospital"], "label": table["label"], RAW: table["logit"]}
        return pd.DataFrame({**columns, REFITTED: np.concatenate(again)})

    def calibration(self) -> pd.DataFrame:
        """Return intercept, slope and Brier score by hospital, as scored and recalibrated, beside always saying the share."""
        table, rows = self.probabilities(), []
        for hospital in ("A", *self.hospitals):
            part = table[table["hospital"] == hospital]
            share = part["label"].mean()
            for name in (RAW, REFITTED):
                known = part[name].notna().all()
                found = [
                    make(part["label"], part[name]) if known else Estimate.missing("no recalibration on A")
                    for make in (calibration.calibration_intercept, _slope, calibration.brier)
                ]
                found = [
                    one.noted("nominal") if hospital == "A" else one for one in found
                ]  # folds share their patients
                rows.append((hospital, name, len(part), *found, share * (1 - share)))
        columns = ["hospital", "scores", "patients", "intercept", "slope", "Brier", "Brier of the share"]
        return pd.DataFrame(rows, columns=columns).set_index(["hospital", "scores"])

    def plot_calibration(self) -> Figure:
        """Return the calibration curves, one panel a hospital."""
        table = self.probabilities()
        curves = {
            str(hospital): {name: calibration.curve(part["label"], part[name]) for name in (RAW, REFITTED)}
            for hospital, part in table.groupby("hospital")
        }
        return draw.calibration(curves)

    def net_benefit(self) -> pd.DataFrame:
        """Return what deciding by the recalibrated score gains over treating all, and none, by hospital and threshold."""
        rows = {}
        for hospital, part in self._outside_probabilities().groupby("hospital"):
            for threshold in TREATED_FROM:
                rows[hospital, threshold] = calibration.gain_over_defaults(part["label"], part[REFITTED], threshold)
        index = pd.MultiIndex.from_tuples(rows, names=["hospital", "threshold"]) if rows else None
        return pd.DataFrame(list(rows.values()), index=index)

    def plot_decision_curve(self) -> Figure:
        """Return the net benefit over the threshold at B and C: the score, recalibrated on A, treat all, treat none."""
        found = self._outside_probabilities().groupby("hospital")
        return draw.decision_curves(
            {str(hospital): calibration.net_benefit(part["label"], part[REFITTED], CURVE) for hospital, part in found}
        )

    def _outside_probabilities(self) -> pd.DataFrame:
        return self.probabilities().query("hospital != 'A'").dropna(subset=REFITTED)

    def subgroups(self) -> pd.DataFrame:
        """Return the AUC of patients by age (below or from A's median on), sex and scanner at each hospital.

        "too few" where a class has fewer than ten patients. A: pooled out-of-fold scores, nominal.
        """
        table, rows = self.grouped(), []
        for by in ("age", "sex", "scanner"):
            for (hospital, group), part in table.groupby(["hospital", by]):
                sizes = [int((part["label"] == label).sum()) for label in (1, 0)]
                found = Estimate.missing("too few") if min(sizes) < FEWEST else auc(part["label"], part["logit"])
                rows.append((hospital, by, group, *sizes, found.noted("nominal") if hospital == "A" else found))
        index = ["hospital", "by", "group"]
        return pd.DataFrame(rows, columns=[*index, "COVID+", "COVID-", "AUC"]).set_index(index)

    def grouped(self) -> pd.DataFrame:
        """Return every patient's hospital, label and logit with sex, scanner and the side of A's median age."""
        inside, outside = self.inside.assign(hospital="A"), self.outside.assign(logit=self.outside[THREE_D])
        table = pd.concat([inside, outside], ignore_index=True).merge(self.patients, on="scan_id", how="left")
        middle = table.loc[table["hospital"] == "A", "age"].dropna().median()
        older = np.where(table["age"] >= middle, f"from {middle:.0f} on", f"below {middle:.0f}")
        return table.assign(age=np.where(table["age"].notna() & np.isfinite(middle), older, "unknown"))

    def flips(self) -> pd.DataFrame:
        """Return how often another window turns a patient's call, by hospital: of the pooled threshold, against the nominal.

        Columns windows, patients, ever turned (share of patients, Wilson), turned (mean share of a patient's windows), most
        (that of the patient with the most).
        """
        table = self.windows.assign(call=self.windows["logit"] >= self.threshold)
        wide = table.pivot(index=["hospital", "scan_id"], columns="window", values="call")
        other = wide.drop(columns="nominal", errors="ignore")
        if "nominal" not in wide or other.empty or not np.isfinite(self.threshold):
            other = other.iloc[:0]
        rate = other.ne(wide["nominal"], axis=0).mean(axis=1) if len(other) else pd.Series(dtype=float)
        rows = {}
        for hospital in self.hospitals:
            part = rate[[key[0] == hospital for key in rate.index]]
            rows[hospital] = {
                "windows": other.shape[1],
                "patients": len(part),
                "ever turned": wilson(int((part > 0).sum()), len(part)),
                "turned": float(part.mean()),
                "most": float(part.max()),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("hospital")


def _right(part: pd.DataFrame, label: int) -> tuple[int, int]:
    """Return how many patients of a class are called rightly, and how many there are."""
    cases = part[part["label"] == label]
    return int((cases["call"] == label).sum()), len(cases)


def _slope(labels: pd.Series, logits: pd.Series) -> Estimate:
    return recalibration(labels, logits).slope


def _number(value: float) -> Estimate:
    """Return a number, or that it needs both classes."""
    return Estimate(float(value)) if np.isfinite(value) else Estimate.missing(calibration.ONE_CLASS)


def of(run: Run, inside: pd.DataFrame, outside: pd.DataFrame, windows: pd.DataFrame, deployed: int) -> Decisions:
    """Return the decisions of a run from the scores of chapter 4 and what is known of its patients."""
    chosen = windows["window"].str.fullmatch(r"nominal|w\d+").astype(bool)
    chosen &= (windows["model"] == THREE_D) & (windows["split"] == "external")
    table = accepted(run)[["scan_id", "age", "sex"]].merge(read_intake(run)[["scan_id", "manufacturer"]], on="scan_id")
    table = table.rename(columns={"manufacturer": "scanner"})
    table = table.assign(age=pd.to_numeric(table["age"], errors="coerce"))
    for column in ("sex", "scanner"):
        table[column] = table[column].fillna("").astype(str).replace("", "unknown")
    table["sex"] = table["sex"].replace("U", "unknown")
    return Decisions(inside, outside, windows[chosen], table, deployed)
