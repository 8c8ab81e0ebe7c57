"""Processes that answer lines, and what is done when they do not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from deepfake.serving import children as room
from deepfake.serving.children import ChildDiedError, ChildLateError, Children, ChildStartError

SCRIPT = """
import os, sys, time
print("ready " + sys.stdin.readline().strip(), flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "die": os._exit(3)
    if word == "once" and not os.path.exists(sys.argv[1]):
        open(sys.argv[1], "w").close()
        os.kill(os.getpid(), 9)
    if word == "sleep": time.sleep(60)
    print(f"{os.getpid()} {word}", flush=True)
"""


def made(count: int = 1, script: str = SCRIPT, argument: str = "") -> Children:
    return Children([sys.executable, "-c", script, argument], "hello", count, dict(os.environ))


def alive(number: int) -> bool:
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


async def pid(children: Children) -> int:
    return int((await children.ask("x", 20)).split()[0])


def test_a_process_answers_one_line_after_another() -> None:
    async def run() -> None:
        children = made()
        await children.start()
        first, second = await pid(children), await pid(children)
        assert first == second
        assert children.restarts == 0
        await children.close()
        assert not alive(first)

    asyncio.run(run())


def test_as_many_work_at_once_as_there_are() -> None:
    async def run() -> None:
        children = made(2)
        await children.start()
        found = await asyncio.gather(*(pid(children) for _ in range(6)))
        assert len(set(found)) == 2
        await children.close()

    asyncio.run(run())


def test_one_that_dies_over_a_line_is_replaced_and_the_line_tried_again(tmp_path: object) -> None:
    async def run() -> None:
        children = made(argument=f"{tmp_path}/died")
        await children.start()
        assert (await children.ask("once", 20)).endswith(" once\n")
        assert children.restarts == 1
        await children.close()

    asyncio.run(run())


def test_a_line_that_kills_twice_is_given_up_and_the_next_is_answered() -> None:
    async def run() -> None:
        children = made()
        await children.start()
        with pytest.raises(ChildDiedError):
            await children.ask("die", 20)
        assert await pid(children)
        await children.close()

    asyncio.run(run())


def test_one_that_is_killed_while_idle_is_replaced() -> None:
    async def run() -> None:
        children = made()
        await children.start()
        first = await pid(children)
        os.kill(first, signal.SIGKILL)
        second = await pid(children)
        assert second != first
        await children.close()

    asyncio.run(run())


def test_all_that_are_killed_while_idle_are_replaced_without_a_line_lost() -> None:
    async def run() -> None:
        children = made(2)
        await children.start()
        found = set(await asyncio.gather(pid(children), pid(children), pid(children), pid(children)))
        assert len(found) == 2
        for one in found:
            os.kill(one, signal.SIGKILL)
        # At once, before anybody has noticed.
        assert not found & set(await asyncio.gather(*(pid(children) for _ in range(4))))
        await children.close()

    asyncio.run(run())


def test_one_that_takes_too_long_is_ended() -> None:
    async def run() -> None:
        children = made()
        await children.start()
        first = await pid(children)
        with pytest.raises(ChildLateError):
            await children.ask("sleep", 0.3)
        assert await pid(children) != first
        assert not alive(first)
        await children.close()

    asyncio.run(run())


def test_work_that_nobody_waits_for_any_more_is_ended() -> None:
    async def run() -> None:
        children = made()
        await children.start()
        first = await pid(children)
        asked = asyncio.create_task(children.ask("sleep", 60))
        await asyncio.sleep(0.2)
        asked.cancel()
        assert await pid(children) != first
        assert not alive(first)
        await children.close()

    asyncio.run(run())


def test_a_slow_start_survives_whoever_asked_first() -> None:
    async def run() -> None:
        children = made(script="import time; time.sleep(1)\n" + SCRIPT)
        children.start_lazily()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await children.ask("x", 20)
        assert await pid(children)
        assert children.restarts == 0
        await children.close()

    asyncio.run(run())


def test_one_that_cannot_start_says_so_each_time() -> None:
    async def run() -> None:
        children = made(script="raise SystemExit(7)")
        children.start_lazily()
        for _ in range(2):
            # Where something else in this process has waited for the child first, asyncio calls its status 255.
            with pytest.raises(ChildStartError, match=r"ended with status (7|255) before its first file"):
                await children.ask("x", 20)
        await children.close()

    asyncio.run(run())


def test_one_that_has_worked_for_long_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_JOBS", 3)

    async def run() -> None:
        children = made()
        await children.start()
        found = [await pid(children) for _ in range(6)]
        assert 2 <= len(set(found)) <= 4
        await children.close()

    asyncio.run(run())
