"""Studies on a real Slurm: one node, this machine, whose daemons live as long as these tests.

They need Slurm's and MUNGE's programs (Debian's slurm-wlm and munge), root, and submitit.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import PROJECT

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)} on the path"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Slurm's daemons"),
    pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit"),
]

STUDY = ["x=interval(-2,2)", "sweep.name=s", "sweep.heartbeat=1"]
#: What a cluster without GPUs of this size is asked for.
LAUNCHED = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null", "epochs=1"]
NO_GPUS = "hydra.launcher.gpus_per_node=null"

#: No accounting: Slurm forgets what became of a job, and says so nowhere.
CONFIG = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
MinJobAge=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=here NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=here Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find the cluster."""
    # Not below pytest's folder, which others than root may not enter: MUNGE wants its socket to be reachable.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    controller, daemon = _free_ports(2)
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(host=host, folder=folder, controller=controller, daemon=daemon))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    files = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("socket", "key-file", "pid-file")]
    files += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *files],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "here"],
        ):
            with (folder / f"{command[0]}.out").open("wb") as output:
                daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
            if command[0] == "munged":
                _wait((folder / "munge.socket").exists, "munged made no socket")
        _wait(lambda: "idle" in _said(["sinfo", "-h", "-o", "%t"], environment), "the node did not come up")
        yield environment
    finally:
        for process in reversed(daemons):
            process.terminate()
        for process in reversed(daemons):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sweep(slurm: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``sweep("x=1,2")`` starts the toy on the cluster; what is left of it afterwards is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.sweeping.toy", str(tmp_path), *LAUNCHED, *overrides]
        environment = {**slurm, "PYTHONPATH": str(PROJECT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=PROJECT, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
    subprocess.run(["scancel", "--user=root"], env=slurm, check=False)


def test_workers_of_an_array_share_a_study(sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    said = _end(sweep(*STUDY, NO_GPUS, "sweep.n_trials=6", "sweep.n_jobs=2"))
    assert "best of 6 trials" in said
    assert len([*(tmp_path / "s" / ".submitit").glob("*_[01]")]) == 2


def test_a_study_ends_although_a_worker_was_cancelled(
    sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path, slurm: dict[str, str]
) -> None:
    running = sweep(*STUDY, NO_GPUS, "sweep.n_trials=6", "sweep.n_jobs=2", "block=1")
    _cancel_blocked(tmp_path, slurm)
    said = _end(running)
    assert "best of 6 trials" in said
    assert (tmp_path / "s" / "best.yaml").is_file()
    assert _said(["squeue", "-h"], slurm) == ""


def test_the_only_worker_is_replaced_when_it_was_cancelled(
    sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path, slurm: dict[str, str]
) -> None:
    running = sweep(*STUDY, NO_GPUS, "sweep.n_trials=3", "sweep.n_jobs=1", "block=1")
    _cancel_blocked(tmp_path, slurm)
    said = _end(running)
    assert "best of 3 trials" in said


def test_a_worker_taken_out_of_the_queue_is_replaced(
    sweep: Callable[..., subprocess.Popen[str]], slurm: dict[str, str]
) -> None:
    full = ["sbatch", "--cpus-per-task=4", "--job-name=full", "--output=/dev/null", "--wrap=sleep 600"]
    subprocess.run(full, env=slurm, check=True)
    _wait(lambda: "full" in _said(["squeue", "-h", "-t", "running", "-o", "%j"], slurm), "nothing fills the node")
    running = sweep(*STUDY, NO_GPUS, "sweep.n_trials=2", "sweep.n_jobs=1")
    _wait(lambda: "toy" in _said(["squeue", "-h", "-t", "pending", "-o", "%j"], slurm), "no worker waits")
    subprocess.run(["scancel", "--state=PENDING", "--user=root"], env=slurm, check=True)
    subprocess.run(["scancel", "--name=full"], env=slurm, check=True)
    assert "best of 2 trials" in _end(running)


def test_a_grid_that_is_refused_names_the_key_to_change(sweep: Callable[..., subprocess.Popen[str]]) -> None:
    running = sweep(NO_GPUS, "hydra.launcher.partition=nowhere", "x=1,2")
    said, _ = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "hydra.launcher.partition" in said


def test_an_array_that_was_cancelled_as_a_whole_is_replaced(
    sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path, slurm: dict[str, str]
) -> None:
    running = sweep(*STUDY, NO_GPUS, "sweep.n_trials=6", "sweep.n_jobs=2", "block=1")
    _wait((tmp_path / "blocked").exists, "no trial began")
    subprocess.run(["scancel", "--user=root"], env=slurm, check=True)
    (tmp_path / "go").touch()
    assert "best of 6 trials" in _end(running)


def test_a_refusal_names_the_key_to_change(sweep: Callable[..., subprocess.Popen[str]]) -> None:
    running = sweep(*STUDY, "hydra.launcher.gpus_per_node=1", "sweep.n_trials=2", "sweep.n_jobs=2")
    said, _ = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "Invalid generic resource" in said
    assert "hydra.launcher.gpus_per_node" in said


def _cancel_blocked(folder: Path, environment: dict[str, str]) -> None:
    """Cancel the array task whose trial waits, and let that trial go on wherever it is taken up."""
    _wait((folder / "blocked").exists, "no trial began")
    process = Path("/proc", (folder / "blocked").read_text())
    variables = dict(entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry)
    # Of an array one task alone: its last one has the number of the whole.
    array = variables.get("SLURM_ARRAY_JOB_ID")
    task = f"{array}_{variables['SLURM_ARRAY_TASK_ID']}" if array else variables["SLURM_JOB_ID"]
    subprocess.run(["scancel", task], env=environment, check=True)
    _wait(lambda: not process.exists(), "the cancelled worker lives on")
    (folder / "go").touch()


def _end(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait(reached: Callable[[], bool], trouble: str) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        if time.monotonic() > deadline:
            pytest.fail(trouble)
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
