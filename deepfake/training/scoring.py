"""A detector and clips to predictions: one row per sample, failed ones included. Knows no files.

A sample's score is the mean of its clips' probabilities, or what ``evaluation.clips`` makes of them instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from deepfake.data.clips import ClipSource
from deepfake.metrics import Metrics, sample_metrics
from deepfake.models.detector import Detector
from deepfake.models.heads import Output
from deepfake.progress import Progress, bar
from deepfake.training.calibration import log_odds, sigmoid
from deepfake.training.options import EvaluationOptions
from deepfake.training.pooling import pool_faces
from deepfake.training.runtime import gather
from deepfake.training.sampler import part_of
from deepfake.training.train_step import Transfer
from deepfake.training.views import viewed

_COLUMNS = ("sample_id", "label", "method", "dataset")


@dataclass
class ClipScores:
    """What the detector said of every clip, in the order of the source's items.

    Attributes:
        logits: float64 [n].
        frame_logits: float64 [n, T], or None for heads that see only whole clips.
        mask: bool [n, T]; False where a clip was padded.
    """

    logits: np.ndarray
    frame_logits: np.ndarray | None
    mask: np.ndarray


@dataclass
class Scored:
    """Predictions of one split.

    Attributes:
        samples: One row per row of the source's table: sample_id, label, method, dataset, split, score in 0..1
            (NaN where nothing could be scored), frames_used, status.
        frames: sample_id, label, method, dataset, split, clip, position, score per real frame; None where
            the head gives no frame logits.
        clips: sample_id, label, method, dataset, split, clip, logit per clip: what another way of making a video's
            score of its clips' needs.
    """

    samples: pd.DataFrame
    frames: pd.DataFrame | None
    clips: pd.DataFrame

    def frame_metrics(self, threshold: float = 0.5) -> Metrics:
        """Metrics over single frames; none where there are no frame scores."""
        return Metrics() if self.frames is None else sample_metrics(self.frames, threshold)


def score(
    detector: Detector,
    clips: ClipSource,
    *,
    fabric: Fabric,
    batch_size: int,
    split: str,
    num_workers: int = 0,
    progress: Progress | None = None,
    options: EvaluationOptions | None = None,
) -> Scored:
    """Score every sample of a split, in full precision.

    A score that is kept must come out again: beside other clips, in another batch, on another device. What half
    precision rounds away depends on all of these.

    Args:
        detector: On the fabric's device or not; it is moved and put in evaluation mode.
        clips: The split.
        fabric: Its processes share the clips; each ends with all predictions.
        batch_size: Clips at once, over all processes.
        split: The name written in the tables.
        num_workers: Loader processes per training process.
        progress: Told of every clip scored.
        options: How a sample's score is made of its clips'; their mean where None.
    """
    detector.to(fabric.device)
    with full_precision():
        scores = score_clips(
            viewed(detector, options),
            clips,
            fabric=fabric,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
            text=split,
            autocast=False,
        )
    samples = sample_table(clips, scores, split, options)
    return Scored(samples, frame_table(clips, scores, split), clip_table(clips, scores, split))


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 products exact on a CUDA device while this lasts."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def score_clips(
    detector: nn.Module,
    clips: ClipSource,
    *,
    fabric: Fabric,
    batch_size: int,
    num_workers: int = 0,
    progress: Progress | None = None,
    text: str = "scoring",
    autocast: bool = True,
) -> ClipScores:
    """Logits of every clip, gathered over all processes; see :func:`score`.

    Args:
        detector: Clips and mask to logits: a :class:`~deepfake.models.detector.Detector`, or one :func:`viewed`.
        clips: What is scored.
        fabric: As for :func:`score`, and so are ``batch_size``, ``num_workers`` and ``progress``.
        text: What the progress is called.
        autocast: As fast as in training.
    """
    items = part_of(range(len(clips)), fabric.global_rank, fabric.world_size)
    size = max(1, batch_size // fabric.world_size)
    batches = [items[i : i + size] for i in range(0, len(items), size)]
    logits, frame_logits, masks = [], [], []
    detector.eval()
    move = Transfer(fabric.device)
    casting = fabric.autocast() if autocast else nullcontext()
    with bar(progress, len(items), text) as shown, torch.inference_mode(), casting:
        for batch in clips.read(batches, 0, num_workers, fabric.device.type == "cuda"):
            moved = move(batch)
            output: Output = detector(moved.clips, moved.mask)
            # Kept on the device: reading them here would make it wait at every batch.
            logits.append(output.logits)
            masks.append(moved.mask)
            if output.frame_logits is not None:
                frame_logits.append(output.frame_logits)
            shown.advance(len(batch.labels))
    parts = gather((items, _array(logits), _array(frame_logits), _array(masks)), fabric)
    # Back from who scored what to the order of the items.
    order = np.argsort(np.concatenate([np.asarray(ids, dtype=np.int64) for ids, *_ in parts]))
    joined = [np.concatenate([part[i] for part in parts if len(part[i])] or [np.empty(0)]) for i in (1, 2, 3)]
    frames = joined[1][order] if len(joined[1]) else None
    return ClipScores(joined[0][order].astype(np.float64), frames, joined[2][order].astype(bool))


def sample_table(
    clips: ClipSource, scores: ClipScores, split: str, options: EvaluationOptions | None = None
) -> pd.DataFrame:
    """Clips' logits to one probability per sample; samples without clips get NaN."""
    options = options or EvaluationOptions()
    n = len(clips.table)
    rows = clips.items[:, 0]
    counts = np.bincount(rows, minlength=n)
    frames = np.bincount(rows, weights=scores.mask.sum(1) if len(rows) else None, minlength=n)
    table = clips.table[list(_COLUMNS)].reset_index(drop=True)
    table["split"] = split
    table["score"] = pool_faces(rows, clips.faces, scores.logits, n, options)
    table["frames_used"] = frames.astype(np.int64)
    known = clips.table["status"].to_numpy() if "status" in clips.table else np.full(n, "failed")
    table["status"] = np.where(counts > 0, "ok", np.where(known == "ok", "failed", known))
    return table


def average_samples(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several detectors' predictions of the same samples as one: the probability of their mean log-odds.

    Args:
        tables: As :func:`sample_table` makes them, with the same samples in the same order; of one table, itself.

    Returns:
        The first table with the others' scores averaged in. A sample that one of them has no score of has none, and
        that one's status; ``frames_used`` is the most that any of them read.
    """
    first, *others = tables
    if not others:
        return first
    scores = np.stack([table["score"].to_numpy(np.float64) for table in tables])
    joined = first.assign(score=sigmoid(log_odds(scores).mean(axis=0)))
    for table in others:
        joined["status"] = joined["status"].where(joined["status"] != "ok", table["status"])
        if "frames_used" in joined and "frames_used" in table:
            joined["frames_used"] = np.maximum(joined["frames_used"], table["frames_used"])
    joined.loc[joined["status"] != "ok", "score"] = np.nan
    return joined


def average_scored(parts: Sequence[Scored]) -> Scored:
    """Several detectors' :class:`Scored` of one split as one; clips are of all of them, told apart by ``member``."""
    if len(parts) == 1:
        return parts[0]
    clips = join_clips([part.clips.assign(member=n) for n, part in enumerate(parts)])
    return Scored(average_samples([part.samples for part in parts]), None, clips)


def join_clips(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of clips as one; where only some tell faces apart, the others' clips are of their samples' first."""
    joined = pd.concat(tables, ignore_index=True)
    return joined.assign(face=joined["face"].fillna(0).astype(np.int64)) if "face" in joined else joined


def clip_table(clips: ClipSource, scores: ClipScores, split: str) -> pd.DataFrame:
    """One row per clip, with its logit."""
    table = clips.table[list(_COLUMNS)].iloc[clips.items[:, 0]].reset_index(drop=True)
    faces = {} if clips.faces is None else {"face": clips.faces}
    return table.assign(split=split, clip=clips.items[:, 1], **faces, logit=scores.logits)


def frame_table(clips: ClipSource, scores: ClipScores, split: str) -> pd.DataFrame | None:
    """One row per real frame, or None where the head says nothing of frames."""
    if scores.frame_logits is None:
        return None
    item, position = np.nonzero(scores.mask)
    rows = clips.items[item, 0]
    table = clips.table[list(_COLUMNS)].iloc[rows].reset_index(drop=True)
    table["split"] = split
    table["clip"] = clips.items[item, 1]
    table["position"] = position
    table["score"] = sigmoid(scores.frame_logits[item, position].astype(np.float64))
    return table


def _array(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy() if parts else np.empty(0)
