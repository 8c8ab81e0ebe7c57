"""Processes that stay, each answering one line with one line, for work that may break whoever does it.

One that dies or takes too long is replaced. Knows nothing of what the lines say."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

_LINE = 64 << 20  # bytes of an answer at most
_STARTING = 300.0  # seconds until a process is ready, on a machine that is busy
_ENDING = 3.0
#: Lines that a process answers before another takes its place: what libraries leak stays small.
_JOBS = 500


class ChildDiedError(Exception):
    """The process ended in the middle of the work, twice."""


class ChildLateError(Exception):
    """The work took longer than it may."""


class ChildStartError(Exception):
    """A process ended, or said nothing, before its first line of work."""


class Children:
    """As many processes as are to work at once.

    Args:
        command: What each runs. It answers the first line, and then each line, with a line, and ends with its input.
        first: The first line.
        count: How many.
        environment: Of the processes.
    """

    def __init__(self, command: Sequence[str], first: str, count: int, environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._first = first
        self._environment = dict(environment)
        self._free: asyncio.Queue[_Child | None] = asyncio.Queue()
        self._count = count
        self._all: set[_Child] = set()
        self._starting: set[asyncio.Task[_Child]] = set()
        self._started = 0

    @property
    def restarts(self) -> int:
        """How many were started beyond the first ones."""
        return max(0, self._started - self._count)

    async def start(self) -> None:
        """Start all.

        Raises:
            ChildStartError: One cannot be started.
        """
        for _ in range(self._count):
            self._free.put_nowait(await self._begin())

    def start_lazily(self) -> None:
        """Start each at its first line."""
        for _ in range(self._count):
            self._free.put_nowait(None)

    async def ask(self, line: str, seconds: float) -> str:
        """The answer to a line, once a process is free.

        Whoever is cancelled while it waits for the answer takes the process with it: nobody wants its work.

        Raises:
            ChildLateError: It took longer than ``seconds``, not counting the wait for a process.
            ChildDiedError: Two processes died over it.
            ChildStartError: No process can be started.
        """
        child = await self._take()
        for again in (True, False):
            answer = await self._exchange(child, line, seconds)
            if answer is not None:
                self._free.put_nowait(child)
                return answer
            self._drop(child)
            if again:
                # What ended it may have come before the line did. Another one that is idle may be as dead.
                child = await self._renewed()
        self._free.put_nowait(None)
        raise ChildDiedError

    async def _exchange(self, child: _Child, line: str, seconds: float) -> str | None:
        """The answer; None when the process is gone. Its place is free again if an exception ends it."""
        try:
            async with asyncio.timeout(seconds):
                return await child.exchange(line)
        except BaseException as error:
            self._drop(child)
            self._free.put_nowait(None)
            if isinstance(error, TimeoutError):
                raise ChildLateError from None
            raise

    async def _take(self) -> _Child:
        """A process that is ready, once one is free."""
        child = await self._free.get()
        if child is not None and not child.is_over:
            return child
        self._drop(child)
        return await self._renewed()

    async def _renewed(self) -> _Child:
        """A new process in a place that is held; the place is free again where this ends otherwise."""
        starting = asyncio.create_task(self._begin())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It starts all the same: whoever asks next finds it ready, however impatient they are.
            self._starting.add(starting)
            starting.add_done_callback(self._keep)
            raise
        except BaseException:
            self._free.put_nowait(None)
            raise

    def _keep(self, started: asyncio.Task[_Child]) -> None:
        self._starting.discard(started)
        failed = started.cancelled() or started.exception() is not None
        self._free.put_nowait(None if failed else started.result())

    async def close(self) -> None:
        """End all, whatever they are at."""
        for starting in list(self._starting):
            starting.cancel()
        await asyncio.gather(*(child.end() for child in list(self._all)))

    async def _begin(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=self._environment, limit=_LINE
        )
        child = _Child(process)
        self._all.add(child)
        self._started += 1
        ready = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STARTING):
                    ready = await child.exchange(self._first)
        finally:
            if ready is None:
                self._drop(child)
        if ready is None:
            await child.end()
            raise ChildStartError(f"a worker process ended with status {process.returncode} before its first file")
        return child

    def _drop(self, child: _Child | None) -> None:
        if child is not None:
            self._all.discard(child)
            child.kill()


class _Child:
    def __init__(self, process: Process) -> None:
        self._process = process
        self.jobs = 0

    @property
    def is_over(self) -> bool:
        """Whether another is to take its place."""
        return self._process.returncode is not None or self.jobs >= _JOBS

    async def exchange(self, line: str) -> str | None:
        """Send a line and wait for one; None when the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.jobs += 1
        try:
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()
            answer = await self._process.stdout.readline()
        except (OSError, ValueError):
            return None
        return answer.decode() if answer.endswith(b"\n") else None

    def kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def end(self) -> None:
        self.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ENDING):
                await self._process.wait()
