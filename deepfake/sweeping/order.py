"""The order of a study's trials: what each may know of the others, so that no timing decides what is tried.

Trial ``k`` begins once all trials up to ``k - lag`` have ended. Of those its sampler and its pruner see everything, of
the ones after them only the points that they try, which the same rule has fixed. So it is the same trial whoever runs
it, and whenever. Knows lists of trials; reads and writes no storage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import UserError
from deepfake.installation import available_cores
from deepfake.sweeping.samplers import sees_results
from deepfake.sweeping.search_space import is_whole, to_text
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.views import as_begun

#: Keeps four workers busy, whose trials' times differ by half.
LAG = 8
#: A lag that keeps workers busy is so many times their number.
_ROOM = 2
_ANOTHER = "give sweep.name=<new name> for a study of its own"


@dataclass(frozen=True)
class Order:
    """What an ordered study is begun with, and keeps.

    Attributes:
        lag: A trial knows the results of those that are so many before it, or more.
        threads: With how many each trial computes, whatever else runs: sums depend on their number.
    """

    lag: int
    threads: int

    def may_begin(self, number: int, trials: Sequence[FrozenTrial], ended: int, plan: StudyPlan) -> bool:
        """Whether all is known that a trial may know.

        Args:
            trials: The study's.
            ended: How many of the first ones have ended.
        """
        drawn = all(is_whole(plan.parameters, trial.params) for trial in trials[ended:number] if _runs(trial))
        return drawn and ended >= self._first_unknown(number, plan)

    def seen(self, number: int, trials: Sequence[FrozenTrial], plan: StudyPlan) -> list[FrozenTrial]:
        """The trials before it as a trial's sampler and pruner see them."""
        unknown = self._first_unknown(number, plan)
        return [*trials[:unknown], *map(as_begun, trials[unknown:number])]

    def workers(self) -> int:
        """How many workers hardly wait."""
        return max(1, self.lag // _ROOM)

    def notes(self, workers: int, plan: StudyPlan) -> list[str]:
        """What a user should know of it.

        Args:
            workers: How many trials are to run at a time.
        """
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        notes = [f"in order, sweep.lag={self.lag}: each trial computes with {threads}, however many run"]
        if workers > self.workers() and _learns(plan):
            few = "one worker" if self.workers() == 1 else f"{self.workers()} workers"
            notes.append(
                f"note: sweep.lag={self.lag} keeps {few} busy, and {workers} will often wait; "
                f"in a study of its own sweep.lag={workers * _ROOM} keeps them busy"
            )
        return notes

    def _first_unknown(self, number: int, plan: StudyPlan) -> int:
        # Where no results are looked at, all trials are known beforehand.
        return max(0, number - self.lag + 1) if _learns(plan) else 0


def new_order(plan: StudyPlan) -> Order | None:
    """How the trials of a study that begins are ordered; None where nobody asked for it."""
    if not plan.ordered:
        return None
    lag = plan.lag or LAG
    given = os.environ.get("OMP_NUM_THREADS", "")
    # The same with any number of workers; a machine's cores are enough for as many as the lag keeps busy.
    threads = int(given) if given.isdecimal() and int(given) else max(1, available_cores() // max(1, lag // _ROOM))
    return Order(lag, threads)


def check_order(plan: StudyPlan, record: Mapping[str, Any] | None) -> None:
    """Hold a later start of a study to its order, and to who draws and judges in it.

    Args:
        record: As :func:`to_record` made it; None where the study has none.

    Raises:
        UserError: It asks for another one.
    """
    recorded = from_record(record)
    if recorded is None and plan.ordered:
        asked = "sweep.ordered=true" if plan.lag is None else f"sweep.lag={plan.lag}"
        raise UserError(f"study {plan.name!r} was begun in no order, and {asked} is of one in order", _ANOTHER)
    if recorded is not None and plan.ordered is False:
        raise UserError(
            f"study {plan.name!r} was begun in order, and sweep.ordered=false", f"leave it out, or {_ANOTHER}"
        )
    if recorded is not None and (plan.promotion is not None or plan.budget is not None):
        what = "sweep.budget" if plan.promotion is None else "pruner=promote"
        raise UserError(f"study {plan.name!r} was begun in order, and {what} goes by what runs at once", _ANOTHER)
    if recorded is not None and plan.fuse > 1:
        raise UserError(
            f"study {plan.name!r} was begun in order, and sweep.fuse={plan.fuse} trains together what runs at once",
            f"leave it out: last digits depend on who is trained together; or {_ANOTHER}",
        )
    if recorded is not None and plan.lag not in (None, recorded.lag):
        raise UserError(
            f"study {plan.name!r} was begun with sweep.lag={recorded.lag}, and sweep.lag={plan.lag}",
            f"leave it out: what a trial tries depends on it; or {_ANOTHER}",
        )
    before: Mapping[str, Any] = (record or {}).get("by", {})
    for key, now in _drawn_by(plan).items():
        if before.get(key, now) != now:
            raise UserError(
                f"study {plan.name!r} was begun in order with {key}={_told(before[key])}, and {key}={_told(now)}",
                f"put it back: what a trial tries depends on it; or {_ANOTHER}",
            )


def to_record(order: Order, plan: StudyPlan) -> dict[str, Any]:
    """What is recorded with the study."""
    return {**asdict(order), "by": _drawn_by(plan)}


def _drawn_by(plan: StudyPlan) -> dict[str, Any]:
    """What else trials depend on; any other study may go on with another."""
    settings = {"sampler": dict(plan.sampler), "pruner": dict(plan.pruner)}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return {"sweep.seed": plan.seed, "sweep.repeat": plan.repeat, **plain}


def _told(value: Any) -> str:
    """A sampler or a pruner as ``tpe`` with what is set of it."""
    if not isinstance(value, Mapping):
        return to_text(value)
    rest = ", ".join(f"{key}={to_text(item)}" for key, item in value.items() if key != "name" and item is not None)
    return f"{value.get('name')}" + (f" ({rest})" if rest else "")


def from_record(record: Mapping[str, Any] | None) -> Order | None:
    """The order again."""
    return None if record is None else Order(int(record["lag"]), int(record["threads"]))


def _learns(plan: StudyPlan) -> bool:
    """Whether what becomes of a trial, or whether it begins, depends on the results of others."""
    by_others = plan.stop_when is not None or plan.repeats is not None
    return by_others or sees_results(plan.sampler, plan.pruner)


def _runs(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.RUNNING
