"""Videos made on the spot: every frame carries its own number, so that a wrong one shows."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from deepfake.data.encoding import add_h264

BITS = 10  # of a frame's number, drawn as black and white columns


def numbered(number: int, width: int = 160, height: int = 96) -> np.ndarray:
    """A uint8 [H, W, 3] frame: coarse moving texture with its number written in columns along the top."""
    y, x = np.mgrid[0:height, 0:width]
    grey = 110 + 60 * np.sin((x + 3 * number) / 9.0) * np.cos((y - 2 * number) / 7.0)
    frame = np.repeat(grey[:, :, None], 3, 2)
    frame[:, :, 1] += 20
    column = width // BITS
    for bit in range(BITS):
        frame[: height // 3, bit * column : (bit + 1) * column] = 235 if number >> bit & 1 else 20
    return frame.clip(0, 255).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number a decoded frame carries."""
    height, width = frame.shape[:2]
    column = width // BITS
    strip = frame[: height // 3].astype(float).mean((0, 2))
    means = [strip[bit * column + 2 : (bit + 1) * column - 2].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 128)


def write_video(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    steps: Sequence[int] | None = None,
    shift: int = 0,
    skip_packets: int = 0,
    size: tuple[int, int] = (160, 96),
) -> Path:
    """Encode numbered frames.

    Args:
        path: Its suffix chooses the container.
        count: Frames.
        codec: And ``pixel_format``, ``options``: the encoder's.
        container_options: The muxer's.
        steps: Ticks of 1/50 s from each frame to the next; every second tick where None.
        shift: Ticks subtracted from all times as they are muxed: frames before 0 end up before an edit list's start.
        skip_packets: Packets left out at the head, as in a file cut from a longer one.
    """
    width, height = size
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any
        if codec == "libx264":
            stream = add_h264(container, 25, options or {})
        else:
            stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = Fraction(1, 50)
        time = 0
        packets = []
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number, width, height), format="rgb24")
            if pixel_format == "gray":  # straight from RGB would be full range in a stream that says limited
                luma = frame.reformat(format="yuv420p").to_ndarray()[:height]
                frame = av.VideoFrame.from_ndarray(luma, format="gray")
            frame.pts, frame.time_base = time, Fraction(1, 50)
            time += steps[number] if steps is not None else 2
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in packets[skip_packets:]:
            if shift:
                packet.pts -= shift
                packet.dts -= shift
            container.mux(packet)
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """Every frame a plain decode of the whole packets gives, uint8 RGB by way of 8 bits, unrotated."""
    frames = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for packet in container.demux(video=0):
            if not packet.is_corrupt:
                for frame in packet.decode():
                    plain = frame.reformat(format=frame.format.name.replace("10le", ""))
                    frames.append(plain.to_ndarray(format="rgb24"))
    return frames


def rotate_header(path: Path, turn: tuple[int, int, int, int]) -> None:
    """Write a display matrix into an mp4's track header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    for offset, value in zip((0, 4, 12, 16), turn, strict=True):
        data[place + offset : place + offset + 4] = int(value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))
