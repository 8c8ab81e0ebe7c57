"""Files wait, are read, and are scored together: the order of work of a service. Knows no HTTP.

What is refused is refused before any work; whoever is cancelled while it waits costs nothing more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepfake.serving.children import ChildStartError
from deepfake.serving.counters import Counters
from deepfake.serving.faults import Fault, busy, told_outside
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, Model, Overlay, OverlayError

_LOG = logging.getLogger("deepfake.serving")


@dataclass(eq=False)
class _Ready:
    """A file that was read and waits to be scored."""

    prepared: Any
    result: asyncio.Future[dict[str, Any]]


class Desk:
    """Takes files in, as many as there are places, and gives results out.

    Args:
        model: What answers.
        limits: How much at once, and how long.
        counters: Told of everything.
    """

    def __init__(self, model: Model, limits: Limits, counters: Counters) -> None:
        self.model = model
        self.limits = limits
        self.stopping = False
        self._counters = counters
        self._taken = 0
        self._overlays = 0
        self._seconds = 1.0  # for one file, on average over the last ones
        self._ready: asyncio.Queue[_Ready] = asyncio.Queue()
        # One at a time: the detector is one, and so is the device.
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._scoring: asyncio.Task[None] | None = None
        counters.watch(lambda: self._taken, self._ready.qsize, model.restarts)

    async def start(self) -> None:
        """Start what reads files and what scores them."""
        await self.model.start()
        self._scoring = asyncio.create_task(self._score())

    async def close(self) -> None:
        """End both; nothing is taken in any more."""
        self.stopping = True
        if self._scoring is not None:
            self._scoring.cancel()
            await asyncio.gather(self._scoring, return_exceptions=True)
        await self.model.close()
        await asyncio.to_thread(self._scorer.shutdown)

    @property
    def trouble(self) -> str:
        """Why it takes nothing in for good, not only at the moment; empty where it does."""
        if self.stopping:
            return "the service is stopping"
        if self._scoring is None or self._scoring.done():
            return "nothing is scored any more"
        return ""

    @contextmanager
    def places(self) -> Iterator[Callable[[], None]]:
        """A place for a file while entered, and a way to take another for each further file of the same request.

        Raises:
            Fault: 503: all are taken, or the service is stopping.
        """
        held = 0

        def another() -> None:
            nonlocal held
            if self.stopping:
                raise busy("the service is stopping", 10)
            if self._taken >= self.limits.places:
                wait = self._seconds * self._taken / self.limits.workers
                raise busy(f"{self._taken} files are waiting or in work, and no more are taken", wait)
            self._taken += 1
            held += 1

        try:
            another()
            yield another
        finally:
            self._taken -= held

    async def answer(self, file: File) -> dict[str, Any]:
        """The result of a file, as ``deepfake predict --json`` has it; one without a score says why.

        Raises:
            Fault: 500 or 503: the service has failed, not the file.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self.limits.seconds):
                prepared = await self.model.prepare(file)
                one = _Ready(prepared, loop.create_future())
                self._ready.put_nowait(one)
                result = await one.result
        except TimeoutError:
            raise busy(f"no answer in {self.limits.seconds:.0f} s: the service is overloaded", self._seconds) from None
        except ChildStartError as error:
            _LOG.error("%s", error)
            raise busy("the processes that read files cannot be started", 30) from None
        self._seconds += 0.1 * (loop.time() - began - self._seconds)
        return self._told(file, result)

    def _told(self, file: File, result: dict[str, Any]) -> dict[str, Any]:
        """A result as the client may see it: with its name of the file."""
        reason = result.get("reason")
        if reason:
            if reason["code"] in ("crashed", "unreadable", "missing"):
                _LOG.warning("%s: %s: %s", file.name, reason["code"], reason["detail"])
            reason = {"code": reason["code"], "detail": told_outside(reason["code"], reason["detail"])}
        self._counters.answered(reason["code"] if reason else str(result["class"]))
        return {**result, "path": file.name, "reason": reason or None}

    async def overlay(self, file: File) -> Overlay:
        """A file's overlay, and the scores along its time.

        Raises:
            OverlayError: There is none, or not in time.
            Fault: 503: too many are waited for.
        """
        if self._overlays >= self.limits.overlays:
            raise busy(
                f"{self._overlays} overlays are being made, and no more are taken", self.limits.overlay_seconds / 3
            )
        self._overlays += 1
        try:
            async with asyncio.timeout(self.limits.overlay_seconds):
                return await self.model.overlay(file)
        except TimeoutError:
            raise OverlayError(f"it was not done after {self.limits.overlay_seconds:.0f} s") from None
        finally:
            self._overlays -= 1

    async def _score(self) -> None:
        """Score what is ready, all of it together up to a batch, for as long as the service runs."""
        while True:
            batch = [await self._ready.get()]
            while len(batch) < self.limits.batch and not self._ready.empty():
                batch.append(self._ready.get_nowait())
            batch = [one for one in batch if not one.result.done()]
            if batch:
                self._counters.scored(len(batch))
                await self._score_batch(batch)

    async def _score_batch(self, batch: list[_Ready]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._scorer, self.model.answer, [one.prepared for one in batch])
        except Exception as error:
            if len(batch) > 1:
                # One of them is to blame; the others get their answers.
                for one in batch:
                    await self._score_batch([one])
                return
            _LOG.exception("scoring failed")
            fault = Fault(500, "internal", "the detector failed on this file", "tell whoever runs the service")
            fault.__cause__ = error
            if not batch[0].result.done():
                batch[0].result.set_exception(fault)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.result.done():
                one.result.set_result(result)
