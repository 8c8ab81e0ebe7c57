"""Why a trained run says what it says of a file: an overlay, a timeline, the most suspicious frames. Prints nothing.

The answer is that of :mod:`deepfake.runs.answers`. For the timeline the file is looked at again, all along
(:mod:`deepfake.reading.along`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfake.data.cropping import CutSettings
from deepfake.data.media import Pixels
from deepfake.data.overlay import paint_map
from deepfake.data.prepare import cut_settings
from deepfake.data.prepare_worker import Job
from deepfake.errors import UserError
from deepfake.files import appearing
from deepfake.progress import Progress
from deepfake.reading.along import OVERLAYS, Along, Moment, look_along, paint_along
from deepfake.reading.file_answers import Answer, Input, as_result
from deepfake.runs.answers import predict_inputs, seconds_for
from deepfake.runs.artifacts import scratch_folder
from deepfake.runs.explanation_page import explanation_page
from deepfake.runs.load import Ensemble, Trained
from deepfake.tracking.page import write_page
from deepfake.tracking.run_folder import write_json
from deepfake.training.attribution import Attributing
from deepfake.training.views import views_of

#: The names of what is written beside the overlay.
NUMBERS, PICTURES = "explanation.json", "frames"
_SUSPICIOUS, _APART = 6, 0.5  # frames that are shown, and seconds between them


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
        similarity: Of the maps with those of random weights; see :class:`deepfake.training.saliency.MapCheck`.
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
    _check_place(folder)
    (answer,) = predict_inputs(trained, [one], progress)
    if answer.reason or answer.media is None:
        return Explanation(answer, why=answer.detail)
    config = trained.config
    settings = cut_settings(config.dataset, config.head.temporal, config.cache)
    views = views_of(config.evaluation.views, config.evaluation.view_scale)
    looker = Attributing(trained.detector, views, trained.fabric.device)
    job = Job("0", one.path, one.kind, seconds=seconds_for(trained))
    with scratch_folder("explain") as scratch:
        along = look_along(
            job, answer.media, settings, looker, scratch, workers=config.dataset.workers, progress=progress
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            overlay = folder / OVERLAYS[one.kind]
            with appearing(overlay) as half:
                lost = paint_along(along, answer, trained.decision.applied_threshold, half, progress)
            suspicious = _suspicious(along, folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}", "name another folder") from error
    check = along.check
    notes = tuple(filter(None, [lost, *_notes(answer, settings, along.timeline)]))
    found = Explanation(
        answer, overlay, along.timeline, suspicious, check.meaningful, check.why, None, check.similarity, notes
    )
    if page:
        found = replace(found, page=write_page(folder, explanation_page(trained, found)))
    write_json(folder / NUMBERS, as_values(trained, found))
    return found


def _check_place(folder: Path) -> None:
    """Make sure, before minutes of work, that a folder can be written, or made.

    Raises:
        UserError: It cannot.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written to" if there.is_dir() else "is no folder"
        raise UserError(f"{folder} cannot be written: {there} {why}", "name another folder")


def _suspicious(along: Along, folder: Path) -> tuple[Suspicious, ...]:
    """The frames with the highest scores, some time apart, as pictures."""
    chosen: list[Moment] = []
    for moment in sorted(along.timeline, key=lambda moment: -moment.score):
        near = (other for other in chosen if other.face == moment.face)
        if all(abs(other.seconds - moment.seconds) >= _APART for other in near):
            chosen.append(moment)
        if len(chosen) == _SUSPICIOUS:
            break
    maps = {(mark.clip, mark.frame): mark.map for mark in along.marks}
    (folder / PICTURES).mkdir(exist_ok=True)
    found = []
    for moment in chosen:
        clip = along.clips.all[moment.clip]
        frames = along.clips.frames(clip)["frame_index"].tolist()
        crop = np.array(along.clips.pixels(clip)[0][frames.index(moment.frame)])
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


def _notes(answer: Answer, settings: CutSettings, timeline: Sequence[Moment]) -> Iterator[str]:
    if settings.align:
        yield "faces were turned upright for the run; boxes and maps are painted without that turn"
    if settings.view == "patches":
        yield "the run looks at patches of the picture as they are; each box is one"
    media = answer.media
    if media is not None and media.frames > 1:
        seen = len({moment.frame for moment in timeline})
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
