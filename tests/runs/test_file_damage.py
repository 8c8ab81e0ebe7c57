"""Files damaged as a whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.data.media import read_image
from deepfake.data.video import read_video
from deepfake.runs.file_damage import FILE_KINDS
from tests.data.making import write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mp4", 12)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "i.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    return path


@pytest.mark.parametrize("name", [name for name, kind in FILE_KINDS.items() if "video" in kind.kinds])
def test_a_damaged_video_has_as_many_frames_at_the_same_rate(video: Path, tmp_path: Path, name: str) -> None:
    kind, before = FILE_KINDS[name], read_video(video, range)
    for severity in kind.severities:
        after = read_video(kind.write(before, severity, tmp_path / "out"), range)
        assert (after.info.frames, after.info.fps) == (12, before.info.fps)
        assert not np.array_equal(after.images, before.images)


@pytest.mark.parametrize("name", [name for name, kind in FILE_KINDS.items() if "image" in kind.kinds])
def test_a_damaged_image_can_be_read(image: Path, tmp_path: Path, name: str) -> None:
    kind, before = FILE_KINDS[name], read_image(image)
    sizes = []
    for severity in kind.severities:
        file = kind.write(before, severity, tmp_path / "out")
        assert read_image(file).images.shape[0] == 1
        sizes.append(file.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_made_smaller_has_that_side(video: Path, image: Path, tmp_path: Path) -> None:
    shrink = FILE_KINDS["file size"]
    assert read_image(shrink.write(read_image(image), 0.5, tmp_path / "i")).images.shape[1:3] == (30, 40)
    assert read_video(shrink.write(read_video(video, range), 0.25, tmp_path / "v2"), range).images.shape[1:3] == (
        24,
        40,
    )
