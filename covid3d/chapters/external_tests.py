"""Hospitals B and C: the deployed fold, every fold, the ensemble of ten and the 2D baseline; or given weights at a site.

Nothing here is fitted or chosen on B or C: the deployed fold and the thresholds come from A. The tuned row of Table 1 is
the one exception, made after the evaluation as in the paper, and no other table reads it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_curve
from torch import nn

from covid3d.chapters.truth import read_truth
from covid3d.cohort.intake import accepted, read_intake
from covid3d.cohort.store import Store
from covid3d.ct.lungs import blanked
from covid3d.ct.windows import nominal_window
from covid3d.figures.style import grid_spacing
from covid3d.network import registry, scoring, training
from covid3d.network.tabular import METADATA, fit_predict, logistic
from covid3d.network.weights import describe_weights, grid_text, load_weights
from covid3d.run import steps
from covid3d.run.files import write_csv
from covid3d.run.profile import Run
from covid3d.stats.auc import (
    auc,
    auc_value,
    external_internal_difference,
    mean_fold_auc,
    paired_delong,
    pooled_delong,
    youden_threshold,
)
from covid3d.stats.estimate import Estimate, Tested
from covid3d.stats.proportions import wilson

IDS = {"scan_id": str, "patient_id": str, "hospital": str, "window": str, "split": str}
THREE_D, TWO_D, EVERY_FOLD, ENSEMBLE, GIVEN = "covid3d", "resnet_2d", "covid3d_fold", "covid3d_ensemble", "given"
SMALLEST_CELL = 5
SIMULATED = "trained on simulated scans: this number says nothing about this patient"
NAN = float("nan")


def ensure_external(run: Run) -> pd.DataFrame:
    """Return external/predictions.csv, computing it when needed: first scans of B and C in the nominal window.

    Models: covid3d (the deployed fold), covid3d_fold (each fold), covid3d_ensemble (mean logit, fold -1), resnet_2d; in a
    site run `given`, on every accepted scan. Missing folds raise MissingResult.
    """
    inputs: dict[str, object] = {"intake": run.intake}
    if run.is_site:
        inputs["weights"] = weights_path(run)
    else:
        inputs["selection"] = steps.content(run.path("models", "task1", "selection"))
        inputs["folds"] = [steps.content(run.model("task1", THREE_D, fold)) for fold in _folds(run)]
        inputs["slices"] = steps.content(run.model("task1", TWO_D, deployed_fold(run)))

    def compute(folder: Path) -> None:
        write_csv(folder / "predictions.csv", _site_predictions(run) if run.is_site else _external_predictions(run))

    folder = steps.ensure(run, "external", run.path("external"), inputs, compute)
    return pd.read_csv(folder / "predictions.csv", dtype=IDS)


def deployed_fold(run: Run) -> int:
    """Return the number of the fold that is deployed: the highest validation AUC on A."""
    table = pd.read_csv(run.path("models", "task1", "selection", "selection.csv"))
    return int(table.loc[table["deployed"] == 1, "fold"].iloc[0])


def weights_path(run: Run) -> Path:
    """Return the weights file that a site run was given."""
    path = Path(str(run.config.weights))
    return path if path.is_absolute() else run.root / path


def _folds(run: Run) -> range:
    return range(run.profile.training.folds)


def _external_predictions(run: Run) -> pd.DataFrame:
    table = accepted(run)
    table = table[table["role"] == "external"]
    grids = Store.of(run).stack(table["scan_id"])
    deployed = deployed_fold(run)
    parts, epochs = [], run.profile.training.epochs

    def rows(model: str, fold: int, epoch: int, logits: np.ndarray) -> None:
        parts.append(scoring.prediction_rows("task1", model, fold, epoch, table, "external", "nominal", logits))

    by_fold = [_logits(run, training.load_fold(run, "task1", THREE_D, fold), grids) for fold in _folds(run)]
    rows(THREE_D, deployed, epochs, by_fold[deployed])
    for fold in _folds(run):
        rows(EVERY_FOLD, fold, epochs, by_fold[fold])
    rows(ENSEMBLE, -1, epochs, np.mean(by_fold, axis=0))
    baseline = training.load_fold(run, "task1", TWO_D, deployed)
    rows(TWO_D, deployed, run.profile.slices.epochs, _logits(run, baseline, grids))
    return pd.concat(parts, ignore_index=True)


def _logits(run: Run, model: nn.Module, grids: np.ndarray) -> np.ndarray:
    """Return the logits (N,) of scans in the nominal window."""
    device = scoring.pick_device(run.device)
    if device == "cpu":
        torch.set_num_threads(run.profile.training.threads_per_fold)
    window = nominal_window(run.profile.windows)
    return scoring.score(model, grids, [window], device=device)[:, 0] if len(grids) else np.empty(0, np.float32)


def _site_predictions(run: Run) -> pd.DataFrame:
    """Score every accepted scan of a site with the given weights; no probability from weights made on simulated scans."""
    model = registry.build(THREE_D, run.profile)
    expect = {"model": THREE_D, "grid": grid_text(run.profile.model.grid)}
    metadata = load_weights(weights_path(run), model, expect=expect)
    table = accepted(run)
    logits = _logits(run, model.eval(), Store.of(run).stack(table["scan_id"]))
    rows = scoring.prediction_rows("site", GIVEN, 0, 0, table, table["role"].tolist(), "nominal", logits)
    if metadata["trained_on"] == "phantom":
        rows["probability"] = NAN
    return rows


def site_notice(run: Run) -> str:
    """Return the sentence that must stand before any number of a site run, '' when none is needed."""
    simulated = run.is_site and not run.is_phantom and describe_weights(weights_path(run))["trained_on"] == "phantom"
    return SIMULATED if simulated else ""


def site_table(run: Run) -> pd.DataFrame:
    """Return one row a hospital of a site run: n, AUC with its interval, and why it is not available.

    First scans only. Cells below 5 are suppressed; weights made on simulated scans claim no AUC.
    """
    scores = ensure_external(run)
    first = accepted(run).query("scan_index == 0")["scan_id"]
    scores = scores[scores["scan_id"].isin(first)]
    notice = site_notice(run)
    rows = []
    for hospital, part in scores.groupby("hospital"):
        labels = pd.to_numeric(part["label"])
        counts = [int((labels == value).sum()) for value in (1, 0)]
        shown = ["0" if not n else f"< {SMALLEST_CELL}" if n < SMALLEST_CELL else str(n) for n in counts]
        if notice:
            interval = Estimate.missing(notice)
        elif min(counts) < SMALLEST_CELL:
            interval = Estimate.missing(f"a class has fewer than {SMALLEST_CELL} scans")
        else:
            interval = auc(labels, part["logit"])
        rows.append({"hospital": hospital, "n_positive": shown[0], "n_negative": shown[1], **_columns(interval)})
        rows[-1] |= {"method": notice} if notice else {}
    return pd.DataFrame(rows, columns=["hospital", "n_positive", "n_negative", "auc", "low", "high", "method"])


def first_scores(run: Run) -> pd.DataFrame:
    """Return one row a first scan of B and C: label, hospital, and one logit column a model (covid3d, tuned, …)."""
    predictions = ensure_external(run)
    predictions = predictions[predictions["model"] != EVERY_FOLD]
    table = predictions.drop_duplicates("scan_id")[["scan_id", "patient_id", "hospital", "label"]]
    for model, part in predictions.groupby("model", sort=False):
        table = table.merge(part[["scan_id", "logit"]].rename(columns={"logit": str(model)}), on="scan_id")
    tuned = window_scores(run).query(f"model == '{THREE_D}' and window == 'tuned'")
    return table.merge(tuned[["scan_id", "logit"]].rename(columns={"logit": "tuned"}), on="scan_id", how="left")


def window_scores(run: Run) -> pd.DataFrame:
    """Return windows/predictions.csv of B and C, or an empty table while it has not been computed."""
    path = run.path("windows", "predictions.csv")
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in scoring.PREDICTIONS})
    scores = pd.read_csv(path, dtype=IDS)
    return scores[scores["split"] == "external"]


def row_names(run: Run) -> dict[str, str]:
    """Return the names of Table 1's rows, the 2D one with the backbone and size that were used."""
    settings = run.profile.slices
    backbone = settings.backbone.replace("resnet", "ResNet-")
    return {
        TWO_D: f"2D {backbone} ({settings.slices_per_scan} slices of {settings.size} px)",
        THREE_D: "COVID3D",
        "tuned": "COVID3D* (window tuned after evaluation)",
        ENSEMBLE: f"ensemble of {run.profile.training.folds} folds",
    }


def table_1_long(run: Run) -> pd.DataFrame:
    """Return one row a model and hospital: auc, low, high, method, window_sd, n_windows, n_positive, n_negative."""
    scores, spread = first_scores(run), window_sd_of(window_scores(run))
    rows = []
    for model, name in row_names(run).items():
        for hospital, part in scores.groupby("hospital"):
            labels = part["label"].astype("Int64")
            known = spread[(spread["model"] == model) & (spread["hospital"] == hospital)]
            rows.append(
                {
                    "model": model,
                    "row": name,
                    "hospital": hospital,
                    "n_positive": int((labels == 1).sum()),
                    "n_negative": int((labels == 0).sum()),
                    **_columns(auc(labels, part[model])),
                    "window_sd": float(known["sd"].iloc[0]) if len(known) else NAN,
                    "n_windows": int(known["n_windows"].iloc[0]) if len(known) else 0,
                }
            )
    return pd.DataFrame(rows)


def table_1(run: Run) -> pd.DataFrame:
    """Return Table 1, one row a model; for each hospital the columns auc, low, high, window_sd, n_positive, n_negative."""
    long = table_1_long(run)
    columns = ["auc", "low", "high", "window_sd", "n_windows", "n_positive", "n_negative"]
    wide = long.pivot(index="row", columns="hospital", values=columns).reindex(long["row"].unique())
    hospitals = sorted(long["hospital"].unique())
    wide = wide[[(column, hospital) for hospital in hospitals for column in columns]]
    wide.columns = pd.Index([f"{hospital} {column}" for hospital in hospitals for column in columns])
    return wide.reset_index(names="model")


def window_sd_of(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the SD of the AUC over windows per model and hospital: model, hospital, sd, n_windows.

    Windows w000 … count for the models, t000 … (around the tuned window) for the row `tuned`.
    """
    rows = []
    for prefix, rename in (("w", None), ("t", "tuned")):
        part = scores[scores["window"].str.fullmatch(prefix + r"\d+").astype(bool)] if len(scores) else scores
        for (model, hospital), group in part.groupby(["model", "hospital"]):
            if rename and model != THREE_D:
                continue
            values = [
                auc_value(window["label"], window["logit"])
                for _, window in group.groupby("window")
                if window["label"].nunique() == 2
            ]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else NAN
            rows.append({"model": rename or model, "hospital": hospital, "sd": spread, "n_windows": len(values)})
    return pd.DataFrame(rows, columns=["model", "hospital", "sd", "n_windows"])


def fold_models(run: Run) -> pd.DataFrame:
    """Return the AUC at B and C of every fold's model: hospital, mean, lowest, highest, deployed, n_folds."""
    predictions = ensure_external(run)
    every = predictions[predictions["model"] == EVERY_FOLD]
    rows = []
    for hospital, part in every.groupby("hospital"):
        values = {fold: auc(group["label"], group["logit"]).value for fold, group in part.groupby("fold")}
        found = pd.Series(values)
        summary = {"mean": found.mean(), "lowest": found.min(), "highest": found.max(), "n_folds": len(found)}
        rows.append({"hospital": hospital, **summary, "deployed": values[deployed_fold(run)]})
    return pd.DataFrame(rows)


def validation_scores(run: Run) -> pd.DataFrame:
    """Return the out-of-fold scores of A: last epoch, nominal window, one row a scan."""
    parts = []
    for fold in _folds(run):
        part = pd.read_csv(run.model("task1", THREE_D, fold) / "predictions.csv", dtype=IDS)
        part = part[part["split"] == "validation"]
        parts.append(part[part["epoch"] == part["epoch"].max()])
    return pd.concat(parts, ignore_index=True)


def comparisons(run: Run) -> pd.DataFrame:
    """Return paired and unpaired differences of AUC: comparison, site, difference, low, high, p, method.

    3D - 2D, tuned - untuned and ensemble - deployed by paired DeLong (1988) for each site and as inverse-variance mean of
    the sites; internal minus external as a difference of independent samples (mean of the fold AUCs at A).
    """
    scores = first_scores(run)
    rows: list[dict[str, object]] = []
    pairs = {
        "3D - 2D": (THREE_D, TWO_D),
        "tuned - untuned": ("tuned", THREE_D),
        "ensemble - deployed": (ENSEMBLE, THREE_D),
    }
    for name, (a, b) in pairs.items():
        sites = list(scores.groupby("hospital"))
        for site, part in sites:
            rows.append(
                {"comparison": name, "site": site, **_difference(paired_delong(part["label"], part[a], part[b]))}
            )
        pooled = pooled_delong([(part["label"], part[a], part[b]) for _, part in sites])
        rows.append({"comparison": name, "site": "pooled", **_difference(pooled)})
    inside = validation_scores(run)
    for site, part in scores.groupby("hospital"):
        drop = external_internal_difference(inside, part["label"], part[THREE_D])
        rows.append({"comparison": "external - internal", "site": site, **_difference(drop)})
    return pd.DataFrame(rows)


def roc_points(run: Run) -> pd.DataFrame:
    """Return the corners of the ROC curves of B and C: model, hospital, false_positive, true_positive, threshold."""
    scores, parts = first_scores(run), []
    for model in (THREE_D, TWO_D, ENSEMBLE):
        for hospital, part in scores.groupby("hospital"):
            if part["label"].nunique() == 2:
                false, true, threshold = roc_curve(part["label"].astype(int), part[model], drop_intermediate=False)
                columns = {"false_positive": false, "true_positive": true, "threshold": threshold}
                parts.append(pd.DataFrame({"model": model, "hospital": hospital, **columns}))
    columns_ = ["model", "hospital", "false_positive", "true_positive", "threshold"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns_)


def thresholds(run: Run) -> dict[str, float]:
    """Return the logit thresholds fixed on A: Youden of the deployed fold's validation, of all folds out-of-fold, and 0."""
    scores = validation_scores(run)
    deployed = scores[scores["fold"] == deployed_fold(run)]
    found = {"zero": 0.0}
    for name, part in (("deployed validation", deployed), ("all out-of-fold", scores)):
        found[name] = youden_threshold(part["label"], part["logit"])
    return found


def operating_points(run: Run) -> pd.DataFrame:
    """Return sensitivity and specificity (k, n, Wilson interval) at the thresholds fixed on A, for each hospital."""
    scores, rows = first_scores(run), []
    for rule, threshold in thresholds(run).items():
        for hospital, part in scores.groupby("hospital"):
            for measure, label in (("sensitivity", 1), ("specificity", 0)):
                logits = part.loc[part["label"] == label, THREE_D]
                k = int(((logits >= threshold) == bool(label)).sum())
                head = {
                    "rule": rule,
                    "threshold": threshold,
                    "hospital": hospital,
                    "measure": measure,
                    "k": k,
                    "n": len(logits),
                }
                known = wilson(k, len(logits) if np.isfinite(threshold) else 0)
                rows.append({**head, "value": known.value, "low": known.low, "high": known.high})
    return pd.DataFrame(rows)


def read_off(labels: pd.Series, scores: pd.Series, specificity: float) -> float:
    """Return the highest sensitivity on an ROC curve at a specificity of at least this; descriptive only."""
    if labels.nunique() < 2:
        return NAN
    false, true, _ = roc_curve(labels.astype(int), scores, drop_intermediate=False)
    return float(true[false <= 1 - specificity + 1e-9].max())


def controls(run: Run) -> pd.DataFrame:
    """Return the deployed fold's AUC at each external hospital with parts of the scan blanked: 0.5 but for a giveaway.

    Columns hospital, left (what the network saw), n, auc, low, high, method.
    """
    model, scores = training.load_fold(run, "task1", THREE_D, deployed_fold(run)), first_scores(run)
    facts, store, rows = read_intake(run).set_index("scan_id"), Store.of(run), []
    for part, left in (("lungs", "lungs blanked, with the box around them"), ("body", "background alone")):
        for hospital, known in scores.groupby("hospital"):
            spaced = [(scan, grid_spacing(facts.loc[scan], store.shape)) for scan in known["scan_id"]]
            grids = np.stack([blanked(store.get(scan), spacing, part) for scan, spacing in spaced])
            found = auc(known["label"], pd.Series(_logits(run, model, grids), index=known.index))
            rows.append({"hospital": hospital, "left": left, "n": len(known), **_columns(found)})
    return pd.DataFrame(rows, columns=["hospital", "left", "n", "auc", "low", "high", "method"])


def skill(run: Run) -> pd.DataFrame:
    """Return (AUC - 0.5) / (oracle AUC - 0.5) per hospital, the oracle seeing the model's grid; empty for real scans."""
    columns = ["hospital", "auc", "oracle", "skill"]
    truth = read_truth(run)
    if truth is None:
        return pd.DataFrame(columns=columns)
    oracle = truth[["scan_id", "oracle_grid_logit"]]
    inside = validation_scores(run)
    parts = [("A", inside, mean_fold_auc(inside).value)]
    scores = first_scores(run).rename(columns={THREE_D: "logit"})
    parts += [(str(site), part, auc(part["label"], part["logit"]).value) for site, part in scores.groupby("hospital")]
    rows = []
    for hospital, part, value in parts:
        known = part.merge(oracle, on="scan_id")
        best = auc(known["label"], known["oracle_grid_logit"]).value
        rows.append((hospital, value, best, (value - 0.5) / (best - 0.5) if best > 0.5 else NAN))
    return pd.DataFrame(rows, columns=columns)


def learnable(run: Run) -> pd.DataFrame:
    """Return mean fold AUC at A with its interval for COVID3D, metadata only and burden only: is there more than chance?

    Columns model, mean_fold_auc, low, high, method. Burden is the simulator's truth: not available for real scans.
    """
    scores = validation_scores(run)
    rows = [("COVID3D", mean_fold_auc(scores))]
    table = scores[["scan_id", "fold", "label"]].merge(accepted(run).drop(columns="label"), on="scan_id")
    facts = pd.read_csv(run.intake, dtype={"scan_id": str})
    wanted = [name for group in METADATA for name in group if name in facts and name not in table]
    table = table.merge(facts[["scan_id", *wanted]], on="scan_id", how="left")
    rows.append(("metadata only", _tabular(table, *METADATA)))
    truth = read_truth(run)
    if truth is None:
        rows.append(("burden only", Estimate.missing("no truth for real scans")))
    else:
        burden = table.merge(truth[["scan_id", "burden_ml"]], on="scan_id", how="left")
        rows.append(("burden only", _tabular(burden, ("burden_ml",), ())))
    frame = [{"model": name, "mean_fold_auc": found.value, **_columns(found)} for name, found in rows]
    return pd.DataFrame(frame)[["model", "mean_fold_auc", "low", "high", "method"]]


def _tabular(table: pd.DataFrame, numbers: tuple[str, ...], categories: tuple[str, ...]) -> Estimate:
    """Return the mean fold AUC of a logistic regression in the same folds, on the columns that vary."""
    numbers = tuple(name for name in numbers if name in table and table[name].nunique() > 1)
    categories = tuple(name for name in categories if name in table and table[name].nunique() > 1)
    if not numbers and not categories:
        return Estimate.missing("no column varies")
    columns, parts = [*numbers, *categories], []
    table = table.astype(dict.fromkeys(categories, object))
    for fold, test in table.groupby("fold"):
        train = table[table["fold"] != fold]
        if train["label"].nunique() == 2:
            logit = fit_predict(logistic(numbers, categories), train[columns], train["label"], test[columns])
            parts.append(test.assign(logit=logit))
    return mean_fold_auc(pd.concat(parts)) if parts else Estimate.missing("one class only")


def _columns(found: Estimate) -> dict[str, object]:
    return {"auc": found.value, "low": found.low, "high": found.high, "method": _method(found)}


def _method(found: Estimate) -> str:
    return found.method if found.known else f"not available: {found.method}"


def _difference(found: Tested) -> dict[str, object]:
    interval = found.estimate
    return {
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "p": found.p,
        "method": _method(interval),
    }
