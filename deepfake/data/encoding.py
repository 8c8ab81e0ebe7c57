"""RGB frames into H.264, with the same bytes on every processor. Knows no file layout and no labels.

What is not: x264's assembly for AVX-512 gives other streams from one encoding to the next, and FFmpeg's conversion
between RGB and YUV rounds otherwise in its assembly than without. So x264 runs as plain C, on one thread, and
colours are converted here in whole numbers. Another version of x264 may still give other bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from deepfake.data.media import Pixels

#: Each frame by itself at one quantiser: then no floating point decides anything, and no frame depends on another.
INTRA = {"preset": "veryfast", "qp": "20", "x264-params": "keyint=1:aq-mode=0"}

_BITS = 16  # of the fractions that colours are weighed with
# ITU-R BT.601, with 16..235 for black to white; rows Y, U, V by columns R, G, B.
_TO_YUV = np.rint(
    np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255 * 2**_BITS
).astype(np.int32)
_OFFSETS = (16, 128, 128)
_TO_RGB = ((219, 1.0), (224, 1.402), (224, 0.714136), (224, 0.344136), (224, 1.772))
# Backwards: of Y in all; of V in red and in green; of U in green and in blue.
_Y, _VR, _VG, _UG, _UB = (round(255 / full * x * 2**_BITS) for full, x in _TO_RGB)


def write_video(
    target: Path | IO[bytes], frames: Iterable[Pixels], fps: int, options: Mapping[str, str] | None = None
) -> None:
    """Encode RGB frames [H, W, 3] as H.264 in mp4; the same frames give the same bytes on every processor.

    Args:
        target: A file, whose folder is made, or anything that can be written and sought.
        frames: At least one; odd sides get their last row or column twice, since 4:2:0 halves the colours' sides.
        fps: Frames a second.
        options: x264's, by FFmpeg's names; :data:`INTRA` where None.
    """
    import av

    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    rest = iter(frames)
    first = next(rest)
    with av.open(str(target) if isinstance(target, Path) else target, "w", format="mp4") as container:
        stream = add_h264(container, fps, options or INTRA)
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        for number, image in enumerate(chain([first], rest)):
            frame = av.VideoFrame.from_ndarray(to_yuv420p(image), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def through_h264(clip: Pixels, options: Mapping[str, str], fps: int = 25) -> Pixels:
    """A clip uint8 [T, H, W, 3] encoded as H.264 and decoded again; the same bytes on every processor.

    Args:
        clip: RGB.
        options: x264's, by FFmpeg's names, such as ``crf``.
        fps: Frames a second.
    """
    import av

    held = io.BytesIO()
    write_video(held, clip, fps, options)
    held.seek(0)
    with av.open(held) as container:
        decoded = [to_rgb(frame.to_ndarray()) for frame in container.decode(video=0)]
    return np.stack(decoded)[:, : clip.shape[1], : clip.shape[2]]


def add_h264(container: Any, fps: int, options: Mapping[str, str]) -> Any:
    """A video stream in an open container, encoded alike on every processor.

    Args:
        container: PyAV's, opened for writing.
        fps: Frames a second.
        options: x264's, by FFmpeg's names.
    """
    more = [options["x264-params"]] if "x264-params" in options else []
    stream = container.add_stream("libx264", rate=fps)
    stream.pix_fmt = "yuv420p"
    stream.options = {**options, "threads": "1", "x264-params": ":".join([*more, "asm=0"])}
    return stream


def to_yuv420p(image: Pixels) -> Pixels:
    """RGB [H, W, 3] to the planes Y, U and V one below the other, [3 H / 2, W], as FFmpeg lays them out.

    Each 2x2 pixels share the colour of their mean. Odd sides grow by their last row or column.
    """
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    whole = image.astype(np.int32)
    quads = whole[0::2, 0::2] + whole[0::2, 1::2] + whole[1::2, 0::2] + whole[1::2, 1::2]
    planes = [_weigh(whole, 0, _BITS), _weigh(quads, 1, _BITS + 2), _weigh(quads, 2, _BITS + 2)]
    return np.concatenate([plane.ravel() for plane in planes]).reshape(-1, image.shape[1])


def to_rgb(planes: Pixels) -> Pixels:
    """What :func:`to_yuv420p` made back to RGB [H, W, 3]; each 2x2 pixels get one colour."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    luma = (planes[:height].astype(np.int32) - _OFFSETS[0]) * _Y + 2 ** (_BITS - 1)
    u, v = planes[height:].reshape(2, height // 2, width // 2).astype(np.int32) - _OFFSETS[1]
    shifts = (_VR * v, -_VG * v - _UG * u, _UB * u)
    image = np.empty((height, width, 3), np.uint8)
    for channel, shift in enumerate(shifts):
        image[..., channel] = ((luma + shift.repeat(2, 0).repeat(2, 1)) >> _BITS).clip(0, 255)
    return image


def _weigh(colours: NDArray[np.int32], row: int, bits: int) -> Pixels:
    red, green, blue = (int(weight) for weight in _TO_YUV[row])
    total = colours[..., 0] * red + colours[..., 1] * green + colours[..., 2] * blue
    # 16..235 and 16..240 hold every RGB, so nothing is to be clipped.
    return ((total + 2 ** (bits - 1)) // 2**bits + _OFFSETS[row]).astype(np.uint8)
