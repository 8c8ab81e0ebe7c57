"""Hashes of pictures."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from deepfake.data.hashing import dhash, distances, thumbnail


def _picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)


def _recompressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    "change",
    [
        _recompressed,
        lambda image: cv2.resize(image, (150, 120)),
        lambda image: cv2.convertScaleAbs(image, None, 0.8, 9),
    ],
    ids=["recompressed", "scaled", "toned"],
)
def test_the_same_picture_stays_alike(change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = _picture(0)
    assert int(dhash(image) ^ dhash(change(image))).bit_count() <= 5


def test_other_pictures_differ() -> None:
    hashes = [dhash(_picture(seed)) for seed in range(20)]
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 10


def test_distances_count_bits() -> None:
    assert distances(np.array([0, 3, 2**64 - 1], np.uint64), 1).tolist() == [1, 1, 63]


def test_a_thumbnail_is_small_and_grey() -> None:
    assert thumbnail(_picture(1)).shape == (16, 16)
