"""Hydra's way of running a saved config again, turned to ours: ``--config-path RUN`` becomes ``deepfake reproduce``.

A saved config has lost its groups: ``model=cnn_gru`` on top of it would name no model. Knows Hydra's flags only.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

from deepfake.errors import UserError, nearest
from deepfake.installation import CONF, SWEEPS

_FLAGS = {"--config-path": "path", "-cp": "path", "--config-dir": "path", "-cd": "path"}
_FLAGS |= {"--config-name": "name", "-cn": "name"}
#: What lies in every run's folder, and in no config folder.
_RUN = ("resolved.yaml", "overrides.yaml", "provenance.json")


def refuse_saved_config(words: Sequence[str], beside: Path) -> None:
    """Stop where Hydra is asked to compose from a run's folder.

    Args:
        words: What was typed after the program's name.
        beside: The program's own folder, which Hydra takes relative paths from.

    Raises:
        UserError: With the command that runs that run again, what else was typed included.
    """
    flags, overrides = _parsed(words)
    named = [flags["path"], *(text.partition("=")[2] for text in overrides if text.startswith("experiment="))]
    for name in filter(None, named):
        for path in (Path(name).expanduser(), beside / name):
            folder = path.parent if path.suffix == ".yaml" else path
            if all((folder / file).is_file() for file in _RUN):
                raise _instead(folder.absolute(), [text for text in overrides if not text.startswith("experiment=")])


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


def _parsed(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    flags, overrides = {"path": "", "name": ""}, []
    rest: Iterator[str] = iter(words)
    for word in rest:
        flag, given, value = word.partition("=")
        if flag in _FLAGS:
            flags[_FLAGS[flag]] = value if given else next(rest, "")
        elif given and not word.startswith("-"):
            overrides.append(word)
    return flags, overrides


def _instead(folder: Path, overrides: Sequence[str]) -> UserError:
    from deepfake.config import is_environment_key

    changes = [word for text in overrides for word in ([text] if is_environment_key(text) else ["--set", text])]
    return UserError(
        f"{folder} is the folder of a run: its config has no groups left to choose from",
        f"run it again with: {shlex.join(['deepfake', 'reproduce', str(folder), *changes])}",
    )
