"""One sample from file to store, in whichever process is free. Knows how, not which samples nor how many.

Worker processes import this module and what it needs: neither torch nor pandas may be among that.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from deepfake.data.cut import Crops, CutSettings, KnownTrack, cut_sample
from deepfake.data.faces import create_detector
from deepfake.data.faces.base import FaceDetector
from deepfake.data.media import Deadline, MediaError
from deepfake.data.options import DatasetOptions
from deepfake.data.part import Record, StoreWriter, read_frames

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
    """

    sample_id: str
    file: Path
    kind: str
    original: str = ""
    like: Record | None = None
    seconds: float = DatasetOptions.file_timeout


class Worker:
    """Prepares samples one after the other into a part of its own."""

    def __init__(self, folder: Path, settings: CutSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._writer = StoreWriter(folder)
        self._detector: FaceDetector | None = create_detector(settings.faces, settings.face_model)

    def __call__(self, job: Job) -> Record:
        """Prepare one sample; one that cannot be used is written down with its reason."""
        until = Deadline(time_limit(job))
        record: Record = {"sample_id": job.sample_id, **stamp(job.file, until)}
        crops: Crops | None = None
        try:
            until.check()
            crops = cut_sample(job.file, job.kind, self._settings, self._detector, self._known(job.like), until)
        except MediaError as error:
            record |= {"status": error.reason, "reason": error.detail}
        except MemoryError:
            record |= {"status": "too_large", "reason": "decoding it takes more memory than one file may have"}
        except OSError as error:
            record |= {"status": "unreadable", "reason": error.strerror or repr(error)}
        except Exception as error:
            # Whatever a hostile file breaks on the way is told of that file; the others go on.
            record |= {"status": "crashed", "reason": repr(error)}
        else:
            record |= {"status": "ok", **describe(crops)}
        return self._writer.append(record, crops)

    def _known(self, like: Record | None) -> KnownTrack | None:
        if like is None or like["status"] != "ok":
            return None
        return KnownTrack((like["width"], like["height"], like["video_frames"]), read_frames(self._folder, like))

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
    """What tells a changed file from the same one: bytes, time of change, SHA-256.

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
    }
