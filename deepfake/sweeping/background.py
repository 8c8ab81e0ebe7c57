"""Threads that are kept for the next thing to do beside the job: a new one for each would cost more than its work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

_lock = threading.Lock()
#: What the idle threads wait for, each its own.
_idle: list[SimpleQueue[Callable[[], None]]] = []


def run(action: Callable[[], None]) -> None:
    """Do something in another thread, at once: one that is idle, or a new one. No process waits for it as it ends.

    Args:
        action: Raises nothing.
    """
    with _lock:
        inbox = _idle.pop() if _idle else None
    if inbox is None:
        inbox = SimpleQueue()
        threading.Thread(target=_work, args=(inbox,), name="background", daemon=True).start()
    inbox.put(action)


def _work(inbox: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        # Nothing of what was done is held on to while idle.
        inbox.get()()
        with _lock:
            _idle.append(inbox)


def _forget() -> None:
    """A forked process has none of the threads."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
