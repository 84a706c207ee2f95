"""Every registered model, the two-scan network, the 2D baseline and the tabular baselines."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from covid3d.kinetics import convert as kinetics
from covid3d.network.covid3d import Covid3D, PairedCovid3D
from covid3d.network.i3d import InceptionI3d
from covid3d.network.registry import MODELS, build
from covid3d.network.slices import SliceResNet, spaced_slices
from covid3d.network.tabular import BASELINES, fit_predict, logistic
from covid3d.run.errors import ConfigError, WeightsError
from covid3d.run.profile import load_profile

VARIABLES = "tests/data/kinetics600_variables.csv"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_gives_one_finite_logit_a_patient_and_can_learn(name):
    profile = load_profile("smoke")
    model = build(name, profile)
    x = torch.randn(2, 2 if name == "pair" else 1, *profile.model.grid)
    logits = model(x)
    assert logits.shape == (2,) and torch.isfinite(logits).all()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_wrong_number_of_scans_is_refused(name):
    model = build(name, load_profile("smoke"))
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(1, 3, 8, 32, 32))


def test_starting_weights_depend_on_the_seed_alone():
    profile = load_profile("smoke")
    torch.manual_seed(5)
    one = build("covid3d", profile, seed=3).state_dict()
    after = torch.rand(1)
    torch.manual_seed(6)
    two = build("covid3d", profile, seed=3).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], build("covid3d", profile, seed=4).state_dict()["head.weight"])
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))  # the caller's random state is left alone


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="covid3d"):
        build("covid3", load_profile("smoke"))


def test_logit_is_linear_in_the_pooled_features():
    model = Covid3D(1 / 16).eval()
    x = torch.randn(2, 1, 8, 32, 32)
    with torch.no_grad():
        pooled = model.extractor(x).mean((2, 3, 4))
        torch.testing.assert_close(model.features(x), pooled)
        torch.testing.assert_close(model(x), pooled @ model.head.weight[0] + model.head.bias)


def test_dropout_is_off_by_default_and_zeroes_pooled_features_in_training_when_asked_for():
    trunk = InceptionI3d(width=1 / 16)
    x = torch.randn(2, 1, 8, 32, 32)
    for model in (Covid3D(1 / 16), PairedCovid3D(trunk)):
        assert model.dropout.p == 0 and torch.equal(model.train().dropout(x), x)
    dropped, kept = Covid3D(1 / 16, dropout=1.0), Covid3D(1 / 16)
    assert torch.equal(dropped.train()(x), dropped.head.bias.expand(2))
    kept.load_state_dict(dropped.state_dict())  # it adds no tensor, so weights fit either way
    with torch.no_grad():
        assert torch.equal(dropped.eval()(x), kept.eval()(x))


def test_both_scans_of_a_pair_pass_the_same_extractor_in_their_order():
    model = PairedCovid3D(InceptionI3d(width=1 / 16)).eval()
    prior, index = torch.randn(2, 2, 1, 8, 32, 32).unbind()
    with torch.no_grad():
        both = model.features(torch.cat([prior, index], 1))
        alone = torch.cat([model.pool(model.extractor(scan)) for scan in (prior, index)], 1)
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


def test_scan_logit_is_the_mean_of_the_slice_logits():
    model = SliceResNet("resnet10t", None, size=32, slices_per_scan=3).eval()
    x = torch.randn(2, 1, 9, 32, 32)
    with torch.no_grad():
        each = torch.stack([model.head(model.net(x[:, :, z]))[:, 0] for z in (1, 4, 7)])
        torch.testing.assert_close(model(x), each.mean(0), rtol=1e-4, atol=1e-5)


def test_slices_are_spread_evenly_and_never_repeated():
    assert spaced_slices(24, 8) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert spaced_slices(4, 8) == [0, 1, 2, 3]


def test_imagenet_weights_come_from_a_local_file_with_the_first_kernel_summed(tmp_path):
    import timm

    torch.manual_seed(0)
    rgb = timm.create_model("resnet10t", pretrained=False, in_chans=3).eval()
    path = tmp_path / "resnet10t.safetensors"
    save_file(rgb.state_dict(), path)
    model = SliceResNet("resnet10t", path, size=32, slices_per_scan=1).eval()
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        ours, theirs = model.net.forward_features(x), rgb.forward_features(x.expand(2, 3, 32, 32))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match="resnet18"):
        SliceResNet("resnet18", path, size=32, slices_per_scan=1)
    with pytest.raises(WeightsError, match="not there"):
        SliceResNet("resnet10t", tmp_path / "absent.safetensors", size=32, slices_per_scan=1)


def test_all_228_trunk_tensors_of_the_kinetics_checkpoint_map_one_to_one(request):
    table = pd.read_csv(request.config.rootpath / VARIABLES)
    table = table[~table["name"].str.endswith("/Momentum")]
    ours = {
        name: tuple(tensor.shape)
        for name, tensor in InceptionI3d(in_channels=3).state_dict().items()
        if not name.endswith(("bn.weight", "num_batches_tracked"))
    }
    found = {}
    for row in table.itertuples():
        name = kinetics.our_name(row.name)
        if name is not None:
            assert name not in found
            found[name] = kinetics.our_shape(row.name, tuple(int(size) for size in str(row.shape).split("x")))
    assert len(table) == 230 and len(found) == 228
    assert found == ours


def test_tabular_baselines_survive_blanks_and_order_the_classes():
    rng = np.random.default_rng(0)
    labels = pd.Series(np.arange(60) % 2)
    age = pd.array(np.round(50 + 20 * labels + rng.normal(0, 5, 60)), dtype="Float64")
    table = pd.DataFrame({"age": age, "sex": rng.choice(["F", "M", "U"], 60), "extra": "x"})
    table.loc[3, "age"] = pd.NA
    probability = fit_predict(logistic(*BASELINES["age_sex"]), table.head(40), labels.head(40), table.tail(20))
    assert probability[labels.tail(20) == 1].min() > probability[labels.tail(20) == 0].max()
    assert list(probability.index) == list(range(40, 60))


def test_logistic_reads_its_named_columns_only():
    table = pd.DataFrame({"a": [0.0, 1, 0, 1, 0, 1], "leak": [1.0, 0, 0, 1, 0, 1]})
    labels = pd.Series([0, 1, 0, 1, 0, 1])
    model = logistic(("a",))
    one = fit_predict(model, table, labels, table)
    two = fit_predict(model, table, labels, table.assign(leak=0.0))
    assert one.tolist() == two.tolist()
