"""Training speed beside peers: the comparison is one of equals, and keeps its bounds on a quiet machine."""

import numpy as np
import pytest
import torch

from benchmarks import train
from covid3d.network.covid3d import Covid3D
from covid3d.network.scoring import place

TINY = train.Size((2, 12, 34, 50), 1 / 16, 1, True)


def test_the_literal_port_gives_the_logits_of_covid3d():
    torch.manual_seed(0)
    ours, x = place(Covid3D(1 / 16), "cpu"), torch.randn(2, 1, 12, 34, 50)
    port = train.literal(ours)
    assert not any(isinstance(module, (train.ConvUnit, train.MaxPool)) for module in port.modules())
    for net in (ours, port):
        net.train()(x)  # calibrates BatchNorm, so that no bias hides an error
    torch.testing.assert_close(port.eval()(x), ours.eval()(x), rtol=1e-4, atol=1e-5)


def test_peers_that_are_not_installed_are_named_so(monkeypatch):
    monkeypatch.setattr(train, "installed", lambda package: False)
    table = train.measure("tiny", TINY, repeats=1).set_index("contender")
    assert set(table.index) == {"covid3d", "literal port", *train.PEERS}
    assert (table.loc[list(train.PEERS), "version"] == "not installed").all()
    assert table.loc[list(train.PEERS), "train_s"].isna().all()
    own = table.loc["covid3d"]
    assert own["train_times_ours"] == 1 and own["train_gflop"] == table.at["literal port", "train_gflop"]
    assert 0 < own["forward_gflop"] < own["train_gflop"] < 3.1 * own["forward_gflop"]
    assert np.isclose(
        own["forward_share_of_gemm"], own["forward_gflop"] / own["forward_s"] / own["gemm_gflops"], rtol=0.1
    )


@pytest.mark.verify
def test_training_is_near_the_machines_limit_and_ahead_of_a_literal_port():
    print("\ncampaign: training speed beside peers; 5 min, the machine must do nothing else", flush=True)
    table = train.campaign().set_index(["size", "contender"])
    port, own = table.loc[("clinical", "literal port")], table.loc[("clinical", "covid3d")]
    assert port["train_times_ours"] >= 1.3 and port["forward_times_ours"] >= 1.5
    assert own["train_share_of_gemm"] >= 0.85


@pytest.mark.verify
def test_the_standard_network_is_near_the_limit_or_its_convolutions_are_a_small_part():
    share = train.campaign().set_index(["size", "contender"]).at[("standard", "covid3d"), "train_share_of_gemm"]
    parts = train.parts_campaign().set_index(["size", "part"]).loc["standard"]
    assert parts.drop("augmentation, before the step")["share_of_step"].sum() == pytest.approx(1, abs=0.01)
    assert share >= 0.65 or parts.at["convolution", "share_of_step"] < 0.75, parts.to_string()
