from __future__ import annotations

import argparse
import multiprocessing
import resource
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from deepfake.commands import sync
from deepfake.errors import UserError
from deepfake.hydra_app import guarded_call
from deepfake.tracking import logger, outbox
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import Ending, Origin, TrackedRun, add_failed, name_runs, reopen, track
from deepfake.tracking.runs import PAUSED, STATE
from deepfake.tracking.spool import Journal, find_journals, open_journal
from deepfake.tracking.store import Store, connect, locate
from tests.tracking.server import HANG, FakeServer

HEADER = {"run_id": "a" * 32, "store": "http://x"}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of tenths of seconds in the place of seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, seconds in (("FIRST_PAUSE", 0.02), ("LONGEST_PAUSE", 0.05), ("PATIENCE", 0.3), ("HURRIED", 0.1)):
        monkeypatch.setattr(outbox, name, seconds)


@pytest.fixture
def server():
    found = FakeServer()
    yield found
    found.stop()


@pytest.fixture
def far(server: FakeServer, tmp_path: Path) -> Store:
    return locate(TrackingOptions(uri=server.uri), tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "runs" / "one"
    found.mkdir(parents=True)
    return found


def only(server: FakeServer) -> dict:
    (run,) = server.runs.values()
    return run


def curve(run: dict, key: str) -> list[float]:
    return [value for name, value, _, step in sorted(run["metrics"], key=lambda m: m[3]) if name == key]


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    sync.add_arguments(parser)
    return sync.main(parser.parse_args(words))


def synced(server: FakeServer, *words: str) -> int:
    return call(*words, f"tracking.uri={server.uri}")


def back(server: FakeServer, run: TrackedRun) -> None:
    """Let it answer, once nothing of the run that ended is on its way."""
    run._outbox._thread.join(10)
    server.mode = 0


def taken(condition) -> None:
    """Wait for another thread, at most ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_that_is_told_arrives_and_leaves_no_journal(server, far, folder: Path, quiet, manifest) -> None:
    (folder / "figures").mkdir()
    (folder / "figures" / "roc.png").write_bytes(b"png")
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        run.params({"a": 1})
        run.epoch(1, {"val/loss": 1.0})
        run.summary({"val/loss": 0.5})
        run.dataset(manifest)
        run.folder(folder)
    found = only(server)
    assert (found["status"], found["params"]) == ("FINISHED", {"a": "1"})
    assert {key for key, *_ in found["metrics"]} == {"val/loss", "best/val/loss"}
    assert server.files == {f"1/{run.id}/artifacts/figures/roc.png": b"png"}
    assert "runs/log-inputs" in server.calls
    assert not (folder / "unsent").exists()


@pytest.mark.parametrize("mode", [HANG, 503])
def test_nobody_waits_for_a_server_that_does_not_take_it_and_it_arrives_later(
    server, far, folder: Path, quiet, mode: int
) -> None:
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        taken(lambda: run._outbox._journal.waiting == 0)
        server.mode = mode
        for step in range(50):
            run.epoch(step, {"val/loss": float(step)})
        # Told without an answer to any of them.
        assert run._outbox._journal.waiting == 50
        server.over.set()
        server.mode = 0
        taken(lambda: run._outbox._journal.waiting == 0)
    assert curve(only(server), "val/loss") == [float(step) for step in range(50)]
    assert only(server)["status"] == "FINISHED"
    assert not (folder / "unsent").exists()


def test_what_a_gone_server_did_not_get_is_left_and_sync_sends_it_once(
    server, far, folder: Path, quiet, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "metrics.json").write_text("{}")
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        run.epoch(1, {"val/loss": 1.0})
        taken(lambda: run._outbox._journal.waiting == 0)
        server.mode = 503
        run.epoch(2, {"val/loss": 0.5})
        run.files([folder / "metrics.json"])
    err = capsys.readouterr().err
    assert err.count("does not take what it is sent") == 1
    assert f"3 entries of this run were not sent to the tracking server {server.uri}" in err
    assert f"deepfake sync {folder}" in err
    assert curve(only(server), "val/loss") == [1.0]
    back(server, run)
    before = len(server.calls)
    assert synced(server, str(folder)) == 0
    assert (only(server)["status"], curve(only(server), "val/loss")) == ("FINISHED", [1.0, 0.5])
    assert server.calls[before:].count("runs/log-batch") == 1
    assert list(server.files) == [f"1/{run.id}/artifacts/metrics.json"]
    assert not (folder / "unsent").exists()
    assert synced(server, str(folder)) == 0
    assert "nothing is left to send" in capsys.readouterr().out


def test_a_run_ends_when_it_ended_and_not_when_that_was_sent(server, far, folder: Path, quiet) -> None:
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        server.mode = 503
    ended = run.clock.now()
    back(server, run)
    time.sleep(0.5)
    assert synced(server, str(folder)) == 0
    assert only(server)["end_time"] <= ended


def test_sync_says_what_remains(server, far, folder: Path, quiet, capsys: pytest.CaptureFixture[str]) -> None:
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        run.epoch(1, {"val/loss": 1.0})
        server.mode = 503
        run.epoch(2, {"val/loss": 0.5})
    back(server, run)
    # Another server: it answers, and knows nothing of the run.
    kept = server.runs.pop(run.id)
    assert synced(server, str(folder)) == 3
    assert "no such run" in capsys.readouterr().err
    server.runs[run.id] = kept
    assert synced(server, str(folder)) == 0
    assert curve(only(server), "val/loss") == [1.0, 0.5]


def test_where_to_send_is_not_read_from_a_folder(server, far, folder: Path, quiet, capsys, monkeypatch) -> None:
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        server.mode = 503
    back(server, run)
    before = len(server.calls)
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(folder.parents[1]))
    assert call() == 3
    assert f"to send it there, add tracking.uri={server.uri}" in capsys.readouterr().err
    assert len(server.calls) == before
    assert synced(server) == 0
    assert only(server)["status"] == "FINISHED"


def test_a_strangers_journal_sends_only_files_of_its_folder(server, far, folder: Path, quiet, tmp_path, capsys) -> None:
    (tmp_path / "secret").write_text("key")
    (folder / "link").symlink_to(tmp_path / "secret")
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        server.mode = 503
    journal = open_journal(folder, run.id, {"run_id": run.id, "store": server.uri})
    for source in ("../../secret", str(tmp_path / "secret"), "link"):
        journal.append({"kind": "file", "source": source, "name": "x"})
    journal.append({"kind": "file", "source": "link", "name": "../../x"})
    journal.append({"kind": "deliver"})
    journal.append({"kind": "file", "source": 1, "name": "x"})
    journal.append({"kind": "metrics", "values": []})
    journal.close()
    (folder / "unsent" / "other.jsonl").write_text('{"format": 99}\n')
    back(server, run)
    assert synced(server, str(folder)) == 3
    assert "other.jsonl is no journal of unsent entries that this version reads" in capsys.readouterr().err
    assert server.files == {}
    (refused,) = folder.glob("unsent/*.refused.jsonl")
    assert len(refused.read_text().splitlines()) == 7


def test_what_the_server_refuses_for_good_does_not_hold_the_rest(server, far, folder: Path, quiet, capsys) -> None:
    server.refuse = "broken"
    with track(far, "e", "one", options=quiet, folder=folder) as run:
        run.epoch(1, {"val/loss": 1.0})
        run.epoch(1, {"broken": 1.0})
        run.tags({"broken": "yes"})
        run.epoch(2, {"val/loss": 0.5})
    assert curve(only(server), "val/loss") == [1.0, 0.5]
    assert only(server)["status"] == "FINISHED"
    assert "refuses tags" in capsys.readouterr().err
    assert find_journals([folder]) == []


def test_a_resumed_run_sends_what_its_earlier_life_left(server, far, folder: Path, quiet) -> None:
    def interrupted(run: TrackedRun) -> None:
        server.mode = 503
        run.epoch(1, {"val/loss": 1.0})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), track(far, "e", "one", options=quiet, folder=folder) as first:
        interrupted(first)
    back(server, first)
    with track(far, "e", "one", options=quiet, folder=folder, origin=Origin(resumed=first.id)) as again:
        again.epoch(2, {"val/loss": 0.5})
    assert curve(only(server), "val/loss") == [1.0, 0.5]
    assert only(server)["status"] == "FINISHED"
    assert not (folder / "unsent").exists()


def test_a_job_that_failed_while_the_server_was_away_becomes_one_run(
    server, far, folder: Path, quiet, tmp_path
) -> None:
    (tmp_path / "trace.txt").write_text("Traceback")
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        add_failed(parent, "lr=1", "it broke", tags={"job": 1}, params={"lr": 1}, trace=tmp_path / "trace.txt")
        parent.end_children()
    (tmp_path / "trace.txt").unlink()
    back(server, parent)
    assert synced(server, str(folder)) == 0
    child = next(run for key, run in server.runs.items() if key != parent.id)
    assert (len(server.runs), child["status"], child["params"]) == (2, "FAILED", {"lr": "1"})
    assert child["tags"]["mlflow.parentRunId"] == parent.id
    assert list(server.files.values()) == [b"Traceback"]


def test_a_job_of_a_sweep_begins_without_the_server_and_is_told_of_when_the_sweep_ends(
    server, far, folder: Path, quiet, capsys: pytest.CaptureFixture[str]
) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        taken(lambda: parent._outbox._journal.waiting == 0)
        server.mode = 503
        with track(far, "e", "job", options=quiet, folder=folder / "0", origin=Origin(parent.id)) as job:
            job.params({"lr": 1})
            job.epoch(1, {"val/loss": 1.0})
        assert job.id == ""
        assert len(server.runs) == 1
        server.mode = 0
    child = next(run for key, run in server.runs.items() if key != parent.id)
    assert (len(server.runs), child["name"], child["status"], child["params"]) == (2, "job", "FINISHED", {"lr": "1"})
    assert child["tags"]["mlflow.parentRunId"] == parent.id
    assert curve(child, "val/loss") == [1.0]
    assert find_journals([folder]) == []
    assert "training goes on without it" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["search", "create_run"])
def test_who_gave_up_as_the_server_came_back_makes_no_second_run(
    server, far, folder: Path, quiet, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from mlflow import MlflowClient

    from deepfake.tracking import run as module

    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        pass
    server.mode = 503
    with track(far, "e", "job", options=quiet, folder=folder / "0", origin=Origin(parent.id)) as job:
        job.epoch(1, {"val/loss": 1.0})
    server.mode = 0
    (path,) = find_journals([folder])
    late = Journal(path)
    client = MlflowClient(far.uri)
    ask, target = (module.search, module) if when == "search" else (MlflowClient.create_run, MlflowClient)

    def slow(*arguments: object) -> object:
        if when == "search":
            found = ask(*arguments)
        monkeypatch.setattr(target, when, ask)
        # Given up while the server was asked: somebody else sends the rest.
        late.close()
        other = Journal(path)
        module._arrived(lambda: client, far, other)
        other.close()
        return ask(*arguments) if when == "create_run" else found

    monkeypatch.setattr(target, when, slow)
    with pytest.raises(outbox.AwayError, match="given up"):
        module._arrived(lambda: client, far, late)
    assert [one["name"] for one in server.runs.values()] == ["sweep", "job"]


def test_a_job_that_began_without_the_server_learns_its_id_when_it_is_back(
    server, far, folder: Path, quiet, monkeypatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 60.0)
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        with track(far, "e", "job", options=quiet, folder=folder / "0", origin=Origin(parent.id)) as job:
            taken(lambda: job.away)
            server.mode = 0
            # Before there is anything to send.
            taken(lambda: not job.away)
            job.epoch(1, {"val/loss": 1.0})
    assert curve(server.runs[job.id], "val/loss") == [1.0]
    assert len(server.runs) == 2


def test_an_evaluation_without_a_folder_is_refused_in_two_lines(server, far, quiet, tmp_path: Path) -> None:
    with track(far, "e", "one", options=quiet, folder=tmp_path / "gone") as run:
        pass
    later = reopen(far, run.id)
    server.mode = 503
    with pytest.raises(UserError, match="did not answer to tags of a run"):
        later.tags({"eval": "b"})


def test_an_evaluation_is_kept_where_the_server_does_not_take_it(server, far, folder: Path, quiet, capsys) -> None:
    (folder / "resolved.yaml").write_text("name: one\n")
    with track(far, "e", "one", options=quiet, folder=folder, tags={"run_dir": folder}) as run:
        pass
    later = reopen(far, run.id)
    later.summary({"eval/a": 1.0})
    server.mode = 503
    later.summary({"eval/b": 1.0})
    later.tags({"eval": "b"})
    assert capsys.readouterr().err.count("does not take what it is sent") == 1
    server.mode = 0
    assert synced(server, str(folder)) == 0
    assert {key for key, *_ in only(server)["metrics"]} == {"eval/a", "eval/b"}
    assert only(server)["tags"]["eval"] == "b"


def test_system_metrics_go_on_when_the_server_is_back(server, far, folder: Path) -> None:
    options = TrackingOptions(system_metrics_seconds=0.05)
    with track(far, "e", "one", options=options, folder=folder) as run:
        server.mode = 503
        taken(lambda: run._outbox._away is not None)
        server.mode = 0
        taken(lambda: run._outbox._away is None and run._outbox._journal.waiting == 0)
        taken(lambda: len(curve(only(server), "system/cpu_utilization_percentage")) > 3)
    steps = sorted(step for key, _, _, step in only(server)["metrics"] if key == "system/cpu_utilization_percentage")
    assert steps == list(range(len(steps)))


def test_ctrl_c_ends_the_wait_at_the_end(server, far, folder: Path, quiet, monkeypatch, capsys) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    ctrl_c = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])

    def train(run: TrackedRun) -> None:
        server.mode = HANG
        run.epoch(1, {"val/loss": 1.0})
        server.hanging.acquire()
        ctrl_c.start()

    with pytest.raises(KeyboardInterrupt), track(far, "e", "one", options=quiet, folder=folder) as run:
        train(run)
    assert "were not sent" in capsys.readouterr().err
    server.over.set()
    back(server, run)
    assert synced(server, str(folder)) == 0
    assert curve(only(server), "val/loss") == [1.0]


def test_sigterm_ends_the_wait_at_the_end_and_says_what_is_kept(
    server, far, folder: Path, quiet, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    former = signal.getsignal(signal.SIGTERM)
    runs: list[TrackedRun] = []

    def train() -> int:
        with track(far, "e", "one", options=quiet, folder=folder) as run:
            runs.append(run)
            server.mode = HANG
            run.epoch(1, {"val/loss": 1.0})
            server.hanging.acquire()
            threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
        return 0

    assert guarded_call(train) == 130
    told = capsys.readouterr().err
    assert "were not sent" in told
    assert "interrupted: SIGTERM" in told
    assert signal.getsignal(signal.SIGTERM) is former
    server.over.set()
    back(server, runs[0])
    assert synced(server, str(folder)) == 0
    assert curve(only(server), "val/loss") == [1.0]
    assert only(server)["status"] == "FINISHED"


def test_a_server_that_hangs_while_a_run_begins_is_told_in_two_lines(server, far, folder: Path) -> None:
    real = server._answer

    def hang_at_the_run(word: str, given: dict) -> dict:
        if word == "runs/create":
            server.over.wait()
        return real(word, given)

    server._answer = hang_at_the_run
    with (
        pytest.raises(UserError, match="did not answer to the beginning of a run: timed out"),
        track(far, "e", "x", folder=folder),
    ):
        pass


def test_a_journal_that_a_kill_cut_short_goes_on(folder: Path) -> None:
    journal = open_journal(folder, "a" * 32, HEADER)
    for step in range(3):
        journal.append({"kind": "metrics", "step": step, "at": 1, "values": {"a": 1.0}})
    entries = journal.next()
    journal.sent(entries[0][1], 1)
    path = journal.path
    with path.open("ab") as file:
        file.write(b'{"kind": "metr')
    journal._owner.release()
    again = Journal(path)
    again.append({"kind": "metrics", "step": 3, "at": 1, "values": {}})
    assert [entry["step"] for entry, _ in again.next()] == [1, 2, 3]
    assert again.waiting == 3


def _fill(folder: Path, told: multiprocessing.Queue[int]) -> None:
    journal = open_journal(folder, "a" * 32, HEADER)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kept = 0
    try:
        while True:
            journal.append({"kind": "text", "text": "x" * 150, "name": str(kept)})
            kept += 1
    except OSError:
        told.put(kept)


def test_a_full_disk_leaves_whole_lines(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=_fill, args=(folder, told))
    child.start()
    kept = told.get(timeout=60)
    child.join(60)
    journal = open_journal(folder, "a" * 32, HEADER)
    journal.append({"kind": "text", "text": "", "name": str(kept)})
    assert [entry["name"] for entry, _ in journal.next()] == [str(number) for number in range(kept + 1)]
    assert kept > 0


def test_a_journal_has_one_owner_and_a_second_process_gets_its_own(folder: Path) -> None:
    first = open_journal(folder, "a" * 32, HEADER)
    second = open_journal(folder, "a" * 32, HEADER)
    assert first.path != second.path
    with pytest.raises(BlockingIOError):
        Journal(first.path)
    first.close()
    second.close()
    assert not (folder / "unsent").exists()


def test_a_long_journal_does_not_grow_while_all_is_sent(folder: Path, monkeypatch) -> None:
    from deepfake.tracking import spool as module

    monkeypatch.setattr(module, "_LONG", 1000)
    journal = open_journal(folder, "a" * 32, HEADER)
    for step in range(200):
        journal.append({"kind": "metrics", "step": step, "at": 1, "values": {"a": 1.0}})
        ((_, end),) = journal.next()
        journal.sent(end, 1)
    assert journal.path.stat().st_size < 2000
    journal.append({"kind": "tags", "values": {}})
    journal._owner.release()
    assert Journal(journal.path).waiting == 1


def test_the_password_of_a_server_is_not_kept_in_the_journal(server, folder: Path, quiet, tmp_path: Path) -> None:
    store = locate(TrackingOptions(uri=server.uri.replace("//", "//bob:S3cret@")), tmp_path)
    with track(store, "e", "one", options=quiet, folder=folder):
        server.mode = 503
    (path,) = find_journals([folder])
    assert "S3cret" not in path.read_text()


def test_a_clock_that_is_set_forward_does_not_make_a_run_longer(store, client, experiment, quiet, monkeypatch) -> None:
    real = time.time
    with track(store, experiment, "clock", options=quiet) as run:
        monkeypatch.setattr(logger.time, "time", lambda: real() + 400 * 86400)
        run.epoch(1, {"a": 1.0})
    monkeypatch.undo()
    info = client.get_run(run.id).info
    assert 0 <= info.end_time - info.start_time < 60_000
    (metric,) = client.get_metric_history(run.id, "a")
    assert abs(metric.timestamp - info.start_time) < 60_000


def test_a_job_begins_while_the_database_it_is_tracked_in_is_gone(folder: Path, quiet, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    gone = locate(TrackingOptions(uri="postgresql+psycopg://u:hush@127.0.0.1:9/x"), tmp_path)
    with track(gone, "e", "job", options=quiet, folder=folder, origin=Origin("b" * 32)) as run:
        run.epoch(1, {"val/loss": 1.0})
    (path,) = find_journals([folder])
    assert "hush" not in path.read_text()
    journal = Journal(path)
    kinds = [entry["kind"] for entry, _ in journal.next()]
    assert (journal.header["begin"]["name"], kinds) == ("job", ["metrics", "ending"])
    journal.close()


def test_names_descriptions_and_views_pass_while_the_server_is_away(server, far, folder: Path, quiet) -> None:
    with track(far, "e", "20 trials", options=quiet, folder=folder) as run:
        server.mode = 503
        run.note("**Best**")
        run.experiment_note("its data")
        run.compares(["seed"], "val/roc_auc", maximize=True)
        run.renamed("40 trials")
        server.mode = 0
    tags = only(server)["tags"]
    assert (tags["mlflow.note.content"], tags["mlflow.runName"]) == ("**Best**", "40 trials")
    set_there = dict(server.experiment_tags)
    assert set_there["mlflow.note.content"] == "its data"
    assert f"'{run.id}'" in set_there[f"mlflow.sharedViewState.{run.id}"]
    assert not (folder / "unsent").exists()


def paused(far: Store, folder: Path, quiet: TrackingOptions, parent: TrackedRun, *, again: bool = False) -> TrackedRun:
    """A job of a sweep that is paused: two epochs, or two more of the same one."""
    origin = Origin(parent.id, again=again)
    first = 3 if again else 1
    tags = {"run_dir": str(folder)}
    endings = {InterruptedError: Ending("SCHEDULED", STATE, PAUSED)}
    with (
        suppress(InterruptedError),
        track(far, "e", "job", options=quiet, folder=folder, origin=origin, tags=tags, endings=endings) as run,
    ):
        run.params({"lr": 1})
        for epoch in (first, first + 1):
            run.epoch(epoch, {"val/loss": float(epoch)})
        if not again:
            raise InterruptedError
    return run


def only_job(server: FakeServer, parent: TrackedRun) -> dict:
    (found,) = (run for key, run in server.runs.items() if key != parent.id)
    return found


def check_one_run(server: FakeServer, parent: TrackedRun, folder: Path) -> None:
    job = only_job(server, parent)
    assert (job["status"], job["params"]) == ("FINISHED", {"lr": "1"})
    assert curve(job, "val/loss") == [1.0, 2.0, 3.0, 4.0]
    assert job["tags"]["resumed"] == "true"
    assert find_journals([folder]) == []


def pause_and_send(server: FakeServer, far: Store, folder: Path, quiet: TrackingOptions, parent: TrackedRun) -> None:
    """A job that began and was paused while its server was away, which has heard of it since."""
    server.mode = 503
    back(server, paused(far, folder, quiet, parent))
    assert synced(server, str(folder)) == 0


def test_a_paused_job_whose_beginning_was_kept_goes_on_as_one_run(server, far, folder: Path, quiet) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        first = paused(far, folder / "0", quiet, parent)
        back(server, first)
        again = paused(far, folder / "0", quiet, parent, again=True)
        assert first.id == ""
        assert server.runs[again.id] is only_job(server, parent)
    check_one_run(server, parent, folder)


def test_a_paused_job_that_goes_on_while_the_server_is_still_away_is_kept_as_one(
    server, far, folder: Path, quiet
) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        paused(far, folder / "0", quiet, parent)._outbox._thread.join(10)
        again = paused(far, folder / "0", quiet, parent, again=True)
        assert len(find_journals([folder / "0"])) == 1
        back(server, again)
    check_one_run(server, parent, folder)


def test_a_paused_job_whose_beginning_was_sent_meanwhile_goes_on_with_that_run(
    server, far, folder: Path, quiet
) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        pause_and_send(server, far, folder / "0", quiet, parent)
        made = only_job(server, parent)
        assert (made["status"], made["tags"][STATE]) == ("SCHEDULED", PAUSED)
        paused(far, folder / "0", quiet, parent, again=True)
    check_one_run(server, parent, folder)


def test_what_was_sent_meanwhile_is_gone_on_with_also_where_the_server_is_away_again(
    server, far, folder: Path, quiet
) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        pause_and_send(server, far, folder / "0", quiet, parent)
        server.mode = 503
        back(server, paused(far, folder / "0", quiet, parent, again=True))
    check_one_run(server, parent, folder)


def test_a_job_whose_beginning_was_kept_and_whose_id_is_known_goes_on_in_order(
    server, far, folder: Path, quiet
) -> None:
    from deepfake.tracking import run as module

    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        back(server, paused(far, folder / "0", quiet, parent))
        (path,) = find_journals([folder / "0"])
        journal = Journal(path)
        # Its run was made, and then nothing more was taken.
        deliver = module._arrived(lambda: connect(far), far, journal)
        journal.close()
        paused(far, folder / "0", quiet, parent, again=True)
        assert deliver.client.get_run(journal.header["run_id"]).info.status == "FINISHED"
    check_one_run(server, parent, folder)


def test_a_job_that_is_begun_anew_in_the_folder_of_another_is_another_run(server, far, folder: Path, quiet) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        back(server, paused(far, folder / "0", quiet, parent))
        paused(far, folder / "0", quiet, parent)
    assert len(server.runs) == 3


@pytest.mark.parametrize("mark", ["../../../x", "", 1, None])
def test_a_strangers_mark_is_no_name_of_a_file(server, far, folder: Path, quiet, mark: object) -> None:
    begin = {"experiment": "e", "name": "x", "tags": {"told": mark}, "at": 1}
    journal = open_journal(folder, "x", {"run_id": "", "store": server.uri, "begin": begin})
    journal.append({"kind": "tags", "values": {}})
    journal.close()
    with track(far, "e", "one", options=quiet, folder=folder, origin=Origin(again=True)) as run:
        assert run.id
    assert not (folder.parent.parent / "x.jsonl").exists()


def test_a_sweep_learns_the_ids_of_runs_that_its_server_made_late(server, far, folder: Path, quiet) -> None:
    with track(far, "e", "sweep", options=quiet, folder=folder) as parent:
        server.mode = 503
        back(server, paused(far, folder / "0", quiet, parent))
        named = name_runs(far, parent, folder)
        assert named.keys() == {str(folder / "0")}
        assert server.runs[named[str(folder / "0")]] is only_job(server, parent)
