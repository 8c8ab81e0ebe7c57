"""Which ended jobs can no longer win: by one objective and by several, whatever the order in which they end."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job, Objective
from deepfake.sweeping.jobs import pick_best
from deepfake.sweeping.keeping import Contest

ONE, TWO = [Objective("m")], [Objective("m"), Objective("n", maximize=False)]


def job(number: int, *values: float, status: str = COMPLETED) -> Job:
    return Job(number, [], status, values=list(values))


def beaten(objectives: list[Objective], keep: int, jobs: list[Job]) -> list[int]:
    contest = Contest(objectives, keep)
    return [one.number for entered in jobs for one in contest.enter(entered)]


def test_the_best_three_stay() -> None:
    assert beaten(ONE, 3, [job(0, 0.5), job(1, 0.9), job(2, 0.7), job(3, 0.8), job(4, 0.1)]) == [0, 4]


def test_less_is_better_where_that_is_asked_for() -> None:
    assert beaten([Objective("m", maximize=False)], 1, [job(0, 0.5), job(1, 0.9), job(2, 0.1)]) == [1, 0]


def test_of_equals_the_earlier_number_stays_whichever_ended_first() -> None:
    assert beaten(ONE, 1, [job(1, 0.5), job(0, 0.5)]) == [1]
    assert beaten(ONE, 1, [job(0, 0.5), job(1, 0.5)]) == [1]


@pytest.mark.parametrize("status", [FAILED, PRUNED])
def test_what_did_not_complete_never_wins(status: str) -> None:
    assert beaten(ONE, 3, [job(0, status=status)]) == [0]


def test_no_more_does_one_without_a_number() -> None:
    assert beaten(ONE, 3, [job(0, math.nan), job(1), job(2, math.inf)]) == [0, 1, 2]


def test_nobody_wins_where_all_failed() -> None:
    assert beaten(ONE, 3, [job(number, status=FAILED) for number in range(4)]) == [0, 1, 2, 3]


def test_one_that_was_told_of_anothers_run_does_not_cost_that_run_its_place() -> None:
    run, told = Job(0, [], COMPLETED, values=[0.9], run_dir="/0"), Job(3, [], COMPLETED, values=[0.9], run_dir="/0")
    assert beaten(ONE, 2, [run, job(1, 0.5), told, job(2, 0.4)]) == [2]
    assert beaten(ONE, 2, [told, job(1, 0.5), run]) == []
    # Once its run is beaten it is too.
    assert beaten(ONE, 1, [run, job(1, 1.0), told]) == [0, 3]


@pytest.mark.parametrize("seed", range(200))
def test_what_stays_is_what_the_end_calls_best(seed: int) -> None:
    draw = random.Random(seed)
    objectives, keep = draw.choice([ONE, TWO]), draw.randint(1, 4)
    states = [COMPLETED, COMPLETED, COMPLETED, PRUNED, FAILED]
    jobs = [
        job(number, *(draw.randint(0, 6) for _ in objectives), status=draw.choice(states))
        for number in range(draw.randint(0, 15))
    ]
    ended = draw.sample(jobs, len(jobs))
    lost = beaten(objectives, keep, ended)
    assert len(set(lost)) == len(lost)
    stay = {one.number for one in jobs} - set(lost)
    if objectives is TWO:
        assert stay == {one.number for one in pick_best(jobs, objectives)}
    else:
        ranked = sorted((one for one in jobs if one.status == COMPLETED), key=lambda one: (-one.values[0], one.number))
        assert stay == {one.number for one in ranked[:keep]}


def test_what_breaks_constraints_never_wins() -> None:
    assert beaten(ONE, 1, [job(0, 0.5), replace(job(1, 0.9), feasible=False), replace(job(2, 0.4), feasible=True)]) == [
        1,
        2,
    ]
