"""The way in: what every command does before its work and with its mistakes. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deepfake.commands.habits import refuse_empty_choices, refuse_saved_config
from deepfake.errors import UserError, nearest, of_a_place
from deepfake.installation import CONF, SWEEPS, TRAIN, project_folder

USER_ERROR = 2

_UNIQUE = uuid.uuid4().hex[:6]


def register_resolvers() -> None:
    """What ``${project:}``, ``${unique:}`` and ``${environment_keys:}`` stand for in a config; safe to call again."""
    # A value, not a question: Hydra sends its resolvers to other processes, which may stand elsewhere.
    folder = str(project_folder())
    OmegaConf.register_new_resolver("project", lambda: folder, replace=True)
    OmegaConf.register_new_resolver("unique", lambda: _UNIQUE, replace=True)
    OmegaConf.register_new_resolver("environment_keys", _environment_keys, replace=True)


def guarded(entry: Callable[[], object]) -> int:
    """Run a Hydra entry point; tell a user's mistake in two lines.

    Args:
        entry: A function decorated with ``hydra.main``; it reads ``sys.argv``.

    Returns:
        The exit status: 0, or 2 for a mistake of the user's. Other exceptions pass, with their traceback.
    """
    # Hydra otherwise prints exceptions its own way and exits with 1 before they can be told apart.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register_resolvers()
    _keep_ranks_apart()

    def run() -> int:
        refuse_saved_config(sys.argv[1:], project_folder())
        refuse_empty_choices(sys.argv[1:])
        entry()
        return 0

    return guarded_call(run)


def guarded_call(call: Callable[[], int]) -> int:
    """A command's exit status; a user's mistake is told in two lines and makes it 2."""
    _settle_home()
    try:
        with _terminable():
            return call()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return told(error)
    except Exception as error:
        place = of_a_place(error)
        if place is None:
            raise
        return told(place)
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 130


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that runs are ended, folders removed and what is kept is said."""
    own = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt("SIGTERM")
        # A process that was forked off inherits this; for it SIGTERM is its parent saying that it is over.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # Whoever asked for something else is to have it, and only the main thread takes signals.
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _settle_home() -> None:
    """A user without an entry and without HOME, as containers have them, gets one: libraries ask when imported."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def told(error: Exception) -> int:
    """Print a mistake as ``error:`` and ``hint:`` on standard error; returns the exit status."""
    print(translate(error), file=sys.stderr)
    return USER_ERROR


def translate(error: Exception) -> UserError:
    """Hydra's and OmegaConf's exceptions as ours."""
    if isinstance(error, UserError):
        return error
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        known = [option for option in error.options or [] if not option.startswith("_")]
        if group:
            return UserError(f"{group}={choice} does not exist", nearest(choice, known))
        return UserError(f"the config {choice!r} does not exist", "check --config-name and --config-path")
    if isinstance(error, OverrideParseException):
        return UserError(
            f"cannot read {error.override!r} on the command line",
            "write key=value, key=[1,2] or key=a,b with -m",
        )
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if unknown:
        from deepfake.config import known_keys

        key = unknown.group(1)
        if key in known_keys():
            group = key.partition(".")[0]
            return UserError(
                f"the {group} that was chosen has no key {key!r}",
                f"another {group} has it; leave it out or choose that",
            )
        if key.startswith(("sweep.", "hydra.sweeper.")):
            from deepfake.sweeping.options import hint_for

            return UserError(f"unknown key {key!r}", hint_for(key))
        return UserError(f"unknown key {key!r}", _short(nearest(key, [*known_keys(), *_groups()])))
    cause = error.__cause__
    if isinstance(error, HydraException) and cause is not None and str(cause).strip():
        first = f"{first}: {str(cause).strip().splitlines()[0]}"
    return UserError(first, f"{TRAIN} --help lists the groups and keys")


def _environment_keys(kind: str) -> list[str]:
    from deepfake.config import environment_keys

    return environment_keys(kind)


def _groups() -> list[str]:
    return [path.name for root in (CONF, SWEEPS) for path in root.iterdir() if path.is_dir()]


def _short(hint: str) -> str:
    meant, _, _ = hint.partition("? choices:")
    return f"{meant}?" if meant != hint else f"{TRAIN} --cfg job lists every key"


def _keep_ranks_apart() -> None:
    """Under torchrun only the first process has a run folder; the others work in a folder thrown away."""
    if os.environ.get("RANK", "0") != "0" and len(sys.argv) > 0:
        sys.argv.append(f"hydra.run.dir={tempfile.gettempdir()}/deepfake-rank-{_UNIQUE}")
