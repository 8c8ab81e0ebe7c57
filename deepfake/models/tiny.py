"""A small convolutional network for 64-pixel crops, as a timm model: no weights to download, a minute to train.

Group normalisation instead of batch normalisation: a sample's features never depend on its neighbours, so
gradient accumulation and data-parallel training give the same numbers as one large batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8


def register() -> None:
    """Make ``timm.create_model("tiny")`` known; calling it again changes nothing."""
    import timm

    if not timm.is_model("tiny"):
        register_model: Callable[[Callable[..., nn.Module]], object] = timm.models.register_model
        register_model(tiny)


def tiny(pretrained: bool = False, **kwargs: object) -> nn.Module:
    """The network, built by name through timm; 0.2 M parameters.

    Args:
        pretrained: Must be False; there are no weights to be had.
        **kwargs: What timm passes on: ``drop_rate`` is used, the rest (cache folders and the like) is not.

    Raises:
        RuntimeError: ``pretrained`` is True, as timm raises for its own models without weights.
    """
    if pretrained:
        raise RuntimeError("No pretrained weights exist for tiny")
    drop_rate = kwargs.get("drop_rate", 0.0)
    return TinyNet(drop_rate=float(drop_rate) if isinstance(drop_rate, (int, float)) else 0.0)


class TinyNet(nn.Module):
    """Three halvings and two residual blocks; features are the mean and the maximum over place.

    The maximum keeps what the mean dilutes: a patch of a few pixels that changes from frame to frame.

    Args:
        drop_rate: Dropout on the pooled features.
    """

    #: The parts of timm's pretrained configuration that are read from every backbone.
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (3, 64, 64)}  # noqa: RUF012

    def __init__(self, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stem = _conv(3, 16, stride=2)
        self.stages = nn.Sequential(_conv(16, 32, stride=2), _Residual(32), _conv(32, 96, stride=2), _Residual(96))
        self.num_features = 96
        self.head_hidden_size = 192
        self.drop = nn.Dropout(drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to maps [N, 96, H/8, W/8]."""
        maps: Tensor = self.stages(self.stem(x))
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps [N, 96, h, w] to vectors [N, 192]; there is no classifier, whatever ``pre_logits`` says."""
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        dropped: Tensor = self.drop(pooled)
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to vectors [N, 192]."""
        return self.forward_head(self.forward_features(x))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))), inplace=True)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
    )
