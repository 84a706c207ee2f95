"""Chapter 10: a hospital's own scans with given weights: what was read, what was refused, and how the network does there.

Cells with fewer than five patients are suppressed, pictures hold no more than the lungs, and weights that were trained on
simulated scans claim nothing about a patient.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid3d.chapters import results, scored
from covid3d.chapters.results import THREE_D
from covid3d.cohort.clinical import CODES, acquisition_table, findings
from covid3d.cohort.intake import accepted, grid_spacing, read_intake
from covid3d.cohort.manifest import read_manifest
from covid3d.cohort.store import Store
from covid3d.ct.lungs import lung_mask
from covid3d.ct.windows import nominal_window
from covid3d.dicom.refusals import CURES
from covid3d.figures.privacy import shown_box
from covid3d.figures.style import canvas, empty, plane, windowed
from covid3d.network import registry, scoring
from covid3d.network.given import describe_classifier
from covid3d.network.weights import describe_weights, grid_text, load_weights
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.run.profile import Run
from covid3d.stats.auc import auc
from covid3d.stats.estimate import Estimate

SMALLEST_CELL = 5
GIVEN = "given"
SIMULATED = "trained on simulated scans: this number says nothing about this patient"


@dataclass(frozen=True)
class YourHospital:
    """What the intake found, and the given network's scores.

    scans: the delivered manifest, under pseudonyms. intake: one row a scan (ok, code, message, acquisition). scores: one row
    an accepted scan with a finite score (scan_id, hospital, label, logit). notice: what must stand before any number; ""
    when nothing must.
    """

    run: Run
    scans: pd.DataFrame
    intake: pd.DataFrame
    scores: pd.DataFrame
    notice: str

    def counts(self) -> pd.DataFrame:
        """Return first scans by hospital: COVID+, COVID- and all; cells below five are suppressed."""
        first = self.scans[self.scans["scan_index"] == 0]
        table = (
            first.assign(label=first["label"].astype(int)).groupby(["hospital", "label"]).size().unstack(fill_value=0)
        )
        table = table.reindex(columns=[1, 0], fill_value=0).rename(columns={1: "COVID+", 0: "COVID-"})
        return table.map(_cell).rename_axis(columns=None)

    def read(self) -> dict[str, Estimate]:
        """Return how many scans were delivered, read and refused, and how many of those read the network gave no score."""
        ok, unscored = self.intake["ok"] == 1, ~self.intake["scan_id"].isin(self.scores["scan_id"])
        found = {"delivered": len(ok), "read": int(ok.sum()), "refused": int((~ok).sum())}
        found["without a score"] = int((ok & unscored).sum())
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

    def acquisition(self) -> pd.DataFrame:
        """Return how the scans of each hospital and label were made; a difference between labels can be learnt."""
        table = acquisition_table(self.intake).set_index(["hospital", "label", "setting", "value"])
        return table.map(_cell)

    def weights(self) -> pd.Series:
        """Return what the given weights file says of itself."""
        return pd.Series(dict(sorted(describe_weights(weights_file(self.run)).items())), name="content")

    def auc(self) -> pd.DataFrame:
        """Return the AUC of first scans by hospital; missing, with the reason, for few scans and for simulated weights."""
        first = self.scans.loc[self.scans["scan_index"] == 0, "scan_id"]
        rows = []
        for hospital, part in self.scores[self.scores["scan_id"].isin(first)].groupby("hospital"):
            labels = pd.to_numeric(part["label"])
            if self.notice:
                found = Estimate.missing(self.notice)
            elif min((labels == value).sum() for value in (0, 1)) < SMALLEST_CELL:
                found = Estimate.missing(f"a class has fewer than {SMALLEST_CELL} scans")
            else:
                found = auc(labels, part["logit"])
            rows.append((hospital, found))
        return pd.DataFrame(rows, columns=["hospital", "AUC"])

    def logits(self) -> pd.DataFrame:
        """Return mean and SD of the logit by hospital; nothing where it has few patients, or where a notice must stand."""
        groups = self.scores.groupby("hospital")
        table = groups["logit"].agg(["mean", "std"])[
            (groups["patient_id"].nunique() >= SMALLEST_CELL) & (not self.notice)
        ]
        return table.rename(columns={"mean": "mean logit", "std": "SD"})

    def plot_lungs(self) -> Figure:
        """Return three planes of one scan of each hospital in the lung window, cropped to its lungs."""
        facts, store = self.intake.set_index("scan_id"), Store.of(self.run)
        chosen = self.scores.drop_duplicates("hospital")[["hospital", "scan_id"]].to_dict("records")
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
    scores = scored.usable(results.external_scores(run), "external/predictions.csv")
    return YourHospital(run, read_manifest(run.manifest), read_intake(run), scores, notice(run))


def notice(run: Run) -> str:
    """Return the sentence that must stand before any number: real scans, and weights made on simulated ones."""
    simulated = not run.is_phantom and describe_weights(weights_file(run))["trained_on"] == "phantom"
    return SIMULATED if simulated else ""


def weights_file(run: Run) -> Path:
    """Return the weights file that the run was given."""
    path = Path(str(run.config.weights))
    return path if path.is_absolute() else run.root / path


def ensure_scores(run: Run) -> Path:
    """Return the folder of predictions.csv: every accepted scan by the given weights, in the nominal window."""
    inputs = {"intake": run.intake, "weights": weights_file(run)}

    def compute(folder: Path) -> None:
        write_csv(folder / "predictions.csv", _score(run))

    return steps.ensure(run, "given", run.path("external"), inputs, compute)


def _score(run: Run) -> pd.DataFrame:
    """Score every accepted scan; no probability from weights made on simulated scans."""
    describe_classifier(weights_file(run))
    model = registry.build(THREE_D, run.profile)
    expect = {"model": THREE_D, "grid": grid_text(run.profile.model.grid)}
    metadata = load_weights(weights_file(run), model, expect=expect)
    table, device = accepted(run), scoring.use_device(run)
    window, logits = nominal_window(run.profile.windows), np.empty(0, np.float32)
    if len(table):
        logits = scoring.score(model.eval(), Store.of(run).stack(table["scan_id"]), [window], device=device)[:, 0]
    rows = scoring.prediction_rows("site", GIVEN, 0, 0, table, table["role"].tolist(), "nominal", logits)
    if metadata["trained_on"] == "phantom":
        rows["probability"] = float("nan")
    return rows


def _cell(count: int) -> str:
    return f"< {SMALLEST_CELL}" if count < SMALLEST_CELL else str(count)
