"""A Hydra app of a few lines, run inside the test's process."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from deepfake.sweeping.callbacks import COMPLETED, Job, Objective, SweepInfo, SweepResult
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.search_space import parse_space
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import Paused, current

CONF = Path(__file__).parent / "toy_conf"
HEARD: list[tuple[str, Any]] = []
#: The numbers of the jobs that were told to have been beaten.
BEATEN: list[int] = []
#: Seconds that tests wait for what other processes do.
PATIENCE = 60.0
#: Not empty once this process's pretended device is lost for good.
BROKEN: list[int] = []


def make_plan(folder: Path, **given: Any) -> StudyPlan:
    """A plan for two random trials over ``x``, but for what is given."""
    space = given.pop("space", {"x": "interval(0,1)"})
    settings: dict[str, Any] = {
        "name": "s",
        "folder": folder,
        "location": locate("journal", folder),
        "parameters": parse_space(space, [], {}),
        "objectives": [Objective("m")],
        "fixed": [],
        "total": 2,
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
    }
    return StudyPlan(**{**settings, **given})


def opened(plan: StudyPlan) -> Claims:
    """The study, as one more process opens it."""
    return Claims(Study(plan))


def claimed(claims: Claims) -> Claim:
    """The next trial, which there is."""
    claim = claims.claim()
    assert claim is not None
    return claim


def completed(claim: Claim, value: float = 1.0) -> Job:
    """What a trial came to."""
    return Job(claim.number, claim.overrides, COMPLETED, metrics={"m": value}, values=[value])


class Away:
    """A study's storage that does not answer a report until ``back`` is set."""

    def __init__(self, claims: Claims, monkeypatch: Any) -> None:
        self.asked, self.back = threading.Event(), threading.Event()
        usual: Callable[..., bool] = claims.report

        def report(*arguments: Any) -> bool:
            self.asked.set()
            assert self.back.wait(30)
            return usual(*arguments)

        monkeypatch.setattr(claims, "report", report)
        monkeypatch.setattr("deepfake.sweeping.agent._ANSWER_SECONDS", 0.01)


class Listener:
    """Notes in HEARD what it is told."""

    def __init__(self, config: DictConfig) -> None:
        HEARD.clear()

    def check(self, config: DictConfig) -> None:
        """Anything goes."""

    def sweep_started(self, info: SweepInfo) -> None:
        HEARD.append(("start", info))

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        HEARD.append(("job", job))

    def jobs_beaten(self, info: SweepInfo, jobs: Sequence[Job]) -> None:
        BEATEN.extend(job.number for job in jobs)

    def sweep_finished(self, result: SweepResult) -> None:
        HEARD.append(("end", result))


def task(config: DictConfig) -> dict[str, Any]:
    """Score best at x = 1; a wide model helps a little; reports every epoch."""
    if config.fail:
        raise ValueError("asked to fail")
    score = 1.0 - (config.x - 1.0) ** 2
    trial = current()
    if trial is not None and config.block == trial.number:
        _block(Path(config.folder))
    if trial is not None and config.lose == trial.number:
        if config.lost_by == "exit":
            raise SystemExit(2)
        BROKEN.append(trial.number)
    if BROKEN:
        _lose(config.sticky)
    for epoch in range(config.epochs):
        if trial is not None:
            trial.report(epoch, {"score": score * (epoch + 1) / config.epochs})
    return {"run_id": "r", "run_dir": "d", "name": "toy", "status": "completed", "metrics": {"score": score}}


def resumable(config: DictConfig) -> dict[str, Any]:
    """Trains a number for ``epochs`` epochs, and goes on from the file in which it keeps it; notes what it trains.

    Its score is ``x``, but for a little.
    """
    trial = current()
    assert trial is not None
    file = Path(config.folder) / f"state-{trial.number}.json"
    epoch, weight = 0, float(config.x)
    if trial.attempt and file.exists():
        epoch, weight = json.loads(file.read_text())
    while epoch < config.epochs:
        time.sleep(float(config.lr) if config.batch == 0 else 0.0)
        with (Path(config.folder) / "trained").open("a") as log:
            log.write(f"{trial.number} {epoch}\n")
        weight = trained_further(weight, epoch)
        epoch += 1
        paused = None
        try:
            trial.report(epoch - 1, {"score": config.x + weight / 100}, more=epoch < config.epochs)
        except Paused as waits:
            paused = waits
        half = file.with_name(f"{file.name}.{os.getpid()}")
        half.write_text(json.dumps([epoch, weight]))
        half.replace(file)
        if paused is not None:
            raise paused
    return {"metrics": {"score": config.x, "weight": weight}}


def trained_further(weight: float, epoch: int) -> float:
    """What an epoch makes of the number that :func:`resumable` trains; chaotic, so that no other course ends there."""
    return math.sin(100 * weight + epoch)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds, which it does in the end."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def blocked(folder: Path) -> int:
    """The process that waits inside the blocked trial."""
    wait_for((folder / "blocked").exists)
    return int((folder / "blocked").read_text())


def _lose(sticky: bool) -> None:
    if not sticky:
        BROKEN.clear()
    raise RuntimeError("CUDA error: device-side assert triggered")


def _block(folder: Path) -> None:
    """Say which process is here and stay until the file ``go`` appears."""
    partial = folder / ".blocked"
    partial.write_text(str(os.getpid()))
    partial.replace(folder / "blocked")
    while not (folder / "go").exists():
        time.sleep(0.01)


def search_path(conf: Path = CONF) -> ConfigSearchPathImpl:
    """The toy's configs, with what plugins add."""
    path = create_config_search_path(str(conf))
    assert isinstance(path, ConfigSearchPathImpl)
    return path


def multirun(
    folder: Path, overrides: Sequence[str], function: Callable[[DictConfig], Any] = task, conf: Path = CONF
) -> Any:
    """``python toy.py -m <overrides>``; returns how the sweep ended, or of an unheard grid what its jobs returned."""
    version.setbase("1.3")
    setup_globals()
    HEARD.clear()
    BEATEN.clear()
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2("toy", search_path(conf))
        observed = f"hydra.sweeper.observer={__name__}.Listener"
        is_toy = (conf / "toy.yaml").exists()
        place = f"folder={folder}" if is_toy else f"paths.outputs={folder}"
        arguments = [place, "hydra.mode=MULTIRUN", observed, *overrides]
        name = "toy" if is_toy else "train"
        returned = hydra.multirun(config_name=name, task_function=function, overrides=arguments)
        return HEARD[-1][1] if isinstance(returned, list) and HEARD else returned
    finally:
        GlobalHydra.instance().clear()


if __name__ == "__main__":
    # What a script starts in the background ignores Ctrl-C, the tests and all that they start among it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A fresh import under its own name, by which workers and observers know it.
    from deepfake.sweeping import runner
    from tests.sweeping import toy  # noqa: PLW0406

    # Drawing takes longer than everything else.
    runner.draw_study = lambda *_: []
    toy.multirun(Path(sys.argv[1]), sys.argv[2:], getattr(toy, os.environ.get("TOY_TASK", "task")))
