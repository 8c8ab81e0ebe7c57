"""What decoded media looks like, whatever it was decoded from. Knows no file format and no decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class MediaError(Exception):
    """A file gives no frames, or none that can be used; the sample is listed with the reason and skipped.

    Args:
        reason: One word of a small vocabulary: ``missing``, ``empty``, ``undecodable``, ``no_video``,
            ``not_an_image``, ``too_short``, ``no_face``.
        detail: What exactly was seen, for the listing.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class MediaInfo:
    """What a file says of itself.

    Attributes:
        width: Pixels, after the rotation is applied; ``height`` likewise.
        frames: Frames that can be had; 1 for an image.
        fps: Average frames a second; 0 for an image.
        duration: Seconds; 0 for an image.
        codec: The decoder's name, such as ``h264`` or ``jpeg``.
        bitrate: Bits a second; 0 for an image.
        pixel_format: As the decoder names it, such as ``yuv420p``.
        rotation: Degrees anticlockwise that the file asks its frames to be turned by.
        quality: The quality a JPEG was written with, 1 to 100, estimated; 0 where there is none.
    """

    width: int
    height: int
    frames: int
    fps: float
    duration: float
    codec: str
    bitrate: int
    pixel_format: str
    rotation: int
    quality: int = 0


@dataclass
class Frames:
    """Decoded frames with where in the file they stand.

    Attributes:
        images: uint8 [N, H, W, 3], RGB, upright.
        indices: int64 [N]; each frame's place in order of presentation.
        pts: float64 [N]; its time, in seconds.
        info: What the file says of itself.
    """

    images: Pixels
    indices: NDArray[np.int64]
    pts: NDArray[np.float64]
    info: MediaInfo
