"""Faces by YuNet through OpenCV, and where its model file comes from. Knows nothing of videos or crops.

The model is in no package: it is a file the user names, or the public one, fetched once and held to its checksum.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

import numpy as np

from deepfake.data.faces.base import Box, Face
from deepfake.data.media import Pixels
from deepfake.errors import DataError

MODEL_NAME = "face_detection_yunet_2023mar.onnx"
MODEL_URL = (
    "https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98/"
    f"models/face_detection_yunet/{MODEL_NAME}"
)
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_BY_HAND = f"download {MODEL_URL} elsewhere and set dataset.face_model to the file"


class YuNet:
    """Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector" (doi:10.1007/s11633-023-1423-y).

    Args:
        model: Its ONNX file.
        threshold: The least score of a face.

    Raises:
        DataError: The file is no such model.
    """

    def __init__(self, model: Path, threshold: float = 0.7) -> None:
        import cv2

        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold)
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise DataError(
                f"dataset.face_model={str(model)!r} is no YuNet model OpenCV can read: {error}", _BY_HAND
            ) from error

    def detect(self, image: Pixels) -> list[Face]:
        """See :class:`deepfake.data.faces.base.FaceDetector`."""
        height, width = image.shape[:2]
        self._net.setInputSize((width, height))
        _, rows = self._net.detect(np.ascontiguousarray(image[:, :, ::-1]))
        faces = [_face(row) for row in (rows if rows is not None else [])]
        return sorted(faces, key=lambda face: -face.score)

    def follow(self, image: Pixels, box: Box) -> Face | None:
        """None: it is fast enough to look everywhere in the little image it is given."""
        return None


def _face(row: np.ndarray) -> Face:
    x, y, width, height = row[:4]
    return Face(np.array([x, y, x + width, y + height], np.float32), float(row[14]), row[4:14].reshape(5, 2))


def find_model(given: Path | None, folder: Path) -> Path:
    """The model file: the one given, or the public one, downloaded to ``folder`` the first time.

    Raises:
        DataError: No such file, no way to download it, or another file than the one expected came.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(f"dataset.face_model={str(given)!r} is not a file", _BY_HAND)
        return given
    file = folder / MODEL_NAME
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{MODEL_NAME}-{os.getpid()}"
        try:
            temporary.write_bytes(_download())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    _check_sum(file.read_bytes(), str(file))
    return file


def _download() -> bytes:
    try:
        with urllib.request.urlopen(MODEL_URL, timeout=30) as response:  # noqa: S310 - a constant, https
            data = bytes(response.read())
    except OSError as error:
        raise DataError(f"the YuNet model cannot be downloaded: {error}", _BY_HAND) from error
    _check_sum(data, MODEL_URL)
    return data


def _check_sum(data: bytes, source: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != MODEL_SHA256:
        raise DataError(f"{source} has SHA-256 {found}, not {MODEL_SHA256}", f"remove it, or {_BY_HAND}")
