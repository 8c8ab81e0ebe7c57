from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.select import matching_runs, sweep_runs
from deepfake.tracking.store import Store, locate


@pytest.fixture
def sweep(store: Store, experiment: str, quiet: TrackingOptions) -> str:
    """A sweep of two runs, the second begun first, and a run of its own beside them."""
    name = f"{experiment} sweep"
    with track(store, experiment, name, tags={"sweep": name}, options=quiet) as parent:
        for number in (1, 0):
            with track(
                store, experiment, f"run {number}", parent_run_id=parent.id, tags={"job": number}, options=quiet
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
