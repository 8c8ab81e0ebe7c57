"""Where this installation keeps what it brings, and how a user starts training with it.

A checkout has its configs at the top, ``conf/`` and ``sweeps/``; an installed wheel has them inside the package.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import site
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
#: The folder that Python finds it in, or that which brings it along.
_FOUND_IN = Path(__file__).resolve().parents[__name__.count(".")]
_INSTALLED = (PACKAGE / "conf" / "train.yaml").is_file()
#: The repository's folder where the package runs from one, as after ``pip install -e``; None where it is installed.
CHECKOUT = None if _INSTALLED else PACKAGE.parent
_CONFIGS = CHECKOUT or PACKAGE
#: What one run is made of.
CONF = _CONFIGS / "conf"
#: What many runs are made of.
SWEEPS = _CONFIGS / "sweeps"
#: How training is started, for hints.
TRAIN = "python train.py" if CHECKOUT else "deepfake train"
#: The same for torchrun, which takes a script or a module.
SCRIPT = "train.py" if CHECKOUT else "-m deepfake.cli train"


@functools.cache
def project_folder() -> Path:
    """What ``${project:}`` stands for: the checkout, or where an installed command was started.

    Read once: a job may change the working directory (``hydra.job.chdir``), and nothing is to be written beside
    installed packages.
    """
    return CHECKOUT or Path.cwd()


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which another process of this Python can import this package from any folder."""
    child = dict(environment)
    own = [*site.getsitepackages(), site.getusersitepackages()]
    if _FOUND_IN not in {Path(folder).resolve() for folder in own}:
        # Where Python looks by itself it is not named again: that would go before the standard library.
        child["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_FOUND_IN), environment.get("PYTHONPATH")]))
    return child


def available_cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def started_ticks(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since the boot: no setting of the clock changes it.

    None where the kernel does not tell, or there is no such process.
    """
    try:
        # The name, in brackets, may hold anything; the start is the 22nd field.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def typed_command(*words: str) -> str:
    """A command of ours as it can be pasted into the shell that started this process, ``deepfake`` first.

    Args:
        words: The verb and what follows it.
    """
    beside = Path(sys.executable).with_name("deepfake")
    found = shutil.which("deepfake")
    if found is not None and (not beside.exists() or os.path.samefile(found, beside)):
        return shlex.join(["deepfake", *words])
    if not beside.is_file():
        return shlex.join([sys.executable, "-m", "deepfake.cli", *words])
    return shlex.join([min(os.path.relpath(beside), str(beside), key=len), *words])


def module_command(module: str) -> list[str]:
    """The command that runs a module of this package in another process of this Python."""
    # -P: the working directory is no place to import from, or a json.py beside somebody's videos would be run.
    return [sys.executable, "-P", "-m", module]
