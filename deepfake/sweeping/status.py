"""How a study stands, as far as any terminal can tell: what runs where, what is best, what is left. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from deepfake.sweeping.budget import Budget
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.commands import PENDING, REFUSED, STOPPED, UNDERSTANDS, Command, start_of
from deepfake.sweeping.control import Control
from deepfake.sweeping.facts import COMMAND, is_held, is_paused, steps_of
from deepfake.sweeping.heartbeat import host_of
from deepfake.sweeping.remaining import Terms, remaining
from deepfake.sweeping.schedule import standing
from deepfake.sweeping.search_space import to_overrides
from deepfake.sweeping.stopping import DEVIATION, SEEDS, is_feasible

#: What a study may be.
RUNNING, FINISHED, STOPPED_STATE, INTERRUPTED, EMPTY = "running", "finished", "stopped", "interrupted", "not begun"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Trial:
    """A trial that is not over.

    Attributes:
        doing: ``running``, ``paused, by maria@box``, ``waits``, …
        epochs: How many it has done.
        value: The objective's latest.
        overrides: What was chosen for it.
        host: Where it runs; empty where nobody runs it.
        process: By which process.
        since: Since when, in seconds since 1970.
        outdated: Whether its worker is of a version that knows no commands.
        asked: The word of the command that its worker is yet to act on.
    """

    number: int
    doing: str
    epochs: int
    value: float | None
    overrides: list[str]
    host: str = ""
    process: int | None = None
    since: float | None = None
    outdated: bool = False
    asked: str | None = None


@dataclass(frozen=True)
class Best:
    """The best trial; of several objectives one of the Pareto front.

    Attributes:
        deviation: Of a point that was run over several seeds, the standard deviation of the first objective.
        seeds: How many those were.
    """

    number: int
    values: list[float]
    overrides: list[str]
    deviation: float | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Status:
    """How a study stands.

    Attributes:
        state: One of the words above.
        why: More of it, in a few words; may be empty.
        ended: How many trials have ended, by how: completed, pruned, failed.
        total: How many there are to be; None where that is not known, or a budget says it.
        best: The best so far that keeps the study's constraints; of several objectives the Pareto front.
        kept: How many of those that completed keep the constraints; None where there are none.
        trials: Those that are not over.
        epochs: How many all trials have done.
        spent: Of the budget, in words; empty where there is none.
        workers: How many processes run its trials, by all who work on it.
        left: What is left, in words.
        seconds_left: A range that holds four times in five; None where nothing can be said.
        last_active: When a trial of it last gave a sign of life, in seconds since 1970.
        commands: All that was ever asked.
    """

    name: str
    state: str
    why: str
    ended: dict[str, int]
    total: int | None
    objectives: list[Objective]
    best: list[Best]
    kept: int | None
    trials: list[Trial]
    epochs: int
    spent: str
    workers: int
    left: str
    seconds_left: tuple[float, float] | None
    last_active: float | None
    commands: list[Command]

    @property
    def count(self) -> int:
        """How many trials have ended."""
        return sum(self.ended.values())

    @property
    def pending(self) -> list[Command]:
        """What was asked and is not done yet."""
        return [command for command in self.commands if command.status == PENDING]


def status_of(control: Control) -> Status:
    """How a study stands now."""
    trials = control.trials()
    counted = standing(trials)
    attributes = control.ledger.attributes()
    starts = control.ledger.starts()
    working = control.working()
    last = list(starts.values())[-1] if starts else {}
    running = [one for one in counted if one.state is TrialState.RUNNING and not is_paused(one)]
    alive = [one for one in running if control.is_alive(one.user_attrs.get("owner"), one.user_attrs.get("beat"))]
    ended = [one for one in counted if one.state in _ENDED]
    total = last.get("total")
    state, why = _state(trials, ended, running, alive, bool(working), last, attributes)
    budget = None if not last.get("budget") else Budget(float(last["budget"][0]), bool(last["budget"][1]))
    workers = sum(int(start["workers"]) for start in working.values()) or len(alive)
    words = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    counts = {word: sum(one.state is kind for one in ended) for kind, word in words.items()}
    unfinished = [_unfinished(one, one in alive) for one in counted if one.state not in _ENDED]
    deadline = None if last.get("deadline") is None else float(last["deadline"])
    terms = Terms(total, budget, bool(last.get("promotes")), workers, int(last.get("fuse") or 1), deadline)
    left, seconds = ("", None) if state == FINISHED else remaining(counted, alive, terms, time.time())
    return Status(
        name=control.name,
        state=state,
        why=why,
        ended=counts,
        total=total,
        objectives=control.objectives,
        best=_best(ended, control.objectives),
        kept=_kept(ended),
        trials=unfinished,
        epochs=sum(map(steps_of, trials)),
        spent="" if budget is None else budget.describe(trials),
        workers=workers,
        left=left,
        seconds_left=seconds,
        last_active=_last_active(trials, last),
        commands=settled(control.ledger.commands(), trials, working),
    )


def settled(
    commands: Sequence[Command], trials: Sequence[FrozenTrial], working: dict[str, dict[str, Any]]
) -> list[Command]:
    """Commands with what became of those that nobody will ever act on: their trial, or their start, is over."""
    found = []
    for command in commands:
        if command.status == PENDING and command.trial is not None and trials[command.trial].state.is_finished():
            why = f"trial {command.trial} was {trials[command.trial].state.name.lower()} first"
            found.append(_refused(command, why))
        elif command.status == PENDING and command.start is not None and command.start not in working:
            found.append(_refused(command, "its workers had ended"))
        else:
            found.append(command)
    return found


def _refused(command: Command, why: str) -> Command:
    return Command(**{**vars(command), "status": REFUSED, "why": why})


def _state(
    trials: Sequence[FrozenTrial],
    ended: Sequence[FrozenTrial],
    running: Sequence[FrozenTrial],
    alive: Sequence[FrozenTrial],
    working: bool,
    last: dict[str, Any],
    attributes: dict[str, Any],
) -> tuple[str, str]:
    stopped = attributes.get(STOPPED) or {}
    by = stopped.get("by", "") if start_of(str(last.get("token", "-"))) in stopped.get("starts", ()) else ""
    if alive or working:
        return RUNNING, f"stopping, as {by} said" if by else ""
    if not trials:
        return EMPTY, ""
    if last.get("ended") == "finished" or (last.get("total") is not None and len(ended) >= int(last["total"])):
        return FINISHED, ""
    held = [str(one.number) for one in trials if is_held(one)]
    if held and not running:
        return STOPPED_STATE, f"paused by hand: {', '.join(held)}"
    if last.get("ended") == "stopped":
        return STOPPED_STATE, f"by {by}" if by else ""
    if running or last:
        return INTERRUPTED, "the same command goes on"
    # Of a start that did not say when it ended, and of none of its trials either.
    return STOPPED_STATE, ""


def _unfinished(trial: FrozenTrial, alive: bool) -> Trial:
    facts = trial.user_attrs
    owner = facts.get("owner") or {}
    chosen = trial.params or trial.system_attrs.get("fixed_params") or {}
    if is_held(trial):
        doing = f"paused, by {facts['held']}"
    elif is_paused(trial):
        doing = f"paused, rung {facts['paused']}"
    elif trial.state is TrialState.WAITING:
        doing = "waits"
    else:
        doing = "running" if alive else "let go of" if not owner else "lost"
    since = owner.get("since") or (trial.datetime_start.timestamp() if owner and trial.datetime_start else None)
    return Trial(
        number=trial.number,
        doing=doing,
        epochs=steps_of(trial),
        value=None if trial.last_step is None else trial.intermediate_values[trial.last_step],
        overrides=to_overrides(chosen),
        host=host_of(owner),
        process=owner.get("pid"),
        since=None if since is None else float(since),
        outdated=bool(owner) and UNDERSTANDS not in owner,
        asked=(facts.get(COMMAND) or {}).get("word"),
    )


def _best(ended: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> list[Best]:
    done = [one for one in ended if one.state is TrialState.COMPLETE and one.values and is_feasible(one)]
    found = []
    for one in done:
        gains = [value if item.maximize else -value for value, item in zip(one.values, objectives, strict=True)]
        facts = one.user_attrs
        best = Best(one.number, list(one.values), to_overrides(one.params), facts.get(DEVIATION), facts.get(SEEDS))
        found.append((gains, best))
    if len(objectives) == 1:
        return [max(found, key=lambda pair: pair[0][0])[1]] if found else []
    return [best for gains, best in found if not any(_dominates(other, gains) for other, _ in found)]


def _kept(ended: Sequence[FrozenTrial]) -> int | None:
    bound = [one for one in ended if one.state is TrialState.COMPLETE and one.constraints]
    return sum(map(is_feasible, bound)) if bound else None


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)


def _last_active(trials: Sequence[FrozenTrial], last: dict[str, Any]) -> float | None:
    found = [float(last[key]) for key in ("began", "ended_at") if last.get(key)]
    for one in trials:
        facts = one.user_attrs
        found += [float(facts[key]) for key in ("beat", "ended", "paused_at") if facts.get(key)]
        found += [when.timestamp() for when in (one.datetime_start, one.datetime_complete) if when is not None]
    return max(found, default=None)
