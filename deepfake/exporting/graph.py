"""A detector into an ONNX graph: uint8 clips of any number and length, and a mask, to logits. Knows no run.

All that is done to clips between the crop store and the logit is in the graph: looking several times, bringing frames
to the backbone's side, normalising. Where bytes are brought to another side, it is exact: in whole numbers, as PyTorch
does it.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.errors import UserError, first_line
from deepfake.exporting.stand_ins import exportable
from deepfake.models.detector import Detector
from deepfake.training.domain_features import pooled_features
from deepfake.training.views import View, viewed_by

#: How far the graph's logits may lie from PyTorch's.
MOST_APART = 1e-4
#: Shapes that a graph is held to: how many clips, and how long they are, of those that it was trained on.
_SHAPES = ((1, 0.0), (1, 1.0), (1, 2.0), (2, 0.5), (2, 1.0), (5, 0.25))
_MOST_BYTES = 2_000_000_000  # of an ONNX file, which is one protobuf message


class Graph(nn.Module):
    """What is exported: a detector's looks at clips, their logits averaged.

    Args:
        detector: As trained.
        views: The looks.
        size: The clips' side in pixels.
    """

    def __init__(self, detector: Detector, views: Sequence[View], size: int) -> None:
        super().__init__()
        self.detector = exportable(detector)
        self.looks = nn.ModuleList(_Look(view, size, detector.size) for view in views)
        self.detector.size = None
        # Pixels stay in 0..255 until they are normalised.
        self.detector.scale = self.detector.scale / 255

    def forward(self, clips: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Clips uint8 [B, T, 3, S, S] and mask bool [B, T] to logits [B], features [B, D] by which files are told from
        those of training, and logits of frames [B, T] where the head has them."""
        pixels = clips.to(torch.float32)
        looks = torch.cat([look(pixels) for look in self.looks])  # [looks x B, T, 3, S, S]
        features = self.detector.extract(looks)
        output = self.detector.classify(features, mask.repeat(len(self.looks), 1))
        times = (len(self.looks), clips.shape[0])
        logits = output.logits.reshape(times).mean(0)
        # As they are compared with those of training: of the first look.
        compared = pooled_features(features[: clips.shape[0]], mask)
        if output.frame_logits is None:
            return logits, compared
        return logits, compared, output.frame_logits.reshape(*times, clips.shape[1]).mean(0)


class _Look(nn.Module):
    """A :class:`View` of clips in 0..255, at the side that the backbone reads."""

    weights: Tensor

    def __init__(self, view: View, size: int, side: int | None) -> None:
        super().__init__()
        part = max(2, round(view.scale * size))
        self.part, self.mirrored = part, view.mirrored
        self.top, self.left = round((size - part) * view.down), round((size - part) * view.across)
        to = side or size
        self.changes = part != to
        # What View.of enlarges is cubic and in floating point, what it makes smaller linear and in bytes.
        self.enlarges = part != size and not (side is not None and side <= part)
        if self.changes:
            weights, self.bits = _enlarging(part, to) if self.enlarges else _shrinking(part, to)
            self.register_buffer("weights", weights)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels[..., self.top : self.top + self.part, self.left : self.left + self.part]
        if self.changes:
            x = self._resized(x)
        return x.flip(-1) if self.mirrored else x

    def _resized(self, x: Tensor) -> Tensor:
        if self.enlarges:
            return (self.weights @ (x @ self.weights.T)).clamp(0, 255)
        x = x.to(self.weights.dtype)
        half, whole = 2.0 ** (self.bits - 1), 2.0**-self.bits
        x = ((x @ self.weights.T + half) * whole).floor()
        return ((self.weights @ x + half) * whole).floor().to(torch.float32)


def _enlarging(part: int, to: int) -> tuple[Tensor, int]:
    """The weights [to, part] of cubic interpolation along one side: what it makes of each pixel alone."""
    return F.interpolate(torch.eye(part)[None, None], (to, part), mode="bicubic", align_corners=False)[0, 0], 0


def _shrinking(part: int, to: int) -> tuple[Tensor, int]:
    """The whole weights [to, part] of linear averaging along one side, and the bits that they are to be divided by.

    PyTorch brings bytes to another side on a CPU in whole numbers, as Pillow does: weights are rounded to so many bits
    that the largest fits in 15, sums are rounded to bytes after either side. Products and sums of these are exact in
    float32 up to 16 bits, and in float64 beyond, in whatever order they are added.
    """
    scale = part / to
    reach, inverse = (scale, 1 / scale) if scale >= 1 else (1.0, 1.0)
    weights = np.zeros((to, part))
    for place in range(to):
        centre = scale * (place + 0.5)
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), part)
        taps = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) * inverse), 0)
        weights[place, first:last] = taps / taps.sum()
    bits = next(n for n in range(22) if int(0.5 + weights.max() * 2 ** (n + 1)) >= 1 << 15)
    whole = np.floor(0.5 + weights * 2.0**bits)
    return torch.from_numpy(whole).to(torch.float32 if bits <= 16 else torch.float64), bits


def write_graph(detector: Detector, views: Sequence[View], shape: tuple[int, int], file: Path) -> float:
    """Export a detector, and hold the graph to it.

    Args:
        detector: On a CPU, in full precision, in evaluation mode.
        views: As ``evaluation.views`` has it look at clips.
        shape: Frames of a clip, and its side in pixels.
        file: Where the graph is written.

    Returns:
        How far its logits lie from PyTorch's at most.

    Raises:
        UserError: What it takes is not installed, the detector cannot be exported, or the two lie too far apart.
    """
    require_onnx()
    frames, size = shape
    graph = Graph(detector, views, size).eval()
    # Neither one nor equal: what has the size of another dimension, or of one, is taken to be it.
    clips = torch.zeros(3, max(frames, 2) + (frames == 3), 3, size, size, dtype=torch.uint8)
    mask = torch.ones(clips.shape[:2], dtype=torch.bool)
    try:
        with quiet(), torch.no_grad():
            _export(graph, clips, mask, file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"this detector cannot be made an ONNX graph: {type(error).__name__}: {first_line(error)}",
            "export one with another backbone or head, or update torch, onnx and onnxscript",
        ) from error
    return check_parity(viewed_by(detector, views), file, shape)


def _export(graph: Graph, clips: Tensor, mask: Tensor, file: Path) -> None:
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(graph, (clips, mask), dynamic_shapes=(free, free), strict=False)
    names = ["logits", "features", "frame_logits"][: len(graph(clips[:, :1], mask[:, :1]))]
    made = torch.onnx.export(
        program,
        (),
        dynamo=True,
        input_names=["clips", "mask"],
        output_names=names,
        custom_translation_table=_translations(),
        external_data=False,
        verbose=False,
    )
    assert made is not None
    # Names for people, in place of those that the exporter gives dimensions.
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        shape: Any = value.shape
        for place, name in enumerate(("batch", "time")[: 1 if value.name == "features" else len(shape)]):
            shape[place] = name
    made.save(str(file), external_data=False)
    if file.stat().st_size > _MOST_BYTES:
        raise UserError("the graph is larger than an ONNX file can be, 2 GB", "export a smaller backbone")


def check_parity(reference: nn.Module, file: Path, shape: tuple[int, int]) -> float:
    """How far a graph's logits lie from a detector's at most, over several numbers of clips and frames, and lengths.

    Raises:
        UserError: Farther than :data:`MOST_APART`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    worst, where = 0.0, ""
    for batch, part in _SHAPES:
        frames = max(1, round(part * shape[0]))
        clips = _pictures(random, batch, frames, shape[1])
        mask = np.arange(frames) < random.integers(1, frames + 1, (batch, 1))
        with torch.inference_mode():
            expected = reference(torch.from_numpy(clips), torch.from_numpy(mask)).logits.numpy()
        (found,) = session.run(["logits"], {"clips": clips, "mask": mask})
        apart = float(np.abs(found - expected).max(initial=0))
        if not apart <= worst:
            worst, where = apart, f"{batch} clips of {frames} frames"
    if not worst <= MOST_APART:
        raise UserError(
            f"the ONNX graph's logits lie {worst:.2g} from PyTorch's, of {where}; at most {MOST_APART:g} is allowed",
            "update torch, onnx and onnxruntime, or export a detector with another backbone or head",
        )
    return worst


def _pictures(random: np.random.Generator, batch: int, frames: int, size: int) -> np.ndarray:
    """Clips uint8 [B, T, 3, S, S] that are smooth in places, as faces are, and noisy in others."""
    coarse = random.integers(0, 256, (batch * frames, 3, 8, 8)).astype(np.float32)
    smooth = F.interpolate(torch.from_numpy(coarse), (size, size), mode="bilinear").numpy()
    noisy = smooth + random.normal(0, 20, smooth.shape) * (random.random(smooth.shape) < 0.5)
    return noisy.clip(0, 255).astype(np.uint8).reshape(batch, frames, 3, size, size)


def require_onnx() -> None:
    """Make sure that what exporting takes is there.

    Raises:
        UserError: It is not.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed, which exporting takes", "pip install 'deepfake-sweeps[export]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor log lines of the exporter's about itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ONNX of operations that the exporter does not know, or takes apart."""
    from onnxscript import opset18 as op

    def sort(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        # Of equal values TopK names the first one first: it is stable.
        count = op.Shape(x, start=dim, end=dim + 1)
        return op.TopK(op.Cast(x, to=6), count, axis=dim, largest=int(descending))

    def recurrent(kind: Callable[..., Any], order: Sequence[int], **options: int) -> Callable[..., Any]:
        def gates(x: Any) -> Any:
            parts = op.Split(x, axis=0, num_outputs=len(order))
            return op.Unsqueeze(op.Concat(*(parts[place] for place in order), axis=0), op.Constant(value_ints=[0]))

        def layer(x: Any, inputs: Any, hidden: Any, input_bias: Any, hidden_bias: Any) -> Any:
            bias = op.Concat(gates(input_bias), gates(hidden_bias), axis=1)
            over_time = op.Transpose(x, perm=[1, 0, 2])
            found = kind(over_time, gates(inputs), gates(hidden), bias, hidden_size=hidden.shape[1], **options)
            return op.Transpose(op.Squeeze(found[0], op.Constant(value_ints=[1])), perm=[1, 0, 2])

        return layer

    return {
        torch.ops.aten.sort.stable: sort,
        # ONNX has the gates in another order: PyTorch's are reset, update, new, and in, forget, cell, out.
        torch.ops.deepfake.gru.default: recurrent(op.GRU, (1, 0, 2), linear_before_reset=1),
        torch.ops.deepfake.lstm.default: recurrent(op.LSTM, (0, 3, 1, 2)),
    }
