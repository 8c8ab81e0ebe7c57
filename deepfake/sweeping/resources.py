"""What each of several workers may use: one GPU, or its share of the CPU threads.

Knows the environment variables that libraries read, not the libraries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def worker_environment(index: int, workers: int, gpus: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of one worker.

    Args:
        index: Which of them, from 0; with more workers than GPUs, several share one.
        environment: The parent's; numbers of threads set there are kept.
    """
    share = max(1, _cores() // workers)
    own = dict(environment)
    if gpus:
        own["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    for name in _THREADS:
        own.setdefault(name, str(share))
    return own


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
