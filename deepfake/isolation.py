"""What a call from Python leaves as it was: Hydra, logging, the environment, generators, torch's settings.

A command's process ends with it; a program, a notebook or another Hydra app goes on. Knows nothing of runs.
"""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase

from deepfake.compat import resolvers_kept, swap_singletons

#: What belongs to one app; Hydra's plugins and stored configs are the same for all.
_OF_AN_APP = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)


@contextmanager
def hydra_apart() -> Iterator[None]:
    """While entered, Hydra knows of no app; afterwards of the one it knew before, as it was."""
    outside = swap_singletons({})
    swap_singletons({kind: one for kind, one in outside.items() if kind not in _OF_AN_APP})
    try:
        yield
    finally:
        for kind, one in swap_singletons(outside).items():
            if kind not in _OF_AN_APP:
                outside.setdefault(kind, one)


@contextmanager
def all_kept(computes: bool = True) -> Iterator[None]:
    """While entered, this process may be used as a command uses its own; afterwards it is as it was, errors or not.

    Inside, Hydra knows of no app, and torch works as it does in a fresh process: float32, with gradients.

    Args:
        computes: Whether torch is used. If not, it is not imported for its settings to be kept.
    """
    every = [hydra_apart, resolvers_kept, _environment, _folder, _logging, _collector]
    with ExitStack() as stack:
        for kept in [*every, _generators, _torch] if computes else every:
            stack.enter_context(kept())
        yield


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update({name: text for name, text in before.items() if os.environ.get(name) != text})


@contextmanager
def _folder() -> Iterator[None]:
    before = os.getcwd()
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _logging() -> Iterator[None]:
    def loggers() -> list[logging.Logger]:
        known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
        return [logging.root, *known]

    before = {one: (one.level, one.disabled, one.propagate, list(one.handlers)) for one in loggers()}
    try:
        yield
    finally:
        for one, (level, disabled, propagate, handlers) in before.items():
            one.setLevel(level)
            one.disabled, one.propagate, one.handlers[:] = disabled, propagate, handlers


@contextmanager
def _collector() -> Iterator[None]:
    frozen = gc.get_freeze_count()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


@contextmanager
def _generators() -> Iterator[None]:
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _torch() -> Iterator[None]:
    import torch

    cudnn, matmul, filled = torch.backends.cudnn, torch.get_float32_matmul_precision(), torch.utils.deterministic
    flags = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, filled.fill_uninitialized_memory)  # type: ignore[attr-defined]
    repeats, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
        torch.use_deterministic_algorithms(repeats, warn_only=warns)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, filled.fill_uninitialized_memory = flags  # type: ignore[attr-defined]
