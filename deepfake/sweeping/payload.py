"""Packs what another process needs to run this sweep's jobs, and unpacks it there.

Hydra's own launchers send the same things: the task function by value, the config and Hydra's singletons.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton

from deepfake.sweeping.jobs import JobRunner
from deepfake.sweeping.plan import StudyPlan


@dataclass(frozen=True)
class Work:
    """What a worker is to do, and for whom."""

    runner: JobRunner
    plan: StudyPlan
    supervisor: dict[str, Any]
    token: str


def pack(work: Work) -> bytes:
    """The work as bytes, with the places Python imports from first: unpacking the rest needs them."""
    return bytes(cloudpickle.dumps((list(sys.path), cloudpickle.dumps((Singleton.get_state(), work)))))


def unpack(data: bytes) -> Work:
    """The work again, with Hydra's state restored; only for bytes that :func:`pack` made."""
    paths, rest = cloudpickle.loads(data)
    sys.path.extend(path for path in paths if path not in sys.path)
    state, work = cloudpickle.loads(rest)
    Singleton.set_state(state)
    assert isinstance(work, Work)
    return work
