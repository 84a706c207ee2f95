"""The audit of printed numbers, against the stored results of an independent derivation."""

import re
from pathlib import Path

import pytest
from conftest import CHECKOUT

from covid3d.report import audit, claims, findings
from covid3d.run.errors import ManifestError
from covid3d.run.files import read_json

STORED = read_json(CHECKOUT / "tests" / "data" / "consistency_audit.json")


def test_table_2_equals_the_stored_audit_cell_by_cell() -> None:
    table = audit.audit_published().set_index(["reader", "hospital", "measure"])
    assert len(table) == len(STORED["grim"]) == 12
    for cell in STORED["grim"]:
        measure = {"sens": "sensitivity", "spec": "specificity"}[cell["metric"]]
        found = table.loc[cell["reader"], cell["hospital"], measure]
        assert (found["percent"], found["n"], found["other_n"]) == (cell["printed"], cell["n"], cell["other_n"])
        assert (found["attainable"], found["fits_other"]) == (cell["attainable"], cell["fits_other"])
        assert found["counts"] == ", ".join(str(k) for k, _ in cell["how"])
        ways = {"round": "rounded", "trunc": "cut"}
        assert found["how"] == " or ".join(ways[way] for _, hows in cell["how"] for way in hows)
        assert {float(share) for share in found["nearest"].split(", ")} == set(cell["nearest"])


def test_five_cells_are_not_attainable_and_all_five_fit_the_other_hospital() -> None:
    table = audit.audit_published()
    odd = table[~table["attainable"]]
    assert odd["claim_id"].tolist() == ["C076", "C078", "C082", "C083", "C085"]
    assert odd["fits_other"].all()
    assert not table.loc[table["attainable"], "fits_other"].any()


def test_printed_aucs_have_the_stored_errors_intervals_and_pairs() -> None:
    table = audit.printed_aucs().set_index("row")
    assert set(table.index) == set(STORED["auc"])
    for name, wanted in STORED["auc"].items():
        row = table.loc[name]
        assert row["standard_error"] == pytest.approx(wanted["se"], abs=1e-9)
        assert (row["low"], row["high"]) == pytest.approx(tuple(wanted["logit"]), abs=1e-6)
        assert row["bound_in_pairs"] == pytest.approx(wanted["pairs"])


def test_a_users_table_is_audited_with_its_own_decimals(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("label,percent,n\nreader 1,83,20\nreader 2,83.3,12\nreader 3,83.30,12\n")
    table = audit.audit_table(path)
    assert table["attainable"].tolist() == [False, True, False]  # 83.333 prints as 83.33, not 83.30
    assert table.loc[0, "nearest"] == "85.0, 80.0"
    assert table.loc[1, ["counts", "how"]].tolist() == ["10", "rounded or cut"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,percent,n\nx,83%,20\n", "row 2, column 'percent': the value is '83%'"),
        ("label,percent,n\nx,101,20\n", "row 2, column 'percent'"),
        ("label,percent,n\nx,50,0\n", "row 2, column 'n'"),
        ("label,percent\nx,50\n", "column 'n': the column is missing"),
        ("", "the file is empty. Start with the header: label,percent,n"),
    ],
)
def test_a_users_table_that_cannot_be_audited_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        audit.audit_table(path)
    assert said in str(caught.value)


def test_an_auc_of_a_users_table_is_audited_with_its_sizes_and_its_decimals(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("label,auc,positives,negatives,bound\n3D B,0.78,20,20,0.01\n3D C,0.84,12,9,\nodd,0.830,12,9,\n")
    table = audit.audit_table(path).set_index("label")
    assert table["attainable"].tolist() == [True, True, False]
    wanted = STORED["auc"]["3D B"]
    assert table.loc["3D B", ["low", "high"]].tolist() == pytest.approx(wanted["logit"], abs=1e-6)


# --- the findings, against the same derivation ------------------------------------------------------------------------


def test_p_of_the_gain_over_2d_is_the_stored_one_at_every_correlation() -> None:
    table = findings.p_by_correlation()
    for hospital in ("B", "C"):
        for correlation, p in STORED["paired"][hospital].items():
            assert table.loc[float(correlation), hospital] == pytest.approx(p, rel=1e-9)
    for correlation in (0, 0.3, 0.5, 0.7):
        stored = STORED["paired"][f"pooled{correlation}"]
        assert table.loc[correlation, "B and C together"] == pytest.approx(stored, rel=1e-9)


def test_ten_folds_spread_and_peak_as_in_the_stored_simulation() -> None:
    """Another simulation of 20,000 ten-fold runs, another generator."""
    numbers = findings.numbers()
    assert numbers["audit.f3.spread"] == pytest.approx(STORED["folds"]["sd"], abs=0.003)
    assert numbers["audit.f10.best_of_ten"] == pytest.approx(STORED["folds"]["emax"], abs=0.001)
    assert numbers["audit.f3.as_small"] == 0


def test_the_fewest_patients_of_an_exact_test_are_the_stored_ones() -> None:
    assert findings.fewest_exactly(5.3e-5) == STORED["logrank"]["min_n_exact"]
    assert findings.fewest_patients(0.0033) == STORED["logrank"]["min_n_0033"]


@pytest.mark.parametrize(
    ("address", "value", "tolerance"),
    [
        ("f1.impossible", 5, 0),
        ("f1.fit_the_other", 5, 0),
        ("f1.chance_p", 2e-4, 5e-5),
        ("f4.b_needs", 0.68, 0.01),
        ("f4.c_needs", 0.76, 0.01),
        ("f4.cases_a_class", 61, 0),
        ("f4.b_2d_chance_p", 0.105, 0.001),
        ("f4.c_2d_chance_p", 0.145, 0.001),
        ("f5.rad1_b", 86.0, 0.01),
        ("f5.covid3d_c", 79.0, 0.01),
        ("f5.largest_gap_p", 0.062, 0.001),
        ("f6.in_training", 44, 0.2),
        ("f7.ratio_10", 12.9, 0.05),
        ("f7.ratio_53", 3.0, 0.05),
        ("f8.gap", 1.10, 0.005),
        ("f8.needs", 0.85, 0.01),
        ("f8.p_at_0", 0.44, 0.005),
        ("f10.b_p", 0.07, 0.005),
        ("f10.c_p", 0.38, 0.005),
        ("f11.c_pairs", 3, 0),
        ("f11.best_of_100", 2.5, 0.02),
        ("f16.most", 8, 0),
        ("f16.case", 6, 0),
    ],
)
def test_a_number_of_a_finding_is_that_of_the_written_audit(address: str, value: float, tolerance: float) -> None:
    """Numbers of the audit that was derived by hand and by another program before this one was written."""
    assert findings.numbers()[f"audit.{address}"] == pytest.approx(value, abs=tolerance + 1e-9)


def test_every_finding_stands_on_the_page_under_its_anchor_and_title() -> None:
    page = (CHECKOUT / "book" / "audit.md").read_text(encoding="utf-8")
    for name, found in claims.findings().iterrows():
        assert f"({name.lower()})=\n## {name} {found['title']}\n" in page
    named = set(re.findall(r"\{glue:text\}`(audit\.[^`]+)`", page))
    assert named <= findings.numbers().keys()
    assert {f"audit_{name}" for name in ("f1", "f2", "f4", "f5", "f6", "f7")} <= set(re.findall(r"audit_\w+", page))
