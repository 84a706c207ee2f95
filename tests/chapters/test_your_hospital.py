"""A hospital's chapter: small cells are hidden, a person is judged once, simulated weights give no score."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from covid3d.chapters import your_hospital
from covid3d.cohort.manifest import COLUMNS
from covid3d.cohort.persons import CONTRADICT, HASHES, left_out
from covid3d.commands.pipeline import create
from covid3d.network.covid3d import Covid3D
from covid3d.network.weights import grid_text, save_weights
from covid3d.run.errors import WeightsError
from covid3d.run.profile import load_profile
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
    scores = scores.drop(0).head(0 if notice else None)
    return your_hospital.YourHospital(run, scans, intake, scores, scans[["scan_id"]].head(0).assign(reason=""), notice)


def test_few_patients_are_not_counted_in_public(make_run):
    counts = hospital(make_run(), positives=6, negatives=4).counts().loc["H"]
    assert counts.to_numpy().tolist() == [["6", "5", "5"], ["< 5", "< 5", "< 5"]]
    assert [*counts.index, *counts.columns] == ["COVID+", "COVID-", "delivered", "read", "judged"]


def test_an_auc_needs_five_scans_of_each_class(make_run):
    (found,) = hospital(make_run()).auc()["AUC"]
    assert found.value == 1.0 and found.low < 1
    (few,) = hospital(make_run(), negatives=4).auc()["AUC"]
    assert few == Estimate.missing("a class has fewer than 5 patients")


def test_copies_with_another_label_are_in_no_number_that_judges(make_run):
    """Twelve rows of scans that are there already, under new ids, half of the labels turned: the AUC is that of the others."""
    single = hospital(make_run(), positives=15, negatives=15)
    copies = single.scans.iloc[[5, 6, 20, 21]].assign(label=[0, 0, 1, 0])
    copies = copies.assign(scan_id=copies["scan_id"] + "x", patient_id=copies["patient_id"] + "x")
    scans = pd.concat([single.scans, copies], ignore_index=True)
    logits = single.scores.set_index("scan_id")["logit"]
    taken = scans["scan_id"].str.removesuffix("x")
    scores = scans.assign(logit=taken.map(logits))[["scan_id", "patient_id", "hospital", "label", "logit"]].dropna()
    gone = left_out(scans.assign(pixel_sha256=taken))
    found = replace(single, scans=scans, scores=scores, doubled=gone)
    assert sorted(gone["scan_id"]) == ["s20", "s20x", "s21x", "s5", "s5x", "s6", "s6x"]
    alone = single.scores[~single.scores["scan_id"].isin(["s5", "s6", "s20"])]
    assert found.auc()["AUC"].tolist() == replace(single, scores=alone).auc()["AUC"].tolist()
    assert found.logits().loc["H", "mean logit"] == pytest.approx(alone["logit"].mean())
    assert found.read()["left out as doubles"].value == 7
    assert found.doubles().set_index("reason")["scans"].to_dict()[CONTRADICT] == "6"
    assert found.counts().loc[("H", "COVID+"), "judged"] == "12"
    (first, *_, last) = your_hospital._said(gone, "why")
    assert first.startswith("left out of every number that judges, ") and last == ""


def test_no_logit_of_few_patients_is_shown(make_run):
    assert hospital(make_run()).logits().loc["H", "SD"] > 0
    few = [Estimate.missing("fewer than 5 patients")] * 2
    assert hospital(make_run(), positives=2, negatives=2).logits().loc["H"].tolist() == few
    one = hospital(make_run())
    later = replace(one, scans=one.scans.assign(scan_index=[0, *range(1, 11)]))
    assert later.logits().loc["H"].tolist() == few, "eleven scans of one patient"
    notice = Estimate.missing(your_hospital.SIMULATED)
    assert hospital(make_run(), notice=your_hospital.SIMULATED).logits().loc["H"].tolist() == [notice] * 2


def test_weights_made_on_simulated_scans_claim_nothing(make_run):
    (found,) = hospital(make_run(), notice=your_hospital.SIMULATED).auc()["AUC"]
    assert str(found) == f"not available ({your_hospital.SIMULATED})"


def test_a_scan_without_a_score_is_in_no_number(make_run, monkeypatch):
    made = hospital(make_run())
    monkeypatch.setattr(your_hospital.steps, "ensure_needs", lambda run, chapter: None)
    parts = {"read_manifest": made.scans, "read_intake": made.intake, "doubled": made.doubled, "notice": ""}
    for name, value in parts.items():
        monkeypatch.setattr(your_hospital, name, lambda *_, value=value: value)
    scores = made.scores.assign(logit=made.scores["logit"].mask(made.scores.index > 9))
    monkeypatch.setattr(your_hospital.results, "external_scores", lambda run: scores)
    found = your_hospital.load(made.run)
    assert found.read()["without a score"].value == 1
    assert str(found.auc()["AUC"][0]) == "not available (a class has fewer than 5 patients)"


def test_every_refusal_has_its_cure(make_run):
    chapter = hospital(make_run())
    assert {name: number.value for name, number in chapter.read().items()} == {
        "delivered": 11,
        "read": 10,
        "refused": 1,
        "left out as doubles": 0,
        "without a score": 0,
    }
    (row,) = chapter.refused().to_dict("records")
    assert (row["reason"], row["scans"]) == ("truncated", "< 5") and row["cure"]


def test_how_few_scans_were_made_is_not_shown(make_run):
    table = hospital(make_run(), negatives=4).acquisition()
    assert table["scans"].to_dict() == {("H", 0, "kernel", "B30f"): "< 5", ("H", 1, "kernel", "B30f"): "5"}


@pytest.fixture
def site(make_run, root, monkeypatch):
    """A run with given weights and three scans that were read, as `site(trained_on, manufacturers)`."""

    def make(trained_on="phantom", manufacturers=("Siemens",) * 3, **other):
        run = load_profile("smoke")
        metadata = {
            "model": "covid3d",
            "width": f"{run.model.width:g}",
            "grid": grid_text(run.model.grid),
            "hu_clip": "none",
        }
        metadata |= {"window": "-600/1500", "trained_on": trained_on, "profile": "smoke", "licence": "MIT", **other}
        path = root / "given.safetensors"
        save_weights(path, Covid3D(run.model.width), metadata | {"manifest_sha256": "0", "commit": "none"})
        made = make_run("site", weights=path.name)
        rows = pd.DataFrame(
            {"scan_id": ["s0", "s1", "s2"], "patient_id": ["p0", "p1", "p2"], "hospital": "H", "label": 1}
        )
        rows = rows.assign(role="external", scan_index=0, ok=1, manufacturer=manufacturers, **dict.fromkeys(HASHES, ""))
        monkeypatch.setattr(your_hospital, "read_intake", lambda run: rows)
        monkeypatch.setattr(your_hospital, "accepted", lambda run: rows.drop(columns=list(HASHES)))
        grids = np.zeros((3, *run.model.grid), np.int16)
        monkeypatch.setattr(your_hospital.Store, "stack", lambda store, scans: grids)
        return made

    return make


def test_no_score_of_a_real_scan_by_simulated_weights_is_computed(site):
    """Neither logit nor probability: one is the other's sigmoid, and all that leaves a run comes from this table."""
    rows = your_hospital._score(site("phantom", ("COVID3D phantom A", "COVID3D phantom B", "Siemens")))
    assert len(rows) == 3 and rows[["logit", "probability"]].isna().all(axis=None)


@pytest.mark.parametrize(("trained_on", "made_by"), [("phantom", "COVID3D phantom A"), ("public", "Siemens")])
def test_other_scans_get_a_score(site, trained_on, made_by):
    run = site(trained_on, (made_by,) * 3)
    assert your_hospital.notice(run) == ""
    assert your_hospital._score(run)[["logit", "probability"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"grid": "8,16,16"}, "have grid = 8,16,16, but"),
        ({"width": "3"}, "have width = 3, but"),
        ({"window": "40/400"}, "have window = 40/400, but -600/1500 is needed"),
        ({"task": "random_labels"}, "a control that was never taught"),
        ({"model": "pair"}, "not of a COVID3D classifier"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_a_run_is_made(site, root, other, words):
    site(**other)
    with pytest.raises(WeightsError, match=words):
        create("mine", profile="smoke", weights="given.safetensors")
    assert not (root / "runs" / "mine").exists()


def test_a_run_that_goes_on_refuses_weights_that_were_exchanged(site, root):
    run = site()
    assert create("site").given_weights == root / "given.safetensors"
    (root / "given.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsError, match="other weights than those that run 'site' was made with"):
        create(run.name)
