"""Chapter 5: readers and the network on the same scans of B and C: Table 2, agreement, equivalence. Calls are 1 or 0."""

import math
import re
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import results
from covid3d.chapters.results import TASK, THREE_D
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.reader_study import read_reader_study
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.figures import reader_comparison as draw
from covid3d.network.scoring import pick_device, score
from covid3d.network.training import load_fold
from covid3d.run import steps
from covid3d.run.profile import DATA, Run
from covid3d.stats.auc import roc, youden_threshold
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import attainable, kappa, mcnemar_exact, tost_paired_proportions, wilson

MODEL = "COVID3D"
YOUDEN, HALF = f"{MODEL}, Youden threshold of A", f"{MODEL}, probability 0.5"
MEASURES = {"sensitivity": 1, "specificity": 0}
CASES = {"all": (0, 1), "COVID+": (1,), "COVID-": (0,)}


# --- the chapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReaderComparison:
    """The calls on the first scans of B and C, read once; every question of the chapter is asked of them.

    study: the reader study as `read_reader_study` returns it. scores: scan_id, hospital, label, logit of the deployed fold
    in the nominal window. thresholds: logit by rule. calls: one row a rater and scan: rater, kind (reader | model),
    hospital, scan_id, label, call. margin_points: the margin of equivalence, in points of sensitivity or specificity.
    """

    run: Run
    study: pd.DataFrame
    scores: pd.DataFrame
    thresholds: dict[str, float]
    calls: pd.DataFrame
    margin_points: float

    def readings(self) -> dict[str, Any]:
        """Return how many readers there are, whether each called every scan of B and C, and their ratings of the stay."""
        read, wanted = self.calls[self.calls["kind"] == "reader"], set(self.scores["scan_id"])
        whole = [wanted <= set(part["scan_id"]) for _, part in read.groupby("rater")]
        return {
            "readers": int(self.study["reader_id"].nunique()),
            "every scan of B and C called": all(whole) if whole else Estimate.missing("no reader study"),
            "ratings of the stay": int((self.study["task"] != "covid").sum()),
            "readers in the printed Table 2": len(set(published_table_2()["reader"]) - {MODEL}),
        }

    def shares(self) -> pd.DataFrame:
        """Return the right calls of each rater, hospital and measure: rater, kind, hospital, measure, k, n, share.

        share: an Estimate in per cent with Wilson's interval (1927).
        """
        rows = []
        for (rater, kind, hospital), part in self.calls.groupby(["rater", "kind", "hospital"], sort=False):
            for measure, label in MEASURES.items():
                cases = part[part["label"] == label]
                k = int((cases["call"] == label).sum())
                rows.append((rater, kind, hospital, measure, k, len(cases), wilson(k, len(cases)).of_unit("%")))
        return pd.DataFrame(rows, columns=["rater", "kind", "hospital", "measure", "k", "n", "share"])

    def table_2(self) -> pd.DataFrame:
        """Return Table 2, one row a rater and hospital: what was found, in per cent and as k of n, and what was printed.

        Readers in the order of their ids stand beside the printed Rad1 and Rad2; the model by either rule beside COVID3D.
        """
        printed = published_table_2().set_index(["reader", "hospital", "measure"])["published"]
        names = {reader: f"Rad{position}" for position, reader in enumerate(self._readers(), start=1)}
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for found in self.shares().to_dict("records"):
            rater, hospital, measure = found["rater"], found["hospital"], found["measure"]
            row = rows.setdefault((rater, hospital), {"rater": rater, "hospital": hospital})
            row[measure] = found["share"]
            row[f"{measure}, cases"] = f"{found['k']} of {found['n']}"
            row[f"{measure}, printed"] = printed.get((names.get(rater, MODEL), hospital, measure))
        return pd.DataFrame(list(rows.values())).set_index(["rater", "hospital"])

    def read_off(self) -> pd.DataFrame:
        """Return, in per cent, the model's sensitivity on each hospital's own ROC curve at each reader's specificity.

        A description of that curve, not an operating point: its threshold is chosen on the cases it is measured on.
        """
        rows = []
        for point in self._reader_points().to_dict("records"):
            cases = self.scores[self.scores["hospital"] == point["hospital"]]
            if cases["label"].nunique() == 2:
                _, sensitivity, specificity = roc(cases["label"], cases["logit"])
                best = 100 * float(sensitivity[100 * specificity >= point["specificity"] - 1e-7].max())
                rows.append((point["rater"], point["hospital"], point["specificity"], point["sensitivity"], best))
        columns = ["rater", "hospital", "reader's specificity", "reader's sensitivity", "model's sensitivity there"]
        return pd.DataFrame(rows, columns=columns).set_index(["rater", "hospital"])

    def agreement(self) -> pd.DataFrame:
        """Return how far each two readers agree, by hospital, on all cases, on COVID+ and on COVID- cases.

        Columns n, agree (share of cases), kappa, only first and only second (calls of COVID+ that the other does not share), p
        (exact McNemar), gap: |difference of the shares called COVID+| in points, for one class |Rad1 - Rad2| of Table 2.
        """
        rows = []
        for first, second in combinations(self._readers(), 2):
            for hospital, part in self._paired(first, second).groupby("hospital"):
                for cases, labels in CASES.items():
                    inside = part[part["label"].isin(labels)]
                    if len(inside):
                        facts = _agreement(inside["call_a"], inside["call_b"])
                        rows.append({"readers": f"{first} and {second}", "hospital": hospital, "cases": cases, **facts})
        keys = ["readers", "hospital", "cases"]
        return pd.DataFrame(rows).set_index(keys) if rows else pd.DataFrame(columns=[*keys, "kappa"]).set_index(keys)

    def equivalence(self) -> pd.DataFrame:
        """Return model minus reader, by reader, hospital and measure, tested against the margin.

        Two one-sided score tests of paired shares (Schuirmann 1987; Tango 1998). Columns cases, difference (points, 95 %
        limits), 90 % from, 90 % to, p, equivalent, best p (the p of calls that agree on every case).
        """
        rows = []
        for reader in self._readers():
            for hospital, part in self._paired(YOUDEN, reader).groupby("hospital"):
                for measure, label in MEASURES.items():
                    cases = part[part["label"] == label]
                    if len(cases):
                        facts = _equivalence(cases["call_a"] == label, cases["call_b"] == label, self.margin_points)
                        rows.append({"rater": reader, "hospital": hospital, "measure": measure, **facts})
        keys = ["rater", "hospital", "measure"]
        columns = [*keys, "cases", "difference", "90 % from", "90 % to", "p", "equivalent", "best p"]
        return pd.DataFrame(rows, columns=columns).set_index(keys)

    def untuned(self) -> bool:
        """Score the scans of Table 2 again in the nominal window; return whether these are the scores that were used."""
        run = self.run
        model = load_fold(run, TASK, THREE_D, results.deployed_fold(run))
        grids, window = Store.of(run).stack(self.scores["scan_id"]), nominal_window(run.profile.windows)
        again = score(model, grids, [window], device=pick_device(run.device))[:, 0]
        return bool(np.allclose(again, self.scores["logit"], atol=1e-3))

    def plot_shares(self) -> Figure:
        """Return sensitivity and specificity of each rater with their intervals."""
        return draw.shares(self.shares())

    def plot_roc(self) -> Figure:
        """Return the model's ROC curve at each hospital with the readers' operating points."""
        curves = {
            str(hospital): roc(part["label"], part["logit"])[1:]
            for hospital, part in self.scores.groupby("hospital")
            if part["label"].nunique() == 2
        }
        return draw.roc_with_readers(curves, self._reader_points())

    def plot_equivalence(self) -> Figure:
        """Return the differences model minus reader with their 90 % intervals, and the margin."""
        return draw.equivalence(self.equivalence(), self.margin_points)

    def _readers(self) -> list[str]:
        return sorted(self.calls.loc[self.calls["kind"] == "reader", "rater"].unique())

    def _reader_points(self) -> pd.DataFrame:
        """Return the readers' operating points in per cent: rater, hospital, sensitivity, specificity."""
        found = self.shares().query("kind == 'reader'")
        found = found.assign(value=[share.value for share in found["share"]])
        return found.pivot(index=["rater", "hospital"], columns="measure", values="value").reset_index()

    def _paired(self, first: str, second: str) -> pd.DataFrame:
        """Return the cases that two raters have both called: scan_id, hospital, label, call_a, call_b."""
        left, right = (self.calls[self.calls["rater"] == name] for name in (first, second))
        return left.merge(right[["scan_id", "call"]], on="scan_id", suffixes=("_a", "_b"))


def load(run: Run, margin_points: float | None = None) -> ReaderComparison:
    """Return the chapter's results, computing what is missing; the margin is the profile's unless given."""
    steps.ensure_needs(run, "05_reader_comparison")
    require_certificate(run)
    study, scores, cuts = read_reader_study(run), deployed_scores(run), thresholds(run)
    calls = pd.concat([reader_calls(study, scores), model_calls(scores, cuts)], ignore_index=True)
    margin = margin_points or run.profile.statistics.equivalence_margin_points
    return ReaderComparison(run, study, scores, cuts, calls, margin)


# --- the calls -------------------------------------------------------------------------------------------------------


def deployed_scores(run: Run) -> pd.DataFrame:
    """Return the deployed fold's scores of the first scans of B and C, nominal window: scan_id, hospital, label, logit."""
    table = results.external_scores(run)
    chosen = (table["model"] == THREE_D) & (table["split"] == "external") & (table["window"] == "nominal")
    return table.loc[chosen, ["scan_id", "hospital", "label", "logit"]].reset_index(drop=True)


def thresholds(run: Run) -> dict[str, float]:
    """Return the model's operating thresholds (logit) by rule, fixed on the deployed fold's validation scans of A.

    Youden's threshold is NaN when these are of one class; no call is made with it.
    """
    scores = results.out_of_fold(run)
    inside = scores[scores["fold"] == results.deployed_fold(run)]
    return {YOUDEN: youden_threshold(inside["label"], inside["logit"]), HALF: 0.0}


def reader_calls(study: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the readers' COVID+ calls on the scans that the model has scored, with their hospitals and labels."""
    calls = study[study["task"] == "covid"].merge(scores[["scan_id", "hospital", "label"]], on="scan_id")
    return _calls(calls.assign(rater=calls["reader_id"], kind="reader"))


def model_calls(scores: pd.DataFrame, cuts: dict[str, float]) -> pd.DataFrame:
    """Return the model's calls (logit >= threshold) by each rule that has a threshold."""
    parts = [
        scores.assign(rater=name, kind="model", call=(scores["logit"] >= cut).astype(int))
        for name, cut in cuts.items()
        if math.isfinite(cut)
    ]
    return _calls(pd.concat(parts, ignore_index=True))


def _calls(table: pd.DataFrame) -> pd.DataFrame:
    return table[["rater", "kind", "hospital", "scan_id", "label", "call"]].astype({"label": int, "call": int})


# --- the printed table, and two raters -------------------------------------------------------------------------------


def published_table_2() -> pd.DataFrame:
    """Return the printed percentages of Table 2, one row each.

    Columns claim_id, reader (Rad1, Rad2, COVID3D), hospital, measure, published (%), published_n (cases).
    """
    claims = pd.read_csv(DATA / "claims.csv", dtype=str)
    rows = []
    for claim in claims[(claims["section"] == "Table 2") & (claims["unit"] == "%")].itertuples():
        found = re.fullmatch(r"(Radiologist (\d)|COVID3D) (sensitivity|specificity) at (\w)", str(claim.text))
        if found:
            reader = f"Rad{found[2]}" if found[2] else MODEL
            rows.append((claim.claim_id, reader, found[4], found[3], float(str(claim.value)), int(str(claim.n_basis))))
    return pd.DataFrame(rows, columns=["claim_id", "reader", "hospital", "measure", "published", "published_n"])


def printed_cells() -> pd.DataFrame:
    """Return each printed percentage of Table 2 with every k of its cases that prints so.

    Index rater, hospital, measure; columns printed (%), cases, k ("none" where no count prints so), possible.
    """
    table = published_table_2().rename(columns={"reader": "rater", "published": "printed", "published_n": "cases"})
    found = [attainable(percent, n) for percent, n in zip(table["printed"], table["cases"], strict=True)]
    table = table.assign(
        k=[" or ".join(map(str, counts)) or "none" for counts in found], possible=list(map(bool, found))
    )
    return table.set_index(["rater", "hospital", "measure"]).drop(columns="claim_id")


def _agreement(a: pd.Series, b: pd.Series) -> dict[str, Any]:
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return {
        "n": len(a),
        "agree": float((a == b).mean()),
        "kappa": kappa(a, b),
        "only first": only_a,
        "only second": only_b,
        "p": mcnemar_exact(only_a, only_b),
        "gap": 100 * abs(only_a - only_b) / len(a),
    }


def _equivalence(model: pd.Series, reader: pd.Series, margin_points: float) -> dict[str, Any]:
    """Return the tests of one comparison; model, reader: whether each call is right, on the same cases."""
    only_model, only_reader = int((model & ~reader).sum()), int((reader & ~model).sum())
    found = tost_paired_proportions(only_model, only_reader, len(model), margin_points / 100)
    narrow = found.interval_90.of_unit("%")
    return {
        "cases": len(model),
        "difference": replace(found.difference.of_unit("%"), unit="points"),
        "90 % from": narrow.low,
        "90 % to": narrow.high,
        "p": found.p,
        "equivalent": bool(found.equivalent),
        "best p": found.best_p,
    }


def equivalence_statement(table: pd.DataFrame, margin_points: float) -> str:
    """Return in plain words what numbers of this size can show of an equivalence; table: of `equivalence`."""
    if table.empty:
        return "There are no paired calls, so equivalence cannot be judged."
    text = f"Equivalence within {margin_points:g} points is shown in {table['equivalent'].sum()} of {len(table)} comparisons."
    hopeless = table[table["best p"] >= 0.05]
    if len(hopeless):
        sizes = ", ".join(str(n) for n in sorted(set(hopeless["cases"]), reverse=True))
        text += (
            f" With {sizes} cases it cannot be shown: even calls that agree on every case give p = "
            f"{hopeless['best p'].min():.2f} or more. Not finding a difference is not finding equivalence."
        )
    return text
