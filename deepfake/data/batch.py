"""What the loader hands the training loop. Knows only tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """Clips of one step, still uint8: they are normalised, flipped and coloured on the device.

    Attributes:
        clips: uint8 [B, T, C, H, W], RGB. A view of [B, T, H, W, C] memory, so it is channels-last already. Stored
            features [B, T, D] or [B, T, D, h, w] where a detector reads those instead.
        mask: bool [B, T]; False where a short sample was padded (by repeating its last frame).
        labels: float32 [B]; 1 is fake.
        samples: int64 [B]; the row of each clip's sample in its clip set's table.
        draws: float32 [B, 4] for training with device augmentation, else None: flip (0 or 1), and the
            factors for brightness, contrast and saturation (1 leaves the picture as it is).
    """

    clips: Tensor
    mask: Tensor
    labels: Tensor
    samples: Tensor
    draws: Tensor | None = None

    def to(self, device: object, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)  # type: ignore[call-overload]

        draws = None if self.draws is None else move(self.draws)
        return Batch(move(self.clips), move(self.mask), move(self.labels), move(self.samples), draws)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; torch's DataLoader calls this."""

        def pin(tensor: Tensor) -> Tensor:
            # What is on a device already has no way to go.
            return tensor.pin_memory() if tensor.device.type == "cpu" else tensor

        draws = None if self.draws is None else pin(self.draws)
        return Batch(pin(self.clips), pin(self.mask), pin(self.labels), pin(self.samples), draws)
