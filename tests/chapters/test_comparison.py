"""The comparison: one row a model, the same scans, paired differences; kept, current, or not shown."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import CHECKOUT
from synthetic_run import synthetic_run

from covid3d.chapters import comparison, explanation, external_scores, measured, results, robustness
from covid3d.commands.pipeline import job_code, run_step
from covid3d.comparators import catalogue
from covid3d.comparators.volumes import covid3d_lungs
from covid3d.network.weights import read_tensors
from covid3d.run import campaigns, steps
from covid3d.run.errors import ConfigError, MissingResult
from covid3d.run.fingerprint import code_fingerprint, imported_modules
from covid3d.run.profile import TRUNK, FromTrunk, load_profile
from covid3d.stats.auc import paired_delong, pooled_delong

FEW = ("metadata", "histogram", "s3d")


@pytest.fixture
def run(root, monkeypatch):
    """A run of noise in which only one network and the two models without one are compared with COVID3D."""
    run = synthetic_run(root)
    splits = pd.read_csv(run.splits, dtype={"scan_id": str})

    def split_of(run, fold):
        table, rows = comparison.accepted(run), splits[splits["fold"] == fold]
        return tuple(
            table[table["scan_id"].isin(rows.loc[rows["split"] == side, "scan_id"])] for side in ("train", "validation")
        )

    monkeypatch.setattr(comparison, "split_of", split_of)
    monkeypatch.setattr(comparison, "OTHERS", FEW)
    monkeypatch.setattr(comparison, "COMPARATORS", {name: catalogue.COMPARATORS[name] for name in ("covid3d", *FEW)})
    external_scores.ensure_external(run)
    return run


def compute(run):
    """Train and score what is compared, as the registry calls it, and return the comparison."""
    for model in FEW:
        for fold in range(2):
            steps.call(run, "comparator", model=model, fold=fold)
    return pd.read_csv(comparison.ensure_comparators(run) / "comparison.csv")


def test_nothing_is_shown_before_it_was_trained_and_showing_trains_nothing(run):
    assert comparison.shown(run) is None
    assert not run.path("comparators").exists()


def test_every_model_has_a_row_of_the_same_scans_with_paired_differences(run):
    table = compute(run).set_index("model")
    assert list(table.index) == [
        "COVID3D",
        "metadata alone",
        "histogram alone",
        "S3D (width 1/8, from scratch, 1 epoch)",
    ]
    scores = pd.read_csv(run.path("comparators", "summary", "predictions.csv"), dtype={"scan_id": str})
    reference = results.external_scores(run).query("model == 'covid3d'")
    for site in ("B", "C"):
        pair = scores.query("model == 'histogram' and hospital == @site").merge(reference, on="scan_id")
        assert len(pair) == {"B": 8, "C": 6}[site]
        expected = paired_delong(pair["label_x"], pair["logit_x"], pair["logit_y"]).estimate
        row = table.loc["histogram alone", [f"{site} - COVID3D", f"{site} - COVID3D low", f"{site} - COVID3D high"]]
        assert row.tolist() == pytest.approx([expected.value, expected.low, expected.high], nan_ok=True)
        assert pd.isna(table.loc["COVID3D", f"{site} - COVID3D"])
    assert table.loc["histogram alone", "A"] == 1, "the classes differ in brightness here"
    assert table["parameters"].gt(0).all()
    shown = comparison.shown(run)
    assert pd.isna(shown["minutes"].iloc[0]) and shown["minutes"].notna().sum() == len(FEW)
    pd.testing.assert_frame_equal(shown.drop(columns="minutes"), table.reset_index())
    models, caption = comparison.other_models(run)
    assert "same scans" in caption and list(models.columns) == [
        "A",
        "B",
        "C",
        "B - COVID3D",
        "C - COVID3D",
        "parameters",
        "minutes",
    ]
    found, cells = models.at["histogram alone", "B"], table.loc["histogram alone", ["B", "B low", "B high"]]
    assert [found.value, found.low, found.high] == cells.tolist()
    assert not models.at["COVID3D", "B - COVID3D"].known, "COVID3D does not differ from itself"


def test_stored_models_are_shown_for_simulated_scans_alone_and_say_so(run, monkeypatch):
    monkeypatch.setattr(type(run), "is_phantom", False)
    models, caption = comparison.other_models(run)
    assert models.empty and "make extended RUN=noise" in caption
    monkeypatch.setattr(type(run), "is_phantom", True)
    ends = ("", " low", " high")
    values = {f"{name}{end}": 0.8 + {"": 0.0, " low": -0.1, " high": 0.1}[end] for name in "ABC" for end in ends}
    steps_of = {f"{name} - COVID3D{end}": np.nan for name in "BC" for end in ends}
    row = {"model": "COVID3D", **values, **steps_of, "parameters": 9, "minutes": 1.0, "run": "standard, seed 1"}
    stored = pd.DataFrame([row]).assign(**dict.fromkeys(campaigns.STAMP, "abc"), simulator="of another day")
    monkeypatch.setattr(campaigns, "read", lambda name: stored)
    assert comparison.other_models(run)[0].empty, "rows of another simulator are not shown"
    stored["simulator"] = code_fingerprint(comparison.SIMULATOR)
    models, caption = comparison.other_models(run)
    assert caption.startswith("Not of this run") and models.at["COVID3D", "A"].has_limits
    assert not {"run", "simulator", *campaigns.STAMP} & set(models.columns)


def test_lungs_alone_against_the_whole_scan_is_the_paired_test_of_the_same_scans():
    rng, labels = np.random.default_rng(2), np.tile([0, 1], 20)
    whole, lungs = rng.normal(labels, 1), rng.normal(2 * labels, 1)
    sites = {"B": slice(0, 24), "C": slice(24, 40)}
    tests = {site: paired_delong(labels[part], lungs[part], whole[part]) for site, part in sites.items()}
    row = {f"{site}{comparison.AGAINST}": test.estimate for site, test in tests.items()}
    table = pd.DataFrame([row], index=[comparison.LUNGS]).rename_axis("model")
    found = comparison.lungs_alone(table)
    assert list(found.index) == ["B", "C", "pooled"]
    for site, test in tests.items():
        assert found.at[site, "p"].value == pytest.approx(test.p)
        assert found.at[site, "difference"].high == pytest.approx(test.estimate.high)
    pooled = pooled_delong([(labels[part], lungs[part], whole[part]) for part in sites.values()])
    assert found.at["pooled", "difference"].value == pytest.approx(pooled.estimate.value)
    assert found.at["pooled", "p"].value == pytest.approx(pooled.p)


def test_the_lungs_alone_start_where_the_whole_scan_starts_and_other_models_where_they_did():
    profile, go_on = load_profile("standard"), FromTrunk(epochs=6, learning_rate=2e-4)
    run, trunk = SimpleNamespace(pretrained=TRUNK, from_trunk=go_on), read_tensors(TRUNK)[0]
    lungs, other = (comparison.create(name, profile) for name in ("covid3d_lungs", "s3d"))
    plan = other.plan
    for model in (lungs, other):
        comparison.start_as_task_1(run, model)
    started = lungs.net.extractor.state_dict()
    assert trunk and all(np.array_equal(started[name], tensor) for name, tensor in trunk.items())
    assert (lungs.plan.epochs, lungs.plan.learning_rate, lungs.head_first) == (6, 2e-4, True)
    assert other.plan is plan and plan.epochs == profile.training.epochs // 2


def test_without_a_network_of_the_lungs_alone_it_is_said_not_to_have_been_run(run):
    found = comparison.lungs_alone(pd.DataFrame({"model": []}).set_index("model"))
    assert set(found.map(str).to_numpy().ravel()) == {"not available (not run: no network of the lungs alone)"}
    assert covid3d_lungs(run.profile).row == comparison.LUNGS


def test_the_chapter_declares_every_stored_table_that_it_reads(run, monkeypatch):
    asked = []
    monkeypatch.setattr(campaigns, "read", lambda name: asked.append(name))
    monkeypatch.setattr(type(run), "is_phantom", True)
    comparison.other_models(run)
    explanation.ratios_by_layer()
    robustness.window_order()
    measured.stored("phantom_boxes")
    measured.stored("phantom_depth")
    in_external_tests = {"coverage", "levels"}
    assert set(asked) | in_external_tests == set(steps.STEPS["04_external_tests"].stored)


def test_a_finished_fold_is_kept_and_new_facts_or_scans_train_it_again(run, monkeypatch):
    folder = comparison.ensure_comparator(run, "metadata", 0)
    before = (folder / "terms.json").stat().st_mtime_ns
    comparison.ensure_comparator(run, "metadata", 0)
    assert (folder / "terms.json").stat().st_mtime_ns == before
    run.intake.write_text(run.intake.read_text().replace(",120,", ",100,", 1))
    comparison.ensure_comparator(run, "metadata", 0)
    assert (folder / "terms.json").stat().st_mtime_ns != before


def test_a_missing_fold_names_its_command(run):
    with pytest.raises(MissingResult, match="step comparator --run noise --model metadata --fold 1"):
        comparison.ensure_comparator(run.with_options(compute=False), "metadata", 1)


def test_a_table_made_from_other_scans_is_not_shown(run):
    compute(run)
    assert comparison.shown(run) is not None
    run.intake.write_text(run.intake.read_text().replace(",120,", ",100,", 1))
    assert comparison.shown(run) is None


def test_no_model_is_trained_again_because_another_was_added(make_run):
    """A line of the catalogue is not part of any fold's code; a model's own file is."""
    run = make_run()
    modules = imported_modules(steps.STEPS["comparator"].module)
    assert not {name for name in modules if name.startswith("covid3d.comparators.")} - {"covid3d.comparators.interface"}
    one, two = (job_code(run, "comparator", {"model": model, "fold": 0}) for model in ("s3d", "metadata"))
    assert one != two


def test_a_finished_comparison_makes_chapter_4_run_again_and_no_other(run):
    shutil.copytree(CHECKOUT / "notebooks", run.root / "notebooks")
    chapters = ("03_cross_validation", "04_external_tests")
    before = [job_code(run, name, {}) for name in chapters]
    compute(run)
    after = [job_code(run, name, {}) for name in chapters]
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.parametrize(("model", "message"), [("s3", "Did you mean 's3d'"), (None, "needs --model")])
def test_a_step_of_an_unknown_model_is_one_message(make_run, model, message):
    run = make_run()
    with pytest.raises(ConfigError, match=message):
        run_step(run, "comparator", fold=0, model=model)
