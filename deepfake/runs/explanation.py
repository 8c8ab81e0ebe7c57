"""Why a trained run says what it says of a file: an overlay, a timeline, the most suspicious frames. Prints nothing.

The answer is that of :mod:`deepfake.runs.answers`. For the timeline the file is looked at again, all along rather than
at the few places that an answer takes, in parts, so that a long file takes no more memory than a short one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepfake.data.crop_records import Record, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import CutSettings
from deepfake.data.media import Pixels, read_image
from deepfake.data.overlay import Mark, Painter, paint_image, paint_map, paint_video
from deepfake.data.prepare import cut_settings, prepare_jobs
from deepfake.data.prepare_worker import Job
from deepfake.errors import UserError
from deepfake.files import appearing
from deepfake.progress import Progress, bar
from deepfake.runs.answers import Answer, as_result, predict_inputs, seconds_for
from deepfake.runs.artifacts import scratch_folder
from deepfake.runs.explanation_page import explanation_page
from deepfake.runs.inputs import Input
from deepfake.runs.load import Ensemble, Trained
from deepfake.tracking.page import write_page
from deepfake.tracking.run_folder import write_json
from deepfake.training.attribution import Attribution, MapCheck, attribute, check_maps
from deepfake.training.calibration import sigmoid

#: The names of what is written.
OVERLAY, STILL, NUMBERS, PICTURES = "overlay.mp4", "overlay.png", "explanation.json", "frames"
#: Clips that a timeline is made of, at most: they cover the first minute of video without a gap.
LOOKS = 48
_TOGETHER, _BYTES = 8, 256 << 20  # clips that are cut at once, and what their frames may take
_STEP = 0.1  # seconds from one frame to the next, for heads that judge each alone
_SUSPICIOUS, _APART = 6, 0.5  # frames that are shown, and seconds between them
_PERCENTILE = 98  # of the numbers of all maps: painted in the strongest colour


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
class Suspicious:
    """A frame with a high score.

    Attributes:
        moment: Which.
        picture: Its crop as it is, a JPEG.
        painted: The same with its map; None where there is none.
    """

    moment: Moment
    picture: Path
    painted: Path | None = None


@dataclass(frozen=True)
class Explanation:
    """What is known of a file beyond its answer.

    Attributes:
        answer: As ``deepfake predict`` gives it.
        overlay: The painted video or picture; None where there is no answer.
        timeline: All frames that were looked at, in order.
        suspicious: The frames with the highest scores, the highest first.
        map_meaningful: Whether maps show what the run has learned; where not, none is painted.
        why: Why they do or do not.
        page: All of it as one HTML page; None where none was asked for.
        similarity: Of the maps with those of random weights; see :class:`deepfake.training.attribution.MapCheck`.
        notes: What a reader must know.
    """

    answer: Answer
    overlay: Path | None = None
    timeline: tuple[Moment, ...] = ()
    suspicious: tuple[Suspicious, ...] = ()
    map_meaningful: bool = False
    why: str = ""
    page: Path | None = None
    similarity: dict[str, float] | None = None
    notes: tuple[str, ...] = ()


def explain(
    trained: Trained | Ensemble, one: Input, folder: Path, *, page: bool = True, progress: Progress | None = None
) -> Explanation:
    """Look at a file all along, and write down what was seen.

    Args:
        trained: The run.
        one: A video or an image.
        folder: Gets the overlay, the pictures, ``explanation.json`` and the page; made if it is not there. Nothing is
            written where there is no answer.
        page: Whether to write the page.
        progress: Told of every step.

    Raises:
        UserError: The run is an ensemble, or the folder cannot be written.
    """
    if not isinstance(trained, Trained):
        names = ", ".join(member.record.name for member in trained.members)
        raise UserError(
            f"{trained.record.name!r} is an ensemble, whose members look at crops of their own",
            f"explain one of its members: {names}",
        )
    (answer,) = predict_inputs(trained, [one], progress)
    if answer.reason or answer.media is None:
        return Explanation(answer, why=answer.detail)
    with scratch_folder("explain") as scratch:
        seen, settings = _cut(trained, one, answer, scratch, progress)
        looks = list(_look_along(trained, seen, progress))
        if not looks:
            raise UserError(f"{one.path} was read once and not again", "try once more, while nothing writes to it")
        check = _checked(trained, seen, looks)
        marks = _marks(seen, looks, check)
        timeline = tuple(sorted((m for look in looks for m in look.moments), key=lambda m: (m.seconds, m.face)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            overlay, lost = _paint(trained, one, answer, marks, folder, progress)
            suspicious = _suspicious(seen, looks, marks, timeline, folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}", "name another folder") from error
    notes = tuple(filter(None, [lost, *_notes(answer, settings, looks)]))
    found = Explanation(
        answer, overlay, timeline, suspicious, check.meaningful, check.why, None, check.similarity, notes
    )
    if page:
        found = replace(found, page=write_page(folder, explanation_page(trained, found)))
    write_json(folder / NUMBERS, as_values(trained, found))
    return found


@dataclass(frozen=True)
class _Clip:
    """One clip that was cut: its tensor is read from the store when it is needed."""

    number: int
    sample: str
    place: int
    face: int


@dataclass(frozen=True)
class _Seen:
    """The crops of a file."""

    store: CropStore
    clips: list[_Clip]

    def tensors(self, clip: _Clip, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [1, T, C, S, S] and bool [1, T]."""
        pixels, mask = self.store.clip(clip.sample, clip.place)
        frames = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)[None]
        return frames.to(device), torch.from_numpy(mask)[None].to(device)


@dataclass(frozen=True)
class _Looked:
    clip: _Clip
    found: Attribution
    moments: list[Moment]


def _cut(
    trained: Trained, one: Input, answer: Answer, folder: Path, progress: Progress | None
) -> tuple[_Seen, CutSettings]:
    """Cut clips all along a file, in parts whose frames fit into memory."""
    config, media = trained.config, answer.media
    assert media is not None
    settings = cut_settings(config.dataset, config.head.temporal, config.cache)
    seconds = seconds_for(trained)
    jobs = [Job("0", one.path, one.kind, seconds=seconds)]
    if one.kind == "video":
        plan = settings.plan.at(media.fps)
        step = plan.stride if plan.temporal else max(1, round(_STEP * (media.fps or 25)))
        wanted = min(max(1, math.ceil(media.frames / (plan.frames * step))), LOOKS)
        most = _BYTES // (plan.frames * media.width * media.height * 3)
        together = int(min(max(1, most), _TOGETHER, wanted))
        parts = math.ceil(wanted / together)
        edges = [(part / parts, (part + 1) / parts) for part in range(parts)]
        jobs = [Job(str(i), one.path, one.kind, seconds=seconds, part=edge) for i, edge in enumerate(edges)]
        settings = replace(settings, plan=replace(plan, clips=together, slack=0))
    prepare_jobs(jobs, folder, settings, config.dataset.workers, progress)
    records = read_records(folder)
    good = {job.sample_id: records[job.sample_id] for job in jobs if _good(records.get(job.sample_id))}
    store = CropStore(folder, good, 0)
    clips = [(name, place, face) for name, record in good.items() for place, face in enumerate(_faces(record))]
    return _Seen(store, [_Clip(number, *clip) for number, clip in enumerate(clips)]), settings


def _good(record: Record | None) -> bool:
    return record is not None and record["status"] == "ok"


def _faces(record: Record) -> list[int]:
    return list(record.get("faces") or [0] * record["shape"][0])


def _look_along(trained: Trained, seen: _Seen, progress: Progress | None) -> Iterator[_Looked]:
    with bar(progress, len(seen.clips), "looking at clips") as looked:
        for clip in seen.clips:
            pixels, mask = seen.tensors(clip, trained.fabric.device)
            found = attribute(trained.detector, pixels, mask, trained.config.evaluation)
            if math.isfinite(found.logit):
                yield _Looked(clip, found, _moments(clip, found, seen))
            looked.advance()


def _moments(clip: _Clip, found: Attribution, seen: _Seen) -> list[Moment]:
    frames = seen.store.frame_records(clip.sample)[clip.place]
    length = seen.store.records[clip.sample]["lengths"][clip.place]
    whole = float(sigmoid(np.array([found.logit]))[0])
    scores = np.full(len(frames), whole) if found.frame_logits is None else sigmoid(found.frame_logits)
    return [
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
        for i, frame in enumerate(frames[:length])
    ]


def _checked(trained: Trained, seen: _Seen, looks: Sequence[_Looked]) -> MapCheck:
    """Whether maps mean something, tried on the clip of which the run is surest."""
    failed = next((look.found.why for look in looks if look.found.maps is None), "")
    if failed:
        return MapCheck(False, failed)
    surest = max(looks, key=lambda look: abs(look.found.logit))
    pixels, mask = seen.tensors(surest.clip, trained.fabric.device)
    return check_maps(trained.detector, pixels, mask, surest.found, trained.config.evaluation)


def _marks(seen: _Seen, looks: Sequence[_Looked], check: MapCheck) -> list[Mark]:
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


def _paint(
    trained: Trained, one: Input, answer: Answer, marks: Sequence[Mark], folder: Path, progress: Progress | None
) -> tuple[Path, str]:
    assert answer.media is not None
    sure = answer.probability if answer.probability is not None else answer.score
    named = "P(fake)" if answer.probability is not None else "score"
    painter = Painter(marks, trained.decision.applied_threshold, f"{answer.predicted}  {named} {sure:.2f}")
    if one.kind == "image":
        target = folder / STILL
        with appearing(target) as half:
            paint_image(read_image(one.path).images[0], half, painter)
        return target, ""
    target = folder / OVERLAY
    with appearing(target) as half:
        lost = paint_video(one.path, half, painter, answer.media.frames, progress)
    return target, lost


def _suspicious(
    seen: _Seen, looks: Sequence[_Looked], marks: Sequence[Mark], timeline: Sequence[Moment], folder: Path
) -> tuple[Suspicious, ...]:
    """The frames with the highest scores, some time apart, as pictures."""
    chosen: list[Moment] = []
    for moment in sorted(timeline, key=lambda moment: -moment.score):
        near = (other for other in chosen if other.face == moment.face)
        if all(abs(other.seconds - moment.seconds) >= _APART for other in near):
            chosen.append(moment)
        if len(chosen) == _SUSPICIOUS:
            break
    maps = {(mark.clip, mark.frame): mark.map for mark in marks}
    clips = {look.clip.number: look.clip for look in looks}
    (folder / PICTURES).mkdir(exist_ok=True)
    found = []
    for moment in chosen:
        clip = clips[moment.clip]
        frames = seen.store.frame_records(clip.sample)[clip.place]["frame_index"].tolist()
        crop = np.array(seen.store.clip(clip.sample, clip.place)[0][frames.index(moment.frame)])
        name, shown = f"{moment.frame:06d}-{moment.clip}", maps[moment.clip, moment.frame]
        plain, painted = folder / PICTURES / f"{name}.jpg", None
        _write_jpeg(plain, crop)
        if shown is not None:
            paint_map(crop, shown, np.array([0, 0, crop.shape[1], crop.shape[0]], np.float32))
            painted = folder / PICTURES / f"{name}-map.jpg"
            _write_jpeg(painted, crop)
        found.append(Suspicious(moment, plain, painted))
    return tuple(found)


def _write_jpeg(target: Path, image: Pixels) -> None:
    import simplejpeg

    with appearing(target) as half:
        half.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90))


def _notes(answer: Answer, settings: CutSettings, looks: Sequence[_Looked]) -> Iterator[str]:
    if settings.align:
        yield "faces were turned upright for the run; boxes and maps are painted without that turn"
    if settings.view == "patches":
        yield "the run looks at patches of the picture as they are; each box is one"
    media = answer.media
    if media is not None and media.frames > 1:
        seen = len({moment.frame for look in looks for moment in look.moments})
        yield f"{seen} of {media.frames} frames were looked at; between two within a second a box moves evenly"


def _named(picture: Path | None) -> str | None:
    return None if picture is None else f"{PICTURES}/{picture.name}"


def as_values(trained: Trained | Ensemble, found: Explanation) -> dict[str, Any]:
    """All numbers for other programs; ``schema`` changes when a field changes its meaning or goes."""
    return {
        "schema": "deepfake/explain/1",
        "run": {"name": trained.record.name, "id": trained.record.run_id},
        "result": as_result(found.answer),
        "threshold": trained.decision.applied_threshold,
        "overlay": None if found.overlay is None else found.overlay.name,
        "map": {"meaningful": found.map_meaningful, "why": found.why, "similarity": found.similarity or {}},
        "timeline": [asdict(moment) for moment in found.timeline],
        "suspicious": [
            {**asdict(one.moment), "picture": _named(one.picture), "painted": _named(one.painted)}
            for one in found.suspicious
        ],
        "notes": list(found.notes),
    }
