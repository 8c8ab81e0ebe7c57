"""What every head is: features of a clip's frames and a mask to logits. Knows no backbone."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


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


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over time [B, T, ...] -> [B, ...] of what the mask [B, T] keeps; 0 where it keeps nothing."""
    keep = mask.reshape(*mask.shape, *([1] * (x.ndim - 2)))
    # Not a product with the mask: 0 x inf would let a padded frame through as NaN.
    kept = x.masked_fill(~keep, 0.0)
    return kept.sum(1) / keep.sum(1).clamp(min=1)
