"""Threads that are kept: what is to be done is done at once, by as many as it takes and no more."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest

from deepfake.sweeping import background


def ident() -> int:
    found: list[int] = []
    done = threading.Event()
    background.run(lambda: (found.append(threading.get_ident()), done.set())[1])
    assert done.wait(30)
    return found[0]


def settled() -> int:
    """The thread that does something once the one of before is idle again."""
    first, end = ident(), time.monotonic() + 30
    while time.monotonic() < end:
        if ident() == first:
            return first
    return 0


def test_a_thread_is_used_again() -> None:
    assert settled() != 0
    before = threading.active_count()
    for _ in range(200):
        ident()
    # One may not be idle yet as the next thing comes.
    assert threading.active_count() <= before + 1


def test_nothing_waits_for_what_takes_long() -> None:
    over = threading.Event()
    for _ in range(8):
        background.run(lambda: (over.wait(60), None)[1])
    began = time.monotonic()
    ident()
    assert time.monotonic() - began < 30
    over.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    ident()
    child = multiprocessing.get_context("fork").Process(target=ident)
    child.start()
    child.join(30)
    assert child.exitcode == 0
