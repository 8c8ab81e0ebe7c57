"""Commands to a study from other terminals while its workers are killed: does everything agree afterwards?

The jobs train a number, and are tracked and paused as training is. Knows no data.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

EPOCHS, STUDY = 6, "s"
#: Seconds that an epoch takes, at least.
_EPOCH_SECONDS = 0.2


def commanded(config: DictConfig) -> dict[str, Any]:
    """A job that trains a number for six epochs and goes on from its checkpoint; notes when it trains each epoch."""
    from hydra.core.hydra_config import HydraConfig

    from deepfake.config import load_config
    from deepfake.runs.context import read_parent
    from deepfake.runs.train import ENDINGS
    from deepfake.sweeping.trial import Paused, Pruned, current
    from deepfake.tracking.run import Origin, track
    from deepfake.tracking.run_folder import CHECKPOINT, RunFolder
    from deepfake.tracking.store import locate

    run, trial = load_config(config), current()
    assert trial is not None
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    state = folder.path / CHECKPOINT
    state.parent.mkdir(parents=True, exist_ok=True)
    origin = Origin(read_parent(folder.path.parent), trial.identity.get("run_id"))
    tags = {"run_dir": str(folder.path)}
    with track(
        locate(run.tracking, run.outputs),
        STUDY,
        run.name,
        options=run.tracking,
        origin=origin,
        tags=tags,
        endings=ENDINGS,
    ) as log:
        trial.identify(run_id=log.id or "", run_dir=str(folder.path), name=run.name)
        rate = float(config.optimizer.lr)
        epoch, weight = json.loads(state.read_text()) if trial.attempt and state.exists() else (0, rate)
        while epoch < EPOCHS:
            began = time.time()
            time.sleep(_EPOCH_SECONDS)
            weight, epoch = trained(weight, epoch), epoch + 1
            with (folder.path.parent / "epochs").open("a") as notes:
                notes.write(f"{trial.number} {epoch} {began} {time.time()}\n")
            ending: Exception | None = None
            trial.hold()
            try:
                trial.report(epoch - 1, {"val/roc_auc": rate}, more=epoch < EPOCHS)
            except Paused as paused:
                ending = paused
            except Pruned:
                folder.end()
                raise
            half = state.with_suffix(".tmp")
            half.write_text(json.dumps([epoch, weight]))
            half.replace(state)
            if ending is not None:
                raise ending
        folder.end()
        log.summary({"val/roc_auc": rate})
    return {"metrics": {"val/roc_auc": rate, "weight": weight}, "run_id": log.id, "run_dir": str(folder.path)}


def trained(weight: float, epoch: int) -> float:
    """What an epoch makes of the number; no other course ends there."""
    return float((weight * 1664525 + 1013904223 + epoch) % 1.0)


def send(folder: Path, seed: int, count: int) -> None:
    """Be a terminal that gives so many random commands; prints what became of each as it was given."""
    from deepfake.errors import UserError
    from deepfake.hydra_app import compose_run
    from deepfake.runs.sweep_control import command, open_study
    from deepfake.tracking.store import locate

    draw = random.Random(seed)
    config = compose_run([])
    store = locate(config.tracking, config.outputs)
    told: Counter[str] = Counter()
    while sum(told.values()) < count:
        _let_some_pass(folder / "epochs", draw)
        trial = _some_trial(folder, draw)
        rate = f"optimizer.lr={draw.uniform(0.1, 0.9):.4f}"
        words = draw.choices(
            [
                ["pause", trial],
                ["resume", trial],
                ["stop", trial],
                ["add", rate],
                ["add", f"like={trial}", rate],
                ["workers", str(draw.randint(1, 3))],
                ["retry", "failed"],
                ["stop"],
            ],
            weights=[8, 8, 3, 2, 1, 2, 1, 0.3],
        )[0]
        with contextlib.suppress(FileNotFoundError):
            study = open_study(folder, None)
            if study is None:
                continue
            try:
                command(study, words, store, folder)
                told["entered"] += 1
            except UserError as error:
                told["refused"] += 1
                print(" ".join(words), "->", error.message, file=sys.stderr, flush=True)
    print(json.dumps(told), flush=True)


def _some_trial(folder: Path, draw: random.Random) -> str:
    """Four times in five one that runs or is paused, so that there is something to do with it; else any number."""
    trials = _trials(folder) or []
    living = [trial.number for trial in trials if trial.state.name == "RUNNING"]
    return str(draw.choice(living) if living and draw.random() < 0.8 else draw.randrange(len(trials) + 2))


def _let_some_pass(epochs: Path, draw: random.Random) -> None:
    """Wait until an epoch or two have been trained, so that commands come all along a study; not for long."""
    before = epochs.stat().st_size if epochs.exists() else 0
    deadline, more = time.monotonic() + 10, draw.choice([1, 20, 60])
    while time.monotonic() < deadline and (epochs.stat().st_size if epochs.exists() else 0) < before + more:
        time.sleep(0.05)


def commands(
    start: Callable[..., subprocess.Popen[bytes]], number: int = 200, kills: int = 20, trials: int = 60, seed: int = 0
) -> dict[str, Any]:
    """Random commands from two terminals, and kill -9 of workers and now and then of all, until the study is finished.

    Args:
        start: Begins a job's sweep in a process of its own; see :func:`benchmarks.sweep.start`.
        number: How many commands are given, by two processes.
        kills: How many processes are killed.
        trials: How many the study is to have, beside those that are added.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        outputs = Path(name)
        folder = outputs / "sweeps" / STUDY
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": name, "OMP_NUM_THREADS": "1"}

        def begin(total: int) -> subprocess.Popen[bytes]:
            words = ["-m", "optimizer.lr=interval(0.1,0.9)", f"sweep.name={STUDY}", f"sweep.n_trials={total}"]
            words += ["sampler=random", "sweep.n_jobs=2", "sweep.retries=1000", "tracking.system_metrics=false"]
            return start("commanded", outputs, *words)

        total, resumed = trials, 0
        sweep = begin(total)
        _wait(lambda: _trials(folder) is not None or sweep.poll() is not None)
        asking = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.commanding", str(folder), str(seed + place), str(number // 2)],
                env=environment,
                stdout=subprocess.PIPE,
            )
            for place in range(2)
        ]
        killed = 0
        while killed < kills or any(one.poll() is None for one in asking):
            time.sleep(draw.uniform(0.5, 3.0))
            if sweep.poll() is not None:
                # It is over, or was stopped: then it goes on, with as many trials again.
                total += trials if _is_over(folder) else 0
                sweep = begin(total)
            elif killed < kills and _kill_one(sweep, draw):
                killed += 1
        told = [json.loads(one.communicate()[0]) for one in asking]
        for _ in range(20):
            # Whoever was paused goes on; whoever was added gets room.
            sweep.wait()
            resumed += _resume_all(folder)
            total = max(total, len(_trials(folder) or []))
            sweep = begin(total)
            sweep.wait()
            if _is_over(folder):
                break
        found = _disagreements(outputs, folder)
    entered = sum(one.get("entered", 0) for one in told)
    refused = sum(one.get("refused", 0) for one in told)
    result = {"entered": entered, "refused_at_once": refused, "killed": killed, **found}
    wrong = found["disagreements"]
    result["reached"] = not wrong and found["commands"] == entered + resumed and entered + refused == number
    return result


def _kill_one(sweep: subprocess.Popen[bytes], draw: random.Random) -> bool:
    import psutil

    try:
        workers = psutil.Process(sweep.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    # One time in five the terminal itself, whose workers then let go of what they run.
    victims = [sweep.pid] if draw.random() < 0.2 else [one.pid for one in workers]
    if not victims:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(victims), 9)
        return True
    return False


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.2)


def _control(folder: Path) -> Any:
    from deepfake.runs.sweep_control import open_study

    return open_study(folder, None)


def _trials(folder: Path) -> list[Any] | None:
    from deepfake.errors import UserError

    with contextlib.suppress(UserError, FileNotFoundError, KeyError):
        study = _control(folder)
        found = study.trials() if study is not None else []
        return found or None
    return None


def _resume_all(folder: Path) -> int:
    from deepfake.sweeping.facts import is_held

    held = [trial.number for trial in _control(folder).trials() if is_held(trial)]
    for number in held:
        _control(folder).resume(number)
    return len(held)


def _is_over(folder: Path) -> bool:
    return all(trial.state.is_finished() for trial in _control(folder).trials())


def _disagreements(outputs: Path, folder: Path) -> dict[str, Any]:
    """What the study, MLflow, the disk, the table and what was run do not say alike."""
    import csv

    from mlflow import MlflowClient

    from deepfake.sweeping.commands import PENDING
    from deepfake.sweeping.facts import steps_of
    from deepfake.sweeping.status import status_of
    from deepfake.tracking.run_folder import CHECKPOINT

    study = _control(folder)
    trials, status = study.trials(), status_of(study)
    wrong: list[str] = []
    epochs: dict[int, list[tuple[int, float, float]]] = {}
    for line in (folder / "epochs").read_text().splitlines():
        number, epoch, began, ended = line.split()
        epochs.setdefault(int(number), []).append((int(epoch), float(began), float(ended)))
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    table = {int(row["trial"]): row for row in csv.DictReader((folder / "trials.csv").open())}
    for trial in trials:
        number, state = trial.number, trial.state.name
        spans = sorted(epochs.get(number, []), key=lambda one: one[1])
        if any(later[1] < earlier[2] for earlier, later in itertools.pairwise(spans)):
            wrong.append(f"trial {number} was run by two at once")
        most = max((epoch for epoch, _, _ in spans), default=0)
        if not steps_of(trial) <= most <= steps_of(trial) + 1:
            wrong.append(f"trial {number} says {steps_of(trial)} epochs, and {most} were run")
        if state == "COMPLETE":
            weight = trial.params["optimizer.lr"]
            for done in range(EPOCHS):
                weight = trained(weight, done)
            if trial.user_attrs["metrics"]["weight"] != weight or most != EPOCHS:
                wrong.append(f"trial {number} did not come out as uninterrupted")
        word = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}.get(state)
        if word is None or table.get(number, {}).get("status") != word:
            wrong.append(f"trial {number} is {state}, and the table says {table.get(number, {}).get('status')}")
        if run_id := trial.user_attrs.get("run_id"):
            run = client.get_run(run_id)
            said = "pruned" if "pruned" in run.data.tags else run.info.status
            if said != {"COMPLETE": "FINISHED", "PRUNED": "pruned", "FAIL": "FAILED"}.get(state):
                wrong.append(f"trial {number} is {state}, and MLflow says {said}")
        place = trial.user_attrs.get("run_dir")
        if place and trial.state.is_finished() and (Path(place) / CHECKPOINT).exists():
            wrong.append(f"trial {number} is {state}, and its checkpoint is left")
    wrong += [f"command {one.number} ({one}) is pending" for one in status.commands if one.status == PENDING]
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    lost = [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    wrong += [f"{len(lost)} runs are left running"] if lost else []
    return {
        "trials": len(trials),
        "states": dict(Counter(trial.state.name for trial in trials)),
        "commands": len(status.commands),
        "became": dict(Counter(one.status for one in status.commands)),
        "words": dict(Counter(one.word for one in status.commands)),
        "disagreements": wrong,
    }


if __name__ == "__main__":
    send(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
