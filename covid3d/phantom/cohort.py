"""Which scans a profile takes from the order form, and the simulated scans outside of it (rescans, control follow-ups)."""

import re
from typing import Any

import numpy as np
import pandas as pd

from covid3d.phantom.order_form import FIGURE_4_AGE, LATE_DAYS, course_of, plan_days
from covid3d.phantom.scanner import SCANNERS
from covid3d.run.errors import ConfigError
from covid3d.run.files import random_seed
from covid3d.run.profile import Cohort

FIRST = 0
HIGH_RISK_DAYS = 7


def check_orders(form: pd.DataFrame) -> None:
    """Refuse an order form that the phantom cannot fill; the ConfigError names the column."""
    for number, row in enumerate(form.itertuples(), 2):
        if not re.fullmatch(r"phantom:\d+", str(row.source)):
            raise ConfigError(
                f"the phantom cannot make '{row.source}'",
                where=f"row {number}, column 'source'",
                cure="Write phantom:<seed>",
            )
        if row.hospital not in SCANNERS:
            cure = f"Use {', '.join(SCANNERS)}"
            raise ConfigError(
                f"there is no scanner for hospital '{row.hospital}'",
                where=f"row {number}, column 'hospital'",
                cure=cure,
            )


def order_seed(source: object) -> int:
    """Return the seed of a source `phantom:<seed>`."""
    return int(str(source).partition(":")[2])


def select(form: pd.DataFrame, limits: Cohort) -> pd.DataFrame:
    """Return the rows of the order form that a profile takes, in the form's order, always the same ones.

    All roles stay, and so do the patient of Figure 4, a patient of A without a late scan and the censored patient.
    """
    firsts = form[form["scan_index"] == FIRST]
    followed = _followed(form, limits)
    kept: list[str] = []
    for (hospital, _), group in firsts.groupby(["hospital", "label"], sort=True):
        wanted = limits.development_per_class if hospital == "A" else limits.external_per_class
        _check_limit(form, str(hospital), wanted)
        ids = sorted(group["patient_id"], key=lambda patient: (patient not in followed, patient))
        kept += ids[:wanted]
    rows = form["patient_id"].isin(kept) & ((form["scan_index"] == FIRST) | form["patient_id"].isin(followed))
    return form[rows].reset_index(drop=True)


def _check_limit(form: pd.DataFrame, hospital: str, wanted: int | None) -> None:
    """Refuse a limit that no class of a hospital can fill."""
    if wanted is None:
        return
    key = "development_per_class" if hospital == "A" else "external_per_class"
    firsts = form[(form["scan_index"] == FIRST) & ((form["hospital"] == "A") == (hospital == "A"))]
    most = int(firsts.groupby(["hospital", "label"]).size().max())
    if wanted > most:
        raise ConfigError(
            f"cohort.{key} is {wanted}, the order form has {most}", where="profile", cure=f"Use {most} or fewer"
        )


def _followed(form: pd.DataFrame, limits: Cohort) -> set[str]:
    """Return the followed patients that a profile takes: special cases, then both risk classes in turn, fewest scans first."""
    later = form[form["scan_index"] > FIRST]
    patients = list(dict.fromkeys(later["patient_id"]))
    wanted = limits.followup_patients
    if wanted is None or not patients:
        return set(patients)
    if wanted > len(patients):
        what = f"cohort.followup_patients is {wanted}, the order form has {len(patients)}"
        raise ConfigError(what, where="profile", cure=f"Use {len(patients)} or fewer")
    last = later.groupby("patient_id")["days_to_discharge"].min()
    count = later.groupby("patient_id").size()
    index = later[later["scan_index"] == FIRST + 1].set_index("patient_id")
    of_a = [p for p in patients if index.at[p, "hospital"] == "A"]
    case = [p for p in of_a if index.at[p, "age"] == FIGURE_4_AGE]
    late = [p for p in sorted(of_a, key=lambda p: (count[p], p)) if last[p] > LATE_DAYS and p not in case]
    censored = [p for p in patients if index.at[p, "censored"] == 1]
    chosen = [*case[:1], *censored[:1], *late[:1]]
    high = {p: bool(flag) for p, flag in (index["days_to_discharge"] >= HIGH_RISK_DAYS).items() if p in of_a}
    rest = sorted((p for p in of_a if p not in chosen), key=lambda p: (count[p], p))
    while len(chosen) < wanted and rest:
        risks = [high[p] for p in chosen if p in high]
        need = risks.count(True) <= risks.count(False)
        chosen.append(next((p for p in rest if high[p] == need), rest[0]))
        rest.remove(chosen[-1])
    chosen += [p for p in patients if p not in chosen][: wanted - len(chosen)]
    most = limits.development_per_class
    if most is not None and sum(p in high for p in chosen) > most:
        what = f"cohort.followup_patients is {wanted}, more than development_per_class {most} can hold"
        raise ConfigError(what, where="profile", cure="Use fewer")
    return set(chosen)


def controls(table: pd.DataFrame, limits: Cohort) -> pd.DataFrame:
    """Return the scans outside the order form: same-day rescans, and follow-ups of COVID- patients of A."""
    rows = [*_rescans(table, limits.rescans), *_control_followups(table, limits.control_patients)]
    return pd.DataFrame(rows, columns=list(table.columns)).astype(table.dtypes.to_dict())


def _rescans(table: pd.DataFrame, count: int) -> list[dict[str, object]]:
    """Return `count` same-day rescans of scans of A, one a patient as long as there are patients."""
    at_a = table[table["hospital"] == "A"]
    order = np.random.default_rng(random_seed("rescans")).permutation(len(at_a))
    mixed = at_a.iloc[order]
    turn = mixed.groupby("patient_id").cumcount()
    chosen = mixed.iloc[np.argsort(turn, kind="stable")]
    if count > len(chosen):
        what = f"cohort.rescans is {count}, hospital A has {len(chosen)} scans"
        raise ConfigError(what, where="profile", cure=f"Use {len(chosen)} or fewer")
    picked = chosen.head(count).sort_index()
    return [{**row, "scan_id": f"{row['scan_id']}-rescan", "role": "rescan"} for row in _records(picked)]


def _control_followups(table: pd.DataFrame, count: int) -> list[dict[str, object]]:
    """Return three follow-up scans of each of `count` COVID- patients of A, on the days their own course would have."""
    fit = (table["hospital"] == "A") & (table["label"] == 0) & (table["scan_index"] == FIRST)
    fit &= (table["ventilated"] == 0) & (table["outcome"] == "discharged")
    patients = _records(table[fit].head(count))
    if count > len(patients):
        what = f"cohort.control_patients is {count}, hospital A has {len(patients)} that fit"
        raise ConfigError(what, where="profile", cure=f"Use {len(patients)} or fewer")
    rows: list[dict[str, object]] = []
    for first in patients:
        seed, patient = order_seed(first["source"]), str(first["patient_id"])
        course = course_of(seed, patient, None, ())
        days = plan_days(3, course.discharge_day, False, np.random.default_rng(random_seed(seed, patient, "control")))
        for number, day in enumerate(days[1:], 1):
            rows.append(
                {
                    **first,
                    "scan_id": f"{patient}-control-{number}",
                    "role": "control",
                    "scan_index": number,
                    "day": float(day),
                    "days_since_onset": float(course.onset_to_first + day),
                    "days_to_discharge": float(course.discharge_day - day),
                }
            )
    return rows


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table's rows."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
