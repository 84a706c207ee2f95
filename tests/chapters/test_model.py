"""Chapter 2: what the built network says of itself, and the scan in front of it."""

import numpy as np
import pytest
from synthetic_run import synthetic_run

from covid3d.chapters import model
from covid3d.run import steps
from covid3d.run.errors import Covid3DError


@pytest.fixture
def chapter(root, monkeypatch):
    monkeypatch.setattr(steps, "ensure_needs", lambda run, name: None)
    return model.load(synthetic_run(root), "B001-0")


def test_the_network_has_the_papers_layers_and_head(chapter):
    assert {name: found.value for name, found in chapter.layers().items()} == {
        "with weights": 22,
        "that pool": 5,
        "on the longest path": 27,
    }
    assert chapter.head() == {"average pools": 1, "fully connected layers": 1, "logits": 1}
    assert 12_000_000 < chapter.size()["parameters at full width"].value < 12_600_000


def test_the_scan_shown_is_the_one_that_was_asked_for(chapter, root):
    assert chapter.scan["scan_id"] == "B001-0" and chapter.grid.shape == chapter.run.profile.model.grid
    assert model.load(chapter.run).scan["hospital"] == "B"
    with pytest.raises(Covid3DError, match=r"no accepted scan 'B01-0'. Did you mean 'B001-0'"):
        model.load(chapter.run, "B01-0")


def test_the_map_of_the_last_block_sums_to_the_logit_minus_the_bias(chapter):
    found = chapter.map_sum()
    assert found["equal"]
    bias = float(chapter.net.head.bias.detach())
    assert found["logit minus bias"] + bias == pytest.approx(chapter.logit(), abs=1e-4)


def test_a_cell_of_the_last_block_sees_the_whole_grid(chapter):
    assert chapter.sees_all()
    table = chapter.stage_table()
    assert table.loc["head", "a cell has seen"] == "all" and table["MFLOP"].sum() > 0


def test_a_sites_patient_is_not_shown(chapter, monkeypatch):
    monkeypatch.setattr(type(chapter.run), "cohort", property(lambda run: "site"))
    assert "not available" in chapter.plot_maps().axes[0].texts[0].get_text()
    assert np.asarray(chapter.grid[chapter._shown]).size < chapter.grid.size
