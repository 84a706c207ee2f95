"""What the course of a score says: noise band, peaks, changes and the pooled curve; tables in, numbers out.

A course has one row a scan with scan_id, patient_id, hospital, scan_index, day (since the patient's first scan),
days_since_onset, days_to_discharge and logit = s.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from patsy import cr, dmatrix
from scipy import stats

from covid3d.stats.auc import mean_interval
from covid3d.stats.estimate import NAN, Estimate

CURVE_DF = 4


class NoiseBand(NamedTuple):
    """A change of s larger than `half_width` is unlikely (at most 5 %) when nothing has changed."""

    half_width: float
    rescan_sd: float
    window_sd: float
    pairs: int
    flagged: int
    method: str


def rescan_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the same-day pairs of a rescan and the patient's own scan: scan_id of both (two rows a pair), pair, kind."""
    kind = "kind" if "kind" in table else "role"
    dated = table.dropna(subset=["day"])
    again, own = dated[dated[kind] == "rescan"], dated[~dated[kind].isin(["rescan", "control"])]
    found = again.merge(own, on=["patient_id", "day"], suffixes=("_rescan", "_own"))
    parts = [
        found[[f"scan_id_{side}"]].set_axis(["scan_id"], axis=1).assign(pair=found.index, side=side)
        for side in ("own", "rescan")
    ]
    return pd.concat(parts, ignore_index=True)


def noise_band(scores: pd.DataFrame) -> NoiseBand:
    """Return the noise band of a change of s between two scans of one patient.

    scores: scan_id, patient_id, kind, day, logit, and window_sd (SD of s over windows) of the rescan pairs.
    """
    pairs = rescan_pairs(scores).merge(scores[["scan_id", "logit", "window_sd"]], on="scan_id")
    wide = pairs.pivot(index="pair", columns="side", values="logit").reindex(columns=["own", "rescan"])
    spread = pairs["window_sd"].dropna()
    window_sd = float(np.sqrt((spread**2).mean())) if len(spread) else 0.0
    return noise_band_of((wide["rescan"] - wide["own"]).to_numpy(float), window_sd)


def noise_band_of(differences: np.ndarray, window_sd: float = 0.0) -> NoiseBand:
    """Return the band for paired differences (N,) of scans without change, and the SD of s over windows.

    Half-width = t(0.975, N) x sqrt(mean square + 2 window_sd^2): a prediction interval for a new no-change difference of
    mean zero. With N >= 19 it is at least the ceil(0.95 (N + 1))-th smallest absolute difference, which holds for any
    distribution (Vovk's conformal bound). Pairs without a score count in nothing.
    """
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    if count < 2:
        return NoiseBand(NAN, NAN, window_sd, count, 0, "not available: fewer than two same-day pairs")
    square = float(np.mean(np.square(differences)))
    half = float(stats.t.ppf(0.975, count) * np.sqrt(square + 2 * window_sd**2))
    rank = int(np.ceil(0.95 * (count + 1)))
    if rank <= count:
        half = max(half, float(np.sort(np.abs(differences))[rank - 1]))
    flagged = int(np.sum(np.abs(differences) > half))
    return NoiseBand(
        half, float(np.sqrt(square)), window_sd, count, flagged, "same-day rescans and windows, 95 % prediction"
    )


def peak_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a patient of a course: where s starts, peaks and ends, and when.

    Columns patient_id, hospital, scans, first, peak, last, first_day, last_day, peak_day, peak_days_since_onset,
    peak_to_discharge, last_to_discharge (days), rise (peak - first), fall (peak - last), peak_inside (1 when the peak is
    neither the first nor the last scan).
    """
    rows = []
    for patient, part in table.groupby("patient_id"):
        part = part.sort_values("day")
        top, end, start = part.iloc[int(part["logit"].to_numpy().argmax())], part.iloc[-1], part.iloc[0]
        rows.append(
            {
                "patient_id": patient,
                "hospital": start["hospital"],
                "scans": len(part),
                "first": start["logit"] if start["scan_index"] == 0 else NAN,
                "peak": top["logit"],
                "last": end["logit"],
                "first_day": start["day"],
                "last_day": end["day"],
                "peak_day": top["day"],
                "peak_days_since_onset": top["days_since_onset"],
                "peak_to_discharge": top["days_to_discharge"],
                "last_to_discharge": end["days_to_discharge"],
                "rise": top["logit"] - start["logit"],
                "fall": top["logit"] - end["logit"],
                "peak_inside": int(top["scan_id"] not in (start["scan_id"], end["scan_id"])),
            }
        )
    columns = ["patient_id", "hospital", "scans", "first", "peak", "last", "first_day", "last_day", "peak_day"]
    columns += ["peak_days_since_onset", "peak_to_discharge", "last_to_discharge", "rise", "fall", "peak_inside"]
    return pd.DataFrame(rows, columns=columns)


def late_scans(table: pd.DataFrame, late_days: float = 3) -> pd.Series:
    """Return for each patient of a course whether its last scan lies within `late_days` of discharge; NA when unknown."""
    gap = peak_table(table).set_index("patient_id")["last_to_discharge"]
    return (gap <= late_days).astype("boolean").mask(gap.isna())


def change_of(table: pd.DataFrame, first_day: float = 7, last_day: float = 10) -> Estimate:
    """Return the mean over patients of s in a span of days minus s at the first scan, with a paired t interval."""
    start = table[table["scan_index"] == 0].set_index("patient_id")["logit"]
    later = (
        table[table["day"].between(first_day, last_day) & (table["scan_index"] > 0)]
        .groupby("patient_id")["logit"]
        .mean()
    )
    values = (later - start).dropna()
    if len(values) < 2:
        few = f"{len(values)} patients with such a scan"
        return Estimate(float(values.iloc[0]), method=f"no interval: {few}") if len(values) else Estimate.missing(few)
    return mean_interval(values).by(f"paired t, n = {len(values)}")


def percentile_in(values: pd.Series, score: float) -> float:
    """Return the percentage of values at or below a score (mid-rank for ties)."""
    return min(float(stats.percentileofscore(values, score, kind="mean")), 100.0) if len(values) else NAN


def curve_of(table: pd.DataFrame, time: str, bootstrap: int, rng: np.random.Generator) -> tuple[pd.DataFrame, Estimate]:
    """Return (day, s, low, high) of a natural cubic spline with patient effects, and the day of its highest point.

    Within-patient least squares: each patient's own level is removed, so that patients with more scans, or scanned at
    other times, do not bend the curve. Percentile intervals over resampled patients. The curve spans the central 90 % of
    the times.
    """
    known = table.dropna(subset=[time, "logit"])
    known = known[known.groupby("patient_id")["scan_id"].transform("size") >= 2]
    none = pd.DataFrame(columns=["day", "s", "low", "high"], dtype=float)
    days = known[time].to_numpy(float)
    if known["patient_id"].nunique() < 4 or len(np.unique(days)) < CURVE_DF + 2:
        return none, Estimate.missing("too few patients or days")
    grid = np.linspace(np.quantile(days, 0.05), np.quantile(days, 0.95), 61)
    knots = np.quantile(days, np.linspace(0, 1, CURVE_DF)[1:-1])
    limits = {"lower_bound": float(days.min()), "upper_bound": float(days.max())}
    basis, at = (_spline(values, knots, limits) for values in (days, grid))
    codes, _ = pd.factorize(known["patient_id"])
    groups = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    values = known["logit"].to_numpy(float)
    centred = np.vstack([basis[rows] - basis[rows].mean(0) for rows in groups])
    residual = np.concatenate([values[rows] - values[rows].mean() for rows in groups])
    where = np.split(np.arange(len(residual)), np.cumsum([len(rows) for rows in groups])[:-1])
    means = np.array([[values[rows].mean(), *basis[rows].mean(0)] for rows in groups])

    def fit(chosen: np.ndarray) -> np.ndarray:
        rows = np.concatenate([where[patient] for patient in chosen])
        slope = np.linalg.lstsq(centred[rows], residual[rows], rcond=None)[0]
        return at @ slope + np.mean(means[chosen, 0] - means[chosen, 1:] @ slope)

    best = fit(np.arange(len(groups)))
    draws = np.array([fit(rng.integers(0, len(groups), len(groups))) for _ in range(bootstrap)])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    tops = grid[draws.argmax(1)]
    first, last = np.quantile(tops, [0.025, 0.975]).tolist()
    peak = Estimate(float(grid[best.argmax()]), first, last, "patient bootstrap of the spline's peak")
    return pd.DataFrame({"day": grid, "s": best, "low": low, "high": high}), peak


def _spline(values: np.ndarray, knots: np.ndarray, limits: dict[str, float]) -> np.ndarray:
    """Return a natural cubic regression spline basis without a constant (Wood 2017, section 5.3.1; patsy's cr)."""
    design = dmatrix("cr(x, knots=knots, lower_bound=low, upper_bound=high) - 1", _spline_data(values, knots, limits))
    return np.asarray(design)[:, 1:]


def _spline_data(values: np.ndarray, knots: np.ndarray, limits: dict[str, float]) -> dict[str, object]:
    return {
        "x": values,
        "knots": np.unique(knots),
        "low": limits["lower_bound"],
        "high": limits["upper_bound"],
        "cr": cr,
    }
