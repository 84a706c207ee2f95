"""Several processes on one fold: together they take the steps of one process with the whole batch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from covid3d.network.team import Team
from covid3d.network.training import fit
from covid3d.network.weights import read_tensors, write_tensors

MEMBER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_team
test_team.member(sys.argv[2])
"""


def train() -> tuple[nn.Module, np.ndarray]:
    """Train a small network without BatchNorm on 14 scans in batches of 3 and 4, so that shares differ in size."""
    from test_training import PLAN, examples

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, 1))
    model.append(nn.Flatten(0))
    result = fit(model, examples(14, 1), examples(6, 2), PLAN, seed=7)
    return model, result.history[["train_loss", "validation_loss"]].to_numpy()


def member(folder: str) -> None:
    """What a process of the team does; only the first comes to the end."""
    model, history = train()
    rank = os.environ["RANK"]
    write_tensors(f"{folder}/{rank}.safetensors", model.state_dict() | {"history": torch.from_numpy(history)}, {})


def test_two_processes_train_as_one_with_the_whole_batch_and_the_first_alone_writes(tmp_path):
    (tmp_path / "member.py").write_text(MEMBER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, tmp_path / "member.py", os.path.dirname(__file__), tmp_path], check=True, timeout=300)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["0.safetensors"]
    found, _ = read_tensors(tmp_path / "0.safetensors")
    model, history = train()
    np.testing.assert_allclose(found.pop("history"), history, rtol=1e-5)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_a_batch_are_all_of_it_once(size):
    shares = [list(range(7))[Team(rank, size).share(7)] for rank in range(size)]
    assert [one for share in shares for one in share] == list(range(7)) and max(map(len, shares)) - min(
        map(len, shares)
    ) <= 1


def test_a_process_by_itself_is_no_team(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Team.join("cpu") == Team(0, 1)
