"""What the chapter on the model prints of a network: sizes, parameters, work and receptive fields."""

import literal_i3d
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from covid3d.network import anatomy
from covid3d.network.covid3d import Covid3D
from covid3d.network.i3d import ConvUnit, MaxPool, same_padding
from covid3d.network.registry import parameter_count


@pytest.fixture(scope="module")
def thin() -> Covid3D:
    return Covid3D(width=1 / 8)


@pytest.mark.parametrize(("grid", "gflop"), [((24, 96, 96), 12.9), ((32, 112, 112), 23.5), ((64, 224, 224), 187)])
def test_work_of_the_full_network_is_that_of_the_flop_counter_and_of_the_table(grid, gflop):
    """The counter is PyTorch's own, two operations a multiplication and addition; the table was measured before."""
    model = Covid3D()
    with torch.device("meta"):
        empty, x = Covid3D().eval(), torch.empty(1, 1, *grid)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty(x)
    found = anatomy.stages(model, grid)["gflop"].sum()
    assert found == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)
    assert found == pytest.approx(gflop, rel=4e-3)


def test_work_of_each_stage_is_that_of_the_flop_counter(thin):
    grid = (15, 33, 47)
    table = anatomy.stages(thin, grid).set_index("stage")
    with FlopCounterMode(display=False, depth=3) as counter, torch.no_grad():
        thin.eval()(torch.zeros(1, 1, *grid))
    for name, counts in counter.get_flop_counts().items():
        stage = name.rpartition(".")[2]
        if stage in table.index:
            assert table.loc[stage, "gflop"] * 1e9 == pytest.approx(sum(counts.values())), stage


@pytest.mark.parametrize("grid", [(16, 48, 48), (24, 64, 64), (15, 33, 47)])
def test_stages_have_the_published_sizes_and_all_parameters(grid):
    model = Covid3D()
    table = anatomy.stages(model, grid)
    assert table["parameters"].sum() == parameter_count(model)
    found = {row.stage: (row.channels, row.z, row.y, row.x) for row in table.itertuples()}
    assert found == literal_i3d.shapes(grid) | {"pool": (1024, 1, 1, 1), "head": (1, 1, 1, 1)}


def probe(model: Covid3D, axis: int, size: int) -> dict[str, int]:
    """How many cells along one axis have a gradient at the middle cell of each endpoint."""
    shape = [1, 1, 1]
    shape[axis] = size
    x = torch.zeros(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    y, found = x, {}
    for name, stage in model.extractor.items():
        y = stage(y)
        line = y.sum(1).flatten()
        (gradient,) = torch.autograd.grad(line[len(line) // 2], x, retain_graph=True)
        found[name] = int((gradient != 0).sum())
    return found


def test_receptive_fields_are_those_that_gradients_reach(thin, monkeypatch):
    """Kernels all one and means for maxima, so that no path is cut; the input is longer than the largest field."""

    def mean(self, x):
        ends = [same_padding(*one) for one in zip(x.shape[2:], self.kernel, self.stride, strict=True)]
        x = F.pad(x, [pad for pair in reversed(ends) for pad in pair])
        return F.avg_pool3d(x, self.kernel, self.stride)

    monkeypatch.setattr(MaxPool, "forward", mean)
    monkeypatch.setattr(ConvUnit, "forward", lambda self, x: self.conv(_padded(self, x)))
    model = Covid3D(width=1 / 64).double()
    for module in model.modules():
        if isinstance(module, ConvUnit):
            torch.nn.init.constant_(module.conv.weight, 1 / module.conv.weight[0].numel())
    table = anatomy.receptive_fields(model.extractor).set_index("stage")
    assert probe(model, 0, 128) == table["z"].to_dict()
    assert probe(model, 2, 512) == table["x"].to_dict() == table["y"].to_dict()
    assert table.loc["Mixed_3c"].tolist() == [19, 59, 59]  # by hand: 7+4·1 and 2·4; 7+4+8+8 and 2·16


def _padded(unit: ConvUnit, x: torch.Tensor) -> torch.Tensor:
    if unit.stride == 1:
        return x
    return F.pad(x, [pad for size in x.shape[:1:-1] for pad in same_padding(size, unit.kernel, unit.stride)])


def test_branches_name_the_layers_of_a_block_and_their_channels():
    found = anatomy.branches(Covid3D().extractor["Mixed_3b"])
    assert found == [
        [("Conv3d_0a_1x1", 64)],
        [("Conv3d_0a_1x1", 96), ("Conv3d_0b_3x3", 128)],
        [("Conv3d_0a_1x1", 16), ("Conv3d_0b_3x3", 32)],
        [("MaxPool3d_0a_3x3", None), ("Conv3d_0b_1x1", 32)],
    ]
    assert np.sum([chain[-1][1] for chain in found]) == 256
