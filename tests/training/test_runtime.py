from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import pytest

from deepfake.training.options import TrainerOptions
from deepfake.training.runtime import Interruption, create_fabric
from tests.training.fakes import cpu


def test_a_machine_with_slurm_is_given_no_advice_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "srun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert create_fabric(TrainerOptions(accelerator="cpu")).world_size == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_a_loader_process_still_dies_of_a_signal() -> None:
    context = multiprocessing.get_context("fork")
    ready, never = context.Event(), context.Event()

    def wait() -> None:
        ready.set()
        # In short turns: Python runs its handlers between calls, not within one.
        while not never.wait(0.05):
            pass

    with Interruption(cpu()):
        child = context.Process(target=wait)
        child.start()
        ready.wait(30)
        child.terminate()
        child.join(timeout=30)
    assert child.exitcode == -signal.SIGTERM
