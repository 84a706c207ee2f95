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

from covid3d.chapters import fine_tuning, opacity, predictors, results
from covid3d.chapters.fine_tuning import VARIANTS, read_features
from covid3d.chapters.predictors import NAMES, Inputs, with_groups
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.intake import accepted
from covid3d.cohort.reader_study import read_reader_study, simulated
from covid3d.figures import prognosis as draw
from covid3d.run import steps
from covid3d.run.files import random_seed
from covid3d.run.profile import Run
from covid3d.stats import courses, cut_offs, over_time, risk, stay_readers, stays, survival
from covid3d.stats.estimate import NAN, Estimate

PAPER = ("pair", "single", *predictors.CONTROLS)
FAMILIES = {
    "COVID3D": ("pair", "single"),
    "opacity": ("opacity_pair", "opacity_single"),
    "Cox": ("cox_pair", "cox_single"),
    "DeepSurv": ("deep_pair", "deep_single"),
}
NOT_REFITTED = (*FAMILIES["Cox"], *FAMILIES["DeepSurv"])
"""For every permutation of the outcomes: it would take too long."""
TASKS = {"stay_pair": "pair", "stay_single": "single"}
MEASURES = {"c_index": "C-index", "auc": "AUC"}
SAW = {task: NAMES[variant] for task, variant in TASKS.items()}
DAYS, LANDMARKS = (6, 8, 10), (0, 3, 6)
NOBODY_DIED = "nobody in the test set died: nothing competes with discharge, and there is no figure of it"
IN_FOCUS = ("pair", "single", "opacity_pair", "schedule")
Floats = np.ndarray


@dataclass(frozen=True)
class Prognosis:
    """What fine-tuning left and what happened to the patients, read once; every question is asked of these tables.

    pairs: one row a follow-up scan with the scan before it, `fine_tuning.all_pairs`, and the opacity of both.
    predictors: the test set with out-of-fold logit, probability and group (high) by each predictor of `predictors.NAMES`.
    features: each fold's Task-1 features of the pairs by pair and single, before any of them saw an outcome.
    scores: one row a fine-tuned network (model, fold) and scan: split (validation, followup, external), logit, probability.
    history: one row a fine-tuned network and epoch. s: the Task-1 scores of chapter 6. calls: reader_study.csv. alone: how
    many COVID+ patients of A are in no pair that ends with an index scan.
    """

    run: Run
    pairs: pd.DataFrame
    predictors: Mapping[str, pd.DataFrame]
    features: Mapping[str, Sequence[pd.DataFrame]]
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    s: pd.DataFrame = field(default_factory=pd.DataFrame)
    calls: pd.DataFrame = field(default_factory=pd.DataFrame)
    alone: int = 0

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

    def left_out(self) -> pd.DataFrame:
        """Return `stays.left_out`: who cannot be judged and why, and how many stays are equal, one row a reason."""
        return stays.left_out(self.index, self.alone, self.predictors)

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

    def competing(self) -> pd.DataFrame | dict[str, str]:
        """Return `risk.competing` of each predictor's groups, or in a sentence that nothing competes with discharge.

        Do the groups differ in how many leave alive, deaths competing?
        """
        if not self._anybody_died:
            return {"deaths": NOBODY_DIED}
        rows = [{"predictor": NAMES[name], **risk.competing(table)} for name, table in self.predictors.items()]
        return pd.DataFrame(rows).set_index("predictor")

    @property
    def _anybody_died(self) -> bool:
        return bool((self.test["cause"] == 2).any())

    def permutation(self, name: str) -> survival.Permutation:
        """Return the permutation test of the out-of-fold log-rank of a predictor that is refitted for every permutation."""
        table = self._with_outcome()
        days, event = (table[column].to_numpy(float) for column in ("remaining_days", "event"))
        found = survival.permuted_log_rank(self._refitted[name], self._orders, days, event)
        return found if len(found.null) else found._replace(reason=cut_offs.NOT_PERMUTED)

    @cached_property
    def _orders(self) -> np.ndarray:
        """The observed order of the patients with a known outcome, and permutations of it."""
        count = self.run.profile.prognosis.permutations
        return survival.permuted_orders(len(self._with_outcome()), count, self._rng("permutation"))

    @cached_property
    def _refitted(self) -> dict[str, Floats]:
        """Out-of-fold logits of each logistic predictor for outcomes in each order; none, (0, N), if it has not scored all."""
        table = self._with_outcome()
        held, label = table["fold"].to_numpy(int), table["label"].to_numpy(float)
        found = {name: self._inputs(name, table) for name in self.predictors if name not in NOT_REFITTED}
        return {
            name: survival.permuted_logits(inputs.folds, held, label, self._orders, inputs.penalties)
            if np.isfinite(self._logits(name, table)).all()
            else np.empty((0, len(table)))
            for name, inputs in found.items()
        }

    def permuted(self) -> pd.DataFrame:
        """Return the permutation test of both networks' groups, one row each, and of the heads that stand in for them.

        Refitted for every permutation of the outcomes are logistic heads on frozen Task-1 features. "permutation p" places
        the fine-tuned network's own chi-square in that null distribution (approximate); "heads' p" is that of the heads.
        """
        rows = []
        for variant in (name for name in self.predictors if name in VARIANTS):
            found = self.permutation(variant)
            row = {"predictor": NAMES[variant], "chi-square": self._log_rank(variant).chi_square}
            row |= {"permutation p": self._permutation_p(variant), "heads' chi-square": found.statistic}
            rows.append(row | {"heads' p": survival.permuted(found.p, found.reason)})
        return pd.DataFrame(rows).set_index("predictor")

    def _log_rank(self, name: str) -> survival.LogRank:
        table = self.predictors[name].dropna(subset=["high", "remaining_days"])
        return survival.log_rank(table["remaining_days"], table["event"], table["high"])

    def _permutation_p(self, name: str) -> Estimate:
        """Return p of a predictor's own log-rank, outcomes permuted: of a network among its heads, which is approximate."""
        if name in NOT_REFITTED:
            return Estimate.missing("refitting takes too long")
        found = self.permutation(name)
        if name not in VARIANTS:
            return survival.permuted(found.p, found.reason)
        own = self._log_rank(name)
        placed = survival.permutation_p(own.chi_square, found.null)
        return survival.permuted(placed, own.reason or found.reason or "too few patients").noted(risk.NEAR)

    def best_cut(self) -> pd.DataFrame:
        """Return the log-rank test at the best of all cut-offs of each predictor, and its p when every cut-off was looked at.

        Refitted, and the best cut-off sought anew, for every permutation of the outcomes; of a network the heads (approximate).
        """
        table, rows = self._with_outcome(), []
        days, event = (table[column].to_numpy(float) for column in ("remaining_days", "event"))
        for name, logits in self._refitted.items():
            own = self._logits(name, table)
            cut, found = cut_offs.best_cut(own, days, event), cut_offs.permuted(logits, self._orders, days, event, own)
            p = survival.permuted(found.p, found.reason)
            row = stays.at_cut(cut, own, days, event) | {"permutation p": p.noted(risk.NEAR) if name in VARIANTS else p}
            least = survival.permuted(1 / (1 + len(found.null)) if len(found.null) else NAN, cut_offs.NOT_PERMUTED)
            rows.append({"predictor": NAMES[name], **row, "least p": least})
        return pd.DataFrame(rows).set_index("predictor")

    def _logits(self, name: str, table: pd.DataFrame) -> Floats:
        return self.predictors[name].set_index("scan_id")["logit"].reindex(table["scan_id"]).to_numpy(float)

    def gain_over(self, other: str, name: str = "pair") -> pd.DataFrame:
        """Return `risk.compare` of a predictor with another one on the same patients, rows c_index and auc.

        Of one scan and two stands `risk.permuted_gain` beside it: both refitted under the same permuted outcomes; the gain of
        networks is placed among those of heads on frozen features.
        """
        found = risk.compare(self.predictors[name], self.predictors[other], self._draws, self._rng(name, other))
        if (name, other) not in FAMILIES.values() or name in NOT_REFITTED:
            return found
        table, logits = self._with_outcome(), (self._refitted[name], self._refitted[other])
        own = [self._logits(one, table) for one in (name, other)] if name in VARIANTS else None
        return found.join(risk.permuted_gain(table, self._orders, *logits, own))

    def two_against_one(self) -> pd.DataFrame:
        """Return how much better two scans do than every other predictor; paired, never p against p."""
        parts = {NAMES[other]: self.gain_over(other) for other in self.predictors if other != "pair"}
        return pd.concat(parts, names=["against"]).rename(index=MEASURES, level="measure")

    # --- side by side ------------------------------------------------------------------------------------------------

    def side_by_side(self) -> pd.DataFrame:
        """Return the groups' sizes, AUC, C-index, hazard ratio, log-rank p and own permutation p of every predictor."""
        table = self._separation[["patients", "high risk", "low risk", "AUC", "C-index", "hazard ratio", "log-rank p"]]
        found = {NAMES[name]: self._permutation_p(name) for name in self.predictors}
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

    def ranking(self) -> dict[str, str]:
        """Return by name which predictors do better than COVID3D from two scans, which worse, which are not told apart."""
        return predictors.ranking(self.verdicts())

    def plot_side_by_side(self) -> Figure:
        """Return the AUC of every predictor with its interval, beside chance."""
        return draw.side_by_side(self._separation["AUC"])

    # --- day by day --------------------------------------------------------------------------------------------------

    def over_time(self) -> pd.DataFrame:
        """Return `over_time.judged` of every predictor, one row each: AUC by day, Cox on the score, Brier score."""
        rows = [
            {"predictor": NAMES[name], **over_time.judged(table, DAYS, self._draws, self._rng(name, "over time"))}
            for name, table in self.predictors.items()
        ]
        return pd.DataFrame(rows).set_index("predictor")

    def plot_over_time(self) -> Figure:
        """Return AUC and Brier score by day, of both networks, of measured opacity and of the schedule."""
        found = {NAMES[name]: over_time.curves(self.predictors[name]) for name in IN_FOCUS if name in self.predictors}
        return draw.over_time(found)

    def landmarks(self) -> pd.DataFrame:
        """Return `risk.separation` of the groups among those still in hospital some days after the index scan."""
        columns, rows = ["patients", "high risk", "low risk", "log-rank p", "hazard ratio", "C-index"], []
        for name in (name for name in IN_FOCUS if name in self.predictors):
            for day in LANDMARKS:
                there = self.predictors[name].query("remaining_days > @day")
                stream = ("landmark", day) if day else ("bootstrap",)  # on day 0 the intervals of `separation`
                found = risk.separation(there, self._draws, self._rng(name, *stream))
                rows.append(
                    {"predictor": NAMES[name], "after day": day} | {column: found[column] for column in columns}
                )
        return pd.DataFrame(rows).set_index(["predictor", "after day"])

    # --- sensitivity -------------------------------------------------------------------------------------------------

    def all_pairs(self) -> pd.DataFrame:
        """Return every pair of the test patients, not the index scan alone, with intervals that cluster by patient."""
        pairs, rows = self.pairs[self.pairs["patient_id"].isin(self.test["patient_id"])], []
        for variant in VARIANTS[::-1]:
            scores = self.scores[(self.scores["model"] == variant) & (self.scores["split"] != "external")]
            joined = with_groups(pairs, scores).dropna(subset=["high", "remaining_days"])
            days, event, high = (joined[name] for name in ("remaining_days", "event", "high"))
            ratio = survival.hazard_ratio(days, event, high, cluster=joined["patient_id"]).estimate
            area = risk.bootstrap_interval(joined, "auc", self._draws, self._rng(variant, "all pairs"))
            both = (found.noted("nominal") for found in (ratio, area))
            rows.append((NAMES[variant], len(joined), joined["patient_id"].nunique(), *both))
        return pd.DataFrame(rows, columns=["predictor", "pairs", "patients", "hazard ratio", "AUC"]).set_index(
            "predictor"
        )

    def ventilation(self) -> pd.DataFrame | dict[str, str]:
        """Return `risk.separation` of both networks with and without the ever-ventilated (a post-baseline selection)."""
        if not (self.test["ventilated"] == 1).any():
            known = "nobody" if self.test["ventilated"].notna().all() else "nobody of whom it is known"
            return {"ventilated": f"{known} in the test set was: without them nothing changes, and there is no table"}
        rows = []
        for variant in VARIANTS[::-1]:
            table = self.predictors[variant]
            for who, part in (("all patients", table), ("never ventilated", table[table["ventilated"] == 0])):
                stream = "bootstrap" if part is table else who  # of all, the intervals of `separation`
                found = risk.separation(part, self._draws, self._rng(variant, stream))
                rows.append({"predictor": NAMES[variant], "who": who, **found})
        return pd.DataFrame(rows).set_index(["predictor", "who"])

    def outside(self) -> pd.DataFrame:
        """Return the follow-up patients outside A, one row each: mean, lowest and highest probability over the folds.

        A stay that is censored before the limit has no label and is in no test set.
        """
        external = self.scores[self.scores["split"] == "external"]
        return stays.outside(self.index.query("fold == -1"), external, {name: NAMES[name] for name in VARIANTS})

    # --- scores that never saw a stay --------------------------------------------------------------------------------

    def frozen_scores(self) -> pd.DataFrame:
        """Return `risk.frozen_table`: how s of Task 1, never trained on a stay, goes with it; censored stays are left out."""
        return risk.frozen_table(self._with_s().query("fold >= 0 and cause == 1"))

    def opacity_against_s(self) -> dict[str, Any]:
        """Return `risk.against_s` of the share of the lung that is opaque, at the index scan."""
        return risk.against_s(self._with_s().query("scan_index == 1 and test == 1"), opacity.MEASURES[0], "opacity")

    def after_a_change(self) -> dict[str, Estimate]:
        """Return, of the patients whose s moved beyond the noise between two scans, the share (%) of the risk that is meant."""
        table = self._with_s().query("scan_index == 1 and fold >= 0").dropna(subset=["label"])
        return risk.after_a_change(table, courses.noise_band(self.s).half_width)

    # --- readers -----------------------------------------------------------------------------------------------------

    def reader_groups(self) -> pd.DataFrame:
        """Return the readers' calls on the test set: reader_id, task (stay_single | stay_pair), columns of `pairs`, high, logit.

        Empty without a reader study; see `stay_readers.scored`.
        """
        if self.calls.empty:
            return self.test.head(0).assign(reader_id="", task="", high=NAN, logit=NAN)
        return stay_readers.scored(self.calls[self.calls["task"].isin(TASKS)]).merge(self.test, on="scan_id")

    def readers(self) -> pd.DataFrame:
        """Return `stay_readers.separation`: each reader's groups, and COVID3D's lead from as many scans."""
        models = {task: self.predictors[variant] for task, variant in TASKS.items()}
        return stay_readers.separation(self.reader_groups(), models, SAW, self._draws, self._rng)

    def reader_errors(self) -> pd.DataFrame:
        """Return `stay_readers.errors`: the wrong groups among long stays and among the others."""
        return stay_readers.errors(self.reader_groups(), SAW)

    def reader_gain(self) -> pd.DataFrame:
        """Return what the second scan changed for each reader, `stay_readers.gain`."""
        return stay_readers.gain(self.reader_groups())

    def ratings(self) -> dict[str, Any]:
        """Return the readers together, `stay_readers.together`."""
        return stay_readers.together(self.reader_groups(), self.reader_errors(), self.reader_gain())

    # --- figures -----------------------------------------------------------------------------------------------------

    def plot_figure_3(self) -> Figure:
        """Return the paper's Figure 3: COVID3D from two scans above, the first reader from the same two scans below."""
        groups = self.reader_groups().query("task == 'stay_pair'")
        name = min(groups["reader_id"].unique(), key=lambda name: (len(name), name), default="R1")
        first, made_up = groups[groups["reader_id"] == name], simulated(self.calls, simulated_scans=self.run.is_phantom)
        test = survival.log_rank(first["remaining_days"], first["event"], first["high"])
        reader = f"reader {name}{' (simulated)' if made_up else ''}, two scans"
        panels = {"COVID3D, two scans": risk.curves(self.predictors["pair"]), reader: risk.curves(first)}
        return draw.kaplan_meier(panels, {"COVID3D, two scans": self._note("pair"), reader: risk.in_words(test)})

    def plot_others(self) -> Figure:
        """Return the same curves for COVID3D from one scan, and for age and sex."""
        names = {"COVID3D, one scan": "single", "age and sex": "age_sex"}
        panels = {words: risk.curves(self.predictors[name]) for words, name in names.items()}
        return draw.kaplan_meier(panels, {words: self._note(name) for words, name in names.items()})

    def plot_incidence(self) -> Figure | None:
        """Return the cumulative incidences of discharge and death by the two-scan groups (Aalen-Johansen), where some died."""
        if not self._anybody_died:
            return None
        causes = {"cause_1": "discharged alive", "cause_2": "died"}
        table = self.predictors["pair"]
        return draw.incidence(risk.incidences(table), causes, risk.curves(table), risk.gray_in_words(table))

    def _note(self, name: str) -> str:
        """Return the log-rank test of a predictor's groups for a panel: its direction, nominal p and permutation p."""
        test, p = self._log_rank(name), self._permutation_p(name)
        return risk.in_words(test, "nominal") + (f"\n{p}" if p.known and test.nominal.known else "")

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
    pairs = fine_tuning.all_pairs(run)
    pairs = predictors.with_opacity(pairs, opacity.measured(run, [*pairs["scan_id"], *pairs["prior_scan_id"]]))
    scores, history = predictors.of_folds(run)
    s = results.trajectory_scores(run)
    features = {variant: [read_features(run, variant, fold) for fold in results.folds(run)] for variant in VARIANTS}
    return Prognosis(
        run,
        pairs,
        predictors.all_of(pairs, scores, features, run.profile.prognosis.high_risk_days),
        features,
        scores,
        history,
        s,
        read_reader_study(run),
        stays.unpaired(accepted(run), pairs),
    )
