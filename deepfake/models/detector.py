"""A backbone and a head as one module: clips to logits. Knows no files, no labels, no optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.errors import UserError
from deepfake.models.backbone import Backbone, Keep, create_backbone
from deepfake.models.heads import Head, Output, create_head
from deepfake.models.options import BackboneOptions, HeadOptions
from deepfake.models.tuning import ADDED, layers_of


class Detector(nn.Module):
    """``backbone(frames) -> features``, ``head(features, mask) -> logit``.

    Args:
        backbone: Reads frames.
        head: Reads features over time.
        reads: ``vectors`` or ``maps``: which features the head reads.
        freeze: Keep the backbone as it is: no gradients, and its batch statistics stay fixed.
        chunk: Frames the backbone reads at once, to save memory; None reads all.
        size: The side that frames are brought to before they are read; None leaves them.

    Attributes:
        based: Whether the backbone's weights can be had again where they came from, so that what training leaves of
            them need not be saved.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        reads: str,
        *,
        freeze: bool = False,
        chunk: int | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.reads = reads
        self.freeze = freeze
        self.chunk = chunk
        self.size = size
        self.based = False
        std = torch.tensor(backbone.std).view(1, -1, 1, 1)
        mean = torch.tensor(backbone.mean).view(1, -1, 1, 1)
        # Not saved with the weights: they belong to the backbone, which brings them along.
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        if freeze:
            backbone.requires_grad_(False)
            backbone.eval()

    def train(self, mode: bool = True) -> Detector:
        """As for any module, but a frozen backbone stays in evaluation mode."""
        self.training = mode
        self.head.train(mode)
        if not self.freeze:
            self.backbone.train(mode)
        return self

    def of_pixels(self, *, freeze: bool) -> Detector:
        """A detector of the same modules that reads pixels, whatever this one reads."""
        return Detector(self.backbone, self.head, self.reads, freeze=freeze, chunk=self.chunk, size=self.size)

    @property
    def fixed(self) -> frozenset[str]:
        """The names in its state that training leaves as they came with the backbone."""
        held = self.backbone.state_dict() if self.freeze else self.backbone.fixed
        return frozenset(f"backbone.{name}" for name in held)

    @property
    def added(self) -> frozenset[str]:
        """The names in its state that no detector has whose backbone is trained otherwise."""
        return frozenset(name for name in self.state_dict() if name.endswith(ADDED))

    def extract(self, clips: Tensor) -> Tensor:
        """Frames to features, normalised as the backbone's weights expect.

        Args:
            clips: uint8 [B, T, C, H, W] in 0..255, or floating point in 0..1.

        Returns:
            [B, T, D] or [B, T, D, h, w].
        """
        frames = clips.flatten(0, 1)
        chunks = [frames] if self.chunk is None else torch.split(frames, self.chunk)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            features = [self._read(chunk) for chunk in chunks]
        joined = features[0] if len(features) == 1 else torch.cat(features)
        return joined.reshape(*clips.shape[:2], *joined.shape[1:])

    def classify(self, features: Tensor, mask: Tensor) -> Output:
        """Features (see :meth:`extract`) and mask bool [B, T] to logits."""
        output: Output = self.head(features, mask)
        return output

    def forward(self, clips: Tensor, mask: Tensor) -> Output:
        """Clips [B, T, C, H, W] and mask bool [B, T] to logits."""
        return self.classify(self.extract(clips), mask)

    def normalised(self, frames: Tensor) -> Tensor:
        """Frames [N, C, H, W], as :meth:`extract` takes them, as the backbone reads them."""
        scale = self.scale / 255 if frames.dtype == torch.uint8 else self.scale
        frames = resized(frames, self.size)
        return torch.addcmul(self.shift, frames.to(self.scale.dtype), scale)

    def _read(self, frames: Tensor) -> Tensor:
        x = self.normalised(frames)
        return self.backbone.maps(x) if self.reads == "maps" else self.backbone.vectors(x)


def resized(frames: Tensor, side: int | None) -> Tensor:
    """Frames [N, C, H, W] at another side, averaged where it is smaller; bytes stay bytes, None leaves all as it is."""
    if side is None or frames.shape[-2:] == (side, side):
        return frames
    # Of bytes a CPU makes it in a tenth of the time; other devices know it of floating point only.
    exact = frames.dtype == torch.uint8 and frames.device.type != "cpu"
    made = F.interpolate(frames.float() if exact else frames, (side, side), mode="bilinear", antialias=True)
    return made.round_().clamp_(0, 255).to(torch.uint8) if exact else made


def create_detector(backbone: BackboneOptions, head: HeadOptions, size: int, keep: Keep | None = None) -> Detector:
    """Build a detector for square crops.

    Args:
        backbone: Which timm model, which weights, which part of it is trained.
        head: Which head; its class decides.
        size: Side of the crops in pixels.
        keep: See :func:`deepfake.models.backbone.create_backbone`.

    Raises:
        UserError: Either cannot be built as asked.
    """
    if backbone.freeze and backbone.tune != "all":
        raise UserError(
            f"backbone.freeze=true trains nothing of the backbone, and backbone.tune={backbone.tune} a part of it",
            "leave one of the two out",
        )
    size = backbone.size or size
    built = create_backbone(backbone, size, keep)
    if backbone.layer_decay is not None:
        # A mistake is told before there is a run.
        layers_of(built.model, f"backbone.layer_decay={backbone.layer_decay}", coarse=False)
    reader = create_head(head, built.width(head.reads))
    detector = Detector(built, reader, head.reads, freeze=backbone.freeze, chunk=backbone.chunk, size=backbone.size)
    detector.based = bool(detector.fixed) and (backbone.pretrained or backbone.weights is not None)
    if head.reads == "maps" and not backbone.freeze:
        _drop_unread(detector, size)
    return detector


def _drop_unread(detector: Detector, size: int) -> None:
    """Stop training what a maps reader never reaches, such as layers behind the pooling.

    Data-parallel training waits for every parameter's gradient, so one that never comes would hang it.
    """
    backbone = detector.backbone
    was_training = backbone.training
    backbone.eval()
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    maps = backbone.maps(torch.zeros(1, 3, size, size))
    gradients = torch.autograd.grad(maps.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
    backbone.train(was_training)
