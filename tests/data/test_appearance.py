"""What is seen of a crop without a look at the face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepfake.data.appearance import BINS, appearance, colours, framing
from deepfake.data.crop_records import StoreWriter, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.media import MediaInfo

INFO = MediaInfo(16, 16, 3, 25.0, 0.12, "h264", 1000, "yuv420p", 0)


def test_brightness_and_contrast_are_no_framing() -> None:
    picture = np.kron(np.random.default_rng(0).integers(20, 120, (16, 16, 1)), np.ones((2, 2, 3))).astype(np.uint8)
    assert framing(picture) == pytest.approx(framing(2 * picture), abs=0.05)


def test_a_flat_picture_has_a_framing_of_zeros() -> None:
    assert framing(np.full((32, 32, 3), 7, np.uint8)) == pytest.approx(np.zeros(256))


def test_colours_are_means_deviations_and_roots_of_fractions() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 0] = 255
    found = colours(picture)
    assert found.shape == (6 + 3 * BINS,)
    assert found[:6] == pytest.approx([0.5, 0, 0, 0.5, 0, 0])
    assert (found[6 : 6 + BINS] ** 2)[[0, -1]] == pytest.approx([0.5, 0.5])


def test_the_middle_frame_of_the_middle_clip_is_looked_at_and_failed_samples_are_left_out(tmp_path: Path) -> None:
    pixels = np.zeros((3, 3, 16, 16, 3), np.uint8)
    pixels[1, 1, ..., 1] = 255
    writer = StoreWriter(tmp_path)
    crops = Crops(pixels, np.array([3, 3, 3]), np.zeros((3, 3), FRAME), INFO, (), np.zeros((16, 16), np.uint8))
    writer.append({"sample_id": "a", "status": "ok", "clips": 3}, crops)
    writer.append({"sample_id": "bad", "status": "no_face"}, None)
    writer.close()
    found = appearance(CropStore(tmp_path, read_records(tmp_path)), ["a", "bad", "absent"])
    assert list(found.index) == ["a"]
    assert found.loc["a", "colours"][:3] == pytest.approx([0, 1, 0])


def test_no_samples_give_an_empty_table(tmp_path: Path) -> None:
    assert list(appearance(CropStore(tmp_path, {}), []).columns) == ["framing", "colours"]
