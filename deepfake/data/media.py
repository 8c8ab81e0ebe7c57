"""What decoded media looks like, whatever it was decoded from, what is not decoded at all, and reading images.

A file may come from anywhere: it is looked at before it is opened, and what it takes in time and memory has bounds.
Knows no video decoder, no faces and no clips."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
#: Seconds that reading one file may take where nothing else is asked for, beside those that its size gives it.
FILE_SECONDS = 120.0


#: What a file is, by its suffix.
KINDS = {**dict.fromkeys(VIDEO_SUFFIXES, "video"), **dict.fromkeys(IMAGE_SUFFIXES, "image")}


def kind_of(path: str) -> str:
    """``video`` or ``image``, by suffix; "" for neither."""
    return KINDS.get(os.path.splitext(path)[1].lower(), "")


class MediaError(Exception):
    """A file gives no frames, or none that can be used; the sample is listed with the reason and skipped.

    Args:
        reason: One word of a small vocabulary: ``missing``, ``not_a_file``, ``empty``, ``undecodable``,
            ``no_video``, ``not_an_image``, ``too_large``, ``too_long``, ``too_short``, ``no_face``, ``timeout``.
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
    """The error for a file that took longer than it may."""
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
        told = "a symbolic link that leads to nothing" if path.is_symlink() else str(path)
        raise MediaError("missing", told) from error
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


#: Of one picture.
MOST_PIXELS = 64 << 20
_MOST_BYTES = 512 << 20  # of a file; 64 million pixels of 16 bits, not compressed, take 384 MiB
_STRIP = 256  # rows turned from BGR to RGB at once

# The first bytes of the formats OpenCV reads everywhere; what else it can decode is listed as "other".
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
# The luminance table of ITU-T T.81 annex K.1; its order does not matter here.
_LUMINANCE = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
)


def read_image(path: Path) -> Frames:
    """Decode an image, its EXIF rotation applied; alpha is dropped, grey and 16 bit become 8-bit RGB.

    Raises:
        MediaError: ``missing``, ``not_a_file``, ``empty``, ``not_an_image``, ``too_large``, or ``undecodable`` when it
            is cut short.
    """
    size = check_file(path).st_size
    if size > _MOST_BYTES:
        raise MediaError("too_large", f"{size} bytes; at most {_MOST_BYTES} are read")
    return decode_image(path.read_bytes())


def decode_image(data: bytes) -> Frames:
    """The same from bytes, so that the name and place of a file never matter."""
    import cv2

    codec = image_codec(data)
    if codec == "other":  # OpenCV's decoders of rarer formats are not let at strangers' bytes
        raise MediaError("not_an_image", f"begins with the bytes {data[:8].hex(' ')}")
    # libjpeg fills what is missing with grey and only warns; the end marker has to follow the last scan.
    if codec == "jpeg" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise MediaError("undecodable", "the JPEG is cut short")
    width, height = header_size(data, codec)
    if width * height > MOST_PIXELS:
        raise _too_large(f"{width}x{height} pixels")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise _too_large("its pixels") from error
        raise MediaError("undecodable", str(error).strip()) from error
    if pixels is None:
        raise MediaError("undecodable", f"the {codec} data cannot be decoded")
    for start in range(0, len(pixels), _STRIP):  # in place: a copy of the largest would be another 200 MB
        strip = pixels[start : start + _STRIP]
        strip[:] = cv2.cvtColor(strip, cv2.COLOR_BGR2RGB)
    height, width = pixels.shape[:2]
    info = MediaInfo(
        width=width,
        height=height,
        frames=1,
        fps=0.0,
        duration=0.0,
        codec=codec,
        bitrate=0,
        pixel_format="rgb24",
        rotation=0,
        quality=jpeg_quality(data) if codec == "jpeg" else 0,
    )
    return Frames(np.asarray(pixels, np.uint8)[None], np.zeros(1, np.int64), np.zeros(1), info)


def _too_large(what: str) -> MediaError:
    return MediaError("too_large", f"{what}; at most {MOST_PIXELS / 1e6:.0f} million are decoded")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as its header says them, without decoding it; zeros where it does not.

    Raises:
        MediaError: ``too_large``: more bytes than any image has.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise MediaError("too_large", f"{size} bytes; at most {_MOST_BYTES} are read")
    data = path.read_bytes()
    return header_size(data, image_codec(data))


def image_codec(data: bytes) -> str:
    """The format of an image by its first bytes; ``other`` for what is none of those that are known."""
    name = next((name for signature, name in _SIGNATURES if data.startswith(signature)), "other")
    # RIFF holds AVI and sound as well.
    return "other" if name == "webp" and data[8:12] != b"WEBP" else name


def header_size(data: bytes, codec: str) -> tuple[int, int]:
    """Width and height as the first bytes say them; zeros where they do not.

    Args:
        data: The file.
        codec: One of those of the signatures above.
    """
    big, small = partial(int.from_bytes, byteorder="big"), partial(int.from_bytes, byteorder="little")
    if codec == "png":
        return big(data[16:20]), big(data[20:24])
    if codec == "bmp":
        if small(data[14:18]) == 12:
            return small(data[18:20]), small(data[20:22])
        return abs(small(data[18:22], signed=True)), abs(small(data[22:26], signed=True))
    if codec == "jpeg":
        return _jpeg_size(data)
    if codec == "tiff":
        return _tiff_size(data, small if data.startswith(b"II") else big)
    if codec == "webp":
        return _webp_size(data)
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of the largest frame header, wherever it stands before the first scan (ITU-T T.81 B.2.2)."""
    sizes = [(0, 0)]
    for marker, body in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            sizes.append((int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")))
    return max(sizes, key=lambda size: size[0] * size[1])


def _tiff_size(data: bytes, number: Callable[[bytes], int]) -> tuple[int, int]:
    """Of the first picture (TIFF 6.0, section 2): the entries 256 and 257, of 16 or 32 bits."""
    place = number(data[4:8])
    sizes = {256: 0, 257: 0}
    for at in range(place + 2, place + 2 + 12 * number(data[place : place + 2]), 12):
        tag, kind = number(data[at : at + 2]), number(data[at + 2 : at + 4])
        if tag in sizes:
            sizes[tag] = number(data[at + 8 : at + (10 if kind == 3 else 12)])
    return sizes[256], sizes[257]


def _webp_size(data: bytes) -> tuple[int, int]:
    """Of the canvas, or of the one picture (RFC 9649, section 2)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def enlarge(image: Pixels, size: tuple[int, int]) -> Pixels:
    """To ``size`` (width, height) by cubic interpolation, the same on every processor.

    Intel's library, to which OpenCV hands this on x86-64, rounds otherwise on each kind of processor.
    """
    import cv2

    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    finally:
        cv2.ipp.setUseIPP(used)


def jpeg_quality(data: bytes) -> int:
    """The IJG quality a JPEG's luminance table was scaled with, 1 to 100; 0 where it has no table.

    The quality whose table, scaled as libjpeg's ``jpeg_quality_scaling`` does, has the sum nearest to the file's.
    Exact for files libjpeg wrote, an estimate for others.
    """
    total = _luminance_sum(data)
    return int(np.abs(_sums() - total).argmin()) + 1 if total else 0


def _sums() -> np.ndarray:
    """The sum of the luminance table for each quality from 1 to 100."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((_LUMINANCE[:, None] * scale + 50) // 100).clip(1, 255).sum(0)


def _luminance_sum(data: bytes) -> int:
    """The sum of quantisation table 0 (ITU-T T.81 B.2.4.1)."""
    for marker, body in _segments(data):
        rest = body if marker == 0xDB else b""
        while rest:
            width = 2 if rest[0] >> 4 else 1
            table = np.frombuffer(rest[1 : 1 + 64 * width], ">u2" if width == 2 else "u1")
            if rest[0] & 15 == 0 and len(table) == 64:
                return int(table.sum())
            rest = rest[1 + 64 * width :]
    return 0


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The segments of a JPEG, marker and body, up to its first scan (ITU-T T.81 B.1.1.4)."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xFF:  # any number of them may stand before a marker
            place += 1
            continue
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, data[place + 4 : place + 2 + length]
        if marker == 0xDA or length < 2:
            break
        place += 2 + length
