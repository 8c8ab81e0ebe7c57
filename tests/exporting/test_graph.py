"""ONNX graphs say what the detectors that they were made of say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.errors import UserError
from deepfake.exporting import graph
from deepfake.exporting.graph import _Look, _shrinking, check_parity, write_graph
from deepfake.models.detector import Detector, create_detector, resized
from deepfake.models.options import BackboneOptions, ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit
from deepfake.training.domain_features import pooled_features
from deepfake.training.views import VIEWS, WHOLE, View, viewed_by, views_of

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

FRAMES, SIZE = 3, 32
HEADS: dict[str, HeadOptions] = {
    "mean": Mean(),
    "lstm": Lstm(hidden=8, layers=2),
    "gru": Gru(hidden=8),
    "one way": Gru(hidden=8, bidirectional=False),
    "vit": Vit(width=16, heads=2, depth=1, max_grid=2, changes=True),
    "convlstm": ConvLstm(hidden=8, layers=2, changes=True),
}


def made(head: HeadOptions, **backbone: Any) -> Detector:
    torch.manual_seed(0)
    return create_detector(BackboneOptions(name="tiny", pretrained=False, **backbone), head, SIZE).eval()


def clips(batch: int, frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, frames, 3, SIZE, SIZE)).astype(np.uint8)


def run(file: Path, pixels: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    named = [one.name for one in session.get_outputs()]
    return dict(zip(named, session.run(named, {"clips": pixels, "mask": mask}), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_says_the_same_of_any_number_of_clips_and_frames(kind: str, tmp_path: Path) -> None:
    detector, file = made(HEADS[kind]), tmp_path / "model.onnx"
    assert write_graph(detector, [WHOLE], (FRAMES, SIZE), file) < 1e-5
    for batch, frames in [(1, 1), (4, 3), (3, 3), (2, 7)]:
        # Not only ends are left out: a mask may have holes.
        mask = np.random.default_rng(batch).random((batch, frames)) < 0.6
        mask[:, -1] = True
        pixels = clips(batch, frames)
        with torch.inference_mode():
            expected = detector(torch.from_numpy(pixels), torch.from_numpy(mask))
            features = pooled_features(detector.extract(torch.from_numpy(pixels)), torch.from_numpy(mask))
        found = run(file, pixels, mask)
        np.testing.assert_allclose(found["logits"], expected.logits.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["features"], features.numpy(), rtol=1e-4, atol=1e-5)
        seen = found["frame_logits"][mask]
        np.testing.assert_allclose(seen, expected.frame_logits.numpy()[mask], atol=1e-5)


@pytest.mark.slow
def test_looks_and_sides_are_in_the_graph(tmp_path: Path) -> None:
    detector, file = made(Mean(), size=20), tmp_path / "model.onnx"
    views = views_of([*VIEWS], 0.7)
    write_graph(detector, views, (FRAMES, SIZE), file)
    pixels, mask = clips(2, 3), np.ones((2, 3), bool)
    with torch.inference_mode():
        expected = viewed_by(detector, views)(torch.from_numpy(pixels), torch.from_numpy(mask)).logits.numpy()
    np.testing.assert_allclose(run(file, pixels, mask)["logits"], expected, atol=1e-5)


@pytest.mark.slow
def test_a_graph_of_another_detector_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, file = made(Mean()), tmp_path / "model.onnx"
    write_graph(detector, [WHOLE], (FRAMES, SIZE), file)
    with torch.no_grad():
        detector.head.classifier.bias += 2e-4
    with pytest.raises(UserError, match=r"0\.0002 from PyTorch's, of \d clips of \d frames; at most 0\.0001"):
        check_parity(detector, file, (FRAMES, SIZE))
    with torch.no_grad():
        detector.head.classifier.bias += float("nan")
    with pytest.raises(UserError, match="nan from PyTorch's"):
        check_parity(detector, file, (FRAMES, SIZE))


@pytest.mark.parametrize(("side", "to"), [(64, 17), (38, 22), (22, 38), (50, 51), (64, 64), (512, 50), (300, 16)])
def test_bytes_are_brought_to_another_side_as_pytorch_does_it(side: int, to: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, side, side)).astype(np.uint8))
    found = _Look(View(), side, to)(pixels.float()[None])[0]
    assert torch.equal(found, resized(pixels, to).float())


def test_weights_beyond_what_float32_adds_exactly_are_float64() -> None:
    assert _shrinking(64, 32)[0].dtype == torch.float32
    assert _shrinking(640, 32)[0].dtype == torch.float64


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx is not installed"):
        graph.require_onnx()
