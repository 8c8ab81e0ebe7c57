"""An ONNX graph with weights and activations of 8 bits. Knows no run; what it costs is measured elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

#: What is computed in 8 bits: what takes the time. Heads of recurrent cells, and norms, stay as they are.
_OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantize(graph: Path, target: Path, clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a graph of 8 bits, each output channel with a scale of its own.

    Args:
        graph: As :func:`deepfake.exporting.graph.write_graph` wrote it.
        target: Where to.
        clips: By which the range of activations is found: clips uint8 [B, T, 3, S, S] and mask bool [B, T].
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Hands the clips over one by one."""

        def __init__(self) -> None:
            self._rest: Iterator[tuple[np.ndarray, np.ndarray]] = iter(clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self._rest, None)
            return None if found is None else {"clips": found[0], "mask": found[1]}

    quantize_static(
        graph,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_OPERATORS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
