"""Images into face boxes with landmarks, by whichever detector was chosen. Knows nothing of videos or crops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.data.faces.base import FaceDetector

if TYPE_CHECKING:
    from deepfake.data.options import DatasetOptions


def find_face_model(options: DatasetOptions, cache: Path) -> Path | None:
    """The model file ``dataset.faces`` needs, fetched to ``cache/models`` where none is named; None for most.

    Raises:
        DataError: It is not there and cannot be fetched.
    """
    if options.faces != "yunet":
        return None
    from deepfake.data.faces.yunet import find_model

    return find_model(Path(options.face_model) if options.face_model else None, cache / "models")


def create_detector(faces: str, model: str | None) -> FaceDetector | None:
    """The detector ``dataset.faces`` names; None where crops need none (``none`` and ``center``).

    Args:
        faces: One of :data:`deepfake.data.options.FACE_MODES`.
        model: What :func:`find_face_model` found; of ``mtcnn`` the folder of its weights, where they are not those
            that are installed.
    """
    if faces == "mtcnn":
        from deepfake.data.faces.mtcnn import Mtcnn

        return Mtcnn(weights=None if model is None else Path(model))
    if model is not None:
        from deepfake.data.faces.yunet import YuNet

        return YuNet(Path(model))
    return None
