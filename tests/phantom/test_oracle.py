"""The frozen reading rule: what its features measure, and that the classes are told apart well but not perfectly."""

import numpy as np
import pytest

from benchmarks import fit_oracle
from covid3d.phantom import oracle, sites
from covid3d.stats.auc import auc_value


def lungs_with(*boxes: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    lung = np.zeros((20, 20, 40), np.float32)
    lung[2:18, 3:17, 3:17] = lung[2:18, 3:17, 23:37] = 1
    lesion = np.zeros_like(lung)
    for box in boxes:
        lesion[box] = 1
    return lesion, lung


def features(*boxes: tuple[slice, slice, slice]) -> dict[str, float]:
    return dict(zip(oracle.FEATURES, oracle.evidence(*lungs_with(*boxes), (6.0, 6.0, 6.0)), strict=True))


RIGHT, LEFT = slice(5, 9), slice(30, 34)


def test_features_follow_side_height_and_depth() -> None:
    low_behind = features((slice(2, 6), slice(12, 17), RIGHT), (slice(2, 6), slice(12, 17), LEFT))
    one_side = features((slice(12, 16), slice(5, 10), RIGHT))
    assert low_behind["balance"] == pytest.approx(1) and one_side["balance"] == 0
    assert low_behind["posterior"] > 0.7 > 0.4 > one_side["posterior"]
    assert low_behind["height"] < 0.3 < 0.6 < one_side["height"]
    rim = features((slice(4, 16), slice(3, 5), slice(3, 17)))
    deep = features((slice(8, 12), slice(8, 12), slice(8, 12)))
    assert rim["pleural_depth"] < deep["pleural_depth"]
    assert low_behind["amount"] > features((slice(4, 5), slice(5, 6), slice(5, 6)))["amount"]


def test_no_lesion_gives_a_finite_answer() -> None:
    assert abs(oracle.oracle_logit(oracle.evidence(*lungs_with(), (6.0, 6.0, 6.0)))) < 6


def test_the_frozen_rule_tells_new_patients_apart_but_not_all() -> None:
    rows = [fit_oracle.scans_of(number, seed=5, later=0) for number in range(50)]
    labels = np.array([label for label, _ in rows])
    scores = [oracle.oracle_logit(found[0]) for _, found in rows]
    assert 0.86 < auc_value(labels, scores) < 1


def most_ill(number: int, mix: str) -> np.ndarray:
    """Return the features of the scan of a patient that shows most disease, of four."""
    _, found = fit_oracle.scans_of(number, hospital=mix, seed=6, later=3)
    return found[found[:, -1].argmax()]


def test_viral_cases_look_like_covid_and_bacterial_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "ATYPICAL", 0.0)
    monkeypatch.setattr(sites, "CASE_MIX", {"viral": 1.0, "bacterial": 0.0})
    scores = {
        kind: [oracle.oracle_logit(most_ill(2 * number + (kind == "covid"), mix)) for number in range(20)]
        for kind, mix in (("covid", "bacterial"), ("viral", "viral"), ("bacterial", "bacterial"))
    }
    told = {kind: auc_value([1] * 20 + [0] * 20, scores["covid"] + scores[kind]) for kind in ("viral", "bacterial")}
    assert told["viral"] < 0.85 and told["bacterial"] > 0.88


def test_few_lesions_say_nothing_of_the_class_and_evidence_grows_with_disease() -> None:
    few, some, many = (
        [oracle.oracle_logit(feature_row(amount, sign)) for sign in (-1, 1)] for amount in (0.008, 0.05, 0.2)
    )
    assert max(map(abs, few)) < 0.5
    assert few[0] > some[0] > many[0] and few[1] < some[1] < many[1]


def feature_row(amount: float, sign: int) -> np.ndarray:
    """Return features one SD to one side of what is usual, for an amount (share of the lung)."""
    log = float(np.log(amount + 1e-4))
    centre, scale = oracle.usual(log, oracle.CENTRE), oracle.usual(log, oracle.SCALE)
    return np.append(centre + sign * np.sign(oracle.WEIGHTS) * scale, log)
