"""A folder that was exported into answers about files, the same as ``deepfake predict`` gives.

Files are cut by the very code that cuts them in training, in processes of their own with limits of memory and time;
the exported graph makes logits of the crops, and the saved threshold and calibrator an answer of these."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepfake.data.crop_records import Record, clip_faces, read_frames, read_pixels, read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.file_facts import facts_of, media_of
from deepfake.data.frame_sampling import ClipPlan, window
from deepfake.data.media import Pixels
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import prepare_jobs
from deepfake.errors import UserError
from deepfake.installation import available_cores
from deepfake.reading.file_answers import (
    Answer,
    FaceAnswer,
    Input,
    as_result,
    face_places,
    named_file,
    not_cut,
    nothing_there,
    read_faces,
    read_score,
    unanswered,
)
from deepfake.reading.folder import CONFIG, DOMAIN, ONNX, QUANTIZED, read_folder, read_json
from deepfake.training.calibration import sigmoid
from deepfake.training.decision import Decision, document, load_decision
from deepfake.training.domain import Outside, load_domain
from deepfake.training.pooling import pool_clips, pool_faces

_FILES = 64  # whose crops lie on the disk at once
_FRAMES = 64  # that the graph reads at once, or the frames of one clip where it has more


@dataclass(frozen=True)
class Scoring:
    """How a file's score is made of its clips' and faces', as ``evaluation.*`` says.

    Attributes:
        clips: A face's from its clips'; ``faces``: a file's from its faces'; see :mod:`deepfake.training.pooling`.
        faces: See ``clips``.
        top_k: How many ``topk`` takes.
    """

    clips: str
    faces: str
    top_k: int


@dataclass(frozen=True)
class Cut:
    """A file that was cut.

    Attributes:
        file: What it is called, and its kind.
        record: What came of cutting it by :attr:`FileReader.settings`.
        folder: Where its crops lie.
    """

    file: Input
    record: Record
    folder: Path

    @property
    def is_good(self) -> bool:
        """Whether it could be cut."""
        return bool(self.record["status"] == "ok")

    @cached_property
    def frames(self) -> np.ndarray:
        """The frame records [clips, T] of one that could be cut."""
        return read_frames(self.folder, self.record)


class FileReader(ABC):
    """What answers about files; how crops become logits, a subclass says.

    Args:
        described: What ``config.json`` says: ``run``, ``preprocessing``, ``scoring`` and ``decision``.
        domain: What ``domain.json`` says, where there is one.

    Attributes:
        name: Of the run that it is.
        threshold: The score from which a file is called fake.
        description: As given.
        settings: How files are cut.
        decision: Threshold and calibrator.
        seconds: For one file, and one more for each megabyte.

    Raises:
        KeyError, TypeError, ValueError, UserError: They say something else.
    """

    def __init__(self, described: dict[str, Any], domain: dict[str, Any] | None = None) -> None:
        self.description = described
        self.name: str = str(described["run"]["name"])
        prepared = described["preprocessing"]
        self.settings = CutSettings(**{**prepared["crops"], "plan": ClipPlan(**prepared["crops"]["plan"])})
        self.seconds = float(prepared["seconds"])
        self._finds = bool(prepared["finds_faces"])
        self._scoring = Scoring(**described["scoring"])
        self.decision: Decision = load_decision(described["decision"])
        self.threshold = self.decision.applied_threshold
        self._domain = None if domain is None else load_domain(domain)
        if self.settings.normalise:
            _require_simplejpeg()

    @abstractmethod
    def run(self, clips: Pixels, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clips uint8 [B, T, 3, S, S] in RGB and mask bool [B, T] to logits [B] and features [B, D]."""

    def predict(self, path: Path | str) -> dict[str, Any]:
        """What is said of one file: one of the ``results`` of ``deepfake predict --json``."""
        return self.predict_all([path])[0]

    def predict_all(self, paths: Sequence[Path | str]) -> list[dict[str, Any]]:
        """The same of several files, in their order; one that cannot be read does not stop the others."""
        return self.predict_inputs([named_path(Path(path)) for path in paths])

    def predict_inputs(self, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """The same of files whose kinds are known, or why they have no answer."""
        results: list[dict[str, Any]] = []
        for start in range(0, len(inputs), _FILES):
            results += self._predict(inputs[start : start + _FILES])
        return results

    def document(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Results with all that they are to be read by: what ``deepfake predict --json`` prints."""
        return document(self.decision, self.description["run"], results)

    def _predict(self, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        named = {str(place): one for place, one in enumerate(inputs)}
        jobs = [Job(name, one.path, one.kind, seconds=self.seconds) for name, one in named.items() if one.kind]
        with tempfile.TemporaryDirectory(prefix="deepfake-reader-") as scratch:
            folder = Path(scratch)
            prepare_jobs(jobs, folder, self.settings, "auto")
            records = read_records(folder)
            answers = self.read([Cut(one, records[name], folder) for name, one in named.items() if one.kind])
        found = iter(answers)
        return [as_result(next(found) if one.kind else unanswered(one)) for one in named.values()]

    def read(self, files: Sequence[Cut]) -> list[Answer]:
        """What is said of each of several files that were cut; clips of one length are looked at together."""
        good = [one for one in files if one.is_good]
        # Read before any is looked at: a file's crops go with whoever asked for it.
        frames = [one.frames for one in good]
        looks = zip(good, frames, self._look(good), strict=True)
        answers = (self._read(one, rows, *look) for one, rows, look in looks)
        return [next(answers) if one.is_good else not_cut(one.file, one.record) for one in files]

    def _look(self, files: Sequence[Cut]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each file the logit of each clip, float64 [clips], and their features [clips, D]."""
        crops = [read_pixels(one.folder, one.record) for one in files]
        slack = self.settings.plan.slack
        alike: dict[int, list[tuple[int, int]]] = {}
        for place, pixels in enumerate(crops):
            clips, kept = pixels.shape[:2]
            frames = kept - slack if kept > slack else kept  # an image has one, whatever the slack
            alike.setdefault(frames, []).extend((place, clip) for clip in range(clips))
        logits: list[list[float]] = [[] for _ in files]
        features: list[list[np.ndarray]] = [[] for _ in files]
        for frames, clips_of_files in alike.items():
            at_once = max(1, _FRAMES // frames)
            for start in range(0, len(clips_of_files), at_once):
                some = clips_of_files[start : start + at_once]
                lengths = np.array([int(files[place].record["lengths"][clip]) for place, clip in some])
                batch = np.stack(
                    [
                        crops[place][clip][window(length, frames)] if slack else crops[place][clip]
                        for (place, clip), length in zip(some, lengths.tolist(), strict=True)
                    ]
                )
                mask = np.arange(frames) < np.minimum(lengths, frames)[:, None]
                found = self.run(np.ascontiguousarray(batch.transpose(0, 1, 4, 2, 3)), mask)
                for (place, _), logit, vector in zip(some, *found, strict=True):
                    logits[place].append(float(logit))
                    features[place].append(vector)
        for own, vectors in zip(logits, features, strict=True):
            yield np.array(own, np.float64), np.stack(vectors).astype(np.float64)

    def _read(self, one: Cut, frames: np.ndarray, logits: np.ndarray, features: np.ndarray) -> Answer:
        record = one.record
        faces = np.array(clip_faces(record))
        score = float(pool_faces(np.zeros(len(logits), int), faces, logits, 1, self._scoring)[0])
        answer = read_score(self.decision, one.file, record, score, sigmoid(logits), finds=self._finds)
        answer = replace(answer, media=media_of(record, frames[0], self.settings.margin))
        if answer.reason:
            return answer
        each: tuple[FaceAnswer, ...] = ()
        if self.settings.max_faces > 1:
            places = face_places(record, frames)
            scores = pool_clips(faces, logits, len(places), self._scoring.clips, self._scoring.top_k)
            each = read_faces(self.decision, scores, places)
        return replace(answer, each_face=each, outside=self._outside(record, frames[0], faces, features))

    def _outside(
        self, record: Record, frames: np.ndarray, faces: np.ndarray, features: np.ndarray
    ) -> tuple[Outside, ...]:
        """How a file lies outside of what the run was trained on, by the clip in the middle of its largest face's."""
        if self._domain is None:
            return ()
        # Which kind it is, its header has told: a picture has no frames a second.
        kind = "video" if record["fps"] else "image"
        own = np.flatnonzero(faces == 0)
        facts = facts_of(record, frames, self.settings.margin)
        return tuple(self._domain.outside(kind, facts, features[own[len(own) // 2]]))


class Detector(FileReader):
    """A detector that was exported, ready to answer.

    Args:
        folder: What ``deepfake export`` wrote.
        quantized: Read the weights of 8 bits, where the folder has them.
        threads: That a forward pass may use; None for one on each core.

    Raises:
        UserError: See :func:`deepfake.reading.folder.read_folder`; or it asks for what is not installed, or not there.
    """

    def __init__(self, folder: Path | str, *, quantized: bool = False, threads: int | None = None) -> None:
        self.folder = Path(folder)
        described = read_folder(self.folder)
        domain = read_json(self.folder, DOMAIN) if (self.folder / DOMAIN).is_file() else None
        try:
            super().__init__(described, domain)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.folder / CONFIG} is damaged: {type(error).__name__}: {error}", "export the run again"
            ) from error
        if (model := self.settings.face_model) is not None:
            self.settings = replace(self.settings, face_model=str((self.folder / model).absolute()))
        name = QUANTIZED if quantized else ONNX
        if not (self.folder / name).is_file():
            raise UserError(f"{self.folder} holds no {name}", "export the run with --quantize int8")
        self._session = open_session(self.folder / name, threads)

    @classmethod
    def load(cls, folder: Path | str, *, quantized: bool = False, threads: int | None = None) -> Detector:
        """The same as calling the class."""
        return cls(folder, quantized=quantized, threads=threads)

    def run(self, clips: Pixels, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`FileReader.run`."""
        logits, features = self._session.run(["logits", "features"], {"clips": clips, "mask": mask})
        return logits, features

    def score(self, clips: Pixels, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Clips and mask as of :meth:`run` to logits [B], and logits of frames [B, T] where the head has them."""
        there = [one.name for one in self._session.get_outputs()]
        names = [name for name in ("logits", "frame_logits") if name in there]
        logits, *frames = self._session.run(names, {"clips": clips, "mask": mask})
        return logits, frames[0] if frames else None


def named_path(path: Path) -> Input:
    """A file by its name, or why it is not looked at."""
    if not os.path.lexists(path):
        return nothing_there(path)
    if path.is_dir():
        return Input(path, reason="unsupported", detail="a folder; name the files in it")
    return named_file(path)


def open_session(graph: Path, threads: int | None = None) -> Any:
    """A graph made ready for a CPU.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot load it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime is not installed", "pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.log_severity_level = 3  # errors only: its warnings are about the graph's making
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions share no base
        raise UserError(f"ONNX Runtime cannot load {graph}: {error}", "update onnxruntime") from error


def _require_simplejpeg() -> None:
    try:
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise UserError(
            "this detector reads crops that are compressed alike, which simplejpeg does", "pip install simplejpeg"
        ) from error
