"""A transformer head over the patches of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.errors import UserError
from deepfake.models.heads.base import (
    Classifier,
    Head,
    Output,
    beside_changes,
    let_in_weights_without_changes,
    masked_mean,
)
from deepfake.models.options import Vit


class VitHead(Head):
    """A transformer encoder over all patches of all frames of a clip.

    Each patch gets its time as sinusoids (Vaswani et al. 2017, arXiv:1706.03762), which reach any T, and its
    row and column by learned vectors, of which there are ``max_grid`` each.

    Args:
        options: Width, depth, heads, MLP ratio, largest grid, dropout.
        features: Width D of the maps.

    Raises:
        UserError: ``width`` is odd or no multiple of ``heads``.
    """

    def __init__(self, options: Vit, features: int) -> None:
        super().__init__()
        width = options.width
        if width % options.heads or width % 2:
            closest = max(2, round(width / (2 * options.heads))) * 2 * options.heads
            raise UserError(
                f"head.width={width} is not an even multiple of head.heads={options.heads}", f"try head.width={closest}"
            )
        self.max_grid = options.max_grid
        self.changes = options.changes
        self.project = nn.Linear(2 * features if options.changes else features, width)
        if options.changes:
            let_in_weights_without_changes(self.project, features)
        self.norm_in = nn.LayerNorm(features)
        self.rows = nn.Parameter(torch.randn(options.max_grid, width) * 0.02)
        self.columns = nn.Parameter(torch.randn(options.max_grid, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            options.heads,
            dim_feedforward=round(width * options.mlp_ratio),
            dropout=options.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, options.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = Classifier(width)

    def no_weight_decay(self) -> set[str]:
        """Parameters that say where, not what: decay would only blur them."""
        return {"rows", "columns"}

    def forward(self, features: Tensor, mask: Tensor) -> Output:
        """Maps [B, T, D, h, w] and mask [B, T] to logits."""
        # Not left to the attention's mask: it gives a padded frame the weight 0, and 0 x NaN is NaN.
        patches = self._patches(features.masked_fill(~mask[..., None, None, None], 0.0), mask)  # [B, T, h, w, W]
        _, frames, height, width, _ = patches.shape
        # A clip with no real frame would have nothing to attend to and end as NaN.
        seen = mask | ~mask.any(1, keepdim=True)
        padded = ~seen.repeat_interleave(height * width, dim=1)
        tokens = self.encoder(patches.flatten(1, 3), src_key_padding_mask=padded)
        per_frame = self.norm(tokens).unflatten(1, (frames, height * width)).mean(2)  # [B, T, W]
        frame_logits = self.classifier(self.dropout(per_frame))
        return Output(masked_mean(frame_logits, mask), frame_logits)

    def _patches(self, features: Tensor, mask: Tensor) -> Tensor:
        maps = features.flatten(0, 1)
        grid = (min(maps.shape[-2], self.max_grid), min(maps.shape[-1], self.max_grid))
        if grid != tuple(maps.shape[-2:]):
            maps = F.adaptive_avg_pool2d(maps, grid)
        x = self.norm_in(maps.reshape(*features.shape[:3], *grid).permute(0, 1, 3, 4, 2))
        if self.changes:
            x = beside_changes(x.movedim(4, 2), mask).movedim(2, 4)
        place = self.place(*grid, features.shape[0])
        time = _sinusoids(features.shape[1], place.shape[-1], place.device)[:, None, None]  # [T, 1, 1, W]
        patches: Tensor = self.project(x) + place + time
        return patches

    def place(self, height: int, width: int, clips: int) -> Tensor:
        """What is learned of each row and column of a grid, for so many clips: [h, w, W], or [clips, 1, h, w, W]."""
        return self.rows[:height, None] + self.columns[None, :width]


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Positions 0..length-1 as sines and cosines of falling frequency, [length, width]."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
