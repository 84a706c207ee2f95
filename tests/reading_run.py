"""A run of small DICOM series for the reading room: five external scans, two patients to follow, one outside, four at A."""

import shutil

import pandas as pd
from dicom_series import body, write_series

from covid3d.cohort.intake import as_table, take_in
from covid3d.cohort.manifest import COLUMNS, write_manifest
from covid3d.reading_room.cases import reading_list
from covid3d.run.files import write_csv

FIRST = {f"B{n:03d}": n % 2 for n in range(5)} | {"C000": 1} | {f"A{n:03d}": n % 2 for n in range(6)}
FOLLOWED = {"A000": 9, "A001": 3, "C000": 8}  # the days that are left at the index scan


def deliver(run):
    """Write and take in the scans of the run; the files of B000 are gone afterwards."""
    rows = []
    for patient, label in FIRST.items():
        scans = [(0, "development" if patient < "B" else "external", "")]
        scans += [(1, "followup", FOLLOWED[patient])] if patient in FOLLOWED else []
        for index, role, left in scans:
            scan_id = f"{patient}-{index}"
            write_series(run.path("dicom", scan_id), body(seed=len(rows)), PatientID=patient, SeriesNumber=1)
            facts = {"scan_id": scan_id, "patient_id": patient, "hospital": patient[0], "role": role, "label": label}
            facts |= {"scan_index": index, "day": 5 * index, "days_to_discharge": left, "source": f"dicom/{scan_id}"}
            rows.append(dict.fromkeys(COLUMNS, "") | facts)
    write_manifest(run.manifest, pd.DataFrame(rows))
    write_csv(run.intake, as_table([take_in(run, row) for row in rows]))
    shutil.rmtree(run.path("dicom", "B000-0"))
    return run


def order(run, reader, task="covid"):
    """Return the scans of the study in the order of one reader and task."""
    return [case.scan_id for case in reading_list(run, reader, [task]) if not case.truth]
