"""A hospital's chapter: small cells are hidden, simulated weights claim nothing, every refusal has a reason."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from covid3d.chapters import your_hospital
from covid3d.cohort.manifest import COLUMNS
from covid3d.run.errors import Covid3DError
from covid3d.stats.estimate import Estimate


def hospital(run, notice="", positives=6, negatives=5):
    labels = [1] * positives + [0] * negatives
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"scan_id": f"s{n}", "patient_id": f"p{n}", "hospital": "H", "label": label, "scan_index": 0}
        for n, label in enumerate(labels)
    ]
    scans = pd.DataFrame(rows)
    scores = scans[["scan_id", "patient_id", "hospital", "label"]].assign(logit=np.arange(len(scans))[::-1] / 3)
    intake = scans[["scan_id", "patient_id", "hospital", "label"]].assign(ok=1, code="", kernel="B30f")
    intake.loc[0, ["ok", "code"]] = 0, "truncated"
    return your_hospital.YourHospital(run, scans, intake, scores, notice)


def test_few_patients_are_not_counted_in_public(make_run):
    counts = hospital(make_run(), positives=6, negatives=4).counts().loc["H"]
    assert counts.to_dict() == {"COVID+": "6", "COVID-": "< 5"}


def test_an_auc_needs_five_scans_of_each_class(make_run):
    (found,) = hospital(make_run()).auc()["AUC"]
    assert found.value == 1.0 and found.low < 1
    (few,) = hospital(make_run(), negatives=4).auc()["AUC"]
    assert few == Estimate.missing("a class has fewer than 5 scans")


def test_no_logit_of_few_patients_is_shown(make_run):
    assert list(hospital(make_run()).logits().index) == ["H"]
    assert hospital(make_run(), positives=2, negatives=2).logits().empty
    one = hospital(make_run())
    assert replace(one, scores=one.scores.assign(patient_id="p0")).logits().empty, "eleven scans of one patient"
    assert hospital(make_run(), notice=your_hospital.SIMULATED).logits().empty


def test_weights_made_on_simulated_scans_claim_nothing(make_run):
    (found,) = hospital(make_run(), notice=your_hospital.SIMULATED).auc()["AUC"]
    assert str(found) == f"not available ({your_hospital.SIMULATED})"


def test_a_scan_without_a_score_is_in_no_number_and_one_with_two_is_refused(make_run, monkeypatch):
    made = hospital(make_run())
    monkeypatch.setattr(your_hospital.steps, "ensure_needs", lambda run, chapter: None)
    for name, value in (("read_manifest", made.scans), ("read_intake", made.intake), ("notice", "")):
        monkeypatch.setattr(your_hospital, name, lambda *_, value=value: value)
    scores = made.scores.assign(logit=made.scores["logit"].mask(made.scores.index > 9))
    monkeypatch.setattr(your_hospital.results, "external_scores", lambda run: scores)
    found = your_hospital.load(made.run)
    assert found.read()["without a score"].value == 1
    assert str(found.auc()["AUC"][0]) == "not available (a class has fewer than 5 scans)"
    monkeypatch.setattr(your_hospital.results, "external_scores", lambda run: pd.concat([scores, scores.head(1)]))
    with pytest.raises(Covid3DError, match=r"external/predictions\.csv: scan s0 has two scores"):
        your_hospital.load(made.run)


def test_every_refusal_has_its_cure(make_run):
    chapter = hospital(make_run())
    assert {name: number.value for name, number in chapter.read().items()} == {
        "delivered": 11,
        "read": 10,
        "refused": 1,
        "without a score": 0,
    }
    (row,) = chapter.refused().to_dict("records")
    assert (row["reason"], row["scans"]) == ("truncated", "< 5") and row["cure"]


def test_how_few_scans_were_made_is_not_shown(make_run):
    table = hospital(make_run(), negatives=4).acquisition()
    assert table["scans"].to_dict() == {("H", 0, "kernel", "B30f"): "< 5", ("H", 1, "kernel", "B30f"): "5"}


@pytest.mark.parametrize("trained_on", ["phantom", "public"])
def test_the_notice_depends_on_what_the_weights_were_trained_on(make_run, monkeypatch, trained_on):
    (site := make_run("site", weights="given.safetensors", manifest=None)).folder.mkdir(exist_ok=True, parents=True)
    monkeypatch.setattr(your_hospital, "describe_weights", lambda path: {"trained_on": trained_on})
    monkeypatch.setattr(type(site), "is_phantom", property(lambda run: False))
    assert your_hospital.notice(site) == (your_hospital.SIMULATED if trained_on == "phantom" else "")
