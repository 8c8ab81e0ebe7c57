"""An image file into one upright RGB frame. Knows nothing of faces or clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepfake.data.media import Frames, MediaError, MediaInfo

# The first bytes of the formats OpenCV reads everywhere; what else it can decode is listed as "other".
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
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


def jpeg_quality(data: bytes) -> int:
    """The IJG quality a JPEG's luminance table was scaled with, 1 to 100; 0 where it has no table.

    The sum of the quantisation table is inverted through the scaling rule of libjpeg's ``jpeg_quality_scaling``
    with the table of ITU-T T.81 annex K.1, whose 64 entries add up to 3688. Exact for files libjpeg wrote.
    """
    total = _luminance_sum(data)
    if not total:
        return 0
    scale = 100.0 * total / 3688
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return int(np.clip(round(quality), 1, 100))


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
