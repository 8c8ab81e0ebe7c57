"""Two processes on one machine against one: the same training, no sample counted twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end import parallel

ROOT = Path(__file__).parents[2]


#: Plain, and all that changes what a step or an epoch is.
KEYS: list[dict[str, Any]] = [{}, {"sam": 0.1, "swa": 1.0, "pairs": True, "balance": "method", "frame_loss": 0.5}]


def launch(folder: Path, keys: str) -> list[dict[str, Any]]:
    """What each of two processes wrote."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launcher, str(ROOT / "tests" / "end_to_end" / "parallel.py"), str(folder), keys]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module", params=[json.dumps(keys) for keys in KEYS])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "one").mkdir()
    parallel.main(folder / "one", request.param)
    one = json.loads((folder / "one" / "rank0.json").read_text())
    return one, launch(folder / "two", request.param)


@pytest.mark.slow
def test_two_processes_train_as_one(outcomes: Any) -> None:
    one, (first, _) = outcomes
    for name, values in one["weights"].items():
        np.testing.assert_allclose(first["weights"][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_two_processes_report_the_metrics_of_one(outcomes: Any) -> None:
    one, (first, _) = outcomes
    for ours, theirs in zip(one["history"], first["history"], strict=True):
        for name in set(ours) - {"epoch_seconds", "samples_per_second"}:
            assert theirs[name] == pytest.approx(ours[name], abs=1e-5), name


def test_both_processes_end_with_the_same(outcomes: Any) -> None:
    _, (first, second) = outcomes
    assert first["weights"] == second["weights"]
    assert first["samples"]["sample_id"] == second["samples"]["sample_id"]
    np.testing.assert_array_equal(first["samples"]["score"], second["samples"]["score"])


def test_predictions_are_gathered_once(outcomes: Any) -> None:
    one, (first, _) = outcomes
    assert first["samples"]["sample_id"] == one["samples"]["sample_id"]
    assert first["samples"]["frames_used"] == one["samples"]["frames_used"]
    np.testing.assert_allclose(first["samples"]["score"], one["samples"]["score"], rtol=1e-5)
