"""One process that prepares samples: a task read, its file cropped, its record written. No torch, no pandas."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import signal
import stat
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepfake.data.crop_records import Record, StoreWriter, pack_landmarks, read_frames, read_landmarks
from deepfake.data.cropping import Crops, CutSettings, KnownTrack, cut_sample
from deepfake.data.faces import create_detector
from deepfake.data.faces.base import FaceDetector
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.media import FILE_SECONDS, MOST_PIXELS, Deadline, MediaError
from deepfake.data.video import check_extent

_SLOWEST = 1e6  # bytes a second that any machine and disk is taken to read and decode
_BLOCK = 1 << 20
_NONE: Record = {"bytes": -1, "mtime": 0, "sha256": ""}  # of a file that is not there


@dataclass(frozen=True)
class Job:
    """A sample to be prepared.

    Attributes:
        sample_id: Its name.
        file: Where it lies.
        kind: ``video`` or ``image``.
        original: The name of the sample it was made from, or nothing.
        like: That sample's record, once there is one: its track can be used.
        seconds: How long it may take, and a second more for each megabyte.
        most_pixels: Of one frame; larger ones are refused unread. None for the decoders' own bound.
        most_duration: Seconds that a video may last, by what it says of itself; None for any.
        part: From which fraction of the video up to which clips are taken; then the file is not read through for its
            digest.
    """

    sample_id: str
    file: Path
    kind: str
    original: str = ""
    like: Record | None = None
    seconds: float = FILE_SECONDS
    most_pixels: int | None = None
    most_duration: float | None = None
    part: tuple[float, float] | None = None


class Worker:
    """Prepares samples one after the other into a part of its own."""

    def __init__(self, folder: Path, settings: CutSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._writer = StoreWriter(folder)
        self._detector: FaceDetector | None = create_detector(settings.faces, settings.face_model)

    def move(self, folder: Path) -> None:
        """Write what comes next to another folder."""
        self._writer.close()
        self._folder, self._writer = folder, StoreWriter(folder)

    def __call__(self, job: Job) -> Record:
        """Prepare one sample; one that cannot be used is written down with its reason."""
        until = Deadline(time_limit(job))
        known = stamp(job.file, until) if job.part is None else _NONE
        record: Record = {"sample_id": job.sample_id, **known}
        crops: Crops | None = None
        settings = replace(self._settings, plan=replace(self._settings.plan, part=job.part))
        try:
            until.check()
            check_extent(job.file, job.kind, job.most_pixels, job.most_duration, until)
            crops = cut_sample(job.file, job.kind, settings, self._detector, self._known(job.like), until)
        except MediaError as error:
            record |= {"status": error.reason, "reason": error.detail}
        except MemoryError:
            record |= {"status": "too_large", "reason": "decoding it takes more memory than one file may have"}
        except OSError as error:
            record |= {"status": "unreadable", "reason": error.strerror or repr(error)}
        except Exception as error:
            # Whatever a hostile file breaks is recorded as that file's failure; the others go on.
            record |= {"status": "crashed", "reason": repr(error)}
        else:
            record |= {"status": "ok", **describe(crops)}
        return self._writer.append(record, crops)

    def _known(self, like: Record | None) -> KnownTrack | None:
        if like is None or like["status"] != "ok":
            return None
        size = (like["width"], like["height"], like["video_frames"])
        return KnownTrack(size, read_frames(self._folder, like), read_landmarks(like))

    def close(self) -> None:
        """Let go of the part."""
        self._writer.close()


def time_limit(job: Job) -> float:
    """Seconds that a sample may take: a long video is a large file, and a file that takes longer than its size is ill.

    What a sparse file does not have on the disk does not count.
    """
    try:
        facts = os.stat(job.file)
    except (OSError, ValueError):
        return job.seconds
    held = min(facts.st_size, getattr(facts, "st_blocks", facts.st_size) * 512)
    return job.seconds + held / _SLOWEST


def stamp(file: Path, until: Deadline | None = None) -> Record:
    """What changes when a file changes: bytes, time of change, SHA-256.

    Args:
        file: What is no file, such as a pipe, is as if it were missing, and never opened.
        until: When it has to be done; what takes longer, or cannot be read, has no SHA-256.
    """
    try:
        facts = os.stat(file)
    except (OSError, ValueError):
        return dict(_NONE)
    if not stat.S_ISREG(facts.st_mode):
        return dict(_NONE)
    known = {"bytes": facts.st_size, "mtime": facts.st_mtime_ns, "sha256": ""}
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
                if until is not None and until.left < 0:
                    return known
    except OSError:
        return known
    return known | {"sha256": digest.hexdigest()}


def describe(crops: Crops) -> Record:
    """What a record says of a sample whose crops could be cut."""
    facts = asdict(crops.info)
    facts["video_frames"] = facts.pop("frames")
    return {
        "clips": len(crops.lengths),
        "frames": int(crops.lengths.sum()),
        "filled": crops.filled,
        **facts,
        "dhashes": list(crops.dhashes),
        "thumbnail": base64.b64encode(crops.thumbnail.tobytes()).decode(),
        "landmarks": None if crops.landmarks is None else pack_landmarks(crops.landmarks),
        **({} if crops.faces is None else {"faces": crops.faces.tolist()}),
        **({} if crops.beside is None else {"beside": crops.beside}),
    }


_MEMORY = 1 << 30  # bytes that one file may take, beside its crops


def worker_environment() -> dict[str, str]:
    """What such a process is started with, beside what any has."""
    # OpenCV reads it when it is imported, and minds it in every format, before it decodes.
    return {"OPENCV_IO_MAX_IMAGE_PIXELS": str(MOST_PIXELS)}


def pack_settings(folder: Path, settings: CutSettings) -> str:
    """The first line a worker reads."""
    return json.dumps({"folder": str(folder), **asdict(settings)})


def unpack_settings(line: str) -> tuple[Path, CutSettings]:
    """What :func:`pack_settings` wrote."""
    values: dict[str, Any] = json.loads(line)
    return Path(values.pop("folder")), CutSettings(**{**values, "plan": ClipPlan(**values["plan"])})


def pack_job(job: Job, folder: Path | None = None) -> str:
    """One line for one job; bytes of file names that are no UTF-8 survive as escapes.

    Args:
        job: What to prepare.
        folder: Where its crops go, and those of the jobs after it; None for where the last ones went.
    """
    moved = {} if folder is None else {"folder": str(folder)}
    return json.dumps({**asdict(job), "file": str(job.file), **moved})


def main() -> None:
    """Read settings, then jobs until standard input ends; a sample's record, or the error that stopped it, a line."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    cv2.setNumThreads(1)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    folder, settings = unpack_settings(sys.stdin.readline())
    worker = Worker(folder, settings)
    _limit_memory(settings)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        values = json.loads(line)
        folder_named = values.pop("folder", None)
        job = Job(**{**values, "file": Path(values["file"])})
        try:
            if folder_named is not None:
                worker.move(Path(folder_named))
            answer: dict[str, Any] = {"record": worker(job)}
        except OSError as error:
            answer = {"errno": error.errno, "error": error.strerror or str(error)}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(1)


def _limit_memory(settings: CutSettings) -> None:
    """From here on what a file says of itself cannot make this process grow beyond measure; where Linux tells sizes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    used = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    plan = settings.plan
    crops = 2 * settings.max_faces * plan.clips * plan.length * settings.size**2 * 3  # once by frame, once by clip
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = (int(used.split()[1]) << 10) + _MEMORY + crops
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


if __name__ == "__main__":
    main()
