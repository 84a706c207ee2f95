"""s(t): the Task-1 logit of every scan of the follow-up patients, its noise band, peaks and the pooled curve.

A patient of A is scored by the one fold model that never saw that patient; B and C by the deployed fold. Days count from
the patient's first scan; the paper's "day d" is day d - 1 here.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import Window, nominal_window, sample_windows
from covid3d.network import scoring, training
from covid3d.run import steps
from covid3d.run.files import random_seed, write_csv
from covid3d.run.profile import Run
from covid3d.stats.courses import (
    NoiseBand,
    change_of,
    curve_of,
    late_scans,
    noise_band_of,
    peak_table,
    percentile_in,
    rescan_pairs,
)
from covid3d.stats.estimate import Estimate
from covid3d.stats.proportions import wilson

IDS = {"scan_id": str, "patient_id": str, "hospital": str}
CASE_AGE, CASE_SCANS = 24, 5
NAN = float("nan")


def ensure_trajectories(run: Run) -> pd.DataFrame:
    """Return trajectories/scores.csv, computing it when needed: one row a scan, nominal window.

    Columns scan_id, patient_id, hospital, label, kind (first | followup | rescan | control), scan_index, day, fold, logit,
    probability, window_sd (SD over the first sampled windows; scans of the rescan pairs only).
    """
    folds = range(run.profile.training.folds)
    inputs: dict[str, object] = {
        "manifest": run.manifest,
        "intake": run.intake,
        "splits": run.splits,
        "selection": steps.content(run.path("models", "task1", "selection")),
        "folds": [steps.content(run.model("task1", "covid3d", fold)) for fold in folds],
    }
    if run.path("controls.csv").is_file():
        inputs["controls"] = run.path("controls.csv")

    def compute(folder: Path) -> None:
        write_csv(folder / "scores.csv", _score(run))

    folder = steps.ensure(run, "trajectories", run.path("trajectories"), inputs, compute)
    return pd.read_csv(folder / "scores.csv", dtype=IDS)


def scoring_folds(table: pd.DataFrame, splits: pd.DataFrame, deployed: int) -> pd.Series:
    """Return the fold model that scores each scan: the one that held the patient out, else the deployed one (B, C)."""
    held = splits[splits["split"] == "validation"].drop_duplicates("patient_id").set_index("patient_id")["fold"]
    return table["patient_id"].map(held).fillna(deployed).astype(int)


def _score(run: Run) -> pd.DataFrame:
    selection = pd.read_csv(run.path("models", "task1", "selection", "selection.csv"))
    deployed = int(selection.loc[selection["deployed"] == 1, "fold"].iloc[0])
    table = accepted(run).reset_index(drop=True)
    table["fold"] = scoring_folds(table, pd.read_csv(run.splits, dtype=IDS), deployed)
    table["kind"] = table["role"].replace({"development": "first", "external": "first"})
    pairs = rescan_pairs(table)
    settings, device = run.profile.windows, scoring.pick_device(run.device)
    sample = sample_windows(settings, run.seed).head(settings.internal_count)
    windows = [nominal_window(settings), *(Window(*pair) for pair in sample[["level", "width"]].to_numpy().tolist())]
    if device == "cpu":
        torch.set_num_threads(run.profile.training.threads_per_fold)
    table["logit"], table["window_sd"] = NAN, NAN
    for fold, part in table.groupby("fold"):
        model = training.load_fold(run, "task1", "covid3d", int(str(fold)))
        in_pair = part["scan_id"].isin(pairs["scan_id"])
        for scans, chosen in ((part[~in_pair], windows[:1]), (part[in_pair], windows)):
            if len(scans):
                logits = scoring.score(model, Store.of(run).stack(scans["scan_id"]), chosen, device=device)
                table.loc[scans.index, "logit"] = logits[:, 0]
                if len(chosen) > 1:
                    table.loc[scans.index, "window_sd"] = logits[:, 1:].std(axis=1, ddof=1)
    table["probability"] = scoring.sigmoid(table["logit"].to_numpy())
    columns = [
        "scan_id",
        "patient_id",
        "hospital",
        "label",
        "kind",
        "scan_index",
        "day",
        "fold",
        "logit",
        "probability",
    ]
    return table[[*columns, "window_sd"]].sort_values("scan_id", ignore_index=True)


# --- noise -----------------------------------------------------------------------------------------------------------


def noise_band(run: Run) -> NoiseBand:
    """Return the noise band of a change of s between two scans of one patient."""
    scores = ensure_trajectories(run)
    pairs = rescan_pairs(scores).merge(scores[["scan_id", "logit", "window_sd"]], on="scan_id")
    wide = (
        pairs.pivot(index="pair", columns="side", values="logit")
        if len(pairs)
        else pd.DataFrame(columns=["own", "rescan"])
    )
    spread = pairs["window_sd"].dropna()
    return noise_band_of(
        (wide["rescan"] - wide["own"]).to_numpy(float), float(np.sqrt((spread**2).mean())) if len(spread) else 0.0
    )


def fold_offsets(run: Run) -> pd.DataFrame:
    """Return how the fold models' scales differ: fold, n, mean out-of-fold logit by label at A, and mean logit on B and C.

    Columns fold, n, mean_positive, mean_negative, mean_external (NaN until external/predictions.csv exists).
    """
    scores = ensure_trajectories(run)
    first = scores[
        (scores["kind"] == "first") & scores["patient_id"].isin(pd.read_csv(run.splits, dtype=IDS)["patient_id"])
    ]
    path = run.path("external", "predictions.csv")
    outside = pd.Series(dtype=float)
    if path.is_file():
        external = pd.read_csv(path, dtype=IDS)
        outside = external[external["model"] == "covid3d_fold"].groupby("fold")["logit"].mean()
    rows = [
        {
            "fold": fold,
            "n": len(part),
            "mean_positive": part.loc[part["label"] == 1, "logit"].mean(),
            "mean_negative": part.loc[part["label"] == 0, "logit"].mean(),
            "mean_external": outside.get(fold, NAN),
        }
        for fold, part in first.groupby("fold")
    ]
    return pd.DataFrame(rows, columns=["fold", "n", "mean_positive", "mean_negative", "mean_external"])


def fold_variation(run: Run) -> pd.DataFrame:
    """Return how far the fold models disagree on one scan of B and C, which none of them has seen: hospital, sd, n.

    sd: root mean square over scans of the SD of s over folds, after each fold's mean on the hospital is taken off.
    """
    path, columns = run.path("external", "predictions.csv"), ["hospital", "sd", "n"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    external = pd.read_csv(path, dtype=IDS).query("model == 'covid3d_fold'")
    rows = []
    for hospital, part in external.groupby("hospital"):
        wide = part.pivot(index="scan_id", columns="fold", values="logit")
        spread = (wide - wide.mean()).std(axis=1, ddof=1)
        rows.append((hospital, float(np.sqrt((spread**2).mean())), len(wide)))
    return pd.DataFrame(rows, columns=columns)


# --- patients --------------------------------------------------------------------------------------------------------


def course(run: Run, *, controls: bool = False) -> pd.DataFrame:
    """Return every scan of the patients with follow-up, with the days of the manifest, ordered by patient and day.

    A censored stay has no days_to_discharge (the manifest gives the last contact there).

    controls=True gives the COVID- patients with simulated follow-ups instead (none in a real cohort).
    """
    columns = ["scan_id", "days_since_onset", "days_to_discharge", "outcome", "censored", "age", "sex"]
    table = ensure_trajectories(run).merge(accepted(run)[columns], on="scan_id")
    followed = table.loc[table["kind"] == ("control" if controls else "followup"), "patient_id"]
    kinds = ["first", "control"] if controls else ["first", "followup"]
    chosen = table[table["patient_id"].isin(followed) & table["kind"].isin(kinds)]
    numbers = ["day", "days_since_onset", "days_to_discharge", "age"]
    chosen = chosen.assign(**{name: pd.to_numeric(chosen[name]).astype(float) for name in numbers})
    chosen["days_to_discharge"] = chosen["days_to_discharge"].mask(
        pd.to_numeric(chosen["censored"]).eq(1).fillna(False)
    )
    return chosen.sort_values(["patient_id", "scan_index", "day"], ignore_index=True)


def negative_scores(run: Run) -> pd.DataFrame:
    """Return s of the COVID- first scans by each fold model that has not seen them: fold, scan_id, logit.

    A's by the fold that held them out, B's and C's by every fold (until external/predictions.csv exists by the deployed one
    alone). A scan is placed among the scores of its own fold model: the models' scales differ.
    """
    scores, columns = ensure_trajectories(run), ["fold", "scan_id", "logit"]
    own = scores.loc[(scores["kind"] == "first") & (scores["label"] == 0), columns]
    path = run.path("external", "predictions.csv")
    if not path.is_file():
        return own.reset_index(drop=True)
    external = pd.read_csv(path, dtype=IDS).query("model == 'covid3d_fold' and label == 0")
    return pd.concat([own, external[columns]]).drop_duplicates(["fold", "scan_id"], ignore_index=True)


def shares(run: Run, late_days: float = 3, hospital: str | None = None) -> pd.DataFrame:
    """Return the counts that the text speaks of, k of n with Wilson's interval: quantity, k, n, value, low, high.

    The quantities are s(first) > 0; peak at 7 to 10 days; peak 10 to 15 days after onset; last scan within `late_days` of
    discharge; among those s(last) < 0, s(last) inside the central 95 % of COVID- first scans of the same fold model, and s
    fell from the peak by more than the noise band. `hospital` restricts it to one hospital.
    """
    table = course(run)
    table = table if hospital is None else table[table["hospital"] == hospital]
    peaks = peak_table(table).set_index("patient_id")
    late = late_scans(table, late_days)
    band, ended = noise_band(run).half_width, peaks[late.fillna(False).astype(bool)]
    negative = negative_scores(run).groupby("fold")["logit"]
    fold = table.groupby("patient_id")["fold"].first().reindex(ended.index)
    low, high = (fold.map(negative.quantile(share)) for share in (0.025, 0.975))
    counts = {
        "s > 0 at the first scan": (peaks["first"] > 0)[peaks["first"].notna()],
        "peak 7 to 10 days after the first scan": peaks["peak_day"].between(7, 10)[peaks["peak_day"].notna()],
        "peak 10 to 15 days after onset": peaks["peak_days_since_onset"].between(10, 15)[
            peaks["peak_days_since_onset"].notna()
        ],
        f"last scan within {late_days:g} days of discharge": late.dropna().astype(bool),
        "s < 0 at a late last scan": ended["last"] < 0,
        "late last scan inside the COVID- distribution": ended["last"].between(low, high),
        "fall from the peak beyond the noise band": (ended["fall"] > band)
        if np.isfinite(band)
        else pd.Series(dtype=bool),
    }
    rows = [{"quantity": name, **_share(values)} for name, values in counts.items()]
    return pd.DataFrame(rows)


def _share(values: pd.Series) -> dict[str, float]:
    k, n = int(values.sum()), len(values)
    found = wilson(k, n)
    return {"k": k, "n": n, "value": found.value, "low": found.low, "high": found.high}


def change(run: Run, first_day: float = 7, last_day: float = 10) -> Estimate:
    """Return the mean change of s from the first scan to days 7 to 10 (paired t interval; patients with such a scan)."""
    return change_of(course(run), first_day, last_day)


# --- pooled curve ----------------------------------------------------------------------------------------------------


def curve(run: Run, time: str = "day", *, controls: bool = False) -> tuple[pd.DataFrame, Estimate]:
    """Return the pooled curve of s over `time` (day, days_since_onset or days_to_discharge) and the day of its peak."""
    rng = np.random.default_rng(random_seed(run.seed, "trajectories", time, controls))
    return curve_of(course(run, controls=controls), time, run.profile.statistics.bootstrap, rng)


def peak_days(run: Run) -> pd.DataFrame:
    """Return the distribution of each patient's highest scan: days, n patients, share."""
    days = peak_table(course(run))["peak_day"].dropna()
    edges = [-np.inf, 2, 6, 10, 14, np.inf]
    names = ["0 to 2", "3 to 6", "7 to 10", "11 to 14", "15 or later"]
    counts = pd.cut(days, edges, labels=names).value_counts().reindex(names)
    return pd.DataFrame(
        {"days": names, "patients": counts.to_numpy(int), "share": counts.to_numpy() / max(len(days), 1)}
    )


def case_study(run: Run) -> pd.DataFrame:
    """Return the patient of Figure 4, one row a scan: scan_id, day, paper_day, logit, probability, percentile, and so on.

    The patient of 24 years with 5 scans; in a cohort without one, the patient with most scans, and `note` says so.
    `percentile` is the score's place among the COVID- first scans of the same fold model.
    """
    table = course(run)
    columns = [
        "scan_id",
        "patient_id",
        "hospital",
        "age",
        "day",
        "paper_day",
        "days_to_discharge",
        "logit",
        "probability",
    ]
    if table.empty:
        return pd.DataFrame(columns=[*columns, "percentile", "beyond_noise", "note"])
    size = table.groupby("patient_id")["scan_id"].transform("size")
    wanted = table[(size == CASE_SCANS) & (table["age"] == CASE_AGE)]
    note = "24 years, 5 scans"
    if wanted.empty:
        wanted, note = (
            table[size == size.max()],
            f"no patient of 24 years with 5 scans here: one with {size.max()} scans is shown",
        )
    chosen = wanted[wanted["patient_id"] == wanted["patient_id"].iloc[0]].sort_values("day")
    negative, band = negative_scores(run), noise_band(run).half_width
    negative = negative[negative["fold"] == chosen["fold"].iloc[0]]
    return chosen.assign(
        paper_day=chosen["day"] + 1,
        percentile=[percentile_in(negative["logit"], score) for score in chosen["logit"]],
        beyond_noise=[int(abs(step) > band) if np.isfinite(band) else 0 for step in chosen["logit"].diff().fillna(0)],
        note=note,
    )[[*columns, "percentile", "beyond_noise", "note"]].reset_index(drop=True)
