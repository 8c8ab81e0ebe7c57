from __future__ import annotations

import os
import subprocess
import sys

from deepfake.tracking.run import Origin, track
from deepfake.tracking.runs import end_abandoned, process_tags


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_running(store, client, experiment, quiet, parent, **tags: object) -> str:
    """A child that was never told to end."""
    with track(store, experiment, "child", origin=Origin(parent.id), tags=tags, options=quiet) as child:
        pass
    client.update_run(child.id, status="RUNNING")
    return child.id


def test_child_of_a_killed_process_is_ended_and_says_why(store, client, experiment, quiet) -> None:
    with track(store, experiment, "sweep", options=quiet) as parent:
        child = left_running(store, client, experiment, quiet, parent, pid=dead_process())
        assert end_abandoned(client, parent.id) == [child]
    found = client.get_run(child)
    assert (found.info.status, found.data.tags["failure"]) == ("FAILED", "its process was killed")


def test_children_that_may_live_are_left_alone(store, client, experiment, quiet) -> None:
    with track(store, experiment, "sweep", options=quiet) as parent:
        left_running(store, client, experiment, quiet, parent, pid=os.getpid())
        left_running(store, client, experiment, quiet, parent, pid=dead_process(), host="another-machine")
        assert end_abandoned(client, parent.id) == []


def test_number_given_to_a_later_process_does_not_keep_a_run_alive(store, client, experiment, quiet) -> None:
    with track(store, experiment, "sweep", options=quiet) as parent:
        later = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        run = client.create_run(
            parent.experiment,
            start_time=1_000_000,
            tags={"mlflow.parentRunId": parent.id, "pid": str(later.pid), "host": os.uname().nodename},
        )
        try:
            assert end_abandoned(client, parent.id) == [run.info.run_id]
        finally:
            later.communicate(b"\n")


def running(client, experiment: str, **tags: object) -> str:
    named = {key: str(value) for key, value in {**process_tags(), **tags}.items()}
    return client.create_run(experiment, tags=named).info.run_id


def test_the_next_run_ends_what_killed_processes_left_running(store, client, experiment, quiet) -> None:
    with track(store, experiment, "first", options=quiet) as first:
        dead = running(client, first.experiment, pid=dead_process())
        living = running(client, first.experiment)
        elsewhere = running(client, first.experiment, pid=dead_process(), pid_namespace="pid:[1]")
        resumed = running(client, first.experiment, process_started=process_tags()["process_started"])
    with track(store, experiment, "second", options=quiet):
        pass
    status = {run: client.get_run(run).info.status for run in (dead, living, elsewhere, resumed)}
    assert status == {dead: "KILLED", living: "RUNNING", elsewhere: "RUNNING", resumed: "RUNNING"}
