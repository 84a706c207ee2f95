"""Explanation with evidence: what a scan's logit loses when parts of its lung are made healthy, and whether that is disease.

Occlusion (`covid3d.network.occlusion`) takes no truth. It is judged by the true masks of simulated scans, beside the
activation map and beside maps that know nothing: the same everywhere, and of networks that were trained on random labels or
that have random weights (Adebayo et al., NeurIPS 2018, arXiv:1810.03292).
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from torch import nn

from covid3d.chapters import explanation, results, scored
from covid3d.chapters.explanation import (
    CLASSES,
    NO_TRUTH,
    SHARES,
    Maps,
    mass,
    ratio_of_means,
    read_map,
    signed_map,
)
from covid3d.chapters.measured import REACHED, judged
from covid3d.chapters.results import RANDOM_LABELS, TASK, THREE_D
from covid3d.chapters.truth import lesion_mask, lung_mask
from covid3d.cohort.intake import grid_spacing, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.lungs import whole_lung
from covid3d.ct.windows import Window, nominal_window
from covid3d.network import occlusion
from covid3d.network.registry import build
from covid3d.network.scoring import score, use_device
from covid3d.network.training import load_fold
from covid3d.run import steps
from covid3d.run.files import progress, random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats.auc import auc, mean_interval, paired_delong, pooled_delong
from covid3d.stats.estimate import Estimate, number, p_value

MAP, BOXES, PIECES = "activation map", "occlusion by boxes", "occlusion by pieces"
GRID, LUNG, OPAQUE = "the same everywhere", "the same in the lung", "the same in opaque lung"
RANDOMISED = {
    method: {f"random {what}": f"{method}, random {what}" for what in ("labels", "weights")} for method in (MAP, PIECES)
}
"""The methods of networks that have learned nothing from true labels, by what was random."""
NULL_LINE = {
    BOXES: LUNG,
    **dict.fromkeys((MAP, *RANDOMISED[MAP].values()), GRID),
    **dict.fromkeys((PIECES, *RANDOMISED[PIECES].values()), OPAQUE),
}
"""The map that knows nothing, with which each method is compared: it lies wherever the method can."""
ROWS = (MAP, BOXES, PIECES, GRID, LUNG, OPAQUE, *RANDOMISED[MAP].values(), *RANDOMISED[PIECES].values())
RANDOM_SCANS, FEWEST = 8, 5
"""External scans of each class, among those searched by boxes, that the networks of `RANDOMISED` score too; with fewer COVID+
scans than the second number nothing is said to follow."""
LEARNED = {
    True: "true labels move it towards the lesions",
    False: "that true labels move it towards the lesions is not shown",
}
"""What follows for a picture, by whether it finds more of the lesions than that of the network trained on random labels."""
STARTED = {
    True: "without them it is ahead of random weights already, by the image's contrast or by what the trunk brought along",
    False: "that without them it is ahead of random weights is not shown",
}
"""What follows further, by whether with random labels it finds more of the lesions than with random weights."""
ABOVE, BELOW, LEAST_FALL = 2.0, 1.0, 0.25
"""The bars of the protocol: the ratio's interval in COVID+ and in COVID-, and the fall of the AUC without lesions."""
LEAST_LESION, SOFT_TISSUE_HU = 0.05, 40.0
NOT_TESTED = (
    "Nobody has drawn the disease in these scans, so neither picture was tested on them. The occlusion picture says what "
    "the score loses without a part of the lung; whether that part is ill, a reader has to see."
)
PICTURE = {
    (False, True): "Trust the occlusion picture, not the activation map: {}.",
    (True, True): "Both pictures point to the disease: {}.",
    (True, False): "Trust the activation map; the occlusion picture does not reach what was asked of it: {}.",
    (
        False,
        False,
    ): "Trust neither picture to show where the disease is, but your own reading: {}, and more was asked of both.",
}
"""What to tell a reader of the pictures, by whether the activation map and the occlusion reach their bars."""
CAUSAL = {"whole": "as it is", "removed": "lesions made healthy", "alone": "all the lung but the lesions made healthy"}


class Scan(NamedTuple):
    """A scan to be searched: its row, grid (int16 HU), voxels in mm, and the true masks where there are any."""

    row: Mapping[str, Any]
    grid: np.ndarray
    spacing_mm: tuple[float, float, float]
    lesion: np.ndarray | None
    lung: np.ndarray | None


# --- the step --------------------------------------------------------------------------------------------------------


def ensure_evidence(run: Run) -> Path:
    """Return the folder of summary.csv, causal.csv and maps/<scan_id>.npz (keys "boxes", "pieces"), computed when needed.

    Scans: the external ones and the case of Figure 4, each by the fold that `explain` used. summary.csv: one row a scan and
    method: scan_id, patient_id, hospital, role, label, why, fold, method, parts, together (the fall without all parts at
    once), healthy_hu, agreement (Spearman's with the activation map within the lung), alike (Spearman's of a randomised
    network with the deployed one: of their activation maps within the lung, of their falls over the pieces), searched (the
    share of the lesions that lies in the lung that was searched), and the columns of `mass`. causal.csv, where there is truth:
    the logits of each scan as it is, with lesions made healthy, and with all the lung but the lesions made healthy.
    """
    inputs = {
        "intake": run.intake,
        "explain": steps.content(run.path("explain")),
        "selection": steps.content(results.selection_file(run).parent),
        "folds": [steps.content(run.model(TASK, THREE_D, fold)) for fold in results.folds(run)],
        "random_labels": steps.content(run.model(RANDOM_LABELS, THREE_D, results.deployed_fold(run))),
    }
    return steps.ensure(run, "evidence", run.path("evidence"), inputs, lambda out: _evidence(run, out))


def _evidence(run: Run, folder: Path) -> None:
    (folder / "maps").mkdir(parents=True)
    device, window = use_device(run), nominal_window(run.profile.windows)
    scans = explanation.read_summary(run)
    scans = scans[(scans["role"] == "external") | (scans["why"] == "case")]
    boxed = drawn(scans, run.profile.explain.boxed, run.seed)
    random = drawn(scans[scans["scan_id"].isin(boxed)], RANDOM_SCANS, run.seed)
    of_labels = load_fold(run, RANDOM_LABELS, THREE_D, results.deployed_fold(run))
    rows: list[dict[str, Any]] = []
    causal: list[dict[str, Any]] = []
    for fold, group in scans.groupby("fold"):
        model = load_fold(run, TASK, THREE_D, int(str(fold)))
        for scan in progress(_scans(run, group), f"evidence of fold {fold}", len(group)):
            scan_id = scan.row["scan_id"]
            lung = whole_lung(scan.grid, scan.spacing_mm)
            found = {PIECES: occlusion.by_pieces(model, scan.grid, lung, window, device)}
            if scan_id in boxed:
                found[BOXES] = occlusion.by_boxes(model, scan.grid, lung, window, device)
            kept = {name: found[way].values for way, name in ((BOXES, "boxes"), (PIECES, "pieces")) if way in found}
            np.savez_compressed(folder / "maps" / f"{scan_id}.npz", **kept)  # type: ignore[arg-type]
            activation = read_map(run, scan_id)
            rows += [_row(scan, way, one.values, one, activation) for way, one in found.items()]
            same = {GRID: np.ones_like(lung), LUNG: lung, OPAQUE: occlusion.opaque(scan.grid, lung)}
            rows += [_row(scan, way, values.astype(np.float32)) for way, values in same.items()]
            if scan_id in random:
                rows += _randomised(run, scan, of_labels, found[PIECES], activation, window, device)
            if scan.lesion is not None and scan.lung is not None:
                causal.append(_causal(model, scan, found[PIECES].healthy_hu, window, device))
    write_csv(folder / "summary.csv", pd.DataFrame(rows).sort_values(["scan_id", "method"]))
    columns = ["scan_id", "role", "hospital", "label", *CAUSAL]
    write_csv(folder / "causal.csv", pd.DataFrame(causal, columns=columns).sort_values("scan_id"))


def drawn(scans: pd.DataFrame, count: int, seed: int) -> set[str]:
    """Return external scans drawn by seed, at most `count` of each class."""
    rng, found = np.random.default_rng(random_seed(seed, "evidence")), set()
    for label in CLASSES:
        part = scans[(scans["role"] == "external") & (scans["label"] == label)]["scan_id"].sort_values().to_numpy()
        found |= set(rng.permutation(part)[:count].tolist())
    return found


def _scans(run: Run, table: pd.DataFrame) -> Iterator[Scan]:
    store, facts = Store.of(run), read_intake(run).set_index("scan_id")
    for row in table.to_dict("records"):
        scan_id = row["scan_id"]
        spacing = grid_spacing(facts.loc[scan_id], run.profile.model.grid)
        grid = np.asarray(store.get(scan_id))
        known = {str(name): value for name, value in row.items()}
        yield Scan(known, grid, spacing, lesion_mask(run, scan_id), lung_mask(run, scan_id))


def _row(
    scan: Scan,
    method: str,
    values: np.ndarray,
    found: occlusion.Evidence | None = None,
    activation: np.ndarray | None = None,
    alike: float = float("nan"),
) -> dict[str, Any]:
    """Return one row of summary.csv."""
    nan = float("nan")
    row = {name: scan.row[name] for name in ("scan_id", "patient_id", "hospital", "role", "label", "why", "fold")}
    row |= {"method": method, "parts": 0, "together": nan, "healthy_hu": nan, "agreement": nan, "alike": alike}
    row["searched"] = nan
    if found is not None:
        row |= {"parts": len(found.falls), "together": found.together, "healthy_hu": found.healthy_hu}
        if scan.lesion is not None and scan.lesion.sum() > 0:
            row["searched"] = float((scan.lesion * found.lung).sum() / scan.lesion.sum())
        if activation is not None:
            row["agreement"] = _agreement(activation[found.lung], values[found.lung])
    return row | mass(values, scan.lesion, scan.lung)


def _agreement(one: np.ndarray, two: np.ndarray) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(stats.spearmanr(one, two).statistic)


def _randomised(
    run: Run,
    scan: Scan,
    of_labels: nn.Module,
    deployed: occlusion.Evidence,
    activation: np.ndarray,
    window: Window,
    device: str,
) -> list[dict[str, Any]]:
    """Return the rows of the network trained on random labels and of one with random weights, another one for each scan."""
    of_weights = build(THREE_D, run.profile, seed=random_seed(run.seed, "evidence", scan.row["scan_id"]))
    settings, lung, rows = run.profile.explain, deployed.lung, []
    for what, model in (("random labels", of_labels), ("random weights", of_weights)):
        pieces = occlusion.by_pieces(model, scan.grid, lung, window, device)
        values = signed_map(model, scan.grid, window, settings.layer, settings.method, device)
        alike = _agreement(deployed.falls, pieces.falls), _agreement(activation[lung], values[lung])
        rows.append(_row(scan, RANDOMISED[PIECES][what], pieces.values, pieces, alike=alike[0]))
        rows.append(_row(scan, RANDOMISED[MAP][what], values, alike=alike[1]))
    return rows


def _causal(model: nn.Module, scan: Scan, healthy_hu: float, window: Window, device: str) -> dict[str, Any]:
    """Return the logits of a scan as it is, without its lesions, and with its lesions alone."""
    changed = np.stack([scan.grid, *made_healthy(scan, healthy_hu)])
    logits = score(model, changed, [window], device=device)[:, 0].tolist()
    known = {name: scan.row[name] for name in ("scan_id", "role", "hospital", "label")}
    return known | dict(zip(CAUSAL, logits, strict=True))


def made_healthy(scan: Scan, healthy_hu: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid with true lesions made healthy, and with all the lung but the lesions made healthy, int16 HU.

    A voxel that is partly lung becomes so much healthy lung and else soft tissue, so that the lung keeps its outline; none
    becomes brighter. A scan without lung is left as it is.
    """
    lesion, lung = scan.lesion, scan.lung
    if lesion is None or lung is None or not np.isfinite(healthy_hu):
        return scan.grid, scan.grid
    tissue = lung * healthy_hu + (1 - lung) * SOFT_TISSUE_HU
    ill = lesion > LEAST_LESION
    return occlusion.without(scan.grid, ill, tissue), occlusion.without(scan.grid, (lung > 0) & ~ill, tissue)


def read_summary(run: Run) -> pd.DataFrame:
    """Return evidence/summary.csv, one row a scan and method; see `ensure_evidence`."""
    return scored.read_predictions(run.path("evidence", "summary.csv"))


def read_causal(run: Run) -> pd.DataFrame:
    """Return evidence/causal.csv, one row a scan with truth; see `ensure_evidence`."""
    return scored.read_predictions(run.path("evidence", "causal.csv"))


def read_maps(run: Run, scan_id: str) -> dict[str, np.ndarray]:
    """Return the stored evidence of one scan by "pieces" and, where it was searched so, "boxes": float32, logit a voxel."""
    with np.load(run.path("evidence", "maps", f"{scan_id}.npz"), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


# --- what the evidence shows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """The evidence of a run, read once, beside its activation maps.

    summary: one row a scan and method; causal: one row an external scan (`ensure_evidence`).
    """

    run: Run
    maps: Maps
    summary: pd.DataFrame
    causal: pd.DataFrame

    @classmethod
    def of(cls, run: Run, maps: Maps) -> "Evidence":
        """Read what `ensure_evidence` has left, to be judged beside the activation maps."""
        causal = read_causal(run)
        return cls(run, maps, read_summary(run), causal[causal["role"] == "external"])

    def of_method(self, method: str, label: int) -> pd.DataFrame:
        """Return the external scans of one class that a method was tried on, one row a scan."""
        table = self.maps.external if method == MAP else self.summary[self.summary["method"] == method]
        return table[(table["role"] == "external") & (table["label"] == label)].set_index("scan_id")

    def ratio(self, method: str, label: int, scans: Collection[str] | None = None) -> Estimate:
        """Return the lesions' share of the positive evidence over their share of the lung, external scans of one class.

        scans: those that are asked for, by scan_id; by default all that the method was tried on.
        """
        known = self.of_method(method, label)
        known = known if scans is None else known[known.index.isin(scans)]
        known = known[(known["lesion_of_lung"] > 0) & known["lesion_share"].notna()]
        return self._ratio(known[SHARES], method, label)

    def against_null(self, method: str) -> Estimate:
        """Return the lesions' share of the evidence in COVID+ scans over their share of the method's null line, paired."""
        return self.against(method, NULL_LINE[method]) if method in NULL_LINE else Estimate.missing("it is a null line")

    def against(self, method: str, other: str) -> Estimate:
        """Return the lesions' share of a method's evidence over their share of another's, in COVID+ scans of both, paired."""
        pairs = pd.DataFrame({name: self.of_method(name, 1)["lesion_share"] for name in (method, other)})
        return self._ratio(pairs.dropna(), method, other)

    def _ratio(self, pairs: pd.DataFrame, *names: object) -> Estimate:
        if self.causal.empty or pairs.empty:
            return Estimate.missing(NO_TRUTH if self.causal.empty else "no scan has a positive part of the map")
        if not pairs.to_numpy(float).any(0).all():
            return Estimate.missing("no evidence lies in a lesion")
        rng = np.random.default_rng(random_seed(self.run.seed, "evidence", *names))
        return ratio_of_means(pairs.to_numpy(float), self.run.profile.statistics.bootstrap, rng)

    def methods(self) -> pd.DataFrame:
        """Return one row a method: its ratio in COVID+ and COVID-, cut to the lung, and against its own null line."""
        rows = []
        for method in ROWS:
            positive, negative = (self.of_method(method, label) for label in (1, 0))
            of_lung = positive["lesion_of_lung"]
            inside = pd.DataFrame({"share": positive["ratio_in_lung"] * of_lung, "of_lung": of_lung}).dropna()
            rows.append(
                {
                    "method": method,
                    "ratio, COVID+": self.ratio(method, 1),
                    "ratio, COVID-": self.ratio(method, 0),
                    "inside the lung, COVID+": self._ratio(inside, method, "inside the lung"),
                    "times its null line, COVID+": self.against_null(method),
                    "scans": f"{len(positive)} / {len(negative)}",
                }
            )
        return pd.DataFrame(rows).set_index("method")

    def randomised(self) -> pd.DataFrame:
        """Return, by picture and network, over the same COVID+ scans: the ratio, and how the deployed network compares.

        deployed over it: the lesions' share of the deployed network's picture over theirs of this one. alike: the mean of
        Spearman's correlation with the deployed network's picture (Adebayo et al. 2018).
        """
        rows, own = [], Estimate.missing("it is the deployed one")
        for method, others in RANDOMISED.items():
            shares = [self.of_method(one, 1)["lesion_share"] for one in (method, *others.values())]
            scans = pd.concat(shares, axis=1, join="inner").dropna().index
            for name, other in {"deployed": method, **others}.items():
                shown = self.ratio(other, 1, scans), self.against(method, other) if other != method else own
                alike = own if other == method else mean_interval(self.of_method(other, 1).loc[scans, "alike"])
                rows.append((method, name, len(scans), *shown, alike))
        columns = ["picture", "network", "scans", "ratio", "deployed over it", "alike"]
        return pd.DataFrame(rows, columns=columns).set_index(columns[:2])

    def learned(self) -> pd.DataFrame:
        """Return what the deployed network and that of random labels had learned at the end: loss, AUC of held-out patients."""
        curves = results.learning_curves(self.run)
        deployed = curves[curves["fold"] == results.deployed_fold(self.run)]
        ends = {"true labels": deployed.iloc[-1], "random labels": results.random_labels_curve(self.run).iloc[-1]}
        rows = [(name, end["train_loss"], end["validation_auc"]) for name, end in ends.items()]
        columns = ["trained on", "training loss", "AUC of the patients held out"]
        return pd.DataFrame([*rows, ("nothing: a guess", math.log(2), 0.5)], columns=columns).set_index("trained on")

    def sanity(self) -> dict[str, str]:
        """Return, by picture, what follows from the randomised networks: what the labels add, and what was there without them."""
        table, found = self.randomised(), {}
        for method, others in RANDOMISED.items():
            true, labels, weights = (number(ratio.value) for ratio in table["ratio"][method])
            more, ahead = table["deployed over it"][method, "random labels"], self.against(*others.values())
            numbers = f"{true} times with true labels, {labels} with random ones, {weights} with random weights"
            scans = table["scans"][method, "deployed"]
            follows = "too few scans" if scans < FEWEST else f"{LEARNED[more.low > 1]}, and {STARTED[ahead.low > 1]}"
            found[method] = f"{numbers}: {follows}" if more.known and ahead.known else f"not known: {more.method}"
        return found

    def agreement(self) -> pd.DataFrame:
        """Return, by form of occlusion and class, the mean over scans of Spearman's correlation with the activation map."""
        rows = []
        for method in (BOXES, PIECES):
            for label, name in CLASSES.items():
                found = self.of_method(method, label)["agreement"]
                rows.append((method, name, found.count(), mean_interval(found)))
        return pd.DataFrame(rows, columns=["method", "class", "scans", "Spearman"]).set_index(["method", "class"])

    def searched(self) -> dict[str, Estimate]:
        """Return the mean share of the true lesions that lies in the lung that was searched, by class of external scans."""
        found = {name: self.of_method(PIECES, label)["searched"].dropna() for label, name in CLASSES.items()}
        return {name: mean_interval(shares) if len(shares) else _none() for name, shares in found.items()}

    def causal_test(self) -> pd.DataFrame:
        """Return the AUC of scans as they are and after each intervention, and what it loses.

        Falls are paired (DeLong 1988), pooled as the inverse-variance mean of the hospitals.
        """
        rows = []
        for column, name in CAUSAL.items():
            row: dict[str, Any] = {"scan": name}
            for hospital in results.hospitals(self.causal):
                part = self.causal[self.causal["hospital"] == hospital]
                row[f"AUC at {hospital}"] = auc(part["label"], part[column]) if len(part) else _none()
            row["fall"], row["p"] = (REFERENCE, REFERENCE) if column == "whole" else self.fall(column)
            rows.append(row)
        return pd.DataFrame(rows).set_index("scan")

    def fall(self, column: str = "removed") -> tuple[Estimate, Estimate]:
        """Return the AUC that an intervention costs, pooled over the hospitals, and its p."""
        if self.causal.empty:
            return _none(), _none()
        sites = [(part["label"], part["whole"], part[column]) for _, part in self.causal.groupby("hospital")]
        found = pooled_delong(sites) if len(sites) > 1 else paired_delong(*sites[0])
        value = found.estimate
        return value, p_value(found.p) if value.known else Estimate.missing(value.method)

    def bars(self) -> pd.DataFrame:
        """Return the bars that were fixed beforehand: what each asks, what was found, and whether it is reached."""
        shown = self.maps.ratios()
        ill, other, fall = self.ratio(BOXES, 1), self.ratio(BOXES, 0), self.fall()[0]
        decides = judged(fall, fall.value >= LEAST_FALL)
        asks = "first scans that were explained: ratio in COVID+ at least 2, its lower limit above 1"
        rows = [
            (MAP, asks, shown["ratio"], shown["bar"]),
            (f"{BOXES}, COVID+", "external scans: lower limit of the ratio above 2", ill, judged(ill, ill.low > ABOVE)),
            (f"{BOXES}, COVID-", "external scans: ratio below 1", other, judged(other, other.value < BELOW)),
            ("lesions made healthy", "external scans: AUC falls by 0.25 or more", fall, decides),
        ]
        return pd.DataFrame(rows, columns=["test", "asks", "found", "verdict"]).set_index("test")

    def advice(self) -> dict[str, str]:
        """Return, for a reader of the pictures, which one to trust and what the network looks at; chosen by the bars."""
        table = self.bars()
        held, found = table["verdict"].eq(REACHED).tolist(), table["found"].tolist()
        if not found[1].known or not found[3].known:
            return {"which picture": NOT_TESTED, "what it looks at": f"Not known: {NO_TRUTH}."}
        known = self.ratio(MAP, 1)
        numbers = (
            "in COVID+ scans of the external hospitals the red of the occlusion picture lies in diseased lung "
            f"{number(found[1].value)} times as much as red that is spread evenly over the lungs would, that of the activation "
            "map " + (f"{number(known.value)} times" if known.known else "nowhere")
        )
        decides = "the network decides by the disease" if held[3] else "too little to say that disease decides"
        return {
            "which picture": PICTURE[held[0], held[1]].format(numbers),
            "what it looks at": f"Where disease is made healthy, the AUC falls by {number(found[3].value)}: {decides}.",
        }


REFERENCE = Estimate.missing("nothing is changed")


def _none() -> Estimate:
    return Estimate.missing(NO_TRUTH)
