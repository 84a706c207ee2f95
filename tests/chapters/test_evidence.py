"""Evidence: what is searched, how it is judged, and that the sentence for a reader follows the numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_run import synthetic_run, write_masks

from covid3d.chapters import evidence, explanation, random_labels, results, task1
from covid3d.chapters.evidence import BOXES, MAP, OPAQUE, PIECES, RANDOMISED, ROWS
from covid3d.cohort.store import Store
from covid3d.ct.windows import nominal_window
from covid3d.network import occlusion
from covid3d.network.scoring import score
from covid3d.network.training import load_fold
from covid3d.network.weights import describe_weights
from covid3d.run import steps

LUNG = np.zeros((16, 32, 32), bool)
LUNG[4:10, 8:20, 8:20] = True
LESION = np.zeros_like(LUNG)
LESION[5:8, 9:13, 9:13] = True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of noise whose scans all have one lung and one lesion; the case is A000, B and C are scored by fold 1."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("evidence")
    patch.setenv("COVID3D_ROOT", str(root))
    patch.setattr(evidence, "whole_lung", lambda hu, spacing: LUNG)
    patch.setattr(evidence, "RANDOM_SCANS", 1)
    patch.setattr(task1, "require_certificate", lambda run: None)
    made = synthetic_run(root)
    write_masks(made, lesion=LESION, lung=LUNG)
    explanation.ensure_explain(made)
    random_labels.ensure_random_labels(made)
    evidence.ensure_evidence(made)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def found(run):
    return evidence.Evidence.of(run, explanation.Maps.of(run))


def test_pieces_are_tried_in_every_external_scan_and_in_the_case_and_boxes_in_a_sample_drawn_by_seed(run, found):
    table = found.summary
    external = table[table["role"] == "external"]
    assert external.groupby("method")["label"].value_counts().unstack().loc[PIECES].tolist() == [7, 7]
    assert external.groupby("method")["label"].value_counts().unstack().loc[BOXES].tolist() == [2, 2]
    assert set(table.loc[table["role"] != "external", "scan_id"]) == {"A000-0", "A000-0r", "A000-1", "A000-2"}
    assert set(external.loc[external["method"] == RANDOMISED[MAP]["random weights"], "scan_id"]) < set(
        external.loc[external["method"] == BOXES, "scan_id"]
    )
    assert evidence.drawn(external, 2, 1) == evidence.drawn(external.iloc[::-1], 2, 1)
    assert set(table["method"]) == set(ROWS) - {MAP}
    assert evidence.ensure_evidence(run.with_options(compute=False)) == run.path("evidence"), "computed once"


def test_the_stored_evidence_is_that_of_the_fold_that_never_saw_the_patient(run, found):
    window = nominal_window(run.profile.windows)
    for scan_id, fold in (("A000-1", 0), ("B001-0", 1)):
        grid = np.asarray(Store.of(run).get(scan_id))
        wanted = occlusion.by_pieces(load_fold(run, "task1", "covid3d", fold), grid, LUNG, window)
        np.testing.assert_allclose(evidence.read_maps(run, scan_id)["pieces"], wanted.values, atol=1e-5)
        row = found.summary.set_index(["scan_id", "method"]).loc[(scan_id, PIECES)]
        assert (row["parts"], row["healthy_hu"], row["fold"]) == (len(wanted.falls), wanted.healthy_hu, fold)
        assert row["positive_mass"] == pytest.approx(np.maximum(wanted.values, 0).sum(), abs=1e-4)


def test_lesions_are_made_healthy_and_the_lung_keeps_its_outline():
    lung, lesion = np.array([[[0.0, 0.5, 1.0, 1.0, 1.0]]]), np.array([[[0.0, 0.2, 1.0, 0.01, 0.0]]])
    grid = np.array([[[40, 0, -300, -500, -900]]], np.int16)
    scan = evidence.Scan({}, grid, (1, 1, 1), lesion, lung)
    removed, alone = evidence.made_healthy(scan, -840.0)
    assert removed.tolist() == [[[40, -400, -840, -500, -900]]], "half a voxel of wall stays wall"
    assert alone.tolist() == [[[40, 0, -300, -840, -900]]], "what is darker than healthy lung stays as it is"
    assert evidence.made_healthy(scan, float("nan"))[0] is grid
    assert evidence.made_healthy(scan._replace(lesion=None), -840.0)[1] is grid


def test_the_causal_logits_are_those_of_the_changed_scans(run, found):
    assert len(found.causal) == 14 and set(found.causal["hospital"]) == {"B", "C"}
    assert set(evidence.read_causal(run)["scan_id"]) > {"A000-1", *found.causal["scan_id"]}
    row = found.causal.set_index("scan_id").loc["C001-0"]
    grid, share = np.asarray(Store.of(run).get("C001-0")), LUNG.astype(np.float32)
    hu = occlusion.healthy_lung(grid, LUNG)
    removed = occlusion.without(grid, LESION, hu)
    alone = occlusion.without(grid, LUNG & ~LESION, share * hu)
    model, window = load_fold(run, "task1", "covid3d", 1), nominal_window(run.profile.windows)
    wanted = score(model, np.stack([grid, removed, alone]), [window])[:, 0]
    np.testing.assert_allclose(row[["whole", "removed", "alone"]].astype(float), wanted, atol=1e-4)


def test_tables_have_a_row_for_every_method_and_place(found):
    table = found.methods()
    assert list(table.index) == list(ROWS)
    assert table.at[BOXES, "scans"] == "2 / 2" and table.at[MAP, "scans"] == "7 / 7"
    assert table["ratio, COVID+"].drop(list(RANDOMISED[MAP].values())).map(lambda one: one.known).all()
    same = table.at["the same in the lung", "ratio, COVID+"]
    assert same.value == pytest.approx(1.0, rel=1e-5), "the lung that was searched is the true one here"
    assert table.at["the same everywhere", "inside the lung, COVID+"].value == pytest.approx(1.0, rel=1e-3)
    assert "null line" in str(table.at[OPAQUE, "times its null line, COVID+"])
    assert found.searched()["COVID+"].value == pytest.approx(1.0)
    assert found.agreement().index.nlevels == 2 and len(found.agreement()) == 4
    causal = found.causal_test()
    assert causal.at["as it is", "AUC at B"].known and not causal.at["as it is", "fall"].known
    assert causal.at["lesions made healthy", "fall"].known
    assert set(found.bars()["verdict"]) <= {"reached", "not reached"}
    assert set(found.advice()) == {"which picture", "what it looks at"}


def judged(run, boxes, negative, whole, removed, activation=0.1):
    """Return evidence of six scans a class at one hospital: lesions hold a tenth of each lung and `boxes` of the evidence."""
    label = [1] * 6 + [0] * 6
    rows = {
        "scan_id": [f"B{n}" for n in range(12)],
        "hospital": "B",
        "role": "external",
        "label": label,
        "why": "external",
    }
    share = [boxes] * 6 + [negative] * 6
    near = np.tile([0.99, 1.01], 6)  # no two scans are quite alike
    shown = {"lesion_of_lung": 0.1, "lesion_share": activation * near, "lesion_map_ratio": 1.0, "ratio_in_lung": 1.0}
    maps = explanation.Maps(run, pd.DataFrame({**rows, **shown}))
    summary = pd.DataFrame({**rows, **shown, "lesion_share": share * near, "method": BOXES, "agreement": 0.5})
    causal = pd.DataFrame({**rows, "whole": whole, "removed": removed, "alone": whole})
    return evidence.Evidence(run, maps, summary, causal)


GOOD, CHANCE = [2.0, 3, 4, 5, 6, 0.5, 0, 1, -1, -2, -3, 2.5], [0.0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]


def test_the_bars_of_occlusion_ask_for_more_in_covid_and_for_less_without_it(make_run):
    run = make_run()
    good = judged(run, 0.3, 0.05, GOOD, CHANCE)
    assert good.bars()["verdict"].tolist() == ["not reached", "reached", "reached", "reached"]
    assert good.bars().at[f"{BOXES}, COVID+", "found"].value == pytest.approx(3.0)
    assert judged(run, 0.19, 0.05, GOOD, CHANCE).bars()["verdict"].tolist()[1] == "not reached"
    assert judged(run, 0.3, 0.11, GOOD, CHANCE).bars()["verdict"].tolist()[2] == "not reached"
    assert judged(run, 0.3, 0.05, GOOD, GOOD).bars()["verdict"].tolist()[3] == "not reached"


def test_a_ratio_inside_the_lung_is_one_of_means_like_its_neighbours(make_run):
    found = judged(make_run(), 0.3, 0.05, GOOD, CHANCE)
    for table in (found.maps.summary, found.summary):
        table["lesion_of_lung"], table["ratio_in_lung"] = [0.2, *[0.1] * 11], [2.0, *[9.0] * 11]
    row = found.methods().loc[MAP]
    assert row["inside the lung, COVID+"].value == pytest.approx((0.4 + 5 * 0.9) / 0.7)
    assert row["ratio, COVID+"].value == pytest.approx(0.6 / 0.7) and row["inside the lung, COVID+"].has_limits


def test_one_scan_with_all_of_the_evidence_does_not_reach_a_bar_that_asks_for_a_limit(make_run):
    found = judged(make_run(), 0.05, 0.05, GOOD, CHANCE)
    found.summary.loc[0, "lesion_share"] = 1.0
    positive = found.bars().loc[f"{BOXES}, COVID+"]
    assert positive["found"].value > 2 > positive["found"].low and positive["verdict"] == "not reached"


def test_the_sentence_follows_the_bars_and_carries_their_numbers(make_run):
    run = make_run()
    trusted = judged(run, 0.3, 0.05, GOOD, CHANCE).advice()
    assert trusted["which picture"].startswith("Trust the occlusion picture, not the activation map")
    assert "3.00 times" in trusted["which picture"] and "1.00 times" in trusted["which picture"]
    assert "of the external hospitals" in trusted["which picture"]
    assert trusted["what it looks at"].endswith("the network decides by the disease.")
    both = judged(run, 0.3, 0.05, GOOD, CHANCE, activation=0.3).advice()["which picture"]
    assert both.startswith("Both pictures")
    assert (
        judged(run, 0.1, 0.05, GOOD, CHANCE, activation=0.3)
        .advice()["which picture"]
        .startswith("Trust the activation")
    )
    perfect = judged(run, 0.3, 0.2, GOOD, CHANCE)
    assert perfect.bars()["verdict"].tolist()[2] == "not reached", "as of the perfect reader (phantom_boxes)"
    assert perfect.advice() | {"which picture": ""} == trusted | {"which picture": ""}
    assert perfect.advice()["which picture"].startswith("Trust the occlusion picture")
    none = judged(run, 0.1, 0.05, GOOD, GOOD).advice()
    assert none["which picture"].startswith("Trust neither picture")
    assert none["what it looks at"].endswith("too little to say that disease decides.")


def test_real_scans_have_evidence_and_nothing_to_judge_it_by(make_run):
    bare = judged(make_run(), np.nan, np.nan, GOOD, CHANCE, activation=np.nan)
    blank = bare.summary.assign(lesion_of_lung=np.nan, ratio_in_lung=np.nan)
    bare = evidence.Evidence(bare.run, bare.maps, blank, bare.causal.head(0))
    assert set(bare.bars()["verdict"]) == {explanation.NO_TRUTH}
    assert bare.advice()["which picture"] == evidence.NOT_TESTED
    assert not bare.methods()["ratio, COVID+"].map(lambda one: one.known).any()
    assert not bare.causal_test().at["lesions made healthy", "AUC at B"].known


def test_a_ratio_against_the_null_line_compares_the_same_scans(make_run):
    found = judged(make_run(), 0.3, 0.05, GOOD, CHANCE)
    pieces = found.summary.assign(method=PIECES)
    opaque = found.summary.assign(method=OPAQUE, lesion_share=0.15)
    opaque.loc[0, "lesion_share"] = np.nan
    found = evidence.Evidence(found.run, found.maps, pd.concat([pieces, opaque]), found.causal)
    assert found.against_null(PIECES).value == pytest.approx(2.0, rel=0.005)
    assert not found.against_null(OPAQUE).known and not found.against_null(RANDOMISED[PIECES]["random weights"]).known


def test_random_labels_say_nothing_of_the_true_ones_and_are_as_many():
    labels = np.array([1] * 30 + [0] * 50)
    rng = np.random.default_rng(3)
    drawn = [random_labels.permuted(labels, rng) for _ in range(200)]
    assert {int(one.sum()) for one in drawn} == {30}
    assert all(abs(one[:30].mean() - 30 / 80) < 1 / 30 for one in drawn), "as large a share of each class"
    assert 0.3 < np.mean(drawn, axis=0).min() < np.mean(drawn, axis=0).max() < 0.5, "any patient may get either label"


def test_the_network_of_random_labels_is_the_deployed_folds_but_for_its_labels(run, monkeypatch, tmp_path):
    fold = run.model("random_labels", "covid3d", 1)
    assert not (fold / "predictions.csv").exists(), "its scores are in no table of scores"
    assert describe_weights(fold / "weights.safetensors")["task"] == "random_labels"
    seen = []
    monkeypatch.setattr(task1, "_inputs", lambda *scans: {})
    monkeypatch.setattr(task1, "fit", lambda model, *examples, **how: seen.append((model, *examples, how)))
    monkeypatch.setattr(task1, "write_fold", lambda folder, *rest: (folder / "predictions.csv").touch())
    monkeypatch.setattr(steps, "ensure", lambda run, name, folder, inputs, compute, again="": compute(tmp_path))
    task1.ensure_fold(run, 1)
    random_labels.ensure_random_labels(run)
    (model, train, held, plan, how), (other, random, held_too, plan_too, how_too) = seen
    assert how.pop("checkpoint") != how_too.pop("checkpoint")
    assert (plan, how, held.labels.tolist()) == (plan_too, how_too, held_too.labels.tolist())
    assert train.scan_ids == random.scan_ids and train.labels.tolist() != random.labels.tolist()
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all((one == two).all() for one, two in pairs), "the same start"


def test_maps_of_randomised_networks_are_compared_with_the_deployed_ones(run, found, monkeypatch):
    table = found.randomised()
    assert table.loc[(PIECES, "deployed"), "ratio"].value == pytest.approx(
        found.ratio(PIECES, 1, found.of_method(RANDOMISED[PIECES]["random labels"], 1).index).value
    )
    (scan_id,) = found.of_method(RANDOMISED[PIECES]["random labels"], 1).index
    models = [load_fold(run, task, "covid3d", 1) for task in ("task1", "random_labels")]
    grid, window = np.asarray(Store.of(run).get(scan_id)), nominal_window(run.profile.windows)
    falls = [occlusion.by_pieces(model, grid, LUNG, window).falls for model in models]
    wanted = stats.spearmanr(*falls).statistic
    assert table.loc[(PIECES, "random labels"), "alike"].value == pytest.approx(wanted, abs=1e-6)
    assert -1 <= table.loc[(MAP, "random weights"), "alike"].value <= 1
    assert set(found.sanity()) == {MAP, PIECES}
    curves = pd.DataFrame({"fold": [0, 1, 1], "train_loss": [0.1, 0.5, 0.2], "validation_auc": [0.6, 0.7, 0.8]})
    monkeypatch.setattr(results, "learning_curves", lambda run: curves)
    assert found.learned().loc["true labels"].tolist() == [0.2, 0.8]
    assert found.learned().loc["random labels"].tolist() != [0.2, 0.8]


@pytest.mark.parametrize(("random", "words"), [(0.1, True), (0.3, False), (0.5, False)])
def test_what_follows_is_said_by_the_comparison_with_random_labels(make_run, random, words):
    one = judged(make_run(), 0.3, 0.05, GOOD, CHANCE, activation=0.3)
    names = [others.values() for others in RANDOMISED.values()]
    methods = {PIECES: 0.3} | {name: share for pair in names for name, share in zip(pair, (random, 0.1), strict=True)}
    near = np.tile([1.01, 1.01, 0.98], 4)
    parts = [one.summary.assign(method=name, lesion_share=share * near, alike=0.1) for name, share in methods.items()]
    for part in parts[::2]:  # no two methods are in step
        part["lesion_share"] *= near[::-1] / near
    found = evidence.Evidence(one.run, one.maps, pd.concat(parts, ignore_index=True), one.causal)
    for sentence in found.sanity().values():
        assert sentence.startswith(
            f"3.00 times with true labels, {10 * random:.2f} with random ones, 1.00 with random weights"
        )
        assert sentence.endswith(f"{evidence.LEARNED[words]}, and {evidence.STARTED[random > 0.1]}")
    for table in (found.summary, found.maps.summary):
        table.drop(table.index[table["scan_id"].isin(["B0", "B1"])], inplace=True)
    assert all(sentence.endswith(": too few scans") for sentence in found.sanity().values())


def test_the_step_is_part_of_the_chapters_that_show_it():
    for chapter in ("04_external_tests", "06_trajectories"):
        assert "evidence" in steps.STEPS[chapter].needs
