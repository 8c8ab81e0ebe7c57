"""What a user types to runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from deepfake.errors import UserError
from deepfake.tracking.delivery import name_best
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.provenance import FORMAT, collect
from deepfake.tracking.run import Origin, track
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import from_folder
from deepfake.tracking.search import find_run, matching_runs, record, sweep_runs
from deepfake.tracking.store import Store, locate

Make = Callable[..., tuple[str, Path]]


@pytest.fixture
def make(store: Store, experiment: str, quiet: TrackingOptions, tmp_path: Path, manifest, predictions) -> Make:
    """Makes a finished run; returns its id and folder."""

    def made(name: str, *, tags: dict[str, object] | None = None, parent: str | None = None) -> tuple[str, Path]:
        folder = RunFolder(tmp_path / "runs" / name)
        folder.write_config("name: ${x}\n", f"name: {name}\nseed: 7\n", ["seed=7"])
        folder.write_provenance(collect(seeds={"seed": 7}, data={}, device="cpu"))
        folder.write_manifest(manifest)
        given = {"run_dir": folder.path, **(tags or {})}
        with track(store, experiment, name, origin=Origin(parent), tags=given, options=quiet) as run:
            folder.write_predictions(predictions)
            folder.write_metrics({"metrics": {"test/roc_auc": 1 / 3}, "unavailable": {"test/f1": "why"}})
            folder.write_history([{"epoch": 1, "val/loss": 0.5, "val/f1": float("nan")}])
            folder.best_weights.parent.mkdir()
            folder.best_weights.write_bytes(b"w")
            run.folder(folder.path)
        return run.id, folder.path

    return made


@pytest.fixture
def absent(tmp_path: Path) -> Store:
    return locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/nowhere/mlflow.db"), tmp_path)


def test_id_name_folder_and_config_lead_to_the_same_run(make: Make, store: Store, tmp_path: Path) -> None:
    run_id, folder = make("alpha-7")
    for reference in (run_id, "alpha-7", str(folder), str(folder / "config.yaml")):
        assert find_run(reference, store, tmp_path).run_id == run_id


@pytest.mark.parametrize("lost", ["folder", "artifacts", "store"])
def test_everything_is_read_from_either_copy_alone(
    lost: str, make: Make, store: Store, absent: Store, client, tmp_path: Path, predictions, manifest
) -> None:
    run_id, folder = make(f"copy-{lost}")
    if lost == "folder":
        shutil.rmtree(folder)
        found = find_run(run_id, store, tmp_path)
    elif lost == "artifacts":
        shutil.rmtree(Path(client.download_artifacts(run_id, "")))
        found = find_run(run_id, store, tmp_path)
    else:
        found = find_run(str(folder), absent, tmp_path)
    assert found.require_finished().config() == {"name": f"copy-{lost}", "seed": 7}
    assert found.overrides() == ["seed=7"]
    assert found.provenance()["seeds"] == {"seed": 7}
    assert found.metrics() == {"test/roc_auc": 1 / 3}
    assert found.unavailable() == {"test/f1": "why"}
    assert found.history() == [{"epoch": 1, "val/loss": 0.5}]
    assert found.weights().read_bytes() == b"w"
    pd.testing.assert_frame_equal(found.predictions(), predictions)
    assert list(found.manifest()["groups"]) == list(manifest.table["groups"])


def test_files_of_a_server_are_downloaded_once_and_whole(make: Make, client, tmp_path: Path) -> None:
    run_id, folder = make("remote")
    shutil.rmtree(folder)
    run = client.get_run(run_id)
    run.info._artifact_uri = "mlflow-artifacts:/somewhere"
    found = record(client, run, tmp_path)
    assert found.weights() == tmp_path / "cache" / "artifacts" / run_id / "checkpoints" / "best.safetensors"
    shutil.rmtree(client.download_artifacts(run_id, ""))
    assert found.weights().read_bytes() == b"w"
    assert not found.has("never-written.json")


def test_asking_creates_no_store(make: Make, absent: Store, tmp_path: Path) -> None:
    _, folder = make("quiet-question")
    find_run(str(folder), absent, tmp_path)
    assert absent.database is not None
    assert not absent.database.exists()


def test_name_of_several_runs_lists_their_ids(make: Make, store: Store, tmp_path: Path) -> None:
    first, _ = make("twice", tags={"run_dir": ""})
    with track(store, "another", "twice", options=TrackingOptions(system_metrics=False)) as second:
        pass
    with pytest.raises(UserError, match="2 runs are named 'twice'") as caught:
        find_run("twice", store, tmp_path)
    assert first in caught.value.hint
    assert second.id in caught.value.hint


def test_unknown_name_suggests_the_nearest(make: Make, store: Store, tmp_path: Path) -> None:
    make("a-name-of-its-own")
    with pytest.raises(UserError, match="did you mean 'a-name-of-its-own'"):
        find_run("a-name-of-its-owm", store, tmp_path)


def test_unknown_id_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no run"):
        find_run("0" * 32, store, tmp_path)


def test_trial_and_best_of_a_study(make: Make, store: Store, experiment: str, quiet, tmp_path: Path) -> None:
    study = experiment.rsplit(".", 1)[-1]
    with track(store, experiment, study, tags={"sweep": study}, options=quiet) as parent:
        ids = [make(f"{study}-{n}", tags={"job": n}, parent=parent.id)[0] for n in range(3)]
        parent.tags({"best.run_id": ids[1]})
    assert find_run(f"{study}:2", store, tmp_path).run_id == ids[2]
    assert find_run(f"best:{study}", store, tmp_path).run_id == ids[1]
    with pytest.raises(UserError, match="its trials are 0 to 2"):
        find_run(f"{study}:9", store, tmp_path)


def test_the_best_of_a_study_is_found_by_its_folder_until_a_server_knows_it(
    make: Make, store: Store, client, experiment: str, quiet, tmp_path: Path
) -> None:
    study = experiment.rsplit(".", 1)[-1]
    folders = {number: tmp_path / str(number) for number in range(3)}
    with track(store, experiment, study, tags={"sweep": study}, options=quiet) as parent:
        known = [make(f"{study}-{n}", tags={"run_dir": folders[n]}, parent=parent.id)[0] for n in range(2)]
        parent.best(None, str(folders[1]))
        assert client.get_run(parent.id).data.tags["best.run_id"] == known[1]
        parent.best(None, str(folders[2]))
        assert client.get_run(parent.id).data.tags["best.run_id"] == ""
        with pytest.raises(UserError, match="no best run yet"):
            find_run(f"best:{study}", store, tmp_path)
        folders[2].mkdir()
        (folders[2] / "resolved.yaml").write_text("name: late\n")
        assert find_run(f"best:{study}", store, tmp_path).places == (folders[2],)
        for number in (0, 2):
            # The server comes to know them: one is the best.
            run_id = make(f"{study}-late-{number}", tags={"run_dir": folders[number]}, parent=parent.id)[0]
            name_best(client, client.get_run(run_id))
        assert find_run(f"best:{study}", store, tmp_path).run_id == run_id
        parent.best(known[0], str(folders[0]))
        assert find_run(f"best:{study}", store, tmp_path).run_id == known[0]


def test_trial_begun_again_means_the_run_that_finished(make: Make, store, experiment, quiet, tmp_path: Path) -> None:
    with track(store, experiment, "again", tags={"sweep": "again"}, options=quiet) as parent:
        good, _ = make("again-0", tags={"job": 0}, parent=parent.id)
        with (
            pytest.raises(RuntimeError),
            track(store, experiment, "x", origin=Origin(parent.id), tags={"job": 0}, options=quiet),
        ):
            raise RuntimeError
    assert find_run("again:0", store, tmp_path).run_id == good


def test_unknown_study_names_the_known(store: Store, experiment: str, quiet, tmp_path: Path) -> None:
    with track(store, experiment, "s", tags={"sweep": "heads-on-demo"}, options=quiet):
        pass
    with pytest.raises(UserError, match="did you mean 'heads-on-demo'"):
        find_run("best:heads-on-demos", store, tmp_path)


def test_failed_run_says_why_it_has_no_metrics(store: Store, experiment: str, quiet, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), track(store, experiment, "bad", options=quiet) as run:
        raise RuntimeError("out of memory")
    found = find_run(run.id, store, tmp_path)
    with pytest.raises(UserError, match=r"FAILED: RuntimeError: out of memory"):
        found.require_finished()
    with pytest.raises(UserError, match=r"has no predictions.parquet"):
        found.predictions()


def test_deleted_artifacts_name_where_they_were_sought(make: Make, store: Store, client, tmp_path: Path) -> None:
    run_id, folder = make("deleted")
    shutil.rmtree(folder)
    shutil.rmtree(Path(client.download_artifacts(run_id, "")))
    with pytest.raises(UserError, match="was deleted") as caught:
        find_run(run_id, store, tmp_path).config()
    assert str(folder) in caught.value.message


def test_metrics_survive_the_loss_of_both_copies(store, experiment, quiet, tmp_path: Path) -> None:
    with track(store, experiment, "only-mlflow", options=quiet) as run:
        run.summary({"test/roc_auc": 0.25})
    assert find_run(run.id, store, tmp_path).metrics() == {"test/roc_auc": 0.25}


def test_run_of_a_newer_version_is_refused(make: Make, tmp_path: Path) -> None:
    _, folder = make("newer")
    raw = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**raw, "format": FORMAT + 1}))
    with pytest.raises(UserError, match="newer version"):
        from_folder(folder).provenance()


def test_damaged_file_is_named(make: Make) -> None:
    _, folder = make("damaged")
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics.json is damaged"):
        from_folder(folder).metrics()


def test_folder_of_something_else_is_told(absent: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        find_run(str(tmp_path), absent, tmp_path)


def test_folder_without_metrics_never_finished(make: Make, tmp_path: Path) -> None:
    _, folder = make("half")
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="never finished"):
        from_folder(folder).require_finished()


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("resolved.yaml", b"", "config"),
        ("resolved.yaml", b"- 1\n", "config"),
        ("resolved.yaml", b"\xff\xfe\x00", "config"),
        ("overrides.yaml", b"a: 1\n", "overrides"),
        ("overrides.yaml", b"- [1]\n", "overrides"),
        ("provenance.json", b"[]", "provenance"),
        ("provenance.json", b'{"packages": 3}', "provenance"),
        ("provenance.json", b'{"format": "new"}', "provenance"),
        ("provenance.json", b'{"packages": {"deepfake-sweeps": "no.version"}}', "provenance"),
        ("metrics.json", b'{"metrics": {"test/f1": "high"}}', "metrics"),
        ("metrics.json", b'{"metrics": [1]}', "metrics"),
        ("metrics.json", b"[" * 100_000, "metrics"),
        ("history.json", b'{"a": 1}', "history"),
        ("calibration.json", b"[1, 2]", "calibration"),
        ("manifest.parquet", b"x", "manifest"),
        ("predictions.parquet", b"PAR1", "predictions"),
    ],
)
def test_a_damaged_file_is_named(make: Make, name: str, content: bytes, read: str) -> None:
    _, folder = make("broken")
    (folder / "resolved.yaml").write_text("name: broken\n")
    found = from_folder(folder)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        getattr(found, read)()


def test_a_table_without_what_is_needed_is_damaged(make: Make) -> None:
    _, folder = make("other")
    pd.DataFrame({"a": [1]}).to_parquet(folder / "predictions.parquet")
    with pytest.raises(UserError, match="no column sample_id, score"):
        from_folder(folder).predictions()


@pytest.fixture
def sweep(store: Store, experiment: str, quiet: TrackingOptions) -> str:
    """A sweep of two runs, the second begun first, and a run of its own beside them."""
    name = f"{experiment} sweep"
    with track(store, experiment, name, tags={"sweep": name}, options=quiet) as parent:
        for number in (1, 0):
            with track(
                store, experiment, f"run {number}", origin=Origin(parent.id), tags={"job": number}, options=quiet
            ) as run:
                run.summary({"test/f1": number / 2})
    with track(store, experiment, "alone", options=quiet):
        pass
    return name


def names(records: list) -> list[str]:
    return [record.name for record in records]


def test_a_sweeps_runs_come_in_the_order_of_their_numbers(sweep: str, store: Store, tmp_path: Path) -> None:
    assert names(sweep_runs(sweep, store, tmp_path)) == ["run 0", "run 1"]


def test_an_experiments_runs_leave_out_the_sweep_itself(sweep: str, store: Store, experiment: str, tmp_path) -> None:
    assert sorted(names(matching_runs(experiment, "", store, tmp_path))) == ["alone", "run 0", "run 1"]


def test_a_filter_chooses(sweep: str, store: Store, experiment: str, tmp_path: Path) -> None:
    assert names(matching_runs(experiment, "metrics.`test/f1` > 0.3", store, tmp_path)) == ["run 1"]


def test_a_filter_that_nothing_meets_says_what_there_is(sweep: str, store: Store, experiment: str, tmp_path) -> None:
    with pytest.raises(UserError, match="none of the 3 runs") as caught:
        matching_runs(experiment, "metrics.`test/f1` > 2", store, tmp_path)
    assert "alone, run 0, run 1" in caught.value.hint
    assert "test/f1" in caught.value.hint


def test_a_filter_that_cannot_be_read_is_told(sweep: str, store: Store, experiment: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the filter 'nonsense ='"):
        matching_runs(experiment, "nonsense =", store, tmp_path)


def test_an_unknown_experiment_names_the_nearest(sweep: str, store: Store, experiment: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean"):
        matching_runs(f"{experiment}x", "", store, tmp_path)


def test_without_a_store_a_sweeps_folders_are_read(tmp_path: Path) -> None:
    absent = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/absent.db"), tmp_path)
    for number in (10, 9):
        folder = tmp_path / "sweeps" / "mine" / str(number)
        folder.mkdir(parents=True)
        (folder / "resolved.yaml").write_text(f"name: run {number}\n")
    assert names(sweep_runs("mine", absent, tmp_path)) == ["run 9", "run 10"]
    with pytest.raises(UserError, match="there is no sweep 'yours'"):
        sweep_runs("yours", absent, tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        matching_runs(None, "", absent, tmp_path)
