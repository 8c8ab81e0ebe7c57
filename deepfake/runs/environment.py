"""A run's environment rebuilt: the Python, the packages and the code that it had, in a folder of the cache.

What a stranger's record names is code once it is installed. So only packages that this project needs itself are
installed, by exact versions from the user's own index; commits are those that this repository has; and changes to the
code are applied only where the run is the user's own or the user says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from packaging.version import InvalidVersion, Version

from deepfake.errors import UserError
from deepfake.installation import CHECKOUT, CONF, PACKAGE, SWEEPS
from deepfake.runs.causes import COMPUTING
from deepfake.tracking.provenance import package_versions

READY = "ready.json"
_PACKAGE = "deepfake-sweeps"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PYTHON = re.compile(r"(?P<minor>3\.\d{1,2})\.\d{1,2}\S*")
#: What torch's builds for GPUs need, which may not be the one that is installed here.
_CUDA = re.compile(
    r"(nvidia-(cublas|cuda-(cupti|nvrtc|runtime)|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparselt|nccl|nvjitlink|"
    r"nvshmem|nvtx)|cuda-bindings|cuda-pathfinder|cuda-toolkit)(-cu\d\d)?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CUT = "\n[cut: "
_LINES = 5
#: Of a checkout, what an installation needs.
_PROJECT = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "train.py")


@dataclass(frozen=True)
class Lock:
    """What is to be installed.

    Attributes:
        python: Such as ``3.11``.
        pins: Versions by package.
        refused: Packages that are left out, as this project needs none of that name.
    """

    python: str
    pins: dict[str, str]
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Code:
    """The code that is to be installed.

    Attributes:
        commit: Of this repository; None for the code that is running.
        diff: Changes to it.
        files: Modules beside it, by path.
        notes: What of the run's code it is not.
    """

    commit: str | None = None
    diff: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Environment:
    """A rebuilt environment.

    Attributes:
        folder: Where it lies.
        notes: What of it is not as it was.
    """

    folder: Path
    notes: list[str]

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def code(self) -> Path:
        """The project's code."""
        return self.folder / "code"


def read_lock(provenance: Mapping[str, Any], trusted: bool) -> Lock:
    """The packages that a run had.

    Args:
        provenance: What was noted of it.
        trusted: Whether any package may be installed, not only those that this project needs.

    Raises:
        UserError: No versions were noted, or one of them is none.
    """
    python = _PYTHON.fullmatch(str(provenance.get("python")))
    versions = provenance.get("packages") or {}
    if python is None or not versions:
        raise UserError("the run did not note its Python and its packages", "run it in this environment")
    known = {*package_versions(), *COMPUTING}
    pins, refused = {}, []
    for name, version in sorted(versions.items()):
        if name == _PACKAGE or version is None:
            continue
        try:
            Version(version)
        except InvalidVersion as error:
            raise UserError(
                f"the run notes {name!r} in the version {version!r}, which is none", "restore it"
            ) from error
        if _NAME.fullmatch(name) and (trusted or name in known or _CUDA.fullmatch(name)):
            pins[name] = version
        else:
            refused.append(name)
    return Lock(python["minor"], pins, refused)


def read_code(provenance: Mapping[str, Any], beside: Mapping[str, bytes], trusted: bool) -> Code:
    """The code that a run had, as far as this repository has it.

    Args:
        provenance: What was noted of the run.
        beside: Modules that were in no commit, by path.
        trusted: Whether changes to the code may be applied.

    Raises:
        UserError: The code that is running was installed as a package.
    """
    git = provenance.get("git") or {}
    commit, diff, files = str(git.get("commit")), str(git.get("diff") or ""), dict(beside)
    if CHECKOUT is None:
        raise UserError(
            "the code that is running was installed as a package, which cannot be installed a second time",
            "run this from a clone of the repository",
        )
    if not _COMMIT.fullmatch(commit) or not _has_commit(commit):
        return Code(
            notes=[f"the code is the one that is running: commit {git.get('commit')} is not in this repository"]
        )
    notes = []
    if _CUT in diff:
        return Code(notes=["the code is the one that is running: the changes to its commit were too many to be kept"])
    if (diff or files) and not trusted:
        notes = ["its uncommitted changes are left out: they are code of whoever made it (--apply-diff applies them)"]
        diff, files = "", {}
    lacking = [name for name in git.get("untracked") or [] if name in provenance.get("code", {}) and name not in files]
    if lacking and trusted:
        notes = [f"modules that were in no commit are not there any more: {', '.join(lacking[:_LINES])}"]
    return Code(commit, diff, files, notes)


def rebuild(lock: Lock, code: Code, cache: Path, say: Callable[[str], None] = print) -> Environment:
    """Make the environment, once.

    Args:
        lock: Python and packages.
        code: The project's.
        cache: Gets ``environments/<digest>``.
        say: Told in a line what is done.

    Raises:
        UserError: There is no such Python, or something cannot be installed; what was made is removed.
    """
    key = [lock.python, lock.pins, code.commit or _running(), code.diff, {n: _digest(c) for n, c in code.files.items()}]
    folder = cache / "environments" / _digest(json.dumps(key, sort_keys=True).encode())[:20]
    notes = list(code.notes)
    if lock.refused:
        notes.append(f"not installed, as this project needs none of that name: {', '.join(lock.refused)}")
    made = Environment(folder, notes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (folder / READY).is_file():
            say(f"environment: {folder}")
            return made
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            say(f"environment: Python {lock.python} and {len(lock.pins)} packages into {folder}")
            _install(lock, code, made)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / READY).write_text(json.dumps({"python": lock.python, "pins": lock.pins, "commit": code.commit}))
    return made


def run_there(made: Environment, words: Sequence[str], outputs: Path) -> int:
    """Run ``deepfake <words>`` in it.

    Args:
        made: The environment.
        words: The verb and what follows.
        outputs: The folder of all that is produced.
    """
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables["DEEPFAKE_OUTPUTS"] = str(outputs)
    sys.stdout.flush()
    command = [str(made.python), "-P", "-m", "deepfake.cli", *words]
    return subprocess.run(command, env=variables, check=False).returncode


def _install(lock: Lock, code: Code, made: Environment) -> None:
    _write_code(code, made.code)
    requirements = made.folder / "lock.txt"
    requirements.write_text("".join(f"{name}=={version}\n" for name, version in lock.pins.items()))
    uv = shutil.which("uv")
    venv = str(made.folder / "venv")
    if uv is not None:
        _call([uv, "venv", "--quiet", "--python", lock.python, venv], f"Python {lock.python} cannot be had")
        install = [uv, "pip", "install", "--quiet", "--python", str(made.python)]
    else:
        _call([_interpreter(lock.python), "-m", "venv", venv], f"Python {lock.python} makes no environment")
        install = [str(made.python), "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The lock is complete; what a package asks for beside it was not there.
    if lock.pins:
        _call([*install, "--no-deps", "-r", str(requirements)], "the packages of the run cannot be installed")
    _call([*install, "--no-deps", "-e", str(made.code)], "the code of the run cannot be installed")


def _interpreter(minor: str) -> str:
    if sys.version.startswith(f"{minor}."):
        return sys.executable
    found = shutil.which(f"python{minor}")
    if found is None:
        raise UserError(
            f"the run was made with Python {minor}, and there is no python{minor} here",
            "install it, or uv, which fetches it: https://docs.astral.sh/uv",
        )
    return found


def _write_code(code: Code, folder: Path) -> None:
    """A clone of this repository at the commit, with the changes; or what is running, copied."""
    if code.commit is None:
        _copy_running(folder)
        return
    git = ["git", "-c", "advice.detachedHead=false", "-c", "core.hooksPath=/dev/null"]
    _call([*git, "clone", "--quiet", "--shared", "--no-checkout", str(CHECKOUT), str(folder)], "git makes no clone")
    _call([*git, "-C", str(folder), "checkout", "--quiet", "--detach", code.commit], "git has no such commit")
    if code.diff:
        changes = folder.parent / "changes.diff"
        changes.write_text(code.diff, encoding="utf-8", errors="surrogateescape")
        _call([*git, "-C", str(folder), "apply", "--whitespace=nowarn", str(changes)], "its changes cannot be applied")
    for name, content in code.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _copy_running(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "deepfake", ignore=ignored)
    assert CHECKOUT is not None
    for name, place in {"hydra_plugins": CHECKOUT / "hydra_plugins", "conf": CONF, "sweeps": SWEEPS}.items():
        shutil.copytree(place, folder / name, ignore=ignored)
    for name in _PROJECT:
        shutil.copy2(CHECKOUT / name, folder / name)


def _has_commit(commit: str) -> bool:
    try:
        command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _running() -> str:
    """A digest of the code that is running."""
    from deepfake.tracking.provenance import code_digests

    return _digest(json.dumps(code_digests()).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _call(command: Sequence[str], otherwise: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # uv reads names of its own; what pip was told of indexes holds for it too.
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"):
        if f"PIP_{name}" in environment:
            environment.setdefault(f"UV_{name}", environment[f"PIP_{name}"])
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UserError(f"{otherwise}: {error}", "run it in this environment, without --environment") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-_LINES:])
        raise UserError(f"{otherwise}: {said}", "run it in this environment, without --environment")
