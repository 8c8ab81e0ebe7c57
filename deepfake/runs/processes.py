"""One run over several processes of this machine, as torchrun starts them: what each is told, and what each does.

Data-parallel, a process for each device; without devices they agree by gloo. Knows nothing of what came before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from deepfake.config import load_values
from deepfake.data.manifest import Manifest, save_manifest
from deepfake.errors import UserError
from deepfake.hydra_app import guarded_call
from deepfake.installation import child_environment, module_command
from deepfake.options import flatten
from deepfake.runs.artifacts import scratch_folder
from deepfake.runs.build import Inputs
from deepfake.runs.context import RunContext
from deepfake.tracking.run_folder import write_json

#: More than any one machine starts: a larger number in a file is a damaged one.
MOST = 64


def processes_of(provenance: Mapping[str, Any]) -> int:
    """How many processes a run was trained by, from what was noted of it."""
    noted = provenance.get("machine", {}).get("processes")
    if isinstance(noted, int):
        return noted
    # What an older version noted of torchrun's.
    text = str(provenance.get("environment", {}).get("WORLD_SIZE") or "1")
    return int(text) if text.isdigit() else 1


def is_one_of_several() -> bool:
    """Whether this process was started by torchrun itself."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def check_processes(count: int, accelerator: str) -> None:
    """Refuse to start what this machine cannot run.

    Args:
        count: Processes.
        accelerator: As ``trainer.accelerator`` says.

    Raises:
        UserError: Why not.
    """
    import torch

    if not 1 <= count <= MOST:
        raise UserError(f"the run was trained by {count} processes", f"up to {MOST} are started on one machine")
    devices = torch.cuda.device_count()
    on_gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())
    if on_gpu and devices < count:
        raise UserError(
            f"the run was trained by {count} processes with a device each, and this machine has {devices}",
            "run it where there are as many, or on the processor: trainer.accelerator=cpu",
        )


def train_over(count: int, values: Mapping[str, Any], context: RunContext, inputs: Inputs | None) -> None:
    """Train one run by several processes, and wait for them; what they say is printed.

    Args:
        count: Processes.
        values: The run's config, resolved and plain.
        context: Its folder, and what was typed.
        inputs: What it reads; None where the config leads to it.

    Raises:
        UserError: They did not end well; they said why.
        KeyboardInterrupt: They were stopped.
    """
    import torch

    with scratch_folder("reproduce") as scratch:
        job = scratch / "job.json"
        told = {**asdict(context), "folder": str(context.folder)}
        write_json(job, {"values": dict(values), "context": told, "inputs": _packed(inputs, scratch)})
        environment = child_environment(os.environ)
        # torchrun starts the processes itself: none is to import from the working directory.
        environment |= {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
        sys.stdout.flush()
        launcher = [*module_command("torch.distributed.run"), "--standalone", f"--nproc_per_node={count}"]
        done = subprocess.run([*launcher, "-m", "deepfake.runs.processes", str(job)], env=environment, check=False)
    if done.returncode in (130, -2, -15, 143):
        raise KeyboardInterrupt(f"{count} processes")
    if done.returncode:
        raise UserError(
            f"the {count} processes of the run ended with status {done.returncode}", "what they said stands above"
        )


def _packed(inputs: Inputs | None, scratch: Path) -> dict[str, Any] | None:
    if inputs is None:
        return None
    table = scratch / "manifest.parquet"
    save_manifest(inputs.manifest, table)
    return {
        "table": str(table),
        "roots": {name: str(root) for name, root in inputs.manifest.roots.items()},
        "official": inputs.manifest.official,
        "crops": None if inputs.crops is None else str(inputs.crops),
        "features": None if inputs.features is None else str(inputs.features),
    }


def _unpacked(told: Mapping[str, Any] | None) -> Inputs | None:
    if told is None:
        return None
    table = pd.read_parquet(told["table"])
    table["groups"] = table["groups"].map(lambda names: tuple(map(str, names)))
    manifest = Manifest(table, {name: Path(root) for name, root in told["roots"].items()}, official=told["official"])
    crops, features = (None if told[name] is None else Path(told[name]) for name in ("crops", "features"))
    return Inputs(manifest, crops, features)


def _work(job: Path) -> int:
    from deepfake.runs.train import run

    told = json.loads(job.read_text(encoding="utf-8"))
    values = told["values"]
    context = RunContext(**{**told["context"], "folder": Path(told["context"]["folder"])})
    run(load_values(values), context, flatten(values), _unpacked(told["inputs"]))
    return 0


if __name__ == "__main__":
    sys.exit(guarded_call(lambda: _work(Path(sys.argv[1]))))
