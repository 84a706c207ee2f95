"""Every registered model keeps the one interface; and what is special to each."""

import re
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from comparator_contract import GRID, check_contract, easy_cases, part, small_profile
from conftest import CHECKOUT

from covid3d.chapters.comparison import create
from covid3d.comparators import tables, video, volumes
from covid3d.comparators.catalogue import COMPARATORS
from covid3d.comparators.interface import Cases, cells_of, spread
from covid3d.network.scoring import to_input
from covid3d.network.slices import MaxPooledResNet
from covid3d.network.tabular import contributions, fit_linear, logistic
from covid3d.run.errors import ConfigError, Covid3DError
from covid3d.run.profile import FromTrunk, load_profile


@pytest.mark.parametrize("name", sorted(COMPARATORS))
def test_every_model_fits_scores_explains_saves_and_refuses(name, tmp_path):
    profile = small_profile()
    check_contract(lambda: create(name, profile, seed=7), tmp_path)


def test_the_guides_example_is_a_model_like_any_other(tmp_path, monkeypatch):
    """The page "Adding a model" is executed: its file, its line."""
    page = (CHECKOUT / "book" / "adding_a_model.md").read_text(encoding="utf-8")
    code, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    name, module = re.fullmatch(r'"(\w+)": "([\w.]+)",\n', line).groups()
    file = ModuleType(module)
    exec(code, file.__dict__)
    monkeypatch.setitem(sys.modules, module, file)
    monkeypatch.setitem(COMPARATORS, name, module)
    profile = small_profile()
    check_contract(lambda: create(name, profile, seed=7), tmp_path)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 's3d'"):
        create("s3", load_profile("smoke"))


@pytest.mark.parametrize(
    ("name", "layer", "bias"),
    [
        ("covid3d", "extractor.Mixed_5c", "head.bias"),
        ("resnet_2d", "net.layer4", "head.bias"),
        ("resnet_maxpool", "net.layer4", "head.bias"),
        ("s3d", "net.features.15", "net.classifier.1.bias"),
        ("r3d_18", "net.layer4", "net.fc.bias"),
    ],
)
def test_the_map_at_the_last_layer_sums_to_the_logit_minus_the_bias(name, layer, bias):
    net = create(name, small_profile(), seed=1).net.eval()
    cells, logit = cells_of(net, torch.randn(1, 1, *GRID), layer)
    assert cells.sum() == pytest.approx(logit - net.get_parameter(bias).item(), rel=1e-4, abs=1e-5)


def test_an_unknown_layer_of_a_map_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"extractor\.Mixed_5"):
        cells_of(create("covid3d", small_profile()).net, torch.zeros(1, 1, *GRID), "extractor.Mixed_5d")


def test_cells_are_spread_over_the_grid_with_their_sum_and_slices_over_the_slices_seen():
    cells = np.ones((2, 4, 4), np.float32)
    assert spread(cells, (8, 16, 16)).sum() == pytest.approx(32)
    flat = spread(cells, (8, 16, 16), 2)
    assert flat.sum() == pytest.approx(32)
    assert np.flatnonzero(flat.any((1, 2))).tolist() == [2, 6]


def test_a_max_pooled_scan_is_judged_by_its_strongest_slices():
    net = MaxPooledResNet("resnet10t", None, size=32, slices_per_scan=4).eval()
    x = torch.randn(1, 1, 4, 32, 32)
    with torch.no_grad():
        each = torch.stack([net.net(x[:, :, z]) for z in range(4)])
        torch.testing.assert_close(net(x), net.head(each.amax(0)).squeeze(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x), net(x[:, :, [3, 0, 0, 2, 1, 1]][:, :, [0, 1, 3, 4]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "published"), [("s3d", 7.91e6), ("r3d_18", 33.17e6)])
def test_video_networks_are_the_published_ones_but_for_stem_and_classes(name, published):
    """Parameters of torchvision's table without the classifier of 400 classes: 8.32 M - 0.41 M and 33.37 M - 0.21 M."""
    profile = small_profile()
    full = profile.model_copy(update={"model": profile.model.model_copy(update={"width": 1.0})})
    assert create(name, full).parameters == pytest.approx(published, rel=0.005)
    assert create(name, profile).parameters < full.model.width * published / 40


def test_a_width_that_does_not_divide_the_channels_is_refused():
    with pytest.raises(ConfigError, match="1/16|0.0625"):
        video.scaled(24, 1 / 16)


def test_what_lies_outside_the_lungs_does_not_reach_the_masked_network():
    profile, cases = small_profile(), easy_cases(4, 5)
    model = create("covid3d_lungs", profile, seed=1)
    masks = volumes.lung_masks(cases)
    assert masks[:, 4, 10, 8].all() and not masks[:, 4, 5].any()
    other = Cases(
        np.where(masks, cases.grids, cases.grids + (cases.grids > -300) * 100).astype(np.int16), *cases_rest(cases)
    )
    assert model.score(other).tolist() == model.score(cases).tolist()
    assert (
        create("covid3d", profile, seed=1).score(other).tolist()
        != create("covid3d", profile, seed=1).score(cases).tolist()
    )


def test_batch_norm_that_stays_fixed_is_measured_on_what_the_network_sees():
    model, cases = create("covid3d_lungs", small_profile(), seed=1), easy_cases(8, 5)
    model.go_on(FromTrunk(epochs=1, learning_rate=1e-12))
    fitted = model.fit(cases, cases, seed=1)
    assert len(fitted.history) == 1
    stem, seen = model.net.extractor.Conv3d_1a_7x7, []
    stem.bn.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.no_grad():
        model.net.eval()(to_input(volumes.lungs_alone(cases), model.plan.window))
    torch.testing.assert_close(stem.bn.running_mean, torch.cat(seen).mean((0, 2, 3, 4)), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(stem.bn.running_var, torch.cat(seen).var((0, 2, 3, 4)), rtol=1e-2, atol=1e-5)
    assert not stem.bn.train().training


def cases_rest(cases: Cases) -> tuple[np.ndarray, pd.DataFrame]:
    return cases.spacing_mm, cases.facts


def test_a_scan_without_lungs_stays_whole_and_one_without_voxel_size_is_named():
    cases = easy_cases(2, 5)
    solid = Cases(np.full_like(cases.grids, 40), *cases_rest(cases))
    assert (volumes.lungs_alone(solid) == 40).all()
    unknown = Cases(cases.grids, np.array([[15.0, 11, 11], [np.nan, 11, 11]]), cases.facts)
    with pytest.raises(Covid3DError, match="scan P001: the voxel size is not known"):
        volumes.lungs_alone(unknown)


def test_histograms_know_how_often_but_not_where():
    cases = easy_cases(2, 5)
    turned = Cases(cases.grids[:, :, :, ::-1].copy(), *cases_rest(cases))
    one, two = tables.histograms(cases), tables.histograms(turned)
    pd.testing.assert_frame_equal(one, two)
    assert one.filter(like="whole").sum(axis=1).between(0.99, 1).all()


def test_plain_terms_give_the_logits_of_the_fitted_pipeline():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    table = pd.DataFrame({"age": 50 + 9 * labels + rng.normal(0, 9, 80), "sex": rng.choice(["F", "M"], 80), "same": 1})
    table.loc[[3, 70], "age"] = np.nan
    table.loc[5, "sex"] = None
    model = fit_linear(table.head(60), labels[:60])
    pipeline = logistic(("age",), ("sex",)).fit(table.head(60), labels[:60])
    new = table.tail(20).assign(sex=["F"] * 19 + ["X"])  # a category that training did not hold
    logits = model.intercept + contributions(model, new).sum(axis=1)
    np.testing.assert_allclose(logits, pipeline.decision_function(new), rtol=1e-9)
    assert "same" not in set(model.terms["column"])
    with pytest.raises(Covid3DError, match="column 'age' is missing"):
        contributions(model, new.drop(columns="age"))
    with pytest.raises(Covid3DError, match="no column varies"):
        fit_linear(table[["same"]], labels)


def test_a_tables_contributions_and_intercept_sum_to_the_logit(tmp_path):
    model, cases = create("metadata", small_profile()), easy_cases(24, 1)
    with pytest.raises(Covid3DError, match="has not been fitted"):
        model.score(cases)
    model.fit(cases, cases, seed=1)
    found = model.explain(part(cases, slice(0, 1)))
    assert found.logit == pytest.approx(model.fitted.intercept + found.table["contribution"].sum())
    assert set(found.table["term"]) == {"age", "sex = F", "sex = M"}


def test_cases_that_do_not_belong_together_are_refused():
    cases = easy_cases(4, 1)
    with pytest.raises(ValueError, match="3 rows"):
        Cases(cases.grids, cases.spacing_mm, cases.facts.head(3))
