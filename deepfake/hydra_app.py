"""What every command begins with: composing its config, and printing mistakes in two lines. Imports nothing heavy.

Configs are composed of the same groups, keys and overrides whether Hydra runs the command or not. Hydra's own way of
running a saved config again, ``--config-path RUN``, is turned to ``deepfake reproduce``: such a config has lost its
groups, and ``model=cnn_gru`` on top of it would name no model."""

from __future__ import annotations

import atexit
import gc
import os
import re
import select
import shlex
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from deepfake.config import RunConfig, environment_keys, is_environment_key, known_keys, load_config
from deepfake.errors import UserError, closest, first_line, nearest, of_a_place, sigterm_interrupts
from deepfake.installation import CONF, SWEEPS, TRAIN, project_folder
from deepfake.isolation import all_kept, hydra_apart
from deepfake.options import split_override

USER_ERROR = 2
#: As a shell tells of a program that SIGPIPE ended.
PIPE_CLOSED = 141
#: The name of Hydra's job where no command was typed; commands call it ``train``.
FROM_PYTHON = "deepfake"
_UNIQUE = uuid.uuid4().hex[:6]
_FLAGS = {"--config-path": "path", "-cp": "path", "--config-dir": "path", "-cd": "path"}
_FLAGS |= {"--config-name": "name", "-cn": "name"}
#: Hydra, logging and torch's settings are one for the whole process.
_ONE_AT_A_TIME = threading.RLock()
#: What lies in every run's folder, and in no config folder.
_RUN = ("resolved.yaml", "overrides.yaml", "provenance.json")


class Refusal(SystemExit):
    """A mistake on its way through Hydra, which tells exceptions its own way: the end of a process, with status 2.

    Args:
        error: The mistake, not told yet.
    """

    def __init__(self, error: UserError) -> None:
        super().__init__(USER_ERROR)
        self.error = error


def register_resolvers(unique: str = _UNIQUE) -> None:
    """What ``${project:}``, ``${unique:}`` and ``${environment_keys:}`` stand for in a config; safe to call again."""
    # Looked up here once: Hydra sends its resolvers to other processes, which may work in another folder.
    folder = str(project_folder())
    OmegaConf.register_new_resolver("project", lambda: folder, replace=True)
    OmegaConf.register_new_resolver("unique", lambda: unique, replace=True)
    OmegaConf.register_new_resolver("environment_keys", environment_keys, replace=True)


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
    sys.argv += _rank_folder()

    def run() -> int:
        refuse_saved_config(sys.argv[1:], project_folder())
        refuse_empty_choices(sys.argv[1:])
        entry()
        return 0

    return guarded_call(run)


def guarded_call(call: Callable[[], int]) -> int:
    """A command's exit status; a user's mistake is told in two lines and makes it 2."""
    _ensure_home()
    # A last garbage collection over all that was imported takes a second or two, and the process ends anyway.
    atexit.register(gc.freeze)
    try:
        with sigterm_interrupts(), mistakes_raised():
            return call()
    except UserError as error:
        return print_error(error)
    except BrokenPipeError:
        if _nobody_reads():
            return PIPE_CLOSED
        raise
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 130


@contextmanager
def mistakes_raised() -> Iterator[None]:
    """While entered, every mistake of a user's is raised as :class:`UserError`, whoever found it.

    Raises:
        UserError: What is wrong, and what to do. Other exceptions pass.
    """
    try:
        yield
    except Refusal as refusal:
        raise refusal.error from None
    except (UserError, BrokenPipeError):
        raise
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise translate(error) from None
    except Exception as error:
        place = of_a_place(error)
        if place is None:
            raise
        raise place from error


def _nobody_reads() -> bool:
    """Whether whoever read our standard output is gone, as ``head`` is after its lines; it is silenced then."""
    try:
        output = sys.stdout.fileno()
        watch = select.poll()
    except (AttributeError, OSError):  # no file, or no poll on this system
        return False
    watch.register(output, 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    # Python flushes once more as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _ensure_home() -> None:
    """Set HOME where neither the environment nor the user's entry names one, as in containers: libraries need it."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def print_error(error: Exception) -> int:
    """Print a mistake as ``error:`` and ``hint:`` on standard error; returns the exit status."""
    print(translate(error), file=sys.stderr)
    return USER_ERROR


def translate(error: Exception) -> UserError:
    """Hydra's, OmegaConf's and YAML's exceptions as ours."""
    if isinstance(error, UserError):
        return error
    text = str(error).strip()
    if isinstance(error, YAMLError):
        return UserError(f"a config file cannot be read: {' '.join(text.split())}", "mend it; it is YAML")
    first = first_line(error)
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
        lists = f"{TRAIN} --cfg job lists every key"
        return UserError(f"unknown key {key!r}", closest(key, [*known_keys(), *_groups()]) or lists)
    cause = error.__cause__
    if isinstance(error, HydraException) and cause is not None and str(cause).strip():
        first = f"{first}: {first_line(cause)}"
    return UserError(first, f"{TRAIN} --help lists the groups and keys")


def _groups() -> list[str]:
    return [path.name for root in (CONF, SWEEPS) for path in root.iterdir() if path.is_dir()]


def _rank_folder() -> list[str]:
    """Under torchrun only the first process has a run folder; the others work in a folder thrown away."""
    if os.environ.get("RANK", "0") == "0":
        return []
    return [f"hydra.run.dir={tempfile.gettempdir()}/deepfake-rank-{_UNIQUE}"]


@contextmanager
def called_from_python(*, computes: bool = True) -> Iterator[None]:
    """A call from a program that goes on: alone, its mistakes raised, the process afterwards as it was.

    Args:
        computes: Whether torch is used; if not, it is not imported for its settings to be kept.

    Raises:
        UserError: A mistake of the user's, or what would have ended a command's process.
    """
    with _ONE_AT_A_TIME, all_kept(computes), sigterm_interrupts(), mistakes_raised():
        try:
            yield
        except Refusal:
            raise
        except SystemExit as ended:
            why = first_line(ended.__cause__ or ended)
            raise UserError(f"it would have ended this process: {why}", "see what was printed above") from ended


def call_app(task: Callable[[DictConfig], object], overrides: Sequence[str], *, sweep: bool = False) -> Any:
    """What ``python train.py <overrides>`` does, with ``-m`` if it is a sweep, for a program that goes on afterwards.

    Reads no command line and leaves logging alone. Hydra's own state is that of this call until the caller restores
    it; see :mod:`deepfake.isolation`.

    Args:
        task: What Hydra calls for each job, importable where a sweep sends it to other processes.
        overrides: In Hydra's grammar; no flags.

    Returns:
        What the task returned, of a sweep what the sweeper did.

    Raises:
        UserError: Something that is no override, or a sweep where one run was meant.
        HydraException: As :func:`mistakes_raised` translates.
    """
    for word in overrides:
        if word.startswith("-") or not re.match(r"[~+]*[^=]", word):
            raise UserError(f"{word!r} is no override", "write key=value; deepfake.sweep(...) is what -m is")
    refuse_saved_config(overrides, project_folder())
    refuse_empty_choices(overrides)
    # Hydra's logging closes the handlers that are there.
    words = ["hydra/job_logging=none", "hydra/hydra_logging=none", *overrides, *_rank_folder()]
    register_resolvers(uuid.uuid4().hex[:6])
    with initialize_config_dir(str(CONF), job_name=FROM_PYTHON, version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        if sweep:
            return hydra.multirun("train", task, [*words, "hydra.mode=MULTIRUN"], with_log_configuration=False)
        _refuse_sweep(overrides, hydra.get_mode("train", words))
        return hydra.run("train", task, [*words, "hydra.mode=RUN"], with_log_configuration=False).return_value


def _refuse_sweep(overrides: Sequence[str], mode: RunMode | None) -> None:
    """Stop where many runs are asked for, and one can be returned."""
    parser = OverridesParser.create()
    parsed = parser.parse_overrides(list(overrides))
    swept = [str(override.input_line) for override in parsed if override.is_sweep_override()]
    if mode is RunMode.MULTIRUN:
        swept += [word for word in overrides if split_override(word)[0] in ("search", "experiment")]
    if swept or mode is RunMode.MULTIRUN:
        raise UserError(
            f"{' '.join(swept) or 'the config'} asks for several runs, and train makes one",
            "call deepfake.sweep(...) with the same overrides",
        )


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """What ``python train.py <overrides>`` would run, composed but not checked.

    Raises:
        UserError: A group is given something else than a choice's name.
        HydraException: A group, choice or key that does not exist; :func:`translate` makes them ours.
    """
    refuse_empty_choices(overrides)
    register_resolvers()
    with hydra_apart(), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The same, typed and checked."""
    return load_config(compose_config(overrides))


def refuse_saved_config(words: Sequence[str], beside: Path) -> None:
    """Stop where Hydra is asked to compose from a run's folder.

    Args:
        words: What was typed after the program's name.
        beside: The program's own folder, which Hydra takes relative paths from.

    Raises:
        UserError: With the command that runs that run again, what else was typed included.
    """
    flags, overrides = _flags_and_overrides(words)
    named = [flags["path"], *(split_override(text)[1] for text in overrides if text.startswith("experiment="))]
    for name in filter(None, named):
        for path in (Path(name).expanduser(), beside / name):
            folder = path.parent if path.suffix == ".yaml" else path
            if all((folder / file).is_file() for file in _RUN):
                raise _use_reproduce(
                    folder.absolute(), [text for text in overrides if not text.startswith("experiment=")]
                )


def refuse_empty_choices(words: Iterable[str]) -> None:
    """Stop where a config group is given something other than a choice's name, such as ``trainer=null``.

    Hydra ends in an exception of Python's own, which names no group.

    Args:
        words: What was typed; those that are no overrides, or cannot be read, are left to Hydra.

    Raises:
        UserError: Which group, and what it has.
    """
    parser = OverridesParser.create()
    for word in words:
        if word.startswith("-") or "=" not in word:
            continue
        try:
            override = parser.parse_override(word)
        except HydraException:
            continue
        group = override.key_or_group
        folders = [root / group for root in (CONF, SWEEPS) if group and (root / group).is_dir()]
        if not folders or override.is_delete():
            continue
        given = override.value()
        for one in given.list if isinstance(given, ChoiceSweep) else [given]:
            if one is None or isinstance(one, (int, float)):
                known = {path.stem for path in folders[0].glob("*.yaml") if not path.stem.startswith("_")}
                raise UserError(f"{word} names no choice of {group}", nearest(one, known))


def absolute_config_path(words: Sequence[str]) -> list[str]:
    """The same words with ``--config-path`` counted from the working directory.

    Hydra counts it from the folder of the program's file, which is the package where there is no script.
    """
    changed = list(words)
    for place, word in enumerate(changed):
        flag, given, value = word.partition("=")
        if flag not in ("--config-path", "-cp"):
            continue
        if given:
            changed[place] = f"{flag}={_absolute(value)}"
        elif place + 1 < len(changed):
            changed[place + 1] = _absolute(changed[place + 1])
    return changed


def _absolute(path: str) -> str:
    return path if path.startswith("pkg://") else str(Path(path).expanduser().absolute())


def _flags_and_overrides(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    flags, overrides = {"path": "", "name": ""}, []
    rest: Iterator[str] = iter(words)
    for word in rest:
        flag, given, value = word.partition("=")
        if flag in _FLAGS:
            flags[_FLAGS[flag]] = value if given else next(rest, "")
        elif given and not word.startswith("-"):
            overrides.append(word)
    return flags, overrides


def _use_reproduce(folder: Path, overrides: Sequence[str]) -> UserError:
    changes = [word for text in overrides for word in ([text] if is_environment_key(text) else ["--set", text])]
    return UserError(
        f"{folder} is the folder of a run: its config has no groups left to choose from",
        f"run it again with: {shlex.join(['deepfake', 'reproduce', str(folder), *changes])}",
    )
