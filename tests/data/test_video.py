"""Exact frames from every kind of file, or a reason."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from deepfake.data import decoded, video
from deepfake.data.media import MediaError, Views
from deepfake.data.video import Sink, frame_rate, read_video
from tests.data.making import decode_all, number_of, numbered, rotate_header, write_video

BFRAMES = {"bf": "3", "g": "30"}
PYRAMID = {"x264-params": "bframes=8:b-pyramid=normal:ref=4:keyint=250"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=30:min-keyint=30:bframes=3:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=48:bframes=0"}

MAKERS: dict[str, Callable[[Path], Path]] = {
    "b-frames": lambda folder: write_video(folder / "v.mp4", 90, options=BFRAMES),
    "b-pyramid": lambda folder: write_video(folder / "v.mp4", 90, options=PYRAMID),
    "variable rate": lambda folder: write_video(
        folder / "v.mp4", 90, options=BFRAMES, steps=[random.Random(i).randint(1, 9) for i in range(90)]
    ),
    "edit list": lambda folder: write_video(folder / "v.mp4", 90, options=BFRAMES, shift=31),
    "open GOP": lambda folder: write_video(folder / "v.mp4", 90, options=OPEN_GOP),
    "cut open GOP": lambda folder: write_video(folder / "v.mp4", 90, options=OPEN_GOP, skip_packets=31),
    "transport stream": lambda folder: write_video(folder / "v.ts", 90, options=OPEN_GOP),
    "no presentation times": lambda folder: write_video(folder / "v.avi", 60, options=BFRAMES),
    "mpeg4 avi": lambda folder: write_video(folder / "v.avi", 60, codec="mpeg4", options={"bf": "2"}),
    "grey": lambda folder: write_video(folder / "v.mp4", 30, pixel_format="gray"),
    "10 bit": lambda folder: write_video(folder / "v.mp4", 30, pixel_format="yuv420p10le"),
    "one frame": lambda folder: write_video(folder / "v.mp4", 1),
    "long": lambda folder: write_video(folder / "v.mp4", 220, options=BFRAMES),
    "long, open GOP": lambda folder: write_video(folder / "v.mkv", 220, options=OPEN_GOP),
    "long, refreshed bit by bit": lambda folder: write_video(folder / "v.mp4", 220, options=REFRESH),
    "cut short": lambda folder: _cut_short(write_video(folder / "v.mkv", 90, options=BFRAMES)),
}
PLANS: dict[str, Callable[[int], list[int]]] = {
    "sparse": lambda n: list(range(0, n, 7)),
    "all": lambda n: list(range(n)),
    "last": lambda n: [n - 1],
    "far apart": lambda n: sorted({0, n // 2, n - 1}),
    "run": lambda n: list(range(n // 3, min(n, n // 3 + 9), 2)),
}


def _cut_short(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[np.ndarray]]]:
    files = {name: make(tmp_path_factory.mktemp("video")) for name, make in MAKERS.items()}
    return {name: (path, decode_all(path)) for name, path in files.items()}


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", MAKERS)
def test_frames_are_those_of_a_full_decode(kind: str, plan: str, made: dict) -> None:
    path, full = made[kind]
    frames = read_video(path, PLANS[plan])
    assert frames.indices.tolist() == PLANS[plan](len(full))
    assert all(np.array_equal(full[i], image) for i, image in zip(frames.indices, frames.images, strict=True))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", MAKERS)
def test_times_rise_with_the_frames(kind: str, plan: str, made: dict) -> None:
    assert (np.diff(read_video(made[kind][0], PLANS[plan]).pts) > 0).all()


@pytest.mark.parametrize("kind", ["long", "long, refreshed bit by bit"])
def test_a_frame_has_one_time_however_it_is_reached(kind: str, made: dict) -> None:
    every = read_video(made[kind][0], range).pts
    assert read_video(made[kind][0], lambda n: [2, n // 2, n - 1]).pts.tolist() == every[[2, 110, 219]].tolist()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_plan_is_told_how_many_frames_can_be_had(kind: str, made: dict) -> None:
    path, full = made[kind]
    assert read_video(path, lambda n: [0]).info.frames == len(full)


def test_frames_carry_the_numbers_they_were_written_with(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 80, options=BFRAMES)
    frames = read_video(path, lambda n: [3, 41, 79])
    assert [number_of(image) for image in frames.images] == [3, 41, 79]


def test_stretches_without_wanted_frames_are_jumped_over(made: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = video._needed

    def spy(*arguments: object) -> bytearray:
        needed = real(*arguments)
        decoded.append(sum(needed))
        return needed

    monkeypatch.setattr(video, "_needed", spy)
    read_video(made["long"][0], lambda n: [0, n - 1])
    assert decoded[0] < 40


def test_times_are_those_written(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 5, steps=[2, 10, 4, 1, 1])
    frames = read_video(path, range)
    assert np.diff(frames.pts) == pytest.approx([0.04, 0.2, 0.08, 0.02])


@pytest.mark.parametrize(
    ("turn", "quarter_turns"), [((0, 1, -1, 0), 3), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)], ids=["90", "270", "180"]
)
def test_the_rotation_is_applied(turn: tuple[int, int, int, int], quarter_turns: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 3)
    upright = read_video(path, lambda n: [1]).images[0]
    rotate_header(path, turn)
    assert np.array_equal(read_video(path, lambda n: [1]).images[0], np.rot90(upright, quarter_turns))


@pytest.mark.parametrize("pixel_format", ["gray", "yuv420p10le", "yuv444p"])
def test_colours_survive(pixel_format: str, tmp_path: Path) -> None:
    image = read_video(write_video(tmp_path / "v.mp4", 1, pixel_format=pixel_format), lambda n: [0]).images[0]
    wanted = numbered(0).astype(float)
    if pixel_format == "gray":
        wanted[:] = (wanted @ [0.299, 0.587, 0.114])[:, :, None]
    assert np.abs(image.astype(float) - wanted).mean() < 6


@pytest.mark.parametrize("deep", ["yuv420p10le", "yuv422p10le"])
def test_ten_bits_give_the_colours_of_eight(deep: str, tmp_path: Path) -> None:
    """One picture in both depths, without loss: edges of colour must not differ by how a class was published."""
    rng = np.random.default_rng(0)
    plain = deep.replace("10le", "")
    picture = np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    shallow = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=plain)
    images = []
    for name in (plain, deep):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, name
            container.mux([*stream.encode(shallow.reformat(format=name)), *stream.encode()])
        images.append(read_video(tmp_path / f"{name}.mkv", lambda n: [0]).images[0].astype(int))
    assert np.abs(images[0] - images[1]).max() <= 3


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_frames_are_the_same_again_and_under_load(pixel_format: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 40, pixel_format=pixel_format, size=(322, 182))
    first = read_video(path, lambda n: [0, 17, 18, 39]).images
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda _: read_video(path, lambda n: [0, 17, 18, 39]).images, range(24)))
    assert all(np.array_equal(first, images) for images in again)


def test_a_frame_of_another_size_is_scaled_alike_each_time() -> None:
    frames = [av.VideoFrame.from_ndarray(numbered(7, *size), "rgb24") for size in ((160, 96), (322, 182))]
    made = []
    for _ in range(8):
        sink = Sink(2)
        for place, frame in enumerate(frames):
            sink.put(place, frame.reformat(format="yuv420p"), float(place))
        made.append(sink._images)
    assert all(np.array_equal(made[0], images) for images in made[1:])


def test_any_file_name_works(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a \xff \xe9.mp4"))
    write_video(tmp_path / "v.mp4", 2).rename(path)
    assert len(read_video(path, range).images) == 2


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"not a video at all" * 99), "undecodable"),
        (lambda path: _cut_short(write_video(path, 60)), "undecodable"),  # the index of a plain mp4 is at its end
        (_audio, "no_video"),
        (lambda path: None, "missing"),
        (lambda path: path.mkdir(), "not_a_file"),
    ],
    ids=["zero bytes", "junk", "cut mp4", "audio only", "missing", "folder"],
)
def test_a_file_without_frames_says_why(write: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    write(tmp_path / "v.mp4")
    with pytest.raises(MediaError) as caught:
        read_video(tmp_path / "v.mp4", lambda n: [0])
    assert caught.value.reason == reason


def test_a_plan_that_wants_nothing_finds_the_video_too_short(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="too_short"):
        read_video(write_video(tmp_path / "v.mp4", 2), lambda n: [])


def test_real_videos_decode_exactly(shared_data: Path) -> None:
    path = shared_data / "real_videos" / "cap13_edit2.mp4"
    full = decode_all(path)
    frames = read_video(path, lambda n: range(5, n, 60))
    assert all(np.array_equal(full[i], image) for i, image in zip(frames.indices, frames.images, strict=True))


@pytest.mark.parametrize(
    "name", ["2024-01-01T12:30:00.mp4", "concat:a|b.mp4", "cache:v.mp4", "data:,x.mp4", "50%20.mp4"]
)
def test_a_colon_in_a_name_is_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.mp4", 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert read_video(Path(name), range).info.frames == 3


def test_a_folder_named_like_a_protocol_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "http:" / "127.0.0.1"
    folder.mkdir(parents=True)
    write_video(folder / "v.mp4", 3)
    monkeypatch.chdir(tmp_path)
    assert read_video(Path("http:/127.0.0.1/v.mp4"), range).info.frames == 3


LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {other}\n",
    "ffconcat of itself": "ffconcat version 1.0\nfile list.m3u8\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ts"])
@pytest.mark.parametrize("kind", LISTS)
def test_what_names_other_files_is_no_video(kind: str, suffix: str, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", 3)
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[kind].format(other=other.name))
    with pytest.raises(MediaError) as caught:
        read_video(path, range)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mpg", "mpeg2video"), (".flv", "flv"), (".wmv", "wmv2"), (".ts", "mpeg2video")]
)
def test_containers_that_show_their_streams_late_are_read(suffix: str, codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"v{suffix}", 30, codec=codec)
    assert len(read_video(path, lambda n: [0, n - 1]).images) == 2


def test_a_stream_without_a_decoder_is_undecodable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="undecodable: there is no decoder"):
        read_video(path, range)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "ffv1")])
def test_frames_that_are_too_large_are_refused_with_their_size(
    suffix: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / f"v{suffix}", 2, codec=codec)
    monkeypatch.setattr(video, "MOST_PIXELS", 160 * 96 - 1)
    with pytest.raises(MediaError, match="too_large: 160x96"):
        read_video(path, range)


def test_frames_that_fill_the_memory_lie_in_a_file_and_are_the_same(
    made: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, full = made["b-frames"]
    monkeypatch.setattr(decoded, "_IN_MEMORY", 1 << 10)
    frames = read_video(path, range)
    assert isinstance(frames.images, np.memmap)
    views = Views(frames.images)
    assert all(np.array_equal(full[i], view) for i, view in enumerate(views))
    assert np.array_equal(views[3:5][1], full[4])


def test_a_video_of_too_many_packets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", 12)
    monkeypatch.setattr(video, "_MOST_PACKETS", 10)
    with pytest.raises(MediaError, match="too_large"):
        read_video(path, range)


@pytest.mark.parametrize(("ticks", "fps"), [(1, 50.0), (2, 25.0), (5, 10.0)])
def test_a_files_frame_rate_is_read_without_decoding(tmp_path: Path, ticks: int, fps: float) -> None:
    path = write_video(tmp_path / "v.mp4", 40, steps=[ticks] * 40)
    assert frame_rate(path) == pytest.approx(fps, rel=0.03)


def test_the_frame_rate_of_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text("no video")
    with pytest.raises(MediaError):
        frame_rate(tmp_path / "v.mp4")
