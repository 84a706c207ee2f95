"""The I3D trunk: exact 'SAME' padding against a literal reference, endpoints, depth, channels."""

import literal_i3d
import numpy as np
import pytest
import torch

from covid3d.network import i3d
from covid3d.network.covid3d import Covid3D
from covid3d.network.i3d import BLOCKS, ConvUnit, Depth, InceptionI3d, depth, same_padding, scaled
from covid3d.network.registry import parameter_count

GRIDS = [(16, 32, 32), (15, 33, 47), (9, 50, 38)]


@pytest.fixture(scope="module")
def full() -> Covid3D:
    return Covid3D(width=1.0)


def scans(count: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random volumes (count, 1, *shape) that are coarse and fine at once, each of its own, as scans are."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 3, 5, 5, generator=random)
    fine = torch.randn(count, 1, *shape, generator=random)
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True) + 0.3 * fine


def calibrated(shape: tuple[int, ...], in_channels: int = 1) -> InceptionI3d:
    """A thin trunk whose BatchNorm holds the statistics of its own features, with a scale and shift that matter.

    He init and calibration keep every layer's output near unit size: with default init the bias would hide errors.
    """
    torch.manual_seed(0)
    net = InceptionI3d(in_channels, width=1 / 16)
    for name, parameter in net.named_parameters():
        if ".bn." in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = None  # the plain mean over calls: of one call, that call's own statistics
    with torch.no_grad():
        net.train()(scans(8, shape, seed=3).expand(-1, in_channels, -1, -1, -1))
    return net.eval()


def relative_error(ours: torch.Tensor, expected: np.ndarray) -> float:
    assert ours.shape == expected.shape
    return float(np.linalg.norm(ours.double().numpy() - expected) / np.linalg.norm(expected))


def literal(net: InceptionI3d, x: torch.Tensor) -> np.ndarray:
    tensors = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    return np.stack([literal_i3d.features(one.double().numpy(), tensors) for one in x])


@pytest.mark.parametrize("shape", GRIDS)
def test_features_equal_the_literal_same_reference_on_even_and_odd_sizes(shape):
    net, x = calibrated(shape), scans(2, shape, seed=1)
    expected = literal(net, x)
    assert expected.std() > 0.1 and (expected > 0).mean() > 0.2  # alive, so that an error would show
    with torch.no_grad():
        error, exact = relative_error(net(x), expected), relative_error(net.double()(x.double()), expected)
        assert exact < 1e-10
        assert error < 5e-5  # float32 over twenty layers: rounding alone gives about 1e-5


def test_the_reference_tells_a_symmetric_stem_apart(monkeypatch):
    net, x = calibrated(GRIDS[0]), scans(1, GRIDS[0], seed=1)
    expected = literal(net, x)
    monkeypatch.setattr(i3d, "same_padding", lambda *one: (3, 3) if one[1] == 7 else same_padding(*one))
    with torch.no_grad():
        assert relative_error(net(x), expected) > 0.1  # the right shape, the wrong features


@pytest.mark.parametrize("grid", [(24, 64, 64), (64, 224, 224), (31, 111, 97), (15, 33, 47)])
def test_every_endpoint_has_the_published_channels_and_ceiling_divided_sizes(grid):
    with torch.device("meta"):
        net, x = InceptionI3d(), torch.empty(1, 1, *grid)
    expected = literal_i3d.shapes(grid)
    assert list(net) == list(expected)
    before = None
    for name, shape in expected.items():
        x, before = net.forward_features(x, start=before, stop=name), name
        assert tuple(x.shape) == (1, *shape), name
    z, y, x = (-(-size // step) for size, step in zip(grid, (8, 32, 32), strict=True))
    assert expected["Mixed_5c"] == (1024, z, y, x)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 1), (1, 40, 7)])
def test_any_input_size_passes(size):
    net = InceptionI3d(width=1 / 16).eval()
    with torch.no_grad():
        found = net(torch.randn(1, 1, *size))
    assert found.shape[2:] == literal_i3d.shapes(size)["Mixed_5c"][1:] and torch.isfinite(found).all()


def test_stem_pads_two_before_and_three_after_on_even_sizes():
    assert same_padding(64, 7, 2) == (2, 3)
    assert same_padding(63, 7, 2) == (3, 3)
    assert same_padding(64, 3, 2) == (0, 1)


def test_depth_of_the_built_network_is_27(full):
    assert depth(full) == Depth(weights=22, pools=5)
    assert depth(full).total == 27


def test_full_width_has_12_2_million_parameters(full):
    assert parameter_count(full) == 12_244_385  # 12.2 M


def test_full_width_channels_are_those_of_the_paper(full):
    inputs = [full.extractor[name]["Branch_0"][0].conv.in_channels for name in BLOCKS]
    assert inputs == [192, 256, 480, 512, 512, 512, 528, 832, 832]
    assert full.extractor.channels == full.head.in_features == 1024


def test_width_scales_channels_to_multiples_of_eight():
    assert [scaled(channels, 0.25) for channels in (64, 96, 16)] == [16, 24, 8]
    assert scaled(112, 1.0) == 112
    assert all(
        unit.conv.out_channels % 8 == 0 for unit in InceptionI3d(width=0.3).modules() if isinstance(unit, ConvUnit)
    )


def test_a_forward_in_two_parts_equals_one():
    net = InceptionI3d(width=1 / 16).eval()
    x = torch.randn(2, 1, 16, 48, 48)
    with torch.no_grad():
        half = net.forward_features(x, stop="Mixed_3c")
        assert half.shape[2:] == (8, 6, 6)
        torch.testing.assert_close(net.forward_features(half, start="Mixed_3c"), net(x))
    with pytest.raises(KeyError, match="Mixed_9z"):
        net.forward_features(x, stop="Mixed_9z")


@pytest.mark.parametrize("shape", GRIDS)
def test_one_channel_with_a_summed_kernel_equals_three_equal_channels(shape):
    rgb, x = calibrated(shape, in_channels=3).double(), scans(2, shape, seed=2).double()
    grey = InceptionI3d(in_channels=1, width=rgb.width).double().eval()
    tensors = rgb.state_dict()
    tensors["Conv3d_1a_7x7.conv.weight"] = tensors["Conv3d_1a_7x7.conv.weight"].sum(1, keepdim=True)
    grey.load_state_dict(tensors)
    with torch.no_grad():
        for stop in ("Conv3d_1a_7x7", "Mixed_5c"):
            expected = rgb.forward_features(x.expand(-1, 3, -1, -1, -1), stop=stop).numpy()
            assert relative_error(grey.forward_features(x, stop=stop), expected) < 1e-6, stop
