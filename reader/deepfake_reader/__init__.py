"""Detectors that ``deepfake export`` wrote, read with ONNX Runtime, OpenCV and FFmpeg alone.

They are imported when they are asked for: processes that cut crops begin here too, and need none of them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepfake.reading import Detector

__all__ = ["Detector"]


def __getattr__(name: str) -> object:
    if name == "Detector":
        from deepfake.reading import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
