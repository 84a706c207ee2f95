"""The bars of several seeds: found in what runs say, and told apart from numbers that nobody judged."""

import pandas as pd

from benchmarks import seeds
from covid3d.chapters import measured
from covid3d.report import landing


def said(text, value=None, low=None, high=None):
    return {"text": text, "value": value, "low": low, "high": high}


def run_values(skill, holds):
    return {
        "bars.skill.asks": said("at least 0.8"),
        "bars.skill.found": said(str(skill), skill),
        "bars.skill.reached": said("reached" if holds else "not reached"),
        "bars.all_of_them.found": said("not available"),
        "bars.all_of_them.reached": said("not reached"),
        "trust.realism.verdict": said("reached"),
        f"{seeds.OF_OTHER_FORMS}.auc.found": said("0.93", 0.93, 0.91, 0.95),
        f"{seeds.OF_OTHER_FORMS}.auc.verdict": said("reached"),
        **{name: said("0.8", 0.8, 0.7, 0.9) for name in seeds.BESIDE},
    }


def test_a_bar_is_a_number_with_a_verdict_and_the_rest_is_beside_it():
    table = seeds.bars_of(run_values(0.7, False)).assign(seed=1)
    assert table["address"].tolist() == ["bars.skill", *seeds.BESIDE]
    assert table["reached"].dropna().tolist() == [0]
    assert seeds.missed(table) == ["seed 1: bars.skill asks at least 0.8; found 0.700"]


def test_a_reader_sees_every_seed_and_how_often_a_bar_is_reached():
    tables = [seeds.bars_of(run_values(0.7 + seed / 10, seed > 1)).assign(seed=seed) for seed in (1, 2, 3)]
    shown = measured.WORDS["seeds"](pd.concat(tables))
    assert shown.columns.tolist() == ["asks", "seed 1", "seed 2", "seed 3", "reached"]
    assert shown.at["skill", "reached"] == "2 of 3"
    assert str(shown.at["skill", "seed 2"]) == "0.900"


def test_the_bars_of_the_simulated_scans_are_no_bars_of_a_network_wherever_they_are_counted():
    rows = [("bars.skill", 1.0), (f"{measured.OWN}.rank", 0.0), (f"{seeds.OF_OTHER_FORMS}.rank", 0.0)]
    table = pd.DataFrame(rows, columns=["address", "reached"]).assign(seed=1, asks="at least 0.8", value=0.7)
    assert len(seeds.missed(table)) == 1 and seeds.OF_OTHER_FORMS in seeds.missed(table)[0]
    assert measured.CHECKS["learnability"][2](table).tolist() == [True, False]
    page = landing.bars(
        {row: {"chapter": "09", "text": "reached"} for row in (f"{measured.OWN}.rank.verdict", "x.y.verdict")}, True
    )
    assert page["reached"] == [f"{measured.OWN}.rank"], "one by one, those of campaigns by their count"
