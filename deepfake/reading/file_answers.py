"""What is said of a file, from its score, its clips' and its faces': the words of a run and of an exported folder.

Knows arrays and records only: no model, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfake.data.crop_records import Record, clip_faces
from deepfake.data.file_facts import Media
from deepfake.data.media import kind_of
from deepfake.errors import printable
from deepfake.training.decision import Decision
from deepfake.training.domain import Outside

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Input:
    """One file to be looked at, or a name that leads to none.

    Attributes:
        path: Where it is said to lie.
        kind: ``video`` or ``image``; empty where it cannot be looked at.
        reason: Why it cannot, in a word: ``not_found``, ``nothing_inside``, ``unreadable`` or ``unsupported``; empty
            where it can.
        detail: The same for people.
    """

    path: Path
    kind: str = ""
    reason: str = ""
    detail: str = ""


def named_file(path: Path) -> Input:
    """A file by its name, which says whether it is a video or an image."""
    kind = kind_of(path.name)
    if not kind:
        return Input(path, reason="unsupported", detail="neither a video nor an image, by its name")
    return Input(path, kind)


def nothing_there(path: Path) -> Input:
    """A name under which there is nothing."""
    return Input(path, reason="not_found", detail="there is no such file or folder")


@dataclass(frozen=True)
class FaceAnswer:
    """What is said of one of several faces in a file.

    Attributes:
        score: The detector's own; ``probability`` is calibrated, None without a calibrator.
        probability: See ``score``.
        frame: A frame in which the face is.
        box: Where it is there: x0, y0, x1, y1 of what was cut, in pixels of the upright frame.
    """

    score: float
    probability: float | None
    frame: int
    box: Box


@dataclass(frozen=True)
class Answer:
    """What is said of one file.

    Attributes:
        input: The file.
        predicted: ``REAL`` or ``FAKE``; None where there is no answer.
        probability: That it is fake, calibrated; None without an answer or a calibrator.
        confidence: The probability of the class that is named; below a half where the threshold is not a half.
        tied: It is exactly as probable as the threshold, for the calibrator is level there: its score decided.
        score: The detector's own, as in a run's predictions.
        clips: The probability of each clip, raw.
        faces: Frames in which the face was found; None where none is looked for.
        frames: Frames looked at.
        reason: Why there is no answer, in a word; empty where there is one.
        detail: The same for people.
        members: Of an ensemble, each run's name and its own score.
        each_face: What is said of each face, the largest first, where ``dataset.max_faces`` looks for several.
        media: What the file is like; None where it could not be read.
        outside: How it lies outside of what the run was trained on.
    """

    input: Input
    predicted: str | None = None
    probability: float | None = None
    confidence: float | None = None
    tied: bool = False
    score: float | None = None
    clips: tuple[float, ...] = ()
    faces: int | None = None
    frames: int = 0
    reason: str = ""
    detail: str = ""
    members: tuple[tuple[str, float], ...] = ()
    each_face: tuple[FaceAnswer, ...] = ()
    media: Media | None = None
    outside: tuple[Outside, ...] = ()


def unanswered(one: Input) -> Answer:
    """What is said of a name that leads to no file."""
    return Answer(one, reason=one.reason, detail=one.detail)


def not_cut(one: Input, record: Record) -> Answer:
    """What is said of a file that could not be cut."""
    return Answer(one, reason=record["status"], detail=record["reason"])


def read_score(
    decision: Decision, one: Input, record: Record, score: float, clips: np.ndarray, *, finds: bool
) -> Answer:
    """What a file's score says.

    Args:
        decision: Threshold and calibrator.
        one: The file.
        record: What came of cutting it.
        score: Its own.
        clips: The probability of each clip, raw.
        finds: Whether faces are looked for.
    """
    if record["status"] != "ok":
        return not_cut(one, record)
    frames, filled = int(record["frames"]), int(record["filled"])
    faces = frames - filled if finds else None
    if np.isnan(score):
        return Answer(one, faces=faces, frames=frames, reason="not_a_number", detail="the model's score is NaN")
    fake = bool(decision.predicts_fake(np.array([score]))[0])
    threshold = decision.applied_probability
    probability = None if threshold is None else float(decision.calibrated(np.array([score]))[0])
    return Answer(
        input=one,
        predicted="FAKE" if fake else "REAL",
        probability=probability,
        confidence=None if probability is None else probability if fake else 1 - probability,
        tied=probability is not None and probability == threshold and score != decision.applied_threshold,
        score=score,
        clips=tuple(clips.tolist()),
        faces=faces,
        frames=frames,
    )


def face_places(record: Record, frames: np.ndarray) -> list[tuple[int, Box]]:
    """A frame of each face, in the middle of those in which it was found, and its box there.

    Args:
        record: What came of cutting a file.
        frames: The frame records [clips, T] of its clips.
    """
    faces, found = np.array(clip_faces(record)), []
    for face in range(int(faces.max()) + 1):
        seen = frames[faces == face].reshape(-1)
        seen = seen[seen["found"]] if seen["found"].any() else seen
        middle = seen[np.argsort(seen["frame_index"], kind="stable")[len(seen) // 2]]
        x0, y0, x1, y1 = (round(float(middle[side]), 1) for side in ("x0", "y0", "x1", "y1"))
        found.append((int(middle["frame_index"]), (x0, y0, x1, y1)))
    return found


def read_faces(decision: Decision, scores: np.ndarray, places: Sequence[tuple[int, Box]]) -> tuple[FaceAnswer, ...]:
    """What is said of each face, from its score [faces] and where it is."""
    probabilities = [None] * len(scores) if decision.calibrator is None else decision.calibrated(scores).tolist()
    return tuple(
        FaceAnswer(float(score), probability, frame, box)
        for score, probability, (frame, box) in zip(scores, probabilities, places, strict=True)
    )


def as_result(answer: Answer) -> dict[str, Any]:
    """What other programs are told of a file; numbers that are not there are None."""
    clips = np.array(answer.clips)
    return {
        "path": printable(str(answer.input.path)),
        "kind": answer.input.kind or None,
        "class": answer.predicted,
        "probability": answer.probability,
        "confidence": answer.confidence,
        "tied": answer.tied,
        "score": answer.score,
        "spread": {"clips": len(clips), "low": clips.min(), "high": clips.max(), "std": clips.std()}
        if answer.score is not None
        else None,
        "faces": None if answer.faces is None else {"found": answer.faces, "frames": answer.frames},
        **({"each_face": [_face(n, face) for n, face in enumerate(answer.each_face)]} if answer.each_face else {}),
        **({"members": [{"run": name, "score": score} for name, score in answer.members]} if answer.members else {}),
        "media": None if answer.media is None else asdict(answer.media),
        "outside": [asdict(one) for one in answer.outside],
        "reason": {"code": answer.reason, "detail": answer.detail} if answer.reason else None,
    }


def _face(number: int, face: FaceAnswer) -> dict[str, Any]:
    return {
        "face": number,
        "score": face.score,
        "probability": face.probability,
        "frame": face.frame,
        "box": list(face.box),
    }
