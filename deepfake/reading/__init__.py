"""An exported detector that answers for files: OpenCV, FFmpeg and ONNX Runtime, no torch, no pandas, no Hydra.

``deepfake export`` writes the folder. All of this room, and of what it leans on, is the ``deepfake-reader``
distribution too (``reader/``)."""

from deepfake.reading.detector import Detector

__all__ = ["Detector"]
