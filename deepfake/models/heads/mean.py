"""The frame-level baseline: every frame judged alone, the clip by their mean."""

from __future__ import annotations

from torch import Tensor, nn

from deepfake.models.heads.base import Classifier, Head, Output, masked_mean
from deepfake.models.options import Mean


class MeanHead(Head):
    """A linear classifier on frame vectors.

    Args:
        options: Dropout before the classifier.
        features: Width D of the vectors.
    """

    def __init__(self, options: Mean, features: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = Classifier(features)

    def forward(self, features: Tensor, mask: Tensor) -> Output:
        """Vectors [B, T, D] and mask [B, T] to logits."""
        frame_logits = self.classifier(self.dropout(features))  # [B, T]
        return Output(masked_mean(frame_logits, mask), frame_logits)
