"""Workers that a launcher started, seen through their signs: no cluster is needed, only a launcher that keeps still."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from deepfake.errors import UserError
from deepfake.sweeping import launched
from deepfake.sweeping.grid import refusal_hint
from deepfake.sweeping.launched import Launched, signing
from deepfake.sweeping.owner import new_owner, process_identity


class Silent:
    """A launcher whose jobs never come back, as one that waits for a cancelled job."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.over = threading.Event()

    def launch(self, places: list[list[str]], initial_job_idx: int) -> list[Any]:
        self.numbers += range(initial_job_idx, initial_job_idx + len(places))
        self.over.wait(60)
        return []


class Refusing:
    """A launcher that cannot start anything."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, 0

    def launch(self, places: list[list[str]], initial_job_idx: int) -> list[Any]:
        self.asked += 1
        raise RuntimeError(self.text)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launched]:
    """``start(launcher, workers)`` gives workers on a study of four trials, none of which has ended."""
    monkeypatch.setattr(launched, "_NOTICE_SECONDS", 0.0)
    plan = SimpleNamespace(folder=tmp_path, total=4, fixed=[], name="s")
    study: Any = SimpleNamespace(owner={"token": "t"}, plan=plan, trials=list)
    runner: Any = SimpleNamespace(folder=tmp_path, config=OmegaConf.create({}), context=None)

    def begin(launcher: Any, workers: int) -> Launched:
        monkeypatch.setattr(launched, "create_launcher", lambda runner: launcher)
        monkeypatch.setattr(launched, "JobRunner", lambda *_: runner)
        return Launched(study, runner, workers, say=lambda text: None)

    return begin


def _sign(folder: Path, number: int, owner: dict[str, Any], ended: str | None = None) -> None:
    (folder / "workers").mkdir(exist_ok=True)
    sign = {"owner": {**owner, "heartbeat": 30}, "beat": 0, "ended": ended}
    (folder / "workers" / f"t-{number}.json").write_text(json.dumps(sign))


def _dead() -> dict[str, Any]:
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {**process_identity(gone.pid), "token": "x", "supervisor": None}
    gone.communicate()
    return owner


def test_a_worker_whose_process_is_gone_is_replaced_although_its_launcher_waits(
    start: Callable[..., Launched], tmp_path: Path
) -> None:
    launcher = Silent()
    with start(launcher, 2) as workers:
        _sign(tmp_path, 0, new_owner(None, 30))
        _sign(tmp_path, 1, _dead())
        workers.look_after(stopping=False)
        _wait(lambda: launcher.numbers == [0, 1, 2])
        assert not workers.is_idle()
    launcher.over.set()


def test_at_the_end_no_worker_is_replaced_and_none_that_never_began_is_waited_for(
    start: Callable[..., Launched], tmp_path: Path
) -> None:
    launcher = Silent()
    with start(launcher, 3) as workers:
        _sign(tmp_path, 0, new_owner(None, 30), ended="")
        _sign(tmp_path, 1, _dead())
        workers.look_after(stopping=True)
        assert workers.is_idle()
    assert launcher.numbers == [0, 1, 2]
    launcher.over.set()


def test_the_end_waits_for_workers_that_are_at_work(start: Callable[..., Launched], tmp_path: Path) -> None:
    launcher = Silent()
    with start(launcher, 1) as workers:
        _sign(tmp_path, 0, new_owner(None, 30))
        workers.look_after(stopping=True)
        assert not workers.is_idle()
    launcher.over.set()


def test_a_refusal_ends_it_at_once(start: Callable[..., Launched]) -> None:
    launcher = Refusing("sbatch: error: Invalid qos specification")
    with pytest.raises(UserError, match="Invalid qos") as caught, start(launcher, 2) as workers:
        _look_until_told(workers)
    assert "hydra.launcher.qos" in caught.value.hint
    assert launcher.asked == 1


def test_other_troubles_are_tried_again_a_few_times(start: Callable[..., Launched]) -> None:
    launcher = Refusing("the moon is wrong")
    with pytest.raises(UserError, match="the moon is wrong"), start(launcher, 2) as workers:
        _look_until_told(workers)
    assert launcher.asked == 3


def test_a_worker_signs_how_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "workers" / "a.json"
    with signing(file, new_owner(None, 30)):
        assert json.loads(file.read_text())["ended"] is None
    assert json.loads(file.read_text())["ended"] == ""
    with pytest.raises(ValueError, match="bad"), signing(file, new_owner(None, 30)):
        raise ValueError("bad")
    assert json.loads(file.read_text())["ended"] == "ValueError: bad"


def test_a_worker_gives_signs_of_life(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with signing(file, new_owner(None, 0.01)):
        _wait(lambda: json.loads(file.read_text())["beat"] > 1)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sbatch: error: Invalid generic resource (gres) specification", "gpus_per_node"),
        ("sbatch: error: invalid partition specified: gpu", "partition"),
        ("allocation failure: Requested node configuration is not available", "mem_gb"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "timeout_min"),
    ],
)
def test_what_a_cluster_refuses_has_a_key(text: str, key: str) -> None:
    hint = refusal_hint(RuntimeError(text))
    assert hint is not None
    assert key in hint


def test_other_errors_have_no_key() -> None:
    assert refusal_hint(RuntimeError("out of luck")) is None


def _look_until_told(workers: Launched) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers.look_after(stopping=False)
        time.sleep(0.01)


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)
