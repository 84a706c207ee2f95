"""Chapter 1: which scans and patients there are, what intake refused, and that nothing leaks between the folds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.cohort.clinical import CODES, FEWEST_PCR_TESTS
from covid3d.cohort.folds import read_splits, require_certificate
from covid3d.cohort.intake import grid_spacing, read_intake
from covid3d.cohort.manifest import ROLES, read_manifest
from covid3d.cohort.store import Store
from covid3d.ct.grid import axis_weights
from covid3d.ct.lungs import lung_mask
from covid3d.figures import data as draw
from covid3d.figures.privacy import WHOLE, shown_box
from covid3d.run import steps
from covid3d.run.files import read_json
from covid3d.run.profile import Run
from covid3d.stats.estimate import Estimate

ACQUISITION = {
    "n_slices": "slices",
    "spacing_z_mm": "slice spacing, mm",
    "spacing_y_mm": "pixel size, mm",
    "hu_mean": "HU, mean",
    "hu_sd": "HU, SD",
    "lung_volume_ml": "lung volume, ml",
}
MOST_NAMES = 3


@dataclass(frozen=True)
class Data:
    """The cohort, read once.

    ordered: the order form, one row a scan. scans: the delivered manifest. intake: one row a scan that was read, controls
    included. splits: one row a fold and first scan of A. flow: counts of the flow diagram. certificate: what was looked for.
    """

    run: Run
    ordered: pd.DataFrame
    scans: pd.DataFrame
    intake: pd.DataFrame
    splits: pd.DataFrame
    flow_counts: dict[str, Any]
    certificate: dict[str, Any]

    # --- scans -------------------------------------------------------------------------------------------------------

    def flow(self) -> pd.DataFrame:
        """Return the flow of scans: step, scans, patients, slices; controls are not among them."""
        delivered = self.intake[self.intake["role"].isin(ROLES)]
        accepted = delivered.loc[delivered["ok"] == 1, "scan_id"]
        taken = self.scans["scan_id"].isin(accepted)
        parts = {
            "ordered": self.ordered,
            "delivered": self.scans,
            "accepted": self.scans[taken],
            "refused": self.scans[~taken],
        }
        rows = [
            {"step": name, "scans": len(part), "patients": part["patient_id"].nunique(), "slices": _slices(part)}
            for name, part in parts.items()
        ]
        return pd.DataFrame(rows).set_index("step")

    def refused(self) -> pd.DataFrame:
        """Return the scans that were refused, controls included: scan_id, code, message."""
        return self.intake.loc[self.intake["ok"] == 0, ["scan_id", "code", "message"]].set_index("scan_id")

    def kept(self) -> pd.DataFrame:
        """Return what was odd about scans that were kept: code, what it says, scans, patients."""
        found = self.flow_counts["kept_with_code"]
        rows = [(code, CODES.get(code, ""), held["scans"], held["patients"]) for code, held in found.items()]
        return pd.DataFrame(rows, columns=["code", "what it says", "scans", "patients"]).set_index("code")

    def acquisition(self) -> pd.DataFrame:
        """Return what headers and pixels say of the accepted scans of each hospital: means, and names of kernels and makers."""
        good = self.intake[self.intake["role"].isin(ROLES) & (self.intake["ok"] == 1)]
        return _by_hospital(good, _acquisition_of)

    def unused_slices(self) -> int:
        """Return how many slices have no weight in the network's input, over all numbers of slices that occur."""
        good = self.intake[self.intake["role"].isin(ROLES) & (self.intake["ok"] == 1)]
        depth = self.run.profile.model.grid[0]
        sizes = good["n_slices"].astype(int).unique()
        return sum(int((axis_weights(size, depth).sum(axis=0) == 0).sum()) for size in sizes)

    def plot_examples(self, label: int) -> Figure:
        """Return three planes of one first scan of each hospital, each with its own voxel size; of a site's the lungs' box."""
        grid, window, store = self.run.profile.model.grid, self.run.profile.windows, Store.of(self.run)
        scans: dict[str, draw.Scan] = {}
        for row in examples(self.intake, label).to_dict("records"):
            hu, spacing = np.asarray(store.get(row["scan_id"])), grid_spacing(row, grid)
            box = shown_box(self.run.cohort, lung_mask(hu, spacing)) if self.run.cohort == "site" else WHOLE
            scans[f"hospital {row['hospital']}"] = hu[box], spacing
        return draw.planes({name: scan for name, scan in scans.items() if scan[0].size}, window.level, window.width)

    def example(self, label: int) -> dict[Any, Any]:
        """Return the first of these scans: its row of intake.csv, and the manifest's source; empty where there is none."""
        sources = self.scans[["scan_id", "source"]]
        rows = examples(self.intake, label).head(1).merge(sources, on="scan_id", validate="1:1").to_dict("records")
        return rows[0] if rows else {}

    # --- patients ----------------------------------------------------------------------------------------------------

    @property
    def first(self) -> pd.DataFrame:
        """The first scan of every patient; it carries the label."""
        return self.scans[self.scans["scan_index"] == 0]

    @property
    def followed(self) -> pd.DataFrame:
        """All scans of the patients who were scanned more than once."""
        return self.scans.groupby("patient_id").filter(lambda part: len(part) > 1)

    def patients(self) -> pd.DataFrame:
        """Return the patients of each hospital: all, COVID+, COVID-."""
        return _by_hospital(
            self.first,
            lambda part: {
                "patients": len(part),
                "COVID+": int((part["label"] == 1).sum()),
                "COVID-": int((part["label"] == 0).sum()),
            },
        )

    def plot_patients(self) -> Figure:
        """Return the patients with a first scan by hospital and label."""
        return draw.cohort(self.first.groupby(["hospital", "label"]).size().rename("patients").reset_index())

    def demography(self) -> pd.DataFrame:
        """Return who the patients of each hospital and class are, at their first scan: age, sex, stay and how it ended."""
        rows = [
            {"hospital": f"hospital {hospital}", "class": name, **_demography_of(part[part["label"] == label])}
            for hospital, part in self.first.groupby("hospital")
            for label, name in ((1, "COVID+"), (0, "COVID-"))
            if (part["label"] == label).any()
        ]
        return pd.DataFrame(rows).set_index(["hospital", "class"])

    def inclusion(self) -> dict[str, Any]:
        """Return whether the paper's conditions hold: labels, tests, hospitals without a common patient, quality."""
        tests = self.first["rt_pcr_tests"].dropna()
        enough = bool((tests >= FEWEST_PCR_TESTS).all())
        delivered = self.intake[self.intake["role"].isin(ROLES)]
        return {
            "hospitals": self.scans["hospital"].nunique(),
            "labels are 0 or 1": bool(self.first["label"].dropna().isin([0, 1]).all()),
            "two tests or more": enough if len(tests) else Estimate.missing("the manifest has no number of tests"),
            "hospitals share no patient": bool((self.scans.groupby("patient_id")["hospital"].nunique() == 1).all()),
            "every scan was accepted": bool((delivered["ok"] == 1).all()),
        }

    def stays(self) -> pd.DataFrame:
        """Return the days left in hospital at the scans of followed patients: the first, the second (index) and all."""
        followed, high = self.followed, self.run.profile.prognosis.high_risk_days
        parts = {
            "first scan": followed[followed["scan_index"] == 0],
            "index scan": followed[followed["scan_index"] == 1],
            "all scans": followed,
        }
        rows = []
        for name, part in parts.items():
            days = part["days_to_discharge"].dropna().astype(float)
            long = 100 * (days >= high).mean()
            rows.append(
                {
                    "scan": name,
                    "scans": len(part),
                    "median days left": _known(days.median(), "no stay is known"),
                    f"{high:.0f} days or more, %": _known(long, "no stay is known"),
                }
            )
        return pd.DataFrame(rows).set_index("scan")

    def plot_scan_times(self) -> Figure:
        """Return the scans of followed patients over the days since the first, and when they left."""
        return draw.scan_times(self.followed)

    # --- folds -------------------------------------------------------------------------------------------------------

    def fold_sizes(self) -> pd.DataFrame:
        """Return the patients of each label in the validation part of each fold."""
        inside = self.splits[self.splits["split"] == "validation"]
        held = inside.merge(self.first[["scan_id", "label"]], on="scan_id", validate="m:1")
        rows = [
            {"fold": fold, "COVID+": int((part["label"] == 1).sum()), "COVID-": int((part["label"] == 0).sum())}
            for fold, part in held.groupby("fold")
        ]
        return pd.DataFrame(rows, columns=["fold", "COVID+", "COVID-"]).set_index("fold")

    def leakage(self) -> pd.DataFrame:
        """Return the leakage certificate: check, question, compared, passed; the last row is of all checks together."""
        checks = pd.DataFrame(self.certificate["checks"])[["check", "question", "compared", "passed"]]
        whole = ("all of them", "Has every check passed?", len(checks), bool(self.certificate["passed"]))
        return pd.concat([checks, pd.DataFrame([whole], columns=checks.columns)], ignore_index=True).set_index("check")


def examples(intake: pd.DataFrame, label: int) -> pd.DataFrame:
    """Return the first accepted first scan of each hospital with this label, rows of intake.csv."""
    good = intake[(intake["ok"] == 1) & (intake["label"] == label) & intake["role"].isin(["development", "external"])]
    return good.groupby("hospital").head(1)


def load(run: Run) -> Data:
    """Return the chapter's tables, delivering, reading and splitting the cohort where that is missing.

    Raises MissingResult, with the command to run, where `run.compute` is False and something is missing; ManifestError
    where the leakage certificate has not passed.
    """
    steps.ensure_needs(run, "01_data")
    certificate = require_certificate(run)
    tables = (read_manifest(run.order_form), read_manifest(run.manifest), read_intake(run), read_splits(run))
    return Data(run, *tables, read_json(run.path("flow.json")), certificate)


def _by_hospital(table: pd.DataFrame, facts: Callable[[pd.DataFrame], dict[str, Any]]) -> pd.DataFrame:
    """Return one row a hospital with the facts about its part of a table."""
    rows = [{"hospital": f"hospital {name}", **facts(part)} for name, part in table.groupby("hospital")]
    return pd.DataFrame(rows).set_index("hospital")


def _slices(table: pd.DataFrame) -> Estimate:
    """Return the number of slices, with the number of scans for which it is not known."""
    unknown = int(table["n_slices"].isna().sum())
    if unknown and unknown == len(table):
        return Estimate.missing("no number of slices is known")
    total = Estimate(int(table["n_slices"].sum()))
    return total.noted(f"unknown for {unknown} scans") if unknown else total


def _acquisition_of(good: pd.DataFrame) -> dict[str, Any]:
    means = {
        words: _known(pd.to_numeric(good[column]).mean() if column in good else None, "not in the headers")
        for column, words in ACQUISITION.items()
    }
    return {"scans": len(good), **means, "kernel": _names(good, "kernel"), "made by": _names(good, "manufacturer")}


def _names(table: pd.DataFrame, column: str) -> str | Estimate:
    """Return the names that occur in a column, the most frequent first; after the third their number."""
    found = table[column].dropna().astype(str) if column in table else pd.Series(dtype=str)
    names = found[found != ""].value_counts().index.tolist()
    if not names:
        return Estimate.missing("not in the headers")
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _demography_of(first: pd.DataFrame) -> dict[str, Any]:
    ages, sexes = first["age"].dropna().astype(float), first["sex"][first["sex"].isin(["F", "M"])]
    left = first["days_to_discharge"].dropna().astype(float)
    ends = first["outcome"][first["outcome"] != ""]
    why = "no outcome is known"
    return {
        "patients": len(first),
        "median age": _known(ages.median(), "no age is known"),
        "youngest": _known(ages.min(), "no age is known"),
        "oldest": _known(ages.max(), "no age is known"),
        "women, %": _known(100 * (sexes == "F").mean(), "no sex is known"),
        "median days to the end of stay": _known(left.median(), "no stay is known"),
        "died": int((ends == "died").sum()) if len(ends) else Estimate.missing(why),
        "still in hospital": int((ends == "in_hospital").sum()) if len(ends) else Estimate.missing(why),
    }


def _known(value: Any, why: str) -> Estimate:
    """Return a number, or why there is none."""
    return Estimate.missing(why) if pd.isna(value) else Estimate(float(value))
