"""A small convolutional network for 64-pixel crops, as a timm model: no weights to download, a minute to train.

Batch normalisation, though it ties a batch's frames together: with group normalisation the same network needs
several times the steps on a small data set, because what all faces share drowns what sets fakes apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: How much the image minus its local mean is amplified: it is small where an image is smooth.
SHARPEN = 4.0


def register() -> None:
    """Make ``timm.create_model("tiny")`` known; calling it again changes nothing."""
    import timm

    if not timm.is_model("tiny"):
        register_model: Callable[[Callable[..., nn.Module]], object] = timm.models.register_model
        register_model(tiny)


def tiny(pretrained: bool = False, **kwargs: object) -> nn.Module:
    """The network, built by name through timm; 0.12 M parameters.

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

    Beside the colours it reads what a 3x3 mean takes away, where blending and compression leave their marks.
    The maximum keeps what the mean dilutes: a patch of a few pixels that changes from frame to frame. Maps hold both
    over 2x2 places, so that heads which read maps have a quarter of the places to go through.

    Args:
        drop_rate: Dropout on the pooled features.
    """

    #: The parts of timm's pretrained configuration that are read from every backbone.
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (3, 64, 64)}  # noqa: RUF012

    def __init__(self, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stem = _conv(6, 16, stride=2)
        self.stages = nn.Sequential(_conv(16, 32, stride=2), _Residual(32), _conv(32, 64, stride=2), _Residual(64))
        self.num_features = self.head_hidden_size = 128
        self.drop = nn.Dropout(drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to maps [N, 128, H/16, W/16]."""
        detail = SHARPEN * (x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))
        fine = self.stages(self.stem(torch.cat([x, detail], dim=1)))  # [N, 64, H/8, W/8]
        # Rounded up: the last row and column of an odd side count like the others.
        means, peaks = F.avg_pool2d(fine, 2, ceil_mode=True), F.max_pool2d(fine, 2, ceil_mode=True)
        return torch.cat([means, peaks], dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps [N, 128, h, w] to vectors [N, 128]; there is no classifier, whatever ``pre_logits`` says."""
        means, peaks = x.chunk(2, dim=1)
        pooled = torch.cat([means.mean(dim=(2, 3)), peaks.amax(dim=(2, 3))], dim=1)
        dropped: Tensor = self.drop(pooled)
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to vectors [N, 128]."""
        return self.forward_head(self.forward_features(x))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        # The last norm's weight is 0 at first, so that each block begins as the identity (Goyal et al. 2017).
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))), inplace=True)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
