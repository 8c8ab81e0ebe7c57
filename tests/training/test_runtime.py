from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from deepfake.training.options import TrainerOptions
from deepfake.training.runtime import create_fabric


def test_a_machine_with_slurm_is_given_no_advice_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "srun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert create_fabric(TrainerOptions(accelerator="cpu")).world_size == 1
