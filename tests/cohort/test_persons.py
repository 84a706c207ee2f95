"""One person under several patient ids is judged once, and not at all where the labels contradict."""

import pandas as pd

from covid3d.cohort.persons import AGAIN, CONTRADICT, left_out, persons


def scans(*rows):
    table = pd.DataFrame(rows, columns=["patient_id", "label", "pixel_sha256", "patient_sha256"])
    return table.assign(scan_id=[f"s{n}" for n in range(len(rows))], scan_index=0)


ROWS = (
    ("P1", 1, "a", "x"),
    ("P2", 1, "b", "x"),  # the PatientID of P1
    ("P3", 1, "b", ""),  # the pixels of P2
    ("P4", 0, "c", "y"),
    ("P5", 1, "c", "z"),  # the pixels of P4, another label
    ("P6", 0, "d", "q"),
    ("P7", 0, "e", "r"),
)


def test_ids_are_linked_through_others():
    assert persons(scans(*ROWS))["P3"] == ["P1", "P2", "P3"]
    assert persons(scans(*ROWS))["P6"] == ["P6"]
    assert persons(scans(*ROWS), ["patient_sha256"])["P2"] == ["P1", "P2"]


def test_the_first_of_one_person_stays_and_none_where_labels_contradict():
    found = left_out(scans(*ROWS)).set_index("scan_id")["reason"].to_dict()
    assert found == {"s1": AGAIN, "s2": AGAIN, "s3": CONTRADICT, "s4": CONTRADICT}


def test_near_copies_count_as_copies_and_a_later_scan_makes_no_id_the_first():
    found = left_out(scans(*ROWS), [("s5", "s6"), ("s5", "refused")])
    assert set(found["scan_id"]) == {"s1", "s2", "s3", "s4", "s6"}
    first = scans(*ROWS).assign(scan_index=[1, 0, 0, 0, 0, 0, 0])
    assert set(left_out(first)["scan_id"]) == {"s0", "s2", "s3", "s4"}


def test_a_patient_id_that_most_share_says_nothing():
    assert left_out(scans(*((f"P{n}", n % 2, f"{n}", "blank") for n in range(6)))).empty
