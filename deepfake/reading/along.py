"""A file looked at all along, for a timeline and an overlay, rather than at the few places that an answer takes.

It is cut in parts, so that a long file takes no more memory than a short one. Knows no detector: what is asked of one
is a :class:`Looker`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepfake.data.crop_records import Record, clip_faces, kept_frames, read_frames, read_pixels, read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.file_facts import Media
from deepfake.data.media import Pixels, read_image
from deepfake.data.overlay import Mark, Painter, paint_image, paint_video
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import prepare_jobs
from deepfake.errors import UserError
from deepfake.progress import Progress, bar
from deepfake.reading.detector import Detector
from deepfake.reading.file_answers import Answer
from deepfake.training.calibration import sigmoid
from deepfake.training.saliency import Attribution, MapCheck

#: What an overlay is called, by the kind of its file.
OVERLAYS = {"video": "overlay.mp4", "image": "overlay.png"}
#: Clips that a timeline is made of, at most: they cover the first minute of video without a gap.
LOOKS = 48
_TOGETHER, _BYTES = 8, 256 << 20  # clips that are cut at once, and what their frames may take
_STEP = 0.1  # seconds from one frame to the next, for heads that judge each alone
_PERCENTILE = 98  # of the numbers of all maps: painted in the strongest colour


class Looker(Protocol):
    """A detector that is asked about one clip, uint8 [T, S, S, 3] in RGB, and a mask bool [T] of it."""

    def look(self, clip: Pixels, mask: NDArray[np.bool_]) -> Attribution:
        """What it makes of a clip, and why."""

    def check(self, clip: Pixels, mask: NDArray[np.bool_], own: Attribution) -> MapCheck:
        """Whether the maps of a clip mean anything; asked only where there are some."""


class GraphLooker:
    """An exported detector, which knows scores and no maps.

    Args:
        detector: The folder.
        why: Why there are no maps.
    """

    def __init__(self, detector: Detector, why: str) -> None:
        self._detector = detector
        self._why = why

    def look(self, clip: Pixels, mask: NDArray[np.bool_]) -> Attribution:
        """See :class:`Looker`."""
        batch = np.ascontiguousarray(clip.transpose(0, 3, 1, 2)[None])
        logits, frames = self._detector.score(batch, mask[None])
        return Attribution(float(logits[0]), None if frames is None else frames[0].astype(np.float64), None, self._why)

    def check(self, clip: Pixels, mask: NDArray[np.bool_], own: Attribution) -> MapCheck:
        """Never asked: there are no maps."""
        return MapCheck(False, own.why)


@dataclass(frozen=True)
class Moment:
    """One face in one frame that was looked at.

    Attributes:
        frame: The frame's place in the file; ``seconds`` is its time.
        seconds: See ``frame``.
        face: 0 for the largest.
        score: Of the frame; of its clip where the head says nothing of single frames.
        clip_score: Of the clip that it is in.
        clip: That clip's number.
        box: What was cut: x0, y0, x1, y1 in pixels of the upright frame.
        reliance: By how much the clip's logit is higher with the frame than without; None for a clip of one frame.
        attention: The fraction of the head's attention that it gets; None for heads without.
    """

    frame: int
    seconds: float
    face: int
    score: float
    clip_score: float
    clip: int
    box: tuple[float, float, float, float]
    reliance: float | None = None
    attention: float | None = None


@dataclass(frozen=True)
class Clip:
    """One clip of a file: in which part it was cut, where in that, and whose it is."""

    number: int
    part: str
    place: int
    face: int


class Clips:
    """The clips of a file as they lie on the disk.

    Args:
        folder: Where.
        records: What came of cutting each part.

    Attributes:
        all: In order.
    """

    def __init__(self, folder: Path, records: Mapping[str, Record]) -> None:
        self._folder = folder
        self._records = records
        owned = [(name, *own) for name, record in records.items() for own in enumerate(clip_faces(record))]
        self.all = [Clip(number, *own) for number, own in enumerate(owned)]

    def pixels(self, clip: Clip) -> tuple[Pixels, NDArray[np.bool_]]:
        """A clip uint8 [T, S, S, 3] and its mask bool [T]: False where it is filled up."""
        record = self._records[clip.part]
        return read_pixels(self._folder, record)[clip.place], kept_frames(record)[clip.place]

    def frames(self, clip: Clip) -> np.ndarray:
        """The records of a clip's frames, without fillers."""
        record = self._records[clip.part]
        return read_frames(self._folder, record)[clip.place, : record["lengths"][clip.place]]


@dataclass(frozen=True)
class Looked:
    """One clip, what a detector makes of it, and the frames that it is made of."""

    clip: Clip
    found: Attribution
    moments: tuple[Moment, ...]


@dataclass(frozen=True)
class Along:
    """A file that was looked at.

    Attributes:
        clips: What was cut.
        looks: What was made of each clip that has a score.
        check: Whether maps mean anything.
    """

    clips: Clips
    looks: tuple[Looked, ...]
    check: MapCheck

    @cached_property
    def timeline(self) -> tuple[Moment, ...]:
        """All frames that were looked at, in order."""
        return tuple(sorted((m for look in self.looks for m in look.moments), key=lambda m: (m.seconds, m.face)))

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """What is painted: each of these frames with its map, where maps mean something."""
        return tuple(_marks(self.looks, self.check))


def look_along(
    job: Job,
    media: Media,
    settings: CutSettings,
    looker: Looker,
    folder: Path,
    *,
    workers: int | str = "auto",
    progress: Progress | None = None,
) -> Along:
    """Cut a file all along, and ask a detector about every clip.

    Args:
        job: The file, its kind, and how long one part of it may take.
        media: What the file is like.
        settings: How the detector's crops are cut.
        looker: The detector.
        folder: For the crops, which are read for as long as the result is.
        workers: See :func:`deepfake.data.worker_pool.prepare_jobs`.
        progress: Told of every part and clip.

    Raises:
        UserError: Nothing came of it.
    """
    clips = _cut(job, media, settings, folder, workers, progress)
    looks = []
    with bar(progress, len(clips.all), "looking at clips") as looked:
        for clip in clips.all:
            found = looker.look(*clips.pixels(clip))
            if math.isfinite(found.logit):
                looks.append(Looked(clip, found, _moments(clip, found, clips.frames(clip))))
            looked.advance()
    if not looks:
        raise UserError(f"{job.file} was read once and not again", "try once more, while nothing writes to it")
    return Along(clips, tuple(looks), _checked(clips, looks, looker))


def _cut(
    job: Job, media: Media, settings: CutSettings, folder: Path, workers: int | str, progress: Progress | None
) -> Clips:
    """Cut clips all along a file, in parts whose frames fit into memory."""
    jobs = [job]
    if job.kind == "video":
        plan = settings.plan.at(media.fps)
        step = plan.stride if plan.temporal else max(1, round(_STEP * (media.fps or 25)))
        wanted = min(max(1, math.ceil(media.frames / (plan.frames * step))), LOOKS)
        most = _BYTES // (plan.frames * media.width * media.height * 3)
        together = int(min(max(1, most), _TOGETHER, wanted))
        parts = math.ceil(wanted / together)
        edges = [(part / parts, (part + 1) / parts) for part in range(parts)]
        jobs = [replace(job, sample_id=str(number), part=edge) for number, edge in enumerate(edges)]
        settings = replace(settings, plan=replace(plan, clips=together, slack=0))
    prepare_jobs(jobs, folder, settings, workers, progress)
    records = read_records(folder)
    names = [job.sample_id for job in jobs]
    return Clips(folder, {name: records[name] for name in names if name in records and _is_good(records[name])})


def _is_good(record: Record) -> bool:
    return bool(record["status"] == "ok")


def _moments(clip: Clip, found: Attribution, frames: np.ndarray) -> tuple[Moment, ...]:
    whole = float(sigmoid(np.array([found.logit]))[0])
    scores = np.full(len(frames), whole) if found.frame_logits is None else sigmoid(found.frame_logits)
    return tuple(
        Moment(
            frame=int(frame["frame_index"]),
            seconds=round(float(frame["pts"]), 4),
            face=clip.face,
            score=float(scores[i]),
            clip_score=whole,
            clip=clip.number,
            box=(float(frame["x0"]), float(frame["y0"]), float(frame["x1"]), float(frame["y1"])),
            reliance=None if found.reliance is None else float(found.reliance[i]),
            attention=None if found.attention is None else float(found.attention[i]),
        )
        for i, frame in enumerate(frames)
    )


def _checked(clips: Clips, looks: Sequence[Looked], looker: Looker) -> MapCheck:
    """Whether maps mean something, tried on the clip of which the detector is surest."""
    failed = next((look.found.why for look in looks if look.found.maps is None), "")
    if failed:
        return MapCheck(False, failed)
    surest = max(looks, key=lambda look: abs(look.found.logit))
    return looker.check(*clips.pixels(surest.clip), surest.found)


def _marks(looks: Sequence[Looked], check: MapCheck) -> list[Mark]:
    maps = [look.found.maps for look in looks if look.found.maps is not None] if check.meaningful else []
    strongest = float(np.percentile(np.abs(np.concatenate([one.ravel() for one in maps])), _PERCENTILE)) if maps else 0
    patches = len({look.clip.place for look in looks}) > 1 and any(len(look.moments) == 1 for look in looks)
    found = []
    for look in looks:
        for i, moment in enumerate(look.moments):
            own = look.found.maps
            shown = None if own is None or not strongest > 0 else np.clip(own[i] / strongest, -1, 1).astype(np.float32)
            box = np.array(moment.box, np.float32)
            # Patches of one picture are all there at once.
            face = look.clip.number if patches else moment.face
            found.append(
                Mark(face, look.clip.number, moment.frame, moment.seconds, box, moment.score, moment.clip_score, shown)
            )
    return found


def paint_along(along: Along, answer: Answer, threshold: float, target: Path, progress: Progress | None = None) -> str:
    """Paint what was seen in a file over it.

    Args:
        along: What was seen.
        answer: What is said of the file.
        threshold: The score from which a face is called fake.
        target: An mp4, or a PNG for an image.
        progress: Told of every frame.

    Returns:
        What could not be kept, in a sentence; else nothing.
    """
    assert answer.media is not None
    sure = answer.probability if answer.probability is not None else answer.score
    named = "P(fake)" if answer.probability is not None else "score"
    painter = Painter(along.marks, threshold, f"{answer.predicted}  {named} {sure:.2f}")
    if answer.input.kind == "image":
        paint_image(read_image(answer.input.path).images[0], target, painter)
        return ""
    return paint_video(answer.input.path, target, painter, answer.media.frames, progress)


def timeline_of(record: Record, frames: np.ndarray, scores: Sequence[float]) -> list[dict[str, Any]]:
    """When each clip of an answer is, in the middle of its frames, with its score and its face.

    Args:
        record: What came of cutting the file.
        frames: The frame records [clips, T] of its clips.
        scores: Of its clips; where some have none, nothing is told.
    """
    if len(frames) != len(scores):
        return []
    times = [float(row["pts"][:length].mean()) for row, length in zip(frames, record["lengths"], strict=True)]
    moments = zip(times, scores, clip_faces(record), strict=True)
    return [
        {"seconds": round(time, 3), "score": float(score), "face": int(face)}
        for time, score, face in sorted(moments, key=lambda one: (one[2], one[0]))
    ]
