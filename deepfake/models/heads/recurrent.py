"""LSTM and GRU heads over frame vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepfake.models.heads.base import Classifier, Head, Output, masked_mean
from deepfake.models.options import Gru, Lstm


class RecurrentHead(Head):
    """A (bidirectional) recurrent network over frame vectors and their changes, its outputs averaged over time.

    The change from the frame before is given beside each frame: a flicker lies in it, and a network that must
    find the difference by itself needs many more steps.

    Padded frames are moved behind the others and the backward direction starts at the last real frame, all by
    indices computed on the device: packed sequences would need the lengths on the host at every step.

    Args:
        options: Hidden size, layers, directions, dropout.
        features: Width D of the vectors.
        cell: ``torch.nn.LSTM`` or ``torch.nn.GRU``.
    """

    def __init__(self, options: Lstm | Gru, features: int, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        directions = 2 if options.bidirectional else 1
        self.norm = nn.LayerNorm(features)
        widths = [2 * features] + [options.hidden * directions] * (options.layers - 1)
        self.forwards = nn.ModuleList(cell(width, options.hidden, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(
            cell(width, options.hidden, batch_first=True) for width in widths if options.bidirectional
        )
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = Classifier(options.hidden * directions)

    def forward(self, features: Tensor, mask: Tensor) -> Output:
        """Vectors [B, T, D] and mask [B, T] to logits."""
        order, back = _orders(mask)
        x = _take(self.norm(features), order)
        x = torch.cat([x, torch.diff(x, dim=1, prepend=x[:, :1])], dim=-1)
        for i, layer in enumerate(self.forwards):
            x = x if i == 0 else self.dropout(x)
            outputs = [layer(x)[0]]
            if len(self.backwards):
                outputs.append(_take(self.backwards[i](_take(x, back))[0], back))
            x = torch.cat(outputs, dim=-1)
        in_order = self.classifier(self.dropout(x))  # [B, T], real frames first
        frame_logits = torch.empty_like(in_order).scatter(1, order, in_order)
        return Output(masked_mean(frame_logits, mask), frame_logits)


def _orders(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [B, T] that put real frames first, and those that then reverse the real ones (its own inverse)."""
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    length = mask.sum(1, keepdim=True)
    time = torch.arange(mask.shape[1], device=mask.device).expand_as(order)
    back = torch.where(time < length, length - 1 - time, time)
    return order, back


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class LstmHead(RecurrentHead):
    """A recurrent head of LSTM cells (Hochreiter & Schmidhuber 1997)."""

    def __init__(self, options: Lstm, features: int) -> None:
        super().__init__(options, features, nn.LSTM)


class GruHead(RecurrentHead):
    """A recurrent head of GRU cells (Cho et al. 2014, arXiv:1406.1078)."""

    def __init__(self, options: Gru, features: int) -> None:
        super().__init__(options, features, nn.GRU)
