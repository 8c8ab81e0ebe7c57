"""Exact frames of a video file, decoded with FFmpeg, upright and in RGB. Knows nothing of faces or clips."""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from deepfake.data.decoded import Sink
from deepfake.data.media import Deadline, Frames, MediaError, MediaInfo, check_file, image_size

#: Of one frame: the largest picture of any level below 7 of H.264, HEVC and AV1, 8192 x 4352; 8K has 33.2 million.
MOST_PIXELS = 35_651_584
_MOST_PACKETS = 4_000_000  # 18 hours at 60 frames a second; what is noted of each takes some 100 bytes

#: What may be in a file. Playlists and lists of files, which send the decoder elsewhere, are no video.
_CONTAINERS = (
    "3gp,asf,av1,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,webm,"
    "yuv4mpegpipe"
)
_STREAMS = 64  # for which FFmpeg is told the largest frame before it looks into them

Plan = Callable[[int], Sequence[int]]

_SHORT_GAP = 60  # packets that are cheaper to decode than to jump over


class _MissedError(Exception):
    """The fast way cannot deliver what was asked; decode everything instead."""


class _Packets(NamedTuple):
    """What demuxing alone finds.

    Attributes:
        pts: Of every frame to present, in order of presentation.
        decoded: Of every packet, in order of decoding; ``keys`` are the places of keyframes in it.
        size: Bytes of all.
    """

    pts: list[int]
    decoded: list[int]
    keys: list[int]
    size: int


def read_video(path: Path, plan: Plan, until: Deadline | None = None) -> Frames:
    """Decode the frames that ``plan`` picks.

    The file is first demuxed, which costs no decoding and tells how many frames there are and when; then it is
    decoded with every frame skipped that is neither wanted nor needed by another. Files whose packets do not
    tell (no pts, doubled pts, a head that cannot be decoded) are decoded whole.

    Args:
        path: A container that holds its own streams, of any codec FFmpeg reads. Its name is a name, whatever is in it.
        plan: Given the number of frames that can be had, the indices wanted, in any order, repeats allowed.
        until: When it has to be done.

    Returns:
        The frames in rising order of index, each index once.

    Raises:
        MediaError: ``missing``, ``not_a_file``, ``empty``, ``undecodable``, ``no_video``, ``too_large``, ``timeout``,
            or ``too_short`` when the plan wants none of the frames there are.
    """
    check_file(path)
    try:
        return _read_wanted(path, plan, until)
    except _MissedError:
        return _read_all(path, plan, until)


def frame_rate(path: Path, until: Deadline | None = None) -> float:
    """Frames a second, on average, as the file says; 0 where it does not.

    Raises:
        MediaError: As :func:`read_video`, of a file that cannot be opened.
    """
    check_file(path)
    with opened(path, until) as (_, stream):
        return float(stream.average_rate or 0)


def check_extent(
    path: Path, kind: str, most_pixels: int | None, most_duration: float | None, until: Deadline | None = None
) -> None:
    """Refuse a file by what its header says, before anything of it is decoded.

    Args:
        path: The file.
        kind: ``video`` or ``image``.
        most_pixels: Of one frame; None for any that can be read.
        most_duration: Seconds; None for any.
        until: When it has to be done.

    Raises:
        MediaError: ``too_large``, ``too_long``, or as :func:`read_video`.
    """
    if most_pixels is None and most_duration is None:
        return
    check_file(path)
    if kind == "image":
        width, height = image_size(path)
        seconds = 0.0
    else:
        with opened(path, until) as (_, stream):
            width, height, seconds = stream.codec_context.width, stream.codec_context.height, _duration(stream)
    if most_pixels is not None and width * height > most_pixels:
        raise MediaError("too_large", f"{width}x{height} pixels; at most {most_pixels / 1e6:.1f} million are taken")
    if most_duration is not None and seconds > most_duration:
        raise MediaError("too_long", f"{seconds:.0f} seconds; at most {most_duration:.0f} are taken")


def _duration(stream: Any) -> float:
    """Seconds that a stream, or else its file, says that it lasts; 0 where neither does."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    whole = stream.container.duration
    return 0.0 if whole is None else whole / 1e6  # FFmpeg's AV_TIME_BASE


@contextmanager
def opened(path: Path, until: Deadline | None) -> Iterator[tuple[Iterator[Any], Any]]:
    """The packets and their video stream, decoding on one thread; FFmpeg's errors become ours."""
    import av

    try:
        with _open(path, until) as container:
            streams = [s for s in container.streams.video if not _is_picture(s)]
            if not streams:
                raise MediaError("no_video", "the file has no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise MediaError("undecodable", "there is no decoder for its video stream")
            _check_size(path, stream)
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # a stream's size can change on its way
            yield _packets(container, stream, until), stream
    except av.FFmpegError as error:
        if until is not None:
            until.check()
        raise MediaError("undecodable", error.strerror or type(error).__name__) from error


def _open(path: Path, until: Deadline | None) -> Any:
    """The container. No name and no content of it makes FFmpeg open anything else, or ask the network."""
    import av

    seconds = None if until is None else max(until.left, 0.001)
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    sizes = [{"max_pixels": str(MOST_PIXELS)}] * _STREAMS
    try:
        try:
            return av.open(
                _source(path), options=options, stream_options=sizes, timeout=seconds, metadata_errors="replace"
            )
        except av.FFmpegError:
            raise
        except ValueError:
            # Where streams show only as their packets come (MPEG-PS, FLV), no limit can be set before.
            return av.open(_source(path), options=options, timeout=seconds, metadata_errors="replace")
    except av.ArgumentError as error:
        raise MediaError("undecodable", "no video container: a picture or a playlist, say") from error


def _source(path: Path) -> Any:
    absolute = os.path.abspath(path)
    try:
        absolute.encode()
    except UnicodeEncodeError:
        return io.BufferedReader(io.FileIO(absolute))  # FFmpeg takes UTF-8 names only; Python opens any
    return f"file:{absolute}"  # else what stands before a colon would be a protocol


def _check_size(path: Path, stream: Any) -> None:
    """Refuse frames that are too large before one of them is decoded."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if not width or not height:
        width, height = _refused_size(path)
    if width * height > MOST_PIXELS:
        raise MediaError("too_large", f"{width}x{height} pixels; at most {MOST_PIXELS / 1e6:.1f} million are decoded")


def _refused_size(path: Path) -> tuple[int, int]:
    """The size of frames that FFmpeg itself would not look at, which it says in its log only; zeros for none."""
    import av
    import av.logging

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said, _open(path, None):
            pass
    finally:
        av.logging.set_level(level)
    found = (re.search(r"Picture size (\d+)x(\d+) exceeds", line) for _, _, line in said)
    return next(((int(size[1]), int(size[2])) for size in found if size), (0, 0))


def _is_picture(stream: Any) -> bool:
    """Whether a stream is the cover picture of an audio file."""
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _demux(packets: Iterator[Any], stream: Any) -> _Packets:
    pts: list[int] = []
    decoded: list[int] = []
    keys: list[int] = []
    size = 0
    for packet in packets:
        if not packet.size:
            continue
        if packet.pts is None:
            raise _MissedError
        if packet.is_keyframe:
            keys.append(len(decoded))
        decoded.append(packet.pts)
        if not packet.is_discard:
            pts.append(packet.pts)
            size += packet.size
    if not pts:
        raise MediaError("undecodable", "the video stream has no frames")
    in_order = sorted(pts)
    # AVI and its like know decoding times only: frames are reordered, but the packets' times are not.
    unordered = pts == in_order and stream.codec_context.has_b_frames
    if unordered or len(set(pts)) < len(pts):
        raise _MissedError
    return _Packets(in_order, decoded, keys, size)


def _packets(container: Any, stream: Any, until: Deadline | None) -> Iterator[Any]:
    """All whole packets of a stream; a file cut short simply ends earlier."""
    import av

    packets = container.demux(stream)
    for _ in range(_MOST_PACKETS):
        if until is not None:
            until.check()
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            if until is not None:
                until.check()  # FFmpeg itself stops then, too
            return
        if not packet.is_corrupt:
            yield packet
    raise MediaError("too_large", f"more than {_MOST_PACKETS} frames")


def _wanted(plan: Plan, count: int) -> list[int]:
    indices = sorted({int(i) for i in plan(count)})
    if not indices:
        raise MediaError("too_short", f"{count} frames")
    if indices[0] < 0 or indices[-1] >= count:
        raise ValueError(f"the plan wants frame {indices[-1]} of a video with {count}")
    return indices


def _read_wanted(path: Path, plan: Plan, until: Deadline | None) -> Frames:
    with opened(path, until) as (source, stream):
        packets = _demux(source, stream)
        indices = _wanted(plan, len(packets.pts))
    with opened(path, until) as (source, stream):
        targets = [packets.pts[i] for i in indices]
        sink = Sink(len(indices))
        for frame in _decode_targets(source, stream, packets, targets):
            place = bisect_left(targets, frame.pts)
            if place < len(targets) and targets[place] == frame.pts:
                sink.put(place, frame, float(frame.pts * stream.time_base))
            if sink.full:
                break
        if not sink.full:
            raise _MissedError
        return sink.frames(indices, _info(path, stream, len(packets.pts), packets.size, sink))


def _needed(packets: _Packets, targets: list[int]) -> bytearray:
    """For each packet whether it is decoded: all from the keyframe before each target on, and short gaps between."""
    wanted = set(targets)
    needed = bytearray(len(packets.decoded))
    last_end = 0
    for place, pts in enumerate(packets.decoded):
        if pts not in wanted:
            continue
        key = bisect_right(packets.keys, place) - 1
        # A frame presented before the keyframe it is decoded after (an open GOP's) needs the one before as well.
        while key >= 0 and packets.decoded[packets.keys[key]] > pts:
            key -= 1
        start = packets.keys[key] if key >= 0 else 0
        start = last_end if start - last_end < _SHORT_GAP else max(start, last_end)
        needed[start : place + 1] = b"\1" * (place + 1 - start)
        last_end = place + 1
    return needed


def _decode_targets(source: Iterator[Any], stream: Any, packets: _Packets, targets: list[int]) -> Iterator[Any]:
    """Frames in order of presentation, without most of those that neither a plan nor another frame needs.

    Stretches of a long video in which nothing is wanted are jumped over, to the next keyframe. Nothing is skipped
    until the first frame is out: a head whose first frames cannot be decoded (an open GOP cut from a longer file)
    shows in its pts, and then counting packets would count frames that never come.
    """
    import av

    wanted, needed = set(targets), _needed(packets, targets)
    context = stream.codec_context
    started = jumping = False
    landed: int | None = None  # the pts of a keyframe jumped to, until its frame is out
    for place, packet in enumerate(source):
        if started and packet.size and not needed[place]:
            jumping = True
            continue
        if jumping:
            yield from context.decode(None)  # what the decoder still holds back
            context.flush_buffers()
            jumping, landed = False, packet.pts
        context.skip_frame = "DEFAULT" if not started or packet.pts in wanted or not packet.size else "NONREF"
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            if not started and frame.pts != packets.pts[0]:
                raise _MissedError
            started = True
            if landed is not None and frame.pts >= landed:
                # Some files call frames keys that lean on earlier ones (refreshed bit by bit): no place to land.
                if frame.pts != landed or frame.pict_type != av.video.frame.PictureType.I:
                    raise _MissedError
                landed = None
            yield frame


def _read_all(path: Path, plan: Plan, until: Deadline | None) -> Frames:
    """Decode once to count the frames that come out and once more to keep the wanted ones."""
    with opened(path, until) as (source, stream):
        times = _times([frame.pts for frame in _decode_all(source)], stream)
    if not times:
        raise MediaError("undecodable", "no frame could be decoded")
    indices = _wanted(plan, len(times))
    with opened(path, until) as (source, stream):
        sink = Sink(len(indices))
        for index, frame in enumerate(_decode_all(source)):
            if indices[sink.filled] == index:
                sink.put(sink.filled, frame, times[index])
            if sink.full:
                break
        return sink.frames(indices, _info(path, stream, len(times), path.stat().st_size, sink))


def _times(pts: list[int | None], stream: Any) -> list[float]:
    """Seconds of each frame: as the file says where that makes sense, else at its rate."""
    known = [p for p in pts if p is not None]
    if len(known) == len(pts) and all(a < b for a, b in pairwise(known)):
        return [float(p * stream.time_base) for p in known]
    return [i / float(stream.average_rate or 25) for i in range(len(pts))]


def _decode_all(source: Iterator[Any]) -> Iterator[Any]:
    import av

    for packet in source:
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue


def _info(path: Path, stream: Any, count: int, size: int, sink: Sink) -> MediaInfo:
    fps = float(stream.average_rate or 0)
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = count / fps if fps else 0.0
    return MediaInfo(
        width=sink.size[0],
        height=sink.size[1],
        frames=count,
        fps=fps,
        duration=duration,
        codec=str(stream.codec_context.name),
        bitrate=int(size * 8 / duration) if duration > 0 else 0,
        pixel_format=str(stream.codec_context.pix_fmt or ""),
        rotation=sink.rotation,
    )
