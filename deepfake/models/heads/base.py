"""What every head is: features of a clip's frames and a mask to logits. Knows no backbone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Output(NamedTuple):
    """What a detector says of a batch of clips.

    Attributes:
        logits: [B]; above 0 means fake.
        frame_logits: [B, T], meaningless where the mask is False; None for heads that see only whole clips.
    """

    logits: Tensor
    frame_logits: Tensor | None


class Head(nn.Module):
    """Base of all heads; ``forward(features, mask) -> Output``.

    ``features`` is [B, T, D] or [B, T, D, h, w] as its options' ``reads`` says; ``mask`` is bool [B, T], False
    where a clip was padded. What lies under a False never changes a logit.
    """

    def forward(self, features: Tensor, mask: Tensor) -> Output:
        raise NotImplementedError


class Classifier(nn.Linear):
    """Vectors [..., D] to logits [...], in float32 even where the rest is not.

    Logits of 8 bits would come in a few hundred values only, and tie samples that differ.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias).squeeze(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over time [B, T, ...] -> [B, ...] of what the mask [B, T] marks; 0 where it marks nothing."""
    unmasked = mask.reshape(*mask.shape, *([1] * (x.ndim - 2)))
    # Not a product with the mask: 0 x inf would let a padded frame through as NaN.
    seen = x.masked_fill(~unmasked, 0.0)
    return seen.sum(1) / unmasked.sum(1).clamp(min=1)


def beside_changes(x: Tensor, mask: Tensor) -> Tensor:
    """Frames [B, T, D, ...] with their change from the real frame before beside them: [B, T, 2 D, ...].

    What comes and goes lies in the change, and a network that must find the difference by itself needs many more
    steps. The first real frame has changed by nothing.
    """
    time = torch.arange(x.shape[1], device=x.device)
    earlier = mask[:, None, :] & (time[None, :] < time[:, None])  # [B, T, T]
    before = torch.where(earlier, time, -1).amax(2)
    before = torch.where(before < 0, time, before)
    index = before.reshape(*before.shape, *([1] * (x.ndim - 2))).expand_as(x)
    return torch.cat([x, x - x.gather(1, index)], dim=2)


def let_in_weights_without_changes(layer: nn.Linear | nn.Conv2d, features: int) -> None:
    """Let a layer that reads 2 D features load weights of one that read D: to those the changes count nothing.

    Args:
        layer: Reads what :func:`beside_changes` gives.
        features: D.
    """

    def widen(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        weight = state.get(f"{prefix}weight")
        if weight is not None and weight.shape[1] == features:
            state[f"{prefix}weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)

    layer.register_load_state_dict_pre_hook(widen)  # type: ignore[no-untyped-call]
