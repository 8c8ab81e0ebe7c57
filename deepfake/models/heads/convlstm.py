"""A convolutional LSTM head over feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepfake.models.heads.base import (
    Classifier,
    Head,
    Output,
    beside_changes,
    let_in_weights_without_changes,
    masked_mean,
)
from deepfake.models.options import ConvLstm


class ConvLstmHead(Head):
    """Convolutional LSTM layers over time (Shi et al. 2015, arXiv:1506.04214, without peepholes).

    Args:
        options: Hidden channels, layers, kernel size, dropout.
        features: Width D of the maps.
    """

    def __init__(self, options: ConvLstm, features: int) -> None:
        super().__init__()
        widths = [features] + [options.hidden] * (options.layers - 1)
        self.layers = nn.ModuleList(
            ConvLstmLayer(width, options.hidden, options.kernel, changes=options.changes and i == 0)
            for i, width in enumerate(widths)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = Classifier(options.hidden)

    def forward(self, features: Tensor, mask: Tensor) -> Output:
        """Maps [B, T, D, h, w] and mask [B, T] to logits."""
        x = features
        for layer in self.layers:
            x = layer(x, mask)
        per_frame = x.mean(dim=(3, 4))  # [B, T, hidden]
        frame_logits = self.classifier(self.dropout(per_frame))
        return Output(masked_mean(frame_logits, mask), frame_logits)


class ConvLstmLayer(nn.Module):
    """One layer over time; see :class:`ConvLstmHead`."""

    def __init__(self, inputs: int, hidden: int, kernel: int, changes: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.changes = changes
        # "same" keeps the maps' size for even kernels too. Group norm tames maps of any backbone's scale.
        self.norm = nn.GroupNorm(1, inputs)
        self.from_input = nn.Conv2d(2 * inputs if changes else inputs, 4 * hidden, kernel, padding="same")
        self.from_state = nn.Conv2d(hidden, 4 * hidden, kernel, padding="same", bias=False)
        if changes:
            let_in_weights_without_changes(self.from_input, inputs)
        assert self.from_input.bias is not None
        # A forget gate that begins open lets gradients reach early frames (Jozefowicz et al. 2015).
        nn.init.constant_(self.from_input.bias[hidden : 2 * hidden], 1.0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, T, C, h, w] to [B, T, hidden, h, w]; padded frames leave the state as it was."""
        batch, frames = x.shape[:2]
        x = self.norm(x.flatten(0, 1)).unflatten(0, (batch, frames))
        x = beside_changes(x, mask) if self.changes else x
        driven = self.from_input(x.flatten(0, 1)).unflatten(0, (batch, frames))
        state = driven.new_zeros(batch, self.hidden, *x.shape[-2:])
        cell = state
        states = []
        for t in range(frames):
            gates = driven[:, t] + self.from_state(state)
            entry, forget, exit_, candidate = gates.chunk(4, dim=1)
            new_cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
            new_state = exit_.sigmoid() * new_cell.tanh()
            real = mask[:, t, None, None, None]
            cell = torch.where(real, new_cell, cell)
            state = torch.where(real, new_state, state)
            states.append(state)
        return torch.stack(states, dim=1)
