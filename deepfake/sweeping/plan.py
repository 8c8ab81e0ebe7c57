"""What every process of one study must agree on, plain enough to be sent to another machine.

Holds no open file and no connection; :mod:`deepfake.sweeping.study` opens it.
"""

from __future__ import annotations

import hashlib
import inspect
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfake import __version__
from deepfake.sweeping.observer import Objective
from deepfake.sweeping.space import Parameter
from deepfake.sweeping.storage import Location


@dataclass(frozen=True)
class EvenClock:
    """Seconds since 1970 as they were when a start began, going on evenly where the machine's clock is set meanwhile.

    Attributes:
        boot: The boot it counts from; processes of another machine, or after another boot, have only their own clock.
        offset: Seconds from that boot's clock to 1970.
    """

    boot: str
    offset: float

    @staticmethod
    def here() -> EvenClock:
        """This machine's, as its clock stands now."""
        return EvenClock(_boot(), time.time() - _uptime())

    def now(self) -> float:
        """Seconds since 1970."""
        return self.offset + _uptime() if self.boot and self.boot == _boot() else time.time()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _uptime() -> float:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@dataclass(frozen=True)
class StudyPlan:
    """One start of a study.

    Attributes:
        fixed: The overrides that hold for every trial.
        setting: The rest of the config, key to value, without what may differ between two starts.
        total: How many trials the study is to have, over all its starts.
        points: How many points the space has, where that is known and none is tried again.
        began: When this start began, in seconds since the epoch; failures in a row are counted from here.
        clock: What tells the time to all processes of this start.
        deadline: The same clock; no trial starts after it.
        retries: How often a trial whose process died without a new step is taken up again.
        trial_timeout: Seconds that a trial may run.
        warm: Points to try first.
        source: The study whose best points are tried after those.
        borrowed: Those points.
        recorded: Of ``fixed``, what is kept with the study: all but what may differ between two starts.
        choices: The choice made in each config group that is not swept.
        repeat: Whether a point that was tried may be tried again.
        code: What code this start runs; see :func:`code_state`.
        environment: Keys, and groups of keys, that may differ between two starts.
        notes: What the user is told before the first trial.
    """

    name: str
    folder: Path
    location: Location
    parameters: list[Parameter]
    objectives: list[Objective]
    fixed: list[str]
    total: int
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    points: int | None = None
    seed: int = 0
    retries: int = 3
    heartbeat: float = 30.0
    max_failures: int | None = None
    began: float = field(default_factory=time.time)
    clock: EvenClock = field(default_factory=EvenClock.here)
    deadline: float | None = None
    setting: Mapping[str, str] = field(default_factory=dict)
    warm: Sequence[Mapping[str, Any]] = ()
    source: str | None = None
    borrowed: Sequence[Mapping[str, Any]] = ()
    recorded: Sequence[str] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    repeat: bool = False
    code: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    trial_timeout: float | None = None
    environment: Sequence[str] = ()


def fingerprint(
    parameters: Sequence[Parameter], objectives: Sequence[Objective], setting: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """What may not change under one study's name, as section, key and meaning."""
    return {
        "space": {parameter.key: parameter.describe() for parameter in parameters},
        "objective": {item.metric: item.direction for item in objectives},
        "setting": dict(setting),
    }


def differences(
    before: Mapping[str, Mapping[str, str]],
    now: Mapping[str, Mapping[str, str]],
    given_before: Sequence[str] | None = (),
    given_now: Sequence[str] = (),
    environment: Sequence[str] = (),
) -> list[str]:
    """What changed between two fingerprints, each change in a few words.

    A setting that only one of them has came or went with a version of the program and is no change, unless an
    override of one start, such as ``+new=4``, put it there or took it away. ``environment`` names keys, and groups of
    keys, of which none is a change.
    """
    changes = []
    if given_before is None:
        # A study that kept no overrides: of those of now only an addition is surely one.
        given_before = [text for text in given_now if not text.startswith("+")]
    touched = [_key(text) for text in {*given_before} ^ {*given_now}]
    touched = [key for key in touched if not is_under(key, environment)]
    for section in now:
        old, new = before.get(section, {}), now[section]
        for key in sorted({*old, *new}):
            if key in new and key in old:
                changes += [f"{section} {key} was {old[key]} and is {new[key]}"] if old[key] != new[key] else []
            elif section != "setting" or any(is_under(key, [one]) for one in touched):
                changes.append(f"{section} {key} is {'new' if key in new else 'gone'}")
    return changes


def is_under(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key is one of these, or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def code_state(task: Callable[..., Any]) -> dict[str, str]:
    """What code a task runs: this package's version, the file it is in, and that file's repository.

    Args:
        task: The function that every trial calls.

    Returns:
        ``version``; ``file``, a digest of the task's own; and within a git repository ``commit`` and, where Python
        files differ from it, ``changes``, a digest of how.
    """
    state = {"version": __version__}
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(task)) or "")
        state["file"] = _digest(file.read_bytes())
    except (OSError, TypeError):
        # Typed into an interpreter, or an object that is called.
        return state
    commit = _git(file.parent, "rev-parse", "HEAD")
    tracked = _git(file.parent, "ls-files", "--error-unmatch", file.name)
    if commit is None or tracked is None:
        # Installed into, or lying in, a repository of something else.
        return state
    top = Path((_git(file.parent, "rev-parse", "--show-toplevel") or b"").decode().strip())
    state["commit"] = commit.decode().strip()
    changes = _git(top, "diff", "HEAD", "--", "*.py") or b""
    for name in (_git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.py") or b"").split(b"\0")[:-1]:
        path = top / name.decode(errors="surrogateescape")
        changes += name + path.read_bytes() if path.is_file() else b""
    if changes:
        state["changes"] = _digest(changes)
    return state


def describe_code(state: Mapping[str, str]) -> str:
    """A state of the code for a person."""
    if "commit" not in state:
        return f"version {state.get('version')}" + (f", file {state['file']}" if "file" in state else "")
    changes = f" with uncommitted changes ({state['changes']})" if "changes" in state else ""
    return f"commit {state['commit'][:10]}{changes}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
