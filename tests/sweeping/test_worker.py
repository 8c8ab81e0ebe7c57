"""A worker of the pool, which lives no longer than its parent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import PROJECT
from tests.sweeping.toy import PATIENCE

#: A worker that only waits; without the cure it would be ended from inside after a long while.
WATCHING = """
import os, signal, threading, time
from deepfake.sweeping import worker
signal.signal(signal.SIGINT, signal.SIG_IGN)
worker.GRACE_SECONDS = 1000
worker.watch_parent(0)
os.kill(os.getpid(), signal.SIGINT)
try:
    print("not interrupted", flush=True)
    {waiting}
except KeyboardInterrupt:
    print("let go", flush=True)
"""


@pytest.mark.parametrize("waiting", ["time.sleep(1000)", "threading.Event().wait()"])
def test_a_worker_started_in_the_background_heeds_its_parent_and_no_ctrl_c(waiting: str) -> None:
    program = WATCHING.format(waiting=waiting)
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "not interrupted\n"
        process.stdin.close()
        process.wait(PATIENCE)
        assert process.stdout.read() == "let go\n"
    finally:
        process.kill()
