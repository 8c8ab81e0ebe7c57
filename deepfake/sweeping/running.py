"""The trial a job is, as the job sees it: reports go to the study, and the pruner's word comes back.

A study that does not answer does not hold the job: what it told is kept and sent when the study answers again. Knows
Optuna's trial; neither how trials are claimed nor what they do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from deepfake.sweeping.study import Claim, Study
from deepfake.sweeping.trial import Pruned, Refused

#: What may be kept of where a trial's run is.
IDENTITY = ("run_id", "run_dir", "name")
#: Seconds that a job waits for the word of a study which answered before.
_PATIENCE = 5.0
#: So many heartbeats it goes on without a word: after three, another machine may have taken it for dead.
_LEASE = 2


class RunningTrial:
    """The trial a job is, as it sees it; see :class:`deepfake.sweeping.trial.TrialHandle`.

    Made as soon as the trial is claimed.
    """

    def __init__(self, study: Study, claim: Claim) -> None:
        self._study = study
        self._claim = claim
        kept = claim.trial.user_attrs
        self._facts = {key: str(kept[key]) for key in IDENTITY if kept.get(key)}
        self._known = set(claim.trial._cached_frozen_trial.intermediate_values)
        self._farthest = int(kept.get("progress", 0))
        self._objectives = study.plan.objectives
        # What is to be told, how often something was, and up to where the study took it.
        self._turn = threading.Condition()
        self._steps: dict[int, float | None] = {}
        self._news: dict[str, str] = {}
        self._asked = self._taken = 0
        self._answered = time.monotonic()
        self._sending = self._to_prune = False
        self._failure: BaseException | None = None

    @property
    def study(self) -> str:
        return self._study.plan.name

    @property
    def number(self) -> int:
        return self._claim.number

    @property
    def attempt(self) -> int:
        return self._claim.attempt

    @property
    def identity(self) -> dict[str, Any]:
        # What was not known at the beginning may be by the end.
        return {key: value for key, value in self._facts.items() if value}

    def identify(self, **facts: str) -> None:
        new = {key: value for key, value in facts.items() if self._facts.get(key) != value}
        self._facts.update(new)
        if new:
            self._tell({}, new)

    def agree(self, topic: str, fact: str) -> None:
        if not self._study.agree(self._claim, topic, fact):
            raise Refused(topic)

    def hold(self) -> None:
        self._tell({}, {})

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self._objectives[0].metric)
        # Pruners count epochs done; a value seen in an earlier attempt was judged then.
        step = epoch + 1
        if len(self._objectives) > 1 or value is None or value != value:
            # There is nothing to judge, but the trial gets on.
            if step > self._farthest:
                self._farthest = step
                self._tell({step: None}, {})
            return
        if step in self._known:
            self.hold()
            return
        self._known.add(step)
        self._tell({step: float(value)}, {})
        if self._to_prune:
            raise Pruned(epoch, dict(metrics))

    def settle(self) -> None:
        """Wait until the study has taken all that was told.

        Raises:
            Taken: The trial is another process's by now.
            UserError: The study has not answered for too long.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._failure or self._taken == self._asked)
            if self._failure is not None:
                raise self._failure

    def _tell(self, steps: Mapping[int, float | None], facts: Mapping[str, str]) -> None:
        """Tell the study and wait for its word: for moments; not at all while it is behind; and as long as it takes
        once it was silent for so long that the trial may be another's.
        """
        with self._turn:
            behind = self._taken < self._asked
            self._steps.update(steps)
            self._news.update(facts)
            self._asked += 1
            mine = self._asked
            if not self._sending and self._failure is None:
                self._sending = True
                threading.Thread(target=self._send, name="reports", daemon=True).start()

            def heard() -> bool:
                return self._failure is not None or self._taken >= mine

            self._turn.wait_for(heard, 0.0 if behind else _PATIENCE)
            lease = _LEASE * self._study.plan.heartbeat
            self._turn.wait_for(lambda: heard() or time.monotonic() < self._answered + lease)
            if self._failure is not None:
                raise self._failure

    def _send(self) -> None:
        """Send until nothing is left."""
        while True:
            with self._turn:
                if self._taken == self._asked:
                    self._sending = False
                    return
                steps, facts, upto = self._steps, self._news, self._asked
                self._steps, self._news = {}, {}
            try:
                to_prune = self._study.report(self._claim, steps, facts)
            except BaseException as error:
                # It is the job's to hear, not this thread's.
                with self._turn:
                    self._failure, self._sending = error, False
                    self._turn.notify_all()
                return
            with self._turn:
                self._taken, self._answered = upto, time.monotonic()
                self._to_prune = self._to_prune or to_prune
                self._turn.notify_all()
