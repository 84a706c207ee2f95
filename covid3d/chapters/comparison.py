"""Every registered model beside COVID3D: the same folds, the same external scans, paired differences.

Not part of `make report`; `make extended` trains what is here, fold by fold, and chapter 4 shows it where it is current.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from covid3d.chapters import results, scored
from covid3d.chapters.task1 import split_of
from covid3d.cohort.intake import accepted
from covid3d.comparators.catalogue import COMPARATORS, OTHERS, REFERENCE
from covid3d.comparators.interface import TASK, Cases, Comparator, Network, fold_seed, is_covid3d, train_fold
from covid3d.kinetics.convert import load_trunk
from covid3d.network import training
from covid3d.network.registry import slices_start
from covid3d.network.scoring import prediction_rows, use_device
from covid3d.run import campaigns, steps
from covid3d.run.errors import ConfigError, MissingResult, nearest
from covid3d.run.files import write_csv
from covid3d.run.fingerprint import code_fingerprint
from covid3d.run.profile import Profile, Run
from covid3d.stats.auc import Z, auc, mean_fold_auc, paired_delong, pool_inverse_variance
from covid3d.stats.estimate import Estimate, p_value

AGAINST, LUNGS = " - COVID3D", "COVID3D, lungs alone"
SIMULATOR = "covid3d.phantom.build"


def create(name: str, profile: Profile, *, seed: int = 0) -> Comparator:
    """Return a registered model of the profile's size, its starting weights drawn from `seed` alone."""
    if name not in COMPARATORS:
        raise ConfigError(f"there is no model '{name}'", cure=nearest(name, COMPARATORS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(importlib.import_module(COMPARATORS[name]), name)(profile)


def folder_of(run: Run, name: str, fold: int) -> Path:
    """Return the folder of one fold of one compared model."""
    return run.path("comparators", name, f"fold_{fold:02d}")


def ensure_comparator(run: Run, model: str, fold: int) -> Path:
    """Return the folder of one fold of a compared model, training it when needed."""
    split = split_of(run, fold)
    start = {REFERENCE: run.pretrained, "resnet": slices_start(run.profile)}.get(model.partition("_")[0])
    inputs: Mapping[str, Any] = {
        "model": [model, fold, code_fingerprint(COMPARATORS[model])],
        "split": [list(zip(side["scan_id"], map(int, side["label"]), strict=True)) for side in split],
        "intake": run.intake,
        "manifest": run.manifest,
        "starts_from": start or "random values",
    }
    again = f"python -m covid3d step comparator --run {run.name} --model {model} --fold {fold}"

    def compute(folder: Path) -> None:
        made = create(model, run.profile, seed=fold_seed(run, model, fold))
        start_as_task_1(run, made)
        train_fold(run, model, made, fold, *split, folder)

    return steps.ensure(run, "comparator", folder_of(run, model, fold), inputs, compute, again=again)


def start_as_task_1(run: Run, model: Comparator) -> None:
    """Let a COVID3D that is shown something else start where the run's own folds start; other models stay as they are."""
    if isinstance(model, Network) and is_covid3d(model) and run.pretrained:
        load_trunk(model.net, run.pretrained)
        if run.from_trunk:
            model.go_on(run.from_trunk)


def load(run: Run, name: str, fold: int) -> Comparator:
    """Return a trained fold of a compared model; WeightsError when its file is missing or does not fit."""
    model = create(name, run.profile)
    model.load(folder_of(run, name, fold), training.expected_metadata(run, name))
    return model


def ensure_comparators(run: Run) -> Path:
    """Return the folder of comparison.csv (see `compare`) and of predictions.csv, scoring what is missing.

    predictions.csv: first scans of B and C by the deployed fold of every model.
    """
    deployed, external = results.deployed_fold(run), results.external_scores(run)
    reference = external[external["model"] == REFERENCE]
    inputs: dict[str, Any] = {"external": steps.content(run.path("external")), "deployed": deployed}
    for fold in results.folds(run):
        inputs |= {f"{name} {fold}": steps.content(folder_of(run, name, fold)) for name in OTHERS}

    def compute(folder: Path) -> None:
        scores = _external_scores(run, deployed)
        write_csv(folder / "predictions.csv", scores)
        write_csv(folder / "comparison.csv", compare(run, pd.concat([reference, scores], ignore_index=True)))

    again, folder = f"python -m covid3d step comparators --run {run.name}", run.path("comparators", "summary")
    return steps.ensure(run, "comparators", folder, inputs, compute, again=again)


def shown(run: Run) -> pd.DataFrame | None:
    """Return the comparison with the minutes of each model, when all of it is there and up to date, else None."""
    presented = run.with_options(compute=False)
    try:
        for fold in results.folds(run):
            for name in OTHERS:
                ensure_comparator(presented, name, fold)
        folder = ensure_comparators(presented)
    except MissingResult:
        return None
    table = pd.read_csv(folder / "comparison.csv")
    return table.assign(minutes=[minutes(run, name) for name in COMPARATORS])


def other_models(run: Run) -> tuple[pd.DataFrame, str]:
    """Return the compared models, one row each with Estimates, and a caption that says of which run.

    The run's own where they are there and up to date; else, for simulated scans, those that are stored with the package, if
    the simulator that they saw is today's.
    """
    table = shown(run)
    if table is not None:
        return with_limits(table), (
            "Mean fold AUC at A (t over folds), AUC at B and C by the split of the fold that was deployed for COVID3D, and the "
            "difference from it on the same scans (paired DeLong); minutes: all folds, one process."
        )
    stored = campaigns.read("comparators") if run.is_phantom else None
    if stored is None or (stored["simulator"] != code_fingerprint(SIMULATOR)).any():
        return (
            pd.DataFrame({"model": []}).set_index("model"),
            f"Not run for these scans: `make extended RUN={run.name}` trains the models.",
        )
    of, commit = stored["run"].iloc[0], stored["commit"].iloc[0]
    caption = f"Not of this run: what `make extended` gave on simulated scans (run {of}; commit {commit})."
    return with_limits(stored.drop(columns=["run", "simulator", *campaigns.STAMP])), caption


def lungs_alone(table: pd.DataFrame) -> pd.DataFrame:
    """Return the AUC of a network that sees the lungs alone less that of the whole scan: hospital, difference, p.

    table: of `other_models`. By paired DeLong on the same scans, and the inverse-variance mean of the hospitals.
    """
    row = table.loc[LUNGS].to_dict() if LUNGS in table.index else {}
    found: dict[str, Estimate] = {str(k).removesuffix(AGAINST): v for k, v in row.items() if str(k).endswith(AGAINST)}
    known = {hospital: one for hospital, one in found.items() if one.has_limits}
    if not known:
        why = Estimate.missing("not run: no network of the lungs alone")
        rows = [(hospital, why, why) for hospital in ("B", "C", "pooled")]
    else:
        pairs = [(one.value, (one.high - one.low) / (2 * Z)) for one in known.values()]
        tests = [pool_inverse_variance([value], [error]) for value, error in pairs]
        tests.append(pool_inverse_variance(*map(list, zip(*pairs, strict=True))))
        names = [*known, "pooled"]
        rows = [(name, test.estimate, p_value(test.p)) for name, test in zip(names, tests, strict=True)]
    return pd.DataFrame(rows, columns=["hospital", "difference", "p"]).set_index("hospital")


def with_limits(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns "x", "x low" and "x high" have become one column of Estimates, indexed by model."""
    columns: dict[str, Any] = {}
    for name in table.columns:
        if f"{name} low" in table:
            rows = table[[name, f"{name} low", f"{name} high"]].to_numpy(float).tolist()
            columns[name] = [Estimate(*row) if row[0] == row[0] else Estimate.missing("-") for row in rows]
        elif not name.endswith((" low", " high")):
            columns[name] = list(table[name])
    return pd.DataFrame(columns).set_index("model")


def _external_scores(run: Run, deployed: int) -> pd.DataFrame:
    """Return the predictions of B's and C's first scans by the deployed fold of every compared model."""
    table = accepted(run)
    table = table[table["role"] == "external"].reset_index(drop=True)
    cases, device = Cases.of(run, table), use_device(run)
    parts = []
    for name in OTHERS:
        epoch = int(fold_scores(run, name)["epoch"].max())
        logits = load(run, name, deployed).score(cases, device=device)
        parts.append(prediction_rows(TASK, name, deployed, epoch, table, "external", "nominal", logits))
    return pd.concat(parts, ignore_index=True)


def fold_scores(run: Run, name: str) -> pd.DataFrame:
    """Return the out-of-fold scores of A of one model: last epoch, one row a scan."""
    if name == REFERENCE:
        return results.out_of_fold(run)
    files = [folder_of(run, name, fold) / "predictions.csv" for fold in results.folds(run)]
    table = scored.of_folds(files)
    return table[table["epoch"] == table["epoch"].max()]


def compare(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model: model, A (mean fold AUC), and for each external hospital AUC and difference from COVID3D.

    scores: predictions of the external scans, COVID3D's among them. Each of these has `low` and `high` beside it: Student's
    t over the folds, the recommended interval of an AUC, paired DeLong on the same scans. Then parameters.
    """
    sites = {str(site): _wide(part) for site, part in scores.groupby("hospital")}
    rows = []
    for name in COMPARATORS:
        model = create(name, run.profile) if name == REFERENCE else load(run, name, 0)
        row = {"model": model.row, **_limits("A", mean_fold_auc(fold_scores(run, name)))}
        for site, table in sites.items():
            row |= _limits(site, auc(table["label"], table[name]))
            if name != REFERENCE:
                difference = paired_delong(table["label"], table[name], table[REFERENCE]).estimate
                row |= _limits(f"{site}{AGAINST}", difference)
        rows.append({**row, "parameters": model.parameters})
    table = pd.DataFrame(rows)
    return table[[*(column for column in table if column != "parameters"), "parameters"]]


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """Return one row a scan with its label and a logit column for each model."""
    logits = part.pivot(index="scan_id", columns="model", values="logit")
    return logits.join(part.drop_duplicates("scan_id").set_index("scan_id")["label"])


def _limits(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def minutes(run: Run, name: str) -> float:
    """Return the minutes that the folds of a model took, one after the other; NaN where a fold's time is not noted."""
    place = f"models__{TASK}__{name}" if name == REFERENCE else f"comparators__{name}"
    total = 0.0
    for fold in results.folds(run):
        try:
            note = json.loads(run.path("logs", "cost", f"{place}__fold_{fold:02d}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return float("nan")
        total += note["seconds"] / 60
    return round(total, 1)
