"""Maps: exact where they can be, aligned with what the cells see, and honest about their mass."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from covid3d.chapters import explanation as explain
from covid3d.ct.windows import Window
from covid3d.network.covid3d import Covid3D
from covid3d.network.i3d import ConvUnit, InceptionI3d
from covid3d.network.scoring import score, to_input
from covid3d.run.errors import ConfigError

WINDOW = Window(-600, 1500)


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 300, (16, 64, 64)).astype(np.int16)


@pytest.fixture(scope="module")
def model(grid) -> Covid3D:
    torch.manual_seed(0)
    model = Covid3D(1 / 16)
    model(to_input(np.stack([grid, grid[:, ::-1]]), WINDOW))
    return model.eval()


def test_gradcam_at_the_last_block_sums_to_the_logit_minus_the_bias(model, grid):
    cells, logit = explain.cell_map(model, grid, WINDOW, "Mixed_5c", "gradcam")
    assert cells.shape == (2, 2, 2)
    assert logit == pytest.approx(score(model, grid[None], [WINDOW])[0, 0], abs=1e-4)
    assert cells.sum() == pytest.approx(logit - model.head.bias.item(), abs=1e-5)


def test_gradcam_at_the_last_block_is_the_head_weight_times_the_features(model, grid):
    cells, _ = explain.cell_map(model, grid, WINDOW, "Mixed_5c", "gradcam")
    with torch.no_grad():
        features = model.extractor(to_input(grid[None], WINDOW))[0]
    exact = torch.einsum("c,czyx->zyx", model.head.weight[0] / features[0].numel(), features).detach().numpy()
    np.testing.assert_allclose(cells, exact, atol=1e-5)
    np.testing.assert_allclose(explain.cell_map(model, grid, WINDOW, "Mixed_5c", "hirescam").cells, exact, atol=1e-5)


def test_the_tail_only_gradient_equals_a_full_backward(model, grid):
    kept: list[torch.Tensor] = []
    hook = model.extractor["Mixed_3c"].register_forward_hook(
        lambda _, __, out: (out.retain_grad(), kept.append(out))[1]
    )
    model(to_input(grid[None], WINDOW)).sum().backward()
    hook.remove()
    full = (kept[0].grad * kept[0]).sum(1)[0].detach().numpy()
    cells = explain.cell_map(model, grid, WINDOW, "Mixed_3c", "hirescam").cells
    assert cells.shape == (8, 8, 8) and cells.min() < 0 < cells.max()  # signed: no ReLU
    np.testing.assert_allclose(cells, full, atol=1e-6)


def test_unknown_layers_and_methods_are_refused_with_the_nearest_name(model, grid):
    with pytest.raises(ConfigError, match="Mixed_5c"):
        explain.cell_map(model, grid, WINDOW, "Mixed_5d", "gradcam")
    with pytest.raises(ConfigError, match="hirescam"):
        explain.cell_map(model, grid, WINDOW, "Mixed_5c", "hirecam")  # type: ignore[arg-type]


def test_cell_centres_follow_same_padding():
    # By hand: the 7-wide stem pads (2, 3), so cell i sees voxels 2i-2 … 2i+4, centre 2i+1; each pool adds one step.
    net = InceptionI3d(width=1 / 16)
    assert explain.cell_centres(net, "Conv3d_1a_7x7", (16, 64, 64)) == [(1, 2)] * 3
    assert explain.cell_centres(net, "Mixed_3c", (16, 64, 64)) == [(1, 2), (7, 8), (7, 8)]
    assert explain.cell_centres(net, "Mixed_3c", (15, 63, 64))[:2] == [(0, 2), (6, 8)]
    assert explain.cell_size_mm(net, "Mixed_3c", (16, 64, 64), (10.0, 5.0, 5.0)) == (20.0, 40.0, 40.0)


def test_a_bright_block_is_found_where_it_lies():
    model = Covid3D(1 / 16).eval()
    for module in model.modules():
        if isinstance(module, ConvUnit):
            torch.nn.init.constant_(module.conv.weight, 1 / module.conv.weight[0].numel())
    torch.nn.init.constant_(model.head.weight, 1.0)
    grid = np.full((32, 64, 64), -600, np.int16)
    grid[18:26, 20:28, 36:44] = 150  # centre 21.5, 23.5, 39.5
    values = explain.signed_map(model, grid, WINDOW, "Mixed_3c", "hirescam")
    assert values.shape == grid.shape and values.dtype == np.float32
    weights = np.maximum(values, 0)
    centre = [
        (weights.sum(tuple({0, 1, 2} - {axis})) * np.arange(size)).sum() / weights.sum()
        for axis, size in enumerate(grid.shape)
    ]
    np.testing.assert_allclose(centre, [21.5, 23.5, 39.5], atol=1.5)


def test_spreading_keeps_the_sum_away_from_the_border():
    net = InceptionI3d(width=1 / 16)
    cells = np.zeros((8, 8, 8), np.float32)
    cells[3, 4, 4] = 2.5
    out = explain.spread(cells, net, "Mixed_3c", (16, 64, 64))
    assert out.sum() == pytest.approx(2.5, rel=1e-5)
    assert np.unravel_index(out.argmax(), out.shape) == (7, 39, 39)


def test_mass_counts_shares_of_the_positive_part_only():
    values = np.array([[[3.0, 1.0, -5.0, 4.0]]])
    lung, lesion = np.array([[[1.0, 1.0, 1.0, 0.0]]]), np.array([[[1.0, 0.0, 0.5, 0.0]]])
    found = explain.mass(values, lesion, lung)
    assert found["positive_mass"] == 8 and found["negative_mass"] == -5
    assert found["lesion_share"] == 3 / 8 and found["lung_share"] == 4 / 8
    assert found["lesion_of_lung"] == 0.5 and found["ratio"] == 0.75 and found["ratio_in_lung"] == 1.5
    blank = explain.mass(values, None, None)
    assert blank["positive_mass"] == 8 and np.isnan(blank["lesion_share"]) and np.isnan(blank["ratio"])
    assert np.isnan(explain.mass(-np.abs(values), lesion, lung)["lesion_share"])


def test_a_map_that_is_the_same_everywhere_has_ratio_one_in_the_lung():
    lung, lesion = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    lung[2:6, 2:6, 2:6], lesion[3, 3, 3] = 1.0, 1.0
    assert explain.mass(np.ones((8, 8, 8)), lesion, lung)["ratio_in_lung"] == pytest.approx(1.0)


def test_lesions_averaged_over_cells_lose_mass_to_the_size_of_the_cells():
    net, shape = InceptionI3d(width=1 / 16), (16, 64, 64)
    lung, lesion, ratios = np.ones(shape), np.zeros(shape), []
    lesion[6:9, 30:35, 30:35] = 1.0
    for layer, cells in (("Conv3d_1a_7x7", (8, 32, 32)), ("Conv3d_2c_3x3", (8, 16, 16)), ("Mixed_3c", (8, 8, 8))):
        even = explain.lesion_map(np.ones(shape), net, layer, cells)
        assert np.ptp(even) < 1e-6 * even.mean(), "an even lesion gives an even map"
        ratios.append(explain.mass(explain.lesion_map(lesion, net, layer, cells), lesion, lung)["ratio"])
    assert 1 / lesion.mean() > ratios[0] > 1.5 * ratios[1] > 2 * ratios[2] > 20


def accepted() -> pd.DataFrame:
    rows = [(f"A{n:02d}-0", f"A{n:02d}", "A", "development", n % 2, 0, 50) for n in range(40)]
    rows += [(f"B{n}-0", f"B{n}", "B", "external", n % 2, 0, 50) for n in range(4)]
    rows += [("A07-9", "A07", "A", "rescan", 1, 0, 50)]
    rows += [("A01-0x", "A41", "A", "development", 1, 0, 24)]
    rows += [(f"A41-{n}", "A41", "A", "followup", 1, n, 24) for n in range(1, 5)]
    rows += [("A03-1", "A03", "A", "followup", 1, 1, 50)]
    return pd.DataFrame(rows, columns=["scan_id", "patient_id", "hospital", "role", "label", "scan_index", "age"])


def test_explained_scans_are_drawn_by_seed_not_by_hand():
    one, two, other = (explain.choose_scans(accepted(), seed) for seed in (1, 1, 2))
    assert one["scan_id"].tolist() == two["scan_id"].tolist() != other["scan_id"].tolist()
    assert one["scan_id"].is_unique
    assert (one["why"] == "external").sum() == 4 and (one["why"] == "case").sum() == 5
    sample = one[one["why"] == "sample"]
    assert set(sample["label"]) == {1} and set(sample["role"]) == {"development"} and 11 <= len(sample) <= 12


def test_the_case_is_the_patient_of_24_years_with_five_scans():
    table = accepted()
    assert explain.case_patient(table) == "A41"
    assert explain.case_patient(table[table["age"] != 24]) == "A03"
    assert explain.case_patient(table[table["role"] == "external"]) is None


def test_a_map_takes_one_forward_and_one_backward_pass(model, grid, monkeypatch):
    assert explain.passes(model, grid, WINDOW, "Mixed_3c", "hirescam") == (1, 1)
    once = explain.cell_map
    monkeypatch.setattr(explain, "cell_map", lambda *args: (once(*args), once(*args)))
    assert explain.passes(model, grid, WINDOW, "Mixed_3c", "hirescam") == (2, 2), "a second pass is seen"
    assert not model.head._forward_hooks and not model.head._backward_hooks


# --- what the maps show ----------------------------------------------------------------------------------------------

SHARES = pd.DataFrame(
    {
        "hospital": ["B", "B", "B", "B"],
        "label": [1, 1, 1, 0],
        "role": "external",
        "lesion_share": [0.4, 0.2, np.nan, 0.1],
        "lesion_of_lung": [0.1, 0.2, 0.1, 0.1],
    }
)


def test_lesion_share_table_leaves_out_scans_without_truth():
    table = explain.lesion_share_table(SHARES, 200, seed=1).set_index("label")
    found = table.at[1, "ratio"]
    assert table.at[1, "scans"] == 2
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 1.0, 4.0))
    assert table.at[0, "ratio"].value == pytest.approx(1.0) and not table.at[0, "ratio"].has_limits
    pooled = explain.lesion_share_ratio(SHARES, 1, 200, seed=1)
    assert (pooled.value, pooled.low, pooled.high) == pytest.approx((2.0, 1.0, 4.0))
    assert not explain.lesion_share_ratio(SHARES.assign(lesion_of_lung=np.nan), 1, 200, seed=1).known


@pytest.mark.parametrize("role", ["followup", "rescan", "control"])
def test_a_patient_counts_once_by_the_first_scan(role):
    again = pd.concat([SHARES, SHARES.head(1).assign(role=role, lesion_share=0.9)])
    assert explain.lesion_share_ratio(again, 1, 200, seed=1) == explain.lesion_share_ratio(SHARES, 1, 200, seed=1)
    assert explain.lesion_share_table(again, 200, seed=1).equals(explain.lesion_share_table(SHARES, 200, seed=1))
    inside = SHARES.assign(role="development", hospital="A")
    assert explain.lesion_share_table(inside, 200, seed=1)["scans"].tolist() == [1, 2]


def maps_of(run, **columns) -> explain.Maps:
    """Six external scans, three a class, with the given columns."""
    rows = {"scan_id": [f"B{n}" for n in range(6)], "hospital": "B", "role": "external", "label": [1, 1, 1, 0, 0, 0]}
    blank = dict.fromkeys(("lesion_share", "lesion_of_lung", "lesion_map_ratio", "ratio_in_lung"), np.nan)
    return explain.Maps(run, pd.DataFrame({**rows, **blank, **columns}))


def test_the_bar_asks_for_the_ratio_and_for_its_lower_limit(make_run):
    run = make_run()
    share = {"lesion_of_lung": 0.1}
    assert maps_of(run, lesion_share=[0.25, 0.3, 0.35, 0, 0, 0], **share).ratios()["bar"] == "reached"
    assert maps_of(run, lesion_share=[0.19, 0.19, 0.19, 0, 0, 0], **share).ratios()["bar"] == "not reached"
    assert maps_of(run, lesion_share=[0.01, 0.01, 0.9, 0, 0, 0], **share).ratios()["bar"] == "not reached"


def test_what_a_ratio_is_compared_with_is_a_ratio_of_means_over_the_same_scans(make_run, monkeypatch):
    """Lesions are three tenths, a tenth and a tenth of the lungs of COVID+ scans; the second of B has no positive map."""
    monkeypatch.setattr(explain, "lung_mask", lambda run, scan: np.full((2, 2, 2), 0.25 if scan == "B0" else 0.05))
    of_lung, role = [0.3, 0.1, 0.1, 0.1, 0.1, 0.1], ["external", "external", "development", *["external"] * 3]
    columns = {"lesion_of_lung": of_lung, "lesion_share": [0.3, np.nan, 0.5, 9, 9, 9], "role": role}
    columns |= {
        "lesion_map_ratio": [1.0, 9, 4, 9, 9, 9],
        "ratio_in_lung": [2.0, 9, 6, 9, 9, 9],
        "hospital": list("BBABBB"),
    }
    found = maps_of(make_run(), **columns).ratios()
    assert found["scans"] == "1 of A, 1 of B"
    wanted = {"ratio": 2.0, "same everywhere": 0.2, "the lesions themselves": 1.75, "inside the lung": 3.0}
    assert {name: found[name].value for name in wanted} == pytest.approx(wanted)
    assert all(found[name].low < found[name].value < found[name].high for name in wanted)


def test_real_scans_have_no_lesions_to_be_found_and_every_number_says_so(make_run):
    maps = maps_of(make_run())
    assert maps.lesion_share().empty
    assert {str(found).split(" (")[-1].rstrip(")") for found in maps.ratios().values()} == {explain.NO_TRUTH}


def test_the_mass_of_the_map_is_compared_by_welchs_test(make_run):
    mass = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0]
    maps = maps_of(make_run(), positive_mass=mass, map_sum=0.0, logit=0.0)
    assert maps.mass_by_label().loc["COVID-", "positive mass"] == 6
    found = maps.mass_difference()
    expected = stats.ttest_ind(mass[3:], mass[:3], equal_var=False).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((4.0, *expected))
    few = explain.Maps(maps.run, maps.summary.head(4))
    assert "fewer than two" in str(few.mass_difference()) and "fewer than two" in str(
        few.mass_compared()["what it says"]
    )


@pytest.mark.parametrize(
    ("less", "said"), [(-9.0, "have more, against"), (0.0, "is not shown"), (9.0, "have less, as")]
)
def test_what_the_mass_says_of_the_papers_words_follows_its_interval(make_run, less, said):
    mass = np.array([11.0, 12, 13, 11, 12, 13]) - [0, 0, 0, less, less, less]
    assert said in maps_of(make_run(), positive_mass=mass).mass_compared()["what it says"]


def test_a_map_that_is_missing_and_the_parts_of_a_map_are_counted(make_run, monkeypatch):
    two = np.zeros((4, 8, 8), np.float32)
    two[1, 1:3, 1:3], two[2, 6, 6], two[0, 4, 4] = 1.0, 0.6, 0.4
    monkeypatch.setattr(explain, "read_map", lambda run, scan: two)
    maps = maps_of(make_run())
    found = maps.made(maps.summary["scan_id"])
    assert (found["maps"], found["every external scan has a map"]) == (6, True)
    assert found["connected parts of a map, mean of COVID+ scans"].value == 2
    assert not maps.made(pd.Series(["B0", "B9"]))["every external scan has a map"]


def test_the_stored_layers_say_that_they_are_not_of_this_run(monkeypatch):
    rows = [
        (layer, method, "positive") for layer in ("Conv3d_1a_7x7", "Mixed_5c") for method in ("gradcam", "hirescam")
    ]
    stored = pd.DataFrame(rows, columns=["layer", "method", "part"]).assign(scans=4, commit="abc")
    stored["ratio"] = [0.5, 0.5, 0.5, 0.7]
    monkeypatch.setattr(explain.campaigns, "read", lambda name: stored)
    table, caption = explain.ratios_by_layer()
    assert "not of this run" in caption and {"Grad-CAM", "HiResCAM"} <= set(table.columns)
    assert table.index.tolist() == ["Conv3d_1a_7x7", "Mixed_5c", "best layer"]
    assert str(table.loc["best layer", "HiResCAM"]) == "0.700 (Mixed_5c)"
    monkeypatch.setattr(explain.campaigns, "read", lambda name: None)
    table, caption = explain.ratios_by_layer()
    assert str(table.loc["best layer", "HiResCAM"]) == "not available (not measured)" and "no stored" in caption
