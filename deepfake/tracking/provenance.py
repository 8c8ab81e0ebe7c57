"""Where a result came from: the code, the packages, the machine, the data and the seeds, as one plain dict.

Reads the machine; runs nothing but git. Knows neither MLflow nor the configuration's format.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from deepfake import __version__
from deepfake.errors import masked
from deepfake.installation import CHECKOUT, PACKAGE

#: Raised with every change that an older reader would misread.
FORMAT = 1

_MAX_DIFF = 1 << 20


@dataclass(frozen=True)
class GitState:
    """The commit the code is at, whether it differs from it, and how. All empty outside a repository."""

    commit: str | None
    dirty: bool
    diff: str
    untracked: tuple[str, ...]


def collect(
    *,
    seeds: Mapping[str, int],
    data: Mapping[str, object],
    device: str,
    weights: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> dict[str, object]:
    """What ``provenance.json`` holds.

    Args:
        seeds: Every seed the run used, by name.
        data: Digests of the data, by name; see :meth:`deepfake.data.manifest.Manifest.digest`.
        device: What the run trains on, such as ``cpu`` or ``cuda:0 NVIDIA H200``.
        weights: Digests of the weights it starts from, by part; pretrained ones may change where they are kept.
        threads: Processor threads that share one operation; sums come out in another order with another number.
    """
    git = git_state()
    return {
        "format": FORMAT,
        "version": __version__,
        "git": {
            "commit": git.commit,
            "dirty": git.dirty,
            "diff": git.diff,
            "diff_sha256": hashlib.sha256(git.diff.encode()).hexdigest() if git.diff else None,
            "untracked": list(git.untracked),
        },
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {"host": socket.gethostname(), "device": device, "threads": threads, **hardware()},
        "data": dict(data),
        "weights": dict(weights or {}),
        "seeds": dict(seeds),
        "command": masked(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])),
        "environment": _environment(),
    }


@functools.cache
def git_state() -> GitState:
    """The repository this package runs from, read once: what is imported no longer follows the files."""
    commit = _git("rev-parse", "HEAD")
    top = _git("rev-parse", "--show-toplevel")
    if commit is None or top is None or Path(top.strip()) != CHECKOUT:
        # Installed, perhaps into someone else's repository: its commit says nothing about this code.
        return GitState(None, False, "", ())
    diff = _git("diff", "HEAD") or ""
    if len(diff) > _MAX_DIFF:
        diff = diff[:_MAX_DIFF] + f"\n[cut: {len(diff)} characters in all]\n"
    untracked = tuple((_git("ls-files", "--others", "--exclude-standard") or "").split("\n")[:-1])
    return GitState(commit.strip(), bool(diff or untracked), diff, untracked)


@functools.cache
def package_versions() -> dict[str, str]:
    """Installed versions of everything this project depends on, directly or not named in its requirements."""
    found: dict[str, str] = {}
    waiting = ["deepfake-sweeps"]
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        required = (r for r in distribution.requires or () if "extra ==" not in r)
        waiting += [match[0] for r in required if (match := re.match(r"[\w.-]+", r))]
    return dict(sorted(found.items()))


@functools.cache
def hardware() -> dict[str, object]:
    """CPU model, cores, memory in GiB, and the GPUs with their driver where there are any."""
    import psutil

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **_gpus(),
    }


def _gpus() -> dict[str, object]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML raises its own errors without a common base where there is no driver.
        return {"gpus": [], "driver": None}
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    return {"gpus": [str(name) for name in names], "driver": str(pynvml.nvmlSystemGetDriverVersion())}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists() and (match := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        return match[1]
    return platform.processor() or platform.machine()


def _environment() -> dict[str, str]:
    # Those that change numbers or what is found; never the whole environment, which holds secrets.
    names = ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: os.environ[name] for name in (*names, "HF_HUB_OFFLINE", "WORLD_SIZE") if name in os.environ}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=CHECKOUT or PACKAGE,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
