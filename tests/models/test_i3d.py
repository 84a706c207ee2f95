"""The I3D trunk: sizes, padding, depth."""

import math

import pytest
import torch
import torch.nn.functional as F

from covid3d.models.covid3d import Covid3D
from covid3d.models.i3d import BLOCKS, ConvUnit, Depth, InceptionI3d, MaxPool, depth, same_padding, scaled
from covid3d.models.registry import parameter_count


@pytest.fixture(scope="module")
def full() -> Covid3D:
    return Covid3D(width=1.0)


def pad_same(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> torch.Tensor:
    """TensorFlow's 'SAME', written out from its documentation: total = max((ceil(n/s) - 1) s + k - n, 0), extra after."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def reference(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The same network with explicit padding before every convolution and pool."""
    if isinstance(module, ConvUnit):
        x = pad_same(x, (module.kernel,) * 3, (module.stride,) * 3, 0.0)
        x = F.conv3d(x, module.conv.weight, stride=module.stride)
        return F.relu(module.bn(x))
    if isinstance(module, MaxPool):
        x = pad_same(x, module.kernel, module.stride, -math.inf)
        return F.max_pool3d(x, module.kernel, module.stride)
    if isinstance(module, (torch.nn.Sequential, InceptionI3d)):
        for child in module.children():
            x = reference(child, x)
        return x
    return torch.cat([reference(branch, x) for branch in module.children()], 1)


@pytest.mark.parametrize("shape", [(16, 32, 32), (15, 33, 47), (12, 34, 50)])
def test_features_equal_explicit_same_padding_on_even_and_odd_sizes(shape):
    torch.manual_seed(0)
    net = InceptionI3d(width=1 / 16)
    x = torch.randn(2, 1, *shape)
    net.train()
    net(x)  # calibrates BatchNorm, so that no bias hides an error
    net.eval()
    with torch.no_grad():
        ours, theirs = net(x), reference(net, x)
    assert (
        ours.shape
        == theirs.shape
        == (2, net.channels, *(math.ceil(size / step) for size, step in zip(shape, (8, 32, 32), strict=True)))
    )
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


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


def test_one_channel_with_a_summed_kernel_equals_replicated_rgb():
    torch.manual_seed(1)
    rgb, grey = ConvUnit(3, 8, 7, 2).double().eval(), ConvUnit(1, 8, 7, 2).double().eval()
    grey.conv.weight.data = rgb.conv.weight.data.sum(1, keepdim=True)
    x = torch.randn(1, 1, 8, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(grey(x), rgb(x.expand(1, 3, 8, 16, 16)), rtol=1e-6, atol=1e-12)
