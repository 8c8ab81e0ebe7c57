"""What a job returned, in our words: its metrics, its reason, whether it was stopped, and which was best."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job, Objective
from deepfake.sweeping.jobs import (
    JobRunner,
    describe,
    is_interruption,
    is_sweep_override,
    pick_best,
    runs_together,
    to_job,
)
from deepfake.sweeping.trial import Pruned
from tests.sweeping import toy

ONE, TWO = [Objective("a")], [Objective("a"), Objective("b", maximize=False)]


def returned(value: Any, objectives: list[Objective] = ONE) -> Job:
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    return to_job(JobReturn(status=status, _return_value=value), 0, ["x=1"], objectives, 1.0)


def test_a_dict_brings_metrics_and_where_the_run_is() -> None:
    job = returned({"metrics": {"a": 1, "b": "text"}, "run_id": "r", "status": "finished"})
    assert (job.status, job.metrics, job.values, job.run_id) == (COMPLETED, {"a": 1.0}, [1.0], "r")


def test_a_number_is_the_objective() -> None:
    assert returned(0.5).metrics == {"a": 0.5}


def test_a_number_for_each_objective() -> None:
    assert returned((0.5, 2), TWO).values == [0.5, 2.0]


def test_nothing_returned_is_no_metric() -> None:
    assert returned(None).metrics == {}


def test_pruning_is_no_failure() -> None:
    assert returned(Pruned(3, {"a": 0.1})).status == PRUNED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(), "ValueError"),
        (UserError("bad value", "try another"), "bad value"),
    ],
)
def test_a_failure_has_a_reason_of_one_line(error: Exception, reason: str) -> None:
    job = returned(error)
    assert (job.status, job.reason) == (FAILED, reason)


def test_an_error_without_words_speaks_through_its_cause() -> None:
    error = RuntimeError()
    error.__cause__ = ValueError("why")
    assert describe(error) == "ValueError: why"


def test_an_interruption_is_known_through_what_became_of_it() -> None:
    error = RuntimeError("a library's own words")
    error.__context__ = KeyboardInterrupt()
    assert is_interruption(error)
    assert not is_interruption(ValueError())


def test_the_best_is_the_highest_or_the_lowest() -> None:
    jobs = [Job(number, [], COMPLETED, values=[float(number)]) for number in range(3)]
    assert [pick_best(jobs, [Objective("a", maximize)])[0].number for maximize in (True, False)] == [2, 0]


def test_only_what_is_beaten_everywhere_leaves_the_front() -> None:
    points = [[1.0, 1.0], [2.0, 2.0], [1.0, 2.0], [2.0, 2.0]]
    jobs = [Job(number, [], COMPLETED, values=values) for number, values in enumerate(points)]
    assert [job.number for job in pick_best(jobs, TWO)] == [0, 1, 3]


def test_no_completed_job_is_no_best() -> None:
    assert pick_best([Job(0, [], FAILED), Job(1, [], COMPLETED, values=[float("nan")])], ONE) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sweep.n_trials=3", True),
        ("search=x", True),
        ("+sweep.params.x=1", True),
        ("optimizer.lr=1", False),
        ("seed=1", False),
    ],
)
def test_what_belongs_to_the_sweep(text: str, expected: bool) -> None:
    assert is_sweep_override(text) is expected


def test_a_task_says_how_several_of_its_jobs_are_run() -> None:
    @runs_together("tests.sweeping.toy.blocked")
    def task(config: DictConfig) -> None: ...

    def other(config: DictConfig) -> None: ...

    found = [JobRunner(None, function, OmegaConf.create()).together for function in (task, other)]  # type: ignore[arg-type]
    assert found == [toy.blocked, None]
