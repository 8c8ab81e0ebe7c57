"""Encoding that gives the same bytes at any time, in any process and on any processor; colours there and back."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from deepfake.data.encoding import INTRA, to_rgb, to_yuv420p, write_video
from deepfake.data.media import Pixels
from tests.data.making import numbered

#: Of every way in which something is encoded here, and x264's own defaults.
WAYS = {"intra": INTRA, "damage": {"crf": "30", "preset": "veryfast"}, "plain": {}}

#: Prints one line for each way: the digests of five encodings.
DIGESTS = """
from tests.data.test_encoding import WAYS, digest, footage
for options in WAYS.values():
    print(*(digest(footage(), options) for _ in range(5)))
"""


def footage(frames: int = 12, width: int = 96, height: int = 96) -> list[Pixels]:
    """Something moving, with noise."""
    noise = np.random.default_rng(0).integers(-8, 9, (frames, height, width, 3))
    return [(numbered(7 * n, width, height) + noise[n]).clip(0, 255).astype(np.uint8) for n in range(frames)]


def encode(frames: list[Pixels], options: dict[str, str]) -> bytes:
    held = io.BytesIO()
    write_video(held, frames, 24, options)
    return held.getvalue()


def digest(frames: list[Pixels], options: dict[str, str]) -> str:
    return hashlib.sha256(encode(frames, options)).hexdigest()


def decode(data: bytes) -> list[Pixels]:
    with av.open(io.BytesIO(data)) as container:
        return [to_rgb(frame.to_ndarray()) for frame in container.decode(video=0)]


@pytest.mark.parametrize("way", WAYS)
def test_twenty_encodings_are_one_stream(way: str) -> None:
    assert len({digest(footage(), WAYS[way]) for _ in range(20)}) == 1


def test_processes_that_crowd_the_processor_encode_alike() -> None:
    root = Path(__file__).parents[2]
    count = 2 * (os.cpu_count() or 1)
    started = [
        subprocess.Popen([sys.executable, "-c", DIGESTS], cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    printed = [process.communicate()[0] for process in started]
    own = [digest(footage(), options) for options in WAYS.values()]
    for text in printed:
        assert [set(line.split()) for line in text.splitlines()] == [{one} for one in own]


def test_a_frame_encoded_by_itself_does_not_depend_on_the_others() -> None:
    first, second = (decode(encode(frames, INTRA)) for frames in (footage(6), footage(6)[3:4] + footage(6)[:1]))
    np.testing.assert_array_equal(first[3], second[0])
    np.testing.assert_array_equal(first[0], second[1])


@pytest.mark.parametrize(("width", "height"), [(48, 48), (47, 49), (49, 48)])
def test_every_frame_comes_back_nearly_as_it_was(width: int, height: int) -> None:
    frames = [numbered(n, width, height) for n in range(3)]
    decoded = decode(encode(frames, INTRA))
    assert [image.shape for image in decoded] == [(height + height % 2, width + width % 2, 3)] * 3
    for before, after in zip(frames, decoded, strict=True):
        assert np.abs(before.astype(int) - after[:height, :width]).mean() < 4


def test_colours_are_those_of_the_standard() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 1, 16, 1, 3), np.uint8)
    flat = np.broadcast_to(pixels, (16, 2, 16, 2, 3)).reshape(32, 32, 3)
    red, green, blue = (flat[..., channel].astype(float) / 255 for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    quarter = (slice(None, None, 2), slice(None, None, 2))
    planes = to_yuv420p(flat)
    for found, exact in (
        (planes[:32], 16 + 219 * luma),
        (planes[32:40].reshape(16, 16), 128 + 224 * ((blue - luma) / 1.772)[quarter]),
        (planes[40:].reshape(16, 16), 128 + 224 * ((red - luma) / 1.402)[quarter]),
    ):
        assert np.abs(found - exact).max() < 0.51
    # Eight bits of YUV hold fewer colours than eight bits of RGB.
    assert np.abs(to_rgb(planes).astype(int) - flat).max() <= 3


def test_extreme_colours_stay_inside_the_standards_range() -> None:
    corners = np.array(
        [[[r, g, b]] * 2 for r in (0, 255) for g in (0, 255) for b in (0, 255) for _ in range(2)], np.uint8
    )
    planes = to_yuv420p(corners)
    assert planes.min() == 16
    assert planes.max() == 240
    assert np.abs(to_rgb(planes).astype(int) - corners).max() <= 1
