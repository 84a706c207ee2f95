"""Does s follow how ill the lung is? Beside s the true burden (simulated scans) and the measured opacity, within patients."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from covid3d.chapters.opacity import measured
from covid3d.chapters.truth import read_truth
from covid3d.run.profile import Run
from covid3d.stats import courses
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import paired_difference, wilson

NO_TRUTH = "real scans have no known burden"
BURDEN, BEST = "burden_fraction", "oracle_grid_logit"
MEASURES = {BURDEN: "true burden", "above_700": "lung above -700 HU", "above_500": "lung above -500 HU"}
WEEK = (7, 10)


def beside(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of scans with `MEASURES` (shares of the lung) and the perfect reader's logit; NaN where not known."""
    truth = read_truth(run)
    known = pd.DataFrame(columns=[BURDEN, BEST], dtype=float) if truth is None else truth.set_index("scan_id")
    opaque = measured(run, table["scan_id"]) if len(table) else pd.DataFrame(columns=[*MEASURES], dtype=float)
    columns = {name: known[name] for name in (BURDEN, BEST)} | {name: opaque[name] for name in list(MEASURES)[1:]}
    return table.assign(**{name: table["scan_id"].map(values).astype(float) for name, values in columns.items()})


@dataclass(frozen=True)
class Severity:
    """Courses as `beside` returns them: of the followed COVID+ patients, and of COVID- patients with simulated later scans."""

    course: pd.DataFrame
    controls: pd.DataFrame

    def follows(self) -> pd.DataFrame:
        """Return the mean rank correlation of s within patients with each measure, and the perfect reader's; who is left out.

        few scans: patients with fewer than three that have both values; constant: patients of whom one of the two never varies.
        """
        rows = []
        for name, table in (("COVID+", self.course), ("COVID-", self.controls)):
            for column, words in MEASURES.items():
                s, best = (self._rank(table, score, column) for score in ("logit", BEST))
                rows.append((f"{name}, {words}", s.estimate, best.estimate, s.patients, s.few, s.constant))
        columns = ["patients, measure", "s", "perfect reader", "patients", "few scans", "constant"]
        return pd.DataFrame(rows, columns=columns).set_index(columns[0])

    def measures(self) -> pd.DataFrame:
        """Return the mean rank correlation within COVID+ patients of measured opacity with the true burden."""
        rows = [(MEASURES[name], self._rank(self.course, name, BURDEN).estimate) for name in list(MEASURES)[1:]]
        return pd.DataFrame(rows, columns=["measured", "with true burden"]).set_index("measured")

    @staticmethod
    def _rank(table: pd.DataFrame, score: str, column: str) -> courses.Within:
        if len(table) and table[[score, column]].isna().all().any():
            return courses.Within(Estimate.missing(NO_TRUTH), 0, table["patient_id"].nunique(), 0)
        return courses.rank_within(table, score, column)

    def with_burden(self) -> Estimate:
        """Return the mean rank correlation of s with the true burden within COVID+ patients."""
        return self._rank(self.course, "logit", BURDEN).estimate

    def week_apart(self, column: str = "logit") -> Estimate:
        """Return by how many points more COVID+ patients have their highest value on days 7 to 10 than their highest burden.

        Patients who have both; paired, by Tango's score interval.
        """
        tops = {"s": self._top(column), "burden": self._top(BURDEN)}
        both = pd.DataFrame({name: self._in_week(top) for name, top in tops.items()}).dropna().astype(bool)
        if both.empty:
            return Estimate.missing(NO_TRUTH)
        s, burden = both["s"], both["burden"]
        return (
            paired_difference(int((s & ~burden).sum()), int((burden & ~s).sum()), len(both))
            .of_unit("%")
            .of_unit("points")
        )

    def highest(self) -> pd.DataFrame:
        """Return how many COVID+ patients have their highest s, burden or opacity on days 7 to 10, and on the burden's scan.

        The second row is the perfect reader's, of the network's grid. The last is the schedule's: what share of a patient's scans
        lies on these days, so a scan drawn blindly would. The shares are compared with the burden's as `week_apart` does.
        """
        ill, rows = self._top(BURDEN), []
        for column, words in {"logit": "s", BEST: "perfect reader", **MEASURES}.items():
            top = self._top(column)
            in_week, same = self._in_week(top), top.isin(ill)
            share = wilson(int(in_week.sum()), len(top)).of_unit("%") if len(top) else Estimate.missing(NO_TRUTH)
            apart = "" if column == BURDEN else self.week_apart(column)
            rows.append((words, f"{in_week.sum()} of {len(top)}", share, apart, f"{same.sum()} of {len(top)}"))
        week = self.course["day"].between(*WEEK).groupby(self.course["patient_id"]).mean()
        blind = Estimate(float(week.mean()), method="mean share of a patient's scans").of_unit("%")
        rows.append(("a scan drawn blindly", "", blind if len(week) else Estimate.missing("no scans"), "", ""))
        columns = ["highest", "patients", "share", "above the burden's share", "on the burden's scan"]
        return pd.DataFrame(rows, columns=columns).set_index("highest")

    def _in_week(self, top: pd.Series) -> pd.Series:
        """Return, by patient, whether the scan of its row lies on days 7 to 10."""
        return pd.Series(self.course.loc[top, "day"].between(*WEEK).to_numpy(), index=top.index)

    def _top(self, column: str) -> pd.Series:
        """Return, by patient, the row of the scan with the highest value, the earliest of equals."""
        known = self.course.dropna(subset=[column, "day"]).sort_values("day", kind="stable")
        return known.groupby("patient_id")[column].idxmax()

    def changes(self) -> pd.DataFrame:
        """Return the mean change of s since the first scan by span of days, in COVID+ and in COVID- patients, and its word."""
        spans, rows = {"days 1 to 6": (1, 6), "days 7 to 10": WEEK, "day 11 or later": (11, float("inf"))}, []
        for name, (first, last) in spans.items():
            row: dict[str, Any] = {"span": name}
            for group, table in (("COVID+", self.course), ("COVID-", self.controls)):
                change = courses.change_of(table, first, last).of_unit("logit")
                row |= {group: change, f"{group}, in a word": courses.direction(change)}
            rows.append(row)
        return pd.DataFrame(rows).set_index("span")


def shares_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of scans for a reader: per cent of the lung, or why there is none."""
    why = {BURDEN: NO_TRUTH}
    return pd.DataFrame(
        {
            words: pd.Series(
                [_share(value, why.get(column, "no lung was found")) for value in table[column]], dtype=object
            )
            for column, words in MEASURES.items()
        }
    )


def _share(value: float, why: str) -> Estimate:
    return Estimate(value).of_unit("%") if pd.notna(value) else Estimate.missing(why)
