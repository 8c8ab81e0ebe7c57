"""What somebody asks of a study while it runs: each command is an entry in the study, and so is what became of it.

Who enters a command, and who acts on it, holds the study's lock. Knows Optuna's storages; decides nothing.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage

from deepfake.compat import study_id

#: What owners and starts say of themselves that act on commands; one without it ignores them.
UNDERSTANDS, COMMANDS = "commands", 1
PAUSE, RESUME, STOP, RETRY, ADD, WORKERS = "pause", "resume", "stop", "retry", "add", "workers"
PENDING, DONE, REFUSED, REPLACED = "pending", "done", "refused", "replaced"
#: Attributes of a study: a command and its answer by its number, a start by its token, and the starts that are to end.
_ENTRY, _ANSWER, START, STOPPED = "command ", "answer ", "start ", "stopped"


@dataclass(frozen=True)
class Command:
    """Something that was asked of a study.

    Attributes:
        number: From 1; of two commands the later one has the larger number.
        word: What is to be done.
        by: Who asked, on which machine.
        at: When, in seconds since 1970, by that machine's clock.
        begun: So many trials had begun by then; what later ones try may depend on the command.
        trial: The trial it is about.
        start: The token of the start it is about.
        value: What else it says: a number of workers, or a point.
        status: What became of it.
        why: In a few words.
        answered: Who acted on it, and when.
    """

    number: int
    word: str
    by: str
    at: float
    begun: int
    trial: int | None = None
    start: str | None = None
    value: Any = None
    status: str = PENDING
    why: str = ""
    answered: tuple[str, float] | None = None

    def __str__(self) -> str:
        words = [self.word, *(str(part) for part in (self.trial, self.value) if part is not None)]
        return " ".join(words)


class Ledger:
    """The commands of a study.

    Args:
        study: Optuna's.
        storage: Which everything is written to.
        now: Seconds since 1970.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, now: Callable[[], float] = time.time) -> None:
        self._storage, self._key, self._now = storage, study_id(study), now

    def attributes(self) -> dict[str, Any]:
        """All that is recorded with the study itself."""
        return dict(self._storage.get_study_user_attrs(self._key))

    def record(self, key: str, value: Any) -> None:
        """Record something with the study."""
        self._storage.set_study_user_attr(self._key, key, value)

    def commands(self) -> list[Command]:
        """All that was ever asked, in order."""
        return commands_in(self.attributes())

    def enter(self, word: str, begun: int, **about: Any) -> Command:
        """Enter a command; only while the study is held exclusively.

        Args:
            about: The trial, the start, the value: see :class:`Command`.
        """
        taken = (int(key.removeprefix(_ENTRY)) for key in self.attributes() if key.startswith(_ENTRY))
        command = Command(max(taken, default=0) + 1, word, person(), self._now(), begun, **about)
        entry = {key: value for key, value in asdict(command).items() if key not in ("status", "why", "answered")}
        self.record(f"{_ENTRY}{command.number}", entry)
        return command

    def answer(self, number: int, status: str, why: str = "") -> None:
        """Record what became of a command."""
        by = f"process {os.getpid()} on {socket.gethostname()}"
        self.record(f"{_ANSWER}{number}", {"status": status, "why": why, "by": by, "at": self._now()})

    def starts(self) -> dict[str, dict[str, Any]]:
        """The starts of the study that said so, by their tokens, in the order in which they began."""
        return starts_in(self.attributes())


def commands_in(attributes: Mapping[str, Any]) -> list[Command]:
    """The commands among a study's attributes, in order."""
    found = []
    for key, entry in attributes.items():
        if key.startswith(_ENTRY):
            answer = attributes.get(f"{_ANSWER}{entry['number']}") or {}
            by = (answer["by"], answer["at"]) if answer else None
            given = {name: entry.get(name) for name in Command.__dataclass_fields__ if name in entry}
            status = {"status": answer.get("status", PENDING), "why": answer.get("why", ""), "answered": by}
            found.append(Command(**{**given, **status}))
    return sorted(found, key=lambda command: command.number)


def starts_in(attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The starts among a study's attributes, by their tokens, in the order in which they began."""
    found = {key.removeprefix(START): dict(value) for key, value in attributes.items() if key.startswith(START)}
    return dict(sorted(found.items(), key=lambda pair: float(pair[1]["began"])))


def start_of(token: str) -> str:
    """The token of the start that a worker belongs to, by the worker's."""
    return token.partition("-")[0]


def person() -> str:
    """Who types here: ``maria@box``."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # Containers run as ids that have no name.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
