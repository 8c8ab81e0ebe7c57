"""Works on a study from wherever a Hydra launcher puts it: a Slurm array, a Ray cluster, processes of submitit.

Each launched job is a worker that takes trial after trial, so none waits for the slowest of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from deepfake.sweeping.agent import work
from deepfake.sweeping.grid import create_launcher
from deepfake.sweeping.jobs import JobRunner, describe
from deepfake.sweeping.plan import StudyPlan
from deepfake.sweeping.study import Study


@dataclass(frozen=True)
class StudyWorker:
    """What the launcher runs in place of the task: the task, for as many trials as the study has for it.

    Attributes:
        token: What the launching process calls its workers; each adds its own number.
    """

    runner: JobRunner
    plan: StudyPlan
    token: str

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        study = Study(self.plan, token=f"{self.token}-{HydraConfig.get().job.num}")
        ended: list[int] = []
        work(study, self.runner, finished=lambda job: ended.append(job.number))
        return {"trials": ended}


def launch_workers(study: Study, runner: JobRunner, workers: int) -> str | None:
    """Launch workers and wait for them.

    Returns:
        What went wrong with a worker, or with launching, in one line; None when nothing did.
    """
    task = StudyWorker(runner, study.plan, str(study.owner["token"]))
    launcher = create_launcher(JobRunner(runner.context, task, runner.config))
    places = [[*study.plan.fixed, f"hydra.sweep.subdir=workers/{number}"] for number in range(workers)]
    try:
        results = launcher.launch(places, initial_job_idx=0)
    except Exception as error:
        return describe(error)
    failed = [result for result in results if result.status is not JobStatus.COMPLETED]
    return describe(failed[0]._return_value) if failed else None
