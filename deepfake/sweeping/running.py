"""The trial a job is, as the job sees it: reports go to the study, and the pruner's word comes back.

Knows Optuna's trial; neither how trials are claimed nor what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepfake.sweeping.study import Claim, Study
from deepfake.sweeping.trial import Pruned, Refused, Taken

#: What may be kept of where a trial's run is.
IDENTITY = ("run_id", "run_dir", "name")


class RunningTrial:
    """The trial a job is, as it sees it; see :class:`deepfake.sweeping.trial.TrialHandle`."""

    def __init__(self, study: Study, claim: Claim) -> None:
        self._study = study
        self._claim = claim
        kept = claim.trial.user_attrs
        self._facts = {key: str(kept[key]) for key in IDENTITY if kept.get(key)}
        self._known = set(claim.trial._cached_frozen_trial.intermediate_values)
        self._farthest = int(kept.get("progress", 0))
        self._objectives = study.plan.objectives

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
        return dict(self._facts)

    def identify(self, **facts: str) -> None:
        new = {key: value for key, value in facts.items() if self._facts.get(key) != value}
        self._facts.update(new)
        if new:
            self._study.note(self._claim, new)

    def agree(self, topic: str, fact: str) -> None:
        if not self._study.agree(self._claim, topic, fact):
            raise Refused(topic)

    def hold(self) -> None:
        if not self._study.holds(self._claim):
            raise Taken

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self._objectives[0].metric)
        # Pruners count epochs done; a value seen in an earlier attempt was judged then.
        step = epoch + 1
        if len(self._objectives) > 1 or value is None or value != value:
            # There is nothing to judge, but the trial gets on.
            if step > self._farthest:
                self._farthest = step
                self._study.report(self._claim, step, None)
            return
        if step in self._known:
            self.hold()
            return
        self._known.add(step)
        if self._study.report(self._claim, step, float(value)):
            raise Pruned(epoch, dict(metrics))
