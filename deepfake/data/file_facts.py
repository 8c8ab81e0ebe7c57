"""What a file is like, from what cutting it noted: facts for people, and those that are compared. Knows arrays only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepfake.data.crop_records import Record


@dataclass(frozen=True)
class Media:
    """What a file is like.

    Attributes:
        width: Pixels, upright; ``height`` likewise.
        frames: Frames that can be had; 1 of an image.
        fps: Frames a second; 0 of an image.
        duration: Seconds; 0 of an image.
        codec: The decoder's name.
        bits_per_pixel: Of what is kept of a frame, compressed.
        face: The larger side of the largest face, in pixels; None where none was looked for.
    """

    width: int
    height: int
    frames: int
    fps: float
    duration: float
    codec: str
    bits_per_pixel: float
    face: float | None


def media_of(record: Record, frames: np.ndarray, margin: float) -> Media:
    """Facts of a file that could be cut.

    Args:
        record: What was noted of it.
        frames: The frame records of its first clip.
        margin: By which its face boxes were enlarged.
    """
    face = _face(record, frames, margin)
    return Media(
        width=record["width"],
        height=record["height"],
        frames=record["video_frames"],
        fps=record["fps"],
        duration=record["duration"],
        codec=record["codec"],
        bits_per_pixel=_bits_per_pixel(record),
        face=None if np.isnan(face) else round(face, 1),
    )


def facts_of(record: Record, frames: np.ndarray, margin: float) -> dict[str, float]:
    """What :data:`deepfake.training.domain.FACTS` compares, as far as it is known; arguments as of :func:`media_of`."""
    facts = {
        "side": float(min(record["width"], record["height"])),
        "bits_per_pixel": _bits_per_pixel(record) or np.nan,
        "face": _face(record, frames, margin),
        "faces": float(1 + record["beside"]) if "beside" in record else np.nan,
        "fps": float(record["fps"]) or np.nan,
    }
    return {fact: value for fact, value in facts.items() if np.isfinite(value)}


def _bits_per_pixel(record: Record) -> float:
    """Of what is kept of a frame, compressed; 0 where that is not known."""
    per_frame = record["bitrate"] / record["fps"] if record["fps"] else 8 * max(record["bytes"], 0)
    return float(per_frame / (record["width"] * record["height"]))


def _face(record: Record, frames: np.ndarray, margin: float) -> float:
    """The larger side of the largest face, in pixels; NaN where none was looked for."""
    sides = np.maximum(frames["x1"] - frames["x0"], frames["y1"] - frames["y0"]) / (1 + margin)
    return np.nan if record.get("landmarks") is None else float(np.median(sides))
