"""LSTM and GRU layers of several trials: the states and gradients of torch's, trial by trial."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deepfake.training.features.recurrence import gru, lstm


@pytest.mark.parametrize("frames", [1, 2, 6])
@pytest.mark.parametrize(("cell", "layers"), [(nn.LSTM, lstm), (nn.GRU, gru)], ids=["lstm", "gru"])
def test_states_and_gradients_are_torchs(
    cell: type[nn.LSTM] | type[nn.GRU], layers: Callable[..., Tensor], frames: int
) -> None:
    torch.manual_seed(0)
    trials, clips, width, hidden = 3, 4, 5, 7
    singles = [cell(width, hidden, batch_first=True).double() for _ in range(trials)]
    names = [name for name, _ in singles[0].named_parameters()]
    stacked = [torch.stack([dict(one.named_parameters())[name].detach() for one in singles]) for name in names]
    x, told = torch.randn(2, trials, clips, frames, width).double(), torch.randn(trials, clips, frames, hidden).double()
    inputs = [x[0].requires_grad_(), *(weights.requires_grad_() for weights in stacked)]
    states = layers(*inputs)
    found = torch.autograd.grad((states * told).sum(), inputs)
    for k, one in enumerate(singles):
        alone = x[0][k].detach().requires_grad_()
        output = one(alone)[0]
        torch.testing.assert_close(states[k], output)
        wanted = torch.autograd.grad((output * told[k]).sum(), [alone, *one.parameters()])
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine[k], theirs)
