"""Graphs of 8 bits answer under the same names, unshifted, with steps that are as fine as what is kept allows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.exporting.graph import write_graph
from deepfake.exporting.quantize import quantize
from deepfake.models.detector import create_detector
from deepfake.models.options import BackboneOptions, Gru
from deepfake.training.views import WHOLE

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SIZE = 32
Pairs = list[tuple[np.ndarray, np.ndarray]]


def pairs(count: int, frames: int, seed: int = 0) -> Pairs:
    random = np.random.default_rng(seed)
    shape = (1, frames, 3, SIZE, SIZE)
    return [
        ((random.integers(0, 32, shape) + random.integers(0, 224)).astype(np.uint8), np.ones((1, frames), bool))
        for _ in range(count)
    ]


def answers(file: Path, clips: Pairs) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    named = [one.name for one in session.get_outputs()]
    found = [session.run(named, {"clips": pixels, "mask": mask}) for pixels, mask in clips]
    return {name: np.concatenate(of_all) for name, of_all in zip(named, zip(*found, strict=True), strict=True)}


@pytest.mark.slow
def test_a_detector_of_8_bits_is_smaller_and_not_shifted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    detector = create_detector(BackboneOptions(name="tiny", pretrained=False), Gru(hidden=64), SIZE).eval()
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    write_graph(detector, [WHOLE], (3, SIZE), whole)
    known = pairs(16, 3)
    shift = quantize(whole, small, known)
    before, after = answers(whole, known), answers(small, known)
    assert list(before) == list(after)
    for name, values in before.items():
        assert after[name].shape == values.shape
    assert after["logits"].mean() == pytest.approx(before["logits"].mean(), abs=1e-5)
    # Frames are shifted as clips are.
    shifts = (after["frame_logits"] - before["frame_logits"]).mean()
    assert abs(shifts) <= abs(shifts - shift) + 1e-5
    assert small.stat().st_size < whole.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.onnx", "whole.onnx"]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("bound", ["Clip", "Relu"])
def test_steps_are_not_spent_on_what_is_cut_off(bound: str, tmp_path: Path) -> None:
    """A layer from -170 to 40 of which nothing below 0 goes on: in 256 steps of all of it, one is 0.8."""
    file, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    onnx.save(_bounded(bound), file)
    # Of one brightness, so that errors of rounding are not averaged away.
    grey = [(np.full((1, 2, 3, SIZE, SIZE), level, np.uint8), np.ones((1, 2), bool)) for level in range(256)]
    quantize(file, small, [grey[level] for level in (0, 100, 180, 255)])
    expected = answers(file, grey)["logits"]
    assert expected.max() - expected.min() >= 6
    assert np.abs(answers(small, grey)["logits"] - expected).max() < 0.2


def _bounded(bound: str) -> Any:
    """Frames brought to -170 .. 40, bounded, their mean as logits [B]."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, *values: float, shape: tuple[int, ...] = (), kind: type = np.float32) -> Any:
        return numpy_helper.from_array(np.array(values, kind).reshape(shape), name)

    limits = ["low", "high"] if bound == "Clip" else []
    nodes = [
        helper.make_node("Cast", ["clips"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["frames"]),
        helper.make_node("Conv", ["frames", "weight", "bias"], ["wide"], name="conv"),
        helper.make_node(bound, ["wide", *limits], ["kept"], name="bound"),
        helper.make_node("ReduceMean", ["kept", "axes"], ["logits"], keepdims=0),
    ]
    constants = [
        constant("shape", 0, -1, SIZE, SIZE, shape=(4,), kind=np.int64),
        constant("weight", *[210 / 255 / 6] * 6, shape=(1, 6, 1, 1)),
        constant("bias", -170, shape=(1,)),
        constant("low", 0),
        constant("high", 6),
        constant("axes", 1, 2, 3, shape=(3,), kind=np.int64),
    ]
    clips = helper.make_tensor_value_info("clips", TensorProto.UINT8, ["batch", 2, 3, SIZE, SIZE])
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])
    graph = helper.make_graph(nodes, "bounded", [clips, mask], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
