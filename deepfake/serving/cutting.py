"""Crops of the files that a service is sent, cut in processes that stay. Knows what crops are, and no detector."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from deepfake.data.crop_records import Record
from deepfake.data.cropping import CutSettings
from deepfake.data.media import timed_out
from deepfake.data.prepare_worker import Job, pack_job, pack_settings, time_limit, worker_environment
from deepfake.installation import child_environment, module_command
from deepfake.serving.children import ChildDiedError, ChildLateError, Children, ChildStartError
from deepfake.serving.limits import Limits

_WORKER = module_command("deepfake.data.prepare_worker")
_GRACE = 3.0  # seconds: a worker minds the limit itself, but for what a decoder does in one go


class Cutting:
    """Processes that cut crops of one kind.

    Args:
        settings: How they are cut.
        folder: Any that is there.
        limits: How many processes, and what a file may take.
    """

    def __init__(self, settings: CutSettings, folder: Path, limits: Limits) -> None:
        environment = child_environment(os.environ) | worker_environment()
        self._limits = limits
        self._children = Children(_WORKER, pack_settings(folder, settings), limits.workers, environment)

    @property
    def restarts(self) -> int:
        """Processes that were replaced since the start."""
        return self._children.restarts

    async def start(self) -> None:
        """Start them."""
        await self._children.start()

    async def close(self) -> None:
        """End them."""
        await self._children.close()

    async def cut(self, job: Job, folder: Path) -> Record:
        """What came of a file; its crops lie in the folder.

        Raises:
            ChildStartError: No process can be started, or nothing can be written.
        """
        limit = time_limit(job)
        limited = replace(job, most_pixels=self._limits.pixels, most_duration=self._limits.duration)
        try:
            answer = json.loads(await self._children.ask(pack_job(limited, folder), limit + _GRACE))
        except ChildLateError:
            return {"sample_id": job.sample_id, "status": "timeout", "reason": timed_out(limit)}
        except ChildDiedError:
            died = "the process that decoded it died, twice"
            return {"sample_id": job.sample_id, "status": "crashed", "reason": died}
        if "record" not in answer:
            raise ChildStartError(f"crops cannot be written: {answer['error']}")
        return dict(answer["record"])
