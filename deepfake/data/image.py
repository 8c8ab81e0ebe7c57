"""An image file into one upright RGB frame, and a small one into a larger. Knows nothing of faces or clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepfake.data.media import Frames, MediaError, MediaInfo, Pixels

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
        MediaError: ``missing``, ``empty``, ``not_an_image``, or ``undecodable`` when it is cut short.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MediaError("missing", str(path)) from error
    if not data:
        raise MediaError("empty", "the file has no bytes")
    return decode_image(data)


def decode_image(data: bytes) -> Frames:
    """The same from bytes, so that the name and place of a file never matter."""
    import cv2

    codec = next((name for signature, name in _SIGNATURES if data.startswith(signature)), "other")
    # libjpeg fills what is missing with grey and only warns; the end marker has to follow the last scan.
    if codec == "jpeg" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise MediaError("undecodable", "the JPEG is cut short")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise MediaError("undecodable", str(error).strip()) from error
    if pixels is None:
        if codec == "other":
            raise MediaError("not_an_image", f"begins with {data[:8]!r}")
        raise MediaError("undecodable", f"the {codec} data cannot be decoded")
    image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
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
    return Frames(image[None], np.zeros(1, np.int64), np.zeros(1), info)


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
    """The sum of quantisation table 0, found by walking the segments (ITU-T T.81 B.1.1.4)."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + length]
        while marker == 0xDB and body:
            width = 2 if body[0] >> 4 else 1
            table = np.frombuffer(body[1 : 1 + 64 * width], ">u2" if width == 2 else "u1")
            if body[0] & 15 == 0 and len(table) == 64:
                return int(table.sum())
            body = body[1 + 64 * width :]
        if marker == 0xDA or length < 2:
            break
        place += 2 + length
    return 0
