"""Sweeps listed, shown and deleted whole, however far an earlier deletion came; and nothing else with them."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepfake.cli import main
from deepfake.errors import UserError
from deepfake.presence import at_work
from deepfake.runs.context import write_parent
from deepfake.sweeping.storage import locate as locate_study
from deepfake.sweeping.sweeper import at_work_on
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import Origin, track
from deepfake.tracking.run_folder import RESOLVED, UNFINISHED, WEIGHTS, RunFolder
from deepfake.tracking.store import Store, connect, local_folder, locate
from tests.sweeping import toy

QUIET = TrackingOptions(system_metrics=False)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: making its tables takes seconds."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(autouse=True)
def _there(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def store(outputs: Path) -> Store:
    return locate(TrackingOptions(), outputs)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:60]


@pytest.fixture
def make(outputs: Path, store: Store, name: str) -> Callable[..., Path]:
    """A sweep of that many runs: study, folder, runs in MLflow with weights among their artifacts."""

    def make(name: str = name, runs: int = 2, storage: str = "journal", ended: bool = True) -> Path:
        folder = outputs / "sweeps" / name
        claims = toy.opened(toy.make_plan(folder, name=name, total=runs, location=locate_study(storage, folder)))
        tags = {"sweep": name, "sweep.folder": str(folder)}
        with track(store, name, f"sweep {name}", folder=folder, tags=tags, options=QUIET) as parent:
            write_parent(folder, parent.id, [])
            for number in range(runs):
                run = RunFolder(folder / str(number))
                (run.path / RESOLVED).write_text("name: run\n")
                run.best_weights.parent.mkdir()
                run.best_weights.write_bytes(os.urandom(1 << 16))
                claim = toy.claimed(claims)
                own = {"run_dir": run.path, "job": number}
                origin = Origin(parent.id)
                with track(
                    store, name, f"run {number}", folder=run.path, tags=own, options=QUIET, origin=origin
                ) as log:
                    log.folder(run.path, skip=UNFINISHED)
                claims.finish(claim, toy.completed(claim))
        if not ended:
            toy.claimed(toy.opened(toy.make_plan(folder, name=name, total=runs + 1)))
        return folder

    return make


def delete(name: str, *words: str) -> int:
    return main(["sweep", name, "--delete", "--yes", *words])


def runs_left(store: Store, name: str) -> list[Any]:
    from mlflow.entities import ViewType

    client = connect(store)
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL))


def artifacts_left(store: Store, name: str) -> list[Path]:
    place = local_folder(connect(store).get_experiment_by_name(name).artifact_location)
    assert place is not None
    return [path for path in place.rglob("*") if path.is_file()]


def test_all_of_it_goes_and_nothing_else(
    make: Callable[..., Path], store: Store, name: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = make(), make(f"{name}_other", runs=1)
    assert delete(name) == 0
    said = capsys.readouterr().out
    assert f"sweep {name}, 0." in said
    assert "with 2 run folders" in said
    assert "3 runs in sqlite" in said
    assert f"study {name} in {folder / 'study.journal'}" in said
    assert f"sweep {name} is deleted" in said
    assert not folder.exists()
    assert runs_left(store, name) == []
    assert artifacts_left(store, name) == []
    assert (other / "0" / WEIGHTS).is_file()
    assert len(runs_left(store, f"{name}_other")) == 2


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "there"), [("n", True), ("", True), ("y", False)])
def test_it_is_asked_for_first(
    make: Callable[..., Path], name: str, answer: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(runs=1)
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    assert main(["sweep", name, "--delete"]) == 0
    assert folder.is_dir() == there


def test_where_nobody_can_be_asked_nothing_goes(
    make: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(runs=1)
    assert main(["sweep", name, "--delete"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert folder.is_dir()


def test_it_is_shown_and_listed(make: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(runs=1)
    assert main(["sweep", name]) == 0
    assert f"{folder}, with 1 run folder" in capsys.readouterr().out
    assert main(["sweep"]) == 0
    assert name[:20] in capsys.readouterr().out
    assert main(["sweep", str(folder)]) == 0


def test_who_works_on_it_is_named(make: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(runs=1, ended=False)
    assert delete(name) == 2
    assert f"sweep {name} is at work: process {os.getpid()}" in capsys.readouterr().err
    assert (folder / "0" / WEIGHTS).is_file()


def test_so_is_a_process_between_two_trials(
    make: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(runs=1)
    with at_work(folder):
        assert delete(name) == 2
    assert "is at work" in capsys.readouterr().err
    assert delete(name) == 0


def test_what_refers_to_its_weights_keeps_it(
    make: Callable[..., Path], name: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(runs=1)
    ensemble = RunFolder(outputs / "runs" / f"joined_{name}")
    member = {"name": "run", "run_id": None, "folder": str(folder / "0"), "weights": "", "metrics": {}}
    ensemble.write_members({"format": 1, "members": [member]})
    assert delete(name) == 2
    assert f"the ensemble joined_{name}" in capsys.readouterr().err
    assert (folder / "0" / WEIGHTS).is_file()
    shutil.rmtree(ensemble.path)
    assert delete(name) == 0


@pytest.mark.parametrize(
    "where",
    [
        "deepfake.runs.sweep_removal.write_json",
        "deepfake.tracking.sweep_runs.remove_run",
        "deepfake.tracking.removal.purge_run",
        "deepfake.runs.sweep_removal.remove",
    ],
)
@pytest.mark.parametrize("calls", [0, 1])
def test_what_is_cut_short_the_same_command_finishes(
    make: Callable[..., Path], store: Store, name: str, where: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make()
    _killed_in(where, calls, lambda: delete(name))
    if folder.is_dir() and (folder / "deleting.json").is_file():
        with pytest.raises(UserError, match="cut short"), at_work_on(folder):
            pass
    if folder.is_dir():
        assert delete(name) == 0
    assert not folder.exists()
    assert [run for run in runs_left(store, name) if run.info.lifecycle_stage == "active"] == []
    assert artifacts_left(store, name) == []


def _killed_in(where: str, calls: int, action: Callable[[], object]) -> None:
    """Do something in a process that is killed outright in one of the calls of a function."""

    def child() -> None:
        import importlib

        module, _, function = where.rpartition(".")
        home = importlib.import_module(module)
        usual, count = getattr(home, function), [0]

        def counted(*arguments: Any, **named: Any) -> Any:
            if count[0] == calls:
                os.kill(os.getpid(), 9)
            count[0] += 1
            return usual(*arguments, **named)

        setattr(home, function, counted)
        action()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()


def test_two_at_once_delete_it_once(make: Callable[..., Path], store: Store, name: str) -> None:
    folder = make()
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=lambda: os._exit(delete(name))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert 0 in [one.exitcode for one in both]
    assert not folder.exists()
    assert artifacts_left(store, name) == []


def test_a_link_in_the_place_of_its_folder_is_refused(
    make: Callable[..., Path], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(runs=1)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert delete(name) == 2
    assert "is a link, or lies outside" in capsys.readouterr().err
    assert (tmp_path / "moved" / "0" / WEIGHTS).is_file()
    folder.unlink()


@pytest.mark.parametrize("reference", ["..", ".", "/etc", "../.."])
def test_nothing_outside_is_a_sweep(reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert delete(reference) == 2
    assert "error:" in capsys.readouterr().err


def test_links_in_it_go_and_what_they_lead_to_stays(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    folder = make(runs=1)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    (folder / "linked").symlink_to(tmp_path / "theirs")
    (folder / "0" / "linked").symlink_to(tmp_path / "theirs" / "file")
    assert delete(name) == 0
    assert not folder.exists()
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"


def test_a_sweep_of_that_name_with_another_folder_stays(
    make: Callable[..., Path], name: str, store: Store, tmp_path: Path
) -> None:
    make(runs=1)
    tags = {"sweep": name, "sweep.folder": str(tmp_path / "theirs" / name)}
    with track(store, name, "theirs", tags=tags, options=QUIET) as theirs:
        pass
    assert delete(name) == 0
    assert [run.info.run_id for run in runs_left(store, name)] == [theirs.id]


@pytest.mark.parametrize("gone", ["folder", "parent", "runs"])
def test_what_is_left_of_it_goes(make: Callable[..., Path], name: str, store: Store, gone: str) -> None:
    folder = make(runs=1)
    if gone == "folder":
        shutil.rmtree(folder)
    else:
        client = connect(store)
        for run in runs_left(store, name):
            if gone == "runs" or "mlflow.parentRunId" not in run.data.tags:
                client.delete_run(run.info.run_id)
    assert delete(name) == 0
    assert not folder.exists()
    assert [run for run in runs_left(store, name) if run.info.lifecycle_stage == "active"] == []


def test_a_shared_storage_keeps_other_studies(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    import optuna

    from deepfake.sweeping.storage import open_storage

    shared = tmp_path / "shared.journal"
    make(runs=1, storage=str(shared))
    make(f"{name}_other", runs=1, storage=str(shared))
    assert delete(name) == 0
    assert optuna.get_all_study_names(open_storage(locate_study(str(shared), tmp_path))) == [f"{name}_other"]


def test_artifacts_that_cannot_be_deleted_are_told(
    make: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepfake.tracking.removal import LeftError

    folder = make(runs=1)

    def refuse(*arguments: object) -> int:
        raise LeftError("s3://bucket is left: it does not delete")

    monkeypatch.setattr("deepfake.tracking.removal.remove_artifacts", refuse)
    assert delete(name) == 3
    assert "s3://bucket is left" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing_like_it"], "there is no sweep"),
        (["--delete"], "--delete names no sweep"),
        (["a", "b"], "nothing that can be done"),
        (["a", "--yes"], "--yes means nothing without --delete"),
        (["a", "optimizer.lr=1"], "says nothing of where"),
    ],
)
def test_mistakes_are_told_in_two_lines(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "hint:" in error


def test_the_size_is_what_is_freed(make: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(runs=2)
    assert delete(name) == 0
    told, freed = re.findall(r"([\d.]+) MB (?:on disk|freed)", capsys.readouterr().out)
    assert float(freed) == pytest.approx(float(told), abs=0.1)


def test_a_sweep_that_lies_elsewhere_is_shown_and_not_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = toy.opened(toy.make_plan(tmp_path / "elsewhere", name="elsewhere"))
    claims.finish(claim := toy.claimed(claims), toy.completed(claim, 0.25))
    assert main(["sweep", f"{tmp_path}/elsewhere"]) == 0
    assert "best: m 0.25 (trial 0)" in capsys.readouterr().out
    assert delete(f"{tmp_path}/elsewhere") != 0
    assert "lies outside of" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "study.journal").exists()
