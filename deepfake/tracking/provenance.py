"""Where a run comes from (code, packages, machine, command), and how two such differ."""

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from deepfake import __version__
from deepfake.errors import masked
from deepfake.installation import CHECKOUT, PACKAGE

#: Raised with every change that an older reader would misread.
FORMAT = 1

_MAX_DIFF = 1 << 20
_CODE_DIGEST = 16


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
    processes: int = 1,
) -> dict[str, object]:
    """What ``provenance.json`` holds.

    Args:
        seeds: Every seed the run used, by name.
        data: Digests of the data, by name; see :meth:`deepfake.data.manifest.Manifest.digest`.
        device: What the run trains on, such as ``cpu`` or ``cuda:0 NVIDIA H200``.
        weights: Digests of the weights it starts from, by part; pretrained ones may change where they are kept.
        threads: Processor threads that share one operation; sums come out in another order with another number.
        processes: That train it together.
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
        "code": code_digests(),
        "packages": package_versions(),
        "installed": installed_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {
            "host": socket.gethostname(),
            "device": device,
            "threads": threads,
            "processes": processes,
            **hardware(),
        },
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
def installed_versions() -> dict[str, str]:
    """Installed versions of everything that can be imported, whoever needs it."""
    named = ((one.metadata["Name"], one.version) for one in metadata.distributions())
    return dict(sorted((_normal(name), version) for name, version in named if name))


@functools.cache
def code_digests() -> dict[str, str]:
    """The beginning of each module's SHA-256 by its path, read once: a commit tells nothing of what is edited."""
    return {
        path.relative_to(PACKAGE.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:_CODE_DIGEST]
        for path in sorted(PACKAGE.rglob("*.py"))
    }


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


#: How a value that nobody wrote down is shown.
UNKNOWN = "not recorded"
_COLUMNS = ["what", "then", "now"]
_SHORT = 12
_MOST_NAMED = 4
#: Columns of a manifest that say what a sample is, beside its file.
_MEANING = ("label", "split", "method")


@dataclass(frozen=True)
class DataChanges:
    """A manifest against the one of now.

    Attributes:
        rows: ``sample_id`` and ``change`` of every sample that is not the same.
        samples: How many there were.
        hashed: How many of them were compared by the SHA-256 of their file; the others only by its size.
        moved: Data sets whose folder is another one now: name to (then, now).
    """

    rows: pd.DataFrame
    samples: int
    hashed: int
    moved: Mapping[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether every sample is there, with the same file, label and split."""
        return self.rows.empty


def compare_worlds(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Two of :func:`deepfake.tracking.provenance.collect`.

    Returns:
        One row per thing that differs: what, then, now. And what is the same, for a line of text.
    """
    pairs = {**_code(then, now), **_machine(then, now), **_weights(then, now)}
    rows = [{"what": what, "then": _text(a), "now": _text(b)} for what, (a, b) in pairs.items() if a != b]
    packages = {**then.get("packages", {}), **now.get("packages", {})}
    other = 0
    for name in packages:
        a, b = (world.get("packages", {}).get(name) for world in (then, now))
        if a != b:
            other += 1
            rows.append({"what": f"package {name}", "then": a or "not installed", "now": b or "not installed"})
    same = [what for what, (a, b) in pairs.items() if a == b and a is not None]
    return pd.DataFrame(rows, columns=_COLUMNS), [f"{len(packages) - other} packages", *same]


def compare_manifests(
    then: pd.DataFrame, now: pd.DataFrame, roots: tuple[Mapping[str, str], Mapping[str, str]]
) -> DataChanges:
    """Every sample of a run's manifest against those that are found now.

    Args:
        then: With ``bytes`` and, where it was recorded, ``sha256``.
        now: The same of now.
        roots: The folder of each data set, then and now.
    """
    old, new = (table.set_index("sample_id") for table in (then, now))
    both = old.index.intersection(new.index, sort=False)
    a, b = old.loc[both], new.loc[both]
    known = (a["sha256"] != "") & (b["sha256"] != "")
    other = known & (a["sha256"] != b["sha256"])
    resized = ~known & (a["bytes"] != b["bytes"])
    changes = [
        _rows(old.index.difference(new.index, sort=False), "missing"),
        _rows(new.index.difference(old.index, sort=False), "was not there then"),
        _rows(both[(b["bytes"] < 0) & (a["bytes"] >= 0)], "missing"),
    ]
    for mask in (other, resized & (b["bytes"] >= 0)):
        sizes = zip(a["bytes"][mask], b["bytes"][mask], strict=True)
        changes.append(_rows(both[mask], [_resized(x, y) for x, y in sizes]))
    for column in _MEANING:
        mask = a[column] != b[column]
        pairs = zip(a[column][mask], b[column][mask], strict=True)
        changes.append(_rows(both[mask], [f"{column} {x} -> {y}" for x, y in pairs]))
    moved = {
        name: (folder, roots[1][name])
        for name, folder in roots[0].items()
        if name in roots[1] and folder != roots[1][name]
    }
    return DataChanges(pd.concat(changes, ignore_index=True), len(old), int(known.sum()), moved)


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    a, b = then.get("git") or {}, now.get("git") or {}
    return {
        "git commit": (a.get("commit"), b.get("commit")),
        "uncommitted changes": (_diff(a), _diff(b)),
        "untracked files": _apart(a.get("untracked"), b.get("untracked")),
        "python": (then.get("python"), now.get("python")),
        "platform": (then.get("platform"), now.get("platform")),
    }


def _machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    a, b = then.get("machine", {}), now.get("machine", {})
    pairs: dict[str, tuple[object, object]] = {
        "device": (a.get("device"), b.get("device")),
        "processor threads": (a.get("threads"), b.get("threads")),
        "processes": (a.get("processes", 1), b.get("processes", 1)),
        "processor": (a.get("cpu"), b.get("cpu")),
        "GPUs": (_listed(a.get("gpus")), _listed(b.get("gpus"))),
        "GPU driver": (a.get("driver"), b.get("driver")),
    }
    x, y = then.get("environment", {}), now.get("environment", {})
    return pairs | {name: (x.get(name, "unset"), y.get(name, "unset")) for name in sorted({**x, **y})}


def _weights(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    a, b = then.get("weights", {}), now.get("weights", {})
    return {f"first weights of the {part}": (a.get(part), b.get(part)) for part in sorted({**a, **b})}


def _diff(git: Mapping[str, Any]) -> str | None:
    if not git:
        return None
    return f"diff {git['diff_sha256'][:_SHORT]}" if git.get("diff_sha256") else "none"


def _apart(then: list[str] | None, now: list[str] | None) -> tuple[str | None, str | None]:
    """How many names there are, and the few that only one side has."""
    if then is None or now is None:
        return _counted(then, ()), _counted(now, ())
    return _counted(then, sorted({*then} - {*now})), _counted(now, sorted({*now} - {*then}))


def _counted(names: list[str] | None, only_here: Sequence[str]) -> str | None:
    if names is None:
        return None
    suffix = (
        f", only here {', '.join(only_here[:_MOST_NAMED])}{' …' if len(only_here) > _MOST_NAMED else ''}"
        if only_here
        else ""
    )
    return f"{len(names)}{suffix}"


def _listed(names: list[str] | None) -> str | None:
    return None if names is None else ", ".join(names) or "none"


def _text(value: object) -> str:
    if value is None:
        return UNKNOWN
    text = str(value)
    # Digests and commits are told apart by their beginning.
    return text[:_SHORT] if len(text) in (40, 64) and text.isalnum() else text


def _resized(then: int, now: int) -> str:
    return f"another file: {then} -> {now} bytes" if then != now else f"another file of the same {now} bytes"


def _rows(samples: pd.Index, change: str | list[str]) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": list(samples), "change": change}, dtype=object)
