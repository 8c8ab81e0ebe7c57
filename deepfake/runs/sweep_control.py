"""What ``deepfake sweep`` shows of a study at work, and the commands that it passes on.

A study is found by its sweep's folder, read without its config, and told in lines and tables. What a command does to a
trial that nobody runs is done to its run in MLflow and to its folder as well; the owner of one that runs does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless, nearest
from deepfake.installation import typed_command
from deepfake.runs.console import Console
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.runs import mark_paused, mark_pruned
from deepfake.tracking.search import open_existing
from deepfake.tracking.store import Store

if TYPE_CHECKING:
    from deepfake.sweeping.control import Control
    from deepfake.sweeping.status import Status, Trial

#: How often a study is looked at that is watched, in seconds.
LOOK_SECONDS = 2.0
#: Commands of the past that are shown.
_MOST_COMMANDS = 5


def open_study(folder: Path, storage: str | None) -> Control | None:
    """The study of a sweep's folder; None where it has none, as a grid.

    Args:
        folder: The sweep's, which need not be on this machine where the storage was typed.
        storage: ``sweep.storage``, where it was typed.

    Raises:
        UserError: It is kept on a server that only a typed address leads to, cannot be read, or is gone.
    """
    from deepfake.sweeping.control import Control
    from deepfake.sweeping.storage import stored_at

    location = stored_at(folder, storage)
    return None if location is None else Control(location, folder.name)


def studies_table(folders: Sequence[Path], size: Callable[[Path], str]) -> Table:
    """The sweeps there are: how each stands, how far it is, what is best, when it was last active.

    Args:
        folders: Theirs.
        size: What one takes on disk, for a person.
    """
    table = Table("sweep", "state", title_justify="left", header_style="bold")
    table.add_column("trials", justify="right")
    table.add_column("best")
    table.add_column("last active")
    table.add_column("on disk", justify="right")
    for folder in folders:
        table.add_row(*(Text(harmless(text)) for text in (folder.name, *_row_of(folder), size(folder))))
    return table


def _row_of(folder: Path) -> tuple[str, str, str, str]:
    from deepfake.sweeping.status import status_of

    try:
        study = open_study(folder, None)
        if study is None:
            runs = sum(one.name.isdigit() for one in folder.iterdir())
            return "a grid", str(runs), "", _when(folder.stat().st_mtime)
        status = status_of(study)
    except UserError as error:
        return "cannot be read", "", error.message, ""
    of = "" if status.total is None else f"/{status.total}"
    return status.state, f"{status.count}{of}", _best(status, brief_only=True), _when(status.last_active)


def show(study: Control, console: Console) -> None:
    """How a study stands, in lines and a table."""
    from deepfake.sweeping.status import status_of

    status = status_of(study)
    for line in lines_of(status):
        console.say(line)
    if status.trials:
        console.table(trials_table(status))
    for line in command_lines(status):
        console.say(line)


def lines_of(status: Status) -> list[str]:
    """A study in a few lines: its state, its best, what was spent, what is left."""
    lines = [summary(status)]
    if best := _best(status):
        lines.append(f"best: {best}")
    if status.kept is not None:
        lines.append(f"constraints: kept by {status.kept} of {status.ended.get('completed', 0)} completed trials")
    spent = f"{status.epochs} epochs" + (f", {status.spent} of its budget" if status.spent else "")
    lines.append(f"spent: {spent}")
    if left := _left(status):
        lines.append(f"left: {left}")
    return lines


def summary(status: Status) -> str:
    """``lr_batch: running, 12/40 trials ended (9 completed, 3 pruned), 2 running``."""
    of = "" if status.total is None else f"/{status.total}"
    ended = ", ".join(f"{count} {word}" for word, count in status.ended.items() if count)
    doing: dict[str, int] = {}
    for trial in status.trials:
        word = trial.doing.partition(",")[0]
        doing[word] = doing.get(word, 0) + 1
    parts = [f"{status.name}: {status.state}" + (f" ({status.why})" if status.why else "")]
    parts.append(f"{status.count}{of} trials ended" + (f" ({ended})" if ended else ""))
    parts += [f"{count} {'wait' if word == 'waits' and count > 1 else word}" for word, count in doing.items()]
    return ", ".join(parts)


def trials_table(status: Status) -> Table:
    """The trials that are not over: what each does, how far it is, where and since when."""
    table = Table("trial", "state", header_style="bold")
    for name, justify in (("epochs", "right"), (status.objectives[0].metric, "right"), ("where", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column("since")
    table.add_column("chosen", overflow="fold")
    for trial in status.trials:
        table.add_row(*(Text(harmless(text)) for text in _trial_row(trial)))
    return table


def _trial_row(trial: Trial) -> list[str]:
    from deepfake.sweeping.results import brief

    asked = {"pause": ", to be paused", "stop": ", to be stopped"}.get(trial.asked or "", "")
    old = " (older version: knows no commands)" if trial.outdated else ""
    where = f"{trial.host}, process {trial.process}{old}" if trial.process is not None else ""
    value = "" if trial.value is None else f"{trial.value:.4g}"
    return [
        str(trial.number),
        trial.doing + asked,
        str(trial.epochs),
        value,
        where,
        _when(trial.since),
        brief(trial.overrides),
    ]


def command_lines(status: Status) -> list[str]:
    """The latest commands, and what became of them."""
    lines = []
    for command in status.commands[-_MOST_COMMANDS:]:
        why = f", {command.why}" if command.why else ""
        lines.append(f"command {command.number}: {command} ({command.by}, {_when(command.at)}): {command.status}{why}")
    return lines


def watch(study: Control, console: Console, look_seconds: float = LOOK_SECONDS) -> Status:
    """Show how a study stands until it no longer runs; where nothing can be redrawn, a line for each change.

    Returns:
        How it stood in the end.
    """
    from deepfake.sweeping.status import RUNNING, status_of

    with console.redrawing() as live:
        said = ""
        while True:
            status = status_of(study)
            if live is not None:
                live.update(_whole(status), refresh=True)
            elif (line := _watched(status)) != said:
                said = line
                console.say(f"{datetime.now():%H:%M:%S} {line}")
            if status.state != RUNNING:
                return status
            time.sleep(look_seconds)


def _whole(status: Status) -> RenderableType:
    texts = [Text(harmless(line)) for line in lines_of(status)]
    ends = [Text(harmless(line)) for line in command_lines(status)]
    return Group(*texts, trials_table(status), *ends)


def _watched(status: Status) -> str:
    """What is told of a study once it changes; how long it will take changes all the time."""
    best = _best(status, brief_only=True)
    return summary(status) + (f", best {best}" if best else "")


@dataclass(frozen=True)
class Word:
    """A command as it is typed.

    Attributes:
        takes: What follows it, for whoever typed it wrongly.
        run: Passes it on; returns what to say.
        least: How many words follow it at least, and ``most`` at most; None without limit.
    """

    takes: str
    run: Callable[[Control, list[str]], str]
    least: int = 1
    most: int | None = 1


def _stop(study: Control, rest: list[str]) -> str:
    return study.stop(_number(rest[0])) if rest else study.stop_study()


COMMANDS: dict[str, Word] = {
    "pause": Word("TRIAL", lambda study, rest: study.pause(_number(rest[0]))),
    "resume": Word("TRIAL", lambda study, rest: study.resume(_number(rest[0]))),
    "stop": Word("[TRIAL]", _stop, least=0),
    "retry": Word("failed|TRIAL", lambda study, rest: study.retry(rest[0])),
    "add": Word("key=value …", lambda study, rest: study.add(rest), least=0, most=None),
    "workers": Word("N", lambda study, rest: study.workers(_number(rest[0], "workers"))),
}


def command(study: Control, words: Sequence[str], store: Store, folder: Path) -> str:
    """Pass a command on to a study.

    Args:
        words: The command and what follows it.
        store: Where runs are remembered.
        folder: The sweep's.

    Returns:
        What to say of it.

    Raises:
        UserError: There is no such command, or it cannot be done.
    """
    word, rest = words[0], list(words[1:])
    if word not in COMMANDS:
        raise UserError(f"{word!r} is no command to a study", nearest(word, COMMANDS))
    known = COMMANDS[word]
    if len(rest) < known.least or (known.most is not None and len(rest) > known.most):
        raise UserError(
            f"{word} takes {known.takes}, and {' '.join(rest) or 'nothing'} was given",
            f"write {typed_command('sweep', study.name, word)} {known.takes}",
        )
    said = known.run(study, rest)
    if word in ("pause", "resume", "stop") and rest:
        settle(study, int(rest[0]), store, folder)
    return said


def settle(study: Control, number: int, store: Store, folder: Path) -> None:
    """Let the run of a trial that nobody runs say in MLflow and on disk what the study says of it."""
    from deepfake.sweeping.facts import is_held, is_paused

    trial = study.trials()[number]
    run_id, run_dir = trial.user_attrs.get("run_id"), trial.user_attrs.get("run_dir")
    client = open_existing(store) if run_id else None
    pruned = trial.state.name == "PRUNED"
    if client is not None and pruned:
        mark_pruned(client, str(run_id))
    elif client is not None and is_held(trial):
        mark_paused(client, str(run_id), paused=True)
    elif client is not None and trial.user_attrs.get("owner") is None and not trial.state.is_finished():
        mark_paused(client, str(run_id), paused=is_paused(trial))
    # A study is data: what it names is touched only where its sweep lies.
    if pruned and run_dir and Path(run_dir).is_dir() and Path(run_dir).resolve().is_relative_to(folder.resolve()):
        with suppress(OSError):
            RunFolder(Path(run_dir)).end()


def _number(text: str, of: str = "trial") -> int:
    if not text.isdecimal():
        what = "a trial's number, from 0" if of == "trial" else "how many are to run at a time"
        raise UserError(f"{text!r} is no number of {'a trial' if of == 'trial' else of}", f"write {what}")
    return int(text)


def _best(status: Status, brief_only: bool = False) -> str:
    from deepfake.sweeping.results import brief

    if not status.best:
        return ""
    if len(status.objectives) > 1:
        return f"{len(status.best)} on the Pareto front"
    best = status.best[0]
    spread = "" if best.deviation is None else f" ± {best.deviation:.2g} over {best.seeds} seeds"
    text = f"{status.objectives[0].metric} {best.values[0]:.4g}{spread} (trial {best.number})"
    return text if brief_only else f"{text}, {brief(best.overrides)}"


def _left(status: Status) -> str:
    if not status.left:
        return ""
    if status.seconds_left is None:
        return status.left
    from deepfake.sweeping.forecast import lasting

    at = f" at {status.workers} worker{'s' if status.workers > 1 else ''}" if status.workers else ""
    return f"{status.left}, {lasting(status.seconds_left)}{at} (four times in five)"


def _when(seconds: float | None) -> str:
    if seconds is None:
        return ""
    ago = time.time() - seconds
    if ago < 0 or ago > 86400:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
    from deepfake.sweeping.forecast import duration

    return f"{duration(ago)} ago"
