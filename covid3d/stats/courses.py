"""What the course of a score says: noise band, peaks, changes, rank within patients, and the population curve.

A course has one row a scan with scan_id, patient_id, hospital, scan_index, day (since the patient's first scan),
days_since_onset, days_to_discharge and logit = s.
"""

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from patsy import cr, dmatrix
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from covid3d.stats.auc import mean_interval
from covid3d.stats.estimate import NAN, Estimate

CURVE_DF, LEAST_PATIENTS, LEAST_SCANS = 4, 4, 3
NOT_CONVERGED = "the mixed model did not converge"


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
    neither the first nor the last scan). The order is that of scan_index, for a scan may have no day; one without s counts
    in nothing.
    """
    rows = []
    for patient, part in table.dropna(subset=["logit"]).groupby("patient_id"):
        part = part.sort_values("scan_index")
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
        few = f"{len(values)} patient{'s' * (len(values) != 1)} with such a scan"
        return Estimate(float(values.iloc[0]), method=f"no interval: {few}") if len(values) else Estimate.missing(few)
    return mean_interval(values).by(f"paired t, n = {len(values)}")


def percentile_in(values: pd.Series, score: float) -> float:
    """Return the percentage of values at or below a score (mid-rank for ties)."""
    return min(float(stats.percentileofscore(values, score, kind="mean")), 100.0) if len(values) else NAN


def direction(change: Estimate) -> str:
    """Return in a word what the interval of a mean change says: rises, falls, or that it holds 0."""
    if not change.has_limits:
        return f"not known ({change.method.removeprefix('no interval: ')})"
    return "rises" if change.low > 0 else "falls" if change.high < 0 else "no change beyond chance"


class Within(NamedTuple):
    """A mean over `patients`; `few` had too few complete scans to count, and for `constant` one of the two never varied."""

    estimate: Estimate
    patients: int
    few: int
    constant: int


def rank_within(table: pd.DataFrame, one: str, other: str) -> Within:
    """Return the mean over patients of Spearman's rank correlation of two columns, with t limits cut to [-1, 1].

    Ties have their mean rank, a scan that lacks one of the two counts in nothing, and a patient has at least `LEAST_SCANS`.
    The patient is the unit: so few scans of one patient give no p of their own.
    """
    parts = [part for _, part in table[["patient_id", one, other]].groupby("patient_id")]
    whole = [part for part in (part.dropna() for part in parts) if len(part) >= LEAST_SCANS]
    varied = [part for part in whole if part[one].nunique() > 1 and part[other].nunique() > 1]
    counts = len(varied), len(parts) - len(whole), len(whole) - len(varied)
    if not varied:
        return Within(Estimate.missing("no patient has three scans"), *counts)
    mean = mean_interval([part[one].corr(part[other], method="spearman") for part in varied])
    return Within(
        replace(mean, low=max(mean.low, -1.0), high=min(mean.high, 1.0)) if mean.has_limits else mean, *counts
    )


class Fit(NamedTuple):
    """A linear model with a random intercept a group: coefficients (K,), and the SD between and within groups."""

    coefficients: np.ndarray
    between: float
    within: float


def mixed_fit(values: np.ndarray, design: np.ndarray, groups: np.ndarray) -> Fit | None:
    """Return the REML fit of values (N,) on a design (N, K) with a random intercept a group (Laird & Ware, Biometrics 1982).

    By statsmodels' MixedLM, which tries three optimizers; None where none of them converges.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # each attempt warns; the last one's success is asked for
        found = MixedLM(values, design, groups=groups).fit(reml=True)
    if not found.converged:
        return None
    between = float(np.sqrt(max(np.asarray(found.cov_re)[0, 0], 0.0)))
    return Fit(np.asarray(found.fe_params), between, float(np.sqrt(found.scale)))


def resampled(
    fit: Fit, values: np.ndarray, design: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the coefficients (count, K) of a mixed model for resampled groups, its variances held as they were fitted.

    Generalised least squares a resample. Groups are drawn whole, so that what differs between them beyond their level, such
    as their slope, is in the spread (Cameron & Miller, J Human Resources 2015).
    """
    codes, _ = pd.factorize(groups)
    parts = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    both = np.column_stack([design, values])
    pieces = []
    for rows in parts:
        shrink = fit.between**2 / (fit.within**2 + len(rows) * fit.between**2)
        total = design[rows].sum(0)
        pieces.append(design[rows].T @ both[rows] - shrink * np.outer(total, both[rows].sum(0)))
    drawn = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), count)
    sums = np.einsum("dp,pij->dij", drawn, np.array(pieces))
    return np.array([np.linalg.lstsq(one[:, :-1], one[:, -1], rcond=None)[0] for one in sums])


class Curve(NamedTuple):
    """A population curve: points (day, s, low, high), its highest day, what it rests on, and the SD between and within."""

    points: pd.DataFrame
    peak: Estimate
    patients: int
    scans: int
    between: Estimate
    within: Estimate


def curve_of(table: pd.DataFrame, time: str, bootstrap: int, rng: np.random.Generator) -> Curve:
    """Return the population curve of s over `time`: a natural cubic spline in a mixed model with patient intercepts.

    Percentile intervals over resampled patients. The curve spans the central 90 % of the times. Where patients or days are
    too few, or the model does not converge, there are no points and the peak says why.
    """
    known = table.dropna(subset=[time, "logit"])
    days, values = known[time].to_numpy(float), known["logit"].to_numpy(float)
    patients = known["patient_id"].to_numpy()
    if known["patient_id"].nunique() < LEAST_PATIENTS or len(np.unique(days)) < CURVE_DF + 2:
        return _no_curve(known, "too few patients or days")
    grid = np.linspace(np.quantile(days, 0.05), np.quantile(days, 0.95), 61)
    knots = np.quantile(days, np.linspace(0, 1, CURVE_DF)[1:-1])
    if not days.min() < knots[0] <= knots[-1] < days.max():
        return _no_curve(known, "too many scans of one day")
    limits = {"lower_bound": float(days.min()), "upper_bound": float(days.max())}
    basis, at = (np.column_stack([np.ones(len(one)), _spline(one, knots, limits)]) for one in (days, grid))
    fit = mixed_fit(values, basis, patients)
    if fit is None:
        return _no_curve(known, NOT_CONVERGED)
    best, draws = at @ fit.coefficients, resampled(fit, values, basis, patients, bootstrap, rng) @ at.T
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    first, last = np.quantile(grid[draws.argmax(1)], [0.025, 0.975]).tolist()
    peak = Estimate(float(grid[best.argmax()]), first, last, "patient bootstrap of the curve's peak")
    points = pd.DataFrame({"day": grid, "s": best, "low": low, "high": high})
    spread = (Estimate(sd, method="REML", unit="logit") for sd in (fit.between, fit.within))
    return Curve(points, peak, known["patient_id"].nunique(), len(known), *spread)


def _no_curve(known: pd.DataFrame, why: str) -> Curve:
    none, missing = pd.DataFrame(columns=["day", "s", "low", "high"], dtype=float), Estimate.missing(why)
    return Curve(none, missing, known["patient_id"].nunique(), len(known), missing, missing)


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
