"""What a sweep costs beyond training, and what it survives; prints ratios measured in one run.

    python -m benchmarks.sweep               all figures but the long ones, some ten minutes
    python -m benchmarks.sweep promotion --keep FOLDER   keeps its sweeps there, and goes on with those it finds
    python -m benchmarks.sweep cost kills    these alone: cost, layer, workers, start, kills, kills2, disk, repeats,
                                             across, ordered (a quarter of an hour), commands, pruning and
                                             promotion (half an hour each)

Results are kept in benchmarks/results/sweep.json. Needs no data and no network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from benchmarks.commanding import commanded, commands

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sweep.json"
SECONDS = (1.0, 1.0, 1.0, 8.0)
NOTHING_HEARD = "hydra.sweeper.observer=null"
#: Seconds that a trial of :func:`curve` takes on average.
PACE = "BENCHMARK_TRIAL_SECONDS"
#: Set where each trial is to take as long in every run.
PACES = "BENCHMARK_TRIAL_SECONDS_BY_NUMBER"


# ---- the jobs that are swept -----------------------------------------------------------------------------------


def nothing(config: DictConfig) -> dict[str, Any]:
    """A job that does nothing."""
    return {"metrics": {"val/roc_auc": 0.5}}


def tracked(config: DictConfig) -> dict[str, Any]:
    """A job that trains nothing but is tracked as every run is: parameters, an epoch, a summary."""
    from deepfake.config import flatten, load_config, to_plain
    from deepfake.tracking.run import track
    from deepfake.tracking.store import locate

    run = load_config(config)
    with track(locate(run.tracking, run.outputs), "cost", run.name, options=run.tracking) as log:
        log.params(flatten(to_plain(config)))
        log.epoch(0, {"train/loss": 0.7, "val/loss": 0.7, "val/roc_auc": 0.5})
        log.summary({"val/roc_auc": 0.5})
    return {"metrics": {"val/roc_auc": 0.5}, "run_id": log.id}


def everything(config: DictConfig) -> dict[str, Any]:
    """The same after importing all that training imports."""
    import deepfake.models.detector
    import deepfake.runs.build
    import deepfake.training.trainer  # noqa: F401

    return tracked(config)


def unequal(config: DictConfig) -> dict[str, Any]:
    """A job that takes 1, 1, 1 or 8 seconds, by its trial's number."""
    from deepfake.sweeping.trial import current

    trial = current()
    time.sleep(SECONDS[trial.number % len(SECONDS)] if trial else 0.0)
    return {"metrics": {"val/roc_auc": 0.5}}


def brief(config: DictConfig) -> dict[str, Any]:
    """A job of a third of a second that reports three epochs."""
    from deepfake.sweeping.trial import current

    trial = current()
    for epoch in range(3):
        time.sleep(0.1)
        if trial is not None:
            trial.report(epoch, {"val/roc_auc": float(config.optimizer.lr)})
    return {"metrics": {"val/roc_auc": float(config.optimizer.lr)}}


def curve(config: DictConfig) -> dict[str, Any]:
    """A job whose reports depend on its point alone, and whose pace on chance.

    A trial takes as long on average as ``PACE`` says in the environment, and the logarithm of that spreads by a half.
    """
    from benchmarks.simulation import value_at
    from deepfake.sweeping.trial import current

    trial, epochs = current(), int(config.trainer.epochs)
    point = {"x": float(config.optimizer.lr), "y": str(config.optimizer.weight_decay)}
    draw = random.Random(trial.number) if trial is not None and PACES in os.environ else random.SystemRandom()
    pace = draw.lognormvariate(-0.125, 0.5) * float(os.environ[PACE]) / epochs
    value = 0.0
    for epoch in range(epochs):
        time.sleep(pace)
        value = value_at(point, epoch + 1, epochs)
        if trial is not None:
            trial.report(epoch, {"val/roc_auc": value})
    return {"metrics": {"val/roc_auc": value}}


JOBS: dict[str, Callable[[DictConfig], dict[str, Any]]] = {
    job.__name__: job for job in (nothing, tracked, everything, unequal, brief, curve, commanded)
}


def serve(job: str, overrides: list[str]) -> None:
    """Run one of the jobs with the project's config, as ``train.py -m`` runs training."""
    import hydra

    from deepfake.hydra_app import register_resolvers

    register_resolvers()
    sys.argv[1:] = overrides
    hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")(JOBS[job])()


# ---- measuring -------------------------------------------------------------------------------------------------


def command(job: str, *overrides: str) -> list[str]:
    """The command that runs a job in a fresh process."""
    return [sys.executable, "-m", "benchmarks.sweep", "--serve", job, *overrides]


def start(job: str, outputs: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """Start it, its words thrown away."""
    environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    log = (outputs / f"log-{time.monotonic_ns()}.txt").open("wb")
    return subprocess.Popen(command(job, *overrides), cwd=ROOT, env=environment, stdout=log, stderr=log)


def cpu_seconds(job: str, outputs: Path, *overrides: str) -> float:
    """The CPU time of one run of it, children included."""
    process = start(job, outputs, *overrides)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{job} {overrides} ended with {status}:\n{_logs(outputs)}")
    return usage.ru_utime + usage.ru_stime


def per_job(job: str, outputs: Path, few: int, many: int, *overrides: str) -> float:
    """The CPU time one more job adds to a sweep, start-up cancelled out."""
    spent = {n: cpu_seconds(job, outputs, "-m", f"seed=range(0,{n})", *overrides) for n in (few, many)}
    return (spent[many] - spent[few]) / (many - few)


def cost(rounds: int = 3) -> dict[str, Any]:
    """CPU time per trial beyond training."""
    seen: dict[str, list[float]] = {"hydra": [], "ours": [], "fresh": []}
    # No sampling thread: it costs by the second, not by the job.
    quiet = (NOTHING_HEARD, "tracking.system_metrics=false")
    study = ("sweep.n_trials=1000", "sampler=grid", *quiet)
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        # Making the tracking store costs seconds, once.
        cpu_seconds("everything", outputs, "-m", "seed=0", *quiet)
        for _ in range(rounds):
            seen["hydra"].append(per_job("nothing", outputs, 2, 22, "hydra/sweeper=basic"))
            shutil.rmtree(outputs / "sweeps")
            seen["ours"].append(per_job("tracked", outputs, 2, 22, *study))
            seen["fresh"].append(cpu_seconds("everything", outputs, "-m", "seed=0", *quiet))
    middle = {name: statistics.median(values) for name, values in seen.items()}
    return {
        "hydra_noop_job_cpu_s": middle["hydra"],
        "our_tracked_trial_cpu_s": middle["ours"],
        "fresh_process_cpu_s": middle["fresh"],
        "limit_cpu_s": 1.5 * middle["hydra"] + 0.15,
        "fresh_over_ours": middle["fresh"] / middle["ours"],
        "reached": middle["ours"] <= 1.5 * middle["hydra"] + 0.15 and middle["fresh"] / middle["ours"] >= 15,
    }


def layer(trials: int = 2000, tpe_trials: int = 500) -> dict[str, Any]:
    """What the study layer costs for a trial that does nothing, over plain Optuna's ask, report and tell.

    Claim, name the run, three epochs with successive halving, forty metrics at the end; a journal each, taken in turns.
    The ratios are of CPU time, which others on the machine do not change.
    """
    seen = {name: _layer(name, count) for name, count in (("random", trials), ("tpe", tpe_trials))}
    result: dict[str, Any] = {}
    for name, rows in seen.items():
        ours, plain = ([row[side] for row in rows] for side in ("ours", "plain"))
        result |= {
            f"{name}_cpu_ms": [1000 * statistics.fmean(ours), 1000 * statistics.fmean(plain)],
            f"{name}_over_plain": sum(ours) / sum(plain),
            f"{name}_over_plain_by_quarter": [sum(ours[a:b]) / sum(plain[a:b]) for a, b in _quarters(len(rows))],
            f"{name}_wall_over_plain": sum(row["ours_wall"] for row in rows) / sum(row["plain_wall"] for row in rows),
        }
    result["reached"] = max(result["random_over_plain"], result["tpe_over_plain"]) <= 1.2
    return result


def _quarters(count: int) -> list[tuple[int, int]]:
    return [(count * part // 4, count * (part + 1) // 4) for part in range(4)]


def _layer(sampler: str, trials: int, block: int = 25, storage: str = "journal") -> list[dict[str, float]]:
    """Seconds a trial of each block, of CPU and of wall time, by both."""
    import optuna

    from deepfake.sweeping.callbacks import Objective
    from deepfake.sweeping.claims import Claims
    from deepfake.sweeping.samplers import create_pruner, create_sampler
    from deepfake.sweeping.search_space import Parameter
    from deepfake.sweeping.storage import locate, open_storage
    from deepfake.sweeping.study import Study
    from deepfake.sweeping.study_plan import StudyPlan

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rate, share = (
        optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
        optuna.distributions.FloatDistribution(0, 1),
    )
    sizes = optuna.distributions.CategoricalDistribution([16, 32, 48, 64])
    space = [Parameter("lr", "", rate), Parameter("wd", "", share), Parameter("bs", "", sizes)]
    settings: dict[str, Any] = {"name": sampler}
    if sampler == "tpe":
        settings |= {"multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": 10}
    pruner = {"name": "asha", "min_resource": 1, "reduction_factor": 2}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder) / "ours", Path(folder) / "plain"
        plan = StudyPlan("s", ours, locate(storage, ours), space, [Objective("m")], [], trials, settings, pruner)
        claims = Claims(Study(plan))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = optuna.create_study(
                storage=open_storage(locate(storage, plain)),
                study_name="s",
                sampler=create_sampler(settings, space, 0, 0),
                pruner=create_pruner(pruner),
                direction="maximize",
            )
            for _ in range(trials // block):
                row = {}
                for name, run in (
                    ("ours", partial(_our_trial, claims)),
                    ("plain", partial(_plain_trial, other, space)),
                ):
                    began, spent = time.perf_counter(), time.process_time()
                    for _ in range(block):
                        run()
                    row[name] = (time.process_time() - spent) / block
                    row[f"{name}_wall"] = (time.perf_counter() - began) / block
                rows.append(row)
    return rows


def _our_trial(claims: Any) -> None:
    from deepfake.sweeping.agent import RunningTrial
    from deepfake.sweeping.callbacks import COMPLETED, PRUNED, Job
    from deepfake.sweeping.keeping_alive import Heartbeat
    from deepfake.sweeping.trial import Pruned

    claim = claims.claim()
    running = RunningTrial(claims, claim)
    value = -((claim.trial.params["wd"] - 0.3) ** 2)
    metrics = {f"val/m{number}": 0.5 for number in range(40)} | {"m": value}
    job = Job(claim.number, claim.overrides, COMPLETED, metrics=metrics, values=[value], seconds=1.0)
    with Heartbeat(claims, claim):
        running.identify(run_id="r" * 32, run_dir="/x/y", name="cnn")
        try:
            for epoch in range(3):
                running.report(epoch, {"m": value - 1 / (epoch + 1)})
        except Pruned:
            job = Job(claim.number, claim.overrides, PRUNED, metrics=metrics, seconds=1.0)
    claims.finish(claim, job)


def _plain_trial(study: Any, space: Sequence[Any]) -> None:
    import optuna

    trial = study.ask()
    for parameter in space:
        parameter.suggest(trial)
    value = -((trial.params["wd"] - 0.3) ** 2)
    state = None
    for epoch in range(3):
        trial.report(value - 1 / (epoch + 1), epoch + 1)
        if trial.should_prune():
            state = optuna.trial.TrialState.PRUNED
            break
    study.tell(trial, None if state else value, state=state)


def workers(trials: int = 32) -> dict[str, Any]:
    """Four workers on jobs of unequal length, against launching four and waiting for the slowest."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        arguments = [f"seed=range(0,{trials})", "sweep.n_jobs=4", "sampler=grid", NOTHING_HEARD]
        process = start("unequal", Path(folder), "-m", *arguments)
        if process.wait() != 0:
            raise RuntimeError(_logs(Path(folder)))
        whole = time.perf_counter() - began
        ran = read_trials(next(Path(folder).glob("sweeps/*/study.journal")))
        ours = (max(t.datetime_complete for t in ran) - min(t.datetime_start for t in ran)).total_seconds()
    began = time.perf_counter()
    with ProcessPoolExecutor(4) as pool:
        for first in range(0, trials, 4):
            list(pool.map(time.sleep, [SECONDS[number % 4] for number in range(first, first + 4)]))
    batches = time.perf_counter() - began
    # Both from the first trial's start to the last one's end; the whole command counts its start-up and report too.
    ratio = batches / ours
    return {"ours_s": ours, "batches_s": batches, "throughput": ratio, "whole_s": whole, "reached": ratio >= 1.5}


def together(processes: int = 8) -> dict[str, Any]:
    """Processes that begin one study and one tracking store at the same instant."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-m", "optimizer.lr=interval(0.1,0.9)", "sweep.n_trials=24", "sweep.name=s", NOTHING_HEARD]
        started = [start("tracked", Path(folder), *arguments) for _ in range(processes)]
        statuses = [process.wait() for process in started]
        counts = count(Path(folder))
        if any(statuses):
            print(_logs(Path(folder))[-3000:])
        return {"statuses": statuses, **counts, "reached": not any(statuses) and counts["COMPLETE"] == 24}


def kills(times: int = 10, trials: int = 40, seed: int = 0, jobs: int = 1) -> dict[str, Any]:
    """Kill -9 at random moments during a sweep, started again each time."""
    draw = random.Random(seed)
    arguments = ["-m", "optimizer.lr=interval(0.1,0.9)", f"sweep.n_trials={trials}", "sweep.name=s", NOTHING_HEARD]
    arguments += ["sampler=random", f"sweep.n_jobs={jobs}"]
    ended = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(times):
            before = count(Path(folder)).get("all", 0)
            process = start("brief", Path(folder), *arguments)
            # The first moments go to imports: the kill comes once the study moves, then at random.
            while process.poll() is None and count(Path(folder)).get("all", 0) <= before:
                time.sleep(0.1)
            time.sleep(draw.uniform(0.0, 1.5))
            process.kill()
            process.wait()
            ended.append(count(Path(folder)))
        status = start("brief", Path(folder), *arguments).wait()
        counts = count(Path(folder))
    exact = counts == {"all": trials, "COMPLETE": trials, "distinct": trials}
    return {"status": status, **counts, "ended_at_kill": [c.get("COMPLETE", 0) for c in ended], "reached": exact}


def pruning(
    seeds: Sequence[int] = (6, 7, 8), trials: int = 20, epochs: int = 12, people: int = 64, kept: Path | None = None
) -> dict[str, Any]:
    """Successive halving against none on the demo: epochs spent, and the best value.

    Both try the same random points, so that nothing but the pruner differs. Its settings were chosen on seeds 0 to 2.
    """
    result = _against_none("asha", seeds, trials, epochs, people, kept)
    del result["curves"]
    return {**result, "reached": result["fewer_epochs"] >= 2 and result["mean_loss"] <= 0.01}


def promotion(
    seeds: Sequence[int] = (15, 16, 17, 18, 19, 20),
    trials: int = 20,
    epochs: int = 12,
    people: int = 64,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Pausing and promoting against neither, in the same way, on seeds that nothing was chosen on.

    Its settings (``ahead``, and the order of promotion) were chosen on seeds 9 to 14. Six studies tell little of what
    is lost, so studies of as many of their trials, drawn at random, are halved in thought as well: a trial that was
    paused goes on as one that never was.
    """
    from deepfake.sweeping.promotion import Promotion

    result = _against_none("promote", seeds, trials, epochs, people, kept)
    curves, draw = result.pop("curves"), random.Random(0)
    halved = [_halved(draw.sample(curves, trials), Promotion(2, 3, ahead=0.5, eager=False)) for _ in range(2000)]
    expected = {
        "studies": len(halved),
        "fewer_epochs": trials * epochs / statistics.fmean(spent for spent, _ in halved),
        "mean_loss": statistics.fmean(loss for _, loss in halved),
    }
    reached = result["fewer_epochs"] >= 3 and expected["fewer_epochs"] >= 3 and expected["mean_loss"] <= 0.005
    return {**result, "expected": expected, "reached": reached}


def _halved(curves: Sequence[Sequence[float]], halving: Any) -> tuple[int, float]:
    """The epochs that one worker spends on trials of these values, and what the best that completes lacks."""
    from deepfake.sweeping.promotion import Standing

    last = len(curves[0])
    after = [dict(enumerate(curve, 1)) for curve in curves]
    trials = [Standing(n, 0, halving.epochs(0, 0), values, waits=True) for n, values in enumerate(after)]
    while (found := halving.promoted(trials)) is not None or not any(one.steps == last for one in trials):
        number, epochs = found or halving.last_resort(trials)
        steps = min(epochs, last)
        trials[number] = Standing(number, 0, steps, after[number], waits=steps < last)
    done = [max(curves[one.number]) for one in trials if one.steps == last]
    return sum(one.steps for one in trials), max(map(max, curves)) - max(done)


def _against_none(
    name: str, seeds: Sequence[int], trials: int, epochs: int, people: int, kept: Path | None
) -> dict[str, Any]:
    """A pruner against none: epochs and the best value of each seed, and what it saves and loses.

    Sweeps are gone on with in the folder ``kept``, where one is given.
    """
    rows = []
    shared = [
        "sampler=random",
        f"sweep.n_trials={trials}",
        f"trainer.epochs={epochs}",
        "tracking.log_model=false",
        NOTHING_HEARD,
    ]
    shared += [NOTHING_HEARD, "tracking.system_metrics=false", f"demo.people={people}", "dataset.clips=1"]
    curves: list[list[float]] = []
    with contextlib.nullcontext(str(kept)) if kept else tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            row: dict[str, Any] = {"seed": seed}
            for pruner in ("none", name):
                arguments = [f"pruner={pruner}", f"sweep.seed={seed}", f"sweep.name={pruner}{seed}", *shared]
                environment = {**os.environ, "DEEPFAKE_OUTPUTS": folder}
                done = subprocess.run(
                    [sys.executable, "train.py", "search=lr_batch", *arguments],
                    cwd=ROOT,
                    env=environment,
                    check=False,
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
                ran = read_trials(Path(folder) / "sweeps" / f"{pruner}{seed}" / "study.journal")
                row[f"{pruner}_epochs"] = sum(trial.last_step or 0 for trial in ran)
                ended = [t.value for t in ran if t.state.name == "COMPLETE" and t.value is not None]
                row[f"{pruner}_best"] = max(ended, default=0.0)
                if pruner == "none":
                    curves += [[t.intermediate_values[step] for step in sorted(t.intermediate_values)] for t in ran]
            rows.append(row)
            print(row, flush=True)
    spent = {pruner: sum(row[f"{pruner}_epochs"] for row in rows) for pruner in ("none", name)}
    loss = statistics.fmean(row["none_best"] - row[f"{name}_best"] for row in rows)
    return {"rows": rows, "fewer_epochs": spent["none"] / spent[name], "mean_loss": loss, "curves": curves}


def disk(trials: int = 8, backbone: str = "resnet50") -> dict[str, Any]:
    """What a sweep of heads on a frozen backbone takes on disk, by what it is, and what 200 and 1,000 trials would.

    Before: each trial's whole weights in its folder and once more in its model, each other file in both places.
    """
    from deepfake.models.backbone import create_backbone
    from deepfake.models.options import BackboneOptions
    from deepfake.tracking.removal import taken
    from deepfake.tracking.run_folder import WEIGHTS

    with tempfile.TemporaryDirectory() as folder:
        outputs, weights = Path(folder) / "outputs", Path(folder) / f"{backbone}.pth"
        _save_random(create_backbone(BackboneOptions(backbone, pretrained=False), 64).model, weights)
        words = ["search=heads", f"backbone={backbone}", "backbone.freeze=true", f"backbone.weights={weights}"]
        words += ["features=cached", "augment=none", "dataset.size=64", "trainer.epochs=2"]
        words += ["demo.people=12", "demo.seconds=0.5", "dataset.frames=4", "dataset.clips=1"]
        words += [f"sweep.n_trials={trials}", "sweep.name=s", "sampler=random", "pruner=none"]
        words += ["tracking.system_metrics=false"]
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(outputs)}
        done = subprocess.run(
            [sys.executable, "train.py", *words], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        runs = [path for path in (outputs / "sweeps" / "s").iterdir() if path.name.isdigit()]
        kept = [path for path in runs if (path / WEIGHTS).is_file()]
        artifacts = outputs / "artifacts"
        models = [path.parent for path in artifacts.rglob("MLmodel")]
        shared = taken([outputs / "cache" / "backbones"])
        everything = taken([outputs / "sweeps", artifacts, outputs / "mlflow.db"])
        # Of a run that keeps its weights: these, and its model with the code that reads it; they share a backbone.
        heavy = (taken([*(path / WEIGHTS for path in kept), *models]) - shared) / len(kept)
        light = (everything - shared - heavy * len(kept)) / trials
        whole = shared + max(path.stat().st_size for path in artifacts.rglob("detector.safetensors"))
        small = taken([path for path in kept[0].rglob("*") if path.is_file() and path.name != Path(WEIGHTS).name])
        code = taken([place / "code" for place in models]) / len(models)
        before = 2 * whole + 2 * small + code
    fixed = shared + heavy * len(kept)
    at = {str(count): (light * count + fixed) / 1e9 for count in (200, 1000)}
    with_all = {str(count): ((light + heavy) * count + shared) / 1e9 for count in (200, 1000)}
    return {
        "trials": trials,
        "kept": len(kept),
        "bytes_per_trial_before": before,
        "bytes_per_trial": light,
        "bytes_per_kept_weights": heavy,
        "bytes_of_the_backbone": shared,
        "gb_by_trials_before": {count: float(count) * before / 1e9 for count in at},
        "gb_by_trials": at,
        "gb_by_trials_keep_weights_all": with_all,
        "reached": at["200"] <= 1 and at["1000"] <= 3,
    }


def _save_random(model: Any, file: Path) -> None:
    import torch

    torch.save(model.state_dict(), file)


def repeats(studies: int = 4000, points: int = 20) -> dict[str, Any]:
    """How often a point that is as good as any is dropped by its first seeds, and how often one that is not.

    Studies of points that are equally good but for noise, of which the last one is judged: normal noise, Student's t
    with four degrees of freedom, and noise of which two thirds come with the seed, alike for all points.
    """
    import numpy as np

    from deepfake.sweeping.repeats import RISK, clearly_worse

    draw = np.random.default_rng(0)
    result: dict[str, Any] = {"studies": studies, "points": points}
    for seeds in (2, 3, 5):
        for noise in ("normal", "heavy", "by_seed"):
            for behind in (0.0, 3.0, 6.0):
                dropped = runs = 0
                for _ in range(studies if behind == 0 else studies // 10):
                    table = (
                        draw.standard_t(4, (points, seeds))
                        if noise == "heavy"
                        else draw.standard_normal((points, seeds))
                    )
                    if noise == "by_seed":
                        table = table + math.sqrt(2.0) * draw.standard_normal(seeds)
                    others, own = table[:-1].tolist(), (table[-1] - behind).tolist()
                    looks = [clearly_worse(own[:done], others, maximize=True) for done in range(1, seeds)]
                    dropped += any(looks)
                    runs += 1 + looks.index(True) if any(looks) else seeds
                of = studies if behind == 0 else studies // 10
                result[f"{noise}_{seeds}_seeds_{behind:g}_behind"] = {"dropped": dropped / of, "runs": runs / of}
    worst = max(value["dropped"] for name, value in result.items() if name.endswith("_0_behind"))
    return {**result, "worst": worst, "bound": RISK, "reached": worst <= RISK}


#: How far the best of two tasks lie apart in a space whose sides are 1; None for tasks with nothing in common.
APART = (0.05, 0.2, None)


def across(seeds: int = 8, trials: int = 30, earlier: int = 2) -> dict[str, Any]:
    """What ``sweep.from`` gains: the distance to the best value there is, with and without, after 10, 20 and 30 trials.

    Two studies of other tasks come before. A task is a bowl over four rates whose bottom lies beside the others', and a
    choice of three that costs about as much in each. Means over seeds, with 95 % intervals of the difference.
    """
    from scipy.special import stdtrit

    result: dict[str, Any] = {"seeds": seeds, "trials": trials}
    for apart in APART:
        lacking: dict[str, list[list[float]]] = {"alone": [], "from": []}
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                tasks = _tasks(seed, apart, earlier + 1)
                for number, task in enumerate(tasks[:-1]):
                    _study_of(Path(folder), f"t{number}", task, trials, 100 * seed + number, [])
                for name, sources in (("alone", []), ("from", [f"t{number}" for number in range(earlier)])):
                    lacking[name].append(_study_of(Path(folder), name, tasks[-1], trials, seed, sources))
        row: dict[str, Any] = {
            name: [statistics.fmean(c) for c in zip(*rows, strict=True)] for name, rows in lacking.items()
        }
        gains = [
            [a - b for a, b in zip(*pair, strict=True)] for pair in zip(lacking["alone"], lacking["from"], strict=True)
        ]
        columns = list(zip(*gains, strict=True))
        width = -float(stdtrit(seeds - 1, 0.025)) / math.sqrt(seeds)
        row["gain"] = [statistics.fmean(column) for column in columns]
        row["gain_half_interval"] = [width * statistics.stdev(column) for column in columns]
        result["unrelated" if apart is None else f"apart_{apart:g}"] = row
        print(apart, row, flush=True)
    near = result[f"apart_{APART[0]:g}"]
    return {**result, "reached": near["gain"][0] - near["gain_half_interval"][0] > 0}


def _tasks(seed: int, apart: float | None, count: int) -> list[Callable[[dict[str, Any]], float]]:
    """Tasks that resemble each other; each gives how far a point is from its best."""
    draw = random.Random(seed)

    def base() -> tuple[list[float], list[float], list[float]]:
        weights = [draw.expovariate(1.0) for _ in range(4)]
        bottom = [draw.uniform(0.15, 0.85) for _ in range(4)]
        return bottom, [1.5 * w / sum(weights) for w in weights], [abs(draw.gauss(0, 0.05)) for _ in range(3)]

    shared = base()
    tasks = []
    for _ in range(count):
        bottom, weights, costs = shared if apart is not None else base()
        bottom = [min(1.0, max(0.0, x + draw.gauss(0, apart or 0.0))) for x in bottom]
        costs = [abs(cost + draw.gauss(0, 0.3 * (apart or 0.0))) for cost in costs]

        def task(
            point: dict[str, Any], b: list[float] = bottom, w: list[float] = weights, c: list[float] = costs
        ) -> float:
            away = sum(w[i] * (point[f"x{i}"] - b[i]) ** 2 for i in range(4))
            return away + c["abc".index(point["kind"])] - min(c)

        tasks.append(task)
    return tasks


def _study_of(
    folder: Path, name: str, task: Callable[[dict[str, Any]], float], trials: int, seed: int, sources: list[str]
) -> list[float]:
    """A study of a task from beginning to end; how far its best was from the best there is, in thirds."""
    from deepfake.sweeping.callbacks import COMPLETED, Job, Objective
    from deepfake.sweeping.claims import Claims
    from deepfake.sweeping.options import SweepOptions
    from deepfake.sweeping.search_space import parse_space
    from deepfake.sweeping.storage import locate
    from deepfake.sweeping.study import Study
    from deepfake.sweeping.study_plan import StudyPlan
    from deepfake.sweeping.warm_start import warm_start

    space = parse_space({**{f"x{i}": "interval(0.0,1.0)" for i in range(4)}, "kind": "choice(a,b,c)"}, [], {})
    settings: dict[str, Any] = {"name": "tpe", "multivariate": True, "group": True, "constant_liar": True}
    place = folder / name
    found = warm_start(SweepOptions(source=sources or None), "tpe", space, place, {})
    plan = StudyPlan(
        name,
        place,
        locate("journal", place),
        space,
        [Objective("away", maximize=False)],
        [],
        trials,
        {**settings, "n_startup_trials": 10},
        {"name": "none"},
        seed=seed,
        borrowed=found.borrowed,
    )
    study = Study(plan)
    for source, points in plan.borrowed.items():
        study.enqueue(points, source)
    claims = Claims(study)
    best: list[float] = []
    while (claim := claims.claim()) is not None:
        value = task(claim.trial.params)
        job = Job(claim.number, claim.overrides, COMPLETED, metrics={"away": value}, values=[value])
        claims.finish(claim, job)
        best.append(min([value, *best[-1:]]))
    return [best[trials * third // 3 - 1] for third in (1, 2, 3)]


def count(outputs: Path) -> dict[str, int]:
    """The trials of study ``s`` by state, and how many different points they tried."""
    path = outputs / "sweeps" / "s" / "study.journal"
    counts: dict[str, int] = {}
    if not path.exists():
        return counts
    ran = read_trials(path)
    for trial in ran:
        for name in ("all", trial.state.name):
            counts[name] = counts.get(name, 0) + 1
    return {**counts, "distinct": len({str(trial.params) for trial in ran})}


def read_trials(path: Path) -> list[Any]:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=names[0], storage=storage).trials if names else []


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("log-*.txt")))


def ordered() -> dict[str, Any]:
    """What an ordered study costs, and whether it comes out the same."""
    from benchmarks.ordered import measure

    return measure()


FIGURES: dict[str, Callable[[], dict[str, Any]]] = {
    "cost": cost,
    "layer": layer,
    "workers": workers,
    "start": together,
    "kills": kills,
    "kills2": partial(kills, seed=1, jobs=2),
    "ordered": ordered,
    "disk": disk,
    "commands": partial(commands, start),
    "pruning": pruning,
    "promotion": promotion,
    "repeats": repeats,
    "across": across,
}
_LONG = ("pruning", "promotion", "ordered", "commands")
_KEEPS = ("pruning", "promotion")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and keep it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="all but the long ones where none is named")
    parser.add_argument("--keep", type=Path, help="a folder for the sweeps of pruning and promotion")
    given = parser.parse_args(arguments)
    wanted = given.figures or [name for name in FIGURES if name not in _LONG]
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in wanted:
        figure = FIGURES[name]
        if given.keep is not None and name in _KEEPS:
            figure = partial(figure, kept=given.keep.resolve())
        result = figure()
        result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        result["python"] = platform.python_version()
        kept[name] = result
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
        print(f"{name:8}", "reached" if result["reached"] else "MISSED ", json.dumps(result), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3:])
    else:
        main()
