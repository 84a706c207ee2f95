"""Who is one person: patient ids that share pixels, a series or a DICOM PatientID, and which of their scans may be judged."""

from collections.abc import Iterable, Sequence

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

HASHES = ("pixel_sha256", "series_uid_sha256", "patient_sha256")
CONTRADICT = "labels contradict: copies or scans of one person under several patient ids"
AGAIN = "one person again: under another patient id, with the same label"


def shared(scans: pd.DataFrame, name: str) -> pd.Series:
    """Return a hash of each scan where another patient id has it too, else missing; a PatientID that most share was blanked."""
    value = scans[name].where(scans[name].notna() & (scans[name] != ""))
    owners = scans.groupby(value)["patient_id"].transform("nunique")
    blanked = name == "patient_sha256" and owners > max(2, scans["patient_id"].nunique() // 2)
    return value.where((owners > 1) & ~pd.Series(blanked, index=scans.index))


def persons(
    scans: pd.DataFrame, by: Sequence[str] = HASHES, alike: Iterable[tuple[str, str]] = ()
) -> dict[str, list[str]]:
    """Return for each patient id all ids of that person, in the order of `scans`.

    scans: scan_id, patient_id and hashes, of which those of `by` that are there count. alike: pairs of scan_ids that show
    one person.
    """
    known, owner = DisjointSet(scans["patient_id"]), dict(zip(scans["scan_id"], scans["patient_id"], strict=True))
    links = [part["patient_id"] for name in by if name in scans for _, part in scans.groupby(shared(scans, name))]
    links += [pd.Series([owner[one], owner[other]]) for one, other in alike if one in owner and other in owner]
    for ids in links:
        for other in ids:
            known.merge(ids.iloc[0], other)
    order = {patient: place for place, patient in enumerate(scans["patient_id"].unique())}
    return {patient: sorted(known.subset(patient), key=order.__getitem__) for patient in order}


def left_out(scans: pd.DataFrame, alike: Iterable[tuple[str, str]] = ()) -> pd.DataFrame:
    """Return scan_id and reason of each scan that must not be judged as if it were another patient's.

    scans: scan_id, patient_id, label, scan_index and hashes of scans that were read. A statistic counts independent
    persons: where the ids of one person have two labels nobody knows which is right, and all go; else the first id with
    a first scan stays, in the order of `scans`, which knows neither label nor score.
    """
    scans = scans.sort_values("scan_index", kind="stable")
    ids = scans["patient_id"].map(persons(scans, alike=alike))
    two_labels = scans.groupby(ids.str[0])["label"].transform("nunique") > 1
    again = ids.str[0] != scans["patient_id"]
    found = scans[["scan_id"]].assign(reason=two_labels.map({True: CONTRADICT, False: AGAIN}))
    return found[two_labels | again].reset_index(drop=True)
