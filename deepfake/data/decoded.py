"""Frames as FFmpeg decodes them into upright RGB, one by one or the wanted ones in one array. Knows no files."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any

import numpy as np

from deepfake.data.media import Frames, MediaError, MediaInfo, Pixels, let_go

_IN_MEMORY = 384 << 20  # bytes of frames; more lie in a file without a name, or 32 of 8K would take 3 GB

#: The 8-bit format of the same sampling for each deeper one.
_PLAIN = {
    f"{name}{bits}{order}": name
    for name in ("yuv420p", "yuv422p", "yuv440p")
    for bits in (9, 10, 12, 14, 16)
    for order in ("le", "be")
} | {"p010le": "nv12", "p016le": "nv12"}


class Upright:
    """Decoded frames into RGB, turned upright, each of the first one's size.

    Attributes:
        rotation: Degrees that the file asks its frames to be turned by, once one was seen.
        shape: Height, width and channels of what comes out; None before the first.
    """

    def __init__(self) -> None:
        self.rotation = 0
        self.shape: tuple[int, int, int] | None = None
        self._converter = _converter()
        self._shallower = _converter()

    def __call__(self, frame: Any) -> Pixels:
        """The frame uint8 [H, W, 3]."""
        self.see(frame)
        width, height = self._size
        plane = self._rgb(frame, width, height).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
        pixels = rows[:, : 3 * width].reshape(height, width, 3)
        return np.rot90(pixels, self._turns) if self._turns else pixels

    def see(self, frame: Any) -> None:
        """Take the size and rotation from a frame, if it is the first."""
        if self.shape is not None:
            return
        self.rotation = int(frame.rotation) % 360
        self._turns = self.rotation // 90 if self.rotation % 90 == 0 else 0
        self._size = (frame.width, frame.height)
        sides = (frame.width, frame.height) if self._turns % 2 else (frame.height, frame.width)
        self.shape = (*sides, 3)

    def _rgb(self, frame: Any, width: int, height: int) -> Any:
        """The frame in RGB and of the first one's size; on one thread, so that no number of cores changes a pixel.

        Deeper than 8 bits goes to 8 bits first: the direct way interpolates colours that the 8-bit way repeats, so
        that a class published in 10 bits would differ by more than its depth.
        """
        plain = _PLAIN.get(frame.format.name)
        if plain is not None:
            frame = self._shallower.reformat(frame, width=frame.width, height=frame.height, format=plain, threads=1)
        return self._converter.reformat(frame, width=width, height=height, format="rgb24", threads=1)


class Sink:
    """Wanted frames as they come, turned upright and into RGB, in one array of the first one's size."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.filled = 0
        self._upright = Upright()
        self._images: np.ndarray | None = None
        self._pts = np.zeros(count)

    @property
    def full(self) -> bool:
        """Whether every frame is there."""
        return self.filled == self.count

    @property
    def rotation(self) -> int:
        """See :class:`Upright`."""
        return self._upright.rotation

    def put(self, place: int, frame: Any, seconds: float) -> None:
        """Keep a frame as the ``place``-th, with its time; the first one put decides the size of all."""
        self._upright.see(frame)
        if self._images is None:
            assert self._upright.shape is not None
            self._images = _room((self.count, *self._upright.shape))
        self._images[place] = self._upright(frame)
        let_go(self._images)
        self._pts[place] = seconds
        self.filled += 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright frames; zeros before the first."""
        return (0, 0) if self._images is None else (self._images.shape[2], self._images.shape[1])

    def frames(self, indices: list[int], info: MediaInfo) -> Frames:
        """All of them, with their indices [N].

        Raises:
            MediaError: Some are missing.
        """
        if self._images is None or not self.full:
            raise MediaError("undecodable", "fewer frames came out the second time")
        return Frames(self._images, np.array(indices, np.int64), self._pts, info)


def _room(shape: tuple[int, ...]) -> Pixels:
    """Room for frames [N, H, W, 3].

    Raises:
        OSError: It is to be on the disk, which is full.
    """
    size = math.prod(shape)
    if size <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            # A disk that fills up while memory is written to it ends the process.
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _converter() -> Any:
    """Turns frames into RGB; one for all frames of a video, since making its tables costs as much as using them."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()
