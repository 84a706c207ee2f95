"""DeepSurv (Katzman et al., BMC Med Res Methodol 2018) at its smallest: one hidden layer under Cox's partial likelihood.

The linear one is Cox's model of `covid3d.stats.elastic_net`; days, deaths and scores are treated as there. Width, penalty and
steps were fixed before any result was seen, and one start is drawn by a fixed seed.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covid3d.stats.elastic_net import Scores

Floats = NDArray[np.float64]
HIDDEN, RIDGE, STEPS, LEARNING_RATE, SEED = 8, 0.1, 200, 0.02, 0


def cox_loss(log_hazard: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Return minus the log partial likelihood (Cox 1972; Breslow's ties), the mean over events.

    log_hazard, time, event (1 = event): (N,).
    """
    ends = event == 1
    at_risk = time >= time[ends][:, None]
    total = torch.where(at_risk, log_hazard, -torch.inf).logsumexp(1)
    return (total - log_hazard[ends]).mean()


def fit_predict(
    inputs: Floats, days: Floats, causes: NDArray[np.int_], train: NDArray[np.bool_], limit: float
) -> Scores:
    """Return the scores (N,) of a network of the training rows alone; NaN where fewer than two were discharged.

    inputs (N, K), unit variance in training; causes (N,): 0 censored, 1 discharged alive, 2 died: at risk to the last day.
    """
    event = (causes == 1)[train]
    if event.sum() < 2 or not inputs.shape[1]:
        return Scores(*np.full((2, len(inputs)), np.nan))
    time = np.where(causes == 2, days[train].max(), days)[train]
    hazard = _fit(torch.from_numpy(inputs), train, torch.from_numpy(time), torch.from_numpy(event))
    hazard -= hazard[train].mean()
    ends = time[event & (time < limit)]
    baseline = (1 / ((time >= ends[:, None]) * np.exp(hazard[train])).sum(1)).sum()
    return Scores(np.exp(-baseline * np.exp(hazard)), -hazard)


def _fit(x: Tensor, train: NDArray[np.bool_], time: Tensor, event: Tensor) -> Floats:
    """Return the log hazard (N,) of all rows of x (N, K) after training on some of them."""
    draw = torch.Generator().manual_seed(SEED)
    sizes = (x.shape[1] + 1, HIDDEN), (HIDDEN,)
    first, second = (
        torch.randn(size, generator=draw, dtype=x.dtype).div(size[0] ** 0.5).requires_grad_() for size in sizes
    )
    known, optimizer = x[torch.from_numpy(train)], torch.optim.Adam([first, second], lr=LEARNING_RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        penalty = RIDGE * ((first[1:] ** 2).sum() + (second**2).sum()) / 2
        (cox_loss(_log_hazard(known, first, second), time, event) + penalty).backward()
        optimizer.step()
    return _log_hazard(x, first, second).detach().numpy()


def _log_hazard(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.tanh(x @ first[1:] + first[0]) @ second
