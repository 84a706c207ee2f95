"""Chapter 7: does one scan, or two, tell who leaves hospital within a week?

High risk = remaining stay >= 7 days, counted from the index scan, for one scan and for two. Groups come from out-of-fold
probabilities at 0.5; the patient is the unit. Tables in, tables out: the networks are fine-tuned in
`covid3d.chapters.fine_tuning`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import opacity, predictors, results
from covid3d.chapters.fine_tuning import VARIANTS, all_pairs, read_features
from covid3d.chapters.predictors import NAMES, Inputs, with_groups
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.reader_study import read_reader_study
from covid3d.figures import prognosis as draw
from covid3d.run import steps
from covid3d.run.files import random_seed
from covid3d.run.profile import Run
from covid3d.stats import courses, risk, stays, survival
from covid3d.stats.estimate import NAN, Estimate
from covid3d.stats.proportions import wilson

PAPER = ("pair", "single", *predictors.CONTROLS)
FAMILIES = {
    "COVID3D": ("pair", "single"),
    "opacity": ("opacity_pair", "opacity_single"),
    "Cox": ("cox_pair", "cox_single"),
}
TASKS = {"stay_pair": "pair", "stay_single": "single"}
MEASURES = {"c_index": "C-index", "auc": "AUC"}
LONG_STAY = 9.0
Floats = np.ndarray


@dataclass(frozen=True)
class Prognosis:
    """What fine-tuning left and what happened to the patients, read once; every question is asked of these tables.

    pairs: one row a follow-up scan with the scan before it, `fine_tuning.pairs_of`, and the opacity of both.
    predictors: the test set with out-of-fold logit, probability and group (high) by each predictor of `predictors.NAMES`.
    features: each fold's Task-1 features of the pairs by pair and single, before any of them saw an outcome.
    scores: one row a fine-tuned network (model, fold) and scan: split (validation, followup, external), logit, probability.
    history: one row a fine-tuned network and epoch. s: the Task-1 scores of chapter 6. calls: reader_study.csv.
    """

    run: Run
    pairs: pd.DataFrame
    predictors: Mapping[str, pd.DataFrame]
    features: Mapping[str, Sequence[pd.DataFrame]]
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    s: pd.DataFrame = field(default_factory=pd.DataFrame)
    calls: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def index(self) -> pd.DataFrame:
        """One row a follow-up patient: the pair that ends with the index scan."""
        return self.pairs[self.pairs["scan_index"] == 1].reset_index(drop=True)

    @property
    def test(self) -> pd.DataFrame:
        """The patients of A whose stay is known: the test set, each held out by one fold."""
        return self.index.query("test == 1")

    # --- who, and what is predicted ----------------------------------------------------------------------------------

    def fine_tuned(self) -> dict[str, Any]:
        """Return what was fine-tuned: the input variants, their folds, and whether every one of them was trained."""
        trained = self.history.groupby("model")["fold"].nunique() if len(self.history) else pd.Series(dtype=int)
        folds = len(results.folds(self.run))
        held = self.scores[self.scores["split"] == "validation"].groupby("model")["scan_id"].agg(frozenset)
        return {
            "input variants": int(self.scores["model"].nunique()),
            "on the same patients": bool(held.nunique() == 1),
            "folds": folds,
            "all were trained": bool((trained.reindex(VARIANTS, fill_value=0) == folds).all()),
        }

    def groups(self) -> pd.DataFrame:
        """Return who is in the test set under both readings of "7 days", one row a rule."""
        return stays.by_rule(self.test, self.run.profile.prognosis.high_risk_days)

    def stays(self) -> dict[str, Any]:
        """Return the remaining stay over all follow-up scans and over index scans, and whether its label is as defined."""
        return stays.as_defined(self.pairs, self.run.profile.prognosis.high_risk_days)

    def patients(self) -> dict[str, Any]:
        """Return who was followed: the test set, censored and ventilated patients, and how much longer the worst stayed."""
        return stays.who(self.index, self.test)

    # --- the groups --------------------------------------------------------------------------------------------------

    def separation(self) -> pd.DataFrame:
        """Return `risk.separation` of the out-of-fold groups and scores of the networks and of the controls, one row each."""
        return self._separation.loc[[NAMES[name] for name in PAPER if name in self.predictors]]

    @cached_property
    def _separation(self) -> pd.DataFrame:
        rows = [
            {"predictor": NAMES[name], **risk.separation(table, self._draws, self._rng(name, "bootstrap"))}
            for name, table in self.predictors.items()
        ]
        return pd.DataFrame(rows).set_index("predictor")

    def competing(self) -> pd.DataFrame:
        """Return `risk.competing` of each predictor's groups: do they differ in how many leave alive, deaths competing?"""
        rows = [{"predictor": NAMES[name], **risk.competing(table)} for name, table in self.predictors.items()]
        return pd.DataFrame(rows).set_index("predictor")

    def permutation(self, name: str) -> survival.Permutation:
        """Return the permutation test of the out-of-fold log-rank of a predictor that is refitted for every permutation."""
        table = self._with_outcome()
        days, event = (table[column].to_numpy(float) for column in ("remaining_days", "event"))
        return survival.permuted_log_rank(self._refitted[name], self._orders, days, event)

    @cached_property
    def _orders(self) -> np.ndarray:
        """The observed order of the patients with a known outcome, and permutations of it."""
        count = self.run.profile.prognosis.permutations
        return survival.permuted_orders(len(self._with_outcome()), count, self._rng("permutation"))

    @cached_property
    def _refitted(self) -> dict[str, Floats]:
        """Out-of-fold logits of each logistic predictor for outcomes in each order, `survival.permuted_logits`."""
        table = self._with_outcome()
        held, label = table["fold"].to_numpy(int), table["label"].to_numpy(float)
        found = {name: self._inputs(name, table) for name in self.predictors if name not in FAMILIES["Cox"]}
        return {
            name: survival.permuted_logits(inputs.folds, held, label, self._orders, inputs.penalties)
            for name, inputs in found.items()
        }

    def permuted(self) -> pd.DataFrame:
        """Return the permutation test of both networks' inputs, one row each.

        "permutation p" belongs to logistic heads on frozen Task-1 features, refitted for every permutation of the outcomes;
        "network's p" places the fine-tuned network's own chi-square in that null distribution (approximate).
        """
        rows = []
        for variant in (name for name in self.predictors if name in VARIANTS):
            table, found = self.predictors[variant].dropna(subset=["high", "remaining_days"]), self.permutation(variant)
            own = survival.log_rank(table["remaining_days"], table["event"], table["high"])
            row = {"predictor": NAMES[variant], "network's chi-square": own.chi_square}
            row |= {"heads' chi-square": found.statistic, "permutation p": survival.permuted(found.p, found.reason)}
            placed = survival.permutation_p(own.chi_square, found.null)
            rows.append(row | {"network's p": survival.permuted(placed, own.reason or found.reason)})
        return pd.DataFrame(rows).set_index("predictor")

    def gain_over(self, other: str, name: str = "pair") -> pd.DataFrame:
        """Return `risk.compare` of a predictor with another one on the same patients, rows c_index and auc.

        Of one scan and two stands `risk.permuted_gain` beside it: both refitted under the same permuted outcomes (of
        networks the heads on frozen features).
        """
        found = risk.compare(self.predictors[name], self.predictors[other], self._draws, self._rng(name, other))
        if (name, other) not in FAMILIES.values() or name in FAMILIES["Cox"]:
            return found
        logits = self._refitted[name], self._refitted[other]
        return found.join(risk.permuted_gain(self._with_outcome(), self._orders, *logits))

    def two_against_one(self) -> pd.DataFrame:
        """Return how much better two scans do than every other predictor; paired, never p against p."""
        parts = {NAMES[other]: self.gain_over(other) for other in self.predictors if other != "pair"}
        return pd.concat(parts, names=["against"]).rename(index=MEASURES, level="measure")

    # --- side by side ------------------------------------------------------------------------------------------------

    def side_by_side(self) -> pd.DataFrame:
        """Return AUC, C-index, nominal log-rank p and permutation p of every predictor, one row each.

        A network's permutation p places its own chi-square among those of its refitted heads: approximate.
        """
        table = self._separation[["patients", "AUC", "C-index", "log-rank p"]].copy()
        placed, found = self.permuted()["network's p"], {}
        for name in self.predictors:
            if name in FAMILIES["Cox"]:
                found[NAMES[name]] = Estimate.missing("refitting takes too long")
            elif name in VARIANTS:
                found[NAMES[name]] = placed[NAMES[name]]
            else:
                test = self.permutation(name)
                found[NAMES[name]] = survival.permuted(test.p, test.reason)
        return table.assign(**{"permutation p": pd.Series(found, dtype=object)})

    def second_scan(self) -> pd.DataFrame:
        """Return what the second scan adds to one in each family of predictors, rows family and measure; paired."""
        parts = {family: self.gain_over(one, two) for family, (two, one) in FAMILIES.items() if two in self.predictors}
        found = pd.concat(parts, names=["predictor"]).rename(index=MEASURES, level="measure")
        permuted = found["permutation p"].astype(object)
        return found.assign(
            **{"permutation p": permuted.where(permuted.notna(), survival.permuted(NAN, "not refitted"))}
        )

    def verdicts(self) -> dict[str, str]:
        """Return in words how COVID3D from two scans stands to each other predictor, by the nominal interval of the AUC."""
        table = self.two_against_one().xs("AUC", level="measure")["difference"]
        return {str(name): predictors.in_words(difference) for name, difference in table.items()}

    def plot_side_by_side(self) -> Figure:
        """Return the AUC of every predictor with its interval, beside chance."""
        return draw.side_by_side(self._separation["AUC"])

    # --- sensitivity -------------------------------------------------------------------------------------------------

    def all_pairs(self) -> pd.DataFrame:
        """Return every pair of the test patients, not the index scan alone, with intervals that cluster by patient."""
        rows = []
        for variant in VARIANTS[::-1]:
            scores = self.scores[(self.scores["model"] == variant) & (self.scores["split"] != "external")]
            joined = with_groups(self.pairs, scores).dropna(subset=["high", "remaining_days"])
            days, event, high = (joined[name] for name in ("remaining_days", "event", "high"))
            ratio = survival.hazard_ratio(days, event, high, cluster=joined["patient_id"]).estimate
            area = risk.bootstrap_interval(joined, "auc", self._draws, self._rng(variant, "all pairs"))
            both = (found.noted("nominal") for found in (ratio, area))
            rows.append((NAMES[variant], len(joined), joined["patient_id"].nunique(), *both))
        return pd.DataFrame(rows, columns=["predictor", "pairs", "patients", "hazard ratio", "AUC"]).set_index(
            "predictor"
        )

    def ventilation(self) -> pd.DataFrame:
        """Return `risk.separation` of both networks with and without the ever-ventilated (a post-baseline selection)."""
        rows = []
        for variant in VARIANTS[::-1]:
            table = self.predictors[variant]
            for who, part in (("all patients", table), ("never ventilated", table[table["ventilated"] == 0])):
                found = risk.separation(part, self._draws, self._rng(variant, who))
                rows.append({"predictor": NAMES[variant], "who": who, **found})
        return pd.DataFrame(rows).set_index(["predictor", "who"])

    def outside(self) -> pd.DataFrame:
        """Return the follow-up patients outside A, one row each: mean, lowest and highest probability over the folds.

        A stay that is censored before the limit has no label and is in no test set.
        """
        rows = []
        external = self.scores[self.scores["split"] == "external"]
        for patient in self.index.query("fold == -1").to_dict("records"):
            row = {"patient": patient["patient_id"], "hospital": patient["hospital"], "stay": patient["remaining_days"]}
            row |= {"high risk": patient["label"], "censored": int(patient["cause"] == 0)}
            of_patient = external[external["scan_id"] == patient["scan_id"]]
            for variant in VARIANTS:
                values = of_patient.loc[of_patient["model"] == variant, "probability"]
                name = NAMES[variant]
                row |= {
                    f"{name}, mean": values.mean(),
                    f"{name}, lowest": values.min(),
                    f"{name}, highest": values.max(),
                }
            rows.append(row)
        return pd.DataFrame(rows)

    # --- scores that never saw a stay --------------------------------------------------------------------------------

    def frozen_scores(self) -> pd.DataFrame:
        """Return `risk.frozen_table`: how s of Task 1, never trained on a stay, goes with it; censored stays are left out."""
        return risk.frozen_table(self._with_s().query("fold >= 0 and cause == 1"))

    def after_a_change(self) -> dict[str, Estimate]:
        """Return, of the patients whose s moved beyond the noise between two scans, the share (%) of the risk that is meant."""
        table = self._with_s().query("scan_index == 1 and fold >= 0").dropna(subset=["label"])
        band = courses.noise_band(self.s).half_width
        band, high = band if np.isfinite(band) else 0.0, table["label"].astype(int) == 1
        change = table["s"] - table["prior"]
        sides = {"high risk after a rise": (change > band, high), "low risk after a fall": (change < -band, ~high)}
        return {
            name: wilson(int((moved & meant).sum()), int(moved.sum())).of_unit("%")
            if moved.any()
            else Estimate.missing("nobody's s moved beyond the noise")
            for name, (moved, meant) in sides.items()
        }

    # --- readers -----------------------------------------------------------------------------------------------------

    def reader_groups(self) -> pd.DataFrame:
        """Return the readers' calls on the test set: reader_id, task (stay_single | stay_pair), columns of `pairs`, high, logit.

        Empty without a reader study. `logit` is the call, so that tied calls count half in a C-index.
        """
        if self.calls.empty:
            return self.test.head(0).assign(reader_id="", task="", high=NAN, logit=NAN)
        calls = self.calls.loc[self.calls["task"].isin(TASKS), ["reader_id", "task", "scan_id", "call"]]
        call = calls["call"].astype(float)
        return calls.assign(high=call, logit=call).merge(self.test, on="scan_id")

    def readers(self) -> pd.DataFrame:
        """Return `risk.separation` for each reader and number of scans, and the model's lead (C-index minus the reader's)."""
        rows = []
        for (reader, task), part in self.reader_groups().groupby(["reader_id", "task"]):
            rng, variant = self._rng(reader, task), TASKS[str(task)]
            row = {"reader": reader, "saw": NAMES[variant], **risk.separation(part, self._draws, rng, remark="")}
            lead = risk.compare(self.predictors[variant], part, self._draws, rng)
            rows.append(row | {"lead of COVID3D": lead.loc["c_index", "difference"]})
        return pd.DataFrame(rows).set_index(["reader", "saw"]) if rows else pd.DataFrame()

    def reader_errors(self) -> pd.DataFrame:
        """Return the wrong groups among stays longer than nine days and among the others, by reader and number of scans."""
        rows = [
            {"reader": reader, "saw": NAMES[TASKS[str(task)]], **risk.long_stays(part, LONG_STAY)}
            for (reader, task), part in self.reader_groups().groupby(["reader_id", "task"])
        ]
        return pd.DataFrame(rows).set_index(["reader", "saw"]) if rows else pd.DataFrame()

    def reader_gain(self) -> pd.DataFrame:
        """Return what the second scan changed for each reader, `risk.reader_gain`."""
        return risk.reader_gain(self.reader_groups())

    def ratings(self) -> dict[str, Any]:
        """Return the readers together: ratings a case, errors in long stays and in others, and the mean gain of a second scan."""
        groups, errors, gain = self.reader_groups(), self.reader_errors(), self.reader_gain()
        none = Estimate.missing("no reader study")
        wrong = {
            side: Estimate(int(errors[f"wrong in {side}"].sum()), remark=f"of {errors[side].sum()} ratings")
            if len(errors)
            else none
            for side in ("longer stays", "other stays")
        }
        return {
            "ratings a case": int(groups["task"].nunique()),
            f"wrong in stays longer than {LONG_STAY:g} days": wrong["longer stays"],
            "wrong in other stays": wrong["other stays"],
            "mean gain of a second scan": Estimate(float(gain["gain"].map(float).mean())) if len(gain) else none,
        }

    # --- figures -----------------------------------------------------------------------------------------------------

    def plot_figure_3(self) -> Figure:
        """Return the paper's Figure 3: COVID3D from two scans above, reader 1 from the same two scans below."""
        groups = self.reader_groups()
        first = groups[(groups["reader_id"] == "R1") & (groups["task"] == "stay_pair")]
        reader = "reader 1 (simulated), two scans" if self.run.is_phantom else "reader 1, two scans"
        return self._curves({"COVID3D, two scans": self.predictors["pair"], reader: first})

    def plot_others(self) -> Figure:
        """Return the same curves for COVID3D from one scan, and for age and sex."""
        return self._curves({"COVID3D, one scan": self.predictors["single"], "age and sex": self.predictors["age_sex"]})

    def plot_incidence(self) -> Figure:
        """Return the cumulative incidences of discharge and death by the two-scan groups (Aalen-Johansen)."""
        return draw.incidence(
            risk.incidences(self.predictors["pair"]), {"cause_1": "discharged alive", "cause_2": "died"}
        )

    def _curves(self, groups: Mapping[str, pd.DataFrame]) -> Figure:
        notes = {}
        for name, table in groups.items():
            known = table.dropna(subset=["high", "remaining_days"])
            test = survival.log_rank(known["remaining_days"], known["event"], known["high"])
            remark = "" if "reader_id" in table else "nominal"
            notes[name] = f"log-rank {test.nominal.noted(remark)}"
        return draw.kaplan_meier({name: risk.curves(table) for name, table in groups.items()}, notes)

    # --- shared ------------------------------------------------------------------------------------------------------

    @property
    def _draws(self) -> int:
        return self.run.profile.statistics.bootstrap

    def _rng(self, *words: object) -> np.random.Generator:
        return np.random.default_rng(random_seed(self.run.seed, "prognosis", *words))

    def _with_outcome(self) -> pd.DataFrame:
        return self.test.dropna(subset=["label", "remaining_days"]).reset_index(drop=True)

    def _with_s(self) -> pd.DataFrame:
        """Return the pairs with s of the scan (s) and of the one before it (prior)."""
        s = self.s.set_index("scan_id")["logit"]
        return self.pairs.assign(s=self.pairs["scan_id"].map(s), prior=self.pairs["prior_scan_id"].map(s))

    def _inputs(self, name: str, table: pd.DataFrame) -> Inputs:
        """Return what a logistic predictor is fitted to for the patients of a table."""
        if name in VARIANTS:
            return predictors.inputs_of_features(table, name, self.features[name])
        return predictors.inputs_of_columns(table, name, len(results.folds(self.run)))


def load(run: Run) -> Prognosis:
    """Return the chapter's results, fine-tuning the folds that are missing.

    Raises MissingResult, with the command to run, where `run.compute` is False and something is missing; ManifestError
    where the leakage certificate has not passed.
    """
    steps.ensure_needs(run, "07_prognosis")
    require_certificate(run)
    pairs = all_pairs(run)
    pairs = predictors.with_opacity(pairs, opacity.measured(run, [*pairs["scan_id"], *pairs["prior_scan_id"]]))
    models = [(variant, fold) for variant in VARIANTS for fold in results.folds(run)]
    folders = [run.model("prognosis", *model) for model in models]
    scores = pd.concat([results.read_predictions(folder / "predictions.csv") for folder in folders], ignore_index=True)
    parts = [
        pd.read_csv(folder / "history.csv").assign(model=model[0], fold=model[1])
        for folder, model in zip(folders, models, strict=True)
    ]
    features = {variant: [read_features(run, variant, fold) for fold in results.folds(run)] for variant in VARIANTS}
    return Prognosis(
        run,
        pairs,
        predictors.all_of(pairs, scores, features, run.profile.prognosis.high_risk_days),
        features,
        scores,
        pd.concat(parts, ignore_index=True),
        results.trajectory_scores(run),
        read_reader_study(run),
    )
