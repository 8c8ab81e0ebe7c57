"""One sample from file to store, in whichever process is free. Knows how, not which samples nor how many.

Worker processes import this module and what it needs: neither torch nor pandas may be among that.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from deepfake.data.cut import Crops, CutSettings, KnownTrack, cut_sample
from deepfake.data.faces import FaceDetector, create_detector
from deepfake.data.media import MediaError
from deepfake.data.part import Record, StoreWriter, read_frames


@dataclass(frozen=True)
class Job:
    """A sample to be prepared.

    Attributes:
        sample_id: Its name.
        file: Where it lies.
        kind: ``video`` or ``image``.
        original: The name of the sample it was made from, or nothing.
        like: That sample's record, once there is one: its track can be used.
    """

    sample_id: str
    file: Path
    kind: str
    original: str = ""
    like: Record | None = None


class Worker:
    """Prepares samples one after the other into a part of its own."""

    def __init__(self, folder: Path, settings: CutSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._writer = StoreWriter(folder)
        self._detector: FaceDetector | None = create_detector(settings.faces, settings.face_model)

    def __call__(self, job: Job) -> Record:
        """Prepare one sample; one that cannot be used is written down with its reason."""
        record: Record = {"sample_id": job.sample_id, **stamp(job.file)}
        crops: Crops | None = None
        try:
            crops = cut_sample(job.file, job.kind, self._settings, self._detector, self._known(job.like))
        except MediaError as error:
            record |= {"status": error.reason, "reason": error.detail}
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


def stamp(file: Path) -> Record:
    """What tells a changed file from the same one: bytes, time of change, SHA-256."""
    try:
        facts = file.stat()
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return {"bytes": -1, "mtime": 0, "sha256": ""}
    return {"bytes": facts.st_size, "mtime": facts.st_mtime_ns, "sha256": digest}


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
