"""A folder that was exported into answers about files, the same as ``deepfake predict`` gives.

Files are cut by the very code that cuts them in training, in processes of their own with limits of memory and time;
the exported graph makes logits of the crops, and the saved threshold and calibrator an answer of these."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfake.data.crop_records import Record, read_frames, read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.file_facts import facts_of, media_of
from deepfake.data.frame_sampling import ClipPlan, window
from deepfake.data.media import Pixels, kind_of
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import run_jobs
from deepfake.errors import UserError, printable
from deepfake.installation import available_cores
from deepfake.reading.folder import CONFIG, DOMAIN, ONNX, QUANTIZED, read_folder, read_json
from deepfake.training.calibration import sigmoid
from deepfake.training.decision import Decision, document, load_decision
from deepfake.training.domain import load_domain
from deepfake.training.pooling import pool_clips, pool_faces

_FILES = 64  # whose crops lie on the disk at once
_FRAMES = 64  # that the graph reads at once, or the frames of one clip where it has more
_WORTH_WORKERS = 6  # with fewer files, starting more than one process costs more than it saves


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


class FileReader:
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

    def run(self, clips: Pixels, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clips uint8 [B, T, 3, S, S] in RGB and mask bool [B, T] to logits [B] and features [B, D]."""
        raise NotImplementedError

    def predict(self, path: Path | str) -> dict[str, Any]:
        """What is said of one file: one of the ``results`` of ``deepfake predict --json``."""
        return self.predict_all([path])[0]

    def predict_all(self, paths: Sequence[Path | str]) -> list[dict[str, Any]]:
        """The same of several files, in their order; one that cannot be read does not stop the others."""
        results: list[dict[str, Any]] = []
        for start in range(0, len(paths), _FILES):
            results += self._predict([Path(path) for path in paths[start : start + _FILES]])
        return results

    def document(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Results with all that they are to be read by: what ``deepfake predict --json`` prints."""
        return document(self.decision, self.description["run"], results)

    def _predict(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        refused = {place: reason for place, path in enumerate(paths) if (reason := _refusal(path))}
        jobs = [
            Job(str(place), path, kind_of(path.name), seconds=self.seconds)
            for place, path in enumerate(paths)
            if place not in refused
        ]
        with tempfile.TemporaryDirectory(prefix="deepfake-reader-") as scratch:
            folder = Path(scratch)
            workers = 1 if len(jobs) < _WORTH_WORKERS else available_cores()
            for _ in run_jobs(jobs, folder, self.settings, workers):
                pass
            records = read_records(folder)
            return [
                _unanswered(path, *refused[place], kind="")
                if place in refused
                else self.answer(path, records[str(place)], folder)
                for place, path in enumerate(paths)
            ]

    def answer(self, path: Path, record: Record, folder: Path, kind: str = "") -> dict[str, Any]:
        """What is said of a file that was cut: one of the ``results`` of ``deepfake predict --json``.

        Args:
            path: What it is called.
            record: What came of cutting it by :attr:`settings`.
            folder: Where its crops lie.
            kind: ``video`` or ``image``, where its name does not say so.
        """
        kind = kind or kind_of(path.name)
        if record["status"] != "ok":
            return _unanswered(path, record["status"], record["reason"], kind=kind)
        logits, features = self._look(record, folder)
        faces = np.array(record["faces"]) if "faces" in record else None
        score = float(pool_faces(np.zeros(len(logits), int), faces, logits, 1, self._scoring)[0])
        frames, filled = int(record["frames"]), int(record["filled"])
        found = {"found": frames - filled, "frames": frames} if self._finds else None
        if np.isnan(score):
            return _unanswered(path, "not_a_number", "the model's score is NaN", kind=kind) | {"faces": found}
        decision = self.decision
        fake = bool(decision.predicts_fake(np.array([score]))[0])
        threshold = decision.applied_probability
        probability = None if threshold is None else float(decision.calibrated(np.array([score]))[0])
        clips = sigmoid(logits)
        each = self._each_face(record, folder, logits, faces) if self.settings.max_faces > 1 else []
        return {
            "path": printable(str(path)),
            "kind": kind,
            "class": "FAKE" if fake else "REAL",
            "probability": probability,
            "confidence": None if probability is None else probability if fake else 1 - probability,
            "tied": probability is not None and probability == threshold and score != decision.applied_threshold,
            "score": score,
            "spread": {
                "clips": len(clips),
                "low": float(clips.min()),
                "high": float(clips.max()),
                "std": float(clips.std()),
            },
            "faces": found,
            **({"each_face": each} if each else {}),
            "media": asdict(media_of(record, read_frames(folder, record)[0], self.settings.margin)),
            "outside": self._outside(record, folder, features),
            "reason": None,
        }

    def _look(self, record: Record, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """The logit of each clip of a file, float64 [clips], and their features [clips, D]."""
        clips, kept, *rest = record["shape"]
        pixels = np.memmap(folder / f"{record['part']}.u8", np.uint8, "r", record["offset"], tuple(record["shape"]))
        slack = self.settings.plan.slack
        frames = kept - slack if kept > slack else kept  # an image has one, whatever the slack
        found = []
        at_once = max(1, _FRAMES // frames)
        for start in range(0, clips, at_once):
            some = range(start, min(start + at_once, clips))
            batch = np.empty((len(some), frames, *rest), np.uint8)
            for place, clip in enumerate(some):
                length = int(record["lengths"][clip])
                run = pixels[clip]
                batch[place] = run[window(length, frames)] if slack else run
            lengths = np.minimum([record["lengths"][clip] for clip in some], frames)
            mask = np.arange(frames) < lengths[:, None]
            found.append(self.run(np.ascontiguousarray(batch.transpose(0, 1, 4, 2, 3)), mask))
        logits, features = (np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True))
        return logits, features

    def _each_face(
        self, record: Record, folder: Path, logits: np.ndarray, faces: np.ndarray | None
    ) -> list[dict[str, Any]]:
        """What is said of each face of a file, the largest first."""
        owners = np.zeros(len(logits), int) if faces is None else faces
        count = int(owners.max()) + 1
        scores = pool_clips(owners, logits, count, self._scoring.clips, self._scoring.top_k)
        calibrator = self.decision.calibrator
        probabilities = [None] * count if calibrator is None else self.decision.calibrated(scores).tolist()
        frames = read_frames(folder, record)
        return [
            {
                "face": face,
                "score": float(scores[face]),
                "probability": probabilities[face],
                **_place(frames[owners == face]),
            }
            for face in range(count)
        ]

    def _outside(self, record: Record, folder: Path, features: np.ndarray) -> list[dict[str, Any]]:
        """How a file lies outside of what the run was trained on, by the clip in the middle of its largest face's."""
        if self._domain is None:
            return []
        # Which kind it is, its header has told: a picture has no frames a second.
        kind = "video" if record["fps"] else "image"
        own = np.flatnonzero(np.array(record["faces"]) == 0) if "faces" in record else np.arange(len(features))
        facts = facts_of(record, read_frames(folder, record)[0], self.settings.margin)
        return [asdict(one) for one in self._domain.outside(kind, facts, features[own[len(own) // 2]])]


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


def _place(frames: np.ndarray) -> dict[str, Any]:
    """A frame in the middle of those in which a face was found, and its box there."""
    seen = frames.reshape(-1)
    seen = seen[seen["found"]] if seen["found"].any() else seen
    middle = seen[np.argsort(seen["frame_index"], kind="stable")[len(seen) // 2]]
    box = [round(float(middle[side]), 1) for side in ("x0", "y0", "x1", "y1")]
    return {"frame": int(middle["frame_index"]), "box": box}


def _refusal(path: Path) -> tuple[str, str] | None:
    """Why a name is not looked at, in a word and in words; None where it is."""
    if not os.path.lexists(path):
        return "not_found", "there is no such file or folder"
    if path.is_dir():
        return "unsupported", "a folder; name the files in it"
    if not kind_of(path.name):
        return "unsupported", "neither a video nor an image, by its name"
    return None


def _unanswered(path: Path, code: str, detail: str, *, kind: str) -> dict[str, Any]:
    return {
        "path": printable(str(path)),
        "kind": kind or None,
        "class": None,
        "probability": None,
        "confidence": None,
        "tied": False,
        "score": None,
        "spread": None,
        "faces": None,
        "media": None,
        "outside": [],
        "reason": {"code": code, "detail": detail},
    }


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
