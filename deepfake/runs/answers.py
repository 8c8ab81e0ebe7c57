"""What a trained run says of files: REAL or FAKE, how sure that is, or why there is no answer. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.data.clips import ClipSet
from deepfake.data.crop_records import Record, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import CutSettings
from deepfake.data.file_facts import Media, media_of
from deepfake.data.manifest import plain_path
from deepfake.data.media import Deadline
from deepfake.data.prepare import cut_settings
from deepfake.data.prepare_worker import Job, stamp, time_limit
from deepfake.data.worker_pool import prepare_jobs
from deepfake.progress import Progress
from deepfake.reading.file_answers import (
    Answer,
    Box,
    FaceAnswer,
    Input,
    face_places,
    read_faces,
    read_score,
    unanswered,
)
from deepfake.runs.artifacts import scratch_folder
from deepfake.runs.domain import file_facts
from deepfake.runs.load import Ensemble, Trained
from deepfake.runs.reading_config import SECONDS
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord
from deepfake.training.calibration import log_odds, sigmoid
from deepfake.training.domain import Outside, middle_items
from deepfake.training.domain_features import noting_vectors
from deepfake.training.pooling import pool_clips
from deepfake.training.views import views_of

_FILES = 64  # whose crops lie on the disk at once


def predict_inputs(
    trained: Trained | Ensemble, inputs: Sequence[Input], progress: Progress | None = None
) -> Iterator[Answer]:
    """An answer for each input, in their order; one that cannot be read does not stop the others."""
    groups = alike(trained)
    originals = [Originals(members[0].record, seconds_for(trained)) for _, members in groups]
    for start in range(0, len(inputs), _FILES):
        part = inputs[start : start + _FILES]
        known = {str(place): one for place, one in enumerate(part) if one.kind}
        looks: dict[str, list[Look]] = {name: [] for name in known}
        for (settings, members), jobs in zip(groups, originals, strict=True):
            for name, found in _look(members, known, settings, jobs, progress):
                looks[name].append(found)
        for place, one in enumerate(part):
            name = str(place)
            if name in known:
                yield read_looks(trained, one, looks[name])
            else:
                yield unanswered(one)


def seconds_for(trained: Trained | Ensemble) -> float:
    """How long one file may take, as :class:`deepfake.data.prepare_worker.Job` counts it: what was typed, or little."""
    if trained.changes.has("dataset.file_timeout"):
        return trained.config.dataset.file_timeout
    return min(SECONDS, trained.config.dataset.file_timeout)


@dataclass(frozen=True)
class Look:
    """What one detector makes of a file: its crops' record, its score, its clips' probabilities, its faces' scores.

    ``places`` says where each face is: a frame and a box; ``media`` what the file is like.
    """

    member: Trained
    record: Record
    score: float
    clips: np.ndarray
    faces: np.ndarray
    places: list[tuple[int, Box]]
    media: Media | None = None
    outside: tuple[Outside, ...] = ()


def alike(trained: Trained | Ensemble) -> list[tuple[CutSettings, list[Trained]]]:
    """The detectors by the crops that they read: those of one kind are cut once."""
    groups: dict[CutSettings, list[Trained]] = {}
    for member in trained.members:
        config = member.config
        settings = cut_settings(config.dataset, config.head.temporal, config.cache)
        groups.setdefault(settings, []).append(member)
    return list(groups.items())


def _look(
    members: Sequence[Trained],
    inputs: Mapping[str, Input],
    settings: CutSettings,
    originals: Originals,
    progress: Progress | None,
) -> Iterator[tuple[str, Look]]:
    """What each of some detectors makes of each input, by the input's name."""
    with scratch_folder("predict") as folder:
        prepare_jobs(originals.jobs(inputs), folder, settings, members[0].config.dataset.workers, progress)
        records = read_records(folder)
        yield from look_at_crops(members, {name: records[name] for name in inputs}, folder, settings, progress)


def look_at_crops(
    members: Sequence[Trained],
    records: Mapping[str, Record],
    folder: Path,
    settings: CutSettings,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Look]]:
    """What each of some detectors makes of crops, by the name of their file.

    Args:
        members: Detectors that read the same crops.
        records: What came of each file, by its name.
        folder: Where the crops lie.
        settings: How they were cut.
        progress: Told of every clip.
    """
    store = CropStore(folder, {**records}, settings.plan.slack)
    table = pd.DataFrame({"sample_id": [*records], "label": 0, "method": "", "dataset": ""})
    for member in members:
        clip_set = ClipSet(store, table)
        with noting_vectors(member.detector, views_seen(member)) as noted:
            scored = member.score(clip_set, "scoring", progress)
        member.rest()
        vectors = np.concatenate([one.numpy() for one in noted]) if noted else np.zeros((0, 0))
        middles = dict(zip(records, middle_items(clip_set).tolist(), strict=True))
        scores = dict(zip(records, scored.samples["score"], strict=True))
        clips = dict(iter(scored.clips.groupby("sample_id")))
        for name in records:
            own = clips.get(name, scored.clips.iloc[:0])
            several = settings.max_faces > 1 and len(own)
            places = face_places(records[name], store.frame_records(name)) if several else []
            faces = _face_scores(own, len(places), member)
            probabilities = sigmoid(own["logit"].to_numpy())
            vector = vectors[middles[name]] if 0 <= middles[name] < len(vectors) else None
            outside = _outside(member, store, name, vector)
            media = _media(store, name, settings)
            score = float(scores[name])
            yield name, Look(member, records[name], score, probabilities, faces, places, media, outside)


def views_seen(member: Trained) -> int:
    """How often it looks at each clip."""
    return len(views_of(member.config.evaluation.views, member.config.evaluation.view_scale))


def _outside(member: Trained, store: CropStore, name: str, vector: np.ndarray | None) -> tuple[Outside, ...]:
    """How a file lies outside of what a detector was trained on."""
    record = store.records[name]
    if member.domain is None or record["status"] != "ok":
        return ()
    # Which kind it is, its header has told: a picture has no frames a second.
    kind = "video" if record["fps"] else "image"
    facts = file_facts(store, name, kind, member.config.dataset.margin)
    return tuple(member.domain.outside(kind, facts, vector))


def _media(store: CropStore, name: str, settings: CutSettings) -> Media | None:
    record = store.records[name]
    if record["status"] != "ok" or not record.get("width"):
        return None
    return media_of(record, store.frame_records(name)[0], settings.margin)


def _face_scores(clips: pd.DataFrame, faces: int, member: Trained) -> np.ndarray:
    """The score of each face [faces], from the clips of one sample."""
    options = member.config.evaluation
    owners = clips["face"].to_numpy() if "face" in clips else np.zeros(len(clips), np.int64)
    return pool_clips(owners, clips["logit"].to_numpy(), faces, options.clips, options.top_k) if faces else np.empty(0)


def read_looks(trained: Trained | Ensemble, one: Input, looks: Sequence[Look]) -> Answer:
    """What is said of a file, from what each detector makes of it; without an answer where one of them has none."""
    finds = [look.member.config.dataset.faces not in ("center", "none") for look in looks]
    record = next((look.record for look in looks if look.record["status"] != "ok"), looks[0].record)
    scores = np.array([look.score for look in looks])
    score = scores[0] if len(looks) == 1 else sigmoid(log_odds(scores).mean())
    clips = np.concatenate([look.clips for look in looks])
    answer = read_score(trained.decision, one, record, float(score), clips, finds=any(finds))
    answer = replace(answer, media=looks[0].media)
    if answer.reason:
        return answer
    members = tuple((look.member.record.name, look.score) for look in looks) if len(looks) > 1 else ()
    # Of an ensemble each way once.
    outside = {one.code: one for look in looks for one in look.outside}
    return replace(answer, members=members, each_face=_each_face(trained, looks), outside=tuple(outside.values()))


def _each_face(trained: Trained | Ensemble, looks: Sequence[Look]) -> tuple[FaceAnswer, ...]:
    """Of each face what is said of it; nothing where detectors of an ensemble do not see as many."""
    if len({len(look.places) for look in looks}) > 1:
        return ()
    tables = np.stack([look.faces for look in looks])
    scores = tables[0] if len(looks) == 1 else sigmoid(log_odds(tables).mean(axis=0))
    return read_faces(trained.decision, scores, looks[0].places)


def at_prior(trained: Trained | Ensemble, prior: float | None) -> Trained | Ensemble:
    """The same run with probabilities as they are where that fraction of files is fake; None changes nothing.

    Raises:
        UserError: See :meth:`deepfake.training.decision.Decision.at_prior`.
    """
    return trained if prior is None else replace(trained, decision=trained.decision.at_prior(prior))


class Originals:
    """The videos that a run's fakes were made from: training cropped such a fake where its original's face is.

    A file of the run's data set is recognised by its content, wherever it lies now.

    Args:
        record: The run.
        seconds: For each file, as :class:`deepfake.data.prepare_worker.Job` counts them.
    """

    def __init__(self, record: RunRecord, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._originals: dict[str, tuple[str, Path]] = {}
        if not (record.has(files.MANIFEST) and record.has(files.PROVENANCE)):
            return
        table = record.manifest("dataset", "path")
        if "original" not in table or "sha256" not in table:
            return
        roots = record.provenance().get("data", {}).get("roots", {})
        where = {
            str(row.sample_id): Path(roots.get(str(row.dataset), "")) / plain_path(str(row.path))
            for row in table.itertuples()
        }
        made = table[table["original"].isin(where.keys()) & (table["sha256"].fillna("") != "")]
        self._originals = {str(row.sha256): (str(row.original), where[str(row.original)]) for row in made.itertuples()}

    def jobs(self, inputs: Mapping[str, Input]) -> list[Job]:
        """A job for each input by its name, and one for each original that is needed and still there."""
        jobs: dict[str, Job] = {}
        for name, one in inputs.items():
            original = ""
            if self._originals and one.kind == "video":
                known = stamp(one.path, Deadline(time_limit(Job(name, one.path, one.kind, seconds=self._seconds))))
                sample, file = self._originals.get(str(known["sha256"]), ("", Path()))
                if sample and file.is_file():
                    original = f"original of it: {sample}"
                    jobs[original] = Job(original, file, "video", seconds=self._seconds)
            jobs[name] = Job(name, one.path, one.kind, original, seconds=self._seconds)
        return list(jobs.values())
