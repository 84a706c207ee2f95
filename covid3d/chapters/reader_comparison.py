"""Chapter 5: readers and the network on the same scans of B and C: Table 2, agreement, equivalence. Calls are 1 or 0."""

import math
import re
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import fine_tuning, results, scored
from covid3d.chapters.results import TASK, THREE_D
from covid3d.cohort.folds import require_certificate
from covid3d.cohort.reader_study import read_reader_study, whose
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.figures import reader_comparison as draw
from covid3d.network.scoring import pick_device, score
from covid3d.network.training import load_fold
from covid3d.run import steps
from covid3d.run.profile import DATA, Run
from covid3d.stats import stay_readers
from covid3d.stats.auc import auc, paired_delong, roc, youden_threshold
from covid3d.stats.estimate import Estimate, Tested, value_text
from covid3d.stats.proportions import (
    attainable,
    cases_for_equivalence,
    direction,
    kappa,
    mcnemar_exact,
    tost_paired_proportions,
    wilson,
)

MODEL = "COVID3D"
YOUDEN, HALF = f"{MODEL}, Youden threshold of A", f"{MODEL}, probability 0.5"
MEASURES = {"sensitivity": 1, "specificity": 0}
CASES = {"all": (0, 1), "COVID+": (1,), "COVID-": (0,)}
MARK = "\u2020"
NOBODY = "no reader study"
FEWEST = 5
TOO_FEW = Tested.missing(f"too few: fewer than {FEWEST} cases of a class")
PAIRED = ("cases", "only COVID3D right", "only reader right", "McNemar p", "direction")
TESTED = ("difference", "90 % from", "90 % to", "p", "equivalent", "best p", "cases needed")


# --- the chapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReaderComparison:
    """The calls on the first scans of B and C, read once; every question of the chapter is asked of them.

    study: the reader study as `read_reader_study` returns it. scores: scan_id, hospital, label, logit of the deployed fold
    in the nominal window. thresholds: logit by rule. calls: one row a rater and scan: rater, kind (reader | model),
    hospital, scan_id, label, call, rating (a reader's confidence, negative where the call is 0; the model's logit).
    margin_points: the margin of equivalence, in points of sensitivity or specificity. stays: the readers' ratings of the stay
    of the test patients, with one scan and with the prior one: reader_id, task, scan_id, high, label.
    """

    run: Run
    study: pd.DataFrame
    scores: pd.DataFrame
    thresholds: dict[str, float]
    calls: pd.DataFrame
    margin_points: float
    stays: pd.DataFrame = field(default_factory=pd.DataFrame)

    def readings(self) -> dict[str, Any]:
        """Return whose readings these are, and whether each reader called every scan of B and C."""
        counts, of_covid = self.coverage(), self.study["task"] == "covid"
        return {
            "whose readings": whose(self.study, simulated_scans=self.run.is_phantom),
            "readers": int(self.study["reader_id"].nunique()),
            "every scan of B and C called": not counts["not called"].any() if len(counts) else Estimate.missing(NOBODY),
            "levels of confidence for COVID-19": int(self.study.loc[of_covid, "confidence"].nunique()),
            "ratings of the stay": int((~of_covid).sum()),
            "readers in the printed Table 2": len(set(published_table_2()["reader"]) - {MODEL}),
        }

    def coverage(self) -> pd.DataFrame:
        """Return how many scans each reader called, of those that the model has scored, by hospital and class."""
        rows = []
        for reader in self._readers():
            mine = self.calls[self.calls["rater"] == reader]
            for hospital, wanted in self.scores.groupby("hospital"):
                part = mine[mine["hospital"] == hospital]
                counts = {"called": len(part), "not called": len(wanted) - len(part)}
                classes = {
                    name: int(part["label"].isin(labels).sum()) for name, labels in CASES.items() if name != "all"
                }
                rows.append({"rater": reader, "hospital": hospital, **counts, **classes})
        return pd.DataFrame(rows, columns=["rater", "hospital", "called", "not called", "COVID+", "COVID-"]).set_index(
            ["rater", "hospital"]
        )

    def shares(self) -> pd.DataFrame:
        """Return the right calls of each rater, hospital and measure: rater, kind, hospital, measure, k, n, share, printed.

        share: an Estimate in per cent with Wilson's interval (1927). printed: claim_id, published, published_n of the printed
        rater beside whom this one stands: readers in the order of their ids beside Rad1 and Rad2, the model beside COVID3D.
        """
        rows, readers = [], self._readers()
        for (rater, kind, hospital), part in self.calls.groupby(["rater", "kind", "hospital"], sort=False):
            name = f"Rad{readers.index(rater) + 1}" if rater in readers else MODEL
            for measure, label in MEASURES.items():
                cases = part[part["label"] == label]
                k, n = int((cases["call"] == label).sum()), len(cases)
                rows.append((rater, kind, name, hospital, measure, k, n, wilson(k, n).of_unit("%")))
        found = pd.DataFrame(rows, columns=["rater", "kind", "reader", "hospital", "measure", "k", "n", "share"])
        found["value"] = [share.value for share in found["share"]]
        return found.merge(published_table_2(), on=["reader", "hospital", "measure"], how="left")

    def table_2(self) -> pd.DataFrame:
        """Return Table 2, one row a rater and hospital: what was printed, what was found in per cent, and as k of n.

        A printed percentage stands with its cases, and with MARK where no count of the stated cases prints so.
        """
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for found in self.shares().to_dict("records"):
            rater, measure = found["rater"], found["measure"]
            row = rows.setdefault((rater, found["hospital"]), {"rater": rater, "hospital": found["hospital"]})
            row[f"{measure}, printed"] = printed_text(found["published"], found["published_n"])
            row[measure] = found["share"]
            row[f"{measure}, cases"] = f"{found['k']} of {found['n']}"
        keys = ["rater", "hospital"]
        return pd.DataFrame(list(rows.values()), columns=None if rows else keys).set_index(keys)

    def aucs(self) -> pd.DataFrame:
        """Return each reader's AUC from the confidence, and the model's lead on the same cases (paired DeLong 1988).

        Columns cases (called with a confidence), without (called without one), AUC, AUC of COVID3D, lead, p, direction. There is
        no lead with fewer than FEWEST cases of a class, where a normal approximation says nothing.
        """
        rows = []
        for reader in self._readers():
            mine = self.calls[self.calls["rater"] == reader].merge(self.scores[["scan_id", "logit"]], on="scan_id")
            for hospital, part in mine.groupby("hospital"):
                rated = part.dropna(subset=["rating"])
                few = rated["label"].value_counts().reindex([0, 1], fill_value=0).min() < FEWEST
                lead = TOO_FEW if few else paired_delong(rated["label"], rated["logit"], rated["rating"])
                rows.append(
                    {
                        "rater": reader,
                        "hospital": hospital,
                        "cases": len(rated),
                        "without": len(part) - len(rated),
                        "AUC": auc(rated["label"], rated["rating"]),
                        "AUC of COVID3D": auc(rated["label"], rated["logit"]),
                        "lead": lead.estimate,
                        "p": lead.p,
                        "direction": direction(float(lead.estimate), MODEL, reader, unit=""),
                    }
                )
        columns = ["rater", "hospital", "cases", "without", "AUC", "AUC of COVID3D", "lead", "p", "direction"]
        return pd.DataFrame(rows, columns=columns).set_index(["rater", "hospital"])

    def read_off(self) -> pd.DataFrame:
        """Return, in per cent, the model's sensitivity on each hospital's own ROC curve at each reader's specificity.

        A description of that curve, not an operating point: its threshold is chosen on the cases it is measured on.
        """
        rows = []
        points = _points(self.shares().query("kind == 'reader'"))
        for point in points.dropna(subset=["specificity"]).to_dict("records"):
            cases = self.scores[self.scores["hospital"] == point["hospital"]]
            if cases["label"].nunique() == 2:
                _, sensitivity, specificity = roc(cases["label"], cases["logit"])
                best = 100 * float(sensitivity[100 * specificity >= point["specificity"] - 1e-7].max())
                rows.append((point["rater"], point["hospital"], point["specificity"], point["sensitivity"], best))
        columns = ["rater", "hospital", "reader's specificity", "reader's sensitivity", "model's sensitivity there"]
        return pd.DataFrame(rows, columns=columns).set_index(["rater", "hospital"])

    def agreement(self) -> pd.DataFrame:
        """Return how far each two readers agree, by hospital, on all cases, on COVID+ and on COVID- cases; and model and reader.

        Columns n, agree (share of cases), kappa, only first and only second (calls of COVID+ that the other does not share), p
        (exact McNemar), direction (who calls COVID+ more often), gap: |difference of the shares called COVID+| in points, for
        one class |Rad1 - Rad2| of Table 2. Model (Youden) and reader on all cases only; `differences` has the classes.
        """
        readers = self._readers()
        pairs = [(first, second, tuple(CASES)) for first, second in combinations(readers, 2)]
        pairs += [(YOUDEN, reader, ("all",)) for reader in readers]
        rows = []
        for first, second, kinds in pairs:
            names = MODEL if first == YOUDEN else first, second
            for hospital, part in self._paired(first, second).groupby("hospital"):
                for cases in kinds:
                    inside = part[part["label"].isin(CASES[cases])]
                    if len(inside):
                        facts = _agreement(inside["call_a"], inside["call_b"], names)
                        rows.append({"raters": " and ".join(names), "hospital": hospital, "cases": cases, **facts})
        keys = ["raters", "hospital", "cases"]
        return pd.DataFrame(rows).set_index(keys) if rows else pd.DataFrame(columns=[*keys, "kappa"]).set_index(keys)

    def comparisons(self) -> pd.DataFrame:
        """Return model (Youden) and reader on the cases that both called, by reader, hospital and measure.

        Columns cases, only COVID3D right, only reader right, McNemar p (exact, nominal), direction; and two one-sided score
        tests of paired shares against the margin (Schuirmann 1987; Tango 1998): difference (model minus reader in points, 95 %
        limits), 90 % from, 90 % to, p, equivalent, best p (the p of calls that agree on every case), cases needed (for 80 %
        power where the two do not differ and disagree as often as here, `cases_for_equivalence`).
        """
        rows = []
        for reader in self._readers():
            for hospital, part in self._paired(YOUDEN, reader).groupby("hospital"):
                for measure, label in MEASURES.items():
                    cases = part[part["label"] == label]
                    if len(cases):
                        facts = _compared(
                            cases["call_a"] == label, cases["call_b"] == label, self.margin_points, reader
                        )
                        rows.append({"rater": reader, "hospital": hospital, "measure": measure, **facts})
        keys = ["rater", "hospital", "measure"]
        return pd.DataFrame(rows, columns=[*keys, *PAIRED, *TESTED]).set_index(keys)

    def gain(self) -> pd.DataFrame:
        """Return what the prior scan changed within each reader, `stay_readers.gain` in points, with its direction."""
        found = (
            stay_readers.gain(self.stays) if len(self.stays) else pd.DataFrame(columns=["gain"]).rename_axis("reader")
        )
        return found.assign(
            gain=[replace(gain.of_unit("%"), unit="points") for gain in found["gain"]],
            direction=[direction(100 * float(gain), "two scans", "one scan") for gain in found["gain"]],
        )

    def in_short(self) -> dict[str, Any]:
        """Return the chapter's answers in words, for any number of readers: what prose can name in every run."""
        off, widths = self.read_off(), [share.high - share.low for share in self.shares()["share"] if share.known]
        agreement, aucs, gain = (_rows(table) for table in (self.agreement(), self.aucs(), self.gain()))
        below = int((off["reader's sensitivity"] < off["model's sensitivity there"]).sum())
        kappas = [
            f"{row['raters']} at {row['hospital']} {row['kappa'].short()}" for row in agreement if row["cases"] == "all"
        ]
        gains = [f"{row['reader']}: {row['direction']}, {value_text(row['McNemar p'], 'p')}" for row in gain]
        said = {
            "readers below the curve": Estimate(below, remark=f"of {len(off)}") if len(off) else "",
            "kappa": "; ".join(kappas),
            "smallest p": _smallest_p(_rows(self.comparisons())),
            "AUC": "; ".join(f"{row['rater']} at {row['hospital']} {row['AUC'].short()}" for row in aucs),
            "gain": "; ".join(gains),
        }
        widest = Estimate(max(widths), unit="points") if widths else Estimate.missing("no case")
        return {"widest interval": widest} | {name: text or Estimate.missing(NOBODY) for name, text in said.items()}

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
        """Return the ROC curves of model and readers at each hospital, with the points of both and the printed ones."""
        model = self.scores.assign(rater=MODEL, rating=self.scores["logit"])
        rated = pd.concat([model, self.calls[self.calls["kind"] == "reader"]]).dropna(subset=["rating"])
        curves = {
            (str(hospital), str(rater)): roc(part["label"], part["rating"])[1:]
            for (rater, hospital), part in rated.groupby(["rater", "hospital"])
            if part["label"].nunique() == 2
        }
        printed = published_table_2().rename(columns={"reader": "rater", "published": "value"})
        return draw.roc_with_readers(curves, _points(self.shares()), _points(printed))

    def plot_equivalence(self) -> Figure:
        """Return the differences model minus reader with their 90 % intervals, and the margin."""
        return draw.equivalence(self.comparisons(), self.margin_points)

    def _readers(self) -> list[str]:
        names = self.calls.loc[self.calls["kind"] == "reader", "rater"].unique()
        return sorted(names, key=lambda name: (len(name), name))  # R2 before R10

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
    return ReaderComparison(run, study, scores, cuts, calls, margin, stay_calls(study, fine_tuning.all_pairs(run)))


# --- the calls -------------------------------------------------------------------------------------------------------


def deployed_scores(run: Run) -> pd.DataFrame:
    """Return the deployed fold's scores of the first scans of B and C, nominal window: scan_id, hospital, label, logit.

    As in chapter 4 a scan that some model gave no score is left out (`scored.usable`).
    """
    table = scored.usable(results.external_scores(run))
    chosen = (table["model"] == THREE_D) & (table["split"] == "external") & (table["window"] == "nominal")
    return table.loc[chosen, ["scan_id", "hospital", "label", "logit"]].reset_index(drop=True)


def thresholds(run: Run) -> dict[str, float]:
    """Return the model's operating thresholds (logit) by rule, fixed on the deployed fold's validation scans of A.

    Youden's threshold is NaN when these are of one class; no call is made with it.
    """
    scores = scored.usable(results.out_of_fold(run))
    inside = scores[scores["fold"] == results.deployed_fold(run)]
    return {YOUDEN: youden_threshold(inside["label"], inside["logit"]), HALF: 0.0}


def reader_calls(study: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the readers' COVID+ calls on the scans that the model has scored, with their hospitals and labels."""
    calls = study[study["task"] == "covid"].merge(scores[["scan_id", "hospital", "label"]], on="scan_id")
    sign = 2 * calls["call"].astype(float) - 1
    rating = sign * calls["confidence"].astype("Float64").to_numpy(float, na_value=math.nan)
    return _calls(calls.assign(rater=calls["reader_id"], kind="reader", rating=rating))


def stay_calls(study: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the readers' ratings of the stay of the test patients: reader_id, task, scan_id, high, label.

    pairs: of `fine_tuning.all_pairs`; as in chapter 7, a patient is judged at the index scan.
    """
    index = pairs[(pairs["scan_index"] == 1) & (pairs["test"] == 1)]
    calls = study.loc[study["task"] != "covid", ["reader_id", "task", "scan_id", "call"]]
    return calls.rename(columns={"call": "high"}).merge(index[["scan_id", "label"]], on="scan_id")


def model_calls(scores: pd.DataFrame, cuts: dict[str, float]) -> pd.DataFrame:
    """Return the model's calls (logit >= threshold) by each rule that has a threshold."""
    parts = [
        scores.assign(rater=name, kind="model", call=(scores["logit"] >= cut).astype(int), rating=scores["logit"])
        for name, cut in cuts.items()
        if math.isfinite(cut)
    ]
    return _calls(pd.concat(parts, ignore_index=True))


def _calls(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["rater", "kind", "hospital", "scan_id", "label", "call", "rating"]
    return table[columns].astype({"label": int, "call": int, "rating": float})


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """Return operating points in per cent, one row a rater and hospital: sensitivity, specificity; from a column value."""
    wide = table.pivot(index=["rater", "hospital"], columns="measure", values="value")
    return wide.reindex(columns=list(MEASURES)).reset_index()


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


def printed_text(percent: float, cases: float) -> str:
    """Return a printed percentage with the counts that print so: "95 % (19 of 20)"; with MARK where none does."""
    if math.isnan(percent):
        return "not printed"
    cases = int(cases)
    counts = " or ".join(map(str, attainable(percent, cases)))
    return f"{percent:g} % ({counts} of {cases})" if counts else f"{percent:g} % {MARK} (no count of {cases})"


def _agreement(a: pd.Series, b: pd.Series, names: tuple[str, str]) -> dict[str, Any]:
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return {
        "n": len(a),
        "agree": float((a == b).mean()),
        "kappa": kappa(a, b),
        "only first": only_a,
        "only second": only_b,
        "p": mcnemar_exact(only_a, only_b),
        "direction": direction(100 * (only_a - only_b) / len(a), *names),
        "gap": 100 * abs(only_a - only_b) / len(a),
    }


def _compared(model: pd.Series, human: pd.Series, margin_points: float, reader: str) -> dict[str, Any]:
    """Return the tests of one comparison; model, human: whether each call is right, on the same cases."""
    only_model, only_reader = int((model & ~human).sum()), int((human & ~model).sum())
    found = tost_paired_proportions(only_model, only_reader, len(model), margin_points / 100)
    difference, narrow = replace(found.difference.of_unit("%"), unit="points"), found.interval_90.of_unit("%")
    needed = cases_for_equivalence((only_model + only_reader) / len(model), margin_points / 100)
    paired = len(model), only_model, only_reader, mcnemar_exact(only_model, only_reader)
    tested = difference, narrow.low, narrow.high, found.p, bool(found.equivalent), found.best_p, needed
    return dict(zip(PAIRED, (*paired, direction(float(difference), MODEL, reader)), strict=True)) | dict(
        zip(TESTED, tested, strict=True)
    )


def _smallest_p(comparisons: list[dict[Any, Any]]) -> str:
    """Return the smallest of McNemar's p with its reader and direction; blank without a comparison."""
    if not comparisons:
        return ""
    row = min(comparisons, key=lambda row: row["McNemar p"])
    where = f"against {row['rater']}, {row['measure']} at {row['hospital']}, {row['direction']}"
    return f"{value_text(row['McNemar p'], 'p')} ({where}; the smallest of {len(comparisons)}, not corrected)"


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.reset_index().to_dict("records")


def equivalence_statement(table: pd.DataFrame, margin_points: float) -> str:
    """Return in plain words what numbers of this size can show of an equivalence; table: of `equivalence`."""
    if table.empty:
        return "There are no paired calls, so equivalence cannot be judged."
    text = f"Equivalence within {margin_points:g} points is shown in {table['equivalent'].sum()} of {len(table)} comparisons."
    hopeless = table[table["best p"] >= 0.05]
    if len(hopeless):
        sizes = ", ".join(str(n) for n in sorted(set(hopeless["cases"]), reverse=True))
        text += (
            f" With {sizes} cases it cannot be shown: even calls that agree on every case give "
            f"{value_text(hopeless['best p'].min(), 'p')} at best. Not finding a difference is not finding equivalence."
        )
    low, high = table["cases needed"].min(), table["cases needed"].max()
    return text + (
        f" For a power of 80 % it takes {low}{f' to {high}' if high > low else ''} cases of a class, where network and"
        " reader do not differ and disagree as often as here."
    )
