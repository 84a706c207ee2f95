"""The audit of printed numbers, against the stored results of an independent derivation."""

from pathlib import Path

import pytest
from conftest import CHECKOUT

from covid3d.report import audit
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
        assert row["pairs"] == pytest.approx(wanted["pairs"])


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
