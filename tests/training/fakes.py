"""Clips made in memory: fakes have a bright patch, which may sit still or flicker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric

from deepfake.data.clips import Batch, ClipSource
from deepfake.models.backbone import Backbone
from deepfake.models.detector import Detector, create_detector
from deepfake.models.heads import create_head
from deepfake.models.options import BackboneOptions, HeadOptions, Mean
from deepfake.training.options import TrainerOptions
from deepfake.training.runtime import create_fabric


class FakeClips(ClipSource):
    """``samples`` samples of two clips each; every third sample of ``failed`` has none."""

    def __init__(
        self,
        samples: int = 12,
        *,
        frames: int = 2,
        size: int = 16,
        seed: int = 0,
        failed: int = 0,
        only: int | None = None,
        name: str = "fake",
        drawn: bool = True,
    ) -> None:
        self.drawn = drawn
        generator = np.random.default_rng(seed)
        labels = generator.permutation(np.arange(samples) % 2) if only is None else np.full(samples, only)
        self.table = pd.DataFrame(
            {
                "sample_id": [f"{name}/{i:03d}" for i in range(samples)],
                "label": labels,
                "method": np.where(labels == 1, "Patch", "real"),
                "dataset": "fakes",
                "groups": [(f"{name}/{i // 2}",) for i in range(samples)],
                "status": ["no_face" if i < failed else "ok" for i in range(samples)],
            }
        )
        self.items = np.array([(row, clip) for row in range(failed, samples) for clip in range(2)], np.int64).reshape(
            -1, 2
        )
        self.labels = labels[self.items[:, 0]].astype(np.float32)
        shape = (len(self.items), frames, size, size, 3)
        self.pixels = generator.integers(0, 32, shape, dtype=np.uint8)
        for item in np.flatnonzero(self.labels):
            self.pixels[item, :, 4:9, 4:9] += 180
        self.mask = np.ones((len(self.items), frames), bool)
        self.mask[::5, -1] = frames == 1
        self.lengths = self.mask.sum(1)

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        chosen = np.asarray(items, dtype=np.int64)
        draws = torch.tensor([[np.random.default_rng([epoch, i]).integers(2), 1.0, 1.0, 1.0] for i in items])
        return Batch(
            clips=torch.from_numpy(self.pixels[chosen]).permute(0, 1, 4, 2, 3),
            mask=torch.from_numpy(self.mask[chosen]),
            labels=torch.from_numpy(self.labels[chosen]),
            samples=torch.from_numpy(self.items[chosen, 0]),
            draws=draws.float() if self.drawn else None,
        )


def cpu(**changes: object) -> Fabric:
    return create_fabric(TrainerOptions(accelerator="cpu", **changes))  # type: ignore[arg-type]


class Pooled(torch.nn.Module):
    """The smallest thing that looks like a timm model: a convolution and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 6
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.conv = torch.nn.Conv2d(3, 6, 5, stride=2)
        self.fail = False

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x.mean(dim=(2, 3))


def small_detector(head: HeadOptions | None = None) -> Detector:
    torch.manual_seed(0)
    options = head or Mean(dropout=0.2)
    return Detector(Backbone(Pooled()), create_head(options, 6), "vectors")


def tiny_detector(head: HeadOptions, size: int = 64, *, freeze: bool = False) -> Detector:
    torch.manual_seed(0)
    return create_detector(BackboneOptions(name="tiny", pretrained=False, freeze=freeze), head, size)
