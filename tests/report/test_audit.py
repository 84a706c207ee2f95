"""The audit of printed numbers, against the stored results of an independent derivation."""

from pathlib import Path

import pytest

from covid3d.report import audit
from covid3d.run.errors import ManifestError

STORED = audit.stored_audit()


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


def test_the_contrast_with_2d_has_the_stored_p_values() -> None:
    table = audit.superiority().set_index("correlation")
    for hospital in ("B", "C"):
        for correlation, p in STORED["paired"][hospital].items():
            assert table.loc[float(correlation), hospital.lower()] == pytest.approx(p, abs=1e-9)
    for correlation in ("0", "0.3", "0.5", "0.7"):
        assert table.loc[float(correlation), "pooled"] == pytest.approx(STORED["paired"][f"pooled{correlation}"])


def test_fold_spread_agrees_with_the_stored_simulation() -> None:
    found, wanted = audit.fold_spread(), STORED["folds"]
    assert found["sd"] == pytest.approx(wanted["sd"], abs=0.003)
    assert found["p"] == wanted["p"] == 0
    assert found["emax"] == pytest.approx(wanted["emax"], abs=0.001)
    assert found["sd_mean"] == pytest.approx(wanted["sd_mean"], abs=0.001)


def test_the_largest_gap_between_readers_is_five_cases_and_not_significant() -> None:
    table = audit.reader_gaps()
    assert table["gap_points"].tolist() == [25, 2, 17, 5], "claim C102"
    assert table["cases"].max() == 5
    assert table["best_p"].min() == 0.0625  # 2 / 2**5


def test_log_rank_needs_are_the_stored_ones() -> None:
    found = audit.log_rank_needs()
    assert found["min_n_asymptotic"] == STORED["logrank"]["min_n_asym"]
    assert found["min_n_exact"] == STORED["logrank"]["min_n_exact"]
    assert audit.log_rank_needs(0.0033)["min_n_asymptotic"] == STORED["logrank"]["min_n_0033"]
    assert {events: round(ratio, 1) for events, ratio in found["hazard_ratio"].items()} == {
        10: 12.9,
        20: 6.1,
        30: 4.4,
        53: 3.0,
    }


def test_cohort_counts_are_the_stored_ones() -> None:
    assert audit.cohort_arithmetic() == pytest.approx(STORED["cohort"])


def test_the_whole_audit_names_its_findings() -> None:
    assert list(audit.paper_audit()) == ["cohort", "F1", "F2", "F3", "F4", "F5", "F7"]


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
