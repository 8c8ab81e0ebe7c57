"""What was found in a file painted over it: each face's box, its score, and a map of what spoke for and against a fake.

A video is read and written frame by frame, so that its length takes no memory. Knows no model."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.data.decoded import Upright
from deepfake.data.faces.base import overlap
from deepfake.data.media import Deadline, MediaError, Pixels
from deepfake.data.video import opened
from deepfake.progress import Progress, bar

Maps = NDArray[np.float32]

#: The longer side of a painted picture, in pixels: what is larger is shrunk, for not every browser plays it, and what
#: is smaller than the other is grown, so that letters can be read.
LONGEST, SHORTEST = 1920, 480
_NEAR = 1.0  # seconds between two looks, up to which a face is taken to move evenly from one to the other
_ALONE = 0.25  # seconds before and after a look by itself for which it is shown
_RED, _BLUE, _GREEN = (214, 39, 40), (31, 119, 240), (44, 160, 44)
_WHITE, _BLACK = (255, 255, 255), (16, 16, 16)
_STRENGTH = 0.6  # of the strongest colour
_COPIED = ("aac",)  # what every browser plays in mp4; other sound is made that
_SOUND = ("aac", 128_000)
_EARLY = 4096  # packets of sound that may come before the first frame


@dataclass(frozen=True)
class Mark:
    """One face in one frame that was looked at.

    Attributes:
        face: Its number.
        clip: Whose frame it is: faces of one clip are the same.
        frame: The frame's place in the file; ``seconds`` is its time.
        box: float32 [4], x0, y0, x1, y1, in pixels of the upright frame.
        score: Of the frame, 0 to 1; of its clip where the head says nothing of frames.
        clip_score: Of the clip.
        map: float32 [h, w] over the box, -1 to 1: above 0 speaks for fake. None where none is painted.
    """

    face: int
    clip: int
    frame: int
    seconds: float
    box: NDArray[np.float32]
    score: float
    clip_score: float
    map: Maps | None = None


class Painter:
    """Paints marks on frames.

    Args:
        marks: Of all faces.
        threshold: The score from which a face is called fake.
        title: A line in the upper left corner.
    """

    def __init__(self, marks: Sequence[Mark], threshold: float, title: str) -> None:
        self._threshold = threshold
        self._title = title
        ordered = sorted(marks, key=lambda mark: (mark.face, mark.seconds))
        groups = itertools.groupby(ordered, key=lambda mark: mark.face)
        self._faces = [(list(own), [mark.seconds for mark in own]) for own in (list(group) for _, group in groups)]

    def at(self, seconds: float) -> list[Mark]:
        """The faces as they are at a time: where they were looked at, or moving evenly between two looks."""
        found = (_between(marks, times, seconds) for marks, times in self._faces)
        return [mark for mark in found if mark is not None]

    def paint(self, image: Pixels, marks: Sequence[Mark], scale: float = 1.0) -> Pixels:
        """A painted copy of an image uint8 [H, W, 3], of which marks are at ``1 / scale`` of its size."""
        import cv2

        drawn = image.copy()
        unit = max(1.0, max(image.shape[:2]) / 640)
        for mark in marks:
            if mark.map is not None:
                paint_map(drawn, mark.map, mark.box * scale)
        for mark in marks:
            colour = _RED if mark.clip_score >= self._threshold else _GREEN
            x0, y0, x1, y1 = np.rint(mark.box * scale).astype(int).tolist()
            cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), colour, max(1, round(1.5 * unit)))
            named = f"{mark.face + 1}: " if len(self._faces) > 1 else ""
            _write(drawn, f"{named}{mark.clip_score:.2f}", (x0, y0), unit, colour)
        _write(drawn, self._title, (0, image.shape[0]), unit, _BLACK)
        return drawn


def _between(marks: Sequence[Mark], times: Sequence[float], seconds: float) -> Mark | None:
    place = bisect_left(times, seconds)
    before, after = (marks[i] if 0 <= i < len(marks) else None for i in (place - 1, place))
    if before is None or after is None:
        near = before or after
        return near if near is not None and abs(near.seconds - seconds) <= _ALONE else None
    gap = after.seconds - before.seconds
    near = min(before, after, key=lambda mark: abs(mark.seconds - seconds))
    if gap > _NEAR:
        return near if abs(near.seconds - seconds) <= _ALONE else None
    if before.clip != after.clip and overlap(before.box, after.box) < 0.3:
        return near  # what is shown there is another place
    part = np.float32((seconds - before.seconds) / gap) if gap > 0 else np.float32(0)
    box = before.box + (after.box - before.box) * part
    return Mark(near.face, near.clip, near.frame, seconds, box, near.score, near.clip_score, near.map)


def paint_map(image: Pixels, values: Maps, box: NDArray[np.float32]) -> None:
    """Colour an image in place: red where a map in -1..1 over a box speaks for fake, blue where it speaks against."""
    import cv2

    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left >= right or top >= bottom:
        return
    # Only what lies in the picture is made as large as the box.
    scale = np.array([(x1 - x0) / values.shape[1], (y1 - y0) / values.shape[0]])
    shift = np.array([x0 - left, y0 - top]) + 0.5 * scale - 0.5
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    size = (right - left, bottom - top)
    grown = cv2.warpAffine(values, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = (np.clip(np.abs(grown), 0, 1) * _STRENGTH)[..., None]
    colour = np.where(grown[..., None] > 0, np.array(_RED, np.float32), np.array(_BLUE, np.float32))
    region = image[top:bottom, left:right]
    region[:] = np.rint(region * (1 - weight) + colour * weight).astype(np.uint8)


def _write(image: Pixels, text: str, corner: tuple[int, int], unit: float, colour: tuple[int, int, int]) -> None:
    """White letters on a patch of colour above a corner, or below it where there is no room."""
    import cv2

    if not text:
        return
    size, thick = 0.5 * unit, max(1, round(unit))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
    pad = max(2, round(3 * unit))
    x = int(np.clip(corner[0], 0, max(image.shape[1] - width - 2 * pad, 0)))
    y = corner[1] - height - 2 * pad if corner[1] >= height + 2 * pad else max(corner[1], 0)
    cv2.rectangle(image, (x, y), (x + width + 2 * pad, y + height + 2 * pad), colour, -1)
    place = (x + pad, y + pad + height)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, _WHITE, thick, cv2.LINE_AA)


def paint_image(image: Pixels, target: Path, painter: Painter) -> None:
    """A painted picture as PNG."""
    import cv2

    image, scale = _fitted(image)
    drawn = painter.paint(image, painter.at(0.0), scale)
    done, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    assert done
    target.write_bytes(data.tobytes())


def paint_video(
    file: Path,
    target: Path,
    painter: Painter,
    count: int,
    progress: Progress | None = None,
    until: Deadline | None = None,
) -> str:
    """The whole video with its faces painted over, as H.264 in mp4 that browsers play; times and sound stay.

    Args:
        file: The video.
        target: An mp4.
        painter: What is painted.
        count: How many frames it has, about; for the progress.
        progress: Told of every frame.
        until: When it has to be done.

    Returns:
        What could not be kept, in a sentence; else nothing.

    Raises:
        MediaError: It cannot be read, or took too long.
    """
    import av

    with (
        opened(file, until) as (_, video),
        av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as made,
        bar(progress, count, "painting frames") as painted,
    ):
        audio = next(iter(video.container.streams.audio), None)
        sound, lost = _sound(made, audio)
        writer = _Writer(made, video)
        # Nothing can be written before the first frame has told the picture's size.
        early: list[Any] = []
        for packet in _both(video, audio, until):
            if packet.stream.type == "audio":
                if writer.frames:
                    lost = lost or _put_sound(sound, packet)
                elif len(early) < _EARLY:
                    early.append(packet)
                continue
            for frame in _decoded(packet):
                seconds, image = writer.read(frame)
                image, scale = _fitted(image)
                writer.put(painter.paint(image, painter.at(seconds), scale))
                painted.advance()
                for held in early:
                    lost = lost or _put_sound(sound, held)
                early = []
        if not writer.frames:
            raise MediaError("undecodable", "no frame could be decoded")
        writer.close()
        if sound is not None:
            with suppress(av.FFmpegError):
                sound.close()
    return lost


def _both(video: Any, audio: Any, until: Deadline | None) -> Iterator[Any]:
    """Packets of a picture's and a sound's stream as they lie in the file; one cut short simply ends earlier."""
    import av

    packets = video.container.demux(*[stream for stream in (video, audio) if stream is not None])
    while True:
        if until is not None:
            until.check()
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if not packet.is_corrupt:
            yield packet


def _decoded(packet: Any) -> list[Any]:
    import av

    try:
        return list(packet.decode())
    except av.InvalidDataError:
        return []


class _Writer:
    """Painted frames into a stream, at the times that the frames they were made of had."""

    def __init__(self, made: Any, video: Any) -> None:
        self._made, self._video = made, video
        self._stream: Any = None
        self._base = video.time_base or Fraction(1, 90_000)
        self._rate = video.average_rate or Fraction(25)
        self._read = Upright()
        self._ticks: int | None = None
        self.frames = 0

    def read(self, frame: Any) -> tuple[float, Pixels]:
        """When a frame is shown, in seconds, and what it shows."""
        ticks = frame.pts
        if ticks is None or (self._ticks is not None and ticks <= self._ticks):
            # A file that does not tell, or tells nonsense: at its rate.
            ticks = 0 if self._ticks is None else self._ticks + max(1, round(1 / (self._rate * self._base)))
        self._ticks = ticks
        return float(ticks * self._base), self._read(frame)

    def put(self, image: Pixels) -> None:
        import av

        if self._stream is None:
            self._stream = self._made.add_stream("libx264", options={"preset": "veryfast", "crf": "23"})
            context = self._stream.codec_context
            self._stream.height, self._stream.width = image.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            context.framerate, context.time_base = self._rate, self._base
            context.color_range, context.colorspace = 1, 1  # as HD is told, which browsers take for granted
            context.color_primaries = context.color_trc = 1
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self._ticks, self._base
        self._made.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        self._made.mux(self._stream.encode())


class _Copy:
    """Sound as it is."""

    def __init__(self, made: Any, audio: Any) -> None:
        self._made, self._stream = made, made.add_stream_from_template(audio)

    def put(self, packet: Any) -> None:
        if packet.dts is not None:
            packet.stream = self._stream
            self._made.mux(packet)

    def close(self) -> None:
        pass


class _Recoded:
    """Sound made AAC."""

    def __init__(self, made: Any, audio: Any) -> None:
        name, rate = _SOUND
        self._made, self._stream = made, made.add_stream(name, rate=audio.rate)
        self._stream.bit_rate = rate

    def put(self, packet: Any) -> None:
        for frame in _decoded(packet):
            self._made.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._made.mux(self._stream.encode())


def _sound(made: Any, audio: Any) -> tuple[_Copy | _Recoded | None, str]:
    import av

    if audio is None:
        return None, ""
    try:
        name = audio.codec_context.name
        return (_Copy if name in _COPIED else _Recoded)(made, audio), ""
    except (av.FFmpegError, AttributeError, ValueError, TypeError) as error:
        return None, f"its sound could not be kept: {error}"


def _put_sound(sound: _Copy | _Recoded | None, packet: Any) -> str:
    import av

    if sound is None:
        return ""
    try:
        sound.put(packet)
    except (av.FFmpegError, ValueError) as error:
        return f"its sound could not be kept whole: {error}"
    return ""


def _fitted(image: Pixels) -> tuple[Pixels, float]:
    """An image of even sides, neither too large nor too small, and what it was scaled by."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, LONGEST / max(height, width)) if max(height, width) >= SHORTEST else SHORTEST / max(height, width)
    if scale != 1:
        size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), scale
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return image, 1.0
