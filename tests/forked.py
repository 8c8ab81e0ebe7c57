"""Commands in forks of one process that has imported all they need: a process of its own each, without its start.

Faults can be put into them, before or after a certain call of one of our functions, so that they come where they are
meant to, not where a clock happens to let them fall. The kernel does the rest: a disk that is filled really is full.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import deepfake
from tests import PROJECT

#: What commands import, lazily, on their way.
_HEAVY = (
    "torch",
    "timm",
    "torch.utils.flop_counter",
    "pandas",
    "pyarrow.parquet",
    "sklearn.metrics",
    "matplotlib.pyplot",
    "optuna",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "lightning_fabric",
    "cv2",
    "av",
    "hydra.main",
    "hydra._internal.core_plugins.basic_launcher",
    "hydra_plugins.deepfake_sweeps",
)
#: Beside what a fault leaves free, a tmpfs has some bytes that no file gets.
_BLOCK = 4096


@dataclass(frozen=True)
class Fault:
    """What happens at a call of a function.

    Attributes:
        at: The function, as ``module:name`` or ``module:Class.name``.
        do: ``fill`` (the disk of the file ``with_``, but for ``left`` bytes), ``clock`` (forward by ``left`` seconds)
            or ``set`` (the name ``at`` becomes the number ``left``).
        call: At which call, from 1 on.
        after: After it has returned rather than before.
    """

    at: str
    do: str
    with_: str = ""
    left: float = 0
    call: int = 1
    after: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.stdout + self.stderr

    @property
    def is_told(self) -> bool:
        """Whether it told of a mistake in two lines, with nothing of Python's."""
        lines = self.text.splitlines()
        both = any(line.startswith("error:") for line in lines) and any(line.startswith("hint:") for line in lines)
        return self.status == 2 and both and "Traceback" not in self.text


class Forks:
    """Runs ``deepfake <words>``, or ``python train.py <words>``, one at a time.

    Args:
        scratch: For what is printed, and as the place for temporary files.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TMPDIR": str(scratch)},
        )

    def __call__(
        self, *words: str, outputs: Path, faults: Sequence[Fault] = (), limit: float = 600, **environment: str | None
    ) -> Ended:
        printed = {"out": str(self._scratch / "out.txt"), "err": str(self._scratch / "err.txt")}
        told = {
            "words": words,
            "env": {"DEEPFAKE_OUTPUTS": str(outputs), "MLFLOW_TRACKING_URI": None, **environment},
            "faults": [vars(fault) for fault in faults],
            "limit": limit,
            **printed,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(told), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        return Ended(status, *(Path(path).read_text(errors="replace") for path in printed.values()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def fill(filler: Path, left: int = 0) -> None:
    """Write a file until its disk has no more than ``left`` free bytes."""
    with open(filler, "ab") as file:
        while (free := _free(filler.parent)) >= left + _BLOCK:
            os.posix_fallocate(file.fileno(), file.tell(), max(_BLOCK, min(free - left, free) // _BLOCK * _BLOCK))
            file.seek(0, os.SEEK_END)


def _free(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def _put(fault: Mapping[str, Any]) -> None:
    module, _, name = fault["at"].partition(":")
    *owners, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    if fault["do"] == "set":
        setattr(owner, last, fault["left"])
        return
    former, calls = getattr(owner, last), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        due = calls == fault["call"]
        if due and not fault["after"]:
            _strike(fault)
        result = former(*arguments, **named)
        if due and fault["after"]:
            _strike(fault)
        return result

    setattr(owner, last, counted)
    # Modules that have taken the function by its name see the fault too.
    if not owners:
        for other in list(sys.modules.values()):
            if getattr(other, "__name__", "").startswith("deepfake") and vars(other).get(last) is former:
                setattr(other, last, counted)


def _strike(fault: Mapping[str, Any]) -> None:
    print(f"FAULT {fault['do']} at {fault['at']}", file=sys.stderr, flush=True)
    if fault["do"] == "fill":
        fill(Path(fault["with_"]), int(fault["left"]))
    elif fault["do"] == "clock":
        _set_clock(float(fault["left"]))


def _set_clock(seconds: float) -> None:
    """The machine's clock as this process sees it; what is counted from the boot goes on as it did."""
    import psutil._pslinux

    usual, boot = time.time, psutil._pslinux.boot_time
    usual_ns = time.time_ns
    time.time = lambda: usual() + seconds
    time.time_ns = lambda: usual_ns() + int(seconds * 1e9)
    psutil._pslinux.boot_time = lambda: boot() + seconds


def _child(told: Mapping[str, Any]) -> int:
    for name, value in told["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    import tempfile

    tempfile.tempdir = None
    if uid := os.environ.pop("TEST_UID", None):
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    for fault in told["faults"]:
        _put(fault)
    if told["words"][0].endswith(".py"):
        sys.argv = list(told["words"])
        runpy.run_path(str(PROJECT / told["words"][0]), run_name="__main__")
        return 0
    from deepfake.cli import main

    return main(list(told["words"]))


def _serve(asked: IO[str], answers: IO[str]) -> None:
    for line in asked:
        told = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(told)
        deadline = time.monotonic() + told["limit"]
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, 9)
            time.sleep(0.02)
        print(os.waitstatus_to_exitcode(ended[1]), file=answers, flush=True)


def _run(told: Mapping[str, Any]) -> None:
    import traceback

    # As the first process of a session, so that nothing outside is signalled by it.
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(told[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    sys.argv = ["deepfake"]
    status: object = 1
    try:
        status = _child(told)
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 1)


def main(load: Callable[[str], Any] = importlib.import_module) -> None:
    """Import everything, then do as asked until the input ends."""
    os.environ["MPLBACKEND"] = "agg"
    from deepfake.compat import prepare_torchvision
    from deepfake.tracking.store import quiet_mlflow

    quiet_mlflow()
    prepare_torchvision()
    for name in _HEAVY:
        load(name)
    for found in pkgutil.walk_packages(deepfake.__path__, "deepfake."):
        load(found.name)
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
