"""Chapter 10: a hospital's own scans with given weights: what was read, what was refused, and how the network does there.

Cells with fewer than five patients are suppressed, pictures hold no more than the lungs, one person is judged once, and weights
that were trained on simulated scans give no score of a real one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import results, scored
from covid3d.cohort.clinical import CODES, acquisition_table, findings
from covid3d.cohort.folds import near_copies
from covid3d.cohort.intake import accepted, grid_spacing, read_intake
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.persons import HASHES, left_out
from covid3d.cohort.store import Store
from covid3d.ct.lungs import lung_mask
from covid3d.ct.windows import nominal_window
from covid3d.dicom.refusals import CURES
from covid3d.figures.privacy import shown_box
from covid3d.figures.style import canvas, empty, plane, windowed
from covid3d.network import scoring
from covid3d.network.given import load_given
from covid3d.network.weights import describe_weights
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.run.profile import PHANTOM_MANUFACTURER, Run
from covid3d.stats.auc import auc
from covid3d.stats.estimate import Estimate

SMALLEST_CELL = 5
GIVEN = "given"
SIMULATED = "real scans get no score from weights that were trained on simulated ones"


@dataclass(frozen=True)
class YourHospital:
    """What the intake found, and the given network's scores.

    scans: the delivered manifest, under pseudonyms. intake: one row a scan (ok, code, message, acquisition). scores: one row
    an accepted scan with a finite score (scan_id, hospital, label, logit). doubled: scan_id and reason of scans that must not be
    judged as another patient's. notice: why no scan has a score; "" when they have.
    """

    run: Run
    scans: pd.DataFrame
    intake: pd.DataFrame
    scores: pd.DataFrame
    doubled: pd.DataFrame
    notice: str

    @property
    def first(self) -> pd.DataFrame:
        """The delivered first scans; label 0 or 1, and whether each was read and is judged."""
        first = self.scans[self.scans["scan_index"] == 0]
        read = first["scan_id"].isin(self.intake.loc[self.intake["ok"] == 1, "scan_id"])
        single, has_score = (
            ~first["scan_id"].isin(self.doubled["scan_id"]),
            first["scan_id"].isin(self.scores["scan_id"]),
        )
        return first.assign(label=first["label"].astype(int), delivered=True, read=read, judged=single & has_score)

    @property
    def judged(self) -> pd.DataFrame:
        """The scores that are judged: of first scans, each person once."""
        first = self.first
        return self.scores[self.scores["scan_id"].isin(first.loc[first["judged"], "scan_id"])]

    def counts(self) -> pd.DataFrame:
        """Return first scans by hospital and label: delivered, read, and judged; cells below five are suppressed."""
        groups = self.first.groupby(["hospital", "label"])[["delivered", "read", "judged"]].sum()
        every = [(name, label) for name in sorted(self.scans["hospital"].unique()) for label in (1, 0)]
        table = groups.reindex(every, fill_value=0).map(lambda count: _cell(int(count)))
        return table.rename(index={1: "COVID+", 0: "COVID-"}, level="label")

    def read(self) -> dict[str, Estimate]:
        """Return how many scans were delivered, read and refused, and of those read left out as copies and without a score."""
        ok, unscored = self.intake["ok"] == 1, ~self.intake["scan_id"].isin(self.scores["scan_id"])
        found = {"delivered": len(ok), "read": int(ok.sum()), "refused": int((~ok).sum())}
        found |= {"left out as doubles": len(self.doubled), "without a score": int((ok & unscored).sum())}
        return {name: Estimate(number, unit="scans") for name, number in found.items()}

    def refused(self) -> pd.DataFrame:
        """Return how many scans were refused for each reason, and what cures it."""
        codes = self.intake.loc[self.intake["ok"] == 0, "code"].value_counts().sort_index()
        cures = [CURES.get(str(code), "See the message in intake.csv.") for code in codes.index]
        return pd.DataFrame({"reason": codes.index, "scans": [_cell(int(count)) for count in codes], "cure": cures})

    def odd(self) -> pd.DataFrame:
        """Return what was odd about scans that were kept: code, scans, what it says."""
        codes = findings(self.scans, self.intake)["code"].value_counts()
        found = [(code, _cell(int(codes[code])), CODES[code]) for code in CODES if code in codes]
        return pd.DataFrame(found, columns=["code", "scans", "what it says"])

    def doubles(self) -> pd.DataFrame:
        """Return how many scans of patients with two ids are in no number that judges, and why."""
        counts = self.doubled["reason"].value_counts().sort_index()
        return pd.DataFrame({"reason": counts.index, "scans": [_cell(int(count)) for count in counts]})

    def acquisition(self) -> pd.DataFrame:
        """Return how the scans of each hospital and label were made; a difference between labels can be learnt."""
        table = acquisition_table(self.intake).set_index(["hospital", "label", "setting", "value"])
        return table.map(_cell)

    def weights(self) -> pd.Series:
        """Return what the given weights file says of itself."""
        return pd.Series(dict(sorted(describe_weights(self.run.given_weights).items())), name="content")

    def auc(self) -> pd.DataFrame:
        """Return the AUC by hospital, each person once; missing, with the reason, for few patients and for simulated weights."""
        rows = []
        for hospital, part in self._by_hospital():
            labels = pd.to_numeric(part["label"])
            if self.notice:
                found = Estimate.missing(self.notice)
            elif min((labels == value).sum() for value in (0, 1)) < SMALLEST_CELL:
                found = Estimate.missing(f"a class has fewer than {SMALLEST_CELL} patients")
            else:
                found = auc(labels, part["logit"])
            rows.append((hospital, found))
        return pd.DataFrame(rows, columns=["hospital", "AUC"])

    def logits(self) -> pd.DataFrame:
        """Return mean and SD of the logit by hospital, each person once; missing, with the reason, as `auc`."""
        rows = []
        for hospital, part in self._by_hospital():
            why = self.notice or f"fewer than {SMALLEST_CELL} patients"
            shown = len(part) >= SMALLEST_CELL and not self.notice
            values = (part["logit"].mean(), part["logit"].std()) if shown else (Estimate.missing(why),) * 2
            rows.append((hospital, *values))
        return pd.DataFrame(rows, columns=["hospital", "mean logit", "SD"]).set_index("hospital")

    def _by_hospital(self) -> list[tuple[str, pd.DataFrame]]:
        judged = self.judged
        return [(name, judged[judged["hospital"] == name]) for name in sorted(self.scans["hospital"].unique())]

    def plot_lungs(self) -> Figure:
        """Return three planes of one scan of each hospital in the lung window, cropped to its lungs."""
        facts, store = self.intake.set_index("scan_id"), Store.of(self.run)
        chosen = (
            self.intake[self.intake["ok"] == 1].drop_duplicates("hospital")[["hospital", "scan_id"]].to_dict("records")
        )
        figure, axes = canvas(max(len(chosen), 1), 3, width=8.0, height=2.6 * max(len(chosen), 1))
        shown = 0
        for row, scan in zip(axes, chosen, strict=False):
            grid = np.asarray(store.get(scan["scan_id"]))
            spacing = grid_spacing(facts.loc[scan["scan_id"]], store.shape)
            hu = grid[shown_box(self.run.cohort, lung_mask(grid, spacing))]
            for axis, (plot, which) in enumerate(zip(row, ("axial", "coronal", "sagittal"), strict=True)):
                if hu.size:
                    grey = windowed(hu, *nominal_window(self.run.profile.windows))
                    plane(plot, grey, hu.shape[axis] // 2, which, spacing, cmap="gray", vmin=0, vmax=1)
                    shown += 1
            row[0].set_ylabel(scan["hospital"])
        return figure if shown else empty("no lung was found")


def load(run: Run) -> YourHospital:
    """Return the chapter's results, scoring the scans when needed."""
    steps.ensure_needs(run, "10_your_hospital")
    scores = scored.usable(results.external_scores(run))
    return YourHospital(run, read_manifest(run.manifest), read_intake(run), scores, doubled(run), notice(run))


def doubled(run: Run) -> pd.DataFrame:
    """Return scan_id and reason of the scans that must not be judged as if they were another patient's."""
    hashes = read_intake(run)[["scan_id", *HASHES]]
    return left_out(accepted(run).merge(hashes, on="scan_id"), near_copies(run))


def notice(run: Run) -> str:
    """Return why no scan of the run gets a score, "" when they do: weights made on simulated scans, and a real one to score."""
    intake = read_intake(run)
    real = ~intake.loc[intake["ok"] == 1, "manufacturer"].str.startswith(PHANTOM_MANUFACTURER)
    return SIMULATED if real.any() and describe_weights(run.given_weights)["trained_on"] == "phantom" else ""


def ensure_scores(run: Run) -> Path:
    """Return the folder of predictions.csv: every accepted scan by the given weights, in the nominal window."""
    inputs = {"intake": run.intake, "certificate": run.path("leakage.json"), "weights": run.given_weights}

    def compute(folder: Path) -> None:
        write_csv(folder / "predictions.csv", _score(run))
        print(*_said(doubled(run), notice(run)), sep="\n", end="", flush=True)

    return steps.ensure(run, "given", run.path("external"), inputs, compute)


def _said(doubles: pd.DataFrame, why: str) -> list[str]:
    """Return the lines for the terminal: which scans are in no number that judges, and that none has a score."""
    counts = doubles["reason"].value_counts().sort_index()
    lines = [f"left out of every number that judges, {reason}: {count} scans" for reason, count in counts.items()]
    return [*lines, *([f"no scores: {why}"] if why else ()), ""]


def _score(run: Run) -> pd.DataFrame:
    """Score every accepted scan; where there is a notice no score is computed, so that none can leave the run."""
    model, _ = load_given(run)
    table, logits = accepted(run), np.empty(0, np.float32)
    if notice(run):
        logits = np.full(len(table), np.nan, np.float32)
    elif len(table):
        window, device = nominal_window(run.profile.windows), scoring.use_device(run)
        logits = scoring.score(model, Store.of(run).stack(table["scan_id"]), [window], device=device)[:, 0]
    return scoring.prediction_rows("site", GIVEN, 0, 0, table, table["role"].tolist(), "nominal", logits)


def _cell(count: int) -> str:
    return f"< {SMALLEST_CELL}" if count < SMALLEST_CELL else str(count)
