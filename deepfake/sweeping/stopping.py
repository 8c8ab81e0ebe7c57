"""When a study has found what it will find: ``sweep.stop_when``. Judges lists of trials; reads and writes no storage.

A rule looks at the first trials of a study, those below the first that has not ended, in the order of their numbers. So
it comes to the same end whoever runs them, over however many starts, and where trials are ordered for any number of
workers.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepfake.errors import UserError, nearest

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_NO_GAIN = re.compile(r"\s*(\d+) trials? without (?:a gain of )?(\S+)\s*")
_TERMINATOR = "terminator"
#: Facts of a trial that was run over several seeds: the first objective's sample deviation, and over how many.
DEVIATION, SEEDS = "deviation", "seeds"
#: Optuna's terminator asks for so many completed trials before it says anything.
_LEAST = 20
#: What it compares with where points are run once takes so many.
_LEAST_ALONE = 30


@dataclass(frozen=True)
class StopRule:
    """When to begin no further trial.

    Attributes:
        trials: So many in a row have raised the best value by less than ``gain``; None asks Optuna's terminator.
        gain: In the objective's own unit.
    """

    trials: int | None
    gain: float = 0.0

    def __str__(self) -> str:
        if self.trials is None:
            return _TERMINATOR
        return f"{self.trials} trial{'' if self.trials == 1 else 's'} without {self.gain:g}"


def rule_notes(rule: StopRule | None, total: int | None, *, repeated: bool) -> list[str]:
    """What a user should know of a rule: whether a study of so many trials can come to it."""
    if rule is None or total is None:
        return []
    least = rule.trials + 1 if rule.trials is not None else _LEAST if repeated else _LEAST_ALONE
    if total > least:
        return []
    return [f"sweep.stop_when={rule} looks at {least} trials at least, and there will be {total}: give sweep.n_trials"]


def parse_rule(given: str | None) -> StopRule | None:
    """``sweep.stop_when``: ``terminator``, or ``20 trials without 0.001``.

    Raises:
        UserError: Other words, or numbers that make no rule.
    """
    if given is None or given == _TERMINATOR:
        return None if given is None else StopRule(None)
    match = _NO_GAIN.fullmatch(given)
    gain = _number(match[2]) if match else math.nan
    if match is None or not 0 <= gain < math.inf or int(match[1]) < 1:
        hint = 'write "20 trials without 0.001", or terminator'
        raise UserError(
            f"sweep.stop_when={given!r} is no rule", hint if " " in given else nearest(given, (_TERMINATOR,))
        )
    return StopRule(int(match[1]), gain)


class Stopping:
    """Where a study ends by a rule. What has ended does not change, so each number of trials is looked at once.

    Args:
        rule: None never ends one.
        maximize: Which way is better.
        seed: For what the terminator draws.

    Attributes:
        after: How many trials had ended when the rule was first met; None until it is.
        looked_at: Up to how many it has been looked.
    """

    def __init__(self, rule: StopRule | None, maximize: bool, seed: int = 0) -> None:
        self._rule, self._maximize, self._seed = rule, maximize, seed
        self.looked_at = self._remembered = 0
        # The best value after each of the trials that count.
        self._best: list[float] = []
        self._threshold: float | None = None
        self.after: int | None = None

    @property
    def is_slow(self) -> bool:
        """Whether a look takes a moment, and is worth remembering."""
        return self._rule is not None and self._rule.trials is None

    def remember(self, seen: Mapping[str, Any] | None) -> None:
        """Go on from where another process has looked to, and found no end."""
        if self.is_slow and seen is not None and seen["rule"] == str(self._rule):
            self.looked_at = self._remembered = int(seen["looked_at"])

    def to_remember(self) -> dict[str, Any] | None:
        """What :meth:`remember` is to be given by others; None where that is nothing new."""
        if not self.is_slow or self.after is not None or self.looked_at <= self._remembered:
            return None
        self._remembered = self.looked_at
        return {"rule": str(self._rule), "looked_at": self.looked_at}

    def look(self, trials: Sequence[FrozenTrial], ended: int) -> int | None:
        """Look at what has ended since the last time.

        Args:
            trials: The study's, in order.
            ended: How many of the first ones have ended.

        Returns:
            After how many trials the rule was first met; None where it has not been.
        """
        while self._rule is not None and self.after is None and self.looked_at < ended:
            trial = trials[self.looked_at]
            self.looked_at += 1
            if trial.state.name in ("COMPLETE", "PRUNED"):
                self._note(trial)
                if self._is_met(trials[: self.looked_at]):
                    self.after = self.looked_at
        return self.after

    def reason(self) -> str | None:
        """Why the study ends, where it does."""
        if self._rule is None or self.after is None:
            return None
        if self._rule.trials is None:
            return "sweep.stop_when=terminator: less is left to gain than can be told from chance"
        many = f"{self._rule.trials} trials have" if self._rule.trials > 1 else "a trial has"
        return f"{many} not brought a gain of {self._rule.gain:g} (sweep.stop_when)"

    def _note(self, trial: FrozenTrial) -> None:
        best = self._best[-1] if self._best else -math.inf
        if trial.state.name == "COMPLETE" and is_feasible(trial):
            value = float(trial.values[0])
            best = max(best, value if self._maximize else -value)
        self._best.append(best)

    def _is_met(self, trials: Sequence[FrozenTrial]) -> bool:
        assert self._rule is not None
        if self._rule.trials is None:
            return trials[-1].state.name == "COMPLETE" and self._terminates(trials)
        before = self._best[-1 - self._rule.trials] if len(self._best) > self._rule.trials else -math.inf
        # Before there is any value, nothing is without a gain.
        return before > -math.inf and self._best[-1] - before < max(self._rule.gain, math.ulp(before))

    def _terminates(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether Optuna's terminator ends a study.

        Where points are run over several seeds, a bound on the regret (Makarova et al. 2022) is held against how much
        a point's mean is left to chance; elsewhere the expected minimum model regret (Ishibashi et al. 2023) against
        a hundredth of what it was in the beginning.
        """
        from optuna.study import StudyDirection

        done = [trial for trial in trials if trial.state.name == "COMPLETE"]
        way = StudyDirection.MAXIMIZE if self._maximize else StudyDirection.MINIMIZE
        chance = chance_of_mean(done)
        if len(done) < _LEAST:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Made anew for each look, so that what it draws does not depend on how often it was asked.
            regret, beginning = _evaluators(chance is not None, self._seed)
            if chance is None:
                if self._threshold is None and (first := beginning.evaluate(done, way)) >= 0:
                    self._threshold = first
                chance = -math.inf if self._threshold is None else self._threshold
            return bool(regret.evaluate(done, way) < chance)


def chance_of_mean(trials: Sequence[FrozenTrial]) -> float | None:
    """The standard error of a point's mean over its seeds, pooled over points; None where each was run once."""
    facts = [trial.user_attrs for trial in trials if trial.user_attrs.get(DEVIATION) is not None]
    if not facts:
        return None
    return math.sqrt(math.fsum(float(fact[DEVIATION]) ** 2 / int(fact[SEEDS]) for fact in facts) / len(facts))


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial that has ended keeps what it was bound to."""
    return all(value <= 0 for value in trial.constraints.values())


def check_rule(
    rule: StopRule | None, *, objectives: int, constrained: bool, unconditional: bool, promotes: bool = False
) -> None:
    """Hold a rule to the study.

    Args:
        objectives: How many there are.
        constrained: Whether points are bound to constraints.
        unconditional: Whether some key applies to every point.
        promotes: Whether trials are paused, which end late or never.

    Raises:
        UserError: They do not go together.
    """
    if rule is None:
        return
    without = 'take "20 trials without 0.001"'
    if objectives > 1:
        raise UserError(f"sweep.stop_when={rule} takes one objective", "leave it out, or name one sweep.objective")
    if promotes:
        raise UserError(
            f"sweep.stop_when={rule} counts trials that have ended, and pruner=promote leaves them open",
            "give sweep.budget, or take pruner=asha",
        )
    if rule.trials is not None:
        return
    if constrained:
        raise UserError("sweep.stop_when=terminator knows no constraints", without)
    if not unconditional:
        raise UserError("sweep.stop_when=terminator needs a key that applies to every point", without)
    try:
        _evaluators(several=False, seed=0)
    except (ImportError, AttributeError) as error:
        raise UserError(f"sweep.stop_when=terminator cannot be had here: {error}", without) from error


def _evaluators(several: bool, seed: int) -> tuple[Any, Any]:
    """What measures the room for improvement, and what it is held against: None for the spread over seeds."""
    import torch  # noqa: F401 - the models of both are its
    from optuna.terminator import EMMREvaluator, MedianErrorEvaluator, RegretBoundEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if several:
            return RegretBoundEvaluator(seed=seed), None
        return EMMREvaluator(seed=seed), MedianErrorEvaluator(EMMREvaluator(seed=seed))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
