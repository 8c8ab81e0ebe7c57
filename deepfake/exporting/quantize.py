"""An ONNX graph with weights and activations of 8 bits. Knows no run; what it costs is measured elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from deepfake.exporting.graph import quiet
from deepfake.reading.detector import open_session

#: What is computed in 8 bits: what takes the time, with what bounds its results, for a range that holds what is cut off
#: as well leaves few of the 256 steps for what is kept. Heads of recurrent cells, and norms, stay as they are.
_OPERATORS = ["Conv", "MatMul", "Gemm", "Clip", "Relu"]
#: Outputs that errors of 8 bits shift.
_SHIFTED = ("logits", "frame_logits")


def quantize(graph: Path, target: Path, clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Write a graph of 8 bits, each output channel with a scale of its own.

    Rounding shifts what a network says of everything, and a threshold knows nothing of it: the mean shift of the
    logits is taken back, as Nagel et al. (2019) do it for each layer.

    Args:
        graph: As :func:`deepfake.exporting.graph.write_graph` wrote it.
        target: Where to.
        clips: By which the range of activations and the shift are found, read twice: clips uint8 [B, T, 3, S, S] and
            mask bool [B, T].

    Returns:
        What is added to each logit.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(prefix=".", dir=target.parent) as folder, quiet():
        prepared, rounded = Path(folder) / "prepared.onnx", Path(folder) / "rounded.onnx"
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            rounded,
            _reader(clips),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        shift = float(np.mean(_logits(graph, clips) - _logits(rounded, clips)))
        model = onnx.load(rounded)
        _add(model.graph, shift)
        onnx.save(model, target)
    return shift


def _reader(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands the clips over one by one."""

        def __init__(self) -> None:
            self._rest: Iterator[tuple[np.ndarray, np.ndarray]] = iter(clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self._rest, None)
            return None if found is None else {"clips": found[0], "mask": found[1]}

    return Reader()


def _logits(graph: Path, clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    session = open_session(graph)
    return np.concatenate([session.run(["logits"], {"clips": some, "mask": mask})[0] for some, mask in clips])


def _add(graph: Any, shift: float) -> None:
    """Let a graph add a number to its logits, under their names."""
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.float32(shift), "shift_of_8_bits"))
    for name in [value.name for value in graph.output if value.name in _SHIFTED]:
        before = f"{name}_of_8_bits"
        for node in graph.node:
            for values in (node.input, node.output):
                for place, value in enumerate(values):
                    if value == name:
                        values[place] = before
        graph.node.append(helper.make_node("Add", [before, "shift_of_8_bits"], [name]))
