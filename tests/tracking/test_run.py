from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import Ending, Origin, RunLog, TrackedRun, clean_name, reopen, track
from deepfake.tracking.runs import PAUSED, STATE, end_dead, search


class PrunedError(Exception):
    pass


def artifact(client, run_id: str, name: str) -> str:
    return Path(client.download_artifacts(run_id, name)).read_text()


def test_finished_run_holds_params_metrics_and_tags(store, client, experiment, quiet) -> None:
    with track(store, experiment, "one", options=quiet, tags={"study": "s"}) as run:
        run.params({"trainer.epochs": 3, "dataset.root": ""})
        run.epoch(1, {"val/roc_auc": 0.5})
        run.epoch(2, {"val/roc_auc": 0.75})
        run.summary({"test/roc_auc": 0.7})
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"trainer.epochs": "3", "dataset.root": ""}
    assert found.data.metrics == {"val/roc_auc": 0.75, "test/roc_auc": 0.7}
    assert found.data.tags["study"] == "s"
    assert [m.value for m in client.get_metric_history(run.id, "val/roc_auc")] == [0.5, 0.75]


def test_best_epochs_value_does_not_bend_its_curve(store, client, experiment, quiet) -> None:
    with track(store, experiment, "best", options=quiet) as run:
        run.epoch(1, {"val/roc_auc": 0.9})
        run.epoch(2, {"val/roc_auc": 0.8})
        run.summary({"val/roc_auc": 0.9, "test/roc_auc": 0.85})
    found = client.get_run(run.id).data.metrics
    assert found == {"val/roc_auc": 0.8, "best/val/roc_auc": 0.9, "test/roc_auc": 0.85}


def test_crashed_run_is_failed_and_keeps_its_traceback(store, client, experiment, quiet) -> None:
    with pytest.raises(ZeroDivisionError), track(store, experiment, "crash", options=quiet) as run:
        1 / 0  # noqa: B018
    assert client.get_run(run.id).info.status == "FAILED"
    assert client.get_run(run.id).data.tags["failure"] == "ZeroDivisionError: division by zero"
    assert "1 / 0" in artifact(client, run.id, "traceback.txt")


@pytest.mark.parametrize("gone", ["deleted", "of another store"])
def test_a_run_that_the_store_no_longer_knows_goes_on_as_a_new_one(
    store, client, experiment, quiet, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = "0123456789abcdef0123456789abcdef"
    if gone == "deleted":
        with track(store, experiment, "first", options=quiet) as run:
            known = run.id
        client.delete_run(known)
    with track(store, experiment, "again", options=quiet, origin=Origin(resumed=known)) as run:
        run.params({"a": 1})
        run.epoch(3, {"val/roc_auc": 0.5})
    assert run.id != known
    assert client.get_run(run.id).info.status == "FINISHED"
    assert client.get_run(run.id).data.params == {"a": "1"}
    assert f"does not know run {known}: it goes on as a new run" in capsys.readouterr().err


def test_interrupted_run_is_killed(store, client, experiment, quiet) -> None:
    with pytest.raises(KeyboardInterrupt), track(store, experiment, "ctrl-c", options=quiet) as run:
        raise KeyboardInterrupt
    assert client.get_run(run.id).info.status == "KILLED"


def test_expected_exception_ends_a_run_as_agreed(store, client, experiment, quiet) -> None:
    endings = {PrunedError: Ending("FINISHED", "pruned")}
    with pytest.raises(PrunedError), track(store, experiment, "pruned", options=quiet, endings=endings) as run:
        raise PrunedError
    found = client.get_run(run.id)
    assert (found.info.status, found.data.tags["pruned"]) == ("FINISHED", "true")
    assert client.list_artifacts(run.id) == []


def test_a_paused_run_is_scheduled_until_it_goes_on(store, client, experiment, quiet) -> None:
    endings = {PrunedError: Ending("SCHEDULED", STATE, PAUSED)}
    with pytest.raises(PrunedError), track(store, experiment, "waits", options=quiet, endings=endings) as run:
        raise PrunedError
    found = client.get_run(run.id)
    assert (found.info.status, found.data.tags["state"], found.info.end_time is None) == ("SCHEDULED", "paused", False)
    # It is nobody's that died.
    end_dead(client, found.info.experiment_id)
    assert client.get_run(run.id).info.status == "SCHEDULED"
    with track(store, experiment, "waits", options=quiet, origin=Origin(resumed=run.id)):
        going_on = client.get_run(run.id)
        assert (going_on.info.status, "state" in going_on.data.tags) == ("RUNNING", False)
    assert client.get_run(run.id).info.status == "FINISHED"


def test_a_run_that_another_process_goes_on_with_is_left_alone(store, client, experiment: str, quiet) -> None:
    with (
        pytest.raises(PrunedError),
        track(store, experiment, "left", options=quiet, endings={PrunedError: None}) as run,
    ):
        raise PrunedError
    left = client.get_run(run.id)
    assert (left.info.status, "failure" in left.data.tags) == ("RUNNING", False)


def test_children_nest_under_their_parent_and_only_there(store, client, experiment, quiet) -> None:
    with track(store, experiment, "sweep", options=quiet) as parent:
        for lr in (0.1, 0.2):
            with track(store, experiment, f"lr={lr}", origin=Origin(parent.id), options=quiet) as child:
                child.params({"optimizer.lr": lr})
                child.summary({"val/roc_auc": lr})
    with track(store, experiment, "unrelated", options=quiet):
        pass
    children = search(client, [parent.experiment], f"tags.`mlflow.parentRunId` = '{parent.id}'")
    assert [child.info.run_name for child in children] == ["lr=0.1", "lr=0.2"]
    assert [child.data.params["optimizer.lr"] for child in children] == ["0.1", "0.2"]
    assert [child.data.metrics["val/roc_auc"] for child in children] == [0.1, 0.2]


def test_short_run_still_has_system_metrics(store, client, experiment) -> None:
    with track(store, experiment, "short", options=TrackingOptions(system_metrics_seconds=60)) as run:
        pass
    metrics = client.get_run(run.id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in metrics


def test_no_run_is_left_active_for_the_next_one(store, experiment, quiet) -> None:
    import mlflow

    with track(store, experiment, "one", options=quiet):
        assert mlflow.active_run() is None


def test_long_params_are_cut_visibly_and_odd_names_cleaned(store, client, experiment, quiet) -> None:
    with track(store, experiment, "odd", options=quiet) as run:
        run.params({"long": "x" * 7000})
        run.summary({"test/method/a@b": 1.0})
    data = client.get_run(run.id).data
    assert len(data.params["long"]) == 6000
    assert data.params["long"].endswith("…")
    assert "test/method/a_b" in data.metrics


def test_more_params_than_one_call_takes(store, client, experiment, quiet) -> None:
    with track(store, experiment, "many", options=quiet) as run:
        run.params({f"p{i}": i for i in range(250)})
    assert len(client.get_run(run.id).data.params) == 250


def test_resumed_run_goes_on_under_its_id_and_keeps_its_params(store, client, experiment, quiet) -> None:
    with track(store, experiment, "r", options=quiet) as first:
        first.params({"a": 1})
    with track(store, experiment, "r", options=quiet, origin=Origin(resumed=first.id)) as again:
        again.params({"a": 2, "b": 3})
    found = client.get_run(first.id)
    assert (again.id, found.info.status) == (first.id, "FINISHED")
    assert found.data.params == {"a": "1", "b": "3"}


def test_reopened_run_keeps_its_ending(store, client, experiment, quiet) -> None:
    with pytest.raises(RuntimeError), track(store, experiment, "later", options=quiet) as run:
        raise RuntimeError
    reopen(store, run.id).summary({"eval/dfdc/roc_auc": 0.6})
    found = client.get_run(run.id)
    assert (found.info.status, found.data.metrics) == ("FAILED", {"eval/dfdc/roc_auc": 0.6})


def test_run_that_is_not_there_cannot_be_reopened(store) -> None:
    with pytest.raises(UserError, match="has no run"):
        reopen(store, "0" * 32)


def test_folder_arrives_whole_without_what_is_skipped(store, client, experiment, quiet, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "checkpoints/best.safetensors", "checkpoints/last.pt", ".partial"):
        (tmp_path / name).write_text("x")
    with track(store, experiment, "files", options=quiet) as run:
        run.folder(tmp_path, skip=("checkpoints/last.pt", ".*"))
    names = {file.path for file in client.list_artifacts(run.id)}
    inner = {file.path for file in client.list_artifacts(run.id, "checkpoints")}
    assert (names, inner) == ({"config.yaml", "checkpoints"}, {"checkpoints/best.safetensors"})


def test_large_artifact_outlives_its_run_folder(store, client, experiment, quiet, tmp_path: Path) -> None:
    weights = tmp_path / "best.safetensors"
    weights.write_bytes(b"w" * (2 << 20))
    with track(store, experiment, "large", options=quiet) as run:
        run.files([weights], "checkpoints")
    weights.unlink()
    assert Path(client.download_artifacts(run.id, "checkpoints/best.safetensors")).stat().st_size == 2 << 20


def test_dataset_input_names_its_source_digest_and_counts(store, client, experiment, quiet, manifest) -> None:
    with track(store, experiment, "data", options=quiet) as run:
        run.dataset(manifest)
    (found,) = client.get_run(run.id).inputs.dataset_inputs
    assert found.dataset.name == "demo"
    assert manifest.digest().startswith(found.dataset.digest)
    assert "/somewhere" in found.dataset.source
    assert '"train": {"real": 2, "fake": 2}' in found.dataset.profile


def test_a_data_set_that_two_runs_make_at_once_belongs_to_both(
    store, client, experiment, quiet, manifest, monkeypatch
) -> None:
    from mlflow.exceptions import BAD_REQUEST, MlflowException

    said = '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "dataset_pk"'
    refusals = [MlflowException(said, BAD_REQUEST)]
    with track(store, experiment, "late", options=quiet) as run:
        usual = run.client.log_inputs

        def log_inputs(*arguments, **named) -> None:
            if refusals:
                raise refusals.pop()
            usual(*arguments, **named)

        monkeypatch.setattr(run.client, "log_inputs", log_inputs)
        run.dataset(manifest)
    assert len(client.get_run(run.id).inputs.dataset_inputs) == 1


def test_what_a_server_takes_twice_at_once_is_not_refused(store, client, experiment, quiet, monkeypatch) -> None:
    from mlflow.exceptions import BAD_REQUEST, MlflowException

    said = "(sqlite3.IntegrityError) UNIQUE constraint failed: params.key, params.run_uuid"
    with track(store, experiment, "thawed", options=quiet) as run:
        usual, calls = run.client.log_batch, []

        def log_batch(*arguments, **named) -> None:
            usual(*arguments, **named)
            calls.append(named)
            if len(calls) == 1:
                raise MlflowException(said, BAD_REQUEST)

        monkeypatch.setattr(run.client, "log_batch", log_batch)
        run.params({"a": 1})
        # What is refused each time is still told.
        monkeypatch.setattr(run.client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(MlflowException(said)))
        with pytest.raises(MlflowException, match="UNIQUE"):
            run.params({"b": 1})
        monkeypatch.setattr(run.client, "log_batch", usual)
    assert client.get_run(run.id).data.params == {"a": "1"}
    assert len(calls) == 2


def test_metrics_that_a_busy_store_refused_are_sent_later(store, client, experiment, quiet, monkeypatch) -> None:
    from mlflow.exceptions import MlflowException

    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("database is locked")

    with track(store, experiment, "busy", options=quiet) as run:
        with monkeypatch.context() as patched:
            patched.setattr(run.client, "log_batch", refuse)
            run.epoch(1, {"val/loss": 1.0})
        run.epoch(2, {"val/loss": 0.5})
    assert [m.value for m in client.get_metric_history(run.id, "val/loss")] == [1.0, 0.5]


def test_silent_log_takes_every_call(tmp_path: Path, manifest) -> None:
    log = RunLog()
    log.params({"a": 1})
    log.epoch(1, {"b": 2.0})
    log.folder(tmp_path)
    log.dataset(manifest)
    assert log.id is None


def test_tracked_run_overrides_every_call_of_the_silent_one() -> None:
    calls = {name for name in vars(RunLog) if not name.startswith("_") and name != "id"}
    assert calls <= set(vars(TrackedRun))


@pytest.mark.parametrize(
    ("key", "expected"), [("a@b", "a_b"), ("val/f1", "val/f1"), ("p é", "p é"), ("a,b=c", "a_b_c")]
)
def test_clean_name(key: str, expected: str) -> None:
    assert clean_name(key) == expected
