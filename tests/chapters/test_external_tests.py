"""External tests: scores, Table 1, differences with their intervals, and the cases that are drawn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from synthetic_run import small_profile, synthetic_run, write_truth

from covid3d.chapters import evidence, explanation, random_labels, robustness, task1
from covid3d.chapters import external_tests as external
from covid3d.chapters.external_scores import ensure_external
from covid3d.cohort.intake import accepted
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.figures.picture import Picture
from covid3d.network import scoring as inference
from covid3d.network import training
from covid3d.run import steps
from covid3d.run.errors import MissingResult
from covid3d.run.profile import DATA, Run, open_run
from covid3d.stats.estimate import Estimate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("external")
    patch.setenv("COVID3D_ROOT", str(root))
    patch.setattr(steps, "ensure_needs", lambda run, name: None)
    made = synthetic_run(root)
    ensure_external(made)
    robustness.ensure_windows(made)
    explanation.ensure_explain(made)
    patch.setattr(task1, "require_certificate", lambda run: None)
    random_labels.ensure_random_labels(made)
    evidence.ensure_evidence(made)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def ext(run):
    patch = pytest.MonkeyPatch()
    patch.setattr(external, "require_certificate", lambda run: None)
    yield external.load(run)
    patch.undo()


@pytest.fixture
def elsewhere(ext):
    """The same results in a run whose second external hospital is H1, as in leave-one-site-out."""
    names = {"C": "H1"}
    windows = replace(ext.windows, sd=ext.windows.sd.rename(index=names), curve=ext.windows.curve.replace(names))
    tables = {name: getattr(ext, name).replace({"hospital": names}) for name in ("scores", "predictions")}
    return replace(ext, windows=windows, **tables)


def test_only_first_scans_of_the_external_hospitals_are_scored(run, ext):
    assert set(ext.predictions["scan_id"]) == set(accepted(run).query("role == 'external'")["scan_id"])
    assert set(ext.predictions["hospital"]) == {"B", "C"}
    assert set(ext.predictions["split"]) == {"external"}
    assert list(ext.predictions.columns) == list(inference.PREDICTIONS)


def test_the_deployed_row_is_the_chosen_fold_and_the_ensemble_is_the_mean_logit(run, ext):
    scores = ext.predictions
    wide = scores.assign(name=scores["model"] + scores["fold"].astype(str)).pivot(
        index="scan_id", columns="name", values="logit"
    )
    assert wide["covid3d1"].tolist() == wide["covid3d_fold1"].tolist()
    assert wide["covid3d_ensemble-1"].to_numpy() == pytest.approx((wide["covid3d_fold0"] + wide["covid3d_fold1"]) / 2)
    model = training.load_fold(run, "task1", "covid3d", 1)
    again = inference.score(model, Store.of(run).stack(wide.index), [nominal_window(run.profile.windows)])[:, 0]
    assert wide["covid3d1"].to_numpy() == pytest.approx(again, abs=1e-5)
    assert not model.training


def test_a_second_call_reuses_the_stored_result(run, ext, capsys):
    assert ensure_external(run.with_options(compute=False)) == run.path("external")
    assert "done in" not in capsys.readouterr().out


def test_missing_folds_are_named(root):
    with pytest.raises(MissingResult):
        ensure_external(open_run("noise", profile=small_profile(root)))


def test_the_questions_read_no_table_again(ext, monkeypatch):
    monkeypatch.setattr(pd, "read_csv", lambda *args, **kwargs: pytest.fail(f"read again: {args[0]}"))
    for question in ("table_1", "window_facts", "roc_points", "comparisons", "by_fold", "fold_models", "window_sd"):
        getattr(ext, question)()
    ext.plot_cases(ext.cases(1))
    ext.evidence.methods(), ext.evidence.causal_test(), ext.evidence.advice()
    ext.maps.lesion_share(), ext.maps.ratios(), ext.maps.mass_by_label(), ext.maps.mass_difference()


def test_table_1_gives_each_model_its_auc_its_spread_over_windows_and_its_patients(run, ext):
    table = ext.table_1()
    assert list(table.index) == ["2D baseline", "COVID3D", "COVID3D* (tuned)", "ensemble", "mean of the folds"]
    part = ext.scores.query("hospital == 'C'")
    found = table.at["COVID3D", "AUC at C"]
    assert found.value == pytest.approx(roc_auc_score(part["label"], part["covid3d"]))
    assert found.low < found.value <= found.high
    assert table.at["2D baseline", "what it is"].startswith("ResNet-10t from scratch, 2 slices of 32 px")
    folds = ext.fold_models().loc["C"]
    mean = table.at["mean of the folds", "AUC at C"]
    ends = f"lowest {folds['lowest']:.3f}, highest {folds['highest']:.3f} of the folds"
    assert (mean.value, mean.remark, mean.has_limits) == (folds["mean"], ends, False), "no interval"
    scores = ext.windows.scores.query("model == 'covid3d' and hospital == 'B'")
    aucs = {name: roc_auc_score(one["label"], one["logit"]) for name, one in scores.groupby("window")}
    spread = table.at["COVID3D", "SD over windows at B"]
    assert spread.value == pytest.approx(np.std([aucs[f"w00{number}"] for number in range(4)], ddof=1))
    assert spread.remark == table.at["COVID3D* (tuned)", "SD over windows at B"].remark == "over 4 windows"
    assert table.at["COVID3D* (tuned)", "AUC at B"].value == pytest.approx(aucs["tuned"])
    assert str(table.at["ensemble", "SD over windows at B"]) == "not available (scored in one window)"


def test_table_1_prints_what_the_paper_prints(ext):
    """The claims C060 to C071, read from the list of claims."""
    claims = pd.read_csv(DATA / "claims.csv", dtype=str).query("section == 'Table 1' and unit == 'AUC'")
    values = claims.set_index("text")["value"].to_dict()
    names = {"2D baseline": "2D ResNet-50", "COVID3D": "COVID3D", "COVID3D* (tuned)": "COVID3D* (tuned windows)"}
    for row, model in names.items():
        for hospital in "BC":
            mean = values[f"{model} AUC at Hospital {hospital}"]
            bound = values[f"{model} AUC bound at Hospital {hospital} (SD over 100 windows)"].removeprefix("+/-")
            assert ext.table_1().at[row, f"printed at {hospital}"] == f"{mean} ± {bound}"


def test_a_scan_without_a_score_is_left_out_and_counted(run, ext, monkeypatch):
    table = external.results.external_scores(run)
    table.loc[(table["scan_id"] == "B001-0") & (table["model"] == "resnet_2d"), "logit"] = np.nan
    monkeypatch.setattr(external.results, "external_scores", lambda run: table)
    monkeypatch.setattr(external, "require_certificate", lambda run: None)
    found = external.load(run)
    assert found.judged().at["B", "without a score"] == 1 and found.judged().at["B", "COVID+"] == 3
    assert "B001-0" not in set(found.scores["scan_id"]) and len(found.roc_points())
    assert ext.judged()["without a score"].tolist() == [0, 0]


def test_the_pooled_difference_is_the_weighted_mean_and_not_the_best_of_the_hospitals(ext):
    """Weights 1 / SE squared, the SE read from each hospital's own interval, of scores that part no hospital's classes."""
    rng = np.random.default_rng(1)
    blurred = {name: rng.normal(ext.scores["label"] * gap, 1) for name, gap in (("covid3d", 1.5), ("resnet_2d", 0.5))}
    table = replace(ext, scores=ext.scores.assign(**blurred)).comparisons().loc["3D minus 2D", "difference"]
    sites = [table["B"], table["C"]]
    weights = [1 / (one.high - one.low) ** 2 for one in sites]
    mean = np.average([one.value for one in sites], weights=weights)
    assert table["pooled"].value == pytest.approx(mean)
    assert table["pooled"].value < max(one.value for one in sites)


@pytest.mark.parametrize(("difference", "p", "said"), [(0.2, 0.01, "reached"), (0.2, 0.06, "not"), (-0.2, 0.01, "not")])
def test_the_bar_of_the_third_dimension_asks_for_its_side_and_for_a_p(ext, difference, p, said):
    table = ext.comparisons()
    table.at[("3D minus 2D", "pooled"), "difference"] = Estimate(difference)
    table.at[("3D minus 2D", "pooled"), "p"] = Estimate(p)
    assert ext.volume_bar(table)["verdict"].item().startswith(said)


def test_b_and_c_have_a_place_in_every_table_of_a_run_with_other_hospitals(elsewhere):
    table = elsewhere.table_1()
    assert str(table.at["COVID3D", "AUC at C"]) == "not available (no scans of hospital C)"
    assert table.at["COVID3D", "AUC at H1"].known and table.at["COVID3D", "SD over windows at H1"].known
    differences = elsewhere.comparisons()
    assert not differences.at[("3D minus 2D", "C"), "difference"].known
    assert differences.at[("3D minus 2D", "pooled"), "difference"].known
    assert list(elsewhere.fold_models().index) == ["B", "C", "H1"]
    assert not elsewhere.windows.widest()["C"].known and elsewhere.windows.widest()["H1"].known
    assert elsewhere.skill().index.tolist() == ["A", "B", "C", "H1"]


def test_comparisons_give_each_hospital_and_the_pooled_difference(ext):
    table = ext.comparisons()
    part = ext.scores.query("hospital == 'B'")
    found = table.at[("3D minus 2D", "B"), "difference"]
    assert found.value == pytest.approx(
        roc_auc_score(part["label"], part["covid3d"]) - roc_auc_score(part["label"], part["resnet_2d"])
    )
    assert 0 <= table.at[("3D minus 2D", "B"), "p"].value <= 1
    assert set(table.loc["3D minus 2D"].index) == {"B", "C", "pooled"}
    assert set(table.loc["external minus internal"].index) == {"B", "C"}, "A's patients are others: nothing is pooled"


def test_a_difference_without_an_interval_says_why_in_its_own_cell(ext):
    same = (
        replace(ext, scores=ext.scores.assign(tuned=ext.scores["covid3d"]))
        .comparisons()
        .loc[("tuned minus untuned", "B")]
    )
    assert (str(same["difference"]), str(same["p"])) == ("0.000 (no interval: the ranks are equal)", "p = 1")
    part = ext.scores.query("hospital == 'B'")
    one = pd.concat([part[part["label"] == 1].head(1), part[part["label"] == 0]])
    found = replace(ext, scores=one).comparisons().loc[("3D minus 2D", "B")]
    assert str(found["difference"]).endswith("(no interval: one case of a class)")
    assert str(found["p"]) == "not available (paired DeLong, no interval: one case of a class)"


def test_the_tuned_row_is_said_to_be_part_of_the_evaluation_when_it_is(ext):
    assert ext.window_facts()["tuned after the evaluation"]
    mixed = ext.predictions.assign(window=["tuned", *ext.predictions["window"][1:]])
    assert not replace(ext, predictions=mixed).window_facts()["tuned after the evaluation"]


def test_the_folds_at_b_and_c_are_all_of_them_and_one_is_the_deployed(ext):
    found, table = ext.by_fold(), ext.fold_models()
    part = ext.predictions.query("model == 'covid3d_fold' and fold == 0 and hospital == 'C'")
    assert found.at[0, "C"] == pytest.approx(roc_auc_score(part["label"], part["logit"]))
    assert table["deployed"].tolist() == found.loc[1].tolist() and table["folds"].tolist() == [2, 2]
    assert (table["lowest"] <= table["mean"]).all() and (table["mean"] <= table["highest"]).all()


def test_controls_show_the_network_scans_without_lungs_or_body(ext, monkeypatch):
    seen = []
    monkeypatch.setattr(external, "logits_of", lambda run, model, grids: seen.append(grids) or grids.mean((1, 2, 3)))
    monkeypatch.setattr(external, "blanked", lambda grid, spacing, part: grid * (part == "body"))
    table = ext.controls()
    assert table["scans"].tolist() == [len(grids) for grids in seen] == [8, 6] * 2
    assert not np.any(seen[0]) and np.any(seen[2])
    without, background = (
        table.loc[left, "AUC"].map(float).tolist() for left in ("without the lungs", "background alone")
    )
    assert without == [0.5, 0.5], "what is blank cannot tell the class"
    assert background == [1, 1], "the level of HU is the class here"


def test_shuffled_slices_cost_a_network_that_reads_their_order_alone(ext, monkeypatch):
    brightness = ext.scores.assign(covid3d=[Store.of(ext.run).get(scan)[0].mean() for scan in ext.scores["scan_id"]])
    monkeypatch.setattr(external, "logits_of", lambda run, model, grids: grids.mean((1, 2, 3)))
    blind = replace(ext, scores=ext.scores.assign(covid3d=ext.scores["label"].astype(float))).shuffled()
    assert blind["hospital"] == "B" and blind["AUC lost"].value == 0, "the mean over slices knows no order"
    monkeypatch.setattr(external, "logits_of", lambda run, model, grids: -grids[:, 0].mean((1, 2)))
    assert replace(ext, scores=brightness).shuffled()["AUC lost"].value > 0.5


def test_roc_curves_start_at_zero_and_end_at_one(ext):
    for _, part in ext.roc_points().groupby(["model", "hospital"]):
        assert part.iloc[0][["false_positive", "true_positive"]].tolist() == [0, 0]
        assert part.iloc[-1][["false_positive", "true_positive"]].tolist() == [1, 1]
    assert len(ext.plot_roc().axes) == 2


def test_coverage_keeps_every_method_and_the_error_of_its_simulation(ext):
    table = ext.coverage()
    assert table.columns[0] == "recommended" and set(table.columns[1:]) == {"logit DeLong", "DeLong", "bootstrap"}
    assert table.index.names == ["COVID+", "COVID-", "true AUC"]
    assert len(table) == 12 and {row[:2] for row in table.index} == {(20, 20), (12, 9)}
    found = table.loc[(20, 20, 0.78), "recommended"]
    assert 0.93 < found.low < found.value < found.high and found.high - found.low < 0.01


def test_levels_give_the_share_of_rejections_with_the_error_of_the_simulation(ext, monkeypatch):
    table = ext.levels()
    assert {"3", "4", "5", "6", "7"} == set(table.index.get_level_values("chapter"))
    for found, replicates, silent in table.itertuples(index=False):
        assert 0 <= silent < replicates
        count = replicates - silent
        assert found.low <= found.value <= found.high and found.value * count == pytest.approx(
            round(found.value * count)
        )
    monkeypatch.setattr(external.campaigns, "read", lambda name: None)
    assert ext.levels().empty and ext.coverage().empty


def test_known_confounds_are_those_of_public_scans(ext, monkeypatch):
    assert ext.confounds().empty
    monkeypatch.setattr(Run, "cohort", "public")
    assert ("B", "slice count") in ext.confounds().index


def test_skill_needs_the_truth_and_says_so_without(run, ext):
    assert str(ext.skill().at["B", "skill"]) == "not available (real scans have no oracle)"
    write_truth(run, accepted(run))
    try:
        table = ext.skill()
    finally:
        run.path("truth", "truth.csv").unlink()
    assert table["perfect reader"].map(float).tolist() == [1, 1, 1]
    assert float(table.at["B", "skill"]) == pytest.approx(2 * (float(table.at["B", "AUC"]) - 0.5))


# --- the cases that are drawn ----------------------------------------------------------------------------------------


def test_cases_are_drawn_by_seed_one_of_each_kind_of_call(ext):
    maps = ext.maps.summary.assign(logit=np.where(ext.maps.summary["patient_id"].str[1:].astype(int) % 2, 1.0, -1.0))
    ext = replace(ext, maps=replace(ext.maps, summary=maps))
    cases = ext.cases(1)
    assert list(cases.index) == ["Figure 1", "TP", "FN", "FP", "TN"]
    assert cases["class"].tolist() == ["COVID+"] * 3 + ["COVID-"] * 2
    assert (cases["logit"] > 0).tolist() == [True, True, False, True, False]
    assert set(cases["hospital"]) <= {"B", "C"}
    pd.testing.assert_frame_equal(cases, ext.cases(1))
    assert any(ext.cases(seed)["scan"].tolist() != cases["scan"].tolist() for seed in range(2, 5))


def test_every_drawn_case_has_its_own_voxels_in_picture_and_caption(ext):
    others = ext.cases(1).iloc[1:]
    wide = others["scan"].iloc[0]
    facts = {scan: {**row, "spacing_x_mm": 1.4 if scan == wide else 0.7} for scan, row in ext.facts.items()}
    ext = replace(ext, facts=facts)
    cases = ext.cases(1)
    plots = [axes for axes in ext.plot_cases(cases).axes if axes.get_title(loc="left")]
    aspects = {axes.get_title(loc="left").split()[-1]: axes.get_aspect() for axes in plots}
    assert {scan: aspect == 0.5 for scan, aspect in aspects.items()} == {scan: scan == wide for scan in cases["scan"]}
    words = ext.about(cases)
    sides = {scan: cases.set_index("scan").loc[[scan], "cell, mm"].iloc[0] for scan in cases["scan"]}
    assert len(set(sides.values())) > 1 and all(
        f"{scan} of hospital {scan[0]}" in words and f"cells of {side} mm" in words for scan, side in sides.items()
    )


def test_the_hottest_part_of_figure_1_is_measured_on_what_is_shown(ext, monkeypatch):
    """A tenth of what is shown is above half of the peak; a quarter of that is lung, a half lesion."""
    mask, lung, ill = np.zeros((3, 10, 10, 20), bool)
    mask[4], lung[4, :5, :10], ill[4, :, 10:] = True, True, True
    shown = Picture(mask * 0, (2.0, 1.0, 0.5), lung, ill, ill * 1.0, (4, 0, 0), "", (0.0,) * 3, (1.0,) * 3)
    heat, names = (
        mask * 3.0 + ~mask * 1.5,
        ["above half of the map's peak", "of that in the lungs", "of that in true lesions"],
    )
    cases = ext.cases(1)
    for one, values, wanted in (
        (shown, heat, [0.2, 25, 50]),
        (shown._replace(lesions=None), heat, [0.2, 25, np.nan]),
        (shown, -heat, [np.nan] * 3),
    ):
        monkeypatch.setattr(type(ext), "picture", lambda self, scan, one=one: one)
        monkeypatch.setattr(type(ext), "heat", lambda self, scan, values=values: values)
        found = [ext._hottest(cases)[name].value for name in names]
        np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize(("column", "said"), [(10, "in a true lesion"), (4, "3.00 mm from the nearest true lesion")])
def test_where_the_peak_of_figure_1_lies_is_said_from_the_lesions(ext, monkeypatch, column, said):
    mask, ill = np.zeros((2, 3, 10, 20), bool)
    ill[1, :, 10:], mask[1, 5, column] = True, True
    shown = Picture(mask * 0, (2.0, 1.0, 0.5), mask, ill, ill * 1.0, (1, 0, 0), "", (0.0,) * 3, (1.0,) * 3)
    monkeypatch.setattr(type(ext), "picture", lambda self, scan: shown)
    monkeypatch.setattr(type(ext), "heat", lambda self, scan: mask * 1.0)
    assert ext._peak(ext.cases(1)) == said


def test_figure_1_is_one_external_covid_scan_whose_map_costs_one_pass_each_way(run, ext):
    cases = ext.cases(1)
    facts = ext.figure_1_facts(cases)
    assert (facts["external COVID+ scans"], facts["one forward and one backward pass"]) == (1, True)
    assert not facts["where the map's peak lies"].known, "no true lesions here"
    assert "Scan and map on the network's grid of 16 x 32 x 32" in ext.figure_1_words(cases)
    assert ext.figure_1_ground(cases) == "Scan and map on the network's grid of 16 x 32 x 32."
    assert len(ext.plot_figure_1_in_space(cases).axes) == 3
    assert "no COVID+ scan" in ext.plot_figure_1_in_space(cases.iloc[1:]).axes[0].texts[0].get_text()
    assert ext.figure_1_words(cases.iloc[1:]) == "No COVID+ scan outside A."
    negative = ext.maps.external.query("label == 0")["scan_id"].iloc[0]
    wrong = cases.assign(scan=[negative, *cases["scan"][1:]])
    assert ext.figure_1_facts(wrong)["external COVID+ scans"] == 0
    assert len(ext.plot_figure_1(cases).axes) == 7, "three planes, without and with the map, and a bar"
    made = evidence.read_maps(run, cases.at["Figure 1", "scan"])
    assert len(ext.plot_evidence(cases).axes) == 2 + len(made) > 2, "the scan, its map, and all the evidence there is"
    assert "no COVID+ scan" in ext.plot_evidence(cases.iloc[1:]).axes[0].texts[0].get_text()
    assert "no COVID+ scan" in ext.plot_figure_1(cases.iloc[1:]).axes[0].texts[0].get_text()
