"""Who is alive: on this machine by process, elsewhere by heartbeat."""

from __future__ import annotations

import subprocess
import sys

from deepfake.sweeping.heartbeat import Watch, new_owner, process_identity


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ended_process() -> dict[str, object]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(process.pid)
    process.communicate(b"\n")
    return identity


def elsewhere() -> dict[str, object]:
    return {**new_owner(None, 30.0), "host": "another"}


def test_this_process_is_alive() -> None:
    assert not Watch().is_dead(new_owner(None, 30.0), None)


def test_an_ended_process_is_dead() -> None:
    assert Watch().is_dead({**new_owner(None, 30.0), **ended_process()}, None)


def test_a_later_process_with_the_same_number_is_another() -> None:
    owner = new_owner(None, 30.0)
    assert Watch().is_dead({**owner, "started": owner["started"] - 1000, "ticks": owner["ticks"] - 100_000}, None)


def test_a_clock_that_is_set_kills_nobody() -> None:
    # psutil counts a process's start from the clock: whoever asks after it was set is told another.
    owner = new_owner(None, 30.0)
    assert not Watch().is_dead({**owner, "started": owner["started"] - 400 * 86400}, None)


def test_an_owner_of_before_ticks_were_kept_is_told_by_its_start() -> None:
    owner = {key: value for key, value in new_owner(None, 30.0).items() if key != "ticks"}
    assert not Watch().is_dead(owner, None)
    assert Watch().is_dead({**owner, "started": owner["started"] - 1000}, None)


def test_a_dead_worker_is_left_to_its_living_supervisor() -> None:
    owner = {**new_owner(process_identity(), 30.0), **ended_process()}
    assert not Watch().is_dead(owner, None)


def test_a_living_worker_outlives_its_supervisor() -> None:
    assert not Watch().is_dead(new_owner(ended_process(), 30.0), None)


def test_no_owner_is_dead() -> None:
    assert Watch().is_dead(None, None)


def test_an_owner_elsewhere_is_given_three_heartbeats() -> None:
    clock = Clock()
    watch = Watch(clock)
    owner = elsewhere()
    verdicts = []
    for clock.now in (0.0, 80.0, 91.0):
        verdicts.append(watch.is_dead(owner, 1))
    assert verdicts == [False, False, True]


def test_a_beating_owner_elsewhere_is_alive_whatever_its_clock_says() -> None:
    clock = Clock()
    watch = Watch(clock)
    owner = elsewhere()
    verdicts = []
    for clock.now, beat in ((0.0, 5.0), (80.0, 4.0), (160.0, 3.0)):
        verdicts.append(watch.is_dead(owner, beat))
    assert verdicts == [False, False, False]


def test_silence_during_an_outage_kills_nobody() -> None:
    now = [0.0]
    watch = Watch(clock=lambda: now[0])
    owner = {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "t", "supervisor": None, "heartbeat": 1.0}
    assert not watch.is_dead(owner, 1.0)
    now[0] = 10.0
    watch.forgive()
    assert not watch.is_dead(owner, 1.0)
    now[0] = 20.0
    assert watch.is_dead(owner, 1.0)
