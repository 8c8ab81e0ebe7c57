"""The owners of trials, and whether they are alive.

Knows processes and hosts, no study: an owner is a small dict that any process on any machine can judge.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from deepfake.installation import started_ticks

#: Two readings of one process's start may differ this much when the clock is set; pids are not reused so fast.
_START_TOLERANCE = 2.0
#: So many missed heartbeats on another machine mean that the owner is dead.
_MISSED = 3


def process_identity(pid: int | None = None) -> dict[str, Any]:
    """This (or another) process of this machine, so that a later process with the same number is told apart.

    Raises:
        psutil.NoSuchProcess: There is none.
    """
    process = psutil.Process(pid)
    identity = {"host": host_identity(), "pid": process.pid, "started": process.create_time()}
    ticks = started_ticks(process.pid)
    return identity if ticks is None else identity | {"ticks": ticks}


def new_owner(supervisor: Mapping[str, Any] | None, heartbeat: float, token: str | None = None) -> dict[str, Any]:
    """This process as the owner of trials.

    Args:
        supervisor: The process that watches over this one and answers for its death, if there is one.
        heartbeat: Seconds between its heartbeats.
        token: A name for it that no other owner has.
    """
    return {
        **process_identity(),
        "token": token or uuid.uuid4().hex,
        "supervisor": dict(supervisor) if supervisor else None,
        "heartbeat": heartbeat,
    }


def host_identity() -> str:
    """Names this machine, its boot and its process numbers' namespace: containers on one host are apart."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def host_of(owner: Mapping[str, Any]) -> str:
    """The name of an owner's machine, for a person."""
    return str(owner.get("host", "")).partition("|")[0]


def process_of(owner: Mapping[str, Any]) -> str:
    """An owner for a person: ``process 2500 on box``."""
    return f"process {owner['pid']} on {host_of(owner)}"


class Watch:
    """Judges owners, remembering when each one's heartbeat last changed.

    Args:
        clock: Monotonic seconds.

    Attributes:
        host: This machine, as owners name it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[Any, float]] = {}
        self.host = host_identity()

    def is_dead(self, owner: Mapping[str, Any] | None, heartbeat: object) -> bool:
        """Whether nobody will ever finish what this owner began.

        On this machine that is known at once. On another it is known after three missed heartbeats, counted by this
        process's own clock from the first look, so that no owner counts as dead because clocks disagree.

        Args:
            owner: As :func:`new_owner` made it; None where it let go, or died before it could sign.
            heartbeat: Its latest one, any value that changes.
        """
        if owner is None:
            return True
        if owner["host"] != self.host:
            return self._is_silent(owner, heartbeat)
        answering = owner.get("supervisor") or owner
        return not _is_running(answering) and not _is_running(owner)

    def forgive(self) -> None:
        """Count silence from the next look on: no heartbeat could be seen meanwhile."""
        self._seen.clear()

    def _is_silent(self, owner: Mapping[str, Any], heartbeat: object) -> bool:
        known, since = self._seen.get(owner["token"], (None, 0.0))
        if owner["token"] not in self._seen or known != heartbeat:
            self._seen[owner["token"]] = (heartbeat, self._clock())
            return False
        return self._clock() - since > _MISSED * float(owner["heartbeat"])


def _is_running(process: Mapping[str, Any]) -> bool:
    try:
        found = psutil.Process(int(process["pid"]))
        ticks = started_ticks(found.pid) if "ticks" in process else None
        if ticks is None:
            same = abs(found.create_time() - float(process["started"])) <= _START_TOLERANCE
        else:
            # What psutil says is counted from the clock, which may have been set since.
            same = ticks == process["ticks"]
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
