"""The features of clips by which files are told from those a run was trained on; see :mod:`.domain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deepfake.data.clips import ClipSource
from deepfake.models.detector import Detector
from deepfake.training.domain import Vectors
from deepfake.training.scoring import full_precision
from deepfake.training.views import WHOLE, View

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BATCH = 8


def vectors_of(
    detector: Detector, clips: ClipSource, items: Sequence[int], fabric: Fabric, view: View = WHOLE
) -> Vectors:
    """The features of some clips, each the mean over its frames and places, [n, D].

    Args:
        detector: In evaluation mode.
        clips: What it reads.
        items: Which.
        fabric: Where it works.
        view: As it looks at them first when it scores.
    """
    found = []
    with torch.inference_mode(), full_precision():
        for start in range(0, len(items), _BATCH):
            batch = clips.fetch(list(items[start : start + _BATCH])).to(fabric.device)
            shown = batch.clips if view == WHOLE else view.of(batch.clips, detector.size)
            found.append(pooled_features(detector.extract(shown), batch.mask).cpu())
    return torch.cat(found).double().numpy() if found else np.zeros((0, 0))


def pooled_features(features: Tensor, mask: Tensor) -> Tensor:
    """Features [B, T, D] or [B, T, D, h, w] to vectors [B, D]: over what the mask [B, T] marks."""
    vectors = features.float().mean((3, 4)) if features.ndim == 5 else features.float()
    seen = vectors.masked_fill(~mask[..., None], 0.0)
    return seen.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


@contextmanager
def noting_vectors(detector: Detector, views: int) -> Iterator[list[Tensor]]:
    """Collect what a detector's head reads while it scores, one tensor [B, D] for each batch.

    Args:
        detector: Whose.
        views: How often it looks at each batch; the first look counts.
    """
    found: list[Tensor] = []
    calls = 0

    def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        if calls % views == 0:
            found.append(pooled_features(*arguments[:2]).cpu())
        calls += 1

    handle = detector.head.register_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()
