"""Why no further trial may start."""

from __future__ import annotations

from dataclasses import replace

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import FAILED, Job
from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping.toy import claimed, opened


def test_failures_of_an_earlier_start_do_not_stop_this_one(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"))
    again = opened(replace(plan, max_failures=1, began=plan.began + 1000))
    assert again.study.schedule.stop_reason(again.study.trials()) is None


def test_a_mistake_stops_all_processes(plan: StudyPlan) -> None:
    claims, other = opened(plan), opened(plan)
    claim = claimed(claims)
    claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"), UserError("wrong", "do better"))
    assert other.claim() is None
    assert str(other.study.schedule.mistake) == "error: wrong\nhint: do better"
