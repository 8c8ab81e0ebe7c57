"""Painted videos keep their times, their sound and their turn, and browsers play them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from benchmarks.hostile import turned
from deepfake.data.media import MediaError
from deepfake.data.overlay import Mark, Painter, paint_image, paint_map, paint_video

RATE = 25


def mark(seconds: float, box: tuple[float, float, float, float] = (20, 20, 60, 60), **values: Any) -> Mark:
    whole = {"face": 0, "clip": 0, "frame": round(seconds * RATE), "score": 0.9, "clip_score": 0.9, "map": None}
    return Mark(seconds=seconds, box=np.array(box, np.float32), **{**whole, **values})


def made(
    path: Path,
    count: int = 20,
    size: tuple[int, int] = (120, 80),
    *,
    ticks: list[int] | None = None,
    sound: str | None = None,
) -> Path:
    """A video whose frames grow brighter, with sound where a codec is named."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264" if path.suffix != ".avi" else "mpeg4", rate=RATE)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio: Any = None if sound is None else container.add_stream(sound, rate=48_000)
        video.codec_context.time_base = Fraction(1, RATE)
        for i in range(count):
            image = np.full((size[1], size[0], 3), 10 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (ticks or range(count))[i], Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            for i in range(count * 2):
                tone = np.sin(np.arange(960) / 20, dtype=np.float32)[None]
                kind = {"aac": "fltp", "libopus": "flt", "mp3": "fltp", "libmp3lame": "fltp", "pcm_s16le": "s16"}[
                    sound or ""
                ]
                samples = tone if "flt" in kind else (tone * 3000).astype(np.int16)
                piece = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48_000, i * 960, Fraction(1, 48_000)
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


def painted(source: Path, marks: list[Mark] | None = None, title: str = "") -> tuple[Path, str]:
    target = source.with_name("painted.mp4")
    lost = paint_video(source, target, Painter(marks or [mark(0.0), mark(0.4)], 0.5, title), 20)
    return target, lost


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [round(frame.time, 3) for frame in container.decode(video=0)]


def first_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_browsers_play_what_is_painted(tmp_path: Path) -> None:
    target, lost = painted(made(tmp_path / "a.mp4"))
    data = target.read_bytes()
    assert lost == ""
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(target)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.width % 2 == stream.codec_context.height % 2 == 0


def test_an_uneven_frame_rate_stays_uneven(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 10, 11, 30, 31, 32, 33, 50]
    source = made(tmp_path / "a.mp4", 10, ticks=ticks)
    target, _ = painted(source)
    assert times(target) == times(source)
    assert times(target)[-1] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "aac"), (".mkv", "libopus"), (".avi", "pcm_s16le"), (".mp4", "libmp3lame")],
)
def test_sound_is_kept(tmp_path: Path, suffix: str, codec: str) -> None:
    target, lost = painted(made(tmp_path / f"a{suffix}", sound=codec))
    assert lost == ""
    with av.open(str(target)) as container:
        (audio,) = container.streams.audio
        assert audio.codec_context.name == "aac"
        samples = sum(frame.samples for frame in container.decode(audio))
    assert samples / 48_000 == pytest.approx(0.8, abs=0.1)
    assert len(times(target)) == 20


def test_a_turned_video_is_painted_upright(tmp_path: Path) -> None:
    lying = made(tmp_path / "lying.mp4", size=(640, 480))
    target, _ = painted(turned(lying, tmp_path / "phone.mp4"))
    assert first_frame(target).shape == (640, 480, 3)


def test_odd_sides_and_small_ones_grow(tmp_path: Path) -> None:
    odd = np.zeros((481, 485, 3), np.uint8)
    target = tmp_path / "odd.png"
    paint_image(odd, target, Painter([mark(0.0)], 0.5, "x"))
    assert cv2.imread(str(target)).shape == (482, 486, 3)
    paint_image(odd[:60, :90], target, Painter([mark(0.0)], 0.5, "x"))
    assert cv2.imread(str(target)).shape == (320, 480, 3)


def test_large_pictures_shrink(tmp_path: Path) -> None:
    target = tmp_path / "large.png"
    paint_image(np.zeros((1500, 3000, 3), np.uint8), target, Painter([mark(0.0)], 0.5, "x"))
    assert cv2.imread(str(target)).shape == (960, 1920, 3)


def test_what_cannot_be_decoded_leaves_no_video(tmp_path: Path) -> None:
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"nothing" * 100)
    with pytest.raises(MediaError):
        painted(broken)


def test_a_box_moves_evenly_between_two_looks() -> None:
    painter = Painter([mark(0.0, (0, 0, 10, 10)), mark(0.4, (20, 0, 30, 10), clip=0)], 0.5, "")
    (found,) = painter.at(0.1)
    assert found.box.tolist() == [5, 0, 15, 10]


def test_a_box_far_from_any_look_is_not_shown() -> None:
    painter = Painter([mark(0.0), mark(10.0)], 0.5, "")
    assert painter.at(5.0) == []
    assert len(painter.at(0.2)) == len(painter.at(9.9)) == 1


def test_another_clips_box_elsewhere_is_jumped_to() -> None:
    painter = Painter([mark(0.0, (0, 0, 10, 10)), mark(0.4, (50, 50, 60, 60), clip=1)], 0.5, "")
    assert painter.at(0.1)[0].box.tolist() == [0, 0, 10, 10]
    assert painter.at(0.3)[0].box.tolist() == [50, 50, 60, 60]


def test_each_face_is_shown() -> None:
    painter = Painter([mark(0.0), mark(0.0, (70, 20, 90, 60), face=1)], 0.5, "")
    assert [one.face for one in painter.at(0.0)] == [0, 1]


def test_maps_are_red_for_fake_and_blue_against_it() -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    values = np.zeros((2, 2), np.float32)
    values[0, 0], values[1, 1] = 1.0, -1.0
    paint_map(image, values, np.array([0, 0, 40, 40], np.float32))
    assert image[2, 2, 0] > image[2, 2, 2] + 50
    assert image[37, 37, 2] > image[37, 37, 0] + 50


@pytest.mark.parametrize("box", [(-30, -30, 20, 20), (30, 30, 90, 90), (100, 100, 120, 120), (5, 5, 5, 5)])
def test_maps_beyond_the_picture_paint_what_is_in_it(box: tuple[float, ...]) -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    paint_map(image, np.ones((3, 3), np.float32), np.array(box, np.float32))
    changed = (image != 128).any(2)
    x0, y0, x1, y1 = (int(np.clip(side, 0, 40)) for side in box)
    assert changed.sum() == max(x1 - x0, 0) * max(y1 - y0, 0)


def test_a_frame_without_a_map_is_painted_its_box_alone(tmp_path: Path) -> None:
    image = np.full((480, 480, 3), 128, np.uint8)
    painter = Painter([mark(0.0, (100, 100, 300, 300))], 0.5, "")
    drawn = painter.paint(image, painter.at(0.0))
    assert (drawn[150:250, 150:250] == 128).all()
    assert tuple(drawn[200, 100]) == (214, 39, 40)
