"""What differs from the numbers that a run had before: kept once, shown with before and now, never a path."""

import pytest

from covid3d.report.changes import changes_html
from covid3d.report.claims import read_values
from covid3d.report.collect import collect
from covid3d.run.files import read_json
from covid3d.show import Show


@pytest.fixture
def run_with(make_run):
    """Return a run whose only chapter shows the given numbers, collected."""

    def show_them(**numbers):
        run = make_run()
        show = Show(run, "04_external_tests", {})
        show(numbers, "counts", "Counts.")
        show.save()
        collect(run)
        return run

    return show_them


def said(run):
    return changes_html(run, read_values(run), {"table.counts": ("Table 4.1", "notebooks/04_external_tests.html")})


def test_a_first_run_has_nothing_to_compare_with(run_with):
    assert "No number of this run has changed" in said(run_with(scans=397))


def test_a_changed_number_is_shown_with_what_it_was(run_with):
    run_with(scans=397, slices=100)
    run = run_with(scans=398, slices=100)
    text = said(run)
    assert "<strong>1 of 2 numbers differ</strong>" in text
    assert "<code>counts.scans</code></th><td data-label='before'>397</td><td data-label='now'>398</td>" in text
    assert "counts.slices" not in text and "Table 4.1" in text
    assert str(run.root) not in text


def test_numbers_that_come_and_go_are_absent_on_one_side(run_with):
    run_with(scans=397)
    text = said(run_with(slices=100))
    assert "<td data-label='before'>397</td><td data-label='now'>absent</td>" in text
    assert "<td data-label='before'>absent</td><td data-label='now'>100</td>" in text


def test_the_same_numbers_again_do_not_hide_the_last_change(run_with):
    run_with(scans=397)
    run_with(scans=398)
    run = run_with(scans=398)
    assert read_json(run.path("values.previous.json"))["values"]["counts.scans"]["value"] == 397
    assert "1 of 1 numbers differ" in said(run)


def test_what_the_two_runs_were_made_with_is_named_where_it_differs(run_with, monkeypatch):
    monkeypatch.setattr("covid3d.report.collect._commit", lambda root: "a" * 40)
    run_with(scans=397)
    monkeypatch.setattr("covid3d.report.collect._commit", lambda root: "b" * 40)
    assert "commit aaaaaaaaaaaa → bbbbbbbbbbbb" in said(run_with(scans=398))


def test_a_claims_number_stands_first_with_its_claim(run_with, monkeypatch):
    monkeypatch.setattr("covid3d.report.claims.answers", lambda: {"counts.scans": ["C008"]})
    run_with(scans=397, slices=100)
    table, others = said(run_with(scans=398, slices=101)).split("<details")
    assert "ledger.html#C008" in table and "counts.slices" not in table
    assert "counts.slices" in others and "counts.scans" not in others
