"""What decoded media looks like, whatever it was decoded from, and what is not decoded at all.

Knows no file format and no decoder. A file may come from anywhere: it is looked at before it is opened, and what it
takes in time and memory has bounds.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class MediaError(Exception):
    """A file gives no frames, or none that can be used; the sample is listed with the reason and skipped.

    Args:
        reason: One word of a small vocabulary: ``missing``, ``not_a_file``, ``empty``, ``undecodable``,
            ``no_video``, ``not_an_image``, ``too_large``, ``too_short``, ``no_face``, ``timeout``.
        detail: What exactly was seen, for the listing.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Deadline:
    """When work on a file has to be done.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative once it has passed."""
        return self._end - time.monotonic()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            MediaError: ``timeout``: it has passed.
        """
        if self.left < 0:
            raise MediaError("timeout", timed_out(self.seconds))


def timed_out(seconds: float) -> str:
    """How a file is told of that took longer than it may."""
    return f"not done after {seconds:.0f} s; dataset.file_timeout= gives more"


def check_file(path: Path) -> os.stat_result:
    """What the file system says of a file that can be opened without waiting or end.

    Pipes, sockets and devices are never opened: reading one may wait for ever, go on for ever, or do something.

    Raises:
        MediaError: ``missing``, ``not_a_file`` or ``empty``.
        OSError: It may not be looked at.
    """
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing", str(path)) from error
    except ValueError as error:  # a zero byte in a table's path
        raise MediaError("missing", str(error)) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise MediaError("missing", "a symbolic link that leads back to itself") from error
    if not stat.S_ISREG(facts.st_mode):
        raise MediaError("not_a_file", _kind(facts.st_mode))
    if facts.st_size == 0:
        raise MediaError("empty", "the file has no bytes")
    return facts


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


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


class Views(Sequence[Pixels]):
    """Frames to be looked at one after the other.

    Where they lie in a file rather than in memory, those looked at before do not stay in memory.

    Args:
        images: uint8 [N, H, W, 3].
    """

    def __init__(self, images: Pixels) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, place: int) -> Pixels: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Pixels]: ...
    def __getitem__(self, place: int | slice) -> Pixels | Sequence[Pixels]:
        if isinstance(place, slice):
            return Views(self._images[place])
        let_go(self._images)
        return np.asarray(self._images[place])


def let_go(images: Pixels) -> None:
    """Take frames that lie in a file out of memory; looking at them brings them back."""
    if isinstance(images, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        held: mmap.mmap | None = getattr(images, "_mmap", None)
        if held is not None:
            held.madvise(mmap.MADV_DONTNEED)
