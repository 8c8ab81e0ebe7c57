"""Promotion held to the published algorithm, read literally, over many simulated studies."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from deepfake.sweeping.promotion import Promotion, Standing

SEEDS, JOBS = range(40), 150


class Published:
    """Algorithm 2 of Li et al. (2020), line by line: ``get_job`` for a free worker, ``done`` for a completed job."""

    def __init__(self, eta: int, top: int) -> None:
        self.eta = eta
        self.rungs: list[list[tuple[float, int]]] = [[] for _ in range(top + 1)]
        self.promoted: list[set[int]] = [set() for _ in range(top + 1)]
        self.begun = 0

    def get_job(self) -> tuple[int, int]:
        for k in reversed(range(len(self.rungs) - 1)):
            candidates = sorted(self.rungs[k])[: len(self.rungs[k]) // self.eta]
            promotable = [trial for _, trial in candidates if trial not in self.promoted[k]]
            if promotable:
                self.promoted[k].add(promotable[0])
                return promotable[0], k + 1
        self.begun += 1
        return self.begun - 1, 0

    def done(self, trial: int, rung: int, loss: float) -> None:
        self.rungs[rung].append((loss, trial))


def losses(seed: int, draw: random.Random) -> dict[tuple[int, int], float]:
    """A loss for each trial and rung, whose order changes from rung to rung; some alike, some not a number."""
    found = {}
    for trial in range(JOBS):
        level = draw.random()
        for rung in range(8):
            found[trial, rung] = round(level + draw.gauss(0, 0.3) / (rung + 1), 1 if seed % 3 == 0 else 9)
    return found


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_next_job_is_that_of_the_published_algorithm(seed: int, maximize: bool) -> None:
    draw = random.Random(seed)
    halving = Promotion(draw.randint(1, 3), draw.randint(2, 4), draw.randint(0, 1), maximize=maximize)
    top, workers = draw.randint(1, 4), draw.randint(1, 9)
    book, sign = losses(seed, draw), -1 if maximize else 1
    published = Published(halving.reduction_factor, top)
    trials: dict[int, Standing] = {}
    running: list[tuple[float, int, int]] = []
    now = 0.0
    for _ in range(JOBS):
        # A free worker: both are asked.
        wanted = published.get_job()
        found = halving.promoted(list(trials.values()))
        if found is None:
            assert wanted == (len(trials), 0)
            trials[len(trials)] = Standing(len(trials), 0, 0)
        else:
            number, epochs = found
            assert wanted == (number, halving.rung(epochs, 0))
            trials[number] = replace(trials[number], waits=False)
        heapq.heappush(running, (now + draw.lognormvariate(0, 1), *wanted))
        if len(running) < workers:
            continue
        now, number, rung = heapq.heappop(running)
        loss = book[number, rung]
        published.done(number, rung, loss)
        epochs, before = halving.epochs(rung, 0), trials[number]
        # At the top rung a trial is through; below it waits.
        trials[number] = Standing(number, 0, epochs, {**before.values, epochs: sign * loss}, waits=rung < top)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_goes_on_at_once_is_among_the_best_of_its_rung(seed: int) -> None:
    draw = random.Random(seed)
    halving = Promotion(1, draw.randint(2, 4), maximize=False)
    book = losses(seed, draw)
    arrived: list[Standing] = []
    for number in range(100):
        here = Standing(number, 0, 1, {1: book[number, 0]}, waits=True)
        arrived.append(here)
        better = sum((other.values[1], other.number) < (here.values[1], number) for other in arrived)
        assert halving.rises(here, arrived) == (better < len(arrived) // halving.reduction_factor)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_is_not_eager_halves_as_if_all_trials_of_a_rung_ran_at_once(seed: int) -> None:
    draw = random.Random(seed)
    halving = Promotion(1, draw.randint(2, 4), eager=False, maximize=False)
    book, count, top = losses(seed, draw), draw.randint(4, 40), 3
    trials = [_at(number, 0, book, waits=True) for number in range(count)]
    while (found := halving.promoted(trials)) is not None:
        number, epochs = found
        rung = halving.rung(epochs, 0)
        arrived = _at(number, rung, book, waits=False, eta=halving.reduction_factor)
        running = [one for one in trials if one.number != number]
        while rung < top and halving.rises(arrived, [*running, arrived]):
            rung += 1
            arrived = _at(number, rung, book, waits=False, eta=halving.reduction_factor)
        trials = [*running, replace(arrived, waits=rung < top)]
    best = list(range(count))
    for rung in range(top):
        best = sorted(best, key=lambda number, rung=rung: (book[number, rung], number))  # type: ignore[misc]
        best = best[: len(best) // halving.reduction_factor]
        assert {one.number for one in trials if halving.rung(one.steps, 0) > rung} == set(best)


def _at(number: int, rung: int, book: dict[tuple[int, int], float], *, waits: bool, eta: int = 2) -> Standing:
    return Standing(number, 0, eta**rung, {eta**r: book[number, r] for r in range(rung + 1)}, waits=waits)


def test_brackets_are_halvings_of_their_own() -> None:
    halving = Promotion(1, 2, brackets=2)
    low = [Standing(number, 0, 1, {1: 0.9}, waits=True) for number in range(2)]
    high = [Standing(number, 1, 2, {2: 0.1}, waits=True) for number in range(2, 4)]
    # More epochs first, though worse; one alone in its bracket is nobody's better half.
    assert halving.promoted([*low, *high]) == (2, 4)
    assert halving.promoted([*low, high[0]]) == (0, 2)


@pytest.mark.parametrize(("brackets", "eta"), [(1, 3), (2, 2), (3, 3), (5, 2)])
def test_trials_begin_in_hyperbands_proportions(brackets: int, eta: int) -> None:
    halving = Promotion(1, eta, brackets=brackets)
    for count in (50, 500):
        seen = Counter(halving.bracket(number) for number in range(count))
        weights = [eta**rate / (rate + 1) for rate in reversed(range(brackets))]
        for bracket, weight in enumerate(weights):
            assert seen[bracket] / count == pytest.approx(weight / sum(weights), abs=3 / count)
    assert halving.bracket(0) == 0


def test_one_that_rises_goes_on_before_one_that_stays_where_trials_are_judged_ahead() -> None:
    stays = Standing(0, 0, 2, {1: 0.60, 2: 0.60}, waits=True)
    rises = Standing(1, 0, 2, {1: 0.50, 2: 0.58}, waits=True)
    assert Promotion(2, 2).promoted([stays, rises]) == (0, 4)
    assert Promotion(2, 2, ahead=0.5).promoted([stays, rises]) == (1, 4)
    # A loss is to fall.
    falls = replace(rises, values={1: 0.70, 2: 0.62})
    assert Promotion(2, 2, maximize=False).promoted([stays, falls]) == (0, 4)
    assert Promotion(2, 2, ahead=0.5, maximize=False).promoted([stays, falls]) == (1, 4)


@pytest.mark.parametrize("values", [{2: 0.5}, {1: math.nan, 2: 0.5}, {1: math.inf, 2: 0.5}, {2: 0.5, 3: 0.9}], ids=str)
def test_where_nothing_came_before_the_value_itself_is_judged(values: dict[int, float]) -> None:
    assert Promotion(2, ahead=0.5).judged(Standing(0, 0, 3, values), 2) == 0.5


def test_values_that_lie_epochs_apart_are_judged_by_epochs() -> None:
    assert Promotion(4, ahead=0.5).judged(Standing(0, 0, 4, {2: 0.4, 4: 0.6}), 4) == pytest.approx(0.65)
    assert math.isinf(Promotion(2, ahead=0.5).judged(Standing(0, 0, 2, {1: 0.5, 2: -math.inf}), 2))
    assert math.isnan(Promotion(2, ahead=0.5).judged(Standing(0, 0, 2, {1: 0.5}), 2))


@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan, True])
def test_what_is_no_distance_ahead_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="ahead="):
        Promotion(ahead=wrong)


def test_of_equal_trials_those_begun_first_go_on() -> None:
    alike = [Standing(number, 0, 1, {1: 0.5}, waits=True) for number in range(4)]
    halving = Promotion(1, 2)
    assert halving.promoted(alike[::-1]) == (0, 2)
    first_on = [replace(trial, waits=trial.number > 0) for trial in alike]
    assert halving.promoted(first_on) == (1, 2)
    assert halving.promoted([replace(trial, waits=trial.number > 1) for trial in alike]) is None


def test_what_is_not_a_number_counts_and_stays() -> None:
    nowhere = [Standing(number, 0, 1, {1: math.nan} if number else {}, waits=True) for number in range(3)]
    halving = Promotion(1, 2)
    assert halving.promoted(nowhere) is None
    assert halving.promoted([*nowhere, Standing(3, 0, 1, {1: -9.0}, waits=True)]) == (3, 2)


def test_where_none_would_go_on_the_best_of_the_highest_rung_may() -> None:
    for maximize, number in ((True, 2), (False, 1)):
        halving = Promotion(1, 3, maximize=maximize)
        trials = [Standing(0, 0, 1, {1: 0.99}, waits=True)]
        trials += [Standing(n, 0, 3, {1: 0.5, 3: n / 10}, waits=True) for n in (1, 2)]
        trials += [Standing(3, 0, 3, {3: math.nan}, waits=True), Standing(4, 0, 9, {3: 0.1, 9: 0.9})]
        assert halving.last_resort(trials) == (number, 9)
    assert Promotion().last_resort(trials[4:]) is None
    assert Promotion(5).last_resort(trials) is None


def test_one_that_waits_between_two_rungs_waits_at_the_lower() -> None:
    halving = Promotion(2, 2)
    trials = [Standing(0, 0, 3, {2: 0.9, 3: 0.1}, waits=True), Standing(1, 0, 2, {2: 0.5}, waits=True)]
    assert halving.promoted(trials) == (0, 4)


def test_nobody_is_promoted_from_below_the_lowest_rung() -> None:
    assert Promotion(4, 2).promoted([Standing(number, 0, 3, {3: 0.5}, waits=True) for number in range(9)]) is None
    assert not Promotion(4, 2).rises(Standing(0, 0, 3, {3: 0.5}), [])
    assert Promotion(4, 2).promoted([]) is None


@pytest.mark.parametrize(
    "wrong", [{"min_resource": 0}, {"reduction_factor": 1}, {"min_early_stopping_rate": -1}, {"brackets": 0.5}]
)
def test_arguments_that_make_no_rungs_are_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        Promotion(**wrong)
